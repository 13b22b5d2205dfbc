"""torchvision's name: `JPEG`, of ``torchvision.transforms.v2``."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

import PIL.Image
import torch
from torch import Tensor, nn
from torch.utils import _pytree

import fdjpeg

__all__ = ["JPEG"]


class JPEG(nn.Module):
    """Compresses the images of a sample at one drawn quality: ``torchvision.transforms.v2.JPEG``.

    Samples are what torchvision's v2 transforms take: an image, or any structure of images and other things. Images
    are PIL images and torchvision's ``Image`` and ``Video``; where a sample has none of these, its first plain tensor
    is the image. Everything else passes. For the same seed the quality is the original's, and so are the bytes.

    It takes more than the original: images on a GPU, and floating ones in [0, 1], with a straight-through gradient.

    Args:
        quality: 1…100; or the least and the greatest, uniform between them, both included.

    Raises:
        TypeError: ``quality`` is a bool, or neither an integer nor a sequence.
        ValueError: ``quality`` does not hold integers, 1 ≤ least ≤ greatest ≤ 100.

    Example:
        >>> transform = JPEG(quality=(50, 90))
        >>> image, label = transform(torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8), 7)
    """

    def __init__(self, quality: int | Sequence[int]) -> None:
        super().__init__()
        if isinstance(quality, bool) or not isinstance(quality, (int, Sequence)):
            raise TypeError(f"quality must be an integer or two of them, got {quality!r}")
        ends = (quality, quality) if isinstance(quality, int) else tuple(quality)
        if not (len(ends) == 2 and all(type(end) is int for end in ends) and 1 <= ends[0] <= ends[1] <= 100):
            raise ValueError(f"quality must hold integers, 1 ≤ least ≤ greatest ≤ 100, got {quality!r}")
        self.quality = ends

    def forward(self, *inputs: Any) -> Any:
        """Compresses the images among ``inputs``, and returns all in their order."""
        leaves, structure = _pytree.tree_flatten(inputs if len(inputs) > 1 else inputs[0])
        least, greatest = self.quality
        quality = int(torch.randint(least, greatest + 1, ()))
        images = _images_among(leaves)
        leaves = [_compressed(leaf, quality) if i in images else leaf for i, leaf in enumerate(leaves)]
        return _pytree.tree_unflatten(leaves, structure)

    def extra_repr(self) -> str:
        """The argument, as torchvision's transforms print it."""
        return f"quality={list(self.quality)}"


def _images_among(leaves: list[Any]) -> set[int]:
    """The positions of a sample's images, by torchvision's rule."""
    tv_tensors: Any = sys.modules.get("torchvision.tv_tensors")
    kinds = (PIL.Image.Image, *(() if tv_tensors is None else (tv_tensors.Image, tv_tensors.Video)))
    images = {i for i, leaf in enumerate(leaves) if isinstance(leaf, kinds)}
    return images or set([i for i, leaf in enumerate(leaves) if type(leaf) is Tensor][:1])


def _compressed(image: Any, quality: int) -> Any:
    if not isinstance(image, PIL.Image.Image):
        out = fdjpeg.jpeg(image.as_subclass(Tensor), quality)
        return out if type(image) is Tensor else out.as_subclass(type(image))
    with io.BytesIO() as file:
        image.save(file, format="JPEG", quality=quality)
        return PIL.Image.open(file).copy()
