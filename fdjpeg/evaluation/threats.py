"""The experiments of an evaluation by threat model: which network is attacked, and which one judges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import torch

from fdjpeg._calls import about
from fdjpeg.attacks import PGD, Attack, Boundary, Flip, HopSkipJump, Noise, Square, format_eps
from fdjpeg.defenses import UNDEFENDED, Defended
from fdjpeg.sources.networks import Network, evaluating

from .cells import Cell
from .judging import COEFFICIENTS, Batch, Crafted, Evaluation, Job

#: Attacks that only use outputs.
GRADIENT_FREE = (Square, Boundary, HopSkipJump)

#: Attacks on the coefficients of a defence that shows its layers; they need no gradient's name.
ON_COEFFICIENTS = (Flip,)


def threat_jobs(run: Evaluation) -> Iterator[Job]:
    """Yields all jobs but the controls, each after those whose cells it needs, the most informative ones first."""
    judged = {"defenses": [run.describe(defense) for defense in run.defenses]}
    yield Job("clean accuracy", {"threat": "clean", **judged}, partial(clean_cells, run))
    noise = Noise(seed=run.plan.seed, norm=run.plan.ball)
    for eps in run.plan.radii:
        settings = {**noise.settings(), **judged, "eps": str(eps)}
        yield Job(f"noise at {format_eps(eps)}", settings, partial(noise_cells, run, noise, eps))
    yield from bare_jobs(run)
    for attack in run.plan.chosen:
        yield from adaptive_jobs(run, attack)
    yield from elsewhere_jobs(run)


def plain(run: Evaluation) -> dict[str, Any]:
    """Returns everything that decides a figure about the defences without a first pass."""
    return {"defenses": [run.describe(defense) for defense in run.defenses if defense.first is None]}


def bare_jobs(run: Evaluation) -> Iterator[Job]:
    """Yields attacks on the bare network: white-box for that network, gray-box for the defences."""
    for attack in white_box(run):
        for eps in run.plan.radii:
            settings = {"threat": "gray-box", "attack": _onwards(attack).settings(), "eps": str(eps), **plain(run)}
            name = f"{attack.name} on the bare network at {format_eps(eps)}"
            yield Job(name, settings, partial(bare_cells, run, attack, eps))


def elsewhere_jobs(run: Evaluation) -> Iterator[Job]:
    """Yields attacks on the bare network after the first pass of a defence, and on other networks."""
    for attack in white_box(run):
        for eps in run.plan.radii:
            at, by = f"at {format_eps(eps)}", {"attack": _onwards(attack).settings(), "eps": str(eps)}
            for defense in run.defenses:
                if defense.first is not None:
                    yield Job(
                        f"{attack.name} on the bare network after the first pass of {defense.name} {at}",
                        {"threat": "gray-box", "defense": run.describe(defense), **by},
                        partial(entered_cells, run, attack, defense, eps),
                    )
            for network in run.others:
                yield Job(
                    f"{attack.name} on {network.name} {at}",
                    {"threat": "transfer", "source": network.digest(), **by, **plain(run)},
                    partial(transfer_cells, run, attack, network, eps),
                )


def adaptive_jobs(run: Evaluation, attack: Attack) -> Iterator[Job]:
    """Yields the first gradient of each defence, then the second, so that a stopped run has some of all defences."""
    tried = {defense.name: ways(attack, defense) for defense in run.defenses}
    for place in range(max(len(gradients) for gradients in tried.values())):
        for defense in run.defenses:
            for gradient in tried[defense.name][place : place + 1]:
                for eps in run.plan.radii:
                    yield adaptive_job(run, attack, defense, gradient, eps)


def ways(attack: Attack, defense: Defended) -> tuple[str | None, ...]:
    """Returns the gradients through which an attack tries a defence: None for queries alone, none for no attack."""
    if isinstance(attack, GRADIENT_FREE):
        return (None,)
    if isinstance(attack, ON_COEFFICIENTS):
        return () if defense.exposes is None else (COEFFICIENTS,)
    return defense.gradients


def adaptive_job(run: Evaluation, attack: Attack, defense: Defended, gradient: str | None, eps: Fraction) -> Job:
    """Returns an attack on a defended network."""
    through = "" if gradient is None else f" through {gradient}"
    settings = {
        "threat": "black-box" if gradient is None else "adaptive",
        "attack": attack.settings(),
        "defense": run.describe(defense),
        "gradient": gradient,
        "eps": str(eps),
    }
    name = f"{attack.name} on {defense.name}{through} at {format_eps(eps)}"
    return Job(name, settings, partial(adaptive_cells, run, attack, defense, gradient, eps))


def white_box(run: Evaluation) -> list[Attack]:
    """Returns the attacks that need the gradient of a network without a layer."""
    return [attack for attack in run.plan.chosen if not isinstance(attack, (*GRADIENT_FREE, *ON_COEFFICIENTS))]


def clean_cells(run: Evaluation, batch: Batch) -> list[Cell]:
    """Judges every defence without an attack."""
    return [run.cell(batch, defense, "clean", _untouched(run, defense, batch)) for defense in run.defenses]


def noise_cells(run: Evaluation, noise: Attack, eps: Fraction, batch: Batch) -> list[Cell]:
    """Judges every defence under noise."""
    everything = torch.ones(len(batch.x), dtype=torch.bool, device="cpu")
    cells = []
    for defense in run.defenses:
        made = run.craft(noise, run.network.module, None, batch, run.entered(defense, batch), eps, everything)
        cells.append(run.cell(batch, defense, "noise", _judged_only(made), attack=noise, eps=eps))
    return cells


def bare_cells(run: Evaluation, attack: Attack, eps: Fraction, batch: Batch) -> list[Cell]:
    """Attacks the bare network; judges it and every defence."""
    everything = torch.ones(len(batch.x), dtype=torch.bool, device="cpu")
    made = run.craft(_onwards(attack), run.network.module, None, batch, batch.x, eps, everything)
    cells = [run.cell(batch, UNDEFENDED, "white-box", made, attack=attack, eps=eps)]
    for defense in run.defenses[1:]:
        if defense.first is None:
            cells.append(run.cell(batch, defense, "gray-box", _judged_only(made), attack=attack, eps=eps))
    return cells


def entered_cells(run: Evaluation, attack: Attack, defense: Defended, eps: Fraction, batch: Batch) -> list[Cell]:
    """Attacks the bare network at images after the first pass of a defence; judges that defence."""
    everything = torch.ones(len(batch.x), dtype=torch.bool, device="cpu")
    made = run.craft(_onwards(attack), run.network.module, None, batch, run.entered(defense, batch), eps, everything)
    return [run.cell(batch, defense, "gray-box", made, attack=attack, eps=eps)]


def transfer_cells(run: Evaluation, attack: Attack, network: Network, eps: Fraction, batch: Batch) -> list[Cell]:
    """Attacks another network; judges the bare one and every defence."""
    everything = torch.ones(len(batch.x), dtype=torch.bool, device="cpu")
    with evaluating(network.module), about(transfer_party(network)):
        made = run.craft(_onwards(attack), network.module, None, batch, batch.x, eps, everything)
    met = [defense for defense in run.defenses if defense.first is None]
    return [
        run.cell(
            batch,
            defense,
            "transfer",
            made if number == 0 else _judged_only(made),
            attack=attack,
            eps=eps,
            source=network.name,
        )
        for number, defense in enumerate(met)
    ]


def transfer_party(network: Network) -> str:
    """Returns the name of a network of the plan's transfer in errors."""
    return f"transfer network {network.name}"


def adaptive_cells(
    run: Evaluation, attack: Attack, defense: Defended, gradient: str | None, eps: Fraction, batch: Batch
) -> list[Cell]:
    """Attacks and judges a defended network, through one of its gradients or by queries alone."""
    made = run.through(attack, defense, gradient, batch, eps, run.clean(batch, defense))
    threat = "black-box" if gradient is None else "adaptive"
    return [run.cell(batch, defense, threat, made, attack=attack, eps=eps, gradient=gradient)]


def _untouched(run: Evaluation, defense: Defended, batch: Batch) -> Crafted:
    return Crafted(run.entered(defense, batch), [], 0, 0, 0.0)


def _judged_only(made: Crafted) -> Crafted:
    """Returns the same images without their cost, which is counted once."""
    return Crafted(made.x_adv, [], 0, 0, 0.0)


def _onwards(attack: Attack) -> Attack:
    """Returns the attack without its stop at the first success, so that images carry over to another network."""
    return replace(attack, until_fooled=False) if isinstance(attack, PGD) else attack
