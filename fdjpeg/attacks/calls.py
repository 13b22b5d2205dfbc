"""Models without a derivative, and a gradient of zero in its place; torch's defaults for other packages' attacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fdjpeg._calls import is_out_of_memory


def used_gpus() -> Sequence[int]:
    """Returns the GPUs whose generators a call can change, whichever device its images are on: of a used CUDA, all."""
    return range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()


def has_derivative(module: nn.Module, images: Tensor) -> bool:
    """Returns whether autograd reaches the images through a module.

    It does not where the module computes outside of torch (Pillow, OpenCV, NumPy), detaches, or has an operation
    without a backward formula. torch's generators keep their state.
    """
    with torch.random.fork_rng(devices=used_gpus()), torch.enable_grad():
        points = images.detach().clone().requires_grad_()
        try:
            out = module(points)
            torch.autograd.grad(out.sum(), points)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False
    return True


#: What attacks by gradients say of a model that has none.
NO_DERIVATIVE = (
    "model must be differentiable, but its logits do not depend on the images through autograd: "
    "choose a gradient for its layers, or an attack that needs none, such as square"
)


@contextmanager
def usual_defaults(device: torch.device) -> Iterator[None]:
    """Makes float32 and a device torch's defaults within the block, and restores the caller's afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


class Flat(nn.Module):
    """A module without a derivative, with a gradient of zero in its place: the masking that it is.

    Args:
        module: images to a tensor.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training  # `train()` would reach into the caller's module

    def forward(self, images: Tensor) -> Tensor:
        """Returns the module's output."""
        with torch.no_grad():
            out = self.module(images.detach())
        flat: Tensor = _Zero.apply(images, out) if isinstance(out, Tensor) else out
        return flat


class _Zero(torch.autograd.Function):
    """Returns its second argument; the gradient of the first is zero."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, out: Tensor) -> Tensor:
        ctx.like = (images.shape, images.dtype, images.device)
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        shape, dtype, device = ctx.like
        return torch.zeros(shape, dtype=dtype, device=device), None
