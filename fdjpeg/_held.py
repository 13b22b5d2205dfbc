"""The tensors that a layer is given: how it keeps them, and gives them their first values again."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def hold(layer: nn.Module, name: str, tensor: Tensor, argument: str) -> None:
    """Makes a tensor part of a layer: a parameter stays one; of another the layer keeps a copy.

    A leaf that requires grad is kept itself, so that it gets its gradient. ``argument`` is the tensor's name in errors.

    Raises:
        ValueError: the tensor has a graph behind it, which a layer could neither copy nor use twice.
    """
    if isinstance(tensor, nn.Parameter):
        layer.register_parameter(name, tensor)
        return
    if not tensor.is_leaf:
        raise ValueError(
            f"{argument} must be a leaf of the autograd graph, got a computed tensor (grad_fn={tensor.grad_fn}): "
            "detach it, or give it to fdjpeg.jpeg in each call"
        )
    layer.register_buffer(name, tensor if tensor.requires_grad else tensor.clone())


def values_of(layer: nn.Module) -> dict[str, Tensor]:
    """Copies the tensors of a layer, to be given back to it by `restore`."""
    held = [*layer.named_parameters(), *layer.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in held}


@torch.no_grad()
def restore(layer: nn.Module, values: dict[str, Tensor]) -> None:
    """Writes values into the tensors of a layer."""
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        if values[name].is_meta:
            raise RuntimeError(f"{name} must have been given with values to be reset, got a meta tensor")
        tensor.copy_(values[name])
