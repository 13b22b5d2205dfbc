"""The registration of an op, and the common parts of several pages: settings, vmap rules, gradients of first order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fdjpeg import (
    _library,  # registers the kernels, before `register` adds to them
    reference,
)
from fdjpeg._geometry import BLOCK
from fdjpeg._tangents import TwoWayFunction, apply_function, carries_tangent, save_for_both


class Setting(NamedTuple):
    """The arguments of the exact ops that are not tensors, as their schemas list them.

    Attributes:
        quality: 1…100, that of the standard tables; read only if there are no tables.
        horizontal, vertical: luma's sampling factors against chroma.
        fancy: whether chroma is upsampled by libjpeg's triangle filter.
    """

    quality: float
    horizontal: int
    vertical: int
    fancy: bool


# ---------------------------------------------------------------------------------------------------------------------
# Registration

#: The schema of each op, as csrc/ops defines it. Images are ``(N, C, H, W)``, C 1 or 3; tables are float32
#: ``(1 or N, 3, 8, 8)`` for Y, Cb and Cr, or None for the standard tables at the number ``quality``; the others are as
#: in `Setting`.
SCHEMAS: dict[str, str] = {}

_definitions = torch.library.Library("fdjpeg", "FRAGMENT")
_fallbacks = torch.library.Library("fdjpeg", "IMPL", "CompositeExplicitAutograd")
#: By the kind of device, where kernels in Triton may serve.
_by_triton = {
    device: torch.library.Library("fdjpeg", "IMPL", device.upper())
    for device, served in _library.SERVED.items()
    if served.backend == "triton" or (served.backend == "cuda" and _library.HAS_TRITON)
}


def register(
    name: str,
    schema: str,
    *,
    fake: Callable[..., Any],
    vmap: Callable[..., Any],
    fallback: Callable[..., Any] | None = None,
) -> None:
    """Registers an op: its schema, unless the library has it, its fallback, its fake kernel and its vmap rule.

    On devices that `_library.SERVED` gives to Triton, `fdjpeg._triton.ops` serves it; with CUDA's library those that
    the library lacks, if Triton is installed.

    Args:
        name: of the op.
        schema: of the op, without its name.
        fake: makes empty results of the right shapes and dtypes, without computing them.
        vmap: ``vmap(op, info, in_dims, *arguments)``, the signature of ``torch.library.register_vmap`` after ``op``.
        fallback: what serves the op if the library holds no kernel; None is the function of its name in
            `fdjpeg.reference`.
    """
    SCHEMAS[name] = schema
    if not hasattr(torch.ops.fdjpeg, name):
        _definitions.define(name + schema)
    _fallbacks.impl(name, fallback or getattr(reference, name))
    for device, library in _by_triton.items():
        compiled = torch._C._dispatch_has_kernel_for_dispatch_key(f"fdjpeg::{name}", device.upper())
        if _library.SERVED[device].backend == "triton" or not compiled:
            library.impl(name, _triton_op(name), allow_override=True)
    torch.library.register_fake(f"fdjpeg::{name}", fake)
    torch.library.register_vmap(f"fdjpeg::{name}", partial(vmap, getattr(torch.ops.fdjpeg, name)))


def _triton_op(name: str) -> Callable[..., Any]:
    """Returns an op of `fdjpeg._triton.ops`, which is imported at the first tensor on a GPU."""

    def op(*arguments: Any) -> Any:
        from fdjpeg._triton import ops as triton_ops

        return getattr(triton_ops, name)(*arguments)

    return op


# ---------------------------------------------------------------------------------------------------------------------
# Fake kernels


def fake_table_gradient(image: Tensor, wanted: bool, dtype: torch.dtype) -> Tensor:
    """Returns the empty gradient of each image's tables, without elements if it is not wanted."""
    return image.new_empty((image.size(0), 3, BLOCK, BLOCK) if wanted else (0,), dtype=dtype)


# ---------------------------------------------------------------------------------------------------------------------
# vmap: the mapped dimension becomes part of the batch


def merge(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """Returns ``(N, …)``, mapped along ``dim`` or the same for all, as ``(size · N, …)``."""
    mapped = tensor.unsqueeze(0).expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return mapped.flatten(0, 1)


def merge_tables(tables: Tensor | None, dim: int | None, size: int, images: int) -> Tensor | None:
    """Returns tables for ``size`` batches of ``images``; one set for all of them stays one."""
    if tables is None or (dim is None and tables.size(0) == 1):
        return tables
    mapped = tables.unsqueeze(0) if dim is None else tables.movedim(dim, 0)
    return mapped.expand(size, images, *mapped.shape[2:]).flatten(0, 1)


def split(result: Tensor, size: int) -> Tensor:
    """Splits ``(size · N, …)`` into ``(size, N, …)``."""
    return result.unflatten(0, (size, result.size(0) // size))


def images_in(image: Tensor, dim: int | None) -> int:
    """Returns the batch size N of an image that may be mapped along ``dim``."""
    return image.size(0) if dim is None else image.movedim(dim, 0).size(1)


def images_vmap(op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
    """Maps an op all of whose tensors have the images along their first dimension."""
    size = info.batch_size
    merged = [
        merge(one, dim, size) if isinstance(one, Tensor) else one for one, dim in zip(arguments, in_dims, strict=True)
    ]
    results = op(*merged)
    if isinstance(results, Tensor):
        return split(results, size), 0
    return tuple(split(result, size) for result in results), (0,) * len(results)


def forward_vmap(
    op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], image: Tensor, tables: Tensor | None, *rest: Any
) -> Any:
    """Maps an op of an image and tables."""
    size = info.batch_size
    tables = merge_tables(tables, in_dims[1], size, images_in(image, in_dims[0]))
    results = op(merge(image, in_dims[0], size), tables, *rest)
    return tuple(split(result, size) for result in results), (0,) * len(results)


def backward_vmap(
    op: Callable[..., Any],
    info: Any,
    in_dims: tuple[int | None, ...],
    grad: Tensor,
    kept: Tensor,
    image: Tensor,
    tables: Tensor | None,
    *rest: Any,
) -> Any:
    """Maps the gradient of an op of an image and tables; ``kept`` is the result that the op kept for it."""
    size = info.batch_size
    tables = merge_tables(tables, in_dims[3], size, images_in(image, in_dims[2]))
    grad, kept, image = (merge(tensor, dim, size) for tensor, dim in zip((grad, kept, image), in_dims, strict=False))
    of_image, of_tables = op(grad, kept.contiguous(), image, tables, *rest)
    if of_tables.ndim == 1:  # not wanted: the same empty tensor for all
        return (split(of_image, size), of_tables), (0, None)
    return (split(of_image, size), split(of_tables, size)), (0, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Autograd


def wants_autograd(tensor: Tensor | None) -> bool:
    """Returns whether a Function must be applied, which costs more than the op itself on a small image."""
    if tensor is None:
        return False
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return True
    return (tensor.requires_grad and torch.is_grad_enabled()) or carries_tangent(tensor)


def of_given_tables(of_tables: Tensor, tables: Tensor) -> Tensor:
    """Sums the tables' gradients of all images if one set of tables was given for all of them."""
    return of_tables.sum(0, keepdim=True) if tables.size(0) == 1 else of_tables


ONCE = (
    "a surrogate's gradient under a forward that rounds cannot be differentiated again: "
    "use gradient='straight-through' or 'identity', or arithmetic='real' with soft=True"
)


def once_differentiable(out: Tensor, *inputs: Tensor | None) -> Tensor:
    """Returns ``out`` with a derivative that raises when it is differentiated again, instead of giving a false zero.

    Args:
        out: a tensor, differentiable by ``inputs``.
        inputs: at most two, on which its derivative depends without autograd's knowledge.
    """
    result: Tensor = apply_function(_OnceDifferentiable, out, *inputs)
    return result


def not_differentiable(derivative: Tensor, *inputs: Tensor | None) -> Tensor:
    """Returns a derivative, which raises when it is differentiated by itself or by ``inputs``, on which it depends."""
    result: Tensor = apply_function(_NotDifferentiable, derivative, *inputs)
    return result


class _OnceDifferentiable(TwoWayFunction):
    @staticmethod
    def forward(out: Tensor, image: Tensor | None = None, tables: Tensor | None = None) -> Tensor:
        return out.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.inputs = len(inputs) - 1
        save_for_both(ctx, *inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return not_differentiable(grads[0], *ctx.saved_tensors), *[None] * ctx.inputs


class _OnceInBothModes(_OnceDifferentiable):
    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return not_differentiable(tangents[0], *ctx.saved_tensors)


_OnceDifferentiable.in_both_modes = _OnceInBothModes


class _NotDifferentiable(TwoWayFunction):
    @staticmethod
    def forward(derivative: Tensor, image: Tensor | None = None, tables: Tensor | None = None) -> Tensor:
        return derivative.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise RuntimeError(ONCE)


class _NotInBothModes(_NotDifferentiable):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        raise RuntimeError(ONCE)


_NotDifferentiable.in_both_modes = _NotInBothModes
