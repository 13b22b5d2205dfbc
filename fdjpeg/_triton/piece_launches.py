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

from .backward import add_shares
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
    two_floats,
)
from .pieces import (
    code_by_steps,
    differentiate_rounding,
    differentiate_scaling,
    differentiate_steps,
    judge_by_steps,
    make_steps,
    pack_blocks,
    replace_rounding,
    share_blocks,
    unpack_blocks,
)

#: Qualities of a program that sums 64 numbers for each.
_QUALITIES = 64
#: Numbers of a program that takes them one by one: eight for each thread.
_NUMBERS = 8 * SIZE


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


def sum_blocks(grad: Tensor, luma: int) -> Tensor:
    """Implements ``fdjpeg::sum_blocks``; as `fdjpeg.reference.sum_blocks`, to rounding and in one order."""
    out = grad.new_empty((len(grad), 3, BLOCK, BLOCK))
    chroma = (grad.size(1) - luma) // 2
    of_luma, of_chroma = triton.cdiv(luma, SIZE), triton.cdiv(chroma, SIZE)
    grad = grad.contiguous()
    with device_of(grad):
        for first in range(0, len(grad), 2**16 - 1):  # a grid's second extent is below 2¹⁶
            part = grad[first : first + 2**16 - 1]
            shares = grad.new_empty((len(part), of_luma + 2 * of_chroma, BLOCK**2))
            counts = (grad.size(1), luma, chroma, of_luma, of_chroma)
            share_blocks[(shares.size(1), len(part))](part, shares, *counts, size=SIZE, **WIDE_OPTIONS)
            add_shares[(3, len(part))](shares, out[first : first + len(part)], of_luma, of_chroma, **OPTIONS)
    return out


def surrogate(c: Tensor, surrogate: str, parameter: float, floor: float, soft: bool) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::surrogate``; as `fdjpeg.reference.surrogate`, to rounding."""
    c = c.contiguous()
    used, slopes = torch.empty_like(c), torch.empty_like(c)
    parameters = (*two_floats(parameter), *two_floats(floor))
    _for_numbers(replace_rounding, (c, used, slopes, *parameters), c, name=surrogate, soft=soft)
    return used, slopes


def rounded_backward(grad: Tensor, used: Tensor, c: Tensor | None, slope: Tensor | None) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::rounded_backward``; as `fdjpeg.reference.rounded_backward`, to rounding."""
    grad, used = grad.contiguous(), used.contiguous()
    c, slope = (None if one is None else one.contiguous() for one in (c, slope))
    of_blocks = grad.new_empty(0) if slope is None else torch.empty_like(grad)
    of_steps = torch.empty_like(grad)
    _for_numbers(differentiate_rounding, (grad, used, c, slope, of_blocks, of_steps), grad)
    return of_blocks, of_steps


def scaled_backward(grad: Tensor, blocks: Tensor, steps: Tensor, divided: bool) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::scaled_backward``; as `fdjpeg.reference.scaled_backward`, to rounding."""
    grad, blocks = grad.contiguous(), blocks.contiguous()
    steps = (steps[:1] if steps.stride(0) == 0 else steps).contiguous()  # one set expanded is not copied for each image
    of_blocks, of_steps = torch.empty_like(blocks), torch.empty_like(blocks)
    arguments = (grad, blocks, steps, of_blocks, of_steps, steps.numel() // BLOCK**2)
    count, size = blocks.numel() // BLOCK**2, _NUMBERS // BLOCK**2
    if count:
        with device_of(blocks):
            kernel = differentiate_scaling[(triton.cdiv(count, size),)]
            kernel(*arguments, count, divided=divided, size=size, **OPTIONS)
    return of_blocks, of_steps


def _for_numbers(kernel: Any, arguments: tuple[Any, ...], like: Tensor, **options: Any) -> None:
    """Launches a kernel for each number of a tensor."""
    count = like.numel()
    if count:
        with device_of(like):
            kernel[(triton.cdiv(count, _NUMBERS),)](*arguments, count, size=_NUMBERS, **OPTIONS | options)


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
