"""Images, networks and attacks for the tests of defences."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fdjpeg.defenses.training import images as data
from fdjpeg.sources import ImageSet

SEED = 20_261_121

needs_foolbox = pytest.mark.skipif(
    importlib.util.find_spec("foolbox") is None, reason='needs the images that pip install "fdjpeg[eval]" brings'
)


def patterns(count: int, seed: int, amplitude: float = 0.1, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Labelled images ``(count, 3, 16, 16)`` of four classes: each a fixed faint pattern in noise on grey."""
    fixed = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    fixed = F.interpolate(fixed, size=(16, 16), mode="bicubic")
    labels = torch.arange(count) % 4
    grain = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return (0.5 + amplitude * fixed[labels] + noise * grain).clamp(0, 1), labels


def stored(images: Tensor, labels: Tensor) -> data.Images:
    """Images as training takes them."""
    return data.of(ImageSet(images, labels, tuple(f"image {i}" for i in range(len(images)))))


def network() -> nn.Module:
    """A small classifier of the patterns, with random weights."""
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 4),
    )


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that a model gets right."""
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).float().mean())


def plain_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, loss: str = "cross-entropy") -> Tensor:
    """Ten signed steps as they were published: cross-entropy in float32, or the margin; no care for lost gradients."""
    x_adv = x
    for _ in range(10):
        x_adv = x_adv.detach().requires_grad_()
        logits = model(x_adv)
        true = logits.gather(1, y[:, None]).squeeze(1)
        margin = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - true
        climbed = F.cross_entropy(logits, y, reduction="none") if loss == "cross-entropy" else margin
        (gradient,) = torch.autograd.grad(climbed.sum(), x_adv)
        x_adv = torch.clamp(x + (x_adv.detach() + eps / 4 * gradient.sign() - x).clamp(-eps, eps), 0, 1)
    return x_adv.detach()


def foolbox_images(kind: str) -> tuple[Tensor, Tensor]:
    """The 20 images of "cifar10" or "cifar100" that foolbox carries, float32 in [0, 1], and their classes."""
    spec = importlib.util.find_spec("foolbox")
    assert spec is not None
    assert spec.origin is not None
    files = sorted((Path(spec.origin).parent / "data").glob(f"{kind}_*.png"))
    pixels = [torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) for file in files]
    return torch.stack(pixels).float() / 255, torch.tensor([int(file.stem.split("_")[-1]) for file in files])
