"""The augmentations as transforms of torchvision v2, for `torchvision.transforms.v2.Compose`.

Example::

    from fdjpeg.augmentations.torchvision import RandomJPEG

    augment = v2.Compose([v2.ToImage(), RandomJPEG((5, 95), p=0.75), v2.ToDtype(torch.float32, scale=True)])
    image, boxes = augment(image, boxes)

Importing this module imports torchvision. By v2's conventions a transform takes any structure, changes images (tensors,
PIL images, ``tv_tensors.Image`` and ``Video``), and leaves boxes, masks and labels alone. Each image of a batch
``(N, C, H, W)`` has its own draws, in DataLoader workers and on a GPU; all frames of a video share theirs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from fdjpeg import augmentations
from fdjpeg._arguments import flattened
from fdjpeg._packages import required
from fdjpeg.augmentations.base import Augmentation, TorchDraws

_v2: Any = required("torchvision.transforms.v2", "torchvision")
_tv_tensors: Any = required("torchvision.tv_tensors", "torchvision")
_Pillow: Any = required("PIL.Image", "pillow")
_Base: Any = _v2.Transform


class _Transform(_Base):
    """A transform of torchvision around an augmentation."""

    def __init__(self, augmentation: Augmentation[Any]) -> None:
        super().__init__()
        self.augmentation = augmentation

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws parameters for the images of one call, which share them."""
        images = [one for one in flat_inputs if _is_image(one)]
        counts = {count_of(image) for image in images}
        if len(counts) > 1:
            raise ValueError(f"images of one call must be equally many in each input, got {sorted(counts)}")
        if not images:
            return {}
        device = images[0].device if isinstance(images[0], Tensor) else torch.device("cpu")
        own = self.augmentation
        return {"parameters": own.draw_from(TorchDraws(counts.pop(), device, own.generator, own.host_generator))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Returns an image changed, of the same type, and anything else as it is."""
        if not _is_image(inpt):
            return inpt
        parameters = params["parameters"]
        if isinstance(inpt, _Pillow.Image):
            if inpt.mode not in ("RGB", "L"):
                raise ValueError(f"image must be of mode RGB or L, got {inpt.mode}")
            return _v2.functional.to_pil_image(self.augmentation(_v2.functional.pil_to_tensor(inpt), parameters))
        if isinstance(inpt, _tv_tensors.Video):
            parameters = _for_frames(parameters, flattened(inpt).size(0))
        plain = inpt.as_subclass(Tensor)
        out = self.augmentation(plain, parameters)
        return _tv_tensors.wrap(out, like=inpt) if isinstance(inpt, _tv_tensors.TVTensor) else out


def _is_image(value: Any) -> bool:
    """Whether a value is an image: by v2's rule a tensor that is none of the other kinds."""
    if isinstance(value, (_Pillow.Image, _tv_tensors.Image, _tv_tensors.Video)):
        return True
    return isinstance(value, Tensor) and not isinstance(value, _tv_tensors.TVTensor)


def count_of(value: Any) -> int:
    """Returns the number of draws that a value needs: one for each image of a batch."""
    if not _is_image(value) or isinstance(value, (_Pillow.Image, _tv_tensors.Video)):
        return 1
    return flattened(value.as_subclass(Tensor)).size(0)


def _for_frames(parameters: Any, count: int) -> Any:
    """One image's draws for every frame of a video."""
    return _pytree.tree_map(
        lambda leaf: leaf.expand(count, *leaf.shape[1:]) if isinstance(leaf, Tensor) else leaf, parameters
    )


class RandomJPEG(_Transform):
    """`fdjpeg.augmentations.RandomJPEG` as a transform of torchvision.

    Args:
        quality, p, generator: as there.
        arguments: the keywords of `fdjpeg.augmentations.RandomJPEG`.
    """

    def __init__(
        self,
        quality: tuple[int, int] = (30, 95),
        p: float = 1.0,
        generator: torch.Generator | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(augmentations.RandomJPEG(quality, p, generator, **arguments))


class DoubleJPEG(_Transform):
    """`fdjpeg.augmentations.DoubleJPEG` as a transform of torchvision; arguments as for `RandomJPEG`."""

    def __init__(
        self,
        quality: tuple[int, int] = (30, 95),
        p: float = 1.0,
        generator: torch.Generator | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(augmentations.DoubleJPEG(quality, p, generator, **arguments))


class Recompress(_Transform):
    """`fdjpeg.augmentations.Recompress` as a transform of torchvision; arguments as for `RandomJPEG`.

    Boxes and masks are left alone, so that ``restore=True`` belongs with them.
    """

    def __init__(
        self,
        quality: tuple[int, int] = (30, 95),
        p: float = 1.0,
        generator: torch.Generator | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(augmentations.Recompress(quality, p, generator, **arguments))
