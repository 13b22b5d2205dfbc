"""kornia's names: `jpeg_codec_differentiable`, `JPEGCodecDifferentiable`, `RandomJPEG`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fdjpeg
from fdjpeg._held import hold, restore, values_of
from fdjpeg._standard_tables import STANDARD_CHROMA, STANDARD_LUMA
from fdjpeg._table_checks import home
from fdjpeg._tracers import traced_function
from fdjpeg.compat._quality import check_base_table, tables_for

__all__ = ["JPEGCodecDifferentiable", "RandomJPEG", "jpeg_codec_differentiable"]  # noqa: F822  (see `__getattr__`)


@traced_function
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
    tables = tables_for(input, "input", jpeg_quality, quantization_table_y, quantization_table_c)
    return fdjpeg.jpeg(input, tables=tables, gradient="cubic")


class JPEGCodecDifferentiable(nn.Module):
    """`jpeg_codec_differentiable` with its tables fixed, or learned: ``kornia.enhance.JPEGCodecDifferentiable``.

    Args:
        quantization_table_y: base table of Y, ``(8, 8)`` or ``(N, 8, 8)``: a buffer, copied, or a parameter if it is
            an ``nn.Parameter``. None for T.81's.
        quantization_table_c: that of Cb and Cr, likewise.

    Raises:
        TypeError, ValueError: a table is of the wrong type or shape, or computed from tensors that require grad; in a
            call, as for `jpeg_codec_differentiable`.

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
            if table is not None:
                check_base_table(table, name)
            else:
                table = torch.tensor(standard, dtype=torch.float32, device=home())
            hold(self, name, table, name)
        self._given = values_of(self)

    def reset_parameters(self) -> None:
        """Gives the tables their first values again, as after ``to_empty``.

        Raises:
            RuntimeError: the tables given were meta tensors, which have no values.
        """
        restore(self, self._given)

    def forward(self, image_rgb: Tensor, jpeg_quality: Tensor) -> Tensor:
        """Compresses and decompresses; arguments as for `jpeg_codec_differentiable`."""
        tables = tables_for(image_rgb, "image_rgb", jpeg_quality, self.quantization_table_y, self.quantization_table_c)
        return fdjpeg.jpeg(image_rgb, tables=tables, gradient="cubic")


def __getattr__(name: str) -> Any:
    """`RandomJPEG` is a layer of kornia, which is imported only for it."""
    if name == "RandomJPEG":
        from fdjpeg.compat._kornia_layer import RandomJPEG

        return RandomJPEG
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
