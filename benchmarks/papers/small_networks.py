"""Small networks for grey images of 28 × 28 pixels, in the manner of four known ones, trained on Fashion-MNIST.

Each takes 3 … 8 million multiplications an image, so that a core trains it in minutes. The manner is what differs
between the known networks: large filters and hidden layers (AlexNet), stacks of 3×3 filters (VGG), blocks with a
shortcut (ResNet), filters of several sizes next to each other (Inception).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fdjpeg.defenses.checkpoint import read_tensors, write_tensors
from fdjpeg.defenses.defensive_distillation import DistillationNet, HardLabels
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import Images
from fdjpeg.defenses.training.run import Run
from fdjpeg.sources import Network, Normalized

#: Mean and deviation of Fashion-MNIST's training images.
MEAN, DEVIATION = 0.286, 0.353

SCHEDULE = Schedule(epochs=3, batch_size=128, learning_rate=2e-3, weight_decay=0.01, augment="none")


def convolution(before: int, after: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Returns a convolution that keeps the image's size, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, size, stride, size // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )


def plain(before: int, after: int, size: int = 3) -> list[nn.Module]:
    """Returns a convolution that keeps the image's size, and ReLU."""
    layer = nn.Conv2d(before, after, size, padding=size // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return [layer, nn.ReLU()]


class Residual(nn.Module):
    """Two convolutions with a shortcut around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            convolution(before, after, 3, stride),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Conv2d(before, after, 1, stride) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the block's output plus the shortcut's."""
        return torch.relu(self.block(x) + self.shortcut(x))


class Side(nn.Module):
    """Filters of 1, 3 and 5 pixels and a pool next to each other."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                convolution(before, width, 1),
                nn.Sequential(convolution(before, width, 1), convolution(width, 2 * width, 3)),
                nn.Sequential(convolution(before, width // 2, 1), convolution(width // 2, width // 2, 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), convolution(before, width // 2, 1)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns all branches' channels."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def alexnet_like() -> nn.Module:
    """Returns five convolutions, the first two large, and two hidden layers with dropout."""
    return nn.Sequential(
        *(*plain(1, 16, 5), nn.MaxPool2d(2), *plain(16, 32, 5), nn.MaxPool2d(2)),
        *(*plain(32, 48), *plain(48, 48), *plain(48, 32), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Dropout(0.25), nn.Linear(288, 128), nn.ReLU(), nn.Dropout(0.25), nn.Linear(128, 128), nn.ReLU()),
        nn.Linear(128, 10),
    )


def vgg_like() -> nn.Module:
    """Returns three pairs of 3×3 convolutions without batch norm, and a hidden layer."""
    return nn.Sequential(
        *(*plain(1, 16), *plain(16, 16), nn.MaxPool2d(2), *plain(16, 32), *plain(32, 32), nn.MaxPool2d(2)),
        *(*plain(32, 64), *plain(64, 64), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(576, 128), nn.ReLU()),
        nn.Linear(128, 10),
    )


def resnet_like() -> nn.Module:
    """Returns a convolution and three residual blocks."""
    return nn.Sequential(
        *(convolution(1, 16), nn.MaxPool2d(2), Residual(16, 16, 1), Residual(16, 32, 1), Residual(32, 64, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


def inception_like() -> nn.Module:
    """Returns a convolution and three modules of filters next to each other."""
    return nn.Sequential(
        *(convolution(1, 16), nn.MaxPool2d(2), Side(16, 16), Side(64, 16), nn.MaxPool2d(2), Side(64, 24)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10)),
    )


def papernot() -> nn.Module:
    """Returns the network of Papernot et al. (arXiv 1511.04508) for MNIST."""
    return DistillationNet((32, 64, 200), channels=1, size=28)


#: The schedule of defensive distillation, and of the network that it starts from.
PAPERNOT = Schedule(epochs=8, batch_size=128, learning_rate=1e-3, augment="none")

#: Networks that are trained alike, and learn to lie to each other.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "AlexNet-like": alexnet_like,
    "VGG-like": vgg_like,
    "ResNet-like": resnet_like,
    "Inception-like": inception_like,
}


def trained(name: str, images: Images, folder: Path, seed: int = 0, epochs: int | None = None) -> Network:
    """Returns one of ``NETWORKS`` or "Papernot", trained on all images; a training that was stopped resumes.

    ``epochs`` replaces those of its schedule.
    """
    out = folder / f"{name}-{seed}{f'-{epochs}-epochs' if epochs else ''}"
    file, schedule = out / "network.safetensors", PAPERNOT if name == "Papernot" else SCHEDULE
    schedule = replace(schedule, epochs=epochs or schedule.epochs)
    if not file.exists():
        settings = {"network": name, "images": images.digest, "seed": seed}
        run = Run(out, settings, seed=seed, device="cpu", quiet=True)
        run.start("network")
        module = _untrained(name)
        run.fit("network", HardLabels(module, 1.0), images, schedule)
        write_tensors(file, module.state_dict(), {})
        run.complete(settings)
    module = _untrained(name)
    module.load_state_dict(read_tensors(file)[0])
    return Network(module.eval(), name, source=f"trained here on {len(images)} images", size=28)


def _untrained(name: str) -> nn.Module:
    return papernot() if name == "Papernot" else Normalized(NETWORKS[name](), [MEAN], [DEVIATION])
