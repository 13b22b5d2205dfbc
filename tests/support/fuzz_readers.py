"""The readers of files that strangers may have made, as functions of bytes: for fuzzing, short and long.

A reader may refuse bytes by the errors that its docstring names, and the message says what must be. Anything else, a
crash of the process above all, is a fault. The corpus, small files of each kind, is in ``tests/corpus``.
"""

from __future__ import annotations

import io
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg.augmentations import TableCounts
from fdjpeg.defenses import fine_tuning, load
from fdjpeg.defenses.training import config
from fdjpeg.sources import load_images

CORPUS = Path(__file__).resolve().parents[1] / "corpus"

#: The errors by which a reader refuses a file.
REFUSALS = (ValueError, TypeError, OSError)

#: One of these is in the message of a refusal.
WORDS = (" must ", " needs ")

#: Where files are put for readers that take paths only; in memory where the system has such a folder.
_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


def _file(name: str, data: bytes) -> str:
    file = Path(_FOLDER.name, name)
    file.write_bytes(data)
    return str(file)


def _coefficients(data: bytes) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = 2**18  # a header of few bytes may claim an image of many seconds
    try:
        found = fdjpeg.Coefficients.load(data)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    fdjpeg.decode(found)
    fdjpeg.bits(found)


def _coded(data: bytes) -> None:
    """The ops' C++ entry: sizes, settings and samples from the bytes; the forward pass, its halves and the gradient."""
    head = data[:8].ljust(8, b"\0")
    height, width, images = 1 + head[0] % 41, 1 + head[1] % 41, head[2] % 3
    channels = (1, 3)[head[3] % 2]
    names = {"subsampling": ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1")[head[4] % 5]}
    samples = torch.frombuffer(bytearray(data[8:] or b"\0"), dtype=torch.uint8)
    count = images * channels * height * width
    image = samples.repeat(-(-count // len(samples)) + 1)[:count].view(images, channels, height, width)
    if head[5] % 2:
        image = image.contiguous(memory_format=torch.channels_last)
    steps = samples[:128].repeat(-(-128 // min(len(samples), 128)))[:128].view(2, 8, 8).float()
    tables = QuantTables(steps[0], steps[1])
    points = (image.float() / 255).requires_grad_()
    fdjpeg.jpeg(points, tables=tables, upsampling=("fancy", "nearest")[head[6] % 2], **names).sum().backward()
    found = fdjpeg.encode(image, 1 + head[7] % 100, **names)
    fdjpeg.decode(found)


#: Each reader of bytes by its name, which is also its folder in the corpus.
READERS: dict[str, Callable[[bytes], object]] = {
    "tables": lambda data: QuantTables.load(io.BytesIO(data)),
    "table-counts": lambda data: TableCounts.load(_file("counts.json", data)),
    "jpeg-tables": QuantTables.from_image,
    "jpeg-coefficients": _coefficients,
    "arrays": lambda data: load_images(_file("images.npz", data)),
    "settings": lambda data: config.read(fine_tuning.Config, _file("settings.yaml", data), "fine-tuning"),
    "defense": lambda data: load(_file("defense.safetensors", data)),
    "ops": _coded,
}


def read(reader: str, data: bytes) -> bool:
    """Returns whether a reader takes the bytes; raises what is no refusal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            READERS[reader](data)
        except REFUSALS as error:
            if not isinstance(error, OSError) and not any(word in str(error) for word in WORDS):
                raise AssertionError(f"a refusal that names nothing: {error}") from error
            return False
    return True


def corpus(reader: str) -> list[bytes]:
    """Returns the small files of a reader's kind, in the order of their names."""
    return [file.read_bytes() for file in sorted((CORPUS / reader).iterdir())]


def mutated(files: list[bytes], seed: int, count: int) -> Iterator[bytes]:
    """Yields ``count`` changed files: bytes replaced, cut out, repeated, cut off, or joined from two files."""
    draws = random.Random(seed)
    for _ in range(count):
        data = bytearray(draws.choice(files))
        for _ in range(draws.randint(1, 4)):
            at = draws.randrange(len(data) + 1)
            kind = draws.randrange(5)
            if kind == 0:
                data[at : at + 1] = bytes([draws.choice((0, 1, 127, 128, 255, draws.randrange(256)))])
            elif kind == 1:
                del data[at : at + draws.randint(1, 8)]
            elif kind == 2:
                data[at:at] = data[at : at + draws.randint(1, 16)]
            elif kind == 3:
                del data[at:]
            else:
                data[at:] = draws.choice(files)[at:]
        yield bytes(data)
