"""The pieces of the attack on coefficients: linear maps, codecs, the reachable box, and the inner problem."""

from __future__ import annotations

import math

import pytest
import torch
from support.classifiers import SEED
from support.no_reading import NoCopying
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables, reference
from fdjpeg._geometry import SAMPLING_FACTORS, Geometry
from fdjpeg.attacks.candidates import Problem, Quantizer
from fdjpeg.attacks.choice import best_of_each_unit
from fdjpeg.attacks.codec import Codec, codecs_of, inward
from fdjpeg.attacks.reachable import Ball, Box
from fdjpeg.attacks.transform import Transform, to_planes
from fdjpeg.attacks.units import Units
from fdjpeg.reference.real import samples_of

SIZES = [(32, 32), (16, 48), (13, 21), (5, 3), (1, 1), (33, 9)]

CASES = [(3, name, size) for name in SAMPLING_FACTORS for size in SIZES] + [(1, "4:4:4", size) for size in SIZES]


def images(*shape: int, seed: int = SEED) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def transform_of(channels: int, subsampling: str, size: tuple[int, int], separate: bool = False) -> Transform:
    geometry = Geometry.of(*size, channels, *SAMPLING_FACTORS[subsampling])
    return Transform.of(geometry, separate, torch.device("cpu"))


def all_in(planes: list[Tensor]) -> list[Tensor]:
    """One plane a component."""
    return [plane for stack in planes for plane in stack.unbind(1)]


# --- linear maps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "subsampling", "size"), CASES)
def test_passes_are_the_references_maps(channels: int, subsampling: str, size: tuple[int, int]) -> None:
    transform = transform_of(channels, subsampling, size)
    samples = 255 * images(2, channels, *size)
    expected = [
        to_planes(reference.real_dct(reference.to_blocks(component)))[:, 0]
        for component in reference.components_of(samples.double(), transform.geometry)
    ]
    found = all_in(transform.forward(samples))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize(("channels", "subsampling", "size"), CASES)
def test_adjoint_is_the_transpose(channels: int, subsampling: str, size: tuple[int, int]) -> None:
    transform = transform_of(channels, subsampling, size)
    samples = images(2, channels, *size)
    forward = transform.forward(samples)
    weights = [torch.randn(stack.shape, generator=torch.Generator().manual_seed(SEED)) for stack in forward]
    there = sum(float((a.double() * b.double()).sum()) for a, b in zip(forward, weights, strict=True))
    back = float((samples.double() * transform.adjoint(weights).double()).sum())
    assert there == pytest.approx(back, rel=1e-4, abs=1e-3)


def test_separate_channels_have_no_colour() -> None:
    transform = transform_of(3, "4:4:4", (16, 24), separate=True)
    samples = images(2, 3, 16, 24)
    (found,) = transform.forward(samples)
    expected = to_planes(fdjpeg.block_dct(samples.flatten(0, 1))).view(found.shape)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("subsampling", list(SAMPLING_FACTORS))
def test_absolute_map_is_the_largest_change_in_a_box(subsampling: str) -> None:
    """By the dense matrix, column by column; whole units, where no edge is replicated."""
    height, width = (8 * factor for factor in reversed(SAMPLING_FACTORS[subsampling]))
    transform = transform_of(3, subsampling, (height, width))
    half_width = images(1, 3, height, width)
    unit_vectors = torch.eye(3 * height * width).view(-1, 3, height, width)
    columns = transform.forward(unit_vectors)
    for found, stack in zip(transform.absolute.forward(half_width), columns, strict=True):
        expected = torch.einsum("pchw,p->chw", stack.abs(), half_width.flatten())
        torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("subsampling", list(SAMPLING_FACTORS))
def test_row_energies_are_the_squared_lengths_of_rows(subsampling: str) -> None:
    height, width = (8 * factor for factor in reversed(SAMPLING_FACTORS[subsampling]))
    transform = transform_of(3, subsampling, (height, width))
    columns = transform.forward(torch.eye(3 * height * width).view(-1, 3, height, width))
    for found, stack in zip(transform.row_energies(), columns, strict=True):
        expected = stack.square().sum(dim=0)
        torch.testing.assert_close(found.expand_as(expected), expected, rtol=1e-4, atol=1e-5)


# --- units -----------------------------------------------------------------------------------------------------------

UNLIKE = {
    "alone": ("4:2:0",),
    "grey": ("4:4:4",),
    "separate": ("separate",),
    "with 4:4:4": ("4:4:4", "4:2:0"),
    "across": ("4:2:2", "4:4:0"),
    "with code": ("separate", "4:1:1", "4:2:0"),
}


@pytest.mark.parametrize("size", [(32, 32), (13, 21), (1, 1), (33, 9)])
@pytest.mark.parametrize("kinds", list(UNLIKE))
def test_units_are_independent_of_each_other(kinds: str, size: tuple[int, int]) -> None:
    """A unit's samples act on that unit's coefficients, and on no others', in every transform."""
    channels = 1 if kinds == "grey" else 3
    transforms = [
        transform_of(channels, "4:4:4" if kind == "separate" else kind, size, kind == "separate")
        for kind in UNLIKE[kinds]
    ]
    units = Units.of(transforms)
    zero = torch.zeros(1, channels, *size)
    shape = units.of_samples(zero).shape
    for unit in range(shape.numel()):
        chosen = torch.zeros(shape).flatten()
        chosen[unit] = 1
        samples = units.to_samples(chosen.view(shape)).expand(1, channels, -1, -1)
        assert 0 < int(samples.sum()) <= 3 * 32 * 16
        assert float(units.of_samples(samples).flatten()[unit]) == float(samples.sum())
        for transform in transforms:
            moved = units.sum([stack.abs() for stack in transform.forward(samples * images(*zero.shape))], transform)
            assert moved.flatten()[unit] > 0
            assert float(moved.abs().sum()) == float(moved.flatten()[unit])


@pytest.mark.parametrize("kinds", list(UNLIKE))
def test_best_of_a_unit_is_its_largest(kinds: str) -> None:
    transforms = [
        transform_of(3, "4:4:4" if kind == "separate" else kind, (21, 35), kind == "separate") for kind in UNLIKE[kinds]
    ]
    units = Units.of(transforms)
    generator = torch.Generator().manual_seed(SEED)
    values = [
        [torch.rand(stack.shape, generator=generator) for stack in transform.forward(torch.zeros(2, 3, 21, 35))]
        for transform in transforms
    ]
    best = units.best(list(zip(values, transforms, strict=True)))
    counts, largest, total = 0, 0, 0
    for where, value, transform in zip(best, values, transforms, strict=True):
        counts = counts + units.sum([at.float() for at in where], transform)
        largest = largest + units.sum([at * each for at, each in zip(where, value, strict=True)], transform)
        total = total + units.sum([(each > 0.999).float() for each in value], transform)
    assert torch.equal(counts, torch.ones_like(counts))
    assert bool((largest[total > 0] > 0.999).all())
    assert float(largest.min()) > 0.8


# --- codecs ----------------------------------------------------------------------------------------------------------

MAP = torch.randint(10, 95, (4, 2, 3), generator=torch.Generator().manual_seed(SEED))

LAYERS = {
    "4:2:0": fdjpeg.JPEG(75),
    "4:2:2": fdjpeg.JPEG(30, subsampling="4:2:2"),
    "4:4:0": fdjpeg.JPEG(60, subsampling="4:4:0"),
    "4:1:1": fdjpeg.JPEG(85, subsampling="4:1:1"),
    "4:4:4": fdjpeg.JPEG(50, subsampling="4:4:4"),
    "nearest": fdjpeg.JPEG(50, upsampling="nearest"),
    "of each image": fdjpeg.JPEG(torch.tensor([10, 40, 70, 95])),
    "of each block": fdjpeg.JPEG(MAP),
    "of each block, 4:4:4": fdjpeg.JPEG(MAP, subsampling="4:4:4"),
    "tables": fdjpeg.JPEG(tables=QuantTables.flat(13)),
    "tables of each image": fdjpeg.JPEG(tables=QuantTables.standard(torch.tensor([20.0, 30, 50, 90]))),
    "real": fdjpeg.JPEG(40, arithmetic="real"),
    "learned": fdjpeg.LearnableJPEG(QuantTables.standard(60)),
    "code": fdjpeg.FeatureDistillation("code"),
    "paper": fdjpeg.FeatureDistillation("paper"),
}


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("layer", list(LAYERS))
def test_codec_is_its_layer(layer: str, channels: int) -> None:
    x = images(4, channels, 13, 21)
    (codec,) = codecs_of(LAYERS[layer], x, torch.arange(4), 0, "test")
    with torch.no_grad():
        expected = LAYERS[layer](x)
        assert torch.equal(codec(x), expected)
        rows = torch.tensor([2, 0])
        assert torch.equal(codec.only(rows)(x[rows]), expected[rows])


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("layer", list(LAYERS))
def test_coefficients_and_steps_make_the_decoded_image(layer: str, channels: int) -> None:
    """Decoding k · steps in real numbers gives the layer's output, to the rounding of bytes."""
    x = images(4, channels, 13, 21)
    (codec,) = codecs_of(LAYERS[layer], x, torch.arange(4), 0, "test")
    k, steps = codec.coefficients(x), codec.steps()
    assert all(torch.equal(stack, stack.round()) for stack in k)
    levels = [a * b for a, b in zip(k, steps, strict=True)]
    expected = LAYERS[layer](x)
    if codec.arithmetic == "channels":
        decoded = [reference.real_idct(reference.to_blocks(plane)) for plane in all_in(levels)]
        planes = [to_planes(blocks)[:, 0, :13, :21] for blocks in decoded]
        found = torch.stack(planes, 1) / 255
    else:
        parts = [to_planes(reference.real_idct(reference.to_blocks(plane)))[:, 0] for plane in all_in(levels)]
        parts[0] = parts[0] + 128
        found = samples_of(parts, codec.geometry, codec.upsampling == "fancy") / 255
    difference = (found.clamp(0, 1) - expected).abs() * 255
    # Integers round samples, then colours; where real and whole numbers saturate apart, more.
    assert float(difference.detach().quantile(0.99)) <= (1e-2 if codec.arithmetic != "libjpeg" else 3.5)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("layer", list(LAYERS))
def test_sensitivity_is_the_derivative_of_decoding(layer: str, channels: int) -> None:
    """By autograd through the reference, in float64."""
    x = images(4, channels, 13, 21)
    (codec,) = codecs_of(LAYERS[layer], x, torch.arange(4), 0, "test")
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED))
    shapes = codec.coefficients(x)
    levels = [torch.zeros(stack.shape, dtype=torch.float64, requires_grad=True) for stack in shapes]
    parts = [to_planes(reference.real_idct(reference.to_blocks(plane)))[:, 0] for plane in all_in(levels)]
    if codec.arithmetic == "channels":
        decoded = torch.stack(parts, 1)[:, :, :13, :21] / 255
    else:
        decoded = samples_of(parts, codec.geometry, codec.upsampling == "fancy") / 255
    expected = torch.autograd.grad((decoded * gradient).sum(), levels)
    for ours, theirs in zip(codec.sensitivity(gradient), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)


def test_randomised_layers_draw_by_image() -> None:
    x = images(6, 3, 16, 16)
    for layer in (fdjpeg.RandomJPEG((20, 90)), fdjpeg.StochasticJPEG((20, 40, 60, 80))):
        (together,) = codecs_of(layer, x, torch.arange(6), 3, "a")
        (alone,) = codecs_of(layer, x[4:5], torch.tensor([4]), 3, "a")
        (other,) = codecs_of(layer, x, torch.arange(6), 3, "b")
        assert torch.equal(together(x)[4:5], alone(x[4:5]))
        assert not torch.equal(together(x), other(x))
    (drawn,) = codecs_of(fdjpeg.RandomJPEG((50, 51)), images(64, 1, 8, 8), torch.arange(64), 0, "a")
    standard = [QuantTables.standard(quality).stacked()[0] for quality in (50, 51)]
    assert drawn.tables is not None
    counts = [int((drawn.tables == table).flatten(1).all(dim=1).sum()) for table in standard]
    assert sum(counts) == 64
    assert min(counts) > 16


def test_lists_of_qualities_and_tables_are_drawn_by_weight() -> None:
    x = images(256, 1, 8, 8)
    tables = [QuantTables.flat(7), QuantTables.flat(9)]
    for layer, expected in (
        (fdjpeg.RandomJPEG(qualities=(30, 60), weights=(3, 1)), [QuantTables.standard(q).stacked() for q in (30, 60)]),
        (fdjpeg.RandomJPEG(tables=tables, weights=(3, 1)), [table.stacked() for table in tables]),
    ):
        (codec,) = codecs_of(layer, x, torch.arange(256), 0, "a")
        assert codec.tables is not None
        counts = [int((codec.tables == table).flatten(1).all(dim=1).sum()) for table in expected]
        assert sum(counts) == 256
        assert 170 < counts[0] < 214  # 192 ± 3 standard deviations
    several = fdjpeg.RandomJPEG(subsampling=("4:4:4", "4:2:0"))
    drawn = {codecs_of(several, images(2, 3, 8, 8), torch.arange(2), 0, str(i))[0].subsampling for i in range(16)}
    assert drawn == {"4:4:4", "4:2:0"}


def test_passes_come_in_order() -> None:
    x = images(2, 3, 16, 16)
    layer = nn.Sequential(fdjpeg.JPEG(90), fdjpeg.FeatureDistillation("paper", passes=2))
    codecs = codecs_of(layer, x, torch.arange(2), 0, "test")
    assert len(codecs) == 3
    y = x
    for codec in codecs:
        y = codec(y)
    assert torch.equal(y, layer(x))


@pytest.mark.parametrize(
    "layer", [nn.Identity(), fdjpeg.RandomJPEG(p=0.5), fdjpeg.JPEG(50, arithmetic="real", gradient="sine", soft=True)]
)
def test_layers_without_coefficients_are_refused(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"layer must be a JPEG, .* got "):
        codecs_of(layer, images(1, 3, 8, 8), torch.arange(1), 0, "test")


def test_inward_keeps_what_leads_inside() -> None:
    gradient = torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    decoded = torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0, 1.0])
    assert inward(gradient, decoded).tolist() == [0.0, 1.0, -1.0, 1.0, -1.0, 0.0]


# --- the box ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [0, 0.3, 0.5, 1, 1.3, 1.5, 2, 2.499, 8])
@pytest.mark.parametrize("off_grid", [False, True])
def test_box_holds_the_bytes_that_samples_can_be_rounded_to(levels: float, off_grid: bool) -> None:
    """Against every point of a fine grid in the ball, by the codec's own rounding."""
    x = torch.arange(256, dtype=torch.float32) / 255
    if off_grid:
        x = (x + 0.4 * (2 * images(256) - 1) / 255).clamp(0, 1)
    x, eps = x.view(1, 1, 16, 16), levels / 255
    box = Box.of(x, eps, rounds=True, whole_bytes=False)
    ball = torch.stack([(x + eps * share).clamp(x - eps, x + eps) for share in torch.linspace(-1, 1, 201)]).clamp(0, 1)
    seen = reference.to_bytes(ball)
    assert torch.equal(seen.amin(dim=0).float(), box.least)
    assert torch.equal(seen.amax(dim=0).float(), box.most)
    for number in range(int((box.most - box.least).max()) + 1):
        wanted = torch.minimum(box.least + number, box.most)
        found = box.images(wanted)
        assert torch.equal(reference.to_bytes(found).float(), wanted)
        assert float((found - x).abs().max()) <= eps + 1e-7
        # The nearest of the grid's points is never nearer to the byte than what was found.
        nearest = (ball - wanted / 255).abs().amin(dim=0)
        assert bool(((found - wanted / 255).abs() <= nearest + 1e-6).all())


def test_box_of_files_holds_whole_bytes_only() -> None:
    x = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16) / 255
    box = Box.of(x, 1.9 / 255, rounds=True, whole_bytes=True)
    assert float((box.most - box.origin).max()) == 1
    assert float((box.origin - box.least).max()) == 1
    assert float(box.least.min()) == 0
    assert float(box.most.max()) == 255
    found = box.images(box.at(images(1, 1, 16, 16)))
    assert torch.equal(found, (255 * found).round() / 255)


@pytest.mark.parametrize("off_grid", [False, True])
@pytest.mark.parametrize("layer", ["4:2:0", "code"])
def test_ball_returns_the_nearest_point_that_is_seen_as_its_levels(layer: str, off_grid: bool) -> None:
    """Against projected gradients, and against all points between."""
    x = (255 * images(3, 3, 8, 8)).round() / 255
    if off_grid:
        x = (x + 0.4 * (2 * images(*x.shape, seed=1) - 1) / 255).clamp(0, 1)
    (codec,) = codecs_of(LAYERS[layer], x, torch.arange(3), 0, "test")
    rounds = codec.arithmetic == "libjpeg"
    for levels in (0.0, 3.0, 30.0):
        ball = Ball.of(x, levels / 255, rounds, whole_bytes=False)
        wanted = ball.at(images(*x.shape, seed=2))
        found = ball.images(wanted)
        assert float((found - x).flatten(1).norm(dim=1).max()) <= levels / 255 + 1e-6
        assert torch.equal(reference.to_bytes(found).float(), wanted) or not rounds
        # Every point of the ball that is seen as the same levels is farther from them: tried along the way there.
        distance = (255 * found - wanted).flatten(1).norm(dim=1)
        for share in torch.linspace(0, 1, 21):
            tried = 255 * x + share * (wanted - 255 * x)
            tried = torch.maximum(torch.minimum(tried, wanted + ball.room), wanted - ball.room) if rounds else tried
            inside = (tried / 255 - x).flatten(1).norm(dim=1) <= levels / 255
            farther = (tried - wanted).flatten(1).norm(dim=1) >= distance - 1e-2
            assert bool((farther | ~inside).all())


def test_ball_reaches_more_bytes_than_its_whole_points() -> None:
    """A byte is seen from half a level before it, so a quarter of the cost of a whole move buys a move by one."""
    x = torch.full((1, 1, 8, 8), 100 / 255)
    ball = Ball.of(x, 4.1 / 255, rounds=True, whole_bytes=False)
    every = torch.full((1, 1, 8, 8), 101.0)  # 64 samples: 8 levels away by whole bytes, 4 by samples
    found = ball.images(every)
    assert torch.equal(reference.to_bytes(found).float(), every)
    assert float((255 * (found - x)).norm()) <= 4.1 + 1e-3
    files = Ball.of(x, 4.1 / 255, rounds=True, whole_bytes=True)
    assert float(files.cost(every).sum()) > files.radius**2
    assert float(ball.cost(every).sum()) <= ball.radius**2


# --- the inner problem -----------------------------------------------------------------------------------------------


def problem(codec: Codec, x: Tensor, eps: float, seed: int = SEED) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    steps = codec.steps()
    shapes = codec.coefficients(x)
    slope = [torch.randn(stack.shape, generator=generator) for stack in shapes]
    box = Box.of(x, eps, codec.arithmetic == "libjpeg", whole_bytes=False)
    return Problem(box, [Quantizer(codec.transform, steps, slope)], Units.of([codec.transform]))


def gain(codec: Codec, inner: Problem, levels: Tensor) -> Tensor:
    """By unit, by the exact encoder."""
    k, before = codec.coefficients(inner.box.images(levels)), codec.coefficients(inner.box.images(inner.box.origin))
    (quantizer,) = inner.quantizers
    parts = zip(k, before, quantizer.steps, quantizer.slope, strict=True)
    return inner.units.sum([(a - b) * step * slope for a, b, step, slope in parts], codec.transform)


@pytest.mark.parametrize("layer", ["4:2:0", "4:1:1", "4:4:4", "code", "real", "of each block"])
def test_candidates_are_in_the_box_and_gain(layer: str) -> None:
    x = (255 * images(4, 3, 13, 21)).round() / 255
    (codec,) = codecs_of(LAYERS[layer], x, torch.arange(4), 0, "test")
    inner = problem(codec, x, 2 / 255)
    anywhere = inner.box.at(images(*x.shape))
    random = torch.stack([gain(codec, inner, inner.box.at(images(*x.shape, seed=i))) for i in range(20)]).amax(dim=0)
    found = []
    for candidate in inner.candidates(anywhere):
        room = 0 if inner.box.whole else 1e-4  # of float32 at 255
        assert bool((candidate >= inner.box.least - room).all())
        assert bool((candidate <= inner.box.most + room).all())
        assert not inner.box.whole or torch.equal(candidate, candidate.round())
        found.append(gain(codec, inner, candidate))
    assert len(found) == 2
    best = torch.stack(found).amax(dim=0)
    # One-sided: no bound is known, but 20 random points of the box are far behind in every unit.
    assert bool((best > random).all())
    assert float(best.mean()) > 1.5 * float(random.clamp_min(0).mean())


@pytest.mark.parametrize("preset", ["uniform(30)", "code"])
def test_single_flips_cross_the_best_tie_of_a_lattice(preset: str) -> None:
    """On the lattice every coefficient is half a step from its ties; at 2.3/255 some can be reached."""
    layer = fdjpeg.FeatureDistillation(preset)
    x = layer((255 * (0.25 + images(4, 3, 16, 16) / 2)).round() / 255)
    (codec,) = codecs_of(layer, x, torch.arange(4), 0, "test")
    inner = problem(codec, x, 2.3 / 255)
    flips = inner.single_flips()
    moved = gain(codec, inner, flips)
    reached = (flips != inner.box.origin).flatten(1).any(dim=1)
    assert bool(reached.any())
    touched = inner.units.of_samples((flips != inner.box.origin).float()) != 0
    # In real numbers each flip succeeds; the integers' colours and averages are rounded, and some fall short.
    assert float((moved[touched] > 0).float().mean()) >= (1 if preset == "code" else 0.8)
    nothing = problem(codec, x, 0.4 / 255)
    assert torch.equal(nothing.single_flips(), nothing.box.origin)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_inner_problem_asks_the_device_for_nothing(norm: str) -> None:
    """The whole of it: candidates, the exact encoder's verdict, and the choice of each unit."""
    x = images(2, 3, 16, 32)
    box = (Ball if norm == "l2" else Box).of(x, 2 / 255, rounds=True, whole_bytes=False)
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED))
    for names in (["4:2:0"], ["4:4:4"], ["code"], ["4:2:0", "nearest"]):
        draws = [[[codecs_of(LAYERS[name], x, torch.arange(2), 0, "test")[0] for name in names]]]
        other = box.at(images(*x.shape))
        best_of_each_unit(box, draws, [gradient] * len(names), box.origin, other)  # constants are made once
        with NoCopying() as asked:
            found = best_of_each_unit(box, draws, [gradient] * len(names), box.origin, other)
        assert asked.seen > 0
        assert found.shape == x.shape


def test_choice_in_a_ball_is_within_reach_and_gains_more_than_any_start() -> None:
    x = (255 * images(3, 3, 24, 40)).round() / 255
    (codec,) = codecs_of(LAYERS["4:2:0"], x, torch.arange(3), 0, "test")
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED))
    for levels, least in ((5.0, 0.6), (25.0, 0.8), (60.0, 0.8)):  # six whole units fill a small radius less well
        ball = Ball.of(x, levels / 255, rounds=True, whole_bytes=False)
        other = ball.at(images(*x.shape))
        found = best_of_each_unit(ball, [[[codec]]], [gradient], ball.origin, other)
        taken = ball.cost(found).flatten(1).sum(dim=1).sqrt()
        assert float(taken.max()) <= ball.radius + 1e-3
        assert float(taken.min()) > least * ball.radius
        assert torch.equal(found, found.round())
        slope = codec.sensitivity(gradient)

        def gain(images: Tensor, slope: list[Tensor] = slope) -> Tensor:
            parts = zip(codec.coefficients(images), codec.steps(), slope, strict=True)
            return torch.stack([(a * b * c).flatten(1).sum(dim=1) for a, b, c in parts]).sum(dim=0)

        # Straight along the image's gradient, to the edge of the ball.
        along = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        straight = (x + levels / 255 * along).clamp(0, 1)
        assert bool((gain(ball.images(found)) > gain(straight)).all())


def test_dct_matrix_is_orthonormal() -> None:
    dct = transform_of(1, "4:4:4", (8, 8)).dct.double()
    torch.testing.assert_close(dct @ dct.T, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-6)
    assert float(dct[0, 0]) == pytest.approx(math.sqrt(1 / 8))
