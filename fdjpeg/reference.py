"""The oracle: JPEG in plain torch, slow and obvious, on any device.

Two arithmetics share one geometry. The integer functions are libjpeg-turbo's, step by step and bit by bit; those named
``real_…`` are the same steps in real numbers, `real_pipeline` with gradients by autograd; `exact_with_surrogate` joins
the two: the integers' values, the real numbers' derivatives. A function that bears an op's name has that op's signature
and stands in for it wherever no kernel is registered.

Shapes: a component is ``(N, height, width)``; blocks are ``(N, rows, columns, 8, 8)``, indexed by [vertical frequency,
horizontal frequency] once they are transformed. Integers are int32 tensors, whose arithmetic wraps around.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any, TypeVar

import torch
from torch import Tensor

from ._geometry import BLOCK, Geometry, Plane
from ._standard_tables import STANDARD_CHROMA, STANDARD_LUMA
from .surrogates import Formula, Surrogate, hard_rounding, interpolate_slopes, surrogate_of

_Number = TypeVar("_Number", int, float)

# ---------------------------------------------------------------------------------------------------------------------
# Quantization tables
# ---------------------------------------------------------------------------------------------------------------------


def standard_tables(quality: float, device: torch.device) -> Tensor:
    """The tables of libjpeg at ``quality``, which acts as the nearest number in 1…100: int32 ``(1, 3, 8, 8)``."""
    quality = min(100.0, max(1.0, quality))
    scale = math.floor(5000 / quality) if quality < 50 else math.floor(200 - 2 * quality)
    base = torch.tensor([[STANDARD_LUMA, STANDARD_CHROMA, STANDARD_CHROMA]], dtype=torch.int32, device=device)
    return ((base * scale + 50) // 100).clamp(1, 255)


def integer_tables(tables: Tensor) -> Tensor:
    """The steps as which floating ``tables`` act: rounded half to even, within 1…255, NaN as 1; int32."""
    return tables.nan_to_num(nan=1.0).round().clamp(1, 255).to(torch.int32)


def _steps(tables: Tensor | None, quality: float, device: torch.device) -> Tensor:
    return standard_tables(quality, device) if tables is None else integer_tables(tables)


def standard_tables_by_block(qualities: Tensor, geometry: Geometry) -> list[Tensor]:
    """The tables of libjpeg at a quality of each block's own, which acts as the nearest in 1…100.

    Args:
        qualities: of luma's blocks, ``(N, rows, columns)``, of an integer dtype.

    Returns:
        As `tables_by_block`, int32.
    """
    quality = qualities.to(torch.int32).clamp(1, 100)
    scale = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)[..., None, None, None]
    base = torch.tensor([STANDARD_LUMA, STANDARD_CHROMA, STANDARD_CHROMA], dtype=torch.int32, device=qualities.device)
    return tables_by_block(((base * scale + 50) // 100).clamp(1, 255), geometry)


def tables_by_block(tables: Tensor, geometry: Geometry) -> list[Tensor]:
    """Each component's tables from those at luma's blocks: a block of chroma takes its top-left block of luma.

    Args:
        tables: for Y, Cb and Cr, ``(N, rows, columns, 3, 8, 8)``, rows and columns of luma's blocks.

    Returns:
        For each component, ``(N, rows, columns, 8, 8)``, rows and columns of its own.
    """
    return [
        tables[:, ::vertical, ::horizontal, i]
        for i, (_, horizontal, vertical) in enumerate(_component_planes(geometry))
    ]


def _table(tables: Tensor | Sequence[Tensor], component: int) -> Tensor:
    """One component's tables, to be broadcast over its blocks: ``(1 or N, 1, 1, 8, 8)``; or those of each block."""
    return tables[:, component, None, None] if isinstance(tables, Tensor) else tables[component]


# ---------------------------------------------------------------------------------------------------------------------
# Samples and colour, in integers
# ---------------------------------------------------------------------------------------------------------------------


def real_dtype(image: Tensor) -> torch.dtype:
    """What real numbers about an image are computed in: float64 for float64, else float32."""
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def to_bytes(image: Tensor) -> Tensor:
    """The bytes of an image, int32: ``rint(255 x)``, saturating, NaN as 0; a uint8 image holds them already."""
    if image.dtype == torch.uint8:
        return image.to(torch.int32)
    scaled = 255 * image.to(real_dtype(image))
    return scaled.nan_to_num(nan=0.0).round().clamp(0, 255).to(torch.int32)


def from_bytes(samples: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `to_bytes`: ``byte / 255`` correctly rounded in float32 (float64 for float64), then ``dtype``."""
    if dtype == torch.uint8:
        return samples.to(torch.uint8)
    samples = samples.to(torch.float64 if dtype == torch.float64 else torch.float32)
    # By a tensor, because a GPU divides by a number as a multiplication with its rounded reciprocal.
    return (samples / torch.full_like(samples, 255)).to(dtype)


def _fix(constant: float) -> int:
    """A colour constant with 16 fractional bits."""
    return int(constant * 65536 + 0.5)


def rgb_to_ycbcr(samples: Tensor) -> list[Tensor]:
    """Bytes ``(N, 3, H, W)`` to the components Y, Cb, Cr of 0…255; a grey image ``(N, 1, H, W)`` is its own Y."""
    if samples.size(1) == 1:
        return [samples[:, 0]]
    r, g, b = samples.unbind(1)
    half = 1 << 15
    centre = (128 << 16) + half - 1  # one less than half: libjpeg keeps 0.5 r from reaching 256
    return [
        (_fix(0.29900) * r + _fix(0.58700) * g + _fix(0.11400) * b + half) >> 16,
        (-_fix(0.16874) * r - _fix(0.33126) * g + _fix(0.50000) * b + centre) >> 16,
        (_fix(0.50000) * r - _fix(0.41869) * g - _fix(0.08131) * b + centre) >> 16,
    ]


def ycbcr_to_rgb(components: Sequence[Tensor]) -> Tensor:
    """Components of one size to samples ``(N, 3 or 1, H, W)``, not yet limited to 0…255."""
    if len(components) == 1:
        return torch.stack([components[0]], 1)
    y, cb, cr = components
    cb, cr = cb - 128, cr - 128
    half = 1 << 15
    r = y + ((_fix(1.40200) * cr + half) >> 16)
    g = y + ((-_fix(0.34414) * cb - _fix(0.71414) * cr + half) >> 16)
    b = y + ((_fix(1.77200) * cb + half) >> 16)
    return torch.stack([r, g, b], 1)


# ---------------------------------------------------------------------------------------------------------------------
# Geometry: which samples stand where. Both arithmetics use these, so that they cannot disagree.
# ---------------------------------------------------------------------------------------------------------------------


def _geometry(image: Tensor, horizontal: int, vertical: int) -> Geometry:
    _, channels, height, width = image.shape
    return Geometry.of(height, width, channels, horizontal, vertical)


def _component_planes(geometry: Geometry) -> list[tuple[Plane, int, int]]:
    """Each component's plane and its own subsampling factors, horizontal and vertical."""
    luma = [(geometry.luma, 1, 1)]
    chroma = [(geometry.chroma, geometry.horizontal, geometry.vertical)]
    return luma if geometry.channels == 1 else luma + 2 * chroma


def _subsampled_columns(geometry: Geometry, plane: Plane, factor: int, device: torch.device) -> list[Tensor]:
    """For each of ``factor`` taps, the image's column that it takes for each column of the coded component.

    The image's last column is replicated first, as far as the coded component needs, and then averaged.
    """
    first = factor * torch.arange(plane.columns * BLOCK, device=device)
    return [(first + tap).clamp(max=geometry.width - 1) for tap in range(factor)]


def _subsampled_rows(geometry: Geometry, plane: Plane, factor: int, device: torch.device) -> list[Tensor]:
    """For each of ``factor`` taps, the image's row that it takes for each row of the coded component.

    The image's last row is replicated only to complete the component's last true row; that row is then replicated.
    """
    first = factor * torch.arange(plane.rows * BLOCK, device=device).clamp(max=plane.height - 1)
    return [(first + tap).clamp(max=geometry.height - 1) for tap in range(factor)]


def _triangle(geometry: Geometry, fancy: bool) -> bool:
    """Whether chroma is upsampled by libjpeg's triangle filter; if not, samples are repeated."""
    if not fancy:
        return False
    factors = (geometry.horizontal, geometry.vertical)
    return factors == (1, 2) or (factors in ((2, 1), (2, 2)) and geometry.chroma.width > 2)


def _near(size: int, factor: int, device: torch.device) -> Tensor:
    """The component's sample that covers each of an image's ``size`` rows or columns."""
    return torch.arange(size, device=device) // factor


def _far(size: int, true_size: int, device: torch.device) -> Tensor:
    """At factor 2, the next nearest sample for each of ``size`` rows or columns; at the edge, the nearest again."""
    position = torch.arange(size, device=device)
    return (position // 2 + 2 * (position % 2) - 1).clamp(0, true_size - 1)


def to_blocks(component: Tensor) -> Tensor:
    """A component of coded size, ``(N, 8 rows, 8 columns)``, cut into blocks."""
    batch, height, width = component.shape
    return component.reshape(batch, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(2, 3)


def from_blocks(blocks: Tensor) -> Tensor:
    """The inverse of `to_blocks`."""
    batch, rows, columns, _, _ = blocks.shape
    return blocks.transpose(2, 3).reshape(batch, rows * BLOCK, columns * BLOCK)


# ---------------------------------------------------------------------------------------------------------------------
# Resampling, in integers
# ---------------------------------------------------------------------------------------------------------------------


def subsample(component: Tensor, geometry: Geometry, plane: Plane, horizontal: int, vertical: int) -> Tensor:
    """A full-size component ``(N, H, W)`` padded and averaged to its coded size."""
    rows = _subsampled_rows(geometry, plane, vertical, component.device)
    columns = _subsampled_columns(geometry, plane, horizontal, component.device)
    total = reduce(add, [component.index_select(1, row).index_select(2, column) for row in rows for column in columns])
    count = horizontal * vertical
    parity = torch.arange(total.size(2), dtype=torch.int32, device=component.device) % 2
    if (horizontal, vertical) == (2, 1):
        bias = parity
    elif (horizontal, vertical) == (2, 2):
        bias = 1 + parity
    else:
        bias = torch.full_like(parity, count // 2)
    return (total + bias) // count


def upsample(component: Tensor, geometry: Geometry, horizontal: int, vertical: int, fancy: bool) -> Tensor:
    """A component of true size brought to the image's ``(N, H, W)``."""
    device, height, width = component.device, geometry.height, geometry.width
    _, true_height, true_width = component.shape
    near_rows = component.index_select(1, _near(height, vertical, device))
    near_columns = _near(width, horizontal, device)
    if (horizontal, vertical) == (1, 1) or not _triangle(geometry, fancy):
        return near_rows.index_select(2, near_columns)

    odd_row = (torch.arange(height, dtype=torch.int32, device=device) % 2)[:, None]
    odd_column = torch.arange(width, dtype=torch.int32, device=device) % 2
    if vertical == 2:
        rows = 3 * near_rows + component.index_select(1, _far(height, true_height, device))
        if horizontal == 1:
            return (rows + 1 + odd_row) >> 2
    else:
        rows = near_rows
    columns = 3 * rows.index_select(2, near_columns) + rows.index_select(2, _far(width, true_width, device))
    return (columns + 8 - odd_column) >> 4 if vertical == 2 else (columns + 1 + odd_column) >> 2


# ---------------------------------------------------------------------------------------------------------------------
# Transform and quantization, in integers
# ---------------------------------------------------------------------------------------------------------------------


def _islow_matrix() -> list[list[int]]:
    """One pass of libjpeg's accurate DCT ("islow") as an 8×8 integer matrix: √8 · 2¹³ times the orthonormal DCT-II.

    The butterfly of Loeffler, Ligtenberg and Moschytz (ICASSP 1989), multiplied out over its rotations; each constant
    is rounded to 13 fractional bits on its own, so entries that are equal in real numbers can differ by one.
    """

    def fix(constant: float) -> int:
        return int(constant * 8192 + 0.5)

    one = fix(1.0)
    even = {  # rows by the sums s0 + s7, s1 + s6, s2 + s5, s3 + s4
        0: [one, one, one, one],
        4: [one, -one, -one, one],
    }
    rotation = fix(0.541196100)
    high, low = rotation + fix(0.765366865), rotation - fix(1.847759065)
    even[2] = [high, rotation, -rotation, -high]
    even[6] = [rotation, low, -low, -rotation]

    shared = fix(1.175875602)
    z1, z2 = shared - fix(0.899976223), shared - fix(2.562915447)
    z3, z4 = shared - fix(1.961570560), shared - fix(0.390180644)
    odd = {  # rows by the differences s0 - s7, s1 - s6, s2 - s5, s3 - s4
        1: [z1 + z4 - shared + fix(1.501321110), shared, z4, z1],
        3: [shared, z2 + z3 - shared + fix(3.072711026), z2, z3],
        5: [z4, z2, z2 + z4 - shared + fix(2.053119869), shared],
        7: [z1, z3, shared, z1 + z3 - shared + fix(0.298631336)],
    }
    rows = {k: row + row[::-1] for k, row in even.items()} | {
        k: row + [-x for x in row[::-1]] for k, row in odd.items()
    }
    return [rows[k] for k in range(BLOCK)]


_ISLOW = _islow_matrix()


def _transposed(matrix: Sequence[Sequence[_Number]]) -> list[list[_Number]]:
    return [list(column) for column in zip(*matrix, strict=True)]


def _linear(matrix: Sequence[Sequence[float]], x: Tensor, dim: int) -> Tensor:
    """A matrix applied along ``dim``. Not by ``matmul``: a GPU has none for integers, and autocast would lower it."""
    inputs = x.unbind(dim)
    return torch.stack([reduce(add, [m * s for m, s in zip(row, inputs, strict=True)]) for row in matrix], dim)


def _pass(matrix: Sequence[Sequence[int]], x: Tensor, dim: int, shift: int) -> Tensor:
    """One pass of an integer DCT: an exact linear map, then one rounding shift to the right."""
    return (_linear(matrix, x, dim) + (1 << (shift - 1))) >> shift


def fdct(blocks: Tensor) -> Tensor:
    """The forward DCT of level-shifted samples, rows then columns: 8 times the orthonormal one (``jfdctint``)."""
    return _pass(_ISLOW, _pass(_ISLOW, blocks, -1, 11), -2, 15)


def idct(blocks: Tensor) -> Tensor:
    """The inverse DCT, columns then rows, level-shifted back and limited to 0…255 (``jidctint``)."""
    inverse = _transposed(_ISLOW)
    return (_pass(inverse, _pass(inverse, blocks, -2, 11), -1, 18) + 128).clamp(0, 255)


def quantize(blocks: Tensor, steps: Tensor) -> Tensor:
    """`fdct`'s output in steps, rounded half away from zero."""
    return blocks.sign() * ((blocks.abs() + 4 * steps) // (8 * steps))


def dequantize(coefficients: Tensor, steps: Tensor) -> Tensor:
    """Coefficients by their steps; saturated, so that no coefficients, however hostile, are harmful."""
    return (coefficients * steps).clamp(-32767, 32767)


# ---------------------------------------------------------------------------------------------------------------------
# The ops, in integers
# ---------------------------------------------------------------------------------------------------------------------


def _transformed(image: Tensor, geometry: Geometry) -> list[Tensor]:
    """`fdct`'s output for each component."""
    components = rgb_to_ycbcr(to_bytes(image))
    return [
        fdct(to_blocks(subsample(component, geometry, plane, horizontal, vertical) - 128))
        for component, (plane, horizontal, vertical) in zip(components, _component_planes(geometry), strict=True)
    ]


def _quantized(image: Tensor, steps: Tensor | Sequence[Tensor], geometry: Geometry) -> list[Tensor]:
    """The coefficients of each component."""
    return [quantize(blocks, _table(steps, i)) for i, blocks in enumerate(_transformed(image, geometry))]


def _decoded(coefficients: Sequence[Tensor], steps: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Each component's decoded samples at its coded size."""
    return [from_blocks(idct(dequantize(k, _table(steps, i)))) for i, k in enumerate(coefficients)]


def _unlimited_rgb(decoded: Sequence[Tensor], geometry: Geometry, fancy: bool) -> Tensor:
    """Decoded components to ``(N, C, H, W)`` before the last limiting to 0…255."""
    return ycbcr_to_rgb(
        [
            upsample(component[:, : plane.height, : plane.width], geometry, horizontal, vertical, fancy)
            for component, (plane, horizontal, vertical) in zip(decoded, _component_planes(geometry), strict=True)
        ]
    )


def _flags(image: Tensor, geometry: Geometry) -> Tensor:
    """For each MCU, whether one of the image's samples in it is NaN or above 1: bool ``(N, MCU rows, MCU columns)``."""
    odd = torch.zeros_like(image, dtype=torch.bool) if image.dtype == torch.uint8 else ~(image <= 1)
    height, width = BLOCK * geometry.vertical, BLOCK * geometry.horizontal
    rows = torch.arange(geometry.mcu_rows * height, device=image.device).clamp(max=geometry.height - 1)
    columns = torch.arange(geometry.mcu_columns * width, device=image.device).clamp(max=geometry.width - 1)
    padded = odd.any(1).index_select(1, rows).index_select(2, columns)
    return padded.reshape(-1, geometry.mcu_rows, height, geometry.mcu_columns, width).any(4).any(2)


def _pack_planes(decoded: Sequence[Tensor], flags: Tensor, geometry: Geometry) -> Tensor:
    """What `Geometry.plane_bytes` describes: uint8 ``(N, plane_bytes)``."""
    parts = [part.to(torch.uint8).flatten(1) for part in [*decoded, flags]]
    padding = geometry.plane_bytes - sum(part.size(1) for part in parts)
    return torch.cat([*parts, parts[0].new_zeros(flags.size(0), padding)], 1)


def _unpack_planes(planes: Tensor, geometry: Geometry) -> list[Tensor]:
    """The decoded components in `_pack_planes`'s output."""
    decoded, start = [], 0
    for plane, _, _ in _component_planes(geometry):
        samples = planes[:, start : start + plane.coded_samples].to(torch.int32)
        decoded.append(samples.reshape(-1, plane.rows * BLOCK, plane.columns * BLOCK))
        start += plane.coded_samples
    return decoded


def round_trip(
    image: Tensor, tables: Tensor | None, quality: float, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor]:
    """The op ``fdjpeg::round_trip``: an image through libjpeg's encoder and decoder, without the lossless part.

    Args:
        image: ``(N, C, H, W)``, C 1 or 3, uint8 or floating, any strides.
        tables: ``(1 or N, 3, 8, 8)`` steps for Y, Cb, Cr, row-major by [vertical, horizontal] frequency, acting as
            `integer_tables`; or None for the standard ones.
        quality: 1…100, read only where ``tables`` is None.
        horizontal: the sampling factor of luma against chroma along rows: 1, 2 or 4.
        vertical: the same along columns: 1 or 2.
        fancy: whether chroma is upsampled by the triangle filter rather than repeated.

    Returns:
        The image, as ``torch.empty_like(image)`` is laid out, and what backward needs: uint8 ``(N, plane_bytes)``.
    """
    return _round_trip(image, _steps(tables, quality, image.device), horizontal, vertical, fancy)


def round_trip_by_block(
    image: Tensor, qualities: Tensor, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor]:
    """The op ``fdjpeg::round_trip_by_block``: `round_trip` with a quality of each block's own.

    Args:
        image: as for `round_trip`.
        qualities: of luma's blocks, uint8 ``(N, rows, columns)``, as `standard_tables_by_block` takes them.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.

    Returns:
        As `round_trip`.
    """
    steps = standard_tables_by_block(qualities, _geometry(image, horizontal, vertical))
    return _round_trip(image, steps, horizontal, vertical, fancy)


def _round_trip(
    image: Tensor, steps: Tensor | Sequence[Tensor], horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor]:
    geometry = _geometry(image, horizontal, vertical)
    decoded = _decoded(_quantized(image, steps, geometry), steps)
    samples = _unlimited_rgb(decoded, geometry, fancy).clamp(0, 255)
    out = torch.empty_like(image).copy_(from_bytes(samples, image.dtype))
    return out, _pack_planes(decoded, _flags(image, geometry), geometry)


def encode(
    image: Tensor, tables: Tensor | None, quality: float, horizontal: int, vertical: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The op ``fdjpeg::encode``: the coefficients that a file of the image holds.

    Arguments as for `round_trip`. Returns Y, Cb, Cr: int16 ``(N, rows, columns, 8, 8)``; those of a grey image's Cb
    and Cr are of shape ``(N, 0, 0, 8, 8)``.
    """
    geometry = _geometry(image, horizontal, vertical)
    steps = _steps(tables, quality, image.device)
    coefficients = [k.to(torch.int16).contiguous() for k in _quantized(image, steps, geometry)]
    if geometry.channels == 1:
        coefficients += [coefficients[0].new_empty(image.size(0), 0, 0, BLOCK, BLOCK) for _ in range(2)]
    y, cb, cr = coefficients
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
    """The op ``fdjpeg::decode``: the image ``(N, 1 or 3, height, width)`` that a file's coefficients make.

    Args:
        y: Y's coefficients, int16 ``(N, rows, columns, 8, 8)``, as `encode` returns them.
        cb: Cb's; of shape ``(N, 0, 0, 8, 8)`` for a grey image.
        cr: Cr's, likewise.
        tables: ``(1 or N, 3, 8, 8)``, as for `round_trip`.
        height: the image's rows.
        width: the image's columns.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        dtype: uint8 or floating; a floating image is in [0, 1].
    """
    channels = 1 if cb.size(1) == 0 else 3
    geometry = Geometry.of(height, width, channels, horizontal, vertical)
    coefficients = [component.to(torch.int32) for component in (y, cb, cr)[:channels]]
    decoded = _decoded(coefficients, integer_tables(tables))
    return from_bytes(_unlimited_rgb(decoded, geometry, fancy).clamp(0, 255), dtype)


# ---------------------------------------------------------------------------------------------------------------------
# The same steps in real numbers. Working scale 0…255, level-shifted: Y less 128, Cb and Cr about 0, so all are linear.
# ---------------------------------------------------------------------------------------------------------------------

#: ITU-R BT.601's weights of red and blue in luma; all else about colour follows from them.
_K_R, _K_B = 0.299, 0.114
_K_G = 1 - _K_R - _K_B

_RGB_TO_YCBCR = [
    [_K_R, _K_G, _K_B],
    [-_K_R / (2 - 2 * _K_B), -_K_G / (2 - 2 * _K_B), 0.5],
    [0.5, -_K_G / (2 - 2 * _K_R), -_K_B / (2 - 2 * _K_R)],
]
_YCBCR_TO_RGB = [
    [1.0, 0.0, 2 - 2 * _K_R],
    [1.0, -(2 - 2 * _K_B) * _K_B / _K_G, -(2 - 2 * _K_R) * _K_R / _K_G],
    [1.0, 2 - 2 * _K_B, 0.0],
]


def _cosine(x: float) -> float:
    """cos(πx), by an angle of at most π: those beyond lose digits."""
    return math.cos(math.pi * math.remainder(x, 2))


#: The orthonormal DCT-II of 8 samples: rows by frequency (ITU-T T.81, A.3.3, which writes it out in two dimensions).
_DCT = [
    [math.sqrt((1 if k == 0 else 2) / BLOCK) * _cosine((2 * n + 1) * k / (2 * BLOCK)) for n in range(BLOCK)]
    for k in range(BLOCK)
]

#: A linear map along one axis: ``out[i]`` is the sum of ``weight * in[index[i]]`` over its taps ``(index, weight)``.
_Taps = list[tuple[Tensor, float]]


def _resample(x: Tensor, taps: _Taps, dim: int) -> Tensor:
    return reduce(add, [weight * x.index_select(dim, index) for index, weight in taps])


def _resample_adjoint(gradient: Tensor, taps: _Taps, dim: int, size: int) -> Tensor:
    """The transposed map of `_resample`, onto ``size`` samples: each goes back to where it came from, and is summed."""
    shape = list(gradient.shape)
    shape[dim] = size
    total = gradient.new_zeros(shape)
    for index, weight in taps:
        total = total.index_add(dim, index, weight * gradient)
    return total


def _subsampling_taps(
    geometry: Geometry, plane: Plane, horizontal: int, vertical: int, device: torch.device
) -> tuple[_Taps, _Taps]:
    """Plain averages, without the integers' biases: taps along rows, taps along columns."""
    rows = _subsampled_rows(geometry, plane, vertical, device)
    columns = _subsampled_columns(geometry, plane, horizontal, device)
    return [(index, 1 / vertical) for index in rows], [(index, 1 / horizontal) for index in columns]


def _upsampling_taps(
    geometry: Geometry, plane: Plane, horizontal: int, vertical: int, fancy: bool, device: torch.device
) -> tuple[_Taps, _Taps]:
    """Weights 3/4 and 1/4 where libjpeg's triangle applies, else repetition: taps along rows, taps along columns."""

    def taps(size: int, true_size: int, factor: int) -> _Taps:
        near = _near(size, factor, device)
        if factor == 1 or not _triangle(geometry, fancy):
            return [(near, 1.0)]
        return [(near, 0.75), (_far(size, true_size, device), 0.25)]

    return taps(geometry.height, plane.height, vertical), taps(geometry.width, plane.width, horizontal)


def real_rgb_to_ycbcr(samples: Tensor) -> Tensor:
    """``(..., 3, H, W)``, linear: Cb and Cr about 0."""
    return _linear(_RGB_TO_YCBCR, samples, -3)


def real_ycbcr_to_rgb(samples: Tensor) -> Tensor:
    """The inverse of `real_rgb_to_ycbcr`."""
    return _linear(_YCBCR_TO_RGB, samples, -3)


def _components_of(samples: Tensor, geometry: Geometry) -> list[Tensor]:
    """The linear part of what precedes the DCT: ``(N, C, H, W)`` to components of coded size, without level shift."""
    if geometry.channels == 3:
        samples = real_rgb_to_ycbcr(samples)
    components = []
    for component, (plane, horizontal, vertical) in zip(samples.unbind(1), _component_planes(geometry), strict=True):
        rows, columns = _subsampling_taps(geometry, plane, horizontal, vertical, samples.device)
        components.append(_resample(_resample(component, rows, 1), columns, 2))
    return components


def _components_of_adjoint(gradients: Sequence[Tensor], geometry: Geometry) -> Tensor:
    """The transposed map of `_components_of`."""
    components = []
    for gradient, (plane, horizontal, vertical) in zip(gradients, _component_planes(geometry), strict=True):
        rows, columns = _subsampling_taps(geometry, plane, horizontal, vertical, gradient.device)
        gradient = _resample_adjoint(gradient, columns, 2, geometry.width)
        components.append(_resample_adjoint(gradient, rows, 1, geometry.height))
    samples = torch.stack(components, 1)
    return _linear(_transposed(_RGB_TO_YCBCR), samples, 1) if geometry.channels == 3 else samples


def _samples_of(components: Sequence[Tensor], geometry: Geometry, fancy: bool) -> Tensor:
    """The linear part of what follows the inverse DCT: components of coded size to ``(N, C, H, W)``."""
    upsampled = []
    for component, (plane, horizontal, vertical) in zip(components, _component_planes(geometry), strict=True):
        rows, columns = _upsampling_taps(geometry, plane, horizontal, vertical, fancy, component.device)
        component = component[:, : plane.height, : plane.width]
        upsampled.append(_resample(_resample(component, rows, 1), columns, 2))
    samples = torch.stack(upsampled, 1)
    return real_ycbcr_to_rgb(samples) if geometry.channels == 3 else samples


def _samples_of_adjoint(gradient: Tensor, geometry: Geometry, fancy: bool) -> list[Tensor]:
    """The transposed map of `_samples_of`; samples beyond a component's true size get 0."""
    if geometry.channels == 3:
        gradient = _linear(_transposed(_YCBCR_TO_RGB), gradient, 1)
    components = []
    for component, (plane, horizontal, vertical) in zip(gradient.unbind(1), _component_planes(geometry), strict=True):
        rows, columns = _upsampling_taps(geometry, plane, horizontal, vertical, fancy, gradient.device)
        component = _resample_adjoint(component, columns, 2, plane.columns * BLOCK)
        components.append(_resample_adjoint(component, rows, 1, plane.rows * BLOCK))
    return components


def real_dct(blocks: Tensor) -> Tensor:
    """The orthonormal 8×8 DCT-II of the last two dimensions."""
    return _linear(_DCT, _linear(_DCT, blocks, -1), -2)


def real_idct(blocks: Tensor) -> Tensor:
    """The inverse, and the transposed map, of `real_dct`."""
    inverse = _transposed(_DCT)
    return _linear(inverse, _linear(inverse, blocks, -2), -1)


def block_dct(samples: Tensor) -> Tensor:
    """The op ``fdjpeg::block_dct``: `real_dct` of the blocks of ``(..., H, W)``: ``(..., H / 8, W / 8, 8, 8)``."""
    *outer, height, width = samples.shape
    planes = samples.to(real_dtype(samples)).reshape(-1, height, width)
    blocks = real_dct(to_blocks(planes)).to(samples.dtype)
    return blocks.reshape(*outer, *blocks.shape[1:]).contiguous()


def block_idct(blocks: Tensor) -> Tensor:
    """The op ``fdjpeg::block_idct``, the inverse of `block_dct`."""
    *outer, rows, columns, _, _ = blocks.shape
    planes = from_blocks(real_idct(blocks.to(real_dtype(blocks)).reshape(-1, rows, columns, BLOCK, BLOCK)))
    return planes.to(blocks.dtype).reshape(*outer, rows * BLOCK, columns * BLOCK).contiguous()


def _laid_out_like(image: Tensor, samples: Tensor) -> Tensor:
    """The same samples in the order in memory that ``torch.empty_like(image)`` has."""
    return torch.zeros_like(image, dtype=samples.dtype) + samples  # a sum takes its first term's order


def real_pipeline(
    image: Tensor,
    tables: Tensor | Sequence[Tensor],
    horizontal: int,
    vertical: int,
    fancy: bool,
    rounding: Callable[[Tensor], Tensor] = torch.round,
) -> Tensor:
    """JPEG in real numbers: nothing is rounded but the coefficients, by ``rounding``. Differentiable by autograd.

    Args:
        image: ``(N, C, H, W)``, C 1 or 3, uint8 or floating in [0, 1], any strides; computed in float32, or in float64
            where it is float64. NaN spreads over the blocks that it lies in, as in any arithmetic of real numbers.
        tables: ``(1 or N, 3, 8, 8)`` steps for Y, Cb, Cr, or those of each block as `tables_by_block` gives them; taken
            as they are: neither rounded nor limited.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        rounding: what happens to a coefficient in steps, elementwise. ``torch.round`` goes half to even.

    Returns:
        The image, of ``image``'s dtype; floating in [0, 1], uint8 rounded half to even.
    """
    geometry = _geometry(image, horizontal, vertical)
    decoded = []
    for i, coefficients in enumerate(_real_transformed(image, geometry)):
        step = _table(tables, i).to(coefficients.dtype)
        decoded.append(from_blocks(real_idct(rounding(coefficients / step) * step)))
    return _limited(image, _real_samples(decoded, geometry, fancy))


def _real_transformed(image: Tensor, geometry: Geometry) -> list[Tensor]:
    """Each component's coefficients, in units of samples of 0…255; Y less its level shift."""
    real = image.to(real_dtype(image))
    samples = real if image.dtype == torch.uint8 else 255 * real
    level = [128, 0, 0]
    return [real_dct(to_blocks(component - level[i])) for i, component in enumerate(_components_of(samples, geometry))]


def _real_samples(decoded: Sequence[Tensor], geometry: Geometry, fancy: bool) -> Tensor:
    """Decoded components, Y less its level shift, as samples of 0…255 before the last limiting."""
    return _samples_of([decoded[0] + 128, *decoded[1:]], geometry, fancy)


def _limited(image: Tensor, samples: Tensor) -> Tensor:
    """Samples of 0…255 as an image of ``image``'s dtype and layout; bytes are rounded half to even."""
    samples = _laid_out_like(image, samples.clamp(0, 255))
    return samples.round().to(torch.uint8) if image.dtype == torch.uint8 else (samples / 255).to(image.dtype)


def real_tables(tables: Tensor | None, quality: float, soft: bool, image: Tensor) -> Tensor:
    """The op's tables; the standard ones are whole, or real numbers of at least 1 if ``soft``."""
    dtype = real_dtype(image)
    if tables is not None:
        return tables.to(dtype)
    if not soft:
        return standard_tables(quality, image.device).to(dtype)
    quality = min(100.0, max(1.0, quality))
    percentage = 5000 / quality if quality < 50 else 200 - 2 * quality
    base = torch.tensor([[STANDARD_LUMA, STANDARD_CHROMA, STANDARD_CHROMA]], dtype=dtype, device=image.device)
    return (base * (percentage / 100)).clamp(min=1)


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
    """The op ``fdjpeg::real_round_trip``: `real_pipeline` with a built-in surrogate.

    Args:
        image: as for `real_pipeline`.
        tables: as for `real_pipeline`; or None for the standard ones.
        quality: 1…100, read only where ``tables`` is None.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        surrogate: its name, and the next two the rest of its `fdjpeg.surrogates.Formula`.
        parameter: of the surrogate.
        floor: under its derivative: of no account here.
        soft: whether the surrogate takes the place of rounding.

    Returns:
        The image, as ``torch.empty_like(image)`` is laid out, and where the last limiting let it pass: uint8
        ``(N, H, W)``, bit c for channel c.
    """
    geometry = _geometry(image, horizontal, vertical)
    rounding = surrogate_of(Formula(surrogate, parameter, floor)).forward if soft else torch.round
    steps = real_tables(tables, quality, soft, image)
    decoded = [
        from_blocks(real_idct(rounding(coefficients / _table(steps, i)) * _table(steps, i)))
        for i, coefficients in enumerate(_real_transformed(image, geometry))
    ]
    samples = _real_samples(decoded, geometry, fancy)
    inside = (samples >= 0) & (samples <= 255)
    mask = reduce(add, [passed.to(torch.uint8) << c for c, passed in enumerate(inside.unbind(1))])
    return torch.empty_like(image).copy_(_limited(image, samples)), mask


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
    """The op ``fdjpeg::real_round_trip_backward``: the vector-Jacobian product of `real_round_trip`.

    Args:
        grad: the gradient of the image that came out, ``(N, C, H, W)``, floating, any strides.
        mask: the second result of `real_round_trip`.
        image: as for `real_round_trip`, and so the others.
        tables: as for `real_round_trip`.
        quality: as for `real_round_trip`.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        surrogate: as for `real_round_trip`, and so the next two.
        parameter: of the surrogate.
        floor: under its derivative.
        soft: as for `real_round_trip`.
        table_gradient: whether the tables' gradient is wanted.

    Returns:
        The gradient of ``image``, laid out like it; and that of the tables, for each image: ``(N, 3, 8, 8)`` in the
        type that is computed in, or ``(0,)`` where it is not wanted.
    """
    geometry = _geometry(image, horizontal, vertical)
    dtype = real_dtype(image)
    stands_in = surrogate_of(Formula(surrogate, parameter, floor))
    steps = real_tables(tables, quality, soft, image)
    inside = torch.stack([(mask >> c) & 1 for c in range(geometry.channels)], 1) > 0
    gradients = _samples_of_adjoint(torch.where(inside, grad.to(dtype), 0), geometry, fancy)
    of_tables = torch.zeros(image.size(0), 3, BLOCK, BLOCK, device=image.device, dtype=dtype)
    components = []
    for i, (coefficients, gradient) in enumerate(zip(_real_transformed(image, geometry), gradients, strict=True)):
        step = _table(steps, i)
        c = coefficients / step
        slope = stands_in.derivative(c)
        of_coefficients = real_dct(to_blocks(gradient))
        # A coefficient acts on the samples of 0…255, which leave as samples of 0…1.
        used = stands_in.forward(c) if soft else c.round()
        of_tables[:, i] = (of_coefficients * (used - c * slope)).sum((1, 2)) / 255
        components.append(from_blocks(real_idct(of_coefficients * slope)))
    of_image = torch.empty_like(image).copy_(_components_of_adjoint(components, geometry))
    return of_image, of_tables if table_gradient else torch.empty(0, device=image.device, dtype=dtype)


def real_second_gradient(
    tangents: tuple[Tensor, Tensor | None],
    grad: Tensor,
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
) -> tuple[Tensor, Tensor, Tensor]:
    """The vector-Jacobian product of `real_round_trip_backward`, by differentiating `real_pipeline` twice.

    Args:
        tangents: gradients of that op's two results; None for tables whose gradient was not wanted.
        grad: as for `real_round_trip_backward`, and so the others; ``surrogate`` is soft or straight-through.
        image: as there.
        tables: as there.
        quality: as there.
        horizontal: as there.
        vertical: as there.
        fancy: as there.
        surrogate: as there.
        parameter: as there.
        floor: as there.
        soft: as there.

    Returns:
        Gradients of ``grad``, ``image`` and the tables.
    """
    stands_in = surrogate_of(Formula(surrogate, parameter, floor))
    rounding = stands_in.forward if soft else hard_rounding(stands_in)
    steps = real_tables(tables, quality, soft, image)

    def gradients(grad: Tensor, image: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
        def round_trip(image: Tensor, steps: Tensor) -> Tensor:
            return real_pipeline(image, steps, horizontal, vertical, fancy, rounding)

        pullback: Callable[[Tensor], tuple[Tensor, ...]] = torch.func.vjp(
            round_trip, image, steps.expand(image.size(0), -1, -1, -1)
        )[1]
        return pullback(grad)

    of_image, of_tables = tangents
    if of_tables is None:
        of_tables = steps.new_zeros(image.size(0), 3, BLOCK, BLOCK)
    pullback: Callable[..., tuple[Tensor, ...]] = torch.func.vjp(gradients, grad, image, steps)[1]
    of_grad, of_image, of_steps = pullback((of_image, of_tables))
    return of_grad, of_image, of_steps


def quantize_channels(image: Tensor, steps: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """Each channel's DCT quantized for itself, in real numbers; edges replicated to whole blocks, clipped to [0, 1].

    Args:
        image: ``(N, C, H, W)``, float32 or float64 in [0, 1].
        steps: ``(8, 8)``, in units of 0…255.
        rounding: of a coefficient in steps.
    """
    height, width = image.shape[-2:]
    rows = torch.arange(Plane(height, width).rows * BLOCK, device=image.device).clamp(max=height - 1)
    columns = torch.arange(Plane(height, width).columns * BLOCK, device=image.device).clamp(max=width - 1)
    padded = image.index_select(2, rows).index_select(3, columns)
    blocks = to_blocks(255 * padded.flatten(0, 1))
    step = steps.to(blocks)
    quantized = from_blocks(real_idct(rounding(real_dct(blocks) / step) * step)).unflatten(0, image.shape[:2])
    return _laid_out_like(image, (quantized[..., :height, :width] / 255).clamp(0, 1))


# ---------------------------------------------------------------------------------------------------------------------
# Straight-through: the derivative of the real steps, every rounding the identity, at the point where the integers are
# ---------------------------------------------------------------------------------------------------------------------


def _within_range(decoded: Sequence[Tensor], geometry: Geometry, fancy: bool) -> Tensor:
    """The derivative of the last limiting: whether R, G and B lie in 0…255 before it; grey always does."""
    samples = _unlimited_rgb(decoded, geometry, fancy)
    return (samples >= 0) & (samples <= 255)


def _table_errors(image: Tensor, tables: Tensor | None, quality: float, geometry: Geometry) -> list[Tensor]:
    """For each component ``k - c``: a coefficient's derivative by its step, c in steps before rounding and k after."""
    steps = _steps(tables, quality, image.device)
    errors = []
    for i, blocks in enumerate(_transformed(image, geometry)):
        step = 8 * _table(steps, i)
        exact = step * quantize(blocks, _table(steps, i)) - blocks  # subtracted as integers, so nothing cancels
        errors.append(exact.to(real_dtype(image)) / step)
    return errors


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
    """The op ``fdjpeg::round_trip_backward``: the straight-through gradient of `round_trip`.

    With fixed tables, and every rounding the identity, the inverse DCT undoes the DCT. So the image's gradient is the
    last limiting's mask, then the transposed upsampling, colour conversions and subsampling, without a transform.

    Args:
        grad: the gradient of the image that came out, ``(N, C, H, W)``, floating, any strides.
        planes: the second result of `round_trip`.
        image: as for `round_trip`, and so the others.
        tables: as for `round_trip`.
        quality: as for `round_trip`.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        table_gradient: whether the tables' gradient is wanted.

    Returns:
        The gradient of ``image``, laid out like it, 0 for its NaN samples; and that of the tables, for each image:
        float32 ``(N, 3, 8, 8)``, or ``(0,)`` where it is not wanted.
    """
    geometry = _geometry(image, horizontal, vertical)
    inside = _within_range(_unpack_planes(planes, geometry), geometry, fancy)
    gradient = grad.to(real_dtype(image))
    components = _samples_of_adjoint(torch.where(inside, gradient, 0), geometry, fancy)
    samples = torch.where(image.isnan(), 0, _components_of_adjoint(components, geometry))
    of_image = torch.empty_like(image).copy_(samples)
    if not table_gradient:
        return of_image, torch.empty(0, device=image.device)

    of_tables = torch.zeros(image.size(0), 3, BLOCK, BLOCK, device=image.device, dtype=samples.dtype)
    for i, errors in enumerate(_table_errors(image, tables, quality, geometry)):
        # A coefficient acts on the samples of 0…255, which leave as samples of 0…1.
        coefficients = real_dct(to_blocks(components[i])) / 255
        of_tables[:, i] = (coefficients * errors).sum((1, 2))
    return of_image, of_tables.to(torch.float32)


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
    """The op ``fdjpeg::surrogate_backward``: as `round_trip_backward`, with a surrogate for the coefficients' rounding.

    Args:
        grad: as for `round_trip_backward`, and so the others up to ``table_gradient``.
        planes: as for `round_trip_backward`.
        image: as for `round_trip`.
        tables: as for `round_trip`.
        quality: as for `round_trip`.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        table_gradient: whether the tables' gradient is wanted.
        slopes: the surrogate's derivative, as `fdjpeg.surrogates.slope_table` gives it.

    Returns:
        As `round_trip_backward`.
    """
    geometry = _geometry(image, horizontal, vertical)
    steps = _steps(tables, quality, image.device)
    inside = _within_range(_unpack_planes(planes, geometry), geometry, fancy)
    gradient = torch.where(inside, grad.to(real_dtype(image)), 0)
    of_tables = torch.zeros(image.size(0), 3, BLOCK, BLOCK, device=image.device, dtype=gradient.dtype)
    components = []
    adjoint = _samples_of_adjoint(gradient, geometry, fancy)
    for i, (blocks, component) in enumerate(zip(_transformed(image, geometry), adjoint, strict=True)):
        step = _table(steps, i)
        k = quantize(blocks, step)
        remainder = (blocks - 8 * step * k).to(gradient.dtype) / (8 * step)  # subtracted as integers
        slope = interpolate_slopes(slopes, remainder)
        of_coefficients = real_dct(to_blocks(component))
        # A coefficient acts on the samples of 0…255, which leave as samples of 0…1.
        of_tables[:, i] = (of_coefficients * (k * (1 - slope) - remainder * slope)).sum((1, 2)) / 255
        components.append(from_blocks(real_idct(of_coefficients * slope)))
    samples = torch.where(image.isnan(), 0, _components_of_adjoint(components, geometry))
    of_image = torch.empty_like(image).copy_(samples)
    return of_image, of_tables.to(torch.float32) if table_gradient else torch.empty(0, device=image.device)


def straight_through_tangent(
    v: Tensor, planes: Tensor, image: Tensor, horizontal: int, vertical: int, fancy: bool
) -> Tensor:
    """The transposed map of `round_trip_backward`'s first result: how ``v``, a change of the image, changes the output.

    Linear in ``v`` and differentiable by it, so that the gradient of a straight-through gradient can be taken.

    Args:
        v: ``(N, C, H, W)``, floating.
        planes: the second result of `round_trip`.
        image: the image that went into it.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.

    Returns:
        ``(N, C, H, W)`` of ``v``'s dtype.
    """
    geometry = _geometry(image, horizontal, vertical)
    inside = _within_range(_unpack_planes(planes, geometry), geometry, fancy)
    change = torch.where(image.isnan(), 0, v.to(real_dtype(image)))
    samples = _samples_of(_components_of(change, geometry), geometry, fancy)
    return torch.where(inside, samples, 0).to(v.dtype)


def table_tangent(
    v: Tensor,
    planes: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
) -> Tensor:
    """The transposed map of `round_trip_backward`'s second result: how ``v``, a change of tables, changes the output.

    Args:
        v: ``(1 or N, 3, 8, 8)``, floating.
        planes: the second result of `round_trip`.
        image: as for `round_trip`, and so the others.
        tables: as for `round_trip`.
        quality: as for `round_trip`.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.

    Returns:
        ``(N, C, H, W)``, float64 where the image is float64, else float32.
    """
    geometry = _geometry(image, horizontal, vertical)
    inside = _within_range(_unpack_planes(planes, geometry), geometry, fancy)
    change = v.to(real_dtype(image))
    components = [
        from_blocks(real_idct(_table(change, i) * errors))
        for i, errors in enumerate(_table_errors(image, tables, quality, geometry))
    ]
    return torch.where(inside, _samples_of(components, geometry, fancy) / 255, 0)


# ---------------------------------------------------------------------------------------------------------------------
# The integers' values with the real numbers' derivatives
# ---------------------------------------------------------------------------------------------------------------------


class _Differential(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def differential(x: Tensor) -> Tensor:
    """The differential of a variable: 0 in value, whatever the variable's own is, and the identity in derivative."""
    dx: Tensor = _Differential.apply(x)
    return dx


def exact_with_surrogate(
    image: Tensor,
    tables: Tensor | Sequence[Tensor],
    horizontal: int,
    vertical: int,
    fancy: bool,
    surrogate: Surrogate,
) -> Tensor:
    """`round_trip`, bit for bit, as an autograd graph whose derivatives are those of the real steps and ``surrogate``.

    The graph is ``y + J dx + K dq``: y from the integers, dx and dq the `differential` of image and tables. In J and K
    a coefficient changes by r′(c) times the change of the image's own, and by ``k - c r′(c)`` times the change of its
    step, where c is the integer DCT's output in steps, k its rounding, and r′ the surrogate's derivative; the last
    limiting passes what the integers left alone; any other rounding and limiting is the identity. A NaN sample gets
    gradient 0. The graph is linear in dx and dq: its second derivatives by image and tables are 0, which is the truth
    for straight-through and not for a surrogate whose r′ varies.

    Args:
        image: ``(N, C, H, W)``, C 1 or 3, floating, any strides.
        tables: ``(1 or N, 3, 8, 8)``, or those of each block as `tables_by_block` gives them; floating, acting as
            `integer_tables`, straight through.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        surrogate: any object with a method ``derivative(c)``, elementwise and finite.

    Returns:
        The image, of ``image``'s dtype.
    """
    geometry = _geometry(image, horizontal, vertical)
    dtype = real_dtype(image)
    dx = torch.where(image.isnan(), 0, differential(image.to(dtype)))

    steps, coefficients, changes = [], [], []
    transformed = _transformed(image.detach(), geometry)
    for i, (blocks, change) in enumerate(zip(transformed, _components_of(255 * dx, geometry), strict=True)):
        table = _table(tables, i)
        step = integer_tables(table.detach())
        dq = differential(table.to(dtype))
        k = quantize(blocks, step)
        c = blocks.to(dtype) / (8 * step)
        slope = surrogate.derivative(c)
        steps.append(step)
        coefficients.append(k)
        changes.append(slope * real_dct(to_blocks(change)) + (k - c * slope) * dq)

    decoded = _decoded(coefficients, steps)
    exact = from_bytes(_unlimited_rgb(decoded, geometry, fancy).clamp(0, 255), dtype)
    change = _samples_of([from_blocks(real_idct(change)) for change in changes], geometry, fancy)
    inside = _within_range(decoded, geometry, fancy)
    return (_laid_out_like(image, exact) + torch.where(inside, change / 255, 0)).to(image.dtype)
