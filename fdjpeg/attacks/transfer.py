"""Threat models: attacks without the defended model's gradients, or behind a first pass of the defence."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fdjpeg._calls import about, call, party_error
from fdjpeg._checks import check_module, check_tensor, check_text
from fdjpeg._fingerprint import digest

from .base import Attack, Counted, Found, Norm, check_input, frozen
from .losses import margin
from .pgd import PGD


@dataclass(frozen=True)
class Transfer(Attack):
    """Examples made on another model and tried on the attacked one, which is not queried while they are made.

    Attributes:
        attack: makes the examples. A ``PGD`` continues after it has fooled the surrogate, so that they carry over.
        surrogate: differentiable, of the same classes: the undefended network, or another defended one.
        title: the surrogate's name in reports.

    Example::

        x_adv = Transfer(PGD(steps=20), network)(torch.nn.Sequential(fdjpeg.JPEG(75), network), x, y, 1 / 255)
    """

    attack: Attack
    surrogate: nn.Module = field(repr=False)
    title: str = "surrogate"

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise TypeError(f"attack must be one of fdjpeg.attacks, got {self.attack!r}")
        check_module("surrogate", self.surrogate)
        check_text("title", self.title)

    @property
    def name(self) -> str:
        """For instance "PGD-20 on surrogate"."""
        return f"{self.attack.name} on {self.title}"

    @property
    def norm(self) -> Norm:  # type: ignore[override]
        """The attack's own."""
        return self.attack.norm

    @property
    def seed(self) -> int:  # type: ignore[override]
        """The attack's own."""
        return self.attack.seed

    def settings(self) -> dict[str, Any]:
        """Returns the attack's own settings, and the surrogate's title and fingerprint."""
        surrogate = {"surrogate": self.title, "weights": digest(self.surrogate)}
        return {"attack": "Transfer", **surrogate, "by": self.attack.settings()}

    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        """See ``Attack.run``."""
        attack = replace(self.attack, until_fooled=False) if isinstance(self.attack, PGD) else self.attack
        with about("surrogate"):
            return Found(attack.run(self.surrogate, x, y, eps, indices=indices).x_adv)


def first_pass(layer: nn.Module, images: Tensor) -> Tensor:
    """Returns images as a defence with two passes puts them on its lattice, before an attacker sees them.

    The attacker of that threat model starts from these: ``attack(defended, first_pass(layer, x), y, eps)``, where eps
    is the distance from them. An attacker before the first pass attacks ``nn.Sequential(layer, layer, network)``
    at ``x``.

    Args:
        layer: the defence's layer, images to images; if it is a ``fdjpeg.FeatureDistillation``, with one pass.
        images: ``(N, C, H, W)``, floats in [0, 1].

    Returns:
        ``(N, C, H, W)``, in [0, 1], detached.

    Raises:
        ValueError: the layer raised an error, changed the images in place, or returned something else.

    Example::

        layer = fdjpeg.JPEG(50)
        start = first_pass(layer, x)
        x_adv = PGD(steps=20)(torch.nn.Sequential(layer, network), start, y, 1 / 255)
    """
    if not callable(layer):
        raise TypeError(f"layer must be a torch.nn.Module, got {type(layer).__name__}")
    check_tensor("images", images)
    with torch.no_grad():
        placed = call(layer, images, "layer")
    if not isinstance(placed, Tensor) or placed.shape != images.shape:
        came = f"shape {tuple(placed.shape)}" if isinstance(placed, Tensor) else type(placed).__name__
        raise party_error("layer", f"must return images of the shape {tuple(images.shape)} that it gets, got {came}")
    return placed.detach().clamp(0, 1)


@torch.inference_mode(False)
def zero_gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Returns the share of each image's samples with a gradient of exactly zero (or not finite), ``(N,)``.

    A share near 1 means that gradients are masked, for instance by plain rounding, and that gradient attacks show
    nothing about robustness. It is measured on the margin, which does not saturate, so a confident network alone does
    not raise it.

    Args:
        model, x, y: as for ``Attack.run``.

    Raises:
        ValueError, TypeError: as ``Attack.run`` does.

    Example::

        masked = torch.nn.Sequential(fdjpeg.JPEG(75, gradient="zero"), network)
        zero_gradients(masked, x, y)  # 1 for each image
    """
    check_module("model", model)
    check_input(x, y, 0)
    with frozen(model), torch.enable_grad():
        points = x.detach().clone().requires_grad_()
        rising = margin(Counted(model, y)(points), y).sum()
        if not rising.requires_grad:
            return torch.ones(len(x), dtype=torch.float32, device=x.device)
        (gradient,) = torch.autograd.grad(rising, points, materialize_grads=True)
    return ((gradient == 0) | ~gradient.isfinite()).float().flatten(1).mean(dim=1)
