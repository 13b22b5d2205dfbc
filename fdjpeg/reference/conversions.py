"""Samples as bytes and as floats, and their layout in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def real_dtype(image: Tensor) -> torch.dtype:
    """Returns the dtype of computations in real numbers: float64 for a float64 image, else float32."""
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def to_bytes(image: Tensor) -> Tensor:
    """Returns the bytes of an image, int32: ``rint(255 x)``, saturating, NaN as 0; those of a uint8 image unchanged."""
    if image.dtype == torch.uint8:
        return image.to(torch.int32)
    scaled = 255 * image.to(real_dtype(image))
    return scaled.nan_to_num(nan=0.0).round().clamp(0, 255).to(torch.int32)


def from_bytes(samples: Tensor, dtype: torch.dtype) -> Tensor:
    """Inverts `to_bytes`: ``byte / 255`` correctly rounded in float32 (float64 for float64), then ``dtype``."""
    if dtype == torch.uint8:
        return samples.to(torch.uint8)
    samples = samples.to(torch.float64 if dtype == torch.float64 else torch.float32)
    # By a tensor, because a GPU divides by a number by multiplying with its rounded reciprocal.
    return (samples / torch.full_like(samples, 255)).to(dtype)


def laid_out_like(image: Tensor, samples: Tensor) -> Tensor:
    """Returns the same samples in the order in memory that ``torch.empty_like(image)`` has."""
    return torch.zeros_like(image, dtype=samples.dtype) + samples  # a sum takes its first term's order
