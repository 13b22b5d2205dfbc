"""Certificates in an evaluation: the proof from below, next to the attacks from above."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial

import torch

from fdjpeg.attacks import format_eps
from fdjpeg.certificates import certify
from fdjpeg.certificates.certify import unmet
from fdjpeg.defenses import Defended

from .cells import CERTIFICATE, Cell
from .judging import Batch, Crafted, Evaluation, Job
from .results import Results


def lacking(run: Evaluation) -> dict[str, str]:
    """Returns what each defence lacks to be certified, by its name; those that lack nothing are left out."""
    network, image = run.network.module, run.images.images[:1].to(run.network.device)
    with torch.no_grad():
        found = {defense.name: unmet(defense, network, image) for defense in run.defenses[1:]}
    return {name: demand for name, demand in found.items() if demand is not None}


def certificate_jobs(run: Evaluation) -> Iterator[Job]:
    """Yields the certificates of each defence that can have them, at each radius."""
    without = lacking(run)
    for defense in run.defenses[1:]:
        for eps in run.plan.radii if defense.name not in without else ():
            settings = {"threat": CERTIFICATE, "defense": run.describe(defense), "eps": str(eps)}
            name = f"certificates of {defense.name} at {format_eps(eps)}"
            yield Job(name, settings, partial(certificate_cells, run, defense, eps))


def certificate_cells(run: Evaluation, defense: Defended, eps: Fraction, batch: Batch) -> list[Cell]:
    """Certifies a batch. The images that a certificate broke are judged as those of any attack are."""
    start = time.perf_counter()
    found = certify(defense, run.network.module, batch.x, batch.y, float(eps))
    x_adv = run.entered(defense, batch).clone()
    for place, image in found.found.items():
        x_adv[place] = image
    made = Crafted(x_adv, [], 0, int(found.outcomes.sum()), time.perf_counter() - start)
    cell = run.cell(batch, defense, CERTIFICATE, made, eps=eps)
    return [
        replace(
            cell,
            right=found.certified.double().tolist(),
            status=list(found.statuses),
            changeable=found.changeable.tolist(),
        )
    ]


def contradictions(results: Results) -> list[str]:
    """Returns certified images that an attack of the run broke, each with its defence, radius and attack."""
    found = []
    for cell in results.select(threat=CERTIFICATE):
        held = {index for index, right in zip(cell.indices, cell.right, strict=True) if right}
        for other in results.select(cell.defense):
            if other.threat == CERTIFICATE or other.eps is None or Fraction(other.eps) > Fraction(str(cell.eps)):
                continue
            for index, right in zip(other.indices, other.right, strict=False):
                if right < 1 and index in held:
                    by = f"{other.attack} ({other.threat})"
                    found.append(f"{results.images.names[index]} behind {cell.defense} at {cell.eps} by {by}")
    return found


def notes(results: Results) -> list[str]:
    """Returns how to read the column of certificates, and why defences have none."""
    settings = results.settings
    if not settings.certify:
        return []
    lines = [
        "Certified: images of which it is proved that no perturbation of the radius changes the verdict "
        "(fdjpeg.certificates). The truth is between certified and the worst case."
    ]
    if settings.uncertified:
        demands = "; ".join(f"{name} would have to {demand}" for name, demand in settings.uncertified.items())
        lines.append(f"Without certificates: {demands}.")
    lines += [_why_none(cell) for cell in _off_the_lattice(results)]
    return lines


def _off_the_lattice(results: Results) -> list[Cell]:
    """Returns the cell of the least radius of each defence without a first pass, if nothing is certified there."""
    found: dict[str, Cell] = {}
    for eps in results.settings.eps:
        for cell in results.select(eps=eps, threat=CERTIFICATE):
            if cell.defense not in results.settings.first_pass and cell.changeable and not any(cell.right):
                found.setdefault(cell.defense, cell)
    return list(found.values())


def _why_none(cell: Cell) -> str:
    """Returns why nothing can be certified behind a defence whose attacker meets images as they are."""
    counts = sorted(cell.changeable)
    return (
        f"Nothing can be certified behind {cell.defense}: at {cell.eps} {counts[0]} coefficients of an image can "
        f"change at the least, {counts[(len(counts) - 1) // 2]} in the median, because images that no first pass "
        "brought to the table's lattice have coefficients anywhere between two ties of rounding."
    )
