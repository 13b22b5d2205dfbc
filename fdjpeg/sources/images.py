"""Labelled images by name: packaged photographs, folders, arrays, and the data sets of other packages."""

from __future__ import annotations

import importlib.metadata
import inspect
import lzma
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fdjpeg._checks import check_seed, check_whole
from fdjpeg._packages import EXTRA, MissingPackage, package_folder, required
from fdjpeg._whole_files import of_the_system

from . import binary_sets
from .classes import class_indices, class_names, imagenet
from .files import listed, picture_of, read_picture
from .image_set import ImageSet, fit, to_tensor


def load_images(
    name: str | os.PathLike[str], size: int | None = None, count: int | None = None, seed: int = 0
) -> ImageSet:
    """Loads images by the name that the command line accepts.

    Args:
        name: one of

            - "photographs": see ``photographs``;
            - a folder with one folder of image files for each class, see ``folder``;
            - an ``.npz`` file with the arrays ``images`` (uint8, or floats in [0, 1]; channels second or last) and
              ``labels``; after a colon, a prefix of the arrays' names: "cifar10.npz:test" reads ``test_images``
              and ``test_labels``;
            - "mnist:FOLDER", "fashion-mnist:FOLDER" or "cifar10:PLACE", the files in which these sets are published,
              see ``binary_sets``: the test split, or the training split after ":train". "fashion-mnist" alone is where
              Debian's package dataset-fashion-mnist puts its files;
            - "torchvision:CIFAR10" or "torchvision:CIFAR10:train", or another of its data sets, where torchvision is
              installed: by default the test split;
            - "hf:ylecun/mnist" or "hf:ylecun/mnist:train", where the package ``datasets`` is installed: by
              default the split "test".
        size: pixels of the square to which images are resized and cut, see ``fit``; arrays and published files stay as
            they are. If None, photographs become 224 × 224 and all else keeps its size.
        count: number of images: the first ones of arrays, published files and photographs, else a random sample, since
            such sets are often sorted by class. All, if None or more than there are.
        seed: of that sample.

    Raises:
        ValueError: if the name is unknown, or there are no images, or they have several sizes and ``size`` is None.
        MissingPackage: if a package that the name asks for is not installed.

    Example::

        images = load_images("cifar10.npz:test", count=100)
    """
    name = os.fspath(name) if isinstance(name, os.PathLike) else name
    if not isinstance(name, str):
        raise TypeError(f"data must be the name of images, got {name!r}")
    for argument, number in (("size", size), ("count", count)):
        if number is not None:
            check_whole(argument, number, 1)
    check_seed("seed", seed)
    kind, _, rest = name.partition(":")
    path, _, prefix = name.partition(".npz:")
    if name == "photographs":
        found = photographs(size or 224)
    elif name and Path(name).is_dir():
        return folder(Path(name), size, count, seed)
    elif prefix or name.endswith(".npz"):
        found = arrays(Path(path + ".npz" if prefix else name), f"{prefix}_" if prefix else "", count)
    elif kind in _PUBLISHED and (rest or kind == "fashion-mnist"):
        found = _published(kind, rest)
    elif kind == "torchvision" and rest:
        return _torchvision(rest, size, count, seed)
    elif kind == "hf" and rest:
        return _hugging_face(rest, size, count, seed)
    else:
        raise ValueError(
            'data must be "photographs", a folder of class folders, an .npz file, "mnist:FOLDER", "fashion-mnist", '
            f'"cifar10:PLACE", "torchvision:NAME" or "hf:NAME", got {name!r}'
        )
    return found if count is None else found.head(count)


#: Readers of sets in the files in which they are published.
_PUBLISHED: dict[str, Callable[[Path, str], ImageSet]] = {
    "mnist": binary_sets.mnist,
    "fashion-mnist": binary_sets.fashion_mnist,
    "cifar10": binary_sets.cifar10,
}


def _published(kind: str, rest: str) -> ImageSet:
    """Loads "PLACE" or "PLACE:SPLIT" of a published set; without a place Fashion-MNIST of Debian."""
    place, _, split = rest.rpartition(":")
    if split not in binary_sets.SPLITS:
        place, split = rest, "test"
    if not place and kind == "fashion-mnist":
        return binary_sets.fashion_mnist(split=split)
    if not place or not Path(place).exists():
        raise ValueError(f"data must name files that exist, as {kind}:PLACE, got {place!r}")
    return _PUBLISHED[kind](Path(place), split)


def photographs(size: int = 224) -> ImageSet:
    """Returns the 20 photographs with ImageNet labels of the package foolbox, ``size`` × ``size`` pixels.

    The files are JPEGs of about 512 × 512 pixels. Resizing removes the lattice of their own compression, so for an
    evaluation they count as lossless images.

    Raises:
        MissingPackage: if foolbox is not installed.

    Example::

        images = photographs(224)
    """
    check_whole("size", size, 1)
    files = sorted((package_folder("foolbox") / "data").glob("imagenet_*.jpg"))
    if not files:
        raise MissingPackage(f"The installed foolbox carries no imagenet_*.jpg; {EXTRA} installs one that does.")
    return _stack(
        [open_image(file, size) for file in files],
        labels=[int(file.stem.split("_")[-1]) for file in files],  # imagenet_00_243.jpg: class 243
        names=[file.name for file in files],
        classes=imagenet(),
        source=f"{len(files)} photographs with ImageNet labels from the package foolbox "
        f"{importlib.metadata.version('foolbox')}, shorter side resized to {size} pixels (bicubic), centre crop",
        terms="foolbox is under the MIT licence; it states no terms for the photographs, which stay their owners': "
        "use them, and the pictures in this report, for research only.",
    )


def folder(root: Path, size: int | None = None, count: int | None = None, seed: int = 0) -> ImageSet:
    """Loads images from a tree with one folder of files for each class, numbered by ``class_indices``.

    Args:
        root: the folder of class folders.
        size, count, seed: as for ``load_images``.

    Raises:
        ValueError: if it holds no images, or a file named like an image that Pillow does not read.
    """
    files, folders = class_files(root)
    chosen = [files[i] for i in sample(len(files), count, seed)]
    return _stack(
        [open_image(file, size) for file, _ in chosen],
        labels=[label for _, label in chosen],
        names=[str(file.relative_to(root)) for file, _ in chosen],
        source=_described(len(chosen), len(files), f"{len(folders)} class folders in {root.name}", size, seed),
        classes=class_names(folders),
    )


def class_files(root: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """Returns the image files of a tree with one folder for each class, with their classes, and the folders' names.

    The files are those of `files.listed`. Folders whose names begin with a dot are left out: other programs make them,
    and such a folder would shift the classes.

    Raises:
        ValueError: if there are no images, the class folders are deeper, or as in ``class_indices``.
    """
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    images = {name: list(listed(root / name)) for name in folders}
    _check_level(root, images)
    files = [
        (file, label) for name, label in zip(folders, class_indices(folders), strict=True) for file in images[name]
    ]
    if not files:
        raise ValueError(f"data must hold one folder of images for each class, got {str(root)!r} with none")
    return files, folders


#: Names of folders that hold a part of a data set, not a class.
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"}


def _check_level(root: Path, images: dict[str, list[Path]]) -> None:
    """Refuses a folder above the one with the class folders, such as the parent of train/ and val/."""
    filled = [name for name, files in images.items() if files]
    splits = [name for name in filled if name.lower() in _SPLITS]
    deeper = not any(file.parent == root / name for name in filled for file in images[name])
    if not filled or not (len(splits) == len(filled) > 1 or (deeper and (splits or len(filled) == 1))):
        return
    # The folders that hold the class folders: two levels above the files.
    better = sorted({str(file.parent.parent) for name in filled for file in images[name]} - {str(root)})
    shown = " or ".join(repr(place) for place in better[:3]) or "a folder with one folder of images for each class"
    raise ValueError(
        f"data must name the folder that holds the class folders, got {str(root)!r}, whose folders "
        f"{', '.join(filled[:3])} are parts of a data set: give {shown}"
    )


#: The errors of zipfile, its decompressors and NumPy where a file is damaged, encrypted, or claims more than memory
#: holds.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    MemoryError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    SyntaxError,  # NumPy reads an array's header as Python
    tokenize.TokenError,
)


def arrays(file: Path, prefix: str = "", count: int | None = None) -> ImageSet:
    """Loads images and labels from the arrays ``{prefix}images`` and ``{prefix}labels`` of an ``.npz`` file.

    If it also holds ``class_names``, an array of texts, reports name the classes. With ``count`` only so many images,
    the first, become floats, which take four times the memory of bytes.

    Raises:
        ValueError: if the file cannot be read, lacks an array, or holds one that is not an image set's.
    """
    keys = [f"{prefix}images", f"{prefix}labels"]
    try:
        with zipfile.ZipFile(file) as archive:
            there = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            wanted = [key for key in (*keys, "class_names") if key in there]
            found = {key: np.lib.format.read_array(archive.open(f"{key}.npy")) for key in wanted}
    except _UNREADABLE as error:
        if isinstance(error, OSError) and of_the_system(error):
            raise
        raise ValueError(f"data must be an .npz file that can be read, got {str(file)!r}: {error}") from error
    for key in keys:
        if key not in there:
            raise ValueError(f"data must hold {key}, got {str(file)!r} with {', '.join(there) or 'nothing'}")
    try:
        images, labels = (
            torch.from_numpy(found[key].astype(found[key].dtype.newbyteorder("="), copy=False)) for key in keys
        )
        if images.ndim and images.shape[:1] == labels.shape[:1]:
            images, labels = images[:count], labels[:count]
        if images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
            images = images.permute(0, 3, 1, 2)
        made = ImageSet.of((images, labels))
    except (TypeError, ValueError) as error:
        raise ValueError(f"data must hold images and their classes, got {str(file)!r}: {error}") from error
    classes = tuple(map(str, found["class_names"].reshape(-1))) if "class_names" in found else ()
    return replace(made, source=f"{prefix}images of {file.name}, in its order", classes=classes)


def _torchvision(name: str, size: int | None, count: int | None, seed: int) -> ImageSet:
    """Loads a split of a torchvision data set, downloaded if needed to torch's folder of such files."""
    name, _, split = name.partition(":")
    if split not in ("", "test", "train"):
        raise ValueError(f"split of a torchvision data set must be test or train, got {split!r}")
    split = split or "test"
    sets = required("torchvision.datasets", "torchvision")
    make = getattr(sets, name, None)
    if make is None:
        raise ValueError(f"data must name a torchvision data set, got {name!r}")
    accepted = inspect.signature(make).parameters
    options: dict[str, Any] = {"root": str(Path(torch.hub.get_dir()).parent / "datasets" / name)}
    if "train" in accepted:
        options["train"] = split == "train"
    elif "split" in accepted:
        options["split"] = "val" if (name, split) == ("ImageNet", "test") else split
    if "download" in accepted:
        options["download"] = True
    dataset = make(**options)
    # ImageNet's classes are tuples of synonyms.
    names = [item if isinstance(item, str) else str(item[0]) for item in getattr(dataset, "classes", ())]
    described = f"the {split} split of torchvision's {name}"
    return _items(dataset.__getitem__, len(dataset), described, size, count, seed, names)


def _hugging_face(name: str, size: int | None, count: int | None, seed: int) -> ImageSet:
    """Loads a split of a data set of the Hugging Face Hub: its column of images and its column of classes."""
    name, _, split = name.partition(":")
    dataset = required("datasets", "datasets").load_dataset(name, split=split or "test")
    columns = {type(feature).__name__: column for column, feature in reversed(list(dataset.features.items()))}
    for kind in ("Image", "ClassLabel"):
        if kind not in columns:
            raise ValueError(f"data must have a column of type {kind}, got {name!r} with {dict(dataset.features)}")

    def item(index: int) -> tuple[Image.Image, int]:
        row = dataset[index]
        return row[columns["Image"]], row[columns["ClassLabel"]]

    names = getattr(dataset.features[columns["ClassLabel"]], "names", ())
    return _items(item, len(dataset), f"the split {split or 'test'} of {name}", size, count, seed, names)


def _items(
    item: Callable[[int], tuple[Image.Image, int]],
    total: int,
    described: str,
    size: int | None,
    count: int | None,
    seed: int,
    classes: Sequence[str],
) -> ImageSet:
    """Returns a sample of a data set whose items are Pillow images and their classes."""
    chosen = sample(total, count, seed)
    pairs = [item(index) for index in chosen]
    return _stack(
        [_prepare(_image_of(image, f"image {at}"), size) for at, (image, _) in zip(chosen, pairs, strict=True)],
        labels=[int(label) for _, label in pairs],
        names=[f"image {index}" for index in chosen],
        source=_described(len(chosen), total, described, size, seed),
        classes=classes,
    )


def sample(total: int, count: int | None, seed: int) -> list[int]:
    """Returns the sorted indices of all items, or of ``count`` drawn at random."""
    if count is None or count >= total:
        return list(range(total))
    return sorted(torch.randperm(total, generator=torch.Generator().manual_seed(seed), device="cpu")[:count].tolist())


def _described(count: int, total: int, origin: str, size: int | None, seed: int) -> str:
    drawn = "all" if count == total else f"{count} of {total}"
    seeded = "" if count == total else f", drawn with seed {seed}"
    fitted = "" if size is None else f", shorter side resized to {size} pixels (bicubic), centre crop"
    return f"{drawn} images of {origin}{seeded}{fitted}"


def open_image(file: Path, size: int | None) -> torch.Tensor:
    """Reads an image file as uint8 ``(3, H, W)``, RGB, fitted to ``size`` if that is given.

    Raises:
        ValueError: as `files.read_picture` does.
    """
    return _prepare(read_picture(file).image, size)


def _image_of(item: object, name: str) -> Image.Image:
    """Returns the image of a data set's item."""
    if not isinstance(item, Image.Image):
        raise ValueError(f"data must hold Pillow images, got {name} of type {type(item).__name__}")
    return picture_of(item, name).image


def _prepare(image: Image.Image, size: int | None) -> torch.Tensor:
    """Returns an image as uint8 ``(3, H, W)``, RGB, fitted to ``size`` if that is given."""
    image = image.convert("RGB")
    return to_tensor(image if size is None else fit(image, size))


def _stack(
    images: list[torch.Tensor],
    *,
    labels: list[int],
    names: list[str],
    source: str,
    terms: str = "not stated",
    classes: Sequence[str] = (),
) -> ImageSet:
    if not images:
        raise ValueError("data must hold at least one image, got none")
    sizes = {tuple(image.shape[1:]) for image in images}
    if len(sizes) > 1:
        raise ValueError(f"data must hold images of one size, or size must be given, got {len(sizes)} sizes")
    stacked = torch.stack(images).float().div_(255)
    return ImageSet(stacked, torch.tensor(labels, device="cpu"), tuple(names), source, terms, tuple(classes))
