"""The Triton kernels' arguments for images and components; chroma at full resolution, eight samples a thread."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# (Triton types the functions that it compiles.)

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .arithmetic import stack, unstack


class Samples(NamedTuple):
    """A tensor ``(images, channels, height, width)``, and its strides."""

    address: Any
    n: int
    c: int
    y: int
    x: int


class Components(NamedTuple):
    """The 8-bit components of all images: see `fdjpeg._geometry.Geometry.plane_bytes`."""

    address: Any  # uint8
    bytes: int  # from one image to the next
    cb: int  # where in an image's bytes Cb begins
    cr: int  # where Cr begins
    flags: int  # where the flags of its MCUs begin
    height: int  # of luma, in samples
    width: int
    luma_rows: int  # in blocks
    luma_columns: int
    chroma_height: int  # in samples; of grey images as luma's
    chroma_width: int
    chroma_rows: int  # in blocks, and so the MCUs' rows; of grey images as luma's
    chroma_columns: int


@triton.jit
def place(planes: Components, first, count, size: tl.constexpr):
    """Returns the images, rows and first columns (size,) of the runs of eight chroma samples from `first` on.

    Surplus runs, at `count` and beyond, repeat the last: their threads store the same numbers.
    """
    index = tl.minimum(first + tl.arange(0, size), count - 1)
    row = index // planes.chroma_columns
    return row // planes.chroma_height, row % planes.chroma_height, index % planes.chroma_columns * 8


@triton.jit
def beside(s, before, after):
    """Returns the left and right neighbours of runs of eight (n, 8), between `before` and `after` (n,)."""
    x0, x1, x2, x3, x4, x5, x6, x7 = unstack(s[:, None, :])
    left = stack(before[:, None], x0, x1, x2, x3, x4, x5, x6)
    right = stack(x1, x2, x3, x4, x5, x6, x7, after[:, None])
    return tl.reshape(left, s.shape), tl.reshape(right, s.shape)


@triton.jit
def _blended(near, far, down: tl.constexpr):
    """Loads samples of two rows of a component, blended if `down`, else those of the near row; bytes times four."""
    s = tl.load(near)
    if near.dtype.element_ty == tl.uint8:
        s = s.to(tl.int32)
        if down:
            s = 3 * s + tl.load(far)
    elif down:
        s = 0.75 * s + 0.25 * tl.load(far)
    return s


@triton.jit
def upsample(
    component,
    planes: Components,
    y,
    column,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    across: tl.constexpr,
    down: tl.constexpr,
):
    """Returns the pixels of eight samples from `column` on in rows `y` (n,) of a component: (n, 8 · horizontal).

    If bytes are blended `across`, it also returns the pixels before and after them, each (n,). At the edge these are
    the first and the last pixel.
    """
    exact: tl.constexpr = component.dtype.element_ty == tl.uint8
    row, late = y // vertical, y % vertical
    far_row = tl.minimum(tl.maximum(row + 2 * late - 1, 0), planes.chroma_height - 1)
    stride = 8 * planes.chroma_columns
    near, far = component + row.to(tl.int64) * stride, component + far_row.to(tl.int64) * stride
    columns = column[:, None] + tl.arange(0, 8)[None, :]
    s = _blended(near[:, None] + columns, far[:, None] + columns, down)
    if across:
        at_before, at_after = tl.maximum(column - 1, 0), tl.minimum(column + 8, planes.chroma_width - 1)
        before = _blended(near + at_before, far + at_before, down)
        after = _blended(near + at_after, far + at_after, down)
        left, right = beside(s, before, after)
        right = tl.where(columns == planes.chroma_width - 1, s, right)
        if exact:
            # The rounding of even pixels and of odd ones.
            bias_of_even: tl.constexpr = 8 if down else 1
            bias_of_odd: tl.constexpr = 7 if down else 2
            shift: tl.constexpr = 4 if down else 2
            even, odd = (3 * s + left + bias_of_even) >> shift, (3 * s + right + bias_of_odd) >> shift
            pixels = tl.join(even, odd)
            first, _, _, _, _, _, _, last = unstack(s[:, None, :])
            first, last = tl.reshape(first, before.shape), tl.reshape(last, after.shape)
            before = (3 * before + first + tl.where(column == 0, bias_of_even, bias_of_odd)) >> shift
            after = (3 * after + last + tl.where(at_after < column + 8, bias_of_odd, bias_of_even)) >> shift
        else:
            pixels = tl.join(0.75 * s + 0.25 * left, 0.75 * s + 0.25 * right)
            before, after = late, late  # unused
    else:
        if down and exact:
            s = (s + 1 + late[:, None]) >> 2
        pixels = tl.broadcast_to(s[:, :, None], (s.shape[0], 8, horizontal))
        before, after = late, late  # unused
    return tl.reshape(pixels, (s.shape[0], 8 * horizontal)), before, after
