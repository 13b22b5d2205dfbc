"""The integers of libjpeg-turbo, step by step and bit by bit, and the ops in them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor

from fdjpeg._geometry import BLOCK, Geometry, Plane, geometry_of
from fdjpeg.reference.conversions import from_bytes, to_bytes
from fdjpeg.reference.geometry import (
    component_planes,
    far_samples,
    from_blocks,
    near_samples,
    subsampled_columns,
    subsampled_rows,
    to_blocks,
    uses_triangle,
)
from fdjpeg.reference.linear import linear_map, transposed
from fdjpeg.reference.tables import integer_tables, standard_tables_by_block, steps_of, table_of


def _fix(constant: float) -> int:
    """Returns a colour constant with 16 fractional bits."""
    return int(constant * 65536 + 0.5)


def rgb_to_ycbcr(samples: Tensor) -> list[Tensor]:
    """Converts bytes ``(N, 3, H, W)`` to Y, Cb and Cr in 0…255; a grey image ``(N, 1, H, W)`` is its own Y."""
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
    """Converts components of one size to samples ``(N, 3 or 1, H, W)``, not yet limited to 0…255."""
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
# Resampling
# ---------------------------------------------------------------------------------------------------------------------


def subsample(component: Tensor, geometry: Geometry, plane: Plane, horizontal: int, vertical: int) -> Tensor:
    """Pads a full-size component ``(N, H, W)`` and averages it to its coded size."""
    rows = subsampled_rows(geometry, plane, vertical, component.device)
    columns = subsampled_columns(geometry, plane, horizontal, component.device)
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
    """Brings a component of true size to the image's ``(N, H, W)``."""
    device, height, width = component.device, geometry.height, geometry.width
    _, true_height, true_width = component.shape
    near_rows = component.index_select(1, near_samples(height, vertical, device))
    near_columns = near_samples(width, horizontal, device)
    if (horizontal, vertical) == (1, 1) or not uses_triangle(geometry, fancy):
        return near_rows.index_select(2, near_columns)

    odd_row = (torch.arange(height, dtype=torch.int32, device=device) % 2)[:, None]
    odd_column = torch.arange(width, dtype=torch.int32, device=device) % 2
    if vertical == 2:
        rows = 3 * near_rows + component.index_select(1, far_samples(height, true_height, device))
        if horizontal == 1:
            return (rows + 1 + odd_row) >> 2
    else:
        rows = near_rows
    columns = 3 * rows.index_select(2, near_columns) + rows.index_select(2, far_samples(width, true_width, device))
    return (columns + 8 - odd_column) >> 4 if vertical == 2 else (columns + 1 + odd_column) >> 2


# ---------------------------------------------------------------------------------------------------------------------
# Transform and quantization
# ---------------------------------------------------------------------------------------------------------------------


def _islow_matrix() -> list[list[int]]:
    """Returns one pass of libjpeg's accurate DCT ("islow") as an 8×8 integer matrix.

    It is √8 · 2¹³ times the orthonormal DCT-II: the butterfly of Loeffler, Ligtenberg and Moschytz (ICASSP 1989),
    multiplied out over its rotations. Each constant is rounded separately to 13 fractional bits, so entries that are
    equal in real numbers can differ by one.
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


def _pass(matrix: Sequence[Sequence[int]], x: Tensor, dim: int, shift: int) -> Tensor:
    """Applies one pass of an integer DCT: an exact linear map, then one rounding shift to the right."""
    return (linear_map(matrix, x, dim) + (1 << (shift - 1))) >> shift


def fdct(blocks: Tensor) -> Tensor:
    """Transforms level-shifted samples, rows then columns: 8 times the orthonormal DCT (``jfdctint``)."""
    return _pass(_ISLOW, _pass(_ISLOW, blocks, -1, 11), -2, 15)


def idct(blocks: Tensor) -> Tensor:
    """Inverts the DCT, columns then rows, shifts the level back and limits to 0…255 (``jidctint``)."""
    inverse = transposed(_ISLOW)
    return (_pass(inverse, _pass(inverse, blocks, -2, 11), -1, 18) + 128).clamp(0, 255)


def quantize(blocks: Tensor, steps: Tensor) -> Tensor:
    """Returns `fdct`'s output in steps, rounded half away from zero."""
    return blocks.sign() * ((blocks.abs() + 4 * steps) // (8 * steps))


def dequantize(coefficients: Tensor, steps: Tensor) -> Tensor:
    """Multiplies coefficients by their steps; saturated, so that even hostile coefficients are harmless."""
    return (coefficients * steps).clamp(-32767, 32767)


# ---------------------------------------------------------------------------------------------------------------------
# The ops
# ---------------------------------------------------------------------------------------------------------------------


def transform_components(image: Tensor, geometry: Geometry) -> list[Tensor]:
    """Returns `fdct`'s output for each component."""
    components = rgb_to_ycbcr(to_bytes(image))
    return [
        fdct(to_blocks(subsample(component, geometry, plane, horizontal, vertical) - 128))
        for component, (plane, horizontal, vertical) in zip(components, component_planes(geometry), strict=True)
    ]


def _quantized(image: Tensor, steps: Tensor | Sequence[Tensor], geometry: Geometry) -> list[Tensor]:
    """Returns the coefficients of each component."""
    return [quantize(blocks, table_of(steps, i)) for i, blocks in enumerate(transform_components(image, geometry))]


def decode_components(coefficients: Sequence[Tensor], steps: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Returns each component's decoded samples at its coded size."""
    return [from_blocks(idct(dequantize(k, table_of(steps, i)))) for i, k in enumerate(coefficients)]


def unlimited_rgb(decoded: Sequence[Tensor], geometry: Geometry, fancy: bool) -> Tensor:
    """Converts decoded components to ``(N, C, H, W)``, before the last limiting to 0…255."""
    return ycbcr_to_rgb(
        [
            upsample(component[:, : plane.height, : plane.width], geometry, horizontal, vertical, fancy)
            for component, (plane, horizontal, vertical) in zip(decoded, component_planes(geometry), strict=True)
        ]
    )


def raised_flags(image: Tensor, geometry: Geometry) -> Tensor:
    """Returns whether any sample in an MCU is NaN or above 1: bool ``(N, MCU rows, MCU columns)``."""
    odd = torch.zeros_like(image, dtype=torch.bool) if image.dtype == torch.uint8 else ~(image <= 1)
    height, width = BLOCK * geometry.vertical, BLOCK * geometry.horizontal
    rows = torch.arange(geometry.mcu_rows * height, device=image.device).clamp(max=geometry.height - 1)
    columns = torch.arange(geometry.mcu_columns * width, device=image.device).clamp(max=geometry.width - 1)
    padded = odd.any(1).index_select(1, rows).index_select(2, columns)
    return padded.reshape(-1, geometry.mcu_rows, height, geometry.mcu_columns, width).any(4).any(2)


def pack_planes(decoded: Sequence[Tensor], flags: Tensor, geometry: Geometry) -> Tensor:
    """Packs components and flags as `Geometry.plane_bytes` describes: uint8 ``(N, plane_bytes)``."""
    parts = [part.to(torch.uint8).flatten(1) for part in [*decoded, flags]]
    padding = geometry.plane_bytes - sum(part.size(1) for part in parts)
    return torch.cat([*parts, parts[0].new_zeros(flags.size(0), padding)], 1)


def unpack_planes(planes: Tensor, geometry: Geometry) -> list[Tensor]:
    """Returns the decoded components in `pack_planes`'s output."""
    decoded, start = [], 0
    for plane, _, _ in component_planes(geometry):
        samples = planes[:, start : start + plane.coded_samples].to(torch.int32)
        decoded.append(samples.reshape(-1, plane.rows * BLOCK, plane.columns * BLOCK))
        start += plane.coded_samples
    return decoded


def round_trip(
    image: Tensor, tables: Tensor | None, quality: float, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::round_trip``: libjpeg's encoder and decoder, without the lossless part.

    Args:
        image: ``(N, C, H, W)``, C 1 or 3, uint8 or floating, any strides.
        tables: ``(1 or N, 3, 8, 8)`` steps for Y, Cb, Cr, row-major by [vertical, horizontal] frequency, acting as
            `integer_tables`; or None for the standard ones.
        quality: 1…100, read only where ``tables`` is None.
        horizontal: the sampling factor of luma against chroma along rows: 1, 2 or 4.
        vertical: the same along columns: 1 or 2.
        fancy: whether chroma is upsampled by the triangle filter rather than repeated.

    Returns:
        The image, laid out like ``torch.empty_like(image)``, and the planes for backward: uint8 ``(N, plane_bytes)``.
    """
    return _round_trip(image, steps_of(tables, quality, image), horizontal, vertical, fancy)


def round_trip_by_block(
    image: Tensor, qualities: Tensor, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::round_trip_by_block``: `round_trip` with a quality for each block.

    Args:
        image: as for `round_trip`.
        qualities: of luma's blocks, uint8 ``(N, rows, columns)``, as `standard_tables_by_block` takes them.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.

    Returns:
        As `round_trip`.
    """
    steps = standard_tables_by_block(qualities, geometry_of(image, horizontal, vertical))
    return _round_trip(image, steps, horizontal, vertical, fancy)


def _round_trip(
    image: Tensor, steps: Tensor | Sequence[Tensor], horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor]:
    geometry = geometry_of(image, horizontal, vertical)
    decoded = decode_components(_quantized(image, steps, geometry), steps)
    samples = unlimited_rgb(decoded, geometry, fancy).clamp(0, 255)
    out = torch.empty_like(image).copy_(from_bytes(samples, image.dtype))
    return out, pack_planes(decoded, raised_flags(image, geometry), geometry)


def encode(
    image: Tensor, tables: Tensor | None, quality: float, horizontal: int, vertical: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Implements ``fdjpeg::encode``: the coefficients that a file of the image holds.

    Args:
        image, tables, quality, horizontal, vertical: as for `round_trip`.

    Returns:
        Y, Cb, Cr: int16 ``(N, rows, columns, 8, 8)``. Cb and Cr of a grey image are of shape ``(N, 0, 0, 8, 8)``.
    """
    geometry = geometry_of(image, horizontal, vertical)
    steps = steps_of(tables, quality, image)
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
    """Implements ``fdjpeg::decode``: the image ``(N, 1 or 3, height, width)`` of a file's coefficients.

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
    decoded = decode_components(coefficients, integer_tables(tables))
    return from_bytes(unlimited_rgb(decoded, geometry, fancy).clamp(0, 255), dtype)
