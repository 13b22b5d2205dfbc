"""Proofs about the indices of the exact kernels, by z3 for images of any size, and exhaustively within a tile.

They are about the expressions in the text of ``csrc/`` (`support.index_text`), of the forward kernels and of the tile
of gradients. For each layout and type: accesses are inside of images and planes, words are aligned, and no two threads
write the same place of planes or tiles between two barriers. Each proof fails where an index is changed. That the
compiler keeps to the text, and that threads meet at the barriers, is shown by the interpreter of PTX
(``test_ptx.py``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

pytest.importorskip("z3")

import z3
from support import settings
from support.index_text import Text, Whole, declared, evaluated, group, run, smaller

_SAMPLES, _WARP, _FORWARD = "cuda/samples.cuh", "cuda/warp_blocks.cuh", "cuda/exact_forward.cuh"
_UPSAMPLING, _BACKWARD = "cuda/upsampling.cuh", "cuda/exact_backward.cuh"
_SIZES = (1, 2, 4, 8)  # bytes of a sample


class Factors(NamedTuple):
    """Sampling factors of luma, and whether the images are grey."""

    horizontal: int
    vertical: int
    grey: bool = False


FACTORS = [*(Factors(*one) for one in settings.FACTORS.values()), Factors(1, 1, True)]


def _proved(claim: Any, *hypotheses: Any) -> bool:
    """Whether a claim follows; a proof that is not found within its time counts as none."""
    solver = z3.Solver()
    solver.set("timeout", 60_000)
    solver.add(*hypotheses, z3.Not(claim))
    return bool(solver.check() == z3.unsat)


def _product(one: Any, other: Any) -> Any:
    """The product of two numbers of at least 0 is at least 0: true of any, and a hint that z3 needs."""
    return z3.Implies(z3.And(one >= 0, other >= 0), one * other >= 0)


# ---------------------------------------------------------------------------------------------------------------------
# Sizes and layouts, from the text


def _constants(text: Text, factors: Factors) -> dict[str, Any]:
    """Returns what the kernels' templates have as constants: of a layout L and an upsampling U."""
    names: dict[str, Any] = {"kBlock": Whole(8), "kWarp": Whole(32)}
    names["kTileRow"] = Whole(text.value(_WARP, r"constexpr int kTileRow = (.*?);", names))
    names["kTileBlock"] = text.value(_WARP, r"constexpr int kTileBlock = (.*?);", names)
    inside: dict[str, Any] = {
        **names, "horizontal": Whole(factors.horizontal), "vertical": Whole(factors.vertical), "grey": factors.grey,
    }  # fmt: skip
    for name in ("LumaRows", "Threads", "Mcus", "ChromaRows", "LumaBlocks", "Blocks", "Passes", "Skew", "Tile"):
        found = text.value(_WARP, rf"static constexpr int k{name} = (.*?);", inside)
        inside[f"k{name}"] = Whole(found)
    start = text.found(_WARP, r"int block_start\(int block\) \{ (.*?) \}")
    layout = group(**{key: value for key, value in inside.items() if key.startswith("k")})
    layout.kHorizontal, layout.kVertical, layout.kGrey = inside["horizontal"], inside["vertical"], factors.grey
    layout.block_start = lambda block: run(start, inside | {"block": block})
    return names | {"L": layout, "U": layout}


class Place:
    """A thread's place in its warp, as the text computes it."""

    def __init__(self, text: Text, names: dict[str, Any], lane: Any) -> None:
        self._text, self._names = text, dict(names)
        for name in ("mcu", "group", "row"):
            value = text.value(
                _WARP, rf"[ ,]{name}\(static_cast<int>\((lane [^;{{]*?)\)\)[,{{ ]", names | {"lane": lane}
            )
            setattr(self, name, value)
            self._names[name] = value
        for name in ("luma_row", "luma_column", "luma_tile", "chroma_component", "chroma_tile"):
            body = text.found(_WARP, rf"FDJPEG_INLINE int {name}\(int v\) const \{{ (.*?) \}}")
            function = self._function(body)
            setattr(self, name, function)
            self._names[name] = function

    def _function(self, body: str) -> Callable[[int], Any]:
        return lambda v: run(body, self._names | {"v": v})


class Sizes:
    """The sizes of any image, as unknowns, and what ties them together: `facts`."""

    def __init__(self, text: Text, factors: Factors) -> None:
        self.height, self.width = z3.Ints("height width")
        names = {"height": self.height, "width": self.width, "images": 1}
        names["blocks"] = lambda samples: text.value(
            "codec/geometry.h", r"blocks\(int64_t samples\) \{ return (.*?);", {"samples": samples}
        )
        names["g"] = group(
            vertical=Whole(factors.vertical),
            horizontal=Whole(factors.horizontal),
            chroma_height=Whole(0),
            chroma_width=Whole(0),
        )
        self.facts: list[Any] = [self.height >= 1, self.width >= 1]
        grey = ("chroma_height", "chroma_width")
        blocks = ("luma_rows", "luma_columns", "chroma_rows", "chroma_columns", "mcu_rows", "mcu_columns")
        for name in (*grey, *blocks, "cb_offset", "cr_offset", "flag_offset", "plane_bytes"):
            expression = (
                "0" if factors.grey and name in grey else text.found("codec/geometry.h", rf" g\.{name} = (.*?);")
            )
            unknown = z3.Int(name)
            self.facts.append(unknown == evaluated(expression, names))
            setattr(names["g"], name, unknown)
            setattr(self, name, unknown)


# ---------------------------------------------------------------------------------------------------------------------
# Within a tile: exhaustively


def tile_of_blocks(text: Text, factors: Factors) -> bool:
    """In ``code_blocks`` each word of a warp's tile is one thread's: of its rows, then of its columns."""
    names = _constants(text, factors)
    layout = names["L"]
    columns = text.found(_FORWARD, r"(const int column = lane % kBlock; const int block = [^;]*;) int\* samples = tile")
    start = text.found(_FORWARD, r"int\* samples = tile \+ (L::block_start\(block\) \+ column);")
    by_row: dict[int, int] = {}
    by_column: dict[int, int] = {}
    for lane in map(Whole, range(32)):
        place = Place(text, names, lane)
        rows = [place.luma_tile(v) for v in range(layout.kLumaRows)]
        rows += [place.chroma_tile(v) for v in range(layout.kChromaRows)]
        for at, i in itertools.product(rows, range(8)):
            if not 0 <= at + i < layout.kTile or at + i in by_row:
                return False
            by_row[at + i] = lane
        for block_pass, i in itertools.product(range(layout.kPasses), range(8)):
            inside = names | {"lane": lane, "pass_": block_pass}
            for statement in filter(None, columns.replace("* pass ", "* pass_ ").split(";")):
                inside |= declared(statement.strip(), inside)
            at = evaluated(start, inside) + i * names["kTileRow"]
            if at in by_column:
                return False
            by_column[at] = lane
    return by_row.keys() == by_column.keys() and len(by_row) == 64 * layout.kBlocks


def tile_of_gradients(text: Text, factors: Factors) -> bool:
    """In ``differentiate`` each entry of the block's tile is one thread's, and those that are read were written."""
    names = _constants(text, factors)
    for name in (
        "GradientThreads",
        "GradientWide",
        "GradientTall",
        "TileAcross",
        "TileWide",
        "TileTall",
        "GradientRow",
    ):
        names[f"k{name}"] = Whole(text.value(_BACKWARD, rf"[ ,]k{name} = (.*?)[,;]", names))
    names |= {
        "wide": names["kTileWide"],
        "tall": names["kTileTall"],
        "patch": names["kGradientWide"],
        "row": names["kGradientRow"],
    }
    for name in ("Column", "RowOfRing", "Ring"):
        names[f"k{name}"] = Whole(text.value(_UPSAMPLING, rf"[ ,]k{name} = ([^,;]*?(?:patch|\+ 2|tall))[,;]", names))
    body = text.found(_UPSAMPLING, r"int place\(int y, int across, int x\) \{ (.*?) \}")

    def place(y: Any, across: Any, x: Any) -> Any:
        return run(body, names | {"y": y, "across": across, "x": x})

    entries = (names["tall"] + 2) * names["row"]
    written: set[int] = set()

    def write(at: Any) -> bool:
        fresh = 0 <= at < entries and at not in written
        written.add(at)
        return bool(fresh)

    store = text.found(_UPSAMPLING, r"sample\[place\((.*?)\)\] = pixel")
    ring = text.found(_UPSAMPLING, r"const bool level = (.*?) const int x = tile_x")
    at_ring = text.found(_UPSAMPLING, r"sample\[place\((ring_y, .*?)\)\] = ring;")
    read = text.found(_UPSAMPLING, r"const ChromaGradient<Real> g = sample\[place\((.*?)\)\];")
    local = text.found(_BACKWARD, r"(const int local_x = .*?;)")
    reads: set[int] = set()
    for thread in map(Whole, range(names["kGradientThreads"])):
        inside = names | {"thread": thread, "kWide": names["kGradientWide"], "kTall": names["kGradientTall"]}
        inside |= declared(local.rstrip(";"), inside)
        for y, x in itertools.product(map(Whole, range(2)), map(Whole, range(4))):
            if not write(place(*evaluated(store, inside | {"y": y, "x": x}))):
                return False
        if thread < names["kRing"]:
            of_ring = names | {"i": thread}
            for statement in filter(None, ("const bool level = " + ring).split(";")):
                of_ring |= declared(statement.strip(), of_ring)
            if not write(place(*evaluated(at_ring, of_ring))):
                return False
        down, across = (int(factors.vertical == 2), int(factors.horizontal == 2))
        inside |= {"Down": group(kBefore=Whole(down)), "Across": group(kBefore=Whole(across))}
        rows, pixels = range(2 // factors.vertical), range(4 if down else 1)
        for i, y, x in itertools.product(rows, pixels, range(4 + 2 * across)):
            ring_y = text.value(
                _UPSAMPLING, r"const int ring_y = (local_y .*?);", inside | {"i": Whole(i), "y": Whole(y)}
            )
            reads.add(place(*evaluated(read, inside | {"ring_y": ring_y, "x": Whole(x)})))
    return reads <= written


# ---------------------------------------------------------------------------------------------------------------------
# In global memory: for images of any size, by z3


def _thread(text: Text, factors: Factors, sizes: Sizes, mark: str = "") -> dict[str, Any]:
    """Returns the names of a thread of ``code_blocks`` that has work, and what is known of them."""
    names = _constants(text, factors)
    lane, mcu_row, warp_column, v = z3.Ints(f"lane{mark} mcu_row{mark} warp_column{mark} v{mark}")
    place = Place(text, names, lane)
    rest = text.found(_FORWARD, r"const int mcu_column = job\.warps_across\.remainder\(work, mcu_row\) (.*?);")
    names |= {"lane": lane, "mcu_row": mcu_row, "place": place, "v": v, "sizes": sizes, "warp_column": warp_column}
    names["mcu_column"] = evaluated("warp_column " + rest, names)
    names["facts"] = [
        *sizes.facts, lane >= 0, lane < 32, mcu_row >= 0, mcu_row < sizes.mcu_rows, warp_column >= 0, v >= 0,
    ]  # fmt: skip
    return names


def pixels_that_are_read(text: Text, factors: Factors) -> bool:
    """``code_blocks`` reads pixels of the image alone, one by one or as words of eight."""
    sizes = Sizes(text, factors)
    names = _thread(text, factors, sizes)
    facts = [*names["facts"], names["v"] < names["L"].kLumaRows]
    y = text.value(_WARP, r"const int y = (smaller\(mcu_row .*?);", names)
    x0 = text.value(_WARP, r"const int x0 = (\(mcu_column .*?);", names)
    inside = names | {"x0": x0, "i": z3.Int("i"), "vectors": z3.Bool("vectors")}
    last = text.value(_WARP, r"const int last = (sizes\.width - 1 - x0);", inside)
    whole = text.value(_WARP, r"const bool whole = (.*?);", inside | {"last": last})
    step = text.found(_SAMPLES, r"samples\[i\] = row\[(smaller\(.*?\)) \* stride\];")
    x = x0 + evaluated(step, inside | {"last": last})
    i = inside["i"]
    rows = z3.And(y >= 0, y < sizes.height)
    one = z3.And(x >= 0, x < sizes.width)
    return _proved(z3.And(rows, one), *facts, i >= 0, i < 8) and _proved(
        z3.And(x0 >= 0, x0 + 7 < sizes.width), whole, *facts
    )


def _widest_word(text: Text) -> str:
    """Returns the bytes of the words by which ``bytes`` neighbouring ones are read (``WordOf``), as an expression."""
    choices = text.found(_SAMPLES, r"using WordOf = std::conditional_t<(.*?)>>;").replace("std::conditional_t<", "")
    sizes = {"uint4": 16, "uint2": 8, "unsigned": 4}
    first, word, second, half, rest = (one.strip() for one in choices.split(","))
    return f"{first} ? {sizes[word]} : {second} ? {sizes[half]} : {sizes[rest]}"


def words_of_images(text: Text, factors: Factors) -> bool:
    """Words of images are at multiples of their bytes, where ``allows_vectors`` allows them; for each type."""
    names = _constants(text, factors)
    word_of = text.found("cuda/dispatch.h", r"word = smaller<int64_t>(\(16, .*?\));")
    widest = _widest_word(text)
    lane = z3.Int("lane")
    place = Place(text, names, lane)
    column = text.found(_WARP, r"const int x0 = ([^;]*?luma_column\(v\).*?);")
    mcu_column, patch, data, steps = z3.Ints("mcu_column patch data steps")
    x0 = evaluated(column, names | {"mcu_column": mcu_column, "place": place, "v": z3.Int("v")})
    emitted = text.found(_FORWARD, r"const int x0 = job\.patches_across\.remainder\(patch, patch_row\) (.*?),")
    for size in _SIZES:
        wide = Whole(text.found("cuda/tuning.h", r"define FDJPEG_EMIT_WIDE (\d+)")) if size >= 4 else Whole(8)
        for count, first in (
            (8, x0),
            (wide, evaluated("patch " + emitted, {"patch": patch, "kWide": wide})),
            (4, patch * 4),
        ):
            word = int(smaller(*evaluated(word_of, {"count": Whole(count), "size": Whole(size)})))
            taken = int(evaluated(widest, {"bytes": Whole(count * size)}))
            # The strides of images, rows and channels are multiples of a word, and so are their sums.
            address, chunk = data + steps * word + first * size, z3.Int("chunk")
            facts = [data % word == 0, lane >= 0, lane < 32, z3.Int("v") >= 0, mcu_column >= 0, patch >= 0]
            if not _proved((address + taken * chunk) % taken == 0, *facts) or count * size % taken:
                return False
    return True


def planes_that_are_written(text: Text, factors: Factors) -> bool:
    """``code_blocks`` writes eight bytes of a component's plane at a multiple of eight, and flags inside of theirs."""
    sizes = Sizes(text, factors)
    columns, rows, block_row, y, block_column, offset = z3.Ints("columns rows block_row y block_column offset")
    target_text = text.found(_FORWARD, r"const unsigned target = (offset .*?);")
    guard = text.found(_FORWARD, r"if \((block_row >.*?)\) return;")
    names = {
        "columns": columns,
        "rows": rows,
        "block_row": block_row,
        "y": y,
        "block_column": block_column,
        "offset": offset,
    }
    names["kBlock"] = Whole(8)
    target = evaluated(target_text, names)
    inside = [
        rows >= 1,
        columns >= 1,
        block_row >= 0,
        y >= 0,
        y < 8,
        block_column >= 0,
        offset >= 0,
        z3.Not(evaluated(guard, names)),
    ]
    row = block_row * 8 + y
    hints = [_product(rows * 8 - 1 - row, columns), _product(row, columns)]
    claim = z3.And(target >= offset, target + 8 <= offset + rows * columns * 64)
    aligned = _proved(target % 8 == 0, offset % 8 == 0, *inside)
    flag = text.found(_FORWARD, r"flags\[(mcu_row \* sizes\.mcu_columns \+ mcu_column)\] =")
    flag_guard = text.found(_FORWARD, r"if \(lane % L::kThreads == 0 && (mcu_column < sizes\.mcu_columns)\)")
    mcu_row, mcu_column = z3.Ints("mcu_row mcu_column")
    of_mcu = {"mcu_row": mcu_row, "mcu_column": mcu_column, "sizes": sizes}
    at = evaluated(flag, of_mcu)
    mcus = [mcu_row >= 0, mcu_row < sizes.mcu_rows, mcu_column >= 0, evaluated(flag_guard, of_mcu)]
    room = sizes.plane_bytes - sizes.flag_offset
    hint = [_product(sizes.mcu_rows - 1 - mcu_row, sizes.mcu_columns), _product(mcu_row, sizes.mcu_columns)]
    flags = _proved(z3.And(at >= 0, at < room), *sizes.facts, *mcus, *hint)
    return _proved(claim, *inside, *hints) and aligned and flags


def planes_that_one_thread_writes(text: Text, factors: Factors) -> bool:
    """No two threads of ``code_blocks`` write the same bytes of the planes."""
    sizes = Sizes(text, factors)
    one, other = (_thread(text, factors, sizes, mark) for mark in "ab")
    layout = one["L"]
    facts = [*one["facts"], *other["facts"]]
    luma = text.found(_FORWARD, r"const int y = (mcu_row \* kBlock \* L::kVertical \+ place\.luma_row\(v\));")
    columns = text.found(_FORWARD, r"y / kBlock, y % kBlock, (mcu_column .*?)\); \}")
    different = z3.Or(*(one[key] != other[key] for key in ("mcu_row", "warp_column", "lane", "v")))
    turns = [one["v"] < layout.kLumaRows, other["v"] < layout.kLumaRows]
    apart = z3.Or(*(evaluated(part, one) != evaluated(part, other) for part in (luma, columns)))
    if not _proved(apart, *facts, *turns, different):
        return False
    if not layout.kGrey:
        arguments = text.found(_FORWARD, r"finish_row\(tile \+ place\.chroma_tile\(v\), (.*?)\); \}")
        turns = [one["v"] < layout.kChromaRows, other["v"] < layout.kChromaRows]
        pairs = zip(evaluated(arguments, one), evaluated(arguments, other), strict=True)
        if not _proved(z3.Or(*(a != b for a, b in pairs)), *facts, *turns, different):
            return False
    # Other rows or columns are other places: target is 8 (row columns + column), with columns of them in a row.
    row, row_too, column, column_too, count = z3.Ints("row row_too column column_too count")
    bounds = [column >= 0, column < count, column_too >= 0, column_too < count, row < row_too]
    return _proved(row * count + column < row_too * count + column_too, *bounds, _product(row_too - row - 1, count))


def planes_that_are_read(text: Text, factors: Factors) -> bool:
    """``emit_image`` and ``differentiate`` read bytes of an image's planes, words of them aligned."""
    sizes = Sizes(text, factors)
    x0, y0, y = z3.Ints("x0 y0 y")
    pixels = [x0 >= 0, x0 < sizes.width, y0 >= 0, y0 < sizes.height]
    luma = text.found(_FORWARD, r"read_bytes\(planes \+ \((\(y0 \+ y\) .*?)\), luma\[y\]\);")
    stride = text.value(_FORWARD, r"const unsigned luma_stride = (.*?);", {"sizes": sizes, "kBlock": Whole(8)})
    at_text = text.found(
        _UPSAMPLING, r"const unsigned at = (static_cast<unsigned>\(clamp\(row .*?) uint8_t near"
    ).rstrip("; ")
    for wide, tall in ((4, 4), (8, 2), (4, 2)):
        facts = [*sizes.facts, *pixels, x0 % wide == 0, y0 % tall == 0, y >= 0, y < tall]
        at = evaluated(luma, {"y0": y0, "y": y, "x0": x0, "luma_stride": stride})
        rows, columns = sizes.luma_rows * 8, sizes.luma_columns * 8
        hints = [_product(rows - 1 - y0 - y, sizes.luma_columns), _product(y0 + y, sizes.luma_columns)]
        inside = z3.And(y0 + y < rows, x0 + wide <= columns)
        if not _proved(inside, *facts):
            return False
        if not _proved(
            z3.And(at >= 0, at + wide <= rows * columns), inside, *facts[-3:], *pixels, sizes.luma_columns >= 1, *hints
        ):
            return False
        if not _proved(at % wide == 0, *facts[-4:]):
            return False
        if not factors.grey and not _chroma_is_inside(sizes, factors, (wide, tall), at_text, facts):
            return False
    return True


def _chroma_is_inside(sizes: Sizes, factors: Factors, patch: tuple[int, int], at_text: str, facts: list[Any]) -> bool:
    wide, tall = patch
    x0, y0, i = z3.Ints("x0 y0 i")
    down, across, columns = factors.vertical == 2, factors.horizontal == 2, wide // factors.horizontal
    stride = sizes.chroma_columns * 8
    names = {
        "row": y0 / factors.vertical, "column": x0 / factors.horizontal, "i": i, "kHaloDown": int(down),
        "last_row": sizes.chroma_height - 1, "stride": stride,
    }  # fmt: skip
    turns = [i >= 0, i < max(tall // factors.vertical, 1) + 2 * down]
    at = evaluated(at_text, names)
    row = z3.Int("chroma_row")
    column, count, rows = names["column"], sizes.chroma_columns, sizes.chroma_rows
    # The row is clamped, whatever i is; then row · stride + column is inside, with one byte more for the triangle.
    clamped = evaluated(at_text.split("*")[0], names)
    if not _proved(z3.And(clamped >= 0, clamped < sizes.chroma_height, clamped < rows * 8), *facts, *turns):
        return False
    if not _proved(z3.And(column + columns <= stride, column % columns == 0), *facts):
        return False
    plain = z3.simplify(z3.substitute(at, (clamped, row))) if z3.is_expr(clamped) else at
    bounds = [row >= 0, row < rows * 8, column >= 0, column + columns <= stride, count >= 1, rows >= 1]
    hints = [_product(rows * 8 - 1 - row, count), _product(row, count)]
    # One byte beyond the last row of Cr is the first flag.
    inside = z3.And(plain >= 0, plain + columns + int(across) <= rows * count * 64 + 1)
    has_flag = sizes.plane_bytes >= sizes.flag_offset + 1
    one_mcu = _product(sizes.mcu_rows - 1, sizes.mcu_columns)
    return _proved(inside, *bounds, *hints) and _proved(has_flag, *sizes.facts, one_mcu)


def pixels_that_are_written(text: Text, factors: Factors) -> bool:
    """``emit_image`` writes pixels of the image alone, as words only where all of a word's are there."""
    sizes = Sizes(text, factors)
    x0, y0, y, i = z3.Ints("x0 y0 y i")
    last = text.value(_FORWARD, r"const int last = (sizes\.width - 1 - x0);", {"sizes": sizes, "x0": x0})
    rows = text.value(_FORWARD, r"if \((y0 \+ y < sizes\.height)\)", {"sizes": sizes, "y0": y0, "y": y})
    guard = text.value(_SAMPLES, r"if \((i <= .*?)\) row\[i \* stride\]", {"i": i, "last": last})
    facts = [*sizes.facts, x0 >= 0, y0 >= 0, y >= 0, rows]
    for wide in map(Whole, (4, 8)):
        job = group(vectors=z3.Bool("vectors"))
        whole = text.value(
            _FORWARD, r"const bool whole = (job\.vectors .*?);", {"job": job, "last": last, "kWide": wide}
        )
        if not _proved(z3.And(y0 + y < sizes.height, x0 + i < sizes.width), *facts, i >= 0, i < wide, guard):
            return False
        if not _proved(x0 + wide <= sizes.width, *facts, whole):
            return False
    return True


def divisions(text: Text, factors: Factors) -> bool:
    """``Divider`` divides exactly, for every divisor and every number below 2³¹."""
    divisor, error, rest, base, excess, scale = z3.Ints("divisor error rest base excess scale")
    power = scale * 2 ** int(text.found(_SAMPLES, r"uint64_t\{1\} << \((\d+) \+ s\)"))
    rounded = text.found(_SAMPLES, r"static_cast<unsigned>\((\(?power .*?divisor)\), 31")
    found = evaluated(rounded, {"power": power, "divisor": divisor})
    known = [divisor >= 1, scale >= divisor]  # scale is the power of two that is at least the divisor
    # multiplier · divisor = power + error, with an error of less than the divisor.
    multiplier = z3.And(found * divisor >= power, found * divisor < power + divisor)
    # The number is base + rest, base the quotient times the divisor. Its product with the error is `excess`.
    number = base + rest
    known += [error >= 0, error < divisor, rest >= 0, rest < divisor, base >= 0, number < 2**31]
    small = z3.Implies(excess == number * error, excess < power)
    # base power <= number (power + error) < (base + divisor) power: divided by both, the quotient.
    below = base * power <= number * power + excess
    above = number * power + excess < (base + divisor) * power
    return (
        _proved(multiplier, *known[:2])
        and _proved(small, *known, _product(2**31 - 1 - number, error))
        and _proved(below, *known, excess >= 0, power > 0, _product(rest, power))
        and _proved(above, *known, excess < power, power > 0, _product(divisor - 1 - rest, power))
    )


PROOFS: dict[str, Callable[[Text, Factors], bool]] = {
    one.__name__: one
    for one in (
        *(tile_of_blocks, tile_of_gradients, pixels_that_are_read, words_of_images, planes_that_are_written),
        *(planes_that_one_thread_writes, planes_that_are_read, pixels_that_are_written, divisions),
    )
}


@pytest.mark.parametrize(
    ("proof", "factors"),
    # The division does not depend on the layout.
    [(proof, one) for proof in PROOFS for one in (FACTORS[:1] if proof == "divisions" else FACTORS)],
    ids=str,
)
def test_indices_are_right_for_every_image(proof: str, factors: Factors) -> None:
    assert PROOFS[proof](Text(), factors)


_420, _411, _444 = Factors(2, 2), Factors(4, 1), Factors(1, 1)


class Wrong(NamedTuple):
    """A wrong index, which a proof must refuse for a layout."""

    proof: str
    factors: Factors
    file: str
    old: str
    new: str


_WRONG = [
    Wrong("tile_of_blocks", _420, _WARP, "block / 4 * kSkew;", "block / 4 * kSkew * 100;"),
    Wrong("tile_of_blocks", _420, _WARP, "(mcu * L::kVertical + y / kBlock)", "(mcu + y / kBlock)"),
    Wrong("tile_of_blocks", _411, _FORWARD, "const int block = 4 * pass + lane", "const int block = 3 * pass + lane"),
    Wrong("tile_of_gradients", _420, _UPSAMPLING, "kColumn + across + x / patch;", "kColumn + across;"),
    Wrong("tile_of_gradients", _420, _UPSAMPLING, "beyond / tall * (wide + 1)", "beyond / tall * wide"),
    Wrong("pixels_that_are_read", _420, _WARP, "luma_row(v), sizes.height - 1);", "luma_row(v), sizes.height);"),
    Wrong("pixels_that_are_read", _444, _WARP, "vectors && last >= kBlock - 1;", "vectors && last >= kBlock - 2;"),
    Wrong("pixels_that_are_read", _444, _SAMPLES, "row[smaller(i, last) *", "row[smaller(i, last + 1) *"),
    Wrong("words_of_images", _444, _FORWARD, "(patch, patch_row) * kWide, y0", "(patch, patch_row) * kWide + 1, y0"),
    Wrong("words_of_images", _444, "cuda/dispatch.h", "(16, count * size)", "(16, count * size / 2)"),
    Wrong("planes_that_are_written", _420, _FORWARD, "block_row >= rows || block", "block_row > rows || block"),
    Wrong("planes_that_are_written", _420, _FORWARD, "kBlock + y) * columns", "kBlock + y + 1) * columns"),
    Wrong("planes_that_one_thread_writes", _420, _FORWARD, "place.chroma_component(v), mcu_row", "1, mcu_row"),
    Wrong("planes_that_one_thread_writes", _411, _WARP, "L::kHorizontal == 4 ? 2 * group + v : group", "group + v"),
    Wrong("planes_that_are_read", _420, _UPSAMPLING, "kHaloDown, 0, last_row)) *", "kHaloDown, 0, last_row + 8)) *"),
    Wrong("planes_that_are_read", _444, _FORWARD, "luma_stride + x0), luma[y]", "luma_stride + x0 + 1), luma[y]"),
    Wrong("pixels_that_are_written", _444, _SAMPLES, "if (i <= last) row", "if (i <= last + 1) row"),
    Wrong("divisions", _444, _SAMPLES, "(power + divisor - 1) / divisor", "power / divisor"),
    Wrong("divisions", _444, _SAMPLES, "uint64_t{1} << (31 + s)", "uint64_t{1} << (30 + s)"),
]


@pytest.mark.parametrize("wrong", _WRONG, ids=lambda one: f"{one.proof}: {one.new}")
def test_wrong_indices_are_not_proved(wrong: Wrong) -> None:
    assert not PROOFS[wrong.proof](Text(wrong.file, wrong.old, wrong.new), wrong.factors)
