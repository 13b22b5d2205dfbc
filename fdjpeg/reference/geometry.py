"""Geometry: the places of samples. Both arithmetics use these functions, so that they cannot disagree."""

from __future__ import annotations

import torch
from torch import Tensor

from fdjpeg._geometry import BLOCK, Geometry, Plane


def component_planes(geometry: Geometry) -> list[tuple[Plane, int, int]]:
    """Returns each component's plane and its own subsampling factors, horizontal and vertical."""
    luma = [(geometry.luma, 1, 1)]
    chroma = [(geometry.chroma, geometry.horizontal, geometry.vertical)]
    return luma if geometry.channels == 1 else luma + 2 * chroma


def subsampled_columns(geometry: Geometry, plane: Plane, factor: int, device: torch.device) -> list[Tensor]:
    """Returns, for each of ``factor`` taps, the image's column that it takes for each column of the coded component.

    The image's last column is replicated first, as far as the coded component needs, and then averaged.
    """
    first = factor * torch.arange(plane.columns * BLOCK, device=device)
    return [(first + tap).clamp(max=geometry.width - 1) for tap in range(factor)]


def subsampled_rows(geometry: Geometry, plane: Plane, factor: int, device: torch.device) -> list[Tensor]:
    """Returns, for each of ``factor`` taps, the image's row that it takes for each row of the coded component.

    The image's last row is replicated only to complete the component's last true row; that row is then replicated.
    """
    first = factor * torch.arange(plane.rows * BLOCK, device=device).clamp(max=plane.height - 1)
    return [(first + tap).clamp(max=geometry.height - 1) for tap in range(factor)]


def uses_triangle(geometry: Geometry, fancy: bool) -> bool:
    """Returns whether chroma is upsampled by libjpeg's triangle filter; if not, samples are repeated."""
    if not fancy:
        return False
    factors = (geometry.horizontal, geometry.vertical)
    return factors == (1, 2) or (factors in ((2, 1), (2, 2)) and geometry.chroma.width > 2)


def near_samples(size: int, factor: int, device: torch.device) -> Tensor:
    """Returns the component's sample that covers each of an image's ``size`` rows or columns."""
    return torch.arange(size, device=device) // factor


def far_samples(size: int, true_size: int, device: torch.device) -> Tensor:
    """Returns the second nearest sample of ``size`` rows or columns at factor 2; at the edge, the nearest again."""
    position = torch.arange(size, device=device)
    return (position // 2 + 2 * (position % 2) - 1).clamp(0, true_size - 1)


def to_blocks(component: Tensor) -> Tensor:
    """Cuts a component of coded size, ``(N, 8 rows, 8 columns)``, into blocks ``(N, rows, columns, 8, 8)``."""
    batch, height, width = component.shape
    return component.reshape(batch, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(2, 3)


def from_blocks(blocks: Tensor) -> Tensor:
    """Inverts `to_blocks`."""
    batch, rows, columns, _, _ = blocks.shape
    return blocks.transpose(2, 3).reshape(batch, rows * BLOCK, columns * BLOCK)
