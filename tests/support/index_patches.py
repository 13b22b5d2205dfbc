"""The patches of pixels that threads of the backward kernels have, exact and real, as the text has them."""

from __future__ import annotations

from typing import Any, NamedTuple

import z3

from support.index_proofs import Factors, Place, Sizes, constants, through_place, through_tile
from support.index_text import BACKWARD, THROUGH, Text, Whole, group, known


class Patch(NamedTuple):
    """A thread's patch of a kernel's tile, any one of any image."""

    wide: int
    tall: int
    x0: Any  # its corner
    y0: Any
    tile_x: Any  # that of the tile
    tile_y: Any
    unknowns: list[Any]  # of which the corner is made
    facts: list[Any]  # those that hold before it is known to be in the image


def stencil_patch(text: Text, mark: str = "") -> Patch:
    """Returns that of a thread of ``differentiate``."""
    names: dict[str, Any] = {}
    for name in ("GradientThreads", "GradientWide", "GradientTall", "TileAcross", "TileWide", "TileTall"):
        names[f"k{name}"] = Whole(text.value(BACKWARD, rf"[ ,]k{name} = (.*?)[,;]", names))
    thread, tile_row, tile_column = unknowns = z3.Ints(f"thread{mark} tile_row{mark} tile_column{mark}")
    names |= {"kWide": names["kGradientWide"], "kTall": names["kGradientTall"], "thread": thread, "tile_row": tile_row}
    names["column"] = tile_column
    names["tile_x"] = text.value(BACKWARD, r"remainder\(static_cast<int>\(blockIdx\.x\), tile_row\) \* (.*?);", names)
    names["tile_x"] = tile_column * names["tile_x"]
    names["tile_y"] = text.value(BACKWARD, r"const int tile_y = (.*?);", names)
    names = known(text.found(BACKWARD, r"(const int local_x = .*?; const int x0 = .*?;)"), names)
    facts = [thread >= 0, thread < names["kGradientThreads"], tile_row >= 0, tile_column >= 0]
    corner = (names["x0"], names["y0"], names["tile_x"], names["tile_y"])
    return Patch(names["kWide"], names["kTall"], *corner, list(unknowns), facts)


def through_patch(text: Text, factors: Factors, warps: int = 4, mark: str = "") -> Patch:
    """Returns that of a thread of ``differentiate_blocks`` or, with two warps in double precision, of
    ``real_differentiate``.
    """
    names = constants(text, factors)
    lane, warp, row, column = unknowns = z3.Ints(f"lane{mark} warp{mark} tile_row{mark} tile_column{mark}")
    tile = through_tile(text, names, warps)
    at = through_place(text, names | {"place": Place(text, names, lane)}, tile, row, column, warp)
    facts = [lane >= 0, lane < 32, warp >= 0, warp < warps, row >= 0, column >= 0]
    corner = (at["x0"], at["y0"], at["tile_x"], at["tile_y"])
    return Patch(tile.kPatchWide, tile.kPatchTall, *corner, list(unknowns), facts)


def patches(text: Text, factors: Factors, mark: str = "") -> list[Patch]:
    """Returns the patches of the stencil, of backward through coefficients, and of the latter in double precision."""
    return [stencil_patch(text, mark), through_patch(text, factors, 4, mark), through_patch(text, factors, 2, mark)]


def in_image(text: Text, sizes: Sizes, patch: Patch) -> list[Any]:
    """Returns what is known of a thread whose `inside` is true, in either kernel's text."""
    corner = {"x0": patch.x0, "y0": patch.y0}
    stencil = text.value(BACKWARD, r"const bool inside = (.*?);", corner | {"sizes": sizes})
    through = text.value(THROUGH, r"const bool inside = (.*?);", {"at": group(**corner), "sizes": sizes})
    return [*sizes.facts, *patch.facts, z3.Or(stencil, through)]
