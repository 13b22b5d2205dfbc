"""Names of the package of Reich et al. (Diff-JPEG, WACV 2024): `diff_jpeg_coding`, `DiffJPEGCoding`."""

from __future__ import annotations

from torch import Tensor, nn

import fdjpeg
from fdjpeg._checks import check_flag, check_tensor
from fdjpeg._tracers import traced_function
from fdjpeg.compat._quality import tables_for

__all__ = ["DiffJPEGCoding", "diff_jpeg_coding"]


@traced_function
def diff_jpeg_coding(
    image_rgb: Tensor,
    jpeg_quality: Tensor,
    quantization_table_y: Tensor | None = None,
    quantization_table_c: Tensor | None = None,
    ste: bool = False,
) -> Tensor:
    """Compresses images by JPEG and decompresses them: ``diff_jpeg.diff_jpeg_coding``.

    It differs from the original where that differs from a JPEG file:

    - With ``ste`` the result is Pillow's, in every sample; the original misses most samples.
    - Tables are the whole steps that a file holds, at every quality. The original's floors are soft without ``ste``.
    - Chroma is upsampled by libjpeg's triangle, and images of any size are taken, not only multiples of 16.
    - Tables may be on another device than the image, and given for each image.

    The gradient is that of the polynomial k + (c − k)³ ("cubic"), as there. It reaches the image, the quality and the
    tables.

    Args:
        image_rgb: ``(N, 3, H, W)``, floating, in [0, 255].
        jpeg_quality: ``(N,)``, or ``(1,)`` for all images; acts within 1…100.
        quantization_table_y: base table of Y, ``(8, 8)``, scaled by the quality; None for T.81's.
        quantization_table_c: that of Cb and Cr.
        ste: round coefficients, as a codec does. False puts the polynomial in place of rounding, in real numbers, so
            that the result is smooth.

    Returns:
        The shape and dtype of ``image_rgb``, in [0, 255].

    Raises:
        TypeError, ValueError: an argument is of the wrong type or shape.

    Example:
        >>> image = 255 * torch.rand(1, 3, 32, 32)
        >>> coded = diff_jpeg_coding(image_rgb=image, jpeg_quality=torch.tensor([2.0]), ste=True)
    """
    check_tensor("image_rgb", image_rgb)
    if not image_rgb.is_floating_point():
        raise TypeError(f"image_rgb must be floating, in [0, 255], got {image_rgb.dtype}")
    tables = tables_for(image_rgb, "image_rgb", jpeg_quality, quantization_table_y, quantization_table_c)
    check_flag("ste", ste)
    arithmetic = "libjpeg" if ste else "real"
    return 255 * fdjpeg.jpeg(image_rgb / 255, tables=tables, gradient="cubic", arithmetic=arithmetic, soft=not ste)


class DiffJPEGCoding(nn.Module):
    """`diff_jpeg_coding` as a layer: ``diff_jpeg.DiffJPEGCoding``.

    Args:
        ste: as for `diff_jpeg_coding`.

    Raises:
        TypeError: ``ste`` is neither True nor False.

    Example:
        >>> coding = DiffJPEGCoding(ste=True)
        >>> coded = coding(image_rgb=255 * torch.rand(1, 3, 32, 32), jpeg_quality=torch.tensor([19.04]))
    """

    def __init__(self, ste: bool = False) -> None:
        super().__init__()
        check_flag("ste", ste)
        self.ste = ste

    def forward(
        self,
        image_rgb: Tensor,
        jpeg_quality: Tensor,
        quantization_table_y: Tensor | None = None,
        quantization_table_c: Tensor | None = None,
    ) -> Tensor:
        """Compresses and decompresses; arguments as for `diff_jpeg_coding`."""
        return diff_jpeg_coding(image_rgb, jpeg_quality, quantization_table_y, quantization_table_c, self.ste)
