"""Compression as augmentation: modules that change each image of a batch at random, on the batch's device.

- `RandomJPEG`: one compression; quality, table and subsampling drawn for each image.
- `DoubleJPEG`: two compressions with a shifted grid of blocks between them.
- `Recompress`: resizing and compression, once or more.

Each takes ``(..., C, H, W)`` images, floating in [0, 1] or uint8, and differentiates as `fdjpeg.jpeg`. With
``return_parameters=True`` it returns its draws as well; ``layer.draw(image)`` makes them ahead of the call.

The modules `torchvision`, `kornia` and `albumentations` of this package hold the same for pipelines of these libraries.
"""

from __future__ import annotations

from .base import Augmentation, Draws
from .double_jpeg import DoubleJPEG, DoubleJPEGParameters
from .random_jpeg import JPEGParameters, RandomJPEG
from .recompress import Recompress, RecompressParameters
from .table_counts import TableCounts

__all__ = [
    "Augmentation",
    "DoubleJPEG",
    "DoubleJPEGParameters",
    "Draws",
    "JPEGParameters",
    "RandomJPEG",
    "Recompress",
    "RecompressParameters",
    "TableCounts",
]
