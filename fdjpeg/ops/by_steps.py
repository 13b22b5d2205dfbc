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
from fdjpeg._tangents import TwoWayFunction, apply_function, save_for_both, tangent_or_zeros
from fdjpeg.ops.pieces import blocks_image_backward, image_blocks_backward, packed
from fdjpeg.ops.registration import forward_vmap, not_differentiable, register


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


def rounded(blocks: Tensor, steps: Tensor, c: Tensor, slope: Tensor | None) -> Tensor:
    """Rounds real coefficients to multiples of their steps, with a derivative that stands in for rounding's.

    Args:
        blocks, steps: packed.
        c: the coefficients in steps, which no derivative passes.
        slope: the derivative; None is straight-through.

    Returns:
        The multiples. Their second derivatives count as 0.
    """
    c = c.detach()
    multiples: Tensor = apply_function(_Rounded, blocks, steps, c, c.round(), slope)
    return multiples


class _Rounded(TwoWayFunction):
    @staticmethod
    def forward(blocks: Tensor, steps: Tensor, c: Tensor, k: Tensor, slope: Tensor | None) -> Tensor:
        return k * steps

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, steps, c, k, slope = inputs
        ctx.sets = steps.size(0)
        save_for_both(ctx, c, k, slope)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        c, k, slope = ctx.saved_tensors
        grad = grads[0]
        of_blocks = grad if slope is None else grad * slope
        of_steps = None
        if ctx.needs_input_grad[1]:
            of_steps = grad * _by_step(c, k, slope)
            of_steps = of_steps.sum(0, keepdim=True) if ctx.sets == 1 else of_steps
        return of_blocks, of_steps, None, None, None


class _RoundedInBothModes(_Rounded):
    @staticmethod
    def jvp(ctx: Any, v: Tensor | None, of_steps: Tensor | None, *_: Any) -> Tensor:
        c, k, slope = ctx.saved_tensors
        v = tangent_or_zeros(v, c)
        tangent = v if slope is None else v * slope
        return tangent if of_steps is None else tangent + of_steps * _by_step(c, k, slope)


_Rounded.in_both_modes = _RoundedInBothModes


def _by_step(c: Tensor, k: Tensor, slope: Tensor | None) -> Tensor:
    """Returns a coefficient's derivative by its step: of c by its rounding k, whose derivative by c is ``slope``."""
    return k - c if slope is None else k - c * slope


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
    out, planes, c, k = torch.ops.fdjpeg.round_trip_by_steps(image.detach(), steps.detach(), slopes, *sampling)
    slope, by_step = None, None
    if slopes is not None:
        slope, by_step = c, k
    else:
        slope = None if derivative is None else derivative(c)
        by_step = _by_step(c, k, slope)
    result: Tensor = apply_function(_WithGradients, out, image, steps, planes, slope, by_step, sampling)
    return result, planes


class _WithGradients(TwoWayFunction):
    """The result of the exact codec, with its derivatives by image and steps."""

    @staticmethod
    def forward(
        out: Tensor,
        image: Tensor,
        steps: Tensor,
        planes: Tensor,
        slope: Tensor | None,
        by_step: Tensor,
        sampling: Sampling,
    ) -> Tensor:
        return out.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, image, steps, planes, slope, by_step, ctx.sampling = inputs
        save_for_both(ctx, image, steps, planes, slope, by_step)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        image, steps, planes, slope, by_step = ctx.saved_tensors
        grad = grads[0] if slope is None else not_differentiable(grads[0], image, steps)
        of_image = of_steps = None
        of_blocks = blocks_image_backward(grad, planes, image, ctx.sampling)
        if ctx.needs_input_grad[1]:
            through = of_blocks if slope is None else of_blocks * slope
            of_image = image_blocks_backward(through, image, planes, ctx.sampling)
        if ctx.needs_input_grad[2]:
            of_steps = (of_blocks * by_step).to(steps.dtype)
            of_steps = of_steps.sum(0, keepdim=True) if steps.size(0) == 1 else of_steps
        return None, of_image, of_steps, None, None, None, None


class _WithGradientsInBothModes(_WithGradients):
    @staticmethod
    def jvp(ctx: Any, _: Any, v: Tensor | None, of_steps: Tensor | None, *__: Any) -> Tensor:
        image, steps, planes, slope, by_step = ctx.saved_tensors
        change = reference.image_blocks_tangent(tangent_or_zeros(v, image), image, True, *ctx.sampling[:2])
        change = change if slope is None else slope * change
        if of_steps is not None:
            change = change + by_step * of_steps
        tangent = reference.blocks_image_tangent(change, planes, image, *ctx.sampling)
        return tangent if slope is None else not_differentiable(tangent, image, steps)


_WithGradients.in_both_modes = _WithGradientsInBothModes
