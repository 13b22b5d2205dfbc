"""Batch normalisation by the statistics of the whole batch where several processes share it.

torch's ``SyncBatchNorm`` does this on GPUs only.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Classes derived from these may do more than normalise, so they are left as they are.
LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@contextmanager
def of_all_processes(module: nn.Module) -> Iterator[None]:
    """Makes torch's batch normalisation in ``module`` that of all processes' images together, within the block.

    All processes must hold equally many images of a batch and call the layers in the same order. The gradient is that
    of the sum of all processes' losses, as ``DistributedDataParallel``, which averages it, expects.
    """
    layers = [layer for layer in module.modules() if type(layer) in LAYERS]
    for layer in layers:
        layer.forward = functools.partial(_forward, layer)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class _Total(torch.autograd.Function):
    """Sums a tensor over all processes. Every process's loss depends on the sum, so its gradient is a sum as well."""

    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        total = share.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        torch.distributed.all_reduce(total)
        return total


def _total(share: Tensor) -> Tensor:
    total: Tensor = _Total.apply(share)
    return total


def _forward(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Returns the layer's output for this process's share ``(N, C, ...)`` of a batch."""
    if not layer.training:
        return type(layer).forward(layer, x)
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    others = [0, *range(2, x.dim())]
    count = torch.distributed.get_world_size() * x.numel() // x.shape[1]
    # Two passes: the mean of squares less the square of the mean would cancel.
    mean = _total(values.sum(others, keepdim=True)) / count
    centred = values - mean
    variance = _total(centred.square().sum(others, keepdim=True)) / count
    _follow(layer, mean.detach().flatten(), variance.detach().flatten() * (count / max(count - 1, 1)))
    normal = centred * (variance + layer.eps).rsqrt()
    if layer.affine:
        shape = [1, -1, *[1] * (x.dim() - 2)]
        normal = normal * layer.weight.view(shape) + layer.bias.view(shape)
    return normal.to(x.dtype)


def _follow(layer: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Moves the running statistics towards those of a batch, as ``torch.nn.BatchNorm2d`` documents it."""
    if layer.running_mean is None or layer.running_var is None or layer.num_batches_tracked is None:
        return
    layer.num_batches_tracked += 1
    for running, found in ((layer.running_mean, mean), (layer.running_var, variance)):
        cumulative = layer.num_batches_tracked.to(running.dtype).reciprocal()
        running.lerp_(found.to(running.dtype), cumulative if layer.momentum is None else layer.momentum)
