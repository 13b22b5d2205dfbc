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
        fraction = byte * 0.0039215087890625 + byte * 5.983839201917363e-8
        if address.dtype.element_ty == tl.bfloat16:
            # Half to even, written out: Triton's interpreter truncates.
            bits = fraction.to(tl.int32, bitcast=True)
            bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            tl.store(address, bits.to(tl.int16).to(tl.bfloat16, bitcast=True), mask=inside)
        else:
            tl.store(address, fraction.to(address.dtype.element_ty), mask=inside)


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
def _idct_pass(x, first: tl.constexpr):
    """Inverts along the last dimension; the second of two passes also shifts the level back."""
    x0, x1, x2, x3, x4, x5, x6, x7 = unstack(x)
    shift: tl.constexpr = 11 if first else 18
    bias: tl.constexpr = (1 << (shift - 1)) + (0 if first else 128 << shift)
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
def quantize(coefficients, reciprocal, half):
    """Rounds half away from zero, by ``1 / (8 q)`` and a half as `prepare_steps` stores them."""
    sign = coefficients & -0x80000000
    signed_half = (half.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)
    return (coefficients.to(tl.float32) * reciprocal + signed_half).to(tl.int32)
