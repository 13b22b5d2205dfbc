"""MNIST, Fashion-MNIST and CIFAR-10 from the files in which they are published; none of these is a pickle.

MNIST and Fashion-MNIST are IDX files (LeCun, Cortes, Burges, "The MNIST database", with its description of the format),
packed by gzip or not. CIFAR-10 is its binary version (Krizhevsky 2009): records of 3,073 bytes, the class and then red,
green and blue of 32 × 32 pixels, as single files, in a folder, or in the archive that is downloaded.
"""

from __future__ import annotations

import gzip
import math
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fdjpeg._whole_files import of_the_system

from .classes import CIFAR10, DIGITS, FASHION_MNIST
from .image_set import ImageSet

#: Where Debian's package dataset-fashion-mnist puts its files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

SPLITS = ("test", "train")

_IDX_PREFIXES = {"test": "t10k", "train": "train"}
#: The IDX code of unsigned bytes, the only type of these sets.
_IDX_UINT8 = 0x08
_CIFAR10_FILES = {"test": ["test_batch.bin"], "train": [f"data_batch_{number}.bin" for number in range(1, 6)]}
_CIFAR10_SHAPE = (3, 32, 32)
_CIFAR10_RECORD = 1 + math.prod(_CIFAR10_SHAPE)
_CIFAR10_FOLDER = "cifar-10-batches-bin"


def mnist(folder: Path, split: str = "test", title: str = "MNIST", classes: tuple[str, ...] = DIGITS) -> ImageSet:
    """Reads a split of MNIST, or of a set in the same files.

    Args:
        folder: holds ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte`` or, for training, ``train-…``; each with
            or without ``.gz``.
        split: "test" or "train".
        title: the name of the set, for the report.
        classes: the names of its classes.

    Returns:
        Grey images ``(N, 1, H, W)`` in [0, 1].

    Raises:
        ValueError: for another split, or a file that is missing or not an IDX file of bytes.
    """
    _check_split(split)
    prefix = _IDX_PREFIXES[split]
    images = _idx(folder, f"{prefix}-images-idx3-ubyte", dimensions=3)
    labels = _idx(folder, f"{prefix}-labels-idx1-ubyte", dimensions=1)
    return _image_set(images[:, None], labels, f"the {split} split of {title}, in its order", folder, classes)


def fashion_mnist(folder: Path | None = None, split: str = "test") -> ImageSet:
    """Reads a split of Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv 1708.07747): 28 × 28 pixels, grey, lossless.

    Args:
        folder: as for `mnist`; None is where Debian's package dataset-fashion-mnist puts it.
        split: "test" (10,000 images) or "train" (60,000).

    Raises:
        ValueError: as `mnist` does; without a folder the message names the package that brings it.
    """
    if folder is None and not DEBIAN_FASHION_MNIST.is_dir():
        raise ValueError(
            f"data must name the folder of Fashion-MNIST's IDX files, as fashion-mnist:FOLDER, got none, and "
            f"{DEBIAN_FASHION_MNIST} does not exist (Debian's package dataset-fashion-mnist brings it)"
        )
    return mnist(DEBIAN_FASHION_MNIST if folder is None else folder, split, "Fashion-MNIST", FASHION_MNIST)


def cifar10(place: Path, split: str = "test") -> ImageSet:
    """Reads a split of CIFAR-10's binary version.

    Args:
        place: the folder with ``test_batch.bin`` and ``data_batch_1.bin`` … ``data_batch_5.bin``, one that holds it, or
            the archive ``cifar-10-binary.tar.gz``, which is read in place.
        split: "test" (10,000 images) or "train" (50,000).

    Returns:
        RGB images ``(N, 3, 32, 32)`` in [0, 1].

    Raises:
        ValueError: for another split, or a file that is missing or not made of whole records.
    """
    _check_split(split)
    records = [_cifar10_records(content, name) for name, content in _cifar10_files(place, split)]
    bytes_ = torch.cat(records)
    images = bytes_[:, 1:].reshape(-1, *_CIFAR10_SHAPE)
    return _image_set(images, bytes_[:, 0], f"the {split} split of CIFAR-10, in its order", place, CIFAR10)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")


def _idx(folder: Path, name: str, dimensions: int) -> Tensor:
    """The bytes of an IDX file, uint8 with as many dimensions."""
    content, file = _unpacked(folder, name)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _IDX_UINT8 or content[3] != dimensions:
        raise ValueError(f"data must be an IDX file of bytes in {dimensions} dimensions, got {str(file)!r}")
    header = 4 + 4 * dimensions
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    if len(content) != header + math.prod(shape):
        raise ValueError(
            f"data must be a whole IDX file, got {str(file)!r} with {len(content)} bytes for the shape {tuple(shape)}"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


def _unpacked(folder: Path, name: str) -> tuple[bytes, Path]:
    """The content of a file, or of the same packed by gzip, and its path."""
    file, packed = folder / name, folder / f"{name}.gz"
    try:
        if file.is_file():
            return file.read_bytes(), file
        if packed.is_file():
            return gzip.decompress(packed.read_bytes()), packed
    except (OSError, EOFError, zlib.error) as error:
        if of_the_system(error):
            raise
        raise ValueError(f"data must be files that can be read, got {str(folder / name)!r}: {error}") from error
    raise ValueError(f"data must hold {name} or {name}.gz, got {str(folder)!r} without it")


def _cifar10_files(place: Path, split: str) -> list[tuple[str, bytes]]:
    """Names and contents of a split's files."""
    wanted = _CIFAR10_FILES[split]
    try:
        if place.is_file():
            return _members(place, wanted)
        folder = place / _CIFAR10_FOLDER if (place / _CIFAR10_FOLDER).is_dir() else place
        missing = [name for name in wanted if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"data must hold {missing[0]} of CIFAR-10's binary version, got {str(place)!r} without it")
        return [(name, (folder / name).read_bytes()) for name in wanted]
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        if of_the_system(error):
            raise
        raise ValueError(f"data must be CIFAR-10's binary version, got {str(place)!r}: {error}") from error


def _members(archive: Path, wanted: list[str]) -> list[tuple[str, bytes]]:
    """The files of an archive with these names, in this order; nothing is written to the disk."""
    found = {}
    with tarfile.open(archive) as opened:
        for member in opened:
            name = Path(member.name).name
            content = opened.extractfile(member) if name in wanted and member.isfile() else None
            if content is not None:
                found[name] = content.read()
    for name in wanted:
        if name not in found:
            raise ValueError(f"data must hold {name} of CIFAR-10's binary version, got {str(archive)!r} without it")
    return [(name, found[name]) for name in wanted]


def _cifar10_records(content: bytes, name: str) -> Tensor:
    if not content or len(content) % _CIFAR10_RECORD:
        raise ValueError(f"data must be records of {_CIFAR10_RECORD} bytes, got {name} of {len(content)} bytes")
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(-1, _CIFAR10_RECORD).copy())


def _image_set(images: Tensor, labels: Tensor, source: str, place: Path, classes: tuple[str, ...]) -> ImageSet:
    """An image set of bytes and classes; each file's count must be the other's."""
    if len(images) != len(labels):
        raise ValueError(
            f"data must hold one class for each image, got {len(images)} images in {str(place)!r} and "
            f"{len(labels)} classes"
        )
    names = tuple(f"image {index}" for index in range(len(images)))
    return ImageSet(images.float().div_(255), labels.long(), names, source, classes=classes)
