"""AutoAttack's parts (Croce & Hein 2020, arXiv 2003.01690) through the package pyautoattack.

The parts are called one by one with our own starts. pyautoattack seeds torch's global generators and draws for whole
batches, so an image's result would depend on the images around it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fdjpeg._checks import check_seed, check_whole
from fdjpeg._numbers import make_plain

from .base import (
    Attack,
    Counted,
    Found,
    Norm,
    check_norm,
    check_package,
    distances,
    draw,
    image_seed,
    project,
    seed_generators,
)
from .losses import margin, others_ranked

#: pyautoattack's names of norms.
THEIR_NORMS = {"linf": "Linf", "l2": "L2"}


@dataclass(frozen=True)
class APGD(Attack):
    """Auto-PGD: step sizes that adapt, momentum, no parameter to tune.

    Attributes:
        loss: "ce", "dlr", or "dlr-targeted": the targeted difference of logits ratio (APGD-T).
        steps: gradient steps for each start.
        restarts: random starts; for "dlr-targeted" the number of target classes, the likeliest wrong ones, each with
            one start. Fewer where there are fewer classes.
        draws: number of draws of a randomised model at each step; with more than one, images are attacked one by one.
        seed: of the random starts; each image's also depends on its index and the restart.
        norm: "linf" or "l2".

    Example::

        x_adv = APGD(loss="dlr", steps=100)(model, x, y, eps=4 / 255)
    """

    loss: Literal["ce", "dlr", "dlr-targeted"] = "ce"
    steps: int = 100
    restarts: int = 1
    draws: int = 1
    seed: int = 0
    foreign: ClassVar[bool] = True
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        make_plain(self)
        check_norm(self.norm)
        if self.loss not in ("ce", "dlr", "dlr-targeted"):
            raise ValueError(f"loss must be one of ce, dlr, dlr-targeted, got {self.loss!r}")
        _check_positive(self, "steps", "restarts", "draws")
        check_package("pyautoattack", self.name)

    @property
    def name(self) -> str:
        """For instance "APGD-ce-100" or "APGD-T-100×9"."""
        kind = "APGD-T" if self.loss == "dlr-targeted" else f"APGD-{self.loss.upper()}"
        return f"{kind}-{self.steps}" + (f"×{self.restarts}" if self.restarts > 1 else "")

    @property
    def one_at_a_time(self) -> bool:
        """A randomised model draws for the whole batch at once."""
        return self.draws > 1

    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        """See ``Attack.run``."""
        from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

        targeted = self.loss == "dlr-targeted"
        options: dict[str, Any] = {} if targeted else {"loss": self.loss}
        theirs = (APGDAttack_targeted if targeted else APGDAttack)(
            model,
            n_iter=self.steps,
            norm=THEIR_NORMS[self.norm],
            eps=eps,
            eot_iter=self.draws,
            device=x.device,
            logger=_Silent(),
            **options,
        )
        theirs.init_hyperparam(x)
        with torch.no_grad():
            logits = model(x)
        _check_classes(logits, {"ce": 2, "dlr": 3, "dlr-targeted": 4}[self.loss], self.name)
        x_adv, left = x.clone(), margin(logits, y) <= 0
        likeliest = others_ranked(logits, y)
        for restart in range(min(self.restarts, logits.shape[1] - 1) if targeted else self.restarts):
            rows = left.nonzero().flatten()
            if len(rows) == 0:
                break
            theirs.y_target = likeliest[rows, restart] if targeted else None
            start = self._start(x[rows], eps, indices[rows.cpu()], restart)
            _, right, _, found = theirs.attack_single_run(x[rows], y[rows], x_init=start)
            x_adv[rows] = found.detach()
            left[rows] = right.bool()
        return Found(x_adv)

    def _start(self, x: Tensor, eps: float, indices: Tensor, restart: int) -> Tensor:
        """Auto-PGD's random first point: on the ball's surface."""
        if self.norm == "linf":
            noise = 2 * draw(x.shape[1:], indices, self.seed, f"start {restart}").to(x) - 1
        else:
            noise = draw(x.shape[1:], indices, self.seed, f"start {restart}", normal=True).to(x)
        size = distances(noise, torch.zeros_like(noise), self.norm).view(-1, 1, 1, 1)
        return project(x + eps * noise / size, x, eps, self.norm)


@dataclass(frozen=True)
class FAB(Attack):
    """The fast adaptive boundary attack (Croce & Hein 2020, arXiv 1907.02044), towards the likeliest wrong classes.

    It searches for the nearest misclassified image, and succeeds if that is within ``eps``. It has no random start.

    Attributes:
        steps: for each target class.
        targets: number of wrong classes tried, the likeliest first. Fewer where there are fewer classes.
        seed: not used; every attack has this field.
        norm: "linf" or "l2".

    Example::

        x_adv = FAB(steps=100)(model, x, y, eps=4 / 255)
    """

    steps: int = 100
    targets: int = 9
    seed: int = 0
    foreign: ClassVar[bool] = True
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        make_plain(self)
        check_norm(self.norm)
        check_package("pyautoattack", self.name)
        _check_positive(self, "steps", "targets")

    @property
    def name(self) -> str:
        """For instance "FAB-T-100×9"."""
        return f"FAB-T-{self.steps}×{self.targets}"

    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        """See ``Attack.run``."""
        from pyautoattack.fab_pt import FABAttack_PT

        theirs = FABAttack_PT(
            _Single(model), n_iter=self.steps, norm=THEIR_NORMS[self.norm], eps=eps, targeted=True, device=x.device
        )
        with torch.no_grad():
            logits = model(x)
        distance = torch.full_like(x[:, 0, 0, 0], torch.inf)
        distance[margin(logits, y) > 0] = 0
        x_adv = x.clone()
        for target in range(min(self.targets, logits.shape[1] - 1)):
            rows = (distance > eps).nonzero().flatten()
            if len(rows) == 0:
                break
            theirs.target_class = target + 2  # counted from the most likely class, which is the true one
            found = theirs.attack_single_run(x[rows].float(), y[rows], is_targeted=True).detach().to(x.dtype)
            with torch.no_grad():
                fooled = margin(model(found), y[rows]) > 0
            nearer = fooled & (distances(found, x[rows], self.norm) < distance[rows])
            x_adv[rows[nearer]] = found[nearer]
            distance[rows[nearer]] = distances(found, x[rows], self.norm)[nearer]
        return Found(torch.where((distance <= eps).view(-1, 1, 1, 1), x_adv, x), distance=distance)


@dataclass(frozen=True)
class Square(Attack):
    """Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): random search by queries, no gradient.

    Attributes:
        queries: the greatest number for each image. A misclassified image is not queried again.
        seed: of the search.
        norm: "linf" or "l2".

    Example::

        x_adv = Square(queries=1000)(model, x, y, eps=4 / 255)
    """

    queries: int = 5000
    seed: int = 0
    foreign: ClassVar[bool] = True
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        make_plain(self)
        check_norm(self.norm)
        check_package("pyautoattack", self.name)
        _check_positive(self, "queries")

    @property
    def name(self) -> str:
        """For instance "Square-5000"."""
        return f"Square-{self.queries}"

    @property
    def one_at_a_time(self) -> bool:
        """In L2 it draws numbers for the images of a batch together."""
        return self.norm == "l2"

    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        """See ``Attack.run``."""
        from pyautoattack.square import SquareAttack

        if self.norm == "l2":
            _check_tiles(x.shape[2], x.shape[3])
        theirs = SquareAttack(
            model,
            n_queries=self.queries,
            norm=THEIR_NORMS[self.norm],
            eps=eps,
            device=x.device,
            resc_schedule=False,
        )
        theirs.init_hyperparam(x)
        with torch.no_grad():
            before = margin(model(x), y)
        rows = (before <= 0).nonzero().flatten()
        x_adv = x.clone()
        if len(rows) == 0:
            return Found(x_adv)
        if bool((before == 0).any()):
            theirs.predict = _Untied(model, y[rows]) if self.norm == "l2" else theirs.predict
        if self.norm == "linf":
            # Each image has its own stripes to start from; the squares are the same for all.
            stripes = draw(torch.Size([x.shape[1], 1, x.shape[3]]), indices[rows.cpu()], self.seed, "stripes") < 0.5
            theirs.random_choice = _first_then(1 - 2 * stripes.to(x), theirs.random_choice)
            seed_generators(image_seed(self.seed, "squares", 0))
        with torch.no_grad():
            x_adv[rows] = theirs.attack_single_run(x[rows], y[rows])[1]
        return Found(x_adv)


class _Single(nn.Module):
    """A model whose logits, and so their gradients, are float32: pyautoattack's FAB mixes them with its own tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Returns the model's logits."""
        logits: Tensor = self.model(images)
        return logits.float()


class _Untied(nn.Module):
    """A model whose true logit is raised by the least possible amount, so that a tie is not taken for a success.

    pyautoattack's Square attack in L2 fails on images that are neither right nor wrong to it.
    """

    def __init__(self, model: nn.Module, y: Tensor) -> None:
        super().__init__()
        self.model, self.y = model, y

    def forward(self, images: Tensor) -> Tensor:
        """Returns the model's logits, those of the true classes raised."""
        logits: Tensor = self.model(images)
        true = self.y[:, None].expand(len(images), 1)
        return logits.scatter(1, true, torch.nextafter(logits.gather(1, true), logits.new_tensor(torch.inf)))


def _check_tiles(height: int, width: int) -> None:
    """Refuses images that pyautoattack's first point in L2, tiles of a fifth of the height, does not cover."""
    tile = height // 5
    border = (height - 5 * tile) // 2
    if tile == 0 or any(border + size // tile * tile > size for size in (height, width)):
        raise ValueError(
            f"x must be images that five tiles cover, such as 32 × 32 or 224 × 224, for Square in L2, "
            f"got {height} × {width}"
        )


def _first_then(first: Tensor, make: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """Returns a function whose first call returns ``first`` and whose other calls return the value of ``make``."""
    given = iter([first])

    def choice(shape: Any) -> Tensor:
        value = next(given, None)
        if value is None:
            return make(shape)
        if tuple(shape) != tuple(value.shape):
            raise RuntimeError(f"pyautoattack's Square attack asked for {tuple(shape)} first, not {tuple(value.shape)}")
        return value

    return choice


class _Silent:
    """Takes pyautoattack's warnings about zero gradients, which our sanity checks report with their figure."""

    def warning(self, message: str) -> None:
        """Discards the warning."""


def _check_positive(attack: Attack, *settings: str) -> None:
    for setting in settings:
        check_whole(setting, getattr(attack, setting), 1)
    check_seed("seed", attack.seed)


def _check_classes(logits: Tensor, least: int, name: str) -> None:
    if logits.shape[1] < least:
        raise ValueError(f"model must have at least {least} classes for {name}, got {logits.shape[1]}")
