"""The codec's parts in Triton: steps of qualities, and what is between an image's components and packed blocks.

Packed blocks are (images, blocks, 8, 8), in the order of `place_block`.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# (Triton types the functions that it compiles.)

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import nearest, orthonormal, orthonormal_inverse, quantize, restore, transform, transpose
from .blocks import slopes_of, store_gradients
from .forward import load_rows, place_block, store_rows
from .surrogates import surrogate
from .upsampling import Components

# ---------------------------------------------------------------------------------------------------------------------
# Steps


@triton.jit
def _quality(qualities, index, inside, whole: tl.constexpr):
    """Loads the qualities as which those given act, in double: clamped to 1…100, NaN as 1."""
    quality = tl.load(qualities + index, mask=inside, other=1).to(tl.float64)
    quality = tl.where(quality == quality, tl.minimum(tl.maximum(quality, 1.0), 100.0), 1.0)
    return nearest(quality) if whole else quality


@triton.jit
def make_steps(base, qualities, steps, kinds, luma, count, whole: tl.constexpr, soft: tl.constexpr, size: tl.constexpr):
    """Stores the standard tables at `count` qualities, of which each `kinds` begin with `luma` that are of luma.

    `base` holds the two tables, `steps` is (count, 64). A program makes `size` of its numbers.
    """
    index = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    inside = index < count * 64
    item, place = index // 64, (index % 64).to(tl.int32)
    quality = _quality(qualities, item, inside, whole)
    percentage = tl.where(quality < 50, 5000.0 / quality, 200.0 - 2.0 * quality)
    entry = tl.load(base + tl.where(item % kinds < luma, 0, 64) + place)
    if soft:
        scaled = tl.maximum(entry.to(tl.float64) * (percentage / 100.0), 1.0)
        tl.store(steps + index, scaled.to(steps.dtype.element_ty), mask=inside)
    else:
        q = tl.minimum(tl.maximum((entry * percentage.to(tl.int32) + 50) // 100, 1), 255)
        tl.store(steps + index, q.to(steps.dtype.element_ty), mask=inside)


@triton.jit
def differentiate_steps(
    base, grad, qualities, out, kinds, luma, count, whole: tl.constexpr, soft: tl.constexpr, size: tl.constexpr
):
    """Stores the gradients of qualities from `grad`, those of their tables: `size` of them a program."""
    index = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    inside = index < count
    given = tl.load(qualities + index, mask=inside, other=1).to(tl.float64)
    quality = _quality(qualities, index, inside, whole)
    passed = (given - given) == 0  # finite
    if soft:
        passed = passed & (given >= 1) & (given <= 100)
    place = tl.arange(0, 64)[None, :]
    entry = tl.load(base + tl.where(index % kinds < luma, 0, 64)[:, None] + place).to(tl.float64)
    g = tl.load(grad + index[:, None] * 64 + place, mask=inside[:, None], other=0.0).to(tl.float64)
    if soft:
        percentage = tl.where(quality < 50, 5000.0 / quality, 200.0 - 2.0 * quality)
        g = tl.where(entry * (percentage / 100.0)[:, None] > 1, g, 0.0)
    slope = tl.where(quality < 50, -5000.0 / (quality * quality), -2.0) / 100.0
    total = tl.where(passed, slope * tl.sum(entry * g, 1), 0.0)
    tl.store(out + index, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def share_blocks(grad, shares, blocks, luma, chroma, of_luma, of_chroma, size: tl.constexpr):
    """Stores in program (i, n) the sum of `grad` over up to `size` blocks of one component of image n.

    `grad` is (images, blocks, 64), of which the first `luma` are of luma, `chroma` of each of the others; the programs
    are `of_luma` and `of_chroma` likewise. The shares are transposed, as `add_shares` takes them.
    """
    program, n = tl.program_id(0), tl.program_id(1)
    other = tl.maximum(program - of_luma, 0)
    component = tl.where(program < of_luma, 0, 1 + other // tl.maximum(of_chroma, 1))
    chunk = tl.where(program < of_luma, program, other % tl.maximum(of_chroma, 1))
    first = tl.where(component == 0, 0, luma + (component - 1) * chroma)
    count = tl.where(component == 0, luma, chroma)
    row, place = chunk * size + tl.arange(0, size), tl.arange(0, 64)
    at = grad + (n.to(tl.int64) * blocks + first + row)[:, None] * 64 + place[None, :]
    total = tl.sum(tl.load(at, mask=(row < count)[:, None], other=0.0), 0)
    own = n.to(tl.int64) * (of_luma + 2 * of_chroma) + program
    tl.store(shares + own * 64 + place % 8 * 8 + place // 8, total)


# ---------------------------------------------------------------------------------------------------------------------
# Rounding


@triton.jit
def replace_rounding(
    c,
    used,
    slopes,
    parameter,
    rest,
    floor,
    floor_rest,
    count,
    name: tl.constexpr,
    soft: tl.constexpr,
    size: tl.constexpr,
):
    """Stores for `size` of the `count` numbers `c` those that take their places, and the derivatives there."""
    index = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    inside = index < count
    number = tl.load(c + index, mask=inside, other=0.0)
    value, slope = surrogate(number, name, parameter, rest, floor, floor_rest, soft)
    tl.store(used + index, value, mask=inside)
    tl.store(slopes + index, slope, mask=inside)


@triton.jit
def differentiate_rounding(grad, used, c, slopes, of_blocks, of_steps, count, size: tl.constexpr):
    """Stores the gradients of `size` of the `count` coefficients, and those of their steps.

    Without `slopes` the first are those given, which are not stored. Without `c`, `used` are the derivatives by steps.
    """
    index = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    inside = index < count
    g = tl.load(grad + index, mask=inside, other=0.0)
    by_step = tl.load(used + index, mask=inside, other=0.0)
    if slopes is None:
        if c is not None:
            by_step -= tl.load(c + index, mask=inside, other=0.0)
    else:
        slope = tl.load(slopes + index, mask=inside, other=0.0)
        if c is not None:
            by_step -= tl.load(c + index, mask=inside, other=0.0) * slope
        tl.store(of_blocks + index, g * slope, mask=inside)
    tl.store(of_steps + index, g * by_step, mask=inside)


@triton.jit
def differentiate_scaling(
    grad, blocks, steps, of_blocks, of_steps, sets, count, divided: tl.constexpr, size: tl.constexpr
):
    """Stores the gradients of `size` of the `count` blocks, and those of their steps.

    `grad` are those of the blocks `divided` by their steps, else times them. The first `sets` blocks have `steps`, the
    following ones the same again.
    """
    index, place = tl.program_id(0) * size + tl.arange(0, size), tl.arange(0, 64)[None, :]
    inside = (index < count)[:, None]
    at = index.to(tl.int64)[:, None] * 64 + place
    g = tl.load(grad + at, mask=inside, other=0.0)
    x = tl.load(blocks + at, mask=inside, other=0.0)
    q = tl.load(steps + (index % sets).to(tl.int64)[:, None] * 64 + place)
    if divided:
        g /= q
        tl.store(of_blocks + at, g, mask=inside)
        tl.store(of_steps + at, -g * (x / q), mask=inside)
    else:
        tl.store(of_blocks + at, g * q, mask=inside)
        tl.store(of_steps + at, g * x, mask=inside)


# ---------------------------------------------------------------------------------------------------------------------
# Blocks


@triton.jit
def _load_own_steps(planes: Components, steps, sets, n, index):
    """Loads the steps of blocks, transposed, as `prepare_steps` makes those of tables, and their reciprocals."""
    of_image = planes.flags // 64
    own = steps + (n % sets * of_image + index % of_image).to(tl.int64) * 64
    q = transpose(load_rows(own, 8).to(tl.float32))
    q = tl.minimum(tl.maximum(q, 1.0), 255.0)  # NaN as 1
    q = ((q + 12582912.0) - 12582912.0).to(tl.int32)
    return q, tl.div_rn(1.0, (8 * q).to(tl.float32))


@triton.jit
def code_by_steps(planes: Components, steps, sets, count, size: tl.constexpr):
    """Puts `size` of the `count` blocks of all images through the codec, in place, each by its own steps.

    `sets` is the number of images for which there are `steps`.
    """
    index = tl.program_id(0) * size + tl.arange(0, size)
    inside = (index < count)[:, None]
    index = tl.minimum(index, count - 1)
    n, _, _, _, columns, start = place_block(planes, index)
    at, stride = planes.address + n.to(tl.int64) * planes.bytes + start, 8 * columns[:, None]
    q, reciprocal = _load_own_steps(planes, steps, sets, n, index)
    k = quantize(transform(load_rows(at, stride).to(tl.int32)), reciprocal, reciprocal * 0.5 + 0.5)
    store_rows(at, stride, restore(k * q).to(tl.uint8), inside)


@triton.jit
def judge_by_steps(
    planes: Components, steps, sets, slopes, first, second, count, real: tl.constexpr, size: tl.constexpr
):
    """Stores, packed, two numbers for each coefficient that `code_by_steps` is about to round.

    `first` and `second` take the coefficients in steps and their roundings, or with `slopes` the derivatives by the
    coefficient and by its step.
    """
    index = tl.program_id(0) * size + tl.arange(0, size)
    inside = (index < count)[:, None]
    index = tl.minimum(index, count - 1)
    n, _, _, _, columns, start = place_block(planes, index)
    at = planes.address + n.to(tl.int64) * planes.bytes + start
    q, reciprocal = _load_own_steps(planes, steps, sets, n, index)
    coefficients = transform(load_rows(at, 8 * columns[:, None]).to(tl.int32))
    k = quantize(coefficients, reciprocal, reciprocal * 0.5 + 0.5)
    packed = index.to(tl.int64) * 64
    if slopes is None:
        if real == tl.float64:
            c = coefficients.to(real) / (8 * q).to(real)
        else:
            c = tl.div_rn(coefficients.to(tl.float32), (8 * q).to(tl.float32))
        store_rows(first + packed, 8, transpose(c), inside)
        store_rows(second + packed, 8, transpose(k.to(real)), inside)
    else:
        remainder = (coefficients - 8 * q * k).to(real)  # subtracted as integers
        remainder = remainder / (8 * q).to(real) if real == tl.float64 else remainder * reciprocal
        slope = slopes_of(slopes, remainder)
        by_step = k.to(real) * (1.0 - slope) - remainder * slope
        store_rows(first + packed, 8, transpose(slope), inside)
        store_rows(second + packed, 8, transpose(by_step), inside)


@triton.jit
def pack_blocks(planes: Components, blocks, count, scale: tl.constexpr, size: tl.constexpr):
    """Stores the DCT of `size` of the `count` blocks of real components, packed, times `scale`."""
    index = tl.program_id(0) * size + tl.arange(0, size)
    inside = (index < count)[:, None]
    index = tl.minimum(index, count - 1)
    n, _, _, _, columns, start = place_block(planes, index)
    at = planes.address + n.to(tl.int64) * planes.bytes + start
    coefficients = orthonormal(load_rows(at, 8 * columns[:, None])) * scale
    store_rows(blocks + index.to(tl.int64) * 64, 8, transpose(coefficients), inside)


@triton.jit
def unpack_blocks(
    planes: Components,
    blocks,
    count,
    scale: tl.constexpr,
    gradients: tl.constexpr,
    whole: tl.constexpr,
    size: tl.constexpr,
):
    """Stores real components from their packed DCT times `scale`: samples, or the `gradients` of those."""
    index = tl.program_id(0) * size + tl.arange(0, size)
    inside = index < count
    index = tl.minimum(index, count - 1)
    n, component, row, column, columns, start = place_block(planes, index)
    at, stride = planes.address + n.to(tl.int64) * planes.bytes + start, 8 * columns[:, None]
    coefficients = transpose(load_rows(blocks + index.to(tl.int64) * 64, 8)) * scale
    if gradients:
        store_gradients(at, stride, coefficients, planes, component, row, column, inside, whole)
    else:
        store_rows(at, stride, orthonormal_inverse(coefficients), inside[:, None])
