"""The bounds of a certificate: against every kind of perturbation, exhaustively where that is possible, and planted."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction

import pytest
import torch
from support import perturbations as support
from support.classifiers import SEED
from support.perturbations import (
    FEW,
    LAYERS,
    Case,
    Counts,
    cases,
    codec_of,
    digest_of_lists,
    image,
    listed,
    seen,
    tried,
    values_of,
)
from torch import Tensor, nn

import fdjpeg
from fdjpeg import reference
from fdjpeg.attacks.codec import Codec
from fdjpeg.attacks.reachable import Box
from fdjpeg.attacks.transform import to_planes
from fdjpeg.certificates import reach as reach_module
from fdjpeg.certificates.outcomes import Outcomes
from fdjpeg.certificates.reach import CHANNELS_ERROR, Reach, _channel_intervals, reach_of
from fdjpeg.certificates.realise import attained, excluded
from fdjpeg.certificates.units import BITS, AnyBall, ChannelBall, ColourBall, Entry, HalfSpace, Unit, unit_of
from fdjpeg.reference.exact import _ISLOW, fdct, linear_map, quantize, rgb_to_ycbcr


@pytest.mark.parametrize("case", [case for case in cases() if not case.listed], ids=str)
def test_no_coefficient_leaves_its_interval(case: Case) -> None:
    """As in `soundness.py`, which does it a million times."""
    counts = tried(case)
    assert counts.outside == 0
    assert counts.images > 400


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
    every = ((0.4, 0, 0), (0.5, 0, 1), (0.998, 0, 1), (1, 1, 1), (1.4, 1, 1), (1.8, 1, 2), (2.5, 2, 3))
    for levels, of_files, of_floats in every:
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


@pytest.mark.parametrize("layer", ["fine", "code"])
def test_black_and_white_are_reached_and_not_passed(layer: str) -> None:
    x = torch.zeros(1, 3, 8, 8)
    x[..., 4:] = 1
    reach = reach_of(codec_of(LAYERS[layer], x), x, 2 / 255, whole_bytes=False)
    assert reach.least[0, 0, 0].tolist() == pytest.approx([0] * 4 + [253] * 4, abs=0.001)
    assert reach.most[0, 0, 0].tolist() == pytest.approx([2] * 4 + [255] * 4, abs=0.001)
    assert (int(reach.least.min()), int(reach.most.max())) == (0, 255)
    none = reach_of(codec_of(LAYERS[layer], x), x, 0.0, whole_bytes=True)
    assert torch.equal(none.least.float(), 255 * x)
    assert torch.equal(none.most.float(), 255 * x)


def test_a_tie_may_be_rounded_either_way_even_at_a_radius_of_nothing() -> None:
    """The DCT's rounding is not known: a DC of 8 · 3 levels at a step of 16 is 1.5 steps."""
    codec = codec_of(fdjpeg.FeatureDistillation("uniform(16)"), torch.zeros(1, 1, 8, 8))
    levels = torch.full((1, 1, 8, 8), 3.0, dtype=torch.float64)
    (low,), (high,) = _channel_intervals(codec, levels, levels)
    assert (int(low[0, 0, 0, 0, 0]), int(high[0, 0, 0, 0, 0])) == (1, 2)
    assert int(low.count_nonzero()) == int(high.count_nonzero()) == 1


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
            (least, low), (most, high) = (divmod(s.tie + rounding, 1 << BITS) for s in ball.half_spaces(entry, value))
            assert (low, high) == (0, 0)
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
    # In fractions: γ₁₉ of the largest coefficient of absolute values, and the rounding of the division by a step.
    u = Fraction(1, 2**24)
    assert pytest.approx(float(19 * u / (1 - 19 * u) * 8 * 255 + u * 2040), rel=1e-12) == CHANNELS_ERROR


def test_ties_of_real_numbers_leave_room_for_rounding() -> None:
    """A value k of step q is at least q (k - 1/2) and at most q (k + 1/2), less the bound of the DCT and 10⁻⁹."""
    ball = ChannelBall(torch.zeros(8, 8, dtype=torch.float64), torch.ones(8, 8, dtype=torch.float64))
    least, most = ball.half_spaces(Entry(0, 0, 0, 0, 0, value=3, lowest=2, highest=4, step=10), 3)
    room = 0.0024319 + 1e-9  # γ₁₉ · 2040 + 2⁻²⁴ · 2040
    assert [least.tie, most.tie] == pytest.approx([25 - room, -35 - room], abs=1e-7)
    assert least.tie + most.tie == pytest.approx(-10 - 2 * CHANNELS_ERROR - 2e-9, abs=1e-13)
    assert least.normal.tolist() == [pytest.approx([1 / 8] * 64)]
    assert torch.equal(most.normal, -least.normal)


@pytest.mark.parametrize("aside", [0, 0.002, -0.002])
def test_a_coefficient_near_its_tie_can_be_rounded_either_way(aside: float) -> None:
    """By the float32 DCT, whose error may be `CHANNELS_ERROR`: a flat block of which DC is 16.5 steps of 25."""
    codec = codec_of(LAYERS["code"], torch.zeros(1, 3, 8, 8))
    level = torch.full((1, 3, 8, 8), (16.5 * 25 + aside) / 8, dtype=torch.float64)
    lowest, highest = reach_module._channel_intervals(codec, level, level)
    assert (int(lowest[0][0, 0, 0, 0, 0]), int(highest[0][0, 0, 0, 0, 0])) == (16, 17)


@pytest.mark.parametrize(("value", "signs"), [(2, [-1]), (3, [1, -1]), (4, [1])])
def test_ends_of_an_interval_need_no_half_space(value: int, signs: list[int]) -> None:
    """Their other side is the interval's own bound."""
    entry = Entry(0, 0, 0, 0, 0, value=3, lowest=2, highest=4, step=10)
    real = ChannelBall(torch.zeros(8, 8, dtype=torch.float64), torch.ones(8, 8, dtype=torch.float64))
    whole = ColourBall(torch.zeros(1, 8, 8, dtype=torch.int64), torch.ones(1, 8, 8, dtype=torch.int64))
    for ball in (real, whole):
        assert [int(space.normal[0, 0].sign()) for space in ball.half_spaces(entry, value)] == signs


def test_the_best_samples_of_a_ball_reach_its_support() -> None:
    """The upper end where the normal is positive, the lower one where it is negative."""
    normal = torch.ones(1, 1, 64)
    normal[..., 32:] = -1
    low, high = torch.full((1, 8, 8), 100), torch.full((1, 8, 8), 103)
    real = ChannelBall(low[0].double(), high[0].double())
    assert torch.equal(real.best(normal.double())[0].view(64), torch.tensor([103.0] * 32 + [100.0] * 32).double())
    assert real.support(normal.double()).tolist() == [32 * 103 - 32 * 100]
    whole = ColourBall(low, high)  # of grey: level-shifted by 128
    assert whole.best(normal.long()).tolist() == [[-25] * 32 + [-28] * 32]
    assert whole.support(normal.long()).tolist() == [32 * 3]


def test_units_cannot_be_changed() -> None:
    """What a certificate was made of stays as it was."""
    entry = Entry(0, 0, 0, 0, 0, value=3, lowest=2, highest=4, step=10)
    with pytest.raises(FrozenInstanceError):
        entry.highest = 5  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        HalfSpace(0, torch.zeros(1, 64), 1).tie = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Unit(AnyBall(), [entry], None).outcomes = []  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Outcomes({}, [], None).total = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Reach(torch.zeros(1), torch.zeros(1), [], []).most = torch.ones(1)  # type: ignore[misc]


# --- outcomes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "levels"), FEW)
@pytest.mark.parametrize("channels", [3, 1])
def test_no_unit_leaves_its_outcomes(preset: str, levels: float, channels: int) -> None:
    total = Counts()
    for seed in range(6):
        for on_grid in (True, False):
            total += tried(Case(preset, channels, (16, 13), levels, on_grid, listed=True, seed=seed))
    assert total.outside == total.lost == 0
    assert total.met > 8


def test_lists_are_the_same_in_another_process_with_other_batches_and_threads() -> None:
    program = (
        "import torch; torch.set_num_threads(2); "
        "from support.perturbations import digest_of_lists; print(digest_of_lists(2, 3))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=support.__file__.rsplit("/", 2)[0],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == digest_of_lists(1, 3) == digest_of_lists(3, 3)


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


def test_a_unit_lists_no_more_outcomes_than_were_asked_for() -> None:
    entries = [Entry(0, 0, 0, 0, k, value=0, lowest=-1, highest=1, step=16) for k in range(2)]
    assert unit_of(AnyBall(), entries, 9).outcomes == [(a, b) for a in (0, -1, 1) for b in (0, -1, 1)]
    assert unit_of(AnyBall(), entries, 8).outcomes is None


# --- planted: unsound certificates, which the run of `soundness.py` must catch ---------------------------------------


#: Cases with whole bytes and with floats, and lattices with lists.
SOME = [
    Case("fine", 3, (8, 8), 1, True),
    Case("fine", 3, (8, 8), 1.8, True),
    Case("fine", 3, (8, 8), 1.8, False),
    Case("uniform(16)", 3, (8, 8), 1.3, True, listed=True),
    Case("uniform(16)", 3, (8, 8), 1.3, True, listed=True, seed=1),
]


def total(cases: list[Case]) -> Counts:
    return sum(map(tried, cases), Counts())


def test_honest_bounds_are_not_caught() -> None:
    counts = total(SOME)
    assert counts.outside == counts.lost == 0
    assert counts.met > 3


@pytest.mark.parametrize("end", [0, 1])
def test_a_bound_off_by_one_is_caught(end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    true = reach_module._integer_intervals

    def planted(codec: Codec, least: Tensor, most: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        ends = true(codec, least, most)
        ends[end][:] = [bound + (1, -1)[end] for bound in ends[end]]
        return ends

    monkeypatch.setattr(reach_module, "_integer_intervals", planted)
    assert total(SOME[:1]).outside > 0


def test_the_wrong_number_of_levels_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """floor(255 eps), which holds for files only."""
    true = reach_module.reach_of

    def planted(codec: Codec, x: Tensor, eps: float, whole_bytes: bool) -> reach_module.Reach:
        return true(codec, (255 * x).round() / 255, eps, True)

    monkeypatch.setattr(reach_module, "reach_of", planted)
    assert total(SOME[:1]).outside == 0  # at a whole level both are the same
    assert total(SOME[1:2]).outside > 0
    assert total(SOME[2:3]).outside > 0
    assert tried(replace(SOME[0], levels=0.5)).outside > 0


def test_a_rounding_that_intervals_forget_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of the integer DCT whose shift rounds down in the bound, and to the nearest in the codec."""
    true = reach_module._pass_interval

    def planted(low: Tensor, high: Tensor, dim: int, shift: int) -> tuple[Tensor, Tensor]:
        least, _ = true(low, high, dim, shift)
        positive = [[max(entry, 0) for entry in row] for row in _ISLOW]
        negative = [[min(entry, 0) for entry in row] for row in _ISLOW]
        return least, (linear_map(positive, high, dim) + linear_map(negative, low, dim)) >> shift

    monkeypatch.setattr(reach_module, "_pass_interval", planted)
    assert total(SOME[:1]).outside > 0


def test_an_impossible_pair_that_happens_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-spaces whose ties are a twentieth of a step too far: they exclude pairs of values that images have."""
    true = ColourBall.half_spaces

    def planted(self: ColourBall, entry: Entry, value: int) -> list[HalfSpace]:
        return [replace(space, tie=space.tie + ((8 * entry.step << BITS) // 20)) for space in true(self, entry, value)]

    monkeypatch.setattr(ColourBall, "half_spaces", planted)
    assert total(SOME[3:]).lost > 0


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
