"""The command ``fdjpeg``: evaluate a defence, send one image through the codec, check an installation."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image, ImageOps, UnidentifiedImageError, features
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

import fdjpeg
from fdjpeg._packages import MissingPackage
from fdjpeg.sources.image_set import SUBSAMPLINGS, pillow_codec, to_pillow, to_tensor

from .bench import bench
from .evaluate import evaluate, spread
from .tables import app as tables
from .train import train

app = typer.Typer(
    help="JPEG as one differentiable PyTorch op: what it is worth as a defence, and whether its bits are Pillow's.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
complaints = Console(stderr=True)

#: Formats that keep every sample of what is written.
LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


app.command()(evaluate)
app.command()(bench)
app.command()(train)
app.add_typer(tables, name="tables")


@app.command()
def roundtrip(
    source: Annotated[Path, typer.Argument(help="Any 8-bit RGB or grey image that Pillow reads.")],
    target: Annotated[Path, typer.Argument(help=f"Where the decoded image goes: {', '.join(LOSSLESS)}.")],
    quality: Annotated[int, typer.Option(min=1, max=100)] = 75,
    subsampling: Annotated[str, typer.Option(help="4:4:4, 4:2:2, 4:2:0, 4:4:0 or 4:1:1.")] = "4:2:0",
) -> None:
    """Compresses and decompresses one image, and measures what that cost."""
    if target.suffix.lower() not in LOSSLESS:
        raise ValueError(
            f"target must end in one of {', '.join(LOSSLESS)}, which keep what the codec made, got {str(target)!r}"
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
    if subsampling in SUBSAMPLINGS:
        theirs, size = pillow_codec(to_pillow(original), quality, subsampling)
        differing = int((to_tensor(theirs) != decoded).sum())
        table.add_row("JPEG file of Pillow", f"{size} bytes, {8 * size / (width * height):.3f} bits per pixel")
        table.add_row("equals Pillow", "yes, every sample" if differing == 0 else f"NO: {differing} samples differ")
    else:
        table.add_row("JPEG file of Pillow", f"Pillow writes no {subsampling}")
    console.print(table)
    console.print(f"Written: {target}", soft_wrap=True, markup=False, highlight=False)


def _open(source: Path) -> Tensor:
    """An image file as uint8 ``(3, H, W)`` or ``(1, H, W)``, upright, without its alpha channel."""
    try:
        with Image.open(source) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"source must have 8-bit samples, got {str(source)!r} of mode {image.mode}")
            if "A" in image.getbands():
                console.print("The alpha channel is left out: JPEG has none.")
            return to_tensor(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"source must be an image that Pillow reads, got {str(source)!r}: {error}") from error


def _psnr(a: Tensor, b: Tensor) -> str:
    """Peak signal-to-noise ratio over all samples of two uint8 images, in decibels."""
    error = float((a.double() - b.double()).square().mean())
    return f"{10 * math.log10(255**2 / error):.2f} dB" if error > 0 else "∞ (no sample changed)"


def _ssim(a: Tensor, b: Tensor) -> str:
    """Structural similarity (Wang et al. 2004) of two uint8 images: Gaussian window of 11 × 11, mean over channels."""
    from pytorch_msssim import ssim

    if min(a.shape[-2:]) < 11:
        return "needs at least 11 × 11 pixels"
    return f"{float(ssim(a[None].double(), b[None].double(), data_range=255)):.4f}"


@app.command()
def doctor() -> None:
    """Tells what is installed, and checks the codec's bits against the installed Pillow."""
    table = Table(title="Versions", title_justify="left", show_header=False)
    for name, value in _versions():
        table.add_row(name, escape(value))
    console.print(table)

    table = Table(title="Backends", title_justify="left", show_header=False)
    for name, state in fdjpeg.backends().items():
        table.add_row(name, escape(state))
    if fdjpeg.backends()["cpu"] == "available":
        # FDJPEG_ISA forces one.
        table.add_row("instruction set of the CPU kernels", torch.ops.fdjpeg.cpu_instruction_set())
    console.print(table)

    samples, differing = _self_check()
    if differing:
        complaints.print(f"[bold red]Self-check failed:[/] {differing} of {samples} samples differ from Pillow's.")
        raise typer.Exit(1)
    console.print(f"Self-check passed: {samples} samples, all equal to Pillow's.")


def _versions() -> Iterator[tuple[str, str]]:
    """Names and versions of all that has a say in the bits."""
    yield "fdjpeg", fdjpeg.__version__
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "torch", str(torch.__version__)
    yield "CUDA", torch.cuda.get_device_name() if torch.cuda.is_available() else "torch sees no device"
    for package in ("triton", "pillow"):
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, "not installed"
    turbo = features.version_feature("libjpeg_turbo")
    yield "Pillow's codec", f"libjpeg-turbo {turbo}" if turbo else "not libjpeg-turbo: its bits may differ from ours"


def _self_check() -> tuple[int, int]:
    """Random images through the codec and through Pillow: the samples compared, and those that differ."""
    generator = torch.Generator().manual_seed(0)
    samples = differing = 0
    for height, width in ((1, 1), (8, 8), (17, 23), (64, 48), (99, 101)):
        for channels, subsampling in ((3, "4:4:4"), (3, "4:2:2"), (3, "4:2:0"), (1, "4:4:4")):
            for quality in (1, 25, 50, 75, 95, 100):
                image = torch.randint(0, 256, (channels, height, width), generator=generator, dtype=torch.uint8)
                theirs = to_tensor(pillow_codec(to_pillow(image), quality, subsampling)[0])
                as_bytes = fdjpeg.jpeg(image, quality, subsampling=subsampling)
                as_floats = fdjpeg.jpeg(image.float() / 255, quality, subsampling=subsampling)
                differing += int((as_bytes != theirs).sum()) + int((as_floats != theirs.float() / 255).sum())
                samples += 2 * image.numel()
    return samples, differing


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with ``arguments`` (``sys.argv`` if None); mistakes end it with one sentence and code 2."""
    try:
        app(spread(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, MissingPackage) as error:
        complaints.print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise SystemExit(2) from error
