"""Structure-to-signal autoencoders (S2SNets): a decoder tuned with the gradients of a frozen classifier.

Source: Folz et al., "Adversarial Defense based on Structure-to-Signal Autoencoders", WACV 2020, arXiv 1803.07994:
SegNet as the autoencoder; stage 1, unsupervised, mean squared error; stage 2, cross-entropy of the frozen classifier,
only the decoder learns, the bottleneck and the pooling indices are detached.

Ours: the small version (two stages, 32, 32 | 64, 64), and clamping to [0, 1] before the classifier.

The claim is that gradients through it lose the signal of the class. Pooling indices carry structure and no gradient,
so masked gradients must be suspected: attack it end to end, with the identity in its place (BPDA), from other networks,
and without gradients.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import AUTOENCODER_GRADIENTS, Defense, straight_through
from .training.config import Schedule, Settings
from .training.images import Images
from .training.objective import Chance, Objective
from .training.run import Run

#: Channels of the convolutions of each stage.
ARCHITECTURES: dict[str, tuple[tuple[int, ...], ...]] = {
    "segnet": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
    "small": ((32, 32), (64, 64)),
}


class SegNetAutoencoder(nn.Module):
    """SegNet from images to images: stages of 3×3 convolution, batch norm and ReLU, pooled by 2 with indices; mirrored.

    A last 1×1 convolution gives the image, without non-linearity.

    Args:
        stages: channels of the convolutions of each stage, from the image inwards.
        channels: of the images, 3 or 1.
    """

    def __init__(self, stages: Sequence[Sequence[int]], channels: int = 3) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        flat = [channels, *(width for stage in stages for width in stage)]
        encoder, decoder, at = [], [], 0
        for stage in stages:
            widths = flat[at : at + len(stage) + 1]
            encoder.append(_convolutions(widths))
            # Mirrored, a stage ends with the channels that it began with; the first one, with its own, before `last`.
            decoder.append(_convolutions([*widths[:0:-1], widths[0] if at else widths[1]]))
            at += len(stage)
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(reversed(decoder))
        self.last = nn.Conv2d(stages[0][0], channels, 1)

    def forward(self, images: Tensor, detached: bool = False) -> Tensor:
        """Images ``(N, C, H, W)`` to signals of the same shape, not limited to [0, 1].

        Sizes that the pooling does not divide are padded and cut.

        Args:
            images: in [0, 1].
            detached: no gradient passes from the decoder into the bottleneck (stage 2).
        """
        height, width = images.shape[-2:]
        unit = 2 ** len(self.encoder)
        x = nn.functional.pad(images, (0, -width % unit, 0, -height % unit), mode="replicate")
        indices = []
        for stage in self.encoder:
            x, index = self.pool(stage(x))
            indices.append(index)
        if detached:
            x = x.detach()
        for stage in self.decoder:
            x = stage(self.unpool(x, indices.pop()))
        signal: Tensor = self.last(x)[..., :height, :width]
        return signal


def _convolutions(widths: Sequence[int]) -> nn.Sequential:
    """3×3 convolutions from each width to the next, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


class S2SNet(Defense):
    """The autoencoder before the classifier with which its decoder was tuned.

    Args:
        architecture: "segnet" (13 convolutions in five stages) or "small" (4 in two).
        channels: of the images, 3 or 1.

    Raises:
        ValueError: another architecture.
    """

    kind = "s2snet"
    gradients = AUTOENCODER_GRADIENTS

    def __init__(self, architecture: str = "segnet", channels: int = 3) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
        self.architecture = architecture
        self.channels = channels
        self.autoencoder = SegNetAutoencoder(ARCHITECTURES[architecture], channels)

    def forward(self, images: Tensor) -> Tensor:
        """See `Defense.forward`."""
        signal = self.autoencoder(images).clamp(0, 1)
        return straight_through(images, signal) if self.gradient == "identity" else signal

    def config(self) -> dict[str, Any]:
        """See `Defense.config`."""
        return {"architecture": self.architecture, "channels": self.channels}


def gradient_cosine(defense: Defense, classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The cosine between the loss's gradients with a defence and without it, ``(N,)``, one for each image.

    Near 0 for a layer that hides the gradient of the class, 1 for a layer that passes it on. The loss is cross-entropy;
    where a gradient is zero all over, so is the cosine.

    Args:
        defense: any that changes images; its ``for_attack`` chooses the gradient.
        classifier: maps images in [0, 1] to logits.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``, int64.
    """
    gradients: list[Tensor] = []
    for model in (classifier, defense.wrap(classifier)):
        x = images.detach().requires_grad_()
        gradients += torch.autograd.grad(F.cross_entropy(model(x), labels, reduction="sum"), x)
    bare, defended = (gradient.flatten(1) for gradient in gradients)
    return F.cosine_similarity(bare, defended)


@dataclass(frozen=True)
class Config(Settings):
    """What ``fdjpeg train s2snet`` takes; the schedules are ours.

    Attributes:
        architecture: "segnet" or "small".
        reconstruction: of stage 1.
        signal: of stage 2.
    """

    architecture: str = "segnet"
    reconstruction: Schedule = field(default_factory=lambda: Schedule(epochs=20))
    signal: Schedule = field(default_factory=lambda: Schedule(epochs=5, learning_rate=1e-4))

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture should be one of {', '.join(ARCHITECTURES)}, got {self.architecture!r}")


class Reconstruction(Objective):
    """Stage 1: the mean squared error to the image itself."""

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        """See `Objective.loss`."""
        return F.mse_loss(self.trained(images).float(), images)


class Signal(Objective):
    """Stage 2: the frozen classifier's cross-entropy, of which only the decoder learns.

    Args:
        autoencoder: after stage 1; its encoder stays as it is, batch statistics included.
        classifier: maps images in [0, 1] to logits.
    """

    def __init__(self, autoencoder: SegNetAutoencoder, classifier: nn.Module) -> None:
        super().__init__(autoencoder, [classifier])
        self.autoencoder = autoencoder
        autoencoder.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Signal:
        """Training mode for the decoder only."""
        super().train(mode)
        self.autoencoder.encoder.eval()
        return self

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        """See `Objective.loss`."""
        signal = self.autoencoder(images, detached=True).clamp(0, 1)
        return F.cross_entropy(self.frozen[0](signal).float(), labels)


def train(run: Run, images: Images, classifier: nn.Module, config: Config) -> S2SNet:
    """Both stages."""
    run.start("autoencoder")
    net = S2SNet(config.architecture, images.shape[0])
    run.fit("reconstruction", Reconstruction(net.autoencoder), images, config.reconstruction)
    run.fit("signal", Signal(net.autoencoder, classifier), images, config.signal)
    return net
