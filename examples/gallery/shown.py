"""Shared by the gallery: a photograph from scikit-image, and images side by side."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from fdjpeg._packages import package_folder
from fdjpeg.sources.image_set import to_tensor


def photograph(name: str = "coffee.png", side: int = 192) -> Tensor:
    """Returns a photograph of scikit-image, scaled to half its size and cut to a square: uint8 ``(3, side, side)``."""
    with Image.open(package_folder("skimage", "pip install scikit-image") / "data" / name) as image:
        half = image.convert("RGB").resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    left, top = (half.width - side) // 2, (half.height - side) // 2
    return to_tensor(half.crop((left, top, left + side, top + side)))


def around_grey(change: Tensor, largest: float) -> Tensor:
    """Returns a change of samples as uint8: grey is none, black and white are ``-largest`` and ``largest``."""
    return (127.5 + 127.5 * change.float() / largest).round().clamp(0, 255).to(torch.uint8)


def side_by_side(images: Mapping[str, Tensor], columns: int = 4) -> Figure:
    """Shows uint8 images ``(3, H, W)`` or ``(1, H, W)`` under their titles."""
    # The gallery saves the figure: its titles are part of it.
    plt.rcParams["savefig.bbox"] = "tight"
    rows = -(-len(images) // columns)
    figure, places = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.9 * rows), squeeze=False, layout="constrained"
    )
    for axes in places.flat:
        axes.axis("off")
    for axes, (title, image) in zip(places.flat, images.items(), strict=False):
        axes.imshow(image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        axes.set_title(title, fontsize=9)
    return figure
