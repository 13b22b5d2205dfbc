"""The common part of all experiments: images are attacked, and the exact forward pass judges them.

A *cell* is one judged experiment: a defence, a threat, an attack, a radius. Two rules hold everywhere. The verdict is
the exact forward pass of the defended network, whatever gradient the attacker used. And an attacker may leave an image
alone: an image counts as right in a cell only if it is also right without any attack.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from fdjpeg._calls import about, call, logits_of
from fdjpeg.attacks import Attack, AttackResult, correct, distances, format_eps, margin
from fdjpeg.attacks.base import image_seed, seeded
from fdjpeg.attacks.calls import Flat, has_derivative
from fdjpeg.defenses import UNDEFENDED, Defended
from fdjpeg.defenses.base import copied
from fdjpeg.sources import ImageSet, Network
from fdjpeg.sources.image_set import to_bytes

from .cells import Cell, Picture, rights
from .memory import in_batches
from .plan import Plan

T = TypeVar("T")

#: The excess over [0, 1] of a first pass that counts as float32's rounding, and is cut off.
ROUNDING = 1e-5

#: Calls of a defence, each with another seed, that must be alike for it to count as deterministic. One that acts in a
#: tenth of its calls is found random with a chance of 97 %.
CALLS = 32

#: The column of attacks on a layer's coefficients, in the place of a gradient's name.
COEFFICIENTS = "flip"


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


class Verdict(NamedTuple):
    """A judgement of N images, on the CPU.

    Attributes:
        predicted: ``(N,)`` int64, the first draw's classes; −1 where its logits are not numbers.
        right: ``(N,)`` float64, the share of draws in which the true class is predicted.
        margin: ``(N,)`` float64, the mean over draws; infinite where logits are not numbers.
        undefined: ``(N,)`` bool, whether the logits of any draw are not numbers.
    """

    predicted: Tensor
    right: Tensor
    margin: Tensor
    undefined: Tensor


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
        #: The networks of the plan's transfer, on the device of the run.
        self.others = [_on_device(other, network.device) for other in plan.others]
        #: Cells of this process so far, by the number of their batch.
        self.found: dict[int, list[Cell]] = {}

    # --- images and verdicts ----------------------------------------------------------------------------------------

    @cached_property
    def batch_indices(self) -> list[Tensor]:
        """The places of each batch's images: consecutive ones."""
        return list(torch.arange(len(self.images), device="cpu").split(self.plan.batch_size))

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
        for places, result in in_batches(compute, torch.arange(size, device="cpu"), self.at_once):
            if len(places) < min(self.at_once, size - int(places[0])):
                self.at_once = len(places)
            results.append(result)
        return results

    @cached_property
    def random(self) -> dict[str, bool]:
        """Whether each defence draws again in every call."""
        # Noise, which every draw changes differently; a flat image looks the same at every quality.
        fixed = torch.Generator().manual_seed(0)
        noise = torch.rand(self.images.images[:1].shape, generator=fixed, dtype=torch.float32, device="cpu")
        image = noise.to(self.network.device)
        found = {}
        for defense in self.defenses:
            module = defense.layer if defense.layer is not None else defense.deployed(self.network.module)
            found[defense.name] = _draws(module, image, _party(defense))
        return found

    def describe(self, defense: Defended) -> list[Any]:
        """Returns everything about a defence that decides a figure."""
        return [defense.digest(), self.plan.draws if self.random[defense.name] else 1]

    def entered(self, defense: Defended, batch: Batch) -> Tensor:
        """Returns a batch as an attacker of a defence meets it, behind its first pass if it has one.

        Raises:
            ValueError: the first pass returned other things than such images in [0, 1]; the message names the defence.
        """
        with torch.no_grad():
            x = defense.entered(batch.x)
        inside = (x > -ROUNDING) & (x < 1 + ROUNDING)
        if x.shape != batch.x.shape or not bool(inside.all()):  # written so that NaN fails as well
            raise ValueError(
                f"defense {defense.name} must return images like its input, in [0, 1], from its first pass, got shape "
                f"{tuple(x.shape)} with values from {float(x.min()):.9g} to {float(x.max()):.9g}"
            )
        return x.clamp(0, 1)

    def judge(self, model: nn.Module, x: Tensor, y: Tensor, batch: Batch, draws: int, party: str = "model") -> Verdict:
        """Judges images under the exact forward pass.

        Draws are seeded by the batch, and do not depend on earlier draws. Logits that are not numbers are never right.

        Raises:
            ValueError: the outputs are not logits of these classes; the message names ``party``.
        """
        predicted, right, margins, undefined = [], [], [], []
        for draw in range(draws):
            with (
                torch.no_grad(),
                seeded(image_seed(self.plan.seed, f"verdict {draw}", int(batch.indices[0]))),
            ):
                logits = torch.cat(self.in_parts(len(x), lambda part: logits_of(model, x[part], party).float()))
            if int(y.max()) >= logits.shape[1]:
                raise ValueError(
                    f"{party} must return logits of at least {int(y.max()) + 1} classes, got {logits.shape[1]}"
                )
            undefined.append(logits.isnan().any(dim=1).cpu())
            predicted.append(logits.argmax(dim=1).cpu().masked_fill(undefined[-1], -1))
            right.append(correct(logits, y).double().cpu())
            margins.append(margin(logits, y).double().cpu())
        return Verdict(
            predicted[0],
            torch.stack(right).mean(dim=0),
            torch.stack(margins).mean(dim=0),
            torch.stack(undefined).any(dim=0),
        )

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
        verdict = self.judge(model, made.x_adv, batch.y, batch, draws, _party(defense))
        differing = None
        if defense.oracle is not None and defense.layer is not None:
            with torch.no_grad():
                ours = to_bytes(defense.layer(made.x_adv)).cpu()
            differing = int((ours != defense.oracle(to_bytes(made.x_adv).cpu())).sum())
        start = self.entered(defense, batch)
        return Cell(
            defense=defense.name,
            threat=threat,
            attack=None if attack is None else attack.name,
            gradient=gradient,
            source=source,
            eps=None if eps is None else format_eps(eps),
            indices=batch.indices.tolist(),
            predicted=verdict.predicted.tolist(),
            right=verdict.right.tolist(),
            margin=[round(value, 4) for value in verdict.margin.tolist()],
            distance=[round(value, 7) for value in distances(made.x_adv, start, self.plan.ball).tolist()],
            loss=made.loss,
            attacked=made.attacked,
            undefined=int(verdict.undefined.sum()),
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
        if len(chosen) == 0:
            return []
        x, x_adv = self.entered(defense, batch)[chosen], made.x_adv[chosen]
        behind = [self._behind(defense, images) for images in (x_adv, x)]
        bare = self.judge(self.network.module, x_adv, batch.y[chosen], batch, draws=1).predicted
        rows = zip(batch.indices[chosen.cpu()].tolist(), *map(_bytes, (x, x_adv, *behind)), bare.tolist(), strict=True)
        return [Picture(*row) for row in rows]

    def _behind(self, defense: Defended, images: Tensor) -> Tensor:
        """Returns images behind a defence's layer, by the plan's seed."""
        if defense.layer is None:
            return images
        with torch.no_grad(), seeded(self.plan.seed):
            behind: Tensor = defense.layer(images)
        return behind

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

        A model without a derivative, such as one that calls Pillow, is attacked with a gradient of zero.

        Raises:
            ValueError: if the attack does not return images.
        """
        start = time.perf_counter()
        rows = chosen.nonzero().flatten()
        model = self.climbable(model, x)
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
        together = together and all(math.isfinite(value) for value in summed)
        summed = summed if together else []
        return Crafted(
            x_adv,
            loss=[round(value, 4) for value in summed],
            attacked=len(rows) if together else 0,
            queries=sum(result.queries for result in results),
            seconds=time.perf_counter() - start,
        )

    def climbable(self, model: nn.Module, x: Tensor) -> nn.Module:
        """Returns a model, or the same outputs with a gradient of zero where autograd does not reach its images."""
        return model if len(x) == 0 or has_derivative(model, x[:1]) else Flat(model)

    def through(
        self, attack: Attack, defense: Defended, gradient: str | None, batch: Batch, eps: Fraction, chosen: Tensor
    ) -> Crafted:
        """Attacks the defended network through one of its gradients."""
        model, judge = self._attacked(defense, gradient)
        attack = self.averaged(attack) if self.random[defense.name] else attack
        with about(_party(defense)):
            return self.craft(attack, model, judge, batch, self.entered(defense, batch), eps, chosen)

    def _attacked(self, defense: Defended, gradient: str | None) -> tuple[nn.Module, nn.Module | None]:
        """Returns the network that an attack sees, and its judge where that is another one."""
        network = self.network.module
        if gradient is None:
            return defense.deployed(network), None
        if gradient == COEFFICIENTS:
            return defense.exposed(network), None
        return defense.attacked(network, gradient), None if defense.exact else defense.deployed(network)

    def averaged(self, attack: Attack) -> Attack:
        """Returns the attack with the plan's number of draws for each gradient, if it has such a setting."""
        return replace(attack, draws=self.plan.draws) if hasattr(attack, "draws") else attack  # type: ignore[type-var]


def _draws(module: Callable[[Tensor], Tensor], image: Tensor, party: str) -> bool:
    """Returns whether `CALLS` calls of a module with an image, each with another seed, are not all alike."""

    def outputs() -> Iterator[Tensor]:
        for seed in range(CALLS):
            with torch.no_grad(), seeded(seed):
                output: Tensor = call(module, image, party)  # type: ignore[arg-type]
            yield output

    every = outputs()
    first = next(every)
    # NaN in both counts as the same: it is not randomness.
    return not all(torch.allclose(first, other, rtol=0, atol=0, equal_nan=True) for other in every)


def _party(defense: Defended) -> str:
    """Returns the name of a defended network in errors."""
    return "model" if defense.name == UNDEFENDED.name else f"defense {defense.name}"


def _on_device(network: Network, device: torch.device) -> Network:
    """Returns a network on a device: a copy if it is elsewhere, since the caller's does not move."""
    if network.device == device:
        return network
    return replace(network, module=copied(network.module).to(device))


def _bytes(images: Tensor) -> Tensor:
    return to_bytes(images).cpu()
