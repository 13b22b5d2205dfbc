"""Base tables scaled by a quality, as the originals take them."""

from __future__ import annotations

import torch
from torch import Tensor

from fdjpeg._arguments import check_dense, flattened
from fdjpeg._standard_tables import LARGEST_STEP, SMALLEST_STEP, STANDARD_CHROMA, STANDARD_LUMA, clamped_quality
from fdjpeg._table_checks import as_table, check_real
from fdjpeg.tables import QuantTables


def tables_for(image: Tensor, name: str, quality: Tensor, luma: Tensor | None, chroma: Tensor | None) -> QuantTables:
    """Checks the originals' arguments, and scales base tables by libjpeg's quality.

    That is what `QuantTables.standard` does with T.81's tables (``jpeg_quality_scaling``). Gradients pass straight
    through the floors and bounds, to the quality and to the base tables.

    Args:
        image: as for `fdjpeg.jpeg`, N of them.
        name: of the argument that the image is.
        quality: the argument ``jpeg_quality``, ``(1,)`` or ``(N,)``, acts within 1…100.
        luma, chroma: the arguments ``quantization_table_y`` and ``quantization_table_c``, ``(8, 8)`` or ``(N, 8, 8)``;
            None for T.81's (Annex K).

    Returns:
        Float64 tables, ``(1, 8, 8)`` or ``(N, 8, 8)``, on the image's device.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or shape.
    """
    images = flattened(image, name).size(0)
    _check_quality(quality, images)
    for argument, table in (("quantization_table_y", luma), ("quantization_table_c", chroma)):
        if table is not None:
            check_base_table(table, argument)
            if table.ndim == 3 and table.size(0) not in (1, images):
                raise ValueError(
                    f"{argument} must be (8, 8) or one for each of the {images} images, got {table.size(0)}"
                )
    return _scaled_tables(quality.to(image.device), luma, chroma)


def check_base_table(table: object, name: str) -> None:
    """Raises unless a base table is a tensor of real numbers, ``(8, 8)`` or ``(N, 8, 8)``."""
    if not isinstance(table, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or None, got {type(table).__name__}")
    check_dense(table, name)
    as_table(table, name)


def _check_quality(quality: object, images: int) -> None:
    if not isinstance(quality, Tensor):
        raise TypeError(f"jpeg_quality must be a tensor of shape (1,) or ({images},), got {quality!r}")
    check_dense(quality, "jpeg_quality")
    check_real(quality, "jpeg_quality")
    if quality.ndim != 1 or quality.size(0) not in (1, images):
        shape = tuple(quality.shape)
        raise ValueError(f"jpeg_quality must be a tensor of shape (1,) or ({images},), got one of shape {shape}")


def _scaled_tables(quality: Tensor, luma: Tensor | None, chroma: Tensor | None) -> QuantTables:
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
