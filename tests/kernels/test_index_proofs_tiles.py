"""Proofs about the kernels' tiles in shared memory, exhaustively: every access of every thread of a block is tried.

They are about the expressions in the text of ``csrc/`` (`support.index_text`). For each layout: accesses are inside of
a tile, places that are read were written, and no two threads meet at a place between two barriers, of which one writes
it. The barriers are those of the text: a proof fails where one is taken out, or an index is changed. Tiles do not
depend on the type of samples, but for the number of warps in double precision.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("z3")

import z3
from support.index_proofs import (
    COLOUR,
    F411,
    F420,
    F422,
    F440,
    F444,
    TRIANGLES,
    Factors,
    Place,
    Sizes,
    Wrong,
    by_name,
    cases,
    constants,
    proved,
    through_place,
    through_tile,
)
from support.index_text import (
    BACKWARD,
    FORWARD,
    REAL_BACKWARD,
    REAL_FORWARD,
    THROUGH,
    UPSAMPLING,
    WARP,
    Text,
    Whole,
    evaluated,
    group,
    known,
)
from support.index_tiles import LANES, Fault, FineChroma, Memory, column_at, row_at
from support.index_warps import Warp, write_partial


def _without_fault(accesses: Callable[[], bool]) -> bool:
    try:
        return accesses()
    except Fault:
        return False


# ---------------------------------------------------------------------------------------------------------------------
# The exact forward kernels


def tile_of_code_blocks(text: Text, factors: Factors) -> bool:
    """In ``code_blocks`` a warp's threads have its tile by rows, by columns, and by rows again."""
    names = constants(text, factors)
    columns = text.found(FORWARD, r"(const int column = lane % kBlock; const int block = [^;]*;) int\* samples = tile")
    start = text.found(FORWARD, r"int\* samples = tile \+ (L::block_start\(block\) \+ column);")
    warp, tile = Warp(text, names, columns, start), Memory(names["L"].kTile)

    def accesses() -> bool:
        warp.transform_rows(tile)
        tile.barrier(text.between(FORWARD, "transform_rows<L, type>(", "quantize_column(", "__syncthreads();"))
        warp.pass_by_columns(tile)
        tile.barrier(text.between(FORWARD, "write_tile<kTileRow>(samples, k);", "finish_row", "__syncwarp();"))
        warp.read_rows(tile)
        return tile.written() == warp.places_of_blocks()

    return _without_fault(accesses)


def tile_of_decode_blocks(text: Text, factors: Factors) -> bool:
    """In ``decode_blocks`` a warp's threads have four blocks by rows, by columns, and by rows again."""
    names = constants(text, factors)
    tile = Memory(text.value(FORWARD, r"int tiles\[kDecodeWarps\]\[(4 \* kTileBlock)\];", names))
    own = text.found(FORWARD, r"int\* tile = tiles\[warp\] \+ (lane .*?);")
    lines = text.found(FORWARD, r"(const int row = lane % kBlock, column = lane % kBlock;)")
    put = text.found(FORWARD, r"tile\[(row \* kTileRow \+ i)\] = levels\[i\];")
    column = text.found(FORWARD, r"read_tile<kTileRow>\(tile \+ (column), x\);")
    row = text.found(FORWARD, r"restore_row<true>\(tile \+ (row .*?)\);")
    of_lane = [known(lines, names | {"lane": lane}) for lane in LANES]

    def at(lane: int, expression: str, **more: Any) -> int:
        return int(evaluated(own, of_lane[lane]) + evaluated(expression, of_lane[lane] | more))

    def accesses() -> bool:
        for lane in LANES:
            tile.write(lane, [at(lane, put, i=Whole(i)) for i in range(8)])
        tile.barrier(text.between(FORWARD, "] = levels[i];", "read_tile<kTileRow>(tile + column", "__syncwarp();"))
        for lane in LANES:
            tile.read(lane, column_at(at(lane, column), names))
            tile.write(lane, column_at(at(lane, column), names))
        tile.barrier(text.between(FORWARD, "write_tile<kTileRow>(tile + column", "restore_row<true>", "__syncwarp();"))
        for lane in LANES:
            tile.read(lane, row_at(at(lane, row)))
        return len(tile.written()) == 4 * 64

    return _without_fault(accesses)


def rows_that_lanes_exchange(text: Text, factors: Factors) -> bool:
    """A lane of ``transform_rows`` that is below the last row of chroma takes that of a lane of its eight."""
    names = constants(text, factors)
    lane, mcu_row, last = z3.Ints("lane mcu_row last")
    sizes = Sizes(text, factors)
    inside = {"sizes": sizes, "mcu_row": mcu_row, "kBlock": 8}
    least = text.value(WARP, r"const int last = (sizes\.chroma_height - 1 - mcu_row \* kBlock);", inside)
    place = Place(text, names, lane)
    taken = text.value(
        WARP, r"processor::shuffle\(sums\[k\]\.word, (lane .*?)\);", {"lane": lane, "place": place, "last": last}
    )
    same = z3.And(taken >= 0, taken < 32, taken / 8 == lane / 8)
    return proved(least >= 0, *sizes.facts, mcu_row >= 0, mcu_row < sizes.mcu_rows) and proved(
        same, lane >= 0, lane < 32, last >= 0
    )


# ---------------------------------------------------------------------------------------------------------------------
# Gradients of upsampled chroma


def tile_of_differentiate(text: Text, factors: Factors) -> bool:
    """In ``differentiate`` a block's threads write the tile and the ring around it, and read them after a barrier."""
    names = constants(text, factors)
    for name in (
        "GradientThreads",
        "GradientWide",
        "GradientTall",
        "TileAcross",
        "TileWide",
        "TileTall",
        "GradientRow",
    ):
        names[f"k{name}"] = Whole(text.value(BACKWARD, rf"[ ,]k{name} = (.*?)[,;]", names))
    names |= {"kWide": names["kGradientWide"], "kTall": names["kGradientTall"]}
    sides = (names["kTileWide"], names["kTileTall"], names["kWide"], names["kTall"], names["kGradientRow"])
    fine = FineChroma(text, factors, *sides)
    local = text.found(BACKWARD, r"(const int local_x = .*?;)")
    threads = [known(local, names | {"thread": thread}) for thread in map(Whole, range(names["kGradientThreads"]))]

    def accesses() -> bool:
        for thread in threads:
            fine.store(thread["thread"], thread["local_y"], thread["local_x"])
            if thread["thread"] < fine.ring:
                fine.make_ring(thread["thread"], thread["thread"])
        fine.memory.barrier(text.between(BACKWARD, "fine.make_ring(", "fine.gather(", "__syncthreads();"))
        for thread in threads:
            fine.gather(thread["thread"], thread["local_y"], thread["local_x"])
        return True

    return len(threads) >= fine.ring and _without_fault(accesses)


def tile_of_gather_chroma(text: Text, factors: Factors) -> bool:
    """In ``gather_chroma`` likewise, with two warps and with four, whose tile is that of coefficients before and after:
    a barrier is between.
    """
    names = constants(text, factors)
    stride = text.found(THROUGH, r"i < fine\.kRing; i \+= (.*?)\) \{")
    put = text.found(THROUGH, r"fine\.store\((at\.y0 .*?), pixel\);")
    got = text.found(THROUGH, r"fine\.gather\(sizes, at\.tile_y, at\.tile_x, (.*?), cell\);")
    made = text.between(THROUGH, "fine.make_ring(", "fine.gather(", "__syncthreads();")
    apart = text.between(THROUGH, "fine.gather(", "gather_repeated<U>(", "__syncthreads();")
    for file in (THROUGH, REAL_BACKWARD):
        apart = apart and text.between(file, "differentiate_patch<U, type>(", "gather_chroma<U>(", "__syncthreads();")

    def accesses(warps: int) -> bool:
        tile = through_tile(text, names, warps)
        sides = (tile.kWide, tile.kTall, tile.kPatchWide, tile.kPatchTall, tile.kFineRow)
        fine = FineChroma(text, factors, *sides)
        threads = [
            group(**through_place(text, names | {"place": Place(text, names, lane)}, tile, Whole(0), Whole(0), warp))
            for warp, lane in itertools.product(map(Whole, range(warps)), LANES)
        ]
        for thread, at in enumerate(threads):
            fine.store(thread, *evaluated(put, {"at": at}))
            for i in range(thread, fine.ring, evaluated(stride, {"warps": Whole(warps), "kWarp": Whole(32)})):
                fine.make_ring(thread, Whole(i))
        fine.memory.barrier(made)
        for thread, at in enumerate(threads):
            fine.gather(thread, *evaluated(got, {"at": at}))
        return True

    return apart and all(_without_fault(lambda warps=warps: accesses(warps)) for warps in (2, 4))


# ---------------------------------------------------------------------------------------------------------------------
# Gradients of coefficients


def _meets(text: Text, file: str, first: str, then: str, barrier: str, *tiles: Memory) -> None:
    for tile in tiles:
        tile.barrier(text.between(file, first, then, barrier))


def tile_of_real_code_blocks(text: Text, factors: Factors) -> bool:
    """In ``real_code_blocks`` as in ``code_blocks``, but that rows of chroma are made of two threads' parts."""
    names = constants(text, factors)
    start = text.found(REAL_FORWARD, r"Real\* samples = tile \+ (L::block_start\(.*?\) \+ column);")
    warp = Warp(text, names, text.found(REAL_FORWARD, r"(const int column = .*?;)"), start)

    def accesses(last: int) -> bool:
        tile = Memory(names["L"].kTile)
        warp.real_transform_rows(tile, last)
        _meets(text, REAL_FORWARD, "if (busy) real_transform_rows", "read_tile<kTileRow>(", "__syncthreads();", tile)
        warp.pass_by_columns(tile)
        first = "x[i] = q * RealLane<Real>::round(x[i] * reciprocal);"
        _meets(text, REAL_FORWARD, first, "const auto finish_row", "__syncwarp();", tile)
        warp.read_rows(tile)
        return tile.written() == warp.places_of_blocks()

    return all(_without_fault(lambda last=last: accesses(last)) for last in range(8))


def _of_backward(text: Text, factors: Factors, file: str) -> Warp:
    columns = text.found(file, r"(const int column = lane % kBlock;)")
    columns += text.found(file, r"(const int block = 4 \* pass[^;]*, start = [^;]*;)")
    return Warp(text, constants(text, factors), columns, "start")


def tiles_of_differentiate_blocks(text: Text, factors: Factors) -> bool:
    """In ``differentiate_blocks`` each warp's coefficients and gradients are by rows and by columns, from turn to turn;
    at last the sums of the tables' gradients are where the gradients were.
    """
    names, warp = constants(text, factors), _of_backward(text, factors, THROUGH)
    size = names["L"].kTile

    def accesses(surrogate: bool) -> bool:
        gradients, coefficients = tiles = Memory(size), Memory(size)
        for columns in range(-1, 9):  # of chroma in the image
            _meets(text, THROUGH, "if (inside) differentiate_patch", "gather_chroma<U>(", "__syncthreads();", *tiles)
            warp.transform_gradient_rows(gradients)
            warp.transform_rows(coefficients)
            _meets(text, THROUGH, "transform_rows<L, type>(", "read_tile<kTileRow>(", "__syncwarp();", *tiles)
            for lane in LANES:
                gradients.read(lane, warp.columns[lane])
                coefficients.read(lane, warp.columns[lane])
            if not surrogate:
                continue
            for lane in LANES:
                gradients.write(lane, warp.columns[lane])
            first = "write_tile<kTileRow>(gradients + start, g);"
            _meets(text, THROUGH, first, "replicas = restore_gradient_rows(", "__syncwarp();", *tiles)
            if not warp.restore_gradient_rows(gradients, columns):
                return False
        return write_partial(text, names, [gradients]) and write_partial(text, names, [Memory(size) for _ in range(4)])

    return _without_fault(lambda: accesses(False)) and _without_fault(lambda: accesses(True))


def tiles_of_real_differentiate(text: Text, factors: Factors) -> bool:
    """In ``real_differentiate`` likewise, with two warps in double precision."""
    names, warp = constants(text, factors), _of_backward(text, factors, REAL_BACKWARD)
    size = names["L"].kTile

    def accesses() -> bool:
        gradients, coefficients = tiles = Memory(size), Memory(size)
        for columns, last in itertools.product(range(-1, 9), (0, 3, 7)):
            first = "if (inside) real_differentiate_patch"
            _meets(text, REAL_BACKWARD, first, "gather_chroma<U>(", "__syncthreads();", *tiles)
            warp.transform_gradient_rows(gradients)
            warp.real_transform_rows(coefficients, last)
            _meets(
                text, REAL_BACKWARD, "real_transform_rows<L, type>(", "read_tile<kTileRow>(", "__syncwarp();", *tiles
            )
            warp.pass_by_columns(coefficients, gradients)
            _meets(
                text, REAL_BACKWARD, "[i] += share[i];", "replicas = restore_gradient_rows(", "__syncwarp();", *tiles
            )
            if not warp.restore_gradient_rows(gradients, columns):
                return False
        return write_partial(text, names, [gradients]) and write_partial(text, names, [Memory(size) for _ in range(2)])

    return _without_fault(accesses)


PROOFS = by_name(
    *(tile_of_code_blocks, tile_of_decode_blocks, rows_that_lanes_exchange, tile_of_differentiate),
    *(tile_of_gather_chroma, tile_of_real_code_blocks, tiles_of_differentiate_blocks, tiles_of_real_differentiate),
)
_LAYOUTS = {
    "tile_of_decode_blocks": [F444],  # it has none
    "rows_that_lanes_exchange": [one for one in COLOUR if one.vertical == 2],
    "tile_of_differentiate": TRIANGLES,
    "tile_of_gather_chroma": TRIANGLES,
}


@pytest.mark.parametrize(("proof", "factors"), cases(PROOFS, _LAYOUTS), ids=str)
def test_tiles_are_shared_without_races(proof: str, factors: Factors) -> None:
    assert PROOFS[proof](Text(), factors)


_WRONG = [
    Wrong("tile_of_code_blocks", F420, WARP, "block / 4 * kSkew;", "block / 4 * kSkew * 100;"),
    Wrong("tile_of_code_blocks", F420, WARP, "(mcu * L::kVertical + y / kBlock)", "(mcu + y / kBlock)"),
    Wrong("tile_of_code_blocks", F411, FORWARD, "int block = 4 * pass + lane", "int block = 3 * pass + lane"),
    Wrong("tile_of_code_blocks", F444, FORWARD, "__syncwarp();\n\n  uint8_t* planes", "uint8_t* planes"),
    Wrong("tile_of_decode_blocks", F444, FORWARD, "[warp] + lane / kBlock * kTileBlock", "[warp] + lane / kBlock * 64"),
    Wrong("tile_of_decode_blocks", F444, FORWARD, "  __syncwarp();\n  if (!busy) return;", "  if (!busy) return;"),
    Wrong("rows_that_lanes_exchange", F420, WARP, "lane - place.row + smaller(", "lane + smaller("),
    Wrong("tile_of_differentiate", F420, UPSAMPLING, "kColumn + across + x / patch;", "kColumn + across;"),
    Wrong("tile_of_differentiate", F420, UPSAMPLING, "beyond / tall * (wide + 1)", "beyond / tall * wide"),
    Wrong("tile_of_differentiate", F422, BACKWARD, "__syncthreads();\n    if (!inside)", "if (!inside)"),
    Wrong("tile_of_gather_chroma", F420, THROUGH, "i += warps * kWarp) {\n      fine", "i += kWarp) {\n      fine"),
    Wrong("tile_of_gather_chroma", F422, THROUGH, "(kPatchWide - 1) * (kAcross + 1)", "kPatchWide * kAcross - 17"),
    Wrong("tile_of_gather_chroma", F440, THROUGH, "at.x0 - at.tile_x, pixel", "at.x0 - at.tile_x + 8, pixel"),
    Wrong("tile_of_gather_chroma", F422, THROUGH, "    __syncthreads();\n  } else {", "  } else {"),
    Wrong("tile_of_gather_chroma", F440, REAL_BACKWARD, "__syncthreads();  // the steps", "// the steps"),
    Wrong("tile_of_real_code_blocks", F420, REAL_FORWARD, "__syncwarp();\n    // Rows beyond", "// Rows beyond"),
    Wrong("tile_of_real_code_blocks", F420, REAL_FORWARD, "__syncwarp();\n    FDJPEG_UNROLL", "FDJPEG_UNROLL"),
    Wrong("tile_of_real_code_blocks", F411, WARP, "group * (kBlock / 2)", "group * (kBlock / 4)"),
    Wrong("tile_of_real_code_blocks", F440, REAL_FORWARD, "L::block_start(4 * pass + lane", "L::block_start(4 + lane"),
    Wrong("tiles_of_differentiate_blocks", F444, THROUGH, "__syncwarp();  // the last turn", "// the last turn"),
    Wrong("tiles_of_differentiate_blocks", F420, THROUGH, "__syncthreads();  // the steps", "// the steps"),
    Wrong("tiles_of_differentiate_blocks", F420, THROUGH, "surrogate) {\n      __syncwarp();", "surrogate) {"),
    Wrong("tiles_of_differentiate_blocks", F422, THROUGH, "< kBlock) row[columns]", "< kBlock) row[columns + 1]"),
    Wrong("tiles_of_differentiate_blocks", F420, THROUGH, "both ? 1 + lane / kBlock % 2", "both ? 1 + lane / 16 % 2"),
    Wrong("tiles_of_differentiate_blocks", F420, THROUGH, "lane < (both ? 16 : 8)", "lane < (both ? 8 : 8)"),
    Wrong("tiles_of_differentiate_blocks", F444, THROUGH, "kBlockSize + i * kBlock", "kBlockSize + i"),
    Wrong("tiles_of_real_differentiate", F411, REAL_BACKWARD, "int block = 4 * pass", "int block = 4 * pass + 1"),
    Wrong("tiles_of_real_differentiate", F420, THROUGH, "place.group * cells)", "place.group)"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", _WRONG, ids=lambda one: f"{one.proof}: {one.new}")
def test_wrong_tiles_are_not_proved(wrong: Wrong) -> None:
    assert not PROOFS[wrong.proof](Text(wrong.file, wrong.old, wrong.new), wrong.factors)
