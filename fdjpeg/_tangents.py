"""Forward mode: Functions that have ``jvp`` too, which torch.compile does not trace, and what they keep for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad


class TwoWayFunction(torch.autograd.Function):
    """A Function of reverse mode. Its subclass ``in_both_modes`` adds ``jvp``.

    A Function that has ``jvp`` cannot be traced by torch.compile, so `apply_function` chooses between the two.
    """

    generate_vmap_rule = True
    in_both_modes: ClassVar[type[torch.autograd.Function]]


def apply_function(function: type[TwoWayFunction], *arguments: Any) -> Any:
    """Applies a Function: ``in_both_modes``, or in reverse mode alone while torch.compile traces.

    In forward mode the traced function is left to eager torch. With ``fullgraph=True`` this is an error, which names
    the cause.
    """
    if torch.compiler.is_compiling():
        # Reading the level makes it a condition of the compiled code: it is compiled again where forward mode begins.
        if forward_ad._current_level < 0:
            return function.apply(*arguments)
        torch._dynamo.graph_break(msg="fdjpeg has no forward-mode derivatives inside of torch.compile")
    return function.in_both_modes.apply(*(_Whole(one) if isinstance(one, tuple) else one for one in arguments))


class _Whole:
    """A tuple that torch.func does not take apart.

    Forward mode of a vmapped Function counts each entry of a tuple as an argument, but one tangent for all of them
    (torch 2.13, ``get_tangents_in_dims``), so that `torch.func.hessian` fails.
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: tuple[Any, ...]) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[Any]:
        return iter(self._entries)

    def __getitem__(self, place: int) -> Any:
        return self._entries[place]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entries, name)


def save_for_both(ctx: Any, *tensors: Tensor | None) -> None:
    """Keeps tensors for ``backward``, and for ``jvp``: each finds them in ``ctx.saved_tensors``."""
    ctx.save_for_backward(*tensors)
    if not torch.compiler.is_compiling():
        ctx.save_for_forward(*tensors)


def carries_tangent(tensor: Tensor) -> bool:
    """Returns whether a tensor is differentiated in forward mode by ``torch.autograd.forward_ad``."""
    if forward_ad._current_level < 0:  # as a rule, so that the question costs nothing
        return False
    if torch.compiler.is_compiling():
        return True
    # The batched tensors of torch.autograd.functional and of vmap cannot be asked.
    if torch._C._functorch.is_legacy_batchedtensor(tensor) or torch._C._functorch.is_batchedtensor(tensor):
        return True
    return forward_ad.unpack_dual(tensor).tangent is not None


def tangent_or_zeros(tangent: Tensor | None, like: Tensor) -> Tensor:
    """Returns a tangent; zeros for an input that has none."""
    return torch.zeros_like(like) if tangent is None else tangent
