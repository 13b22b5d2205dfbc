"""The standard Huffman tables (ITU-T T.81, K.3.3), the order of a scan, and the count of its bits (F.1.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fdjpeg._constants import constant
from fdjpeg._geometry import BLOCK, Geometry

# ---------------------------------------------------------------------------------------------------------------------
# The standard Huffman tables (T.81, K.3.3). Only the lengths of codes count here. A table is therefore written as its
# symbols by the length of their codes, the content of BITS and HUFFVAL.

#: The largest category of size that has a code (T.81, Tables F.1 and F.2). A number k other than 0 is of size
#: ⌊log₂ |k|⌋ + 1, and 0 is of size 0; its code is followed by as many bits as its size.
LARGEST_DC, LARGEST_AC = 11, 10

#: An AC symbol is 16 times a run of zeros, plus the size of the coefficient after it. Two have size 0: EOB, if only
#: zeros are left in the block, and ZRL, for 16 zeros of a longer run.
RUNS = 16
_EOB, _ZRL = 0x00, 0xF0

#: Tables K.3 and K.4: a code for each size.
_DC_LUMA = {2: "0", 3: "1 2 3 4 5", 4: "6", 5: "7", 6: "8", 7: "9", 8: "A", 9: "B"}
_DC_CHROMA = {2: "0 1 2", 3: "3", 4: "4", 5: "5", 6: "6", 7: "7", 8: "8", 9: "9", 10: "A", 11: "B"}

#: Tables K.5 and K.6; every other run and size has a code of 16 bits.
_AC_LUMA = {
    2: "01 02",
    3: "03",
    4: "00 04 11",
    5: "05 12 21",
    6: "31 41",
    7: "06 13 51 61",
    8: "07 22 71",
    9: "14 32 81 91 A1",
    10: "08 23 42 B1 C1",
    11: "15 52 D1 F0",
    12: "24 33 62 72",
    15: "82",
}
_AC_CHROMA = {
    2: "00 01",
    3: "02",
    4: "03 11",
    5: "04 05 21 31",
    6: "06 12 41 51",
    7: "07 61 71",
    8: "13 22 32 81",
    9: "08 14 42 91 A1 B1 C1",
    10: "09 23 33 52 F0",
    11: "15 62 72 D1",
    12: "0A 16 24 34",
    14: "E1",
    15: "25 F1",
}
_LONGEST_CODE = 16


def _lengths(symbols: Mapping[int, str]) -> dict[int, int]:
    """Returns the length of each symbol's code."""
    return {int(symbol, 16): length for length, listed in symbols.items() for symbol in listed.split()}


@dataclass(frozen=True)
class Prices:
    """The price in bits of each symbol of one kind of component: its code and the bits that follow it.

    Attributes:
        dc: by the size of the difference, ``LARGEST_DC + 1`` prices.
        ac: by run and size, ``RUNS`` × ``LARGEST_AC + 1`` prices; 0 for size 0, which is not a coefficient.
        eob: of the end of block.
        zrl: of 16 zeros.
    """

    dc: tuple[int, ...]
    ac: tuple[tuple[int, ...], ...]
    eob: int
    zrl: int

    @classmethod
    def of(cls, dc: Mapping[int, str], ac: Mapping[int, str]) -> Prices:
        """Returns the prices under two Huffman tables."""
        dc_lengths, ac_lengths = _lengths(dc), _lengths(ac)
        coded = range(1, LARGEST_AC + 1)
        return cls(
            dc=tuple(dc_lengths[size] + size for size in range(LARGEST_DC + 1)),
            ac=tuple(
                (0, *(ac_lengths.get(RUNS * run + size, _LONGEST_CODE) + size for size in coded)) for run in range(RUNS)
            ),
            eob=ac_lengths[_EOB],
            zrl=ac_lengths[_ZRL],
        )


_LUMA, _CHROMA = Prices.of(_DC_LUMA, _AC_LUMA), Prices.of(_DC_CHROMA, _AC_CHROMA)


def _zigzag_order() -> tuple[int, ...]:
    """Returns the row-major places of a block in zigzag order (T.81, Figure A.6)."""

    def order(place: int) -> tuple[int, int]:
        row, column = divmod(place, BLOCK)
        diagonal = row + column
        return diagonal, row if diagonal % 2 else column

    return tuple(sorted(range(BLOCK * BLOCK), key=order))


_ZIGZAG = _zigzag_order()


# ---------------------------------------------------------------------------------------------------------------------
# The order of a scan


def in_zigzag(blocks: Tensor) -> Tensor:
    """Reorders blocks ``(N, rows, columns, 8, 8)`` as ``(N, rows, columns, 64)`` in zigzag order."""
    return blocks.flatten(-2).index_select(-1, constant(_ZIGZAG, torch.int32, blocks))


def scan_order(dc: Tensor, horizontal: int, vertical: int, geometry: Geometry) -> Tensor:
    """Puts DC coefficients ``(N, rows, columns)`` in the order of the scan, ``(N, blocks)``, with dummy blocks.

    A component of sampling factors (horizontal, vertical) has as many blocks in each MCU, row by row (T.81, A.2.3).
    Beyond its last block, a dummy block repeats the DC coefficient that was last in the MCU (libjpeg's choice).
    """
    _, rows, columns = dc.shape
    device = dc.device
    row = torch.arange(geometry.mcu_rows * vertical, device=device)[:, None]
    column = torch.arange(geometry.mcu_columns * horizontal, device=device)
    last_in_mcu = column - column % horizontal + horizontal - 1
    source = torch.where(row < rows, column, last_in_mcu).clamp(max=columns - 1) + row.clamp(max=rows - 1) * columns
    source = source.unflatten(1, (-1, horizontal)).unflatten(0, (-1, vertical)).transpose(1, 2)
    return dc.flatten(1).index_select(1, source.flatten())


def differences_of(dc: Tensor) -> Tensor:
    """Subtracts from each block's DC coefficient the one before it, from the first 0 (T.81, F.1.1.5.1)."""
    return torch.cat([dc[:, :1], dc.diff(dim=1)], 1)


def factors_of(geometry: Geometry) -> list[tuple[Prices, int, int]]:
    """Returns for each component its prices and its sampling factors, horizontal and vertical."""
    luma = [(_LUMA, geometry.horizontal, geometry.vertical)]
    return luma if geometry.channels == 1 else luma + 2 * [(_CHROMA, 1, 1)]


# ---------------------------------------------------------------------------------------------------------------------
# Counting


def count_bits(components: Sequence[Tensor], geometry: Geometry) -> Tensor:
    """Counts the bits of each image's scan under the standard Huffman tables, for `fdjpeg.bits`.

    Args:
        components: Y, or Y, Cb and Cr: int16 ``(N, rows, columns, 8, 8)``.
        geometry: of the images.

    Returns:
        int64 ``(N,)``: −1 for an image with a coefficient that has no code.
    """
    images = components[0].size(0)  # which, unlike len(), may stay free under torch.export
    device = components[0].device
    total = torch.zeros(images, dtype=torch.int64, device=device)
    codable = torch.ones(images, dtype=torch.bool, device=device)
    for component, (prices, horizontal, vertical) in zip(components, factors_of(geometry), strict=True):
        blocks = in_zigzag(component.to(torch.int32))
        differences = differences_of(scan_order(blocks[..., 0], horizontal, vertical, geometry))
        dc = _sizes(differences)
        ac = _sizes(blocks[..., 1:].flatten(1, 2))
        dummies = differences.size(1) - ac.size(1)
        total = total + _dc_bits(dc, prices) + _ac_bits(ac, prices) + dummies * prices.eob
        codable = codable & (dc <= LARGEST_DC).all(1) & (ac <= LARGEST_AC).flatten(1).all(1)
    return torch.where(codable, total, -1)


def _sizes(numbers: Tensor) -> Tensor:
    """Returns the category of size of each number, |number| < 2²⁴: int32."""
    # The exponent of a floating number is the size of its whole part.
    return torch.frexp(numbers.float()).exponent


def _dc_bits(sizes: Tensor, prices: Prices) -> Tensor:
    """Prices ``(N, blocks)`` sizes of differences: ``(N,)`` bits."""
    listed = constant(prices.dc, torch.int32, sizes)
    return listed[sizes.clamp(max=LARGEST_DC).long()].sum(1)


def _ac_bits(sizes: Tensor, prices: Prices) -> Tensor:
    """Prices ``(N, blocks, 63)`` sizes in zigzag order: ``(N,)`` bits."""
    nonzero = sizes > 0
    place = torch.arange(1, BLOCK * BLOCK, dtype=torch.int32, device=sizes.device)
    # The place of the last non-zero coefficient so far; 0, that of the DC coefficient, where there is none.
    last = torch.where(nonzero, place, 0).cummax(-1).values
    run = place - 1 - torch.cat([torch.zeros_like(last[..., :1]), last[..., :-1]], -1)
    listed = constant(prices.ac, torch.int32, sizes).flatten()
    symbol = run % RUNS * (LARGEST_AC + 1) + sizes.clamp(max=LARGEST_AC)
    coefficient = listed[symbol.long()] + prices.zrl * (run // RUNS)
    ends_early = ~nonzero[..., -1]
    return torch.where(nonzero, coefficient, 0).sum((1, 2)) + prices.eob * ends_early.sum(1)
