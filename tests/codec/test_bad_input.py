"""Wrong input raises at once and names the argument, the wanted and the given value; unusual input works.

Tests of files and tables are in `test_table_files.py` (CMYK and 12-bit files among them), coefficients in
`test_coefficients.py`, layers in `test_modules.py`, surrogates in `test_surrogates.py`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support import oracles
from torch import Tensor

import fdjpeg
from fdjpeg import QuantTables

IMAGE = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))

#: Everything that takes an image and a quality.
FUNCTIONS = pytest.mark.parametrize(
    "function", [fdjpeg.jpeg, fdjpeg.encode, fdjpeg.check], ids=["jpeg", "encode", "check"]
)


# ---------------------------------------------------------------------------------------------------------------------
# image


@FUNCTIONS
@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int32, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str
)
def test_dtype_of_an_image(function: Callable[..., Any], dtype: torch.dtype) -> None:
    with pytest.raises(
        TypeError, match=re.escape(f"image must be uint8, float16, bfloat16, float32 or float64, got {dtype}")
    ):
        function(IMAGE.to(dtype))
    with pytest.raises(
        TypeError, match=re.escape(f"image must be uint8, float16, bfloat16, float32 or float64, got {dtype}")
    ):
        fdjpeg.check(IMAGE.to(dtype))


@FUNCTIONS
@pytest.mark.parametrize("thing", [None, [[[0.5]]], np.zeros((3, 8, 8), dtype=np.uint8)], ids=["None", "list", "array"])
def test_things_that_are_no_image(function: Callable[..., Any], thing: object) -> None:
    with pytest.raises(TypeError, match=re.escape(f"image must be a torch.Tensor, got {type(thing).__name__}")):
        function(thing)


@FUNCTIONS
@pytest.mark.parametrize(
    "shape",
    [(), (8,), (8, 8), (2, 8, 8), (4, 8, 8), (8, 8, 3), (0, 8, 8), (1, 2, 8, 8), (1, 4, 8, 8), (3, 0, 8), (3, 8, 0)],
    ids=str,
)
def test_shape_of_an_image(function: Callable[..., Any], shape: tuple[int, ...]) -> None:
    wanted = "image must have shape (..., 3, H, W) or (..., 1, H, W) with H, W of at least 1"
    with pytest.raises(ValueError, match=re.escape(f"{wanted}, got {shape}")):
        function(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (0, 1, 1, 1), (2, 0, 3, 5, 7)], ids=str)
def test_no_images_are_as_good_as_some(shape: tuple[int, ...]) -> None:
    for dtype in (torch.uint8, torch.float32):
        out = fdjpeg.jpeg(torch.zeros(shape, dtype=dtype))
        assert (out.shape, out.dtype) == (shape, dtype)


@pytest.mark.parametrize(
    "function",
    [fdjpeg.jpeg, fdjpeg.JPEG(30), fdjpeg.JPEG(gradient="cubic"), torch.nn.Sequential(fdjpeg.StochasticJPEG())],
    ids=["function", "layer", "surrogate", "layers"],
)
def test_an_image_above_one_draws_a_warning(function: Callable[..., Any]) -> None:
    with pytest.warns(UserWarning, match=r"image must lie in \[0, 1\], got values up to 255") as record:
        function(torch.full((3, 8, 8), 255.0))
    assert record[0].filename == __file__  # it points at the call


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, float("nan"), float("-inf")])
def test_no_other_value_draws_one(value: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for gradient in ("straight-through", "cubic"):
            out = fdjpeg.jpeg(torch.full((3, 8, 8), value), 100, gradient=gradient)
            assert torch.equal(out, torch.full_like(out, 1.0 if value == 1 else 0.0))
        fdjpeg.jpeg(torch.full((3, 8, 8), 255, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("values", "extremes"),
    [([0.0, 1.5], "0 to 1.5"), ([-0.25, 1.0], "-0.25 to 1"), ([float("nan"), 0.5], "nan to nan")],
)
def test_check_reads_an_image(values: list[float], extremes: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"image must lie in [0, 1], got values from {extremes}")):
        fdjpeg.check(torch.tensor(values).reshape(1, 1, 2))
    fdjpeg.check(IMAGE)
    fdjpeg.check((255 * IMAGE).byte())
    fdjpeg.check(IMAGE[:0])


# ---------------------------------------------------------------------------------------------------------------------
# quality


@pytest.mark.parametrize(
    "function", [fdjpeg.jpeg, fdjpeg.encode, fdjpeg.check, lambda _, quality: fdjpeg.JPEG(quality)]
)
@pytest.mark.parametrize("quality", [0, 101, -1, 0.99, 100.5, float("nan"), float("inf"), np.nan, np.int64(0)])
def test_numbers_that_are_no_quality(function: Callable[..., Any], quality: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"quality must be in 1…100, got {quality!r}")):
        function(IMAGE, quality)


@FUNCTIONS
@pytest.mark.parametrize("quality", ["75", None, True, 50j, [50]], ids=repr)
def test_things_that_are_no_quality(function: Callable[..., Any], quality: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"quality must be a number or a tensor, got {quality!r}")):
        function(IMAGE, quality)


@FUNCTIONS
def test_an_image_that_is_not_dense(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=re.escape("image must be a dense tensor, got one of layout torch.sparse_coo")):
        function(torch.rand(3, 8, 8).to_sparse())
    for layout in (torch.strided, torch.jagged):
        with pytest.raises(TypeError, match=re.escape("image must be a dense tensor, got a nested one")):
            function(torch.nested.nested_tensor([torch.rand(3, 8, 8), torch.rand(3, 8, 8)], layout=layout))


@FUNCTIONS
@pytest.mark.parametrize("shape", [(3,), (2, 1), (0,)], ids=str)
def test_shape_of_a_quality(function: Callable[..., Any], shape: tuple[int, ...]) -> None:
    wanted = "quality must be a number, a 0-dim tensor or one of shape (1,) or (2,)"
    with pytest.raises(ValueError, match=re.escape(f"{wanted}, got shape {shape}")):
        function(IMAGE, torch.full(shape, 50))


@FUNCTIONS
@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64], ids=str)
def test_dtype_of_a_quality(function: Callable[..., Any], dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=re.escape(f"quality must have an integer or floating dtype, got {dtype}")):
        function(IMAGE, torch.ones(2, dtype=dtype))
    with pytest.raises(TypeError, match=re.escape(f"quality must have an integer or floating dtype, got {dtype}")):
        fdjpeg.check(IMAGE, torch.ones(2, dtype=dtype))
    with pytest.raises(TypeError, match=re.escape(f"quality must have an integer or floating dtype, got {dtype}")):
        fdjpeg.JPEG(torch.ones(2, dtype=dtype))


def test_values_of_a_quality_tensor_act_as_the_nearest_quality() -> None:
    values = torch.tensor([0.0, -5.0, 101.0, 1e30, torch.inf, -torch.inf, torch.nan])
    expected = [1, 1, 100, 100, 100, 1, 1]
    image = IMAGE[:1].expand(7, -1, -1, -1)
    assert torch.equal(fdjpeg.jpeg(image, values), torch.stack([fdjpeg.jpeg(IMAGE[0], q) for q in expected]))
    for value in values:
        with pytest.raises(ValueError, match=re.escape(f"quality must be in 1…100, got {value.item():g}")):
            fdjpeg.check(IMAGE, value)


def test_numpy_numbers_are_numbers() -> None:
    for quality in (np.float32(50), np.float64(50), np.int64(50), np.uint8(50)):
        assert torch.equal(fdjpeg.jpeg(IMAGE, quality), fdjpeg.jpeg(IMAGE, 50))


def test_a_gradient_that_bytes_cannot_carry() -> None:
    image = (255 * IMAGE).byte()
    quality = torch.tensor(50.0, requires_grad=True)
    wanted = "image must be floating where quality or tables require a gradient, got uint8"
    with pytest.raises(TypeError, match=re.escape(wanted)):
        fdjpeg.jpeg(image, quality)
    with pytest.raises(TypeError, match=re.escape(wanted)):
        fdjpeg.jpeg(image, tables=QuantTables.standard(quality))
    with torch.no_grad():
        assert torch.equal(fdjpeg.jpeg(image, quality), fdjpeg.jpeg(image, 50))


# ---------------------------------------------------------------------------------------------------------------------
# tables


@FUNCTIONS
@pytest.mark.parametrize("tables", [torch.ones(8, 8), [[1] * 64] * 2, 50], ids=["tensor", "lists", "number"])
def test_things_that_are_no_tables(function: Callable[..., Any], tables: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"tables must be fdjpeg.QuantTables, got {type(tables).__name__}")):
        function(IMAGE, tables=tables)


@pytest.mark.parametrize("shape", [(8,), (64,), (7, 8), (8, 9), (2, 1, 8, 8), ()], ids=str)
def test_shape_of_a_table(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"y must have shape (8, 8) or (N, 8, 8), got {shape}")):
        QuantTables(torch.ones(shape), torch.ones(8, 8))


@FUNCTIONS
def test_tables_for_other_images(function: Callable[..., Any]) -> None:
    tables = QuantTables(torch.ones(3, 8, 8), torch.ones(3, 8, 8))
    with pytest.raises(ValueError, match=re.escape("tables must be (8, 8) or one for each of the 2 images, got 3")):
        function(IMAGE, tables=tables)


@FUNCTIONS
def test_tables_and_a_quality(function: Callable[..., Any]) -> None:
    for quality in (50, torch.tensor(75), np.array([50, 60]), None):
        with pytest.raises(
            ValueError,
            match=re.escape(f"tables take the place of quality: give one of them, got both (quality={quality!r})"),
        ):
            function(IMAGE, quality, tables=QuantTables.flat(8))


@pytest.mark.parametrize(("step", "acts_as"), [(0, 1), (256, 255), (-4, 1), (1e9, 255), (torch.nan, 1), (0.4, 1)])
def test_steps_that_no_file_holds(step: float, acts_as: int) -> None:
    """Tensors are not read: they act as the nearest step. `check` and all functions that make a file refuse them."""
    table = torch.full((8, 8), step)
    tables = QuantTables(table, table)
    assert torch.equal(fdjpeg.jpeg(IMAGE, tables=tables), fdjpeg.jpeg(IMAGE, tables=QuantTables.flat(acts_as)))
    if step != 0.4:
        with pytest.raises(ValueError, match=re.escape(f"tables.y[0, 0] must be in 1…255, got {step:g}")):
            fdjpeg.check(IMAGE, tables=tables)
    with pytest.raises(ValueError, match=re.escape(f"got {step:g}")):
        tables.to_pillow()


# ---------------------------------------------------------------------------------------------------------------------
# names


@pytest.mark.parametrize("wrong", ["420", "4:2:1", "", 2, None, (2, 2)], ids=repr)
def test_subsampling(wrong: Any) -> None:
    message = f"subsampling must be one of '4:4:4', '4:2:2', '4:2:0', '4:4:0', '4:1:1', got {wrong!r}"
    for function in (fdjpeg.jpeg, fdjpeg.encode):
        with pytest.raises(ValueError, match=re.escape(message)):
            function(IMAGE, subsampling=wrong)
    with pytest.raises(ValueError, match=re.escape(message)):
        fdjpeg.JPEG(subsampling=wrong)


@pytest.mark.parametrize("wrong", ["linear", "Fancy", None, True], ids=repr)
def test_upsampling(wrong: Any) -> None:
    message = f"upsampling must be one of 'fancy', 'nearest', got {wrong!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        fdjpeg.jpeg(IMAGE, upsampling=wrong)
    with pytest.raises(ValueError, match=re.escape(message)):
        fdjpeg.decode(fdjpeg.encode(IMAGE), upsampling=wrong)


@pytest.mark.parametrize("wrong", ["exact", None, 8], ids=repr)
def test_arithmetic(wrong: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"arithmetic must be one of 'libjpeg', 'real', got {wrong!r}")):
        fdjpeg.jpeg(IMAGE, arithmetic=wrong)


def test_gradient() -> None:
    with pytest.raises(ValueError, match=re.escape("gradient must be one of 'straight-through', 'identity', 'cubic'")):
        fdjpeg.jpeg(IMAGE, gradient="ste")
    with pytest.raises(TypeError, match=re.escape("gradient must be one of 'straight-through', 'identity', 'cubic'")):
        fdjpeg.jpeg(IMAGE, gradient=None)  # type: ignore[arg-type]


def test_soft() -> None:
    with pytest.raises(TypeError, match=re.escape("soft must be True or False, got 1")):
        fdjpeg.jpeg(IMAGE, arithmetic="real", gradient="sine", soft=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape("soft=True needs arithmetic='real', got 'libjpeg'")):
        fdjpeg.jpeg(IMAGE, gradient="sine", soft=True)
    with pytest.raises(
        ValueError, match=re.escape("soft=True needs a gradient with a smooth forward, got 'straight-through'")
    ):
        fdjpeg.jpeg(IMAGE, arithmetic="real", soft=True)


# ---------------------------------------------------------------------------------------------------------------------
# decode


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float8_e5m2, torch.complex64], ids=str)
def test_dtype_of_decode(dtype: torch.dtype) -> None:
    with pytest.raises(
        TypeError, match=re.escape(f"dtype must be uint8, float16, bfloat16, float32 or float64, got {dtype}")
    ):
        fdjpeg.decode(fdjpeg.encode(IMAGE), dtype)


def test_decode_of_things_that_are_no_coefficients() -> None:
    with pytest.raises(TypeError, match=re.escape("coefficients must be fdjpeg.Coefficients, got Tensor")):
        fdjpeg.decode(IMAGE)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------------
# The ops themselves, which a backend's author or a C++ caller may call


def _planes() -> Tensor:
    return torch.ops.fdjpeg.round_trip(IMAGE, None, 50.0, 2, 2, True)[1]


def _blocks() -> tuple[Tensor, ...]:
    return tuple(torch.ops.fdjpeg.encode(IMAGE, None, 50.0, 2, 2))


STEPS = torch.ones(1, 3, 8, 8)

WRONG_CALLS: dict[str, tuple[Callable[..., Any], str]] = {
    "image of three dimensions": (
        lambda ops: ops.round_trip(IMAGE[0], None, 50.0, 2, 2, True),
        "image must have shape (N, 1, H, W) or (N, 3, H, W), got (3, 16, 24)",
    ),
    "integer image": (
        lambda ops: ops.encode(IMAGE.int(), None, 50.0, 2, 2),
        "image must be uint8, float16, bfloat16, float32 or float64, got Int",
    ),
    "sampling factors": (
        lambda ops: ops.round_trip(IMAGE, None, 50.0, 3, 1, True),
        "horizontal and vertical must be (1, 1), (2, 1), (2, 2), (1, 2) or (4, 1), got (3, 1)",
    ),
    "double tables": (
        lambda ops: ops.round_trip(IMAGE, STEPS.double(), 0.0, 2, 2, True),
        "tables must be float32, got Double",
    ),
    "two tables": (
        lambda ops: ops.round_trip(IMAGE, STEPS[:, :2], 0.0, 2, 2, True),
        "tables must have shape (1, 3, 8, 8) or (2, 3, 8, 8), got (1, 2, 8, 8)",
    ),
    "gradient of another shape": (
        lambda ops: ops.round_trip_backward(IMAGE[:1], _planes(), IMAGE, None, 50.0, 2, 2, True, False),
        "grad must have the image's shape (2, 3, 16, 24), got (1, 3, 16, 24)",
    ),
    "gradient of another dtype": (
        lambda ops: ops.round_trip_backward(IMAGE.double(), _planes(), IMAGE, None, 50.0, 2, 2, True, False),
        "grad must have the image's floating dtype Float, got Double",
    ),
    "planes of another image": (
        lambda ops: ops.round_trip_backward(IMAGE, _planes()[:, 1:], IMAGE, None, 50.0, 2, 2, True, False),
        "planes must be contiguous uint8 of shape (2, ",
    ),
    "coefficients of another size": (
        lambda ops: ops.decode(*_blocks(), STEPS, 17, 24, 2, 2, True, torch.uint8),
        "y must be int16 of shape (2, 3, 3, 8, 8), got Short of (2, 2, 3, 8, 8)",
    ),
    "coefficients of another dtype": (
        lambda ops: ops.decode(_blocks()[0].int(), *_blocks()[1:], STEPS, 16, 24, 2, 2, True, torch.uint8),
        "y must be int16 of shape (2, 2, 3, 8, 8), got Int",
    ),
    "negative size": (
        lambda ops: ops.decode(*_blocks(), STEPS, -1, 24, 2, 2, True, torch.uint8),
        "y must be int16",
    ),
    "integers out": (
        lambda ops: ops.decode(*_blocks(), STEPS, 16, 24, 2, 2, True, torch.int32),
        "dtype must be uint8, float16, bfloat16, float32 or float64, got Int",
    ),
}


@pytest.mark.skipif(fdjpeg.backends()["cpu"] != "available", reason="the reference trusts its callers")
@pytest.mark.parametrize(("call", "message"), WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_ops_check_what_they_get(call: Callable[..., Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(message)):
        call(torch.ops.fdjpeg)


# ---------------------------------------------------------------------------------------------------------------------
# Unusual, but right


def test_unusual_tensors_work() -> None:
    expected = fdjpeg.jpeg(IMAGE, 50)
    plain = IMAGE.clone()
    for image in (
        torch.nn.Parameter(plain),
        plain.as_subclass(_Subclass),
        torch._neg_view(-plain),
        plain[:, [0, 1, 2]],
        plain.share_memory_(),
        torch.from_numpy(IMAGE.numpy()),
    ):
        assert torch.equal(fdjpeg.jpeg(image, 50).detach().as_subclass(Tensor), expected)


class _Subclass(Tensor):
    pass


def test_read_only_memory_is_only_read() -> None:
    array = IMAGE.numpy().copy()
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about such memory
        image = torch.from_numpy(array)
    assert torch.equal(fdjpeg.jpeg(image, 50), fdjpeg.jpeg(IMAGE, 50))


def test_float64_through_and_through() -> None:
    image = IMAGE.double()
    expected = oracles.from_bytes(oracles.round_trip(oracles.to_bytes(image)[0], 50, "4:2:0"), torch.float64)
    quality = torch.tensor(50, dtype=torch.float64, requires_grad=True)
    tables = QuantTables.standard(quality)
    for out in (fdjpeg.jpeg(image, quality), fdjpeg.jpeg(image, tables=tables)):
        assert out.dtype == torch.float64
        assert torch.equal(out[0].detach(), expected)
        (of_quality,) = torch.autograd.grad(out.sum(), quality, retain_graph=True)
        assert of_quality.dtype == torch.float64
