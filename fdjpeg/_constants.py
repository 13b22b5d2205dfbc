"""Constant tensors, made once for each device: no copy from the host is allowed while a CUDA graph is captured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_KEPT: dict[tuple[object, torch.dtype, torch.device], Tensor] = {}


def constant(values: tuple[Any, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
    """Returns nested tuples of numbers as a tensor on the device of ``like``, kept for the next call.

    The first call for a device waits for its copy, so that later calls may read it on any stream.

    Args:
        values: the numbers.
        dtype: of the tensor.
        like: a tensor on the device. If it is fake, so is the constant.
    """
    key = values, dtype, like.device
    if key in _KEPT and type(like) in (Tensor, torch.nn.Parameter):
        return _KEPT[key]
    with torch.inference_mode(False):
        made = torch.tensor(values, dtype=dtype, device="cpu").to(like.device)
    if _outlives_this_call(made):
        _KEPT[key] = made
    return made


def _outlives_this_call(tensor: Tensor) -> bool:
    """Returns whether a new tensor is a plain one: not fake, traced, or wrapped by a transform of ``torch.func``."""
    return (
        type(tensor) is Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )
