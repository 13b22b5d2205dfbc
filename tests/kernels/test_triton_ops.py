"""The Triton kernels of every op, interpreted, against the CPU's kernels on small images; planted bugs are found.

`test_conformance.py` also tries them, by its own cases and oracles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("triton")

from support import interpreted, triton_bugs
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
        if self.op in _OF_PARTS:
            return self._arguments_of_parts(image, grad, uniform)
        return (image, *exact)  # encode

    def _arguments_of_parts(self, image: Tensor, grad: Tensor, uniform: Callable[..., Tensor]) -> tuple[Any, ...]:
        """Draws the arguments of the ops of the codec's parts; ``tables`` chooses between their two forms."""
        real = torch.float64 if self.dtype == torch.float64 else torch.float32
        if self.op.startswith("standard_steps"):
            qualities = (130 * uniform(2, 7) - 10).to(self.dtype)
            qualities[0, :2] = torch.tensor([50.5, torch.nan])
            given = (qualities, 3, self.tables, self.soft)
            return given if self.op == "standard_steps" else (uniform(2, 7, 8, 8).to(real) - 0.5, *given)
        ops = torch.ops.fdjpeg
        if self.op == "sum_blocks":
            return uniform(2, 650, 8, 8).to(real) - 0.5, 650 if self.channels == 1 else 390
        blocks = ops.image_blocks(image, *self.factors)
        if self.op == "surrogate":
            parameter = {"tanh": 4.0, "softmax": 3.3, "fourier": 3.0}.get(self.surrogate, 0.0)
            return blocks / 9, self.surrogate, parameter, 0.1 if self.surrogate == "cubic" else 0.0, self.soft
        if self.op == "rounded_backward":
            used, c, slope = ((uniform(*blocks.shape) - 0.5).to(real) for _ in range(3))
            return blocks, used, c if self.soft else None, slope if self.tables else None
        if self.op == "scaled_backward":
            steps = (1 + 20 * uniform(*blocks.shape)).to(real)
            shared = steps[:1].expand_as(blocks)
            return (uniform(*blocks.shape) - 0.5).to(real), blocks, steps if self.tables else shared, self.soft
        if self.op == "round_trip_by_steps":
            steps = 300 * uniform(*blocks.shape) - 10
            if not self.tables:
                steps = steps[:1]
            slopes = _slopes.slope_table(surrogates.resolve(self.surrogate), image.device) if self.soft else None
            return image, steps.to(real), slopes, *self.factors, True
        if self.op == "blocks_image":
            return blocks + 40 * (uniform(*blocks.shape).to(real) - 0.5), image, *self.factors, True
        if self.op == "blocks_image_backward":
            kept = ops.blocks_image(blocks, image, *self.factors, True)[1]
            if self.tables:
                kept = ops.round_trip(image, None, 30.0, *self.factors, True)[1]
            return grad, kept, image, *self.factors, True
        if self.op == "image_blocks_backward":
            image[0, 0, 2, 2] = torch.nan
            planes = ops.round_trip(image, None, 30.0, *self.factors, True)[1] if self.tables else None
            return uniform(*blocks.shape).to(real) - 0.5, image, planes, *self.factors
        return image, *self.factors  # image_blocks


#: The ops of `fdjpeg.ops.pieces`, `packed_steps` and `by_steps`.
_OF_PARTS = (
    "standard_steps",
    "standard_steps_backward",
    "sum_blocks",
    "surrogate",
    "rounded_backward",
    "scaled_backward",
    "round_trip_by_steps",
    "image_blocks",
    "image_blocks_backward",
    "blocks_image",
    "blocks_image_backward",
)
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
    Case("standard_steps", 3, _444, _F32, soft=False),
    Case("standard_steps", 3, _444, _F64, soft=True, tables=False),
    Case("standard_steps_backward", 3, _444, _F32, soft=False),
    Case("standard_steps_backward", 3, _444, _F64, soft=True, tables=False),
    Case("sum_blocks", 3, _444, _F32),
    Case("sum_blocks", 1, _444, _F64),
    *(Case("surrogate", 3, _420, _F32, name) for name in ("cubic", "fourier", "tanh")),
    *(Case("surrogate", 3, _420, _F64, name, soft=False) for name in ("sine", "softmax", "zero")),
    Case("rounded_backward", 3, _420, _F32),
    Case("rounded_backward", 3, _420, _F32, soft=False),
    Case("rounded_backward", 3, _420, _F64, tables=False),
    Case("scaled_backward", 3, _420, _F32),
    Case("scaled_backward", 3, _422, _F32, tables=False),
    Case("scaled_backward", 1, _444, _F64, soft=False),
    Case("scaled_backward", 3, _411, _F32, soft=False, tables=False),
    Case("round_trip_by_steps", 3, _420, _F32, soft=False),
    Case("round_trip_by_steps", 3, _411, _F16, "cubic", tables=False),
    Case("round_trip_by_steps", 1, _444, _F64, "tanh"),
    Case("image_blocks", 3, _420, _F32),
    Case("image_blocks", 1, _444, torch.uint8),
    Case("image_blocks_backward", 3, _420, _F32),
    Case("image_blocks_backward", 3, _422, _F64, tables=False, size=(5, 6)),
    Case("blocks_image", 3, _420, _F32),
    Case("blocks_image", 3, _440, _F16),
    Case("blocks_image_backward", 3, _420, _F32),
    Case("blocks_image_backward", 3, _422, _BF16, tables=False),
]


def _as_tuple(results: Any) -> tuple[Tensor, ...]:
    return (results,) if isinstance(results, Tensor) else tuple(results)


def _worst(results: Any, expected: Any) -> float:
    """Returns the largest error of floating results as a part of their largest number.

    It is infinite for NaN, which `max` would pass over, and where bits differ.
    """
    worst = 0.0
    for one, other in zip(_as_tuple(results), _as_tuple(expected), strict=True):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())
        if other.numel() and other.is_floating_point():
            largest = other.double().abs().max().clamp_min(1e-30)  # all of them may be 0
            error = (one.double() - other.double()).abs().max() / largest
            worst = max(worst, float(error.nan_to_num(nan=torch.inf)))
        elif not torch.equal(one, other):
            worst = float("inf")
    return worst


#: Ops whose bits are promised.
_EXACT = ("round_trip_by_block", "encode", "decode")


def _bound(case: Case) -> float:
    """Returns the largest error that is allowed: none of bits."""
    if case.op in _EXACT:
        return 0.0
    of_dtype = TOLERANCE.get(case.dtype, TOLERANCE[torch.float32] if case.op == "image_blocks" else 0.0)
    # A slope depends on a coefficient, and so on its rounding error.
    return max(of_dtype, 1e-4 if case.op.endswith("backward") and case.dtype != _F64 else 1e-12)


def _expected(case: Case, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    results = _as_tuple(getattr(torch.ops.fdjpeg, case.op)(*arguments))
    # The flags may be set where the CPU's rows of vectors cover more than one MCU.
    return results[:1] if case.op == "round_trip_by_block" else results


@pytest.mark.parametrize("case", [one for one in _CASES if one.op == "round_trip_by_steps"], ids=str)
def test_the_image_at_given_steps_has_the_bits_of_the_cpu(case: Case) -> None:
    arguments = case.arguments()
    (expected, planes, *_), (out, own_planes, *_) = (
        ops.round_trip_by_steps(*arguments) for ops in (torch.ops.fdjpeg, interpreted)
    )
    assert torch.equal(out, expected)
    assert torch.equal(own_planes, planes)


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


def _case(op: str, **settings: Any) -> Case:
    """Returns the first case of an op with these settings."""
    wanted = settings.items()
    return next(one for one in _CASES if one.op == op and all(getattr(one, name) == value for name, value in wanted))


_BUGS = [
    Bug("forward", "tl.where(is_luma, row, row * vertical)", "row", _CASES[0]._replace(size=(19, 13))),
    Bug("blocks", "transpose(quantized).to", "quantized.to", _CASES[3]),
    Bug("blocks", "tl.minimum(tl.maximum(products, -32767), 32767)", "products", _CASES[5]),
    Bug("blocks", "tl.where(i >= rows, x, 0.0)", "tl.where(i > rows, x, 0.0)", _CASES[6]),
    Bug("blocks", "- remainder * slope", "+ remainder * slope", _CASES[6]),
    Bug("blocks", "(remainder + 0.5) * 8192.0", "(remainder + 0.5) * 8000.0", _CASES[8]),
    Bug("blocks", "tl.where(is_luma, columns - 1, columns)", "columns - 1", _CASES[18]),
    Bug("backward", "horizontal / (1 + planes.chroma_width * horizontal - planes.width)", "1.0", _CASES[19]),
    Bug("backward", "(there & 2) - 2", "(there & 1) - 1", _CASES[15]),
    Bug("forward", "bits += 4 * _store", "bits += 2 * _store", _CASES[9]),
    Bug("blocks", "n % tables * 3 + component, coefficients.dtype", "n % tables * 3, coefficients.dtype", _CASES[9]),
    Bug("blocks", "value - c * slope", "value - slope", _CASES[13]),
    Bug("blocks", "8, transpose(coefficients), inside", "8, coefficients, inside", _CASES[16]),
    Bug("arithmetic", "0.41573480615127262 * x3 + 0.2", "0.41573480615127262 * x3 - 0.2", _CASES[17]),
    Bug("pieces", "where(item % kinds < luma", "where(item % kinds <= luma", _case("standard_steps")),
    Bug("pieces", "[:, None] > 1, g", "[:, None] > 0, g", _case("standard_steps_backward", soft=True)),
    Bug("pieces", "(component - 1) * chroma)", "(2 - component) * chroma)", _case("sum_blocks")),
    Bug("pieces", "place % 8 * 8 + place // 8, total", "place, total", _case("sum_blocks")),
    Bug("pieces", "row < count", "row < count - 1", _case("sum_blocks")),
    Bug("pieces", "(used + index, value,", "(used + index, number,", _case("surrogate")),
    Bug("pieces", "other=0.0) * slope", "other=0.0)", _case("rounded_backward")),
    Bug(
        "pieces", "-= tl.load(c + index, mask=inside, other=0.0)\n", "-= 0.0\n", _case("rounded_backward", tables=False)
    ),
    Bug("pieces", "(index % sets)", "index", _case("scaled_backward", tables=False)._replace(size=(40, 40))),
    Bug("pieces", "(x / q)", "x", _case("scaled_backward", soft=True)),
    Bug("pieces", "        g /= q\n", "", _case("scaled_backward", soft=True)),
    Bug("pieces", "g * q, mask", "g, mask", _case("scaled_backward", soft=False)),
    Bug("pieces", "g * x, mask", "g * q, mask", _case("scaled_backward", soft=False)),
    Bug(
        "pieces",
        "inside = (index < count)[:, None]\n    at =",
        "inside = (index < count - 1)[:, None]\n    at =",
        _case("scaled_backward"),
    ),
    Bug("pieces", "n % sets * of_image + index", "index", _case("round_trip_by_steps", soft=False)),
    Bug(
        "pieces",
        "tl.minimum(tl.maximum(q, 1.0), 255.0)",
        "tl.maximum(q, 1.0)",
        _case("round_trip_by_steps", soft=False),
    ),
    Bug("pieces", "columns[:, None])) * scale", "columns[:, None]))", _case("blocks_image_backward")),
    Bug("pieces", "orthonormal_inverse(coefficients), inside", "coefficients, inside", _case("blocks_image")),
    Bug("pieces", "    if gradients:", "    if False:", _case("image_blocks_backward")),
]


def _worst_with(bug: Bug) -> float:
    """Returns the largest difference that a bug makes."""
    arguments = bug.case.arguments()
    expected = _expected(bug.case, arguments)
    results = interpreted.planted(bug.file, bug.old, bug.new, bug.case.op, arguments)
    return _worst(_as_tuple(results)[: len(expected)], expected)


@pytest.mark.parametrize("bug", _BUGS, ids=lambda bug: f"{bug.file}: {bug.new or bug.old}")
def test_planted_bugs_are_found(bug: Bug) -> None:
    assert _worst_with(bug) > 2 * _bound(bug.case)


#: The cases of `support.triton_bugs`.
_NAMED = {
    "exact": _CASES[0]._replace(size=(19, 21)),
    "exact, wide": _CASES[0]._replace(size=(11, 40)),
    "exact across": _CASES[0]._replace(factors=_422),
    "exact down": _CASES[0]._replace(factors=_440),
    "hostile": _CASES[4],
    "real": _CASES[9],
    "transform": _CASES[16],
    "inverse": _CASES[17],
}
_CONSTANTS = [
    Bug(file, old, new, _NAMED[case])
    for file, bugs in (("arithmetic", triton_bugs.ARITHMETIC), ("upsampling", triton_bugs.UPSAMPLING))
    for case, changes in bugs.items()
    for old, new in changes
]


@pytest.mark.slow
@pytest.mark.parametrize("bug", _CONSTANTS, ids=lambda bug: f"{bug.file}: {bug.new}")
def test_a_bug_in_any_constant_is_found(bug: Bug) -> None:
    assert _worst_with(bug) > 2 * _bound(bug.case)
