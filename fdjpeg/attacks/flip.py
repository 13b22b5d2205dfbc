"""An attack on the quantized coefficients behind a JPEG layer, which needs no surrogate for its rounding.

The forward pass of a defended network is a function of whole numbers: image → quantized coefficients → decoded image →
logits. Between two ties of rounding nothing changes. A surrogate multiplies the true sensitivity to the coefficients,
which is exact and costs one gradient at the decoded image, by a slope that does not know the radius. Flip keeps the two
apart: one gradient of the network gives each coefficient's sensitivity, and `fdjpeg.attacks.candidates` finds, without
the network, reachable coefficients of large gain. The method is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fdjpeg._calls import logits_of
from fdjpeg._numbers import make_plain

from .base import Attack, Counted, Found, Norm, draw
from .byte_grid import on_byte_grid
from .choice import Draws, best_of_each_unit, searched
from .codec import Codec, codecs_of, inward, is_random
from .exposed import Exposed
from .losses import AWAY, LOSSES, TOWARDS, Ascent, LossFunction, margin, margin_towards
from .pgd import AIMS, Aim, _Best, check_climber, goals
from .reachable import Ball, Box

#: Share of the sensitivities so far in those that the inner problem gets.
MOMENTUM = 0.75

#: Samples of images for which the inner problem is solved at once, so that its planes stay in a processor's cache.
AT_ONCE = {"cpu": 1 << 18}
AT_ONCE_ELSEWHERE = 1 << 25


@dataclass(frozen=True)
class Flip(Attack):
    """Searches the reachable quantized coefficients by their sensitivities.

    ``model`` must be an `Exposed`, which shows its JPEG layers. In every step one gradient of the network at the exact
    decoded image gives each coefficient's sensitivity, momentum smooths it, and each unit (an MCU, or a block of one
    channel) moves to the best of a few candidates, judged by the exact encoder. Of all points visited it returns the
    one of the largest margin under the judge.

    For each sample it searches the bytes that a codec can be made to see, ``rint(255 (x − eps))`` …
    ``rint(255 (x + eps))``, and returns for each the point of the ball that rounds to it and is nearest to it. In the
    norm "l2" units share the radius, and each pays a price for its part of it.

    The inner problem is solved for a few images at once, at most 2¹⁸ samples on a CPU (2²⁵ on another device), or for
    one larger image. It needs up to 30 times the memory of these images, besides the network.

    Attributes:
        steps: gradient steps for each start.
        restarts: number of starts: the image itself, then random ones.
        loss: the loss that is climbed: a key of ``LOSSES``.
        seed: of the random starts and draws; each image's also depend on its index and the restart.
        until_fooled: leave an image alone as soon as it is misclassified (of several draws: under each of them).
        norm: "linf" or "l2".
        aim: "away" from the true class; at the "likeliest" wrong classes, each restart at another; or at the classes
            "given" in place of the true ones: then an image counts as fooled once it is taken for that class.
        draws: of a randomised layer, at each point; sensitivities are their mean.
        whole_bytes: visit only images of whole bytes k / 255, as files hold them; ``x`` must be such images.
        label: the name in reports; None makes one of the other settings.

    Example::

        exposed = Exposed([fdjpeg.JPEG(75)], [network])
        x_adv = Flip(steps=20)(exposed, x, y, 1 / 255)
    """

    steps: int = 20
    restarts: int = 1
    loss: str = "cross-entropy"
    seed: int = 0
    until_fooled: bool = True
    norm: Norm = "linf"
    aim: Aim = "away"
    draws: int = 1
    whole_bytes: bool = False
    label: str | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        check_climber(self, ("until_fooled", "whole_bytes"), loss=tuple(LOSSES), aim=AIMS)

    @property
    def name(self) -> str:
        """For instance "Flip-20", "Flip-100×5" or "Flip-margin-20"."""
        if self.label is not None:
            return self.label
        loss = "" if self.loss == "cross-entropy" else f"-{self.loss}"
        aim = "" if self.aim == "away" else "-targeted"
        return f"Flip{loss}{aim}-{self.steps}" + (f"×{self.restarts}" if self.restarts > 1 else "")

    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        """See ``Attack.run``."""
        exposed = model.model
        if not isinstance(exposed, Exposed):
            raise TypeError(
                f"model must be an Exposed, which shows its JPEG layers, for the attack {self.name}, "
                f"got {type(exposed).__name__}"
            )
        if self.whole_bytes and not bool(on_byte_grid(x).all()):
            raise ValueError("x must be images of whole bytes k / 255 for an attack with whole_bytes")
        best = _Best(x, self.steps + 1)
        for restart, goal in enumerate(goals(model, x, y, self.aim, self.restarts)):
            rows = (~best.fooled).nonzero().flatten() if self.until_fooled else torch.arange(len(x), device=x.device)
            if len(rows) == 0:
                break
            view = _View(
                model=model,
                exposed=exposed,
                judge=judge,
                ascent=(AWAY if self.aim == "away" else TOWARDS)[self.loss],
                score=margin_towards if self.aim == "given" else margin,
                goal=goal,
                y=y,
            )
            self._restart(view, best, rows, x, eps, indices, restart)
            best.end_restart()
        return Found(best.x_adv, best.score, best.curve)

    def _restart(
        self, view: _View, best: _Best, rows: Tensor, x: Tensor, eps: float, indices: Tensor, restart: int
    ) -> None:
        """Climbs from one start; what is better than before goes into ``best``."""
        draws = self._draws(view.exposed, x, indices, f"{restart} 0")
        random = any(is_random(layer) for layer in view.exposed.layers)
        rounds = any(passes[0].arithmetic == "libjpeg" for passes in draws[0])
        box = (Ball if self.norm == "l2" else Box).of(x[rows], eps, rounds, self.whole_bytes)
        here = _Climbers(rows, box, box.origin, [])
        if restart > 0:
            here.levels = box.at(draw(x.shape[1:], indices[rows.cpu()], self.seed, f"start {restart}").to(x))
        for number in range(self.steps + 1):
            if random and number > 0:
                draws = self._draws(view.exposed, x, indices, f"{restart} {number}")
            points = here.box.images(here.levels)
            used = _only(draws, here.rows)
            look = view.look(points, here.rows, used, differentiate=number < self.steps)
            best.note(here.rows, number, points, look)  # type: ignore[arg-type]
            if number == self.steps:
                return
            going = ~look.fooled if self.until_fooled else torch.ones_like(look.fooled)
            if not bool(going.any()):
                return
            self._move(here, used, look, going.nonzero().flatten(), indices, restart, number)

    def _draws(self, exposed: Exposed, x: Tensor, indices: Tensor, purpose: str) -> Draws:
        """The passes of each branch in each draw."""
        return [
            [
                codecs_of(layer, x, indices, self.seed, f"quality {purpose} {number} {branch}")
                for branch, layer in enumerate(exposed.layers)
            ]
            for number in range(self.draws)
        ]

    def _move(
        self, here: _Climbers, draws: Draws, look: _Look, going: Tensor, indices: Tensor, restart: int, number: int
    ) -> None:
        """One step of the images ``going``, in place."""
        draws = _only(draws, going)
        here.only(going)
        drawn = indices[here.rows.cpu()]
        gradients = _usable([part[going] for part in look.gradients], drawn, self.seed, f"{restart} {number}")
        here.remember(_normalised(gradients, draws[0]))
        # Climbs start at the point itself, at the image and at a random point, in turn: a second climb in each
        # step gained less than two per cent more to first order, at twice the cost.
        random = (
            draw(here.levels.shape[1:], drawn, self.seed, f"anywhere {restart} {number}") if number % 3 == 2 else None
        )
        size = max(1, AT_ONCE.get(here.levels.device.type, AT_ONCE_ELSEWHERE) // max(1, here.levels[0].numel()))
        moved = []
        for part in torch.arange(len(here.rows), device=here.rows.device).split(size):
            box = here.box.only(part)
            levels = here.levels[part]
            start = levels if number % 3 == 0 else box.origin
            if random is not None:
                start = box.at(random[part.cpu()].to(levels))
            own = [gradient[part] for gradient in here.gradients]
            moved.append(best_of_each_unit(box, _only(draws, part), own, levels, start))
        here.levels = torch.cat(moved)


def _only(draws: Draws, rows: Tensor) -> Draws:
    """The codecs of some images of the batch."""
    found: dict[int, Codec] = {}
    return [
        [[found.setdefault(id(codec), codec.only(rows)) for codec in passes] for passes in branches]
        for branches in draws
    ]


def _normalised(gradients: list[Tensor], branches: list[list[Codec]]) -> list[Tensor]:
    """Gradients, divided by an image's mean absolute sensitivity of the last passes, in steps of the first draw."""
    total, count, first = torch.zeros(1, dtype=torch.float32, device="cpu"), 0, 0
    for passes in branches:
        first += len(searched(passes))
        codec, gradient = passes[-1], gradients[first - 1]
        for slope, step in zip(codec.sensitivity(gradient), codec.steps(), strict=True):
            total = total.to(slope) + (slope * step).abs().flatten(1).sum(dim=1)
            count += slope[0].numel()
    scale = (count / total.clamp_min(1e-30)).view(-1, 1, 1, 1)
    return [gradient * scale for gradient in gradients]


def _usable(gradients: list[Tensor], indices: Tensor, seed: int, purpose: str) -> list[Tensor]:
    """Gradients, where all of an image are zero or not finite random ones."""
    found = [gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for gradient in gradients]
    lost = torch.stack([(gradient == 0).flatten(1).all(dim=1) for gradient in found]).all(dim=0)
    if bool(lost.any()):
        for place, gradient in enumerate(found):
            random = draw(gradient.shape[1:], indices[lost.cpu()], seed, f"direction {purpose} {place}", normal=True)
            gradient[lost] = random.to(gradient)
    return found


@dataclass
class _Look:
    """A network's answer at n points."""

    value: Tensor  # (n,), the loss that is climbed
    score: Tensor  # (n,), the judge's margin: of several draws the mean
    fooled: Tensor  # (n,) bool, under each draw
    gradients: list[Tensor]  # by each searched pass's output, of each branch; sums over draws; empty if not asked for


@dataclass
class _View:
    """How one restart sees points: the classifiers behind the layers, the judge, the loss and its classes."""

    model: Counted
    exposed: Exposed
    judge: nn.Module | None
    ascent: Ascent
    score: LossFunction
    goal: Tensor  # (N,), the classes of the loss
    y: Tensor  # (N,), the classes of the score

    def look(self, points: Tensor, rows: Tensor, draws: Draws, differentiate: bool) -> _Look:
        """Looks at points ``(n, C, H, W)`` of the images ``rows`` in each draw."""
        values, scores = [], []
        gradients: list[Tensor] = []
        for branches in draws:
            value, score, found = self._one_draw(points, rows, branches, differentiate)
            values.append(value)
            scores.append(score)
            gradients = [a + b for a, b in zip(gradients, found, strict=True)] if gradients else found
        score = torch.stack(scores)
        return _Look(torch.stack(values).mean(dim=0), score.mean(dim=0), (score > 0).all(dim=0), gradients)

    def _one_draw(
        self, points: Tensor, rows: Tensor, branches: list[list[Codec]], differentiate: bool
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        logits, seen = [], []
        with torch.set_grad_enabled(differentiate):
            for passes, classifier in zip(branches, self.exposed.classifiers, strict=True):
                images, outputs = _decoded(passes, points, differentiate)
                seen += outputs
                logits.append(logits_of(classifier, images).float())
            climbed = logits[0]
            if len(logits) > 1:
                climbed = torch.stack([part.log_softmax(dim=1) for part in logits]).mean(dim=0)
            value = self.ascent.value(climbed.detach(), self.goal[rows])
            gradients: list[Tensor] = []
            if differentiate:
                climb = self.ascent.climb(climbed, self.goal[rows]).sum()
                found = torch.autograd.grad(climb, seen)
                gradients = [
                    inward(gradient, images.detach()).float() for gradient, images in zip(found, seen, strict=True)
                ]
        with torch.no_grad():
            verdict = self.model.checked(self.exposed.verdict([part.detach() for part in logits]), len(points))
            if self.judge is not None:
                verdict = self.judge(points)
            return value, self.score(verdict.float(), self.y[rows]), gradients


def _decoded(passes: list[Codec], images: Tensor, differentiate: bool) -> tuple[Tensor, list[Tensor]]:
    """The output of the last pass, and those of all passes that are searched, each differentiable from there on."""
    outputs = []
    for place, codec in enumerate(passes):
        images = codec(images)
        if place in searched(passes):
            outputs.append(images if images.requires_grad else images.requires_grad_(differentiate))
    return images, outputs


@dataclass
class _Climbers:
    """The images that are still under attack in one restart, n of them."""

    rows: Tensor  # (n,), their places in the batch
    box: Box
    levels: Tensor  # (n, C, H, W), where they are
    gradients: list[Tensor]  # as of `_Look`, smoothed; empty before the first step

    def only(self, chosen: Tensor) -> None:
        """Leaves out all but those that are ``chosen``, by their places among the n."""
        self.rows, self.box, self.levels = self.rows[chosen], self.box.only(chosen), self.levels[chosen]
        self.gradients = [gradient[chosen] for gradient in self.gradients]

    def remember(self, new: list[Tensor]) -> None:
        """Mixes new gradients into those so far."""
        if not self.gradients:
            self.gradients = new
            return
        self.gradients = [
            MOMENTUM * before + (1 - MOMENTUM) * now for before, now in zip(self.gradients, new, strict=True)
        ]
