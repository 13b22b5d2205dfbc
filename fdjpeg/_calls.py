"""Calls of other people's modules: checked outputs, and errors that name the party at fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether torch raised ``error`` because a device (or the machine) has no memory left."""
    words = ("can't allocate memory", "out of memory")  # of errors that have lost their type on their way
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def party_error(party: str, sentence: str) -> ValueError:
    """Returns an error about somebody else's module.

    Args:
        party: the module's name, such as "model", with which the message begins.
        sentence: the rest of it, "must …, got …", which the error keeps for `about`.
    """
    error = ValueError(f"{party} {sentence}")
    error.__dict__[_SENTENCE] = sentence
    return error


#: The attribute of these errors.
_SENTENCE = "sentence_about_a_party"


@contextmanager
def about(party: str) -> Iterator[None]:
    """Gives the party at fault in errors of the block, which knows it as "model", the name that the caller has for it.

    Raises:
        ValueError: the block's, about ``party``.
    """
    try:
        yield
    except ValueError as error:
        if _SENTENCE not in error.__dict__:
            raise
        raise party_error(party, error.__dict__[_SENTENCE]) from error


def check_weights(module: nn.Module, party: str = "model") -> None:
    """Refuses a module with tensors that were made under torch.inference_mode: autograd never reaches through them.

    Raises:
        ValueError: the message names ``party``.
    """
    named = (*module.named_parameters(), *module.named_buffers())
    found = next((name for name, tensor in named if tensor.is_inference()), None)
    if found is not None:
        raise party_error(party, f"must be made outside of torch.inference_mode, got {found!r} made inside of it")


def check_labels(labels: Tensor, classes: int, party: str = "model") -> None:
    """Refuses labels ``(N,)`` that are no classes of a model, whose name in errors is ``party``.

    Raises:
        TypeError, ValueError: with the wanted values and the given ones.
    """
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64, got {labels.dtype}")
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise ValueError(
            f"labels must be in 0…{classes - 1} for a {party} of {classes} classes, "
            f"got {int(labels.min())}…{int(labels.max())}"
        )


def call(module: nn.Module, images: Tensor, party: str) -> Any:
    """Returns a module's output for images. The module gets a copy, so that nothing of the caller's can change.

    Args:
        module: somebody else's.
        images: ``(N, C, H, W)``, floats in [0, 1].
        party: the module's name in errors, such as "model".

    Raises:
        ValueError: the module raised an error, or changed its input in place; the message names ``party``.
        torch.OutOfMemoryError: as torch raised it, so that a smaller batch can be tried.
    """
    given = images.clone()
    version = None if given.is_inference() else given._version  # in inference mode tensors have none
    out = _called(module, given, party)
    if not torch.equal(given, images) if version is None else given._version != version:
        raise party_error(
            party,
            "must leave its input as it is, got one that changes it in place: "
            "write (x - mean) / std instead of x.sub_(mean).div_(std), and no inplace=True in the first layer",
        )
    return out


def _called(module: nn.Module, images: Tensor, party: str) -> Any:
    try:
        return module(images)
    except Exception as error:
        if is_out_of_memory(error) or _SENTENCE in error.__dict__:  # which names a part of the module
            raise
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise party_error(
            party,
            f"must take {str(images.dtype).removeprefix('torch.')} images of shape {tuple(images.shape)} in "
            f"[0, 1], got {type(error).__name__} from it: {reason}",
        ) from error


def logits_of(module: nn.Module, images: Tensor, party: str = "model", *, again: bool = False) -> Tensor:
    """Returns a classifier's logits ``(N, classes)`` for images; float16 and bfloat16 become float32.

    Args:
        module, images, party: as for `call`.
        again: whether an earlier call has shown that the module leaves its input as it is; it gets no copy then.

    Raises:
        ValueError, torch.OutOfMemoryError: as `call` does.
        ValueError: the output is not a tensor of floats, has another shape, or fewer than two classes.
    """
    out = _called(module, images, party) if again else call(module, images, party)
    return checked_logits(out, len(images), party)


def checked_logits(out: Any, images: int, party: str = "model") -> Tensor:
    """Returns the output of a classifier for a number of images as logits; float16 and bfloat16 become float32.

    Raises:
        ValueError: the output is not a tensor of floats, has another shape, or fewer than two classes.
    """
    wanted = f"must return logits ({images}, classes)"
    if not isinstance(out, Tensor):
        raise party_error(party, f"{wanted} as one tensor, got {type(out).__name__}: return the tensor of logits in it")
    if not out.is_floating_point():
        raise party_error(party, f"{wanted} as floats, got {out.dtype}")
    if out.ndim != 2 or len(out) != images:
        raise party_error(party, f"{wanted}, got shape {tuple(out.shape)}")
    if out.shape[1] < 2:
        raise party_error(
            party, f"{wanted} of at least two classes, got {out.shape[1]}: a lone class can never be wrong"
        )
    return out.float() if out.dtype in (torch.float16, torch.bfloat16) else out
