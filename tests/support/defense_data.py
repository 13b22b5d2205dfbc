"""Images, networks, settings and attacks for the tests of defences."""

from __future__ import annotations

import importlib.util
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fdjpeg import defenses
from fdjpeg.defenses import (
    Defense,
    defensive_distillation,
    feature_distillation,
    fine_tuning,
    jpeg_ensemble,
    purifier,
    s2snet,
)
from fdjpeg.defenses.defensive_distillation import DistillationNet
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import Images, StoredImages
from fdjpeg.sources import ImageSet, Network

SEED = 20_261_121

needs_foolbox = pytest.mark.skipif(
    importlib.util.find_spec("foolbox") is None, reason='needs the images that pip install "fdjpeg[eval]" brings'
)


def patterns(count: int, seed: int, amplitude: float = 0.1, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Returns labelled images ``(count, 3, 16, 16)`` of four classes: each a fixed faint pattern in noise on grey."""
    fixed = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    fixed = F.interpolate(fixed, size=(16, 16), mode="bicubic")
    labels = torch.arange(count) % 4
    grain = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return (0.5 + amplitude * fixed[labels] + noise * grain).clamp(0, 1), labels


def stored(images: Tensor, labels: Tensor) -> StoredImages:
    """Returns images as training takes them."""
    return StoredImages.of(ImageSet(images, labels, tuple(f"image {i}" for i in range(len(images)))))


def network() -> nn.Module:
    """Returns a small classifier of the patterns, with random weights."""
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
    """Returns the share of images that a model gets right."""
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).float().mean())


def plain_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, loss: str = "cross-entropy") -> Tensor:
    """Takes ten signed steps as published: cross-entropy in float32, or the margin; lost gradients are not restored."""
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
    """Returns the 20 images of "cifar10" or "cifar100" that foolbox carries, float32 in [0, 1], and their classes."""
    spec = importlib.util.find_spec("foolbox")
    assert spec is not None
    assert spec.origin is not None
    files = sorted((Path(spec.origin).parent / "data").glob(f"{kind}_*.png"))
    pixels = [torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) for file in files]
    return torch.stack(pixels).float() / 255, torch.tensor([int(file.stem.split("_")[-1]) for file in files])


#: Tables of the ensembles among the examples.
LUMA, CHROMA = torch.full((8, 8), 12.0), torch.full((8, 8), 17.0)


def examples() -> dict[str, Defense]:
    """Returns one defence of each kind, with random weights for `network`."""
    own: dict[str, Any] = {"widths": [4, 4, 8], "size": 16}
    states = [network().state_dict() for _ in range(3)]
    torch.manual_seed(SEED)
    return {
        "jpeg": defenses.JPEG(40, "4:4:4"),
        "random-jpeg": defenses.RandomJPEG(20, 90),
        "stochastic-jpeg": defenses.StochasticJPEG((10, 90)),
        "feature-distillation": defenses.FeatureDistillation("paper", passes=2),
        "code": defenses.FeatureDistillation("code"),
        "derived": defenses.FeatureDistillation(steps=torch.arange(1, 65).view(8, 8)),
        "jpeg-ensemble": defenses.JPEGEnsemble(LUMA, CHROMA, (0.5, 1, 2), states),
        "shared-ensemble": defenses.JPEGEnsemble(LUMA, CHROMA, (1, 3)),
        "purifier": defenses.Purifier(3, (4, 6, 8)),
        "s2snet": defenses.S2SNet("small"),
        "defensive-distillation": defenses.DefensiveDistillation(20, None, states[0]),
        "fine-tuning": defenses.FineTuned(None, "4:2:0", states[0]),
        "fine-tuning behind tables": defenses.FineTuned([LUMA, CHROMA], "4:2:0", states[1]),
        "own-network": defenses.DefensiveDistillation(30, own, DistillationNet(**own).state_dict()),
    }


#: A training of seconds.
FEW = Schedule(epochs=2, batch_size=32, augment="flip-crop")


#: Settings of each defence that is trained, with which a training takes seconds.
SETTINGS: dict[str, Any] = {
    "feature-distillation": feature_distillation.Config(),
    "jpeg-ensemble": jpeg_ensemble.Config(tuning=FEW),
    "purifier": purifier.Config(widths=(4, 6, 8), attack_steps=2, normal=FEW, adversarial=FEW, student=FEW),
    "s2snet": s2snet.Config(architecture="small", reconstruction=FEW, signal=FEW),
    "defensive-distillation": defensive_distillation.Config(widths=(4, 4, 8), training=FEW),
    "fine-tuning": fine_tuning.Config(tuning=FEW, validation=0.25, qualities=(75, 10)),
}


@dataclass(frozen=True)
class Trained:
    """A classifier of the patterns, and the images of its training and its test."""

    classifier: nn.Module
    images: Images
    x: Tensor
    y: Tensor

    @property
    def network(self) -> Network:
        return Network(self.classifier, "patterns")


def train(kind: str, trained: Trained, out: Path, **changes: Any) -> Any:
    """Trains a defence of `SETTINGS` on the first 64 images."""
    settings = replace(SETTINGS[kind], **changes)
    network = None if kind == "feature-distillation" else trained.network
    return defenses.train(kind, trained.images.select(range(64)), out, settings=settings, network=network, quiet=True)


def folder_of(images: Tensor, labels: Tensor, root: Path) -> Path:
    """Writes the images as a tree of PNG files, and returns its root."""
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        (root / f"class-{label}").mkdir(parents=True, exist_ok=True)
        samples = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(samples).save(root / f"class-{label}" / f"{number:03}.png")
    return root


@contextmanager
def full_disk() -> Iterator[None]:
    """Lets no file grow beyond 64 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
