"""The ops of the round trip in real numbers, and of its gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fdjpeg import _onnx, reference
from fdjpeg._slopes import Formula
from fdjpeg._tangents import TwoWayFunction, apply_function, save_for_both, tangent_or_zeros
from fdjpeg.ops.registration import (
    ONCE,
    Setting,
    backward_vmap,
    fake_table_gradient,
    forward_vmap,
    not_differentiable,
    of_given_tables,
    register,
    wants_autograd,
)


class RealSetting(NamedTuple):
    """The arguments of these ops that are not tensors, as their schemas list them.

    Attributes:
        quality, horizontal, vertical, fancy: as of `Setting`.
        surrogate, parameter, floor: as of `fdjpeg._slopes.Formula`.
        soft: whether the surrogate replaces rounding in forward too.
    """

    quality: float
    horizontal: int
    vertical: int
    fancy: bool
    surrogate: str
    parameter: float
    floor: float
    soft: bool


# ---------------------------------------------------------------------------------------------------------------------
# The ops


def _fake(image: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(image), image.new_empty((image.size(0), *image.shape[2:]), dtype=torch.uint8)


def _backward_fake(grad: Tensor, mask: Tensor, image: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    table_gradient = rest[1 + len(RealSetting._fields)]
    return torch.empty_like(image), fake_table_gradient(image, table_gradient, reference.real_dtype(image))


# Tables are in float32 or float64; if soft, a built-in surrogate replaces rounding. Returns the image, and the mask of
# samples that the last limiting passed.
register(
    "real_round_trip",
    "(Tensor image, Tensor? tables, float quality, int horizontal, int vertical, bool fancy, str surrogate, "
    "float parameter, float floor, bool soft) -> (Tensor, Tensor)",
    fake=_fake,
    vmap=forward_vmap,
)

# Its gradient; the tables' is float32, or float64 if the image is float64.
register(
    "real_round_trip_backward",
    "(Tensor grad, Tensor mask, Tensor image, Tensor? tables, float quality, int horizontal, int vertical, bool fancy, "
    "str surrogate, float parameter, float floor, bool soft, bool table_gradient) -> (Tensor, Tensor)",
    fake=_backward_fake,
    vmap=backward_vmap,
)

# ---------------------------------------------------------------------------------------------------------------------
# Autograd


def real_round_trip(
    image: Tensor, tables: Tensor | None, setting: Setting, formula: Formula, soft: bool, identity: bool = False
) -> Tensor:
    """Applies the round trip in real numbers, with the gradient of a built-in surrogate.

    Args:
        image, tables, setting: as in `SCHEMAS`.
        formula: the surrogate.
        soft: whether it replaces rounding in forward too.
        identity: let the image's gradient pass the whole layer unchanged (BPDA).

    Returns:
        The image, differentiable in ``image`` and ``tables``; twice if soft or straight through.
    """
    if soft:  # the gradient is that of the surrogate itself, which has no floor
        formula = formula._replace(floor=0.0)
    arguments = RealSetting(*setting, *formula, soft)
    if _onnx.exporting():
        return _onnx.real_round_trip(image, tables, *arguments)[0]
    if wants_autograd(image) or wants_autograd(tables):
        out, _ = apply_function(_RealRoundTrip, image, tables, arguments, identity)
    else:
        out, _ = torch.ops.fdjpeg.real_round_trip(image, tables, *arguments)
    return out


class _RealRoundTrip(TwoWayFunction):
    @staticmethod
    def forward(image: Tensor, tables: Tensor | None, setting: RealSetting, identity: bool) -> tuple[Tensor, Tensor]:
        out, mask = torch.ops.fdjpeg.real_round_trip(image, tables, *setting)
        return out, mask

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        image, tables, ctx.setting, ctx.identity = inputs
        mask = output[1]
        ctx.mark_non_differentiable(mask)
        ctx.set_materialize_grads(False)  # no zeros for the mask's gradient
        save_for_both(ctx, image, tables, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        table_gradient = ctx.needs_input_grad[1]
        if grad is None or (ctx.identity and not table_gradient):
            return grad, None, None, None
        image, tables, mask = ctx.saved_tensors
        arguments = (grad, mask, image, tables, ctx.setting, table_gradient)
        of_image, of_tables = apply_function(_RealRoundTripBackward, *arguments)
        of_tables = of_given_tables(of_tables, tables) if table_gradient else None
        return grad if ctx.identity else of_image, of_tables, None, None


class _RealRoundTripInBothModes(_RealRoundTrip):
    @staticmethod
    def jvp(ctx: Any, v: Tensor | None, of_tables: Tensor | None, *_: Any) -> tuple[Tensor, None]:
        image, tables, mask = ctx.saved_tensors
        v = tangent_or_zeros(v, image)
        if ctx.identity and of_tables is None:
            return v, None
        if ctx.setting.soft:
            return reference.real_tangent(v, of_tables, mask, image, tables, *ctx.setting), None
        # As in reverse mode, rounding's error counts as constant.
        constants = image.detach(), None if tables is None else tables.detach()
        of_image = torch.zeros_like(v) if ctx.identity else v
        tangent = reference.real_tangent(of_image, of_tables, mask, *constants, *ctx.setting)
        if ctx.identity:
            return v + tangent, None
        straight = ctx.setting.surrogate == "straight-through"
        return tangent if straight else not_differentiable(tangent, image, tables), None


_RealRoundTrip.in_both_modes = _RealRoundTripInBothModes


class _RealRoundTripBackward(TwoWayFunction):
    """The gradient is differentiable where `reference.real_second_gradient` is."""

    @staticmethod
    def forward(
        grad: Tensor, mask: Tensor, image: Tensor, tables: Tensor | None, setting: RealSetting, table_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        arguments = (grad, mask, image, tables, *setting, table_gradient)
        of_image, of_tables = torch.ops.fdjpeg.real_round_trip_backward(*arguments)
        return of_image, of_tables

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        grad, mask, image, tables, ctx.setting, ctx.table_gradient = inputs
        ctx.set_materialize_grads(False)
        save_for_both(ctx, grad, mask, image, tables)

    @staticmethod
    def backward(ctx: Any, of_image: Tensor | None, of_tables: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, _, image, tables = ctx.saved_tensors
        if not ctx.setting.soft and ctx.setting.surrogate != "straight-through":
            raise RuntimeError(ONCE)
        tangents = (tangent_or_zeros(of_image, image), of_tables if ctx.table_gradient else None)
        second = reference.real_second_gradient(tangents, grad, image, tables, *ctx.setting)
        of_grad, of_image, of_tables = second
        return of_grad, None, of_image, None if tables is None else of_tables, None, None


class _RealRoundTripBackwardInBothModes(_RealRoundTripBackward):
    """Second derivatives are symmetric: forward mode by image and tables is `reference.real_second_gradient` too."""

    @staticmethod
    def jvp(
        ctx: Any, of_grad: Tensor | None, of_mask: None, v: Tensor | None, of_tables: Tensor | None, *rest: Any
    ) -> tuple[Tensor, Tensor | None]:
        grad, mask, image, tables = ctx.saved_tensors
        setting = ctx.setting
        linear = (tangent_or_zeros(of_grad, grad), mask, image, tables, setting, ctx.table_gradient)
        image_tangent, tables_tangent = apply_function(_RealRoundTripBackward, *linear)
        if setting.surrogate == "straight-through" or (v is None and of_tables is None):
            return image_tangent, tables_tangent
        if not setting.soft:
            raise RuntimeError(ONCE)
        images = (image.size(0), -1, -1, -1)
        tangents = tangent_or_zeros(v, image), None if of_tables is None else of_tables.expand(images)
        each = None if tables is None else tables.expand(images)
        _, of_image, of_each = reference.real_second_gradient(tangents, grad, image, each, *setting)
        return image_tangent + of_image, tables_tangent + of_each if ctx.table_gradient else tables_tangent


_RealRoundTripBackward.in_both_modes = _RealRoundTripBackwardInBothModes
