"""kornia's names: `jpeg_codec_differentiable`, `JPEGCodecDifferentiable`, `RandomJPEG`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import fdjpeg
from fdjpeg._standard_tables import STANDARD_CHROMA, STANDARD_LUMA
from fdjpeg.compat._quality import tables_at

__all__ = ["JPEGCodecDifferentiable", "RandomJPEG", "jpeg_codec_differentiable"]


def jpeg_codec_differentiable(
    input: Tensor,
    jpeg_quality: Tensor,
    quantization_table_y: Tensor | None = None,
    quantization_table_c: Tensor | None = None,
) -> Tensor:
    """Compresses images by JPEG and decompresses them: ``kornia.enhance.jpeg_codec_differentiable``.

    It differs from the original where that differs from a JPEG file:

    - The result is Pillow's, in every sample. kornia rounds by a polynomial, in forward too, and misses most samples.
    - Tables are the whole steps that a file holds. kornia's floors are soft and leave fractions.
    - Chroma is upsampled by libjpeg's triangle, and edges are replicated as libjpeg does it.
    - The quality is clamped to 1…100 instead of read back and refused, so nothing waits for a GPU.
    - Base tables are scaled by the quality as libjpeg does it: 50 leaves them as they are. (kornia's documentation
      says 99.5, which divides them by 100.)

    The gradient is that of the polynomial k + (c − k)³ ("cubic"), as there. It reaches the image, the quality and the
    tables.

    Args:
        input: ``(..., 3, H, W)`` in [0, 1].
        jpeg_quality: ``(1,)``, or ``(N,)`` for each image of the flattened batch, 0…100; 0 acts as 1.
        quantization_table_y: base table of Y, ``(8, 8)`` or ``(N, 8, 8)``; None for T.81's.
        quantization_table_c: that of Cb and Cr.

    Returns:
        The shape and dtype of ``input``, in [0, 1].

    Raises:
        TypeError, ValueError: an argument is of the wrong type or shape.

    Example:
        >>> image = torch.rand(2, 3, 32, 32, requires_grad=True)
        >>> jpeg_codec_differentiable(image, torch.tensor([99.0, 25.0])).sum().backward()
    """
    if not isinstance(jpeg_quality, Tensor) or jpeg_quality.ndim != 1:
        raise TypeError(f"jpeg_quality must be a tensor of shape (1,) or (N,), got {jpeg_quality!r}")
    tables = tables_at(jpeg_quality.to(input.device), quantization_table_y, quantization_table_c)
    return fdjpeg.jpeg(input, tables=tables, gradient="cubic")


class JPEGCodecDifferentiable(nn.Module):
    """`jpeg_codec_differentiable` with its tables fixed, or learned: ``kornia.enhance.JPEGCodecDifferentiable``.

    Args:
        quantization_table_y: base table of Y, ``(8, 8)`` or ``(N, 8, 8)``: a buffer, or a parameter if it is an
            ``nn.Parameter``. None for T.81's.
        quantization_table_c: that of Cb and Cr, likewise.

    Example:
        >>> codec = JPEGCodecDifferentiable()
        >>> out = codec(torch.rand(2, 3, 32, 32), torch.tensor([99.0, 1.0]))
    """

    quantization_table_y: Tensor
    quantization_table_c: Tensor

    def __init__(
        self,
        quantization_table_y: Tensor | nn.Parameter | None = None,
        quantization_table_c: Tensor | nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        for name, table, standard in (
            ("quantization_table_y", quantization_table_y, STANDARD_LUMA),
            ("quantization_table_c", quantization_table_c, STANDARD_CHROMA),
        ):
            if isinstance(table, nn.Parameter):
                self.register_parameter(name, table)
            else:
                self.register_buffer(name, torch.tensor(standard, dtype=torch.float32) if table is None else table)

    def forward(self, image_rgb: Tensor, jpeg_quality: Tensor) -> Tensor:
        """Compresses and decompresses; arguments as for `jpeg_codec_differentiable`."""
        return jpeg_codec_differentiable(image_rgb, jpeg_quality, self.quantization_table_y, self.quantization_table_c)


class RandomJPEG(nn.Module):
    """Compresses each image at a quality of its own: ``kornia.augmentation.RandomJPEG``.

    It differs from the original as `jpeg_codec_differentiable` does, and it takes grey images. It is an
    ``nn.Module`` and not a kornia augmentation: masks and boxes stay as they are wherever it is used.

    Args:
        jpeg_quality: the least and the greatest quality, uniform between them; or a number x for 50 ± x, within
            1…100.
        same_on_batch: one draw for all images of a call.
        p: the probability that an image is compressed at all.
        keepdim: return ``(C, H, W)`` where the input is ``(C, H, W)``, instead of a batch of one.

    Shape:
        ``(C, H, W)`` or ``(N, C, H, W)``, C 1 or 3, to ``(N, C, H, W)``.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

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
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p must be a probability, 0…1, got {p!r}")
        self.jpeg_quality = jpeg_quality
        self.same_on_batch = same_on_batch
        self.p = p
        self.keepdim = keepdim
        self._range = _range_of(jpeg_quality)
        self._params: dict[str, Tensor] = {}

    def forward(self, input: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """Compresses images at drawn qualities, or at those of an earlier call's ``params``."""
        images = input[None] if input.ndim == 3 else input
        self._params = self._drawn(images) if params is None else params
        compressed = fdjpeg.jpeg(images, self._params["jpeg_quality"], gradient="cubic")
        out = torch.where(self._params["batch_prob"][:, None, None, None] > 0.5, compressed, images)
        return out[0] if self.keepdim and input.ndim == 3 else out

    def _drawn(self, images: Tensor) -> dict[str, Tensor]:
        least, greatest = self._range
        draws = torch.rand(2, 1 if self.same_on_batch else images.size(0), device=images.device)
        quality, chance = draws.expand(2, images.size(0))
        return {
            "jpeg_quality": least + (greatest - least) * quality,
            "batch_prob": (chance < self.p).to(torch.float32),
        }

    def extra_repr(self) -> str:
        """The arguments, as kornia's transforms print them."""
        return f"jpeg_quality={self.jpeg_quality}, p={self.p}, same_on_batch={self.same_on_batch}"


def _range_of(quality: Any) -> tuple[float, float]:
    """The least and the greatest quality."""
    if isinstance(quality, Tensor):
        quality = quality.tolist()
    if isinstance(quality, (int, float)):
        if not 0 <= quality <= 50:
            raise ValueError(f"jpeg_quality must be a range, or a number x of 0…50 for 50 ± x, got {quality!r}")
        return max(1.0, 50.0 - quality), 50.0 + quality
    if len(quality) != 2 or not 1 <= quality[0] <= quality[1] <= 100:
        raise ValueError(f"jpeg_quality must be two numbers, 1 ≤ least ≤ greatest ≤ 100, got {quality!r}")
    return float(quality[0]), float(quality[1])
