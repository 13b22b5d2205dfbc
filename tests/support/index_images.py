"""What the kernels share of accesses to images and planes: samples of rows, words of them, patches of chroma."""

from __future__ import annotations

from typing import Any

import z3

from support.index_proofs import Factors, Sizes, product, proved
from support.index_text import DISPATCH, SAMPLES, UPSAMPLING, Text, Whole, evaluated, smaller

TYPES = (1, 2, 4, 8)  # bytes of a sample


def samples_are_inside(text: Text, sizes: Sizes, x0: Any, last: Any, whole: Any, count: int, facts: list[Any]) -> bool:
    """``read_samples`` reads columns of the image alone, and as words only where all of a word's are there."""
    i = z3.Int("i")
    at = x0 + text.value(SAMPLES, r"samples\[i\] = row\[(smaller\(.*?\)) \* stride\];", {"i": i, "last": last})
    one = z3.And(at >= 0, at < sizes.width)
    return proved(one, *facts, i >= 0, i < count) and proved(z3.And(x0 >= 0, x0 + count <= sizes.width), whole, *facts)


def written_samples_are_inside(
    text: Text, sizes: Sizes, x0: Any, last: Any, whole: Any, count: int, facts: list[Any]
) -> bool:
    """``write_samples`` likewise, which leaves the columns beyond the image out."""
    i = z3.Int("i")
    guard = text.value(SAMPLES, r"if \((i <= .*?)\) row\[i \* stride\]", {"i": i, "last": last})
    one = z3.And(x0 + i >= 0, x0 + i < sizes.width)
    return proved(one, *facts, i >= 0, i < count, guard) and proved(
        z3.And(x0 >= 0, x0 + count <= sizes.width), whole, *facts
    )


def word_of(text: Text, size: int, allowed: int, count: int) -> tuple[int, int]:
    """Returns bytes: of the words at whose multiples ``allows_vectors`` finds `allowed` samples, and of those that
    accesses to `count` neighbours take (``WordOf``).
    """
    found = text.found(DISPATCH, r"word = smaller<int64_t>(\(16, .*?\));")
    word = int(smaller(*evaluated(found, {"count": Whole(allowed), "size": Whole(size)})))
    choices = text.found(SAMPLES, r"using WordOf = std::conditional_t<(.*?)>>;").replace("std::conditional_t<", "")
    sizes = {"uint4": 16, "uint2": 8, "unsigned": 4}
    first, widest, second, half, rest = (one.strip() for one in choices.split(","))
    widest_word = f"{first} ? {sizes[widest]} : {second} ? {sizes[half]} : {sizes[rest]}"
    return word, int(evaluated(widest_word, {"bytes": Whole(count * size)}))


def words_are_aligned(text: Text, size: int, allowed: int, count: int, first: Any, *facts: Any) -> bool:
    """Whether words of `count` samples from column `first` on are at multiples of their bytes, in any image of which
    ``allows_vectors(image, allowed)``.
    """
    word, taken = word_of(text, size, allowed, count)
    data, steps, chunk = z3.Ints("data steps chunk")
    # The strides of images, rows and channels are multiples of a word, and so are their sums.
    address = data + steps * word + first * size + taken * chunk
    return count * size % taken == 0 and proved(address % taken == 0, data % word == 0, *facts)


# ---------------------------------------------------------------------------------------------------------------------
# Planes


def place_is_inside(at: Any, row: Any, rows: Any, column: Any, columns: Any, count: int, *facts: Any) -> bool:
    """Whether ``row · 8 columns + column`` and the next, `count` of them, are in a plane of rows × columns blocks."""
    inside = [row >= 0, row < rows * 8, column >= 0, column + count <= columns * 8, rows >= 1, columns >= 1]
    hints = [product(rows * 8 - 1 - row, columns), product(row, columns)]
    return proved(z3.And(*inside), *facts) and proved(
        z3.And(at >= 0, at + count <= rows * columns * 64), *inside[:4], *hints, rows >= 1, columns >= 1
    )


def chroma_patch_is_inside(
    text: Text, sizes: Sizes, factors: Factors, patch: tuple[int, int], facts: list[Any]
) -> bool:
    """``ChromaPatch<U, wide, tall>`` reads bytes of the planes of chroma, words of them aligned.

    Args:
        text: the text.
        sizes: those of the image.
        factors: its layout, of which the triangle reaches rows and columns next to the patch.
        patch: its width and height in pixels.
        facts: those of its corner, `x0` and `y0`, unknowns of these names.
    """
    wide, tall = patch
    x0, y0, i, row = z3.Ints("x0 y0 i chroma_row")
    down, across, columns = factors.vertical == 2, factors.horizontal == 2, wide // factors.horizontal
    count, rows = sizes.chroma_columns, sizes.chroma_rows
    names = {
        "row": y0 / factors.vertical, "column": x0 / factors.horizontal, "i": i, "kHaloDown": int(down),
        "last_row": sizes.chroma_height - 1, "stride": count * 8,
    }  # fmt: skip
    text_of_at = text.found(UPSAMPLING, r"const unsigned at = (static_cast<unsigned>\(clamp\(row .*?) uint8_t near")
    at, column = evaluated(text_of_at.rstrip("; "), names), names["column"]
    turns = [i >= 0, i < max(tall // factors.vertical, 1) + 2 * down]
    # The row is clamped, whatever i is; then row · stride + column is inside, with one byte more for the triangle.
    clamped = evaluated(text_of_at.split("*")[0], names)
    if not proved(z3.And(clamped >= 0, clamped < sizes.chroma_height, clamped < rows * 8), *facts, *turns):
        return False
    if not proved(z3.And(column + columns <= count * 8, column % columns == 0), *facts):
        return False
    plain = z3.simplify(z3.substitute(at, (clamped, row))) if z3.is_expr(clamped) else at
    bounds = [row >= 0, row < rows * 8, column >= 0, column + columns <= count * 8, count >= 1, rows >= 1]
    hints = [product(rows * 8 - 1 - row, count), product(row, count)]
    # One byte beyond the last row of Cr is the first flag.
    inside = z3.And(plain >= 0, plain + columns + int(across) <= rows * count * 64 + 1)
    has_flag = sizes.plane_bytes >= sizes.flag_offset + 1
    one_mcu = product(sizes.mcu_rows - 1, sizes.mcu_columns)
    return proved(inside, *bounds, *hints) and proved(has_flag, *sizes.facts, one_mcu)
