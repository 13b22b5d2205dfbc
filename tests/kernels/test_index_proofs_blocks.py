"""Proofs about the indices of the block transforms' kernels: ``dct_blocks`` and ``idct_blocks``.

They are about the expressions in the text of ``csrc/`` (`support.index_text`): by z3 for any number of blocks,
exhaustively in shared memory. For each type: accesses are inside of samples and blocks, words are aligned, and no two
threads write the same place, but for those that have the same work. Each proof fails where an index is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("z3")

import z3
from support.index_proofs import F444, Factors, Wrong, by_name, constants, product, proved
from support.index_text import Text, Whole, evaluated, group
from support.index_tiles import LANES, Fault, Memory, column_at, row_at

_BLOCKS, _LAUNCH, _ARGUMENTS = "cuda/block_transform.cuh", "cuda/block_launch.h", "ops/arguments.h"
_TYPES = (2, 4, 8)  # bytes of a sample: they are floating


def _names(text: Text) -> dict[str, Any]:
    names = {key: value for key, value in constants(text, F444).items() if key.startswith("k")}
    for name in ("TransformThreads", "TransformWarps", "BlocksOfWarp"):
        names[f"k{name}"] = Whole(text.value(_BLOCKS, rf"k{name} = (.*?)[,;]", names))
    return names


def _block_of_thread(text: Text, block_index: Any, thread: Any, blocks: Any) -> Any:
    """Returns the number of the block that a thread has."""
    names = _names(text) | {"blockIdx": group(x=block_index), "threadIdx": group(x=thread), "job": group(blocks=blocks)}
    names["wanted"] = text.value(_BLOCKS, r"const unsigned wanted = (.*?);", names)
    return text.value(_BLOCKS, r"const int block = (wanted < .*?);", names)


def blocks_that_threads_have(text: Text, factors: Factors) -> bool:
    """Each thread has a block that there is, and each block has eight threads, or the last one more."""
    index, thread, blocks = z3.Ints("index thread blocks")
    names = _names(text) | {"job": group(blocks=blocks)}
    threads = [thread >= 0, thread < names["kTransformThreads"], index >= 0, blocks >= 1]
    block = _block_of_thread(text, index, thread, blocks)
    number = text.value(
        _BLOCKS, r"number = static_cast<int>\((threadIdx\.x % kBlock)\);", names | {"threadIdx": group(x=thread)}
    )
    of_block = text.value(_LAUNCH, r"blocks_for\(job\.blocks, (.*?)\), 1\}", names)
    # Two threads with one block and number, of which the block is not the last, are one.
    index_too, thread_too = z3.Ints("index_too thread_too")
    block_too = _block_of_thread(text, index_too, thread_too, blocks)
    same = z3.And(block == block_too, number == z3.substitute(number, (thread, thread_too)), block < blocks - 1)
    more = [thread_too >= 0, thread_too < names["kTransformThreads"], index_too >= 0]
    # And as many blocks of threads are launched as there must be.
    launched = (blocks + of_block - 1) / of_block
    last = z3.Int("last")
    reached = z3.And(last / of_block < launched, last % of_block * 8 + 7 < names["kTransformThreads"])
    return (
        proved(z3.And(block >= 0, block < blocks, number >= 0, number < 8), *threads)
        and proved(z3.And(index == index_too, thread == thread_too), *threads, *more, same)
        and proved(reached, last >= 0, last < blocks, blocks >= 1)
    )


def samples_are_inside(text: Text, factors: Factors) -> bool:
    """A thread reads or writes a column of eight samples of the planes, that of its block."""
    row, rows, column, columns, number, y = z3.Ints("row rows column columns number y")
    names = _names(text) | {
        "row": row,
        "column": column,
        "number": number,
        "y": y,
        "job": group(columns=group(divisor=columns)),
    }
    names["stride"] = text.value(_BLOCKS, r" stride = (int64_t\{\w+\} \* .*?);", names)
    start = text.value(_BLOCKS, r" sample = (kBlock \* .*?) \+ number;", names) + number
    facts = [row >= 0, row < rows, column >= 0, column < columns, number >= 0, number < 8, y >= 0, y < 8]
    for step in (r"load_once\(column \+ (y \* thread\.stride)\)", r"store_once\(column \+ (y \* thread\.stride),"):
        at = start + text.value(_BLOCKS, step, names | {"thread": group(stride=names["stride"])})
        # Of [rows][8][columns][8] samples.
        whole = row * 8 + y
        in_order = at == (whole * columns + column) * 8 + number
        hints = [product(rows * 8 - 1 - whole, columns), product(whole, columns)]
        inside = z3.And(at >= 0, at < rows * 8 * columns * 8)
        if not proved(in_order) or not proved(inside, *facts, in_order, *hints):
            return False
    return _rows_of_blocks_are_inside(text)


def _rows_of_blocks_are_inside(text: Text) -> bool:
    """The blocks are those of the job, row by row, so that quotient and remainder are a row and a column."""
    row, rows, column, columns, block = z3.Ints("row rows column columns block")
    count = text.value(_LAUNCH, r"static_cast<int>\((op\.rows .*?)\), Div", {"op": group(rows=rows, columns=columns)})
    divisor = text.value(_LAUNCH, r"Divider::by\((op\.columns)\)\}", {"op": group(columns=columns)})
    made = [block == row * columns + column, column >= 0, column < columns, row >= 0, rows >= 1, columns >= 1]
    return proved(divisor == columns) and proved(row < rows, *made, block < count, product(row - rows, columns))


def coefficients_are_inside(text: Text, factors: Factors) -> bool:
    """Neighbouring threads read or write the words of 16 bytes of both their rows, each of them one word of a pair."""
    block, blocks, number = z3.Ints("block blocks number")
    names = _names(text) | {"block": block, "number": number, "T": "T", "char": "char"}
    facts = [block >= 0, block < blocks, number >= 0, number < 8]
    start = text.value(_BLOCKS, r"coefficient = (int64_t\{\w+\} \* block);", names)
    for size in _TYPES:
        names["sizeof"] = {"T": Whole(size)}.get
        count = text.value(_BLOCKS, r"kCount = (kBlock \* .*?) / 16, kHalf", names) / Whole(16)
        names |= {"kCount": count, "i": z3.Int("i")}
        first = text.value(_BLOCKS, r"int first\(int number\) \{ return (.*?); \}", names)
        for step in (r"load_once\(source \+ (.*?)\);", r"store_once\(target \+ (.*?), words"):
            words = start * size / 16 + first + text.value(_BLOCKS, step, names)
            turns = [names["i"] >= 0, names["i"] < count]
            if not proved(z3.And(words >= 0, words * 16 + 16 <= blocks * 64 * size), *facts, *turns):
                return False
            # Each word of a block is one thread's.
            inside = z3.simplify(words - start * size / 16)
            if not _each_word_once(inside, number, names["i"], int(count), size):
                return False
        if not proved(z3.And(start == 64 * block, start * size % 16 == 0)):
            return False
    return True


def _each_word_once(word: Any, number: Any, i: Any, count: int, size: int) -> bool:
    places = [
        z3.simplify(z3.substitute(word, (number, z3.IntVal(of)), (i, z3.IntVal(turn)))).as_long()
        for of in range(8)
        for turn in range(count)
    ]
    rows_of_pairs = all(
        places[of * count + turn] * 16 // (16 * size) == of // 2 for of in range(8) for turn in range(count)
    )
    return sorted(places) == list(range(64 * size // 16)) and rows_of_pairs


def words_of_rows(text: Text, factors: Factors) -> bool:
    """After neighbours exchanged halves each has its own row's words, in order: as those are read and as written."""
    operator = text.found(_BLOCKS, r"uint4& operator\[\]\(int i\) \{ return word\[(.*?)\]; \}")
    first_of = text.found(_BLOCKS, r"int first\(int number\) \{ return (.*?); \}")
    step = text.found(_BLOCKS, r"load_once\(source \+ (.*?)\);")
    pair = text.found(_BLOCKS, r"exchange\(number % 2 != 0, (word\[i\], word\[kHalf \+ i\])\);")
    for size in _TYPES:
        names: dict[str, Any] = {"kCount": Whole(8 * size // 16), "kHalf": Whole(8 * size // 32)}
        for number in map(Whole, range(0, 8, 2)):
            held = []
            for of in (number, number + 1):
                start = evaluated(first_of, names | {"number": of})
                turns = map(Whole, range(names["kCount"]))
                held.append([start + evaluated(step, {"i": i}) for i in turns])
            for i in range(names["kHalf"]):  # exchange(): the even one gives its second and takes the first
                held[0][names["kHalf"] + i], held[1][i] = held[1][i], held[0][names["kHalf"] + i]
            if not pair:
                return False
            for of, words in zip((number, number + 1), held, strict=True):
                order = [words[evaluated(operator, names | {"i": Whole(i)})] for i in range(names["kCount"])]
                if order != [of * names["kCount"] + i for i in range(names["kCount"])]:
                    return False
    return True


def tiles_of_blocks(text: Text, factors: Factors) -> bool:
    """Eight threads have a block's tile by columns and by rows, or by rows and by columns."""
    names = _names(text)
    own = text.found(_BLOCKS, r"return of\[threadIdx\.x / kWarp\] \+ (threadIdx\.x % .*?);")
    places = text.value(_BLOCKS, r"Real of\[kTransformWarps\]\[(kBlocksOfWarp \* kTileBlock)\];", names)
    column = r"tiles\.block\(\) \+ thread\.(number), x\);"
    row = r"_tile<1>\(tiles\.block\(\) \+ thread\.(number .*?), x\);"
    starts = [evaluated(own, names | {"threadIdx": group(x=lane)}) for lane in LANES]

    def at(pattern: str, lane: int) -> int:
        return int(starts[lane] + text.value(_BLOCKS, pattern, names | {"number": lane % 8}))

    def accesses(first: Callable[[int], list[int]], then: Callable[[int], list[int]], kernel: str, read: str) -> bool:
        tile = Memory(places)
        for lane in LANES:
            tile.write(lane, first(lane))
        body = text.of(_BLOCKS)[text.of(_BLOCKS).index(kernel) :]
        tile.barrier("__syncwarp();" in body[: body.index(read)])
        for lane in LANES:
            tile.read(lane, then(lane))
        return len(tile.written()) == 4 * 64

    def columns(lane: int) -> list[int]:
        return column_at(at(column, lane), names)

    def rows(lane: int) -> list[int]:
        return row_at(at(row, lane))

    try:
        return accesses(columns, rows, " dct_blocks(", "read_tile<1>") and accesses(
            rows, columns, " idct_blocks(", "read_tile<kTileRow>"
        )
    except Fault:
        return False


PROOFS = by_name(blocks_that_threads_have, samples_are_inside, coefficients_are_inside, words_of_rows, tiles_of_blocks)


@pytest.mark.parametrize("proof", PROOFS)
def test_indices_are_right_for_any_blocks(proof: str) -> None:
    assert PROOFS[proof](Text(), F444)


_WRONG = [
    Wrong("blocks_that_threads_have", F444, _BLOCKS, "(wanted) : job.blocks - 1", "(wanted) : job.blocks"),
    Wrong("blocks_that_threads_have", F444, _BLOCKS, "blockIdx.x * (kTransformThreads / kBlock)", "blockIdx.x * 8"),
    Wrong("blocks_that_threads_have", F444, _LAUNCH, "kTransformThreads / kBlock), 1}", "kTransformThreads), 1}"),
    Wrong("samples_are_inside", F444, _BLOCKS, "(row * stride + column)", "(row * stride + 2 * column)"),
    Wrong("samples_are_inside", F444, _BLOCKS, "stride = int64_t{kBlock} *", "stride = int64_t{kBlockSize} *"),
    Wrong("samples_are_inside", F444, _LAUNCH, "(op.rows * op.columns)", "(op.rows * op.columns + 1)"),
    Wrong("coefficients_are_inside", F444, _BLOCKS, "int64_t{kBlockSize} * block", "int64_t{kBlock} * block"),
    Wrong("coefficients_are_inside", F444, _BLOCKS, "number / 2 * 2 * kCount", "number * kCount"),
    Wrong("coefficients_are_inside", F444, _BLOCKS, "load_once(source + 2 * i)", "load_once(source + i)"),
    Wrong("coefficients_are_inside", F444, _BLOCKS, "store_once(target + 2 * i", "store_once(target + 3 * i"),
    Wrong("words_of_rows", F444, _BLOCKS, "word[i % 2 * kHalf + i / 2]", "word[i]"),
    Wrong("tiles_of_blocks", F444, _BLOCKS, "kWarp / kBlock * kTileBlock", "kWarp / kBlock * kBlockSize"),
    Wrong("tiles_of_blocks", F444, _BLOCKS, "__syncwarp();\n  read_tile<1>", "read_tile<1>"),
    Wrong("tiles_of_blocks", F444, _BLOCKS, "__syncwarp();\n  read_tile<kTileRow>", "read_tile<kTileRow>"),
    Wrong("tiles_of_blocks", F444, _BLOCKS, "number * kTileRow, x);\n  real_dct", "number * kBlock, x);\n  real_dct"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", _WRONG, ids=lambda one: f"{one.proof}: {one.new}")
def test_wrong_indices_of_blocks_are_not_proved(wrong: Wrong) -> None:
    assert not PROOFS[wrong.proof](Text(wrong.file, wrong.old, wrong.new), wrong.factors)
