"""The command ``fdjpeg roundtrip``: one image through the codec."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table
from torch import Tensor

import fdjpeg
from fdjpeg._geometry import PILLOW_SUBSAMPLINGS
from fdjpeg.sources.files import read_picture
from fdjpeg.sources.image_set import pillow_codec, to_pillow, to_tensor

from .console import console, say_written

#: Formats that keep every sample.
LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


def roundtrip(
    source: Annotated[Path, typer.Argument(help="Image file that Pillow reads; RGB or grey, of 8 or 16 bits.")],
    target: Annotated[Path, typer.Argument(help=f"File for the decoded image: {', '.join(LOSSLESS)}.")],
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality, 1…100.")] = 75,
    subsampling: Annotated[str, typer.Option(help="Subsampling, 4:4:4, 4:2:2, 4:2:0, 4:4:0 or 4:1:1.")] = "4:2:0",
) -> None:
    """Compresses and decompresses one image, and measures the loss."""
    if target.suffix.lower() not in LOSSLESS:
        raise ValueError(
            f"target must end in one of {', '.join(LOSSLESS)}, which keep every sample, got {str(target)!r}"
        )
    original = _open(source)
    decoded = fdjpeg.jpeg(original, quality, subsampling=subsampling)
    try:
        to_pillow(decoded).save(target)
    except OSError as error:
        raise ValueError(f"target must be a file that can be written, got {str(target)!r}: {error}") from error

    channels, height, width = original.shape
    title = f"{source.name}, {width} × {height}, {'RGB' if channels == 3 else 'grey'}"
    table = Table(show_header=False, title=escape(title), title_justify="left")
    table.add_row("PSNR", _psnr(original, decoded))
    table.add_row("SSIM", _ssim(original, decoded))
    if subsampling in PILLOW_SUBSAMPLINGS:
        theirs, size = pillow_codec(to_pillow(original), quality, subsampling)
        differing = int((to_tensor(theirs) != decoded).sum())
        table.add_row("JPEG file of Pillow", f"{size} bytes, {8 * size / (width * height):.3f} bits per pixel")
        table.add_row("equals Pillow", "yes, every sample" if differing == 0 else f"NO: {differing} samples differ")
    else:
        table.add_row("JPEG file of Pillow", f"Pillow writes no {subsampling}")
    console.print(table)
    say_written(target)


def _open(source: Path) -> Tensor:
    """Reads an image file as uint8 ``(3, H, W)`` or ``(1, H, W)``, upright, without its transparency."""
    picture = read_picture(source, "source")
    if picture.transparent:
        console.print("Transparency is left out: JPEG has none.")
    return to_tensor(picture.image)


def _psnr(a: Tensor, b: Tensor) -> str:
    """Returns the peak signal-to-noise ratio over all samples of two uint8 images, in decibels."""
    error = float((a.double() - b.double()).square().mean())
    return f"{10 * math.log10(255**2 / error):.2f} dB" if error > 0 else "∞ (no sample changed)"


def _ssim(a: Tensor, b: Tensor) -> str:
    """Returns structural similarity (Wang et al. 2004) of two uint8 images: Gaussian window of 11 × 11."""
    from pytorch_msssim import ssim

    if min(a.shape[-2:]) < 11:
        return "needs at least 11 × 11 pixels"
    return f"{float(ssim(a[None].double(), b[None].double(), data_range=255)):.4f}"
