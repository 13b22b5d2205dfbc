"""The forms in which people hold labelled images: tensors, arrays, lists, data sets, loaders of pairs or mappings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .files import picture_of

#: Names of images and of classes in mappings, as data sets have them.
_IMAGES = ("images", "image", "pixel_values", "img", "x", "inputs")
_LABELS = ("labels", "label", "targets", "target", "y", "classes", "class", "fine_label")


def tensors_of(data: Any) -> tuple[Tensor, Tensor]:
    """Returns images ``(N, C, H, W)`` and their classes, as the tensors that they are or make.

    Args:
        data: a pair of images and classes; or an iterable (or a data set of a length) of such pairs or of mappings that
            name them, each of one image or of a batch. Images are tensors, NumPy arrays (channels second or last, or
            none if grey), Pillow images or lists of these; classes are tensors, arrays, lists or numbers.

    Raises:
        TypeError: for another form.
        ValueError: there are no images, or they have several shapes.
    """
    pairs = [_pair(item) for item in _items(data)]
    if not pairs:
        raise ValueError("data must hold at least one image, got none")
    images, labels = zip(*pairs, strict=True)
    shapes = {(image.shape[1:], image.dtype) for image in images}
    if len(shapes) > 1:
        (a, first), (b, second) = sorted(shapes, key=str)[:2]
        raise ValueError(f"images must have one shape and type, got {tuple(a)} {first} and {tuple(b)} {second}")
    return torch.cat(images), torch.cat(labels)


def _items(data: Any) -> Iterator[Any]:
    """The pairs of which the data are made."""
    if isinstance(data, (str, bytes)):
        raise TypeError(f"data must be images with their classes, got the text {data!r}: load_images reads names")
    if _is_pair(data) or isinstance(data, Mapping):
        yield data
    elif isinstance(data, Iterable):
        yield from data
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        yield from (data[place] for place in range(len(data)))
    else:
        raise TypeError(f"data must be images with their classes, or batches of them, got {type(data).__name__}")


def _is_pair(data: Any) -> bool:
    """Whether these are images and classes, not a list of two pairs."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        return False
    first, second = data
    images = isinstance(first, (Tensor, np.ndarray)) and (first.ndim == 4 or _are_grey(first, second))
    several = isinstance(first, (list, tuple)) and bool(first) and all(_is_image(item) for item in first)
    classes = isinstance(second, (Tensor, np.ndarray)) or not any(_is_image(item) for item in second)
    return (images or several) and classes


def _is_image(item: Any) -> bool:
    return isinstance(item, Image.Image) or (isinstance(item, (Tensor, np.ndarray)) and item.ndim in (2, 3))


def _are_grey(images: Any, classes: Any) -> bool:
    """Whether these are grey images ``(N, H, W)`` with a class for each, not one image with its class."""
    if not isinstance(images, (Tensor, np.ndarray)) or images.ndim != 3:
        return False
    if isinstance(classes, (Tensor, np.ndarray)):
        return classes.ndim == 1 and len(classes) == len(images)
    return isinstance(classes, (list, tuple)) and len(classes) == len(images) and not any(map(_is_image, classes))


def _pair(item: Any) -> tuple[Tensor, Tensor]:
    """Images ``(N, C, H, W)`` and classes ``(N,)`` of one pair or mapping."""
    if isinstance(item, Mapping):
        images = _named(item, _IMAGES, "images")
        labels = _named(item, _LABELS, "classes")
    elif isinstance(item, (tuple, list)) and len(item) >= 2:
        images, labels = item[0], item[1]
    else:
        raise TypeError(f"data must be pairs of images and classes, got an item of type {type(item).__name__}")
    if _are_grey(images, labels):
        images = images[:, None]
    found, classes = _images(images), _labels(labels)
    return found, classes[None] if classes.ndim == 0 else classes


def _named(item: Mapping[Any, Any], names: tuple[str, ...], what: str) -> Any:
    for name in names:
        if name in item:
            return item[name]
    keys = ", ".join(repr(key) for key in item)
    raise TypeError(f"data must name its {what} by one of {', '.join(names)}, got a mapping with {keys or 'no keys'}")


def _images(images: Any) -> Tensor:
    if isinstance(images, Image.Image):
        picture = picture_of(images, "an image in memory").image
        return _images(np.asarray(picture)[..., None] if picture.mode == "L" else np.asarray(picture))
    if isinstance(images, (list, tuple)):
        parts = [_images(image) for image in images]
        if not parts:
            raise ValueError("data must hold at least one image, got none")
        if len({part.shape for part in parts}) > 1:
            raise ValueError(f"images must have one shape, got {tuple(parts[0].shape[1:])} and others")
        return torch.cat(parts)
    if isinstance(images, np.ndarray):
        images = _tensor(images, "images")
        if images.ndim in (3, 4) and images.shape[-3] not in (1, 3) and images.shape[-1] in (1, 3):
            images = images.movedim(-1, -3)
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be tensors, NumPy arrays or Pillow images, got {type(images).__name__}")
    images = images.detach()[None] if images.ndim == 2 else images.detach()
    return images[None] if images.ndim == 3 else images


def _labels(labels: Any) -> Tensor:
    if isinstance(labels, Tensor):
        return labels.detach()
    if isinstance(labels, (list, tuple)) and any(isinstance(label, Tensor) for label in labels):
        labels = [label.item() if isinstance(label, Tensor) and label.ndim == 0 else label for label in labels]
    return _tensor(np.asarray(labels), "labels")


def _tensor(array: np.ndarray, name: str) -> Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).copy())
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be numbers, got an array of {array.dtype}") from error
