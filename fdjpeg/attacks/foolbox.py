"""Attacks of the package foolbox: those that look for the nearest misclassified image, with gradients or by decisions.

Each succeeds at every radius that reaches the image it found, so one run serves every radius: see ``MinimumNorm.run``.
foolbox would leave gradients on parameters such as learnable tables; ``Attack.run`` prevents that.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fdjpeg._checks import check_positive, check_seed, check_whole
from fdjpeg._numbers import make_plain

from .base import NORMS, Attack, Counted, Found, Norm, check_norm, check_package, distances, project
from .losses import margin


class MinimumNorm(Attack):
    """An attack that searches for the nearest misclassified image.

    The result's ``distance`` is that image's, for any ``eps``; ``x_adv`` is that image if it is within ``eps``, else
    its projection into the ball. With ``eps`` of 1 ("linf") or the largest distance of interest ("l2"), the
    distances give the outcome at every smaller radius.

    Attributes:
        norms: those that it supports.
        positive: names of the settings that must be positive.

    Example::

        isinstance(DDN(), MinimumNorm)  # True
        DDN(steps=20).run(model, x, y, 10.0).distance  # (N,)
    """

    foreign: ClassVar[bool] = True
    norms: ClassVar[tuple[str, ...]] = NORMS
    positive: ClassVar[tuple[str, ...]] = ("steps",)

    def __post_init__(self) -> None:
        make_plain(self)
        check_norm(self.norm, self.norms)
        check_package("foolbox", self.name)
        for setting in self.positive:
            if setting == "step":
                check_positive(setting, getattr(self, setting))
            else:
                check_whole(setting, getattr(self, setting), 1)
        check_seed("seed", self.seed)

    @abstractmethod
    def theirs(self) -> Any:
        """Returns foolbox's attack."""

    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        """See ``Attack.run``."""
        import foolbox

        with torch.no_grad():
            rows = (margin(model(x), y) <= 0).nonzero().flatten()
        distance, x_adv = torch.zeros_like(x[:, 0, 0, 0]), x.clone()
        if len(rows):
            wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
            try:
                found, _, _ = self.theirs()(wrapped, x[rows], y[rows], epsilons=None)
            except ValueError as error:
                if "init_attack failed" not in str(error):
                    raise
                found = x[rows]  # without a misclassified image to start from, nothing is found
            # foolbox divides by the lengths of gradients and of moves, which may be zero.
            found = torch.where(found.isfinite(), found, x[rows]).detach().clamp(0, 1).to(x.dtype)
            with torch.no_grad():
                fooled = margin(model(found), y[rows]) > 0
            distance[rows] = torch.where(fooled, distances(found, x[rows], self.norm), torch.inf)
            x_adv[rows] = found
        return Found(project(x_adv, x, eps, self.norm), distance=distance)


@dataclass(frozen=True)
class DeepFool(MinimumNorm):
    """DeepFool (Moosavi-Dezfooli et al. 2016, arXiv 1511.04599): steps to the nearest linearised boundary.

    Attributes:
        steps: the greatest number.
        candidates: number of likeliest classes considered.
        seed: not used; every attack has this field.
        norm: "linf" or "l2".

    Example::

        x_adv = DeepFool(steps=50)(model, x, y, eps=4 / 255)
    """

    positive: ClassVar = ("steps", "candidates")

    steps: int = 50
    candidates: int = 10
    seed: int = 0
    norm: Norm = "linf"

    @property
    def name(self) -> str:
        """For instance "DeepFool-50"."""
        return f"DeepFool-{self.steps}"

    def theirs(self) -> Any:
        """Returns foolbox's attack."""
        from foolbox import attacks

        kind = attacks.LinfDeepFoolAttack if self.norm == "linf" else attacks.L2DeepFoolAttack
        return kind(steps=self.steps, candidates=self.candidates)


@dataclass(frozen=True)
class CarliniWagner(MinimumNorm):
    """Carlini and Wagner's L2 attack (2017, arXiv 1608.04644).

    Attributes:
        steps: number of Adam's steps for each weight of the loss.
        searches: number of weights tried by binary search.
        step: Adam's learning rate.
        seed: not used; every attack has this field.
        norm: "l2".

    Example::

        x_adv = CarliniWagner(steps=200)(model, x, y, eps=0.5)
    """

    norms: ClassVar = ("l2",)
    positive: ClassVar = ("steps", "searches", "step")

    steps: int = 200
    searches: int = 6
    step: float = 0.01
    seed: int = 0
    norm: Norm = "l2"

    @property
    def name(self) -> str:
        """For instance "CW-200×6"."""
        return f"CW-{self.steps}×{self.searches}"

    def theirs(self) -> Any:
        """Returns foolbox's attack without its early stop, which would stop all images of a batch at once."""
        from foolbox import attacks

        return attacks.L2CarliniWagnerAttack(
            binary_search_steps=self.searches, steps=self.steps, stepsize=self.step, abort_early=False
        )


@dataclass(frozen=True)
class DDN(MinimumNorm):
    """Decoupled direction and norm (Rony et al. 2019, arXiv 1811.09600).

    Attributes:
        steps: number of steps of gradient descent.
        seed: not used; every attack has this field.
        norm: "l2".

    Example::

        x_adv = DDN(steps=100)(model, x, y, eps=0.5)
    """

    norms: ClassVar = ("l2",)

    steps: int = 100
    seed: int = 0
    norm: Norm = "l2"

    @property
    def name(self) -> str:
        """For instance "DDN-100"."""
        return f"DDN-{self.steps}"

    def theirs(self) -> Any:
        """Returns foolbox's attack."""
        from foolbox import attacks

        return attacks.DDNAttack(steps=self.steps)


@dataclass(frozen=True)
class Boundary(MinimumNorm):
    """Boundary attack (Brendel et al. 2018, arXiv 1712.04248): a walk along the boundary by decisions alone.

    Attributes:
        steps: the greatest number; each queries the model about twice.
        seed: of the walk.
        norm: "l2".

    Example::

        x_adv = Boundary(steps=1000)(model, x, y, eps=0.5)
    """

    norms: ClassVar = ("l2",)

    steps: int = 5000
    seed: int = 0
    norm: Norm = "l2"

    @property
    def name(self) -> str:
        """For instance "Boundary-5000"."""
        return f"Boundary-{self.steps}"

    @property
    def one_at_a_time(self) -> bool:
        """It draws for the whole batch, and the images of a batch influence each other."""
        return True

    def theirs(self) -> Any:
        """Returns foolbox's attack."""
        from foolbox import attacks

        return attacks.BoundaryAttack(steps=self.steps)


@dataclass(frozen=True)
class HopSkipJump(MinimumNorm):
    """HopSkipJump (Chen et al. 2020, arXiv 1904.02144): a gradient estimated at the boundary by decisions alone.

    Attributes:
        steps: number of steps; each queries the model a few hundred times, later ones more often.
        seed: of the estimates.
        norm: "linf" or "l2".

    Example::

        x_adv = HopSkipJump(steps=10)(model, x, y, eps=4 / 255)
    """

    steps: int = 10
    seed: int = 0
    norm: Norm = "linf"

    @property
    def name(self) -> str:
        """For instance "HopSkipJump-10"."""
        return f"HopSkipJump-{self.steps}"

    @property
    def one_at_a_time(self) -> bool:
        """It draws for the whole batch."""
        return True

    def theirs(self) -> Any:
        """Returns foolbox's attack."""
        from foolbox import attacks

        return attacks.HopSkipJumpAttack(steps=self.steps, constraint=self.norm)
