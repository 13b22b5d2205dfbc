"""Defensive distillation: a network trained at a softmax temperature on the soft labels of another such network.

Source: Papernot et al., arXiv 1511.04508. Train F at temperature T; relabel the images with F(X); train the same
architecture at the same T on these soft labels; predict at T = 1. Published: success of JSMA 95.89 → 1.34 % (MNIST)
and 87.89 → 16.76 % (CIFAR-10) at T = 20, 0.45 % and 5.11 % at T = 100; clean accuracy 99.51 → 99.05 % and 80.95 →
81.39 % at T = 20.

The known break: at T = 1 the logits are T times too large, so the softmax saturates and the gradients of cross-entropy
vanish. Attack logits / T, or a margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdjpeg._numbers import is_finite

from .base import Defense, Weights, copied, device_of, load_state
from .training.config import Schedule, Settings, at_least
from .training.images import Images
from .training.objective import Chance, Objective
from .training.run import Run


class Centred(nn.Module):
    """Images in [0, 1] moved to mean 0 and a deviation of about 1."""

    def forward(self, images: Tensor) -> Tensor:
        """Returns ``4 x − 2``."""
        return 4 * images - 2


class DistillationNet(nn.Sequential):
    """The paper's network: conv-conv-pool twice, of 3×3 convolutions, two hidden linear layers, dropout.

    Ours: how the images are centred, no padding, He's initial weights, and the place of dropout.

    Args:
        widths: the channels of both pairs of convolutions, and the units of the hidden layers: (64, 128, 256) for
            CIFAR-10 and (32, 64, 200) for MNIST in the paper.
        channels: of the images.
        size: height and width of the images, at least 16.
        classes: number of classes.
        dropout: probability, after the first hidden layer.

    Raises:
        ValueError: a size below 16.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256),
        channels: int = 3,
        size: int = 32,
        classes: int = 10,
        dropout: float = 0.5,
    ) -> None:
        if size < 16:
            raise ValueError(f"size must be at least 16, got {size}")
        first, second, hidden = widths
        side = ((size - 4) // 2 - 4) // 2
        super().__init__(
            Centred(),
            nn.Conv2d(channels, first, 3),
            nn.ReLU(),
            nn.Conv2d(first, first, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3),
            nn.ReLU(),
            nn.Conv2d(second, second, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * side * side, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )
        for layer in self:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.constant_(layer.bias, 0.0)  # type: ignore[arg-type]


class DefensiveDistillation(Defense):
    """The distilled network in place of the classifier.

    Its gradients: "end-to-end" is the network as deployed, at T = 1, whose cross-entropy saturates; "tempered" is the
    network's logits / T.

    Args:
        temperature: T, at which it was trained.
        network: the arguments of `DistillationNet`; None if it has the classifier's architecture.
        state: its weights.

    Raises:
        ValueError: a temperature below 1.

    Example::

        defense = fdjpeg.defenses.train("defensive-distillation", images, "runs/distilled")
        model = defense.attacked(torch.nn.Identity(), "tempered")  # logits / T
    """

    kind = "defensive-distillation"
    gradients = ("end-to-end", "tempered")

    def __init__(
        self,
        temperature: float = 20.0,
        network: Mapping[str, Any] | None = None,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = float(temperature)
        self.network = None if network is None else dict(network)
        self.student = Weights(state or {})

    def deployed(self, network: nn.Module) -> nn.Module:
        """Returns the distilled network, of the classifier's architecture or the paper's, see `Defense.deployed`."""
        paper = self.network
        student = copied(network) if paper is None else DistillationNet(**paper).to(device_of(network))
        load_state(student, self.student.state_dict(), "the network that was distilled")
        if self.gradient == "tempered":
            return nn.Sequential(student, Tempered(self.temperature)).eval()
        return student.eval()

    def config(self) -> dict[str, Any]:
        """See `Defense.config`."""
        return {"temperature": self.temperature, "network": self.network}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Defense.load_tensors`; ``deployed`` compares them with the architecture."""
        self.student = Weights({name.removeprefix("student."): tensor for name, tensor in tensors.items()})


def check_temperature(temperature: float) -> None:
    """Refuses temperatures below 1, and those that are not finite.

    Raises:
        ValueError: naming the argument and its value.
    """
    if not (is_finite(temperature) and temperature >= 1):
        raise ValueError(f"temperature must be at least 1, got {temperature!r}")


class Tempered(nn.Module):
    """Divides logits by a temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, logits: Tensor) -> Tensor:
        """Returns ``logits / temperature``."""
        return logits / self.temperature


@dataclass(frozen=True)
class Config(Settings):
    """Settings of ``fdjpeg train defensive-distillation``.

    Attributes:
        temperature: T, at least 1.
        widths, dropout: of `DistillationNet`, where no classifier is given; the paper's for CIFAR-10 by default.
        training: the schedule of the first network and of the distilled one; AdamW and its learning rate are ours.
    """

    temperature: float = 20.0
    widths: tuple[int, int, int] = (64, 128, 256)
    dropout: float = 0.5
    training: Schedule = field(default_factory=lambda: Schedule(epochs=50, batch_size=128, augment="none"))

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        at_least(1, widths=min(self.widths))


class HardLabels(Objective):
    """Cross-entropy of the classes at a temperature.

    Args:
        network: the network that is trained.
        temperature: its logits are divided by it.
    """

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__(network)
        self.temperature = temperature

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        """See `Objective.loss`."""
        return F.cross_entropy(self.trained(images).float() / self.temperature, labels)


class SoftLabels(Objective):
    """Cross-entropy of another network's probabilities, both at a temperature; the classes are not used.

    Args:
        network: the network that is trained.
        teacher: gives the probabilities.
        temperature: of both.
    """

    def __init__(self, network: nn.Module, teacher: nn.Module, temperature: float) -> None:
        super().__init__(network, [teacher])
        self.temperature = temperature

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        """See `Objective.loss`."""
        with torch.no_grad():
            soft = (self.frozen[0](images).float() / self.temperature).softmax(dim=1)
        return F.cross_entropy(self.trained(images).float() / self.temperature, soft)


def train(run: Run, images: Images, classifier: nn.Module | None, config: Config) -> DefensiveDistillation:
    """Trains a network at the temperature, and another of the same architecture on its soft labels.

    Without a classifier both are the paper's network, from scratch; with one, both start from its weights.
    """
    network: dict[str, Any] | None = None
    if classifier is None:
        channels, height, width = images.shape
        if height != width:
            raise ValueError(f"images must be square where no model is given, got {height} × {width}")
        classes = int(images.labels.max()) + 1
        if classes < 2:
            raise ValueError("labels must be of at least two classes where no model is given, got only 0")
        network = {"widths": list(config.widths), "channels": channels, "size": height, "classes": classes}
        network["dropout"] = config.dropout

    def start(stage: str) -> nn.Module:
        run.start(stage)
        if network is not None:
            return DistillationNet(**network)
        assert classifier is not None
        return copied(classifier).requires_grad_(True)

    teacher, student = start("teacher"), start("student")
    run.fit("teacher", HardLabels(teacher, config.temperature), images, config.training)
    run.fit("student", SoftLabels(student, teacher, config.temperature), images, config.training)
    state = {name: tensor.cpu() for name, tensor in student.state_dict().items()}
    return DefensiveDistillation(config.temperature, network, state)
