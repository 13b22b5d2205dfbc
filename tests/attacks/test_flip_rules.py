"""The rules of Flip's inner problem and of whole bytes, on numbers made by hand."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fdjpeg.attacks import on_byte_grid, to_byte_grid
from fdjpeg.attacks.candidates import Problem, Quantizer, _to_tie
from fdjpeg.attacks.choice import NEGLIGIBLE, _priced, searched
from fdjpeg.attacks.reachable import Ball, Box
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
    for part in (Quantizer(None, [], []), Problem(ball(1), [], units), units, ball(1)):  # type: ignore[arg-type]
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
    # Of L2 the nearest bytes if they are within the radius, else those towards the image.
    point = levels(2.6, -1.6, 0.4, 0.0).double() / 255
    assert moved((to_byte_grid(point, grey(), 3.7 / 255, "l2") * 255).round()) == [3, -2, 0, 0]  # √13 = 3.606
    assert moved((to_byte_grid(point, grey(), 3.6 / 255, "l2") * 255).round()) == [2, -1, 0, 0]
