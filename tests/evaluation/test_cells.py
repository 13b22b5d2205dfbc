"""Cells by themselves: intervals, what an empty one holds, batches joined to one cell, and counts as text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest

from fdjpeg.evaluation import Cell, wilson
from fdjpeg.evaluation.cells import Picture, join, number, rights, total, unbroken, worst_case


@pytest.mark.parametrize("count", [1, 2, 7, 20, 100])
def test_intervals_are_scipys(count: int) -> None:
    for right in range(count + 1):
        interval = binomtest(right, count).proportion_ci(method="wilson")
        assert wilson(right, count) == pytest.approx((interval.low, interval.high), abs=1e-7)


def test_intervals_stay_within_all_and_none() -> None:
    """Where rounding would carry them beyond."""
    assert all(wilson(0, count)[0] >= 0 for count in range(1, 100))
    assert all(wilson(count, count)[1] <= 1 for count in range(1, 100))
    with pytest.raises(ValueError, match=r"^z must be positive and finite, got 0$"):
        wilson(1, 2, 0)


def test_a_new_cell_holds_nothing() -> None:
    empty = {name: [] for name in ("indices", "predicted", "right", "margin", "distance", "zeros", "status")}
    empty |= {name: [] for name in ("changeable", "loss", "pictures")}
    missing = dict.fromkeys(("attack", "gradient", "source", "eps", "differing"))
    zero = dict.fromkeys(("attacked", "undefined", "queries", "seconds"), 0)
    assert vars(Cell("none", "clean")) == {"defense": "none", "threat": "clean", **empty, **missing, **zero}


def part(index: int, **fields: object) -> Cell:
    """A cell of one image whose numbers follow from its place."""
    image = torch.full((3, 8, 8), index, dtype=torch.uint8)
    chosen = {
        "indices": [index],
        "predicted": [index + 1],
        "right": [index / 10],
        "margin": [index / 20],
        "distance": [index / 40],
        "zeros": [index / 80],
        "status": [f"status {index}"],
        "changeable": [index + 2],
        "loss": [index, 2 * index],
        "attacked": 1,
        "undefined": index,
        "differing": 10 * index,
        "queries": 100 * index,
        "seconds": 0.111 * index,
        "pictures": [Picture(index, image, image, image, image, 0)],
        **fields,
    }
    return Cell("none", "white-box", attack="PGD-20", eps="1/255", **chosen)  # type: ignore[arg-type]


def test_batches_are_joined_in_the_order_of_their_images() -> None:
    other = Cell("none", "clean", indices=[7])
    joined, left = join([part(3), part(1), other, part(2)])
    assert left == other
    assert [picture.index for picture in joined.pictures] == [1, 2, 3]
    assert replace(joined, pictures=[]) == Cell(
        "none",
        "white-box",
        attack="PGD-20",
        eps="1/255",
        indices=[1, 2, 3],
        predicted=[2, 3, 4],
        right=[0.1, 0.2, 0.3],
        margin=[0.05, 0.1, 0.15],
        distance=[0.025, 0.05, 0.075],
        zeros=[1 / 80, 2 / 80, 3 / 80],
        status=["status 1", "status 2", "status 3"],
        changeable=[3, 4, 5],
        loss=[6, 12],
        attacked=3,
        undefined=6,
        differing=60,
        queries=600,
        seconds=0.67,
    )


def test_losses_of_batches_add_up_where_they_have_as_many_steps() -> None:
    """Batches without an image under attack have none."""
    idle = part(4, loss=[], attacked=0)
    (joined,) = join([part(1), idle, part(2)])
    assert (joined.loss, joined.attacked, joined.curve) == ([3, 6], 2, [1.5, 3])
    assert join([part(1), part(2, loss=[1, 2, 3])])[0].loss == []
    assert join([idle])[0].loss == []


@pytest.mark.parametrize(
    ("differing", "joined"), [((None, None), None), ((None, 3), 3), ((0, 0), 0), ((0, None), 0), ((2, 3), 5)]
)
def test_samples_that_differ_are_counted_where_there_is_an_oracle(
    differing: tuple[int | None, int | None], joined: int | None
) -> None:
    assert join([part(place, differing=count) for place, count in enumerate(differing)])[0].differing == joined


def test_a_cell_is_read_as_it_was_written() -> None:
    (joined,) = join([part(1), part(2)])
    again = Cell.from_json(joined.to_json())
    for mine, theirs in zip(joined.pictures, again.pictures, strict=True):
        assert (mine.index, mine.bare) == (theirs.index, theirs.bare)
        assert torch.equal(mine.adversarial, theirs.adversarial)
    assert replace(again, pictures=[]) == replace(joined, pictures=[])


def test_counts_are_of_images_right_in_all_cells() -> None:
    clean, attacked = Cell("a", "clean", right=[1, 0.25, 1]), Cell("a", "adaptive", right=[0.75, 1, 0])
    assert rights(clean).dtype == torch.float64
    assert (total(clean), total(attacked), total(attacked, clean)) == (2.25, 1.75, 1.0)
    assert worst_case([clean, attacked]) == 1.0
    assert worst_case([clean]) == 2.25
    assert [number(value) for value in (2.0, 2.25, 0.0, 0.04)] == ["2", "2.2", "0", "0.0"]


def test_a_certificate_breaks_what_it_found_broken() -> None:
    statuses = ["constant", "enumerated", "open", "misclassified", "broken"]
    assert unbroken(Cell("a", "certificate", right=[1, 1, 0, 0, 0], status=statuses)).right == [1, 1, 1, 1, 0]
