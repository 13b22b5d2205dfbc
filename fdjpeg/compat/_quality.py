"""Base tables scaled by a quality, as the originals take them."""

from __future__ import annotations

import torch
from torch import Tensor

from fdjpeg._standard_tables import LARGEST_STEP, SMALLEST_STEP, STANDARD_CHROMA, STANDARD_LUMA, clamped_quality
from fdjpeg.tables import QuantTables


def tables_at(quality: Tensor, luma: Tensor | None, chroma: Tensor | None) -> QuantTables:
    """Scales base tables by libjpeg's quality (``jpeg_quality_scaling``), as `QuantTables.standard` does T.81's.

    Gradients pass straight through the floors and bounds, to the quality and to the base tables.

    Args:
        quality: ``(1,)`` or ``(N,)``, acts within 1…100.
        luma, chroma: ``(8, 8)`` or ``(N, 8, 8)``; None for T.81's (Annex K).

    Returns:
        Float64 tables, ``(1, 8, 8)`` or ``(N, 8, 8)``, on the device of ``quality``.
    """
    if luma is None and chroma is None:
        return QuantTables.standard(quality)
    clamped = clamped_quality(quality)[:, None, None]
    percentage = _floored(torch.where(clamped < 50, torch.full_like(clamped, 5000) / clamped, 200 - 2 * clamped))
    tables = (
        torch.tensor(standard, dtype=torch.float64, device=quality.device) if table is None else table.to(clamped)
        for table, standard in ((luma, STANDARD_LUMA), (chroma, STANDARD_CHROMA))
    )
    return QuantTables(*torch.broadcast_tensors(*(_scaled(table, percentage) for table in tables)))


def _scaled(table: Tensor, percentage: Tensor) -> Tensor:
    real = table * percentage / 100
    steps = ((table * percentage + 50) / 100).floor().clamp(SMALLEST_STEP, LARGEST_STEP)
    return real + (steps - real).detach()


def _floored(x: Tensor) -> Tensor:
    return x + (x.floor() - x).detach()
