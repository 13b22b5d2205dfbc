"""Feature distillation: fine steps for the bands in which images are strongest, coarse steps for the others.

Source: Liu et al., "Feature Distillation: DNN-Oriented JPEG Compression Against Adversarial Examples", CVPR 2019,
arXiv 1803.05787. All published figures are gray-box. ImageNet (CVPR, Table 1), % right on adversarial images: one pass
FGSM 13, BIM 35, DeepFool 63, CW2 86, CW0 61, CWi 78, mean 56; two passes 92, 99, 99, 99, 58, 99, mean 91; clean 69.5 →
68.5. Version 1, 100 correctly classified images: mean 2 → 63 % on CIFAR-10, 4 → 57 % on ImageNet.

Ours: tables derived here run as libjpeg's arithmetic, YCbCr at 4:4:4, one table for all components. The statistics are
those of libjpeg's integer DCT of each RGB channel, so that any order of the images gives the same sums, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg._numbers import values_can_be_read

from .base import LayerDefense, table_of
from .gradients import GRADIENTS, distinct
from .training.config import at_least
from .training.images import Images
from .training.run import Run


class FeatureDistillation(LayerDefense):
    """The layer, with a published table or a derived one.

    Args:
        preset: "paper", "code" or "uniform(step)", see `fdjpeg.FeatureDistillation`; None where ``steps`` are given.
        steps: ``(8, 8)``, steps 1…255, row-major; None where a preset is.
        passes: 1 or 2. With 2, ``first`` puts images on the table's lattice before an attacker sees them. If a
            perturbation then moves every coefficient by less than half a step, the pass before the network restores
            the image.

    Raises:
        ValueError: neither or both of preset and steps; an unknown preset; steps of another shape or range; other
            passes.

    Example::

        defense = fdjpeg.defenses.FeatureDistillation("uniform(30)", passes=2)
        logits = defense.deployed(classifier)(defense.entered(images))
    """

    kind = "feature-distillation"
    gradients = distinct(GRADIENTS, "4:4:4")

    steps: Tensor

    def __init__(
        self, preset: str | None = None, steps: Tensor | list[list[int]] | None = None, passes: int = 1
    ) -> None:
        super().__init__()
        if (preset is None) == (steps is None):
            raise ValueError(f"either preset or steps must be given, got preset={preset!r}, steps={steps!r}")
        check_passes(passes)
        self.preset = preset
        self.passes = passes
        if steps is None:
            steps = fdjpeg.FeatureDistillation(str(preset)).steps
        steps = table_of("steps", steps)
        if values_can_be_read(steps) and not bool(((steps >= 1) & (steps <= 255) & (steps == steps.round())).all()):
            raise ValueError(f"steps must be whole, 1…255, got {steps.tolist()}")
        self.register_buffer("steps", steps.to(torch.int64))

    @property
    def tables(self) -> QuantTables:
        """The table, for any encoder."""
        return QuantTables(self.steps, self.steps)

    def codec(self) -> nn.Module:
        """See `LayerDefense.codec`: one pass, the one before the network."""
        if self.preset == "code":
            return fdjpeg.FeatureDistillation("code", gradient=self.surrogate)
        return fdjpeg.JPEG(tables=self.tables, subsampling="4:4:4", gradient=self.surrogate)

    @property
    def first(self) -> Callable[[Tensor], Tensor] | None:
        """The first of two passes, without a gradient; None where there is one."""
        return None if self.passes == 1 else self._first_pass

    def _first_pass(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            placed: Tensor = self(images)
        return placed

    def config(self) -> dict[str, Any]:
        """See `Defense.config`."""
        steps = self.steps.tolist() if self.preset is None else None
        return {"preset": self.preset, "steps": steps, "passes": self.passes}


def check_passes(passes: int) -> None:
    """Refuses numbers of passes other than 1 and 2.

    Raises:
        ValueError: naming the argument and its value.
    """
    if passes not in (1, 2):
        raise ValueError(f"passes must be 1 or 2, got {passes!r}")


@dataclass
class BandStatistics:
    """Sums over the DCT coefficients of each band, of all images and channels: integers, exact in any order.

    Attributes:
        count: blocks.
        total: ``(8, 8)`` int64, the sum of the coefficients, row-major ``[vertical, horizontal frequency]``.
        squares: ``(8, 8)`` int64, the sum of their squares.
    """

    count: int
    total: Tensor
    squares: Tensor

    @classmethod
    def none(cls) -> BandStatistics:
        """Returns the statistics of no image, to add to."""
        return cls(
            0, torch.zeros(8, 8, dtype=torch.int64, device="cpu"), torch.zeros(8, 8, dtype=torch.int64, device="cpu")
        )

    def add(self, images: Tensor) -> None:
        """Adds images ``(N, C, H, W)``, uint8 or floats in [0, 1]; edges are replicated to whole blocks."""
        channels = images.flatten(0, 1)[:, None]
        ones = QuantTables.flat(1)
        blocks = fdjpeg.encode(channels, tables=ones).y.flatten(0, 2).to(torch.int64)
        self.count += len(blocks)
        self.total += blocks.sum(dim=0).cpu()
        self.squares += blocks.square().sum(dim=0).cpu()

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of each band, ``(8, 8)`` float64, in units of samples in 0…255.

        Raises:
            ValueError: there was no image.
        """
        if self.count == 0:
            raise ValueError("data must hold at least one image, got none")
        mean = self.total.double() / self.count
        return (self.squares.double() / self.count - mean.square()).clamp_min(0).sqrt()


def derive(
    statistics: BandStatistics, n: int = 15, fine: float = 1, coarse: float = 40, passes: int = 1
) -> FeatureDistillation:
    """Returns the defence with the table that follows from statistics.

    The ``n`` bands of the largest standard deviation get the step ``fine``, all others ``coarse``.

    Args:
        statistics: of at least one image.
        n: 0…64.
        fine, coarse: steps, 1…255.
        passes: 1 or 2.

    Raises:
        ValueError, TypeError: as `QuantTables.feature_distillation`, and for no image.

    Example::

        statistics = BandStatistics.none()
        statistics.add(images)
        defense = derive(statistics)
    """
    table = QuantTables.feature_distillation(statistics.deviation, n, fine, coarse)
    return FeatureDistillation(steps=table.luma, passes=passes)


@dataclass(frozen=True)
class Config:
    """Settings of ``fdjpeg train feature-distillation``; n, fine and coarse are the paper's.

    Attributes:
        n: number of bands with the fine step.
        fine, coarse: the steps. To undo a perturbation of b bytes, coarse must exceed 16 b.
        passes: 1 or 2.
        batch_size: number of images analysed at once.
    """

    n: int = 15
    fine: int = 1
    coarse: int = 40
    passes: int = 1
    batch_size: int = 256

    def __post_init__(self) -> None:
        at_least(1, fine=self.fine, coarse=self.coarse, batch_size=self.batch_size)
        for name, step in (("fine", self.fine), ("coarse", self.coarse)):
            if step > 255:
                raise ValueError(f"{name} must be at most 255, got {step}")
        if not 0 <= self.n <= 64:
            raise ValueError(f"n must be in 0…64, got {self.n}")
        check_passes(self.passes)


def train(run: Run, images: Images, classifier: None, config: Config) -> FeatureDistillation:
    """Derives the table from all images."""
    statistics = BandStatistics.none()
    for _, pixels, _ in run.mine(images, config.batch_size):
        statistics.add(pixels)
    (count,) = run.total(torch.tensor([statistics.count], device="cpu")).tolist()
    of_all = BandStatistics(count, run.total(statistics.total), run.total(statistics.squares))
    return derive(of_all, config.n, config.fine, config.coarse, config.passes)
