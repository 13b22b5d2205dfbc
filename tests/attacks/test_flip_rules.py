"""The rules of Flip's inner problem and of whole bytes, on numbers made by hand."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import fdjpeg
from fdjpeg._geometry import Geometry
from fdjpeg.attacks import draw, on_byte_grid, to_byte_grid
from fdjpeg.attacks.candidates import BEYOND, Problem, Quantizer, _Flips, _Group, _to_tie
from fdjpeg.attacks.choice import NEGLIGIBLE, _priced, _quantizers, searched
from fdjpeg.attacks.codec import DrawsByImage, codecs_of
from fdjpeg.attacks.reachable import Ball, Box
from fdjpeg.attacks.transform import Transform
from fdjpeg.attacks.units import Units

MIDDLE = 128.0


def grey(count: int = 1, *, size: tuple[int, int] = (1, 4)) -> Tensor:
    return torch.full((count, 1, *size), MIDDLE / 255, dtype=torch.float64)


def ball(radius: float, *, whole_bytes: bool = True) -> Ball:
    """A ball of so many levels around four grey samples."""
    return Ball.of(grey(), radius / 255, rounds=True, whole_bytes=whole_bytes)


def moved(found: Tensor) -> list[float]:
    return (found - MIDDLE).flatten().tolist()


def levels(*by: float) -> Tensor:
    return torch.tensor(by, dtype=torch.float32).view(1, 1, 1, -1) + MIDDLE


def test_a_step_in_a_box_is_a_share_of_its_half_width_and_of_the_last_step() -> None:
    box = Box.of(grey(), 10 / 255, rounds=False, whole_bytes=False)
    gradient = torch.tensor([3.0, -0.1, 0.0, 7.0]).view(1, 1, 1, 4)
    last = torch.tensor([2.0, 2.0, 2.0, 40.0]).view(1, 1, 1, 4)
    found = box.moved(box.origin.clone(), gradient, 0.5, last, 0.25)
    assert moved(found) == pytest.approx([4.25, -3.25, 0.5, 10], abs=1e-4)  # 0.5 · 0.75 · 10 + 0.25 · 2; then the end
    assert moved(box.at(torch.tensor([0.0, 0.25, 0.5, 1.0]))) == pytest.approx([-10, -5, 0, 10], abs=1e-4)


def test_a_step_in_a_ball_is_a_share_of_its_radius() -> None:
    found = ball(10).moved(
        levels(0, 0, 0, 0), torch.tensor([3.0, 4.0, 0.0, 0.0]).view(1, 1, 1, 4), 0.5, levels(0) * 0, 0.2
    )
    assert moved(found) == pytest.approx([2.4, 3.2, 0, 0], abs=1e-3)  # 0.5 · 0.8 · 10 along (3, 4) / 5
    far = ball(10).within(levels(30, 40, 0, 0))
    assert moved(far) == pytest.approx([6, 8, 0, 0], abs=1e-3)


def test_bytes_of_a_ball_cost_the_way_to_where_they_are_seen() -> None:
    costs = ball(10).cost(levels(3, 0, -2, 1)).flatten().tolist()
    assert costs == pytest.approx([9, 0, 4, 1])
    room = 0.5 - 1e-3
    costs = ball(10, whole_bytes=False).cost(levels(3, 0, -2, 1)).flatten().tolist()
    assert costs == pytest.approx([(3 - room) ** 2, 0, (2 - room) ** 2, (1 - room) ** 2], abs=1e-3)
    # A ball with room reaches the farther bytes, one without does not.
    assert ball(10).extent == pytest.approx(10, abs=1e-3)
    assert ball(10, whole_bytes=False).extent == pytest.approx(10 + 2 * room, abs=1e-3)


@pytest.mark.parametrize(
    ("square", "settled"), [(22.1, [3, -3, 2, 0]), (21.9, [3, -3, 0, 0]), (17.9, [3, 0, 0, 0]), (8.9, [0, 0, 0, 0])]
)
def test_of_samples_that_do_not_fit_those_that_go_least_far_stay(square: float, settled: list[float]) -> None:
    """They would become bytes at 3, −3, 2 and 0, whose squares are 9, 9, 4 and 0."""
    assert moved(ball(square**0.5).settled(levels(3.4, -2.6, 1.6, 0.2))) == settled


def test_a_last_eighth_of_a_level_counts_as_one_where_there_is_room() -> None:
    found = ball(40, whole_bytes=False).settled_outwards(levels(0.1, 0.13, -1.13, 1.1))
    assert moved(found) == [0, 1, -2, 1]
    assert moved(ball(40).settled_outwards(levels(0.1, 0.6, -1.6, 1.1))) == [0, 1, -2, 1]


@pytest.mark.parametrize(("square", "chosen"), [(81.0, [2, 1]), (79.0, [0, 1]), (59.0, [0, 1]), (19.0, [0, 0])])
def test_units_that_share_a_radius_are_served_by_gain_for_its_price(square: float, chosen: list[int]) -> None:
    """Two units: 10 for 60 of the squared radius, and 6 for 20, more for its price. A third option is worse."""
    gains = torch.tensor([[NEGLIGIBLE, NEGLIGIBLE], [3.0, 6.0], [10.0, -1.0]]).view(3, 1, 1, 1, 2)
    costs = torch.tensor([[0.0, 0.0], [60.0, 20.0], [60.0, 20.0]]).view(3, 1, 1, 1, 2)
    units: Any = SimpleNamespace(of_samples=lambda cost: cost)
    found = _priced(gains, list(costs), units, ball(square**0.5))
    assert found.flatten().tolist() == chosen
    box = Box.of(grey(), 1 / 255, rounds=True, whole_bytes=False)
    assert _priced(gains, [None] * 3, units, box).flatten().tolist() == [2, 1]  # samples of a box share nothing


def test_units_at_the_edges_are_filled_with_nothing() -> None:
    """Sums of 8 × 12 and of 12 × 8 samples, which one more block would complete."""
    assert Units(8, 12, 1, 1, 1).of_samples(torch.ones(1, 3, 8, 12)).tolist() == [[[[192, 96]]]]
    assert Units(12, 8, 1, 1, 3).of_samples(torch.ones(1, 3, 12, 8)).tolist() == [[[[64], [32]]] * 3]
    # A unit of 4:2:0 has two by two blocks; the fourth has none here.
    values = Units(16, 24, 2, 2, 1)._pooled(torch.ones(1, 1, 2, 3), (1, 1), torch.sum, 0.0)
    assert values.tolist() == [[[[4, 2]]]]


def test_a_tie_is_half_a_step_from_a_multiple_on_the_side_of_the_direction() -> None:
    coefficients, steps = torch.tensor([6.4, 6.4, -7.0]), torch.tensor([2.0, 2.0, 3.0])
    found = _to_tie(coefficients, steps, torch.tensor([1.0, -1.0, 1.0]))
    assert found.tolist() == pytest.approx([0.6, 1.4, 2.5])


def test_an_ascent_narrows_its_window_geometrically_and_its_step_linearly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen steps: windows from 1/2 to 0.06, lengths from 1 to 0.08."""
    windows, lengths = [], []
    box = SimpleNamespace(moved=lambda point, _, length, *rest: (lengths.append(length), point)[1], settled=lambda x: x)
    monkeypatch.setattr(Problem, "_shifted", (box, 0.0))
    monkeypatch.setattr(Problem, "_gradient", lambda _, point, window: windows.append(window))
    Problem(box, [], Units(1, 4, 1, 1, 1)).ascend(levels(0))  # type: ignore[arg-type]
    assert len(windows) == 16
    assert windows[:2] == pytest.approx([0.5, 0.5 * 0.12 ** (1 / 15)])
    assert windows[-1] == pytest.approx(0.06)
    assert lengths[:2] == pytest.approx([1, 1 - 0.92 / 15])
    assert lengths[-1] == pytest.approx(0.08)


def test_of_equal_passes_the_last_is_searched() -> None:
    one, other = (Any, int)
    assert searched([one, other]) == [0, 1]  # type: ignore[list-item]
    assert searched([one, one]) == [1]  # type: ignore[list-item]
    assert searched([one, other, one]) == [1, 2]  # type: ignore[list-item]


def test_parts_of_a_problem_cannot_be_changed() -> None:
    units = Units(8, 8, 1, 1, 1)
    inner = (Quantizer(None, [], []), _Flips([], [], []), _Group(None, []))  # type: ignore[arg-type]
    for part in (*inner, Problem(ball(1), [], units), units, ball(1)):
        with pytest.raises(FrozenInstanceError):
            part.height = 3  # type: ignore[misc, union-attr]


def test_a_byte_may_be_off_by_a_thousandth() -> None:
    images = torch.tensor([0.0, 0.9e-3, -0.9e-3, 1.1e-3, 0.5]).double().view(5, 1, 1, 1) + 7
    assert on_byte_grid(images / 255).tolist() == [True, True, True, False, False]
    exact = torch.tensor(1e-3 / 255, dtype=torch.float64).view(1, 1, 1, 1)
    assert float(255 * exact) == 1e-3
    assert on_byte_grid(exact).tolist() == [True]
    x = grey(2)
    for radius, reach in ((2.0, 2), (1.9995, 2), (1.9985, 1), (0.5, 0)):
        found = to_byte_grid(x + 9 / 255, x, radius / 255, "linf")
        assert (found * 255 - MIDDLE).round().unique().tolist() == [reach]
    bright = torch.full((1, 1, 1, 2), 254 / 255, dtype=torch.float64)
    for norm in ("linf", "l2"):  # never out of the range
        assert to_byte_grid(bright + 3 / 255, bright, 9 / 255, norm).unique().tolist() == [1]  # type: ignore[arg-type]
    # Of L2 the nearest bytes if they are within the radius, else those towards the image.
    point = levels(2.6, -1.6, 0.4, 0.0).double() / 255
    assert moved((to_byte_grid(point, grey(), 3.7 / 255, "l2") * 255).round()) == [3, -2, 0, 0]  # √13 = 3.606
    assert moved((to_byte_grid(point, grey(), 3.6 / 255, "l2") * 255).round()) == [2, -1, 0, 0]


# --- what is within reach ---------------------------------------------------------------------------------------------


def test_whole_bytes_reach_as_many_levels_as_are_in_the_radius() -> None:
    for radius, reach in ((1.0, 1), (2.0, 2), (2.995, 2), (8.0, 8), (32.0, 32), (0.5, 0)):
        box = Box.of(grey(), radius / 255, rounds=True, whole_bytes=True)
        assert set(moved(box.most)) == {reach}
        assert set(moved(box.least)) == {-reach}
        assert float(box.half_width) == reach


def test_of_a_point_in_a_ball_only_what_is_beyond_every_samples_room_is_scaled() -> None:
    room = 0.5 - 1e-3
    found = moved(ball(10, whole_bytes=False).within(levels(30, -40, 0, -0.3)))
    length = ((30 - room) ** 2 + (40 - room) ** 2) ** 0.5
    assert found == pytest.approx(
        [room + 10 * (30 - room) / length, -room - 10 * (40 - room) / length, 0, -0.3], abs=1e-3
    )


def test_images_that_reach_their_levels_are_whole_bytes_exactly() -> None:
    """All samples of a ball that holds them, and of one that does not those that are within a thousandth of a byte."""
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    wanted = (255 * x).round() + torch.arange(3).view(1, 3, 1, 1)
    wanted.clamp_(0, 255)
    for images in (x, x.double(), x.flip(3)):  # the last goes up to 255 levels
        found = Ball.of(images, 30.0, rounds=True, whole_bytes=False).images(wanted)
        assert torch.equal(found, wanted.to(images) / 255)
    start = (255 * x).round().clamp(1, 253) + torch.tensor([4e-4, 0, -4e-4]).view(1, 3, 1, 1)
    wanted = start.round() + torch.tensor([0, 1, 0]).view(1, 3, 1, 1)
    found = Ball.of(start / 255, 5 / 255, rounds=True, whole_bytes=False).images(wanted)
    assert torch.equal(found[:, ::2], wanted[:, ::2] / 255)
    assert not bool((found[:, 1] == wanted[:, 1] / 255).any())


def test_what_fits_a_ball_does_not_depend_on_the_other_images() -> None:
    """Two samples go nearly as far, one of them fits. The other image's go 255 levels."""
    x = torch.zeros(2, 1, 1, 2)
    both = Ball.of(x, 2.2 / 255, rounds=True, whole_bytes=True)
    points = torch.tensor([[1.6, 1.600001], [255.0, 0.0]]).view(2, 1, 1, 2)
    assert both.settled(points)[0].flatten().tolist() == [0, 2]
    assert both.only(slice(0, 1)).settled(points[:1])[0].flatten().tolist() == [0, 2]


def test_a_share_of_a_half_is_no_way_and_others_point_up_or_down_to_the_surface() -> None:
    real = Ball.of(grey(), 10 / 255, rounds=False, whole_bytes=False)
    for shares, way in (
        ([1, 0.5, 0.5, 0.5], [10, 0, 0, 0]),
        ([0.2, 0.5, 0.9, 0.5], [-6, 0, 8, 0]),
        ([0.5] * 4, [0] * 4),
    ):
        assert moved(real.at(row(*shares))) == pytest.approx(way, abs=1e-3)
    assert moved(ball(10).at(row(0.3, 0.5, 0.9, 0.5))) == [-4, 0, 9, 0]  # −4.47 and 8.94


@pytest.mark.parametrize(
    ("dtype", "room"),
    [(torch.float64, 0.499), (torch.float32, 0.499), (torch.float16, 0.5 - 255 / 1024), (torch.bfloat16, 0)],
)
def test_samples_keep_off_a_tie_by_what_their_type_may_be_wrong_by(dtype: torch.dtype, room: float) -> None:
    """At least a thousandth of a byte; and the ball is no larger than its radius, but for that."""
    found = Ball.of(grey().to(dtype), 10 / 255, rounds=True, whole_bytes=False)
    assert found.room == pytest.approx(room, abs=1e-9)
    precision = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    assert 10 * (1 - 8 * precision) < found.radius < 10


def test_half_the_width_of_a_box_is_each_images_own() -> None:
    x = torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.0, 0.0]]).view(3, 1, 1, 2)
    assert Box.of(x, 0.25, rounds=False, whole_bytes=False).half_width.flatten().tolist() == [63.75, 31.875, 31.875]
    assert Box.of(x, 0.25, rounds=False, whole_bytes=False).half_width.shape == (3, 1, 1, 1)


def test_what_is_exactly_as_long_as_the_radius_is_within_reach() -> None:
    """Two black samples, seen as 3 and 4 from 2.5 and 3.5 on."""
    black = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    real = replace(Ball.of(black, 1.0, rounds=True, whole_bytes=False), room=0.5)
    wanted = row(3, 4)
    for radius, reached in ((5.0, [3, 4]), (4.375, [2.625, 3.5])):
        found = replace(real, radius=radius).images(wanted)
        assert (255 * found).flatten().tolist() == pytest.approx(reached, rel=1e-9)
    files = replace(Ball.of(black, 1.0, rounds=True, whole_bytes=True), radius=3.0)
    assert files.settled(row(3.4, 0.4)).flatten().tolist() == [3, 0]
    assert files.settled(row(2.4, 2.6)).flatten().tolist() == [0, 3]


def test_steps_and_balls_may_be_as_short_as_numbers_go() -> None:
    black = torch.zeros(1, 1, 1, 2)
    tiny = replace(Ball.of(black, 1.0, rounds=False, whole_bytes=False), radius=1e-12)
    assert tiny.within(row(1.5e-12, 0)).flatten().tolist() == pytest.approx([1e-12, 0], rel=1e-5, abs=0)
    climbed = ball(10).moved(levels(0, 0, 0, 0), row(1.5e-12, 0, 0, 0), 0.5, levels(0) * 0, 0.2)
    assert moved(climbed) == pytest.approx([4, 0, 0, 0], abs=1e-3)


# --- flips of single coefficients -------------------------------------------------------------------------------------


def plain(row_energy: float = 1.0) -> Any:
    """A transform whose coefficients are the samples, less a shift of 128."""
    return SimpleNamespace(
        shift=MIDDLE,
        forward=lambda samples: [samples],
        adjoint=lambda stacks: stacks[0],
        absolute=SimpleNamespace(forward=lambda samples: [samples.abs()]),
        row_energies=lambda: [torch.tensor([row_energy]).view(1, 1, 1)],
    )


def row(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def test_a_single_flip_gains_by_the_quantizers_whose_tie_is_within_reach() -> None:
    """A tie is half a step away. Steps of 2, 4 and 8: samples that move by 1 reach the first, by 2 the first two."""
    transform = plain()
    quantizers = [Quantizer(transform, [row(step)], [row(*[slope] * 4)]) for step, slope in ((2, 3), (4, 1), (8, 2))]
    for radius, gain in ((1.0, 6), (2.0, 10), (0.5, 0), (4.0, 26)):
        box = Box.of(grey(), radius / 255, rounds=True, whole_bytes=False)
        found = _Group(transform, quantizers).single_flips(box)
        assert found.values[0].flatten().tolist() == [gain] * 4
        assert found.directions[0].flatten().tolist() == [1] * 4
    # A share of the way: half a step and a bit, of four levels.
    one = _Group(transform, quantizers[:1]).single_flips(Box.of(grey(), 4 / 255, rounds=True, whole_bytes=False))
    assert one.shares[0].flatten().tolist() == pytest.approx([(1 + 2 * BEYOND) / 4] * 4)
    none = _Group(transform, quantizers).single_flips(Box.of(grey(), 0.5 / 255, rounds=True, whole_bytes=False))
    assert not bool(none.shares[0].any())


def test_a_cheap_flip_is_that_of_the_quantizer_that_gains_most_for_its_cost() -> None:
    """Gains of 3 · 2 and 2 · 4 for moves of 1 and 2 levels; where the second's slope is 20, of 6 and 80."""
    transform = plain(row_energy=0.25)
    small = Quantizer(transform, [row(2, 2, 2, 2)], [row(3, 3, -3, 0)])
    large = Quantizer(transform, [row(4, 4, 4, 4)], [row(2, 20, -2, 0)])
    found = _Group(transform, [small, large]).cheapest_flips(ball(10))
    near, far = 1 + 2 * BEYOND, 2 + 4 * BEYOND
    assert found.values[0].flatten().tolist() == pytest.approx([6, 80, 6, 0])
    assert found.directions[0].flatten().tolist()[:3] == pytest.approx([4 * near, 4 * far, -4 * near])
    assert found.shares[0].flatten().tolist()[:3] == pytest.approx([4 * near**2, 4 * far**2, 4 * near**2])


@pytest.mark.parametrize(("share", "chosen"), [(0.3, [0, 0, 0, 0]), (0.5, [0, 0, 1, 0]), (1.0, [1, 0, 1, 0])])
def test_many_flips_are_those_that_gain_most_for_their_cost(
    share: float, chosen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their costs are within the share of a squared radius of 10; the last gains most, but costs too much for it."""
    flips = _Flips([row(4, -9, 5, 6)], [row(1, 1, 1, 1)], [row(4, 1, 4, 90)])
    group = SimpleNamespace(cheapest_flips=lambda ball: flips, transform=plain())
    monkeypatch.setattr(Problem, "_groups", [group])
    problem = Problem(ball(10**0.5), [], Units(1, 4, 1, 1, 1))
    assert moved(problem.many_flips(problem.box, share)) == chosen  # type: ignore[arg-type]


def test_flips_gain_for_their_cost_whatever_the_first_quantizers_step_is() -> None:
    """Gains of 2 · 8 and 1.25 · 4 for moves of 4 and 2 levels: the second gains more for the square of its move."""
    transform = plain()
    large = Quantizer(transform, [row(8, 8, 8, 8)], [row(2, 2, 2, 2)])
    small = Quantizer(transform, [row(4, 4, 4, 4)], [row(1.25, 0.75, 0, 1.25)])
    found = _Group(transform, [large, small]).cheapest_flips(ball(10))
    assert found.values[0].flatten().tolist() == pytest.approx([5, 16, 16, 5])


def by_hand(box: Any, *groups: Any) -> Problem:
    """A problem of one unit a sample, with groups made up; their flips, if they have any, are there already."""
    problem = Problem(box, [], SimpleNamespace(best=_largest, sum=lambda a, _: a[0], to_samples=lambda a: a))  # type: ignore[arg-type]
    problem.__dict__["_groups"] = list(groups)
    return problem


def _largest(values: Any) -> Any:
    """`Units.best` of units of one sample: of several transforms those with the largest value."""
    most = torch.stack([stacks[0] for stacks, _ in values]).amax(dim=0)
    return [[stacks[0] == most] for stacks, _ in values]


def test_samples_without_a_flip_stay_and_others_go_as_far_as_all_of_theirs_need() -> None:
    """Flips of two transforms gain 3, 0, −1, 3, 0.5 and 3, 0, −2, 1, 0.5: where they are equal, both count."""
    x = grey(size=(1, 5))
    values, others = row(3, 0, -1, 3, 0.5), row(3, 0, -2, 1, 0.5)
    directions, shares = row(1, 1, 1, -1, -1), row(0.75, 0.25, 0.25, 0.25, 0.125)
    flips = [_Flips([value], [directions], [shares]) for value in (values, others)]
    groups = [SimpleNamespace(single_flips=lambda box, flip=flip: flip, transform=plain()) for flip in flips]
    real = Box.of(x, 8 / 255, rounds=False, whole_bytes=False)
    # Shares of the way to the end add up, to all of it at most.
    assert moved(by_hand(real, *groups).single_flips()) == pytest.approx([8, 0, 0, -2, -2], abs=1e-4)
    whole = Box.of(x, 8 / 255, rounds=True, whole_bytes=True)
    assert moved(by_hand(whole, *groups).single_flips()) == [8, 0, 0, -8, -8]


def test_climbs_are_in_samples_less_the_shift_of_the_first_transform() -> None:
    """An ascent's point is shifted by it, each other transform gets its own shift, and the result has none."""
    seen: list[list[float]] = []

    def group(shift: float, slope: float) -> Any:
        transform = plain()
        transform.shift = shift
        transform.forward = lambda samples: (seen.append(samples.flatten().tolist()), [samples])[1]
        return SimpleNamespace(transform=transform, slope=lambda place, stack, window: torch.full_like(stack, slope))

    box = Box.of(grey(), 2 / 255, rounds=True, whole_bytes=True)
    problem = by_hand(box, group(MIDDLE, 3), group(0, -1), group(28, 5))
    shifted, shift = problem._shifted
    assert shift == MIDDLE
    assert (shifted.least.unique().tolist(), shifted.most.unique().tolist()) == ([-2], [2])
    gradient = problem._gradient(levels(0, 1, -1, 2) - MIDDLE, 0.5)
    assert gradient.flatten().tolist() == [7] * 4
    assert seen == [[0, 1, -1, 2], [128, 129, 127, 130], [100, 101, 99, 102]]
    assert moved(problem.ascend(levels(0, 0, 0, 0))) == [2] * 4
    # The candidate is the start that climbs, brought back.
    assert moved(by_hand(box, group(MIDDLE, 0)).ascend(levels(0, 1, -1, 2))) == [0, 1, -1, 2]


def test_a_balls_candidates_are_flips_for_half_and_twice_its_square_and_a_climb(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Problem, "many_flips", lambda _, box, share: ("flips", box.radius, share))
    monkeypatch.setattr(Problem, "single_flips", lambda _: ("flips",))
    monkeypatch.setattr(Problem, "ascend", lambda _, start: ("climb", start))
    found = list(by_hand(ball(10)).candidates("start"))  # type: ignore[arg-type]
    assert found == [("flips", ball(10).radius, 0.5), ("flips", ball(10).radius, 2.0), ("climb", "start")]
    box = Box.of(grey(), 1 / 255, rounds=True, whole_bytes=False)
    assert list(by_hand(box).candidates("start")) == [("flips",), ("climb", "start")]  # type: ignore[arg-type]


def test_each_step_of_an_ascent_knows_the_last_move(monkeypatch: pytest.MonkeyPatch) -> None:
    lasts: list[float] = []

    def move(point: Tensor, gradient: None, length: float, last: Tensor, inertia: float) -> Tensor:
        assert inertia == 0.25
        lasts.append(float(last[0, 0, 0, 0]))
        return point + len(lasts)

    monkeypatch.setattr(Problem, "_shifted", (SimpleNamespace(moved=move), 0.0))
    monkeypatch.setattr(Problem, "_gradient", lambda _, point, window: None)
    start = levels(0, 0)
    found = Problem(SimpleNamespace(settled=lambda x: x), [], Units(1, 2, 1, 1, 1)).ascend(start)  # type: ignore[arg-type]
    assert lasts == list(range(16))
    assert moved(found) == [sum(range(1, 17))] * 2
    assert moved(start) == [0, 0]


def chosen_flips(gains: list[float], costs: list[float], share: float, radius: float) -> list[float]:
    """The moves of `Problem.many_flips` of so many samples, whose gains and costs are given."""
    ones = torch.ones(1, 1, 1, len(gains))
    flips = _Flips([row(*gains)], [ones], [row(*costs)])
    group = SimpleNamespace(cheapest_flips=lambda ball: flips, transform=plain())
    of_size = Ball.of(grey(size=(1, len(gains))), 1 / 255, rounds=True, whole_bytes=True)
    exact = replace(of_size, radius=radius, least=of_size.least - 9, most=of_size.most + 9)
    return moved(by_hand(exact, group).many_flips(exact, share))


def test_flips_are_chosen_by_price_until_the_next_does_not_fit() -> None:
    """Twelve gains that differ by a tenth, each at the cost of one: of every budget exactly the best ones."""
    gains = [1.1**number for number in range(12)]
    for count in range(13):
        wanted = [0.0] * (12 - count) + [1.0] * count
        assert chosen_flips(gains, [1] * 12, 1.0, (count + 0.5) ** 0.5) == wanted
    # Costs that are exactly the share of the squared radius fit.
    assert chosen_flips([3, 6, 1], [1, 3, 1], 0.25, 4.0) == [1, 1, 0]
    # However small gains are; one that gains nothing is none.
    assert chosen_flips([0.5, 1e-3, 0, -1], [1, 1, 1, 1], 1.0, 4.0) == [1, 1, 0, 0]
    assert chosen_flips([2e-13, 1e-13], [1, 1], 1.0, 1.2) == [1, 0]
    assert chosen_flips([0, 0], [1, 1], 1.0, 4.0) == [0, 0]


def test_of_unlike_passes_the_coarsest_of_each_image_is_searched() -> None:
    """By mean steps: of the first image the second pass, of the second image the first."""
    first, second = (
        SimpleNamespace(steps=lambda means=means: [torch.tensor(means).view(-1, 1, 1, 1)] * 2, transform=None)
        for means in ([1.0, 9.0], [5.0, 2.0])
    )
    slopes = [[torch.ones(2, 1, 2, 2)] * 2] * 2
    found = _quantizers([first, second], slopes)  # type: ignore[list-item]
    assert [[stack.flatten(1).amax(dim=1).tolist() for stack in quantizer.slope] for quantizer in found] == [
        [[0, 1]] * 2,
        [[1, 0]] * 2,
    ]
    for quantizer, codec in zip(found, (first, second), strict=True):
        assert [stack.flatten().tolist() for stack in quantizer.steps] == [
            stack.flatten().tolist() for stack in codec.steps()
        ]
    (alone,) = _quantizers([first], slopes[:1])  # type: ignore[list-item]
    assert bool(alone.slope[0].all())


# --- codecs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer", [fdjpeg.FeatureDistillation("code"), fdjpeg.FeatureDistillation("uniform(30)"), fdjpeg.JPEG(60)]
)
def test_coefficients_of_several_images_decode_to_the_layers_output(layer: Any) -> None:
    x = torch.rand(2, 3, 13, 21, generator=torch.Generator().manual_seed(1))
    codec = codecs_of(layer, x, torch.arange(2), 0, "quality")[-1]
    assert torch.equal(codec.decode(codec.blocks(x), x.dtype), codec(x))


def test_each_call_of_draws_adds_its_number_to_the_purpose() -> None:
    indices = torch.tensor([3, 8])
    draws = DrawsByImage(indices, seed=5, purpose="quality")
    for number in (1, 2):
        assert torch.equal(draws.uniform(), draw(torch.Size(), indices, 5, f"quality {number}"))
    assert float(draws.on_host()[0]) == float(draw(torch.Size(), torch.tensor([0]), 5, "quality 3"))
    assert torch.equal(draws.integers(9), (9 * draw(torch.Size(), indices, 5, "quality 4")).long())


def test_a_lone_image_gets_the_subsampling_that_a_batch_gets() -> None:
    layer = fdjpeg.RandomJPEG((30, 95), subsampling=("4:4:4", "4:2:0"))
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = set()
    for number in range(8):
        (batch,) = codecs_of(layer, x, torch.arange(3), 0, f"quality {number}")
        (alone,) = codecs_of(layer, x[:1], torch.arange(1), 0, f"quality {number}")
        assert alone.subsampling == batch.subsampling
        found.add(alone.subsampling)
    assert found == {"4:4:4", "4:2:0"}


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_a_components_plane_is_its_own(subsampling: tuple[int, int]) -> None:
    transform = Transform.of(Geometry.of(16, 16, 3, *subsampling), False, torch.device("cpu"))
    stacks = transform.forward(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    every = [plane for stack in stacks for plane in stack.unbind(1)]
    assert len(every) == 3
    for component, plane in enumerate(every):
        assert torch.equal(transform.plane_of(stacks, component), plane)
