"""Any call of `jpeg`: it returns the images of a plain call, or raises by name; shapes alone give the same shape.

A run of many more cases, 10,000 for each test here and in ``test_any_function.py``:
``FDJPEG_EXAMPLES=10000 python -m pytest tests/codec/test_any_call.py tests/codec/test_any_function.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from support.drawn import ANY, called, images
from torch import Tensor
from torch._subclasses import FakeTensorMode

import fdjpeg
from fdjpeg import QuantTables

GRADIENTS = ("straight-through", "identity", "cubic", "sine", "fourier", "tanh", "softmax", "zero", "none", 3)


@st.composite
def calls(draw: st.DrawFn) -> tuple[Tensor, dict[str, Any]]:
    """An image and the arguments of a call, right or wrong."""
    image = draw(images())
    count = image.shape[:-3].numel()
    number = draw(st.one_of(st.integers(-1, 102), st.floats(allow_nan=True)))
    strengths: list[dict[str, Any]] = [
        {"quality": number},
        {"quality": torch.tensor(float(number))},
        {"quality": torch.full((draw(st.integers(0, 3)),), 40)},
        {"quality": torch.full((count,), 60.0)},
        {"tables": QuantTables.flat(draw(st.integers(1, 255)))},
        {"tables": QuantTables.flat(torch.full((count,), 7.0))},
        {"quality": 50, "tables": QuantTables.flat(3)},
        {"quality": "75"},
    ]
    return image, {
        **draw(st.sampled_from(strengths)),
        "subsampling": draw(st.sampled_from(("4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "4:2"))),
        "upsampling": draw(st.sampled_from(("fancy", "nearest"))),
        "gradient": draw(st.sampled_from(GRADIENTS)),
        "arithmetic": draw(st.sampled_from(("libjpeg", "libjpeg", "real"))),
        "soft": draw(st.booleans()),
    }


@ANY
@given(calls())
def test_a_call_gives_what_a_plain_one_gives(call: tuple[Tensor, dict[str, Any]]) -> None:
    image, arguments = call
    before = image.clone()
    found = called(image, arguments)
    assert torch.equal(image, before)
    plain = called(image.clone(memory_format=torch.contiguous_format), arguments)
    if found is None or plain is None:
        assert found is plain
        return
    assert (found.shape, found.dtype, found.stride()) == (image.shape, image.dtype, torch.empty_like(image).stride())
    assert torch.equal(found, plain)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert torch.equal(fdjpeg.jpeg(image, **arguments), plain)


@ANY
@given(calls())
def test_gradients_have_the_images_shape(call: tuple[Tensor, dict[str, Any]]) -> None:
    image, arguments = call
    if not image.is_floating_point():
        return
    points = image.clone().requires_grad_()
    found = called(points, arguments)
    if found is None or not found.requires_grad:
        return
    (gradient,) = torch.autograd.grad(found.sum(), points)
    assert (gradient.shape, gradient.dtype) == (image.shape, image.dtype)
    assert not gradient.isnan().any()


@ANY
@given(calls())
def test_shapes_alone_give_the_same_shape(call: tuple[Tensor, dict[str, Any]]) -> None:
    image, arguments = call
    found = called(image, arguments)
    if found is None or any(isinstance(value, (Tensor, QuantTables)) for value in arguments.values()):
        return
    with FakeTensorMode() as mode:
        fake = fdjpeg.jpeg(mode.from_tensor(image), **arguments)
    for shaped in (fake, fdjpeg.jpeg(image.to("meta"), **arguments)):
        assert (shaped.shape, shaped.dtype) == (found.shape, found.dtype)
        # One sample or none has no stride: torch.empty_like gives it another on "meta" than on a CPU.
        assert shaped.stride() == found.stride() or found.numel() <= 1
