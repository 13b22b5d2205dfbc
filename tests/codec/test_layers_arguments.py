"""The arguments of layers: documented defaults, the numbers at both ends of a range, tables that are shared."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

import fdjpeg
from fdjpeg import JPEG, Coefficients, FeatureDistillation, LearnableJPEG, QuantTables, StochasticJPEG

IMAGE = torch.rand(2, 3, 9, 17, generator=torch.Generator().manual_seed(5))


def test_documented_defaults() -> None:
    assert repr(JPEG()) == repr(JPEG(75, subsampling="4:2:0", upsampling="fancy", arithmetic="libjpeg", soft=False))
    assert torch.equal(JPEG()(IMAGE), fdjpeg.jpeg(IMAGE, 75, subsampling="4:2:0", upsampling="fancy"))
    assert StochasticJPEG().qualities == (20, 40, 60, 80)
    layer = FeatureDistillation()
    assert (layer.preset, layer.passes, layer.gradient) == ("paper", 1, fdjpeg.surrogates.StraightThrough())
    learnable = LearnableJPEG(QuantTables.flat(9))
    assert (learnable.share, learnable.subsampling, learnable.upsampling) == ("chroma", "4:2:0", "fancy")
    assert (learnable.arithmetic, learnable.soft) == ("libjpeg", False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StochasticJPEG((0, 50)), "qualities must be one or more integers in 1…100, got (0, 50)"),
        (lambda: StochasticJPEG((50, 101)), "qualities must be one or more integers in 1…100, got (50, 101)"),
        (lambda: StochasticJPEG(()), "qualities must be one or more integers in 1…100, got ()"),
        (lambda: FeatureDistillation("uniform(0)"), "preset's step must be in 1…255, got 'uniform(0)'"),
        (lambda: FeatureDistillation("uniform(256)"), "preset's step must be in 1…255, got 'uniform(256)'"),
        (lambda: FeatureDistillation("paper", 0), "passes must be an integer of at least 1, got 0"),
        (lambda: FeatureDistillation("paper", 1.5), "passes must be an integer of at least 1, got 1.5"),
        (lambda: JPEG(0.99), "quality must be in 1…100, got 0.99"),
        (lambda: JPEG(100.5), "quality must be in 1…100, got 100.5"),
        (lambda: JPEG(74, tables=QuantTables.flat(9)), "tables take the place of quality: give one of them, got both"),
        (lambda: JPEG(torch.ones(2, 2)), "quality must be a number, or a tensor of shape (), (N,) or (N,"),
        (lambda: LearnableJPEG(QuantTables.flat(256)), "tables.y[0, 0] must be in 1…255, got 256"),
        (lambda: JPEG(soft=True), "soft=True needs arithmetic='real', got 'libjpeg'"),
    ],
    ids=range(13),
)
def test_numbers_beyond_a_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make()


def test_numbers_at_the_ends_of_a_range_are_taken() -> None:
    assert StochasticJPEG([100, 1]).qualities == (100, 1)
    for quality in (1, 100, np.float32(99.5), torch.ones(()), torch.ones(2), torch.ones(1, 2, 3)):
        assert JPEG(quality)(IMAGE).shape == IMAGE.shape
    for step in (1, 255):
        assert FeatureDistillation(f"uniform({step})").steps.unique().tolist() == [step]
        assert LearnableJPEG(QuantTables.flat(step)).tables == QuantTables.flat(step)
    assert type(FeatureDistillation("paper", np.int64(2)).passes) is int


def test_presets_have_the_tables_of_the_papers() -> None:
    """The band i + j ≤ 4 of 15 fine steps (arXiv 1803.05787v1), and the released code's 4 × 4 steps of 25."""
    frequency = torch.arange(8)
    paper = torch.where(frequency[:, None] + frequency <= 4, 1.0, 40.0)
    code = torch.where((frequency[:, None] < 4) & (frequency < 4), 25.0, 30.0)
    assert torch.equal(FeatureDistillation("paper").steps, paper)
    assert torch.equal(FeatureDistillation("code").steps, code)
    assert FeatureDistillation("code").steps.dtype == torch.float32


@pytest.mark.parametrize(("share", "acting"), [("all", (1, 1, 1)), ("chroma", (1, 2, 2)), ("none", (1, 2, 3))])
def test_components_share_tables_as_they_are_told(share: str, acting: tuple[int, int, int]) -> None:
    layer = LearnableJPEG(QuantTables(*(torch.full((8, 8), step) for step in (1, 2, 3))), share=share)
    assert len(list(layer.parameters())) == max(acting)
    tables = layer.tables
    assert tuple(int(table[0, 0]) for table in (tables.y, tables.cb, tables.cr)) == acting


def test_coefficients_are_equal_only_to_themselves_and_have_pythons_sizes() -> None:
    made, again = (fdjpeg.encode(IMAGE, 50) for _ in range(2))
    assert made == made
    assert made != again
    assert len({made, again}) == 2
    sized = Coefficients(made.y, made.cb, made.cr, made.tables, (np.int64(9), np.int32(17)), "4:2:0")  # type: ignore[arg-type]
    assert [type(side) for side in sized.size] == [int, int]
    assert sized.size == (9, 17)
