"""The round trip and its straight-through backward in Triton: for GPUs where the library holds no CUDA kernels.

The bits are those of every other backend. This module launches the kernels. `forward` and `backward` hold them,
`arithmetic` and `upsampling` their common parts. `fdjpeg.reference` serves the other ops, in plain torch on the GPU.

Forward is four launches: one that prepares the steps, then colour and subsampling, the codec, upsampling and colour.
Triton gives no control over the numbers that a thread holds. Blocks and pixels in one kernel would therefore pass
through shared memory between the steps; here only 8-bit components pass, through the L2 cache. Backward is one launch.
The gradient of the tables takes three more, which compute the coefficients again, and sums of each component's shares.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fdjpeg._constants import constant
from fdjpeg._geometry import Geometry, geometry_of
from fdjpeg._standard_tables import STANDARD_CHROMA, STANDARD_LUMA, percentage

from .backward import differentiate, share_of_blocks
from .forward import code_planes, emit_image, make_components, prepare_steps
from .upsampling import Components, Samples

#: A fused multiplication and addition would round once where the codec rounds twice.
_OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": False}
#: Blocks, or runs of eight chroma samples: one for each thread of four warps.
_SIZE = 128
#: Pixels of a program of `make_components`: 16 for each thread, four for each 128-bit load.
_PIXELS = 2048
#: The most items that a kernel counts in 32 bits, with the surplus of the last program.
_MOST = 2**31 - 2048


def _upsampling(geometry: Geometry, fancy: bool) -> dict[str, Any]:
    """Returns the kernels' options: whether the triangle blends chroma across and down, and the kind of image."""
    wide_enough = geometry.chroma.width > 2
    return {
        "horizontal": geometry.horizontal,
        "vertical": geometry.vertical,
        "across": fancy and geometry.horizontal == 2 and wide_enough,
        "down": fancy and geometry.vertical == 2 and (geometry.horizontal == 1 or wide_enough),
        "grey": geometry.channels == 1,
        "whole": _is_whole(geometry),
    }


def _is_whole(geometry: Geometry) -> bool:
    """Returns whether the image consists of whole MCUs."""
    return geometry.height % (8 * geometry.vertical) == 0 and geometry.width % (8 * geometry.horizontal) == 0


def _samples(tensor: Tensor) -> Samples:
    return Samples(tensor, *tensor.stride())


def _components(planes: Tensor, geometry: Geometry) -> Components:
    luma = geometry.luma
    chroma = luma if geometry.channels == 1 else geometry.chroma
    return Components(
        planes,
        geometry.plane_bytes,
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


def _runs(geometry: Geometry) -> int:
    """Counts the runs of eight samples in a chroma component of an image; in luma if it is grey."""
    plane = geometry.luma if geometry.channels == 1 else geometry.chroma
    return plane.height * plane.columns


def _geometry(image: Tensor, horizontal: int, vertical: int) -> Geometry:
    """Returns the geometry of an image, or raises if a kernel cannot count its parts in 32 bits."""
    geometry = geometry_of(image, horizontal, vertical)
    if geometry.flag_offset // 8 > _MOST:
        size = f"{geometry.height} × {geometry.width}"
        raise ValueError(f"image must have at most {_MOST} rows of eight samples for the Triton kernels, got {size}")
    return geometry


def _parts(image: Tensor, geometry: Geometry) -> list[slice]:
    """Returns the images of each launch: a grid's second extent is below 2¹⁶."""
    most = min(_MOST // max(geometry.flag_offset // 8, 1), 2**16 - 1)
    return [slice(first, first + most) for first in range(0, len(image), most)] if image.numel() else []


def _tables_of(tables: Tensor | None, part: slice) -> Tensor | None:
    """Returns the tables of a part of the images."""
    return tables if tables is None or len(tables) == 1 else tables[part]


def _steps(image: Tensor, tables: Tensor | None, quality: float) -> tuple[Tensor, int]:
    """Prepares the tables for the kernels; also returns their number, one if they serve all images."""
    images = 1 if tables is None else len(tables)
    steps = torch.empty((images, 3, 3, 64), dtype=torch.int32, device=image.device)
    base = constant((STANDARD_LUMA, STANDARD_CHROMA), torch.int32, image)
    given = base if tables is None else tables.contiguous()
    count = images * 192
    prepare_steps[(triton.cdiv(count, _SIZE),)](
        base, given, int(percentage(quality)), steps, count, has_tables=tables is not None, size=_SIZE, **_OPTIONS
    )
    return steps, images


def round_trip(
    image: Tensor, tables: Tensor | None, quality: float, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::round_trip``; arguments and results as for `fdjpeg.reference.round_trip`."""
    geometry = _geometry(image, horizontal, vertical)
    out = torch.empty_like(image)
    planes = image.new_empty((len(image), geometry.plane_bytes), dtype=torch.uint8)
    with torch.cuda.device_of(image):
        for part in _parts(image, geometry):
            steps = _steps(image, _tables_of(tables, part), quality)
            _round_trip(image[part], steps, geometry, fancy, out[part], planes[part])
    return out, planes


def _round_trip(
    image: Tensor, steps: tuple[Tensor, int], geometry: Geometry, fancy: bool, out: Tensor, planes: Tensor
) -> None:
    """Launches the kernels of `round_trip`."""
    images = len(image)
    components = _components(planes, geometry)
    _make_components(image, geometry, planes)
    blocks = images * (geometry.flag_offset // 64)
    code_planes[(triton.cdiv(blocks, _SIZE),)](components, *steps, blocks, size=_SIZE, **_OPTIONS)
    runs = images * _runs(geometry)
    emit_image[(triton.cdiv(runs, _SIZE),)](
        components, _samples(out), runs, **_upsampling(geometry, fancy), size=_SIZE, **_OPTIONS
    )


def _make_components(image: Tensor, geometry: Geometry, planes: Tensor) -> None:
    """Writes the components that the codec takes, and the flags."""
    mcus = len(image) * geometry.mcu_rows * geometry.mcu_columns
    size = _PIXELS // (64 * geometry.horizontal * geometry.vertical)
    make_components[(triton.cdiv(mcus, size),)](
        _samples(image),
        _components(planes, geometry),
        mcus,
        horizontal=geometry.horizontal,
        vertical=geometry.vertical,
        grey=geometry.channels == 1,
        whole=_is_whole(geometry),
        size=size,
        **_OPTIONS,
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
    geometry = _geometry(image, horizontal, vertical)
    out = torch.empty_like(image)
    of_tables = image.new_zeros((len(image), 3, 8, 8) if table_gradient else 0, dtype=torch.float32)
    real = torch.float64 if image.dtype == torch.float64 else torch.float32
    with torch.cuda.device_of(image):
        for part in _parts(image, geometry):
            gradients = image.new_zeros((len(image[part]), geometry.flag_offset) if table_gradient else 0, dtype=real)
            _differentiate(grad[part], planes[part], image[part], geometry, fancy, out[part], gradients)
            if table_gradient:
                steps = _steps(image, _tables_of(tables, part), quality)
                _differentiate_tables(image[part], gradients, steps, geometry, of_tables[part])
    return out, of_tables


def _differentiate(
    grad: Tensor, planes: Tensor, image: Tensor, geometry: Geometry, fancy: bool, out: Tensor, gradients: Tensor
) -> None:
    """Writes the image's gradient, and those of its components if `gradients` holds any."""
    runs = len(image) * _runs(geometry)
    # The masks at edges take about twice the registers, and so do doubles.
    size = _SIZE // (1 if _is_whole(geometry) else 2) // (1 if gradients.dtype == torch.float32 else 2)
    differentiate[(triton.cdiv(runs, size),)](
        _samples(grad),
        _components(planes, geometry),
        _samples(image),
        _samples(out),
        gradients,
        runs,
        **_upsampling(geometry, fancy),
        keep=gradients.numel() > 0,
        real=tl.float64 if gradients.dtype == torch.float64 else tl.float32,
        size=size,
        **_OPTIONS | {"num_warps": 8},  # its sums do not fit in the registers of four
    )


def _differentiate_tables(
    image: Tensor, gradients: Tensor, steps: tuple[Tensor, int], geometry: Geometry, of_tables: Tensor
) -> None:
    """Writes the tables' gradient ``(N, 3, 8, 8)``: shares of a few blocks each, summed in one order."""
    planes = image.new_empty((len(image), geometry.plane_bytes), dtype=torch.uint8)
    _make_components(image, geometry, planes)
    of_each = [triton.cdiv(plane.coded_samples // 64, _SIZE) for plane in (geometry.luma, *2 * [geometry.chroma])]
    shares = image.new_empty((len(image), sum(of_each), 64), dtype=torch.float32)
    share_of_blocks[(sum(of_each), len(image))](
        _components(planes, geometry), gradients, *steps, shares, size=_SIZE, **_OPTIONS
    )
    for component, of_component in enumerate(shares.split(of_each, 1)):
        of_tables[:, component] = of_component.sum(1).unflatten(1, (8, 8)).mT
