"""The protocol: which attack meets which defended network, and what counts as success.

A *cell* is one judged experiment: a defence, a threat, an attack, a radius. Two rules hold everywhere. The verdict is
the exact forward pass of the defended network, whatever gradient the attacker used. And an attacker may leave an image
alone: an image counts as right in a cell only if it is also right without any attack.

A *job* makes cells of one batch of images. Batches are consecutive images, the same ones whatever the number of
processes; processes share the pairs of job and batch, and each finished pair is stored. So neither the number of
processes nor being killed and started again changes a figure.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import fdjpeg

from . import attacks as attack_library
from .attacks import (
    PGD,
    Attack,
    AttackResult,
    Boundary,
    HopSkipJump,
    Noise,
    Square,
    distances,
    format_eps,
    margin,
    parse_eps,
    zero_gradients,
)
from .attacks.base import image_seed, seeded
from .cells import Cell, Picture, join, rights
from .data import ImageSet, lattice_quality, to_bytes
from .layers import GRADIENTS, UNDEFENDED, ZERO, Defense, SeedFixed, layer_defense, of_module, parse_defense
from .memory import in_batches
from .models import Network, check_logits, evaluating
from .report import Report, versions
from .store import Store
from .world import World

T = TypeVar("T")

#: Called with the work done, the whole work (in images of all jobs) and what is being done now.
Progress = Callable[[int, int, str], None]

#: What ``evaluate`` takes as a defence.
Defended = str | nn.Module | Defense

#: Attacks that only ask for outputs.
GRADIENT_FREE = (Square, Boundary, HopSkipJump)

#: Images that are tried for traces of JPEG compression.
LATTICE_IMAGES = 50

#: Draws of a randomised defence in each gradient, and in each verdict.
DRAWS = 20


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
class Job:
    """One experiment.

    Attributes:
        name: as the progress prints it.
        settings: all that decides its cells, but for the images, the network and the versions of the packages.
        compute: makes its cells for one batch.
    """

    name: str
    settings: dict[str, Any]
    compute: Callable[[Batch], list[Cell]]


@dataclass(frozen=True)
class Crafted:
    """What an attack made of the images of a batch: ``(N, C, H, W)``, and what it cost."""

    x_adv: Tensor
    loss: list[float]
    attacked: int
    queries: int
    seconds: float


class Evaluation:
    """One run: what it attacks, by what, and the jobs that this makes.

    Args:
        network: the bare network.
        images: all images of the run.
        defenses: beside the bare network.
        attacks: each runs through each gradient of each defence.
        radii: ascending.
        transfer: other networks, whose adversarial images are tried.
        draws: see ``DRAWS``.
        checks: whether the sanity checks that need attacks of their own run.
        batch_size: images at once.
        pictures: images of the first batch that the report shows.
        seed: of all that is random.
    """

    def __init__(
        self,
        network: Network,
        images: ImageSet,
        defenses: Sequence[Defense],
        attacks: Sequence[Attack],
        radii: Sequence[Fraction],
        transfer: Sequence[Network],
        draws: int,
        checks: bool,
        batch_size: int,
        pictures: int,
        seed: int,
    ) -> None:
        self.network = network
        self.images = images
        self.defenses = [UNDEFENDED, *defenses]
        self.attacks = list(attacks)
        self.radii = list(radii)
        self.transfer = transfer
        self.draws = draws
        self.checks = checks
        self.batch_size = batch_size
        self.pictures = pictures
        self.seed = seed
        self.norm = attacks[0].norm
        #: Images that go through the network at once; halved when the device's memory does not suffice.
        self.at_once = batch_size
        #: Cells of this process so far, by the number of their batch.
        self.found: dict[int, list[Cell]] = {}

    # --- images and verdicts ----------------------------------------------------------------------------------------

    @cached_property
    def batch_indices(self) -> list[Tensor]:
        """Consecutive images."""
        return list(torch.arange(len(self.images)).split(self.batch_size))

    def batch(self, number: int) -> Batch:
        """The batch of that number."""
        indices, device = self.batch_indices[number], self.network.device
        return Batch(number, indices, self.images.images[indices].to(device), self.images.labels[indices].to(device))

    def in_parts(self, size: int, compute: Callable[[Tensor], T]) -> list[T]:
        """``compute`` for consecutive parts of the places 0 … size − 1, as many at once as the device's memory holds.

        Raises:
            ValueError: if it does not hold one image.
        """
        results = []
        for places, result in in_batches(compute, torch.arange(size), self.at_once):
            if len(places) < min(self.at_once, size - int(places[0])):
                self.at_once = len(places)
            results.append(result)
        return results

    @cached_property
    def random(self) -> dict[str, bool]:
        """Whether each defence draws anew in every call."""
        image = self.images.images[:1].to(self.network.device)
        found = {}
        for defense in self.defenses:
            module = defense.layer if defense.layer is not None else defense.deployed(self.network.module)
            outputs = []
            for seed in (0, 1):
                with torch.no_grad(), seeded(seed, image.device):
                    outputs.append(module(image))
            found[defense.name] = not torch.equal(*outputs)
        return found

    def judge(self, model: nn.Module, x: Tensor, y: Tensor, batch: Batch, draws: int) -> tuple[Tensor, Tensor, Tensor]:
        """The exact forward pass over images: the classes of the first draw, shares right and mean margins, on the CPU.

        Draws are seeded by the batch, not by what was drawn before.
        """
        predicted, right, margins = [], [], []
        for draw in range(draws):
            with torch.no_grad(), seeded(image_seed(self.seed, f"verdict {draw}", int(batch.indices[0])), x.device):
                logits = torch.cat(self.in_parts(len(x), lambda part: model(x[part]).float()))
            predicted.append(logits.argmax(dim=1).cpu())
            right.append((predicted[-1] == y.cpu()).double())
            margins.append(margin(logits, y).double().cpu())
        return predicted[0], torch.stack(right).mean(dim=0), torch.stack(margins).mean(dim=0)

    def cell(
        self,
        batch: Batch,
        defense: Defense,
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
        draws = self.draws if self.random.get(defense.name) else 1
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
            distance=[round(value, 7) for value in distances(made.x_adv, start, self.norm).tolist()],
            loss=made.loss,
            attacked=made.attacked,
            differing=differing,
            queries=made.queries,
            seconds=round(made.seconds, 2),
            pictures=self.shown(batch, defense, made) if threat in ("white-box", "adaptive") else [],
        )

    def shown(self, batch: Batch, defense: Defense, made: Crafted) -> list[Picture]:
        """The first few images of the first batch, if they were right without an attack."""
        if batch.number > 0 or self.pictures == 0:
            return []
        chosen = self.clean(batch, defense).nonzero().flatten()[: self.pictures].to(batch.x.device)
        with torch.no_grad():
            start, x_adv = defense.entered(batch.x)[chosen], made.x_adv[chosen]
            with seeded(self.seed, x_adv.device):
                defended = x_adv if defense.layer is None else defense.layer(x_adv)
        rows = zip(batch.indices[chosen.cpu()].tolist(), *map(_bytes, (start, x_adv, defended)), strict=True)
        return [Picture(*row) for row in rows]

    def select(self, batch: Batch, defense: Defense, *threats: str, eps: str | None = None) -> list[Cell]:
        """Cells of this batch that were found before."""
        return [
            cell
            for cell in self.found.get(batch.number, [])
            if cell.defense == defense.name and cell.threat in threats and eps in (None, cell.eps)
        ]

    def clean(self, batch: Batch, defense: Defense) -> Tensor:
        """``(N,)`` bool: which images are ever right without an attack, so that there is something to attack."""
        (cell,) = self.select(batch, defense, "clean")
        return rights(cell) > 0

    def survivors(self, batch: Batch, defense: Defense, eps: str) -> Tensor:
        """``(N,)`` bool: which images are right under every attack so far."""
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
        """Adversarial images of those of ``x`` that are ``chosen``; the others stay as they are.

        Raises:
            ValueError: if the attack returns something else than images.
        """
        start = time.perf_counter()
        rows = chosen.nonzero().flatten()
        on_device = rows.to(x.device)

        def attacked(part: Tensor) -> AttackResult:
            at = on_device[part.to(x.device)]
            result = attack.run(model, x[at], batch.y[at], float(eps), indices=batch.indices[rows[part]], judge=judge)
            if result.x_adv.shape != x[at].shape or not bool(((result.x_adv >= 0) & (result.x_adv <= 1)).all()):
                raise ValueError(f"attack {attack.name} should return images like its input in [0, 1]; it did not")
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
        self, attack: Attack, defense: Defense, gradient: str | None, batch: Batch, eps: Fraction, chosen: Tensor
    ) -> Crafted:
        """An attack on the defended network, with a gradient of it."""
        network = self.network.module
        model = defense.deployed(network) if gradient is None else defense.attacked(network, gradient)
        judge = None if defense.exact or gradient is None else defense.deployed(network)
        attack = self.averaged(attack) if self.random[defense.name] else attack
        return self.craft(attack, model, judge, batch, defense.entered(batch.x), eps, chosen)

    def averaged(self, attack: Attack) -> Attack:
        """The same attack with as many draws for each gradient as asked for, if it knows of draws."""
        return replace(attack, draws=self.draws) if hasattr(attack, "draws") else attack  # type: ignore[type-var]

    # --- jobs -------------------------------------------------------------------------------------------------------

    def jobs(self) -> Iterator[Job]:
        """All experiments, each after those whose cells it needs, and those first of which most is learned."""
        judged = {"defenses": [self.describe(defense) for defense in self.defenses]}
        yield Job("clean accuracy", {"threat": "clean", **judged}, self.clean_cells)
        noise = Noise(seed=self.seed, norm=self.norm)
        for eps in self.radii:
            settings = {**noise.settings(), **judged, "eps": str(eps)}
            yield Job(f"noise at {format_eps(eps)}", settings, partial(self.noise_cells, noise, eps))
        yield from self.bare_jobs()
        for attack in self.attacks:
            yield from self.adaptive_jobs(attack)
        yield from self.elsewhere_jobs()
        if self.checks:
            yield from self.check_jobs()

    @property
    def plain(self) -> dict[str, Any]:
        """All of the defences whose images an attacker meets as they are, that decides a figure."""
        return {"defenses": [self.describe(defense) for defense in self.defenses if defense.first is None]}

    def bare_jobs(self) -> Iterator[Job]:
        """The bare network attacked: white-box for itself, gray-box for the defences."""
        for attack in self.white_box:
            for eps in self.radii:
                settings = {"threat": "gray-box", "attack": _onwards(attack).settings(), "eps": str(eps), **self.plain}
                name = f"{attack.name} on the bare network at {format_eps(eps)}"
                yield Job(name, settings, partial(self.bare_cells, attack, eps))

    def elsewhere_jobs(self) -> Iterator[Job]:
        """The bare network attacked behind the first pass of a defence, and other networks attacked."""
        for attack in self.white_box:
            for eps in self.radii:
                at, by = f"at {format_eps(eps)}", {"attack": _onwards(attack).settings(), "eps": str(eps)}
                for defense in self.defenses:
                    if defense.first is not None:
                        yield Job(
                            f"{attack.name} on the bare network after the first pass of {defense.name} {at}",
                            {"threat": "gray-box", "defense": self.describe(defense), **by},
                            partial(self.entered_cells, attack, defense, eps),
                        )
                for network in self.transfer:
                    yield Job(
                        f"{attack.name} on {network.name} {at}",
                        {"threat": "transfer", "source": network.digest(), **by, **self.plain},
                        partial(self.transfer_cells, attack, network, eps),
                    )

    def adaptive_jobs(self, attack: Attack) -> Iterator[Job]:
        """The first gradient of each defence, then the second: a run that is stopped has something of all of them."""
        tried = {d.name: (None,) if isinstance(attack, GRADIENT_FREE) else d.gradients for d in self.defenses}
        for place in range(max(len(gradients) for gradients in tried.values())):
            for defense in self.defenses:
                for gradient in tried[defense.name][place : place + 1]:
                    for eps in self.radii:
                        yield self.adaptive_job(attack, defense, gradient, eps)

    def adaptive_job(self, attack: Attack, defense: Defense, gradient: str | None, eps: Fraction) -> Job:
        """An attack on a defended network."""
        through = "" if gradient is None else f" through {gradient}"
        settings = {
            "threat": "black-box" if gradient is None else "adaptive",
            "attack": attack.settings(),
            "defense": self.describe(defense),
            "gradient": gradient,
            "eps": str(eps),
        }
        name = f"{attack.name} on {defense.name}{through} at {format_eps(eps)}"
        return Job(name, settings, partial(self.adaptive_cells, attack, defense, gradient, eps))

    @property
    def white_box(self) -> list[Attack]:
        """The attacks that need a gradient."""
        return [attack for attack in self.attacks if not isinstance(attack, GRADIENT_FREE)]

    def describe(self, defense: Defense) -> list[Any]:
        """All of a defence that decides a figure."""
        return [defense.digest(), self.draws if self.random[defense.name] else 1]

    def clean_cells(self, batch: Batch) -> list[Cell]:
        """Every defence without an attack."""
        return [self.cell(batch, defense, "clean", _untouched(defense, batch)) for defense in self.defenses]

    def noise_cells(self, noise: Attack, eps: Fraction, batch: Batch) -> list[Cell]:
        """Every defence under noise."""
        everything = torch.ones(len(batch.x), dtype=torch.bool)
        cells = []
        for defense in self.defenses:
            made = self.craft(noise, self.network.module, None, batch, defense.entered(batch.x), eps, everything)
            cells.append(self.cell(batch, defense, "noise", _judged_only(made), attack=noise, eps=eps))
        return cells

    def bare_cells(self, attack: Attack, eps: Fraction, batch: Batch) -> list[Cell]:
        """The bare network attacked; it and every defence judged."""
        everything = torch.ones(len(batch.x), dtype=torch.bool)
        made = self.craft(_onwards(attack), self.network.module, None, batch, batch.x, eps, everything)
        cells = [self.cell(batch, UNDEFENDED, "white-box", made, attack=attack, eps=eps)]
        for defense in self.defenses[1:]:
            if defense.first is None:
                cells.append(self.cell(batch, defense, "gray-box", _judged_only(made), attack=attack, eps=eps))
        return cells

    def entered_cells(self, attack: Attack, defense: Defense, eps: Fraction, batch: Batch) -> list[Cell]:
        """The bare network attacked at what the first pass of a defence makes of the images; the defence judged."""
        everything = torch.ones(len(batch.x), dtype=torch.bool)
        made = self.craft(_onwards(attack), self.network.module, None, batch, defense.entered(batch.x), eps, everything)
        return [self.cell(batch, defense, "gray-box", made, attack=attack, eps=eps)]

    def transfer_cells(self, attack: Attack, network: Network, eps: Fraction, batch: Batch) -> list[Cell]:
        """Another network attacked; the bare one and every defence judged."""
        everything = torch.ones(len(batch.x), dtype=torch.bool)
        with evaluating(network.module):
            made = self.craft(_onwards(attack), network.module, None, batch, batch.x, eps, everything)
        plain = [defense for defense in self.defenses if defense.first is None]
        return [
            self.cell(
                batch,
                defense,
                "transfer",
                made if number == 0 else _judged_only(made),
                attack=attack,
                eps=eps,
                source=network.name,
            )
            for number, defense in enumerate(plain)
        ]

    def adaptive_cells(
        self, attack: Attack, defense: Defense, gradient: str | None, eps: Fraction, batch: Batch
    ) -> list[Cell]:
        """A defended network attacked through one of its gradients, or by queries alone."""
        made = self.through(attack, defense, gradient, batch, eps, self.clean(batch, defense))
        threat = "black-box" if gradient is None else "adaptive"
        return [self.cell(batch, defense, threat, made, attack=attack, eps=eps, gradient=gradient)]

    # --- sanity checks that need attacks of their own ---------------------------------------------------------------

    def check_jobs(self) -> Iterator[Job]:
        """What the checks of a report need beside the table's cells, all by the first PGD of the run."""
        chosen = [attack for attack in self.attacks if isinstance(attack, PGD) and attack.draws == 1]
        if not chosen:
            return
        attack, smallest, largest = chosen[0], self.radii[0], self.radii[-1]
        by = {"attack": attack.settings(), "gradients": {d.name: list(d.gradients) for d in self.defenses}}
        described = {"defenses": [self.describe(defense) for defense in self.defenses], **by}
        yield Job("check: share of zero gradients", {"check": "gradients", **described}, self.gradient_cells)
        for defense in self.defenses:
            settings = {"defense": self.describe(defense), **by}
            for eps in self.radii:
                at, radius = f"{defense.name} at {format_eps(eps)}", {"eps": str(eps)}
                if defense.gradients:
                    yield Job(
                        f"check: one step on {at}",
                        {"check": "one step", **settings, **radius},
                        partial(self.one_step_cells, attack, defense, eps),
                    )
                yield Job(
                    f"check: twice the steps on {at}",
                    {"check": "twice the steps", **settings, **radius, "all": [a.settings() for a in self.attacks]},
                    partial(self.twice_cells, attack, defense, eps),
                )
            yield Job(
                f"check: a large radius on {defense.name}",
                {"check": "large radius", **settings},
                partial(self.large_cells, attack, defense),
            )
            if _zero_version(defense, self.network.module) is not None:
                yield Job(
                    f"check: plain rounding on {defense.name} at {format_eps(largest)}",
                    {"check": "plain rounding", **settings, "eps": str(largest)},
                    partial(self.zero_cells, attack, defense, largest),
                )
            if self.random[defense.name]:
                yield Job(
                    f"check: the seed fixed on {defense.name} at {format_eps(largest)}",
                    {"check": "seed fixed", **settings, "eps": str(largest)},
                    partial(self.seed_fixed_cells, attack, defense, largest),
                )
        yield Job(
            f"check: tables of ones at {format_eps(smallest)}",
            {"check": "tables of ones", **by, "eps": str(smallest)},
            partial(self.ones_cells, attack, smallest),
        )

    def gradient_cells(self, batch: Batch) -> list[Cell]:
        """The share of samples of each image whose gradient is exactly zero, through each gradient."""
        cells = []
        for defense in self.defenses:
            for gradient in defense.gradients:
                model = defense.attacked(self.network.module, gradient)
                x = defense.entered(batch.x).detach()

                def zeros(part: Tensor, model: nn.Module = model, x: Tensor = x) -> Tensor:
                    with seeded(self.seed, x.device):
                        return zero_gradients(model, x[part], batch.y[part]).cpu()

                share = torch.cat(self.in_parts(len(x), zeros))
                cells.append(
                    Cell(
                        defense.name,
                        "zero gradients",
                        gradient=gradient,
                        indices=batch.indices.tolist(),
                        zeros=[round(value, 4) for value in share.tolist()],
                    )
                )
        return cells

    def best_first(self, batch: Batch, defense: Defense, eps: str) -> list[str | None]:
        """The gradients of a defence, from the one that left the fewest images of this batch right."""
        if not defense.gradients:
            return [None]
        left: dict[str, float] = dict.fromkeys(defense.gradients, float("inf"))
        for cell in self.select(batch, defense, "adaptive", eps=eps):
            assert cell.gradient is not None
            left[cell.gradient] = min(left[cell.gradient], sum(cell.right))
        return [*sorted(left, key=left.__getitem__)]

    def one_step_cells(self, attack: PGD, defense: Defense, eps: Fraction, batch: Batch) -> list[Cell]:
        """One step of the whole radius through each gradient."""
        cells = []
        single = attack_library.from_name("fgsm", norm=self.norm, seed=self.seed)
        for gradient in defense.gradients:
            made = self.through(single, defense, gradient, batch, eps, self.clean(batch, defense))
            cells.append(self.cell(batch, defense, "one step", made, attack=attack, eps=eps, gradient=gradient))
        return cells

    def twice_cells(self, attack: PGD, defense: Defense, eps: Fraction, batch: Batch) -> list[Cell]:
        """The images that are left right attacked with twice the steps, through the gradient that did best."""
        gradient, left = (
            self.best_first(batch, defense, format_eps(eps))[0],
            self.survivors(batch, defense, format_eps(eps)),
        )
        more = replace(attack, steps=2 * attack.steps)
        made = self.through(more, defense, gradient, batch, eps, left)
        return [_only(self.cell(batch, defense, "twice the steps", made, attack=attack, eps=eps), left)]

    def large_cells(self, attack: PGD, defense: Defense, batch: Batch) -> list[Cell]:
        """A radius at which every image can become the same grey, through one gradient after the other."""
        left = self.clean(batch, defense)
        eps = Fraction(1, 2) if self.norm == "linf" else Fraction(batch.x[0].numel() ** 0.5 / 2)
        cell = None
        for gradient in self.best_first(batch, defense, format_eps(self.radii[-1])):
            made = self.through(attack, defense, gradient, batch, eps, left)
            cell = _only(self.cell(batch, defense, "large radius", made, attack=attack), left)
            left = left & (rights(cell) > 0)
        assert cell is not None
        return [cell]

    def zero_cells(self, attack: PGD, defense: Defense, eps: Fraction, batch: Batch) -> list[Cell]:
        """The attack through plain rounding, whose gradient is zero: what masked gradients would show."""
        version = _zero_version(defense, self.network.module)
        assert version is not None
        made = self.craft(attack, version, None, batch, defense.entered(batch.x), eps, self.clean(batch, defense))
        return [self.cell(batch, defense, "plain rounding", made, attack=attack, gradient=ZERO, eps=eps)]

    def seed_fixed_cells(self, attack: PGD, defense: Defense, eps: Fraction, batch: Batch) -> list[Cell]:
        """A randomised defence whose draws are the same in every call, attacked and judged so."""
        fixed = SeedFixed(defense.deployed(self.network.module), self.seed)
        left = self.judge(fixed, defense.entered(batch.x), batch.y, batch, 1)[1] > 0
        for gradient in self.best_first(batch, defense, format_eps(eps)):
            model = fixed if gradient is None else SeedFixed(defense.attacked(self.network.module, gradient), self.seed)
            judge = None if defense.exact else fixed
            made = self.craft(attack, model, judge, batch, defense.entered(batch.x), eps, left)
            left = left & (self.judge(fixed, made.x_adv, batch.y, batch, 1)[1] > 0)
        return [_only(self.cell(batch, defense, "seed fixed", made, model=fixed, attack=attack, eps=eps), left)]

    def ones_cells(self, attack: PGD, eps: Fraction, batch: Batch) -> list[Cell]:
        """JPEG whose steps are all 1, attacked straight through: hardly a defence at all."""
        ones = fdjpeg.QuantTables.flat(1)
        module = fdjpeg.JPEG(tables=ones, subsampling="4:4:4").to(self.network.device)
        defense = layer_defense("tables of ones", module, ("straight-through",))
        model = defense.deployed(self.network.module)
        left = self.judge(model, batch.x, batch.y, batch, 1)[1] > 0
        made = self.craft(attack, model, None, batch, batch.x, eps, left)
        return [_only(self.cell(batch, defense, "tables of ones", made, attack=attack, eps=eps), left)]


def _bytes(images: Tensor) -> Tensor:
    return to_bytes(images).cpu()


def _untouched(defense: Defense, batch: Batch) -> Crafted:
    with torch.no_grad():
        return Crafted(defense.entered(batch.x), [], 0, 0, 0.0)


def _judged_only(made: Crafted) -> Crafted:
    """The same images without what they cost, which is told once."""
    return Crafted(made.x_adv, [], 0, 0, 0.0)


def _only(cell: Cell, left: Tensor) -> Cell:
    """A cell in which all other images count as wrong."""
    return replace(cell, right=(rights(cell) * left).tolist())


def _onwards(attack: Attack) -> Attack:
    """The attack as one that must carry over to another network: it does not stop at its first success."""
    return replace(attack, until_fooled=False) if isinstance(attack, PGD) else attack


def _zero_version(defense: Defense, network: nn.Module) -> nn.Module | None:
    """The defended network through plain rounding; None where the defence has no such gradient."""
    if not defense.gradients:
        return None
    try:
        return defense.attacked(network, ZERO)
    except ValueError:
        return None


def evaluate(
    model: nn.Module | Network,
    data: ImageSet | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]],
    *,
    defenses: Sequence[Defended] | Mapping[str, Sequence[str]] = ("jpeg:75", "jpeg:50", "jpeg:25"),
    attacks: Sequence[str | Attack] = ("pgd",),
    eps: Sequence[str | float | Fraction] = ("1/255", "2/255"),
    norm: str = "linf",
    gradients: Sequence[str] = GRADIENTS,
    transfer: Sequence[nn.Module | Network] = (),
    draws: int = DRAWS,
    checks: bool = True,
    batch_size: int = 5,
    pictures: int = 3,
    seed: int = 0,
    out: str | Path | None = None,
    merge: Iterable[str | Path] = (),
    world: World | None = None,
    only_finished: bool = False,
    progress: Progress | None = None,
) -> Report:
    """What defences before a network are worth, under attacks that know nothing, something and all of them.

    For each radius the bare network is attacked; those images are judged on the bare network (white-box) and behind
    every defence (gray-box), as are those of other networks (transfer). Then every defence is attacked through each of
    its gradients (adaptive), and by attacks that only ask for outputs (black-box). Random noise of the same radius and
    the sanity checks stand beside them.

    Args:
        model: maps images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``; normalisation belongs inside it. It
            runs in evaluation mode, and where its parameters are; neither they nor its mode are changed.
        data: the images with their classes: an ``ImageSet``, a pair of tensors, or an iterable of batches.
        defenses: names such as "jpeg:75" (see ``parse_defense``), modules (see ``of_module``) or ``Defense`` objects;
            or a mapping from names to the gradients that an adaptive attacker tries on each.
        attacks: names (``attacks.NAMES``) or objects.
        eps: radii, in units of the images' range; strings such as "2/255" are read exactly.
        norm: "linf" or "l2", of named attacks.
        gradients: those that an adaptive attacker tries on layers of fdjpeg's, where ``defenses`` is no mapping.
        transfer: other networks, attacked without any defence.
        draws: of a randomised defence, in each gradient and in each verdict.
        checks: whether to run the sanity checks that need attacks of their own.
        batch_size: images at once; halved when the device runs out of memory. The figures belong to this batch size:
            another one may change the last bits of a network's arithmetic.
        pictures: images of the first batch that the report shows for each defence.
        seed: of all that is random.
        out: a folder for finished work, from which a stopped run goes on; None keeps nothing.
        merge: more such folders to take finished work from, those of shards.
        world: the processes that share the work; those of ``torchrun`` if None. Shards report on what they have.
        only_finished: compute nothing; report on the experiments that are finished.
        progress: called after every batch.

    Returns:
        The report, the same in each process of ``torchrun``; ``report.save(folder)`` writes it.

    Raises:
        ValueError: for values out of range, images outside [0, 1], no images, a model whose output cannot be logits
            of these classes, a device without memory for one image, or a folder that cannot be written.
        TypeError: for arguments of another type.
    """
    network, images = Network.of(model), ImageSet.of(data)
    world = World.here() if world is None else world
    chosen = [
        item if isinstance(item, Attack) else attack_library.from_name(item, norm=norm, seed=seed) for item in attacks
    ]
    if not chosen:
        raise ValueError("attacks should hold at least one, got none")
    if len({attack.norm for attack in chosen}) > 1:
        raise ValueError(f"attacks should share one norm, got {', '.join(f'{a.name} in {a.norm}' for a in chosen)}")
    if len({attack.name for attack in chosen}) < len(chosen):
        raise ValueError(f"attacks should be different, got {', '.join(attack.name for attack in chosen)}")
    radii = sorted({parse_eps(value, chosen[0].norm) for value in eps})
    if not radii:
        raise ValueError("eps should hold at least one, got none")
    for name, value, least in (("batch_size", batch_size, 1), ("draws", draws, 1), ("pictures", pictures, 0)):
        if value < least:
            raise ValueError(f"{name} should be at least {least}, got {value}")
    with evaluating(network.module):
        _check_network(network, images, batch_size)
        layers = _defenses(defenses, gradients, network.module, images.images[:1].to(network.device))
        run = Evaluation(
            network,
            images,
            layers,
            chosen,
            radii,
            [Network.of(item) for item in transfer],
            draws,
            checks,
            batch_size,
            pictures,
            seed,
        )
        store = Store(None if out is None else Path(out), world.name, [Path(folder) for folder in merge])
        numbers = world.mine(range(len(run.batch_indices)))
        cells, open_jobs = _run(run, store, numbers, only_finished, progress)
    gathered = join(world.gather(cells))
    done = sorted({index for cell in gathered for index in cell.indices})
    settings = _settings(run, images, chosen, radii, layers, open_jobs)
    return Report(settings=settings, cells=_placed(gathered, done), images=images.select(done))


def _check_network(network: Network, images: ImageSet, batch_size: int) -> None:
    """Raises what ``check_logits`` does for the first images, or if the device does not hold one of them."""
    first = torch.arange(len(images))[:batch_size]
    with torch.no_grad():
        found = in_batches(lambda part: network.module(images.images[part].to(network.device)), first, batch_size)
        check_logits(torch.cat([logits for _, logits in found]), images.labels)


def _defenses(
    given: Sequence[Defended] | Mapping[str, Sequence[str]], gradients: Sequence[str], network: nn.Module, image: Tensor
) -> list[Defense]:
    """All defences but the bare network, on the device of ``image``; given modules are not changed.

    Raises:
        ValueError: for an unknown name, or the same name twice.
    """
    pairs = given.items() if isinstance(given, Mapping) else [(item, gradients) for item in given]
    found = []
    for item, tried in pairs:
        if isinstance(item, str):
            found.append(parse_defense(item, tried, network, image))
        elif isinstance(item, Defense):
            found.append(item)
        else:
            # A copy, because its mode and its place change.
            layer = copy.deepcopy(item).to(image.device).eval()
            found.append(of_module(layer, type(item).__name__, tried, image))
    found = [defense for defense in found if defense.gradients]  # the bare network is always there
    if len({defense.name for defense in found}) < len(found):
        raise ValueError(f"defenses should be different, got {', '.join(defense.name for defense in found)}")
    return found


def _run(
    run: Evaluation, store: Store, numbers: Sequence[int], only_finished: bool, progress: Progress | None
) -> tuple[list[Cell], list[str]]:
    """The cells of these batches from the store, or computed, and the names of jobs that are not finished."""
    jobs = list(run.jobs())
    common = {
        "network": run.network.digest(),
        "seed": run.seed,
        "pictures": run.pictures,
        "draws": run.draws,
        "versions": {name: version for name, version in versions().items() if name in ("fdjpeg", "torch")},
    }
    digests = {number: run.images.digest(run.batch_indices[number]) for number in numbers}
    sizes = {number: len(run.batch_indices[number]) for number in numbers}
    done, total, cells, unfinished = 0, sum(sizes.values()) * len(jobs), [], []

    def key(job: Job, number: int) -> str:
        depends = {**common, **job.settings, "images": [run.batch_indices[number].tolist(), digests[number]]}
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]

    for job in jobs:
        if only_finished and not all(key(job, number) in store for number in numbers):
            unfinished.append(job.name)
            continue
        for number in numbers:
            if progress is not None:
                progress(done, total, job.name)
            made = store.load(key(job, number))
            if made is None:
                made = job.compute(run.batch(number))
                store.save(key(job, number), made)
            run.found.setdefault(number, []).extend(made)
            cells += made
            done += sizes[number]
    if progress is not None:
        progress(done, total, "done")
    if not cells:
        raise ValueError("out should hold finished work where only that is reported, but the clean accuracy is open")
    return cells, unfinished


def _placed(cells: list[Cell], indices: list[int]) -> list[Cell]:
    """Cells whose indices are places among ``indices``, the images of this report."""
    place = {index: number for number, index in enumerate(indices)}
    return [
        replace(
            cell,
            indices=[place[index] for index in cell.indices],
            pictures=[replace(picture, index=place[picture.index]) for picture in cell.pictures],
        )
        for cell in cells
    ]


def _settings(
    run: Evaluation,
    images: ImageSet,
    attacks: Sequence[Attack],
    radii: Sequence[Fraction],
    layers: Sequence[Defense],
    open_jobs: list[str],
) -> dict[str, Any]:
    """All that a reader needs to run this again, as plain values."""
    tried = range(min(len(images), LATTICE_IMAGES))
    lattice = {images.names[i]: lattice_quality(to_bytes(images.images[i])) for i in tried}
    return {
        "images": {
            "count": len(images),
            "source": images.source,
            "terms": images.terms,
            "digest": images.digest(),
            "tried for a JPEG lattice": len(tried),
            "on a JPEG lattice": {name: quality for name, quality in lattice.items() if quality is not None},
        },
        "model": {
            "name": run.network.name,
            "source": run.network.source,
            "terms": run.network.terms,
            "digest": run.network.digest(),
        },
        "attacks": {attack.name: attack.settings() for attack in attacks},
        "gradient-free": [attack.name for attack in attacks if isinstance(attack, GRADIENT_FREE)],
        "defenses": {layer.name: list(layer.gradients) for layer in layers},
        "randomised": [layer.name for layer in layers if run.random[layer.name]],
        "draws": run.draws,
        "transfer": {network.name: network.source for network in run.transfer},
        "norm": run.norm,
        "eps": [format_eps(radius) for radius in radii],
        "batch_size": run.batch_size,
        "images at once": run.at_once,
        "pictures": run.pictures,
        "seed": run.seed,
        "checks": run.checks,
        "open": open_jobs,
        "device": str(run.network.device),
        "versions": versions(),
    }
