"""Quantization tables: those of libjpeg at a quality, for a whole image or for each block."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fdjpeg._constants import constant
from fdjpeg._geometry import Geometry
from fdjpeg._standard_tables import STANDARD_CHROMA, STANDARD_LUMA
from fdjpeg.reference.conversions import real_dtype
from fdjpeg.reference.geometry import component_planes


def _base(dtype: torch.dtype, like: Tensor) -> Tensor:
    """Returns T.81's tables for Y, Cb and Cr, ``(3, 8, 8)``, on the device of ``like``."""
    return constant((STANDARD_LUMA, STANDARD_CHROMA, STANDARD_CHROMA), dtype, like)


def _percentage(quality: float) -> float:
    """Returns libjpeg's factor on T.81's tables, in percent; ``quality`` acts as the nearest in 1…100."""
    quality = min(100.0, max(1.0, quality))
    return 5000 / quality if quality < 50 else 200 - 2 * quality


def standard_tables(quality: float, like: Tensor) -> Tensor:
    """Returns the tables of libjpeg at ``quality``, int32 ``(1, 3, 8, 8)``, on the device of ``like``.

    A quality outside 1…100 acts as the nearest in it.
    """
    scale = math.floor(_percentage(quality))
    return ((_base(torch.int32, like)[None] * scale + 50) // 100).clamp(1, 255)


def integer_tables(tables: Tensor) -> Tensor:
    """Returns the steps as which floating ``tables`` act: rounded half to even, within 1…255, NaN as 1; int32."""
    return tables.nan_to_num(nan=1.0).round().clamp(1, 255).to(torch.int32)


def steps_of(tables: Tensor | None, quality: float, image: Tensor) -> Tensor:
    """Returns the integer steps of an op: those of ``tables``, or the standard ones where it is None."""
    return standard_tables(quality, image) if tables is None else integer_tables(tables)


def standard_tables_by_block(qualities: Tensor, geometry: Geometry) -> list[Tensor]:
    """Returns the tables of libjpeg at each block's quality, which acts as the nearest in 1…100.

    Args:
        qualities: of luma's blocks, ``(N, rows, columns)``, of an integer dtype.

    Returns:
        As `tables_by_block`, int32.
    """
    quality = qualities.to(torch.int32).clamp(1, 100)
    scale = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)[..., None, None, None]
    return tables_by_block(((_base(torch.int32, quality) * scale + 50) // 100).clamp(1, 255), geometry)


def tables_by_block(tables: Tensor, geometry: Geometry) -> list[Tensor]:
    """Returns each component's tables, of those at luma's blocks: chroma takes those of its top-left block of luma.

    Args:
        tables: for Y, Cb and Cr, ``(N, rows, columns, 3, 8, 8)``, rows and columns of luma's blocks.

    Returns:
        For each component, ``(N, rows, columns, 8, 8)``, the component's own rows and columns.
    """
    return [
        tables[:, ::vertical, ::horizontal, i] for i, (_, horizontal, vertical) in enumerate(component_planes(geometry))
    ]


def table_of(tables: Tensor | Sequence[Tensor], component: int) -> Tensor:
    """Returns a component's tables: one for all its blocks, ``(1 or N, 1, 1, 8, 8)``, or those of each block."""
    return tables[:, component, None, None] if isinstance(tables, Tensor) else tables[component]


def real_tables(tables: Tensor | None, quality: float, soft: bool, image: Tensor) -> Tensor:
    """Returns the op's tables; the standard ones are integers, or real numbers of at least 1 if ``soft``."""
    dtype = real_dtype(image)
    if tables is not None:
        return tables.to(dtype)
    if not soft:
        return standard_tables(quality, image).to(dtype)
    return (_base(dtype, image)[None] * (_percentage(quality) / 100)).clamp(min=1)
