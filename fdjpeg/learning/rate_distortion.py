"""What compression costs and what it keeps: bits and file sizes, PSNR, MS-SSIM and accuracy, and curves compared."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from fdjpeg.functional import encode
from fdjpeg.rate import bits
from fdjpeg.tables import QuantTables

#: Subsamplings that Pillow writes, by its numbers.
PILLOW_SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}

# ---------------------------------------------------------------------------------------------------------------------
# Likeness of images

#: The PSNR that stands for an image without any error, in dB.
HIGHEST_PSNR = 100.0

#: MS-SSIM: the weights of its five scales, the constants K₁ and K₂, and the window (Wang, Simoncelli and Bovik 2003).
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_K1, _K2 = 0.01, 0.03
_WINDOW, _DEVIATION = 11, 1.5


def psnr(decoded: Tensor, original: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of each image over all its samples, in dB, at most `HIGHEST_PSNR`.

    Args:
        decoded, original: ``(N, C, H, W)``, floating in [0, 1].

    Returns:
        ``(N,)``.

    Raises:
        ValueError: the images differ in shape.
    """
    _check_alike(decoded, original)
    error = (decoded - original).square().flatten(1).mean(1)
    return -10 * error.clamp(min=10 ** (-HIGHEST_PSNR / 10)).log10()


def ms_ssim_scales(height: int, width: int) -> int:
    """How many of the five scales of MS-SSIM leave its window of 11 × 11 inside of an image; at least one."""
    scales = 1
    while scales < len(_WEIGHTS) and min(height, width) >> scales >= _WINDOW:
        scales += 1
    return scales


def ms_ssim(decoded: Tensor, original: Tensor) -> Tensor:
    """The multi-scale structural similarity of each image, the mean over its channels.

    A small image has room for fewer than five scales (`ms_ssim_scales`): then the weights of those that there are, the
    finest first, are divided by their sum. Source: Wang, Simoncelli and Bovik, "Multi-scale structural similarity for
    image quality assessment", Asilomar 2003.

    Args:
        decoded, original: ``(N, C, H, W)``, floating in [0, 1], H and W of at least 11.

    Returns:
        ``(N,)``, differentiable.

    Raises:
        ValueError: the images differ in shape, or are smaller than the window.
    """
    _check_alike(decoded, original)
    height, width = original.shape[-2:]
    if min(height, width) < _WINDOW:
        raise ValueError(f"MS-SSIM needs images of at least {_WINDOW} × {_WINDOW} pixels, got {height} × {width}")
    scales = ms_ssim_scales(height, width)
    weights = [weight / sum(_WEIGHTS[:scales]) for weight in _WEIGHTS[:scales]]
    product: Tensor | float = 1.0
    for scale, weight in enumerate(weights):
        if scale > 0:
            # An odd side gets a row of zeros at both ends, as in the implementations that people use.
            padding = [side % 2 for side in original.shape[-2:]]
            decoded, original = (F.avg_pool2d(image, 2, padding=padding) for image in (decoded, original))
        luminance, structure = _ssim_maps(decoded, original)
        last = scale == scales - 1
        similarity = (luminance * structure if last else structure).mean((2, 3)).relu()
        product = product * similarity**weight
    assert isinstance(product, Tensor)
    return product.mean(1)


def _check_alike(decoded: Tensor, original: Tensor) -> None:
    if decoded.ndim != 4 or decoded.shape != original.shape:
        raise ValueError(
            "decoded and original must have one shape, (N, C, H, W), "
            f"got {tuple(decoded.shape)} and {tuple(original.shape)}"
        )


def _ssim_maps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of SSIM at each place of the window: luminance, and contrast and structure."""
    mean_a, mean_b, aa, bb, ab = (_smoothed(x) for x in (a, b, a * a, b * b, a * b))
    luminance = (2 * mean_a * mean_b + _K1**2) / (mean_a**2 + mean_b**2 + _K1**2)
    variances = (aa - mean_a**2) + (bb - mean_b**2)
    structure = (2 * (ab - mean_a * mean_b) + _K2**2) / (variances + _K2**2)
    return luminance, structure


def _smoothed(image: Tensor) -> Tensor:
    """The mean under a Gaussian window at every place where it fits."""
    place = torch.arange(_WINDOW, dtype=image.dtype, device=image.device) - _WINDOW // 2
    window = (-place.square() / (2 * _DEVIATION**2)).exp()
    window = (window / window.sum()).expand(image.size(1), 1, 1, _WINDOW)
    rows = F.conv2d(image, window, groups=image.size(1))
    return F.conv2d(rows, window.transpose(2, 3), groups=image.size(1))


# ---------------------------------------------------------------------------------------------------------------------
# Files measured


@dataclass(frozen=True)
class Measured:
    """What each image costs under some tables, and what is left of it.

    Attributes:
        bits: of the entropy-coded data, int64 ``(N,)``.
        file_bits: of the whole file that Pillow writes, headers included, int64 ``(N,)``.
        psnr: in dB, of R, G and B (or grey) together, float64 ``(N,)``.
        ms_ssim: float64 ``(N,)``; None for images too small for its window.
        correct: whether a classifier's answer is right, float64 ``(N,)`` of 0 and 1; None without one.
    """

    bits: Tensor
    file_bits: Tensor
    psnr: Tensor
    ms_ssim: Tensor | None
    correct: Tensor | None

    def means(self) -> dict[str, float]:
        """The mean over the images of each."""
        columns = {name: getattr(self, name) for name in ("bits", "file_bits", "psnr", "ms_ssim", "correct")}
        return {name: float(column.double().mean()) for name, column in columns.items() if column is not None}


@torch.no_grad()
def measure(
    images: Tensor,
    tables: QuantTables,
    *,
    subsampling: str = "4:2:0",
    model: nn.Module | None = None,
    labels: Tensor | None = None,
) -> Measured:
    """Writes each image as a file by Pillow, reads it again, and measures both.

    Args:
        images: uint8 ``(N, C, H, W)``.
        tables: of the files.
        subsampling: "4:4:4", "4:2:2" or "4:2:0".
        model: maps images in [0, 1] to logits; needs ``labels``.
        labels: int64 ``(N,)``.

    Raises:
        TypeError: the images are not bytes, or ``tables`` no `QuantTables`.
        ValueError: Pillow writes no such subsampling, or there is a model without labels.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise TypeError(f"images must be uint8 (N, C, H, W), got {images.dtype} of shape {tuple(images.shape)}")
    if not isinstance(tables, QuantTables):
        raise TypeError(f"tables must be fdjpeg.QuantTables, got {type(tables).__name__}")
    if subsampling not in PILLOW_SUBSAMPLINGS:
        raise ValueError(f"subsampling must be one of {', '.join(PILLOW_SUBSAMPLINGS)}, got {subsampling!r}")
    if model is not None and labels is None:
        raise ValueError("labels must be given where a model is")
    files = [_written(image, tables, subsampling) for image in images]
    decoded = torch.stack([_read(file, images.size(1)) for file in files])
    a, b = decoded.float() / 255, images.float() / 255
    large_enough = min(images.shape[-2:]) >= _WINDOW
    parts = torch.arange(len(images)).split(64)
    return Measured(
        bits=bits(encode(images, tables=tables, subsampling=subsampling)),
        file_bits=torch.tensor([8 * len(file) for file in files]),
        psnr=psnr(a.double(), b.double()),
        ms_ssim=torch.cat([ms_ssim(a[part], b[part]) for part in parts]).double() if large_enough else None,
        correct=None if model is None or labels is None else _correct(model, a, labels, parts),
    )


def _correct(model: nn.Module, images: Tensor, labels: Tensor, parts: Sequence[Tensor]) -> Tensor:
    answers = torch.cat([model(images[part]).argmax(1) for part in parts])
    return (answers == labels).double()


def _written(image: Tensor, tables: QuantTables, subsampling: str) -> bytes:
    """The file that Pillow writes of uint8 ``(C, H, W)``."""
    channels, height, width = image.shape
    samples = image.permute(1, 2, 0).contiguous().numpy().tobytes()
    stream = io.BytesIO()
    Image.frombytes("RGB" if channels == 3 else "L", (width, height), samples).save(
        stream, "JPEG", qtables=tables.to_pillow(), subsampling=PILLOW_SUBSAMPLINGS[subsampling]
    )
    return stream.getvalue()


def _read(file: bytes, channels: int) -> Tensor:
    """What Pillow decodes, as uint8 ``(C, H, W)``."""
    with Image.open(io.BytesIO(file)) as image:
        samples = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return samples.view(image.height, image.width, channels).permute(2, 0, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Curves compared


class Ratio(NamedTuple):
    """A ratio of bits with the bounds of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def bits_ratio(
    bits: Tensor,
    kept: Tensor,
    curve_bits: Tensor,
    curve_kept: Tensor,
    *,
    sources: Tensor | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Ratio:
    """The bits that some tables need, over the fewest with which those of a curve keep as much.

    Both bits and what is kept are means over the images. Between its points the curve is interpolated in the logarithm
    of bits; where it falls while bits grow, as accuracy may, the highest so far stands. The interval is that of 95 % of
    bootstrap resamples of the images, the same images on both sides.

    Args:
        bits, kept: ``(N,)``, of the tables in question.
        curve_bits, curve_kept: ``(K, N)``, of the curve's points, in the order of their bits.
        sources: int64 ``(N,)``, where images are cut out of fewer ones: the number of each one's source, from 0 on.
            Sources are then what is drawn, with all their images, since those are alike.
        resamples: how often the images are drawn anew.
        seed: of the draws.

    Returns:
        The ratio: an upper bound where more is kept than at the curve's last point, whose bits then stand; NaN where
        less is kept than at its first.
    """
    if sources is None:
        sources = torch.arange(len(bits))
    units = int(sources.max()) + 1
    drawn = torch.randint(units, (resamples, units), generator=torch.Generator().manual_seed(seed))
    counts = torch.zeros(resamples, units, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(resamples, units, dtype=torch.float64)
    )
    weights = torch.cat([torch.ones(1, units, dtype=torch.float64), counts])[:, sources]
    weights /= weights.sum(1, keepdim=True)
    own_bits, own_kept = weights @ bits.double(), weights @ kept.double()
    points_bits = (weights @ curve_bits.double().T).log()
    points_kept = (weights @ curve_kept.double().T).cummax(1).values
    ratios = torch.stack(
        [
            mine / _interpolated(level, levels, logarithms).exp()
            for mine, level, levels, logarithms in zip(own_bits, own_kept, points_kept, points_bits, strict=True)
        ]
    )
    low, high = ratios[1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Ratio(float(ratios[0]), low, high)


def _interpolated(level: Tensor, levels: Tensor, values: Tensor) -> Tensor:
    """The value at the first place where rising ``levels`` reach ``level``: the last beyond them, NaN before them."""
    after = int((levels < level).sum())
    if after == len(levels):
        return values[-1]
    if after == 0:
        return values[0] if levels[0] == level else torch.full_like(level, torch.nan)
    share = (level - levels[after - 1]) / (levels[after] - levels[after - 1])
    return torch.lerp(values[after - 1], values[after], share)
