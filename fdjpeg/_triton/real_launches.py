"""The ops in real numbers in Triton: the round trip, its gradient, and the blocks' DCT; launches of the kernels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fdjpeg import reference
from fdjpeg._geometry import BLOCK, Geometry

from .blocks import code_real_planes, differentiate_real_blocks, transform_blocks
from .launches import (
    OPTIONS,
    Wanted,
    checked_geometry,
    components_of,
    device_of,
    differentiate_samples,
    emit,
    emit_gradients,
    gradients_of,
    half_of_doubles,
    make_samples,
    parts_of,
    tables_of,
    through_blocks,
    two_floats,
)
from .piece_launches import standard_steps

#: Real numbers promise no bits, so multiplications and additions may be fused.
_OPTIONS = OPTIONS | {"enable_fp_fusion": True}


def _steps(image: Tensor, tables: Tensor | None, quality: float, soft: bool) -> tuple[Tensor, int]:
    """Returns the tables as the kernels of real numbers take them, and their number."""
    if tables is None:
        qualities = image.new_full((1, 3), quality, dtype=torch.float64)
        steps = standard_steps(qualities, 1, False, soft)
    else:
        steps = tables.to(reference.real_dtype(image)).contiguous()
    return steps, len(steps)


def real_round_trip(
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    surrogate: str,
    parameter: float,
    floor: float,
    soft: bool,
) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::real_round_trip``; as `fdjpeg.reference.real_round_trip`, to rounding."""
    geometry = checked_geometry(image, horizontal, vertical)
    out = torch.empty_like(image)
    mask = image.new_empty((len(image), *image.shape[2:]), dtype=torch.uint8)
    dtype = reference.real_dtype(image)
    parameters = (*two_floats(parameter), *two_floats(floor))
    with device_of(image):
        for part in parts_of(image, geometry):
            steps = _steps(image, tables_of(tables, part), quality, soft)
            components = _real_components(image[part], geometry)
            blocks = len(components) * (geometry.flag_offset // 64)
            size = half_of_doubles(dtype)
            code_real_planes[(triton.cdiv(blocks, size),)](
                components_of(components, geometry),
                *steps,
                *parameters,
                blocks,
                name=surrogate,
                soft=soft,
                size=size,
                **_OPTIONS,
            )
            emit(components, geometry, fancy, out[part], mask[part])
    return out, mask


def _real_components(image: Tensor, geometry: Geometry) -> Tensor:
    """Returns the components before the codec, ``(N, flag_offset)``."""
    components = image.new_empty((len(image), geometry.flag_offset), dtype=reference.real_dtype(image))
    make_samples(image, geometry, components)
    return components


def real_round_trip_backward(
    grad: Tensor,
    mask: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    surrogate: str,
    parameter: float,
    floor: float,
    soft: bool,
    table_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::real_round_trip_backward``; as the reference's, to rounding."""
    geometry = checked_geometry(image, horizontal, vertical)
    out, dtype = torch.empty_like(image), reference.real_dtype(image)
    of_tables = image.new_zeros((len(image), 3, BLOCK, BLOCK) if table_gradient else 0, dtype=dtype)
    mask = mask.contiguous()
    straight = surrogate == "straight-through" and not table_gradient
    parameters = (*two_floats(parameter), *two_floats(floor))
    with device_of(image):
        for part in parts_of(image, geometry):
            given = (grad[part], mask[part], image[part], geometry, fancy)
            if straight:  # the inverse transform undoes the transform
                differentiate_samples(*given, out[part], image.new_empty(0, dtype=dtype), masked=True)
                continue
            gradients = gradients_of(image[part], geometry)
            differentiate_samples(*given, None, gradients, masked=True)
            steps = _steps(image, tables_of(tables, part), quality, soft)
            wanted = Wanted(True, of_tables[part] if table_gradient else None)
            before = _real_components(image[part], geometry)
            through_blocks(
                differentiate_real_blocks,
                before,
                gradients,
                (*steps, *parameters),
                geometry,
                wanted,
                _OPTIONS | {"name": surrogate, "soft": soft},
            )
            emit_gradients(gradients, image[part], geometry, out[part])
    return out, of_tables


def block_dct(samples: Tensor) -> Tensor:
    """Implements ``fdjpeg::block_dct``; as `fdjpeg.reference.block_dct`, to rounding."""
    *outer, height, width = samples.shape
    blocks = samples.new_empty((*outer, height // BLOCK, width // BLOCK, BLOCK, BLOCK))
    _transform(samples.contiguous(), blocks, width // BLOCK, inverse=False)
    return blocks


def block_idct(blocks: Tensor) -> Tensor:
    """Implements ``fdjpeg::block_idct``; as `fdjpeg.reference.block_idct`, to rounding."""
    *outer, rows, columns, _, _ = blocks.shape
    samples = blocks.new_empty((*outer, rows * BLOCK, columns * BLOCK))
    _transform(samples, blocks.contiguous(), columns, inverse=True)
    return samples


def _transform(samples: Tensor, blocks: Tensor, columns: int, inverse: bool) -> None:
    """Launches the kernel between samples and the coefficients of their blocks."""
    dtype = reference.real_dtype(samples)
    count, size = samples.numel() // 64, half_of_doubles(dtype)
    with device_of(samples):
        if count:
            transform_blocks[(triton.cdiv(count, size),)](
                samples,
                blocks,
                columns,
                count,
                real=tl.float64 if dtype == torch.float64 else tl.float32,
                inverse=inverse,
                size=size,
                **_OPTIONS,
            )
