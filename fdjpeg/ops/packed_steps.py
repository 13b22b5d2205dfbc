"""The ops of packed steps: those of maps of qualities, of one quality and of tables, a set of 64 for each block.

`fdjpeg.reference.pieces` says how they are packed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fdjpeg import reference
from fdjpeg._geometry import BLOCK, Geometry, Sampling, geometry_of
from fdjpeg._standard_tables import clamped_quality
from fdjpeg._tangents import TwoWayFunction, apply_function, save_for_both, tangent_or_zeros
from fdjpeg.ops.registration import images_vmap, register, wants_autograd

#: A map of a tensor that depends on a geometry.
_Map = Callable[[Tensor, Geometry], Tensor]


def blocks_of(geometry: Geometry) -> int:
    """Returns the number of an image's blocks."""
    return geometry.flag_offset // (BLOCK * BLOCK)


def _steps_fake(qualities: Tensor, luma: int, whole: bool, soft: bool) -> Tensor:
    dtype = torch.float64 if qualities.dtype == torch.float64 else torch.float32
    return qualities.new_empty((*qualities.shape, BLOCK, BLOCK), dtype=dtype)


def _steps_backward_fake(grad: Tensor, qualities: Tensor, luma: int, whole: bool, soft: bool) -> Tensor:
    return qualities.new_empty(qualities.shape)


def _looked_up_steps(qualities: Tensor, luma: int, whole: bool, soft: bool) -> Tensor:
    """Computes `reference.standard_steps`; of many whole qualities it copies the tables of 1…100."""
    if not whole or qualities.numel() <= 100:
        return reference.standard_steps(qualities, luma, whole, soft)
    every = torch.arange(1, 101, device=qualities.device)
    tables = reference.standard_steps(every.repeat(1, 2), len(every), whole, soft)[0]
    of_chroma = torch.arange(qualities.size(1), device=qualities.device) >= luma
    place = clamped_quality(qualities).round().long() - 1 + len(every) * of_chroma
    steps = tables.index_select(0, place.flatten()).unflatten(0, qualities.shape)
    return steps.double() if qualities.dtype == torch.float64 else steps


# The standard tables at qualities (N, B): (N, B, 8, 8), the first `luma` of the B of luma; and their gradient.
register(
    "standard_steps",
    "(Tensor qualities, SymInt luma, bool whole, bool soft) -> Tensor",
    fake=_steps_fake,
    vmap=images_vmap,
    fallback=_looked_up_steps,
)
register(
    "standard_steps_backward",
    "(Tensor grad, Tensor qualities, SymInt luma, bool whole, bool soft) -> Tensor",
    fake=_steps_backward_fake,
    vmap=images_vmap,
)


def _sum_fake(grad: Tensor, luma: int) -> Tensor:
    return grad.new_empty((grad.size(0), 3, BLOCK, BLOCK))


# The gradients of tables (N, 3, 8, 8) from those of packed steps, of which the first `luma` are of luma.
register("sum_blocks", "(Tensor grad, SymInt luma) -> Tensor", fake=_sum_fake, vmap=images_vmap)


def standard_steps(qualities: Tensor, luma: int, whole: bool, soft: bool) -> Tensor:
    """Computes the standard tables at qualities ``(N, B)``, differentiable any number of times by floating ones."""
    if not qualities.is_floating_point() or not wants_autograd(qualities):
        made: Tensor = torch.ops.fdjpeg.standard_steps(qualities, luma, whole, soft)
        return made
    steps: Tensor = apply_function(_StandardSteps, qualities, luma, whole, soft)
    return steps


class _StandardSteps(TwoWayFunction):
    @staticmethod
    def forward(qualities: Tensor, luma: int, whole: bool, soft: bool) -> Tensor:
        steps: Tensor = torch.ops.fdjpeg.standard_steps(qualities, luma, whole, soft)
        return steps

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        qualities, *ctx.rest = inputs
        save_for_both(ctx, qualities)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (qualities,) = ctx.saved_tensors
        return apply_function(_StandardStepsBackward, grads[0], qualities, *ctx.rest), None, None, None


class _StandardStepsInBothModes(_StandardSteps):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (qualities,) = ctx.saved_tensors
        return tangents[0][..., None, None] * reference.standard_slopes(qualities, *ctx.rest)


_StandardSteps.in_both_modes = _StandardStepsInBothModes


class _StandardStepsBackward(TwoWayFunction):
    @staticmethod
    def forward(grad: Tensor, qualities: Tensor, luma: int, whole: bool, soft: bool) -> Tensor:
        of_qualities: Tensor = torch.ops.fdjpeg.standard_steps_backward(grad, qualities, luma, whole, soft)
        return of_qualities

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, qualities, *ctx.rest = inputs
        save_for_both(ctx, grad, qualities)

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:
        grad, qualities = ctx.saved_tensors
        v = tangents[0]
        of_grad = v[..., None, None] * reference.standard_slopes(qualities, *ctx.rest)
        curved = (grad * reference.standard_curvatures(qualities, *ctx.rest)).sum((-1, -2))
        return of_grad.to(grad.dtype), (v * curved).to(qualities.dtype), None, None, None


class _StandardStepsBackwardInBothModes(_StandardStepsBackward):
    @staticmethod
    def jvp(ctx: Any, of_grad: Tensor | None, of_qualities: Tensor | None, *_: Any) -> Tensor:
        grad, qualities = ctx.saved_tensors
        linear = (tangent_or_zeros(of_grad, grad) * reference.standard_slopes(qualities, *ctx.rest)).sum((-1, -2))
        curved = (grad * reference.standard_curvatures(qualities, *ctx.rest)).sum((-1, -2))
        return (linear + tangent_or_zeros(of_qualities, qualities) * curved).to(qualities.dtype)


_StandardStepsBackward.in_both_modes = _StandardStepsBackwardInBothModes


def steps_of_map(qualities: Tensor, image: Tensor, sampling: Sampling, soft: bool) -> Tensor:
    """Returns the packed steps of a map of qualities ``(N, rows, columns)``, differentiable as `standard_steps`."""
    geometry = geometry_of(image, sampling.horizontal, sampling.vertical)
    luma = geometry.luma.rows * geometry.luma.columns
    of_blocks: Tensor = apply_function(_Linear, qualities, geometry, _of_blocks, _of_map)
    return standard_steps(of_blocks, luma, not soft, soft)


def steps_of_number(number: float, image: Tensor, sampling: Sampling, soft: bool) -> Tensor:
    """Returns the packed steps ``(1, blocks, 8, 8)`` of one quality, in the dtype of computations."""
    # In double, by which libjpeg's percentage is computed.
    qualities = torch.full((1, 3), number, dtype=torch.float64, device=image.device)
    tables: Tensor = torch.ops.fdjpeg.standard_steps(qualities, 1, False, soft)
    return steps_of_tables(tables.to(reference.real_dtype(image)), image, sampling)


def steps_of_tables(tables: Tensor, image: Tensor, sampling: Sampling) -> Tensor:
    """Returns the packed steps of tables ``(1 or N, 3, 8, 8)``, differentiable any number of times."""
    geometry = geometry_of(image, sampling.horizontal, sampling.vertical)
    steps: Tensor = apply_function(_Linear, tables, geometry, _of_tables, _sum_blocks)
    return steps


# ---------------------------------------------------------------------------------------------------------------------
# Linear maps, which depend on a geometry


class _Linear(TwoWayFunction):
    """A linear map, given with its transposed map, by which gradients go back."""

    @staticmethod
    def forward(x: Tensor, geometry: Geometry, function: _Map, transposed: _Map) -> Tensor:
        return function(x, geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *ctx.maps = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        geometry, function, transposed = ctx.maps
        return apply_function(_Linear, grads[0], geometry, transposed, function), None, None, None


class _LinearInBothModes(_Linear):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        tangent: Tensor = apply_function(_Linear, tangents[0], *ctx.maps)
        return tangent


_Linear.in_both_modes = _LinearInBothModes


def _of_blocks(qualities: Tensor, geometry: Geometry) -> Tensor:
    """Returns the qualities of blocks, packed, from those of luma's: chroma's are those of its top-left of luma."""
    luma = qualities.flatten(1)
    if geometry.channels == 1:
        return luma.clone()
    chroma = qualities[:, :: geometry.vertical, :: geometry.horizontal].flatten(1)
    return torch.cat([luma, chroma, chroma], 1)


def _of_map(of_blocks: Tensor, geometry: Geometry) -> Tensor:
    """Applies the transposed map of `_of_blocks`."""
    size = (geometry.luma.rows, geometry.luma.columns)
    luma, cb, cr = of_blocks.tensor_split([size[0] * size[1], (of_blocks.size(1) + size[0] * size[1]) // 2], 1)
    of_map = luma.reshape(-1, *size).clone()
    if geometry.channels == 3:
        size = (geometry.chroma.rows, geometry.chroma.columns)
        covered = of_map[:, :: geometry.vertical, :: geometry.horizontal]
        covered += (cb + cr).reshape(-1, *size)
    return of_map


def _of_tables(tables: Tensor, geometry: Geometry) -> Tensor:
    """Returns the packed steps of tables."""
    planes = (geometry.luma, geometry.chroma, geometry.chroma)[: geometry.channels]
    parts = [
        table[:, None].expand(-1, plane.rows * plane.columns, -1, -1)
        for table, plane in zip(tables.unbind(1), planes, strict=False)
    ]
    return torch.cat(parts, 1)


def _sum_blocks(of_steps: Tensor, geometry: Geometry) -> Tensor:
    """Applies the transposed map of `_of_tables`."""
    of_tables: Tensor = torch.ops.fdjpeg.sum_blocks(of_steps, geometry.luma.rows * geometry.luma.columns)
    return of_tables
