"""Built-in surrogates of rounding in Triton, as `fdjpeg.surrogates` defines them."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# (Triton types the functions that it compiles.)

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import nearest


@triton.jit
def _tanh(x):
    """Returns tanh(x)."""
    magnitude = tl.exp(-2.0 * tl.abs(x))
    ratio = (1.0 - magnitude) / (1.0 + magnitude)
    tanh = tl.where(x < 0, -ratio, ratio)
    if x.dtype != tl.float64:  # the difference above would lose the digits of small numbers
        y = x * x
        series = x * (1.0 + y * (-1.0 / 3 + y * (2.0 / 15 + y * (-17.0 / 315 + y * (62.0 / 2835)))))
        tanh = tl.where(tl.abs(x) < 0.25, series, tanh)
    return tanh


@triton.jit
def _weight(j: tl.constexpr, remainder, alpha):
    """Returns the weight of the whole number j from the nearest on, against that of the nearest."""
    return tl.exp(alpha * (2.0 * j * remainder - j * j))


@triton.jit
def surrogate(c, name: tl.constexpr, parameter, rest, floor, floor_rest, soft: tl.constexpr):
    """Returns the number that takes the place of c in forward, and the derivative there.

    The number is the surrogate of rounding if `soft`, else c rounded half to even. The surrogate's parameter and the
    floor of the derivative are each the sum of two float32 numbers: Triton passes no others, and would compile a kernel
    again for each constant.
    """
    real: tl.constexpr = c.dtype
    parameter = tl.full((), parameter, tl.float64) + tl.full((), rest, tl.float64)
    k = nearest(c)
    remainder = c - k
    if name == "cubic":
        value = k + remainder * remainder * remainder
        slope = 3.0 * remainder * remainder
    elif name == "sine":
        turns = 6.283185307179586 * remainder
        value = c - tl.sin(turns) * 0.15915494309189535
        slope = 1.0 - tl.cos(turns)
    elif name == "fourier":
        turns = 6.283185307179586 * remainder
        value = c
        slope = c * 0.0 + 1.0
        sign = c * 0.0 + 1.0
        for n in range(1, parameter.to(tl.int32) + 1):
            value -= sign * tl.sin(turns * n) * 0.3183098861837907 / n
            slope -= 2.0 * sign * tl.cos(turns * n)
            sign = -sign
    elif name == "tanh":
        alpha = parameter.to(real)
        scale = (0.5 / _tanh(0.5 * parameter)).to(real)
        middle = tl.floor(c) + 0.5
        wave = _tanh(alpha * (c - middle))
        value = middle + scale * wave
        slope = alpha * scale * (1.0 - wave * wave)
    elif name == "softmax":
        alpha = parameter.to(real)
        a, b = _weight(-2, remainder, alpha), _weight(-1, remainder, alpha)
        d, e = _weight(1, remainder, alpha), _weight(2, remainder, alpha)
        whole = 1.0 + a + b + d + e
        mean = (2.0 * (e - a) + d - b) / whole
        value = k + mean
        slope = 2.0 * alpha * ((4.0 * (e + a) + d + b) / whole - mean * mean)
    else:
        value = k
        slope = c * 0.0 + (0.0 if name == "zero" else 1.0)
    floor = tl.full((), floor, tl.float64) + tl.full((), floor_rest, tl.float64)
    least = tl.where(floor > 0, floor, float("-inf")).to(real)
    slope = tl.where(slope < least, least, slope)  # NaN stays
    return value if soft else k, slope
