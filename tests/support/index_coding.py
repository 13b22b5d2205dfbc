"""The indices that the kernels from images to planes share, exact and real: ``code_blocks``, ``real_code_blocks``."""

from __future__ import annotations

from typing import Any

import z3

from support.index_images import place_is_inside, samples_are_inside
from support.index_proofs import Factors, Place, Sizes, constants, product, proved
from support.index_text import WARP, Text, Whole, evaluated


def coding_thread(text: Text, file: str, factors: Factors, sizes: Sizes, mark: str = "") -> dict[str, Any]:
    """Returns the names of a thread that has work, and the facts that are known of them."""
    names = constants(text, factors)
    lane, mcu_row, warp_column, v = z3.Ints(f"lane{mark} mcu_row{mark} warp_column{mark} v{mark}")
    rest = text.found(file, r"const int mcu_column = job\.warps_across\.remainder\(work, mcu_row\) (.*?);")
    names |= {"lane": lane, "mcu_row": mcu_row, "v": v, "sizes": sizes, "warp_column": warp_column}
    names |= {"place": Place(text, names, lane), "vectors": z3.Bool("vectors")}
    names["mcu_column"] = evaluated("warp_column " + rest, names)
    names["facts"] = [
        *sizes.facts, lane >= 0, lane < 32, mcu_row >= 0, mcu_row < sizes.mcu_rows, warp_column >= 0, v >= 0,
    ]  # fmt: skip
    return names


def pixels_of_rows_are_inside(text: Text, file: str, factors: Factors) -> bool:
    """A thread reads pixels of the image alone, one by one, as words of eight, or copied ahead as words."""
    sizes = Sizes(text, factors)
    names = coding_thread(text, file, factors, sizes)
    # Backward has its own columns of MCUs: the proof is about any.
    facts = [*names["facts"], names["v"] < names["L"].kLumaRows, z3.Int("mcu_column") >= 0]
    if not proved(names["mcu_column"] >= 0, *facts):
        return False
    names["mcu_column"] = z3.Int("mcu_column")
    y = text.value(WARP, r"const int y = (smaller\(mcu_row .*?);", names)
    names["x0"] = text.value(WARP, r"const int x0 = (\(mcu_column .*?);", names)
    names["last"] = text.value(WARP, r"const int last = (sizes\.width - 1 - x0);", names)
    whole = text.value(WARP, r"const bool whole = (.*?);", names)
    rows = z3.And(y >= 0, y < sizes.height)
    names["last_of_all"] = text.value(WARP, r"const int last = (sizes\.width - \(mcu_column .*?);", names)
    refused = text.found(WARP, r"if \(!vectors \|\| (last < 0)\) return false;").replace("last", "last_of_all")
    ahead = z3.And(names["x0"] >= 0, names["x0"] + 8 <= sizes.width)
    return (
        proved(rows, *facts)
        and samples_are_inside(text, sizes, names["x0"], names["last"], whole, 8, facts)
        and proved(ahead, z3.Not(evaluated(refused, names)), *facts)
    )


def rows_of_blocks_differ(text: Text, file: str, factors: Factors) -> bool:
    """No two threads, or turns of one, have the same row of a block of a component."""
    sizes = Sizes(text, factors)
    one, other = (coding_thread(text, file, factors, sizes, mark) for mark in "ab")
    layout = one["L"]
    facts = [*one["facts"], *other["facts"]]
    luma = text.found(file, r"const int y = (mcu_row \* kBlock \* L::kVertical \+ place\.luma_row\(v\));")
    columns = text.found(file, r"y / kBlock, y % kBlock, (mcu_column .*?)\); \}")
    different = z3.Or(*(one[key] != other[key] for key in ("mcu_row", "warp_column", "lane", "v")))
    turns = [one["v"] < layout.kLumaRows, other["v"] < layout.kLumaRows]
    apart = z3.Or(*(evaluated(part, one) != evaluated(part, other) for part in (luma, columns)))
    if not proved(apart, *facts, *turns, different):
        return False
    if layout.kGrey:
        return True
    arguments = text.found(file, r"finish_row\(tile \+ place\.chroma_tile\(v\), (.*?)\); \}")
    turns = [one["v"] < layout.kChromaRows, other["v"] < layout.kChromaRows]
    pairs = zip(evaluated(arguments, one), evaluated(arguments, other), strict=True)
    return proved(z3.Or(*(a != b for a, b in pairs)), *facts, *turns, different)


def work_is_inside(count: Any, across: Any, down: Any) -> bool:
    """Whether works numbered row by row, `count` of them, have rows below `down` and columns below `across`: given as
    expressions of which both are known to be at least 1.
    """
    number, row, column, columns, rows = z3.Ints("number row column columns rows")
    made = [columns >= 1, rows >= 1, column >= 0, column < columns, row >= 0, number == row * columns + column]
    in_range = proved(row < rows, *made, number < columns * rows, product(row - rows, columns))
    return in_range and proved(count == across * down)


def planes_are_apart(text: Text, file: str, factors: Factors) -> bool:
    """The component's planes are one after the other, in what is an image's."""
    sizes = Sizes(text, factors)
    offset = text.found(file, r"const unsigned offset = (luma \?.*?|component == 0 \?.*?);")
    ends: list[Any] = [0]
    claims: list[Any] = []
    for component in range(1 if factors.grey else 3):
        names = {"component": component, "luma": component == 0, "sizes": sizes}
        start = evaluated(offset, names)
        rows = text.value(file, r"const int rows = (.*?);", names)
        columns = text.value(file, r"const int columns = (luma \?.*?|component == 0 \?.*?);", names)
        claims.append(start >= ends[-1])
        ends.append(start + rows * columns * 64)
    claims += [ends[-1] <= sizes.flag_offset, sizes.flag_offset <= sizes.plane_bytes]
    products = [product(sizes.mcu_rows, sizes.mcu_columns)]
    return proved(z3.And(*claims), *sizes.facts, *products)


def row_of_block_is_inside(text: Text, file: str, expression: str, guarded: bool) -> bool:
    """Whether eight neighbours of a block's row are in a component's plane, at a multiple of eight.

    Args:
        text: the text.
        file: the kernel's.
        expression: the pattern of their place behind the component's offset.
        guarded: whether the kernel leaves out blocks beyond the component; else there are none.
    """
    columns, rows, block_row, y, block_column = z3.Ints("columns rows block_row y block_column")
    names = {"columns": columns, "rows": rows, "block_row": block_row, "y": y, "row": y, "block_column": block_column}
    names["kBlock"] = Whole(8)
    at = text.value(file, expression, names)
    facts = [rows >= 1, columns >= 1, block_row >= 0, y >= 0, y < 8, block_column >= 0]
    if guarded:
        facts.append(z3.Not(text.value(file, r"if \((block_row >.*?)\) return;", names)))
    else:
        facts += [block_row < rows, block_column < columns]
    row, column = block_row * 8 + y, block_column * 8
    return place_is_inside(at, row, rows, column, columns, 8, *facts) and proved(at % 8 == 0)
