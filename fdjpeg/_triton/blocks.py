"""Blocks in Triton: coefficients of files, gradients through coefficients, real numbers, and the blocks' DCT."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# (Triton types the functions that it compiles.)

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import (
    orthonormal,
    orthonormal_inverse,
    quantize,
    restore_any,
    stack,
    store_real,
    transform,
    transpose,
    unstack,
)
from .backward import place_component, store_share
from .forward import load_rows, load_steps, place_block, store_rows
from .surrogates import surrogate
from .upsampling import Components

# ---------------------------------------------------------------------------------------------------------------------
# The coefficients of files


@triton.jit
def _start_of(block, columns):
    """Returns where the samples of a component's blocks start."""
    column = block % columns
    return (block - column).to(tl.int64) * 64 + column * 8


@triton.jit
def quantize_component(samples, bytes, columns, blocks, component, steps, tables, levels, count, size: tl.constexpr):
    """Stores the quantized coefficients of `size` of the `count` blocks of a component of all images.

    `samples` is where the component begins in image 0, `bytes` from one image to the next. `levels` is
    (images, blocks, 64).
    """
    index = tl.program_id(0) * size + tl.arange(0, size)
    inside = index < count
    index = tl.minimum(index, count - 1)
    n, block = index // blocks, index % blocks
    at = samples + n.to(tl.int64) * bytes + _start_of(block, columns)
    _, reciprocal, half = load_steps(steps, n % tables * 3 + component)
    quantized = quantize(transform(load_rows(at, 8 * columns).to(tl.int32)), reciprocal, half)
    store_rows(levels + index.to(tl.int64) * 64, 8, transpose(quantized).to(tl.int16), inside[:, None])


@triton.jit
def restore_component(samples, bytes, columns, blocks, component, steps, tables, levels, count, size: tl.constexpr):
    """Stores the samples of blocks of quantized coefficients; arguments as of `quantize_component`."""
    index = tl.program_id(0) * size + tl.arange(0, size)
    inside = index < count
    index = tl.minimum(index, count - 1)
    n, block = index // blocks, index % blocks
    at = samples + n.to(tl.int64) * bytes + _start_of(block, columns)
    q, _, _ = load_steps(steps, n % tables * 3 + component)
    # Saturated, so that even hostile coefficients are harmless.
    products = transpose(load_rows(levels + index.to(tl.int64) * 64, 8).to(tl.int32)) * q
    products = tl.minimum(tl.maximum(products, -32767), 32767)
    store_rows(at, 8 * columns, restore_any(products).to(tl.uint8), inside[:, None])


# ---------------------------------------------------------------------------------------------------------------------
# Gradients through coefficients


@triton.jit
def _folded(x, rows, columns, is_luma):
    """Adds up the gradient of samples beyond a component's last row and column, in these, whose replicas they are.

    What is right of the last column of chroma goes into the first column there instead: all of it is a replica of the
    image's last pixels alone, see `emit_gradient`. `rows` and `columns` (n,) are the samples of each block that are the
    component's own.
    """
    i, j = tl.arange(0, 8)[None, :, None], tl.arange(0, 8)[None, None, :]
    rows, columns = rows[:, None, None], columns[:, None, None]
    beyond = tl.sum(tl.where(i >= rows, x, 0.0), 1)[:, None, :]
    x = tl.where(i >= rows, 0.0, x) + tl.where(i == rows - 1, beyond, 0.0)
    beyond = tl.sum(tl.where(j >= columns, x, 0.0), 2)[:, :, None]
    place = tl.where(is_luma, columns - 1, columns)
    return tl.where(j >= columns, 0.0, x) + tl.where(j == place, beyond, 0.0)


@triton.jit
def store_gradients(
    at, stride, of_coefficients, planes: Components, component, row, column, inside, whole: tl.constexpr
):
    """Stores the gradients of samples from those of transposed coefficients."""
    x = orthonormal_inverse(of_coefficients)
    if not whole:
        height = tl.where(component == 0, planes.height, planes.chroma_height)
        width = tl.where(component == 0, planes.width, planes.chroma_width)
        is_luma = ((component == 0) & (row >= 0))[:, None, None]  # (n, 1, 1), of one component or of several
        x = _folded(x, tl.minimum(height - 8 * row, 8), tl.minimum(width - 8 * column, 8), is_luma)
    store_rows(at, stride, x, inside[:, None])


@triton.jit
def _interpolated(slopes, remainder):
    """Reads a surrogate's derivative at c − round(c): linear between the two nearest entries."""
    position = (remainder + 0.5) * 8192.0
    below = tl.minimum(tl.maximum(position.to(tl.int32), 0), 8191)
    first = tl.load(slopes + below).to(remainder.dtype)
    slope = first + (position - below) * (tl.load(slopes + below + 1).to(remainder.dtype) - first)
    tl.debug_barrier()  # no load of the next numbers may come before: a thread has no room for those of all
    return slope


@triton.jit
def slopes_of(slopes, remainder):
    """Reads a surrogate's derivative at the remainders (blocks, 8, 8), eight of a block at a time."""
    r0, r1, r2, r3, r4, r5, r6, r7 = unstack(remainder)
    s0, s1 = _interpolated(slopes, r0), _interpolated(slopes, r1)
    s2, s3 = _interpolated(slopes, r2), _interpolated(slopes, r3)
    s4, s5 = _interpolated(slopes, r4), _interpolated(slopes, r5)
    s6, s7 = _interpolated(slopes, r6), _interpolated(slopes, r7)
    return stack(s0, s1, s2, s3, s4, s5, s6, s7)


@triton.jit
def differentiate_blocks(
    planes: Components,
    gradients,
    steps,
    tables,
    slopes,
    shares,
    whole: tl.constexpr,
    of_tables: tl.constexpr,
    size: tl.constexpr,
):
    """Takes the gradients of a component's decoded samples through its coefficients, in place.

    Works on the blocks of `place_component`. `planes` holds the components' samples before the codec, `slopes` a
    surrogate's derivative, None that of straight-through. If `of_tables`, it leaves the gradients alone and stores
    `shares` of the tables' gradient: a thread has no room for both.
    """
    n, component, columns, row, column, inside, start = place_component(planes, size)
    real: tl.constexpr = gradients.dtype.element_ty
    coefficients = transform(
        load_rows(planes.address + n.to(tl.int64) * planes.bytes + start, 8 * columns).to(tl.int32)
    )
    q, reciprocal, _ = load_steps(steps, n % tables * 3 + component + tl.zeros((size,), tl.int32))
    k = quantize(coefficients, reciprocal, reciprocal * 0.5 + 0.5)  # computed again: a thread has no room for all
    remainder = (coefficients - 8 * q * k).to(real)  # subtracted as integers
    remainder = remainder / (8 * q).to(real) if real == tl.float64 else remainder * reciprocal
    slope = remainder * 0.0 + 1.0 if slopes is None else slopes_of(slopes, remainder)
    # The gradients come last: beside them a thread has no room for the steps.
    by_step = k.to(real) * (1.0 - slope) - remainder * slope
    at = gradients + n.to(tl.int64) * planes.flags + start
    g = orthonormal(load_rows(at, 8 * columns))
    if of_tables:
        store_share(shares, n, g * by_step, inside)
    else:
        store_gradients(at, 8 * columns, g * slope, planes, component, row, column, inside, whole)


# ---------------------------------------------------------------------------------------------------------------------
# Real numbers


@triton.jit
def _real_steps(steps, table, real: tl.constexpr):
    """Loads the steps of blocks, transposed."""
    return transpose(load_rows(steps + table.to(tl.int64) * 64, 8).to(real))


@triton.jit
def _of_a_row(c, name: tl.constexpr, parameter, rest, floor, floor_rest, soft: tl.constexpr):
    value, slope = surrogate(c, name, parameter, rest, floor, floor_rest, soft)
    tl.debug_barrier()  # as in `_interpolated`
    return value, slope


@triton.jit
def _surrogate_of_blocks(c, name: tl.constexpr, parameter, rest, floor, floor_rest, soft: tl.constexpr):
    """Returns `surrogate` of coefficients (blocks, 8, 8), eight of a block at a time."""
    c0, c1, c2, c3, c4, c5, c6, c7 = unstack(c)
    v0, s0 = _of_a_row(c0, name, parameter, rest, floor, floor_rest, soft)
    v1, s1 = _of_a_row(c1, name, parameter, rest, floor, floor_rest, soft)
    v2, s2 = _of_a_row(c2, name, parameter, rest, floor, floor_rest, soft)
    v3, s3 = _of_a_row(c3, name, parameter, rest, floor, floor_rest, soft)
    v4, s4 = _of_a_row(c4, name, parameter, rest, floor, floor_rest, soft)
    v5, s5 = _of_a_row(c5, name, parameter, rest, floor, floor_rest, soft)
    v6, s6 = _of_a_row(c6, name, parameter, rest, floor, floor_rest, soft)
    v7, s7 = _of_a_row(c7, name, parameter, rest, floor, floor_rest, soft)
    return stack(v0, v1, v2, v3, v4, v5, v6, v7), stack(s0, s1, s2, s3, s4, s5, s6, s7)


@triton.jit
def code_real_planes(
    planes: Components,
    steps,
    tables,
    parameter,
    rest,
    floor,
    floor_rest,
    count,
    name: tl.constexpr,
    soft: tl.constexpr,
    size: tl.constexpr,
):
    """Puts `size` of the `count` blocks of real components through the codec, in place."""
    index = tl.program_id(0) * size + tl.arange(0, size)
    inside = index < count
    index = tl.minimum(index, count - 1)
    n, component, _, _, columns, start = place_block(planes, index)
    at, stride = planes.address + n.to(tl.int64) * planes.bytes + start, 8 * columns[:, None]
    coefficients = orthonormal(load_rows(at, stride))
    q = _real_steps(steps, n % tables * 3 + component, coefficients.dtype)
    levels, _ = _surrogate_of_blocks(coefficients / q, name, parameter, rest, floor, floor_rest, soft)
    store_rows(at, stride, orthonormal_inverse(levels * q), inside[:, None])


@triton.jit
def differentiate_real_blocks(
    planes: Components,
    gradients,
    steps,
    tables,
    parameter,
    rest,
    floor,
    floor_rest,
    shares,
    whole: tl.constexpr,
    of_tables: tl.constexpr,
    name: tl.constexpr,
    soft: tl.constexpr,
    size: tl.constexpr,
):
    """Does in real numbers what `differentiate_blocks` does; `planes` holds real components before the codec."""
    n, component, columns, row, column, inside, start = place_component(planes, size)
    samples = planes.address + n.to(tl.int64) * planes.bytes + start
    real: tl.constexpr = gradients.dtype.element_ty
    table = n % tables * 3 + component + tl.zeros((size,), tl.int32)
    c = orthonormal(load_rows(samples, 8 * columns)) / _real_steps(steps, table, real)
    value, slope = _surrogate_of_blocks(c, name, parameter, rest, floor, floor_rest, soft)
    by_step = value - c * slope
    at = gradients + n.to(tl.int64) * planes.flags + start
    g = orthonormal(load_rows(at, 8 * columns))
    if of_tables:
        store_share(shares, n, g * by_step, inside)
    else:
        store_gradients(at, 8 * columns, g * slope, planes, component, row, column, inside, whole)


@triton.jit
def _store_real_rows(at, stride, rows, inside):
    """Stores rows as `store_rows` does, in the dtype there, half to even."""
    at = at[:, None] + tl.arange(0, 8)[None, :]
    x0, x1, x2, x3, x4, x5, x6, x7 = unstack(transpose(rows))
    store_real(at, x0, inside)
    store_real(at + stride, x1, inside)
    store_real(at + 2 * stride, x2, inside)
    store_real(at + 3 * stride, x3, inside)
    store_real(at + 4 * stride, x4, inside)
    store_real(at + 5 * stride, x5, inside)
    store_real(at + 6 * stride, x6, inside)
    store_real(at + 7 * stride, x7, inside)


@triton.jit
def transform_blocks(
    samples,
    blocks,
    columns,
    count,
    real: tl.constexpr,
    inverse: tl.constexpr,
    size: tl.constexpr,
):
    """Applies the orthonormal DCT to `size` of the `count` blocks of planes, or its `inverse` in the other direction.

    `samples` is (planes, 8 rows, 8 columns), `blocks` (planes, rows, columns, 8, 8).
    """
    index = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    inside = (index < count)[:, None]
    index = tl.minimum(index, count - 1)
    column = index % columns
    at_samples = samples + (index - column) * 64 + column * 8
    at_blocks = blocks + index * 64
    if inverse:
        coefficients = transpose(load_rows(at_blocks, 8).to(real))
        _store_real_rows(at_samples, 8 * columns, orthonormal_inverse(coefficients), inside)
    else:
        coefficients = orthonormal(load_rows(at_samples, 8 * columns).to(real))
        _store_real_rows(at_blocks, 8, transpose(coefficients), inside)
