"""The tables of ITU-T T.81, Annex K, and what libjpeg's quality makes of them (``jpeg_quality_scaling``)."""

from __future__ import annotations

import torch
from torch import Tensor

from fdjpeg._constants import constant

#: The luminance table of ITU-T T.81, Table K.1, row-major: ``[vertical frequency][horizontal frequency]``.
STANDARD_LUMA: tuple[tuple[int, ...], ...] = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)

#: The chrominance table of ITU-T T.81, Table K.2, row-major: ``[vertical frequency][horizontal frequency]``.
STANDARD_CHROMA: tuple[tuple[int, ...], ...] = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)

#: The steps that a baseline JPEG file can hold, both ends included.
SMALLEST_STEP, LARGEST_STEP = 1, 255


def percentage(quality: float) -> float:
    """Returns libjpeg's percentage for a quality, before its floor; a number out of 1…100 acts as the nearer end.

    NaN acts as 1.
    """
    bounded = min(quality, 100.0) if quality > 1 else 1.0
    return 5000 / bounded if bounded < 50 else 200 - 2 * bounded


def _percentages(quality: Tensor) -> Tensor:
    """Returns the same for each quality in 1…100, float64."""
    # One correctly rounded float64 division. 5000 / tensor would multiply by a rounded reciprocal, and compiled float32
    # divisions may be approximate: either moves the floor.
    below = torch.div(torch.full_like(quality, 5000), quality)
    return torch.where(quality < 50, below, 200 - 2 * quality)


def _scaled_tables(percentages: Tensor) -> Tensor:
    """Multiplies the two base tables, luma first, by each of ``(...)`` percentages: ``(..., 2, 8, 8)``, not divided."""
    base = constant((STANDARD_LUMA, STANDARD_CHROMA), torch.int64, percentages)
    return base * percentages.reshape(*percentages.shape, 1, 1, 1)


def libjpeg_steps(quality: Tensor) -> Tensor:
    """Returns the steps of libjpeg, int64 ``(..., 2, 8, 8)``, at ``quality``, float64 ``(...)`` in 1…100."""
    scaled = _scaled_tables(_percentages(quality).floor().to(torch.int64))
    return torch.div(scaled + 50, 100, rounding_mode="floor").clamp(SMALLEST_STEP, LARGEST_STEP)


def _real_steps(quality: Tensor) -> Tensor:
    """Returns the same without floors and bounds, float64: base · s / 100."""
    return _scaled_tables(_percentages(quality) / 100)


def soft_steps(quality: Tensor) -> Tensor:
    """Returns real steps of at least 1, float64 ``(..., 2, 8, 8)``, at any ``quality`` ``(...)``."""
    return _real_steps(clamped_quality(quality)).clamp(min=SMALLEST_STEP)


def straight_through_steps(quality: Tensor) -> Tensor:
    """Returns the steps of libjpeg with the derivative of the real ones, float64, at any ``quality``."""
    clamped = clamped_quality(quality.detach())
    # Of the value of `quality`, only the derivative is wanted: it adds 0 to the clamped one.
    finite = torch.where(quality.isfinite(), quality, 0).double()
    real = _real_steps(clamped + (finite - finite.detach()))
    return libjpeg_steps(clamped) + (real - real.detach())


def clamped_quality(quality: Tensor) -> Tensor:
    """Returns ``quality`` in float64, clamped to 1…100, NaN as 1."""
    return torch.where(quality.isnan(), 1, quality.double()).clamp(1, 100)
