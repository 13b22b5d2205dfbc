"""The oracle: JPEG in plain torch, slow and obvious, on any device.

Two arithmetics share one geometry. The integer functions are libjpeg-turbo's, step by step and bit by bit; the four
that bear an op's name (`round_trip`, `round_trip_backward`, `encode`, `decode`) have that op's signature and stand in
for it wherever no kernel is registered. The functions named ``real_…`` are the same steps in real numbers, with
gradients by autograd; `exact_with_surrogate` joins the two: the integers' values, the real numbers' derivatives.

Shapes: a component is ``(N, height, width)``; blocks are ``(N, rows, columns, 8, 8)``, indexed by [vertical frequency,
horizontal frequency] once they are transformed. Integers are int32 tensors, whose arithmetic wraps around.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add


import torch
from torch import Tensor

from ._geometry import BLOCK, Geometry, Plane

# ---------------------------------------------------------------------------------------------------------------------
# Quantization tables
# ---------------------------------------------------------------------------------------------------------------------

#: ITU-T T.81, tables K.1 and K.2, row-major.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)


def standard_tables(quality: float, device: torch.device) -> Tensor:
    """libjpeg's tables at ``quality``, which acts as the nearest number in 1…100: int32 ``(1, 3, 8, 8)`` for Y, Cb, Cr."""
    quality = min(100.0, max(1.0, quality))
    scale = math.floor(5000 / quality) if quality < 50 else math.floor(200 - 2 * quality)
    base = torch.tensor([[_LUMA, _CHROMA, _CHROMA]], dtype=torch.int32, device=device)
    return ((base * scale + 50) // 100).clamp(1, 255)


def integer_tables(tables: Tensor) -> Tensor:
    """The steps as which floating ``tables`` act: rounded half to even, within 1…255, NaN as 1; int32."""
    return tables.nan_to_num(nan=1.0).round().clamp(1, 255).to(torch.int32)


def _steps(tables: Tensor | None, quality: float, device: torch.device) -> Tensor:
    return standard_tables(quality, device) if tables is None else integer_tables(tables)


def _table(tables: Tensor, component: int) -> Tensor:
    """One component's tables, to be broadcast over its blocks: ``(1 or N, 1, 1, 8, 8)``."""
    return tables[:, component, None, None]


# ---------------------------------------------------------------------------------------------------------------------
# Samples and colour, in integers
# ---------------------------------------------------------------------------------------------------------------------


def _real_dtype(image: Tensor) -> torch.dtype:
    """What real numbers about an image are computed in: float64 for float64, else float32."""
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def to_bytes(image: Tensor) -> Tensor:
    """The bytes of an image, int32: ``rint(255 x)``, saturating, NaN as 0; a uint8 image holds them already."""
    if image.dtype == torch.uint8:
        return image.to(torch.int32)
    scaled = 255 * image.to(_real_dtype(image))
    return scaled.nan_to_num(nan=0.0).round().clamp(0, 255).to(torch.int32)


def from_bytes(samples: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `to_bytes`: ``byte / 255``, correctly rounded in float32 (float64 for float64), then in ``dtype``."""
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


def _pass(x: Tensor, matrix: Sequence[Sequence[int]], dim: int, shift: int) -> Tensor:
    """An exact linear map along ``dim``, then one rounding shift to the right."""
    inputs = x.unbind(dim)
    outputs = [reduce(add, [m * s for m, s in zip(row, inputs, strict=True)]) for row in matrix]
    return (torch.stack(outputs, dim) + (1 << (shift - 1))) >> shift


def fdct(blocks: Tensor) -> Tensor:
    """The forward DCT of level-shifted samples, rows then columns: 8 times the orthonormal one (``jfdctint``)."""
    return _pass(_pass(blocks, _ISLOW, -1, 11), _ISLOW, -2, 15)


def idct(blocks: Tensor) -> Tensor:
    """The inverse DCT, columns then rows, level-shifted back and limited to 0…255 (``jidctint``)."""
    transposed = list(zip(*_ISLOW, strict=True))
    return (_pass(_pass(blocks, transposed, -2, 11), transposed, -1, 18) + 128).clamp(0, 255)


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


def _quantized(image: Tensor, steps: Tensor, geometry: Geometry) -> list[Tensor]:
    """The coefficients of each component."""
    return [quantize(blocks, _table(steps, i)) for i, blocks in enumerate(_transformed(image, geometry))]


def _decoded(coefficients: Sequence[Tensor], steps: Tensor) -> list[Tensor]:
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


def _nan_flags(image: Tensor, geometry: Geometry) -> Tensor:
    """For each MCU, whether one of the image's samples in it is NaN: bool ``(N, MCU rows, MCU columns)``."""
    nan = image.isnan().any(1)
    height, width = BLOCK * geometry.vertical, BLOCK * geometry.horizontal
    rows = torch.arange(geometry.mcu_rows * height, device=image.device).clamp(max=geometry.height - 1)
    columns = torch.arange(geometry.mcu_columns * width, device=image.device).clamp(max=geometry.width - 1)
    padded = nan.index_select(1, rows).index_select(2, columns)
    return padded.reshape(-1, geometry.mcu_rows, height, geometry.mcu_columns, width).any(4).any(2)


def _pack_planes(decoded: Sequence[Tensor], flags: Tensor) -> Tensor:
    """What `Geometry.plane_bytes` describes: uint8 ``(N, plane_bytes)``."""
    packed = torch.cat([part.to(torch.uint8).flatten(1) for part in [*decoded, flags]], 1)
    return torch.nn.functional.pad(packed, (0, -packed.size(1) % 16))


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
        horizontal, vertical: the sampling factors of luma against chroma.
        fancy: whether chroma is upsampled by the triangle filter rather than repeated.

    Returns:
        The image, as ``torch.empty_like(image)`` is laid out, and what backward needs: uint8 ``(N, plane_bytes)``.
    """
    geometry = _geometry(image, horizontal, vertical)
    steps = _steps(tables, quality, image.device)
    decoded = _decoded(_quantized(image, steps, geometry), steps)
    samples = _unlimited_rgb(decoded, geometry, fancy).clamp(0, 255)
    out = torch.empty_like(image).copy_(from_bytes(samples, image.dtype))
    return out, _pack_planes(decoded, _nan_flags(image, geometry))


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
        y, cb, cr: as `encode` returns them.
        tables: ``(1 or N, 3, 8, 8)``, as for `round_trip`.
        height, width: the image's size.
        horizontal, vertical, fancy: as for `round_trip`.
        dtype: uint8 or floating; a floating image is in [0, 1].
    """
    channels = 1 if cb.size(1) == 0 else 3
    geometry = Geometry.of(height, width, channels, horizontal, vertical)
    coefficients = [component.to(torch.int32) for component in (y, cb, cr)[:channels]]
    decoded = _decoded(coefficients, integer_tables(tables))
    return from_bytes(_unlimited_rgb(decoded, geometry, fancy).clamp(0, 255), dtype)
