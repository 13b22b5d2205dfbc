"""Where learning starts, what it takes for images, how closely it meets its budget, and who judges its result."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg.learning import measure
from fdjpeg.learning import tables as learning

_DRAWN = torch.Generator().manual_seed(4)
IMAGES = torch.randint(256, (3, 3, 16, 16), generator=_DRAWN, dtype=torch.uint8)
BUDGET = fdjpeg.bits(fdjpeg.encode(IMAGES, tables=QuantTables.flat(40))).double()


def learned(images: Tensor = IMAGES, budget: Tensor = BUDGET, **given: Any) -> QuantTables:
    return learning.learn_tables(images, budget, **{"iterations": 1, "learning_rate": 1e-9, **given})


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the search for DC steps, which takes most of the time."""
    monkeypatch.setattr(learning, "_with_best_dc", lambda layer, cost: layer.tables)


@pytest.mark.usefixtures("unjudged")
@pytest.mark.parametrize(("subsampling", "samples"), [("4:4:4", 1), ("4:2:2", 2), ("4:2:0", 4)])
def test_the_first_tables_are_flat_with_finer_chroma_the_fewer_its_samples(subsampling: str, samples: int) -> None:
    """An error in a sample of chroma reaches as many pixels as it covers: its square weighs as much more."""
    found = learned(subsampling=subsampling)
    luma, chroma = (table.unique().tolist() for table in (found.y, found.cb))
    assert torch.equal(found.cb, found.cr)
    assert len(luma) == len(chroma) == 1
    assert luma[0] > 20
    assert chroma[0] == pytest.approx(luma[0] / samples**0.5, abs=1)


def test_images_may_leave_their_range_by_less_than_half_a_byte() -> None:
    budget = BUDGET[:1]
    for value in (-0.499 / 255, 1 + 0.499 / 255):
        image = torch.full((1, 3, 16, 16), 0.5)
        image[0, 1, 2, 3] = value
        learned(image, budget)
    beyond = ((-0.501 / 255, "-0.001964706 to 0.5"), (1 + 0.501 / 255, "0.5 to 1.00196469"), (1.5, "0.5 to 1.5"))
    for value, got in beyond:
        image[0, 1, 2, 3] = value
        with pytest.raises(ValueError, match=rf"images must be in \[0, 1\], got values from {got}$"):
            learned(image, budget)


def test_images_of_float64_may_not_leave_their_range_by_half_a_byte_exactly() -> None:
    for value in (-0.5 / 255, 1 + 0.5 / 255):
        image = torch.full((1, 3, 16, 16), 0.5, dtype=torch.float64)
        image[0, 1, 2, 3] = value
        with pytest.raises(ValueError, match=r"^images must be in \[0, 1\], got values from"):
            learned(image, BUDGET[:1])


@pytest.mark.usefixtures("unjudged")
def test_each_step_follows_the_gradient_of_its_own_minibatch(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[float] = []
    step = torch.optim.Adam.step

    def noted(optimizer: torch.optim.Adam, *given: Any) -> Any:
        steps = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
        lengths.append(math.sqrt(sum(float(grad.square().sum()) for grad in steps)))
        return step(optimizer, *given)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    learned(iterations=4)
    # Tables and minibatch are the same in each, so that only the multiplier differs, which meets the budget already.
    assert max(lengths) < 1.2 * min(lengths)


@pytest.mark.usefixtures("unjudged")
def test_the_layer_that_learns_has_the_subsampling_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Noting(fdjpeg.LearnableJPEG):
        def forward(self, image: Tensor) -> Tensor:
            made.append(self.subsampling)
            return super().forward(image)

    monkeypatch.setattr(learning, "LearnableJPEG", Noting)
    for subsampling in ("4:4:4", "4:2:0"):
        learned(subsampling=subsampling)
    assert made == ["4:4:4", "4:2:0"]


@pytest.mark.usefixtures("unjudged")
def test_the_first_tables_have_float32s_digits_under_every_default_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[QuantTables] = []
    fitted = learning._fitted
    monkeypatch.setattr(learning, "_fitted", lambda tables, *rest: (given.append(tables), fitted(tables, *rest))[1])
    torch.set_default_dtype(torch.bfloat16)
    try:
        learned(subsampling="4:2:2")
    finally:
        torch.set_default_dtype(torch.float32)
    assert given[0].cb.flatten().tolist() == pytest.approx([0.5**0.5] * 64, rel=1e-7)


def test_a_budget_that_is_far_from_the_start_is_met_within_half_a_percent() -> None:
    """From a step of 1, which takes some 20 times the bits: each correction leaves at most 0.3 of the error."""
    coarse = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1)
    for start, wanted in ((1.0, 60.0), (200.0, 10.0)):
        budget = fdjpeg.bits(fdjpeg.encode(smooth, tables=QuantTables.flat(wanted))).double()
        fitted = learning._fitted(QuantTables.flat(start), smooth, budget, "4:2:0")
        taken = float(fdjpeg.bits(fdjpeg.encode(smooth, tables=fitted)).sum())
        assert taken == pytest.approx(float(budget.sum()), rel=0.005)


@pytest.mark.parametrize(("start", "wanted"), [(1.0, 200.0), (1.0, 120.0), (255.0, 40.0)])
def test_noise_meets_its_budget_although_its_bits_fall_faster(start: float, wanted: float) -> None:
    """Corrections by the power that suits photographs would swing between steps of 115 and 255."""
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    budget = fdjpeg.bits(fdjpeg.encode(noise, tables=QuantTables.flat(wanted))).double()
    fitted = learning._fitted(QuantTables.flat(start), noise, budget, "4:2:0")
    taken = float(fdjpeg.bits(fdjpeg.encode(noise, tables=fitted)).sum())
    assert taken == pytest.approx(float(budget.sum()), rel=0.05)


def test_the_images_of_sixteen_minibatches_judge_the_dc_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    judges: list[Tensor] = []

    def kept(layer: fdjpeg.LearnableJPEG, cost: Any) -> QuantTables:
        judges.extend(images for images, _ in cost.args[0])
        return layer.tables

    monkeypatch.setattr(learning, "_with_best_dc", kept)
    images = torch.arange(35, dtype=torch.uint8)[:, None, None, None].expand(35, 1, 8, 8)
    learned(images, torch.full((35,), 10.0), batch_size=2)
    assert [len(part) for part in judges] == [2] * 16
    assert len(torch.cat(judges)[:, 0, 0, 0].unique()) == 32
    judges.clear()
    learned(images[:3], torch.full((3,), 10.0), batch_size=2)
    assert [len(part) for part in judges] == [2, 1]


def test_images_as_long_as_a_file_may_be_are_measured() -> None:
    found = measure(torch.zeros(1, 1, 65500, 1, dtype=torch.uint8), QuantTables.flat(9))
    assert found.ms_ssim is None
    # 8188 blocks of one grey: the first has a difference, each other 2 bits for no difference, and all 4 for EOB.
    assert int(found.bits) == pytest.approx(6 * 8188, abs=16)
    with pytest.raises(ValueError, match=r"1 or 3 channels and 1…65500 rows and columns, got shape \(1, 1, 1, 65501\)"):
        measure(torch.zeros(1, 1, 1, 65501, dtype=torch.uint8), QuantTables.flat(9))


# ---------------------------------------------------------------------------------------------------------------------
# Minibatches and steps


def batches(images: Tensor, seed: int = 0, **given: Any) -> list[list[int]]:
    """Returns the images of each minibatch, told by their first sample."""
    seen: list[list[int]] = []

    def loss(decoded: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
        seen.append((255 * original[:, 0, 0, 0]).round().int().tolist())
        return (decoded - original).square().flatten(1).mean(1)

    learned(images, torch.full((len(images),), 30.0), loss=loss, seed=seed, **given)
    return seen


def numbered(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 8, 8)


@pytest.mark.usefixtures("unjudged")
def test_images_are_drawn_without_repetition_until_all_have_been_seen() -> None:
    parts = batches(numbered(6), iterations=6, batch_size=2)
    assert [sorted(chain(*parts[start : start + 3])) for start in (0, 3)] == [list(range(6))] * 2
    assert parts[:3] != parts[3:]
    few = batches(numbered(5), iterations=3, batch_size=2)  # what is left is too small a minibatch
    assert [len(part) for part in few] == [2, 2, 2]
    assert len(set(few[0] + few[1])) == 4
    assert [len(part) for part in batches(numbered(70))] == [64]


@pytest.mark.usefixtures("unjudged")
def test_draws_are_of_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = batches(numbered(8), 5, iterations=2, batch_size=4)
    torch.manual_seed(2)
    assert batches(numbered(8), 5, iterations=2, batch_size=4) == first
    assert batches(numbered(8), 6, iterations=2, batch_size=4) != first


@pytest.mark.usefixtures("unjudged")
def test_the_default_dtype_does_not_reach_what_is_learned() -> None:
    given: dict[str, Any] = {"iterations": 3, "learning_rate": 0.05, "batch_size": 2, "subsampling": "4:2:2"}
    expected = learned(**given)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)
        assert learned(**given) == expected
    finally:
        torch.set_default_dtype(before)


@pytest.mark.usefixtures("unjudged")
def test_the_learning_rate_falls_to_nothing_like_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def noted(optimizer: torch.optim.Adam, *arguments: Any) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    learned(iterations=4, learning_rate=0.08)
    assert rates == pytest.approx([0.04 * (1 + math.cos(math.pi * done / 4)) for done in range(4)])


@pytest.mark.usefixtures("unjudged")
def test_images_of_inference_mode_are_learned_from() -> None:
    with torch.inference_mode():
        images = IMAGES.clone()
    assert images.is_inference()
    assert learned(images, loss="ms-ssim") == learned(loss="ms-ssim")


def test_the_budget_is_that_of_the_subsampling() -> None:
    smooth = torch.nn.functional.interpolate(IMAGES.float() / 255, size=(64, 64), mode="bilinear")
    for subsampling in ("4:4:4", "4:1:1"):
        budget = fdjpeg.bits(fdjpeg.encode(smooth, tables=QuantTables.flat(12), subsampling=subsampling)).double()
        fitted = learning._fitted(QuantTables.flat(30), smooth, budget, subsampling)
        taken = float(fdjpeg.bits(fdjpeg.encode(smooth, tables=fitted, subsampling=subsampling)).sum())
        assert taken == pytest.approx(float(budget.sum()), rel=0.01)


def test_tables_with_the_smallest_steps_stay_if_they_meet_the_budget() -> None:
    tables = QuantTables(torch.ones(8, 8), torch.full((8, 8), 40.0))
    budget = fdjpeg.bits(fdjpeg.encode(IMAGES, tables=tables)).double()
    assert learning._fitted(tables, IMAGES, budget, "4:2:0") == tables
