"""The whole contract of each op: schema, fallback, fake kernel, vmap rule and autograd.

The ops themselves are not differentiable. `round_trip` wraps them in a `torch.autograd.Function`, because that is what
works under `torch.func.grad`, `jacrev` and `vmap(grad)` as well as under `torch.compile`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fdjpeg import (
    _library,  # registers the kernels, before what follows adds to them
    reference,
)
from fdjpeg._geometry import BLOCK, Geometry
from fdjpeg.surrogates import Formula

#: The schemas, as csrc/ops/exact_cpu.cpp defines them. Images are ``(N, C, H, W)``, C 1 or 3; tables are float32
#: ``(1 or N, 3, 8, 8)`` for Y, Cb and Cr, and None stands for the standard tables at the number ``quality``;
#: ``horizontal`` and ``vertical`` are luma's sampling factors against chroma; ``fancy`` is libjpeg's triangle filter.
SCHEMAS = {
    # The decoded image, and what backward needs of it (`Geometry.plane_bytes`).
    "round_trip": "(Tensor image, Tensor? tables, float quality, int horizontal, int vertical, bool fancy) "
    "-> (Tensor, Tensor)",
    # The same at a quality for each block: uint8 (N, rows, columns) of luma's blocks, 1…100 (others act as the nearer).
    # A block of chroma takes the top-left block of luma that it covers.
    "round_trip_by_block": "(Tensor image, Tensor qualities, int horizontal, int vertical, bool fancy) "
    "-> (Tensor, Tensor)",
    # Straight through every rounding: the gradient of the image, and (else an empty tensor) of each image's tables.
    "round_trip_backward": "(Tensor grad, Tensor planes, Tensor image, Tensor? tables, float quality, int horizontal, "
    "int vertical, bool fancy, bool table_gradient) -> (Tensor, Tensor)",
    # The same with a surrogate (`fdjpeg.surrogates.slope_table`) for the rounding of coefficients.
    "surrogate_backward": "(Tensor grad, Tensor planes, Tensor image, Tensor? tables, float quality, int horizontal, "
    "int vertical, bool fancy, bool table_gradient, Tensor slopes) -> (Tensor, Tensor)",
    # The round trip in real numbers, tables in float32 or float64, with a built-in surrogate
    # (`fdjpeg.surrogates.Formula`) in place of rounding if soft; and where the last limiting let a sample pass.
    "real_round_trip": "(Tensor image, Tensor? tables, float quality, int horizontal, int vertical, bool fancy, "
    "str surrogate, float parameter, float floor, bool soft) -> (Tensor, Tensor)",
    # Its gradient; the tables' in float32, or float64 where the image is float64.
    "real_round_trip_backward": "(Tensor grad, Tensor mask, Tensor image, Tensor? tables, float quality, "
    "int horizontal, int vertical, bool fancy, str surrogate, float parameter, float floor, bool soft, "
    "bool table_gradient) -> (Tensor, Tensor)",
    # The orthonormal DCT-II of the 8×8 blocks of (..., H, W), floating: (..., H / 8, W / 8, 8, 8); and its inverse.
    "block_dct": "(Tensor samples) -> Tensor",
    "block_idct": "(Tensor blocks) -> Tensor",
    # Quantized coefficients of Y, Cb and Cr, int16 (N, rows, columns, 8, 8).
    "encode": "(Tensor image, Tensor? tables, float quality, int horizontal, int vertical) -> (Tensor, Tensor, Tensor)",
    # Their image.
    "decode": "(Tensor y, Tensor cb, Tensor cr, Tensor tables, SymInt height, SymInt width, int horizontal, "
    "int vertical, bool fancy, ScalarType dtype) -> Tensor",
}

_definitions = torch.library.Library("fdjpeg", "FRAGMENT")
_fallbacks = torch.library.Library("fdjpeg", "IMPL", "CompositeExplicitAutograd")
for _name, _schema in SCHEMAS.items():
    if not hasattr(torch.ops.fdjpeg, _name):
        _definitions.define(_name + _schema)
    # Serves on every device for which the library holds no kernel.
    _fallbacks.impl(_name, getattr(reference, _name))


def _in_triton(name: str) -> Callable[..., Any]:
    """An op of `fdjpeg._triton.launches`, which is imported when a tensor on a GPU first wants it."""

    def op(*arguments: Any) -> Any:
        from fdjpeg._triton import launches as triton_kernels

        return getattr(triton_kernels, name)(*arguments)

    return op


if _library.USES_TRITON:
    _on_gpus = torch.library.Library("fdjpeg", "IMPL", "CUDA")
    for _name in ("round_trip", "round_trip_backward"):
        _on_gpus.impl(_name, _in_triton(_name), allow_override=True)


# ---------------------------------------------------------------------------------------------------------------------
# Fake kernels: what comes out, of which shape, without computing it


def _geometry(image: Tensor, horizontal: int, vertical: int) -> Geometry:
    return Geometry.of(image.size(2), image.size(3), image.size(1), horizontal, vertical)


@torch.library.register_fake("fdjpeg::round_trip")
def _round_trip_fake(
    image: Tensor, tables: Tensor | None, quality: float, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor]:
    size = _geometry(image, horizontal, vertical).plane_bytes
    return torch.empty_like(image), image.new_empty((image.size(0), size), dtype=torch.uint8)


@torch.library.register_fake("fdjpeg::round_trip_by_block")
def _round_trip_by_block_fake(
    image: Tensor, qualities: Tensor, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor]:
    return _round_trip_fake(image, None, 0.0, horizontal, vertical, fancy)


@torch.library.register_fake("fdjpeg::round_trip_backward")
def _round_trip_backward_fake(
    grad: Tensor,
    planes: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    table_gradient: bool,
) -> tuple[Tensor, Tensor]:
    shape = (image.size(0), 3, BLOCK, BLOCK) if table_gradient else (0,)
    return torch.empty_like(image), image.new_empty(shape, dtype=torch.float32)


@torch.library.register_fake("fdjpeg::surrogate_backward")
def _surrogate_backward_fake(
    grad: Tensor,
    planes: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    table_gradient: bool,
    slopes: Tensor,
) -> tuple[Tensor, Tensor]:
    return _round_trip_backward_fake(grad, planes, image, tables, quality, horizontal, vertical, fancy, table_gradient)


@torch.library.register_fake("fdjpeg::real_round_trip")
def _real_round_trip_fake(image: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(image), image.new_empty((image.size(0), *image.shape[2:]), dtype=torch.uint8)


@torch.library.register_fake("fdjpeg::real_round_trip_backward")
def _real_round_trip_backward_fake(
    grad: Tensor,
    mask: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    surrogate: str,
    parameter: float,
    floor: float,
    soft: bool,
    table_gradient: bool,
) -> tuple[Tensor, Tensor]:
    shape = (image.size(0), 3, BLOCK, BLOCK) if table_gradient else (0,)
    return torch.empty_like(image), image.new_empty(shape, dtype=reference.real_dtype(image))


@torch.library.register_fake("fdjpeg::block_dct")
def _block_dct_fake(samples: Tensor) -> Tensor:
    *outer, height, width = samples.shape
    return samples.new_empty((*outer, height // BLOCK, width // BLOCK, BLOCK, BLOCK))


@torch.library.register_fake("fdjpeg::block_idct")
def _block_idct_fake(blocks: Tensor) -> Tensor:
    *outer, rows, columns, _, _ = blocks.shape
    return blocks.new_empty((*outer, rows * BLOCK, columns * BLOCK))


@torch.library.register_fake("fdjpeg::encode")
def _encode_fake(
    image: Tensor, tables: Tensor | None, quality: float, horizontal: int, vertical: int
) -> tuple[Tensor, Tensor, Tensor]:
    geometry = _geometry(image, horizontal, vertical)
    y, cb, cr = (
        image.new_empty((image.size(0), plane.rows, plane.columns, BLOCK, BLOCK), dtype=torch.int16)
        for plane in (geometry.luma, geometry.chroma, geometry.chroma)
    )
    return y, cb, cr


@torch.library.register_fake("fdjpeg::decode")
def _decode_fake(
    y: Tensor,
    cb: Tensor,
    cr: Tensor,
    tables: Tensor,
    height: int,
    width: int,
    horizontal: int,
    vertical: int,
    fancy: bool,
    dtype: torch.dtype,
) -> Tensor:
    channels = 1 if cb.size(1) == 0 else 3
    return y.new_empty((y.size(0), channels, height, width), dtype=dtype)


# ---------------------------------------------------------------------------------------------------------------------
# vmap: the mapped dimension becomes part of the batch


def _merge(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """``(N, …)``, mapped along ``dim`` or the same for all, as ``(size · N, …)``."""
    mapped = tensor.unsqueeze(0).expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return mapped.flatten(0, 1)


def _merge_tables(tables: Tensor | None, dim: int | None, size: int, images: int) -> Tensor | None:
    """Tables for ``size`` batches of ``images``; one set for all of them stays one."""
    if tables is None or (dim is None and tables.size(0) == 1):
        return tables
    mapped = tables.unsqueeze(0) if dim is None else tables.movedim(dim, 0)
    return mapped.expand(size, images, 3, BLOCK, BLOCK).flatten(0, 1)


def _split(result: Tensor, size: int) -> Tensor:
    return result.unflatten(0, (size, result.size(0) // size))


def _images_in(image: Tensor, dim: int | None) -> int:
    """The batch size N of an image that may be mapped along ``dim``."""
    return image.size(0) if dim is None else image.movedim(dim, 0).size(1)


def _forward_vmap(
    op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], image: Tensor, tables: Tensor | None, *rest: Any
) -> Any:
    size = info.batch_size
    tables = _merge_tables(tables, in_dims[1], size, _images_in(image, in_dims[0]))
    results = op(_merge(image, in_dims[0], size), tables, *rest)
    return tuple(_split(result, size) for result in results), (0,) * len(results)


def _backward_vmap(
    op: Callable[..., Any],
    info: Any,
    in_dims: tuple[int | None, ...],
    grad: Tensor,
    planes: Tensor,
    image: Tensor,
    tables: Tensor | None,
    *rest: Any,
) -> Any:
    size = info.batch_size
    tables = _merge_tables(tables, in_dims[3], size, _images_in(image, in_dims[2]))
    grad, planes, image = (
        _merge(tensor, dim, size) for tensor, dim in zip((grad, planes, image), in_dims, strict=False)
    )
    of_image, of_tables = op(grad, planes.contiguous(), image, tables, *rest)
    if of_tables.ndim == 1:  # not wanted: the same empty tensor for all
        return (_split(of_image, size), of_tables), (0, None)
    return (_split(of_image, size), _split(of_tables, size)), (0, 0)


def _by_block_vmap(
    op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], image: Tensor, qualities: Tensor, *rest: Any
) -> Any:
    size = info.batch_size
    merged = (_merge(tensor, dim, size) for tensor, dim in zip((image, qualities), in_dims, strict=False))
    return tuple(_split(result, size) for result in op(*merged, *rest)), (0, 0)


def _transform_vmap(op: Callable[..., Any], info: Any, in_dims: tuple[int | None], tensor: Tensor) -> Any:
    return op(tensor.movedim(in_dims[0] or 0, 0)), 0


def _decode_vmap(
    op: Callable[..., Any],
    info: Any,
    in_dims: tuple[int | None, ...],
    y: Tensor,
    cb: Tensor,
    cr: Tensor,
    tables: Tensor,
    *rest: Any,
) -> Any:
    size = info.batch_size
    merged_tables = _merge_tables(tables, in_dims[3], size, _images_in(y, in_dims[0]))
    merged = (_merge(tensor, dim, size) for tensor, dim in zip((y, cb, cr), in_dims, strict=False))
    return _split(op(*merged, merged_tables, *rest), size), 0


_VMAP_RULES: dict[str, Callable[..., Any]] = {
    "round_trip": _forward_vmap,
    "round_trip_by_block": _by_block_vmap,
    "round_trip_backward": _backward_vmap,
    "surrogate_backward": _backward_vmap,
    "real_round_trip": _forward_vmap,
    "real_round_trip_backward": _backward_vmap,
    "block_dct": _transform_vmap,
    "block_idct": _transform_vmap,
    "encode": _forward_vmap,
    "decode": _decode_vmap,
}
for _name, _rule in _VMAP_RULES.items():
    torch.library.register_vmap(f"fdjpeg::{_name}", partial(_rule, getattr(torch.ops.fdjpeg, _name)))


# ---------------------------------------------------------------------------------------------------------------------
# Autograd


def round_trip(
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    slopes: Tensor | None = None,
    identity: bool = False,
) -> tuple[Tensor, Tensor]:
    """The exact round trip with a straight-through gradient, or that of a surrogate.

    Args:
        image, tables, quality, horizontal, vertical, fancy: as in `SCHEMAS`; ``tables`` acts rounded and clamped, and
            receives its gradient as if it did not.
        slopes: a surrogate's, as `fdjpeg.surrogates.slope_table` gives them; None is straight-through.
        identity: let the image's gradient pass the whole layer unchanged (BPDA).

    Returns:
        The decoded image, differentiable in ``image`` and ``tables``, and the planes, which are not.
    """
    if _wants_autograd(image) or (tables is not None and _wants_autograd(tables)):
        out, planes = _RoundTrip.apply(image, tables, quality, horizontal, vertical, fancy, slopes, identity)
    else:
        out, planes = torch.ops.fdjpeg.round_trip(image, tables, quality, horizontal, vertical, fancy)
    return out, planes


def _wants_autograd(tensor: Tensor) -> bool:
    """Whether a Function must be applied, which costs more than the op itself on a small image."""
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return True
    return tensor.requires_grad and torch.is_grad_enabled()


class _RoundTrip(torch.autograd.Function):
    # forward spells its arguments out: torch.compile takes a variadic one for the old style, with ctx first.
    generate_vmap_rule = True

    @staticmethod
    def forward(
        image: Tensor,
        tables: Tensor | None,
        quality: float,
        horizontal: int,
        vertical: int,
        fancy: bool,
        slopes: Tensor | None,
        identity: bool,
    ) -> tuple[Tensor, Tensor]:
        out, planes = torch.ops.fdjpeg.round_trip(image, tables, quality, horizontal, vertical, fancy)
        return out, planes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        image, tables, *setting, slopes, ctx.identity = inputs
        ctx.setting = setting
        planes = output[1]
        ctx.mark_non_differentiable(planes)
        ctx.set_materialize_grads(False)  # no zeros for the gradient of planes
        ctx.save_for_backward(image, tables, planes, slopes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 8
        image, tables, planes, slopes = ctx.saved_tensors
        table_gradient = ctx.needs_input_grad[1]
        of_image: Tensor | None = grad
        of_tables: Tensor | None = None
        if table_gradient or not ctx.identity:
            arguments = (grad, planes, image, tables, *ctx.setting, table_gradient)
            if slopes is None:
                of_image, of_tables = _RoundTripBackward.apply(*arguments)
            else:
                of_image, of_tables = _SurrogateBackward.apply(*arguments, slopes)
        if not table_gradient:
            of_tables = None
        elif of_tables is not None and tables.size(0) == 1:
            of_tables = of_tables.sum(0, keepdim=True)
        return grad if ctx.identity else of_image, of_tables, None, None, None, None, None, None


def round_trip_by_block(
    image: Tensor, qualities: Tensor, horizontal: int, vertical: int, fancy: bool, identity: bool = False
) -> tuple[Tensor, Tensor]:
    """The exact round trip at a quality for each block, with the image's straight-through gradient.

    Args:
        image, qualities, horizontal, vertical, fancy: as in `SCHEMAS`.
        identity: let the image's gradient pass the whole layer unchanged (BPDA).

    Returns:
        As `round_trip`.
    """
    if _wants_autograd(image):
        out, planes = _RoundTripByBlock.apply(image, qualities, horizontal, vertical, fancy, identity)
    else:
        out, planes = torch.ops.fdjpeg.round_trip_by_block(image, qualities, horizontal, vertical, fancy)
    return out, planes


class _RoundTripByBlock(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        image: Tensor, qualities: Tensor, horizontal: int, vertical: int, fancy: bool, identity: bool
    ) -> tuple[Tensor, Tensor]:
        out, planes = torch.ops.fdjpeg.round_trip_by_block(image, qualities, horizontal, vertical, fancy)
        return out, planes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        image, _, *ctx.sampling, ctx.identity = inputs
        planes = output[1]
        ctx.mark_non_differentiable(planes)
        ctx.set_materialize_grads(False)  # no zeros for the gradient of planes
        ctx.save_for_backward(image, planes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        image, planes = ctx.saved_tensors
        of_image: Tensor = grad
        if not ctx.identity:  # straight through, no transform is left, and so no table
            of_image, _ = _RoundTripBackward.apply(grad, planes, image, None, 0.0, *ctx.sampling, False)
        return of_image, None, None, None, None, None


class _RoundTripBackward(torch.autograd.Function):
    """Linear in the incoming gradient, and differentiable in it; all else counts as constant."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad: Tensor,
        planes: Tensor,
        image: Tensor,
        tables: Tensor | None,
        quality: float,
        horizontal: int,
        vertical: int,
        fancy: bool,
        table_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        of_image, of_tables = torch.ops.fdjpeg.round_trip_backward(
            grad, planes, image, tables, quality, horizontal, vertical, fancy, table_gradient
        )
        return of_image, of_tables

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, planes, image, tables, *setting, ctx.table_gradient = inputs
        ctx.setting = setting
        ctx.save_for_backward(planes, image, tables)

    @staticmethod
    def backward(ctx: Any, image_tangent: Tensor, tables_tangent: Tensor) -> tuple[Tensor | None, ...]:
        planes, image, tables = ctx.saved_tensors
        quality, *sampling = ctx.setting
        tangent = reference.straight_through_tangent(image_tangent, planes, image, *sampling)
        if ctx.table_gradient:
            of_tables = reference.table_tangent(tables_tangent, planes, image, tables, quality, *sampling)
            tangent = tangent + of_tables.to(tangent.dtype)
        return tangent, None, None, None, None, None, None, None, None


class _SurrogateBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad: Tensor,
        planes: Tensor,
        image: Tensor,
        tables: Tensor | None,
        quality: float,
        horizontal: int,
        vertical: int,
        fancy: bool,
        table_gradient: bool,
        slopes: Tensor,
    ) -> tuple[Tensor, Tensor]:
        of_image, of_tables = torch.ops.fdjpeg.surrogate_backward(
            grad, planes, image, tables, quality, horizontal, vertical, fancy, table_gradient, slopes
        )
        return of_image, of_tables

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> Tensor:
        raise RuntimeError(_ONCE)


def real_round_trip(
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    formula: Formula,
    soft: bool,
    identity: bool = False,
) -> Tensor:
    """The round trip in real numbers, with the gradient of a built-in surrogate.

    Args:
        image, tables, quality, horizontal, vertical, fancy: as in `SCHEMAS`.
        formula: the surrogate.
        soft: whether it stands in for rounding in forward too.
        identity: let the image's gradient pass the whole layer unchanged (BPDA).

    Returns:
        The image, differentiable in ``image`` and ``tables``; twice, if soft or straight through.
    """
    # Forward rounds, or it is the surrogate itself, which has no floor.
    arguments = (image, tables, quality, horizontal, vertical, fancy, formula.name, formula.parameter)
    floor = 0.0 if soft else formula.floor
    if _wants_autograd(image) or (tables is not None and _wants_autograd(tables)):
        out, _ = _RealRoundTrip.apply(*arguments, floor, soft, identity)
    else:
        out, _ = torch.ops.fdjpeg.real_round_trip(*arguments, floor, soft)
    return out


class _RealRoundTrip(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        image: Tensor,
        tables: Tensor | None,
        quality: float,
        horizontal: int,
        vertical: int,
        fancy: bool,
        surrogate: str,
        parameter: float,
        floor: float,
        soft: bool,
        identity: bool,
    ) -> tuple[Tensor, Tensor]:
        out, mask = torch.ops.fdjpeg.real_round_trip(
            image, tables, quality, horizontal, vertical, fancy, surrogate, parameter, floor, soft
        )
        return out, mask

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        image, tables, *setting, ctx.identity = inputs
        ctx.setting = setting
        mask = output[1]
        ctx.mark_non_differentiable(mask)
        ctx.set_materialize_grads(False)  # no zeros for the mask's gradient
        ctx.save_for_backward(image, tables, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 11
        image, tables, mask = ctx.saved_tensors
        table_gradient = ctx.needs_input_grad[1]
        of_image: Tensor | None = grad
        of_tables: Tensor | None = None
        if table_gradient or not ctx.identity:
            of_image, of_tables = _RealRoundTripBackward.apply(grad, mask, image, tables, *ctx.setting, table_gradient)
        if not table_gradient:
            of_tables = None
        elif of_tables is not None and tables.size(0) == 1:
            of_tables = of_tables.sum(0, keepdim=True)
        return (grad if ctx.identity else of_image, of_tables, *(None,) * 9)


class _RealRoundTripBackward(torch.autograd.Function):
    """Differentiable where `reference.real_second_gradient` is."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad: Tensor,
        mask: Tensor,
        image: Tensor,
        tables: Tensor | None,
        quality: float,
        horizontal: int,
        vertical: int,
        fancy: bool,
        surrogate: str,
        parameter: float,
        floor: float,
        soft: bool,
        table_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        of_image, of_tables = torch.ops.fdjpeg.real_round_trip_backward(
            grad,
            mask,
            image,
            tables,
            quality,
            horizontal,
            vertical,
            fancy,
            surrogate,
            parameter,
            floor,
            soft,
            table_gradient,
        )
        return of_image, of_tables

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        grad, _, image, tables, *setting, ctx.table_gradient = inputs
        ctx.setting = setting
        ctx.save_for_backward(grad, image, tables)

    @staticmethod
    def backward(ctx: Any, of_image: Tensor, of_tables: Tensor) -> tuple[Tensor | None, ...]:
        grad, image, tables = ctx.saved_tensors
        *_, surrogate, _, _, soft = ctx.setting
        if not soft and surrogate != "straight-through":
            raise RuntimeError(_ONCE)
        tangents = (of_image, of_tables if ctx.table_gradient else None)
        second = reference.real_second_gradient(tangents, grad, image, tables, *ctx.setting)
        of_grad, of_image, of_tables = second
        return (of_grad, None, of_image, None if tables is None else of_tables, *(None,) * 9)


def block_dct(samples: Tensor) -> Tensor:
    """The orthonormal DCT-II of each block of ``(..., H, W)``, differentiable any number of times."""
    blocks: Tensor = _BlockDct.apply(samples) if _wants_autograd(samples) else torch.ops.fdjpeg.block_dct(samples)
    return blocks


def block_idct(blocks: Tensor) -> Tensor:
    """The inverse of `block_dct`, likewise."""
    samples: Tensor = _BlockIdct.apply(blocks) if _wants_autograd(blocks) else torch.ops.fdjpeg.block_idct(blocks)
    return samples


class _BlockDct(torch.autograd.Function):
    """Orthonormal, so that the transposed map is the inverse."""

    generate_vmap_rule = True

    @staticmethod
    def forward(samples: Tensor) -> Tensor:
        blocks: Tensor = torch.ops.fdjpeg.block_dct(samples)
        return blocks

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return block_idct(grads[0])


class _BlockIdct(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(blocks: Tensor) -> Tensor:
        samples: Tensor = torch.ops.fdjpeg.block_idct(blocks)
        return samples

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return block_dct(grads[0])


_ONCE = (
    "a surrogate's gradient under a forward that rounds cannot be differentiated again: "
    "use gradient='straight-through' or 'identity', or arithmetic='real' with soft=True"
)


def once_differentiable(out: Tensor) -> Tensor:
    """``out`` with a gradient that raises when it is differentiated again, where that could only give a false zero."""
    result: Tensor = _OnceDifferentiable.apply(out)
    return result


class _OnceDifferentiable(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(out: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        result: Tensor = _NotDifferentiable.apply(grads[0])
        return result


class _NotDifferentiable(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise RuntimeError(_ONCE)
