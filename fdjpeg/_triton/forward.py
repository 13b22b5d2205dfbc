"""Forward in Triton: colour and subsampling to 8-bit components, these through the codec, components to the image.

Each thread works alone on a block or on runs of eight samples; the next load or store decides on which. So the blocks
need no shared memory, and only 8-bit samples pass between the launches.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# (Triton types the functions that it compiles.)

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import (
    nearest,
    quantize,
    restore,
    stack,
    store_real,
    store_sample,
    to_byte,
    to_cb,
    to_cr,
    to_luma,
    to_real,
    to_real_rgb,
    to_real_ycbcr,
    to_rgb,
    transform,
    transpose,
    unstack,
)
from .upsampling import Components, Samples, place, upsample


@triton.jit
def prepare_steps(
    base, tables, scale, steps, count, has_tables: tl.constexpr, size: tl.constexpr, by_block: tl.constexpr = False
):
    """Stores the tables as `code_planes` takes them: q, the bits of ``1 / (8 q)``, those of a half; transposed.

    `by_block` makes the sets of all qualities from 1 on, instead of the one at the percentage `scale`.

    The half is widened by half of a unit of ``1 / (8 q)``, which no rounding of the product can reach.
    """
    index = tl.program_id(0) * size + tl.arange(0, size)
    inside = index < count
    table, place = index // 64, index % 64
    row_major = place % 8 * 8 + place // 8
    if has_tables:
        q = tl.load(tables + table * 64 + row_major, mask=inside, other=1.0)
        q = tl.minimum(tl.maximum(q, 1.0), 255.0)  # NaN as 1
        q = ((q + 12582912.0) - 12582912.0).to(tl.int32)
    else:
        if by_block:
            quality = table // 3 + 1
            scale = tl.where(quality < 50, 5000 // quality, 200 - 2 * quality)
        entry = tl.load(base + (table % 3 > 0).to(tl.int32) * 64 + row_major, mask=inside, other=1)
        q = tl.minimum(tl.maximum((entry * scale + 50) // 100, 1), 255)
    reciprocal = tl.div_rn(1.0, (8 * q).to(tl.float32))
    half = reciprocal * 0.5 + 0.5
    target = steps + table.to(tl.int64) * 192 + place
    tl.store(target, q, mask=inside)
    tl.store(target + 64, reciprocal.to(tl.int32, bitcast=True), mask=inside)
    tl.store(target + 128, half.to(tl.int32, bitcast=True), mask=inside)


@triton.jit
def load_rows(at, stride):
    """Loads eight rows of eight numbers that begin at `at` (n,) and are `stride` apart: (n, 8, 8)."""
    at = at[:, None] + tl.arange(0, 8)[None, :]
    rows = stack(
        tl.load(at),
        tl.load(at + stride),
        tl.load(at + 2 * stride),
        tl.load(at + 3 * stride),
        tl.load(at + 4 * stride),
        tl.load(at + 5 * stride),
        tl.load(at + 6 * stride),
        tl.load(at + 7 * stride),
    )
    return transpose(rows)


@triton.jit
def store_rows(at, stride, rows, inside):
    """Stores rows as `load_rows` loads them, for the blocks that are `inside` (n, 1)."""
    at = at[:, None] + tl.arange(0, 8)[None, :]
    x0, x1, x2, x3, x4, x5, x6, x7 = unstack(transpose(rows))
    tl.store(at, x0, mask=inside)
    tl.store(at + stride, x1, mask=inside)
    tl.store(at + 2 * stride, x2, mask=inside)
    tl.store(at + 3 * stride, x3, mask=inside)
    tl.store(at + 4 * stride, x4, mask=inside)
    tl.store(at + 5 * stride, x5, mask=inside)
    tl.store(at + 6 * stride, x6, mask=inside)
    tl.store(at + 7 * stride, x7, mask=inside)


@triton.jit
def load_steps(steps, table):
    """Loads the steps, reciprocals and halves of each block's table: each (blocks, 8, 8), transposed."""
    at = steps + table.to(tl.int64) * 192
    q = load_rows(at, 8)
    reciprocal = load_rows(at + 64, 8).to(tl.float32, bitcast=True)
    half = load_rows(at + 128, 8).to(tl.float32, bitcast=True)
    return q, reciprocal, half


@triton.jit
def place_block(planes: Components, index):
    """Returns the images, components, rows and columns of blocks, and where in an image's planes they start."""
    luma_blocks = planes.luma_rows * planes.luma_columns
    of_image = planes.flags // 64
    n, block = index // of_image, index % of_image
    is_luma = block < luma_blocks
    in_chroma = block - luma_blocks
    chroma_blocks = tl.maximum((of_image - luma_blocks) // 2, 1)
    component = tl.where(is_luma, 0, 1 + in_chroma // chroma_blocks)
    in_plane = tl.where(is_luma, block, in_chroma % chroma_blocks)
    columns = tl.where(is_luma, planes.luma_columns, planes.chroma_columns)
    column = in_plane % columns
    # Before a block are the whole planes before its own, the rows of blocks above, and 8 samples a block to its left.
    start = (block - column).to(tl.int64) * 64 + column * 8
    return n, component, in_plane // columns, column, columns, start


@triton.jit
def table_of_quality(planes: Components, qualities, n, component, row, column, horizontal, vertical):
    """Returns the table of `prepare_steps` for blocks at the qualities (images, rows, columns) of luma's blocks."""
    is_luma = component == 0
    row, column = tl.where(is_luma, row, row * vertical), tl.where(is_luma, column, column * horizontal)
    block = n.to(tl.int64) * (planes.luma_rows * planes.luma_columns) + row * planes.luma_columns + column
    quality = tl.minimum(tl.maximum(tl.load(qualities + block).to(tl.int32), 1), 100)
    return (quality - 1) * 3 + component


@triton.jit
def code_planes(
    planes: Components,
    steps,
    tables,
    count,
    size: tl.constexpr,
    qualities=None,
    horizontal: tl.constexpr = 1,
    vertical: tl.constexpr = 1,
):
    """Puts `size` of the `count` blocks of all images through the codec, in place.

    `tables` is the number of sets of steps: one, or one for each image. With `qualities` there is one for each quality.
    """
    index = tl.program_id(0) * size + tl.arange(0, size)
    inside = index < count
    index = tl.minimum(index, count - 1)
    n, component, row, column, columns, start = place_block(planes, index)
    at, stride = planes.address + n.to(tl.int64) * planes.bytes + start, 8 * columns[:, None]
    if qualities is None:
        table = n % tables * 3 + component
    else:
        table = table_of_quality(planes, qualities, n, component, row, column, horizontal, vertical)
    q, reciprocal, half = load_steps(steps, table)
    levels = quantize(transform(load_rows(at, stride).to(tl.int32)), reciprocal, half)
    store_rows(at, stride, restore(levels * q).to(tl.uint8), inside[:, None])


@triton.jit
def _subsampled(sums, horizontal: tl.constexpr, vertical: tl.constexpr):
    """Averages sums (n, 8 · horizontal) of `vertical` samples each: integers as libjpeg does, to bytes (n, 8)."""
    if horizontal > 1:
        sums = tl.sum(tl.reshape(sums, (sums.shape[0], 8, horizontal)), 2)
    if sums.dtype != tl.int32:  # no early return: Triton types what comes after it
        average = sums * (1.0 / (horizontal * vertical))
    elif horizontal == 2:
        average = ((sums + tl.arange(0, 8)[None, :] % 2 + (vertical - 1)) >> vertical).to(tl.uint8)
    elif horizontal == 4:
        average = ((sums + 2) >> 2).to(tl.uint8)
    else:
        average = ((sums + vertical // 2) >> (vertical - 1)).to(tl.uint8)
    return average


@triton.jit
def _is_unusual(x):
    """Returns whether samples are NaN or above 1, which bytes never are."""
    most: tl.constexpr = 255 if x.dtype == tl.uint8 else 1
    if x.dtype != tl.float64:
        x = x.to(tl.float32)
    return ~(x <= most)


@triton.jit
def make_components(
    image: Samples,
    planes: Components,
    count,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    grey: tl.constexpr,
    whole: tl.constexpr,
    size: tl.constexpr,
):
    """Converts and subsamples `size` of the `count` MCUs of all images; stores their flags and the zeros after them.

    Components that are no bytes are real, about 0, and have no flags.

    A row of the tensors makes eight samples of each chroma component and the luma that these cover. If `whole`, the
    image consists of whole MCUs; else its edges are replicated.
    """
    wide: tl.constexpr = 8 * horizontal
    kept: tl.constexpr = planes.address.dtype.element_ty
    exact: tl.constexpr = kept == tl.uint8
    number: tl.constexpr = tl.int32 if exact else kept
    index = tl.arange(0, 8 * size)
    mcu = tl.minimum(tl.program_id(0) * size + index // 8, count - 1)  # Surplus ones repeat the last.
    mcus = planes.chroma_rows * planes.chroma_columns
    n, mcu = mcu // mcus, mcu % mcus
    row, column = mcu // planes.chroma_columns * 8 + index % 8, mcu % planes.chroma_columns * 8
    x = (column * horizontal)[:, None] + tl.arange(0, wide)[None, :]
    at_x = x if whole else tl.minimum(x, planes.width - 1)
    at_image = (image.address + n.to(tl.int64) * image.n)[:, None] + at_x.to(tl.int64) * image.x
    own = planes.address + n.to(tl.int64) * planes.bytes
    unusual = tl.zeros((8 * size, wide), tl.int1)
    sums_of_cb = tl.zeros((8 * size, wide), number)
    sums_of_cr = tl.zeros((8 * size, wide), number)
    for v in tl.static_range(vertical - 1, -1, -1):  # from below, for luma beyond the last row
        y = row * vertical + v
        # Rows beyond the component's last repeat it; where that lacks a row of pixels, the image's last row is used.
        at_y = tl.minimum(tl.minimum(row, planes.chroma_height - 1) * vertical + v, planes.height - 1)
        at = at_image + (at_y.to(tl.int64) * image.y)[:, None]
        r = tl.load(at)
        if grey:
            if exact:
                unusual |= _is_unusual(r)
                luma = to_byte(r)
            else:
                luma = to_real(r, kept) - 128
        else:
            g, b = tl.load(at + image.c), tl.load(at + 2 * image.c)
            if exact:
                unusual |= _is_unusual(r) | _is_unusual(g) | _is_unusual(b)
                r, g, b = to_byte(r), to_byte(g), to_byte(b)
                cb, cr = to_cb(r, g, b), to_cr(r, g, b)
            else:
                own_luma, cb, cr = to_real_ycbcr(to_real(r, kept), to_real(g, kept), to_real(b, kept))
            sums_of_cb += cb
            sums_of_cr += cr
            if exact:  # after the sums: in this order the compiler needs fewer instructions
                own_luma = to_luma(r, g, b)
            if whole or v == vertical - 1:
                luma = own_luma
            else:  # Beyond the component's last row luma repeats the last of the two rows that chroma averages.
                luma = tl.where((row < planes.chroma_height)[:, None], own_luma, luma)
        at_luma = own[:, None] + (y.to(tl.int64) * (8 * planes.luma_columns))[:, None] + x
        if whole:
            tl.store(at_luma, luma.to(kept))
        else:
            inside = (y < 8 * planes.luma_rows)[:, None] & (x < 8 * planes.luma_columns)
            tl.store(at_luma, luma.to(kept), mask=inside)
    if not grey:
        start = row.to(tl.int64) * (8 * planes.chroma_columns) + column
        at_chroma = own[:, None] + start[:, None] + tl.arange(0, 8)[None, :]
        tl.store(at_chroma + planes.cb, _subsampled(sums_of_cb, horizontal, vertical))
        tl.store(at_chroma + planes.cr, _subsampled(sums_of_cr, horizontal, vertical))
    if exact:
        flags = tl.max(tl.reshape(tl.max(unusual.to(tl.int32), 1), (size, 8)), 1)
        mcu = tl.minimum(tl.program_id(0) * size + tl.arange(0, size), count - 1)
        own = planes.address + (mcu // mcus).to(tl.int64) * planes.bytes
        tl.store(own + planes.flags + mcu % mcus, flags.to(tl.uint8))
        # Up to 15 zeros come after an image's last flag.
        beyond = (planes.flags + mcus + tl.arange(0, 16))[None, :]
        zeros = tl.zeros((size, 16), tl.uint8)
        tl.store(own[:, None] + beyond, zeros, mask=(mcu % mcus == mcus - 1)[:, None] & (beyond < planes.bytes))


@triton.jit
def emit_image(
    planes: Components,
    image: Samples,
    count,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    across: tl.constexpr,
    down: tl.constexpr,
    grey: tl.constexpr,
    whole: tl.constexpr,
    size: tl.constexpr,
    passed=None,
):
    """Upsamples and converts to colour: the pixels of `size` of the `count` runs of eight chroma samples.

    Of real components, it also stores the bits of the colours that `passed` the last clamp: (images, height, width).
    """
    exact: tl.constexpr = planes.address.dtype.element_ty == tl.uint8
    n, row, column = place(planes, tl.program_id(0) * size, count, size)
    own = planes.address + n.to(tl.int64) * planes.bytes
    x = (column * horizontal)[:, None] + tl.arange(0, 8 * horizontal)[None, :]
    at_image = (image.address + n.to(tl.int64) * image.n)[:, None] + x.to(tl.int64) * image.x
    for v in tl.static_range(vertical):
        y = row * vertical + v
        inside = tl.full((1, 1), True, tl.int1) if whole else (y < planes.height)[:, None] & (x < planes.width)
        luma = tl.load(own[:, None] + (y.to(tl.int64) * (8 * planes.luma_columns))[:, None] + x, mask=inside)
        if exact:
            luma = luma.to(tl.int32)
        at = at_image + (y.to(tl.int64) * image.y)[:, None]
        if not grey:
            cb, _, _ = upsample(own + planes.cb, planes, y, column, horizontal, vertical, across, down)
            cr, _, _ = upsample(own + planes.cr, planes, y, column, horizontal, vertical, across, down)
        if exact:
            if grey:
                store_sample(at, luma, inside)
            else:
                r, g, b = to_rgb(luma, cb, cr)
                store_sample(at, r, inside)
                store_sample(at + image.c, g, inside)
                store_sample(at + 2 * image.c, b, inside)
        else:
            if grey:
                bits = _store_real_sample(at, luma + 128.0, inside)
            else:
                r, g, b = to_real_rgb(luma, cb, cr)
                bits = _store_real_sample(at, r, inside)
                bits += 2 * _store_real_sample(at + image.c, g, inside)
                bits += 4 * _store_real_sample(at + 2 * image.c, b, inside)
            at_bits = (n.to(tl.int64) * planes.height + y)[:, None] * planes.width + x
            tl.store(passed + at_bits, bits.to(tl.uint8), mask=inside)


@triton.jit
def _store_real_sample(address, value, inside):
    """Stores a sample of 0…255, limited to these, as the image's dtype holds it; returns whether it was inside."""
    passed = ((value >= 0) & (value <= 255)).to(tl.int32)
    value = tl.where(value < 0, 0.0, tl.where(value > 255, 255.0, value))  # NaN stays
    if address.dtype.element_ty == tl.uint8:
        tl.store(address, nearest(value).to(tl.uint8), mask=inside)
    else:
        store_real(address, value / 255.0, inside)
    return passed
