"""JPEG as a defence: at one quality, or at a random one for each image."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import fdjpeg

from .base import JPEGDefense


class JPEG(JPEGDefense):
    """Compression at one quality (Dziugaite et al. 2016, arXiv 1608.00853; Das et al. 2017, arXiv 1705.02900).

    Args:
        quality: 1…100.
        subsampling: as for `fdjpeg.jpeg`.
    """

    kind = "jpeg"

    def __init__(self, quality: float = 75, subsampling: str = "4:2:0") -> None:
        super().__init__()
        fdjpeg.JPEG(quality, subsampling=subsampling)  # raises for what it does not take
        self.quality = quality
        self.subsampling = subsampling

    def forward(self, images: Tensor) -> Tensor:
        """See `Defense.forward`."""
        return fdjpeg.jpeg(images, self.quality, subsampling=self.subsampling, gradient=self.surrogate)

    def config(self) -> dict[str, Any]:
        """See `Defense.config`."""
        return {"quality": self.quality, "subsampling": self.subsampling}


class RandomJPEG(JPEGDefense):
    """Compression at an integer quality drawn for each image, uniform from ``least`` to ``greatest``.

    Args:
        least, greatest: qualities, 1 ≤ least ≤ greatest ≤ 100.
        subsampling: as for `fdjpeg.jpeg`.
    """

    kind = "random-jpeg"
    random = True

    def __init__(self, least: int = 30, greatest: int = 95, subsampling: str = "4:2:0") -> None:
        super().__init__()
        fdjpeg.RandomJPEG((least, greatest), subsampling=subsampling)  # raises for what it does not take
        self.quality = (least, greatest)
        self.subsampling = subsampling

    def forward(self, images: Tensor) -> Tensor:
        """See `Defense.forward`."""
        return fdjpeg.RandomJPEG(self.quality, subsampling=self.subsampling, gradient=self.surrogate)(images)

    def config(self) -> dict[str, Any]:
        """See `Defense.config`."""
        return {"least": self.quality[0], "greatest": self.quality[1], "subsampling": self.subsampling}
