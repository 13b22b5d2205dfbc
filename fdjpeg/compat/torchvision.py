"""torchvision's name: `JPEG`, of ``torchvision.transforms.v2``. Importing this module imports torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fdjpeg._numbers import is_whole, whole_numbers
from fdjpeg.augmentations import JPEGParameters
from fdjpeg.augmentations import torchvision as adapters

__all__ = ["JPEG"]


class JPEG(adapters.RandomJPEG):
    """Compresses the images of a sample at one drawn quality: ``torchvision.transforms.v2.JPEG``.

    It is `fdjpeg.augmentations.torchvision.RandomJPEG`, a transform of torchvision, with the original's argument and
    draw. Samples are those of torchvision's v2 transforms. For the same seed the quality is the original's, and so are
    the bytes. It takes images on a GPU too, and floating ones in [0, 1], with a straight-through gradient.

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
        if not is_whole(quality) and not isinstance(quality, Sequence):
            raise TypeError(f"quality must be an integer or two of them, got {quality!r}")
        ends = whole_numbers([quality, quality] if is_whole(quality) else quality)
        if ends is None or len(ends) != 2 or not 1 <= ends[0] <= ends[1] <= 100:
            raise ValueError(f"quality must hold integers, 1 ≤ least ≤ greatest ≤ 100, got {quality!r}")
        super().__init__(quality=ends)
        self.quality = ends

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws the quality of a sample, as the original does."""
        least, greatest = self.quality
        return {"quality": int(torch.randint(least, greatest + 1, (), device="cpu"))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Returns an image compressed, of the same type, and anything else as it is."""
        quality = torch.full((adapters.count_of(inpt),), params["quality"], device="cpu")
        return super().transform(inpt, {"parameters": JPEGParameters(quality > 0, quality, None, None)})

    def extra_repr(self) -> str:
        """The argument, as torchvision's transforms print it."""
        return f"quality={list(self.quality)}"
