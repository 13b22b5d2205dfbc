"""Proofs that 32 bits hold the numbers of which the kernels make indices, for the largest image that ops take.

They are about the expressions in the text of ``csrc/`` (`support.index_text`), by z3. The other proofs take numbers as
those of mathematics. Offsets in images are of 64 bits; those in planes are unsigned, and less than an image's planes
have bytes, as the other proofs show. Each proof fails where a limit is wider.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("z3")

import z3
from support.index_patches import patches
from support.index_proofs import (
    F411,
    F420,
    F444,
    Factors,
    Sizes,
    Wrong,
    by_name,
    cases,
    constants,
    product,
    proved,
    through_tile,
)
from support.index_text import (
    BACKWARD,
    DISPATCH,
    EXACT_LAUNCH,
    REAL_LAUNCH,
    UPSAMPLING,
    Text,
    Whole,
    evaluated,
)

_LIMITS = "ops/on_device.h"
_MOST = 2**31 - 1


def _limits(text: Text, sizes: Sizes) -> Any:
    """Returns what ``check_size`` lets pass."""
    return text.value(_LIMITS, r"STD_TORCH_CHECK\( (g\.height .*?), \"image must", {"g": sizes, "kMost": _MOST})


def rows_and_columns_fit(text: Text, factors: Factors) -> bool:
    """Rows and columns of pixels and of MCUs, beyond the image's edges too: of a warp, a patch and a ring."""
    sizes = Sizes(text, factors)
    limits = [*sizes.sides, _limits(text, sizes)]
    names = constants(text, factors) | {"g": sizes, "sizes": sizes}
    layout = names["L"]
    across = text.value(DISPATCH, r"warps_across\(const Geometry& g\) \{ return (.*?);", names)
    column, row = z3.Ints("column row")
    work = [column >= 0, column < across, row >= 0, row < sizes.mcu_rows]
    # One beyond the last column of a warp's MCUs, and one beyond the last row.
    x = (column + 1) * layout.kMcus * layout.kHorizontal * 8
    y = (row + 1) * layout.kVertical * 8
    if not proved(z3.And(x <= _MOST, y <= _MOST), *limits, *work):
        return False
    for patch in patches(text, factors):
        inside = [*patch.facts, patch.tile_x < sizes.width, patch.tile_y < sizes.height]
        ring_x, ring_y = z3.Ints("ring_x ring_y")
        of_ring = {"tile_x": patch.tile_x, "tile_y": patch.tile_y, "ring_x": ring_x, "ring_y": ring_y}
        beyond = text.value(UPSAMPLING, r"const int x = (tile_x .*?), y = ", of_ring)
        below = text.value(UPSAMPLING, r"const int x = tile_x .*?, y = (tile_y .*?);", of_ring)
        # The tile's last patch ends where the tile does, and the ring is one pixel around it.
        ring = [ring_x >= 0, ring_x <= patch.x0 - patch.tile_x + patch.wide + 1]
        ring += [ring_y >= 0, ring_y <= patch.y0 - patch.tile_y + patch.tall + 1]
        corner = z3.And(patch.x0 + patch.wide - 1 <= _MOST, patch.y0 + patch.tall - 1 <= _MOST)
        if not proved(corner, *limits, *inside):
            return False
        around = z3.And(beyond >= -1, beyond <= _MOST, below >= -1, below <= _MOST)
        if 2 in factors[:2] and not proved(around, *limits, *inside, *ring):
            return False
    return True


def counts_of_work_fit(text: Text, factors: Factors) -> bool:
    """Works are numbered in 31 bits, which ``Divider`` wants: also those beyond the last in a block of threads."""
    sizes = Sizes(text, factors)
    counts = _counts(text, factors, sizes)
    for across, down, columns, rows in counts:
        # So many columns and rows, of which the counts are not more than these parts.
        bounds = z3.And(across >= 1, across <= columns * sizes.luma_columns, down >= 1, down <= rows * sizes.luma_rows)
        if not proved(bounds, *sizes.sides):
            return False
    return _luma_fits(text, sizes) and all(_few(text, *parts) for parts in {one[2:] for one in counts})


def _counts(text: Text, factors: Factors, sizes: Sizes) -> list[tuple[Any, Any, int, int]]:
    """Returns works across and down, and of how many parts of a block of luma in each direction they are at most."""
    names = constants(text, factors) | {"g": sizes}
    warps = text.value(DISPATCH, r"warps_across\(const Geometry& g\) \{ return (.*?);", names)
    found = [(warps, sizes.mcu_rows, 1, 1), (sizes.mcu_columns, sizes.mcu_rows, 1, 1)]
    found.append((sizes.luma_columns, sizes.luma_rows, 1, 1))  # blocks
    groups = text.found(REAL_LAUNCH, r"emit\.groups = static_cast<int>\((.*?)\);").split(" * ")
    found.append((evaluated(groups[1], names), evaluated(groups[0], names), 1, 8))
    for wide, tall in ((4, 4), (8, 2)):
        of_patch = names | {"kWide": Whole(wide), "kTall": Whole(tall)}
        across = text.value(EXACT_LAUNCH, r"const int64_t across = (\(g\.width .*?);", of_patch)
        down = text.value(EXACT_LAUNCH, r"job\.patches = static_cast<int>\(across \* (.*?)\); with", of_patch)
        found.append((across, down, 8 // wide, 8 // tall))
    for name in ("GradientThreads", "GradientWide", "GradientTall", "TileAcross", "TileWide", "TileTall"):
        names[f"k{name}"] = Whole(text.value(BACKWARD, rf"[ ,]k{name} = (.*?)[,;]", names))
    across = text.value(EXACT_LAUNCH, r"int64_t gradient_tiles_across\(const Geometry& g\) \{ return (.*?);", names)
    down = text.value(EXACT_LAUNCH, r"gradient_tiles_across\(g\) \* (\(\(g\.height .*?\))\);", names)
    found.append((across, down, 1, 1))
    for warps_of_block in (2, 4):
        tile = names | {"Tile": through_tile(text, names, warps_of_block)}
        sides = (
            text.found(EXACT_LAUNCH, rf"int64_t tiles_{one}\(.*?\) \{{ return (.*?);") for one in ("across", "down")
        )
        across, down = (evaluated(one.replace("ThroughTile<L, warps>::", "Tile::"), tile) for one in sides)
        found.append((across, down, 1, 1))
    return found


def _luma_fits(text: Text, sizes: Sizes) -> bool:
    products = product(sizes.chroma_rows, sizes.chroma_columns), product(sizes.mcu_rows, sizes.mcu_columns)
    luma = sizes.luma_rows * sizes.luma_columns * 64
    return proved(luma <= 2 * _MOST, _limits(text, sizes), *sizes.facts, *products)


def _few(text: Text, columns: int, rows: int) -> bool:
    """Whether so many works for each block of luma are few, in the largest image, and one turn of a grid more."""
    turn = text.value(EXACT_LAUNCH, r"kTurns = 4, kBlocks = (\d+);", {})
    across, down, of_columns, of_rows = z3.Ints("across down of_columns of_rows")
    counts = [across >= 1, across <= columns * of_columns, down >= 1, down <= rows * of_rows]
    counts += [of_rows >= 1, of_columns >= 1, of_rows * of_columns * 64 <= 2 * _MOST]
    hints = [product(columns * of_columns - across, down), product(rows * of_rows - down, columns * of_columns)]
    return proved(across * down + turn <= _MOST, *counts, *hints)


def places_of_planes_fit(text: Text, factors: Factors) -> bool:
    """Offsets in an image's planes are unsigned numbers of 32 bits, of bytes and of real numbers."""
    sizes = Sizes(text, factors)
    mcus = product(sizes.mcu_rows, sizes.mcu_columns)
    fit = z3.And(sizes.plane_bytes < 2**32, sizes.flag_offset < 2**32)
    return proved(fit, _limits(text, sizes), *sizes.facts, mcus)


PROOFS = by_name(rows_and_columns_fit, counts_of_work_fit, places_of_planes_fit)


@pytest.mark.parametrize(("proof", "factors"), cases(PROOFS, {}), ids=str)
def test_numbers_fit_for_every_image(proof: str, factors: Factors) -> None:
    assert PROOFS[proof](Text(), factors)


_WRONG = [
    Wrong("rows_and_columns_fit", F444, _LIMITS, "g.width < kMost - 64", "g.width <= kMost"),
    Wrong("rows_and_columns_fit", F420, _LIMITS, "g.height < kMost - 64", "g.height <= kMost"),
    Wrong("rows_and_columns_fit", F411, _LIMITS, "g.width < kMost - 64", "g.width < kMost"),
    Wrong("counts_of_work_fit", F444, _LIMITS, "g.plane_bytes <= 2 * kMost", "g.plane_bytes <= 64 * kMost"),
    Wrong("counts_of_work_fit", F420, EXACT_LAUNCH, "(g.width + kWide - 1) / kWide;", "(g.width + kWide - 1);"),
    Wrong("places_of_planes_fit", F444, _LIMITS, "g.plane_bytes <= 2 * kMost", "g.plane_bytes <= 3 * kMost"),
]


@pytest.mark.parametrize("wrong", _WRONG, ids=lambda one: f"{one.proof}: {one.new}")
def test_wrong_limits_are_not_proved(wrong: Wrong) -> None:
    assert not PROOFS[wrong.proof](Text(wrong.file, wrong.old, wrong.new), wrong.factors)
