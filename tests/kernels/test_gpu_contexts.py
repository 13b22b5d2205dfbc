"""The layer on a GPU in the settings of real programs: private generators, several streams and devices, autocast."""

from __future__ import annotations

import pytest
import torch
from support import gpu_cases
from support.gpu_cases import DEVICE
from torch import Tensor

import fdjpeg

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]

# The shared fixture, for this file's tests.
seed = gpu_cases.seed

_SETTINGS = [
    {},
    {"gradient": "cubic"},
    {"gradient": "tanh", "arithmetic": "real", "soft": True},
]
_EACH = pytest.mark.parametrize("settings", _SETTINGS, ids=lambda one: "-".join(map(str, one.values())) or "default")


def _gradient(image: Tensor, settings: dict[str, object]) -> Tensor:
    leaf = image.detach().requires_grad_()
    out = fdjpeg.jpeg(leaf, 50, **settings)
    return torch.autograd.grad(out, leaf, torch.ones_like(out))[0]


def test_a_graph_replays_the_draws_of_a_private_generator() -> None:
    """Each replay draws anew, and draws what an eager call would."""
    image = torch.rand(4, 3, 64, 64, device=DEVICE)
    generator = torch.Generator(DEVICE)
    layer = fdjpeg.RandomJPEG((10, 95), generator=generator)
    layer(image)  # what is compiled or copied once
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        out = layer(image)
    generator.manual_seed(3)
    replayed = []
    for _ in range(3):
        graph.replay()
        replayed.append(out.clone())
    assert not torch.equal(replayed[0], replayed[1])
    generator.manual_seed(3)
    for one in replayed:
        assert torch.equal(one, layer(image))


@_EACH
def test_memory_may_be_handed_between_streams(settings: dict[str, object]) -> None:
    """Forward on one stream and backward from another, while the first reuses its memory."""
    image = torch.rand(8, 3, 128, 128, device=DEVICE)
    expected = _gradient(image, settings)
    side, main = torch.cuda.Stream(), torch.cuda.current_stream()
    for _ in range(10):
        side.wait_stream(main)
        leaf = image.detach().requires_grad_()
        with torch.cuda.stream(side):
            out = fdjpeg.jpeg(leaf, 50, **settings)
        main.wait_stream(side)
        out.record_stream(main)
        (actual,) = torch.autograd.grad(out, leaf, torch.ones_like(out))
        with torch.cuda.stream(side):
            torch.full_like(image, torch.nan)  # takes memory that was freed on that stream
        assert torch.equal(actual, expected)


@_EACH
def test_each_call_is_on_its_device_whichever_is_current(settings: dict[str, object]) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    image = torch.rand(2, 3, 64, 64)
    expected = _gradient(image.to("cuda:0"), settings).cpu()
    for current in range(2):
        with torch.cuda.device(current):
            actual = _gradient(image.to(f"cuda:{1 - current}"), settings)
            assert actual.device.index == 1 - current
            assert torch.cuda.current_device() == current
        assert torch.equal(actual.cpu(), expected)


@_EACH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_small_autocast_changes_nothing(settings: dict[str, object], dtype: torch.dtype) -> None:
    image = torch.rand(2, 3, 40, 48, device=DEVICE)
    with torch.autocast(torch.device(DEVICE).type, dtype=dtype):
        actual = fdjpeg.jpeg(image, 50, **settings), _gradient(image, settings)
    for one, other in zip(actual, (fdjpeg.jpeg(image, 50, **settings), _gradient(image, settings)), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
