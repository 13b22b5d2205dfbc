"""JPEG by libraries that are not ours: Pillow, libjpeg-turbo's own interface, and a reader of coefficients.

Images are NumPy arrays ``(C, H, W)`` of bytes, C 1 (grey) or 3 (RGB). Tables are ``(3, 8, 8)`` integers for Y, Cb and
Cr, row-major by [vertical, horizontal] frequency.

- Pillow writes 4:4:4, 4:2:2, 4:2:0 and grey, and decodes everything, with libjpeg's fancy upsampling.
- `simplejpeg` decodes with libjpeg-turbo's "fast upsampling", which repeats samples: the oracle of "nearest".
- `jpeglib` reads and writes a file's quantized coefficients. With libjpeg-turbo 2.1 inside, it also encodes 4:4:0 and
  4:1:1 by the accurate DCT. (simplejpeg would encode them too, but below quality 96 by the fast DCT.)
"""

from __future__ import annotations

import ctypes
import functools
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jpeglib
import numpy as np
import simplejpeg
import torch
from jpeglib._bind import CJpegLib
from numpy.typing import NDArray
from PIL import Image

from support.settings import FACTORS, PILLOW

Bytes = NDArray[np.uint8]
Steps = NDArray[np.int64]

jpeglib.version.set("turbo210")

#: A folder in memory, where the system has one; the usual one for temporary files elsewhere.
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Coefficients(NamedTuple):
    """The content of a file: int16 ``(rows, columns, 8, 8)`` for each component, and the tables ``(3, 8, 8)``."""

    y: NDArray[np.int16]
    cb: NDArray[np.int16] | None
    cr: NDArray[np.int16] | None
    tables: Steps

    @property
    def components(self) -> list[NDArray[np.int16]]:
        return [component for component in (self.y, self.cb, self.cr) if component is not None]


# ---------------------------------------------------------------------------------------------------------------------
# Samples


def to_bytes(samples: torch.Tensor) -> Bytes:
    """Returns the bytes of a tensor of samples: rint(255 x), one multiplication, half to even, saturating."""
    if samples.dtype == torch.uint8:
        return samples.numpy()
    wide = samples.double() if samples.dtype == torch.float64 else samples.float()  # exact for the half types
    array = wide.numpy()
    scaled = np.rint(array * array.dtype.type(255))
    return np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255).astype(np.uint8)


def from_bytes(pixels: Bytes, dtype: torch.dtype) -> torch.Tensor:
    """Returns the samples of bytes: byte / 255 correctly rounded (in float64 for float64, else float32)."""
    if dtype == torch.uint8:
        return torch.from_numpy(pixels.copy())
    wide = np.float64 if dtype == torch.float64 else np.float32
    return torch.from_numpy(pixels.astype(wide) / wide(255)).to(dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Files


@functools.cache
def standard_tables(quality: int) -> Steps:
    """Returns the tables that Pillow writes at a quality."""
    with io.BytesIO() as stream:
        Image.new("RGB", (8, 8)).save(stream, "JPEG", quality=quality)
        tables = Image.open(stream).quantization
    return np.array([tables[0], tables[1], tables[1]]).reshape(3, 8, 8)


def encode(pixels: Bytes, tables: Steps | int, subsampling: str) -> bytes:
    """Writes a file of an image, at a quality or with tables: by Pillow if it can, else by libjpeg-turbo."""
    if pixels.shape[0] == 1 or subsampling in PILLOW:
        return _encode_with_pillow(pixels, tables, subsampling)
    return encode_with_libjpeg(pixels, standard_tables(tables) if isinstance(tables, int) else tables, subsampling)


def _encode_with_pillow(pixels: Bytes, tables: Steps | int, subsampling: str) -> bytes:
    grey = pixels.shape[0] == 1
    image = Image.fromarray(pixels[0] if grey else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    settings: dict[str, object] = {} if grey else {"subsampling": PILLOW[subsampling]}
    if isinstance(tables, int):
        settings["quality"] = tables
    else:
        settings["qtables"] = tables.reshape(3, 64)[: 1 if grey else 3].tolist()
    with io.BytesIO() as stream:
        image.save(stream, "JPEG", **settings)
        return stream.getvalue()


def encode_with_libjpeg(pixels: Bytes, tables: Steps, subsampling: str) -> bytes:
    """Writes a file of an RGB image at any subsampling."""
    horizontal, vertical = FACTORS[subsampling]
    image = jpeglib.from_spatial(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.samp_factor = ((vertical, horizontal), (1, 1), (1, 1))
    with _scratch_file() as path:
        image.write_spatial(
            str(path), qt=tables.astype(np.uint16), quant_tbl_no=np.arange(3), dct_method=jpeglib.JDCT_ISLOW
        )
        return path.read_bytes()


def decode(file: bytes, upsampling: str = "fancy") -> Bytes:
    """Decodes a file: by Pillow, or with chroma repeated by libjpeg-turbo's fast upsampling."""
    if upsampling == "fancy":
        pixels = np.asarray(Image.open(io.BytesIO(file)))
    else:
        _, _, colorspace, _ = simplejpeg.decode_jpeg_header(file)
        wanted = "GRAY" if colorspace == "Gray" else "RGB"
        pixels = simplejpeg.decode_jpeg(file, colorspace=wanted, fastdct=False, fastupsample=True)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))


def coefficients(file: bytes) -> Coefficients:
    """Reads the quantized coefficients of a file, by the C function that jpeglib wraps in much Python."""
    components = [np.empty((*blocks, 8, 8), np.int16) for blocks in _blocks(file)]
    tables, numbers = np.empty((4, 8, 8), np.uint16), np.empty(4, np.int16)
    targets = [*components, *[None] * (4 - len(components)), tables, numbers]
    with _scratch_file() as path:
        path.write_bytes(file)
        pointers = [None if target is None else ctypes.c_void_p(target.ctypes.data) for target in targets]
        if CJpegLib.get().read_jpeg_dct(str(path).encode(), *pointers) == 0:
            raise OSError("libjpeg cannot read the file")
    of_components = numbers[: len(components)] if len(components) == 3 else [numbers[0]] * 3
    y, cb, cr = components if len(components) == 3 else (components[0], None, None)
    return Coefficients(y, cb, cr, tables[of_components].astype(np.int64))


def _blocks(file: bytes) -> list[tuple[int, int]]:
    """Returns the rows and columns of blocks of each component, from the frame header (T.81, B.2.2)."""
    at = 2
    while not 0xC0 <= file[at + 1] <= 0xC2:
        at += 2 + int.from_bytes(file[at + 2 : at + 4])
    height, width, count = int.from_bytes(file[at + 5 : at + 7]), int.from_bytes(file[at + 7 : at + 9]), file[at + 9]
    factors = [divmod(file[at + 11 + 3 * i], 16) for i in range(count)]
    widest, tallest = max(h for h, _ in factors), max(v for _, v in factors)
    return [(-(-height * v // (8 * tallest)), -(-width * h // (8 * widest))) for h, v in factors]


def with_coefficients(file: bytes, components: list[NDArray[np.int16]]) -> bytes:
    """Replaces the coefficients of a file by others, ``(rows, columns, 8, 8)`` for each component."""
    with _scratch_file() as path:
        path.write_bytes(file)
        content = jpeglib.read_dct(str(path))
        content.load()
        for name, component in zip(("Y", "Cb", "Cr"), components, strict=False):
            setattr(content, name, component)
        content.write_dct(str(path))
        return path.read_bytes()


def round_trip(pixels: Bytes, tables: Steps | int, subsampling: str, upsampling: str = "fancy") -> Bytes:
    """Writes an image to a file and decodes it."""
    return decode(encode(pixels, tables, subsampling), upsampling)


@contextmanager
def _scratch_file() -> Iterator[Path]:
    """Yields the name of a file for one use: jpeglib reads and writes named files only."""
    handle, name = tempfile.mkstemp(suffix=".jpg", dir=_MEMORY)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        os.unlink(name)
