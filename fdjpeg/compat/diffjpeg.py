"""The name of M. Lomnitz's package DiffJPEG: `DiffJPEG`."""

from __future__ import annotations

import fdjpeg
from fdjpeg._checks import check_flag

__all__ = ["DiffJPEG"]


class DiffJPEG(fdjpeg.JPEG):
    """Compresses images by JPEG and decompresses them: ``DiffJPEG.DiffJPEG``.

    It differs from the original where that differs from a JPEG file:

    - The result is Pillow's, in every sample. The original's luma table is transposed, its steps are fractions, and
      chroma is repeated.
    - Images of any size are taken, whatever ``height`` and ``width`` say; grey ones too, and bytes.
    - The layer has no parameters; the original's DCT basis and tables are among its parameters, so optimizers change
      them.

    Args:
        height, width: not used.
        differentiable: the gradient of the polynomial k + (c − k)³ ("cubic"); False gives that of rounding, 0.
        quality: 1…100.

    Shape:
        ``(..., 3, H, W)`` in [0, 1] to the same.

    Raises:
        TypeError, ValueError: ``quality`` is not a number in 1…100, or ``differentiable`` not True or False.

    Example:
        >>> jpeg = DiffJPEG(height=224, width=224, differentiable=True, quality=80)
        >>> out = jpeg(torch.rand(1, 3, 224, 224))
    """

    def __init__(self, height: int, width: int, differentiable: bool = True, quality: float = 80) -> None:
        check_flag("differentiable", differentiable)
        super().__init__(quality, gradient="cubic" if differentiable else "zero")
