"""The classifier that a user brings to a training: checked before any work is done."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fdjpeg.sources import Network
from fdjpeg.sources.networks import check_logits

from ..base import copied
from .images import Images, in_unit_range


def check_classifier(network: Network, images: Images, *, differentiable: bool) -> None:
    """Refuses a classifier with which no defence can be trained, by what it makes of the first two images.

    Args:
        network: the classifier; a copy is tried, on the CPU.
        images: to train on.
        differentiable: whether the training needs the gradient by the images.

    Raises:
        ValueError: the classifier cannot be copied, does not take the images or changes them; or it returns something
            else than finite logits ``(N, classes)`` of at least two classes, those of the images among them, and with a
            finite gradient by the images where it is needed.
    """
    pixels = in_unit_range(torch.stack([images.image(place) for place in range(min(2, len(images)))]))
    module = copied(network.module).cpu().eval()
    given = pixels.clone()
    with torch.no_grad():
        logits = _output(module, given, network.name)
    if not torch.equal(given, pixels):
        raise ValueError(f"model must leave its images as they are, got {network.name}, which changes them in place")
    _check_kind(logits, len(pixels), network.name)
    check_logits(logits.float(), images.labels)
    if differentiable:
        _check_gradient(module, pixels, network.name)


def _output(module: nn.Module, pixels: Tensor, name: str) -> Tensor:
    """Returns the classifier's output, a tensor."""
    try:
        logits = module(pixels)
    except Exception as error:  # a user's network may raise anything
        shape = " × ".join(str(size) for size in pixels.shape[1:])
        raise ValueError(f"model must take images of {shape}, got {name}, which does not: {error}") from error
    if not isinstance(logits, Tensor):
        raise ValueError(f"model must return a tensor of logits, got {name}, which returns a {type(logits).__name__}")
    return logits


def _check_kind(logits: Tensor, count: int, name: str) -> None:
    """Refuses a tensor that cannot be the logits of so many images."""
    if logits.ndim != 2 or len(logits) != count:
        raise ValueError(
            f"model must return logits ({count}, classes) for {count} images, got shape {tuple(logits.shape)} from "
            f"{name}"
        )
    if not logits.is_floating_point():
        raise ValueError(f"model must return logits of a floating dtype, got {logits.dtype} from {name}")
    if logits.shape[1] < 2:
        raise ValueError(f"model must have at least two classes, got {name} with {logits.shape[1]}")
    if not bool(logits.isfinite().all()):
        raise ValueError(f"model must return finite logits, got NaN or infinity from {name}")


def _check_gradient(module: nn.Module, pixels: Tensor, name: str) -> None:
    """Refuses a classifier through which no attack and no loss passes a gradient to the images."""
    x = pixels.clone().requires_grad_()
    with torch.enable_grad():
        total = _output(module, x, name).sum()
    found = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    if found is None:
        raise ValueError(f"model must be differentiable by its images, got {name}, whose logits have no gradient")
    if not bool(found.isfinite().all()):
        raise ValueError(f"model must have a finite gradient, got NaN or infinity from {name}")
