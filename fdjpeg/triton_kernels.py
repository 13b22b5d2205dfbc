"""The round trip and its straight-through backward in Triton: for GPUs where the library holds no CUDA kernels.

The same bits as every other backend. The forward op is three launches: luma and chroma to decoded 8-bit planes, then
planes to the image. Backward is three launches over what the planes tell of the last clamp, and two more for the
gradient of the tables. Ops that this module does not hold are left to `fdjpeg.reference`, in plain torch on the GPU.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# (What Triton compiles is typed by Triton.)

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fdjpeg._geometry import Geometry
from fdjpeg._standard_tables import STANDARD_CHROMA, STANDARD_LUMA

#: Rows of eight samples that a program codes: four blocks for each of its four warps.
_ROWS = 128
#: Pixels of a program that works on single pixels.
_PIXELS = 1024

# ---------------------------------------------------------------------------------------------------------------------
# Arithmetic: what csrc/jpeg_math.h says, on tensors


@triton.jit
def _byte(x):
    """rint(255 x) in 0…255, NaN as 0; bytes stay as they are."""
    if x.dtype == tl.uint8:
        return x.to(tl.int32)
    if x.dtype == tl.float64:
        scaled = x * 255.0
        scaled = tl.where(scaled > 0.0, scaled, 0.0)  # NaN too
        scaled = tl.where(scaled < 255.0, scaled, 255.0)
        return ((scaled + 6755399441055744.0) - 6755399441055744.0).to(tl.int32)  # 1.5 · 2^52 leaves no fraction bits
    scaled = x.to(tl.float32) * 255.0
    scaled = tl.where(scaled > 0.0, scaled, 0.0)
    scaled = tl.where(scaled < 255.0, scaled, 255.0)
    return ((scaled + 12582912.0) - 12582912.0).to(tl.int32)


@triton.jit
def _luma(r, g, b):
    return (19595 * r + 38470 * g + 7471 * b + 32768) >> 16


@triton.jit
def _cb(r, g, b):
    return (32768 * b - 11059 * r - 21709 * g + 8421375) >> 16


@triton.jit
def _cr(r, g, b):
    return (32768 * r - 27439 * g - 5329 * b + 8421375) >> 16


@triton.jit
def _stack(x0, x1, x2, x3, x4, x5, x6, x7, rows: tl.constexpr):
    """Eight tensors (rows,) as the columns of one (rows, 8)."""
    even = tl.join(tl.join(x0, x4), tl.join(x2, x6))
    odd = tl.join(tl.join(x1, x5), tl.join(x3, x7))
    return tl.reshape(tl.join(even, odd), (rows, 8))


@triton.jit
def _columns(x, rows: tl.constexpr):
    """The columns of (rows, 8) as eight tensors."""
    even, odd = tl.split(tl.reshape(x, (rows, 2, 2, 2)))
    x04, x26 = tl.split(even)
    x15, x37 = tl.split(odd)
    x0, x4 = tl.split(x04)
    x2, x6 = tl.split(x26)
    x1, x5 = tl.split(x15)
    x3, x7 = tl.split(x37)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _transposed(x, rows: tl.constexpr):
    """Each eight rows of (rows, 8) transposed."""
    return tl.reshape(tl.permute(tl.reshape(x, (rows // 8, 8, 8)), (0, 2, 1)), (rows, 8))


@triton.jit
def _odd(a, b, c, d):
    """The odd half of both transforms: the Loeffler, Ligtenberg and Moschytz rotations with 13 fraction bits."""
    z5 = (a + c + b + d) * 9633
    z1 = (a + d) * -7373
    z2 = (b + c) * -20995
    z3 = (a + c) * -16069 + z5
    z4 = (b + d) * -3196 + z5
    return a * 2446 + z1 + z3, b * 16819 + z2 + z4, c * 25172 + z2 + z3, d * 12299 + z1 + z4


@triton.jit
def _fdct_pass(x, rows: tl.constexpr, first: tl.constexpr):
    x0, x1, x2, x3, x4, x5, x6, x7 = _columns(x, rows)
    shift: tl.constexpr = 11 if first else 15
    half: tl.constexpr = 1 << (shift - 1)
    s0, s1, s2, s3 = x0 + x7, x1 + x6, x2 + x5, x3 + x4
    sum, inner = s0 + s3, s1 + s2
    difference, inner_difference = s0 - s3, s1 - s2
    if first:
        y0, y4 = (sum + inner) << 2, (sum - inner) << 2
    else:
        y0, y4 = (sum + inner + 2) >> 2, (sum - inner + 2) >> 2
    z = (difference + inner_difference) * 4433
    y2 = (z + difference * 6270 + half) >> shift
    y6 = (z - inner_difference * 15137 + half) >> shift
    o7, o5, o3, o1 = _odd(x3 - x4, x2 - x5, x1 - x6, x0 - x7)
    y7, y5, y3, y1 = (o7 + half) >> shift, (o5 + half) >> shift, (o3 + half) >> shift, (o1 + half) >> shift
    return _stack(y0, y1, y2, y3, y4, y5, y6, y7, rows)


@triton.jit
def _idct_pass(x, rows: tl.constexpr, first: tl.constexpr):
    x0, x1, x2, x3, x4, x5, x6, x7 = _columns(x, rows)
    shift: tl.constexpr = 11 if first else 18
    half: tl.constexpr = 1 << (shift - 1)
    z = (x2 + x6) * 4433
    outer, inner = z + x2 * 6270, z - x6 * 15137
    sum, difference = ((x0 + x4) << 13) + half, ((x0 - x4) << 13) + half
    e0, e3, e1, e2 = sum + outer, sum - outer, difference + inner, difference - inner
    o0, o1, o2, o3 = _odd(x7, x5, x3, x1)
    return _stack(
        (e0 + o3) >> shift,
        (e1 + o2) >> shift,
        (e2 + o1) >> shift,
        (e3 + o0) >> shift,
        (e3 - o0) >> shift,
        (e2 - o1) >> shift,
        (e1 - o2) >> shift,
        (e0 - o3) >> shift,
        rows,
    )


@triton.jit
def _coefficients(samples, rows: tl.constexpr):
    """Samples (rows, 8) of whole blocks to their integer transform, blocks transposed."""
    x = _transposed(_fdct_pass(samples - 128, rows, True), rows)
    return _fdct_pass(x, rows, False)


@triton.jit
def _reciprocal(steps):
    return tl.div_rn(1.0, (8 * steps).to(tl.float32))


@triton.jit
def _levels(coefficients, reciprocal):
    """Half away from zero: the half is widened by half of a unit, which no rounding of the product can reach."""
    real = coefficients.to(tl.float32)
    half = reciprocal * 0.5 + 0.5
    return (real * reciprocal + tl.where(real < 0.0, -half, half)).to(tl.int32)


@triton.jit
def _coded(samples, steps, rows: tl.constexpr):
    """Samples (rows, 8) of whole blocks, through the codec. `steps` are of the transposed blocks, as bytes."""
    level = _levels(_coefficients(samples, rows), _reciprocal(steps))
    x = _transposed(_idct_pass(level * steps, rows, True), rows)
    restored = _idct_pass(x, rows, False) + 128
    return tl.minimum(tl.maximum(restored, 0), 255).to(tl.uint8)


@triton.jit
def _luma_samples(image, stride_c, stride_y, stride_x, y, x, inside, height, width, grey: tl.constexpr):
    """Luma at rows `y` (rows,) and columns `x` (rows, 8) of an image, its edges replicated."""
    at_y = tl.minimum(y, height - 1).to(tl.int64)[:, None]
    at_x = tl.minimum(x, width - 1).to(tl.int64)
    at = image + at_y * stride_y + at_x * stride_x
    r = _byte(tl.load(at, mask=inside, other=0))
    if grey:
        return r
    g = _byte(tl.load(at + stride_c, mask=inside, other=0))
    b = _byte(tl.load(at + 2 * stride_c, mask=inside, other=0))
    return _luma(r, g, b)


@triton.jit
def _chroma_samples(
    image,
    stride_c,
    stride_y,
    stride_x,
    y,
    column,
    is_cb,
    inside,
    height,
    width,
    chroma_height,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    rows: tl.constexpr,
):
    """Cb or Cr of rows of eight samples that begin at rows `y` and columns `column` (rows,) of the component."""
    wide: tl.constexpr = 8 * horizontal
    x = (column * horizontal)[:, None] + tl.arange(0, wide)[None, :]
    at_x = tl.minimum(x, width - 1).to(tl.int64)
    sums = tl.zeros((rows, wide), tl.int32)
    for v in tl.static_range(vertical):
        # Rows beyond the component's last repeat it; the pixel row that this lacks is the last one.
        at_y = tl.minimum(tl.minimum(y, chroma_height - 1) * vertical + v, height - 1).to(tl.int64)
        at = image + at_y[:, None] * stride_y + at_x * stride_x
        r = _byte(tl.load(at, mask=inside, other=0))
        g = _byte(tl.load(at + stride_c, mask=inside, other=0))
        b = _byte(tl.load(at + 2 * stride_c, mask=inside, other=0))
        sums += tl.where(is_cb, _cb(r, g, b), _cr(r, g, b))
    if horizontal > 1:
        sums = tl.sum(tl.reshape(sums, (rows, 8, horizontal)), 2)
    parity = tl.arange(0, 8)[None, :] % 2
    if horizontal == 2:
        return (sums + parity + (vertical - 1)) >> vertical
    if horizontal == 4:
        return (sums + 2) >> 2
    return (sums + vertical // 2) >> (vertical - 1)


@triton.jit
def _load_steps(base, tables, image, tables_stride, scale, row, component, has_tables: tl.constexpr):
    """The steps of the transposed blocks: row `row` of eight holds a horizontal frequency's vertical ones."""
    frequency = tl.arange(0, 8)[None, :] * 8 + (row % 8)[:, None]
    if has_tables:
        q = tl.load(tables + image * tables_stride + component[:, None] * 64 + frequency)
        q = tl.where(q > 1.0, q, 1.0)  # NaN too
        q = tl.where(q < 255.0, q, 255.0)
        return ((q + 12582912.0) - 12582912.0).to(tl.int32)
    entry = tl.load(base + (component[:, None] > 0).to(tl.int32) * 64 + frequency)
    return tl.minimum(tl.maximum((entry * scale + 50) // 100, 1), 255)


# ---------------------------------------------------------------------------------------------------------------------
# Forward


@triton.jit
def code_luma(
    image,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    base,
    tables,
    tables_stride,
    scale,
    planes,
    plane_bytes,
    height,
    width,
    block_columns,
    blocks,
    grey: tl.constexpr,
    has_tables: tl.constexpr,
    rows: tl.constexpr,
):
    """The decoded luma of an image: program (i, n) codes ``rows / 8`` blocks of image n."""
    n = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    block = row // 8
    y = block // block_columns * 8 + row % 8
    x = (block % block_columns * 8)[:, None] + tl.arange(0, 8)[None, :]
    inside = (block < blocks)[:, None]
    samples = _luma_samples(image + n * stride_n, stride_c, stride_y, stride_x, y, x, inside, height, width, grey)
    steps = _load_steps(base, tables, n, tables_stride, scale, row, row * 0, has_tables)
    offset = (y * block_columns * 8).to(tl.int64)[:, None] + x
    tl.store(planes + n * plane_bytes + offset, _coded(samples, steps, rows), mask=inside)


@triton.jit
def code_chroma(
    image,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    base,
    tables,
    tables_stride,
    scale,
    planes,
    plane_bytes,
    offset_of_cb,
    height,
    width,
    chroma_height,
    block_columns,
    blocks,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    has_tables: tl.constexpr,
    rows: tl.constexpr,
):
    """The decoded chroma of an image: program (i, n) codes ``rows / 8`` blocks, of Cb and then of Cr, of image n."""
    n = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    block = row // 8
    component = 1 + (block >= blocks).to(tl.int32)
    inside = (block < 2 * blocks)[:, None]
    in_component = block - (component - 1) * blocks
    y = in_component // block_columns * 8 + row % 8
    column = in_component % block_columns * 8
    samples = _chroma_samples(
        image + n * stride_n,
        stride_c,
        stride_y,
        stride_x,
        y,
        column,
        (component == 1)[:, None],
        inside,
        height,
        width,
        chroma_height,
        horizontal,
        vertical,
        rows,
    )
    steps = _load_steps(base, tables, n, tables_stride, scale, row, component, has_tables)
    start = offset_of_cb + (component - 1).to(tl.int64) * blocks * 64 + y.to(tl.int64) * block_columns * 8 + column
    at_samples = planes + n * plane_bytes + start[:, None] + tl.arange(0, 8)[None, :]
    tl.store(at_samples, _coded(samples, steps, rows), mask=inside)


@triton.jit
def flag_mcus(
    image,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    planes,
    plane_bytes,
    flag_offset,
    height,
    width,
    mcu_columns,
    mcus,
    channels: tl.constexpr,
    tall: tl.constexpr,
    wide: tl.constexpr,
):
    """A flag for each MCU, whether a sample of it is NaN or outside [0, 1], and zeros after the last."""
    n = tl.program_id(1).to(tl.int64)
    mcu = tl.program_id(0)
    y = mcu // mcu_columns * tall + tl.arange(0, tall)
    x = mcu % mcu_columns * wide + tl.arange(0, wide)
    at_y = tl.minimum(y, height - 1).to(tl.int64)[:, None]
    at_x = tl.minimum(x, width - 1).to(tl.int64)[None, :]
    unusual = tl.zeros((tall, wide), tl.int32)
    if mcu < mcus:
        for c in tl.static_range(channels):
            sample = tl.load(image + n * stride_n + c * stride_c + at_y * stride_y + at_x * stride_x)
            if sample.dtype != tl.float64:
                sample = sample.to(tl.float32)
            unusual |= tl.where((sample >= 0) & (sample <= 1), 0, 1)
    flag = tl.max(tl.max(unusual, 1), 0)
    tl.store(planes + n * plane_bytes + flag_offset + mcu, flag.to(tl.uint8))


@triton.jit
def _chroma_sample(plane, stride, row, far_row, column, far_column, inside, across: tl.constexpr, down: tl.constexpr):
    """A sample of one chroma plane at full resolution; whether a row or column is late comes with its far neighbour."""
    near = tl.load(plane + row * stride + column, mask=inside, other=0).to(tl.int32)
    late_row = (far_row[0]).to(tl.int32)
    late_column = (far_column[0]).to(tl.int32)
    if across and down:
        below = tl.load(plane + far_row[1] * stride + column, mask=inside, other=0).to(tl.int32)
        beside = tl.load(plane + row * stride + far_column[1], mask=inside, other=0).to(tl.int32)
        diagonal = tl.load(plane + far_row[1] * stride + far_column[1], mask=inside, other=0).to(tl.int32)
        return (3 * (3 * near + below) + (3 * beside + diagonal) + 8 - late_column) >> 4
    if across:
        beside = tl.load(plane + row * stride + far_column[1], mask=inside, other=0).to(tl.int32)
        return (3 * near + beside + 1 + late_column) >> 2
    if down:
        below = tl.load(plane + far_row[1] * stride + column, mask=inside, other=0).to(tl.int32)
        return (3 * near + below + 1 + late_row) >> 2
    return near


@triton.jit
def _unlimited_rgb(
    planes,
    offset_of_cb,
    offset_of_cr,
    y,
    x,
    luma_stride,
    chroma_stride,
    chroma_height,
    chroma_width,
    inside,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    across: tl.constexpr,
    down: tl.constexpr,
):
    """R, G and B of pixels before the last clamp."""
    luma = tl.load(planes + y.to(tl.int64) * luma_stride + x, mask=inside, other=0).to(tl.int32)
    row, column = (y // vertical).to(tl.int64), x // horizontal
    late_row, late_column = y % vertical != 0, x % horizontal != 0
    far_row = tl.minimum(tl.maximum(row + tl.where(late_row, 1, -1), 0), chroma_height - 1)
    far_column = tl.minimum(tl.maximum(column + tl.where(late_column, 1, -1), 0), chroma_width - 1)
    rows, columns = (late_row, far_row), (late_column, far_column)
    u = _chroma_sample(planes + offset_of_cb, chroma_stride, row, rows, column, columns, inside, across, down) - 128
    v = _chroma_sample(planes + offset_of_cr, chroma_stride, row, rows, column, columns, inside, across, down) - 128
    r = luma + ((91881 * v + 32768) >> 16)
    g = luma + ((32768 - 22554 * u - 46802 * v) >> 16)
    b = luma + ((116130 * u + 32768) >> 16)
    return r, g, b


@triton.jit
def _store_sample(address, value, inside):
    """Stores an integer, limited to 0…255, as the image's dtype holds it."""
    value = tl.minimum(tl.maximum(value, 0), 255)
    if address.dtype.element_ty == tl.uint8:
        tl.store(address, value.to(tl.uint8), mask=inside)
    elif address.dtype.element_ty == tl.float64:
        tl.store(address, value.to(tl.float64) / 255.0, mask=inside)
    elif address.dtype.element_ty == tl.bfloat16:
        # Half to even, written out: Triton's interpreter truncates.
        bits = tl.div_rn(value.to(tl.float32), 255.0).to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        tl.store(address, bits.to(tl.int16).to(tl.bfloat16, bitcast=True), mask=inside)
    else:
        tl.store(address, tl.div_rn(value.to(tl.float32), 255.0).to(address.dtype.element_ty), mask=inside)


@triton.jit
def emit_image(
    planes,
    plane_bytes,
    offset_of_cb,
    offset_of_cr,
    image,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    height,
    width,
    luma_stride,
    chroma_stride,
    chroma_height,
    chroma_width,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    across: tl.constexpr,
    down: tl.constexpr,
    grey: tl.constexpr,
    pixels: tl.constexpr,
):
    """Upsampling and colour: program (i, n) makes ``pixels`` pixels of image n."""
    n = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * pixels + tl.arange(0, pixels)
    y, x = index // width, index % width
    inside = y < height
    planes += n * plane_bytes
    at = image + n * stride_n + y.to(tl.int64) * stride_y + x.to(tl.int64) * stride_x
    if grey:
        _store_sample(at, tl.load(planes + y.to(tl.int64) * luma_stride + x, mask=inside, other=0).to(tl.int32), inside)
    else:
        r, g, b = _unlimited_rgb(
            planes,
            offset_of_cb,
            offset_of_cr,
            y,
            x,
            luma_stride,
            chroma_stride,
            chroma_height,
            chroma_width,
            inside,
            horizontal,
            vertical,
            across,
            down,
        )
        _store_sample(at, r, inside)
        _store_sample(at + stride_c, g, inside)
        _store_sample(at + 2 * stride_c, b, inside)


# ---------------------------------------------------------------------------------------------------------------------
# Backward: the adjoint of colour and resampling, behind the last clamp's mask


@triton.jit
def mask_pixels(
    planes,
    plane_bytes,
    offset_of_cb,
    offset_of_cr,
    masks,
    height,
    width,
    luma_stride,
    chroma_stride,
    chroma_height,
    chroma_width,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    across: tl.constexpr,
    down: tl.constexpr,
    pixels: tl.constexpr,
):
    """Bits 0, 1 and 2 of a byte for each pixel: whether R, G and B passed the last clamp."""
    n = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * pixels + tl.arange(0, pixels)
    y, x = index // width, index % width
    inside = y < height
    r, g, b = _unlimited_rgb(
        planes + n * plane_bytes,
        offset_of_cb,
        offset_of_cr,
        y,
        x,
        luma_stride,
        chroma_stride,
        chroma_height,
        chroma_width,
        inside,
        horizontal,
        vertical,
        across,
        down,
    )
    red = ((r >= 0) & (r <= 255)).to(tl.int32)
    green = ((g >= 0) & (g <= 255)).to(tl.int32)
    blue = ((b >= 0) & (b <= 255)).to(tl.int32)
    tl.store(masks + n * height * width + index, (red + 2 * green + 4 * blue).to(tl.uint8), mask=inside)


@triton.jit
def _masked_gradient(grad, stride_c, mask, bit: tl.constexpr, inside):
    passed = inside & ((mask >> bit) & 1 != 0)
    return tl.load(grad + bit * stride_c, mask=passed, other=0.0)


@triton.jit
def gather_chroma(
    grad,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    masks,
    chroma,
    height,
    width,
    chroma_height,
    chroma_width,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    across: tl.constexpr,
    down: tl.constexpr,
    pixels: tl.constexpr,
):
    """The adjoint of upsampling: the gradients of Cb and Cr, (images, 2, chroma height, chroma width)."""
    n = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * pixels + tl.arange(0, pixels)
    row, column = index // chroma_width, index % chroma_width
    real = chroma.dtype.element_ty
    cb, cr = tl.zeros((pixels,), real), tl.zeros((pixels,), real)
    tall: tl.constexpr = 4 if down else vertical
    wide: tl.constexpr = 4 if across else horizontal
    for i in tl.static_range(tall):
        for k in tl.static_range(wide):
            # At an edge the component's last sample stands in for the neighbour that is missing: so does its pixel.
            y = row * vertical + i - (1 if down else 0)
            x = column * horizontal + k - (1 if across else 0)
            y = tl.minimum(tl.maximum(y, 0), chroma_height * vertical - 1)
            x = tl.minimum(tl.maximum(x, 0), chroma_width * horizontal - 1)
            inside = (row < chroma_height) & (y < height) & (x < width)
            mask = tl.load(masks + n * height * width + y.to(tl.int64) * width + x, mask=inside, other=0).to(tl.int32)
            at = grad + n * stride_n + y.to(tl.int64) * stride_y + x.to(tl.int64) * stride_x
            r = _masked_gradient(at, stride_c, mask, 0, inside).to(real)
            g = _masked_gradient(at, stride_c, mask, 1, inside).to(real)
            b = _masked_gradient(at, stride_c, mask, 2, inside).to(real)
            weight_down = (0.25 if i == 0 or i == 3 else 0.75) if down else 1.0
            weight_across = (0.25 if k == 0 or k == 3 else 0.75) if across else 1.0
            weight = weight_down * weight_across
            cb += weight * (1.772 * b - 0.114 * 1.772 / 0.587 * g)
            cr += weight * (1.402 * r - 0.299 * 1.402 / 0.587 * g)
    tl.store(chroma + n * 2 * chroma_height * chroma_width + index, cb, mask=row < chroma_height)
    tl.store(chroma + (n * 2 + 1) * chroma_height * chroma_width + index, cr, mask=row < chroma_height)


@triton.jit
def spread_gradient(
    grad,
    grad_stride_n,
    grad_stride_c,
    grad_stride_y,
    grad_stride_x,
    masks,
    chroma,
    image,
    image_stride_n,
    image_stride_c,
    image_stride_y,
    image_stride_x,
    out,
    out_stride_n,
    out_stride_c,
    out_stride_y,
    out_stride_x,
    height,
    width,
    chroma_height,
    chroma_width,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    grey: tl.constexpr,
    pixels: tl.constexpr,
):
    """The gradient of the image: the adjoint of subsampling and of colour. A NaN sample gets 0."""
    n = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * pixels + tl.arange(0, pixels)
    y, x = index // width, index % width
    inside = y < height
    wide_y, wide_x = y.to(tl.int64), x.to(tl.int64)
    at = grad + n * grad_stride_n + wide_y * grad_stride_y + wide_x * grad_stride_x
    at_image = image + n * image_stride_n + wide_y * image_stride_y + wide_x * image_stride_x
    at_out = out + n * out_stride_n + wide_y * out_stride_y + wide_x * out_stride_x
    real = chroma.dtype.element_ty
    stored = out.dtype.element_ty
    sample = tl.load(at_image, mask=inside, other=0.0).to(real)
    if grey:
        # Grey samples are limited inside the inverse transform alone, which straight-through passes.
        dy = tl.load(at, mask=inside, other=0.0).to(real)
        tl.store(at_out, tl.where(sample == sample, dy, 0.0).to(stored), mask=inside)
    else:
        mask = tl.load(masks + n * height * width + index, mask=inside, other=0).to(tl.int32)
        dy = _masked_gradient(at, grad_stride_c, mask, 0, inside).to(real)
        dy += _masked_gradient(at, grad_stride_c, mask, 1, inside).to(real)
        dy += _masked_gradient(at, grad_stride_c, mask, 2, inside).to(real)
        in_plane = (y // vertical).to(tl.int64) * chroma_width + x // horizontal
        of_cb = chroma + n * 2 * chroma_height * chroma_width
        of_cr = chroma + (n * 2 + 1) * chroma_height * chroma_width
        # The last row and column also stand for their replicas, which subsampling averaged.
        copies_down = tl.where(y == height - 1, 1 + chroma_height * vertical - height, 1)
        copies_across = tl.where(x == width - 1, 1 + chroma_width * horizontal - width, 1)
        weight = (copies_down * copies_across).to(real) * (1.0 / (horizontal * vertical))
        cb = weight * tl.load(of_cb + in_plane, mask=inside, other=0.0)
        cr = weight * tl.load(of_cr + in_plane, mask=inside, other=0.0)
        r = 0.299 * dy - 0.299 / 1.772 * cb + 0.5 * cr
        g = 0.587 * dy - 0.587 / 1.772 * cb - 0.587 / 1.402 * cr
        b = 0.114 * dy + 0.5 * cb - 0.114 / 1.402 * cr
        tl.store(at_out, tl.where(sample == sample, r, 0.0).to(stored), mask=inside)
        sample = tl.load(at_image + image_stride_c, mask=inside, other=0.0).to(real)
        tl.store(at_out + out_stride_c, tl.where(sample == sample, g, 0.0).to(stored), mask=inside)
        sample = tl.load(at_image + 2 * image_stride_c, mask=inside, other=0.0).to(real)
        tl.store(at_out + 2 * out_stride_c, tl.where(sample == sample, b, 0.0).to(stored), mask=inside)


# ---------------------------------------------------------------------------------------------------------------------
# The gradient of the tables: for each step q the sum over blocks of g (k - c / (8 q)), g the transform of the gradient


@triton.jit
def _orthonormal_pass(x, rows: tl.constexpr):
    """The orthonormal DCT-II along the rows of (rows, 8); the constants are cos(k π / 16) / 2."""
    x0, x1, x2, x3, x4, x5, x6, x7 = _columns(x, rows)
    s0, s1, s2, s3 = x0 + x7, x1 + x6, x2 + x5, x3 + x4
    d0, d1, d2, d3 = x0 - x7, x1 - x6, x2 - x5, x3 - x4
    return _stack(
        0.35355339 * (s0 + s1 + s2 + s3),
        0.49039264 * d0 + 0.41573481 * d1 + 0.27778512 * d2 + 0.09754516 * d3,
        0.46193977 * (s0 - s3) + 0.19134172 * (s1 - s2),
        0.41573481 * d0 - 0.09754516 * d1 - 0.49039264 * d2 - 0.27778512 * d3,
        0.35355339 * (s0 - s1 - s2 + s3),
        0.27778512 * d0 - 0.49039264 * d1 + 0.09754516 * d2 + 0.41573481 * d3,
        0.19134172 * (s0 - s3) - 0.46193977 * (s1 - s2),
        0.09754516 * d0 - 0.27778512 * d1 + 0.41573481 * d2 - 0.49039264 * d3,
        rows,
    )


@triton.jit
def _store_share(gradient, samples, steps, target, rows: tl.constexpr):
    """The share of whole blocks in the gradient of one table, whose 64 numbers go to `target`."""
    g = _orthonormal_pass(_transposed(_orthonormal_pass(gradient.to(tl.float32), rows), rows), rows)
    coefficients = _coefficients(samples, rows)
    reciprocal = _reciprocal(steps)
    error = 8 * _levels(coefficients, reciprocal) * steps - coefficients  # exact: k - c / (8 q) would cancel
    shares = g * (error.to(tl.float32) * reciprocal)
    share = tl.sum(tl.reshape(shares, (rows // 8, 8, 8)), 0)
    frequency = tl.arange(0, 8)[None, :] * 8 + tl.arange(0, 8)[:, None]  # blocks are transposed
    tl.store(target + frequency, share / 255.0)  # the output is a byte / 255


@triton.jit
def share_of_luma(
    grad,
    grad_stride_n,
    grad_stride_c,
    grad_stride_y,
    grad_stride_x,
    masks,
    image,
    image_stride_n,
    image_stride_c,
    image_stride_y,
    image_stride_x,
    base,
    tables,
    tables_stride,
    scale,
    shares,
    height,
    width,
    block_columns,
    blocks,
    grey: tl.constexpr,
    has_tables: tl.constexpr,
    rows: tl.constexpr,
):
    """Program (i, n) makes the share of ``rows / 8`` blocks of image n, (images, programs, 64)."""
    n = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    block = row // 8
    y = block // block_columns * 8 + row % 8
    x = (block % block_columns * 8)[:, None] + tl.arange(0, 8)[None, :]
    within = (block < blocks)[:, None]
    samples = _luma_samples(
        image + n * image_stride_n, image_stride_c, image_stride_y, image_stride_x, y, x, within, height, width, grey
    )
    inside = (y < height)[:, None] & (x < width) & within
    wide_y, wide_x = y.to(tl.int64)[:, None], x.to(tl.int64)
    at = grad + n * grad_stride_n + wide_y * grad_stride_y + wide_x * grad_stride_x
    if grey:
        dy = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    else:
        mask = tl.load(masks + n * height * width + wide_y * width + wide_x, mask=inside, other=0).to(tl.int32)
        dy = _masked_gradient(at, grad_stride_c, mask, 0, inside).to(tl.float32)
        dy += _masked_gradient(at, grad_stride_c, mask, 1, inside).to(tl.float32)
        dy += _masked_gradient(at, grad_stride_c, mask, 2, inside).to(tl.float32)
    steps = _load_steps(base, tables, n, tables_stride, scale, row, row * 0, has_tables)
    target = shares + (n * tl.num_programs(0) + tl.program_id(0)) * 64
    _store_share(dy, samples, steps, target, rows)


@triton.jit
def share_of_chroma(
    chroma,
    image,
    image_stride_n,
    image_stride_c,
    image_stride_y,
    image_stride_x,
    base,
    tables,
    tables_stride,
    scale,
    shares,
    height,
    width,
    chroma_height,
    chroma_width,
    block_columns,
    blocks,
    horizontal: tl.constexpr,
    vertical: tl.constexpr,
    has_tables: tl.constexpr,
    rows: tl.constexpr,
):
    """Program (i, 2 n + c) makes the share of blocks of Cb (c = 0) or Cr of image n, (images, 2, programs, 64)."""
    plane = tl.program_id(1).to(tl.int64)
    n, component = plane // 2, (plane % 2 + 1).to(tl.int32)
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    block = row // 8
    within = (block < blocks)[:, None]
    y, column = block // block_columns * 8 + row % 8, block % block_columns * 8
    samples = _chroma_samples(
        image + n * image_stride_n,
        image_stride_c,
        image_stride_y,
        image_stride_x,
        y,
        column,
        component == 1,
        within,
        height,
        width,
        chroma_height,
        horizontal,
        vertical,
        rows,
    )
    x = column[:, None] + tl.arange(0, 8)[None, :]
    inside = (y < chroma_height)[:, None] & (x < chroma_width) & within
    at = chroma + plane * chroma_height * chroma_width + y.to(tl.int64)[:, None] * chroma_width + x
    gradient = tl.load(at, mask=inside, other=0.0)
    steps = _load_steps(base, tables, n, tables_stride, scale, row, row * 0 + component, has_tables)
    target = shares + (plane * tl.num_programs(0) + tl.program_id(0)) * 64
    _store_share(gradient, samples, steps, target, rows)


# ---------------------------------------------------------------------------------------------------------------------
# Launches

#: Fused, a multiplication and an addition round once where the codec rounds twice.
_OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": False}


@functools.cache
def _standard_tables(device: torch.device) -> Tensor:
    """T.81's two tables on a device, copied there once."""
    return torch.tensor([STANDARD_LUMA, STANDARD_CHROMA], dtype=torch.int32).to(device)


def _scale(quality: float) -> int:
    """libjpeg's percentage for a quality; a number out of range acts as the nearer end, NaN as 1."""
    bounded = min(quality, 100.0) if quality > 1 else 1.0
    return int(5000 / bounded if bounded < 50 else 200 - 2 * bounded)


def _upsampling(geometry: Geometry, fancy: bool) -> dict[str, Any]:
    """How chroma comes back: across and down by the triangle, or not."""
    across = fancy and geometry.horizontal == 2 and geometry.chroma.width > 2
    down = fancy and geometry.vertical == 2 and (geometry.horizontal == 1 or geometry.chroma.width > 2)
    return {"horizontal": geometry.horizontal, "vertical": geometry.vertical, "across": across, "down": down}


def _sizes(geometry: Geometry) -> tuple[int, ...]:
    """Sizes that the kernels on single pixels take."""
    chroma = geometry.chroma
    return geometry.height, geometry.width, 8 * geometry.luma.columns, 8 * chroma.columns, chroma.height, chroma.width


def _offsets(geometry: Geometry) -> tuple[int, int]:
    """Where Cb and Cr begin in an image's planes."""
    luma = geometry.luma.coded_samples
    return luma, luma + geometry.chroma.coded_samples


def _geometry(image: Tensor, horizontal: int, vertical: int) -> Geometry:
    """Of an image whose pixels a program can count in 32 bits."""
    geometry = Geometry.of(image.size(2), image.size(3), image.size(1), horizontal, vertical)
    if geometry.height * geometry.width > 2**31 - _PIXELS:
        size = f"{geometry.height} × {geometry.width}"
        raise ValueError(f"image should have up to 2^31 - {_PIXELS} pixels for the Triton kernels, got {size}")
    return geometry


def _parts(image: Tensor) -> list[slice]:
    """Which images a launch serves: a grid's second extent, which may count each of them twice, is below 2¹⁶."""
    most = 2**15 - 1
    return [slice(first, first + most) for first in range(0, len(image), most)] if image.numel() else []


def _tables_of(tables: Tensor | None, part: slice) -> Tensor | None:
    """The tables of a part of the images."""
    return tables if tables is None or len(tables) == 1 else tables[part]


def _steps(image: Tensor, tables: Tensor | None, quality: float) -> tuple[Tensor, Tensor, int, int]:
    """What the kernels take for the tables: the standard ones, those given, the stride of these, the percentage."""
    base = _standard_tables(image.device)
    given = base if tables is None else tables.contiguous()
    return base, given, 0 if tables is None or len(tables) == 1 else 192, _scale(quality)


def round_trip(
    image: Tensor, tables: Tensor | None, quality: float, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor]:
    """The op ``fdjpeg::round_trip``; arguments and results as for `fdjpeg.reference.round_trip`."""
    geometry = _geometry(image, horizontal, vertical)
    out = torch.empty_like(image)
    planes = image.new_empty((len(image), geometry.plane_bytes), dtype=torch.uint8)
    for part in _parts(image):
        _round_trip(image[part], _tables_of(tables, part), quality, geometry, fancy, out[part], planes[part])
    return out, planes


def _round_trip(
    image: Tensor, tables: Tensor | None, quality: float, geometry: Geometry, fancy: bool, out: Tensor, planes: Tensor
) -> None:
    """Launches the kernels of `round_trip`."""
    grey = geometry.channels == 1
    steps = _steps(image, tables, quality)
    coding: dict[str, Any] = {"has_tables": tables is not None, "rows": _ROWS, **_OPTIONS}
    offset_of_cb, offset_of_cr = _offsets(geometry)

    def grid(count: int, each: int) -> tuple[int, int]:
        return triton.cdiv(count, each), len(image)

    with torch.cuda.device_of(image):
        luma, chroma = geometry.luma, geometry.chroma
        blocks = luma.rows * luma.columns
        code_luma[grid(8 * blocks, _ROWS)](
            image,
            *image.stride(),
            *steps,
            planes,
            geometry.plane_bytes,
            geometry.height,
            geometry.width,
            luma.columns,
            blocks,
            grey=grey,
            **coding,
        )
        if not grey:
            blocks = chroma.rows * chroma.columns
            code_chroma[grid(16 * blocks, _ROWS)](
                image,
                *image.stride(),
                *steps,
                planes,
                geometry.plane_bytes,
                offset_of_cb,
                geometry.height,
                geometry.width,
                chroma.height,
                chroma.columns,
                blocks,
                horizontal=geometry.horizontal,
                vertical=geometry.vertical,
                **coding,
            )
        flag_offset = offset_of_cr + chroma.coded_samples
        if image.is_floating_point():
            flag_mcus[grid(geometry.plane_bytes - flag_offset, 1)](
                image,
                *image.stride(),
                planes,
                geometry.plane_bytes,
                flag_offset,
                geometry.height,
                geometry.width,
                geometry.mcu_columns,
                geometry.mcu_rows * geometry.mcu_columns,
                channels=geometry.channels,
                tall=8 * geometry.vertical,
                wide=8 * geometry.horizontal,
                **_OPTIONS,
            )
        else:
            planes[:, flag_offset:] = 0
        emit_image[grid(geometry.height * geometry.width, _PIXELS)](
            planes,
            geometry.plane_bytes,
            offset_of_cb,
            offset_of_cr,
            out,
            *out.stride(),
            *_sizes(geometry),
            **_upsampling(geometry, fancy),
            grey=grey,
            pixels=_PIXELS,
            **_OPTIONS,
        )


def round_trip_backward(
    grad: Tensor,
    planes: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    table_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """The op ``fdjpeg::round_trip_backward``; as `fdjpeg.reference.round_trip_backward`, to rounding."""
    geometry = _geometry(image, horizontal, vertical)
    out = torch.empty_like(image)
    of_tables = image.new_zeros((len(image), 3, 8, 8) if table_gradient else 0, dtype=torch.float32)
    for part in _parts(image):
        sums = of_tables[part] if table_gradient else None
        part_of_tables = _tables_of(tables, part)
        _differentiate(grad[part], planes[part], image[part], part_of_tables, quality, geometry, fancy, out[part], sums)
    return out, of_tables


def _differentiate(
    grad: Tensor,
    planes: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    geometry: Geometry,
    fancy: bool,
    out: Tensor,
    of_tables: Tensor | None,
) -> None:
    """Launches the kernels of `round_trip_backward`."""
    grey = geometry.channels == 1
    real = torch.float64 if image.dtype == torch.float64 else torch.float32
    height, width, chroma_height, chroma_width = geometry.height, geometry.width, *geometry.chroma[:2]
    masks = image.new_empty((len(image), 0 if grey else height * width), dtype=torch.uint8)
    chroma = image.new_empty((len(image), 2, chroma_height, chroma_width), dtype=real)
    sizes = (height, width, chroma_height, chroma_width)
    upsampling = _upsampling(geometry, fancy)
    launch: dict[str, Any] = {"pixels": _PIXELS, **_OPTIONS}
    programs = (triton.cdiv(height * width, _PIXELS), len(image))
    with torch.cuda.device_of(image):
        if not grey:
            mask_pixels[programs](
                planes,
                geometry.plane_bytes,
                *_offsets(geometry),
                masks,
                *_sizes(geometry),
                **upsampling,
                **launch,
            )
            gather_chroma[(triton.cdiv(chroma_height * chroma_width, _PIXELS), len(image))](
                grad, *grad.stride(), masks, chroma, *sizes, **upsampling, **launch
            )
        spread_gradient[programs](
            grad,
            *grad.stride(),
            masks,
            chroma,
            image,
            *image.stride(),
            out,
            *out.stride(),
            *sizes,
            horizontal=geometry.horizontal,
            vertical=geometry.vertical,
            grey=grey,
            **launch,
        )
        if of_tables is not None:
            steps = _steps(image, tables, quality)
            _add_tables(grad, masks, chroma, image, steps, geometry, tables is not None, of_tables)


def _add_tables(
    grad: Tensor,
    masks: Tensor,
    chroma: Tensor,
    image: Tensor,
    steps: tuple[Tensor, Tensor, int, int],
    geometry: Geometry,
    has_tables: bool,
    of_tables: Tensor,
) -> None:
    """Writes the tables' gradient ``(N, 3, 8, 8)``: shares of a few blocks each, summed in one order."""
    coding: dict[str, Any] = {"has_tables": has_tables, "rows": _ROWS, **_OPTIONS}
    height, width, plane = geometry.height, geometry.width, geometry.chroma

    def new_shares(*size: int) -> Tensor:
        return image.new_empty((len(image), *size, 64), dtype=torch.float32)

    blocks = geometry.luma.rows * geometry.luma.columns
    programs = triton.cdiv(8 * blocks, _ROWS)
    shares = new_shares(programs)
    share_of_luma[programs, len(image)](
        grad,
        *grad.stride(),
        masks,
        image,
        *image.stride(),
        *steps,
        shares,
        height,
        width,
        geometry.luma.columns,
        blocks,
        grey=geometry.channels == 1,
        **coding,
    )
    of_tables[:, 0] = shares.sum(1).unflatten(1, (8, 8))
    if geometry.channels == 1:
        return
    blocks = plane.rows * plane.columns
    programs = triton.cdiv(8 * blocks, _ROWS)
    shares = new_shares(2, programs)
    share_of_chroma[programs, 2 * len(image)](
        chroma,
        image,
        *image.stride(),
        *steps,
        shares,
        height,
        width,
        plane.height,
        plane.width,
        plane.columns,
        blocks,
        horizontal=geometry.horizontal,
        vertical=geometry.vertical,
        **coding,
    )
    of_tables[:, 1:] = shares.sum(2).unflatten(2, (8, 8))
