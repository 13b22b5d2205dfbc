"""The exact round trip and its gradients in Triton: launches of the kernels, and what all launches share.

The bits are those of every other backend. `forward`, `backward` and `blocks` hold the kernels; `arithmetic`,
`upsampling` and `surrogates` their common parts.

Forward is four launches: one that prepares the steps, then colour and subsampling, the codec, upsampling and colour.
Triton gives no control over the numbers that a thread holds. Blocks and pixels in one kernel would therefore pass
through shared memory between the steps; here only 8-bit components pass, through the L2 cache. Backward is one launch.
The gradient of the tables takes four more: three compute the coefficients again, and one sums the programs' shares.
A surrogate's gradient is five: the gradients of the components, their samples before the codec, the blocks, the image.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fdjpeg._constants import constant
from fdjpeg._geometry import Geometry, geometry_of
from fdjpeg._standard_tables import STANDARD_CHROMA, STANDARD_LUMA, percentage

from .backward import add_shares, differentiate, emit_gradient, share_of_blocks
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
    emit_image[(triton.cdiv(runs, SIZE),)](
        components_of(planes, geometry),
        samples_of(out),
        runs,
        **upsampling_of(geometry, fancy),
        size=SIZE,
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
    geometry = checked_geometry(image, horizontal, vertical)
    out = torch.empty_like(image)
    of_tables = image.new_zeros((len(image), 3, 8, 8) if table_gradient else 0, dtype=torch.float32)
    real = torch.float64 if image.dtype == torch.float64 else torch.float32
    with device_of(image):
        for part in parts_of(image, geometry):
            gradients = image.new_zeros((len(image[part]), geometry.flag_offset) if table_gradient else 0, dtype=real)
            differentiate_samples(grad[part], planes[part], image[part], geometry, fancy, out[part], gradients)
            if table_gradient:
                steps = prepared_steps(image, tables_of(tables, part), quality)
                _differentiate_tables(image[part], gradients, steps, geometry, of_tables[part])
    return out, of_tables


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
    geometry = checked_geometry(image, horizontal, vertical)
    out = torch.empty_like(image)
    of_tables = image.new_zeros((len(image), 3, 8, 8) if table_gradient else 0, dtype=torch.float32)
    real = torch.float64 if image.dtype == torch.float64 else torch.float32
    with device_of(image):
        for part in parts_of(image, geometry):
            steps = prepared_steps(image, tables_of(tables, part), quality)
            gradients = image.new_zeros((len(image[part]), geometry.flag_offset), dtype=real)
            differentiate_samples(grad[part], planes[part], image[part], geometry, fancy, None, gradients)
            before = torch.empty_like(planes[part])
            make_samples(image[part], geometry, before)
            shares = make_shares(gradients, geometry, table_gradient)
            programs = (sum(programs_of(geometry)), len(gradients))
            differentiate_blocks[programs](
                components_of(before, geometry),
                gradients,
                *steps,
                slopes.contiguous(),
                shares,
                whole=is_whole(geometry),
                of_tables=table_gradient,
                size=SIZE,
                **OPTIONS,
            )
            emit_gradients(gradients, image[part], geometry, out[part], planes[part])
            if table_gradient:
                sum_shares(shares, geometry, of_tables[part])
    return out, of_tables


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
    emit_gradient[(triton.cdiv(runs, SIZE),)](
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
        size=SIZE,
        **WIDE_OPTIONS,
    )


def programs_of(geometry: Geometry) -> list[int]:
    """Counts for each component the programs that `place_component` places in it."""
    return [triton.cdiv(plane.coded_samples // 64, SIZE) for plane in (geometry.luma, *2 * [geometry.chroma])]


def make_shares(gradients: Tensor, geometry: Geometry, wanted: bool) -> Tensor:
    """Returns memory for the programs' shares of the tables' gradients."""
    return gradients.new_empty((len(gradients), sum(programs_of(geometry)), 64) if wanted else 0)


def sum_shares(shares: Tensor, geometry: Geometry, of_tables: Tensor) -> None:
    """Writes the tables' gradients ``(N, 3, 8, 8)``: the sums of shares, in one order."""
    of_luma, of_chroma, _ = programs_of(geometry)
    add_shares[(3, len(of_tables))](shares, of_tables, of_luma, of_chroma, **OPTIONS)


def _differentiate_tables(
    image: Tensor, gradients: Tensor, steps: tuple[Tensor, int], geometry: Geometry, of_tables: Tensor
) -> None:
    """Writes the tables' gradient ``(N, 3, 8, 8)`` of straight-through."""
    planes = image.new_empty((len(image), geometry.plane_bytes), dtype=torch.uint8)
    make_samples(image, geometry, planes)
    shares = make_shares(of_tables, geometry, True)
    share_of_blocks[(sum(programs_of(geometry)), len(image))](
        components_of(planes, geometry), gradients, *steps, shares, size=SIZE, **OPTIONS
    )
    sum_shares(shares, geometry, of_tables)
