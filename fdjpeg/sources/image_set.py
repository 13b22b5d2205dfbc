"""Labelled images in memory, conversions between them and Pillow's, and the traces that JPEG compression leaves."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import fdjpeg
from fdjpeg._arguments import HALF_A_BYTE
from fdjpeg._checks import check_list, check_tensor, check_whole
from fdjpeg._geometry import PILLOW_SUBSAMPLINGS

from .forms import tensors_of


@dataclass(frozen=True)
class ImageSet:
    """Images in memory with their labels, names and origin.

    Attributes:
        images: ``(N, C, H, W)``, float32 in [0, 1], C = 3 (RGB) or 1 (grey). An excess of less than half a byte, as a
            normalisation and its inverse make it, is cut off.
        labels: ``(N,)``, integers (kept as int64), the index of each image's class.
        names: one name for each image, for reports.
        source: where the images come from, in a sentence.
        terms: the terms of use, in a sentence.
        classes: a name for each class, by its index; empty if they are unknown.

    Example::

        images = ImageSet(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]), ("one.png", "two.png"))
        len(images)  # 2
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    source: str = "images given by the caller"
    terms: str = "not stated"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        check_tensor("images", images)
        check_tensor("labels", labels)
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images must be (N, 3, H, W) or (N, 1, H, W), got shape {tuple(images.shape)}")
        if images.dtype != torch.float32:
            raise TypeError(f"images must be float32 in [0, 1], got {images.dtype}")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"labels must be ({len(images)},), one for each image, got shape {tuple(labels.shape)}")
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        if len(images) == 0:
            raise ValueError("images must hold at least one image, got none")
        if images.numel() == 0:
            raise ValueError(f"images must have at least one pixel, got shape {tuple(images.shape)}")
        check_list("names", self.names)
        if len(self.names) != len(images):
            raise ValueError(f"names must be {len(images)} names, one for each image, got {len(self.names)}")
        classes = labels.long()
        if int(classes.min()) < 0:  # unsigned integers of 64 bits may be beyond int64
            raise ValueError(f"labels must be classes 0, 1, …, got {labels[classes < 0][0].item()}")
        object.__setattr__(self, "labels", classes)
        low, high = float(images.min()), float(images.max())
        if not (low > -HALF_A_BYTE and high < 1 + HALF_A_BYTE):  # written so that NaN fails as well
            raise ValueError(f"images must be in [0, 1], or uint8, got values from {low:.9g} to {high:.9g}")
        if low < 0 or high > 1:
            object.__setattr__(self, "images", images.clamp(0, 1))

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def of(cls, data: AnyImages) -> ImageSet:
        """Makes an image set from an image set, a pair of images and classes, or a loader or data set of such pairs.

        Images may be uint8 in 0…255 or of any float type in [0, 1]. ``forms.tensors_of`` lists all forms.

        Raises:
            ValueError, TypeError: as the constructor and ``forms.tensors_of`` do.

        Example::

            ImageSet.of((numpy.zeros((4, 32, 32, 3), numpy.uint8), [0, 1, 2, 3]))
        """
        if isinstance(data, ImageSet):
            return data
        images, labels = tensors_of(data)
        if not (images.is_floating_point() or images.dtype in (torch.uint8, torch.bool)):
            raise TypeError(f"images must be uint8, or floats in [0, 1], got {images.dtype}")
        images = images.float().div_(255) if images.dtype == torch.uint8 else images.float()
        return cls(images.cpu(), labels.cpu(), tuple(f"image {i}" for i in range(len(images))))

    def head(self, count: int) -> ImageSet:
        """Returns the first ``count`` images, or all if there are fewer."""
        check_whole("count", count, 1)
        return replace(self, images=self.images[:count], labels=self.labels[:count], names=self.names[:count])

    def select(self, indices: list[int]) -> ImageSet:
        """Returns the images at these places."""
        names = tuple(self.names[index] for index in indices)
        return replace(self, images=self.images[indices], labels=self.labels[indices], names=names)

    def digest(self, indices: Tensor | None = None) -> str:
        """Returns a fingerprint of pixels and labels (those at ``indices``): equal only for the same images."""
        images = self.images if indices is None else self.images[indices]
        labels = self.labels if indices is None else self.labels[indices]
        state = hashlib.sha256(repr(tuple(images.shape)).encode())
        state.update(images.contiguous().numpy().tobytes())
        state.update(labels.contiguous().numpy().tobytes())
        return state.hexdigest()[:16]


#: The forms of labelled images that ``ImageSet.of`` takes.
AnyImages = ImageSet | tuple[Any, Any] | Iterable[Any]


def to_tensor(image: Image.Image) -> Tensor:
    """Returns a Pillow image of mode "RGB" or "L" as uint8 ``(3, H, W)`` or ``(1, H, W)``."""
    channels = len(image.getbands())
    samples = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return samples.view(image.height, image.width, channels).permute(2, 0, 1).contiguous()


def to_pillow(image: Tensor) -> Image.Image:
    """Returns a uint8 tensor ``(3, H, W)`` or ``(1, H, W)`` as a Pillow image of mode "RGB" or "L"."""
    channels, height, width = image.shape
    samples = image.permute(1, 2, 0).contiguous().cpu().numpy().tobytes()
    return Image.frombytes("RGB" if channels == 3 else "L", (width, height), samples)


def to_bytes(images: Tensor) -> Tensor:
    """Returns float images in [0, 1] as uint8, rounded as the codec rounds its input: rint(255 · x), half to even."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def pillow_codec(image: Image.Image, strength: int | list[list[int]], subsampling: str) -> tuple[Image.Image, int]:
    """Returns the image that Pillow decodes from its own JPEG of ``image``, and the length of that file in bytes.

    Args:
        image: of mode "RGB" or "L".
        strength: a quality, 1…100, or tables as ``QuantTables.to_pillow`` returns them.
        subsampling: a key of ``PILLOW_SUBSAMPLINGS``.
    """
    buffer = io.BytesIO()
    option = {"quality": strength} if isinstance(strength, int) else {"qtables": strength}
    image.save(buffer, "JPEG", subsampling=PILLOW_SUBSAMPLINGS[subsampling], **option)
    with Image.open(buffer) as decoded:
        decoded.load()
        return decoded, buffer.tell()


def fit(image: Image.Image, size: int) -> Image.Image:
    """Resizes the shorter side to ``size`` pixels (bicubic, antialiased), then cuts the central square of ``size``."""
    scale = size / min(image.size)
    resized = image.resize((round(image.width * scale), round(image.height * scale)), resample=Image.Resampling.BICUBIC)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return resized.crop((left, top, left + size, top + size))


def lattice_quality(image: Tensor) -> int | None:
    """Returns the quality of the JPEG compression that an image has been through, or None if no trace is found.

    On the lattice of its own compression an image hardly changes when it is compressed the same way again; at
    neighbouring qualities it does. On such images a defence looks stronger than it is. Only the standard tables at
    qualities 20…95 are found, and only if the image was neither resized nor cut afterwards.

    Args:
        image: uint8 ``(3, H, W)`` or ``(1, H, W)``; only the top left corner of a large one is used.
    """
    corner = image[:, :128, :128]
    if float(corner.float().std()) < 1:  # with hardly any content it is on every lattice, or on none
        return None
    qualities = torch.arange(18, 98, device="cpu")
    for subsampling in ("4:2:0", "4:4:4") if len(corner) == 3 else ("4:4:4",):
        again = fdjpeg.jpeg(corner.expand(len(qualities), *corner.shape), qualities, subsampling=subsampling)
        change = (again.short() - corner.short()).abs().float().mean(dim=(1, 2, 3))
        nearby = torch.minimum(change[:-4], change[4:])
        # Measured on photographs: at most 0.4 on the lattice of a quality up to 90, at least 0.65 off it.
        ratio = change[2:-2] / nearby.clamp_min(1e-9)
        dips = (ratio < 0.5).nonzero().flatten()
        if len(dips) > 0:
            # Lattices nest: an image of quality 25 is also on those of 50 and 75, and near that of 75.
            first = dips[dips <= dips[0] + 2]
            return int(qualities[2:-2][first[ratio[first].argmin()]])
    return None


#: Number of images searched for traces of JPEG compression.
LATTICE_IMAGES = 50


def jpeg_traces(images: Iterable[Tensor]) -> str | None:
    """Returns a sentence about traces of JPEG compression in images, or None if none is found; see `lattice_quality`.

    Args:
        images: uint8 ``(3, H, W)`` or ``(1, H, W)`` each; the first 50 are searched.
    """
    tried = list(itertools.islice(images, LATTICE_IMAGES))
    found = [quality for image in tried if (quality := lattice_quality(image)) is not None]
    if not found:
        return None
    qualities = ", ".join(map(str, sorted(set(found))))
    return (
        f"{len(found)} of {len(tried)} were JPEG files (quality {qualities}), whose lattice is still there. Gains on "
        "them may be larger than on fresh images: shrink the images first, at least to half their size."
    )
