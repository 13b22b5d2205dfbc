"""A warp's tile in shared memory: what each lane has of it, and the functions of the text that pass by it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from support.index_proofs import Place
from support.index_text import REAL_FORWARD, THROUGH, WARP, Text, Whole, evaluated, known
from support.index_tiles import LANES, Fault, Memory, column_at, row_at


def _joined(places: Iterable[list[int]]) -> list[int]:
    return [at for some in places for at in some]


class Warp:
    """The rows, cells and columns of a warp's tile that each lane has, and the functions of the text that pass by them.

    Args:
        text: the text.
        names: its constants for a layout.
        columns: the statements by which a kernel finds the columns of a pass.
        start: the expression of their place in the tile.
    """

    def __init__(self, text: Text, names: dict[str, Any], columns: str, start: str) -> None:
        self._text, self._names, self._layout = text, names, names["L"]
        self._columns, self._start = columns, start
        self.places = [Place(text, names, lane) for lane in LANES]

    @cached_property
    def luma(self) -> list[list[int]]:
        """The places of each lane's rows of luma."""
        turns = range(self._layout.kLumaRows)
        return [_joined(row_at(place.luma_tile(Whole(v))) for v in turns) for place in self.places]

    @cached_property
    def chroma(self) -> list[list[int]]:
        """The places of each lane's rows of chroma."""
        turns = range(self._layout.kChromaRows)
        return [_joined(row_at(place.chroma_tile(Whole(v))) for v in turns) for place in self.places]

    @cached_property
    def cells(self) -> list[list[int]]:
        """The places of the samples of chroma under each lane's pixels."""
        cells = range(self._layout.kCells)
        return [[place.chroma_cells(component) + k for component in (1, 2) for k in cells] for place in self.places]

    @cached_property
    def columns(self) -> list[list[int]]:
        """The places of each lane's columns, of all passes."""
        found: list[list[int]] = []
        for lane in LANES:
            passes = ({"lane": lane, "pass_": Whole(number)} for number in range(self._layout.kPasses))
            names = (known(self._columns, self._names | one) for one in passes)
            found.append(_joined(column_at(evaluated(self._start, one), self._names) for one in names))
        if set(_joined(found)) != self.places_of_blocks():
            raise Fault("the columns are not those of the blocks")
        return found

    def places_of_blocks(self) -> set[int]:
        """Returns all places of the tile's blocks."""
        blocks = (self._layout.block_start(Whole(block)) for block in range(self._layout.kBlocks))
        rows = (start + row * self._names["kTileRow"] for start in blocks for row in range(8))
        return set(_joined(row_at(row) for row in rows))

    # The functions of the text, by their names there.

    def transform_rows(self, tile: Memory) -> None:
        """Writes rows of the image."""
        for lane in LANES:
            tile.write(lane, self.luma[lane] + self.chroma[lane])

    def transform_gradient_rows(self, tile: Memory) -> None:
        """Writes rows of luma and parts of rows of chroma; then whole rows of chroma, of two threads' parts."""
        first, then = "cr[k] = static_cast<Gradient>(cell[0][k].cr);", "read_tile<1>(tile + place.chroma_tile(v), g);"
        self._write_parts(tile)
        tile.barrier(self._text.between(THROUGH, first, then, "__syncwarp();"))
        for lane in LANES:
            tile.read(lane, self.chroma[lane])
            tile.write(lane, self.chroma[lane])

    def real_transform_rows(self, tile: Memory, last: int) -> None:
        """The same of the image, where a row of chroma below the component's last, number `last`, is that one."""
        beyond = self._text.found(REAL_FORWARD, r"const int beyond = (larger\(.*?, 0\));")
        counted = "sizes.chroma_height - 1 - mcu_row * kBlock"
        assert beyond.count(counted) == 1
        above = [evaluated(beyond.replace(counted, "last"), {"place": one, "last": last}) for one in self.places]
        first, then, end = "cr[k] = cell[k].cr;", "read_tile<1>(tile + place.chroma_tile(v)", "real_dct_pass(rows[v]);"
        self._write_parts(tile)
        tile.barrier(self._text.between(REAL_FORWARD, first, then, "__syncwarp();"))
        for lane in LANES:
            tile.read(lane, [at - above[lane] * self._names["kTileRow"] for at in self.chroma[lane]])
        tile.barrier(self._text.between(REAL_FORWARD, then, end, "__syncwarp();"))
        for lane in LANES:
            tile.write(lane, self.chroma[lane])

    def _write_parts(self, tile: Memory) -> None:
        for lane in LANES:
            tile.write(lane, self.luma[lane])
            if not self._layout.kGrey:
                tile.write(lane, self.cells[lane])

    def pass_by_columns(self, *tiles: Memory) -> None:
        """Reads and writes the columns of all passes."""
        for tile in tiles:
            for lane in LANES:
                tile.read(lane, self.columns[lane])
                tile.write(lane, self.columns[lane])

    def read_rows(self, tile: Memory) -> None:
        """Reads the rows."""
        for lane in LANES:
            tile.read(lane, self.luma[lane] + self.chroma[lane])

    def restore_gradient_rows(self, tile: Memory, columns: int) -> bool:
        """Reads rows, and parts of rows of chroma, of which so many columns are in the image. Returns whether the sums
        of those beyond are read where they were written.
        """
        self.read_rows(tile)
        return self._layout.kGrey or self._restore_chroma(tile, columns)

    def _restore_chroma(self, tile: Memory, columns: int) -> bool:
        text, names = self._text, self._names | {"columns": Whole(columns), "cells": self._layout.kCells}
        guard = text.value(THROUGH, r"if \((columns > 0 [^;]*?)\) row\[", names)
        place = text.value(THROUGH, r"\) row\[(columns.*?)\] = sum_beyond", names)
        sums: set[int] = set()
        for lane in LANES:
            tile.write(lane, self.chroma[lane])
            for v in range(self._layout.kChromaRows if guard else 0):
                sums.add(self.places[lane].chroma_tile(Whole(v)) + place)
                tile.write(lane, [self.places[lane].chroma_tile(Whole(v)) + place])
        tile.barrier(text.between(THROUGH, "] = sum_beyond", "static_cast<Real>(cb[k])", "__syncwarp();"))
        found: set[int] = set()
        for lane in LANES:
            tile.read(lane, self.cells[lane])
            inside = names | {"place": self.places[lane]}
            inside["beyond"] = text.value(THROUGH, r"const int beyond = (columns - .*?);", inside)
            if text.value(THROUGH, r"if \((columns < kBlock && beyond [^;]*?)\) \{", inside):
                starts = (self.places[lane].chroma_cells(component) for component in (1, 2))
                found |= {start + inside["beyond"] for start in starts}
                tile.read(lane, found)
        return found == sums


def write_partial(text: Text, names: dict[str, Any], tiles: list[Memory]) -> bool:
    """Adds up the sums of lanes, then of warps, where the warps' gradients were. Returns whether each lane's sums are
    those of the component to which they are added, and all of a block's steps get one.
    """
    layout = names["L"]
    slots = text.value(WARP, r"constexpr int kSlots = (.*?);", names)
    passes, of_pass = map(Whole, range(layout.kPasses)), text.found(WARP, r"int component_of_pass\(.*?\) \{ (.*?) \}")
    with_luma, rest = of_pass.split("; return ")
    of_pass = f"{with_luma.removeprefix('if (').replace(') return 0', '')} ? 0 : {rest.rstrip(';')}"
    slot_of = text.found(WARP, r"int slot_of_pass\(int pass\) \{ return (.*?);")
    place = text.found(THROUGH, r"tiles\[warp\]\[(component .*?)\] = x;")
    for tile in tiles:
        tile.barrier(text.between(THROUGH, "void write_partial(", "] = x;", "__syncwarp();"))
    components: dict[tuple[int, int], Any] = {}  # by slot and the lane that writes
    for slot in map(Whole, range(slots)):
        inside = names | {"slot": slot}
        inside["both"] = text.value(THROUGH, r"const bool both = (.*?);", inside)
        lanes = text.value(THROUGH, r"if \(lane < (\(both .*?\))\) tiles", inside)
        for lane in LANES[:lanes]:
            of_lane = inside | {"lane": lane}
            of_lane["component"] = text.value(THROUGH, r"const int component = (both .*?);", of_lane)
            components[slot, lane] = of_lane["component"]
            for number, tile in enumerate(tiles):
                tile.write(32 * number + lane, [evaluated(place, of_lane | {"i": Whole(i)}) for i in range(8)])
        for lane in LANES:
            components[slot, lane] = components[slot, lane % lanes]
    right = all(
        evaluated(of_pass, names | {"pass_": number, "lane": lane})
        == components[evaluated(slot_of, names | {"pass_": number}), lane]
        for number in passes
        for lane in LANES
    )
    met = text.between(THROUGH, "tiles[warp][component", "all += i <", "__syncthreads();")
    of_all = (1 if layout.kGrey else 3) * 64
    for tile in tiles:
        tile.barrier(met)
        for i in range(of_all):
            tile.read(i % (32 * len(tiles)), [i])
    return right
