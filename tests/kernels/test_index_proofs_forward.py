"""Proofs about the indices of the exact forward kernels: ``code_blocks``, ``decode_blocks`` and ``emit_image``.

They are about the expressions in the text of ``csrc/`` (`support.index_text`), by z3 for images of any size. For each
layout and type: accesses are inside of images, planes and coefficients, words are aligned, and no two threads write the
same place of them. Each proof fails where an index is changed. That the compiler keeps to the text, and that threads
meet at the barriers, is shown by the interpreter of PTX (``test_ptx.py``).
"""

from __future__ import annotations

import pytest

pytest.importorskip("z3")

import z3
from support.index_coding import (
    pixels_of_rows_are_inside,
    planes_are_apart,
    row_of_block_is_inside,
    rows_of_blocks_differ,
    work_is_inside,
)
from support.index_images import (
    TYPES,
    chroma_patch_is_inside,
    place_is_inside,
    word_of,
    words_are_aligned,
    written_samples_are_inside,
)
from support.index_proofs import (
    F411,
    F420,
    F422,
    F444,
    FACTORS,
    Factors,
    Place,
    Sizes,
    Wrong,
    by_name,
    cases,
    constants,
    product,
    proved,
)
from support.index_text import (
    DISPATCH,
    EXACT_LAUNCH,
    FORWARD,
    GEOMETRY,
    SAMPLES,
    TUNING,
    UPSAMPLING,
    WARP,
    Text,
    Whole,
    evaluated,
    group,
)

# ---------------------------------------------------------------------------------------------------------------------
# Images: of any size, by z3


def pixels_that_are_read(text: Text, factors: Factors) -> bool:
    """``code_blocks`` reads pixels of the image alone, one by one, as words of eight, or copied ahead as words."""
    return pixels_of_rows_are_inside(text, FORWARD, factors)


def works_that_are_launched(text: Text, factors: Factors) -> bool:
    """Each warp of ``code_blocks`` with work has a row of MCUs, each thread of ``emit_image`` a corner in the image."""
    sizes = Sizes(text, factors)
    names = {"g": sizes, "sizes": sizes, "L": constants(text, factors)["L"]}
    across = text.value(DISPATCH, r"warps_across\(const Geometry& g\) \{ return (.*?);", names)
    warps = text.found(EXACT_LAUNCH, r"job\.warps = static_cast<int>\((.*?)\);").replace("warps_across<L>(g)", "across")
    if not work_is_inside(evaluated(warps, names | {"across": across}), across, sizes.mcu_rows):
        return False
    if not proved(z3.And(across >= 1, sizes.mcu_rows >= 1), *sizes.facts):
        return False
    column, row = z3.Ints("column row")
    corner = text.found(FORWARD, r"remainder\(patch, patch_row\) (\* kWide, y0 = [^;]*);").split(", y0 =")
    for wide, tall in ((4, 4), (8, 2)):
        names |= {"kWide": Whole(wide), "kTall": Whole(tall), "column": column, "patch_row": row}
        names["across"] = text.value(EXACT_LAUNCH, r"const int64_t across = (\(g\.width .*?);", names)
        count = text.value(EXACT_LAUNCH, r"job\.patches = static_cast<int>\((.*?)\); with", names)
        down = (sizes.height + tall - 1) / tall
        facts = [*sizes.facts, column >= 0, column < names["across"], row >= 0, row < down]
        x0, y0 = evaluated(f"column {corner[0]}", names), evaluated(corner[1], names)
        inside = z3.And(x0 >= 0, x0 < sizes.width, y0 >= 0, y0 < sizes.height, x0 % wide == 0, y0 % tall == 0)
        if not work_is_inside(count, names["across"], down) or not proved(inside, *facts):
            return False
    return True


def words_of_images(text: Text, factors: Factors) -> bool:
    """Words of images are at multiples of their bytes, where ``allows_vectors`` allows them; for each type."""
    names = constants(text, factors)
    lane, v, mcu_column, patch = z3.Ints("lane v mcu_column patch")
    inside = names | {"mcu_column": mcu_column, "place": Place(text, names, lane), "v": v, "patch": patch}
    x0 = text.value(WARP, r"const int x0 = ([^;]*?luma_column\(v\).*?);", inside)
    facts = [lane >= 0, lane < 32, v >= 0, mcu_column >= 0, patch >= 0]
    coded = text.value(EXACT_LAUNCH, r"job\.vectors = allows_vectors\(job\.input, (.*?)\);", inside)
    emitted = text.found(FORWARD, r"const int x0 = job\.patches_across\.remainder\(patch, patch_row\) (.*?),")
    allowed = text.found(EXACT_LAUNCH, r"job\.vectors = allows_vectors\(output, (.*?)\);")
    for size in TYPES:
        inside["kWide"] = Whole(text.found(TUNING, r"define FDJPEG_EMIT_WIDE (\d+)")) if size >= 4 else Whole(8)
        patches = evaluated("patch " + emitted, inside)
        if not words_are_aligned(text, size, coded, 8, x0, *facts):
            return False
        if not words_are_aligned(text, size, evaluated(allowed, inside), inside["kWide"], patches, *facts):
            return False
    return True


def pixels_that_are_written(text: Text, factors: Factors) -> bool:
    """``emit_image`` writes pixels of the image alone, as words only where all of a word's are there."""
    sizes = Sizes(text, factors)
    x0, y0, y = z3.Ints("x0 y0 y")
    last = text.value(FORWARD, r"const int last = (sizes\.width - 1 - x0);", {"sizes": sizes, "x0": x0})
    rows = text.value(FORWARD, r"if \((y0 \+ y < sizes\.height)\)", {"sizes": sizes, "y0": y0, "y": y})
    facts = [*sizes.facts, x0 >= 0, y0 >= 0, y >= 0, rows]
    for wide in map(Whole, (4, 8)):
        names = {"job": group(vectors=z3.Bool("vectors")), "last": last, "kWide": wide}
        whole = text.value(FORWARD, r"const bool whole = (job\.vectors .*?);", names)
        if not proved(y0 + y < sizes.height, *facts):
            return False
        if not written_samples_are_inside(text, sizes, x0, last, whole, wide, facts):
            return False
    return True


def pixels_that_one_thread_writes(text: Text, factors: Factors) -> bool:
    """No two threads of ``emit_image`` write the same pixel."""
    corner = text.found(FORWARD, r"remainder\(patch, patch_row\) (\* kWide, y0 = [^;]*);")
    across, down = corner.split(", y0 =")
    for wide, tall in ((4, 4), (8, 2)):
        pixels, unknowns, facts = [], [], []
        for mark in "ab":
            column, row, x, y = names = z3.Ints(f"column{mark} row{mark} x{mark} y{mark}")
            found = {"kWide": Whole(wide), "kTall": Whole(tall), "patch_row": row, "column": column}
            pixels.append((evaluated(f"column {across}", found) + x, evaluated(down, found) + y))
            unknowns.append(names)
            facts += [column >= 0, row >= 0, x >= 0, x < wide, y >= 0, y < tall]
        if not proved(
            z3.Or(*(a != b for a, b in zip(*pixels, strict=True))),
            *facts,
            z3.Or(*(a != b for a, b in zip(*unknowns, strict=True))),
        ):
            return False
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Planes and coefficients


def planes_that_are_written(text: Text, factors: Factors) -> bool:
    """``code_blocks`` and ``decode_blocks`` write eight bytes of a component's plane at multiples of eight."""
    sizes = Sizes(text, factors)
    parts = (sizes.cb_offset, sizes.cr_offset, sizes.flag_offset, sizes.plane_bytes)
    coded, decoded = r"target = offset \+ (.*?);", r"n \* job\.plane_bytes \+ (\(\(block_row .*? kBlock);"
    return (
        row_of_block_is_inside(text, FORWARD, coded, guarded=True)
        and row_of_block_is_inside(text, FORWARD, decoded, guarded=False)
        and planes_are_apart(text, FORWARD, factors)
        and proved(z3.And(*(one % 8 == 0 for one in parts)), *sizes.facts)
    )


def flags_that_are_written(text: Text, factors: Factors) -> bool:
    """``code_blocks`` writes a flag for each MCU and the bytes behind them, each by one thread."""
    sizes = Sizes(text, factors)
    room, used = sizes.plane_bytes - sizes.flag_offset, sizes.mcu_rows * sizes.mcu_columns
    flag = text.found(FORWARD, r"flags\[(mcu_row \* sizes\.mcu_columns \+ mcu_column)\] =")
    guard = text.found(FORWARD, r"if \(lane % L::kThreads == 0 && (mcu_column .*? sizes\.mcu_columns)\)")
    facts, places, unknowns = list(sizes.facts), [], []
    for mark in "ab":
        row, column = z3.Ints(f"mcu_row{mark} mcu_column{mark}")
        names = {"mcu_row": row, "mcu_column": column, "sizes": sizes}
        places.append(evaluated(flag, names))
        unknowns.append((row, column))
        facts += [row >= 0, row < sizes.mcu_rows, column >= 0, evaluated(guard, names)]
        facts += [product(sizes.mcu_rows - 1 - row, sizes.mcu_columns), product(row, sizes.mcu_columns)]
    (row, column), (row_too, column_too) = unknowns
    # If rows differ, the first be the smaller.
    different = z3.Or(row < row_too, z3.And(row == row_too, column != column_too))
    hint = product(row_too - row - 1, sizes.mcu_columns)
    lane = z3.Int("lane")
    end = {"sizes": sizes, "lane": lane, "used": used, "work": 0}
    rest = text.value(FORWARD, r"if \(work == 0 && (lane < .*?)\) flags\[used", end)
    at = text.value(FORWARD, r"flags\[(used .*?)\] = 0;", end)
    return (
        proved(z3.And(places[0] >= 0, places[0] < used, used <= room), *facts)
        and proved(places[0] != places[1], *facts, different, hint)
        and proved(z3.And(at >= used, at < room), *sizes.facts, lane >= 0, rest)
    )


def planes_that_one_thread_writes(text: Text, factors: Factors) -> bool:
    """No two threads of ``code_blocks`` write the same bytes of the planes, or the same coefficients."""
    # Other rows or columns are other places: target is 8 (row columns + column), with columns of them in a row.
    row, row_too, column, column_too, count = z3.Ints("row row_too column column_too count")
    bounds = [column >= 0, column < count, column_too >= 0, column_too < count, row < row_too]
    apart = row * count + column < row_too * count + column_too
    return rows_of_blocks_differ(text, FORWARD, factors) and proved(apart, *bounds, product(row_too - row - 1, count))


def coefficients_are_inside(text: Text, factors: Factors) -> bool:
    """``code_blocks`` writes rows of coefficients, and ``decode_blocks`` reads them, as words of 16 bytes: of a
    component's blocks, each row by one thread.
    """
    n, rows, columns, block_row, block_column, y = z3.Ints("n rows columns block_row block_column y")
    names = {"n": n, "rows": rows, "columns": columns, "block_row": block_row, "block_column": block_column, "y": y}
    names |= {"kBlock": Whole(8), "kBlockSize": Whole(64)}
    number = text.value(FORWARD, r"const int64_t block = (\(n \* rows .*?);", names)
    images, blocks, block = z3.Ints("images blocks block")
    target = text.value(FORWARD, r"job\.coefficients\[component\] \+ \((block \* .*?)\);", names | {"block": block})
    source = text.value(
        FORWARD, r"source = job\.coefficients \+ (\(n .*?);", names | {"job": group(blocks=blocks), "block": block}
    )
    source += text.value(FORWARD, r"read_samples\(source \+ (.*?), 1", names | {"row": y})
    facts = [n >= 0, n < images, rows >= 1, columns >= 1, block_row >= 0, block_column >= 0, y >= 0, y < 8]
    facts += [block_row < rows, block_column < columns]
    # A component's blocks are numbered row by row.
    in_component = block_row * columns + block_column
    hints = [product(rows - 1 - block_row, columns), product(block_row, columns)]
    numbered = proved(z3.And(in_component >= 0, in_component < rows * columns), *facts, *hints) and proved(
        number == n * (rows * columns) + in_component
    )
    # Of all images there are images · blocks.
    bounds = [n >= 0, n < images, block >= 0, block < blocks, y >= 0, y < 8]
    hints = [product(images - 1 - n, blocks), product(n, blocks)]
    inside = proved(z3.And(source >= 0, source + 8 <= images * blocks * 64), *bounds, *hints) and proved(
        z3.And(target >= 0, target + 8 <= blocks * 64), *bounds
    )
    word, taken = word_of(text, 2, 8, 8)
    return numbered and inside and word == taken == 16 and proved(z3.And(source * 2 % 16 == 0, target * 2 % 16 == 0))


def blocks_that_one_thread_decodes(text: Text, factors: Factors) -> bool:
    """No two threads of ``decode_blocks`` have the same row of the same block."""
    rows, facts, unknowns = [], [], []
    for mark in "ab":
        column, warp, lane = z3.Ints(f"column{mark} warp{mark} lane{mark}")
        names = {"blockIdx": group(x=column), "warp": warp, "lane": lane, "kBlock": Whole(8)}
        names["kDecodeWarps"] = Whole(text.found(FORWARD, r"constexpr int kDecodeWarps = (\d+);"))
        block = text.value(FORWARD, r"const int block = (\(static_cast<int>\(blockIdx.*? lane / kBlock);", names)
        rows.append((block, text.value(FORWARD, r"const int row = (lane % kBlock),", names)))
        unknowns.append((column, warp, lane))
        facts += [column >= 0, warp >= 0, warp < names["kDecodeWarps"], lane >= 0, lane < 32]
    different = z3.Or(*(a != b for a, b in zip(*unknowns, strict=True)))
    return proved(z3.Or(*(a != b for a, b in zip(*rows, strict=True))), *facts, different)


def planes_that_are_read(text: Text, factors: Factors) -> bool:
    """``emit_image`` reads bytes of an image's planes, words of them aligned."""
    sizes = Sizes(text, factors)
    x0, y0, y = z3.Ints("x0 y0 y")
    luma = text.found(FORWARD, r"read_bytes\(planes \+ \((\(y0 \+ y\) .*?)\), luma\[y\]\);")
    stride = text.value(FORWARD, r"const unsigned luma_stride = (.*?);", {"sizes": sizes, "kBlock": Whole(8)})
    at = evaluated(luma, {"y0": y0, "y": y, "x0": x0, "luma_stride": stride})
    for wide, tall in ((4, 4), (8, 2)):
        facts = [*sizes.facts, x0 >= 0, x0 < sizes.width, y0 >= 0, y0 < sizes.height, x0 % wide == 0, y0 % tall == 0]
        turns = [y >= 0, y < tall]
        if not place_is_inside(at, y0 + y, sizes.luma_rows, x0, sizes.luma_columns, wide, *facts, *turns):
            return False
        if not proved(at % wide == 0, x0 % wide == 0):
            return False
        if not factors.grey and not chroma_patch_is_inside(text, sizes, factors, (wide, tall), [*facts, *turns]):
            return False
    return True


def divisions(text: Text, factors: Factors) -> bool:
    """``Divider`` divides exactly, for every divisor and every number below 2³¹."""
    divisor, error, rest, base, excess, scale = z3.Ints("divisor error rest base excess scale")
    power = scale * 2 ** int(text.found(SAMPLES, r"uint64_t\{1\} << \((\d+) \+ s\)"))
    rounded = text.found(SAMPLES, r"static_cast<unsigned>\((\(?power .*?divisor)\), 31")
    found = evaluated(rounded, {"power": power, "divisor": divisor})
    facts = [divisor >= 1, scale >= divisor]  # scale is the power of two that is at least the divisor
    # multiplier · divisor = power + error, with an error of less than the divisor.
    multiplier = z3.And(found * divisor >= power, found * divisor < power + divisor)
    # The number is base + rest, base the quotient times the divisor. Its product with the error is `excess`.
    number = base + rest
    facts += [error >= 0, error < divisor, rest >= 0, rest < divisor, base >= 0, number < 2**31]
    small = z3.Implies(excess == number * error, excess < power)
    # base power <= number (power + error) < (base + divisor) power: divided by both, the quotient.
    below = base * power <= number * power + excess
    above = number * power + excess < (base + divisor) * power
    return (
        proved(multiplier, *facts[:2])
        and proved(small, *facts, product(2**31 - 1 - number, error))
        and proved(below, *facts, excess >= 0, power > 0, product(rest, power))
        and proved(above, *facts, excess < power, power > 0, product(divisor - 1 - rest, power))
    )


PROOFS = by_name(
    *(works_that_are_launched, pixels_that_are_read, words_of_images, pixels_that_are_written),
    *(pixels_that_one_thread_writes, planes_that_are_written, flags_that_are_written, planes_that_one_thread_writes),
    *(coefficients_are_inside, blocks_that_one_thread_decodes, planes_that_are_read, divisions),
)
# These do not depend on the layout.
_ALIKE = (coefficients_are_inside, blocks_that_one_thread_decodes, divisions)


@pytest.mark.parametrize(("proof", "factors"), cases(PROOFS, {one.__name__: FACTORS[:1] for one in _ALIKE}), ids=str)
def test_indices_are_right_for_every_image(proof: str, factors: Factors) -> None:
    assert PROOFS[proof](Text(), factors)


_WRONG = [
    Wrong("works_that_are_launched", F420, EXACT_LAUNCH, "(g.mcu_rows * warps_across<L>", "(2 * warps_across<L>"),
    Wrong("works_that_are_launched", F444, EXACT_LAUNCH, "(g.width + kWide - 1) / kWide", "(g.width + kWide) / kWide"),
    Wrong("pixels_that_are_read", F420, WARP, "luma_row(v), sizes.height - 1);", "luma_row(v), sizes.height);"),
    Wrong("pixels_that_are_read", F444, WARP, "vectors && last >= kBlock - 1;", "vectors && last >= kBlock - 2;"),
    Wrong("pixels_that_are_read", F444, SAMPLES, "row[smaller(i, last) *", "row[smaller(i, last + 1) *"),
    Wrong("pixels_that_are_read", F411, WARP, "luma_column(L::kLumaRows - 1) + 1)", "luma_column(0) + 1)"),
    Wrong("words_of_images", F444, FORWARD, "(patch, patch_row) * kWide, y0", "(patch, patch_row) * kWide + 1, y0"),
    Wrong("words_of_images", F444, DISPATCH, "(16, count * size)", "(16, count * size / 2)"),
    Wrong("words_of_images", F444, EXACT_LAUNCH, "allows_vectors(output, kWide)", "allows_vectors(output, 2)"),
    Wrong("pixels_that_are_written", F444, SAMPLES, "if (i <= last) row", "if (i <= last + 1) row"),
    Wrong("pixels_that_one_thread_writes", F444, FORWARD, "y0 = patch_row * kTall;", "y0 = patch_row * kTall / 2;"),
    Wrong("planes_that_are_written", F420, FORWARD, "block_row >= rows || block", "block_row > rows || block"),
    Wrong("planes_that_are_written", F420, FORWARD, "kBlock + y) * columns", "kBlock + y + 1) * columns"),
    Wrong("planes_that_are_written", F420, FORWARD, "kBlock + row) * columns", "kBlock + row) * columns + 1"),
    Wrong("planes_that_are_written", F420, GEOMETRY, "+ 15) / 16 * 16", "+ 3) / 4 * 4"),
    Wrong("planes_that_are_written", F422, GEOMETRY, "g.cr_offset = g.cb_offset +", "g.cr_offset = 0 +"),
    Wrong("flags_that_are_written", F420, FORWARD, "mcu_column < sizes.mcu", "mcu_column <= sizes.mcu"),
    Wrong("flags_that_are_written", F420, FORWARD, "flags[used + lane] = 0", "flags[used + lane - 1] = 0"),
    Wrong("planes_that_one_thread_writes", F420, FORWARD, "place.chroma_component(v), mcu_row", "1, mcu_row"),
    Wrong("planes_that_one_thread_writes", F411, WARP, "L::kHorizontal == 4 ? 2 * group + v : group", "group + v"),
    Wrong("coefficients_are_inside", F444, FORWARD, "(n * rows + block_row) * columns", "(n * rows + block_row)"),
    Wrong("coefficients_are_inside", F444, FORWARD, "block * kBlockSize + y * kBlock", "block * kBlockSize + y * 4"),
    Wrong("coefficients_are_inside", F444, FORWARD, "(source + row * kBlock", "(source + row * kBlock + kBlock"),
    Wrong("blocks_that_one_thread_decodes", F444, FORWARD, "kDecodeWarps + warp) * 4", "kDecodeWarps + warp) * 3"),
    Wrong("planes_that_are_read", F420, UPSAMPLING, "kHaloDown, 0, last_row)) *", "kHaloDown, 0, last_row + 8)) *"),
    Wrong("planes_that_are_read", F444, FORWARD, "luma_stride + x0), luma[y]", "luma_stride + x0 + 1), luma[y]"),
    Wrong("divisions", F444, SAMPLES, "(power + divisor - 1) / divisor", "power / divisor"),
    Wrong("divisions", F444, SAMPLES, "uint64_t{1} << (31 + s)", "uint64_t{1} << (30 + s)"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", _WRONG, ids=lambda one: f"{one.proof}: {one.new}")
def test_wrong_indices_are_not_proved(wrong: Wrong) -> None:
    assert not PROOFS[wrong.proof](Text(wrong.file, wrong.old, wrong.new), wrong.factors)
