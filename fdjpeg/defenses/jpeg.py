"""JPEG as a defence: at one quality, or at a random one for each image or for each block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

import fdjpeg
from fdjpeg._checks import check_whole

from .base import LayerDefense


class JPEG(LayerDefense):
    """Compression at one quality (Dziugaite et al. 2016, arXiv 1608.00853; Das et al. 2017, arXiv 1705.02900).

    Args:
        quality: 1…100.
        subsampling: as for `fdjpeg.jpeg`.

    Raises:
        ValueError: a value out of its range.

    Example::

        fdjpeg.defenses.JPEG(75).deployed(classifier)(images)
    """

    kind = "jpeg"

    def __init__(self, quality: float = 75, subsampling: str = "4:2:0") -> None:
        super().__init__()
        fdjpeg.JPEG(quality, subsampling=subsampling)  # raises for values out of range
        self.quality = quality
        self.subsampling = subsampling

    def codec(self) -> nn.Module:
        """See `LayerDefense.codec`."""
        return fdjpeg.JPEG(self.quality, subsampling=self.subsampling, gradient=self.surrogate)

    def config(self) -> dict[str, Any]:
        """See `Defense.config`."""
        return {"quality": self.quality, "subsampling": self.subsampling}


class RandomJPEG(LayerDefense):
    """Compression at an integer quality drawn for each image, uniform from ``least`` to ``greatest``.

    Args:
        least, greatest: qualities, 1 ≤ least ≤ greatest ≤ 100.
        subsampling: as for `fdjpeg.jpeg`.

    Raises:
        ValueError: a value out of its range.

    Example::

        fdjpeg.defenses.RandomJPEG(30, 95).deployed(classifier)(images)
    """

    kind = "random-jpeg"
    random = True

    def __init__(self, least: int = 30, greatest: int = 95, subsampling: str = "4:2:0") -> None:
        super().__init__()
        check_whole("least", least, 1)
        check_whole("greatest", greatest, 1)
        fdjpeg.RandomJPEG((least, greatest), subsampling=subsampling)  # raises for values out of range
        self.quality = (least, greatest)
        self.subsampling = subsampling

    def codec(self) -> nn.Module:
        """See `LayerDefense.codec`."""
        return fdjpeg.RandomJPEG(self.quality, subsampling=self.subsampling, gradient=self.surrogate)

    def config(self) -> dict[str, Any]:
        """See `Defense.config`."""
        return {"least": self.quality[0], "greatest": self.quality[1], "subsampling": self.subsampling}


class StochasticJPEG(LayerDefense):
    """Stochastic local quantization: a quality drawn for each 8×8 block (Das et al. 2018, arXiv 1802.06816, SHIELD).

    Args:
        qualities: each 1…100, to draw from; the default is SHIELD's.
        subsampling: as for `fdjpeg.jpeg`.

    Raises:
        ValueError: a value out of its range, or no quality.

    Example::

        fdjpeg.defenses.StochasticJPEG((20, 40, 60, 80)).deployed(classifier)(images)
    """

    kind = "stochastic-jpeg"
    random = True

    def __init__(self, qualities: Sequence[int] = (20, 40, 60, 80), subsampling: str = "4:2:0") -> None:
        super().__init__()
        fdjpeg.StochasticJPEG(qualities, subsampling=subsampling)  # raises for values out of range
        self.qualities = tuple(qualities)
        self.subsampling = subsampling

    def codec(self) -> nn.Module:
        """See `LayerDefense.codec`."""
        return fdjpeg.StochasticJPEG(self.qualities, subsampling=self.subsampling, gradient=self.surrogate)

    def config(self) -> dict[str, Any]:
        """See `Defense.config`."""
        return {"qualities": list(self.qualities), "subsampling": self.subsampling}
