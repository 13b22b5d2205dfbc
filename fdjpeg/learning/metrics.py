"""The likeness of images: PSNR, SSIM and MS-SSIM."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fdjpeg._checks import check_tensor
from fdjpeg._tracers import traced_function

#: The PSNR of an image without any error, in dB.
HIGHEST_PSNR = 100.0

#: MS-SSIM: the weights of its five scales, the constants K₁ and K₂, and the window (Wang, Simoncelli and Bovik 2003).
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_K1, _K2 = 0.01, 0.03
WINDOW, _DEVIATION = 11, 1.5


@traced_function
def psnr(decoded: Tensor, original: Tensor) -> Tensor:
    """Computes the peak signal-to-noise ratio of each image over all its samples, at most `HIGHEST_PSNR`.

    Args:
        decoded, original: ``(N, C, H, W)``, floating in [0, 1].

    Returns:
        dB, ``(N,)``, of the images' dtype; differentiable.

    Raises:
        ValueError: the images differ in shape, or are not 4-dimensional.

    Example::

        original = torch.rand(2, 3, 32, 48)
        psnr(fdjpeg.jpeg(original, 75), original)  # (2,)
    """
    _check_alike(decoded, original)
    error = (decoded - original).square().flatten(1).mean(1)
    return -10 * error.clamp(min=10 ** (-HIGHEST_PSNR / 10)).log10()


@traced_function
def ssim(decoded: Tensor, original: Tensor) -> Tensor:
    """Computes the structural similarity of each image, the mean over its channels: a Gaussian window of 11 × 11.

    Args:
        decoded, original: ``(N, C, H, W)``, floating in [0, 1], H and W of at least 11.

    Returns:
        ``(N,)`` in [−1, 1], of the images' dtype; differentiable.

    Raises:
        ValueError: the images differ in shape, are not 4-dimensional, or are smaller than the window.

    Source: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment", IEEE Transactions on Image Processing 2004.

    Example::

        original = torch.rand(2, 3, 32, 48)
        ssim(fdjpeg.jpeg(original, 75), original)  # (2,)
    """
    _check_alike(decoded, original)
    _check_window(original)
    luminance, structure = _ssim_maps(decoded, original)
    return (luminance * structure).flatten(1).mean(1)


def ms_ssim_scales(height: int, width: int) -> int:
    """Counts the scales of MS-SSIM, of five, at which an image holds its window of 11 × 11; at least one."""
    scales = 1
    while scales < len(_WEIGHTS) and min(height, width) >> scales >= WINDOW:
        scales += 1
    return scales


@traced_function
def ms_ssim(decoded: Tensor, original: Tensor) -> Tensor:
    """Computes the multi-scale structural similarity of each image, the mean over its channels.

    A small image has room for fewer than five scales (`ms_ssim_scales`). Its weights, those of the finest scales, are
    then divided by their sum.

    Args:
        decoded, original: ``(N, C, H, W)``, floating in [0, 1], H and W of at least 11.

    Returns:
        ``(N,)`` in [0, 1], of the images' dtype; differentiable.

    Raises:
        ValueError: the images differ in shape, are not 4-dimensional, or are smaller than the window.

    Source: Wang, Simoncelli and Bovik, "Multi-scale structural similarity for image quality assessment", Asilomar 2003.

    Example::

        original = torch.rand(2, 3, 32, 48)
        ms_ssim(fdjpeg.jpeg(original, 75), original)  # (2,)
    """
    _check_alike(decoded, original)
    _check_window(original)
    scales = ms_ssim_scales(*original.shape[-2:])
    weights = [weight / sum(_WEIGHTS[:scales]) for weight in _WEIGHTS[:scales]]
    product: Tensor | float = 1.0
    for scale, weight in enumerate(weights):
        if scale > 0:
            # An odd side gets a row of zeros at both ends, as in the usual implementations.
            padding = [side % 2 for side in original.shape[-2:]]
            decoded, original = (F.avg_pool2d(image, 2, padding=padding) for image in (decoded, original))
        luminance, structure = _ssim_maps(decoded, original)
        last = scale == scales - 1
        similarity = (luminance * structure if last else structure).mean((2, 3)).relu()
        product = product * similarity**weight
    assert isinstance(product, Tensor)
    return product.mean(1)


def _check_alike(decoded: Tensor, original: Tensor) -> None:
    check_tensor("decoded", decoded, "(N, C, H, W)")
    check_tensor("original", original, "(N, C, H, W)")
    if decoded.ndim != 4 or decoded.shape != original.shape:
        raise ValueError(
            "decoded and original must have one shape, (N, C, H, W), "
            f"got {tuple(decoded.shape)} and {tuple(original.shape)}"
        )
    if not (decoded.is_floating_point() and original.is_floating_point()):
        raise TypeError(f"decoded and original must be floats in [0, 1], got {decoded.dtype} and {original.dtype}")


def _check_window(image: Tensor) -> None:
    height, width = image.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(f"decoded and original must have at least {WINDOW} × {WINDOW} pixels, got {height} × {width}")


def _ssim_maps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the two factors of SSIM at each place of the window: luminance, and contrast and structure."""
    mean_a, mean_b, aa, bb, ab = (_smoothed(x) for x in (a, b, a * a, b * b, a * b))
    luminance = (2 * mean_a * mean_b + _K1**2) / (mean_a**2 + mean_b**2 + _K1**2)
    variances = (aa - mean_a**2) + (bb - mean_b**2)
    structure = (2 * (ab - mean_a * mean_b) + _K2**2) / (variances + _K2**2)
    return luminance, structure


def _smoothed(image: Tensor) -> Tensor:
    """Computes the mean under a Gaussian window at every place where it fits."""
    place = torch.arange(WINDOW, dtype=image.dtype, device=image.device) - WINDOW // 2
    window = (-place.square() / (2 * _DEVIATION**2)).exp()
    window = (window / window.sum()).expand(image.size(1), 1, 1, WINDOW)
    rows = F.conv2d(image, window, groups=image.size(1))
    return F.conv2d(rows, window.transpose(2, 3), groups=image.size(1))
