"""A network and images for tests of the evaluation, so small that attacks on them take no time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fdjpeg.sources import ImageSet, Network
from fdjpeg.sources.image_set import to_bytes
from support.classifiers import SEED, Tiny


def tiny() -> Network:
    """The classifier in evaluation mode, under the name "tiny"."""
    return Network(Tiny().eval(), "tiny")


def smooth(count: int = 6) -> ImageSet:
    """Smooth images of whole bytes, 24 × 24, that the tiny network, by definition, gets right."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(SEED))
    images = nn.functional.interpolate(coarse, size=(24, 24), mode="bicubic").clamp(0, 1)
    images = to_bytes(images).float() / 255
    with torch.no_grad():
        labels = tiny().module(images).argmax(dim=1)
    return ImageSet(images, labels, tuple(f"{i}.png" for i in range(count)))


def textured(size: int) -> Tensor:
    """An image with content at all scales, as photographs have: uint8 (3, size, size)."""
    generator = torch.Generator().manual_seed(SEED)
    image = torch.full((3, size, size), 0.5)
    for scale, channels, strength in ((4, 3, 0.1), (16, 1, 0.08), (64, 1, 0.04)):  # fine detail has little colour
        octave = torch.randn(1, channels, scale, scale, generator=generator)
        image += strength * nn.functional.interpolate(octave, size=(size, size), mode="bicubic")[0]
    return to_bytes(image.clamp(0, 1))
