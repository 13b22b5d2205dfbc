"""What only a GPU can show: the bits of the CPU's kernels on it, streams, graphs, size, several devices, memory.

`benchmarks/gpu.py` runs these where no other package than torch and pytest need be there; so nothing here takes more.
"""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.settings import FACTORS, TOLERANCE
from torch import Tensor

import fdjpeg
from fdjpeg import _slopes, reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]

DEVICE = "cuda"
DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture(params=["cuda", "triton"])
def ops(request: pytest.FixtureRequest) -> Any:
    """The two ops of the round trip, by CUDA and by Triton."""
    if fdjpeg.backends()[request.param] != "available":
        pytest.skip(fdjpeg.backends()[request.param])
    if request.param == "cuda":
        return torch.ops.fdjpeg
    from fdjpeg._triton import launches as triton_kernels

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
    on_gpu = None if tables is None else tables.to(DEVICE)
    for layout in _layouts(image):
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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("factors", FACTORS.values(), ids=str)
def test_small_images_give_the_bits_of_the_cpu(ops: Any, factors: tuple[int, int], dtype: torch.dtype) -> None:
    for fancy, channels, (height, width) in itertools.product((True, False), (3, 1), ((1, 1), (21, 37), (48, 64))):
        tables = torch.rand(2, 3, 8, 8) * 40 if fancy else None
        _assert_same_bits(ops, _images(dtype, 2, channels, height, width), tables, factors, fancy)


@pytest.mark.parametrize("factors", FACTORS.values(), ids=str)
def test_larger_images_give_the_bits_of_the_cpu(ops: Any, factors: tuple[int, int]) -> None:
    for height, width in ((257, 389), (224, 224), (1000, 1504)):
        _assert_same_bits(ops, _images(torch.float32, 3, 3, height, width), None, factors, True)


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


@pytest.mark.parametrize("factors", FACTORS.values(), ids=str)
def test_small_coefficients_are_those_of_the_cpu(factors: tuple[int, int]) -> None:
    for channels in (3, 1):
        image = _images(torch.float32, 2, channels, 45, 67)
        tables = torch.rand(1, 3, 8, 8) * 40
        expected = torch.ops.fdjpeg.encode(image, tables, 0.0, *factors)
        actual = torch.ops.fdjpeg.encode(image.to(DEVICE), tables.to(DEVICE), 0.0, *factors)
        for one, other in zip(actual, expected, strict=True):
            assert torch.equal(one.cpu(), other)
        options = (45, 67, *factors, True, torch.float32)
        decoded = torch.ops.fdjpeg.decode(*actual, tables.to(DEVICE), *options)
        assert torch.equal(decoded.cpu(), torch.ops.fdjpeg.decode(*expected, tables, *options))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("factors", FACTORS.values(), ids=str)
def test_small_surrogates_give_the_gradients_of_the_cpu(factors: tuple[int, int], dtype: torch.dtype) -> None:
    slopes = _slopes.slope_table(fdjpeg.surrogates.resolve("sine"), torch.device("cpu"))
    for channels, fancy, (height, width) in itertools.product((3, 1), (True, False), ((21, 37), (100, 130))):
        image = _images(dtype, 2, channels, height, width)
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


@pytest.mark.parametrize("factors", FACTORS.values(), ids=str)
def test_small_maps_of_qualities_give_the_bits_of_the_cpu(factors: tuple[int, int]) -> None:
    for dtype, channels in itertools.product(DTYPES, (3, 1)):
        image = _images(dtype, 2, channels, 45, 67)
        qualities = torch.randint(0, 103, (2, 6, 9), dtype=torch.uint8)
        expected, _ = torch.ops.fdjpeg.round_trip_by_block(image, qualities, *factors, True)
        actual, _ = torch.ops.fdjpeg.round_trip_by_block(image.to(DEVICE), qualities.to(DEVICE), *factors, True)
        assert torch.equal(actual.cpu(), expected)


def _assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """On a GPU and on the CPU, up to a share of the largest number."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert actual.device.type == DEVICE
    difference = (actual.cpu().double() - expected.double()).abs().max()
    assert difference <= tolerance * expected.double().abs().max()


def _real(setting: tuple[Any, ...], image: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The image and the two gradients."""
    out, mask = torch.ops.fdjpeg.real_round_trip(image, *setting)
    return (out, *torch.ops.fdjpeg.real_round_trip_backward(grad, mask, image, *setting, True))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("factors", FACTORS.values(), ids=str)
def test_small_real_numbers_are_close_to_those_of_the_cpu(factors: tuple[int, int], dtype: torch.dtype) -> None:
    """Softly, as nothing jumps there."""
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 1e-4, torch.float64: 1e-10}[dtype]
    for channels, fancy, surrogate in itertools.product((3, 1), (True, False), (("sine", 0.0), ("softmax", 3.0))):
        image, grad = torch.rand(2, channels, 45, 67).to(dtype), torch.randn(2, channels, 45, 67).to(dtype)
        tables = torch.rand(2, 3, 8, 8) * 40 + 1
        setting = (0.0, *factors, fancy, *surrogate, 0.0, True)
        expected = _real((tables, *setting), image, grad)
        actual = _real((tables.to(DEVICE), *setting), image.to(DEVICE), grad.to(DEVICE))
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
    expected = _real(setting, image, grad)
    actual = _real(setting, image.to(DEVICE), grad.to(DEVICE))
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


def _backward(op: Callable[..., Any], ops: Any, image: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    """Both gradients of the round trip, its output being what comes back."""
    out, planes = ops.round_trip(image, *_SETTING)
    return tuple(op(out, planes, image, *_SETTING, True, *rest))


def _by_a_surrogate(ops: Any, image: Tensor) -> tuple[Tensor, ...]:
    slopes = _slopes.slope_table(fdjpeg.surrogates.resolve("cubic"), image.device)
    return _backward(ops.surrogate_backward, ops, image, slopes)


def _by_block(ops: Any, image: Tensor) -> tuple[Tensor, ...]:
    qualities = (100 * image[:, 0, ::8, ::8]).to(torch.uint8)
    return tuple(ops.round_trip_by_block(image, qualities, *_SETTING[2:]))


def _encode_and_decode(ops: Any, image: Tensor) -> tuple[Tensor, ...]:
    tables = torch.full((1, 3, 8, 8), 16.0, device=image.device)
    coefficients = ops.encode(image, tables, *_SETTING[1:4])
    return (*coefficients, ops.decode(*coefficients, tables, *image.shape[2:], *_SETTING[2:], image.dtype))


def _in_real_numbers(ops: Any, image: Tensor) -> tuple[Tensor, ...]:
    return _real((*_SETTING, "sine", 0.0, 0.0, True), image, image)


def _in_pieces(ops: Any, image: Tensor) -> tuple[Tensor, ...]:
    steps = torch.full((8, 8), 0.1, device=image.device)
    levels = fdjpeg.quantize(fdjpeg.block_dct(fdjpeg.rgb_to_ycbcr(image)), steps)
    return levels, fdjpeg.ycbcr_to_rgb(fdjpeg.block_idct(fdjpeg.dequantize(levels, steps)))


_SETTING = (None, 75.0, 2, 2, True)
#: Maps of images that launch each of our kernels, and the backends that have them.
_CALLS: dict[str, tuple[tuple[str, ...], Callable[[Any, Tensor], tuple[Tensor, ...]]]] = {
    "round trip": (("cuda", "triton"), lambda ops, image: tuple(ops.round_trip(image, *_SETTING))),
    "backward": (("cuda", "triton"), lambda ops, image: _backward(ops.round_trip_backward, ops, image)),
    "by a surrogate": (("cuda",), _by_a_surrogate),
    "by block": (("cuda",), _by_block),
    "encode and decode": (("cuda",), _encode_and_decode),
    "in real numbers": (("cuda",), _in_real_numbers),
    "in pieces": (("cuda",), _in_pieces),
}


@pytest.fixture(params=_CALLS)
def call(request: pytest.FixtureRequest, ops: Any) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Each map of images that launches kernels of ours, by each backend that has them."""
    backend = request.node.callspec.params["ops"]
    backends, function = _CALLS[request.param]
    if backend not in backends:
        pytest.skip(f"{backend} has no kernels for it")
    return functools.partial(function, ops)


Call = Callable[[Tensor], tuple[Tensor, ...]]


def _assert_equal(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


def test_runs_on_the_current_stream(call: Call) -> None:
    image = torch.rand(8, 3, 224, 224, device=DEVICE)
    expected = call(image)
    late = torch.zeros_like(image)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a kernel on another stream would read the zeros
        late.copy_(image)
        actual = call(late)
    stream.synchronize()
    _assert_equal(actual, expected)
    assert not torch.equal(call(torch.zeros_like(image))[0], expected[0])


def test_never_waits_for_the_gpu(call: Call) -> None:
    image = torch.rand(2, 3, 64, 64, device=DEVICE)
    expected = call(image)  # what is compiled or copied once
    torch.cuda.set_sync_debug_mode("error")
    try:
        actual = call(image)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    _assert_equal(actual, expected)


@pytest.mark.parametrize("strength", ["quality", "a quality for each image", "a quality for each block", "at random"])
def test_the_layer_never_waits_for_the_gpu(strength: str) -> None:
    """Forward and backward, however strong it is."""
    image = torch.rand(2, 3, 64, 64, device=DEVICE, requires_grad=True)
    random = fdjpeg.RandomJPEG((30, 95), p=0.5).to(DEVICE)
    quality = torch.full(
        {"quality": (), "a quality for each image": (2,)}.get(strength, (2, 8, 8)), 50.0, device=DEVICE
    )
    layer = random if strength == "at random" else functools.partial(fdjpeg.jpeg, quality=quality)

    def gradient() -> Tensor:
        return torch.autograd.grad(layer(image), image, image)[0]

    gradient()  # what is copied once
    torch.cuda.set_sync_debug_mode("error")
    try:
        actual = gradient()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert actual.isfinite().all()
    assert actual.abs().max() > 0


def _replayed(call: Call, image: Tensor) -> tuple[Tensor, ...]:
    """What a captured call makes of an image that has changed since."""
    call(image)  # what is compiled or copied once
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        actual = call(image)
    image.copy_(torch.rand_like(image))
    graph.replay()
    return actual


def test_can_be_captured_in_a_graph(call: Call) -> None:
    image = torch.rand(2, 3, 64, 64, device=DEVICE)
    actual = _replayed(call, image)
    _assert_equal(actual, call(image))


@pytest.mark.parametrize("name", ["round trip", "backward", "by a surrogate", "by block", "encode and decode"])
def test_the_reference_can_be_captured_in_a_graph(name: str) -> None:
    """It serves the ops that Triton has no kernels for."""
    call = functools.partial(_CALLS[name][1], reference)
    image = torch.rand(2, 3, 64, 64, device=DEVICE)
    actual = _replayed(call, image)
    torch.testing.assert_close(actual, call(image))  # its sums may be taken in another order


def _surrogate_gradient(image: torch.Tensor, gradient: str) -> torch.Tensor:
    leaf = image.detach().requires_grad_()
    return torch.autograd.grad(fdjpeg.jpeg(leaf, 75, gradient=gradient), leaf, torch.ones_like(leaf))[0]


def test_a_surrogates_first_call_never_waits_for_the_gpu() -> None:
    """Its table of slopes is computed on the GPU, and not copied there."""
    image = torch.rand(2, 3, 64, 64, device=DEVICE)
    _surrogate_gradient(image, "straight-through")  # what is compiled or copied once, of the codec
    _slopes._kept_slope_table.cache_clear()
    torch.cuda.set_sync_debug_mode("error")
    try:
        actual = [_surrogate_gradient(image, name) for name in ("cubic", "fourier", "softmax", "cubic")]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert _slopes._kept_slope_table.cache_info().hits == 1
    expected = _surrogate_gradient(image.cpu(), "softmax")
    assert (actual[2].cpu() - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.equal(actual[0], actual[3])


def test_each_stream_has_its_own_table_of_slopes() -> None:
    """A table kept for one stream may be half written when another reads it: each has its own."""
    image = torch.rand(2, 3, 64, 64, device=DEVICE)
    expected = _surrogate_gradient(image, "sine")
    _slopes._kept_slope_table.cache_clear()
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(first):
        torch.cuda._sleep(50_000_000)
        late = _surrogate_gradient(image, "sine")
    with torch.cuda.stream(second):
        early = _surrogate_gradient(image, "sine")
    torch.cuda.synchronize()
    assert _slopes._kept_slope_table.cache_info().currsize == 2
    assert torch.equal(early, expected)
    assert torch.equal(late, expected)


def test_a_surrogate_can_be_captured_in_a_graph() -> None:
    """What is captured holds a table of its own: one that is kept may be dropped before the graph is."""
    image = torch.rand(2, 3, 64, 64, device=DEVICE)
    _surrogate_gradient(image, "sine")
    kept = _slopes._kept_slope_table.cache_info().currsize
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        grad = _surrogate_gradient(image, "sine")
    assert _slopes._kept_slope_table.cache_info().currsize == kept
    _slopes._kept_slope_table.cache_clear()
    image.copy_(torch.rand_like(image))
    graph.replay()
    assert torch.equal(grad, _surrogate_gradient(image, "sine"))


def test_more_than_2_to_the_31_samples(ops: Any) -> None:
    _skip_below(16)
    one = torch.randint(0, 256, (1, 3, 1024, 1024), dtype=torch.uint8, device=DEVICE)
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


def _skip_below(gigabytes: float) -> None:
    if torch.cuda.get_device_properties(0).total_memory < 1e9 * gigabytes:
        pytest.skip(f"less than {gigabytes:g} GB of memory")


def test_gradients_of_more_than_2_to_the_31_samples(ops: Any) -> None:
    _skip_below(60)
    one = torch.rand(1, 3, 1024, 1024, device=DEVICE).half()
    batch = one.expand(700, -1, -1, -1).contiguous()
    assert batch.numel() > 2**31
    expected = ops.round_trip_backward(*ops.round_trip(one, *_SETTING), one, *_SETTING, False)[0]
    actual = ops.round_trip_backward(*ops.round_trip(batch, *_SETTING), batch, *_SETTING, False)[0]
    assert torch.equal(actual[-1:], expected)
    assert torch.equal(actual[:1], expected)


def test_more_than_2_to_the_31_real_samples() -> None:
    _skip_below(60)
    one = torch.rand(1, 3, 1024, 1024, device=DEVICE).half()
    batch = one.expand(700, -1, -1, -1).contiguous()
    setting = (*_SETTING, "sine", 0.0, 0.0, True)
    expected, _ = torch.ops.fdjpeg.real_round_trip(one, *setting)
    actual, _ = torch.ops.fdjpeg.real_round_trip(batch, *setting)
    assert torch.equal(actual[-1:], expected)
    assert torch.equal(actual[:1], expected)


def test_blocks_of_more_than_2_to_the_31_samples() -> None:
    _skip_below(30)
    samples = torch.randn(2**15 + 8, 2**16, device=DEVICE, dtype=torch.float16)
    assert samples.numel() > 2**31
    blocks = torch.ops.fdjpeg.block_dct(samples)
    assert torch.equal(blocks[-1:], torch.ops.fdjpeg.block_dct(samples[-8:]))
    assert torch.equal(torch.ops.fdjpeg.block_idct(blocks)[-8:], torch.ops.fdjpeg.block_idct(blocks[-1:]))


def test_more_images_than_a_grid_has_rows(ops: Any) -> None:
    image = torch.randint(0, 256, (70_000, 1, 8, 8), dtype=torch.uint8, device=DEVICE)
    image[-1] = image[0]
    out, _ = ops.round_trip(image, None, 75.0, 2, 2, True)
    assert torch.equal(out[-1], out[0])
    assert torch.equal(out[:100].cpu(), torch.ops.fdjpeg.round_trip(image[:100].cpu(), None, 75.0, 2, 2, True)[0])


def test_several_devices(call: Call) -> None:
    """Each call on its tensor's device, whichever is the current one, which stays."""
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    image = torch.rand(2, 3, 64, 64)
    expected = call(image.to("cuda:0"))
    for device in range(torch.cuda.device_count()):
        actual = call(image.to(f"cuda:{device}"))
        assert {one.device.index for one in actual} == {device}
        _assert_equal(tuple(one.cpu() for one in actual), tuple(one.cpu() for one in expected))
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("gradient", ["straight-through", "sine"])
@pytest.mark.parametrize("of_tables", [False, True])
def test_memory_beyond_images_and_gradients_is_the_planes(gradient: str, of_tables: bool) -> None:
    if fdjpeg.backends()["cuda"] != "available":
        pytest.skip(fdjpeg.backends()["cuda"])
    image = torch.rand(16, 3, 512, 512, device=DEVICE, requires_grad=True)
    steps = torch.full((8, 8), 16.0, device=DEVICE, requires_grad=of_tables)
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


@pytest.mark.parametrize("soft", [False, True])
def test_memory_of_real_numbers_is_less_than_one_and_a_half_images(soft: bool) -> None:
    image = torch.rand(16, 3, 512, 512, device=DEVICE, requires_grad=True)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = fdjpeg.jpeg(image, 75, arithmetic="real", gradient="sine" if soft else "straight-through", soft=soft)
    gradient = torch.autograd.grad(out, image, torch.ones_like(out))[0]
    peak = torch.cuda.max_memory_allocated() - before
    size = image.numel() * image.element_size()
    assert gradient.shape == image.shape
    assert peak - 3 * size <= 1.5 * size
