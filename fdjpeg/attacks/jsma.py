"""The Jacobian-based saliency map attack, batched over images and target classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdjpeg._checks import check_flags, check_positive, check_seed
from fdjpeg._numbers import is_real, make_plain

from .base import Attack, Counted, Found, Norm, check_norm, distances
from .losses import margin, margin_towards, others_ranked

Surface = Literal["probabilities", "logits"]
SURFACES = ("probabilities", "logits")

TargetClasses = Literal["every", "likeliest", "given"]
TARGETS = ("every", "likeliest", "given")

#: Numbers in the matrices of pairs that are held at once.
_PAIRS_AT_ONCE = 20_000_000


@dataclass(frozen=True)
class JSMA(Attack):
    """The saliency map attack (Papernot et al. 2016, arXiv 1511.07528, algorithm 3), in the norm L0.

    Each round moves, by ``theta``, the two features whose common move most raises the target's output and lowers the
    sum of the others', a product of two derivatives. A feature is a sample of the image, and moves once. The radius is
    the greatest number of features that may change; the paper's is 14.5 % of them.

    The product is computed as published, in the dtype of the images. Where the softmax is saturated it is exactly 0 for
    all pairs, and the attack stops: defensive distillation (arXiv 1511.04508) depends on that. ``temperature``, or the
    surface "logits", undoes it (Carlini & Wagner 2016, arXiv 1607.04311).

    Attributes:
        theta: the move of a feature, in units of the images' range, not 0; the result is cut to [0, 1].
        pairs: moves two features in a round, as published; one if False.
        surface: the outputs that are differentiated, "probabilities" or "logits".
        temperature: the logits are divided by it first.
        target: "every" wrong class in turn, of which the fewest changes count; the "likeliest" wrong class; or the
            classes "given" in place of the true ones: then success is that they are predicted.
        seed: not used; every attack has this field.
        norm: "l0".

    Raises:
        ValueError: a value out of its range.

    Example::

        found = JSMA(target="given").run(network, images, wanted_classes, eps=112)
        features = found.distance  # the number of features changed, infinite where the attack failed
    """

    theta: float = 1.0
    pairs: bool = True
    surface: Surface = "probabilities"
    temperature: float = 1.0
    target: TargetClasses = "every"
    seed: int = 0
    norm: Norm = "l0"

    def __post_init__(self) -> None:
        make_plain(self)
        check_norm(self.norm, ("l0",))
        for setting, known in (("surface", SURFACES), ("target", TARGETS)):
            if getattr(self, setting) not in known:
                raise ValueError(f"{setting} must be one of {', '.join(known)}, got {getattr(self, setting)!r}")
        if not is_real(self.theta):
            raise TypeError(f"theta must be a number, got {self.theta!r}")
        if not 0 < abs(self.theta) <= 1:
            raise ValueError(f"theta must be in [-1, 1] and not 0, got {self.theta}")
        check_positive("temperature", self.temperature)
        check_flags(self, "pairs")
        check_seed("seed", self.seed)

    @property
    def name(self) -> str:
        """For instance "JSMA", "JSMA-logits" or "JSMA-single"."""
        surface = "" if self.surface == "probabilities" else "-logits"
        return f"JSMA{surface}" + ("" if self.pairs else "-single")

    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        """See ``Attack.run``."""
        rows, targets = self._targets(model, x, y)
        points, reached = self._climb(model, x[rows], targets, int(eps))
        changed = torch.where(reached, distances(points, x[rows], "l0"), torch.inf).view(len(x), -1)
        best = changed.argmin(dim=1)
        x_adv = points.view(len(x), -1, *x.shape[1:])[torch.arange(len(x), device=x.device), best]
        distance = changed.amin(dim=1)
        if self.target != "given":
            with torch.no_grad():
                distance = torch.where(margin(model(x), y) > 0, 0.0, distance)
            return Found(torch.where(distance.view(-1, 1, 1, 1) == 0, x, x_adv), distance=distance)
        with torch.no_grad():
            score = margin_towards((judge or model)(x_adv), y)
        return Found(x_adv, score, distance=distance)

    def _targets(self, model: Counted, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the image and the target class of each search, the searches of an image one after the other."""
        rows = torch.arange(len(x), device=x.device)
        if self.target == "given":
            return rows, y
        with torch.no_grad():
            others = others_ranked(model(x), y)
        if self.target == "likeliest":
            return rows, others[:, 0]
        return rows.repeat_interleave(others.shape[1]), others.flatten()

    def _climb(self, model: Counted, x: Tensor, targets: Tensor, budget: int) -> tuple[Tensor, Tensor]:
        """Returns the last point of each search, and whether its target is predicted there."""
        points, step = x.clone(), 2 if self.pairs else 1
        movable = (x < 1 if self.theta > 0 else x > 0).flatten(1)
        reached = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        active = torch.arange(len(x), device=x.device)
        for number in range(budget // step + 1):
            here = points[active].requires_grad_()
            with torch.enable_grad():
                logits = model(here)
                towards, others = self._derivatives(logits, here, targets[active])
            arrived = logits.argmax(dim=1) == targets[active]
            reached[active[arrived]] = True
            if number == budget // step:
                break
            chosen, found = self._best(towards, others, movable[active])
            going = found & ~arrived
            active, chosen = active[going], chosen[going]
            if len(active) == 0:
                break
            flat = points.flatten(1)
            flat[active[:, None], chosen] = (flat[active[:, None], chosen] + self.theta).clamp(0, 1)
            points = flat.view_as(x)
            movable[active[:, None], chosen] = False
        return points, reached

    def _derivatives(self, logits: Tensor, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the derivatives ``(N, features)`` of the target's output and of the sum of the others'."""
        one = F.one_hot(targets, logits.shape[1]).to(logits)
        if self.surface == "logits":
            seeds = (one, 1 - one)
        else:
            seeds = _softmax_seeds(logits.detach() / self.temperature, targets)
        found = [
            torch.autograd.grad(logits, x, seed.to(logits) / self.temperature, retain_graph=True)[0] for seed in seeds
        ]
        towards, others = (gradient.flatten(1) for gradient in found)
        return towards, others

    def _best(self, towards: Tensor, others: Tensor, movable: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the features to move, ``(N, 2 or 1)``, and whether any move raises one output and lowers the rest."""
        sign = 1.0 if self.theta > 0 else -1.0
        rise = torch.where(movable, sign * towards, -torch.inf)
        fall = torch.where(movable, -sign * others, -torch.inf)
        if not self.pairs:
            score, place = (rise.clamp_min(0) * fall.clamp_min(0)).max(dim=1)
            return place[:, None], score > 0
        features = rise.shape[1]
        at_once = max(1, _PAIRS_AT_ONCE // features**2)
        parts = [_best_pair(*part) for part in zip(rise.split(at_once), fall.split(at_once), strict=True)]
        score, place = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        return torch.stack([place // features, place % features], dim=1), score > 0


def _best_pair(rise: Tensor, fall: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the greatest product of sums over pairs of different features, ``(N,)``, and its place in the matrix."""
    score = (rise[:, :, None] + rise[:, None, :]).clamp_min_(0)
    score *= (fall[:, :, None] + fall[:, None, :]).clamp_min_(0)
    score.diagonal(dim1=1, dim2=2).zero_()
    best: tuple[Tensor, Tensor] = score.flatten(1).max(dim=1)
    return best


def _softmax_seeds(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the derivatives by the logits of the target's probability, and of the sum of the others'.

    The sum is taken over each class's own derivatives, as from a Jacobian: the derivative of the sum itself would be
    lost to cancellation much earlier.
    """
    p = logits.softmax(dim=1)
    jacobian = p[:, :, None] * (torch.eye(p.shape[1], device="cpu").to(p) - p[:, None, :])
    of_target = jacobian[torch.arange(len(p), device=p.device), targets]
    others = (1 - F.one_hot(targets, p.shape[1]).to(p))[:, :, None]
    return of_target, (jacobian * others).sum(dim=1)
