"""Proofs about the indices of quantization tables: steps, slopes, and the sums of the tables' gradients.

They are about the expressions in the text of ``csrc/`` (`support.index_text`): exhaustively in shared memory, and by z3
for any number of images and parts. Accesses are in range, no two threads write the same place, and what is read was
written. Each proof fails where an index is changed. Where a warp's sums are in its tile is tried in
``test_index_proofs_tiles.py``.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

pytest.importorskip("z3")

import z3
from support.index_proofs import (
    F411,
    F420,
    F422,
    F444,
    FACTORS,
    Factors,
    Sizes,
    Wrong,
    by_name,
    cases,
    constants,
    product,
    proved,
)
from support.index_text import (
    EXACT_LAUNCH,
    FORWARD,
    REAL_BACKWARD,
    REAL_FORWARD,
    THROUGH,
    WARP,
    Text,
    Whole,
    evaluated,
    group,
    known,
)
from support.index_tiles import LANES, Fault, Memory

_THREADS = (64, 128, 256)  # of the blocks that have tables of steps


def _component_of_pass(text: Text, names: dict[str, Any], number: int, lane: int) -> int:
    luma, chroma = text.found(WARP, r"int component_of_pass\(.*?\) \{ if \((.*? return .*?);? \}").split(
        ") return 0; return "
    )
    inside = names | {"pass_": Whole(number), "lane": lane}
    return 0 if evaluated(luma, inside) else int(evaluated(chroma, inside))


# ---------------------------------------------------------------------------------------------------------------------
# Steps


def steps_in_shared_memory(text: Text, factors: Factors) -> bool:
    """``SharedSteps`` is filled by any number of threads, each step by one, and columns of filled steps are read."""
    names = constants(text, factors)
    names["kColumn"] = Whole(text.found(WARP, r"static constexpr int kColumn = (\d+);"))
    first_of = text.found(WARP, r"const unsigned i = (first .*?);")
    too_many = text.found(WARP, r"if \((i >.*?)\) return;")
    parts = text.found(WARP, r"(const unsigned component = i / kBlockSize, index = [^;]*;)")
    place = text.found(WARP, r"step\[(component\]\[index .*?)\] = of\(q\);").split("][")
    for threads in _THREADS:
        steps = Memory(3 * 8 * names["kColumn"])
        names["kSteps"] = Whole((1 if factors.grey else 3) * 64)
        try:
            for first, thread in itertools.product(range(0, names["kSteps"], threads), range(threads)):
                inside = names | {"first": Whole(first), "threadIdx": group(x=Whole(thread))}
                inside["i"] = evaluated(first_of, inside)
                if evaluated(too_many, inside):
                    continue
                component, column, row = (evaluated(one, known(parts, inside)) for one in place)
                if not (column < 8 and row < names["kColumn"]):
                    return False
                steps.write(thread, [(component * 8 + column) * names["kColumn"] + row])
            steps.barrier()
            for number, lane in itertools.product(range(names["L"].kPasses), LANES):
                component = _component_of_pass(text, names, number, lane)
                steps.read(lane, [(component * 8 + lane % 8) * names["kColumn"] + i for i in range(8)])
        except Fault:
            return False
    return True


def real_steps_in_shared_memory(text: Text, factors: Factors) -> bool:
    """``SharedRealSteps`` likewise, row by row."""
    names = constants(text, factors)
    size = text.value(REAL_FORWARD, r"static constexpr int kComponent = (.*?);", names)
    loop = text.found(REAL_FORWARD, r"for \(unsigned i = threadIdx\.x; i < components \* kBlockSize; i \+= (threads)\)")
    component_of = text.found(REAL_FORWARD, r"const unsigned component = (i / kBlockSize);")
    place = text.found(REAL_FORWARD, r"step\[component\]\[(i .*?)\] = \{Real")
    column = text.found(REAL_FORWARD, r"steps\.step\[component_of_pass<L>\(pass, lane\)\] \+ (column);")
    row = text.found(REAL_FORWARD, r"const auto \[reciprocal, q\] = step\[(i \* kBlock)\];")
    for threads in _THREADS:
        steps = Memory(3 * size)
        try:
            for thread in range(threads):
                for i in range(thread, (1 if factors.grey else 3) * 64, evaluated(loop, {"threads": threads})):
                    inside = names | {"i": Whole(i)}
                    at = evaluated(place, inside)
                    if at >= size:
                        return False
                    steps.write(thread, [evaluated(component_of, inside) * size + at])
            steps.barrier()
            for number, lane in itertools.product(range(names["L"].kPasses), LANES):
                start = _component_of_pass(text, names, number, lane) * size
                start += evaluated(column, {"column": lane % 8})
                steps.read(lane, [start + evaluated(row, names | {"i": Whole(i)}) for i in range(8)])
        except Fault:
            return False
    return True


def tables_that_are_read(text: Text, factors: Factors) -> bool:
    """Steps are read from the tables of the image, of which there is one set or one for each image."""
    image, images, i, component, index = z3.Ints("image images i component index")
    names = {"image": image, "component": component, "index": index, "i": i, "kBlockSize": 64}
    own = [image >= 0, image < images]
    for stride, last in ((0, 1), (192, images)):
        steps = names | {"steps": group(image_stride=stride)}
        exact = text.value(WARP, r"steps\.tables\[(image .*?)\]\);", steps)
        real = text.value(REAL_FORWARD, r"const int64_t at = (image .*?);", steps)
        parts = [component >= 0, component < 3, index >= 0, index < 64]
        if not proved(z3.And(exact >= 0, exact < last * 192), *own, *parts):
            return False
        if not proved(z3.And(real >= 0, real < last * 192), *own, i >= 0, i < 192):
            return False
    component = text.value(WARP, r"const unsigned component = (i / kBlockSize), index", names)
    index = text.value(WARP, r", index = (i % kBlockSize);", names)
    return proved(z3.And(component < 3, index < 64, component >= 0, index >= 0), i >= 0, i < 192)


def qualities_that_are_read(text: Text, factors: Factors) -> bool:
    """``scale_of_block`` reads the quality of a block of luma of the image."""
    sizes = Sizes(text, factors)
    names = constants(text, factors)
    n, images, mcu_row, first_mcu, block = z3.Ints("n images mcu_row first_mcu block")
    row, rows, column = z3.Ints("row rows column")
    facts = [*sizes.facts, mcu_row >= 0, first_mcu >= 0]
    for number in map(Whole, range(names["L"].kBlocks)):
        inside = names | {"sizes": sizes, "mcu_row": mcu_row, "first_mcu": first_mcu, "block": number}
        at_row = text.value(FORWARD, r"const int row = (smaller\(mcu_row .*?);", inside)
        at_column = text.value(FORWARD, r"const int column = (smaller\(\(first_mcu .*?);", inside)
        place = z3.And(at_row >= 0, at_row < sizes.luma_rows, at_column >= 0, at_column < sizes.luma_columns)
        if not proved(place, *facts):
            return False
    at = text.value(FORWARD, r"qualities\[(\(n .*?)\]\);", {"n": n, "row": row, "column": column, "sizes": sizes})
    # The rows of all images are numbered one after the other.
    of_all = n * sizes.luma_rows + row
    known_of_row = [n >= 0, n < images, row >= 0, row < sizes.luma_rows]
    hints = [product(images - 1 - n, sizes.luma_rows), product(n, sizes.luma_rows)]
    bounds = [block >= 0, block < rows, column >= 0, column < sizes.luma_columns]
    more = [product(rows - 1 - block, sizes.luma_columns), product(block, sizes.luma_columns)]
    place = block * sizes.luma_columns + column
    return (
        proved(z3.And(of_all >= 0, of_all < images * sizes.luma_rows), *known_of_row, *hints)
        and proved(at == of_all * sizes.luma_columns + column)
        and proved(z3.And(place >= 0, place < rows * sizes.luma_columns), *bounds, *more)
    )


# ---------------------------------------------------------------------------------------------------------------------
# Slopes


def slopes_that_are_read(text: Text, factors: Factors) -> bool:
    """``SharedSlopes`` has a slope and a bend for each part, each by one thread, and is read where it was filled."""
    most = Whole(text.found(THROUGH, r"static constexpr int kMost = (\d+);"))
    names: dict[str, Any] = {"kMost": most}
    slopes = text.value(THROUGH, r"float slope\[(kMost .*?)\];", names)
    bends = text.value(THROUGH, r"float bend\[(kMost.*?)\];", names)
    intervals, position, i = z3.Ints("intervals position i")
    names["intervals"] = intervals
    parts = text.value(THROUGH, r"const int parts = (smaller\(intervals, kMost\));", names)
    many = [intervals >= 1]
    for of_parts, there in ((intervals, intervals + 1), (parts, slopes)):
        number = text.value(
            THROUGH,
            r"number\((clamp\(static_cast<int>\(position\), .*?\))\) \{",
            {"position": position, "parts": of_parts},
        )
        high = text.value(THROUGH, r"high = slopes?\[part\.(number \+ 1)\]", {"number": number})
        if not proved(z3.And(number >= 0, high < there, high <= of_parts), *many):
            return False
    bend = text.value(THROUGH, r"\* bend\[part\.(number)\]\);", {"number": number})
    loop = r"for \(int i = static_cast<int>\(threadIdx\.x\); i <= (.*?); i \+= threads\)"
    last = text.value(THROUGH, loop, {"parts": parts})
    stop = text.value(THROUGH, r"if \(i == (.*?)\) break;", {"parts": parts})
    filled = z3.And(last == parts, last < slopes, z3.Implies(z3.And(i < last, i >= 0), z3.And(i < bends, i < parts)))
    # A thread has the places that are its number plus turns of all threads, so that no two have the same.
    threads = int(text.value(THROUGH, r"constexpr int kThroughWarps = (\d+);", {})) * 32
    one, other, turn, turn_too = z3.Ints("one other turn turn_too")
    apart = one + threads * turn != other + threads * turn_too
    of_threads = [one >= 0, one < threads, other >= 0, other < threads, turn >= 0, turn_too >= 0]
    return proved(z3.And(filled, stop == last, bend < last, bend < bends), *many) and proved(
        apart, *of_threads, one != other
    )


# ---------------------------------------------------------------------------------------------------------------------
# Sums


def partials_that_are_written(text: Text, factors: Factors) -> bool:
    """Each block of backward's threads has 192 places for sums, each of one thread, in the scratch memory."""
    n, images, block, blocks, i, other, other_n = z3.Ints("n images block blocks i other other_n")
    size = {"kBlockSize": Whole(64)}
    for found in (
        text.found(THROUGH, r"job\.partials \+ (\(n .*?)\); \}"),
        text.found(REAL_BACKWARD, r"static_cast<Real\*>\(job\.partials\) \+ (\(n .*?)\); \}"),
    ):
        at = evaluated(found, size | {"n": n, "gridDim": group(x=blocks), "blockIdx": group(x=block)})
        facts = [n >= 0, n < images, block >= 0, block < blocks, i >= 0, i < 192]
        hints = [product(images - 1 - n, blocks), product(n, blocks)]
        if not proved(z3.And(at + i >= 0, at + i < images * blocks * 192), *facts, *hints):
            return False
        at_other = evaluated(found, size | {"n": other_n, "gridDim": group(x=blocks), "blockIdx": group(x=other)})
        more = [other >= 0, other < blocks, z3.Or(n < other_n, z3.And(n == other_n, block < other))]
        if not proved(at + 192 <= at_other, *facts, *more, product(other_n - 1 - n, blocks)):
            return False
    scratch = text.found(EXACT_LAUNCH, r"return parts == 1 \? 0 : (g\.images .*?);")
    room = evaluated(scratch, size | {"g": group(images=images), "parts": blocks})
    return proved(room == images * blocks * 192) and _places_of_a_partial(text)


def _places_of_a_partial(text: Text) -> bool:
    """Whether the threads of a block, of two warps or four, write each of the 192 places once."""
    most = text.value(THROUGH, r"threadIdx\.x\); i < (3 \* kBlockSize); i \+=", {"kBlockSize": 64})
    for warps in (2, 4):
        step = text.value(THROUGH, r"i < 3 \* kBlockSize; i \+= (.*?)\) \{", {"warps": warps, "kWarp": 32})
        partial = Memory(192)
        try:
            for thread in range(32 * warps):
                partial.write(thread, range(thread, most, step))
        except Fault:
            return False
        if len(partial.written()) != 192:
            return False
    return True


def sums_that_are_added(text: Text, factors: Factors) -> bool:
    """``add_partials`` reads the partial sums that there are, and writes each table's; where an image is one part the
    places are the same, and one thread both reads and writes each.
    """
    names: dict[str, Any] = {"kBlockSize": Whole(64)}
    names["kAddSlices"] = Whole(text.found(THROUGH, r"constexpr int kAddSlices = (\d+);"))
    threads = text.value(THROUGH, r"constexpr int kAddThreads = (.*?);", names)
    table, images, parts, p, thread = z3.Ints("table images parts p thread")
    image, component = z3.Ints("image component")
    names |= {"threadIdx": group(x=thread), "job": group(parts=parts), "p": p, "table": table}
    names |= known(
        text.found(THROUGH, r"(const int slice = static_cast<int>\(threadIdx\.x / kBlockSize\), i = [^;]*;)"), names
    )
    of_table = known(
        "const int64_t " + text.found(THROUGH, r"const int64_t table = blockIdx\.x, (image = .*?;)"), names
    )
    inside = names | {"image": image, "component": component}
    start = text.value(THROUGH, r"job\.partials \+ (\(image .*?);", inside)
    at = start + text.value(THROUGH, r"sum \+= part\[(static_cast<int64_t>\(p\) .*?)\];", names)
    written = text.value(THROUGH, r"job\.sums\[(table .*?)\] = ", names)
    facts = [table >= 0, table < 3 * images, thread >= 0, thread < threads, parts >= 1]
    is_table = [image == of_table["image"], component == of_table["component"]]
    turn = [p >= names["slice"], p < parts]
    hints = [product(images - 1 - image, parts), product(image, parts)]
    # Partial sums are [images][parts][3][8][8].
    in_order = at == ((image * parts + p) * 3 + component) * 64 + names["i"]
    inside_of_all = z3.And(at >= 0, at < images * parts * 192)
    ranges = [image >= 0, image < images, component >= 0, component < 3, names["i"] >= 0, names["i"] < 64, p >= 0]
    same = z3.Implies(parts == 1, z3.And(at == written, names["slice"] == 0))
    other, other_thread = z3.Ints("other other_thread")
    at_other = text.value(THROUGH, r"job\.sums\[(table .*?)\] = ", names | {"table": other, "i": other_thread % 64})
    late = text.value(THROUGH, r"if \((slice > \d)\) return;", names)
    late_too = text.value(THROUGH, r"if \((slice > \d)\) return;", {"slice": other_thread / 64})
    twice = [other >= 0, other_thread >= 0, other_thread < threads, z3.Not(late), z3.Not(late_too)]
    return (
        proved(z3.And(*ranges), *facts, *is_table, *turn)
        and proved(in_order)
        and proved(inside_of_all, *ranges, p < parts, parts >= 1, *hints)
        and proved(z3.And(written >= 0, written < images * 192), *facts)
        and proved(same, *facts, *is_table, *turn)
        and proved(written != at_other, *facts, *twice, z3.Or(table != other, thread != other_thread))
        and _slices(text, names, int(threads))
    )


def _slices(text: Text, names: dict[str, Any], threads: int) -> bool:
    slices = Memory(names["kAddSlices"] * 64)
    place = text.found(THROUGH, r"slices\[(slice\]\[i)\] = sum;").split("][")
    got = text.found(THROUGH, r"sum \+= slices\[(\w+\]\[\w+)\];").split("][")
    split = text.found(THROUGH, r"(const int slice = static_cast<int>\(threadIdx\.x / kBlockSize\), i = [^;]*;)")
    threads_of = [known(split, names | {"threadIdx": group(x=Whole(thread))}) for thread in range(threads)]
    try:
        for thread, inside in enumerate(threads_of):
            row, column = (evaluated(one, inside) for one in place)
            slices.write(thread, [row * 64 + column])
        slices.barrier(text.between(THROUGH, "slices[slice][i] = sum;", "sum += slices[", "__syncthreads();"))
        for thread, inside in enumerate(threads_of[:64]):
            for s in map(Whole, range(names["kAddSlices"])):
                row, column = (evaluated(one, inside | {"s": s}) for one in got)
                slices.read(thread, [row * 64 + column])
    except Fault:
        return False
    return True


PROOFS = by_name(
    *(steps_in_shared_memory, real_steps_in_shared_memory, tables_that_are_read, qualities_that_are_read),
    *(slopes_that_are_read, partials_that_are_written, sums_that_are_added),
)
_ALIKE = (tables_that_are_read, slopes_that_are_read, partials_that_are_written, sums_that_are_added)


@pytest.mark.parametrize(("proof", "factors"), cases(PROOFS, {one.__name__: FACTORS[:1] for one in _ALIKE}), ids=str)
def test_indices_of_tables_are_right(proof: str, factors: Factors) -> None:
    assert PROOFS[proof](Text(), factors)


_WRONG = [
    Wrong("steps_in_shared_memory", F420, WARP, "[index / kBlock] = of(q)", "[index / kBlock + 3] = of(q)"),
    Wrong("steps_in_shared_memory", F420, WARP, "if (i >= kSteps) return;", "if (i > kSteps) return;"),
    Wrong("steps_in_shared_memory", F422, WARP, "i = first + threadIdx.x;", "i = first / 2 + threadIdx.x;"),
    Wrong("steps_in_shared_memory", F444, WARP, "? pass - L::kLumaRows :", "? 1 + pass - L::kLumaRows :"),
    Wrong("real_steps_in_shared_memory", F420, REAL_FORWARD, "= kBlockSize + kBlock", "= kBlockSize - kBlock"),
    Wrong("real_steps_in_shared_memory", F411, REAL_FORWARD, "[i % kBlockSize] = {Real", "[i % kBlock] = {Real"),
    Wrong("tables_that_are_read", F444, WARP, "tables[image * steps.image_stride +", "tables[image * 192 +"),
    Wrong("tables_that_are_read", F444, REAL_FORWARD, "image_stride + i;", "image_stride + i + 1;"),
    Wrong("qualities_that_are_read", F420, FORWARD, "sizes.luma_rows - 1)", "sizes.luma_rows)"),
    Wrong("qualities_that_are_read", F444, FORWARD, "(n * sizes.luma_rows", "(n * sizes.luma_columns"),
    Wrong("slopes_that_are_read", F444, THROUGH, "(position), 0, parts - 1)", "(position), 0, parts)"),
    Wrong("slopes_that_are_read", F444, THROUGH, "float bend[kMost];", "float bend[kMost - 1];"),
    Wrong("slopes_that_are_read", F444, THROUGH, "if (i == parts) break;", "if (i == parts + 1) break;"),
    Wrong("partials_that_are_written", F444, THROUGH, "gridDim.x + blockIdx.x) * 3", "gridDim.x + blockIdx.x)"),
    Wrong("partials_that_are_written", F444, REAL_BACKWARD, "(n * gridDim.x +", "(n +"),
    Wrong("partials_that_are_written", F444, EXACT_LAUNCH, "parts * 3 * kBlockSize;", "parts * kBlockSize;"),
    Wrong("partials_that_are_written", F444, THROUGH, "warps * kWarp) {\n    Real", "kWarp) {\n    Real"),
    Wrong("sums_that_are_added", F444, THROUGH, "(image * job.parts * 3", "(image * 3"),
    Wrong("sums_that_are_added", F444, THROUGH, "static_cast<int64_t>(p) * 3 *", "static_cast<int64_t>(p) *"),
    Wrong("sums_that_are_added", F444, THROUGH, "if (slice > 0) return;", "if (slice > 1) return;"),
    Wrong("sums_that_are_added", F444, THROUGH, "  __syncthreads();\n  if (slice", "  if (slice"),
    Wrong("sums_that_are_added", F444, THROUGH, "sum += slices[s][i]", "sum += slices[i][s]"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", _WRONG, ids=lambda one: f"{one.proof}: {one.new}")
def test_wrong_indices_of_tables_are_not_proved(wrong: Wrong) -> None:
    assert not PROOFS[wrong.proof](Text(wrong.file, wrong.old, wrong.new), wrong.factors)
