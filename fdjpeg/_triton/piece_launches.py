"""The ops of the codec's parts in Triton: launches of the kernels of `pieces`, and of those for whole images."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fdjpeg import reference
from fdjpeg._constants import constant
from fdjpeg._geometry import BLOCK, Geometry
from fdjpeg._standard_tables import STANDARD_CHROMA, STANDARD_LUMA

from .launches import (
    OPTIONS,
    SIZE,
    WIDE_OPTIONS,
    checked_geometry,
    components_of,
    device_of,
    differentiate_samples,
    emit,
    emit_gradients,
    gradients_of,
    half_of_doubles,
    is_whole,
    make_samples,
    parts_of,
)
from .pieces import code_by_steps, differentiate_steps, judge_by_steps, make_steps, pack_blocks, unpack_blocks

#: Qualities of a program that sums 64 numbers for each.
_QUALITIES = 64


def _base(like: Tensor) -> Tensor:
    return constant((STANDARD_LUMA, STANDARD_CHROMA), torch.int32, like)


def standard_steps(qualities: Tensor, luma: int, whole: bool, soft: bool) -> Tensor:
    """Implements ``fdjpeg::standard_steps``; as `fdjpeg.reference.standard_steps`."""
    dtype = torch.float64 if qualities.dtype == torch.float64 else torch.float32
    steps = qualities.new_empty((*qualities.shape, BLOCK, BLOCK), dtype=dtype)
    count = qualities.numel()
    if count:
        size = 8 * SIZE
        with device_of(qualities):
            make_steps[(triton.cdiv(64 * count, size),)](
                _base(qualities),
                qualities.contiguous(),
                steps,
                qualities.size(1),
                luma,
                count,
                whole=whole,
                soft=soft,
                size=size,
                **OPTIONS,
            )
    return steps


def standard_steps_backward(grad: Tensor, qualities: Tensor, luma: int, whole: bool, soft: bool) -> Tensor:
    """Implements ``fdjpeg::standard_steps_backward``; as the reference's, to rounding."""
    out = qualities.new_empty(qualities.shape)
    count = qualities.numel()
    if count:
        with device_of(qualities):
            differentiate_steps[(triton.cdiv(count, _QUALITIES),)](
                _base(qualities),
                grad.contiguous(),
                qualities.contiguous(),
                out,
                qualities.size(1),
                luma,
                count,
                whole=whole,
                soft=soft,
                size=_QUALITIES,
                **OPTIONS,
            )
    return out


def round_trip_by_steps(
    image: Tensor, steps: Tensor, slopes: Tensor | None, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Implements ``fdjpeg::round_trip_by_steps``; as `fdjpeg.reference.round_trip_by_steps`, to rounding."""
    geometry = checked_geometry(image, horizontal, vertical)
    out = torch.empty_like(image)
    planes = image.new_empty((len(image), geometry.plane_bytes), dtype=torch.uint8)
    first, second = _empty_blocks(image, geometry), _empty_blocks(image, geometry)
    steps, slopes = steps.contiguous(), None if slopes is None else slopes.contiguous()
    with device_of(image):
        for part in parts_of(image, geometry):
            make_samples(image[part], geometry, planes[part])
            own = steps if len(steps) == 1 else steps[part]
            given = (own, len(own))
            # Two kernels, and more threads where slopes are read: a thread has no room for all of these numbers.
            numbers = (slopes, first[part], second[part])
            options = {} if slopes is None and image.dtype != torch.float64 else WIDE_OPTIONS
            _for_blocks(judge_by_steps, planes[part], (*given, *numbers), geometry, real=_real(image), **options)
            _for_blocks(code_by_steps, planes[part], given, geometry)
            emit(planes[part], geometry, fancy, out[part])
    return out, planes, first, second


def image_blocks(image: Tensor, horizontal: int, vertical: int) -> Tensor:
    """Implements ``fdjpeg::image_blocks``; as `fdjpeg.reference.image_blocks`, to rounding."""
    geometry = checked_geometry(image, horizontal, vertical)
    blocks = _empty_blocks(image, geometry)
    with device_of(image):
        for part in parts_of(image, geometry):
            components = image.new_empty((len(image[part]), geometry.flag_offset), dtype=blocks.dtype)
            make_samples(image[part], geometry, components)
            _for_blocks(pack_blocks, components, (blocks[part],), geometry, scale=1.0)
    return blocks


def image_blocks_backward(grad: Tensor, image: Tensor, planes: Tensor | None, horizontal: int, vertical: int) -> Tensor:
    """Implements ``fdjpeg::image_blocks_backward``; as the reference's, to rounding."""
    geometry = checked_geometry(image, horizontal, vertical)
    out = torch.empty_like(image)
    grad = grad.to(reference.real_dtype(image)).contiguous()
    with device_of(image):
        for part in parts_of(image, geometry):
            gradients = image.new_empty((len(image[part]), geometry.flag_offset), dtype=grad.dtype)
            options: dict[str, Any] = {"scale": 255.0, "gradients": True, "whole": is_whole(geometry)}
            _for_blocks(unpack_blocks, gradients, (grad[part],), geometry, **options)
            emit_gradients(gradients, image[part], geometry, out[part], None if planes is None else planes[part])
    return out


def blocks_image(blocks: Tensor, image: Tensor, horizontal: int, vertical: int, fancy: bool) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::blocks_image``; as `fdjpeg.reference.blocks_image`, to rounding."""
    geometry = checked_geometry(image, horizontal, vertical)
    out = torch.empty_like(image)
    mask = image.new_empty((len(image), *image.shape[2:]), dtype=torch.uint8)
    blocks = blocks.to(reference.real_dtype(image)).contiguous()
    with device_of(image):
        for part in parts_of(image, geometry):
            components = image.new_empty((len(image[part]), geometry.flag_offset), dtype=blocks.dtype)
            options: dict[str, Any] = {"scale": 1.0, "gradients": False, "whole": True}
            _for_blocks(unpack_blocks, components, (blocks[part],), geometry, **options)
            emit(components, geometry, fancy, out[part], mask[part])
    return out, mask


def blocks_image_backward(
    grad: Tensor, kept: Tensor, image: Tensor, horizontal: int, vertical: int, fancy: bool
) -> Tensor:
    """Implements ``fdjpeg::blocks_image_backward``; as the reference's, to rounding."""
    geometry = checked_geometry(image, horizontal, vertical)
    blocks = _empty_blocks(image, geometry)
    kept = kept.contiguous()
    with device_of(image):
        for part in parts_of(image, geometry):
            gradients = gradients_of(image[part], geometry)
            given = (grad[part], kept[part], image[part], geometry, fancy)
            differentiate_samples(*given, None, gradients, masked=kept.ndim == 3)
            _for_blocks(pack_blocks, gradients, (blocks[part],), geometry, scale=1 / 255)
    return blocks


def _empty_blocks(image: Tensor, geometry: Geometry) -> Tensor:
    """Returns memory for packed coefficients."""
    shape = (len(image), geometry.flag_offset // BLOCK**2, BLOCK, BLOCK)
    return image.new_empty(shape, dtype=reference.real_dtype(image))


def _real(image: Tensor) -> Any:
    return tl.float64 if image.dtype == torch.float64 else tl.float32


def _for_blocks(kernel: Any, planes: Tensor, arguments: tuple[Any, ...], geometry: Geometry, **options: Any) -> None:
    """Launches a kernel for the blocks of all components."""
    count = len(planes) * (geometry.flag_offset // BLOCK**2)
    size = half_of_doubles(planes.dtype)
    given = (components_of(planes, geometry), *arguments, count)
    kernel[(triton.cdiv(count, size),)](*given, size=size, **OPTIONS | options)
