"""Carlini and Wagner's attacks in L0 and L∞; the one in L2 is foolbox's, see `fdjpeg.attacks.foolbox`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fdjpeg._checks import check_positive, check_seed, check_whole
from fdjpeg._numbers import is_real, make_plain

from .base import Attack, Counted, Found, Norm, check_norm, distances, project
from .losses import margin

#: The first weight of misclassification, and the factor by which a failed round raises it.
FIRST_WEIGHT, RAISE = 1.0, 4.0

#: A change below this is undone before an image is judged: half of a byte's step.
UNSEEN = 0.5 / 255

#: Images are brought this far inside (−1, 1), where the inverse of tanh is finite.
INSIDE = 0.999999


class _Rounds(Attack):
    """Rounds of Adam over the inverse tanh of the images, each from where the last one ended.

    After a round that found a misclassified image the problem becomes harder, else the weight of misclassification
    grows. All images of a batch go through all rounds side by side.
    """

    steps: int
    rounds: int
    step: float
    norms: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        make_plain(self)
        check_norm(self.norm, self.norms)
        check_whole("steps", self.steps, 1)
        check_whole("rounds", self.rounds, 1)
        check_positive("step", self.step)
        check_seed("seed", self.seed)

    @abstractmethod
    def penalty(self, change: Tensor, bound: Tensor) -> Tensor:
        """Returns the penalty of changes ``(N, C, H, W)`` in each image, ``(N,)``."""

    @abstractmethod
    def harder(self, state: _State, gradient: Tensor, won: Tensor) -> None:
        """Makes the problem harder for the images that were won."""

    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        """See ``Attack.run``."""
        state = _State.at(x)
        with torch.no_grad():
            wrong = margin(model(x), y) > 0
        state.distance[wrong] = 0.0
        for _ in range(self.rounds):
            rows = (state.distance > 0).nonzero().flatten()
            if len(rows) == 0:
                break
            self._round(model, state, rows, y)
        return Found(project(state.best, x, eps, self.norm), distance=state.distance)

    def _round(self, model: Counted, state: _State, rows: Tensor, y: Tensor) -> None:
        x, free, bound, weight = state.x[rows], state.free[rows], state.bound[rows], state.weight[rows]
        w = ((2 * state.here[rows] - 1) * INSIDE).atanh().requires_grad_()
        optimizer = torch.optim.Adam([w], lr=self.step)
        won = torch.zeros(len(rows), dtype=torch.bool, device=x.device)
        for number in range(self.steps + 1):
            with torch.enable_grad():
                point = torch.where(free, (w.tanh() + 1) / 2, x)
                excess = (-margin(model(point), y[rows])).clamp_min(0)
                loss = weight * excess + self.penalty(point - x, bound)
            better = self._note(model, state, rows, point.detach(), y)
            won |= better
            if number == self.steps:
                break
            # A gradient that is not finite, of infinite logits say, would make NaN of every later point.
            w.grad = torch.autograd.grad(loss.sum(), w)[0].nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            optimizer.step()
        state.here[rows] = torch.where(won.view(-1, 1, 1, 1), state.best[rows], point.detach())
        state.weight[rows] = torch.where(won, weight, RAISE * weight)
        whole = torch.zeros(len(state.x), dtype=torch.bool, device=x.device)
        whole[rows] = won
        if bool(whole.any()):
            self.harder(state, _gradient(model, state.best[whole], y[whole]), whole)

    def _note(self, model: Counted, state: _State, rows: Tensor, point: Tensor, y: Tensor) -> Tensor:
        """Keeps the points that are misclassified and nearer than before; returns which they are."""
        x = state.x[rows]
        point = torch.where((point - x).abs() < UNSEEN, x, point)
        distance = distances(point, x, self.norm)
        with torch.no_grad():
            better = (margin(model(point), y[rows]) > 0) & (distance < state.distance[rows])
        state.best[rows[better]] = point[better]
        state.distance[rows[better]] = distance[better]
        return better


@dataclass
class _State:
    """All images of a search.

    Attributes:
        x: the images.
        here: where the next round starts.
        best: the nearest misclassified image so far, else the image itself.
        distance: of ``best``; infinite where there is none.
        weight: of misclassification.
        free: samples that may change.
        bound: below which no change is punished, or that no change may exceed.
    """

    x: Tensor
    here: Tensor
    best: Tensor
    distance: Tensor
    weight: Tensor
    free: Tensor
    bound: Tensor

    @classmethod
    def at(cls, x: Tensor) -> _State:
        """Returns the start of a search."""
        one = torch.ones(len(x), device=x.device, dtype=x.dtype)
        everywhere = torch.ones_like(x, dtype=torch.bool)
        return cls(x, x.clone(), x.clone(), torch.inf * one, FIRST_WEIGHT * one, everywhere, one.clone())


def _gradient(model: Counted, x: Tensor, y: Tensor) -> Tensor:
    """Returns the gradient of the margin."""
    points = x.clone().requires_grad_()
    with torch.enable_grad():
        (found,) = torch.autograd.grad(margin(model(points), y).sum(), points)
    return found


@dataclass(frozen=True)
class CarliniWagnerL0(_Rounds):
    """Carlini and Wagner's L0 attack (2017, arXiv 1608.04644, sec. VI-B): L2 on ever fewer samples.

    After each success the samples that contribute least (gradient times change) are put back and stay as they were.
    Ours: the share of them, the weights, and that a sample, not a pixel, is a feature.

    Attributes:
        steps: Adam's steps in a round.
        rounds: number of rounds.
        step: Adam's learning rate.
        share: of the samples that are still free and changed, put back after a success, in (0, 1).
        seed: not used; every attack has this field.
        norm: "l0".

    Example::

        x_adv = CarliniWagnerL0(steps=40, rounds=30)(model, x, y, 50)  # up to 50 samples
    """

    norms: ClassVar = ("l0",)

    steps: int = 40
    rounds: int = 30
    step: float = 0.05
    share: float = 0.2
    seed: int = 0
    norm: Norm = "l0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_real(self.share):
            raise TypeError(f"share must be a number, got {self.share!r}")
        if not 0 < self.share < 1:
            raise ValueError(f"share must be in (0, 1), got {self.share}")

    @property
    def name(self) -> str:
        """For instance "CW-L0-40×30"."""
        return f"CW-L0-{self.steps}×{self.rounds}"

    def penalty(self, change: Tensor, bound: Tensor) -> Tensor:
        """Returns the squared Euclidean length."""
        return change.square().flatten(1).sum(dim=1)

    def harder(self, state: _State, gradient: Tensor, won: Tensor) -> None:
        """Puts back the samples of least gradient times change; those that did not change are put back at once."""
        change = (state.best[won] - state.x[won]).flatten(1)
        free = state.free[won].flatten(1) & (change != 0)
        weight = torch.where(free, (gradient.flatten(1) * change).abs(), torch.inf)
        rank = weight.argsort(dim=1).argsort(dim=1)
        out = (free.sum(dim=1, keepdim=True) * self.share).ceil()
        state.free[won] = (free & (rank >= out)).view_as(state.x[won])
        state.here[won] = torch.where(state.free[won], state.here[won], state.x[won])


@dataclass(frozen=True)
class CarliniWagnerLinf(_Rounds):
    """Carlini and Wagner's L∞ attack (2017, arXiv 1608.04644, sec. VI-C): a bound on all changes that falls.

    Only the part of a change beyond the bound is punished. After each success the bound falls to nine tenths of the
    largest change. Ours: the weights, and that the first bound is a quarter.

    Attributes:
        steps: Adam's steps in a round.
        rounds: number of rounds.
        step: Adam's learning rate.
        seed: not used; every attack has this field.
        norm: "linf".

    Example::

        x_adv = CarliniWagnerLinf(steps=40, rounds=30)(model, x, y, 2 / 255)
    """

    norms: ClassVar = ("linf",)

    steps: int = 40
    rounds: int = 30
    step: float = 0.02
    seed: int = 0
    norm: Norm = "linf"

    @property
    def name(self) -> str:
        """For instance "CW-Linf-40×30"."""
        return f"CW-Linf-{self.steps}×{self.rounds}"

    def penalty(self, change: Tensor, bound: Tensor) -> Tensor:
        """Returns the sum of what exceeds the bound."""
        return (change.abs() - bound.view(-1, 1, 1, 1).clamp_max(0.25)).clamp_min(0).flatten(1).sum(dim=1)

    def harder(self, state: _State, gradient: Tensor, won: Tensor) -> None:
        """Lowers the bound."""
        state.bound[won] = 0.9 * state.distance[won]
