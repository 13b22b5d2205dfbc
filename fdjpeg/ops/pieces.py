"""The ops between an image and its packed coefficients, in real numbers.

`fdjpeg.reference.pieces` says how they are packed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fdjpeg import reference
from fdjpeg._geometry import BLOCK, Sampling, geometry_of
from fdjpeg._tangents import TwoWayFunction, apply_function, save_for_both, tangent_or_zeros
from fdjpeg.ops.packed_steps import blocks_of
from fdjpeg.ops.registration import images_vmap, register


def packed(image: Tensor, horizontal: int, vertical: int) -> Tensor:
    """Returns empty coefficients of an image."""
    blocks = blocks_of(geometry_of(image, horizontal, vertical))
    return image.new_empty((image.size(0), blocks, BLOCK, BLOCK), dtype=reference.real_dtype(image))


def _image_blocks_fake(image: Tensor, horizontal: int, vertical: int) -> Tensor:
    return packed(image, horizontal, vertical)


def _image_blocks_backward_fake(grad: Tensor, image: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(image)


def _blocks_image_fake(blocks: Tensor, image: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(image), image.new_empty((image.size(0), *image.shape[2:]), dtype=torch.uint8)


def _blocks_image_backward_fake(
    grad: Tensor, kept: Tensor, image: Tensor, horizontal: int, vertical: int, fancy: bool
) -> Tensor:
    return packed(image, horizontal, vertical)


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
    vmap=images_vmap,
    fallback=_by_block_kernels(reference.image_blocks),
)
register(
    "image_blocks_backward",
    "(Tensor grad, Tensor image, Tensor? planes, int horizontal, int vertical) -> Tensor",
    fake=_image_blocks_backward_fake,
    vmap=images_vmap,
    fallback=_by_block_kernels(reference.image_blocks_backward),
)
register(
    "blocks_image",
    "(Tensor blocks, Tensor image, int horizontal, int vertical, bool fancy) -> (Tensor, Tensor)",
    fake=_blocks_image_fake,
    vmap=images_vmap,
    fallback=_by_block_kernels(reference.blocks_image),
)
register(
    "blocks_image_backward",
    "(Tensor grad, Tensor kept, Tensor image, int horizontal, int vertical, bool fancy) -> Tensor",
    fake=_blocks_image_backward_fake,
    vmap=images_vmap,
    fallback=_by_block_kernels(reference.blocks_image_backward),
)


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
