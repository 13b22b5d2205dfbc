"""The augmentations as transforms of albumentations, for `albumentations.Compose`.

Example::

    from fdjpeg.augmentations.albumentations import RandomJPEG

    augment = albumentations.Compose([RandomJPEG((5, 95), p=0.75)], seed=7)
    image = augment(image=image)["image"]  # (H, W, 3) RGB or (H, W, 1), uint8 or float32 in [0, 1]

Importing this module imports albumentations. Draws come from the random state that ``Compose(seed=)`` sets.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fdjpeg import augmentations
from fdjpeg._packages import required
from fdjpeg.augmentations.base import Augmentation, without_generator

_Base: Any = required("albumentations", "albumentations").ImageOnlyTransform


class _PythonDraws:
    """Random numbers for one image from a generator of Python's."""

    def __init__(self, source: random.Random) -> None:
        self.source = source

    def integers(self, count: int) -> Tensor:
        """See `fdjpeg.augmentations.Draws.integers`."""
        return torch.tensor([self.source.randrange(count)], device="cpu")

    def uniform(self) -> Tensor:
        """See `fdjpeg.augmentations.Draws.uniform`."""
        return torch.tensor([self.source.random()], dtype=torch.float32, device="cpu").clamp(max=1 - 2**-24)

    def on_host(self) -> Tensor:
        """See `fdjpeg.augmentations.Draws.on_host`."""
        return torch.tensor([self.source.random()], dtype=torch.float64, device="cpu")


class _Transform(_Base):
    """A transform of albumentations around an augmentation whose own probability is 1."""

    def __init__(self, augmentation: Augmentation[Any], p: float) -> None:
        super().__init__(p=p)
        self.augmentation = augmentation

    def get_params(self) -> dict[str, Any]:
        """Draws the parameters of one image."""
        return {"parameters": self.augmentation.draw_from(_PythonDraws(self.py_random))}

    def apply(self, img: NDArray[Any], parameters: Any = None, **params: Any) -> NDArray[Any]:
        """Returns an image ``(H, W, C)``, changed, of the same type."""
        grey = img.ndim == 2
        array = np.ascontiguousarray(img[..., None] if grey else img)
        out = self.augmentation.augmented(torch.from_numpy(array).movedim(-1, -3)[None], parameters)
        found: NDArray[Any] = out[0].movedim(-3, -1).contiguous().numpy()
        return found[..., 0] if grey else found

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        """Returns no name: a transform is not written to a file."""
        return ()


def _own(arguments: dict[str, Any]) -> dict[str, Any]:
    return without_generator(arguments, "albumentations", "the random state of Compose")


class RandomJPEG(_Transform):
    """`fdjpeg.augmentations.RandomJPEG` as a transform of albumentations.

    Args:
        quality: as there.
        p: the probability that an image is changed.
        arguments: the keywords of `fdjpeg.augmentations.RandomJPEG`.
    """

    def __init__(self, quality: tuple[int, int] = (30, 95), p: float = 0.5, **arguments: Any) -> None:
        super().__init__(augmentations.RandomJPEG(quality, **_own(arguments)), p)


class DoubleJPEG(_Transform):
    """`fdjpeg.augmentations.DoubleJPEG` as a transform of albumentations; arguments as for `RandomJPEG`."""

    def __init__(self, quality: tuple[int, int] = (30, 95), p: float = 0.5, **arguments: Any) -> None:
        super().__init__(augmentations.DoubleJPEG(quality, **_own(arguments)), p)


class Recompress(_Transform):
    """`fdjpeg.augmentations.Recompress` as a transform of albumentations, resized back at the end.

    Arguments as for `RandomJPEG`.
    """

    def __init__(self, quality: tuple[int, int] = (30, 95), p: float = 0.5, **arguments: Any) -> None:
        super().__init__(augmentations.Recompress(quality, restore=True, **_own(arguments)), p)
