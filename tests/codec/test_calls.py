"""Calls of other people's modules: what a module gets, and whom errors name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fdjpeg import _calls

IMAGES = torch.full((2, 3, 4, 4), 0.5)


class Function(nn.Module):
    """A module that applies a function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def raising(error: Exception) -> nn.Module:
    def function(x: Tensor) -> Tensor:
        raise error

    return Function(function)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("the device is full"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_lack_of_memory_keeps_its_error(error: Exception, expected: bool) -> None:
    """So that a smaller batch can be tried. Any other error is one of the module, whose name it gets."""
    assert _calls.is_out_of_memory(error) == expected
    with pytest.raises((RuntimeError, ValueError), match=r"memory|full|shapes") as caught:
        _calls.call(raising(error), IMAGES, "purifier")
    if expected:
        assert caught.value is error
    else:
        assert type(caught.value) is ValueError
        assert str(caught.value) == (
            "purifier must take float32 images of shape (2, 3, 4, 4) in [0, 1], got RuntimeError from it: "
            "mat1 and mat2 shapes cannot be multiplied"
        )


def test_an_error_about_a_part_of_a_module_passes_through_the_whole() -> None:
    error = _calls.party_error("layer", "must be sound, got a crack")
    with pytest.raises(ValueError, match=r"^layer must be sound, got a crack$") as caught:
        _calls.call(raising(error), IMAGES, "model")
    assert caught.value is error


def test_the_caller_gives_a_party_its_name_and_other_errors_stay() -> None:
    with pytest.raises(ValueError, match=r"^surrogate must be sound, got a crack$"), _calls.about("surrogate"):
        raise _calls.party_error("model", "must be sound, got a crack")
    other = ValueError("labels must be int64")
    with pytest.raises(ValueError, match=r"^labels must be int64$") as caught, _calls.about("surrogate"):
        raise other
    assert caught.value is other


@pytest.mark.parametrize("kind", [nn.Parameter, torch.clone], ids=["parameter", "buffer"])
def test_weights_made_in_inference_mode_are_refused(kind: Callable[[Tensor], Tensor]) -> None:
    module = nn.Module()
    _calls.check_weights(module)
    with torch.inference_mode():
        weights = kind(torch.ones(2))
    if isinstance(weights, nn.Parameter):
        module.weights = weights
    else:
        module.register_buffer("weights", weights)
    with pytest.raises(
        ValueError, match=r"^member must be made outside of torch.inference_mode, got 'weights' made inside of it$"
    ):
        _calls.check_weights(module, "member")


@pytest.mark.parametrize("inference", [False, True])
def test_a_module_must_leave_its_input_as_it_is(inference: bool) -> None:
    """In inference mode tensors do not count their changes, and values are compared."""
    images = IMAGES.clone()
    with torch.inference_mode(inference):
        given = images.clone()
        assert torch.equal(_calls.call(nn.Identity(), given, "model"), images)
        with pytest.raises(
            ValueError, match=r"^model must leave its input as it is, got one that changes it in place:"
        ):
            _calls.call(Function(lambda x: x.mul_(2)), given, "model")
    assert torch.equal(given, images)  # the caller's


def test_a_module_gets_a_copy_unless_an_earlier_call_has_shown_that_it_needs_none() -> None:
    seen: list[Tensor] = []
    model = Function(lambda x: (seen.append(x), x.flatten(1))[1])
    for again in (False, True):
        _calls.logits_of(model, IMAGES, again=again)
    _calls.logits_of(model, IMAGES)
    assert [one is IMAGES for one in seen] == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_logits_of_half_precision_become_float32(dtype: torch.dtype) -> None:
    found = _calls.checked_logits(torch.ones(2, 3, dtype=dtype), 2)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ((torch.ones(2, 3),), " as one tensor, got tuple: return the tensor of logits in it"),
        (torch.ones(2, 3, dtype=torch.int64), " as floats, got torch.int64"),
        (torch.ones(3, 3), ", got shape (3, 3)"),
        (torch.ones(2, 3, 1), ", got shape (2, 3, 1)"),
        (torch.ones(2, 1), " of at least two classes, got 1: a lone class can never be wrong"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(out: Any, message: str) -> None:
    with pytest.raises(ValueError, match="logits") as caught:
        _calls.checked_logits(out, 2, "member")
    assert str(caught.value) == f"member must return logits (2, classes){message}"


def test_labels_are_classes_of_the_model() -> None:
    _calls.check_labels(torch.tensor([0, 2]), 3)
    _calls.check_labels(torch.empty(0, dtype=torch.int64), 3)
    for labels, got in (([0, 3], "0…3"), ([-1, 2], "-1…2")):
        with pytest.raises(ValueError, match=rf"^labels must be in 0…2 for a member of 3 classes, got {got}$"):
            _calls.check_labels(torch.tensor(labels), 3, "member")
    with pytest.raises(TypeError, match=r"^labels must be int64, got torch.int32$"):
        _calls.check_labels(torch.zeros(2, dtype=torch.int32), 3)
