"""Image files of a folder, for the commands that learn from images without labels."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .console import complaints


def image_files(folder: Path) -> list[Path]:
    """Returns all files of the folder and its folders with names of images, sorted.

    Raises:
        ValueError: if there are none.
    """
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in known and file.is_file())
    if not files:
        raise ValueError(f"folder must hold images that Pillow reads, got {str(folder)!r} with none")
    return files


def read_image(file: Path) -> Tensor | None:
    """Reads an image as uint8 ``(3, H, W)``, or ``(1, H, W)`` if grey; complains and returns None if it cannot."""
    try:
        with Image.open(file) as image:
            converted = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        complaints.print(f"Left out: {file}: {error}", soft_wrap=True, markup=False, highlight=False)
        return None
    samples = torch.frombuffer(bytearray(converted.tobytes()), dtype=torch.uint8)
    return samples.view(converted.height, converted.width, -1).permute(2, 0, 1)
