"""The augmentations as layers of kornia, for `kornia.augmentation.AugmentationSequential` and alone.

Example::

    from fdjpeg.augmentations.kornia import RandomJPEG

    augment = kornia.augmentation.AugmentationSequential(
        RandomJPEG((5, 95), p=0.75), kornia.augmentation.RandomHorizontalFlip(), data_keys=["input", "mask"]
    )

Importing this module imports kornia. All follow its conventions: images in [0, 1], ``p`` and ``same_on_batch`` decided
by kornia, parameters kept in ``_params`` and taken by ``params=``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from fdjpeg import augmentations
from fdjpeg._packages import required
from fdjpeg.augmentations.base import Augmentation, TorchDraws, without_generator

_Base: Any = required("kornia.augmentation", "kornia").IntensityAugmentationBase2D


class _Layer(_Base):
    """A layer of kornia around an augmentation whose own probability is 1."""

    def __init__(self, augmentation: Augmentation[Any], p: float, same_on_batch: bool, keepdim: bool) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        self.augmentation = augmentation

    def generate_parameters(self, batch_shape: torch.Size) -> dict[str, Tensor]:
        """Draws the parameters of each image, or of one for all, from torch's own generator on kornia's device."""
        count = 1 if self.same_on_batch else int(batch_shape[0])
        drawn = self.augmentation.draw_from(TorchDraws(count, self.device, None, None))
        leaves, self._structure = _pytree.tree_flatten(drawn)
        tensors = {f"draw_{place}": leaf for place, leaf in enumerate(leaves) if leaf is not None}
        if self.same_on_batch:
            tensors = {name: one.expand(int(batch_shape[0]), *one.shape[1:]) for name, one in tensors.items()}
        return tensors

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """Returns the images changed by drawn parameters."""
        if not hasattr(self, "_structure"):  # parameters of another instance
            self.generate_parameters(torch.Size([0, 3, 8, 8]))
        leaves = [params.get(f"draw_{place}") for place in range(self._structure.num_leaves)]
        return self.augmentation.augmented(input, _pytree.tree_unflatten(leaves, self._structure))


def _own(arguments: dict[str, Any]) -> dict[str, Any]:
    return without_generator(arguments, "kornia", "torch's own generator")


class RandomJPEG(_Layer):
    """`fdjpeg.augmentations.RandomJPEG` as a layer of kornia.

    Args:
        quality: as there.
        p, same_on_batch, keepdim: as for every layer of kornia.
        arguments: the keywords of `fdjpeg.augmentations.RandomJPEG`.
    """

    def __init__(
        self,
        quality: tuple[int, int] = (30, 95),
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(augmentations.RandomJPEG(quality, **_own(arguments)), p, same_on_batch, keepdim)


class DoubleJPEG(_Layer):
    """`fdjpeg.augmentations.DoubleJPEG` as a layer of kornia; arguments as for `RandomJPEG`."""

    def __init__(
        self,
        quality: tuple[int, int] = (30, 95),
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(augmentations.DoubleJPEG(quality, **_own(arguments)), p, same_on_batch, keepdim)


class Recompress(_Layer):
    """`fdjpeg.augmentations.Recompress` as a layer of kornia, resized back at the end.

    Arguments as for `RandomJPEG`.
    """

    def __init__(
        self,
        quality: tuple[int, int] = (30, 95),
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(augmentations.Recompress(quality, restore=True, **_own(arguments)), p, same_on_batch, keepdim)
