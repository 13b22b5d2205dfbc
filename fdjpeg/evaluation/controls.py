"""Experiments whose outcome is known in advance; the sanity checks of a report need them and the table's cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor, nn

import fdjpeg
from fdjpeg import attacks as attack_library
from fdjpeg.attacks import PGD, format_eps, zero_gradients
from fdjpeg.attacks.base import seeded
from fdjpeg.defenses import ZERO, Defended, SeedFixed, layer_defense

from .cells import Cell, rights
from .judging import Batch, Evaluation, Job

#: Steps of the control of plain rounding, at most: its gradient is zero, so that every step has a random direction, and
#: a few show as well as many that such an attack finds little.
ZERO_STEPS = 3


def control_jobs(run: Evaluation) -> Iterator[Job]:
    """Yields the jobs that only the checks of a report need, all by the first PGD of the run."""
    chosen = [attack for attack in run.plan.chosen if isinstance(attack, PGD) and attack.draws == 1]
    if not chosen:
        return
    attack, smallest, largest = chosen[0], run.plan.radii[0], run.plan.radii[-1]
    by = {"attack": attack.settings(), "gradients": {d.name: list(d.gradients) for d in run.defenses}}
    described = {"defenses": [run.describe(defense) for defense in run.defenses], **by}
    # A control whose gradient is the one that did best at a radius depends on all attacks at that radius.
    everything = {"all": [attack.settings() for attack in run.plan.chosen]}
    yield Job("check: share of zero gradients", {"check": "gradients", **described}, partial(gradient_cells, run))
    for defense in run.defenses:
        settings = {"defense": run.describe(defense), **by}
        for eps in run.plan.radii:
            at, radius = f"{defense.name} at {format_eps(eps)}", {"eps": str(eps)}
            if defense.gradients:
                yield Job(
                    f"check: one step on {at}",
                    {"check": "one step", **settings, **radius},
                    partial(one_step_cells, run, attack, defense, eps),
                )
            yield Job(
                f"check: twice the steps on {at}",
                {"check": "twice the steps", **settings, **radius, **everything},
                partial(twice_cells, run, attack, defense, eps),
            )
        yield Job(
            f"check: a large radius on {defense.name}",
            {"check": "large radius", **settings, **everything, "best at": str(largest)},
            partial(large_cells, run, attack, defense),
        )
        if _zero_version(defense, run.network.module) is not None:
            yield Job(
                f"check: plain rounding on {defense.name} at {format_eps(largest)}",
                {"check": "plain rounding", **settings, "eps": str(largest), "steps": min(attack.steps, ZERO_STEPS)},
                partial(zero_cells, run, attack, defense, largest),
            )
        if run.random[defense.name]:
            yield Job(
                f"check: the seed fixed on {defense.name} at {format_eps(largest)}",
                {"check": "seed fixed", **settings, **everything, "eps": str(largest)},
                partial(seed_fixed_cells, run, attack, defense, largest),
            )
    yield Job(
        f"check: tables of ones at {format_eps(smallest)}",
        {"check": "tables of ones", **by, "eps": str(smallest)},
        partial(ones_cells, run, attack, smallest),
    )


def gradient_cells(run: Evaluation, batch: Batch) -> list[Cell]:
    """Measures the share of samples of each image whose gradient is exactly zero, through each gradient."""
    cells = []
    for defense in run.defenses:
        for gradient in defense.gradients:
            x = run.entered(defense, batch).detach()
            model = run.climbable(defense.attacked(run.network.module, gradient), x)

            def zeros(part: Tensor, model: nn.Module = model, x: Tensor = x) -> Tensor:
                with seeded(run.plan.seed):
                    return zero_gradients(model, x[part], batch.y[part]).cpu()

            share = torch.cat(run.in_parts(len(x), zeros))
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


def best_first(run: Evaluation, batch: Batch, defense: Defended, eps: str) -> list[str | None]:
    """Returns the gradients of a defence, the one that left the fewest images of this batch right first."""
    if not defense.gradients:
        return [None]
    left: dict[str, float] = dict.fromkeys(defense.gradients, float("inf"))
    for cell in run.select(batch, defense, "adaptive", eps=eps):
        if cell.gradient in left:  # not an attack on coefficients, which has none
            left[cell.gradient] = min(left[cell.gradient], sum(cell.right))
    return [*sorted(left, key=left.__getitem__)]


def one_step_cells(run: Evaluation, attack: PGD, defense: Defended, eps: Fraction, batch: Batch) -> list[Cell]:
    """Attacks with one step of the whole radius through each gradient."""
    cells = []
    single = attack_library.from_name("fgsm", norm=run.plan.ball, seed=run.plan.seed)
    for gradient in defense.gradients:
        made = run.through(single, defense, gradient, batch, eps, run.clean(batch, defense))
        cells.append(run.cell(batch, defense, "one step", made, attack=attack, eps=eps, gradient=gradient))
    return cells


def twice_cells(run: Evaluation, attack: PGD, defense: Defended, eps: Fraction, batch: Batch) -> list[Cell]:
    """Attacks the images still right with twice the steps, through the gradient that did best."""
    gradient, left = (
        best_first(run, batch, defense, format_eps(eps))[0],
        run.survivors(batch, defense, format_eps(eps)),
    )
    more = replace(attack, steps=2 * attack.steps)
    made = run.through(more, defense, gradient, batch, eps, left)
    return [_only(run.cell(batch, defense, "twice the steps", made, attack=attack, eps=eps), left)]


def large_cells(run: Evaluation, attack: PGD, defense: Defended, batch: Batch) -> list[Cell]:
    """Attacks at a radius where every image can become the same grey, through one gradient after the other."""
    left = run.clean(batch, defense)
    eps = Fraction(1, 2) if run.plan.ball == "linf" else Fraction(batch.x[0].numel() ** 0.5 / 2)
    cell = None
    for gradient in best_first(run, batch, defense, format_eps(run.plan.radii[-1])):
        made = run.through(attack, defense, gradient, batch, eps, left)
        cell = _only(run.cell(batch, defense, "large radius", made, attack=attack), left)
        left = left & (rights(cell) > 0)
    assert cell is not None
    return [cell]


def zero_cells(run: Evaluation, attack: PGD, defense: Defended, eps: Fraction, batch: Batch) -> list[Cell]:
    """Attacks through plain rounding, whose gradient is zero, as an example of masked gradients."""
    version = _zero_version(defense, run.network.module)
    assert version is not None
    few = replace(attack, steps=min(attack.steps, ZERO_STEPS))
    made = run.craft(few, version, None, batch, run.entered(defense, batch), eps, run.clean(batch, defense))
    return [run.cell(batch, defense, "plain rounding", made, attack=few, gradient=ZERO, eps=eps)]


def seed_fixed_cells(run: Evaluation, attack: PGD, defense: Defended, eps: Fraction, batch: Batch) -> list[Cell]:
    """Attacks and judges a randomised defence whose draws are the same in every call."""
    fixed = SeedFixed(defense.deployed(run.network.module), run.plan.seed)
    x = run.entered(defense, batch)
    left = run.judge(fixed, x, batch.y, batch, 1).right > 0
    for gradient in best_first(run, batch, defense, format_eps(eps)):
        model = fixed if gradient is None else SeedFixed(defense.attacked(run.network.module, gradient), run.plan.seed)
        judge = None if defense.exact else fixed
        made = run.craft(attack, model, judge, batch, x, eps, left)
        left = left & (run.judge(fixed, made.x_adv, batch.y, batch, 1).right > 0)
    return [_only(run.cell(batch, defense, "seed fixed", made, model=fixed, attack=attack, eps=eps), left)]


def ones_cells(run: Evaluation, attack: PGD, eps: Fraction, batch: Batch) -> list[Cell]:
    """Attacks JPEG whose steps are all 1 straight through: it is hardly a defence at all."""
    ones = fdjpeg.QuantTables.flat(1)
    module = fdjpeg.JPEG(tables=ones, subsampling="4:4:4").to(run.network.device)
    defense = layer_defense("tables of ones", module, ("straight-through",))
    model = defense.deployed(run.network.module)
    left = run.judge(model, batch.x, batch.y, batch, 1).right > 0
    made = run.craft(attack, model, None, batch, batch.x, eps, left)
    return [_only(run.cell(batch, defense, "tables of ones", made, attack=attack, eps=eps), left)]


def _only(cell: Cell, left: Tensor) -> Cell:
    """Returns the cell with all images but those ``left`` counted as wrong."""
    return replace(cell, right=(rights(cell) * left).tolist())


def _zero_version(defense: Defended, network: nn.Module) -> nn.Module | None:
    """Returns the defended network with plain rounding; None if the defence has no such gradient."""
    if not defense.gradients:
        return None
    try:
        return defense.attacked(network, ZERO)
    except ValueError:
        return None
