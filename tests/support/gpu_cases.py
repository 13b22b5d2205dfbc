"""The fixtures and calls that all tests of a GPU share. They need only torch and pytest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import fdjpeg
from fdjpeg import _slopes
from support import settings

#: `gpu_on_cpu` changes it before a test reads it.
DEVICE = "cuda"
FACTORS = list(settings.FACTORS.values())
DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
TOLERANCE = settings.TOLERANCE


@pytest.fixture(params=["cuda", "triton"])
def ops(request: pytest.FixtureRequest) -> Any:
    """Returns the ops, by CUDA and by Triton."""
    if fdjpeg.backends()[request.param] != "available":
        pytest.skip(fdjpeg.backends()[request.param])
    if request.param == "cuda":
        return torch.ops.fdjpeg
    from fdjpeg._triton import ops as triton_ops

    return triton_ops


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def images(dtype: torch.dtype, *shape: int) -> Tensor:
    image = torch.rand(shape)
    if dtype == torch.uint8:
        return (image * 255).to(dtype)
    image.view(-1)[:: max(3, image.numel() // 5)] = float("nan")
    return image.to(dtype)


def layouts(image: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    yield lambda x: x
    yield lambda x: x.to(memory_format=torch.channels_last)
    yield lambda x: x.repeat_interleave(2, -1)[..., ::2]
    yield lambda x: torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape)


def real(setting: tuple[Any, ...], image: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Returns the image and the two gradients."""
    out, mask = torch.ops.fdjpeg.real_round_trip(image, *setting)
    return (out, *torch.ops.fdjpeg.real_round_trip_backward(grad, mask, image, *setting, True))


def _backward(op: Callable[..., Any], ops: Any, image: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    """Returns both gradients of the round trip; the incoming gradient is its output."""
    out, planes = ops.round_trip(image, *SETTING)
    return tuple(op(out, planes, image, *SETTING, True, *rest))


def _by_a_surrogate(ops: Any, image: Tensor) -> tuple[Tensor, ...]:
    slopes = _slopes.slope_table(fdjpeg.surrogates.resolve("cubic"), image.device)
    return _backward(ops.surrogate_backward, ops, image, slopes)


def _by_block(ops: Any, image: Tensor) -> tuple[Tensor, ...]:
    qualities = (100 * image[:, 0, ::8, ::8]).to(torch.uint8)
    return tuple(ops.round_trip_by_block(image, qualities, *SETTING[2:]))


def _encode_and_decode(ops: Any, image: Tensor) -> tuple[Tensor, ...]:
    tables = torch.full((1, 3, 8, 8), 16.0, device=image.device)
    coefficients = ops.encode(image, tables, *SETTING[1:4])
    return (*coefficients, ops.decode(*coefficients, tables, *image.shape[2:], *SETTING[2:], image.dtype))


def _in_real_numbers(ops: Any, image: Tensor) -> tuple[Tensor, ...]:
    return real((*SETTING, "sine", 0.0, 0.0, True), image, image)


def _in_pieces(ops: Any, image: Tensor) -> tuple[Tensor, ...]:
    steps = torch.full((8, 8), 0.1, device=image.device)
    levels = fdjpeg.quantize(fdjpeg.block_dct(fdjpeg.rgb_to_ycbcr(image)), steps)
    return levels, fdjpeg.ycbcr_to_rgb(fdjpeg.block_idct(fdjpeg.dequantize(levels, steps)))


SETTING = (None, 75.0, 2, 2, True)
#: Maps of images that launch each of our kernels, and the backends that have them.
CALLS: dict[str, tuple[tuple[str, ...], Callable[[Any, Tensor], tuple[Tensor, ...]]]] = {
    "round trip": (("cuda", "triton"), lambda ops, image: tuple(ops.round_trip(image, *SETTING))),
    "backward": (("cuda", "triton"), lambda ops, image: _backward(ops.round_trip_backward, ops, image)),
    "by a surrogate": (("cuda",), _by_a_surrogate),
    "by block": (("cuda",), _by_block),
    "encode and decode": (("cuda",), _encode_and_decode),
    "in real numbers": (("cuda",), _in_real_numbers),
    "in pieces": (("cuda",), _in_pieces),
}


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest, ops: Any) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Returns each map of images that launches our kernels, by each backend that has them."""
    backend = request.node.callspec.params["ops"]
    backends, function = CALLS[request.param]
    if backend not in backends:
        pytest.skip(f"{backend} has no kernels for it")
    return functools.partial(function, ops)


Call = Callable[[Tensor], tuple[Tensor, ...]]
