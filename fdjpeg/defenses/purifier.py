"""Purifier: an autoencoder before an unchanged classifier, the student of a normal and of an adversarial teacher.

Source: Koo, Chae, Lee, Appl. Sci. 13, 11313, 2023, known to us by its abstract: a convolutional autoencoder; two
teachers, one trained normally and one adversarially; ensemble knowledge distillation into the student, which is the
purifier; two teachers beat one.

Ours, because the abstract leaves it open: the layers of `ConvAutoencoder` and the losses of the three trainings, which
stand at each.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .base import AUTOENCODER_GRADIENTS, Defense, straight_through


class ConvAutoencoder(nn.Module):
    """Images through a bottleneck of a quarter of their height and width: 3→32→64→64 channels, then back.

    Args:
        channels: of the images, 3 or 1.
        widths: of the three layers.
    """

    def __init__(self, channels: int = 3, widths: tuple[int, int, int] = (32, 64, 64)) -> None:
        super().__init__()
        first, second, third = widths
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, first, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(second, third, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(third, second, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(second, first, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, channels, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to the same; sizes that 4 does not divide are padded and cut."""
        height, width = images.shape[-2:]
        padded = nn.functional.pad(images, (0, -width % 4, 0, -height % 4), mode="replicate")
        result: Tensor = self.decoder(self.encoder(padded))[..., :height, :width]
        return result


class Purifier(Defense):
    """The student before the classifier. Evaluate it end to end: those trained on attacks of the classifier alone fall.

    Args:
        channels, widths: as for `ConvAutoencoder`.
    """

    kind = "purifier"
    gradients = AUTOENCODER_GRADIENTS

    def __init__(self, channels: int = 3, widths: tuple[int, int, int] = (32, 64, 64)) -> None:
        super().__init__()
        self.channels = channels
        self.widths = tuple(widths)
        self.autoencoder = ConvAutoencoder(channels, widths)

    def forward(self, images: Tensor) -> Tensor:
        """See `Defense.forward`."""
        purified = self.autoencoder(images)
        return straight_through(images, purified) if self.gradient == "identity" else purified

    def config(self) -> dict[str, Any]:
        """See `Defense.config`."""
        return {"channels": self.channels, "widths": list(self.widths)}
