"""The arithmetic of the Triton kernels: that of csrc/codec/exact_math.h, on tensors of integers."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# (Triton types the functions that it compiles.)

from __future__ import annotations

import triton
import triton.language as tl

# ---------------------------------------------------------------------------------------------------------------------
# Samples and colour


@triton.jit
def to_byte(x):
    """Returns rint(255 x) in 0…255, NaN as 0; bytes stay unchanged."""
    if x.dtype == tl.uint8:
        return x.to(tl.int32)
    if x.dtype == tl.float64:
        scaled = tl.minimum(tl.maximum(x * 255.0, 0.0), 255.0)  # of NaN and a number, both are the number
        return ((scaled + 6755399441055744.0) - 6755399441055744.0).to(tl.int32)  # 1.5 · 2^52 leaves no fraction bits
    scaled = tl.minimum(tl.maximum(x.to(tl.float32) * 255.0, 0.0), 255.0)
    return (scaled + 12582912.0).to(tl.int32, bitcast=True) & 255  # 1.5 · 2^23: the integer is in the last bits


@triton.jit
def store_real(address, value, inside):
    """Stores numbers in the dtype there, half to even."""
    if address.dtype.element_ty == tl.bfloat16:
        # Written out: Triton's interpreter truncates. NaN stays NaN.
        value = value.to(tl.float32)
        bits = value.to(tl.int32, bitcast=True)
        bits = tl.where(value == value, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7FC0)
        tl.store(address, bits.to(tl.int16).to(tl.bfloat16, bitcast=True), mask=inside)
    else:
        tl.store(address, value.to(address.dtype.element_ty), mask=inside)


@triton.jit
def store_sample(address, value, inside):
    """Stores an integer, limited to 0…255, as the image's dtype holds it."""
    value = tl.minimum(tl.maximum(value, 0), 255)
    if address.dtype.element_ty == tl.uint8:
        tl.store(address, value.to(tl.uint8), mask=inside)
    elif address.dtype.element_ty == tl.float64:
        tl.store(address, value.to(tl.float64) / 255.0, mask=inside)
    else:
        # Correctly rounded for every byte: 1 / 255 in two parts, of which the first, 257 / 65536, multiplies exactly.
        byte = value.to(tl.float32)
        store_real(address, byte * 0.0039215087890625 + byte * 5.983839201917363e-8, inside)


@triton.jit
def to_luma(r, g, b):
    """Returns Y in 0…255."""
    return (19595 * r + 38470 * g + 7471 * b + 32768) >> 16


@triton.jit
def to_cb(r, g, b):
    """Returns Cb in 0…255."""
    return (32768 * b - 11059 * r - 21709 * g + 8421375) >> 16


@triton.jit
def to_cr(r, g, b):
    """Returns Cr in 0…255."""
    return (32768 * r - 27439 * g - 5329 * b + 8421375) >> 16


@triton.jit
def to_rgb(luma, cb, cr):
    """Returns R, G and B before the last clamp."""
    u, v = cb - 128, cr - 128
    r = luma + ((91881 * v + 32768) >> 16)
    g = luma + ((32768 - 22554 * u - 46802 * v) >> 16)
    b = luma + ((116130 * u + 32768) >> 16)
    return r, g, b


# ---------------------------------------------------------------------------------------------------------------------
# The same in real numbers, about 0: Y less 128


@triton.jit
def to_real(x, dtype: tl.constexpr):
    """Returns samples in units of 0…255, as `dtype` holds them."""
    if x.dtype == tl.uint8:
        return x.to(dtype)
    return x.to(dtype) * 255.0


@triton.jit
def to_real_ycbcr(r, g, b):
    """Returns Y, Cb and Cr of samples of 0…255."""
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    return luma - 128.0, (b - luma) * (1.0 / 1.772), (r - luma) * (1.0 / 1.402)


@triton.jit
def to_real_rgb(luma, cb, cr):
    """Returns R, G and B in units of 0…255."""
    luma = luma + 128.0
    red, blue = 1.402 * cr, 1.772 * cb
    return luma + red, luma - (0.114 / 0.587) * blue - (0.299 / 0.587) * red, luma + blue


@triton.jit
def nearest(x):
    """Rounds half to even; NaN stays NaN."""
    whole: tl.constexpr = 4503599627370496.0 if x.dtype == tl.float64 else 8388608.0  # from there on all are whole
    magnitude = tl.abs(x)
    rounded = (magnitude + whole) - whole
    return tl.where(magnitude < whole, tl.where(x < 0, -rounded, rounded), x)


# ---------------------------------------------------------------------------------------------------------------------
# Blocks: (blocks, 8, 8). A thread holds all 64 numbers of a block, so that none of these functions moves one


@triton.jit
def stack(x0, x1, x2, x3, x4, x5, x6, x7):
    """Stacks eight tensors (n, m) along a new last dimension: (n, m, 8)."""
    even = tl.join(tl.join(x0, x4), tl.join(x2, x6))
    odd = tl.join(tl.join(x1, x5), tl.join(x3, x7))
    return tl.reshape(tl.join(even, odd), (x0.shape[0], x0.shape[1], 8))


@triton.jit
def unstack(x):
    """Returns the eight tensors (n, m) along the last dimension of (n, m, 8)."""
    even, odd = tl.split(tl.reshape(x, (x.shape[0], x.shape[1], 2, 2, 2)))
    x04, x26 = tl.split(even)
    x15, x37 = tl.split(odd)
    x0, x4 = tl.split(x04)
    x2, x6 = tl.split(x26)
    x1, x5 = tl.split(x15)
    x3, x7 = tl.split(x37)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def transpose(x):
    """Exchanges the rows and the columns of each block."""
    return tl.permute(x, (0, 2, 1))


@triton.jit
def _odd(a, b, c, d):
    """Computes the odd half of both transforms: rotations of Loeffler, Ligtenberg and Moschytz, 13 fraction bits."""
    z5 = (a + c + b + d) * 9633
    z1 = (a + d) * -7373
    z2 = (b + c) * -20995
    z3 = (a + c) * -16069 + z5
    z4 = (b + d) * -3196 + z5
    return a * 2446 + z1 + z3, b * 16819 + z2 + z4, c * 25172 + z2 + z3, d * 12299 + z1 + z4


@triton.jit
def _fdct_pass(x, first: tl.constexpr):
    """Transforms along the last dimension; the first of two passes also subtracts the level 128 of each sample."""
    x0, x1, x2, x3, x4, x5, x6, x7 = unstack(x)
    shift: tl.constexpr = 11 if first else 15
    half: tl.constexpr = 1 << (shift - 1)
    s0, s1, s2, s3 = x0 + x7, x1 + x6, x2 + x5, x3 + x4
    sum, inner = s0 + s3, s1 + s2
    difference, inner_difference = s0 - s3, s1 - s2
    if first:
        y0, y4 = (sum + inner - 8 * 128) << 2, (sum - inner) << 2
    else:
        y0, y4 = (sum + inner + 2) >> 2, (sum - inner + 2) >> 2
    z = (difference + inner_difference) * 4433 + half
    y2 = (z + difference * 6270) >> shift
    y6 = (z - inner_difference * 15137) >> shift
    o7, o5, o3, o1 = _odd(x3 - x4, x2 - x5, x1 - x6, x0 - x7)
    y7, y5, y3, y1 = (o7 + half) >> shift, (o5 + half) >> shift, (o3 + half) >> shift, (o1 + half) >> shift
    return stack(y0, y1, y2, y3, y4, y5, y6, y7)


@triton.jit
def _idct_pass(x, first: tl.constexpr, level: tl.constexpr = True):
    """Inverts along the last dimension; the second of two passes also shifts the level back, if `level`."""
    x0, x1, x2, x3, x4, x5, x6, x7 = unstack(x)
    shift: tl.constexpr = 11 if first else 18
    bias: tl.constexpr = (1 << (shift - 1)) + (128 << shift if level and not first else 0)
    z = (x2 + x6) * 4433
    outer, inner = z + x2 * 6270, z - x6 * 15137
    sum, difference = ((x0 + x4) << 13) + bias, ((x0 - x4) << 13) + bias
    e0, e3, e1, e2 = sum + outer, sum - outer, difference + inner, difference - inner
    o0, o1, o2, o3 = _odd(x7, x5, x3, x1)
    return stack(
        (e0 + o3) >> shift,
        (e1 + o2) >> shift,
        (e2 + o1) >> shift,
        (e3 + o0) >> shift,
        (e3 - o0) >> shift,
        (e2 - o1) >> shift,
        (e1 - o2) >> shift,
        (e0 - o3) >> shift,
    )


@triton.jit
def transform(samples):
    """Transforms samples of blocks to coefficients: transposed, eight times those of the orthonormal DCT."""
    return _fdct_pass(transpose(_fdct_pass(samples, True)), False)


@triton.jit
def restore(coefficients):
    """Transforms transposed coefficients, in steps of 1, to samples in 0…255."""
    samples = _idct_pass(transpose(_idct_pass(coefficients, True)), False)
    return tl.minimum(tl.maximum(samples, 0), 255)


@triton.jit
def restore_any(coefficients):
    """Does the same with hostile coefficients, whose sums wrap around: the level comes after the last of them."""
    samples = _idct_pass(transpose(_idct_pass(coefficients, True)), False, False) + 128
    return tl.minimum(tl.maximum(samples, 0), 255)


@triton.jit
def quantize(coefficients, reciprocal, half):
    """Rounds half away from zero, by ``1 / (8 q)`` and a half as `prepare_steps` stores them."""
    sign = coefficients & -0x80000000
    signed_half = (half.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)
    return (coefficients.to(tl.float32) * reciprocal + signed_half).to(tl.int32)


# ---------------------------------------------------------------------------------------------------------------------
# The orthonormal DCT-II of blocks and its inverse; the constants are cos(k π / 16) / 2


@triton.jit
def _orthonormal_pass(x):
    """Transforms along the last dimension."""
    x0, x1, x2, x3, x4, x5, x6, x7 = unstack(x)
    s0, s1, s2, s3 = x0 + x7, x1 + x6, x2 + x5, x3 + x4
    d0, d1, d2, d3 = x0 - x7, x1 - x6, x2 - x5, x3 - x4
    return stack(
        0.35355339059327378 * (s0 + s1 + s2 + s3),
        0.49039264020161522 * d0 + 0.41573480615127262 * d1 + 0.27778511650980111 * d2 + 0.09754516100806413 * d3,
        0.46193976625564338 * (s0 - s3) + 0.19134171618254489 * (s1 - s2),
        0.41573480615127262 * d0 - 0.09754516100806413 * d1 - 0.49039264020161522 * d2 - 0.27778511650980111 * d3,
        0.35355339059327378 * (s0 - s1 - s2 + s3),
        0.27778511650980111 * d0 - 0.49039264020161522 * d1 + 0.09754516100806413 * d2 + 0.41573480615127262 * d3,
        0.19134171618254489 * (s0 - s3) - 0.46193976625564338 * (s1 - s2),
        0.09754516100806413 * d0 - 0.27778511650980111 * d1 + 0.41573480615127262 * d2 - 0.49039264020161522 * d3,
    )


@triton.jit
def _orthonormal_inverse_pass(x):
    """Inverts along the last dimension: the transposed map."""
    x0, x1, x2, x3, x4, x5, x6, x7 = unstack(x)
    sum, difference = 0.35355339059327378 * (x0 + x4), 0.35355339059327378 * (x0 - x4)
    outer = 0.46193976625564338 * x2 + 0.19134171618254489 * x6
    inner = 0.19134171618254489 * x2 - 0.46193976625564338 * x6
    e0, e3, e1, e2 = sum + outer, sum - outer, difference + inner, difference - inner
    o0 = 0.49039264020161522 * x1 + 0.41573480615127262 * x3 + 0.27778511650980111 * x5 + 0.09754516100806413 * x7
    o1 = 0.41573480615127262 * x1 - 0.09754516100806413 * x3 - 0.49039264020161522 * x5 - 0.27778511650980111 * x7
    o2 = 0.27778511650980111 * x1 - 0.49039264020161522 * x3 + 0.09754516100806413 * x5 + 0.41573480615127262 * x7
    o3 = 0.09754516100806413 * x1 - 0.27778511650980111 * x3 + 0.41573480615127262 * x5 - 0.49039264020161522 * x7
    return stack(e0 + o0, e1 + o1, e2 + o2, e3 + o3, e3 - o3, e2 - o2, e1 - o1, e0 - o0)


@triton.jit
def orthonormal(samples):
    """Transforms samples of blocks to coefficients, which come transposed."""
    return _orthonormal_pass(transpose(_orthonormal_pass(samples)))


@triton.jit
def orthonormal_inverse(coefficients):
    """Transforms transposed coefficients to samples."""
    return _orthonormal_inverse_pass(transpose(_orthonormal_inverse_pass(coefficients)))
