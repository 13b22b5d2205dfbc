"""Defensive distillation: a network trained at a softmax temperature on the soft labels of another trained so.

Source: Papernot et al., arXiv 1511.04508. Train F at temperature T; relabel the images with F(X); train the same
architecture at the same T on these soft labels; predict at T = 1. Published: success of JSMA 95.89 → 1.34 % (MNIST)
and 87.89 → 16.76 % (CIFAR-10) at T = 20, 0.45 % and 5.11 % at T = 100; clean accuracy 99.51 → 99.05 % and 80.95 →
81.39 % at T = 20.

The known break: at T = 1 the logits are T times too large, so the softmax saturates and the gradients of cross-entropy
vanish. Attack logits / T, or a margin.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .base import Defense, load_state


class DistillationNet(nn.Sequential):
    """The paper's network: conv-conv-pool twice, two hidden linear layers, dropout; 3×3 convolutions without padding.

    Args:
        widths: the channels of both pairs of convolutions, and the units of the hidden layers: (64, 128, 256) for
            CIFAR-10 and (32, 64, 200) for MNIST in the paper.
        channels: of the images.
        size: height and width of the images, at least 16.
        classes: number of classes.
        dropout: after the first hidden layer.
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
    """The distilled network in the place of the classifier.

    Its gradients: "end-to-end" is the network as deployed, at T = 1, whose cross-entropy saturates; "tempered" is the
    network's logits / T.

    Args:
        temperature: T, at which it was trained.
        network: the arguments of `DistillationNet`; None if it has the classifier's architecture.
        state: its weights.

    Raises:
        ValueError: a temperature below 1.
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
        if not (math.isfinite(temperature) and temperature >= 1):
            raise ValueError(f"temperature must be at least 1, got {temperature!r}")
        self.temperature = float(temperature)
        self.network = None if network is None else dict(network)
        self.state = dict(state or {})

    def wrap(self, classifier: nn.Module) -> nn.Module:
        """See `Defense.wrap`: the distilled network, of the classifier's architecture or of its own."""
        device = next((tensor.device for tensor in classifier.state_dict().values()), None)
        student = copy.deepcopy(classifier) if self.network is None else DistillationNet(**self.network).to(device)
        load_state(student, self.state, "the network that was distilled")
        return (
            nn.Sequential(student, Tempered(self.temperature)).eval() if self.gradient == "tempered" else student.eval()
        )

    def config(self) -> dict[str, Any]:
        """See `Defense.config`."""
        return {"temperature": self.temperature, "network": self.network}

    def tensors(self) -> dict[str, Tensor]:
        """See `Defense.tensors`."""
        return self.state

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Defense.load_tensors`; they are compared with the architecture in ``wrap``."""
        self.state = dict(tensors)


class Tempered(nn.Module):
    """Logits divided by a temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, logits: Tensor) -> Tensor:
        """``logits / temperature``."""
        return logits / self.temperature
