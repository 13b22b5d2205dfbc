"""`RandomJPEG` of `fdjpeg.augmentations.kornia` under kornia's own signature. Importing this module imports kornia."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fdjpeg._checks import check_flag
from fdjpeg._numbers import is_real
from fdjpeg.augmentations import JPEGParameters
from fdjpeg.augmentations import kornia as adapters
from fdjpeg.augmentations.base import check_probability


class RandomJPEG(adapters.RandomJPEG):
    """Compresses each image at its own quality: ``kornia.augmentation.RandomJPEG``.

    It is `fdjpeg.augmentations.kornia.RandomJPEG`, a layer of kornia, with the original's arguments and parameters. It
    differs from the original as `fdjpeg.compat.kornia.jpeg_codec_differentiable` does, and it takes grey images.

    Args:
        jpeg_quality: the least and the greatest quality, uniform between them; or a number x for 50 ± x, within
            1…100.
        same_on_batch: one draw for all images of a call.
        p: the probability that an image is compressed at all.
        keepdim: return ``(C, H, W)`` where the input is ``(C, H, W)``, instead of a batch of one.

    Shape:
        ``(C, H, W)`` or ``(N, C, H, W)``, C 1 or 3, to ``(N, C, H, W)``.

    Raises:
        TypeError: ``same_on_batch`` or ``keepdim`` is neither True nor False.
        ValueError: ``jpeg_quality`` is not a range within 1…100, or ``p`` not a probability.
        MissingPackage: kornia is not installed.

    Example:
        >>> augmentation = RandomJPEG(jpeg_quality=(1.0, 50.0), p=1.0)
        >>> images = torch.rand(2, 3, 32, 32)
        >>> out = augmentation(images)
        >>> torch.equal(augmentation(images, params=augmentation._params), out)
        True
    """

    def __init__(
        self,
        jpeg_quality: Tensor | float | Sequence[float] = 50.0,
        same_on_batch: bool = False,
        p: float = 1.0,
        keepdim: bool = False,
    ) -> None:
        check_probability(p)
        check_flag("same_on_batch", same_on_batch)
        check_flag("keepdim", keepdim)
        limits = _range_of(jpeg_quality)
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim, gradient="cubic")
        self.jpeg_quality = jpeg_quality
        self._range = limits

    def generate_parameters(self, batch_shape: torch.Size) -> dict[str, Tensor]:
        """Draws a quality for each image, or one for all; a real number, as the original's."""
        least, greatest = self._range
        chance = torch.rand(1 if self.same_on_batch else int(batch_shape[0]), dtype=torch.float32, device=self.device)
        return {"jpeg_quality": (least + (greatest - least) * chance).expand(int(batch_shape[0]))}

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """Returns the images compressed at drawn qualities."""
        quality = params["jpeg_quality"].to(input.device)
        return self.augmentation.augmented(input, JPEGParameters(quality > 0, quality, None, None))


def _range_of(quality: Any) -> tuple[float, float]:
    """The least and the greatest quality."""
    given: Any = quality.tolist() if isinstance(quality, Tensor) else quality
    if is_real(given):
        if not 0 <= given <= 50:
            raise ValueError(f"jpeg_quality must be a range, or a number x of 0…50 for 50 ± x, got {quality!r}")
        return max(1.0, 50.0 - float(given)), 50.0 + float(given)
    ends: list[Any] = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else []
    if len(ends) != 2 or not all(map(is_real, ends)) or not 1 <= ends[0] <= ends[1] <= 100:
        raise ValueError(f"jpeg_quality must be two numbers, 1 ≤ least ≤ greatest ≤ 100, got {quality!r}")
    return float(ends[0]), float(ends[1])
