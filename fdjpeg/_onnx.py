"""JPEG as a graph of standard operators, so that a model exported to ONNX runs where fdjpeg is not installed.

While ``torch.onnx.export(model, inputs, dynamo=True)`` traces a model, `fdjpeg.ops` uses the functions of this module,
so users pass nothing else. (A program that `torch.export` made holds fdjpeg's own ops, for which ONNX has no name:
export the model itself.) A quality that is a number, and tables that belong to the model, are constants of the graph.
Batch, height and width are free where ``dynamic_shapes`` makes them free. A graph holds the forward pass only, so
``gradient`` matters to it only with ``soft=True``.

The integers of "libjpeg" are computed in float64, which holds them and all their sums exactly. So the graph consists of
8×8 matrix products, multiplications and floors, which every runtime has. (ONNX shifts unsigned integers only.)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

from fdjpeg import reference
from fdjpeg._geometry import BLOCK, Geometry, Plane, geometry_of
from fdjpeg._slopes import Formula, surrogate_of
from fdjpeg.reference.exact import _ISLOW, _fix
from fdjpeg.reference.geometry import (
    component_planes,
    near_samples,
    subsampled_columns,
    subsampled_rows,
)
from fdjpeg.reference.linear import transposed
from fdjpeg.reference.real import _DCT
from fdjpeg.reference.tables import real_tables, standard_tables_by_block, steps_of


def exporting() -> bool:
    """Whether `torch.onnx.export` is tracing, which has no translation for fdjpeg's ops."""
    return "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()


# ---------------------------------------------------------------------------------------------------------------------
# The ops. Their second result is for backward, which a graph does not have: it is empty.
# ---------------------------------------------------------------------------------------------------------------------


def round_trip(
    image: Tensor, tables: Tensor | None, quality: float, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor]:
    """The op ``fdjpeg::round_trip``; arguments and first result as for `fdjpeg.reference.round_trip`."""
    steps = steps_of(tables, quality, image)
    return _exact(image, steps, geometry_of(image, horizontal, vertical), fancy), image.new_empty(0)


def round_trip_by_block(
    image: Tensor, qualities: Tensor, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor]:
    """The op ``fdjpeg::round_trip_by_block``; as for `fdjpeg.reference.round_trip_by_block`."""
    geometry = geometry_of(image, horizontal, vertical)
    steps = standard_tables_by_block(qualities, geometry)
    return _exact(image, steps, geometry, fancy), image.new_empty(0)


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
    """The op ``fdjpeg::real_round_trip``; as for `fdjpeg.reference.real_round_trip`, computed in float64."""
    steps = real_tables(tables, quality, soft, image)
    rounding = surrogate_of(Formula(surrogate, parameter, floor)).forward if soft else torch.round
    return _real(image, steps, geometry_of(image, horizontal, vertical), fancy, rounding), image.new_empty(0)


# ---------------------------------------------------------------------------------------------------------------------
# Both arithmetics, in float64. Luma is one group of components, Cb and Cr are another: ``(N, 1 or 2, height, width)``.
# ---------------------------------------------------------------------------------------------------------------------


class _Group(NamedTuple):
    """Components of one size."""

    samples: Tensor
    table: Tensor
    plane: Plane
    horizontal: int
    vertical: int


def _groups(samples: Tensor, steps: Tensor | Sequence[Tensor], geometry: Geometry) -> Iterator[_Group]:
    """Luma, and chroma if there is any, each with its tables as its blocks take them."""
    for components, (plane, horizontal, vertical) in zip(
        (slice(0, 1), slice(1, 3)), component_planes(geometry)[:2], strict=False
    ):
        if isinstance(steps, Tensor):
            table = steps[:, components, None, None]
        else:
            table = torch.stack(list(steps[components]), 1)
        yield _Group(samples[:, components], table.double(), plane, horizontal, vertical)


def _exact(image: Tensor, steps: Tensor | Sequence[Tensor], geometry: Geometry, fancy: bool) -> Tensor:
    """libjpeg's integers, step by step as in `fdjpeg.reference.exact`."""
    components = []
    for group in _groups(_exact_ycbcr(_bytes(image)), steps, geometry):
        transformed = _exact_transform(_to_blocks(_exact_averages(group, geometry) - 128, group.plane), _ISLOW, 11, 15)
        levels = transformed.sign() * ((transformed.abs() + 4 * group.table) / (8 * group.table)).floor()
        decoded = _exact_transform((levels * group.table).mT, transposed(_ISLOW), 11, 18).mT
        samples = _from_blocks((decoded + 128).clamp(0, 255), group.plane)
        components.append(_exact_upsampled(samples, group, geometry, fancy))
    rgb = _exact_rgb(torch.cat(components, 1)).clamp(0, 255)
    if image.dtype == torch.uint8:
        return rgb.to(torch.uint8)
    return (rgb.to(reference.real_dtype(image)) / 255).to(image.dtype)


def _real(
    image: Tensor, steps: Tensor, geometry: Geometry, fancy: bool, rounding: Callable[[Tensor], Tensor]
) -> Tensor:
    """Real numbers, step by step as in `fdjpeg.reference.real`."""
    samples = image.double() if image.dtype == torch.uint8 else 255 * image.double()
    if geometry.channels == 3:
        samples = reference.real_rgb_to_ycbcr(samples)
    components = []
    for group in _groups(samples - 128 * _is_luma(samples), steps, geometry):
        averages = _sums(group, geometry) / (group.horizontal * group.vertical)
        transformed = _both_ways(_to_blocks(averages, group.plane), _DCT)
        coefficients = rounding(transformed / group.table) * group.table
        decoded = _from_blocks(_both_ways(coefficients, transposed(_DCT)), group.plane)
        total, weight = _upsampled(decoded, group, geometry, fancy)
        components.append(total / weight)
    samples = torch.cat(components, 1)
    samples = samples + 128 * _is_luma(samples)
    if geometry.channels == 3:
        samples = reference.real_ycbcr_to_rgb(samples)
    samples = samples.clamp(0, 255)
    return samples.round().to(torch.uint8) if image.dtype == torch.uint8 else (samples / 255).to(image.dtype)


def _is_luma(samples: Tensor) -> Tensor:
    """1 for the first component and 0 for the others, ``(components, 1, 1)``."""
    components = [float(i == 0) for i in range(samples.size(1))]
    return torch.tensor(components, dtype=samples.dtype, device=samples.device)[:, None, None]


def _to_blocks(samples: Tensor, plane: Plane) -> Tensor:
    """A group of coded size cut into blocks, ``(N, components, rows, columns, 8, 8)``."""
    batch, components = samples.shape[:2]
    return samples.reshape(batch, components, plane.rows, BLOCK, plane.columns, BLOCK).transpose(3, 4)


def _from_blocks(blocks: Tensor, plane: Plane) -> Tensor:
    """The inverse of `_to_blocks`."""
    batch, components = blocks.shape[:2]
    return blocks.transpose(3, 4).reshape(batch, components, plane.rows * BLOCK, plane.columns * BLOCK)


def _rows_times(blocks: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """A matrix applied to each row of the blocks, as one product for all of them."""
    return blocks @ torch.tensor(transposed(matrix), dtype=blocks.dtype, device=blocks.device)


def _both_ways(blocks: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """A matrix applied along the rows and the columns of the blocks."""
    return _rows_times(_rows_times(blocks, matrix).mT, matrix).mT


def _sums(group: _Group, geometry: Geometry) -> Tensor:
    """The sums of the samples that each sample of the coded components averages."""
    device = group.samples.device
    rows = subsampled_rows(geometry, group.plane, group.vertical, device)
    columns = subsampled_columns(geometry, group.plane, group.horizontal, device)
    sums = reduce(add, [group.samples.index_select(2, row) for row in rows])
    return reduce(add, [sums.index_select(3, column) for column in columns])


def _upsampled(samples: Tensor, group: _Group, geometry: Geometry, fancy: bool) -> tuple[Tensor, int]:
    """A decoded group at the image's size, as sums with the triangle's weights, and what to divide them by."""
    rows = near_samples(geometry.height, group.vertical, samples.device)
    columns = near_samples(geometry.width, group.horizontal, samples.device)
    near_rows = samples.index_select(2, rows)
    if not fancy or (group.horizontal, group.vertical) not in ((2, 1), (1, 2), (2, 2)):
        return near_rows.index_select(3, columns), 1
    # libjpeg repeats chroma of one or two columns. Whether it is so may be unknown here, so the farther sample is
    # chosen to be the nearer one then: (3 x + x) / 4 is x.
    blends = (columns if group.horizontal == 2 else rows + 2)[-1:] > 1
    weight = 1
    if group.vertical == 2:
        near_rows = 3 * near_rows + samples.index_select(2, _far_samples(rows, blends))
        weight *= 4
    near = near_rows.index_select(3, columns)
    if group.horizontal == 2:
        near = 3 * near + near_rows.index_select(3, _far_samples(columns, blends))
        weight *= 4
    return near, weight


def _far_samples(near: Tensor, blends: Tensor) -> Tensor:
    """`fdjpeg.reference.geometry.far_samples` beside `near_samples`; the near ones again where nothing blends."""
    odd = torch.arange(near.size(0), device=near.device) % 2
    return torch.where(blends, torch.minimum((near + 2 * odd - 1).clamp(min=0), near[-1:]), near)


# ---------------------------------------------------------------------------------------------------------------------
# libjpeg's integers. A shift to the right is a division by a power of two, which is exact, and a floor.
# ---------------------------------------------------------------------------------------------------------------------


def _shifted(integers: Tensor, bits: int) -> Tensor:
    """``(integers + half) >> bits``."""
    return ((integers + (1 << (bits - 1))) / (1 << bits)).floor()


def _bytes(image: Tensor) -> Tensor:
    """As `fdjpeg.reference.to_bytes`."""
    if image.dtype == torch.uint8:
        return image.double()
    scaled = 255 * image.to(reference.real_dtype(image))
    return torch.where(scaled.isnan(), 0, scaled).round().clamp(0, 255).double()


def _exact_ycbcr(samples: Tensor) -> Tensor:
    """As `fdjpeg.reference.rgb_to_ycbcr`, in one tensor."""
    if samples.size(1) == 1:
        return samples
    r, g, b = samples.unbind(1)
    y = _fix(0.29900) * r + _fix(0.58700) * g + _fix(0.11400) * b
    centre = (128 << 16) - 1  # one less than half: libjpeg keeps 0.5 r from reaching 256
    cb = -_fix(0.16874) * r - _fix(0.33126) * g + _fix(0.50000) * b + centre
    cr = _fix(0.50000) * r - _fix(0.41869) * g - _fix(0.08131) * b + centre
    return _shifted(torch.stack([y, cb, cr], 1), 16)


def _exact_rgb(samples: Tensor) -> Tensor:
    """As `fdjpeg.reference.exact.ycbcr_to_rgb`."""
    if samples.size(1) == 1:
        return samples
    y, cb, cr = samples.unbind(1)
    cb, cr = cb - 128, cr - 128
    r, g, b = _fix(1.40200) * cr, -_fix(0.34414) * cb - _fix(0.71414) * cr, _fix(1.77200) * cb
    return y[:, None] + _shifted(torch.stack([r, g, b], 1), 16)


def _exact_transform(blocks: Tensor, matrix: Sequence[Sequence[int]], first: int, second: int) -> Tensor:
    """Both passes of an integer DCT, rows then columns, each with its shift."""
    return _shifted(_rows_times(_shifted(_rows_times(blocks, matrix), first).mT, matrix), second).mT


def _exact_averages(group: _Group, geometry: Geometry) -> Tensor:
    """As `fdjpeg.reference.exact.subsample` (``jcsample``)."""
    sums, count = _sums(group, geometry), group.horizontal * group.vertical
    if count == 1:
        return sums
    odd = torch.arange(sums.size(3), device=sums.device) % 2
    bias = {(2, 1): odd, (2, 2): 1 + odd}.get((group.horizontal, group.vertical), count // 2)
    return ((sums + bias) / count).floor()


def _exact_upsampled(samples: Tensor, group: _Group, geometry: Geometry, fancy: bool) -> Tensor:
    """As `fdjpeg.reference.exact.upsample` (``jdsample``)."""
    sums, weight = _upsampled(samples, group, geometry, fancy)
    if weight == 1:
        return sums
    odd_row = (torch.arange(geometry.height, device=sums.device) % 2)[:, None]
    odd_column = torch.arange(geometry.width, device=sums.device) % 2
    bias = {(1, 2): 1 + odd_row, (2, 1): 1 + odd_column, (2, 2): 8 - odd_column}[group.horizontal, group.vertical]
    return ((sums + bias) / weight).floor()
