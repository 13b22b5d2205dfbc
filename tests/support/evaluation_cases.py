"""A network, images, an attack and a layer for tests of the evaluation, so small that attacks take no time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fdjpeg import evaluation
from fdjpeg.attacks import Attack
from fdjpeg.attacks.base import Counted, Found, Norm
from fdjpeg.evaluation import Report
from fdjpeg.sources import ImageSet, Network
from fdjpeg.sources.image_set import to_bytes
from support.classifiers import SEED, Tiny


def tiny() -> Network:
    """Returns the classifier in evaluation mode, under the name "tiny"."""
    return Network(Tiny().eval(), "tiny")


def smooth(count: int = 6) -> ImageSet:
    """Returns smooth images of whole bytes, 24 × 24, with the tiny network's answers as their labels."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(SEED))
    images = nn.functional.interpolate(coarse, size=(24, 24), mode="bicubic").clamp(0, 1)
    images = to_bytes(images).float() / 255
    with torch.no_grad():
        labels = tiny().module(images).argmax(dim=1)
    return ImageSet(images, labels, tuple(f"{i}.png" for i in range(count)))


def textured(size: int) -> Tensor:
    """Returns an image with content at all scales, like a photograph: uint8 (3, size, size)."""
    generator = torch.Generator().manual_seed(SEED)
    image = torch.full((3, size, size), 0.5)
    for scale, channels, strength in ((4, 3, 0.1), (16, 1, 0.08), (64, 1, 0.04)):  # fine detail has little colour
        octave = torch.randn(1, channels, scale, scale, generator=generator)
        image += strength * nn.functional.interpolate(octave, size=(size, size), mode="bicubic")[0]
    return to_bytes(image.clamp(0, 1))


@dataclass(frozen=True)
class Stub(Attack):
    """An attack that moves every sample by ``move`` radii, and remembers which images it met."""

    move: float = 1.0
    norm: Norm = "linf"
    seed: int = 0
    name: str = "stub"

    def __post_init__(self) -> None:
        object.__setattr__(self, "met", [])

    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        self.met.extend(indices.tolist())  # type: ignore[attr-defined]
        return Found((x + self.move * eps).clamp(0, 1))


def outcomes(report: Report) -> list[tuple]:
    """Returns everything that the cells hold about images."""
    return [(c.key, c.predicted, c.right, c.margin, c.distance, c.zeros, c.loss) for c in report.cells]


def check(report: Report, start: str) -> evaluation.Check:
    (found,) = (check for check in report.checks if check.name.startswith(start))
    return found


def small(network: Network, data: ImageSet, **settings: object) -> Report:
    chosen = {"defenses": ["jpeg:75"], "eps": ["8/255"], "attacks": ["pgd-3"], "gradients": ["cubic"], "batch_size": 2}
    return evaluation.evaluate(network, data, **{**chosen, **settings})  # type: ignore[arg-type]


class Rounded(nn.Module):
    """JPEG as a user may write it: plain rounding in the graph, whose gradient is zero almost everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        blocks = (images - 0.5).view(count, channels, height // 8, 8, width // 8, 8)
        frequency, place = torch.arange(8.0)[:, None], torch.arange(8.0)
        basis = torch.cos(math.pi / 8 * (place + 0.5) * frequency) / 2
        basis[0] /= math.sqrt(2)
        coefficients = torch.einsum("ui,ncaibj,vj->ncaubv", basis, blocks, basis)
        rounded = (coefficients / 0.12).round() * 0.12
        return (torch.einsum("ui,ncaubv,vj->ncaibj", basis, rounded, basis).reshape(images.shape) + 0.5).clamp(0, 1)
