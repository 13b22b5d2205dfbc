"""Results do not depend on batching, memory layout, requested gradients, threads or leading dimensions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import cases
from support.backends import Backend
from support.settings import FACTORS
from torch import Tensor

import fdjpeg

SUBSAMPLINGS = pytest.mark.parametrize("subsampling", FACTORS)
CHANNELS = pytest.mark.parametrize("channels", [3, 1], ids=["rgb", "grey"])
DTYPES = pytest.mark.parametrize("dtype", cases.DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
FLOATS = pytest.mark.parametrize("dtype", cases.DTYPES[1:], ids=lambda dtype: str(dtype).removeprefix("torch."))

#: Every subsampling of RGB, and grey.
KINDS = [*((subsampling, 3) for subsampling in FACTORS), ("4:2:0", 1)]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _transposed(x: Tensor) -> Tensor:
    """Returns a copy with columns farther apart than rows."""
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def _batch_last(x: Tensor) -> Tensor:
    return x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def _with_gaps(x: Tensor) -> Tensor:
    """Returns a copy in every second row and third column of a larger tensor, from an odd offset."""
    batch, channels, height, width = x.shape
    larger = torch.full((batch, channels + 1, 2 * height + 1, 3 * width + 2), 77).to(x.dtype)
    view = larger[:, 1:, 1::2, 2::3]
    view.copy_(x)
    return view


def _backwards(x: Tensor) -> Tensor:
    """Returns a copy as a crop from a larger image, off any alignment."""
    larger = torch.nn.functional.pad(x.double(), (3, 2, 1, 4)).to(x.dtype)
    return larger[:, :, 1:-4, 3:-2]


def _unaligned(x: Tensor) -> Tensor:
    """Returns a contiguous copy at an address that is not a multiple of any vector's size."""
    flat = torch.empty(x.numel() + 1, dtype=x.dtype)
    view = flat[1:].view(x.shape)
    return view.copy_(x)


LAYOUTS = {
    "channels last": _channels_last,
    "transposed": _transposed,
    "batch last": _batch_last,
    "with gaps": _with_gaps,
    "a crop": _backwards,
    "unaligned": _unaligned,
}


def _round_trip_and_back(
    backend: Backend, image: Tensor, grad: Tensor | None, tables: Tensor | None, quality: float, subsampling: str
) -> tuple[Tensor, ...]:
    """Returns forward's results, the coefficients, and for floating images both gradients."""
    setting = (*FACTORS[subsampling], True)
    image = image.to(backend.device)
    tables = None if tables is None else tables.to(backend.device)
    out, planes = backend.round_trip(image, tables, quality, *setting)
    results = (out, planes, *backend.encode(image, tables, quality, *setting[:2]))
    if grad is not None:
        grad = grad.to(backend.device)
        results += tuple(backend.round_trip_backward(grad, planes, image, tables, quality, *setting, True))
    return results


def _case(
    rng: np.random.Generator, channels: int, dtype: torch.dtype, images: int = 3, size: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None, float]:
    height, width = size or (int(rng.integers(1, 60)), int(rng.integers(1, 60)))
    batch = cases.draw(rng, channels, height, width, images)
    image = cases.samples(rng, batch.pixels, dtype)
    grad = torch.from_numpy(rng.standard_normal(batch.pixels.shape)).to(dtype) if dtype.is_floating_point else None
    return image, grad, *batch.arguments()


# ---------------------------------------------------------------------------------------------------------------------
# Batching


@DTYPES
@CHANNELS
@SUBSAMPLINGS
def test_a_batch_is_its_images_one_by_one(
    backend: Backend, subsampling: str, channels: int, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    image, grad, tables, quality = _case(rng, channels, dtype, images=4)
    together = _round_trip_and_back(backend, image, grad, tables, quality, subsampling)
    for i in range(4):
        one = slice(i, i + 1)
        alone = _round_trip_and_back(
            backend,
            image[one],
            None if grad is None else grad[one],
            None if tables is None else tables[one],
            quality,
            subsampling,
        )
        for a, b in zip(together, alone, strict=True):
            assert _same(a[one], b)


@SUBSAMPLINGS
def test_an_empty_batch(backend: Backend, subsampling: str) -> None:
    for tables in (None, torch.ones(1, 3, 8, 8), torch.ones(0, 3, 8, 8)):
        for channels in (1, 3):
            image = torch.empty(0, channels, 20, 31)
            out, planes, y, cb, cr, of_image, of_tables = _round_trip_and_back(
                backend, image, image, tables, 75.0, subsampling
            )
            assert out.shape == of_image.shape == image.shape
            assert planes.size(0) == y.size(0) == cb.size(0) == cr.size(0) == 0
            assert of_tables.shape == (0, 3, 8, 8)
            steps = torch.ones(1, 3, 8, 8, device=backend.device)
            decoded = backend.decode(y, cb, cr, steps, 20, 31, *FACTORS[subsampling], True, torch.uint8)
            assert decoded.shape == image.shape


@pytest.mark.parametrize("size", [(1, 1), (20, 31)])
def test_an_empty_batch_through_the_layer(size: tuple[int, int]) -> None:
    for leading in ((0,), (2, 0), (0, 3)):
        image = torch.empty(*leading, 3, *size, requires_grad=True)
        out = fdjpeg.jpeg(image)
        assert out.shape == image.shape
        out.sum().backward()
        assert image.grad is not None
        assert image.grad.shape == image.shape
    assert len(fdjpeg.encode(torch.empty(0, 3, *size))) == 0
    assert fdjpeg.jpeg(torch.empty(0, 1, *size), torch.empty(0)).shape == (0, 1, *size)


@given(leading=st.lists(st.integers(0, 3), max_size=3), channels=st.sampled_from([1, 3]), seed=st.integers(0, 2**32))
def test_leading_dimensions(leading: list[int], channels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(*leading, channels, 11, 18, generator=generator)
    flat = image.reshape(-1, channels, 11, 18)
    quality = torch.randint(1, 101, (flat.size(0),), generator=generator)
    assert _same(fdjpeg.jpeg(image, quality), fdjpeg.jpeg(flat, quality).reshape(image.shape))
    assert _same(fdjpeg.decode(fdjpeg.encode(image, quality), image.dtype), fdjpeg.jpeg(flat, quality))


@DTYPES
@SUBSAMPLINGS
def test_quality_for_each_image_is_separate_calls(
    subsampling: str, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    image, *_ = _case(rng, 3, dtype, images=5)
    image = image if dtype == torch.uint8 else image.nan_to_num(0.5, 0.5, 0.5).clamp(0, 1)
    numbers = [1, 49, 50, 77, 100]
    separate = [fdjpeg.jpeg(image[i], numbers[i], subsampling=subsampling) for i in range(5)]
    for quality_dtype in (torch.int64, torch.uint8, torch.int32, torch.float16, torch.float32, torch.float64):
        quality = torch.tensor(numbers, dtype=quality_dtype)
        assert _same(fdjpeg.jpeg(image, quality, subsampling=subsampling), torch.stack(separate))
    for i, number in enumerate(numbers):
        zero_dim = fdjpeg.jpeg(image, torch.tensor(number), subsampling=subsampling)
        assert _same(zero_dim, fdjpeg.jpeg(image, number, subsampling=subsampling))
        assert _same(zero_dim[i], separate[i])


@SUBSAMPLINGS
def test_tables_for_each_image_are_separate_calls(subsampling: str, rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.random((3, 3, 21, 34))).float()
    steps = torch.from_numpy(rng.integers(1, 100, (3, 3, 8, 8)))
    batched = fdjpeg.jpeg(image, tables=fdjpeg.QuantTables(*steps.unbind(1)), subsampling=subsampling)
    for i in range(3):
        alone = fdjpeg.jpeg(image[i], tables=fdjpeg.QuantTables(*steps[i]), subsampling=subsampling)
        assert _same(batched[i], alone)


# ---------------------------------------------------------------------------------------------------------------------
# Memory layout


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@DTYPES
def test_strided_images_are_as_contiguous_ones(
    backend: Backend, layout: Callable[[Tensor], Tensor], dtype: torch.dtype, rng: np.random.Generator
) -> None:
    for subsampling, channels in KINDS:
        image, grad, tables, quality = _case(rng, channels, dtype)
        strided = layout(image)
        expected = _round_trip_and_back(backend, image, grad, tables, quality, subsampling)
        actual = _round_trip_and_back(backend, strided, grad, tables, quality, subsampling)
        for a, b in zip(actual, expected, strict=True):
            assert _same(a, b)
        assert actual[0].stride() == torch.empty_like(strided).stride()
        if grad is not None:
            assert actual[5].stride() == torch.empty_like(strided).stride()


@pytest.mark.parametrize("dim", range(4))
def test_expanded_images(backend: Backend, dim: int, rng: np.random.Generator) -> None:
    """Such an image repeats one element along a dimension, with stride 0, and is not written to."""
    for subsampling in FACTORS:
        shape = [2, 3, 17, 26]
        shape[dim] = 1
        narrow = torch.from_numpy(rng.random(shape)).float()
        shape[dim] = (2, 3, 17, 26)[dim]
        expanded = narrow.expand(shape)
        grad = torch.from_numpy(rng.standard_normal(shape)).float()
        expected = _round_trip_and_back(backend, expanded.contiguous(), grad, None, 75.0, subsampling)
        actual = _round_trip_and_back(backend, expanded, grad, None, 75.0, subsampling)
        for a, b in zip(actual, expected, strict=True):
            assert _same(a, b)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@FLOATS
def test_strided_gradients_are_as_contiguous_ones(
    backend: Backend, layout: Callable[[Tensor], Tensor], dtype: torch.dtype, rng: np.random.Generator
) -> None:
    for subsampling, channels in KINDS:
        image, grad, tables, quality = _case(rng, channels, dtype)
        assert grad is not None
        expected = _round_trip_and_back(backend, image, grad, tables, quality, subsampling)
        actual = _round_trip_and_back(backend, image, layout(grad), tables, quality, subsampling)
        for a, b in zip(actual, expected, strict=True):
            assert _same(a, b)
        assert actual[5].stride() == torch.empty_like(image).stride()


@pytest.mark.parametrize("kept", range(-1, 4))
def test_expanded_gradients_are_as_contiguous_ones(backend: Backend, kept: int, rng: np.random.Generator) -> None:
    """The gradients of a sum: stride 0 in all dimensions, or in all but one."""
    for subsampling in FACTORS:
        shape = (2, 3, 19, 27)
        narrow = [size if dim == kept else 1 for dim, size in enumerate(shape)]
        grad = torch.from_numpy(rng.standard_normal(narrow)).float().expand(shape)
        image = torch.from_numpy(rng.random(shape)).float()
        expected = _round_trip_and_back(backend, image, grad.contiguous(), None, 75.0, subsampling)
        actual = _round_trip_and_back(backend, image, grad, None, 75.0, subsampling)
        for a, b in zip(actual, expected, strict=True):
            assert _same(a, b)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_strided_tables_and_coefficients(
    backend: Backend, layout: Callable[[Tensor], Tensor], rng: np.random.Generator
) -> None:
    image = torch.from_numpy(rng.random((2, 3, 25, 34))).float()
    grad = torch.from_numpy(rng.standard_normal(image.shape)).float()
    tables = torch.from_numpy(cases.TABLES["random"](rng, 2)).float()
    expected = _round_trip_and_back(backend, image, grad, tables, 0.0, "4:2:0")
    actual = _round_trip_and_back(backend, image, grad, layout(tables), 0.0, "4:2:0")
    for a, b in zip(actual, expected, strict=True):
        assert _same(a, b)
    coefficients = [layout(x.flatten(1, 2)).unflatten(1, x.shape[1:3]) for x in expected[2:5]]
    assert not coefficients[0].is_contiguous() or layout is _unaligned
    decoded = backend.decode(*coefficients, tables, 25, 34, 2, 2, True, torch.float32)
    assert _same(decoded, expected[0])


@pytest.mark.parametrize("arithmetic", ["libjpeg", "real"])
@pytest.mark.parametrize("gradient", ["straight-through", "identity", "cubic"])
def test_the_layer_gives_what_empty_like_would_hold(gradient: str, arithmetic: str, rng: np.random.Generator) -> None:
    """Strides of the output and of the gradient, for batches, single images and videos."""
    image = torch.from_numpy(rng.random((2, 2, 3, 12, 18))).float()
    views = [
        image,
        image[0, 0],
        image[0],
        image[0].contiguous(memory_format=torch.channels_last),
        image.transpose(0, 1),
        image[:, :, :, ::2, ::3],
        image[0, 0].permute(1, 2, 0).contiguous().permute(2, 0, 1),
        image.to(memory_format=torch.channels_last_3d),
    ]
    for view in views:
        view = view.detach().requires_grad_()
        out = fdjpeg.jpeg(view, 50, gradient=gradient, arithmetic=arithmetic)
        assert out.stride() == torch.empty_like(view).stride()
        plain = fdjpeg.jpeg(view.detach().contiguous(), 50, gradient=gradient, arithmetic=arithmetic)
        assert _same(out.detach(), plain)
        (of_image,) = torch.autograd.grad(out.sum(), view)
        assert of_image.shape == view.shape


# ---------------------------------------------------------------------------------------------------------------------
# Requested gradients, unchanged inputs, threads


@FLOATS
@pytest.mark.parametrize("gradient", ["straight-through", "identity", "cubic", "zero"])
def test_forward_is_the_same_with_and_without_grad(gradient: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    for subsampling in FACTORS:
        image = torch.from_numpy(rng.random((2, 3, 19, 30))).to(dtype)
        quality = torch.tensor([30.0, 90.0])
        steps = fdjpeg.QuantTables.standard(quality)
        plain = fdjpeg.jpeg(image, quality, subsampling=subsampling, gradient=gradient)
        with torch.no_grad():
            assert _same(plain, fdjpeg.jpeg(image, quality, subsampling=subsampling, gradient=gradient))
        with torch.inference_mode():
            assert torch.equal(plain, fdjpeg.jpeg(image, quality, subsampling=subsampling, gradient=gradient))
        tracked = image.clone().requires_grad_()
        learned = fdjpeg.QuantTables(steps.y.clone().requires_grad_(), steps.cb.clone().requires_grad_())
        for x in (image, tracked):
            for settings in (
                {"quality": quality.clone().requires_grad_()},
                {"quality": quality},
                {"tables": learned},
                {"tables": steps},
            ):
                out = fdjpeg.jpeg(x, subsampling=subsampling, gradient=gradient, **settings)  # type: ignore[arg-type]
                assert _same(plain, out.detach())


@DTYPES
def test_inputs_are_never_modified(backend: Backend, dtype: torch.dtype, rng: np.random.Generator) -> None:
    for subsampling in FACTORS:
        image, grad, _, _ = _case(rng, 3, dtype, images=2)
        tables = torch.from_numpy(cases.TABLES["random"](rng, 2)).float()
        setting = (*FACTORS[subsampling], True)
        out, planes = backend.round_trip(image, tables, 0.0, *setting)
        coefficients = backend.encode(image, tables, 0.0, *setting[:2])
        inputs = [x for x in (image, grad, tables, planes, *coefficients) if x is not None]
        before = [x.clone() for x in inputs]
        assert out.untyped_storage().data_ptr() != image.untyped_storage().data_ptr()
        backend.round_trip(image, tables, 0.0, *setting)
        backend.encode(image, tables, 0.0, *setting[:2])
        if grad is not None:
            of_image, _ = backend.round_trip_backward(grad, planes, image, tables, 0.0, *setting, True)
            assert of_image.untyped_storage().data_ptr() != grad.untyped_storage().data_ptr()
        backend.decode(*coefficients, tables, *image.shape[2:], *setting, dtype)
        for x, y in zip(inputs, before, strict=True):
            assert torch.equal(x.nan_to_num(nan=-9.0), y.nan_to_num(nan=-9.0))


@pytest.mark.parametrize("gradient", ["straight-through", "identity", "cubic"])
def test_the_callers_tensors_are_never_modified(gradient: str, rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.uniform(-0.2, 1.2, (2, 3, 9, 12))).float().requires_grad_()
    for quality_values in ([0.0, 101.0], [float("nan"), 30.7]):
        quality = torch.tensor(quality_values, requires_grad=True)
        copies = image.detach().clone(), quality.detach().clone()
        versions = image._version, quality._version
        with pytest.warns(UserWarning, match=r"image must lie in \[0, 1\]"):
            out = fdjpeg.jpeg(image, quality, gradient=gradient)
        out.sum().backward()
        assert (image._version, quality._version) == versions
        assert torch.equal(image, copies[0])
        assert torch.equal(quality.nan_to_num(nan=-9.0), copies[1].nan_to_num(nan=-9.0))
    steps = torch.tensor([0.0, 300.0, torch.nan, 2.5]).repeat(16).reshape(8, 8)
    copy, version = steps.clone(), steps._version
    fdjpeg.jpeg(image.detach().clamp(0, 1), tables=fdjpeg.QuantTables(steps, steps))
    assert steps._version == version
    assert torch.equal(steps.nan_to_num(nan=-9.0), copy.nan_to_num(nan=-9.0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_the_same_for_any_number_of_threads(backend: Backend, dtype: torch.dtype, rng: np.random.Generator) -> None:
    """Table gradients too, which are sums over all blocks: to the last bit, in every run."""
    before = torch.get_num_threads()
    try:
        for channels, images, size in ((3, 3, (90, 131)), (3, 1, (201, 150)), (1, 5, (33, 65))):
            image, grad, tables, quality = _case(rng, channels, dtype, images, size)
            torch.set_num_threads(1)
            expected = _round_trip_and_back(backend, image, grad, tables, quality, "4:2:0")
            for threads in (2, 5, 5):
                torch.set_num_threads(threads)
                actual = _round_trip_and_back(backend, image, grad, tables, quality, "4:2:0")
                for a, b in zip(actual, expected, strict=True):
                    assert _same(a, b)
    finally:
        torch.set_num_threads(before)
