"""The classes of labelled images: their indices and their names."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence

#: The classes of CIFAR-10 (Krizhevsky 2009), in the order of their indices.
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

#: The classes of Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv 1708.07747), in the order of their indices.
FASHION_MNIST = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

#: The classes of MNIST.
DIGITS = tuple("0123456789")


def imagenet() -> tuple[str, ...]:
    """Returns the names of ImageNet's 1,000 classes: the first lemma of each synset in WordNet 3.0.

    ``benchmarks/class_names.py`` made the list. Some names occur twice ("crane" is a bird and a machine).
    """
    return tuple(_lines("imagenet_names.txt"))


def class_indices(folders: Sequence[str]) -> list[int]:
    """Returns the class of each class folder, from the sorted names of all.

    WordNet ids ("n01440764") get their index in ImageNet's list of 1,000. Names that are all integers get that integer,
    and any others their place among the names. So a subset of ImageNet's folders keeps the network's indices.

    Raises:
        ValueError: for a WordNet id that ImageNet's 1,000 classes do not have.
    """
    if folders and all(name.isdecimal() for name in folders):
        return [int(name) for name in folders]
    if _are_wnids(folders):
        index = {wnid: number for number, wnid in enumerate(_lines("imagenet_wnids.txt"))}
        for name in folders:
            if name not in index:
                raise ValueError(f"data must have class folders of ImageNet's 1,000 classes, got {name!r}")
        return [index[name] for name in folders]
    return list(range(len(folders)))


def class_names(folders: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the classes that ``class_indices`` gives to folders; none for folders named by integers."""
    if all(name.isdecimal() for name in folders):
        return ()
    return imagenet() if _are_wnids(folders) else tuple(folders)


def _are_wnids(folders: Sequence[str]) -> bool:
    return bool(folders) and all(len(name) == 9 and name[0] == "n" and name[1:].isdecimal() for name in folders)


def _lines(file: str) -> list[str]:
    return importlib.resources.files(__package__).joinpath(file).read_text(encoding="ascii").splitlines()
