"""Attacks: each maps images to adversarial images within a ball around them, ``attack(model, x, y, eps) -> x_adv``."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attack(Protocol):
    """What the evaluation asks of an attack."""

    @property
    def name(self) -> str:
        """As reports print it."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, *, indices: Tensor | None = None) -> Tensor:
        """Adversarial images for ``x``, each within L∞ distance ``eps`` of it and in [0, 1].

        Args:
            model: maps images in [0, 1] to logits ``(N, classes)``; in evaluation mode.
            x: ``(N, C, H, W)``, floats in [0, 1]. It is not modified.
            y: ``(N,)``, int64, the true classes.
            eps: radius, in units of the images' range [0, 1].
            indices: ``(N,)``, int64, each image's place in the whole set, from which all chance is drawn, so that an
                image's result does not depend on the batch it is in; 0 … N − 1 if None.
        """


def parse_eps(value: str | float | Fraction) -> Fraction:
    """A radius as an exact number: "4/255", "0.03", 0.03 or a Fraction.

    Raises:
        ValueError: if it is no number, or not in (0, 1].
    """
    try:
        if isinstance(value, str):
            numerator, _, denominator = value.partition("/")
            eps = Fraction(numerator.strip()) / Fraction(denominator.strip() or 1)
        else:
            eps = Fraction(value)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"eps should be a number such as 4/255 or 0.03, got {value!r}") from error
    if not 0 < eps <= 1:
        raise ValueError(f"eps should lie in (0, 1], in units of the images' range [0, 1], got {value!r}")
    return eps


def format_eps(eps: Fraction) -> str:
    """The usual way of writing a radius: in 255ths where they are whole, else as a decimal."""
    steps = eps * 255
    return f"{steps.numerator}/255" if steps.denominator == 1 else f"{float(eps):g}"


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The largest other logit minus the true one, ``(N,)``: positive where the image is misclassified."""
    true = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(dim=1) - true


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of each image, ``(N,)``, in nats."""
    return F.cross_entropy(logits, y, reduction="none")


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """The difference of logits ratio, ``(N,)``: the margin over the gap of the largest and third largest logit.

    Source: Croce & Hein 2020, arXiv 2003.01690, eq. 6. It does not change when the logits are scaled. Where there
    are two classes, the third largest logit is read as the second.
    """
    largest = logits.topk(min(3, logits.shape[1]), dim=1).values
    return margin(logits, y) / (largest[:, 0] - largest[:, -1]).clamp_min(1e-12)


#: What an attack can climb, by name.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross-entropy": cross_entropy, "margin": margin, "dlr": dlr}


def draw(shape: torch.Size, indices: Tensor, seed: int, purpose: str) -> Tensor:
    """Uniform numbers in [0, 1), ``(N, *shape)`` on the CPU, each image's from its own seed.

    The seed of an image is made from ``seed``, ``purpose`` and the image's index, so the numbers do not depend on
    batches, devices or processes.
    """
    rows = []
    for index in indices.tolist():
        label = f"{seed}/{purpose}/{index}".encode()
        state = int.from_bytes(hashlib.blake2b(label, digest_size=8).digest(), "big") >> 1
        rows.append(torch.rand(shape, generator=torch.Generator().manual_seed(state)))
    return torch.stack(rows) if rows else torch.empty(0, *shape)


def project(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """The nearest image to ``x_adv`` within L∞ distance ``eps`` of ``x`` and in [0, 1]."""
    return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent in an L∞ ball (Madry et al. 2018, arXiv 1706.06083), random starts and restarts.

    Of all points that it visits it returns the one of the largest margin under the model's own forward pass. Where that
    pass is the exact codec, whatever its gradient, a surrogate can mislead the search but never the verdict.

    Attributes:
        steps: gradient steps for each start.
        restarts: number of starts.
        loss: what is climbed: a key of ``LOSSES``.
        step: length of the first step, in units of eps; the length falls as a cosine to a tenth of it at the last.
        seed: of the random starts; each image's also depends on its index and the restart.
        until_fooled: leave an image alone as soon as the model misclassifies it. For an attack on the very model that
            is judged this changes no verdict; an attack that must carry over to another model should go on.
    """

    steps: int = 20
    restarts: int = 1
    loss: str = "cross-entropy"
    step: float = 0.5
    seed: int = 0
    until_fooled: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps should be at least 1, got {self.steps}")
        if self.restarts < 1:
            raise ValueError(f"restarts should be at least 1, got {self.restarts}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss should be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if not self.step > 0:
            raise ValueError(f"step should be positive, got {self.step}")

    @property
    def name(self) -> str:
        """For instance "PGD-20" or "PGD-20×5"."""
        return f"PGD-{self.steps}" + (f"×{self.restarts}" if self.restarts > 1 else "")

    def length(self, number: int) -> float:
        """Length of step ``number`` (from 0), in units of eps."""
        along = number / max(self.steps - 1, 1)
        return self.step * (0.1 + 0.9 * (1 + math.cos(math.pi * along)) / 2)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, *, indices: Tensor | None = None) -> Tensor:
        """See ``Attack``."""
        indices = torch.arange(len(x)) if indices is None else indices
        best = x.clone()
        best_margin = torch.full((len(x),), -torch.inf, device=x.device)
        for restart in range(self.restarts):
            # Rows of the batch that are still under attack.
            rows = torch.arange(len(x), device=x.device)
            if self.until_fooled:
                rows = rows[best_margin <= 0]
            noise = draw(x.shape[1:], indices[rows.cpu()], self.seed, f"start {restart}").to(x)
            x_adv = project(x[rows] + (2 * noise - 1) * eps, x[rows], eps)
            for number in range(self.steps + 1):
                if len(rows) == 0:
                    break
                x_adv = x_adv.detach().requires_grad_()
                logits = model(x_adv)
                now = margin(logits.detach(), y[rows])
                better = now > best_margin[rows]
                best[rows[better]] = x_adv.detach()[better]
                best_margin[rows[better]] = now[better]
                if number == self.steps:
                    break
                (gradient,) = torch.autograd.grad(LOSSES[self.loss](logits, y[rows]).sum(), x_adv)
                x_adv = project(x_adv.detach() + self.length(number) * eps * gradient.sign(), x[rows], eps)
                if self.until_fooled:
                    going = now <= 0
                    rows, x_adv = rows[going], x_adv[going]
        return best


@dataclass(frozen=True)
class Noise:
    """Each sample moved by +eps or −eps at random: the harm that a radius does without any attacker.

    Attributes:
        seed: each image's noise also depends on its index.
    """

    seed: int = 0

    @property
    def name(self) -> str:
        """As reports print it."""
        return "noise"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, *, indices: Tensor | None = None) -> Tensor:
        """See ``Attack``; neither the model nor the classes are used."""
        indices = torch.arange(len(x)) if indices is None else indices
        signs = draw(x.shape[1:], indices, self.seed, "noise").to(x).sub(0.5).sign()
        return project(x + eps * signs, x, eps)
