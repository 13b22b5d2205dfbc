"""Labelled images for an evaluation: the photographs that a package carries, or the caller's own tensors."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import fdjpeg

#: Subsamplings that Pillow writes, by its numbers.
SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}

EXTRA = 'pip install "fdjpeg[eval]"'


class MissingPackage(ImportError):
    """A package of the ``eval`` extra is not installed; the message says how to install it."""


def package_folder(module: str) -> Path:
    """The folder of an installed top-level package, found without importing it.

    Raises:
        MissingPackage: if it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise MissingPackage(f"The package {module} is not installed; {EXTRA} installs what the evaluation needs.")
    return Path(spec.origin).parent


@dataclass(frozen=True)
class ImageSet:
    """Images in memory with their labels, names and origin.

    Attributes:
        images: ``(N, C, H, W)``, float32 in [0, 1], C = 3 (RGB) or 1 (grey).
        labels: ``(N,)``, integers (kept as int64), the index of each image's class.
        names: one name for each image, as reports print it.
        source: where the images come from, in a sentence.
        terms: what their owners ask of those who use them, in a sentence.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    source: str = "images given by the caller"
    terms: str = "not stated"

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images should be (N, 3, H, W) or (N, 1, H, W), got shape {tuple(images.shape)}")
        if images.dtype != torch.float32:
            raise TypeError(f"images should be float32 in [0, 1], got {images.dtype}")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"labels should be ({len(images)},), one for each image, got shape {tuple(labels.shape)}")
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"labels should be integers, got {labels.dtype}")
        if len(images) == 0:
            raise ValueError("images should hold at least one image, got none")
        if len(self.names) != len(images):
            raise ValueError(f"names should be {len(images)} names, one for each image, got {len(self.names)}")
        object.__setattr__(self, "labels", labels.long())
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):  # written so that NaN fails as well
            raise ValueError(f"images should lie in [0, 1], got values from {low:g} to {high:g}")

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def of(cls, data: ImageSet | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]) -> ImageSet:
        """An image set from what callers have: one of these, a pair of tensors, or a loader of batches.

        Images may be uint8 in 0…255 or of any float type in [0, 1].

        Raises:
            ValueError, TypeError: as the constructor does.
        """
        if isinstance(data, ImageSet):
            return data
        if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor):
            batches = [data]
        else:
            batches = list(data)
            if not batches:
                raise ValueError("data should hold at least one image, got none")
        images = torch.cat([batch[0].detach() for batch in batches])
        labels = torch.cat([batch[1].detach() for batch in batches])
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        return cls(images.cpu(), labels.cpu(), tuple(f"image {i}" for i in range(len(images))))

    def head(self, count: int) -> ImageSet:
        """The first ``count`` images (all of them, where there are fewer)."""
        if count < 1:
            raise ValueError(f"count should be at least 1, got {count}")
        return replace(self, images=self.images[:count], labels=self.labels[:count], names=self.names[:count])

    def batches(self, size: int) -> Iterator[Tensor]:
        """Consecutive runs of at most ``size`` image indices, each an int64 tensor."""
        return iter(torch.split(torch.arange(len(self)), size))

    def digest(self) -> str:
        """A fingerprint of pixels and labels, to tell whether two runs saw the same images."""
        state = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        state.update(self.images.contiguous().numpy().tobytes())
        state.update(self.labels.long().contiguous().numpy().tobytes())
        return state.hexdigest()[:16]


def to_tensor(image: Image.Image) -> Tensor:
    """A Pillow image of mode "RGB" or "L" as uint8 ``(3, H, W)`` or ``(1, H, W)``."""
    channels = len(image.getbands())
    samples = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return samples.view(image.height, image.width, channels).permute(2, 0, 1).contiguous()


def to_pillow(image: Tensor) -> Image.Image:
    """A uint8 tensor ``(3, H, W)`` or ``(1, H, W)`` as a Pillow image of mode "RGB" or "L"."""
    channels, height, width = image.shape
    samples = image.permute(1, 2, 0).contiguous().cpu().numpy().tobytes()
    return Image.frombytes("RGB" if channels == 3 else "L", (width, height), samples)


def to_bytes(images: Tensor) -> Tensor:
    """Float images in [0, 1] as uint8, rounded as the codec rounds its input: rint(255 · x), half to even."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def pillow_codec(image: Image.Image, quality: int, subsampling: str) -> tuple[Image.Image, int]:
    """What Pillow decodes from the JPEG that it writes of ``image``, and the length of that file in bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=SUBSAMPLINGS[subsampling])
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
    """The quality of the JPEG compression that an image has been through, or None if none shows.

    On the lattice of its own compression an image hardly changes when it is compressed so again; at neighbouring
    qualities it does. An evaluation on such images meets a defence that looks stronger than it is. Seen are the
    standard tables at qualities 20…95, where the image was neither resized nor cut since.

    Args:
        image: uint8 ``(3, H, W)`` or ``(1, H, W)``; of a large one its top left corner is looked at.
    """
    corner = image[:, :128, :128]
    if float(corner.float().std()) < 1:  # of hardly any content: on every lattice, or on none
        return None
    qualities = torch.arange(18, 98)
    for subsampling in ("4:2:0", "4:4:4") if len(corner) == 3 else ("4:4:4",):
        again = fdjpeg.jpeg(corner.expand(len(qualities), *corner.shape), qualities, subsampling=subsampling)
        change = (again.short() - corner.short()).abs().float().mean(dim=(1, 2, 3))
        beside = torch.minimum(change[:-4], change[4:])
        # Measured on photographs: at most 0.4 on the lattice of a quality up to 90, at least 0.65 off it.
        ratio = change[2:-2] / beside.clamp_min(1e-9)
        dips = (ratio < 0.5).nonzero().flatten()
        if len(dips) > 0:
            # Lattices nest: an image of quality 25 also lies on those of 50 and 75, and next to the latter.
            first = dips[dips <= dips[0] + 2]
            return int(qualities[2:-2][first[ratio[first].argmin()]])
    return None


def load(name: str, size: int = 224) -> ImageSet:
    """Images by the name that the command line takes.

    Args:
        name: one of

            - "photographs": see ``photographs``;
            - a folder with one folder of image files for each class. Classes are numbered in the order of their names,
              or, where all names are integers, by them;
            - an ``.npz`` file with the arrays ``images`` (uint8, or floats in [0, 1]; channels second or last) and
              ``labels``; after a colon, what the names of the arrays begin with: "cifar.npz:test" reads ``test_images``
              and ``test_labels``.
        size: images of the first two are resized to it, see ``fit``.

    Raises:
        ValueError: if there is no such thing, or it holds no images.
    """
    if name == "photographs":
        return photographs(size)
    path, _, prefix = name.partition(".npz:")
    if Path(name).is_dir():
        return _load_folder(Path(name), size)
    if prefix or name.endswith(".npz"):
        return _load_arrays(Path(path + ".npz" if prefix else name), f"{prefix}_" if prefix else "")
    raise ValueError(f'data should be "photographs", a folder of class folders or an .npz file, got {name!r}')


def _load_folder(folder: Path, size: int) -> ImageSet:
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    numbered = bool(classes) and all(entry.isdecimal() for entry in classes)
    known = Image.registered_extensions()
    images, labels, names = [], [], []
    for number, entry in enumerate(classes):
        for file in sorted((folder / entry).rglob("*")):
            if file.suffix.lower() in known:
                with Image.open(file) as image:
                    images.append(to_tensor(fit(image.convert("RGB"), size)))
                labels.append(int(entry) if numbered else number)
                names.append(str(file.relative_to(folder)))
    if not images:
        raise ValueError(f"data should hold one folder of images for each class, got {str(folder)!r} with none")
    return ImageSet(
        torch.stack(images).float() / 255,
        torch.tensor(labels),
        tuple(names),
        source=f"{len(images)} images of {len(classes)} class folders in {folder.name}, shorter side resized to {size} "
        "pixels (bicubic), centre crop",
    )


def _load_arrays(file: Path, prefix: str) -> ImageSet:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            missing = [key for key in (f"{prefix}images", f"{prefix}labels") if key not in arrays]
            if missing:
                raise ValueError(f"{file} should hold {missing[0]}, it holds {', '.join(arrays.files) or 'nothing'}")
            images = torch.from_numpy(arrays[f"{prefix}images"])
            labels = torch.from_numpy(arrays[f"{prefix}labels"])
    except OSError as error:
        raise ValueError(f"data should be a file that can be read, got {str(file)!r}: {error}") from error
    if images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    found = ImageSet.of((images, labels))
    return replace(found, source=f"{len(found)} images of {prefix}images in {file.name}")


def photographs(size: int = 224) -> ImageSet:
    """The 20 photographs with ImageNet labels that the package foolbox carries, ``size`` × ``size`` pixels.

    The files are JPEGs of about 512 × 512 pixels. Resizing takes them off the lattice of their own compression, so that
    an evaluation starts from images that are lossless in its sense.

    Raises:
        MissingPackage: if foolbox is not installed.
    """
    files = sorted((package_folder("foolbox") / "data").glob("imagenet_*.jpg"))
    if not files:
        raise MissingPackage(f"The installed foolbox carries no imagenet_*.jpg; {EXTRA} installs one that does.")
    images = []
    for file in files:
        with Image.open(file) as image:
            images.append(to_tensor(fit(image.convert("RGB"), size)))
    return ImageSet(
        images=torch.stack(images).float() / 255,
        labels=torch.tensor([int(file.stem.split("_")[-1]) for file in files]),  # imagenet_00_243.jpg: class 243
        names=tuple(file.name for file in files),
        source=f"{len(files)} photographs with ImageNet labels from the package foolbox "
        f"{importlib.metadata.version('foolbox')}, shorter side resized to {size} pixels (bicubic), centre crop",
        terms="foolbox is under the MIT licence; it states no terms for the photographs, which stay their owners': "
        "use them, and the pictures in this report, for research only.",
    )
