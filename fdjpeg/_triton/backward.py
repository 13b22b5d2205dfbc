"""Backward in Triton: the adjoint of colour and resampling, behind the last clamp's mask; and the tables' gradient."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# (Triton types the functions that it compiles.)

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import to_rgb
from .upsampling import Components, Samples, beside, place, upsample

# ---------------------------------------------------------------------------------------------------------------------
# The image's gradient


@triton.jit
def _passed(grad, value, inside, real: tl.constexpr):
    """Returns the gradient at `grad` where `value` passed the last clamp, else 0."""
    return tl.where((value & -256) == 0, tl.load(grad, mask=inside, other=0.0).to(real), 0.0)


@triton.jit
def _of_colours(
    grad: Samples,
    grad_row,
    luma_row,
    x,
    width,
    cb,
    cr,
    inside_y,
    real: tl.constexpr,
    whole: tl.constexpr,
    masked: tl.constexpr,
):
    """Returns the gradients of Y, Cb and Cr at pixels `x` of rows with the given addresses and samples.

    If `masked`, the rows hold for each pixel the bits of the colours that passed the last clamp.
    """
    inside = inside_y if whole else inside_y & (x < width)
    at = grad_row + x.to(tl.int64) * grad.x
    there = tl.load(luma_row + x, mask=inside, other=0).to(tl.int32)
    if masked:
        r, g, b = (there & 1) - 1, (there & 2) - 2, (there & 4) - 4  # negative if it did not pass
    else:
        r, g, b = to_rgb(there, cb, cr)
    r = _passed(at, r, inside, real)
    g = _passed(at + grad.c, g, inside, real)
    b = _passed(at + 2 * grad.c, b, inside, real)
    return r + g + b, 1.772 * b - 0.114 * 1.772 / 0.587 * g, 1.402 * r - 0.299 * 1.402 / 0.587 * g


@triton.jit
def _gathered(pixels, before, after, is_last, across: tl.constexpr):
    """Applies upsampling's adjoint along rows: pixels (n, 8 · horizontal) and neighbours (n,) to samples (n, 8)."""
    each = tl.reshape(pixels, (pixels.shape[0], 8, pixels.shape[1] // 8))
    if across:
        even, odd = tl.split(each)
        left, _ = beside(odd, before, after)
        _, right = beside(even, before, after)
        gathered = 0.75 * (even + odd) + 0.25 * (left + tl.where(is_last, odd, right))
    else:
        gathered = tl.sum(each, 2)
    return gathered


@triton.jit
def _of_components(
    grad: Samples,
    own_grad,
    planes: Components,
    own,
    row,
    column,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    across: tl.constexpr,
    down: tl.constexpr,
    whole: tl.constexpr,
    real: tl.constexpr,
    masked: tl.constexpr,
):
    """Returns the gradients of Cb and Cr at runs of eight samples (n, 8), and of Y at their outer rows of pixels.

    `own_grad` and `own` are the addresses of the runs' images and components. Where upsampling blends, a sample also
    contributes to the pixels around those that it covers.
    """
    n: tl.constexpr = row.shape[0]
    x = (column * horizontal)[:, None] + tl.arange(0, 8 * horizontal)[None, :]
    x_before = tl.maximum(column * horizontal - 1, 0)
    x_after = tl.minimum((column + 8) * horizontal, planes.chroma_width * horizontal - 1)
    dcb, dcr = tl.zeros((n, 8 * horizontal), real), tl.zeros((n, 8 * horizontal), real)
    dcb_before, dcr_before = tl.zeros((n,), real), tl.zeros((n,), real)
    dcb_after, dcr_after = tl.zeros((n,), real), tl.zeros((n,), real)
    for i in tl.static_range(-1 if down else 0, vertical + 1 if down else vertical):
        # At an edge the component's last sample replaces the missing neighbour, and so does its pixel.
        y = tl.minimum(tl.maximum(row * vertical + i, 0), planes.chroma_height * vertical - 1)
        if masked:
            cb, cb_before, cb_after = y, y, y  # unused
            cr, cr_before, cr_after = y, y, y
            luma_row = own + y.to(tl.int64) * planes.width
        else:
            cb, cb_before, cb_after = upsample(own + planes.cb, planes, y, column, horizontal, vertical, across, down)
            cr, cr_before, cr_after = upsample(own + planes.cr, planes, y, column, horizontal, vertical, across, down)
            luma_row = own + y.to(tl.int64) * (8 * planes.luma_columns)
        inside_y = tl.full((1,), True, tl.int1) if whole else y < planes.height
        grad_row = own_grad + y.to(tl.int64) * grad.y
        weight = (0.75 if i == 0 or i == 1 else 0.25) if down else 1.0
        dy, of_cb, of_cr = _of_colours(
            grad, grad_row[:, None], luma_row[:, None], x, planes.width, cb, cr, inside_y[:, None], real, whole, masked
        )
        dcb += weight * of_cb
        dcr += weight * of_cr
        if i == 0:
            dy_above = dy
        if i == vertical - 1:
            dy_below = dy
        if across:
            _, of_cb, of_cr = _of_colours(
                grad, grad_row, luma_row, x_before, planes.width, cb_before, cr_before, inside_y, real, whole, masked
            )
            dcb_before += weight * of_cb
            dcr_before += weight * of_cr
            _, of_cb, of_cr = _of_colours(
                grad, grad_row, luma_row, x_after, planes.width, cb_after, cr_after, inside_y, real, whole, masked
            )
            dcb_after += weight * of_cb
            dcr_after += weight * of_cr
    is_last = column[:, None] + tl.arange(0, 8)[None, :] == planes.chroma_width - 1
    dcb = _gathered(dcb, dcb_before, dcb_after, is_last, across)
    dcr = _gathered(dcr, dcr_before, dcr_after, is_last, across)
    return dcb, dcr, dy_above, dy_below


@triton.jit
def _spread(samples, horizontal: tl.constexpr):
    """Repeats each of the samples (n, 8) `horizontal` times."""
    repeated = tl.broadcast_to(samples[:, :, None], (samples.shape[0], 8, horizontal))
    return tl.reshape(repeated, (samples.shape[0], 8 * horizontal))


@triton.jit
def _store_gradient(out, image, value, inside, flagged):
    """Stores a sample's gradient, 0 where the sample is NaN; only samples of flagged MCUs can be NaN."""
    sample = tl.load(image, mask=inside & flagged, other=0.0).to(value.dtype)
    tl.store(out, tl.where(sample == sample, value, 0.0).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _store_pixels(
    image: Samples,
    out: Samples,
    planes: Components,
    n,
    y,
    x,
    dy,
    dcb,
    dcr,
    inside,
    flagged,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    grey: tl.constexpr,
    whole: tl.constexpr,
):
    """Stores the image's gradient at pixels `x` of rows `y` from those of its components: subsampling's adjoint."""
    wide_x, wide_y = x.to(tl.int64), y.to(tl.int64)[:, None]
    at_image = (image.address + n * image.n)[:, None] + wide_y * image.y + wide_x * image.x
    at_out = (out.address + n * out.n)[:, None] + wide_y * out.y + wide_x * out.x
    if grey:
        _store_gradient(at_out, at_image, dy, inside, flagged)
    else:
        cb, cr = dcb, dcr
        if not whole:
            # The last row and column also count for their replicas, which subsampling averaged.
            copies_down = 1 + planes.chroma_height * vertical - planes.height
            copies_across = 1 + planes.chroma_width * horizontal - planes.width
            copies = tl.where(y == planes.height - 1, copies_down, 1)[:, None]
            copies = (copies * tl.where(x == planes.width - 1, copies_across, 1)).to(dy.dtype)
            cb, cr = copies * cb, copies * cr
        r = 0.299 * dy - 0.299 / 1.772 * cb + 0.5 * cr
        g = 0.587 * dy - 0.587 / 1.772 * cb - 0.587 / 1.402 * cr
        b = 0.114 * dy + 0.5 * cb - 0.114 / 1.402 * cr
        _store_gradient(at_out, at_image, r, inside, flagged)
        _store_gradient(at_out + out.c, at_image + image.c, g, inside, flagged)
        _store_gradient(at_out + 2 * out.c, at_image + 2 * image.c, b, inside, flagged)


@triton.jit
def differentiate(
    grad: Samples,
    planes: Components,
    image: Samples,
    out: Samples,
    gradients,
    count,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    across: tl.constexpr,
    down: tl.constexpr,
    grey: tl.constexpr,
    whole: tl.constexpr,
    keep: tl.constexpr,
    real: tl.constexpr,
    size: tl.constexpr,
    emit: tl.constexpr = True,
    masked: tl.constexpr = False,
):
    """Stores the image's gradient at the pixels of `size` of the `count` runs of eight chroma samples.

    If `keep`, it also stores the components' `gradients`, laid out like their samples; `real` is their dtype. Without
    `emit` it stores these alone. If `masked`, `planes` holds the bits of the colours that passed the last clamp:
    (images, height, width).
    """
    n, row, column = place(planes, tl.program_id(0) * size, count, size)
    n = n.to(tl.int64)
    if masked:
        own = planes.address + n * planes.bytes
        flagged = tl.full((1, 1), False, tl.int1)
    else:
        own = planes.address + n * planes.bytes
        flagged = tl.load(own + planes.flags + (row // 8 * planes.chroma_columns + column // 8)) != 0
        flagged = flagged[:, None]
    own_grad, own_gradients = grad.address + n * grad.n, gradients + n * planes.flags
    x = (column * horizontal)[:, None] + tl.arange(0, 8 * horizontal)[None, :]
    if grey:
        dcb, dcr = x, x  # unused
    else:
        dcb, dcr, dy_above, dy_below = _of_components(
            grad, own_grad, planes, own, row, column, horizontal, vertical, across, down, whole, real, masked
        )
        if keep:
            columns = column[:, None] + tl.arange(0, 8)[None, :]
            at = (own_gradients + row.to(tl.int64) * (8 * planes.chroma_columns))[:, None] + columns
            tl.store(at + planes.cb, dcb, mask=columns < planes.chroma_width)
            tl.store(at + planes.cr, dcr, mask=columns < planes.chroma_width)
        # The adjoint of subsampling shares a sample's gradient among the pixels that it averaged.
        share: tl.constexpr = 1.0 / (horizontal * vertical)
        dcb, dcr = _spread(share * dcb, horizontal), _spread(share * dcr, horizontal)
    for v in tl.static_range(vertical):
        y = row * vertical + v
        wide_y = y.to(tl.int64)[:, None]
        inside = tl.full((1, 1), True, tl.int1) if whole else (y < planes.height)[:, None] & (x < planes.width)
        if grey:
            at = own_grad[:, None] + wide_y * grad.y + x.to(tl.int64) * grad.x
            dy = tl.load(at, mask=inside, other=0.0).to(real)
            # Of the exact codec only the inverse transform limits grey samples, and straight-through passes that.
            if masked:
                bits = tl.load(own[:, None] + wide_y * planes.width + x, mask=inside, other=0)
                dy = tl.where(bits != 0, dy, 0.0)
        else:
            dy = dy_above if v == 0 else dy_below
        if emit:
            _store_pixels(image, out, planes, n, y, x, dy, dcb, dcr, inside, flagged, horizontal, vertical, grey, whole)
        if keep:
            tl.store(own_gradients[:, None] + wide_y * (8 * planes.luma_columns) + x, dy, mask=inside)


@triton.jit
def emit_gradient(
    planes: Components,
    image: Samples,
    out: Samples,
    flags,
    flag_bytes,
    count,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    grey: tl.constexpr,
    whole: tl.constexpr,
    size: tl.constexpr,
):
    """Stores the image's gradient at the pixels of `size` of the `count` runs of chroma samples, from its components'.

    `planes` holds the gradients of the components' samples. `flags` is where the flags of image 0 are, `flag_bytes`
    from one image to the next; without flags, no sample is NaN.
    """
    n, row, column = place(planes, tl.program_id(0) * size, count, size)
    n = n.to(tl.int64)
    own = planes.address + n * planes.bytes
    if flags is None:
        flagged = tl.full((1, 1), False, tl.int1)
    else:
        mcu = row // 8 * planes.chroma_columns + column // 8
        flagged = (tl.load(flags + n * flag_bytes + mcu) != 0)[:, None]
    x = (column * horizontal)[:, None] + tl.arange(0, 8 * horizontal)[None, :]
    if grey:
        dcb, dcr = x, x  # unused
    else:
        columns = column[:, None] + tl.arange(0, 8)[None, :]
        at = (own + row.to(tl.int64) * (8 * planes.chroma_columns))[:, None] + columns
        share: tl.constexpr = 1.0 / (horizontal * vertical)
        cb, cr = share * tl.load(at + planes.cb), share * tl.load(at + planes.cr)
        dcb, dcr = _spread(cb, horizontal), _spread(cr, horizontal)
        if not whole:
            # Chroma right of its last column averages replicas of the last pixel: `horizontal` for each of that pixel's
            # copies, by which `_store_pixels` multiplies.
            each = horizontal / (1 + planes.chroma_width * horizontal - planes.width)
            last, beyond = x == planes.width - 1, columns == planes.chroma_width
            dcb += tl.where(last, each * tl.sum(tl.where(beyond, cb, 0.0), 1)[:, None], 0.0)
            dcr += tl.where(last, each * tl.sum(tl.where(beyond, cr, 0.0), 1)[:, None], 0.0)
    for v in tl.static_range(vertical):
        y = row * vertical + v
        inside = tl.full((1, 1), True, tl.int1) if whole else (y < planes.height)[:, None] & (x < planes.width)
        at = own[:, None] + y.to(tl.int64)[:, None] * (8 * planes.luma_columns) + x
        dy = tl.load(at, mask=inside, other=0.0)
        _store_pixels(image, out, planes, n, y, x, dy, dcb, dcr, inside, flagged, horizontal, vertical, grey, whole)


# ---------------------------------------------------------------------------------------------------------------------
# The gradient of the tables: for each step q the sum over blocks of g (k - c / (8 q)), g the transform of the gradient


@triton.jit
def place_component(planes: Components, size: tl.constexpr):
    """Returns what program (i, n) works on: `size` blocks of one component of image n, of Y first, of Cb, then of Cr.

    That is the image, the component, its columns of blocks, the blocks' rows and columns, whether they are blocks and
    no surplus, and where in an image's planes they start.
    """
    program, n = tl.program_id(0), tl.program_id(1)
    luma_blocks, chroma_blocks = planes.luma_rows * planes.luma_columns, planes.chroma_rows * planes.chroma_columns
    of_luma, of_chroma = tl.cdiv(luma_blocks, size), tl.cdiv(chroma_blocks, size)
    component = tl.where(program < of_luma, 0, 1 + (program - of_luma) // of_chroma)
    blocks = tl.where(component == 0, luma_blocks, chroma_blocks)
    columns = tl.where(component == 0, planes.luma_columns, planes.chroma_columns)
    index = tl.where(component == 0, program, (program - of_luma) % of_chroma) * size + tl.arange(0, size)
    block = tl.minimum(index, blocks - 1)
    column = block % columns
    # As in `place_block`.
    start = tl.where(component == 0, 0, tl.where(component == 1, planes.cb, planes.cr))
    start += (block - column).to(tl.int64) * 64 + column * 8
    return n, component, columns, block // columns, column, index < blocks, start


@triton.jit
def store_share(shares, n, each, inside):
    """Stores a program's sum over its blocks of a table's derivative, transposed: (images, programs, 64)."""
    each = tl.where(inside[:, None, None], each, 0.0)
    frequency = tl.arange(0, 8)[:, None] * 8 + tl.arange(0, 8)[None, :]
    target = shares + (n.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * 64
    tl.store(target + frequency, tl.sum(each, 0) / 255.0)  # the output is a byte / 255


@triton.jit
def add_shares(shares, of_tables, of_luma, of_chroma):
    """Stores in program (i, n) the gradient of component i's table for image n: the sum of shares, in one order.

    `of_luma` and `of_chroma` are the programs that worked on each component. `of_tables` is (images, 3, 8, 8).
    """
    component, n = tl.program_id(0), tl.program_id(1)
    first = tl.where(component == 0, 0, of_luma + (component - 1) * of_chroma)
    count = tl.where(component == 0, of_luma, of_chroma)
    rows, place = tl.arange(0, 32), tl.arange(0, 64)
    at = shares + (n.to(tl.int64) * (of_luma + 2 * of_chroma) + first) * 64 + place[None, :]
    total = tl.zeros((32, 64), shares.dtype.element_ty)
    for start in range(0, count, 32):
        row = (start + rows)[:, None]
        total += tl.load(at + row.to(tl.int64) * 64, mask=row < count, other=0.0)
    target = of_tables + (n.to(tl.int64) * 3 + component) * 64 + place % 8 * 8 + place // 8
    tl.store(target, tl.sum(total, 0).to(of_tables.dtype.element_ty))
