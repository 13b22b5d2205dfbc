"""Images, tables, oracles and parameters for the tests of the reference."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fdjpeg._geometry import SAMPLING_FACTORS
from support.settings import PILLOW

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SIZES = [(1, 1), (1, 9), (8, 8), (7, 3), (17, 2), (16, 33), (31, 45)]
every_subsampling = pytest.mark.parametrize("subsampling", SAMPLING_FACTORS)
every_upsampling = pytest.mark.parametrize("fancy", [True, False], ids=["fancy", "nearest"])
every_channels = pytest.mark.parametrize("channels", [3, 1], ids=["rgb", "grey"])


def contents(rng: np.random.Generator, height: int, width: int, channels: int) -> Iterator[np.ndarray]:
    """Returns white noise, 0/255 noise, a gradient and a flat colour: uint8 (H, W, C)."""
    shape = (height, width, channels)
    yield rng.integers(0, 256, shape, dtype=np.uint8)
    yield 255 * rng.integers(0, 2, shape, dtype=np.uint8)
    ramp = np.linspace(0, 255, height)[:, None, None] * np.linspace(0, 1, width)[None, :, None]
    yield np.broadcast_to(ramp, shape).astype(np.uint8) ^ rng.integers(0, 256, channels, dtype=np.uint8)
    yield np.broadcast_to(rng.integers(0, 256, channels, dtype=np.uint8), shape).copy()


def to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


def to_pixels(image: Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


def interior(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Returns images so near to mid-grey that at small steps no sample comes close to 0 or 1."""
    return 0.4 + 0.2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_tables(count: int, seed: int, top: int = 255) -> Tensor:
    return torch.randint(1, top + 1, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed)).float()


def pillow_file(pixels: np.ndarray, subsampling: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    picture.save(buffer, "JPEG", subsampling=PILLOW[subsampling], **options)
    return buffer.getvalue()


def pillow_pixels(data: bytes, mode: str | None = None) -> np.ndarray:
    picture = Image.open(io.BytesIO(data))
    if mode is not None:
        picture.draft(mode, picture.size)
    pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def t81_dct(block: np.ndarray) -> np.ndarray:
    """Computes the DCT as in ITU-T T.81, A.3.3: one sum for each coefficient."""
    out = np.empty((8, 8))
    for v, u in np.ndindex(8, 8):
        scale = (math.sqrt(0.5) if u == 0 else 1) * (math.sqrt(0.5) if v == 0 else 1) / 4
        waves = [
            block[y, x] * math.cos((2 * x + 1) * u * math.pi / 16) * math.cos((2 * y + 1) * v * math.pi / 16)
            for y, x in np.ndindex(8, 8)
        ]
        out[v, u] = scale * sum(waves)
    return out
