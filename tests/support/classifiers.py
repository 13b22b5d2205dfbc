"""Small classifiers for tests of attacks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SEED = 20_260


class Tiny(nn.Module):
    """A small classifier of images of any size."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        self.features = nn.Conv2d(3, 8, 5, stride=2)
        self.head = nn.Linear(8, classes)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images - 0.5).relu().mean(dim=(2, 3)))
        return logits


class Linear(nn.Module):
    """Five classes; the decision between the first two is linear in the image, so the strongest attack is known."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        self.register_buffer("weights", torch.randn(shape, generator=generator) / 10)

    def forward(self, images: Tensor) -> Tensor:
        score = ((images - 0.5) * self.weights).flatten(1).sum(dim=1) - 0.2
        never = torch.tensor([-50.0, -60.0, -70.0]).expand(len(images), 3)
        return torch.cat([torch.stack([torch.zeros_like(score), score], dim=1), never], dim=1)

    def optimum(self, x: Tensor, eps: float, norm: str) -> Tensor:
        """Returns the strongest adversarial images, of images so far from 0 and 1 that no sample is clamped."""
        return x + eps * (self.weights.sign() if norm == "linf" else self.weights / self.weights.norm())
