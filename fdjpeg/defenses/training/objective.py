"""A training step: a batch with its chance, the loss that is lowered, and images changed at random.

All chance is drawn from the seed, the stage, the epoch and the image's index. So a run that was stopped resumes to the
same result, and several processes draw the same numbers as one.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fdjpeg.attacks import draw


class Chance:
    """Random numbers for a batch, which depend on each image's index but not on its batch.

    Args:
        seed: of the run.
        moment: the stage and the epoch.
        indices: ``(N,)``, int64, on the CPU: the index of each image.
        device: of the numbers.
    """

    def __init__(self, seed: int, moment: str, indices: Tensor, device: torch.device) -> None:
        self.seed = seed
        self.moment = moment
        self.indices = indices
        self.device = device

    def uniform(self, shape: Sequence[int], purpose: str) -> Tensor:
        """Returns numbers in [0, 1), ``(N, *shape)``; the same for the same purpose."""
        return draw(torch.Size(shape), self.indices, self.seed, f"{self.moment}/{purpose}").to(self.device)

    def seed_for(self, purpose: str) -> int:
        """Returns a seed that does not depend on the image."""
        return seed_for(self.seed, f"{self.moment}/{purpose}")

    def normal(self, shape: Sequence[int], purpose: str) -> Tensor:
        """Returns normally distributed numbers, ``(N, *shape)``."""
        return torch.special.ndtri(self.uniform(shape, purpose).clamp(1e-6, 1 - 1e-6))


class Batch:
    """A batch on its way through Fabric, which would round the images of a plain tensor to half precision.

    Args:
        images, labels, chance: as for `Objective.loss`.
    """

    def __init__(self, images: Tensor, labels: Tensor, chance: Chance) -> None:
        self.images = images
        self.labels = labels
        self.chance = chance


def seed_for(seed: int, purpose: str) -> int:
    """Returns a seed of 63 bits for one purpose."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest(), "big") >> 1


class Objective(nn.Module, ABC):
    """A loss, with the network that it trains and those that it only uses.

    Args:
        trained: the network; its parameters that require a gradient are trained.
        frozen: other networks of the loss; they stay in evaluation mode and do not change.

    Example::

        class Reconstruction(Objective):
            def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
                return F.mse_loss(self.trained(images), images)
    """

    def __init__(self, trained: nn.Module, frozen: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.trained = trained
        self.frozen = nn.ModuleList(frozen)
        self.frozen.requires_grad_(False)

    def train(self, mode: bool = True) -> Objective:
        """Sets training mode for the trained network only."""
        super().train(False)
        self.trained.train(mode)
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Returns the loss of a batch."""
        return self.loss(batch.images, batch.labels, batch.chance)

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        """Returns the mean loss over a batch, 0-dim.

        Args:
            images: ``(N, C, H, W)``, float32 in [0, 1].
            labels: ``(N,)``, int64.
            chance: the only source of random numbers.
        """


def augment(images: Tensor, kind: str, chance: Chance) -> Tensor:
    """Changes images at random, in one of the ways of `Schedule.augment`."""
    if kind == "none":
        return images
    flipped = chance.uniform((1, 1, 1), "flip") < 0.5
    images = torch.where(flipped, images.flip(-1), images)
    if kind == "flip":
        return images
    height, width = images.shape[-2:]
    reach = (height // 8, width // 8)
    padded = nn.functional.pad(images, (reach[1], reach[1], reach[0], reach[0]), mode="reflect")
    moves = (chance.uniform((2,), "crop").cpu() * (2 * torch.tensor(reach, device="cpu") + 1)).long().tolist()
    return torch.stack(
        [
            image[:, down : down + height, right : right + width]
            for image, (down, right) in zip(padded, moves, strict=True)
        ]
    )
