"""Forward and backward on a device that is not a CPU, without having one: fake tensors, which hold no numbers.

A tensor on a wrong device is found, and so is a read of a value, which would wait for a GPU. A CPU build of torch lacks
a device on which fake tensors can be indexed or differentiated (with CUDA's, autograd ends the process), so one is made
up here. That must come before the process first uses autograd: `test_integration.py` runs this file in a new process.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration

import fdjpeg
from fdjpeg import reference
from support.no_reading import NoCopying, NoReading
from support.settings import FACTORS


@pytest.fixture(scope="module")
def device() -> str:
    """Makes up a device with the properties that autograd and indexing need."""
    setup = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if setup is None:
        pytest.skip(f"torch {torch.__version__} makes no device in Python")
    setup("pretended")
    torch.get_device_module("pretended").get_amp_supported_dtype = list
    return "pretended"


def _strengths(of: str, device: str) -> tuple[dict[str, Any], Tensor | None]:
    """Returns arguments of the layer, with a tensor on the host or on the device, and that tensor."""
    where = device if of.endswith("there") else "cpu"
    if of == "number":
        return {"quality": 50}, None
    if of.startswith("quality"):
        leaf = torch.rand(2, device=where, requires_grad=True)
        return {"quality": leaf}, leaf
    leaf = torch.rand(8, 8, device=where, requires_grad=True)
    return {"tables": fdjpeg.QuantTables(leaf, leaf)}, leaf


STRENGTHS = pytest.mark.parametrize("of", ["number", "quality here", "quality there", "tables here", "tables there"])
SUBSAMPLINGS = pytest.mark.parametrize("subsampling", FACTORS)


SETTINGS: list[dict[str, Any]] = [
    {"gradient": "straight-through"},
    {"gradient": "identity"},
    {"gradient": "cubic"},
    {"gradient": "straight-through", "arithmetic": "real"},
    {"gradient": "identity", "arithmetic": "real"},
    {"gradient": "softmax", "arithmetic": "real", "soft": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
@STRENGTHS
def test_forward_and_backward(of: str, settings: dict[str, Any], device: str) -> None:
    """Each gradient comes out where its tensor is."""
    with FakeTensorMode(), NoReading():
        image = torch.rand(2, 3, 40, 50, device=device, requires_grad=True)
        strength, leaf = _strengths(of, device)
        out = fdjpeg.jpeg(image, **settings, **strength)
        assert out.device == image.device
        assert (out.shape, out.dtype) == (image.shape, image.dtype)
        out.sum().backward()
        assert image.grad is not None
        assert image.grad.device == image.device
        if leaf is not None:
            assert leaf.grad is not None
            assert leaf.grad.device == leaf.device


@pytest.mark.parametrize("gradient", ["sine", "fourier", "tanh", "softmax", "zero"])
def test_other_surrogates(gradient: str, device: str) -> None:
    with FakeTensorMode(), NoReading():
        image = torch.rand(2, 1, 40, 50, device=device, requires_grad=True)
        fdjpeg.jpeg(image, gradient=gradient).sum().backward()
        assert image.grad is not None
        assert image.grad.device == image.device


@pytest.mark.parametrize("images", [1, 2])
@SUBSAMPLINGS
def test_the_reference(subsampling: str, images: int, device: str) -> None:
    """It serves where there are no kernels, so all its tensors must be on the image's device."""
    setting = (*FACTORS[subsampling], True)
    with FakeTensorMode(), NoReading():
        image = torch.rand(2, 3, 40, 50, device=device)
        tables = torch.rand(images, 3, 8, 8, device=device)
        arguments = (image, tables, 0.0, *setting)
        out, planes = reference.round_trip(*arguments)
        encoded = reference.encode(*arguments[:-1])
        decoded = reference.decode(*encoded, tables, 40, 50, *setting, torch.float32)
        backward = reference.round_trip_backward(out, planes, *arguments, True)
        tangents = (
            reference.straight_through_tangent(image, planes, image, *setting),
            reference.table_tangent(tables, planes, *arguments),
        )
        for result in (out, planes, *encoded, decoded, *backward, *tangents):
            assert result.device == image.device


def test_layers_and_coefficients(device: str) -> None:
    with FakeTensorMode(), NoReading():
        image = torch.rand(4, 3, 40, 50, device=device)
        for layer in (
            fdjpeg.JPEG(torch.tensor(50.0)),
            fdjpeg.JPEG(tables=fdjpeg.QuantTables.flat(16)),
            fdjpeg.RandomJPEG((30, 95), p=0.5),
        ):
            assert layer(image).device == image.device
        coefficients = fdjpeg.encode(image, torch.tensor([10, 20, 30, 40]))
        assert coefficients.device == image.device
        assert coefficients.tables.device == image.device
        assert fdjpeg.decode(coefficients).device == image.device


def test_a_copy_from_the_host_is_found(device: str) -> None:
    with FakeTensorMode(), NoCopying(), pytest.raises(AssertionError, match="copies a tensor of the host"):
        torch.zeros(3).to(device)


@pytest.mark.parametrize("gradient", ["straight-through", "sine", "fourier", "tanh", "softmax"])
def test_the_pieces(gradient: str, device: str) -> None:
    """The user composes them, in a loop or a CUDA graph: no tensor of theirs comes from the host."""
    with FakeTensorMode(), NoCopying():
        image = torch.rand(2, 3, 40, 48, device=device, requires_grad=True)
        steps = torch.rand(3, 1, 1, 8, 8, device=device, requires_grad=True)
        levels = fdjpeg.quantize(fdjpeg.block_dct(fdjpeg.rgb_to_ycbcr(image)), steps, gradient)
        out = fdjpeg.ycbcr_to_rgb(fdjpeg.block_idct(fdjpeg.dequantize(levels, steps)))
        out.sum().backward()
        for tensor in (levels, out, image.grad, steps.grad):
            assert tensor is not None
            assert tensor.device == image.device
