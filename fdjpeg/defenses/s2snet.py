"""Structure-to-signal autoencoders (S2SNets): a decoder tuned with the gradients of a frozen classifier.

Source: Folz et al., "Adversarial Defense based on Structure-to-Signal Autoencoders", WACV 2020, arXiv 1803.07994.
SegNet is the autoencoder. Stage 1 is unsupervised, with the mean squared error. In stage 2, with the cross-entropy of
the frozen classifier, only the decoder learns; the bottleneck and the pooling indices are detached.

Ours: the small version (two stages, 32, 32 | 64, 64), and clamping to [0, 1] before the classifier.

The paper claims that gradients through it lose the signal of the class. Pooling indices carry structure and no
gradient, so masked gradients must be suspected: attack it end to end, with the identity in its place (BPDA), from other
networks, and without gradients.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdjpeg._checks import check_whole

from .base import Defense, straight_through
from .gradients import AUTOENCODER
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
    """SegNet from images to images: stages of 3×3 convolution, batch norm and ReLU, pooled by 2 with indices.

    The decoder mirrors the encoder. A last 1×1 convolution gives the image, without non-linearity.

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
            # Mirrored, a stage ends with its first channels; the first stage ends with its own, before `last`.
            decoder.append(_convolutions([*widths[:0:-1], widths[0] if at else widths[1]]))
            at += len(stage)
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(reversed(decoder))
        self.last = nn.Conv2d(stages[0][0], channels, 1)

    def forward(self, images: Tensor, detached: bool = False) -> Tensor:
        """Maps images ``(N, C, H, W)`` to signals of the same shape, not limited to [0, 1].

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
    """Returns 3×3 convolutions from each width to the next, each with batch norm and ReLU."""
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

    Example::

        defense = fdjpeg.defenses.S2SNet("small")
        model = defense.attacked(classifier, "identity")  # BPDA
    """

    kind = "s2snet"
    gradients = AUTOENCODER

    def __init__(self, architecture: str = "segnet", channels: int = 3) -> None:
        super().__init__()
        check_architecture(architecture)
        check_whole("channels", channels, 1)
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


def check_architecture(name: str) -> None:
    """Refuses names that are not in ``ARCHITECTURES``.

    Raises:
        ValueError: naming those that are.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {name!r}")


def gradient_cosine(defended: nn.Module, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Returns the cosine between the loss's gradients with a defence and without it.

    It is near 0 for a layer that hides the gradient of the class, and 1 for a layer that passes it on. The loss is
    cross-entropy. Where a gradient is zero all over, so is the cosine.

    Args:
        defended: ``defense.deployed(network)``, or ``defense.attacked(network, gradient)`` for one of its gradients.
        network: the bare classifier, images in [0, 1] to logits.
        images: ``(N, C, H, W)``, floats in [0, 1].
        labels: ``(N,)``, int64.

    Returns:
        ``(N,)``, one for each image.

    Example::

        gradient_cosine(defense.attacked(network, "identity"), network, images, labels).median()
    """
    gradients: list[Tensor] = []
    for model in (network, defended):
        x = images.detach().requires_grad_()
        gradients += torch.autograd.grad(F.cross_entropy(model(x), labels, reduction="sum"), x)
    bare, changed = (gradient.flatten(1) for gradient in gradients)
    return F.cosine_similarity(bare, changed)


@dataclass(frozen=True)
class Config(Settings):
    """Settings of ``fdjpeg train s2snet``; the schedules are ours.

    Attributes:
        architecture: "segnet" or "small".
        reconstruction: the schedule of stage 1.
        signal: the schedule of stage 2.
    """

    architecture: str = "segnet"
    reconstruction: Schedule = field(default_factory=lambda: Schedule(epochs=20))
    signal: Schedule = field(default_factory=lambda: Schedule(epochs=5, learning_rate=1e-4))

    def __post_init__(self) -> None:
        check_architecture(self.architecture)


class Reconstruction(Objective):
    """Stage 1: the mean squared error to the image itself."""

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        """See `Objective.loss`."""
        return F.mse_loss(self.trained(images).float(), images)


class Signal(Objective):
    """Stage 2: the frozen classifier's cross-entropy, from which only the decoder learns.

    Args:
        autoencoder: after stage 1; its encoder stays as it is, batch statistics included.
        classifier: maps images in [0, 1] to logits.
    """

    def __init__(self, autoencoder: SegNetAutoencoder, classifier: nn.Module) -> None:
        super().__init__(autoencoder, [classifier])
        self.autoencoder = autoencoder
        autoencoder.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Signal:
        """Sets training mode for the decoder only."""
        super().train(mode)
        self.autoencoder.encoder.eval()
        return self

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        """See `Objective.loss`."""
        signal = self.autoencoder(images, detached=True).clamp(0, 1)
        return F.cross_entropy(self.frozen[0](signal).float(), labels)


def train(run: Run, images: Images, classifier: nn.Module, config: Config) -> S2SNet:
    """Trains both stages."""
    run.start("autoencoder")
    net = S2SNet(config.architecture, images.shape[0])
    run.fit("reconstruction", Reconstruction(net.autoencoder), images, config.reconstruction)
    run.fit("signal", Signal(net.autoencoder, classifier), images, config.signal)
    return net
