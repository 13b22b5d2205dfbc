"""The common part of all experiments: images are attacked, and the exact forward pass judges them.

A *cell* is one judged experiment: a defence, a threat, an attack, a radius. Two rules hold everywhere. The verdict is
the exact forward pass of the defended network, whatever gradient the attacker used. And an attacker may leave an image
alone: an image counts as right in a cell only if it is also right without any attack.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fdjpeg.attacks import Attack, AttackResult, distances, format_eps, margin
from fdjpeg.attacks.base import image_seed, seeded
from fdjpeg.defenses import UNDEFENDED, Defended
from fdjpeg.sources import ImageSet, Network
from fdjpeg.sources.image_set import to_bytes

from .cells import Cell, Picture, rights
from .memory import in_batches
from .plan import Plan

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Some images of the set, on the network's device.

    Attributes:
        number: 0 for the first images of the set.
        indices: ``(N,)``, int64, on the CPU: their places in the set.
        x, y: images ``(N, C, H, W)`` in [0, 1] and classes ``(N,)``.
    """

    number: int
    indices: Tensor
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Crafted:
    """The images ``(N, C, H, W)`` that an attack made from a batch, and its cost."""

    x_adv: Tensor
    loss: list[float]
    attacked: int
    queries: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """One experiment.

    Attributes:
        name: its name in the progress bar.
        settings: everything that decides its cells, except images, network and versions of packages.
        compute: makes its cells for one batch.
    """

    name: str
    settings: dict[str, Any]
    compute: Callable[[Batch], list[Cell]]


class Evaluation:
    """One run: the network, images and defences, and how images are attacked and judged.

    Args:
        network: the bare network.
        images: all images of the run.
        defenses: those of the plan, parsed; the bare network comes before them.
        plan: the settings.
    """

    def __init__(self, network: Network, images: ImageSet, defenses: Sequence[Defended], plan: Plan) -> None:
        self.network = network
        self.images = images
        self.defenses = [UNDEFENDED, *defenses]
        self.plan = plan
        #: Images that go through the network together; halved when the device's memory does not suffice.
        self.at_once = plan.batch_size
        #: Cells of this process so far, by the number of their batch.
        self.found: dict[int, list[Cell]] = {}

    # --- images and verdicts ----------------------------------------------------------------------------------------

    @cached_property
    def batch_indices(self) -> list[Tensor]:
        """The places of each batch's images: consecutive ones."""
        return list(torch.arange(len(self.images)).split(self.plan.batch_size))

    def batch(self, number: int) -> Batch:
        """Returns the batch of that number."""
        indices, device = self.batch_indices[number], self.network.device
        return Batch(number, indices, self.images.images[indices].to(device), self.images.labels[indices].to(device))

    def in_parts(self, size: int, compute: Callable[[Tensor], T]) -> list[T]:
        """Calls ``compute`` for consecutive parts of the places 0 … size − 1, as large as the device's memory allows.

        Raises:
            ValueError: if the memory does not hold one image.
        """
        results = []
        for places, result in in_batches(compute, torch.arange(size), self.at_once):
            if len(places) < min(self.at_once, size - int(places[0])):
                self.at_once = len(places)
            results.append(result)
        return results

    @cached_property
    def random(self) -> dict[str, bool]:
        """Whether each defence draws again in every call."""
        # Noise, which every draw changes differently; a flat image looks the same at every quality.
        noise = torch.rand(self.images.images[:1].shape, generator=torch.Generator().manual_seed(0))
        image = noise.to(self.network.device)
        found = {}
        for defense in self.defenses:
            module = defense.layer if defense.layer is not None else defense.deployed(self.network.module)
            outputs = []
            for seed in (0, 1):
                with torch.no_grad(), seeded(seed, image.device):
                    outputs.append(module(image))
            found[defense.name] = not torch.equal(*outputs)
        return found

    def describe(self, defense: Defended) -> list[Any]:
        """Returns everything about a defence that decides a figure."""
        return [defense.digest(), self.plan.draws if self.random[defense.name] else 1]

    def judge(self, model: nn.Module, x: Tensor, y: Tensor, batch: Batch, draws: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the first draw's classes, shares right and mean margins under the exact forward pass, on the CPU.

        Draws are seeded by the batch, and do not depend on earlier draws.
        """
        predicted, right, margins = [], [], []
        for draw in range(draws):
            with (
                torch.no_grad(),
                seeded(image_seed(self.plan.seed, f"verdict {draw}", int(batch.indices[0])), x.device),
            ):
                logits = torch.cat(self.in_parts(len(x), lambda part: model(x[part]).float()))
            predicted.append(logits.argmax(dim=1).cpu())
            right.append((predicted[-1] == y.cpu()).double())
            margins.append(margin(logits, y).double().cpu())
        return predicted[0], torch.stack(right).mean(dim=0), torch.stack(margins).mean(dim=0)

    def cell(
        self,
        batch: Batch,
        defense: Defended,
        threat: str,
        made: Crafted,
        *,
        attack: Attack | None = None,
        eps: Fraction | None = None,
        gradient: str | None = None,
        source: str | None = None,
        model: nn.Module | None = None,
    ) -> Cell:
        """Judges images by ``model``, the deployed one if None; the other arguments are fields of the cell."""
        model = defense.deployed(self.network.module) if model is None else model
        draws = self.plan.draws if self.random.get(defense.name) else 1
        predicted, right, margins = self.judge(model, made.x_adv, batch.y, batch, draws)
        differing = None
        if defense.oracle is not None and defense.layer is not None:
            with torch.no_grad():
                ours = to_bytes(defense.layer(made.x_adv)).cpu()
            differing = int((ours != defense.oracle(to_bytes(made.x_adv).cpu())).sum())
        start = defense.entered(batch.x)
        return Cell(
            defense=defense.name,
            threat=threat,
            attack=None if attack is None else attack.name,
            gradient=gradient,
            source=source,
            eps=None if eps is None else format_eps(eps),
            indices=batch.indices.tolist(),
            predicted=predicted.tolist(),
            right=right.tolist(),
            margin=[round(value, 4) for value in margins.tolist()],
            distance=[round(value, 7) for value in distances(made.x_adv, start, self.plan.ball).tolist()],
            loss=made.loss,
            attacked=made.attacked,
            differing=differing,
            queries=made.queries,
            seconds=round(made.seconds, 2),
            pictures=self.shown(batch, defense, made) if threat in ("white-box", "adaptive") else [],
        )

    def shown(self, batch: Batch, defense: Defended, made: Crafted) -> list[Picture]:
        """Returns pictures of the first few images of the first batch that were right without an attack."""
        if batch.number > 0 or self.plan.pictures == 0:
            return []
        chosen = self.clean(batch, defense).nonzero().flatten()[: self.plan.pictures].to(batch.x.device)
        with torch.no_grad():
            start, x_adv = defense.entered(batch.x)[chosen], made.x_adv[chosen]
            with seeded(self.plan.seed, x_adv.device):
                defended = x_adv if defense.layer is None else defense.layer(x_adv)
        rows = zip(batch.indices[chosen.cpu()].tolist(), *map(_bytes, (start, x_adv, defended)), strict=True)
        return [Picture(*row) for row in rows]

    def select(self, batch: Batch, defense: Defended, *threats: str, eps: str | None = None) -> list[Cell]:
        """Returns the cells of this batch found so far."""
        return [
            cell
            for cell in self.found.get(batch.number, [])
            if cell.defense == defense.name and cell.threat in threats and eps in (None, cell.eps)
        ]

    def clean(self, batch: Batch, defense: Defended) -> Tensor:
        """Returns ``(N,)`` bool: which images are right without an attack in any draw, and so can be attacked."""
        (cell,) = self.select(batch, defense, "clean")
        return rights(cell) > 0

    def survivors(self, batch: Batch, defense: Defended, eps: str) -> Tensor:
        """Returns ``(N,)`` bool: which images are right under every attack so far."""
        cells = self.select(batch, defense, "white-box", "adaptive", eps=eps)
        return torch.stack([self.clean(batch, defense), *(rights(cell) > 0 for cell in cells)]).all(dim=0)

    # --- attacks ----------------------------------------------------------------------------------------------------

    def craft(
        self,
        attack: Attack,
        model: nn.Module,
        judge: nn.Module | None,
        batch: Batch,
        x: Tensor,
        eps: Fraction,
        chosen: Tensor,
    ) -> Crafted:
        """Attacks those images of ``x`` that are ``chosen``; the others stay as they are.

        Raises:
            ValueError: if the attack does not return images.
        """
        start = time.perf_counter()
        rows = chosen.nonzero().flatten()
        on_device = rows.to(x.device)

        def attacked(part: Tensor) -> AttackResult:
            at = on_device[part.to(x.device)]
            result = attack.run(model, x[at], batch.y[at], float(eps), indices=batch.indices[rows[part]], judge=judge)
            if result.x_adv.shape != x[at].shape or not bool(((result.x_adv >= 0) & (result.x_adv <= 1)).all()):
                raise ValueError(f"attack {attack.name} must return images like its input in [0, 1], got others")
            return result

        results = self.in_parts(len(rows), attacked)
        x_adv = x.clone()
        if results:
            x_adv[on_device] = torch.cat([result.x_adv for result in results]).detach().to(x.dtype)
        curves = [result.loss_curve for result in results if result.loss_curve is not None]
        together = bool(curves) and len({len(curve) for curve in curves}) == 1
        summed = torch.cat(curves, dim=1).double().sum(dim=1).tolist() if together else []
        return Crafted(
            x_adv,
            loss=[round(value, 4) for value in summed],
            attacked=len(rows) if together else 0,
            queries=sum(result.queries for result in results),
            seconds=time.perf_counter() - start,
        )

    def through(
        self, attack: Attack, defense: Defended, gradient: str | None, batch: Batch, eps: Fraction, chosen: Tensor
    ) -> Crafted:
        """Attacks the defended network through one of its gradients."""
        network = self.network.module
        model = defense.deployed(network) if gradient is None else defense.attacked(network, gradient)
        judge = None if defense.exact or gradient is None else defense.deployed(network)
        attack = self.averaged(attack) if self.random[defense.name] else attack
        return self.craft(attack, model, judge, batch, defense.entered(batch.x), eps, chosen)

    def averaged(self, attack: Attack) -> Attack:
        """Returns the attack with the plan's number of draws for each gradient, if it has such a setting."""
        return replace(attack, draws=self.plan.draws) if hasattr(attack, "draws") else attack  # type: ignore[type-var]


def _bytes(images: Tensor) -> Tensor:
    return to_bytes(images).cpu()
