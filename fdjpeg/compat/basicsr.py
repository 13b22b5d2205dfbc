"""BasicSR's name: `DiffJPEG`, of ``basicsr.utils.diffjpeg``."""

from __future__ import annotations

from torch import Tensor, nn

import fdjpeg
from fdjpeg._arguments import flattened
from fdjpeg._checks import check_flag

__all__ = ["DiffJPEG"]


class DiffJPEG(nn.Module):
    """Compresses images by JPEG and decompresses them, at a quality for each call: BasicSR's ``DiffJPEG``.

    It differs from the original where that differs from a JPEG file:

    - The result is Pillow's, in every sample. The original's luma table is transposed, its steps are fractions, and
      chroma is repeated.
    - Edges are replicated as libjpeg does it. The original pads black to a multiple of 16.
    - A quality tensor stays as it is. The original overwrites it, so that a second call compresses otherwise.
    - The layer has no parameters; the original's DCT basis and tables are among its parameters.

    Args:
        differentiable: the gradient of the polynomial k + (c − k)³ ("cubic"); False gives that of rounding, 0.

    Shape:
        ``(N, 3, H, W)`` in [0, 1] to the same.

    Raises:
        TypeError: ``differentiable`` is neither True nor False.

    Example:
        >>> jpeg = DiffJPEG(differentiable=False)
        >>> out = jpeg(torch.rand(2, 3, 30, 40), quality=torch.tensor([20.0, 40.0]))
    """

    def __init__(self, differentiable: bool = True) -> None:
        super().__init__()
        check_flag("differentiable", differentiable)
        self.differentiable = differentiable

    def forward(self, x: Tensor, quality: float | Tensor) -> Tensor:
        """Compresses and decompresses.

        Args:
            x: ``(N, 3, H, W)`` in [0, 1].
            quality: 1…100, a number or ``(N,)``.

        Returns:
            The shape and dtype of ``x``.

        Raises:
            TypeError, ValueError: an argument is of the wrong type, shape or range.
        """
        flattened(x, "x")
        return fdjpeg.jpeg(x, quality, gradient="cubic" if self.differentiable else "zero")
