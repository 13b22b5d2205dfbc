"""Tables and JPEG files that the tests of tables share."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fdjpeg.tables import QuantTables


def photograph_like(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    noise = np.random.default_rng(7).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)


def jpeg_bytes(image: Image.Image | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    (photograph_like() if image is None else image).save(stream, "JPEG", **options)
    return stream.getvalue()


def random_table(seed: int) -> Tensor:
    return torch.randint(1, 256, (8, 8), generator=torch.Generator().manual_seed(seed))


def two_tables() -> QuantTables:
    return QuantTables(random_table(1), random_table(2))


def three_tables() -> QuantTables:
    return QuantTables(random_table(1), random_table(2), random_table(3))
