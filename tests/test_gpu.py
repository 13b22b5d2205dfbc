"""What only a GPU can show: the bits of the CPU's kernels on it, streams, graphs, size, several devices, memory.

`benchmarks/gpu.py` runs these where no other package than torch and pytest need be there; so nothing here takes more.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import fdjpeg

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]

FACTORS = [(1, 1), (2, 1), (2, 2), (1, 2), (4, 1)]
DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
#: Of the largest gradient: what summing in another order costs, and rounding to the dtype.
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 2e-5, torch.float64: 1e-12}


@pytest.fixture(params=["cuda", "triton"])
def ops(request: pytest.FixtureRequest) -> Any:
    """The two ops of the round trip, by CUDA and by Triton."""
    if fdjpeg.backends()[request.param] != "available":
        pytest.skip(fdjpeg.backends()[request.param])
    if request.param == "cuda":
        return torch.ops.fdjpeg
    from fdjpeg import triton_kernels

    return triton_kernels


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _images(dtype: torch.dtype, *shape: int) -> Tensor:
    image = torch.rand(shape)
    if dtype == torch.uint8:
        return (image * 255).to(dtype)
    image.view(-1)[:: max(3, image.numel() // 5)] = float("nan")
    return image.to(dtype)


def _layouts(image: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    yield lambda x: x
    yield lambda x: x.to(memory_format=torch.channels_last)
    yield lambda x: x.repeat_interleave(2, -1)[..., ::2]
    yield lambda x: torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape)


def _assert_same_bits(ops: Any, image: Tensor, tables: Tensor | None, factors: tuple[int, int], fancy: bool) -> None:
    expected, expected_planes = torch.ops.fdjpeg.round_trip(image, tables, 60.0, *factors, fancy)
    on_gpu = None if tables is None else tables.cuda()
    for layout in _layouts(image):
        moved = layout(image.cuda())
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
            layout(grad.cuda()), planes, moved, on_gpu, 60.0, *factors, fancy, True
        )
        for one, other, tolerance in ((actual, gradient, TOLERANCE[image.dtype]), (actual_of_tables, of_tables, 1e-4)):
            difference = (one.cpu().double() - other.double()).abs().max()
            assert difference <= tolerance * other.double().abs().max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_small_images_give_the_bits_of_the_cpu(ops: Any, factors: tuple[int, int], dtype: torch.dtype) -> None:
    for fancy, channels, (height, width) in itertools.product((True, False), (3, 1), ((1, 1), (21, 37), (48, 64))):
        tables = torch.rand(2, 3, 8, 8) * 40 if fancy else None
        _assert_same_bits(ops, _images(dtype, 2, channels, height, width), tables, factors, fancy)


@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_larger_images_give_the_bits_of_the_cpu(ops: Any, factors: tuple[int, int]) -> None:
    for height, width in ((257, 389), (224, 224), (1000, 1504)):
        _assert_same_bits(ops, _images(torch.float32, 3, 3, height, width), None, factors, True)


def test_small_bits_of_pillow(ops: Any) -> None:
    Image = pytest.importorskip("PIL.Image")
    numpy = pytest.importorskip("numpy")
    pixels = (torch.rand(3, 45, 67) * 255).to(torch.uint8)
    for subsampling, factors in ((0, (1, 1)), (1, (2, 1)), (2, (2, 2))):
        for quality in (5, 50, 75, 95, 100):
            file = io.BytesIO()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(
                file, "jpeg", quality=quality, subsampling=subsampling
            )
            expected = torch.from_numpy(numpy.array(Image.open(file))).permute(2, 0, 1)
            out, _ = ops.round_trip(pixels[None].cuda(), None, float(quality), *factors, True)
            assert torch.equal(out[0].cpu(), expected)


@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_small_coefficients_are_those_of_the_cpu(factors: tuple[int, int]) -> None:
    for channels in (3, 1):
        image = _images(torch.float32, 2, channels, 45, 67)
        tables = torch.rand(1, 3, 8, 8) * 40
        expected = torch.ops.fdjpeg.encode(image, tables, 0.0, *factors)
        actual = torch.ops.fdjpeg.encode(image.cuda(), tables.cuda(), 0.0, *factors)
        for one, other in zip(actual, expected, strict=True):
            assert torch.equal(one.cpu(), other)
        options = (45, 67, *factors, True, torch.float32)
        decoded = torch.ops.fdjpeg.decode(*actual, tables.cuda(), *options)
        assert torch.equal(decoded.cpu(), torch.ops.fdjpeg.decode(*expected, tables, *options))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_small_surrogates_give_the_gradients_of_the_cpu(factors: tuple[int, int], dtype: torch.dtype) -> None:
    slopes = fdjpeg.surrogates.slope_table(fdjpeg.surrogates.resolve("sine"), torch.device("cpu"))
    for channels, fancy, (height, width) in itertools.product((3, 1), (True, False), ((21, 37), (100, 130))):
        image = _images(dtype, 2, channels, height, width)
        grad = torch.randn(image.shape).to(dtype)
        tables = torch.rand(2, 3, 8, 8) * 40
        setting = (0.0, *factors, fancy)
        _, planes = torch.ops.fdjpeg.round_trip(image, tables, *setting)
        on_cpu = (grad, planes, image, tables)
        expected = torch.ops.fdjpeg.surrogate_backward(*on_cpu, *setting, True, slopes)
        on_gpu = [tensor.cuda() for tensor in on_cpu]
        actual = torch.ops.fdjpeg.surrogate_backward(*on_gpu, *setting, True, slopes.cuda())
        for one, other, tolerance in zip(actual, expected, (max(TOLERANCE[dtype], 2e-5), 1e-4), strict=True):
            difference = (one.cpu().double() - other.double()).abs().max()
            assert difference <= tolerance * other.double().abs().max()


@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_small_maps_of_qualities_give_the_bits_of_the_cpu(factors: tuple[int, int]) -> None:
    for dtype, channels in itertools.product(DTYPES, (3, 1)):
        image = _images(dtype, 2, channels, 45, 67)
        qualities = torch.randint(0, 103, (2, 6, 9), dtype=torch.uint8)
        expected, _ = torch.ops.fdjpeg.round_trip_by_block(image, qualities, *factors, True)
        actual, _ = torch.ops.fdjpeg.round_trip_by_block(image.cuda(), qualities.cuda(), *factors, True)
        assert torch.equal(actual.cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_small_real_numbers_are_close_to_those_of_the_cpu(factors: tuple[int, int], dtype: torch.dtype) -> None:
    """Softly, as nothing jumps there."""
    tolerance = {torch.float16: 2e-3, torch.float32: 1e-4, torch.float64: 1e-10}[dtype]
    for channels, fancy, surrogate in itertools.product((3, 1), (True, False), (("sine", 0.0), ("softmax", 3.0))):
        image, grad = torch.rand(2, channels, 45, 67).to(dtype), torch.randn(2, channels, 45, 67).to(dtype)
        tables = torch.rand(2, 3, 8, 8) * 40 + 1
        setting = (tables, 0.0, *factors, fancy, *surrogate, 0.0, True)
        on_gpu = (tables.cuda(), *setting[1:])
        out, mask = torch.ops.fdjpeg.real_round_trip(image, *setting)
        expected = (out, *torch.ops.fdjpeg.real_round_trip_backward(grad, mask, image, *setting, True))
        actual_out, _ = torch.ops.fdjpeg.real_round_trip(image.cuda(), *on_gpu)
        arguments = (grad.cuda(), mask.cuda(), image.cuda(), *on_gpu, True)
        actual = (actual_out, *torch.ops.fdjpeg.real_round_trip_backward(*arguments))
        for one, other in zip(actual, expected, strict=True):
            difference = (one.cpu().double() - other.double()).abs().max()
            assert difference <= tolerance * other.double().abs().max()


def test_gradient_of_tables_is_the_same_bits_every_time(ops: Any) -> None:
    image, grad = torch.rand(4, 3, 300, 500, device="cuda"), torch.randn(4, 3, 300, 500, device="cuda")
    _, planes = ops.round_trip(image, None, 40.0, 2, 2, True)
    first, *others = (ops.round_trip_backward(grad, planes, image, None, 40.0, 2, 2, True, True)[1] for _ in range(5))
    assert all(torch.equal(first, other) for other in others)


def test_runs_on_the_current_stream(ops: Any) -> None:
    image = torch.rand(8, 3, 224, 224, device="cuda")
    expected, _ = ops.round_trip(image, None, 75.0, 2, 2, True)
    late = torch.zeros_like(image)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a kernel on another stream would read the zeros
        late.copy_(image)
        out, _ = ops.round_trip(late, None, 75.0, 2, 2, True)
    stream.synchronize()
    assert torch.equal(out, expected)


def test_never_waits_for_the_gpu(ops: Any) -> None:
    image = torch.rand(2, 3, 64, 64, device="cuda")
    ops.round_trip(image, None, 75.0, 2, 2, True)  # what is compiled or copied once
    torch.cuda.set_sync_debug_mode("error")
    try:
        out, planes = ops.round_trip(image, None, 75.0, 2, 2, True)
        ops.round_trip_backward(out, planes, image, None, 75.0, 2, 2, True, False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_can_be_captured_in_a_graph(ops: Any) -> None:
    image = torch.rand(2, 3, 64, 64, device="cuda")
    ops.round_trip_backward(*ops.round_trip(image, None, 75.0, 2, 2, True), image, None, 75.0, 2, 2, True, False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, planes = ops.round_trip(image, None, 75.0, 2, 2, True)
        grad, _ = ops.round_trip_backward(out, planes, image, None, 75.0, 2, 2, True, False)
    image.copy_(torch.rand_like(image))
    graph.replay()
    expected, expected_planes = ops.round_trip(image, None, 75.0, 2, 2, True)
    assert torch.equal(out, expected)
    assert torch.equal(
        grad, ops.round_trip_backward(expected, expected_planes, image, None, 75.0, 2, 2, True, False)[0]
    )


def _surrogate_gradient(image: torch.Tensor, gradient: str) -> torch.Tensor:
    leaf = image.detach().requires_grad_()
    return torch.autograd.grad(fdjpeg.jpeg(leaf, 75, gradient=gradient), leaf, torch.ones_like(leaf))[0]


def test_a_surrogates_first_call_never_waits_for_the_gpu() -> None:
    """Its table of slopes is computed on the GPU, and not copied there."""
    image = torch.rand(2, 3, 64, 64, device="cuda")
    _surrogate_gradient(image, "straight-through")  # what is compiled or copied once, of the codec
    fdjpeg.surrogates._kept_slope_table.cache_clear()
    torch.cuda.set_sync_debug_mode("error")
    try:
        actual = [_surrogate_gradient(image, name) for name in ("cubic", "fourier", "softmax", "cubic")]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert fdjpeg.surrogates._kept_slope_table.cache_info().hits == 1
    expected = _surrogate_gradient(image.cpu(), "softmax")
    assert (actual[2].cpu() - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.equal(actual[0], actual[3])


def test_each_stream_has_its_own_table_of_slopes() -> None:
    """A table kept for one stream may be half written when another reads it: each has its own."""
    image = torch.rand(2, 3, 64, 64, device="cuda")
    expected = _surrogate_gradient(image, "sine")
    fdjpeg.surrogates._kept_slope_table.cache_clear()
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(first):
        torch.cuda._sleep(50_000_000)
        late = _surrogate_gradient(image, "sine")
    with torch.cuda.stream(second):
        early = _surrogate_gradient(image, "sine")
    torch.cuda.synchronize()
    assert fdjpeg.surrogates._kept_slope_table.cache_info().currsize == 2
    assert torch.equal(early, expected)
    assert torch.equal(late, expected)


def test_a_surrogate_can_be_captured_in_a_graph() -> None:
    """What is captured holds a table of its own: one that is kept may be dropped before the graph is."""
    image = torch.rand(2, 3, 64, 64, device="cuda")
    _surrogate_gradient(image, "sine")
    kept = fdjpeg.surrogates._kept_slope_table.cache_info().currsize
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        grad = _surrogate_gradient(image, "sine")
    assert fdjpeg.surrogates._kept_slope_table.cache_info().currsize == kept
    fdjpeg.surrogates._kept_slope_table.cache_clear()
    image.copy_(torch.rand_like(image))
    graph.replay()
    assert torch.equal(grad, _surrogate_gradient(image, "sine"))


def test_more_than_2_to_the_31_samples(ops: Any) -> None:
    if torch.cuda.get_device_properties(0).total_memory < 16e9:
        pytest.skip("less than 16 GB of memory")
    one = torch.randint(0, 256, (1, 3, 1024, 1024), dtype=torch.uint8, device="cuda")
    batch = one.expand(700, -1, -1, -1).contiguous()
    assert batch.numel() > 2**31
    expected, _ = ops.round_trip(one, None, 75.0, 2, 2, True)
    out, _ = ops.round_trip(batch, None, 75.0, 2, 2, True)
    assert torch.equal(out[-1:], expected)
    assert torch.equal(out[:1], expected)
    del batch, out
    # One image: a tile of whole MCUs side by side is decoded alike everywhere but at the image's edge.
    tile = one[..., :256, :256]
    large = tile.repeat(1, 1, 106, 106)
    assert large.numel() > 2**31
    out, _ = ops.round_trip(large, None, 75.0, 2, 2, True)
    assert torch.equal(out[..., -512:-256, -512:-256], out[..., 256:512, 256:512])


def test_more_images_than_a_grid_has_rows(ops: Any) -> None:
    image = torch.randint(0, 256, (70_000, 1, 8, 8), dtype=torch.uint8, device="cuda")
    image[-1] = image[0]
    out, _ = ops.round_trip(image, None, 75.0, 2, 2, True)
    assert torch.equal(out[-1], out[0])
    assert torch.equal(out[:100].cpu(), torch.ops.fdjpeg.round_trip(image[:100].cpu(), None, 75.0, 2, 2, True)[0])


def test_several_devices(ops: Any) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    image = torch.rand(2, 3, 64, 64)
    expected, _ = torch.ops.fdjpeg.round_trip(image, None, 75.0, 2, 2, True)
    for device in range(torch.cuda.device_count()):
        out, _ = ops.round_trip(image.to(f"cuda:{device}"), None, 75.0, 2, 2, True)
        assert out.device.index == device
        assert torch.equal(out.cpu(), expected)
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("gradient", ["straight-through", "sine"])
@pytest.mark.parametrize("of_tables", [False, True])
def test_memory_beyond_images_and_gradients_is_the_planes(gradient: str, of_tables: bool) -> None:
    if fdjpeg.backends()["cuda"] != "available":
        pytest.skip(fdjpeg.backends()["cuda"])
    image = torch.rand(16, 3, 512, 512, device="cuda", requires_grad=True)
    steps = torch.full((8, 8), 16.0, device="cuda", requires_grad=of_tables)
    tables = fdjpeg.QuantTables(steps, steps)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = fdjpeg.jpeg(image, tables=tables, gradient=gradient)
    wanted = [image, steps] if of_tables else [image]
    gradients = torch.autograd.grad(out, wanted, torch.ones_like(out))
    peak = torch.cuda.max_memory_allocated() - before
    given = 3 * image.numel() * image.element_size()  # output, its gradient, the input's gradient
    assert peak - given <= 0.5 * image.numel() * image.element_size()
    del gradients
