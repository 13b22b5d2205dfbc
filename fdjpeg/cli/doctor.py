"""The command ``fdjpeg doctor``: versions, backends, and a check of the codec's bits."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import torch
import typer
from PIL import features
from rich.table import Table

import fdjpeg
from fdjpeg.sources.image_set import pillow_codec, to_pillow, to_tensor

from .console import complain, console, print_json


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """Shows what is installed, and checks the codec's bits against the installed Pillow."""
    versions, backends = _versions(), fdjpeg.backends()
    if backends["cpu"] == "available":
        # The environment variable FDJPEG_ISA forces one.
        backends["instruction set of the CPU kernels"] = torch.ops.fdjpeg.cpu_instruction_set()
    if not as_json:
        _print_table("Versions", versions)
        _print_table("Backends", backends)
    samples, differing = _self_check()
    if as_json:
        self_check = {"samples": samples, "differing": differing}
        print_json({"versions": versions, "backends": backends, "self_check": self_check})
    elif not differing:
        console.print(f"Self-check passed: {samples} samples, all equal to Pillow's.")
    if differing:
        complain("Self-check failed:", f"{differing} of {samples} samples differ from Pillow's.")
        raise typer.Exit(1)


def _print_table(title: str, rows: Mapping[str, str]) -> None:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def _versions() -> dict[str, str]:
    """Returns the names and versions of everything that may change the bits."""
    found = {
        "fdjpeg": fdjpeg.__version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": str(torch.__version__),
        "CUDA": torch.cuda.get_device_name() if torch.cuda.is_available() else "torch sees no device",
    }
    for package in ("triton", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    turbo = features.version_feature("libjpeg_turbo")
    found["Pillow's codec"] = f"libjpeg-turbo {turbo}" if turbo else "not libjpeg-turbo: its bits may differ"
    return found


def _self_check() -> tuple[int, int]:
    """Compares the codec with Pillow on random images; returns the numbers of compared and of differing samples."""
    generator = torch.Generator().manual_seed(0)
    samples = differing = 0
    for height, width in ((1, 1), (8, 8), (17, 23), (64, 48), (99, 101)):
        for channels, subsampling in ((3, "4:4:4"), (3, "4:2:2"), (3, "4:2:0"), (1, "4:4:4")):
            for quality in (1, 25, 50, 75, 95, 100):
                image = torch.randint(
                    0, 256, (channels, height, width), generator=generator, dtype=torch.uint8, device="cpu"
                )
                theirs = to_tensor(pillow_codec(to_pillow(image), quality, subsampling)[0])
                as_bytes = fdjpeg.jpeg(image, quality, subsampling=subsampling)
                as_floats = fdjpeg.jpeg(image.float() / 255, quality, subsampling=subsampling)
                differing += int((as_bytes != theirs).sum()) + int((as_floats != theirs.float() / 255).sum())
                samples += 2 * image.numel()
    return samples, differing
