"""The codec at packed steps: exact, with a surrogate's derivatives, and the rounding of real coefficients alone.

It serves calls that no single op serves: a user's own surrogate, noise, and maps of qualities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fdjpeg import reference
from fdjpeg._geometry import Sampling, geometry_of
from fdjpeg._slopes import Formula, formula_of, surrogate_of
from fdjpeg._tangents import TwoWayFunction, apply_function, save_for_both, tangent_or_zeros
from fdjpeg.ops.pieces import blocks_image_backward, image_blocks_backward, packed
from fdjpeg.ops.registration import ONCE, forward_vmap, images_vmap, not_differentiable, register, wants_autograd
from fdjpeg.surrogates import Noise, StraightThrough, Surrogate


def _round_trip_fake(
    image: Tensor, steps: Tensor, slopes: Tensor | None, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    planes = geometry_of(image, horizontal, vertical).plane_bytes
    first, second = packed(image, horizontal, vertical), packed(image, horizontal, vertical)
    return torch.empty_like(image), image.new_empty((image.size(0), planes), dtype=torch.uint8), first, second


def _round_trip_vmap(
    op: Callable[..., Any],
    info: Any,
    in_dims: tuple[int | None, ...],
    image: Tensor,
    steps: Tensor,
    slopes: Tensor | None,
    *rest: Any,
) -> Any:
    if slopes is not None and in_dims[2] is not None:
        raise NotImplementedError("fdjpeg::round_trip_by_steps cannot map over slopes")
    return forward_vmap(op, info, in_dims, image, steps, slopes, *rest)


# The round trip at steps (1 or N, blocks, 8, 8): image, planes, and two numbers for each coefficient, which are c and
# its rounding, or with a surrogate's slopes the derivatives by the coefficient and by its step.
register(
    "round_trip_by_steps",
    "(Tensor image, Tensor steps, Tensor? slopes, int horizontal, int vertical, bool fancy) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    fake=_round_trip_fake,
    vmap=_round_trip_vmap,
)


def _surrogate_fake(c: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(c), torch.empty_like(c)


# A built-in surrogate at coefficients in steps: the number that takes their place, and the derivative.
register(
    "surrogate",
    "(Tensor c, str surrogate, float parameter, float floor, bool soft) -> (Tensor, Tensor)",
    fake=_surrogate_fake,
    vmap=images_vmap,
)


def _rounded_backward_fake(grad: Tensor, used: Tensor, c: Tensor | None, slope: Tensor | None) -> tuple[Tensor, Tensor]:
    return grad.new_empty(0) if slope is None else torch.empty_like(used), torch.empty_like(used)


def _rounded_backward_vmap(
    op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *arguments: Tensor | None
) -> Any:
    results, out_dims = images_vmap(op, info, in_dims, *arguments)
    if arguments[3] is None:  # not wanted: the same empty tensor for all
        return (results[0].flatten(), results[1]), (None, 0)
    return results, out_dims


# The gradients of packed coefficients, empty without their slope, and of their steps, for each image.
register(
    "rounded_backward",
    "(Tensor grad, Tensor used, Tensor? c, Tensor? slope) -> (Tensor, Tensor)",
    fake=_rounded_backward_fake,
    vmap=_rounded_backward_vmap,
)


def _scaled_backward_fake(grad: Tensor, blocks: Tensor, steps: Tensor, divided: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(blocks), torch.empty_like(blocks)


# The gradients of packed coefficients times their steps, or divided by them, and of the steps, for each image.
register(
    "scaled_backward",
    "(Tensor grad, Tensor blocks, Tensor steps, bool divided) -> (Tensor, Tensor)",
    fake=_scaled_backward_fake,
    vmap=images_vmap,
)


def rounded(blocks: Tensor, steps: Tensor, surrogate: Surrogate, soft: bool) -> Tensor:
    """Rounds real coefficients to multiples of their steps, with the derivative of a surrogate.

    Args:
        blocks: packed.
        steps: packed.
        surrogate: of rounding.
        soft: whether it takes rounding's place, instead of its derivative alone.

    Returns:
        The multiples. Their second derivatives are the surrogate's own if ``soft``. Else they are 0 straight-through,
        and raise for other surrogates.
    """
    if type(surrogate) is Noise:
        return torch.addcmul(blocks, surrogate.drawn(blocks), steps)
    formula = formula_of(surrogate)
    if soft and formula is None:
        own = steps.expand_as(blocks)  # so that the gradients of all images are summed once
        return _scaled(surrogate.forward(_scaled(blocks, own, True)), own, False)
    c = blocks.detach() / steps.detach()
    slope: Tensor | None = None
    smooth: Formula | None = None
    if isinstance(surrogate, StraightThrough):
        used = c.round()
    elif formula is None:
        used, slope = c.round(), surrogate.derivative(c)
    else:
        smooth = formula._replace(floor=0.0) if soft else None  # the surrogate's own derivative, which has no floor
        used, slope = torch.ops.fdjpeg.surrogate(c, *(smooth or formula), soft)
    multiples: Tensor = apply_function(_Rounded, blocks, steps, used, c, slope, smooth)
    return multiples


def _scaled(blocks: Tensor, steps: Tensor, divided: bool) -> Tensor:
    """Returns blocks times their steps, or ``divided`` by them, differentiable any number of times."""
    if not wants_autograd(steps):
        return blocks / steps if divided else blocks * steps
    result: Tensor = apply_function(_Scaled, blocks, steps, divided)
    return result


class _Scaled(TwoWayFunction):
    """A product or a quotient, both of whose gradients are one launch; autograd takes two or five."""

    @staticmethod
    def forward(blocks: Tensor, steps: Tensor, divided: bool) -> Tensor:
        return blocks / steps if divided else blocks * steps

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.divided = inputs
        save_for_both(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        blocks, steps = ctx.saved_tensors
        given = (grads[0], blocks, steps)
        # The plain formulas are differentiable, and torch.compile makes one kernel of them itself.
        plain = any(wants_autograd(one) for one in given)
        of_both = reference.scaled_backward if plain else torch.ops.fdjpeg.scaled_backward
        return *of_both(*given, ctx.divided), None


class _ScaledInBothModes(_Scaled):
    @staticmethod
    def jvp(ctx: Any, v: Tensor | None, of_steps: Tensor | None, *_: Any) -> Tensor:
        blocks, steps = ctx.saved_tensors
        v, of_steps = tangent_or_zeros(v, blocks), tangent_or_zeros(of_steps, steps)
        if ctx.divided:
            return (v - of_steps * (blocks / steps)) / steps
        return v * steps + blocks * of_steps


_Scaled.in_both_modes = _ScaledInBothModes


class _Rounded(TwoWayFunction):
    @staticmethod
    def forward(
        blocks: Tensor, steps: Tensor, used: Tensor, c: Tensor, slope: Tensor | None, smooth: Formula | None
    ) -> Tensor:
        return used * steps

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.smooth = inputs
        save_for_both(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        of_blocks, of_steps = _gradients(grads[0], ctx.saved_tensors, ctx.smooth, ctx.needs_input_grad[1])
        return of_blocks, of_steps, None, None, None, None


class _RoundedInBothModes(_Rounded):
    @staticmethod
    def jvp(ctx: Any, v: Tensor | None, of_steps: Tensor | None, *_: Any) -> Tensor:
        blocks, steps, used, c, slope = ctx.saved_tensors
        if ctx.smooth is not None:
            return _smooth_tangent((v, of_steps), blocks, steps, ctx.smooth)
        tangent = _tangent((v, of_steps), used, c, slope)
        return tangent if slope is None else not_differentiable(tangent, blocks, steps)


_Rounded.in_both_modes = _RoundedInBothModes


def _gradients(
    grad: Tensor,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None],
    smooth: Formula | None,
    wanted: bool,
) -> tuple[Tensor, Tensor | None]:
    """Returns the gradients of `_RoundedBackward`, the second only if it is ``wanted``."""
    slope = tensors[4]
    if slope is None and not wanted:
        return grad, None
    of_blocks, of_steps = apply_function(_RoundedBackward, grad, *tensors, smooth, wanted)
    return grad if slope is None else of_blocks, of_steps if wanted else None


class _RoundedBackward(TwoWayFunction):
    """The gradients of blocks and steps by that of the multiples; each is empty where it is trivial or not wanted.

    ``blocks`` is that on which ``slope`` depends, which may be the image instead.
    """

    @staticmethod
    def forward(
        grad: Tensor,
        blocks: Tensor,
        steps: Tensor,
        used: Tensor,
        c: Tensor | None,
        slope: Tensor | None,
        smooth: Formula | None,
        wanted: bool,
    ) -> tuple[Tensor, Tensor]:
        if slope is not None and not wanted:
            return grad * slope, grad.new_empty(0)
        of_blocks, of_steps = torch.ops.fdjpeg.rounded_backward(grad, used, c, slope)
        of_steps = of_steps.sum(0, keepdim=True) if steps.size(0) == 1 else of_steps
        return of_blocks, of_steps.to(steps.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.smooth, ctx.wanted = inputs
        save_for_both(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:
        grad, blocks, steps, used, c, slope = ctx.saved_tensors
        v, of_steps = tangents
        if ctx.smooth is not None:
            given = v, of_steps if ctx.wanted else torch.zeros_like(steps)
            return *_smooth_second_gradient(given, grad, blocks, steps, ctx.smooth), None, None, None, None, None
        if slope is not None:
            raise RuntimeError(ONCE)
        return _tangent((None, of_steps), used, c, slope), None, None, None, None, None, None, None


class _RoundedBackwardInBothModes(_RoundedBackward):
    """Second derivatives are symmetric: those in forward mode are `_smooth_second_gradient` too."""

    @staticmethod
    def jvp(
        ctx: Any, of_grad: Tensor | None, v: Tensor | None, of_steps: Tensor | None, *_: Any
    ) -> tuple[Tensor, Tensor]:
        grad, blocks, steps, used, c, slope = ctx.saved_tensors
        rest = (blocks, steps, used, c, slope, ctx.smooth, ctx.wanted)
        blocks_tangent, steps_tangent = apply_function(_RoundedBackward, tangent_or_zeros(of_grad, grad), *rest)
        if slope is None:
            return blocks_tangent, steps_tangent
        if ctx.smooth is None:
            raise RuntimeError(ONCE)
        changes = tangent_or_zeros(v, blocks), tangent_or_zeros(of_steps, steps)
        of_v, of_w = _smooth_second_gradient(changes, grad, blocks, steps, ctx.smooth)[1:]
        return blocks_tangent + of_v, steps_tangent + of_w if ctx.wanted else steps_tangent


_RoundedBackward.in_both_modes = _RoundedBackwardInBothModes


def _tangent(
    tangents: tuple[Tensor | None, Tensor | None], used: Tensor, c: Tensor | None, slope: Tensor | None
) -> Tensor:
    """Returns the change of the multiples by those of blocks and steps, of which one may be missing."""
    v, of_steps = tangents
    tangent = torch.zeros_like(used) if v is None else v if slope is None else v * slope
    if of_steps is None:
        return tangent
    by_step = used if c is None else used - (c if slope is None else c * slope)
    return tangent + of_steps * by_step


def _smooth_tangent(
    tangents: tuple[Tensor | None, Tensor | None], blocks: Tensor, steps: Tensor, smooth: Formula
) -> Tensor:
    """Returns `_tangent` of a surrogate in rounding's place, differentiable by everything."""
    c = blocks / steps
    surrogate = surrogate_of(smooth)
    return _tangent(tangents, surrogate.forward(c), c, surrogate.derivative(c))


def _smooth_second_gradient(
    tangents: tuple[Tensor, Tensor], grad: Tensor, blocks: Tensor, steps: Tensor, smooth: Formula
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the vector-Jacobian product of `_RoundedBackward` for a surrogate in rounding's place."""
    surrogate = surrogate_of(smooth)

    def gradients(grad: Tensor, blocks: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        def multiples(blocks: Tensor, steps: Tensor) -> Tensor:
            return surrogate.forward(blocks / steps) * steps

        of_blocks, of_steps = torch.func.vjp(multiples, blocks, steps)[1](grad)
        return of_blocks, of_steps

    of_grad, of_blocks, of_steps = torch.func.vjp(gradients, grad, blocks, steps)[1](tangents)
    return of_grad, of_blocks, of_steps


def exact_by_steps(
    image: Tensor,
    steps: Tensor,
    sampling: Sampling,
    slopes: Tensor | None,
    derivative: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Applies the exact round trip at packed steps, with the gradients of real steps and of a surrogate.

    Args:
        image: as in `SCHEMAS`, and so the others up to ``slopes``.
        steps: packed, floating, acting as `reference.integer_tables`, straight through.
        sampling: as there.
        slopes: a surrogate's, as `fdjpeg._slopes.slope_table` returns them.
        derivative: a surrogate's, if there are no ``slopes``; without either, straight-through.

    Returns:
        The decoded image, differentiable by ``image`` and ``steps``, straight-through any number of times and else
        once; and the planes, which are not.
    """
    arguments = (image.detach(), steps.detach(), slopes, *sampling)
    out, planes, first, second = torch.ops.fdjpeg.round_trip_by_steps(*arguments)
    c, slope, used = (None, first, second) if slopes is not None else (first, None, second)
    if slopes is None and derivative is not None:
        slope = derivative(first)
    result: Tensor = apply_function(_WithGradients, out, image, steps, planes, used, c, slope, sampling)
    return result, planes


class _WithGradients(TwoWayFunction):
    """The result of the exact codec, with its derivatives by image and steps."""

    @staticmethod
    def forward(
        out: Tensor,
        image: Tensor,
        steps: Tensor,
        planes: Tensor,
        used: Tensor,
        c: Tensor | None,
        slope: Tensor | None,
        sampling: Sampling,
    ) -> Tensor:
        return out.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, image, steps, planes, used, c, slope, ctx.sampling = inputs
        save_for_both(ctx, image, steps, planes, used, c, slope)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        image, steps, planes, used, c, slope = ctx.saved_tensors
        of_blocks = blocks_image_backward(grads[0], planes, image, ctx.sampling)
        through, of_steps = _gradients(of_blocks, (image, steps, used, c, slope), None, ctx.needs_input_grad[2])
        of_image = None
        if ctx.needs_input_grad[1]:
            of_image = image_blocks_backward(through, image, planes, ctx.sampling)
        return None, of_image, of_steps, None, None, None, None, None


class _WithGradientsInBothModes(_WithGradients):
    @staticmethod
    def jvp(ctx: Any, _: Any, v: Tensor | None, of_steps: Tensor | None, *__: Any) -> Tensor:
        image, steps, planes, used, c, slope = ctx.saved_tensors
        change = reference.image_blocks_tangent(tangent_or_zeros(v, image), image, True, *ctx.sampling[:2])
        change = _tangent((change, of_steps), used, c, slope)
        tangent = reference.blocks_image_tangent(change, planes, image, *ctx.sampling)
        return tangent if slope is None else not_differentiable(tangent, image, steps)


_WithGradients.in_both_modes = _WithGradientsInBothModes
