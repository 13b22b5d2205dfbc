"""The command ``fdjpeg roundtrip``: one image through the codec."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from torch import Tensor

import fdjpeg
from fdjpeg._coefficient_files import LARGEST_SIDE
from fdjpeg._geometry import PILLOW_SUBSAMPLINGS
from fdjpeg._whole_files import whole_file, writing
from fdjpeg.learning.metrics import WINDOW, ssim
from fdjpeg.sources.files import read_picture
from fdjpeg.sources.image_set import pillow_codec, to_pillow, to_tensor

from .console import complaints, console, print_json, say_written

#: Formats that keep every sample.
LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


def roundtrip(
    source: Annotated[Path, typer.Argument(help="Image file that Pillow reads; RGB or grey, of 8 or 16 bits.")],
    target: Annotated[Path, typer.Argument(help=f"File for the decoded image: {', '.join(LOSSLESS)}.")],
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality, 1…100.")] = 75,
    subsampling: Annotated[str, typer.Option(help="Subsampling, 4:4:4, 4:2:2, 4:2:0, 4:4:0 or 4:1:1.")] = "4:2:0",
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Compresses and decompresses one image, and measures the loss."""
    if target.suffix.lower() not in LOSSLESS:
        raise ValueError(
            f"target must end in one of {', '.join(LOSSLESS)}, which keep every sample, got {str(target)!r}"
        )
    original = _open(source)
    decoded = fdjpeg.jpeg(original, quality, subsampling=subsampling)
    with writing("target", target), whole_file(target) as draft:
        to_pillow(decoded).save(draft)

    found = _measured(original, decoded, quality, subsampling)
    if as_json:
        print_json({"source": str(source), "target": str(target), **found})
        return
    title = f"{source.name}, {found['width']} × {found['height']}, {'RGB' if found['channels'] == 3 else 'grey'}"
    table = Table(show_header=False, title=title, title_justify="left")
    psnr, ssim, size, differing = (found[name] for name in ("psnr", "ssim", "pillow_bytes", "differing_samples"))
    table.add_row("PSNR", "∞ (no sample changed)" if psnr is None else f"{psnr:.2f} dB")
    table.add_row("SSIM", f"needs at least {WINDOW} × {WINDOW} pixels" if ssim is None else f"{ssim:.4f}")
    if size is None:
        table.add_row("JPEG file of Pillow", f"Pillow writes no {subsampling}")
    else:
        per_pixel = 8 * size / (found["width"] * found["height"])
        table.add_row("JPEG file of Pillow", f"{size} bytes, {per_pixel:.3f} bits per pixel")
        table.add_row("equals Pillow", "yes, every sample" if differing == 0 else f"NO: {differing} samples differ")
    console.print(table)
    say_written(target)


def _measured(original: Tensor, decoded: Tensor, quality: int, subsampling: str) -> dict[str, Any]:
    """Returns the size of an image, its likeness to the decoded one, and Pillow's answer.

    None is a PSNR without any error, an SSIM of an image smaller than its window, and an answer that Pillow lacks.
    """
    channels, height, width = original.shape
    found: dict[str, Any] = {"width": width, "height": height, "channels": channels}
    found |= {"psnr": _psnr(original, decoded), "ssim": _ssim(original, decoded)}
    if subsampling not in PILLOW_SUBSAMPLINGS:
        return {**found, "pillow_bytes": None, "differing_samples": None}
    theirs, size = pillow_codec(to_pillow(original), quality, subsampling)
    return {**found, "pillow_bytes": size, "differing_samples": int((to_tensor(theirs) != decoded).sum())}


def _open(source: Path) -> Tensor:
    """Reads an image file as uint8 ``(3, H, W)`` or ``(1, H, W)``, upright, without its transparency."""
    picture = read_picture(source, "source")
    width, height = picture.image.size
    if max(width, height) > LARGEST_SIDE:
        raise ValueError(
            f"source must be an image of at most {LARGEST_SIDE} × {LARGEST_SIDE} pixels, which JPEG files hold, "
            f"got {source.name!r} of {width} × {height}"
        )
    if picture.transparent:
        complaints.print("Transparency is left out: JPEG has none.")
    return to_tensor(picture.image)


def _psnr(a: Tensor, b: Tensor) -> float | None:
    """Returns the peak signal-to-noise ratio over all samples of two uint8 images, in decibels; None if all agree."""
    error = float((a.double() - b.double()).square().mean())
    return 10 * math.log10(255**2 / error) if error > 0 else None


def _ssim(a: Tensor, b: Tensor) -> float | None:
    """Returns the structural similarity of two uint8 images; None for images smaller than its window."""
    if min(a.shape[-2:]) < WINDOW:
        return None
    return float(ssim(a[None].double() / 255, b[None].double() / 255))
