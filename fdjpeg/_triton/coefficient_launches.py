"""The codec's two halves in Triton, `encode` and `decode`: launches of the kernels of `forward` and `blocks`."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from fdjpeg._geometry import BLOCK, Geometry

from .blocks import quantize_component, restore_component
from .launches import (
    OPTIONS,
    SIZE,
    checked_geometry,
    device_of,
    emit,
    make_samples,
    parts_of,
    prepared_steps,
    tables_of,
)


def encode(
    image: Tensor, tables: Tensor | None, quality: float, horizontal: int, vertical: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Implements ``fdjpeg::encode``; arguments and results as for `fdjpeg.reference.encode`."""
    geometry = checked_geometry(image, horizontal, vertical)
    y, cb, cr = (
        image.new_empty((len(image), plane.rows, plane.columns, BLOCK, BLOCK), dtype=torch.int16)
        for plane in (geometry.luma, geometry.chroma, geometry.chroma)
    )
    with device_of(image):
        for part in parts_of(image, geometry):
            steps = prepared_steps(image, tables_of(tables, part), quality)
            planes = image.new_empty((len(image[part]), geometry.plane_bytes), dtype=torch.uint8)
            make_samples(image[part], geometry, planes)
            _each_component(quantize_component, planes, geometry, steps, (y[part], cb[part], cr[part]))
    return y, cb, cr


def decode(
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
    """Implements ``fdjpeg::decode``; arguments and results as for `fdjpeg.reference.decode`."""
    out = y.new_empty((len(y), 1 if cb.size(1) == 0 else 3, height, width), dtype=dtype)
    geometry = checked_geometry(out, horizontal, vertical)
    y, cb, cr = y.contiguous(), cb.contiguous(), cr.contiguous()
    with device_of(out):
        for part in parts_of(out, geometry):
            steps = prepared_steps(out, tables_of(tables, part), 0.0)
            planes = y.new_empty((len(out[part]), geometry.plane_bytes), dtype=torch.uint8)
            _each_component(restore_component, planes, geometry, steps, (y[part], cb[part], cr[part]))
            emit(planes, geometry, fancy, out[part])
    return out


def _each_component(
    kernel: Any, planes: Tensor, geometry: Geometry, steps: tuple[Tensor, int], levels: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Launches a kernel between the samples of each component and its coefficients."""
    start = 0
    for component in range(geometry.channels):
        plane = geometry.luma if component == 0 else geometry.chroma
        blocks = plane.rows * plane.columns
        count = len(planes) * blocks
        samples = planes[:, start : start + plane.coded_samples]
        kernel[(triton.cdiv(count, SIZE),)](
            samples,
            geometry.plane_bytes,
            plane.columns,
            blocks,
            component,
            *steps,
            levels[component],
            count,
            size=SIZE,
            **OPTIONS,
        )
        start += plane.coded_samples
