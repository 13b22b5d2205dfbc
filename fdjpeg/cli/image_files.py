"""Images of a folder, for the commands that learn from images without labels."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fdjpeg.sources.files import read_picture
from fdjpeg.sources.image_set import to_tensor

from .console import complaints


def read_image(file: Path) -> Tensor | None:
    """Reads an image as uint8 ``(3, H, W)``, or ``(1, H, W)`` if grey; complains and returns None if it cannot."""
    try:
        return to_tensor(read_picture(file).image)
    except ValueError as error:
        complaints.print(f"Left out: {error}", soft_wrap=True)
        return None
