"""Proofs about the indices of the exact backward kernels: ``differentiate`` and ``differentiate_blocks``.

They are about the expressions in the text of ``csrc/`` (`support.index_text`), by z3 for images of any size. For each
layout and type: accesses are inside of images of gradients and of planes, words are aligned, and no two threads write
the same pixel. Each proof fails where an index is changed.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("z3")

import z3
from support.index_images import (
    TYPES,
    chroma_patch_is_inside,
    place_is_inside,
    samples_are_inside,
    words_are_aligned,
    written_samples_are_inside,
)
from support.index_patches import Patch, in_image, patches
from support.index_proofs import (
    F411,
    F420,
    F422,
    F440,
    F444,
    TRIANGLES,
    Factors,
    Sizes,
    Wrong,
    by_name,
    cases,
    product,
    proved,
)
from support.index_text import (
    BACKWARD,
    EXACT_LAUNCH,
    THROUGH,
    UPSAMPLING,
    WARP,
    Text,
    Whole,
    evaluated,
    group,
    known,
)


def _row(text: Text, sizes: Sizes, patch: Patch, which: str) -> dict[str, Any]:
    """Returns the names of a row of a patch in ``differentiate_patch`` or ``write_patch``, with `facts` and `whole`."""
    names = {"x0": patch.x0, "y0": patch.y0, "y": z3.Int("y"), "sizes": sizes, "wide": patch.wide}
    names["job"] = group(read_vectors=z3.Bool("vectors"), write_vectors=z3.Bool("vectors"))
    names |= known(text.found(BACKWARD, r"(const int last_x = sizes\.width - 1, last_y = sizes\.height - 1;)"), names)
    names["whole"] = text.value(BACKWARD, rf"const bool whole = (job\.{which}_vectors .*?);", names)
    below = text.value(BACKWARD, rf"if \((y0 \+ y > [^;]*?)\) {'return' if which == 'read' else 'break'};", names)
    names["facts"] = [*in_image(text, sizes, patch), names["y"] >= 0, names["y"] < patch.tall, z3.Not(below)]
    return names


def gradients_that_are_read(text: Text, factors: Factors) -> bool:
    """``differentiate_patch`` reads gradients of pixels of the image alone."""
    sizes = Sizes(text, factors)
    for patch in patches(text, factors):
        names = _row(text, sizes, patch, "read")
        last = text.value(BACKWARD, r"read_samples\(row, job\.grad_output\.stride\[3\], (.*?), whole", names)
        row = patch.y0 + text.value(BACKWARD, r"corner \+ (y) \* job\.grad_output\.stride\[2\]", names)
        if not proved(z3.And(row >= 0, row < sizes.height), *names["facts"]):
            return False
        if not samples_are_inside(text, sizes, patch.x0, last, names["whole"], patch.wide, names["facts"]):
            return False
    return True


def gradients_that_are_written(text: Text, factors: Factors) -> bool:
    """``write_patch`` writes gradients of pixels of the image alone, and reads the samples that may be NaN there."""
    sizes = Sizes(text, factors)
    for patch in patches(text, factors):
        names = _row(text, sizes, patch, "write")
        last = text.value(BACKWARD, r"write_samples\(row, job\.grad_input\.stride\[3\], (.*?), whole", names)
        row = patch.y0 + text.value(BACKWARD, r"corner \+ (y) \* job\.grad_input\.stride\[2\]", names)
        sample_row = text.value(BACKWARD, r"address_of<const T>\(job\.input, n, (y0 \+ y), x0\)", names)
        x = z3.Int("x")
        column = text.value(BACKWARD, r"input\[(smaller\(x, .*?\)) \* job\.input\.stride", names | {"x": x})
        rows = z3.And(row >= 0, row < sizes.height, sample_row >= 0, sample_row < sizes.height)
        columns = z3.And(patch.x0 + column >= 0, patch.x0 + column < sizes.width)
        if not proved(rows, *names["facts"]) or not proved(columns, *names["facts"], x >= 0, x < patch.wide):
            return False
        if not written_samples_are_inside(text, sizes, patch.x0, last, names["whole"], patch.wide, names["facts"]):
            return False
    return True


def words_of_gradients(text: Text, factors: Factors) -> bool:
    """Words of gradients are at multiples of their bytes, where ``allows_vectors`` allows them; for each type."""
    names = {"kBlock": Whole(8), "kGradientWide": text.value(BACKWARD, r"kGradientWide = (\d+)", {})}
    launches = (r"void launch_differentiate\(.*?", r"void launch_differentiate_blocks\(.*?")
    for patch, launch in zip(patches(text, factors)[:2], launches, strict=True):
        for which in (
            r"read_vectors = allows_vectors\(\S*grad_output",
            r"write_vectors = allows_vectors\(\S*grad_input",
        ):
            allowed = text.value(EXACT_LAUNCH, rf"{launch}{which}, (.*?)\);", names)
            for size in TYPES[1:]:
                if not words_are_aligned(text, size, allowed, patch.wide, patch.x0, *patch.facts):
                    return False
        # And those of the image, which the second kernel reads as the forward kernel does.
    inputs = text.value(EXACT_LAUNCH, r"job\.input_vectors = allows_vectors\(job\.common\.input, (.*?)\);", names)
    return all(words_are_aligned(text, size, inputs, 8, 8 * z3.Int("column")) for size in TYPES[1:])


def pixels_that_one_thread_writes(text: Text, factors: Factors) -> bool:
    """No two threads, or turns of one, write the gradient of the same pixel."""
    for one, other in zip(patches(text, factors, "a"), patches(text, factors, "b"), strict=True):
        x, x_too, y, y_too = z3.Ints("x x_too y y_too")
        inside = [
            x >= 0,
            x < one.wide,
            x_too >= 0,
            x_too < one.wide,
            y >= 0,
            y < one.tall,
            y_too >= 0,
            y_too < one.tall,
        ]
        pairs = [*zip(one.unknowns, other.unknowns, strict=True), (x, x_too), (y, y_too)]
        apart = z3.Or(one.x0 + x != other.x0 + x_too, one.y0 + y != other.y0 + y_too)
        if not proved(apart, *one.facts, *other.facts, *inside, z3.Or(*(a != b for a, b in pairs))):
            return False
    return True


def planes_that_are_read(text: Text, factors: Factors) -> bool:
    """``differentiate_patch`` reads bytes of the planes, words of them aligned, and ``write_patch`` reads flags."""
    sizes = Sizes(text, factors)
    x0, y0, y, i = z3.Ints("x0 y0 y i")
    luma = text.found(BACKWARD, r"read_bytes\(planes \+ \((\(y0 \+ y\) .*?)\), luma\[i\]\);")
    stride = text.value(BACKWARD, r"const unsigned luma_stride = (sizes.*?);", {"sizes": sizes, "kBlock": Whole(8)})
    for patch in patches(text, factors):
        word = int(text.value(BACKWARD, r"constexpr int kWord = (.*?);", {"wide": patch.wide, "kBlock": Whole(8)}))
        names = {"y0": y0, "y": y, "x0": x0, "i": i, "kWord": word, "luma_stride": stride, "last_x": sizes.width - 1}
        there = text.value(BACKWARD, r"if \((i == 0 \|\| x0 .*?)\) read_bytes", names)
        facts = [*sizes.facts, x0 >= 0, x0 < sizes.width, y0 >= 0, y0 < sizes.height]
        facts += [x0 % patch.wide == 0, y0 % patch.tall == 0]
        corner = [patch.x0 >= 0, patch.x0 < sizes.width, patch.y0 >= 0, patch.y0 < sizes.height]
        corner += [patch.x0 % patch.wide == 0, patch.y0 % patch.tall == 0]
        if not proved(z3.And(*corner), *in_image(text, sizes, patch)):
            return False
        turns = [y >= 0, y < patch.tall, y0 + y < sizes.height, i >= 0, i < patch.wide // word, there]
        at, column = evaluated(luma, names), x0 + i * word
        if not place_is_inside(at, y0 + y, sizes.luma_rows, column, sizes.luma_columns, word, *facts, *turns):
            return False
        if not proved(at % word == 0, *facts[-2:]) or patch.wide % word:
            return False
        size = (int(patch.wide), int(patch.tall))
        if not factors.grey and not chroma_patch_is_inside(text, sizes, factors, size, facts):
            return False
    return _flag_is_inside(text, sizes, factors)


def _flag_is_inside(text: Text, sizes: Sizes, factors: Factors) -> bool:
    x0, y0, row, column = z3.Ints("x0 y0 mcu_row mcu_column")
    names = {"x0": x0, "y0": y0, "kBlock": Whole(8), "sizes": sizes}
    names["U"] = group(kHorizontal=Whole(factors.horizontal), kVertical=Whole(factors.vertical))
    mcu = text.found(BACKWARD, r"const int mcu = (y0 .*?);")
    down, _, across = mcu.partition(" * sizes.mcu_columns + ")
    facts = [*sizes.facts, x0 >= 0, x0 < sizes.width, y0 >= 0, y0 < sizes.height]
    inside = [row >= 0, row < sizes.mcu_rows, column >= 0, column < sizes.mcu_columns]
    is_mcu = [row == evaluated(down, names), column == evaluated(across, names)]
    at = row * sizes.mcu_columns + column
    hints = [product(sizes.mcu_rows - 1 - row, sizes.mcu_columns), product(row, sizes.mcu_columns)]
    return proved(z3.And(*inside), *facts, *is_mcu) and proved(
        z3.And(at >= 0, sizes.flag_offset + at < sizes.plane_bytes), *inside, *hints, *sizes.facts
    )


def pixels_of_the_ring(text: Text, factors: Factors) -> bool:
    """``chroma_gradient_at`` reads the gradient and the planes of a pixel of the image, beyond the tile's edges too."""
    sizes = Sizes(text, factors)
    x, y = z3.Ints("x y")
    guard = text.value(UPSAMPLING, r"if \((x >= .*?)\) ring = chroma_of\(y, x\);", {"x": x, "y": y, "sizes": sizes})
    inside = [x >= 0, x < sizes.width, y >= 0, y < sizes.height]
    names = {"y": y, "x": x, "job": group(sizes=sizes), "kBlock": Whole(8)}
    names["luma_stride"] = text.value(BACKWARD, r"const unsigned luma_stride = (job.*?);", names)
    luma = text.value(BACKWARD, r"planes\[(y \* luma_stride .*?)\]", names)
    return (
        proved(z3.And(*inside), guard)
        and place_is_inside(luma, y, sizes.luma_rows, x, sizes.luma_columns, 1, *sizes.facts, *inside)
        and _chroma_at_is_inside(text, sizes, factors)
    )


def _chroma_at_is_inside(text: Text, sizes: Sizes, factors: Factors) -> bool:
    x, y, i, k = z3.Ints("x y i k")
    facts = [*sizes.facts, x >= 0, x < sizes.width, y >= 0, y < sizes.height]
    for triangle in (False, True):
        u = group(kHorizontal=Whole(factors.horizontal), kVertical=Whole(factors.vertical))
        u.kAcross, u.kDown = (triangle and one == 2 for one in factors[:2])
        names = {"U": u, "x": x, "y": y, "sizes": sizes, "kBlock": Whole(8)}
        names = known(text.found(UPSAMPLING, r"(const bool late = .*?;) const auto twin"), names)
        rows, columns = (names["row"], names["far"]), (names["column"], names["beside"])
        calls = text.found(UPSAMPLING, r"const Twin (a = twin\(.*?\)); if \(late\)")
        if calls != "a = twin(row, column), b = twin(row, beside), c = twin(far, column), d = twin(far, beside)":
            return False
        for row, column in ((one, other) for one in rows for other in columns):
            inside = z3.And(row >= 0, row < sizes.chroma_height, column >= 0, column < sizes.chroma_width)
            if not proved(inside, *facts):
                return False
    at = text.value(
        UPSAMPLING, r"const unsigned at = (i \* stride \+ k);", {"i": i, "k": k, "stride": sizes.chroma_columns * 8}
    )
    inside = [i >= 0, i < sizes.chroma_height, k >= 0, k < sizes.chroma_width]
    return place_is_inside(at, i, sizes.chroma_rows, k, sizes.chroma_columns, 1, *sizes.facts, *inside)


PROOFS = by_name(
    *(gradients_that_are_read, gradients_that_are_written, words_of_gradients, pixels_that_one_thread_writes),
    *(planes_that_are_read, pixels_of_the_ring),
)
_LAYOUTS = {"pixels_of_the_ring": TRIANGLES}


@pytest.mark.parametrize(("proof", "factors"), cases(PROOFS, _LAYOUTS), ids=str)
def test_indices_are_right_for_every_image(proof: str, factors: Factors) -> None:
    assert PROOFS[proof](Text(), factors)


_WRONG = [
    Wrong("gradients_that_are_read", F420, BACKWARD, "y > last_y) return;", "y > last_y + 1) return;"),
    Wrong("gradients_that_are_read", F444, BACKWARD, "output.stride[3], last_x - x0,", "output.stride[3], last_x,"),
    Wrong("gradients_that_are_read", F411, BACKWARD, "read_vectors && x0 + wide - 1", "read_vectors && x0 + wide - 2"),
    Wrong("gradients_that_are_written", F440, BACKWARD, "y > last_y) break;", "y > last_y + 1) break;"),
    Wrong("gradients_that_are_written", F444, BACKWARD, "input[smaller(x, last_x - x0)", "input[smaller(x, last_x)"),
    Wrong("gradients_that_are_written", F422, BACKWARD, "write_vectors && x0 + wide - 1 <=", "write_vectors && x0 <="),
    Wrong("words_of_gradients", F444, EXACT_LAUNCH, "job.grad_output, kGradientWide", "job.grad_output, 2"),
    Wrong("words_of_gradients", F411, EXACT_LAUNCH, "job.common.grad_input, kBlock", "job.common.grad_input, 4"),
    Wrong("words_of_gradients", F444, EXACT_LAUNCH, "job.common.input, kBlock", "job.common.input, 1"),
    Wrong("words_of_gradients", F422, THROUGH, "luma_column(0)) * kBlock;", "luma_column(0)) * kBlock + 1;"),
    Wrong("pixels_that_one_thread_writes", F420, THROUGH, "Tile::kWarpsAcross * L::kMcus", "Tile::kWarpsAcross"),
    Wrong("pixels_that_one_thread_writes", F420, BACKWARD, "thread / kTileAcross * kTall", "thread / kTileAcross"),
    Wrong("pixels_that_one_thread_writes", F440, THROUGH, "tile_row * Tile::kWarpsDown + warp", "tile_row + warp"),
    Wrong("pixels_that_one_thread_writes", F444, WARP, "horizontal == 4 ? 2 * kBlock : kBlock;", "2 * kBlock;"),
    Wrong("planes_that_are_read", F411, BACKWARD, "i * kWord <= last_x)", "i * kWord <= last_x + 16)"),
    Wrong("planes_that_are_read", F411, BACKWARD, "luma_stride + x0 + i * kWord)", "luma_stride + x0 + i)"),
    Wrong("planes_that_are_read", F420, BACKWARD, "y0 / (kBlock * U::kVertical)", "y0 / kBlock"),
    Wrong("planes_that_are_read", F420, THROUGH, "at.x0 < sizes.width && at.y0", "at.x0 <= sizes.width && at.y0"),
    Wrong("planes_that_are_read", F420, UPSAMPLING, "kHaloDown, 0, last_row)", "kHaloDown, -1, last_row)"),
    Wrong("pixels_of_the_ring", F420, UPSAMPLING, "if (x >= 0 && x < sizes.width", "if (x >= 0 && x <= sizes.width"),
    Wrong("pixels_of_the_ring", F422, UPSAMPLING, "(late ? 1 : -1), 0, sizes", "(late ? 1 : -1), -1, sizes"),
    Wrong("pixels_of_the_ring", F440, UPSAMPLING, "-1), 0, sizes.chroma_height - 1)", "-1), 0, sizes.height)"),
    Wrong("pixels_of_the_ring", F420, BACKWARD, "planes[y * luma_stride + x]", "planes[y * luma_stride + x + 8]"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", _WRONG, ids=lambda one: f"{one.proof}: {one.new}")
def test_wrong_indices_are_not_proved(wrong: Wrong) -> None:
    assert not PROOFS[wrong.proof](Text(wrong.file, wrong.old, wrong.new), wrong.factors)
