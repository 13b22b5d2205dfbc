"""Calls on a GPU keep to the current stream and device, wait for nothing, and can be captured in a graph."""

from __future__ import annotations

import functools

import pytest
import torch
from support import gpu_cases
from support.gpu_cases import CALLS, DEVICE, Call
from torch import Tensor

import fdjpeg
from fdjpeg import _slopes, reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]

# The shared fixtures, for this file's tests.
call, ops, seed = gpu_cases.call, gpu_cases.ops, gpu_cases.seed


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
    """Returns the results of a captured call on an image that has changed since."""
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
    """It serves where neither CUDA nor Triton does."""
    call = functools.partial(CALLS[name][1], reference)
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
    """A captured graph holds its own table: one that is kept may be dropped before the graph is."""
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
