"""The ops of the codec's parts, for calls that no single op serves: a user's own surrogate, noise, maps of qualities.

Coefficients and steps are packed, as `fdjpeg.reference.pieces` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fdjpeg import reference
from fdjpeg._geometry import BLOCK, Geometry, Sampling, geometry_of
from fdjpeg._tangents import TwoWayFunction, apply_function, save_for_both, tangent_or_zeros
from fdjpeg.ops.registration import merge, not_differentiable, register, split, wants_autograd

# ---------------------------------------------------------------------------------------------------------------------
# The ops


def _blocks_of(geometry: Geometry) -> int:
    return geometry.flag_offset // (BLOCK * BLOCK)


def _packed(image: Tensor, horizontal: int, vertical: int) -> Tensor:
    """Returns empty coefficients of an image."""
    blocks = _blocks_of(geometry_of(image, horizontal, vertical))
    return image.new_empty((image.size(0), blocks, BLOCK, BLOCK), dtype=reference.real_dtype(image))


def _steps_fake(qualities: Tensor, luma: int, whole: bool, soft: bool) -> Tensor:
    dtype = torch.float64 if qualities.dtype == torch.float64 else torch.float32
    return qualities.new_empty((*qualities.shape, BLOCK, BLOCK), dtype=dtype)


def _steps_backward_fake(grad: Tensor, qualities: Tensor, luma: int, whole: bool, soft: bool) -> Tensor:
    return qualities.new_empty(qualities.shape)


def _round_trip_fake(
    image: Tensor, steps: Tensor, slopes: Tensor | None, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    planes = geometry_of(image, horizontal, vertical).plane_bytes
    first, second = _packed(image, horizontal, vertical), _packed(image, horizontal, vertical)
    return torch.empty_like(image), image.new_empty((image.size(0), planes), dtype=torch.uint8), first, second


def _image_blocks_fake(image: Tensor, horizontal: int, vertical: int) -> Tensor:
    return _packed(image, horizontal, vertical)


def _image_blocks_backward_fake(grad: Tensor, image: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(image)


def _blocks_image_fake(blocks: Tensor, image: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(image), image.new_empty((image.size(0), *image.shape[2:]), dtype=torch.uint8)


def _blocks_image_backward_fake(
    grad: Tensor, kept: Tensor, image: Tensor, horizontal: int, vertical: int, fancy: bool
) -> Tensor:
    return _packed(image, horizontal, vertical)


def _vmap(op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
    """Maps an op all of whose tensors have the images along their first dimension."""
    size = info.batch_size
    merged = [
        merge(one, dim, size) if isinstance(one, Tensor) else one for one, dim in zip(arguments, in_dims, strict=True)
    ]
    results = op(*merged)
    if isinstance(results, Tensor):
        return split(results, size), 0
    return tuple(split(result, size) for result in results), (0,) * len(results)


def _round_trip_vmap(
    op: Callable[..., Any],
    info: Any,
    in_dims: tuple[int | None, ...],
    image: Tensor,
    steps: Tensor,
    slopes: Tensor | None,
    *rest: Any,
) -> Any:
    size = info.batch_size
    merged = merge(image, in_dims[0], size)
    if in_dims[1] is not None or steps.size(0) != 1:  # else one set serves all images
        each = steps.unsqueeze(0) if in_dims[1] is None else steps.movedim(in_dims[1], 0)
        steps = each.expand(size, merged.size(0) // size, *each.shape[2:]).flatten(0, 1)
    if slopes is not None and in_dims[2] is not None:
        raise NotImplementedError("fdjpeg::round_trip_by_steps cannot map over slopes")
    results = op(merged, steps, slopes, *rest)
    return tuple(split(result, size) for result in results), (0,) * len(results)


# The standard tables at qualities (N, B): (N, B, 8, 8), the first `luma` of the B of luma; and their gradient.
register(
    "standard_steps",
    "(Tensor qualities, SymInt luma, bool whole, bool soft) -> Tensor",
    fake=_steps_fake,
    vmap=_vmap,
)
register(
    "standard_steps_backward",
    "(Tensor grad, Tensor qualities, SymInt luma, bool whole, bool soft) -> Tensor",
    fake=_steps_backward_fake,
    vmap=_vmap,
)

# The round trip at steps (1 or N, blocks, 8, 8): image, planes, and two numbers for each coefficient, which are c and
# its rounding, or with a surrogate's slopes the derivatives by the coefficient and by its step.
register(
    "round_trip_by_steps",
    "(Tensor image, Tensor steps, Tensor? slopes, int horizontal, int vertical, bool fancy) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    fake=_round_trip_fake,
    vmap=_round_trip_vmap,
)

#: The blocks' DCT, which has kernels where the rest of an op has none.
_TRANSFORMS = reference.Transforms(
    lambda samples: torch.ops.fdjpeg.block_dct(samples), lambda blocks: torch.ops.fdjpeg.block_idct(blocks)
)


def _by_block_kernels(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments, _TRANSFORMS)


# In real numbers an image's coefficients, and the image of coefficients with the mask that the last limiting passed;
# and their gradients, by the planes also those of the exact codec.
register(
    "image_blocks",
    "(Tensor image, int horizontal, int vertical) -> Tensor",
    fake=_image_blocks_fake,
    vmap=_vmap,
    fallback=_by_block_kernels(reference.image_blocks),
)
register(
    "image_blocks_backward",
    "(Tensor grad, Tensor image, Tensor? planes, int horizontal, int vertical) -> Tensor",
    fake=_image_blocks_backward_fake,
    vmap=_vmap,
    fallback=_by_block_kernels(reference.image_blocks_backward),
)
register(
    "blocks_image",
    "(Tensor blocks, Tensor image, int horizontal, int vertical, bool fancy) -> (Tensor, Tensor)",
    fake=_blocks_image_fake,
    vmap=_vmap,
    fallback=_by_block_kernels(reference.blocks_image),
)
register(
    "blocks_image_backward",
    "(Tensor grad, Tensor kept, Tensor image, int horizontal, int vertical, bool fancy) -> Tensor",
    fake=_blocks_image_backward_fake,
    vmap=_vmap,
    fallback=_by_block_kernels(reference.blocks_image_backward),
)

# ---------------------------------------------------------------------------------------------------------------------
# Steps


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
    steps: Tensor = standard_steps(apply_function(_OfBlocks, qualities, geometry), luma, not soft, soft)
    return steps


def steps_of_number(number: float, image: Tensor, sampling: Sampling, soft: bool) -> Tensor:
    """Returns the packed steps ``(1, blocks, 8, 8)`` of one quality, in the dtype of computations."""
    geometry = geometry_of(image, sampling.horizontal, sampling.vertical)
    luma = geometry.luma.rows * geometry.luma.columns
    # In double, by which libjpeg's percentage is computed.
    qualities = torch.full((1, _blocks_of(geometry)), number, dtype=torch.float64, device=image.device)
    steps: Tensor = torch.ops.fdjpeg.standard_steps(qualities, luma, False, soft)
    return steps.to(reference.real_dtype(image))


class _OfBlocks(TwoWayFunction):
    """The qualities of blocks, packed, from those of luma's: chroma's are those of its top-left block of luma."""

    @staticmethod
    def forward(qualities: Tensor, geometry: Geometry) -> Tensor:
        luma = qualities.flatten(1)
        if geometry.channels == 1:
            return luma.clone()
        chroma = qualities[:, :: geometry.vertical, :: geometry.horizontal].flatten(1)
        return torch.cat([luma, chroma, chroma], 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.geometry = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return apply_function(_OfMap, grads[0], ctx.geometry), None


class _OfBlocksInBothModes(_OfBlocks):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        of_blocks: Tensor = apply_function(_OfBlocks, tangents[0], ctx.geometry)
        return of_blocks


_OfBlocks.in_both_modes = _OfBlocksInBothModes


class _OfMap(TwoWayFunction):
    """The transposed map of `_OfBlocks`."""

    @staticmethod
    def forward(of_blocks: Tensor, geometry: Geometry) -> Tensor:
        size = (geometry.luma.rows, geometry.luma.columns)
        luma, cb, cr = of_blocks.tensor_split([size[0] * size[1], (of_blocks.size(1) + size[0] * size[1]) // 2], 1)
        of_map = luma.unflatten(1, size).clone()
        if geometry.channels == 3:
            size = (geometry.chroma.rows, geometry.chroma.columns)
            covered = of_map[:, :: geometry.vertical, :: geometry.horizontal]
            covered += (cb + cr).unflatten(1, size)
        return of_map

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.geometry = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return apply_function(_OfBlocks, grads[0], ctx.geometry), None


class _OfMapInBothModes(_OfMap):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        of_map: Tensor = apply_function(_OfMap, tangents[0], ctx.geometry)
        return of_map


_OfMap.in_both_modes = _OfMapInBothModes


def steps_of_tables(tables: Tensor, image: Tensor, sampling: Sampling) -> Tensor:
    """Returns the packed steps of tables ``(1 or N, 3, 8, 8)``."""
    geometry = geometry_of(image, sampling.horizontal, sampling.vertical)
    planes = (geometry.luma, geometry.chroma, geometry.chroma)[: geometry.channels]
    parts = [
        table[:, None].expand(-1, plane.rows * plane.columns, -1, -1)
        for table, plane in zip(tables.unbind(1), planes, strict=False)
    ]
    return torch.cat(parts, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Between an image and its coefficients


def image_blocks(image: Tensor, sampling: Sampling) -> Tensor:
    """Computes the coefficients of an image in real numbers, differentiable any number of times."""
    blocks: Tensor = apply_function(_ImageBlocks, image, sampling)
    return blocks


class _ImageBlocks(TwoWayFunction):
    @staticmethod
    def forward(image: Tensor, sampling: Sampling) -> Tensor:
        blocks: Tensor = torch.ops.fdjpeg.image_blocks(image, *sampling[:2])
        return blocks

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        image, ctx.sampling = inputs
        save_for_both(ctx, image)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (image,) = ctx.saved_tensors
        return image_blocks_backward(grads[0], image, None, ctx.sampling), None


class _ImageBlocksInBothModes(_ImageBlocks):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (image,) = ctx.saved_tensors
        return reference.image_blocks_tangent(tangents[0], image, False, *ctx.sampling[:2])


_ImageBlocks.in_both_modes = _ImageBlocksInBothModes


def image_blocks_backward(grad: Tensor, image: Tensor, planes: Tensor | None, sampling: Sampling) -> Tensor:
    """Computes the gradient of an image by that of its coefficients, differentiable by the latter."""
    of_image: Tensor = apply_function(_ImageBlocksBackward, grad, image, planes, sampling)
    return of_image


class _ImageBlocksBackward(TwoWayFunction):
    @staticmethod
    def forward(grad: Tensor, image: Tensor, planes: Tensor | None, sampling: Sampling) -> Tensor:
        of_image: Tensor = torch.ops.fdjpeg.image_blocks_backward(grad, image, planes, *sampling[:2])
        return of_image

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, image, planes, ctx.sampling = inputs
        ctx.exact = planes is not None
        save_for_both(ctx, image, planes)

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:
        image, _ = ctx.saved_tensors
        return reference.image_blocks_tangent(tangents[0], image, ctx.exact, *ctx.sampling[:2]), None, None, None


class _ImageBlocksBackwardInBothModes(_ImageBlocksBackward):
    @staticmethod
    def jvp(ctx: Any, of_grad: Tensor | None, *_: Any) -> Tensor:
        image, planes = ctx.saved_tensors
        if of_grad is None:
            return torch.zeros_like(image)
        return image_blocks_backward(of_grad, image, planes, ctx.sampling)


_ImageBlocksBackward.in_both_modes = _ImageBlocksBackwardInBothModes


def blocks_image(blocks: Tensor, image: Tensor, sampling: Sampling) -> Tensor:
    """Computes the image of coefficients in real numbers, like ``image``; differentiable any number of times."""
    out, _ = apply_function(_BlocksImage, blocks, image.detach(), sampling)
    made: Tensor = out
    return made


class _BlocksImage(TwoWayFunction):
    @staticmethod
    def forward(blocks: Tensor, image: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        out, mask = torch.ops.fdjpeg.blocks_image(blocks, image, *sampling)
        return out, mask

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, image, ctx.sampling = inputs
        mask = output[1]
        ctx.mark_non_differentiable(mask)
        ctx.set_materialize_grads(False)  # no zeros for the mask's gradient
        save_for_both(ctx, image, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        image, mask = ctx.saved_tensors
        return None if grad is None else blocks_image_backward(grad, mask, image, ctx.sampling), None, None


class _BlocksImageInBothModes(_BlocksImage):
    @staticmethod
    def jvp(ctx: Any, v: Tensor, *_: Any) -> tuple[Tensor, None]:
        image, mask = ctx.saved_tensors
        return reference.blocks_image_tangent(v, mask, image, *ctx.sampling), None


_BlocksImage.in_both_modes = _BlocksImageInBothModes


def blocks_image_backward(grad: Tensor, kept: Tensor, image: Tensor, sampling: Sampling) -> Tensor:
    """Computes the gradient of coefficients by that of their image, differentiable by the latter."""
    of_blocks: Tensor = apply_function(_BlocksImageBackward, grad, kept, image, sampling)
    return of_blocks


class _BlocksImageBackward(TwoWayFunction):
    @staticmethod
    def forward(grad: Tensor, kept: Tensor, image: Tensor, sampling: Sampling) -> Tensor:
        of_blocks: Tensor = torch.ops.fdjpeg.blocks_image_backward(grad, kept, image, *sampling)
        return of_blocks

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, kept, image, ctx.sampling = inputs
        save_for_both(ctx, kept, image)

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:
        kept, image = ctx.saved_tensors
        return reference.blocks_image_tangent(tangents[0], kept, image, *ctx.sampling), None, None, None


class _BlocksImageBackwardInBothModes(_BlocksImageBackward):
    @staticmethod
    def jvp(ctx: Any, of_grad: Tensor | None, *_: Any) -> Tensor:
        kept, image = ctx.saved_tensors
        return blocks_image_backward(tangent_or_zeros(of_grad, image), kept, image, ctx.sampling)


_BlocksImageBackward.in_both_modes = _BlocksImageBackwardInBothModes

# ---------------------------------------------------------------------------------------------------------------------
# Between the coefficients before the codec and after it


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
