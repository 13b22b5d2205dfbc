"""The rules of learning and of comparing curves, asserted where a final result would hide that one is broken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fdjpeg
from fdjpeg import LearnableJPEG, QuantTables
from fdjpeg.learning import tables as learning
from fdjpeg.learning.rate_distortion import bits_ratio


def multipliers(monkeypatch: pytest.MonkeyPatch, share_of_budget: float) -> list[float]:
    """Returns the λ of each minibatch where all take ``share_of_budget`` of their bits."""
    images = torch.randint(256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    budget = torch.full((4,), 900.0)
    found: list[float] = []
    estimated = learning.rate

    def of_this_share(*arguments: Any, **settings: Any) -> Tensor:
        bits = estimated(*arguments, **settings)
        bits = share_of_budget * 900 + (bits - bits.detach())
        bits.register_hook(lambda gradient: found.append(float(gradient.sum())))  # of loss + λ · mean: λ in all
        return bits

    monkeypatch.setattr(learning, "rate", of_this_share)
    learning.learn_tables(images, budget, "psnr", iterations=4, batch_size=2)
    return found[1:]  # the first is that of the balance, which fixes λ at the start


def test_sharing_and_subsampling_hold_from_the_first_step_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seen: set[str | None] = set()
    estimated = learning.rate
    monkeypatch.setattr(learning, "rate", lambda *a, **k: seen.add(k.get("subsampling")) or estimated(*a, **k))
    start = QuantTables(*(torch.full((8, 8), step) for step in (10.0, 12.0, 40.0)))
    settings: dict[str, Any] = {"start": start, "subsampling": "4:4:4", "iterations": 1, "batch_size": 2}
    apart = learning.learn_tables(images, torch.full((4,), 900.0), share="none", **settings)
    assert seen == {"4:4:4"}
    assert not torch.equal(apart.cb, apart.cr)


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0, 1.1, 2.0])
def test_lambda_rises_over_the_budget_and_falls_under_it(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    first, *rest = multipliers(monkeypatch, share)
    assert len(rest) == 3
    for step, value in enumerate(rest, 1):
        assert value == pytest.approx(first * share ** (0.1 * step), rel=1e-4)
    assert (rest[-1] > first) == (share > 1) or share == 1


def test_a_curve_that_falls_counts_as_its_highest_so_far_on_both_sides_of_the_fall() -> None:
    ones = torch.ones(4, dtype=torch.float64)
    curve_bits = torch.stack([100 * ones, 200 * ones, 400 * ones, 800 * ones])
    curve_kept = torch.stack([0.2 * ones, 0.6 * ones, 0.5 * ones, 0.9 * ones])

    def ratio(level: float) -> float:
        return bits_ratio(100 * ones, level * ones, curve_bits, curve_kept).value

    # Below the top before the fall: between the first two points.
    assert ratio(0.55) == pytest.approx(100 / (100 * 2 ** (0.35 / 0.4)))
    # Above it: the curve goes on from that top at 400 bits, and not from the point that had fallen.
    assert ratio(0.7) == pytest.approx(100 / (400 * 2 ** (0.1 / 0.3)))
    assert ratio(0.61) == pytest.approx(100 / (400 * 2 ** (0.01 / 0.3)))


def test_the_interval_of_a_ratio_is_that_of_95_per_cent_of_resamples() -> None:
    """The mean of 400 images of which half need 50 bits, and half 150: a deviation of 2.5 of 100."""
    bits = torch.tensor([50.0, 150.0]).repeat(200)
    curve_bits = torch.tensor([100.0, 200.0])[:, None].expand(2, 400)
    kept = torch.ones(400)
    found = bits_ratio(bits, kept, curve_bits, torch.stack([kept, 2 * kept]))
    assert found.value == pytest.approx(1)
    assert [found.low, found.high] == pytest.approx([1 - 1.96 * 0.025, 1 + 1.96 * 0.025], abs=0.2 * 0.025)


def test_rounding_of_means_decides_nothing() -> None:
    """Tables that are a curve's own need as many bits: also at its first point, and at one before a fall."""
    generator = torch.Generator().manual_seed(0)
    bits, kept = torch.rand(2, 100, generator=generator, dtype=torch.float64) + 1
    curve_bits = bits * torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    curve_kept = kept + torch.tensor([[0.0], [2.0], [1.0], [3.0]])
    for point in (0, 1, 3):
        found = bits_ratio(curve_bits[point], curve_kept[point], curve_bits, curve_kept, resamples=200)
        assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))
    # Of two points that are almost one level, neither is gone beyond.
    near = torch.tensor([[1 - 1.001e-9], [1 - 0.999e-9]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    assert bits_ratio(200 * one, one, torch.tensor([[100.0], [200.0]]), near).value == pytest.approx(1)


def test_an_interval_is_of_resamples_alone() -> None:
    bits = torch.rand(20, generator=torch.Generator().manual_seed(0)) + 1
    found = bits_ratio(
        bits, torch.ones(20), torch.full((2, 20), 1.5), torch.tensor([[1.0], [2.0]]).expand(2, 20), resamples=1
    )
    assert found.low == found.high != found.value


def test_the_judges_of_a_result_are_drawn_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    judged: list[Tensor] = []

    def kept(layer: LearnableJPEG, cost: Any) -> QuantTables:
        judged.append(torch.cat([part for part, _ in cost.args[0]]))
        return layer.tables

    monkeypatch.setattr(learning, "_JUDGES", 1)
    monkeypatch.setattr(learning, "_with_best_dc", kept)
    start, calls = QuantTables.standard(50), list[tuple[int, int]]()
    for seed in (0, 1):
        torch.manual_seed(seed)
        learning.learn_tables(
            images,
            torch.full((6,), 0.5),  # bits: any number above 0
            start=start,
            iterations=2,
            batch_size=2,
            progress=lambda *call: calls.append(call),
        )
    assert judged[0].shape == (2, 3, 16, 16)
    assert torch.equal(*judged)
    assert calls == [(1, 2), (2, 2)] * 2


def test_the_objective_is_of_the_tables_in_question() -> None:
    images = torch.randint(256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    tables = QuantTables.flat(9)
    expected = 0.0
    for image in images.split(1):
        decoded = fdjpeg.jpeg(image / 255, tables=tables, subsampling="4:4:4")
        taken = int(fdjpeg.bits(fdjpeg.encode(image, tables=tables, subsampling="4:4:4")))
        expected += float(((decoded - image / 255).square() * (1 + decoded)).mean()) + 2e-6 * taken

    def loss(decoded: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
        return ((decoded - original).square() * (1 + decoded)).flatten(1).mean(dim=1)

    parts: list[tuple[Tensor, Tensor | None]] = [(images[:2], None), (images[2:], None)]
    assert learning._cost(parts, loss, 2e-6, "4:4:4", tables) == pytest.approx(expected, rel=1e-5)


def test_tables_are_multiplied_until_images_take_their_budget() -> None:
    images = torch.randint(256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    tables = QuantTables(*(torch.full((8, 8), step) for step in (255.0, 90.0, 90.0)))
    taken = fdjpeg.bits(fdjpeg.encode(images, tables=tables)).double()
    # Those that meet it stay as they are, also where steps are the largest.
    assert learning._fitted(tables, images, taken, "4:2:0").y[0, 0] == 255
    assert torch.equal(learning._fitted(tables, images, taken, "4:2:0").cb, torch.full((8, 8), 90))
    fine = fdjpeg.bits(fdjpeg.encode(images, tables=QuantTables.flat(12))).double()
    fitted = learning._fitted(QuantTables.flat(40), images, fine, "4:2:0")
    assert int(fdjpeg.bits(fdjpeg.encode(images, tables=fitted)).sum()) == pytest.approx(float(fine.sum()), rel=0.02)
    # Whatever the budget, steps are 1 … 255.
    for budget, step in ((1e9, 1), (1.0, 255)):
        limit = learning._fitted(tables, images, torch.full((4,), budget), "4:2:0")
        assert torch.equal(limit.cb, torch.full((8, 8), step))


@pytest.mark.parametrize(("wanted", "found"), [(14, 14), (30, 15), (1, 7)])
def test_the_dc_step_is_the_cheapest_from_two_thirds_to_one_and_a_half(wanted: int, found: int) -> None:
    start = QuantTables(*(torch.full((8, 8), step) for step in (10.0, 7.0, 7.0)))
    tried: list[int] = []

    def cost(tables: QuantTables) -> float:
        tried.append(int(tables.y[0, 0]))
        return abs(int(tables.y[0, 0]) - wanted) + abs(int(tables.cb[0, 0]) - 6)

    tables = learning._with_best_dc(LearnableJPEG(start), cost)
    assert tried[:10] == [10, *range(7, 16)]
    assert set(tried[10:]) == {found}  # only the other table's step changes then
    assert (int(tables.y[0, 0]), int(tables.cb[0, 0])) == (found, 6)
    assert int(tables.y[0, 1]) == 10  # no other step changes
