"""The cost of compression and the quality it keeps: bits, file sizes, PSNR, MS-SSIM, accuracy, and curves compared."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from fdjpeg._calls import check_labels, logits_of
from fdjpeg._checks import check_module, check_seed, check_tensor, check_whole
from fdjpeg._coefficient_files import LARGEST_SIDE
from fdjpeg._geometry import PILLOW_SUBSAMPLINGS
from fdjpeg.functional import encode
from fdjpeg.learning.metrics import WINDOW, ms_ssim, psnr
from fdjpeg.rate import bits
from fdjpeg.tables import QuantTables

# ---------------------------------------------------------------------------------------------------------------------
# Files measured


@dataclass(frozen=True)
class Measured:
    """The cost and the quality of each image under some tables.

    Attributes:
        bits: of the entropy-coded data, int64 ``(N,)``.
        file_bits: of the whole file that Pillow writes, headers included, int64 ``(N,)``.
        psnr: in dB, of R, G and B (or grey) together, float64 ``(N,)``.
        ms_ssim: float64 ``(N,)``; None for images too small for its window.
        correct: whether a classifier's answer is right, float64 ``(N,)`` of 0 and 1; None without one.

    Example::

        images = torch.randint(256, (2, 3, 32, 48), dtype=torch.uint8)
        measured = measure(images, fdjpeg.QuantTables.standard(75))
        measured.file_bits, measured.psnr  # (2,), (2,)
    """

    bits: Tensor
    file_bits: Tensor
    psnr: Tensor
    ms_ssim: Tensor | None
    correct: Tensor | None

    def means(self) -> dict[str, float]:
        """Returns the mean of each quantity over the images."""
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

    Returns:
        The cost and the quality of each image.

    Raises:
        TypeError: ``images`` are not uint8 ``(N, C, H, W)``, ``tables`` is not `QuantTables`, or there is a
            model without labels.
        ValueError: Pillow does not write the subsampling, or labels are not one for each image.

    Example::

        images = torch.randint(256, (2, 3, 32, 48), dtype=torch.uint8)
        measure(images, fdjpeg.QuantTables.standard(75)).means()
    """
    check_tensor("images", images, "(N, C, H, W)")
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise TypeError(f"images must be uint8 (N, C, H, W), got {images.dtype} of shape {tuple(images.shape)}")
    count, channels, *sides = images.shape
    if count == 0 or channels not in (1, 3) or not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise ValueError(
            f"images must be one or more of 1 or 3 channels and 1…{LARGEST_SIDE} rows and columns, "
            f"got shape {tuple(images.shape)}"
        )
    if not isinstance(tables, QuantTables):
        raise TypeError(f"tables must be fdjpeg.QuantTables, got {type(tables).__name__}")
    if not isinstance(subsampling, str) or subsampling not in PILLOW_SUBSAMPLINGS:
        raise ValueError(f"subsampling must be one of {', '.join(PILLOW_SUBSAMPLINGS)}, got {subsampling!r}")
    if model is not None:
        check_module("model", model)
        check_tensor("labels", labels, "where a model is given")
    if labels is not None and (not isinstance(labels, Tensor) or labels.shape != images.shape[:1]):
        came = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels must be a tensor of shape ({len(images)},), one for each image, got {came}")
    files = [_written(image, tables, subsampling) for image in images]
    decoded = torch.stack([_read(file, images.size(1)) for file in files])
    a, b = decoded.float() / 255, images.float() / 255
    large_enough = min(images.shape[-2:]) >= WINDOW
    parts = torch.arange(len(images), device="cpu").split(64)
    return Measured(
        bits=bits(encode(images, tables=tables, subsampling=subsampling)),
        file_bits=torch.tensor([8 * len(file) for file in files], device="cpu"),
        psnr=psnr(a.double(), b.double()),
        ms_ssim=torch.cat([ms_ssim(a[part], b[part]) for part in parts]).double() if large_enough else None,
        correct=None if model is None or labels is None else _correct(model, a, labels, parts),
    )


def _correct(model: nn.Module, images: Tensor, labels: Tensor, parts: Sequence[Tensor]) -> Tensor:
    logits = torch.cat([logits_of(model, images[part]) for part in parts])
    check_labels(labels, logits.size(1))
    return ((logits.argmax(1) == labels) & ~logits.isnan().any(1)).double()  # NaN is never right


def _written(image: Tensor, tables: QuantTables, subsampling: str) -> bytes:
    """Returns the file that Pillow writes of uint8 ``(C, H, W)``."""
    channels, height, width = image.shape
    samples = image.permute(1, 2, 0).contiguous().numpy().tobytes()
    stream = io.BytesIO()
    Image.frombytes("RGB" if channels == 3 else "L", (width, height), samples).save(
        stream, "JPEG", qtables=tables.to_pillow(), subsampling=PILLOW_SUBSAMPLINGS[subsampling]
    )
    return stream.getvalue()


def _read(file: bytes, channels: int) -> Tensor:
    """Decodes a file by Pillow to uint8 ``(C, H, W)``."""
    with Image.open(io.BytesIO(file)) as image:
        samples = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return samples.view(image.height, image.width, channels).permute(2, 0, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Curves compared


class Ratio(NamedTuple):
    """A ratio of bits with the bounds of its interval.

    Example::

        str(Ratio(0.79, 0.75, 0.83))  # '79.0% [75.0%, 83.0%]'
    """

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
    """Computes the bits that some tables need, over the fewest with which a curve's tables keep the same quality.

    Bits and quality are means over the images. Between its points the curve is interpolated in the logarithm of bits.
    If it falls while bits grow, as accuracy may, the highest quality so far counts. The interval is that of 95 % of
    bootstrap resamples of the images, the same images on both sides.

    Args:
        bits, kept: ``(N,)``, the bits and the quality under the tables in question.
        curve_bits, curve_kept: ``(K, N)``, those under the curve's tables, in the order of their bits.
        sources: int64 ``(N,)``, the number of each image's source, from 0 on, if images are cut out of fewer ones.
            Whole sources are then drawn, since the images of one source are alike.
        resamples: number of resamples.
        seed: of the draws.

    Returns:
        The ratio. It is an upper bound if the quality is above the curve's last point, whose bits are then used, and
        NaN if it is below the first.

    Raises:
        TypeError, ValueError: an argument is of another type or shape.

    Example::

        bits = torch.tensor([1000.0, 1200.0])
        kept = torch.tensor([30.0, 31.0])  # PSNR in dB
        curve_bits, curve_kept = torch.stack([bits, 2 * bits]), torch.stack([kept - 1, kept + 2])
        bits_ratio(bits, kept, curve_bits, curve_kept).value  # 0.79
    """
    _check_curves(bits, kept, curve_bits, curve_kept, sources)
    check_whole("resamples", resamples, 1)
    check_seed("seed", seed)
    resamples, seed = int(resamples), int(seed)  # torch takes no NumPy's
    if sources is None:
        sources = torch.arange(len(bits), device="cpu")
    sources = sources.unique(return_inverse=True)[1]  # a number that no image has would be drawn all the same
    units = int(sources.max()) + 1
    drawn = torch.randint(units, (resamples, units), generator=torch.Generator().manual_seed(int(seed)), device="cpu")
    counts = torch.zeros(resamples, units, dtype=torch.float64, device="cpu").scatter_add_(
        1, drawn, torch.ones(resamples, units, dtype=torch.float64, device="cpu")
    )
    weights = torch.cat([torch.ones(1, units, dtype=torch.float64, device="cpu"), counts])[:, sources]
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
    low, high = ratios[1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu")).tolist()
    return Ratio(float(ratios[0]), low, high)


def _check_curves(bits: Tensor, kept: Tensor, curve_bits: Tensor, curve_kept: Tensor, sources: Tensor | None) -> None:
    """Refuses anything but ``(N,)`` and ``(K, N)``, N and K at least 1."""
    for name, values in (("bits", bits), ("kept", kept), ("curve_bits", curve_bits), ("curve_kept", curve_kept)):
        check_tensor(name, values)
    if bits.ndim != 1 or len(bits) == 0:
        raise ValueError(f"bits must be (N,) for one or more images, got shape {tuple(bits.shape)}")
    if kept.shape != bits.shape:
        raise ValueError(f"kept must be ({len(bits)},) as bits are, got shape {tuple(kept.shape)}")
    if curve_bits.ndim != 2 or curve_bits.size(1) != len(bits) or len(curve_bits) == 0:
        raise ValueError(f"curve_bits must be (K, {len(bits)}), got shape {tuple(curve_bits.shape)}")
    if curve_kept.shape != curve_bits.shape:
        raise ValueError(f"curve_kept must be {tuple(curve_bits.shape)}, got shape {tuple(curve_kept.shape)}")
    for name, values in (("bits", bits), ("curve_bits", curve_bits)):
        if not bool(((values > 0) & values.isfinite()).all()):
            raise ValueError(f"{name} must be above 0 and finite, got values from {values.min():g} to {values.max():g}")
    for name, values in (("kept", kept), ("curve_kept", curve_kept)):
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    means = curve_bits.double().mean(dim=1)
    if bool((means.diff() < 0).any()):
        raise ValueError(f"curve_bits must be in the order of their means, got {', '.join(f'{m:g}' for m in means)}")
    if sources is None:
        return
    check_tensor("sources", sources, "(N,)")
    if sources.shape != bits.shape or sources.dtype != torch.int64 or int(sources.min()) < 0:
        raise ValueError(
            f"sources must be int64 ({len(bits)},) of at least 0, got {sources.dtype} {tuple(sources.shape)}"
        )


def _interpolated(level: Tensor, levels: Tensor, values: Tensor) -> Tensor:
    """Returns the value where rising ``levels`` first reach ``level``: the last beyond them, NaN before them.

    Means of the same numbers may differ in their last bits, which must not make one level of two.
    """
    rounding = 1e-9 * levels.abs().max()
    after = int((levels < level - rounding).sum())
    if after == len(levels):
        return values[-1]
    if after == 0:
        return values[0] if levels[0] <= level + rounding else torch.full_like(level, torch.nan)
    share = (level - levels[after - 1]) / (levels[after] - levels[after - 1])
    return torch.lerp(values[after - 1], values[after], share.clamp(max=1))
