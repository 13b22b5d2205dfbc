"""Projected gradient descent; FGSM and BIM are special cases of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from fdjpeg._checks import check_flags, check_positive, check_seed, check_text, check_whole
from fdjpeg._numbers import is_real, make_plain

from .base import Attack, Counted, Found, Norm, check_norm, draw, project
from .byte_grid import on_byte_grid, to_byte_grid
from .calls import NO_DERIVATIVE
from .losses import AWAY, LOSSES, TOWARDS, Ascent, LossFunction, margin, margin_towards, others_ranked

Schedule = Literal["constant", "cosine", "halving"]
SCHEDULES = ("constant", "cosine", "halving")

Aim = Literal["away", "likeliest", "given"]
AIMS = ("away", "likeliest", "given")


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent in a ball (Madry et al. 2018, arXiv 1706.06083), random starts and restarts.

    Of all visited points it returns the one with the largest margin under the judge: the model's own forward pass, or
    the judge given to ``run``. If that is the exact codec, a surrogate can mislead the search but never the verdict. If
    the gradient of an image is zero or not finite, the step has a random direction.

    Attributes:
        steps: gradient steps for each start.
        restarts: number of starts.
        loss: the loss to maximise, a key of ``LOSSES``.
        step: length of the first step, in units of eps.
        seed: of the random starts; each image's also depends on its index and the restart.
        until_fooled: leave an image alone as soon as it is misclassified (with several draws, in each of them). For an
            attack on the very model that is judged this changes no verdict; an attack that must carry over to another
            model must not stop there.
        norm: "linf" (steps along the sign of the gradient) or "l2" (along the gradient).
        schedule: "constant"; "cosine", falling to a tenth of ``step`` at the last; or "halving", which halves an
            image's step and returns to its best point when it gains no more (Auto-PGD's rule: Croce & Hein 2020,
            arXiv 2003.01690, sec. 3.1).
        momentum: share of the last move in the next (Auto-PGD: 0.25).
        random_start: whether the first point is random in the ball; if not, more restarts change only the aim.
        aim: "away" from the true class; at the "likeliest" wrong classes, each restart at another; or at the classes
            "given" in place of the true ones: then an image counts as fooled once that class is predicted.
        draws: number of draws of a randomised model at each point (expectation over transformation: Athalye et al.
            2018, arXiv 1707.07397). With more than one, images are attacked one by one, the draws of an image as a
            batch.
        whole_bytes: visit only images of whole bytes k / 255, as files hold them; ``x`` must be such images.
        label: its name in reports; None makes a name from the other settings.

    Example::

        x_adv = PGD(steps=20, restarts=5)(model, x, y, eps=4 / 255)
    """

    steps: int = 20
    restarts: int = 1
    loss: str = "cross-entropy"
    step: float = 2.0
    seed: int = 0
    until_fooled: bool = True
    norm: Norm = "linf"
    schedule: Schedule = "cosine"
    momentum: float = 0.25
    random_start: bool = True
    aim: Aim = "away"
    draws: int = 1
    whole_bytes: bool = False
    label: str | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        flags = ("until_fooled", "random_start", "whole_bytes")
        check_climber(self, flags, loss=tuple(LOSSES), schedule=SCHEDULES, aim=AIMS)
        check_positive("step", self.step)
        if not is_real(self.momentum):
            raise TypeError(f"momentum must be a number, got {self.momentum!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be 0 or more and less than 1, got {self.momentum}")

    @property
    def name(self) -> str:
        """For instance "PGD-20", "PGD-20×5" or "PGD-margin-20"."""
        if self.label is not None:
            return self.label
        loss = "" if self.loss == "cross-entropy" else f"-{self.loss}"
        aim = "" if self.aim == "away" else "-targeted"
        return f"PGD{loss}{aim}-{self.steps}" + (f"×{self.restarts}" if self.restarts > 1 else "")

    @property
    def one_at_a_time(self) -> bool:
        """The draws of one image are a batch, seeded by the image, so that no other image matters to it."""
        return self.draws > 1

    def length(self, number: int) -> float:
        """Returns the length of step ``number`` (from 0), in units of eps, before any halving."""
        if self.schedule != "cosine":
            return self.step
        along = number / max(self.steps - 1, 1)
        return self.step * (0.1 + 0.9 * (1 + math.cos(math.pi * along)) / 2)

    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        """See ``Attack.run``."""
        if self.whole_bytes and not bool(on_byte_grid(x).all()):
            raise ValueError("x must be images of whole bytes k / 255 for an attack with whole_bytes")
        best = _Best(x, self.steps + 1)
        for restart, goal in enumerate(goals(model, x, y, self.aim, self.restarts)):
            rows = (~best.fooled).nonzero().flatten() if self.until_fooled else torch.arange(len(x), device=x.device)
            if len(rows) == 0:
                break
            view = _View(
                model=model,
                judge=judge,
                ascent=(AWAY if self.aim == "away" else TOWARDS)[self.loss],
                score=margin_towards if self.aim == "given" else margin,
                goal=goal,
                y=y,
                draws=self.draws,
            )
            self._restart(view, best, rows, x, eps, indices, restart)
            best.end_restart()
        return Found(best.x_adv, best.score, best.curve)

    def _start(self, x: Tensor, eps: float, indices: Tensor, restart: int) -> Tensor:
        """Returns the first point of a restart, ``(N, C, H, W)``."""
        if not self.random_start:
            return x.clone()
        if self.norm == "linf":
            noise = draw(x.shape[1:], indices, self.seed, f"start {restart}").to(x)
            return project(x + (2 * noise - 1) * eps, x, eps)
        direction = draw(x.shape[1:], indices, self.seed, f"start {restart}", normal=True).to(x)
        return project(x + _unit(direction) * eps, x, eps, "l2")

    def _restart(
        self, view: _View, best: _Best, rows: Tensor, x: Tensor, eps: float, indices: Tensor, restart: int
    ) -> None:
        """Climbs from one start, and stores better points than before in ``best``."""
        start = self._start(x[rows], eps, indices[rows.cpu()], restart)
        here = _Climbers.at(start, rows)
        checkpoints = _checkpoints(self.steps) if self.schedule == "halving" else {}
        for number in range(self.steps + 1):
            point = to_byte_grid(here.point, x[here.rows], eps, self.norm) if self.whole_bytes else here.point
            look = view.look(point, here.rows, differentiate=number < self.steps)
            best.note(here.rows, number, point, look)
            if number == self.steps:
                return
            if self.until_fooled:
                here, look = here.only(~look.fooled), look.only(~look.fooled)
                if len(here.rows) == 0:
                    return
            gradient = self._usable(look.gradient, indices[here.rows.cpu()], f"direction {restart} {number}")
            if self.schedule == "halving":
                gradient = here.remember(look.value, gradient, checkpoints.get(number))
            self._move(here, gradient, number, x[here.rows], eps)

    def _usable(self, gradient: Tensor, indices: Tensor, purpose: str) -> Tensor:
        """Returns the gradient, with a random direction for each image where it is zero everywhere or not finite."""
        gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        lost = (gradient == 0).flatten(1).all(dim=1)
        if bool(lost.any()):
            gradient = gradient.clone()
            gradient[lost] = draw(gradient.shape[1:], indices[lost.cpu()], self.seed, purpose, normal=True).to(gradient)
        return gradient

    def _move(self, here: _Climbers, gradient: Tensor, number: int, x: Tensor, eps: float) -> None:
        """Makes one step, in place."""
        direction = gradient.sign() if self.norm == "linf" else _unit(gradient)
        length = (self.length(number) * eps * here.scale).view(-1, 1, 1, 1).to(x.dtype)
        moved = project(here.point + length * direction, x, eps, self.norm)
        if self.momentum and number > 0:
            kept = (1 - self.momentum) * (moved - here.point) + self.momentum * (here.point - here.previous)
            moved = project(here.point + kept, x, eps, self.norm)
        here.previous, here.point = here.point, moved


@dataclass
class _Look:
    """The outputs of a model at n points."""

    value: Tensor  # (n,), the loss that is climbed
    score: Tensor  # (n,), the judge's margin: of several draws the mean
    fooled: Tensor  # (n,) bool, under each draw
    gradient: Tensor  # (n, C, H, W), of the loss's ascent; empty where it was not asked for

    def only(self, chosen: Tensor) -> _Look:
        """Returns those of the points that are ``chosen``, (n,) bool."""
        return _Look(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass
class _View:
    """The functions by which one restart evaluates points: differentiated model, judge, loss and its classes."""

    model: nn.Module
    judge: nn.Module | None
    ascent: Ascent
    score: LossFunction
    goal: Tensor  # (N,), the classes of the loss
    y: Tensor  # (N,), the classes of the score
    draws: int
    call_by_call: bool = False  # whether the model draws once for a batch, so that each draw needs a call

    def look(self, points: Tensor, rows: Tensor, differentiate: bool) -> _Look:
        """Evaluates points ``(n, C, H, W)`` of the images ``rows``."""
        with torch.set_grad_enabled(differentiate):
            points = points.detach().requires_grad_(differentiate)
            logits = self._logits(self.model, points)
            value = self._each_draw(self.ascent.value, logits.detach(), self.goal[rows]).mean(dim=1)
            gradient = points.new_empty(len(points), 0)
            if differentiate:
                if not logits.requires_grad:
                    raise ValueError(NO_DERIVATIVE)
                climb = self._each_draw(self.ascent.climb, logits, self.goal[rows]).sum()
                (gradient,) = torch.autograd.grad(climb, points, materialize_grads=True)
        with torch.no_grad():
            judged = logits.detach() if self.judge is None else self._logits(self.judge, points.detach())
            scores = self._each_draw(self.score, judged, self.y[rows])
        return _Look(value, scores.mean(dim=1), (scores > 0).all(dim=1), gradient)

    def _logits(self, model: nn.Module, points: Tensor) -> Tensor:
        """Returns logits ``(n, draws, classes)``."""
        if self.draws == 1:
            logits: Tensor = model(points)
            return logits[:, None]
        if not self.call_by_call:
            together: Tensor = model(points.repeat_interleave(self.draws, dim=0)).unflatten(0, (-1, self.draws))
            seen = together.detach()
            spread = (seen.amax(dim=1) - seen.amin(dim=1)).amax()
            if float(spread) > 1e-4 * float(seen.abs().amax()):
                return together
            self.call_by_call = True
        return torch.stack([model(points) for _ in range(self.draws)], dim=1)

    @staticmethod
    def _each_draw(function: LossFunction, logits: Tensor, classes: Tensor) -> Tensor:
        """Returns ``function`` of logits ``(n, draws, classes)`` for each draw, ``(n, draws)``."""
        draws = logits.shape[1]
        return function(logits.flatten(0, 1).float(), classes.repeat_interleave(draws)).view(-1, draws)


class _Best:
    """The best point of each image so far, and the loss curve of the restart that it comes from."""

    def __init__(self, x: Tensor, points: int) -> None:
        self.x_adv = x.clone()
        self.score = torch.full((len(x),), -torch.inf, dtype=torch.float32, device=x.device)
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.curve = torch.zeros(points, len(x), dtype=torch.float32, device=x.device)
        self._current = torch.zeros_like(self.curve)
        self._better = torch.zeros_like(self.fooled)

    def note(self, rows: Tensor, number: int, points: Tensor, look: _Look) -> None:
        """Records point ``number`` of the images ``rows``."""
        self._current[number:, rows] = look.value  # kept for the remaining steps, in case the image is left alone
        better = look.score > self.score[rows]
        self.x_adv[rows[better]] = points[better]
        self.score[rows[better]] = look.score[better]
        self.fooled[rows] |= look.fooled
        self._better[rows[better]] = True

    def end_restart(self) -> None:
        """Keeps the curves of the images that this restart improved."""
        self.curve[:, self._better] = self._current[:, self._better]
        self._better[:] = False


@dataclass
class _Climbers:
    """The images that are still under attack in one restart, n of them."""

    rows: Tensor  # (n,), their places in the batch
    point: Tensor  # (n, C, H, W)
    previous: Tensor  # (n, C, H, W), the point before
    scale: Tensor  # (n,), by which halvings have shortened the step
    best_value: Tensor  # (n,), of the loss in this restart
    best_point: Tensor
    best_gradient: Tensor
    last_value: Tensor  # (n,)
    gains: Tensor  # (n,), steps since the last checkpoint that raised the loss
    checked_value: Tensor  # (n,), the best value at the last checkpoint
    halved: Tensor  # (n,) bool, whether that checkpoint halved the step

    @classmethod
    def at(cls, start: Tensor, rows: Tensor) -> _Climbers:
        """Returns all images at their first points ``(n, C, H, W)``."""
        none = torch.full((len(rows),), -torch.inf, dtype=torch.float32, device=start.device)
        return cls(
            rows=rows,
            point=start,
            previous=start,
            scale=torch.ones_like(none),
            best_value=none,
            best_point=start,
            best_gradient=torch.zeros_like(start),
            last_value=-none,
            gains=torch.zeros_like(none),
            checked_value=none,
            halved=torch.ones_like(none, dtype=torch.bool),
        )

    def only(self, chosen: Tensor) -> _Climbers:
        """Returns those that are ``chosen``, (n,) bool."""
        return _Climbers(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def remember(self, value: Tensor, gradient: Tensor, since: int | None) -> Tensor:
        """Auto-PGD's bookkeeping at a point: its loss and gradient; returns the gradient to go on with.

        ``since`` is the number of steps since the last checkpoint, if there is one here. There, images whose loss rose
        in less than three quarters of these steps, or whose best loss and step are as they were, go back to their best
        point with half the step.
        """
        better = value > self.best_value
        self.best_value = torch.where(better, value, self.best_value)
        self.best_point = torch.where(_as_images(better), self.point, self.best_point)
        self.best_gradient = torch.where(_as_images(better), gradient, self.best_gradient)
        self.gains = self.gains + (value > self.last_value)
        self.last_value = value
        if since is None:
            return gradient
        stuck = ~self.halved & (self.best_value <= self.checked_value)
        self.halved = stuck | (self.gains <= 0.75 * since)
        self.scale = torch.where(self.halved, self.scale / 2, self.scale)
        self.checked_value, self.gains = self.best_value, torch.zeros_like(self.gains)
        self.point = torch.where(_as_images(self.halved), self.best_point, self.point)
        return torch.where(_as_images(self.halved), self.best_gradient, gradient)


def check_climber(attack: Attack, flags: tuple[str, ...], **choices: tuple[str, ...]) -> None:
    """Refuses settings that no attack by steps can have: those that `PGD` and ``Flip`` share.

    Args:
        attack: with "steps", "restarts", "draws", "norm", "seed" and "label".
        flags: names of the settings that are True or False.
        choices: the names that a setting may have.

    Raises:
        TypeError, ValueError: with the setting's name, what it must be, and its value.
    """
    check_norm(attack.norm)
    for setting in ("steps", "restarts", "draws"):
        check_whole(setting, getattr(attack, setting), 1)
    check_seed("seed", attack.seed)
    label = getattr(attack, "label", None)
    if label is not None:
        check_text("label", label)
    check_flags(attack, *flags)
    for setting, known in choices.items():
        if getattr(attack, setting) not in known:
            raise ValueError(f"{setting} must be one of {', '.join(known)}, got {getattr(attack, setting)!r}")


def goals(model: nn.Module, x: Tensor, y: Tensor, aim: Aim, restarts: int) -> list[Tensor]:
    """Returns the classes ``(N,)`` whose loss each restart maximises."""
    if aim != "likeliest":
        return [y] * restarts
    with torch.no_grad():
        ranked = others_ranked(model(x), y)
    # With more restarts than other classes, the first one follows again.
    return [ranked[:, number % ranked.shape[1]] for number in range(restarts)]


def _checkpoints(steps: int) -> dict[int, int]:
    """Auto-PGD's checkpoints, each with the number of steps since the one before (arXiv 2003.01690, sec. 3.1)."""
    hundredths = [0, 22]
    while hundredths[-1] < 100:
        hundredths.append(hundredths[-1] + max(hundredths[-1] - hundredths[-2] - 3, 6))
    places = [-(-share * steps // 100) for share in hundredths]
    return {place: place - before for before, place in pairwise(places) if place > before}


def _unit(images: Tensor) -> Tensor:
    """Divides each image by its Euclidean length, however small that is."""
    scaled = images / images.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(images.dtype).tiny).view(-1, 1, 1, 1)
    return scaled / scaled.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)


def _as_images(flags: Tensor) -> Tensor:
    return flags.view(-1, 1, 1, 1)
