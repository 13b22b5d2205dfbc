"""The ops of the blocks' DCT and its inverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fdjpeg._geometry import BLOCK
from fdjpeg._tangents import TwoWayFunction, apply_function
from fdjpeg.ops.registration import register, wants_autograd

# ---------------------------------------------------------------------------------------------------------------------
# The ops


def _block_dct_fake(samples: Tensor) -> Tensor:
    *outer, height, width = samples.shape
    return samples.new_empty((*outer, height // BLOCK, width // BLOCK, BLOCK, BLOCK))


def _block_idct_fake(blocks: Tensor) -> Tensor:
    *outer, rows, columns, _, _ = blocks.shape
    return blocks.new_empty((*outer, rows * BLOCK, columns * BLOCK))


def _vmap(op: Callable[..., Any], info: Any, in_dims: tuple[int | None], tensor: Tensor) -> Any:
    return op(tensor.movedim(in_dims[0] or 0, 0)), 0


# The orthonormal DCT-II of the 8×8 blocks of (..., H, W), floating: (..., H / 8, W / 8, 8, 8); and its inverse.
register("block_dct", "(Tensor samples) -> Tensor", fake=_block_dct_fake, vmap=_vmap)
register("block_idct", "(Tensor blocks) -> Tensor", fake=_block_idct_fake, vmap=_vmap)

# ---------------------------------------------------------------------------------------------------------------------
# Autograd


def block_dct(samples: Tensor) -> Tensor:
    """Computes the orthonormal DCT-II of each block of ``(..., H, W)``, differentiable any number of times."""
    wanted = wants_autograd(samples)
    blocks: Tensor = apply_function(_BlockDct, samples) if wanted else torch.ops.fdjpeg.block_dct(samples)
    return blocks


def block_idct(blocks: Tensor) -> Tensor:
    """Computes the inverse of `block_dct`, differentiable any number of times."""
    wanted = wants_autograd(blocks)
    samples: Tensor = apply_function(_BlockIdct, blocks) if wanted else torch.ops.fdjpeg.block_idct(blocks)
    return samples


class _BlockDct(TwoWayFunction):
    """The transform is orthonormal, so that the transposed map is the inverse."""

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


class _BlockDctInBothModes(_BlockDct):
    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return block_dct(tangents[0])


_BlockDct.in_both_modes = _BlockDctInBothModes


class _BlockIdct(TwoWayFunction):
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


class _BlockIdctInBothModes(_BlockIdct):
    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return block_idct(tangents[0])


_BlockIdct.in_both_modes = _BlockIdctInBothModes
