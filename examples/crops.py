"""Shared by the examples of watermarks and of pre- and post-processing: crops of photographs that were never JPEG.

The photographs that foolbox carries, or a folder's, are JPEG files. Downscaled by half or more they lose the grid of
their own compression, and a new compression meets images as it does after a camera.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fdjpeg._packages import package_folder
from fdjpeg.sources.files import image_files
from fdjpeg.sources.image_set import to_tensor

#: The longer side that photographs are downscaled to, at most half of their own.
LONGER_SIDE = 256


def photographs(folder: Path | None) -> list[Tensor]:
    """Returns the downscaled photographs of a folder, or foolbox's, uint8 ``(3, H, W)``."""
    if folder is None:
        files = sorted((package_folder("foolbox") / "data").glob("imagenet_*.jpg"))
    else:
        files = image_files(folder)
    found = []
    for file in files:
        with Image.open(file) as image:
            scale = min(LONGER_SIDE / max(image.size), 0.5)
            size = (round(image.width * scale), round(image.height * scale))
            found.append(to_tensor(image.convert("RGB").resize(size, Image.Resampling.LANCZOS)))
    return found


def crops(pictures: list[Tensor], count: int, side: int, generator: torch.Generator) -> Tensor:
    """Returns ``(count, 3, side, side)`` floats in [0, 1], cut at random places out of photographs in turn."""
    cut = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        top, left = (int(torch.randint(n - side + 1, (), generator=generator)) for n in picture.shape[1:])
        cut.append(picture[:, top : top + side, left : left + side])
    return torch.stack(cut).float() / 255


def split(pictures: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the photographs to train on, and a quarter that is held out."""
    return [one for i, one in enumerate(pictures) if i % 4], pictures[::4]
