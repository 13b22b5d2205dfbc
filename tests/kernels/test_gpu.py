"""The bits and numbers of the CPU's kernels on a GPU; the other tests of GPUs are in ``test_gpu_*.py``.

`benchmarks/gpu.py` runs these where only torch and pytest are certain to be installed, so they need no other package.
"""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
import torch
from support import every_op, gpu_cases
from support.gpu_cases import DEVICE, DTYPES, FACTORS, TOLERANCE, images, layouts, real
from torch import Tensor

import fdjpeg
from fdjpeg import _slopes

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]

# The shared fixtures, for this file's tests.
ops, seed = gpu_cases.ops, gpu_cases.seed


def _assert_same_bits(ops: Any, image: Tensor, tables: Tensor | None, factors: tuple[int, int], fancy: bool) -> None:
    expected, expected_planes = torch.ops.fdjpeg.round_trip(image, tables, 60.0, *factors, fancy)
    on_gpu = None if tables is None else tables.to(DEVICE)
    for layout in layouts(image):
        moved = layout(image.to(DEVICE))
        out, planes = ops.round_trip(moved, on_gpu, 60.0, *factors, fancy)
        assert torch.equal(out.cpu(), expected)
        samples = fdjpeg._geometry.Geometry.of(*image.shape[2:], image.shape[1], *factors).flag_offset
        assert torch.equal(planes.cpu()[:, :samples], expected_planes[:, :samples])
        if not image.is_floating_point():
            continue
        grad = torch.randn(image.shape).to(image.dtype)
        arguments = (tables, 60.0, *factors, fancy, True)
        gradient, of_tables = torch.ops.fdjpeg.round_trip_backward(grad, expected_planes, image, *arguments)
        actual, actual_of_tables = ops.round_trip_backward(
            layout(grad.to(DEVICE)), planes, moved, on_gpu, 60.0, *factors, fancy, True
        )
        for one, other, tolerance in ((actual, gradient, TOLERANCE[image.dtype]), (actual_of_tables, of_tables, 1e-4)):
            difference = (one.cpu().double() - other.double()).abs().max()
            assert difference <= tolerance * other.double().abs().max()


def _assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """On a GPU and on the CPU, up to a share of the largest number."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert actual.device.type == DEVICE
    difference = (actual.cpu().double() - expected.double()).abs().max()
    assert difference <= tolerance * expected.double().abs().max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_small_images_give_the_bits_of_the_cpu(ops: Any, factors: tuple[int, int], dtype: torch.dtype) -> None:
    for fancy, channels, (height, width) in itertools.product((True, False), (3, 1), ((1, 1), (21, 37), (48, 64))):
        tables = torch.rand(2, 3, 8, 8) * 40 if fancy else None
        _assert_same_bits(ops, images(dtype, 2, channels, height, width), tables, factors, fancy)


@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_larger_images_give_the_bits_of_the_cpu(ops: Any, factors: tuple[int, int]) -> None:
    for height, width in ((257, 389), (224, 224), (1000, 1504)):
        _assert_same_bits(ops, images(torch.float32, 3, 3, height, width), None, factors, True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_bits_of_pillow(ops: Any, dtype: torch.dtype) -> None:
    Image = pytest.importorskip("PIL.Image")
    numpy = pytest.importorskip("numpy")
    for channels, mode in ((3, "RGB"), (1, "L")):
        pixels = (torch.rand(channels, 45, 67) * 255).to(torch.uint8)
        image = Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy())
        assert image.mode == mode
        for subsampling, factors in ((0, (1, 1)), (1, (2, 1)), (2, (2, 2))):
            for quality in (5, 50, 75, 95, 100):
                file = io.BytesIO()
                image.save(file, "jpeg", quality=quality, subsampling=subsampling)
                decoded = torch.from_numpy(numpy.array(Image.open(file))).view(45, 67, channels)
                # Every byte is itself again after a floating dtype of any width.
                given = pixels if dtype == torch.uint8 else (pixels.double() / 255).to(dtype)
                out, _ = ops.round_trip(given[None].to(DEVICE), None, float(quality), *factors, True)
                assert out.dtype == dtype
                actual = out[0].cpu() if dtype == torch.uint8 else (out[0].cpu().double() * 255).round().to(torch.uint8)
                assert torch.equal(actual, decoded.permute(2, 0, 1))


@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_small_coefficients_are_those_of_the_cpu(factors: tuple[int, int]) -> None:
    for channels in (3, 1):
        image = images(torch.float32, 2, channels, 45, 67)
        tables = torch.rand(1, 3, 8, 8) * 40
        expected = torch.ops.fdjpeg.encode(image, tables, 0.0, *factors)
        actual = torch.ops.fdjpeg.encode(image.to(DEVICE), tables.to(DEVICE), 0.0, *factors)
        for one, other in zip(actual, expected, strict=True):
            assert torch.equal(one.cpu(), other)
        options = (45, 67, *factors, True, torch.float32)
        decoded = torch.ops.fdjpeg.decode(*actual, tables.to(DEVICE), *options)
        assert torch.equal(decoded.cpu(), torch.ops.fdjpeg.decode(*expected, tables, *options))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_small_surrogates_give_the_gradients_of_the_cpu(factors: tuple[int, int], dtype: torch.dtype) -> None:
    slopes = _slopes.slope_table(fdjpeg.surrogates.resolve("sine"), torch.device("cpu"))
    for channels, fancy, (height, width) in itertools.product((3, 1), (True, False), ((21, 37), (100, 130))):
        image = images(dtype, 2, channels, height, width)
        grad = torch.randn(image.shape).to(dtype)
        tables = torch.rand(2, 3, 8, 8) * 40
        setting = (0.0, *factors, fancy)
        _, planes = torch.ops.fdjpeg.round_trip(image, tables, *setting)
        on_cpu = (grad, planes, image, tables)
        expected = torch.ops.fdjpeg.surrogate_backward(*on_cpu, *setting, True, slopes)
        on_gpu = [tensor.to(DEVICE) for tensor in on_cpu]
        actual = torch.ops.fdjpeg.surrogate_backward(*on_gpu, *setting, True, slopes.to(DEVICE))
        for one, other, tolerance in zip(actual, expected, (max(TOLERANCE[dtype], 2e-5), 1e-4), strict=True):
            difference = (one.cpu().double() - other.double()).abs().max()
            assert difference <= tolerance * other.double().abs().max()


@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_small_maps_of_qualities_give_the_bits_of_the_cpu(factors: tuple[int, int]) -> None:
    for dtype, channels in itertools.product(DTYPES, (3, 1)):
        image = images(dtype, 2, channels, 45, 67)
        qualities = torch.randint(0, 103, (2, 6, 9), dtype=torch.uint8)
        expected, _ = torch.ops.fdjpeg.round_trip_by_block(image, qualities, *factors, True)
        actual, _ = torch.ops.fdjpeg.round_trip_by_block(image.to(DEVICE), qualities.to(DEVICE), *factors, True)
        assert torch.equal(actual.cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_small_real_numbers_are_close_to_those_of_the_cpu(factors: tuple[int, int], dtype: torch.dtype) -> None:
    """Softly, as nothing jumps there."""
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 1e-4, torch.float64: 1e-10}[dtype]
    for channels, fancy, surrogate in itertools.product((3, 1), (True, False), (("sine", 0.0), ("softmax", 3.0))):
        image, grad = torch.rand(2, channels, 45, 67).to(dtype), torch.randn(2, channels, 45, 67).to(dtype)
        tables = torch.rand(2, 3, 8, 8) * 40 + 1
        setting = (0.0, *factors, fancy, *surrogate, 0.0, True)
        expected = real((tables, *setting), image, grad)
        actual = real((tables.to(DEVICE), *setting), image.to(DEVICE), grad.to(DEVICE))
        for one, other in zip(actual, expected, strict=True):
            _assert_close(one, other, tolerance)


@pytest.mark.parametrize(
    ("surrogate", "parameter", "soft"),
    [
        *(("straight-through", 0.0, False), ("zero", 0.0, False), ("cubic", 0.0, False), ("sine", 0.0, False)),
        *(("cubic", 0.0, True), ("fourier", 5.0, True), ("tanh", 4.0, True), ("softmax", 3.0, True)),
    ],
)
def test_small_real_numbers_with_each_surrogate(surrogate: str, parameter: float, soft: bool) -> None:
    """In float64, where none of some thousand coefficients is as near to a jump as the two sums are to each other."""
    image, grad = torch.rand(2, 3, 45, 67).double(), torch.randn(2, 3, 45, 67).double()
    setting = (None, 75.0, 2, 2, True, surrogate, parameter, 0.01, soft)
    expected = real(setting, image, grad)
    actual = real(setting, image.to(DEVICE), grad.to(DEVICE))
    for one, other in zip(actual, expected, strict=True):
        _assert_close(one, other, 1e-10)


def test_small_bytes_in_real_numbers() -> None:
    """Out comes a rounded byte, which a sum in another order moves by one at the most, and seldom."""
    image = torch.randint(0, 256, (2, 3, 45, 67), dtype=torch.uint8)
    setting = (None, 75.0, 2, 2, True, "sine", 0.0, 0.0, True)
    expected, _ = torch.ops.fdjpeg.real_round_trip(image, *setting)
    actual, _ = torch.ops.fdjpeg.real_round_trip(image.to(DEVICE), *setting)
    difference = (actual.cpu().int() - expected.int()).abs()
    assert difference.max() <= 1
    assert difference.sum() <= 0.001 * difference.numel()


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_small_block_transforms_are_close_to_those_of_the_cpu(dtype: torch.dtype) -> None:
    unit = torch.finfo(dtype).eps
    for shape in ((8, 8), (2, 3, 16, 104), (0, 8, 8), (5, 1, 64, 72), (1, 40, 1000)):
        samples = torch.randn(shape).to(dtype)
        blocks = torch.ops.fdjpeg.block_dct(samples)
        for op, source in ((torch.ops.fdjpeg.block_dct, samples), (torch.ops.fdjpeg.block_idct, blocks)):
            there = source.to(DEVICE)
            # Also from an address that no wide access may use, and from one number for each row.
            shifted = torch.cat([there.flatten()[:1], there.flatten()])[1:].view(there.shape)
            row = there[..., :1].expand_as(there)
            for given, same in ((there, source), (shifted, source), (row, row.cpu())):
                torch.testing.assert_close(op(given).cpu(), op(same), rtol=unit, atol=8 * unit)


@pytest.mark.parametrize("of", ["image", "tables", "quality", "a quality for each image"])
@pytest.mark.parametrize(
    "gradient", ["straight-through", "identity", "cubic", "sine", "fourier", "tanh", "softmax", "zero"]
)
def test_small_gradients_of_the_layer_are_those_of_the_cpu(gradient: str, of: str) -> None:
    """Of all that may require one, through autograd."""
    image, grad = torch.rand(2, 3, 40, 56), torch.randn(2, 3, 40, 56)
    leaf = {
        "image": image,
        "tables": torch.rand(8, 8) * 40 + 1,
        "quality": torch.tensor(40.0),
        "a quality for each image": torch.tensor([30.0, 80.0]),
    }[of]

    def gradient_on(device: str) -> Tensor:
        there = leaf.to(device).requires_grad_()
        if of == "image":
            out = fdjpeg.jpeg(there, 60, gradient=gradient)
        elif of == "tables":
            out = fdjpeg.jpeg(image.to(device), tables=fdjpeg.QuantTables(there, there), gradient=gradient)
        else:
            out = fdjpeg.jpeg(image.to(device), there, gradient=gradient)
        return torch.autograd.grad(out, there, grad.to(device))[0]

    _assert_close(gradient_on(DEVICE), gradient_on("cpu"), 1e-4)


def test_gradient_of_tables_is_the_same_bits_every_time(ops: Any) -> None:
    image, grad = torch.rand(4, 3, 300, 500, device=DEVICE), torch.randn(4, 3, 300, 500, device=DEVICE)
    _, planes = ops.round_trip(image, None, 40.0, 2, 2, True)
    first, *others = (ops.round_trip_backward(grad, planes, image, None, 40.0, 2, 2, True, True)[1] for _ in range(5))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_small_empty_batches_give_empty_results(factors: tuple[int, int], channels: int) -> None:
    every_op.assert_empty_batches_give_empty_results(torch.ops.fdjpeg, channels, factors, DEVICE)
