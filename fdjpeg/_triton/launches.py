"""The exact round trip and its gradients in Triton: launches of the kernels, and what all launches share.

The bits are those of every other backend. `forward`, `backward` and `blocks` hold the kernels; `arithmetic`,
`upsampling` and `surrogates` their common parts.

Forward is four launches: one that prepares the steps, then colour and subsampling, the codec, upsampling and colour.
Triton gives no control over the numbers that a thread holds. Blocks and pixels in one kernel would therefore pass
through shared memory between the steps; here only 8-bit components pass, through the L2 cache. Backward is one launch.
The gradient of the tables takes four more: three compute the coefficients again, and one sums the programs' shares.
A surrogate's gradient is five: the gradients of the components, their samples before the codec, the blocks, the image;
with that of the tables seven.
"""

from __future__ import annotations

import struct
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fdjpeg._constants import constant
from fdjpeg._geometry import Geometry, Sampling, geometry_of
from fdjpeg._standard_tables import STANDARD_CHROMA, STANDARD_LUMA, percentage

from .backward import add_shares, differentiate, emit_gradient
from .blocks import differentiate_blocks
from .forward import code_planes, emit_image, make_components, prepare_steps
from .upsampling import Components, Samples

#: Threads of a program: four warps, or two wavefronts of 64 threads.
_WARPS = 4 if torch.version.hip is None else 2
#: A fused multiplication and addition would round once where the codec rounds twice.
OPTIONS: dict[str, Any] = {"num_warps": _WARPS, "enable_fp_fusion": False}
#: Of kernels whose sums do not fit in the registers of so few threads.
WIDE_OPTIONS: dict[str, Any] = OPTIONS | {"num_warps": 2 * _WARPS}
#: Blocks, or runs of eight chroma samples: one for each thread.
SIZE = 128
#: Pixels of a program of `make_components`: 16 for each thread, four for each 128-bit load.
_PIXELS = 2048
#: The most items that a kernel counts in 32 bits, with the surplus of the last program.
_MOST = 2**31 - 2048


def device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Makes a tensor's device the current one, on which Triton launches."""
    return torch.xpu.device_of(tensor) if tensor.is_xpu else torch.cuda.device_of(tensor)


def half_of_doubles(dtype: torch.dtype) -> int:
    """Returns the blocks of a program: doubles take twice the registers."""
    return SIZE // (2 if dtype == torch.float64 else 1)


def upsampling_of(geometry: Geometry, fancy: bool) -> dict[str, Any]:
    """Returns the kernels' options: whether the triangle blends chroma across and down, and the kind of image."""
    wide_enough = geometry.chroma.width > 2
    return {
        "horizontal": geometry.horizontal,
        "vertical": geometry.vertical,
        "across": fancy and geometry.horizontal == 2 and wide_enough,
        "down": fancy and geometry.vertical == 2 and (geometry.horizontal == 1 or wide_enough),
        "grey": geometry.channels == 1,
        "whole": is_whole(geometry),
    }


def is_whole(geometry: Geometry) -> bool:
    """Returns whether the image consists of whole MCUs."""
    return geometry.height % (8 * geometry.vertical) == 0 and geometry.width % (8 * geometry.horizontal) == 0


def samples_of(tensor: Tensor) -> Samples:
    """Returns an image as kernels take it."""
    return Samples(tensor, *tensor.stride())


def components_of(planes: Tensor, geometry: Geometry) -> Components:
    """Returns the components of images: planes or real numbers ``(N, …)`` as `Geometry` lays them out."""
    luma = geometry.luma
    chroma = luma if geometry.channels == 1 else geometry.chroma
    return Components(
        planes,
        planes.stride(0),
        luma.coded_samples,
        luma.coded_samples + geometry.chroma.coded_samples,
        geometry.flag_offset,
        luma.height,
        luma.width,
        luma.rows,
        luma.columns,
        chroma.height,
        chroma.width,
        chroma.rows,
        chroma.columns,
    )


def runs_of(geometry: Geometry) -> int:
    """Counts the runs of eight samples in a chroma component of an image; in luma if it is grey."""
    plane = geometry.luma if geometry.channels == 1 else geometry.chroma
    return plane.height * plane.columns


def checked_geometry(image: Tensor, horizontal: int, vertical: int) -> Geometry:
    """Returns the geometry of an image, or raises if a kernel cannot count its parts in 32 bits."""
    geometry = geometry_of(image, horizontal, vertical)
    if geometry.flag_offset // 8 > _MOST:
        size = f"{geometry.height} × {geometry.width}"
        raise ValueError(f"image must have at most {_MOST} rows of eight samples for the Triton kernels, got {size}")
    return geometry


def parts_of(image: Tensor, geometry: Geometry) -> list[slice]:
    """Returns the images of each launch: a grid's second extent is below 2¹⁶."""
    most = min(_MOST // max(geometry.flag_offset // 8, 1), 2**16 - 1)
    return [slice(first, first + most) for first in range(0, len(image), most)] if image.numel() else []


def two_floats(number: float) -> tuple[float, float]:
    """Returns float32 numbers whose sum is a number, to 48 bits."""
    (first,) = struct.unpack("f", struct.pack("f", number))
    return first, number - first


def tables_of(tables: Tensor | None, part: slice) -> Tensor | None:
    """Returns the tables of a part of the images."""
    return tables if tables is None or len(tables) == 1 else tables[part]


def prepared_steps(image: Tensor, tables: Tensor | None, quality: float, by_block: bool = False) -> tuple[Tensor, int]:
    """Prepares the tables for the kernels; also returns their number, one if they serve all images.

    ``by_block`` prepares those of the qualities 1…100.
    """
    sets = 100 if by_block else 1 if tables is None else len(tables)
    steps = torch.empty((sets, 3, 3, 64), dtype=torch.int32, device=image.device)
    base = constant((STANDARD_LUMA, STANDARD_CHROMA), torch.int32, image)
    given = base if tables is None else tables.contiguous()
    count = sets * 192
    prepare_steps[(triton.cdiv(count, SIZE),)](
        base,
        given,
        int(percentage(quality)),
        steps,
        count,
        has_tables=tables is not None,
        size=SIZE,
        by_block=by_block,
        **OPTIONS,
    )
    return steps, sets


def round_trip(
    image: Tensor, tables: Tensor | None, quality: float, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::round_trip``; arguments and results as for `fdjpeg.reference.round_trip`."""
    geometry = checked_geometry(image, horizontal, vertical)
    out = torch.empty_like(image)
    planes = image.new_empty((len(image), geometry.plane_bytes), dtype=torch.uint8)
    with device_of(image):
        for part in parts_of(image, geometry):
            steps = prepared_steps(image, tables_of(tables, part), quality)
            _round_trip(image[part], steps, None, geometry, fancy, out[part], planes[part])
    return out, planes


def round_trip_by_block(
    image: Tensor, qualities: Tensor, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::round_trip_by_block``; as `fdjpeg.reference.round_trip_by_block`."""
    geometry = checked_geometry(image, horizontal, vertical)
    out = torch.empty_like(image)
    planes = image.new_empty((len(image), geometry.plane_bytes), dtype=torch.uint8)
    qualities = qualities.contiguous()
    with device_of(image):
        for part in parts_of(image, geometry):
            steps = prepared_steps(image, None, 1.0, by_block=True)
            _round_trip(image[part], steps, qualities[part], geometry, fancy, out[part], planes[part])
    return out, planes


def _round_trip(
    image: Tensor,
    steps: tuple[Tensor, int],
    qualities: Tensor | None,
    geometry: Geometry,
    fancy: bool,
    out: Tensor,
    planes: Tensor,
) -> None:
    """Launches the kernels of `round_trip`."""
    components = components_of(planes, geometry)
    make_samples(image, geometry, planes)
    blocks = len(image) * (geometry.flag_offset // 64)
    by_block: dict[str, Any] = {}
    if qualities is not None:
        by_block = {"qualities": qualities, "horizontal": geometry.horizontal, "vertical": geometry.vertical}
    code_planes[(triton.cdiv(blocks, SIZE),)](components, *steps, blocks, size=SIZE, **by_block, **OPTIONS)
    emit(planes, geometry, fancy, out)


def emit(planes: Tensor, geometry: Geometry, fancy: bool, out: Tensor, passed: Tensor | None = None) -> None:
    """Writes the images of decoded components; of real ones also the bits of the colours that ``passed`` the clamp."""
    runs = len(out) * runs_of(geometry)
    marks: dict[str, Any] = {} if passed is None else {"passed": passed}
    size = half_of_doubles(planes.dtype)
    emit_image[(triton.cdiv(runs, size),)](
        components_of(planes, geometry),
        samples_of(out),
        runs,
        **upsampling_of(geometry, fancy),
        size=size,
        **marks,
        **OPTIONS,
    )


def make_samples(image: Tensor, geometry: Geometry, planes: Tensor) -> None:
    """Writes the components that the codec takes: bytes with their flags, or real numbers, as ``planes`` holds."""
    mcus = len(image) * geometry.mcu_rows * geometry.mcu_columns
    size = _PIXELS // (64 * geometry.horizontal * geometry.vertical)
    make_components[(triton.cdiv(mcus, size),)](
        samples_of(image),
        components_of(planes, geometry),
        mcus,
        horizontal=geometry.horizontal,
        vertical=geometry.vertical,
        grey=geometry.channels == 1,
        whole=is_whole(geometry),
        size=size,
        **OPTIONS,
    )


def round_trip_backward(
    grad: Tensor,
    planes: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    table_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::round_trip_backward``; as `fdjpeg.reference.round_trip_backward`, to rounding."""
    sampling = Sampling(horizontal, vertical, fancy)
    return _backward(grad, planes, image, tables, quality, sampling, table_gradient, None)


def surrogate_backward(
    grad: Tensor,
    planes: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    table_gradient: bool,
    slopes: Tensor,
) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::surrogate_backward``; as `fdjpeg.reference.surrogate_backward`, to rounding."""
    sampling = Sampling(horizontal, vertical, fancy)
    return _backward(grad, planes, image, tables, quality, sampling, table_gradient, slopes.contiguous())


def _backward(
    grad: Tensor,
    planes: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    sampling: Sampling,
    table_gradient: bool,
    slopes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Launches the kernels of both gradients: straight through without ``slopes``."""
    geometry = checked_geometry(image, sampling.horizontal, sampling.vertical)
    out = torch.empty_like(image)
    of_tables = image.new_zeros((len(image), 3, 8, 8) if table_gradient else 0, dtype=torch.float32)
    real = torch.float64 if image.dtype == torch.float64 else torch.float32
    straight = slopes is None  # The inverse transform then undoes the transform.
    keep = table_gradient or not straight
    with device_of(image):
        for part in parts_of(image, geometry):
            gradients = gradients_of(image[part], geometry) if keep else image.new_empty(0, dtype=real)
            given = (grad[part], planes[part], image[part], geometry, sampling.fancy)
            differentiate_samples(*given, out[part] if straight else None, gradients)
            if keep:
                before = torch.empty_like(planes[part])
                make_samples(image[part], geometry, before)
                steps = prepared_steps(image, tables_of(tables, part), quality)
                wanted = Wanted(not straight, of_tables[part] if table_gradient else None)
                through_blocks(differentiate_blocks, before, gradients, (*steps, slopes), geometry, wanted, OPTIONS)
            if not straight:
                emit_gradients(gradients, image[part], geometry, out[part], planes[part])
    return out, of_tables


def gradients_of(image: Tensor, geometry: Geometry) -> Tensor:
    """Returns memory for the gradients of components' samples, 0 at those beyond the components' edges."""
    real = torch.float64 if image.dtype == torch.float64 else torch.float32
    make = image.new_empty if is_whole(geometry) else image.new_zeros
    return make((len(image), geometry.flag_offset), dtype=real)


class Wanted(NamedTuple):
    """The gradients that `through_blocks` is to write."""

    samples: bool  #: those of the samples before the codec, in the place of those after it
    of_tables: Tensor | None  #: ``(N, 3, 8, 8)``


def through_blocks(
    kernel: Any,
    before: Tensor,
    gradients: Tensor,
    arguments: tuple[Any, ...],
    geometry: Geometry,
    wanted: Wanted,
    options: dict[str, Any],
) -> None:
    """Takes the gradients of decoded samples through the coefficients by a kernel, once for each that is wanted.

    ``before`` holds the components before the codec. The kernel has no registers for both at once, and of doubles for
    a block a thread.
    """
    if gradients.dtype == torch.float64:
        options = options | {"num_warps": 2 * _WARPS}
    of_luma, of_chroma, _ = of_components = programs_of(geometry)
    programs = sum(of_components)
    shares = gradients.new_empty((len(gradients), programs, 64) if wanted.of_tables is not None else 0)
    for of_tables in [True] * (wanted.of_tables is not None) + [False] * wanted.samples:
        kernel[(programs, len(gradients))](
            components_of(before, geometry),
            gradients,
            *arguments,
            shares,
            whole=is_whole(geometry),
            of_tables=of_tables,
            size=SIZE,
            **options,
        )
    if wanted.of_tables is not None:  # sums the shares in one order
        add_shares[(3, len(gradients))](shares, wanted.of_tables, of_luma, of_chroma, **OPTIONS)


def differentiate_samples(
    grad: Tensor,
    planes: Tensor,
    image: Tensor,
    geometry: Geometry,
    fancy: bool,
    out: Tensor | None,
    gradients: Tensor,
    masked: bool = False,
) -> None:
    """Writes the image's gradient to ``out``, and those of its components if ``gradients`` holds any.

    ``planes`` are those of the round trip, or if ``masked`` the bits of the colours that passed the last clamp.
    """
    runs = len(image) * runs_of(geometry)
    # The masks at edges take about twice the registers, and so do doubles.
    size = SIZE // (1 if is_whole(geometry) else 2) // (1 if gradients.dtype == torch.float32 else 2)
    differentiate[(triton.cdiv(runs, size),)](
        samples_of(grad),
        components_of(planes, geometry),
        samples_of(image),
        samples_of(image if out is None else out),
        gradients,
        runs,
        **upsampling_of(geometry, fancy),
        keep=gradients.numel() > 0,
        real=tl.float64 if gradients.dtype == torch.float64 else tl.float32,
        size=size,
        emit=out is not None,
        masked=masked,
        **WIDE_OPTIONS,
    )


def emit_gradients(
    gradients: Tensor, image: Tensor, geometry: Geometry, out: Tensor, planes: Tensor | None = None
) -> None:
    """Writes the image's gradient from those of its components; 0 for NaN samples, if there are ``planes``."""
    runs = len(image) * runs_of(geometry)
    size = half_of_doubles(gradients.dtype)
    emit_gradient[(triton.cdiv(runs, size),)](
        components_of(gradients, geometry),
        samples_of(image),
        samples_of(out),
        None if planes is None else planes[:, geometry.flag_offset :],
        geometry.plane_bytes,
        runs,
        horizontal=geometry.horizontal,
        vertical=geometry.vertical,
        grey=geometry.channels == 1,
        whole=is_whole(geometry),
        size=size,
        **WIDE_OPTIONS,
    )


def programs_of(geometry: Geometry) -> list[int]:
    """Counts for each component the programs that `place_component` places in it."""
    return [triton.cdiv(plane.coded_samples // 64, SIZE) for plane in (geometry.luma, *2 * [geometry.chroma])]
