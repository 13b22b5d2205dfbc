"""Random noise, the harm of a radius without any attacker."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fdjpeg._checks import check_seed
from fdjpeg._numbers import make_plain

from .base import Attack, Counted, Found, Norm, check_norm, draw, project


@dataclass(frozen=True)
class Noise(Attack):
    """Random noise of the full radius.

    For "linf" each sample moves by +eps or −eps; for "l2" the image moves by eps in a direction of normal noise.

    Attributes:
        seed: each image's noise also depends on its index.
        norm: "linf" or "l2".

    Example::

        x_adv = Noise()(model, x, y, eps=4 / 255)
    """

    seed: int = 0
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        make_plain(self)
        check_norm(self.norm)
        check_seed("seed", self.seed)

    @property
    def name(self) -> str:
        """The name in reports."""
        return "noise"

    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        """See ``Attack.run``; neither the model nor the classes are used."""
        if self.norm == "linf":
            down = draw(x.shape[1:], indices, self.seed, "noise").to(x.device) < 0.5
            return Found(project(torch.where(down, x - eps, x + eps), x, eps))
        direction = draw(x.shape[1:], indices, self.seed, "noise", normal=True).to(x)
        return Found(project(x + direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * eps, x, eps, "l2"))
