"""The exact codec's ops: the round trip, also at a quality for each block, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fdjpeg import _onnx, reference
from fdjpeg._geometry import Sampling, geometry_of
from fdjpeg._tangents import TwoWayFunction, apply_function, save_for_both, tangent_or_zeros
from fdjpeg.ops.registration import (
    ONCE,
    Setting,
    backward_vmap,
    fake_table_gradient,
    forward_vmap,
    merge,
    not_differentiable,
    of_given_tables,
    register,
    split,
    wants_autograd,
)

# ---------------------------------------------------------------------------------------------------------------------
# The ops


def _round_trip_fake(image: Tensor, tables: Tensor | None, quality: float, *sampling: Any) -> tuple[Tensor, Tensor]:
    return _by_block_fake(image, None, *sampling)


def _by_block_fake(image: Tensor, qualities: Tensor | None, *sampling: Any) -> tuple[Tensor, Tensor]:
    horizontal, vertical, _ = sampling
    size = geometry_of(image, horizontal, vertical).plane_bytes
    return torch.empty_like(image), image.new_empty((image.size(0), size), dtype=torch.uint8)


def _backward_fake(grad: Tensor, planes: Tensor, image: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    table_gradient = rest[1 + len(Setting._fields)]
    return torch.empty_like(image), fake_table_gradient(image, table_gradient, torch.float32)


def _by_block_vmap(
    op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], image: Tensor, qualities: Tensor, *rest: Any
) -> Any:
    size = info.batch_size
    merged = (merge(tensor, dim, size) for tensor, dim in zip((image, qualities), in_dims, strict=False))
    return tuple(split(result, size) for result in op(*merged, *rest)), (0, 0)


# Returns the decoded image, and the planes for backward (`Geometry.plane_bytes`).
register(
    "round_trip",
    "(Tensor image, Tensor? tables, float quality, int horizontal, int vertical, bool fancy) -> (Tensor, Tensor)",
    fake=_round_trip_fake,
    vmap=forward_vmap,
)

# The same at a quality for each block: uint8 (N, rows, columns) of luma's blocks, 1…100 (others act as the nearer).
# A block of chroma takes the top-left block of luma that it covers.
register(
    "round_trip_by_block",
    "(Tensor image, Tensor qualities, int horizontal, int vertical, bool fancy) -> (Tensor, Tensor)",
    fake=_by_block_fake,
    vmap=_by_block_vmap,
)

# Straight through each rounding: the gradient of the image, and of each image's tables (empty if not wanted).
register(
    "round_trip_backward",
    "(Tensor grad, Tensor planes, Tensor image, Tensor? tables, float quality, int horizontal, int vertical, "
    "bool fancy, bool table_gradient) -> (Tensor, Tensor)",
    fake=_backward_fake,
    vmap=backward_vmap,
)

# The same, with a surrogate (`fdjpeg._slopes.slope_table`) for the rounding of coefficients.
register(
    "surrogate_backward",
    "(Tensor grad, Tensor planes, Tensor image, Tensor? tables, float quality, int horizontal, int vertical, "
    "bool fancy, bool table_gradient, Tensor slopes) -> (Tensor, Tensor)",
    fake=_backward_fake,
    vmap=backward_vmap,
)

# ---------------------------------------------------------------------------------------------------------------------
# Autograd


def round_trip(
    image: Tensor, tables: Tensor | None, setting: Setting, slopes: Tensor | None = None, identity: bool = False
) -> tuple[Tensor, Tensor]:
    """Applies the exact round trip with a straight-through gradient or a surrogate's.

    Args:
        image, tables, setting: as in `SCHEMAS`; ``tables`` acts rounded and clamped, but receives its gradient
            straight through both.
        slopes: a surrogate's, as `fdjpeg._slopes.slope_table` returns them; None is straight-through.
        identity: let the image's gradient pass the whole layer unchanged (BPDA).

    Returns:
        The decoded image, differentiable in ``image`` and ``tables``, and the planes, which are not.
    """
    if _onnx.exporting():
        return _onnx.round_trip(image, tables, *setting)
    if wants_autograd(image) or wants_autograd(tables):
        results: tuple[Tensor, Tensor] = apply_function(_RoundTrip, image, tables, slopes, setting, identity)
        return results
    return torch.ops.fdjpeg.round_trip(image, tables, *setting)


class _RoundTrip(TwoWayFunction):
    # forward is not variadic: torch.compile would mistake that for the old style, with ctx first.

    @staticmethod
    def forward(
        image: Tensor, tables: Tensor | None, slopes: Tensor | None, setting: Setting, identity: bool
    ) -> tuple[Tensor, Tensor]:
        out, planes = torch.ops.fdjpeg.round_trip(image, tables, *setting)
        return out, planes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        image, tables, slopes, ctx.setting, ctx.identity = inputs
        _, planes = output
        ctx.mark_non_differentiable(planes)
        ctx.set_materialize_grads(False)  # no zeros for the gradient of planes
        save_for_both(ctx, image, tables, planes, slopes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 5
        image, tables, planes, slopes = ctx.saved_tensors
        table_gradient = ctx.needs_input_grad[1]
        if ctx.identity and not table_gradient:
            return grad, None, None, None, None
        arguments = (grad, planes, image, tables, ctx.setting, table_gradient)
        if slopes is None:
            of_image, of_tables = apply_function(_RoundTripBackward, *arguments)
        else:
            of_image, of_tables = apply_function(_SurrogateBackward, *arguments, slopes)
        of_tables = of_given_tables(of_tables, tables) if table_gradient else None
        return grad if ctx.identity else of_image, of_tables, None, None, None


class _RoundTripInBothModes(_RoundTrip):
    @staticmethod
    def jvp(ctx: Any, v: Tensor | None, of_tables: Tensor | None, *_: Any) -> tuple[Tensor, None]:
        image, tables, planes, slopes = ctx.saved_tensors
        quality, *sampling = ctx.setting
        v = tangent_or_zeros(v, image)
        if slopes is not None:
            arguments = (v, of_tables, planes, image, tables, *ctx.setting, slopes)
            tangent = reference.surrogate_tangent(*arguments)
            return not_differentiable(tangent, image, tables), None
        tangent = v if ctx.identity else reference.straight_through_tangent(v, planes, image, *sampling)
        if of_tables is not None:
            change = reference.table_tangent(of_tables, planes, image, tables, quality, *sampling)
            tangent = tangent + change.to(tangent.dtype)
        return tangent, None


_RoundTrip.in_both_modes = _RoundTripInBothModes


def round_trip_by_block(
    image: Tensor, qualities: Tensor, sampling: Sampling, identity: bool = False
) -> tuple[Tensor, Tensor]:
    """Applies the exact round trip at a quality for each block, with the image's straight-through gradient.

    Args:
        image, qualities, sampling: as in `SCHEMAS`.
        identity: let the image's gradient pass the whole layer unchanged (BPDA).

    Returns:
        As `round_trip`.
    """
    if _onnx.exporting():
        return _onnx.round_trip_by_block(image, qualities, *sampling)
    if wants_autograd(image):
        results: tuple[Tensor, Tensor] = apply_function(_RoundTripByBlock, image, qualities, sampling, identity)
        return results
    return torch.ops.fdjpeg.round_trip_by_block(image, qualities, *sampling)


class _RoundTripByBlock(TwoWayFunction):
    @staticmethod
    def forward(image: Tensor, qualities: Tensor, sampling: Sampling, identity: bool) -> tuple[Tensor, Tensor]:
        out, planes = torch.ops.fdjpeg.round_trip_by_block(image, qualities, *sampling)
        return out, planes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        image, _, ctx.sampling, ctx.identity = inputs
        planes = output[1]
        ctx.mark_non_differentiable(planes)
        ctx.set_materialize_grads(False)  # no zeros for the gradient of planes
        save_for_both(ctx, image, planes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if grad is None or ctx.identity:
            return grad, None, None, None
        image, planes = ctx.saved_tensors
        setting = Setting(0.0, *ctx.sampling)  # the straight-through gradient has no transform left, and so no table
        of_image, _ = apply_function(_RoundTripBackward, grad, planes, image, None, setting, False)
        return of_image, None, None, None


class _RoundTripByBlockInBothModes(_RoundTripByBlock):
    @staticmethod
    def jvp(ctx: Any, v: Tensor, *_: Any) -> tuple[Tensor, None]:
        image, planes = ctx.saved_tensors
        return v if ctx.identity else reference.straight_through_tangent(v, planes, image, *ctx.sampling), None


_RoundTripByBlock.in_both_modes = _RoundTripByBlockInBothModes


class _RoundTripBackward(TwoWayFunction):
    """The gradient is linear and differentiable in the incoming gradient; all other inputs count as constant."""

    @staticmethod
    def forward(
        grad: Tensor, planes: Tensor, image: Tensor, tables: Tensor | None, setting: Setting, table_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        of_image, of_tables = torch.ops.fdjpeg.round_trip_backward(
            grad, planes, image, tables, *setting, table_gradient
        )
        return of_image, of_tables

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, planes, image, tables, ctx.setting, ctx.table_gradient = inputs
        ctx.set_materialize_grads(False)
        save_for_both(ctx, planes, image, tables)

    @staticmethod
    def backward(ctx: Any, image_tangent: Tensor | None, tables_tangent: Tensor | None) -> tuple[Tensor | None, ...]:
        planes, image, tables = ctx.saved_tensors
        quality, *sampling = ctx.setting
        image_tangent = tangent_or_zeros(image_tangent, image)
        tangent = reference.straight_through_tangent(image_tangent, planes, image, *sampling)
        if ctx.table_gradient and tables_tangent is not None:
            of_tables = reference.table_tangent(tables_tangent, planes, image, tables, quality, *sampling)
            tangent = tangent + of_tables.to(tangent.dtype)
        return tangent, None, None, None, None, None


class _RoundTripBackwardInBothModes(_RoundTripBackward):
    @staticmethod
    def jvp(ctx: Any, v: Tensor | None, *_: Any) -> tuple[Tensor, Tensor | None]:
        planes, image, tables = ctx.saved_tensors
        v = tangent_or_zeros(v, image)
        arguments = (v, planes, image, tables, ctx.setting, ctx.table_gradient)
        of_image, of_tables = apply_function(_RoundTripBackward, *arguments)
        return of_image, of_tables


_RoundTripBackward.in_both_modes = _RoundTripBackwardInBothModes


class _SurrogateBackward(TwoWayFunction):
    @staticmethod
    def forward(
        grad: Tensor,
        planes: Tensor,
        image: Tensor,
        tables: Tensor | None,
        setting: Setting,
        table_gradient: bool,
        slopes: Tensor,
    ) -> tuple[Tensor, Tensor]:
        arguments = (grad, planes, image, tables, *setting, table_gradient, slopes)
        of_image, of_tables = torch.ops.fdjpeg.surrogate_backward(*arguments)
        return of_image, of_tables

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Tensor:
        raise RuntimeError(ONCE)


class _SurrogateBackwardInBothModes(_SurrogateBackward):
    @staticmethod
    def jvp(ctx: Any, *_: Any) -> tuple[Tensor, Tensor]:
        raise RuntimeError(ONCE)


_SurrogateBackward.in_both_modes = _SurrogateBackwardInBothModes
