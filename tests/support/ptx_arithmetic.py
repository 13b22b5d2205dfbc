"""The arithmetic of PTX on arrays of threads, as the PTX ISA manual defines each instruction.

A register is an array of unsigned numbers or of floats. An instruction reads its operands by its own type.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: NumPy's types for those of PTX.
TYPES: dict[str, Any] = {
    **{f"{kind}{bits}": np.dtype(f"u{bits // 8}") for kind in "ub" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    "f16": np.dtype("f2"),
    "f32": np.dtype("f4"),
    "f64": np.dtype("f8"),
    "pred": np.dtype(bool),
}


def fused(a: Array, b: Array, c: Array) -> Array:
    """Returns a · b + c rounded once.

    For float32 the product is exact in float64. The sum is rounded to odd there, so that rounding it again to float32
    gives what rounding once would (Boldo and Melquiond, IEEE TC 2008).
    """
    if a.dtype == np.float64:
        result = a * b + c  # right where a number is not finite
        for i in np.flatnonzero(np.isfinite(result)):
            result[i] = float(Fraction(a[i]) * Fraction(b[i]) + Fraction(c[i]))
        return result
    product, addend = a.astype("f8") * b.astype("f8"), c.astype("f8")
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    bits = total.view("i8").copy()
    inexact_and_even = np.isfinite(total) & (error != 0) & (bits % 2 == 0)
    bits[inexact_and_even] += np.where((error > 0) == (total > 0), 1, -1)[inexact_and_even]
    return bits.view("f8").astype("f4")


def _narrowed(x: Array, kind: Any, toward: Callable[[Array], Array]) -> Array:
    """Returns floats as whole numbers of a type, saturated, NaN as 0."""
    limits = np.iinfo(kind)
    whole = np.nan_to_num(toward(x.astype("f8")), nan=0.0, posinf=float(limits.max), neginf=float(limits.min))
    return np.clip(whole, limits.min, limits.max).astype(kind)


_ROUNDINGS: dict[str, Callable[[Array], Array]] = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def convert(modifiers: tuple[str, ...], x: Array) -> Array:
    """``cvt``: the last two modifiers are the types of result and source."""
    target, source = TYPES[modifiers[-2]], TYPES[modifiers[-1]]
    x = read(x, source)
    if target.kind in "iu" and source.kind == "f":
        (rounding,) = [one for one in modifiers if one in _ROUNDINGS]
        return _narrowed(x, target, _ROUNDINGS[rounding])
    result = x.astype(target)
    if "sat" in modifiers:
        if target.kind != "f":
            raise NotImplementedError(f"cvt.{'.'.join(modifiers)}")
        result = np.where(x > 0, np.minimum(result, target.type(1)), target.type(0))  # NaN as 0
    return result


def _to_bfloat(x: Array) -> Array:
    """Returns the upper 16 bits of float32 numbers, rounded half to even; NaN as 0x7fff."""
    bits = x.view("u4")
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), rounded)


def pack_saturated(a: Array, b: Array, c: Array) -> Array:
    """``cvt.pack.sat.u8.s32.b32``: a and b as bytes in the low half, b lowest; the low half of c above them."""
    low = [np.clip(read(one, TYPES["s32"]), 0, 255).astype("u4") for one in (a, b)]
    return c.astype("u4") << np.uint32(16) | low[0] << np.uint32(8) | low[1]


def read(x: Array, kind: Any) -> Array:
    """Returns a register's number by an instruction's type: the low bits of a wider one."""
    if x.dtype == kind:
        return x
    if x.dtype.itemsize == kind.itemsize:
        return x.view(kind) if x.flags.c_contiguous else np.ascontiguousarray(x).view(kind)
    if x.dtype.kind in "ui" and x.dtype.itemsize > kind.itemsize:
        return x.astype(f"u{kind.itemsize}").view(kind)
    raise TypeError(f"a register of {x.dtype} cannot be read as {kind}")


def widened(x: Array, kind: Any) -> Array:
    """Returns a result for a wider register: with its sign if its type has one (PTX ISA, 9.4.1)."""
    if x.dtype == kind or x.dtype.itemsize == kind.itemsize:
        return x if x.dtype == kind else np.ascontiguousarray(x).view(kind)
    return x.astype(f"{'i' if x.dtype.kind == 'i' else 'u'}{kind.itemsize}").view(kind)


def compare(test: str, a: Array, b: Array) -> Array:
    """``setp``: a comparison; with NaN it is false, or true for the unordered ones."""
    ordered = {
        "eq": np.equal,
        "lt": np.less,
        "le": np.less_equal,
        "ne": np.not_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
    }
    # Of integers without sign, in the type that the instruction gives them.
    unsigned = {"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
    if test in unsigned:
        return unsigned[test](a, b)
    nan = np.isnan(a) | np.isnan(b) if a.dtype.kind == "f" else np.zeros(a.shape, bool)
    if test in ("num", "nan"):
        return nan if test == "nan" else ~nan
    if test.endswith("u") and test != "u":
        return nan | ordered[test[:-1]](a, b)
    return ~nan & ordered[test](a, b)


def shifted(name: str, kind: str, x: Array, amount: Array) -> Array:
    """``shl`` and ``shr``: an amount above the width shifts everything out."""
    width = TYPES[kind].itemsize * 8
    count = np.minimum(amount.astype("u4"), width)
    if name == "shl":
        one = read(x, TYPES[f"u{width}"])
        return np.where(count < width, one << np.minimum(count, width - 1).astype(one.dtype), one.dtype.type(0))
    one = read(x, TYPES[kind] if kind[0] == "s" else TYPES[f"u{width}"])
    if kind[0] == "s":
        return one >> np.minimum(count, width - 1).astype(one.dtype)
    return np.where(count < width, one >> np.minimum(count, width - 1).astype(one.dtype), one.dtype.type(0))


def permuted(a: Array, b: Array, selector: Array) -> Array:
    """``prmt``: each digit of the selector chooses a byte of {b, a}; its high bit, the sign of that byte."""
    both = b.astype("u8") << np.uint64(32) | a.astype("u8")
    result = np.zeros(a.shape, "u4")
    for i in range(4):
        digit = selector.astype("u4") >> np.uint32(4 * i) & np.uint32(15)
        byte = (both >> (8 * (digit & np.uint32(7))).astype("u8") & np.uint64(255)).astype("u4")
        sign = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
        result |= np.where(digit & np.uint32(8), sign, byte) << np.uint32(8 * i)
    return result


def inserted(a: Array, b: Array, position: Array, length: Array) -> Array:
    """``bfi``: the low bits of a inserted into b at a position."""
    position, length = (np.minimum(one & 255, 32).astype("u8") for one in (position, length))
    mask = ((np.uint64(1) << length) - np.uint64(1)) << position
    return (b.astype("u8") & ~mask | (a.astype("u8") << position) & mask).astype("u4")


def dot_product(name: str, modifiers: tuple[str, ...], a: Array, b: Array, c: Array) -> Array:
    """``dp4a``, and ``dp2a``: c plus the products of four bytes, or of two halves of a and the low or high bytes of b.

    The types of a and b say whether their parts have a sign; sums wrap (PTX ISA, 9.7.1.23 and 9.7.1.24).
    """
    signs = [kind[0] for kind in modifiers[-2:]]
    bytes_of_b = np.ascontiguousarray(b.astype("u4")).view("i1" if signs[1] == "s" else "u1").reshape(len(b), 4)
    size = 1 if name == "dp4a" else 2
    of_a = np.ascontiguousarray(a.astype("u4")).view(f"{'i' if signs[0] == 's' else 'u'}{size}").reshape(len(a), -1)
    if name == "dp2a":
        bytes_of_b = bytes_of_b[:, :2] if modifiers[0] == "lo" else bytes_of_b[:, 2:]
    total = c.astype("u4").astype("i8") + (of_a.astype("i8") * bytes_of_b.astype("i8")).sum(1)
    return (total & 0xFFFFFFFF).astype("u4")


def multiplied(part: str, kind: str, a: Array, b: Array) -> Array:
    """``mul`` and ``mad``: the low half, the high half or the whole of a product of whole numbers."""
    if part == "lo":
        return a * b
    wide = np.dtype(f"{TYPES[kind].kind}{2 * TYPES[kind].itemsize}")
    if TYPES[kind].itemsize == 8:
        shift = [int(x) * int(y) >> 64 for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        return np.array([one % 2**64 for one in shift], "u8").view(a.dtype)
    product = a.astype(wide) * b.astype(wide)
    return product if part == "wide" else (product >> wide.type(TYPES[kind].itemsize * 8)).astype(a.dtype)


def extreme(name: str, a: Array, b: Array) -> Array:
    """``min`` and ``max``: of floats, the number where one is NaN."""
    if a.dtype.kind == "f":
        return np.fmin(a, b) if name == "min" else np.fmax(a, b)
    return np.minimum(a, b) if name == "min" else np.maximum(a, b)


_BITWISE = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


def computed(name: str, modifiers: tuple[str, ...], x: list[Array]) -> Array:
    """Returns the result of an instruction that touches no memory and no other thread.

    Raises:
        NotImplementedError: it is not among those that fdjpeg's kernels use.
    """
    kind = modifiers[-1]
    if "ftz" in modifiers or "approx" in modifiers:
        raise NotImplementedError(f"{name}.{'.'.join(modifiers)}")
    if name == "cvt" and modifiers[0] == "pack" and modifiers[1:] == ("sat", "u8", "s32", "b32"):
        return pack_saturated(*x)
    if name == "cvt" and len(x) == 2 and modifiers == ("rn", "f16x2", "f32"):
        high, low = (read(one, TYPES["f32"]).astype("f2").view("u2").astype("u4") for one in x)
        return high << np.uint32(16) | low
    if name == "cvt" and len(x) == 2 and modifiers == ("rn", "bf16x2", "f32"):
        high, low = (_to_bfloat(read(one, TYPES["f32"])) for one in x)
        return high << np.uint32(16) | low
    if name == "cvt":
        return convert(modifiers, *x)
    if name in ("dp2a", "dp4a"):
        return dot_product(name, modifiers, *x)
    if name in ("shl", "shr"):
        return shifted(name, kind, *x)
    if name == "selp":
        return np.where(x[2], *(read(one, TYPES[kind]) for one in x[:2]))
    if name == "setp":
        return compare(modifiers[0], *(read(one, TYPES[kind]) for one in x))
    if kind not in TYPES:
        raise NotImplementedError(f"{name}.{'.'.join(modifiers)}")
    x = [read(one, TYPES[kind]) for one in x]
    if name == "mov":
        return x[0]
    if name == "not":
        return ~x[0]
    if name == "neg":
        return -x[0]
    if name == "abs":
        return np.abs(x[0])
    if name == "add":
        return x[0] + x[1]
    if name == "sub":
        return x[0] - x[1]
    if name in ("min", "max"):
        return extreme(name, *x)
    if name in _BITWISE:
        return _BITWISE[name](*x)
    if name in ("fma", "mad") and TYPES[kind].kind == "f":
        return fused(*x)
    if name == "mul" and TYPES[kind].kind == "f":
        return x[0] * x[1]
    if name in ("div", "rcp") and modifiers[0] == "rn":
        return x[0] / x[1] if name == "div" else x[0].dtype.type(1) / x[0]
    if name == "mul":
        return multiplied(modifiers[0], kind, *x)
    if name == "mad":
        product = multiplied(modifiers[0], kind, *x[:2])
        return product + x[2]
    if name == "copysign":
        return np.copysign(x[1], x[0])  # the sign of the first operand
    if name == "prmt":
        return permuted(*x)
    if name == "bfi":
        return inserted(*x)
    raise NotImplementedError(f"{name}.{'.'.join(modifiers)}")
