"""Images, tables and samples for tests of a JPEG codec, drawn from a NumPy generator."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from support.oracles import Bytes, Steps

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)

#: Sizes at which the geometry changes: one sample, a chroma of one, two and three columns, a sample more or less than a
#: block or than an MCU, several MCUs.
SIZES = (
    *((1, 1), (1, 2), (2, 1), (2, 2), (1, 19), (21, 1), (3, 3), (5, 4), (4, 5), (6, 9), (7, 8), (8, 8), (8, 7)),
    *((9, 10), (15, 16), (16, 17), (17, 15), (24, 31), (32, 32), (33, 34), (40, 65), (64, 47), (100, 99)),
)

#: Larger than any tile, band or vector.
LARGE_SIZES = ((257, 389), (521, 263))


# ---------------------------------------------------------------------------------------------------------------------
# Content


def _noise(rng: np.random.Generator, channels: int, height: int, width: int) -> Bytes:
    return rng.integers(0, 256, (channels, height, width), dtype=np.uint8)


def _extremes(rng: np.random.Generator, channels: int, height: int, width: int) -> Bytes:
    """Draws 0 and 255 only: the largest possible coefficients, and much clamping."""
    return rng.integers(0, 2, (channels, height, width), dtype=np.uint8) * np.uint8(255)


def _gradient(rng: np.random.Generator, channels: int, height: int, width: int) -> Bytes:
    """Draws a linear ramp for each channel, in its own direction, over 0…255 and somewhat beyond."""
    rows, columns = np.mgrid[0:height, 0:width]
    slopes = rng.uniform(-1, 1, (2, channels, 1, 1))
    ramp = slopes[0] * rows / max(height - 1, 1) + slopes[1] * columns / max(width - 1, 1)
    return np.clip(128 + 160 * ramp, 0, 255).astype(np.uint8)


def _flat(rng: np.random.Generator, channels: int, height: int, width: int) -> Bytes:
    colour = rng.choice([0, 1, 127, 128, 254, 255, int(rng.integers(256))], (channels, 1, 1)).astype(np.uint8)
    return np.broadcast_to(colour, (channels, height, width)).copy()


def _photograph(rng: np.random.Generator, channels: int, height: int, width: int) -> Bytes:
    """Draws a crop of one of the packaged photographs, at a random scale."""
    photographs = _photographs()
    photograph = photographs[rng.integers(len(photographs))]
    if channels == 1:
        photograph = photograph.convert("L")
    scale = rng.uniform(0.3, 1)
    box_width, box_height = scale * photograph.width, scale * photograph.height
    left = rng.uniform(0, photograph.width - box_width)
    top = rng.uniform(0, photograph.height - box_height)
    crop = photograph.resize(
        (width, height), Image.Resampling.BILINEAR, (left, top, left + box_width, top + box_height)
    )
    return np.ascontiguousarray(np.asarray(crop).reshape(height, width, channels).transpose(2, 0, 1))


@functools.cache
def _photographs() -> list[Image.Image]:
    """Returns the photographs that foolbox carries, reduced; none if it is not installed."""
    found = importlib.util.find_spec("foolbox")
    if found is None or found.origin is None:
        return []
    files = sorted((Path(found.origin).parent / "data").glob("imagenet_*.jpg"))
    return [Image.open(file).convert("RGB").reduce(2) for file in files]


CONTENTS: dict[str, Callable[[np.random.Generator, int, int, int], Bytes]] = {
    "noise": _noise,
    "extremes": _extremes,
    "gradient": _gradient,
    "flat": _flat,
}
if _photographs():
    CONTENTS["photograph"] = _photograph


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def _ones(rng: np.random.Generator, images: int) -> Steps:
    return np.full((images, 3, 8, 8), 1)


def _largest(rng: np.random.Generator, images: int) -> Steps:
    return np.full((images, 3, 8, 8), 255)


def _random(rng: np.random.Generator, images: int) -> Steps:
    return rng.integers(1, 256, (images, 3, 8, 8))


def _small(rng: np.random.Generator, images: int) -> Steps:
    """Draws small steps: many coefficients survive."""
    return rng.integers(1, 9, (images, 3, 8, 8))


TABLES: dict[str, Callable[[np.random.Generator, int], Steps]] = {
    "random": _random,
    "small": _small,
    "all 1": _ones,
    "all 255": _largest,
}


# ---------------------------------------------------------------------------------------------------------------------
# Batches


class Batch(NamedTuple):
    """Images of one size, with one quality for all or tables for each."""

    pixels: Bytes  # (N, C, H, W)
    contents: tuple[str, ...]  # of each image
    quality: int | None
    tables: Steps | None  # (N, 3, 8, 8)

    def strength(self, image: int) -> Steps | int:
        """Returns the tables or the quality of one image, as the oracles take them."""
        if self.tables is not None:
            return self.tables[image]
        assert self.quality is not None
        return self.quality

    def arguments(self, device: str = "cpu") -> tuple[Tensor | None, float]:
        """Returns the tables and the quality of all images, as the ops take them."""
        if self.tables is None:
            assert self.quality is not None
            return None, float(self.quality)
        return torch.from_numpy(self.tables).to(device, torch.float32), 0.0

    def describe(self, image: int) -> str:
        strength = "its own tables" if self.quality is None else f"quality {self.quality}"
        return f"{self.contents[image]} {'×'.join(map(str, self.pixels.shape[1:]))}, {strength}"


def draw(rng: np.random.Generator, channels: int, height: int, width: int, images: int = 3) -> Batch:
    """Draws a batch of random contents; half of all batches have a quality, the others tables for each image."""
    contents = tuple(rng.choice(list(CONTENTS), images))
    pixels = np.stack([CONTENTS[content](rng, channels, height, width) for content in contents])
    if rng.random() < 0.5:
        return Batch(pixels, contents, int(rng.integers(1, 101)), None)
    return Batch(pixels, contents, None, TABLES[rng.choice(list(TABLES))](rng, images))


def samples(rng: np.random.Generator, pixels: NDArray[np.uint8], dtype: torch.dtype) -> Tensor:
    """Returns bytes as a tensor of ``dtype``.

    Floating ones are either byte / 255, or off that grid by up to a step (and so somewhat outside [0, 1]), where
    rounding matters, with a few NaN and infinite samples in some batches. `oracles.to_bytes` returns their bytes.
    """
    if dtype == torch.uint8:
        return torch.from_numpy(pixels.copy())
    values = pixels / 255
    if rng.random() < 0.5:
        values += rng.uniform(-1, 1, values.shape) / 255
        if rng.random() < 0.2:
            places = rng.random(values.shape) < 0.01
            values[places] = rng.choice([np.nan, np.inf, -np.inf, 1e30, -0.0], int(places.sum()))
    return torch.from_numpy(values).to(dtype)
