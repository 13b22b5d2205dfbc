"""The Triton kernels of every op, interpreted, against the CPU's kernels on small images; planted bugs are found.

`test_conformance.py` also tries them, by its own cases and oracles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("triton")

from support import interpreted
from support.settings import TOLERANCE
from torch import Tensor

import fdjpeg
from fdjpeg import _slopes, surrogates
from fdjpeg.ops import SCHEMAS

pytestmark = pytest.mark.skipif(fdjpeg.backends()["cpu"] != "available", reason="the oracle is the CPU's kernel")


class Case(NamedTuple):
    """Images of a kind and the settings of an op."""

    op: str
    channels: int
    factors: tuple[int, int]
    dtype: torch.dtype
    surrogate: str = "sine"
    soft: bool = True
    tables: bool = True
    size: tuple[int, int] = (11, 13)

    def arguments(self) -> tuple[Any, ...]:
        """Draws the op's arguments: two images with samples to be clamped, and each its tables."""
        generator = torch.Generator().manual_seed(0)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64)

        shape = (2, self.channels, *self.size)
        image, grad = (1.4 * uniform(*shape) - 0.2).to(self.dtype), uniform(*shape).to(self.dtype) - 0.5
        real = torch.float64 if self.dtype == torch.float64 else torch.float32
        tables = (1 + 20 * uniform(2, 3, 8, 8)).to(real)
        exact = (tables.float() if self.tables else None, 30.0, *self.factors)
        floor = 0.1 if self.surrogate == "cubic" else 0.0
        parameter = {"tanh": 4.0, "softmax": 3.3, "fourier": 3.0}.get(self.surrogate, 0.0)
        in_real = (tables if self.tables else None, 30.0, *self.factors, True, self.surrogate, parameter, floor)
        ops = torch.ops.fdjpeg
        if self.op == "round_trip_by_block":
            rows, columns = (-(-side // 8) for side in self.size)
            return image, (120 * uniform(2, rows, columns)).to(torch.uint8), *self.factors, True
        if self.op == "surrogate_backward":
            image[0, 0, 2, 2] = torch.nan
            planes = ops.round_trip(image, *exact, True)[1]
            slopes = _slopes.slope_table(surrogates.resolve(self.surrogate), image.device)
            return grad, planes, image, *exact, True, self.tables, slopes
        if self.op == "decode":
            levels = ops.encode(image, *exact)
            hostile = [(65535 * uniform(*one.shape) - 32768).to(torch.int16) for one in levels]
            return *hostile, tables.float(), *self.size, *self.factors, True, self.dtype
        if self.op == "real_round_trip":
            return image, *in_real, self.soft
        if self.op == "real_round_trip_backward":
            mask = ops.real_round_trip(image, *in_real, self.soft)[1]
            return grad, mask, image, *in_real, self.soft, self.tables
        if self.op == "block_dct":
            return (uniform(2, 3, 8, 16).to(self.dtype),)
        if self.op == "block_idct":
            return (uniform(2, 3, 1, 2, 8, 8).to(self.dtype),)
        return (image, *exact)  # encode


_420, _422, _440, _444, _411 = (2, 2), (2, 1), (1, 2), (1, 1), (4, 1)
_F16, _BF16, _F32, _F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
_CASES = [
    Case("round_trip_by_block", 3, _420, _F32),
    Case("round_trip_by_block", 1, _444, torch.uint8),
    Case("encode", 3, _411, _F16),
    Case("encode", 1, _444, _F32, tables=False),
    Case("decode", 3, _422, torch.uint8),
    Case("decode", 1, _444, _BF16),
    Case("surrogate_backward", 3, _420, _F32),
    Case("surrogate_backward", 3, _440, _F32, "softmax"),
    Case("surrogate_backward", 1, _444, _F16, "tanh", tables=False),
    Case("real_round_trip", 3, _420, _F32, "tanh"),
    Case("real_round_trip", 3, _422, _F64, "fourier", tables=False),
    Case("real_round_trip", 1, _444, torch.uint8, "straight-through", soft=False, tables=False),
    Case("real_round_trip_backward", 3, _420, _F32, "tanh"),
    Case("real_round_trip_backward", 3, _444, _F64, "softmax", size=(8, 8)),
    Case("real_round_trip_backward", 3, _440, _BF16, "cubic", soft=False),
    Case("real_round_trip_backward", 3, _420, _F32, "straight-through", soft=False, tables=False),
    Case("block_dct", 3, _444, _F32),
    Case("block_idct", 3, _444, _F16),
    # Where the last chroma sample averages several pixels, chroma beyond it counts for the last of them alone.
    Case("surrogate_backward", 3, _422, _F32, "cubic", size=(5, 6)),
    Case("surrogate_backward", 3, _411, _F32, size=(9, 16)),
    Case("real_round_trip_backward", 3, _411, _F32, "tanh", size=(9, 18)),
]


def _as_tuple(results: Any) -> tuple[Tensor, ...]:
    return (results,) if isinstance(results, Tensor) else tuple(results)


def _worst(results: Any, expected: Any) -> float:
    """Returns the largest error of floating results as a part of their largest number; infinity if bits differ."""
    worst = 0.0
    for one, other in zip(_as_tuple(results), _as_tuple(expected), strict=True):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())
        if other.numel() and other.is_floating_point():
            error = (one.double() - other.double()).abs().max() / other.double().abs().max()
            worst = max(worst, float(error))
        elif not torch.equal(one, other):
            worst = float("inf")
    return worst


#: Ops whose bits are promised.
_EXACT = ("round_trip_by_block", "encode", "decode")


def _bound(case: Case) -> float:
    """Returns the largest error that is allowed: none of bits."""
    if case.op in _EXACT:
        return 0.0
    # A slope depends on a coefficient, and so on its rounding error.
    return max(TOLERANCE.get(case.dtype, 0.0), 1e-4 if case.op.endswith("backward") and case.dtype != _F64 else 1e-12)


def _expected(case: Case, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    results = _as_tuple(getattr(torch.ops.fdjpeg, case.op)(*arguments))
    # The flags may be set where the CPU's rows of vectors cover more than one MCU.
    return results[:1] if case.op == "round_trip_by_block" else results


@pytest.mark.parametrize("case", _CASES, ids=lambda case: f"{case.op}-{case.channels}-{case.factors}-{case.dtype}")
def test_equals_the_kernel_of_the_cpu(case: Case) -> None:
    arguments = case.arguments()
    expected = _expected(case, arguments)
    results = _as_tuple(getattr(interpreted, case.op)(*arguments))[: len(expected)]
    assert _worst(results, expected) <= _bound(case)


def test_triton_has_every_op() -> None:
    from fdjpeg._triton import ops as triton_ops

    assert set(triton_ops.__all__) == set(SCHEMAS)


# ---------------------------------------------------------------------------------------------------------------------
# Planted bugs


class Bug(NamedTuple):
    """A change of a file of `fdjpeg._triton`, which a case must notice."""

    file: str
    old: str
    new: str
    case: Case


_BUGS = [
    Bug("forward", "tl.where(is_luma, row, row * vertical)", "row", _CASES[0]._replace(size=(19, 13))),
    Bug("blocks", "transpose(quantized).to", "quantized.to", _CASES[3]),
    Bug("blocks", "tl.minimum(tl.maximum(products, -32767), 32767)", "products", _CASES[5]),
    Bug("blocks", "tl.where(i >= rows, x, 0.0)", "tl.where(i > rows, x, 0.0)", _CASES[6]),
    Bug("blocks", "- remainder * slope), inside", "+ remainder * slope), inside", _CASES[6]),
    Bug("blocks", "(remainder + 0.5) * 8192.0", "(remainder + 0.5) * 8000.0", _CASES[8]),
    Bug("blocks", "tl.where(luma, columns - 1, columns)", "columns - 1", _CASES[18]),
    Bug("backward", "horizontal / (1 + planes.chroma_width * horizontal - planes.width)", "1.0", _CASES[19]),
    Bug("backward", "(there & 2) - 2", "(there & 1) - 1", _CASES[15]),
    Bug("forward", "bits += 4 * _store", "bits += 2 * _store", _CASES[9]),
    Bug("blocks", "n % tables * 3 + component, coefficients.dtype", "n % tables * 3, coefficients.dtype", _CASES[9]),
    Bug("blocks", "g * (value - c * slope)", "g * (value - slope)", _CASES[13]),
    Bug("blocks", "8, transpose(coefficients), inside", "8, coefficients, inside", _CASES[16]),
    Bug("arithmetic", "0.41573480615127262 * x3 + 0.2", "0.41573480615127262 * x3 - 0.2", _CASES[17]),
]


@pytest.mark.parametrize("bug", _BUGS, ids=lambda bug: f"{bug.file}: {bug.new or bug.old}")
def test_planted_bugs_are_found(bug: Bug) -> None:
    arguments = bug.case.arguments()
    expected = _expected(bug.case, arguments)
    results = interpreted.planted(bug.file, bug.old, bug.new, bug.case.op, arguments)
    assert _worst(_as_tuple(results)[: len(expected)], expected) > 2 * _bound(bug.case)
