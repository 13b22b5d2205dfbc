"""The bounds of a certificate: against every kind of perturbation, exhaustively where that is possible, and planted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from support.classifiers import SEED
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables, reference
from fdjpeg._geometry import SAMPLING_FACTORS
from fdjpeg.attacks.codec import Codec, codecs_of
from fdjpeg.attacks.reachable import Box
from fdjpeg.attacks.transform import to_planes
from fdjpeg.certificates import reach as reach_module
from fdjpeg.certificates.outcomes import Outcomes, outcomes_of
from fdjpeg.certificates.reach import CHANNELS_ERROR, reach_of
from fdjpeg.certificates.realise import attained, excluded
from fdjpeg.certificates.units import BITS, ColourBall, Entry, HalfSpace
from fdjpeg.reference.exact import _ISLOW, fdct, quantize, rgb_to_ycbcr

LAYERS = {name: fdjpeg.JPEG(60, subsampling=name) for name in SAMPLING_FACTORS} | {
    "fine": fdjpeg.JPEG(tables=QuantTables.flat(1), subsampling="4:4:4"),
    "lattice": fdjpeg.FeatureDistillation("uniform(20)"),
    "code": fdjpeg.FeatureDistillation("code"),
    "paper": fdjpeg.FeatureDistillation("paper"),
}

RADII = (0.5, 1, 1.3, 1.8, 2.5)


def image(layer: nn.Module, channels: int, size: tuple[int, int], on_grid: bool, seed: int = SEED) -> Tensor:
    """One image, on the layer's lattice, with dark and light parts; or off the byte grid."""
    generator = torch.Generator().manual_seed(seed)
    x = (1.3 * torch.rand(1, channels, *size, generator=generator) - 0.15).clamp(0, 1)
    x = nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), "replicate"), 3, 1)
    x = layer((255 * x).round() / 255).detach()
    return x if on_grid else (x + (torch.rand(x.shape, generator=generator) - 0.5) / 255).clamp(0, 1)


def codec_of(layer: nn.Module, x: Tensor) -> Codec:
    (codec,) = codecs_of(layer, x, torch.arange(len(x)), 0, "test")
    return codec


def perturbations(codec: Codec, box: Box, seed: int = SEED) -> Tensor:
    """Levels of images in the box: corners along basis functions, alone and in pairs, random corners and insides."""
    generator = torch.Generator().manual_seed(seed)
    shapes = codec.transform.forward(box.origin)
    rows = []
    for _ in range(150):
        one = [torch.zeros_like(stack) for stack in shapes]
        for _ in range(int(torch.randint(1, 3, (), generator=generator))):
            stack = one[int(torch.randint(len(one), (), generator=generator))]
            stack.view(-1)[int(torch.randint(stack.numel(), (), generator=generator))] = float(
                torch.randn((), generator=generator)
            )
        rows.append(codec.transform.adjoint(one)[0])
    directions = torch.stack(rows)
    corners = torch.where(directions > 0, box.most, torch.where(directions < 0, box.least, box.origin))
    opposite = torch.where(directions < 0, box.most, torch.where(directions > 0, box.least, box.origin))
    shape = (60, *box.origin.shape[1:])
    signs = torch.rand(shape, generator=generator)
    random = torch.where(signs < 0.5, box.least, box.most)
    return torch.cat([corners, opposite, random, box.at(torch.rand(shape, generator=generator))])


def seen(codec: Codec, x: Tensor, levels: float, whole_bytes: bool = False) -> list[Tensor]:
    """The exact coefficients of many images of the ball."""
    box = Box.of(x, levels / 255, codec.arithmetic == "libjpeg", whole_bytes)
    tried = perturbations(codec, box)
    images = box.images(tried)
    if not whole_bytes:
        eps, generator = levels / 255, torch.Generator().manual_seed(1)
        ends = torch.where(torch.rand(60, *x.shape[1:], generator=generator) < 0.5, x - eps, x + eps).clamp(0, 1)
        images = torch.cat([images, ends])
    assert float((images - x).abs().max()) <= levels / 255 + 1e-6
    many = codec.only(torch.zeros(len(images), dtype=torch.int64))
    return [k.to(torch.int32) for k in many.blocks(images)]


def outside(codec: Codec, x: Tensor, levels: float) -> int:
    """How many coefficients of images of the ball are outside their intervals."""
    reach = reach_of(codec, x, levels / 255, whole_bytes=False)
    triples = zip(seen(codec, x, levels), reach.lowest, reach.highest, strict=True)
    return sum(int(((k < low) | (k > high)).sum()) for k, low, high in triples)


def cases() -> Iterator[tuple[str, int, tuple[int, int], float, bool]]:
    for place, layer in enumerate(LAYERS):
        for number, levels in enumerate(RADII):
            size = ((8, 8), (16, 24), (13, 11))[(place + number) % 3]
            yield layer, 1 if (place + number) % 5 == 4 else 3, size, levels, (place + number) % 2 == 0


@pytest.mark.parametrize(("layer", "channels", "size", "levels", "on_grid"), list(cases()))
def test_no_coefficient_leaves_its_interval(
    layer: str, channels: int, size: tuple[int, int], levels: float, on_grid: bool
) -> None:
    x = image(LAYERS[layer], channels, size, on_grid)
    assert outside(codec_of(LAYERS[layer], x), x, levels) == 0


@pytest.mark.parametrize("layer", ["4:4:4", "4:2:0", "code", "fine"])
def test_intervals_are_attained(layer: str) -> None:
    """By the corners along basis functions: most ends of what can change are really reached."""
    x = image(nn.Identity(), 3, (16, 16), on_grid=True)
    codec = codec_of(LAYERS[layer], x)
    reach = reach_of(codec, x, 1 / 255, whole_bytes=False)
    box = Box.of(x, 1 / 255, codec.arithmetic == "libjpeg", whole_bytes=False)
    shapes = codec.transform.forward(box.origin)
    ends = []
    for sign in (1, -1):
        rows = []
        for place, stack in enumerate(shapes):
            for number in range(stack.numel()):
                one = [torch.zeros_like(other) for other in shapes]
                one[place].view(-1)[number] = sign
                rows.append(codec.transform.adjoint(one)[0])
        directions = torch.stack(rows)
        corners = torch.where(directions > 0, box.most, torch.where(directions < 0, box.least, box.origin))
        found = codec.only(torch.zeros(len(corners), dtype=torch.int64)).coefficients(box.images(corners))
        ends.append(torch.cat([stack.flatten(1) for stack in found], 1).diagonal())
    bounds = [
        torch.cat([stack.flatten() for stack in codec.stacked([to_planes(k.float()) for k in part])])
        for part in (reach.highest, reach.lowest)
    ]
    changeable = bounds[0] > bounds[1]
    reached = ((ends[0] == bounds[0]) & (ends[1] == bounds[1]))[changeable]
    assert int(changeable.sum()) > 20
    assert float(reached.float().mean()) > 0.9


def test_files_have_fewer_levels_than_floats() -> None:
    layer = LAYERS["fine"]
    x = image(layer, 3, (8, 8), on_grid=True)
    codec = codec_of(layer, x)
    for levels, of_files, of_floats in ((0.4, 0, 0), (0.5, 0, 1), (1, 1, 1), (1.4, 1, 1), (1.8, 1, 2), (2.5, 2, 3)):
        for whole, expected in ((True, of_files), (False, of_floats)):
            reach = reach_of(codec, x, levels / 255, whole)
            middle = (255 * x).round()
            assert torch.equal(reach.most.float(), (middle + expected).clamp_max(255))
            assert torch.equal(reach.least.float(), (middle - expected).clamp_min(0))
    assert all(
        not bool(((k < low) | (k > high)).any())
        for k, low, high in zip(
            seen(codec, x, 1.8, whole_bytes=True),
            reach_of(codec, x, 1.8 / 255, True).lowest,
            reach_of(codec, x, 1.8 / 255, True).highest,
            strict=True,
        )
    )
    with pytest.raises(ValueError, match="images must consist of whole bytes"):
        reach_of(codec, (x * 0.99), 1 / 255, True)


# --- each bound, exhaustively or by its proof ------------------------------------------------------------------------


def test_colours_are_monotone_in_each_channel() -> None:
    """All 2^24 colours: raising a channel by one moves each component its own way."""
    byte = torch.arange(256, dtype=torch.int32)
    rising = ((1, 1, 1), (-1, -1, 1), (1, -1, -1))
    for red in range(0, 256, 32):  # 33 planes at a time, overlapping by one
        colours = torch.stack(torch.meshgrid(byte[red : red + 33], byte, byte, indexing="ij"))
        components = rgb_to_ycbcr(colours.flatten(2).view(1, 3, -1, 256))
        for component, signs in zip(components, rising, strict=True):
            cube = component.view(colours.shape[1:])
            for dim, sign in enumerate(signs):
                assert int((sign * cube.diff(dim=dim)).min()) >= 0


def test_ties_are_where_quantization_steps() -> None:
    output = torch.arange(-3000, 3001, dtype=torch.int32)
    ball = ColourBall(torch.zeros(1, 8, 8, dtype=torch.int64), torch.full((1, 8, 8), 3))
    for step in (1, 2, 3, 7, 30, 255):
        k = quantize(output, torch.tensor(step, dtype=torch.int32))
        for value in range(int(k.min()) + 1, int(k.max())):
            entry = Entry(0, 0, 0, 0, 0, value, value - 1, value + 1, step)
            rounding = (sum(map(abs, _ISLOW[0])) << 10) + (1 << 25)
            least, most = ((space.tie + rounding) >> BITS for space in ball.half_spaces(entry, value))
            assert torch.equal(k == value, (output >= least) & (-output >= most))


def test_rounding_of_the_integer_dct_is_bounded(rng: object) -> None:
    """2^26 C is the sum of samples times products of entries, but for the bound; extreme blocks included."""
    blocks = torch.randint(-128, 128, (3000, 8, 8), dtype=torch.int32)
    basis = torch.tensor(_ISLOW, dtype=torch.int64)
    extreme = torch.where(torch.einsum("ux,vy->uvxy", basis, basis).reshape(64, 8, 8) > 0, 127, -128).to(torch.int32)
    blocks = torch.cat([blocks, extreme, -1 - extreme, torch.full((1, 8, 8), -128, dtype=torch.int32)])
    output = fdct(blocks).to(torch.int64)
    sums = torch.stack([(blocks.to(torch.int64) * entry[:, None]).sum(1) for entry in basis], 1)  # by column frequency
    sums = torch.stack([(sums * entry).sum(2) for entry in basis], 2)
    error = ((output << BITS) - sums).abs()
    bound = (basis.abs().sum(dim=1) << 10) + (1 << 25)
    assert bool((error <= bound[:, None]).all())
    assert float((error / bound[:, None]).max()) > 0.5  # it is not far from what happens


def test_float_dct_is_within_its_bound(rng: object) -> None:
    """The float32 coefficients of "code" against float64's of the same samples."""
    samples = torch.cat([torch.rand(2000, 8, 8), torch.randint(0, 2, (2000, 8, 8)).float(), torch.ones(1, 8, 8)])
    found = reference.real_dct(255 * samples)
    error = (found.double() - reference.real_dct(255 * samples.double())).abs().max()
    assert float(error) <= CHANNELS_ERROR
    assert CHANNELS_ERROR < 5e-3


# --- outcomes --------------------------------------------------------------------------------------------------------


def listed(codec: Codec, x: Tensor, levels: float, most: int = 300) -> Outcomes:
    reach = reach_of(codec, x, levels / 255, whole_bytes=False)
    own = [k.to(torch.int32) for k in codec.blocks(x)]
    return outcomes_of(codec, reach, own, 0, most)


def values_of(blocks: list[Tensor], entries: list[Entry]) -> list[tuple[int, ...]]:
    columns = [blocks[e.component][:, e.row, e.column, e.vertical, e.horizontal].tolist() for e in entries]
    return list(zip(*columns, strict=True))


def missing(codec: Codec, x: Tensor, levels: float) -> tuple[int, int]:
    """How many outcomes of units were seen, and how many of them are not listed."""
    outcomes, found = listed(codec, x, levels), seen(codec, x, levels)
    met, lost = 0, 0
    for unit in outcomes.units.values():
        happened = set(values_of(found, unit.entries))
        met += len(happened)
        if unit.outcomes is not None:
            lost += len(happened - set(unit.outcomes))
    return met, lost


#: Layers and radii at which a few coefficients of a lattice can change.
FEW = [("uniform(15)", 1.0), ("uniform(16)", 1.3), ("uniform(31)", 1.8), ("code", 1.6), ("code", 1.7)]


@pytest.mark.parametrize(("preset", "levels"), FEW)
@pytest.mark.parametrize("channels", [3, 1])
def test_no_unit_leaves_its_outcomes(preset: str, levels: float, channels: int) -> None:
    layer = fdjpeg.FeatureDistillation(preset)
    met, lost = 0, 0
    for seed in range(6):
        for on_grid in (True, False):
            x = image(layer, channels, (16, 13), on_grid, seed)
            counts = missing(codec_of(layer, x), x, levels)
            met, lost = met + counts[0], lost + counts[1]
    assert lost == 0
    assert met > 8


def test_outcomes_are_numbered_through() -> None:
    layer = fdjpeg.FeatureDistillation("uniform(16)")
    x = image(layer, 3, (8, 16), True)
    codec = codec_of(layer, x)
    outcomes = listed(codec, x, 1, 3000)
    assert outcomes.total is not None
    assert outcomes.total > 8
    blocks = outcomes.coefficients(torch.arange(outcomes.total))
    flat = torch.cat([k.flatten(1) for k in blocks], 1)
    assert len(flat.unique(dim=0)) == outcomes.total
    own = torch.cat([k.to(torch.int32).flatten(1) for k in codec.blocks(x)], 1)
    assert torch.equal(flat[:1], own)
    assert torch.equal(codec.decode([k[:1] for k in blocks], torch.float32), layer(x))
    assert listed(codec, x, 1, outcomes.total).total == outcomes.total
    assert listed(codec, x, 1, outcomes.total - 1).total is None


@pytest.mark.parametrize(("preset", "levels"), FEW)
def test_outcomes_that_happen_are_never_excluded_and_are_attained_again(preset: str, levels: float) -> None:
    layer = fdjpeg.FeatureDistillation(preset)
    happened = again = 0
    for seed in range(4):
        x = image(layer, 3, (8, 8), True, seed)
        codec = codec_of(layer, x)
        outcomes, found = listed(codec, x, levels), seen(codec, x, levels)
        box = Box.of(x, levels / 255, codec.arithmetic == "libjpeg", whole_bytes=False)
        for place, unit in outcomes.units.items():
            for outcome in sorted(set(values_of(found, unit.entries)))[:4]:
                assert not excluded(unit, outcome)
                samples = attained(codec, box, outcomes, place, outcome)
                happened += 1
                if samples is not None:
                    again += 1
                    assert values_of([k.int() for k in codec.blocks(box.images(samples))], unit.entries) == [outcome]
    assert happened >= 4
    assert again >= 0.8 * happened


def test_impossible_outcomes_are_excluded() -> None:
    """Coefficients that the ball can move by turns, but not all at once."""
    for preset, levels in FEW[:4]:
        layer = fdjpeg.FeatureDistillation(preset)
        x = image(layer, 3, (8, 8), True)
        for unit in listed(codec_of(layer, x), x, levels).units.values():
            everything = tuple(entry.highest for entry in unit.entries)
            if len(unit.entries) > 3:
                assert excluded(unit, everything)


# --- planted ---------------------------------------------------------------------------------------------------------


def test_a_bound_off_by_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = LAYERS["fine"]
    x = image(layer, 3, (8, 8), on_grid=True)
    true = reach_module._integer_intervals

    def planted(codec: Codec, least: Tensor, most: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        low, high = true(codec, least, most)
        return low, [end - 1 for end in high]

    monkeypatch.setattr(reach_module, "_integer_intervals", planted)
    assert outside(codec_of(layer, x), x, 1) > 0


def test_the_wrong_number_of_levels_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """floor(255 eps), which holds for files only."""
    layer = LAYERS["fine"]
    x = image(layer, 3, (8, 8), on_grid=True)
    codec = codec_of(layer, x)
    true = reach_module.reach_of
    monkeypatch.setitem(globals(), "reach_of", lambda codec, x, eps, whole_bytes: true(codec, x, eps, True))
    assert outside(codec, x, 1.8) > 0
    assert outside(codec, x, 0.5) > 0


def test_a_forgotten_rounding_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value that happens must satisfy its half-spaces; without room for rounding some do not."""
    samples = torch.randint(0, 256, (400, 1, 8, 8), generator=torch.Generator().manual_seed(SEED), dtype=torch.int64)
    ball = ColourBall(torch.zeros(1, 8, 8, dtype=torch.int64), torch.zeros(1, 8, 8, dtype=torch.int64))
    blocks = fdct((samples[:, 0] - 128).to(torch.int32))
    flat = (samples - 128).flatten(2)

    def violated() -> int:
        total = 0
        for vertical, horizontal in ((0, 0), (3, 5), (7, 1), (4, 4)):
            output = blocks[:, vertical, horizontal]
            for sample, value in zip(flat, quantize(output, torch.tensor(1)).tolist(), strict=True):
                entry = Entry(0, 0, 0, vertical, horizontal, value, value - 1, value + 1, 1)
                for space in ball.half_spaces(entry, value):
                    total += int((space.normal * sample).sum()) < space.tie
        return total

    assert violated() == 0
    true = ColourBall.half_spaces

    def planted(self: ColourBall, entry: Entry, value: int) -> list[HalfSpace]:
        rounding = (sum(map(abs, _ISLOW[entry.vertical])) << 10) + (1 << 25)
        return [replace(space, tie=space.tie + rounding) for space in true(self, entry, value)]

    monkeypatch.setattr(ColourBall, "half_spaces", planted)
    assert violated() > 0
