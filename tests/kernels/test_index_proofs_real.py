"""Proofs about the indices of the kernels in real numbers: planes, images, masks and gradients.

They are about the expressions in the text of ``csrc/`` (`support.index_text`), by z3 for images of any size. For each
layout and type: accesses are inside, words are aligned, and no two threads write the same place. The patches of
backward, and what they share with the exact kernels, are in ``test_index_proofs_backward.py``. Each proof fails where
an index is changed.
"""

from __future__ import annotations

import re
from typing import Any

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
    place_is_inside,
    samples_are_inside,
    word_of,
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
    constants,
    product,
    proved,
)
from support.index_text import (
    DISPATCH,
    REAL_BACKWARD,
    REAL_FORWARD,
    REAL_LAUNCH,
    SAMPLES,
    UPSAMPLING,
    WARP,
    Text,
    Whole,
    evaluated,
    group,
    known,
)

_REALS = (4, 8)  # bytes of a real number

# ---------------------------------------------------------------------------------------------------------------------
# Forward


def works_that_are_launched(text: Text, factors: Factors) -> bool:
    """Each warp of ``real_code_blocks`` with work has a row of MCUs, each thread of ``real_emit_pixels`` pixels."""
    sizes = Sizes(text, factors)
    names = {"g": sizes, "L": constants(text, factors)["L"], "kBlock": Whole(8)}
    across = text.value(DISPATCH, r"warps_across\(const Geometry& g\) \{ return (.*?);", names)
    warps = text.found(REAL_LAUNCH, r"code\.warps = static_cast<int>\((.*?)\);").replace("warps_across<L>(g)", "across")
    if not work_is_inside(evaluated(warps, names | {"across": across}), across, sizes.mcu_rows):
        return False
    groups = text.value(REAL_LAUNCH, r"emit\.groups = static_cast<int>\((.*?)\);", names)
    across = text.value(REAL_LAUNCH, r"emit\.groups_across = Divider::by\((.*?)\);", names)
    column = z3.Int("column")
    rest = text.found(REAL_FORWARD, r"x0 = job\.groups_across\.remainder\(group, y\) (.*?);")
    x0 = evaluated(f"column {rest}", names | {"column": column})
    inside = z3.And(x0 >= 0, x0 < sizes.width, x0 % 8 == 0)
    return work_is_inside(groups, across, sizes.height) and proved(
        inside, *sizes.facts, column >= 0, column < sizes.luma_columns
    )


def pixels_that_are_read(text: Text, factors: Factors) -> bool:
    """``real_code_blocks`` reads pixels of the image alone, one by one or as words of eight."""
    allowed = text.value(REAL_LAUNCH, r"code\.vectors = allows_vectors\(op\.input, (.*?)\);", {"kBlock": Whole(8)})
    words = (words_are_aligned(text, size, allowed, 8, 8 * z3.Int("column")) for size in TYPES)
    return pixels_of_rows_are_inside(text, REAL_FORWARD, factors) and all(words)


def planes_that_are_written(text: Text, factors: Factors) -> bool:
    """``real_code_blocks`` writes eight numbers of a component's plane as words of 16 bytes, each by one thread."""
    sizes = Sizes(text, factors)
    step = text.found(REAL_FORWARD, r"__builtin_memcpy\(&word, reinterpret_cast<const char\*>\(x\) \+ (i .*?), sizeof")
    turns = text.found(REAL_FORWARD, r"i < (kBlock \* sizeof\(Real\) / sizeof\(uint4\));")
    first = text.found(REAL_FORWARD, r"Real\* planes = static_cast<Real\*>\(job\.planes\) \+ (.*?);")
    target, chunk = z3.Ints("target chunk")
    for size in _REALS:
        names = {"kBlock": Whole(8), "sizeof": {"Real": Whole(size), "uint4": Whole(16)}.get, "i": chunk}
        names |= {"Real": "Real", "uint4": "uint4", "sizes": sizes, "blockIdx": group(y=z3.Int("image"))}
        words, place = evaluated(turns, names), evaluated(step, names)
        bytes_of_plane = (evaluated(first, names) + target) * size
        if words * 16 != 8 * size or not proved((bytes_of_plane + place) % 16 == 0, *sizes.facts, target % 8 == 0):
            return False
    apart = planes_are_apart(text, REAL_FORWARD, factors)
    return (
        apart
        and row_of_block_is_inside(text, REAL_FORWARD, r"const unsigned target = offset \+ (.*?);", guarded=True)
        and rows_of_blocks_differ(text, REAL_FORWARD, factors)
    )


def planes_that_are_read(text: Text, factors: Factors) -> bool:
    """``real_emit_pixels`` reads numbers of an image's planes, those of luma as words."""
    sizes = Sizes(text, factors)
    x0, y = z3.Ints("x0 y")
    pixel = [x0 >= 0, x0 < sizes.width, x0 % 8 == 0, y >= 0, y < sizes.height]
    names = {"sizes": sizes, "x0": x0, "y": y, "kBlock": Whole(8)}
    luma = text.value(REAL_FORWARD, r"read_samples\(planes \+ \((.*?)\), 1, kBlock - 1, true", names)
    if not place_is_inside(luma, y, sizes.luma_rows, x0, sizes.luma_columns, 8, *sizes.facts, *pixel):
        return False
    for size in _REALS:
        taken = word_of(text, size, 8, 8)[1]
        if not proved((luma * size) % taken == 0, x0 % 8 == 0) or taken != 16:
            return False
    return factors.grey or _chroma_is_inside(text, sizes, factors, pixel)


def _chroma_is_inside(text: Text, sizes: Sizes, factors: Factors, pixel: list[Any]) -> bool:
    y, k, x0, i, row = z3.Ints("y k x0 i row")
    for triangle in (False, True):
        u = group(kHorizontal=Whole(factors.horizontal), kVertical=Whole(factors.vertical))
        u.kAcross, u.kDown = (triangle and one == 2 for one in factors[:2])
        names = {"U": u, "y": y, "k": k, "x0": x0, "sizes": sizes, "stride": z3.Int("stride"), "kBlock": Whole(8)}
        names = known(text.found(REAL_FORWARD, r"(const int row = y / U::kVertical, towards = [^;]*;)"), names)
        far = text.value(REAL_FORWARD, r"far = (clamp\(row \+ towards, .*?\)) \* stride;", names)
        names["first_column"] = text.value(REAL_FORWARD, r"plane \+ far, (x0 .*?), cb\);", names)
        names["kBeside"] = Whole(1 if u.kAcross else 0)
        columns = text.value(UPSAMPLING, r"kBeside = U::kAcross \? 1 : 0, kColumns = (.*?);", names)
        column = text.value(UPSAMPLING, r"const int i = (clamp\(first_column .*?);", names)
        rows = z3.And(names["row"] >= 0, names["row"] < sizes.chroma_height, far >= 0, far < sizes.chroma_height)
        inside = z3.And(rows, column >= 0, column < sizes.chroma_width)
        if not proved(inside, *sizes.facts, *pixel, k >= 0, k < columns):
            return False
        for x in map(Whole, range(8)):  # the column of registers that each pixel takes, and the one next to it
            own = text.value(UPSAMPLING, r"const int k = (x / U::kHorizontal \+ kBeside), beside", names | {"x": x})
            beside = text.value(UPSAMPLING, r", beside = (x % 2 .*?);", {"x": x, "k": own})
            if not 0 <= own < columns or (u.kAcross and not 0 <= beside < columns):
                return False
    at = text.value(REAL_FORWARD, r"near = (row \* stride),", {"row": row, "stride": sizes.chroma_columns * 8}) + i
    facts = [*sizes.facts, row >= 0, row < sizes.chroma_height, i >= 0, i < sizes.chroma_width]
    return place_is_inside(at, row, sizes.chroma_rows, i, sizes.chroma_columns, 1, *facts)


def pixels_that_are_written(text: Text, factors: Factors) -> bool:
    """``real_emit_pixels`` writes pixels of image and mask alone, as words where all of a word's are there."""
    sizes = Sizes(text, factors)
    x0 = z3.Int("x0")
    names = {"sizes": sizes, "x0": x0, "kBlock": Whole(8), "job": group(vectors=z3.Bool("vectors"))}
    names["last"] = text.value(REAL_FORWARD, r"const int last = (sizes\.width - 1 - x0);", names)
    whole = text.value(REAL_FORWARD, r"const bool whole = (job\.vectors .*?);", names)
    facts = [*sizes.facts, x0 >= 0, x0 < sizes.width]
    both = text.found(REAL_LAUNCH, r"return (allows_vectors\(image, count\) && allows_vectors\(mask, count\));")
    allowed = text.value(REAL_LAUNCH, r"emit\.vectors = allow_vectors\(op\.output, emit\.mask, (.*?)\);", names)
    words = (words_are_aligned(text, size, allowed, 8, 8 * z3.Int("column")) for size in TYPES)
    inside = written_samples_are_inside(text, sizes, x0, names["last"], whole, 8, facts)
    return bool(both) and all(words) and inside and _mask_is_inside(text, sizes)


def _mask_is_inside(text: Text, sizes: Sizes) -> bool:
    """The mask has a byte for each pixel of its image."""
    n, x, y, images, channel, row, column = z3.Ints("n x y images stride0 stride2 stride3")
    strides = text.value(REAL_LAUNCH, r"return \{mask, SampleType::uint8, \{(.*?)\}\};", {"g": sizes})
    at = text.found(SAMPLES, r"static_cast<T\*>\(image\.data\) \+ \((n \* .*?)\)\);")
    strides_of = re.sub(r"image\.stride\[(\d)\]", r"stride\1", at)
    at = evaluated(strides_of, {"n": n, "row": y, "column": x, "stride0": channel, "stride2": row, "stride3": column})
    size = z3.Int("size")
    facts = [n >= 0, n < images, x >= 0, x < sizes.width, y >= 0, y < sizes.height, *sizes.facts[:2]]
    is_image = [channel == size, row == sizes.width, column == 1, size == sizes.height * sizes.width]
    same = z3.And(strides[0] == sizes.height * sizes.width, strides[2] == sizes.width, z3.BoolVal(strides[3] == 1))
    hints = [product(sizes.height - 1 - y, sizes.width), product(y, sizes.width)]
    in_image = z3.And(y * sizes.width + x >= 0, y * sizes.width + x < size)
    place = z3.Int("place")
    of_all = z3.And(n * size + place >= 0, n * size + place < images * size)
    return (
        proved(same)
        and proved(at == n * size + (y * sizes.width + x), *is_image)
        and proved(in_image, *facts, *hints, is_image[-1])
        and proved(
            of_all, n >= 0, n < images, place >= 0, place < size, product(images - 1 - n, size), product(n, size)
        )
    )


# ---------------------------------------------------------------------------------------------------------------------
# Backward


def _row(text: Text, sizes: Sizes, patch: Patch) -> dict[str, Any]:
    """Returns the names of a row in ``real_differentiate_patch``, with `facts`, `last` and `whole`."""
    common = group(sizes=sizes, read_vectors=z3.Bool("vectors"))
    names = {"x0": patch.x0, "y0": patch.y0, "y": z3.Int("y"), "wide": patch.wide, "job": group(common=common)}
    names["last"] = text.value(REAL_BACKWARD, r"const int last = (job\.common\.sizes\.width .*?);", names)
    names["whole"] = text.value(REAL_BACKWARD, r"const bool whole = (job\.common\.read_vectors .*?);", names)
    below = text.value(REAL_BACKWARD, r"if \((y0 \+ y >.*?)\) break;", names)
    names["facts"] = [*in_image(text, sizes, patch), names["y"] >= 0, names["y"] < patch.tall, z3.Not(below)]
    return names


def gradients_that_are_read(text: Text, factors: Factors) -> bool:
    """``real_differentiate_row`` reads gradients and masks of pixels of the image alone."""
    sizes = Sizes(text, factors)
    for patch in patches(text, factors):
        names = _row(text, sizes, patch)
        row = text.value(REAL_BACKWARD, r"real_differentiate_row<U, type>\(job, n, (y0 .*?), x0, pixel", names)
        if not proved(z3.And(row >= 0, row < sizes.height), *names["facts"]):
            return False
        if not samples_are_inside(text, sizes, patch.x0, names["last"], names["whole"], patch.wide, names["facts"]):
            return False
    return _mask_is_inside(text, sizes)


def words_of_gradients(text: Text, factors: Factors) -> bool:
    """Words of gradients and masks are at multiples of their bytes, where they are allowed; for each type."""
    samples = text.found(REAL_LAUNCH, r"void launch_real_differentiate_samples\((.*?)with_float_type")
    blocks = text.found(REAL_LAUNCH, r"void launch_real_backward\((.*)$")
    names = {"kBlock": Whole(8), "kGradientWide": Whole(4), "PatchWide": constants(text, factors)["L"].kPatchWide}
    for patch, launch in zip(patches(text, factors), (samples, blocks, blocks), strict=True):
        read = re.search(r"read_vectors = allow_vectors\([^,]*, job\.mask, (.*?)\);", launch)
        written = re.search(r"write_vectors = allows_vectors\([^,]*, (.*?)\);", launch)
        assert read is not None
        assert written is not None
        wanted = re.sub(r"ThroughTile<L, kWarps>::k", "", read[1])
        for allowed, types in ((wanted, TYPES), (written[1], TYPES[1:])):  # a mask is of bytes
            count = evaluated(allowed, names)
            if not all(words_are_aligned(text, size, count, patch.wide, patch.x0, *patch.facts) for size in types):
                return False
    inputs = text.value(REAL_LAUNCH, r"job\.input_vectors = allows_vectors\(op\.input, (.*?)\);", names)
    return all(words_are_aligned(text, size, inputs, 8, 8 * z3.Int("column")) for size in TYPES[1:])


def pixels_of_the_ring(text: Text, factors: Factors) -> bool:
    """``real_chroma_gradient_at`` reads the gradient and the mask of the pixel for which the ring asks."""
    sizes = Sizes(text, factors)
    x, y = z3.Ints("x y")
    guard = text.value(UPSAMPLING, r"if \((x >= .*?)\) ring = chroma_of\(y, x\);", {"x": x, "y": y, "sizes": sizes})
    places = [
        text.value(
            REAL_BACKWARD, r"address_of<const typename Sample<type>::Stored>\(\S*, n, (.*?)\);", {"x": x, "y": y}
        ),
        text.value(REAL_BACKWARD, r"\*address_of<const uint8_t>\(job\.mask, n, (.*?)\), value", {"x": x, "y": y}),
    ]
    inside = (z3.And(row >= 0, row < sizes.height, column >= 0, column < sizes.width) for row, column in places)
    return proved(z3.And(*inside), guard, *sizes.facts)


PROOFS = by_name(
    *(works_that_are_launched, pixels_that_are_read, planes_that_are_written, planes_that_are_read),
    *(pixels_that_are_written, gradients_that_are_read, words_of_gradients, pixels_of_the_ring),
)


@pytest.mark.parametrize(("proof", "factors"), cases(PROOFS, {"pixels_of_the_ring": TRIANGLES}), ids=str)
def test_indices_are_right_for_every_image(proof: str, factors: Factors) -> None:
    assert PROOFS[proof](Text(), factors)


_WRONG = [
    Wrong("works_that_are_launched", F444, REAL_LAUNCH, "g.height * g.luma_columns)", "g.height * g.luma_columns + 1)"),
    Wrong("works_that_are_launched", F444, REAL_FORWARD, "remainder(group, y) * kBlock;", "remainder(group, y) * 16;"),
    Wrong("pixels_that_are_read", F444, REAL_LAUNCH, "(op.input, kBlock);\n  code", "(op.input, 1);\n  code"),
    Wrong("pixels_that_are_read", F420, WARP, "luma_row(v), sizes.height - 1);", "luma_row(v), sizes.height);"),
    Wrong("planes_that_are_written", F420, REAL_FORWARD, "block_row >= rows || block", "block_row > rows || block"),
    Wrong("planes_that_are_written", F420, REAL_FORWARD, "i * sizeof(uint4), sizeof", "i * sizeof(Real), sizeof"),
    Wrong("planes_that_are_written", F420, REAL_FORWARD, "<Real*>(job.planes) +", "<Real*>(job.planes) + 1 +"),
    Wrong("planes_that_are_written", F422, REAL_FORWARD, "place.chroma_component(v), mcu_row", "1, mcu_row"),
    Wrong("planes_that_are_written", F444, REAL_FORWARD, "sizes.cb_offset : sizes.cr_offset;", "sizes.cb_offset : 0;"),
    Wrong("planes_that_are_read", F444, REAL_FORWARD, "kBlock + x0), 1,", "kBlock + x0 + 1), 1,"),
    Wrong("planes_that_are_read", F420, REAL_FORWARD, "clamp(row + towards, 0,", "clamp(row + towards, -1,"),
    Wrong("planes_that_are_read", F422, UPSAMPLING, "kBeside, 0, sizes.chroma_width - 1)", "kBeside, 0, 8)"),
    Wrong("planes_that_are_read", F422, UPSAMPLING, "U::kHorizontal + 2 * kBeside;", "U::kHorizontal + kBeside;"),
    Wrong("pixels_that_are_written", F444, REAL_FORWARD, "last >= kBlock - 1", "last >= 6"),
    Wrong("pixels_that_are_written", F444, REAL_LAUNCH, "g.width, g.width, 1}", "g.width, 1, 1}"),
    Wrong("pixels_that_are_written", F444, REAL_LAUNCH, "emit.mask, kBlock)", "emit.mask, 4)"),
    Wrong("gradients_that_are_read", F420, REAL_BACKWARD, "if (y0 + y >= job", "if (y0 + y > job"),
    Wrong("gradients_that_are_read", F411, REAL_BACKWARD, "last >= wide - 1", "last >= wide - 2"),
    Wrong("words_of_gradients", F411, REAL_LAUNCH, "kWarps>::kPatchWide)", "kWarps>::kPatchWide / 2)"),
    Wrong("words_of_gradients", F444, REAL_LAUNCH, "job.mask, kGradientWide)", "job.mask, 2)"),
    Wrong("words_of_gradients", F440, REAL_LAUNCH, "vectors(grad_input, kBlock)", "vectors(grad_input, 4)"),
    Wrong("pixels_of_the_ring", F420, REAL_BACKWARD, "(job.mask, n, y, x), value", "(job.mask, n, x, y), value"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", _WRONG, ids=lambda one: f"{one.proof}: {one.new}")
def test_wrong_indices_are_not_proved(wrong: Wrong) -> None:
    assert not PROOFS[wrong.proof](Text(wrong.file, wrong.old, wrong.new), wrong.factors)
