"""The ops of the codec's two halves, `encode` and `decode`; they have no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fdjpeg._geometry import BLOCK, geometry_of
from fdjpeg.ops.registration import forward_vmap, images_in, merge, merge_tables, register, split


def _encode_fake(
    image: Tensor, tables: Tensor | None, quality: float, horizontal: int, vertical: int
) -> tuple[Tensor, Tensor, Tensor]:
    geometry = geometry_of(image, horizontal, vertical)
    y, cb, cr = (
        image.new_empty((image.size(0), plane.rows, plane.columns, BLOCK, BLOCK), dtype=torch.int16)
        for plane in (geometry.luma, geometry.chroma, geometry.chroma)
    )
    return y, cb, cr


def _decode_fake(
    y: Tensor,
    cb: Tensor,
    cr: Tensor,
    tables: Tensor,
    height: int,
    width: int,
    horizontal: int,
    vertical: int,
    fancy: bool,
    dtype: torch.dtype,
) -> Tensor:
    channels = 1 if cb.size(1) == 0 else 3
    return y.new_empty((y.size(0), channels, height, width), dtype=dtype)


def _decode_vmap(
    op: Callable[..., Any],
    info: Any,
    in_dims: tuple[int | None, ...],
    y: Tensor,
    cb: Tensor,
    cr: Tensor,
    tables: Tensor,
    *rest: Any,
) -> Any:
    size = info.batch_size
    merged_tables = merge_tables(tables, in_dims[3], size, images_in(y, in_dims[0]))
    merged = (merge(tensor, dim, size) for tensor, dim in zip((y, cb, cr), in_dims, strict=False))
    return split(op(*merged, merged_tables, *rest), size), 0


# Returns the quantized coefficients of Y, Cb and Cr, int16 (N, rows, columns, 8, 8).
register(
    "encode",
    "(Tensor image, Tensor? tables, float quality, int horizontal, int vertical) -> (Tensor, Tensor, Tensor)",
    fake=_encode_fake,
    vmap=forward_vmap,
)

# Returns the image of coefficients.
register(
    "decode",
    "(Tensor y, Tensor cb, Tensor cr, Tensor tables, SymInt height, SymInt width, int horizontal, int vertical, "
    "bool fancy, ScalarType dtype) -> Tensor",
    fake=_decode_fake,
    vmap=_decode_vmap,
)
