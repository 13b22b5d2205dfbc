"""Labelled images to train on: in memory, or read from a folder as they are needed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fdjpeg import sources
from fdjpeg.sources import ImageSet
from fdjpeg.sources.images import class_files, open_image

#: An image as bytes or floats in [0, 1], ``(C, H, W)``, its class, and its index; or the error of reading its file.
Item = tuple[Tensor, int, int] | ValueError


@dataclass(frozen=True)
class Images(Dataset[Item], ABC):
    """Labelled images to train on; an item is an image with its class and its index.

    Attributes:
        labels: ``(N,)`` int64, the class of each image.
        shape: channels, height and width, the same for all.
        source: where they come from, in a sentence.
        digest: a fingerprint; two runs with the same one saw the same images.
    """

    labels: Tensor
    shape: tuple[int, int, int]
    source: str
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> Tensor:
        """Returns one image, ``shape``, uint8 or float32 in [0, 1].

        Raises:
            ValueError: its file cannot be read.
        """

    def select(self, places: Sequence[int]) -> Images:
        """Returns the images at these places, which become 0, 1, and so on."""
        digest = hashlib.sha256(f"{self.digest} {list(places)}".encode()).hexdigest()[:16]
        return Selection(self.labels[list(places)], self.shape, self.source, digest, self, tuple(places))

    def __getitem__(self, index: int) -> Item:
        # A worker process would bury the message in its traceback.
        try:
            return self.image(index), int(self.labels[index]), index
        except ValueError as error:
            return error


@dataclass(frozen=True)
class Selection(Images):
    """Some images of a larger set.

    Attributes:
        whole: the larger set.
        places: the place of each of these images in it.
    """

    whole: Images
    places: tuple[int, ...]

    def image(self, index: int) -> Tensor:
        """See `Images.image`."""
        return self.whole.image(self.places[index])


@dataclass(frozen=True)
class StoredImages(Images):
    """Images in memory.

    Attributes:
        images: ``(N, C, H, W)``, float32 in [0, 1].

    Example::

        StoredImages.of(fdjpeg.sources.load_images("cifar10.npz:train"))
    """

    images: Tensor

    @classmethod
    def of(cls, images: ImageSet) -> StoredImages:
        """Returns the images of a set as training takes them."""
        _, channels, height, width = images.images.shape
        return cls(images.labels, (channels, height, width), images.source, images.digest(), images.images)

    def image(self, index: int) -> Tensor:
        """See `Images.image`."""
        return self.images[index]


@dataclass(frozen=True)
class FolderImages(Images):
    """Images of a tree with one folder for each class, read as they are needed.

    Attributes:
        files: one for each image.
    """

    files: tuple[Path, ...]

    def image(self, index: int) -> Tensor:
        """Returns an image as bytes, see `Images.image`."""
        return open_image(self.files[index], self.shape[1])


def load_training_images(name: str, size: int | None = None) -> Images:
    """Returns images by the name that the command line takes.

    Args:
        name: a folder of class folders, or another name of `fdjpeg.sources.load_images`. Images of folders are read
            again in every epoch; all others are kept in memory.
        size: pixels a side of the square that images are resized to and cut. If None, files of a folder and photographs
            become 224 × 224, and all others keep their size.

    Raises:
        ValueError: the name is unknown, or there are no images.

    Example::

        images = load_training_images("cifar10.npz:train")
    """
    if Path(name).is_dir():
        return _folder(Path(name), size or 224)
    return StoredImages.of(sources.load_images(name, size))


def in_unit_range(images: Tensor) -> Tensor:
    """Returns images as floats in [0, 1]: bytes divided by 255, floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


#: Bytes at each end of a file that its fingerprint covers.
_ENDS = 4096


def _ends(file: Path) -> bytes:
    """Returns the first and last bytes of a file: reading all of a large set would take as long as an epoch.

    Where a compressed image changes, the codes behind the change shift, so that the last bytes change nearly always.
    """
    with file.open("rb") as stream:
        first = stream.read(_ENDS)
        stream.seek(max(len(first), file.stat().st_size - _ENDS))
        return first + stream.read(_ENDS)


def _folder(root: Path, size: int) -> FolderImages:
    files, folders = class_files(root)
    state = hashlib.sha256(str(size).encode())
    for file, _ in files:
        state.update(f"{file.relative_to(root)} {file.stat().st_size}\n".encode())
        state.update(_ends(file))
    source = f"{len(files)} images of {len(folders)} class folders in {root.name}"
    names, labels = zip(*files, strict=True)
    return FolderImages(torch.tensor(labels, device="cpu"), (3, size, size), source, state.hexdigest()[:16], names)
