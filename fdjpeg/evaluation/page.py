"""A report as one HTML page that needs no other file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from html import escape

import torch

from .cells import Cell, Picture, png, rights, wilson
from .results import Results, Row
from .text import Table, Text


def html(results: Results, text: Text) -> str:
    """Returns the whole page."""
    body = "\n".join(part for part in (*_top(text), *_charts(results), *_bottom(results, text)) if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>fdjpeg evaluation</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _top(text: Text) -> list[str]:
    """Returns headline, warnings, findings, tables and notes."""
    parts = [
        f"<h1>fdjpeg evaluation</h1><p>{escape(text.headline)}</p>",
        *(f'<p class="failed">{escape(sentence)}</p>' for sentence in text.warnings),
        "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in text.findings) + "</ul>",
        _table(text.table),
    ]
    if text.by_attack is not None:
        parts += [
            "<h2>Each attack by itself</h2>",
            _table(text.by_attack),
            _note("Images right, worst case over gradients."),
        ]
    return [*parts, *(_note(note) for note in text.notes)]


def _charts(results: Results) -> list[str]:
    """Returns the charts, each with the note that explains it."""
    parts = [
        "<h2>Accuracy against the radius</h2>",
        _radius_charts(results),
        _note("Solid, with its 95 % interval: worst case. Dashed: gray-box only. Radius 0: no attack."),
    ]
    curves = _loss_charts(results)
    if not curves:
        return parts
    return [
        *parts,
        "<h2>Loss against the step</h2>",
        curves,
        _note(
            "Mean over the images under attack, at the largest radius. If the attack leaves fooled images alone, they "
            "keep their last value. A curve that still climbs at its end belongs to an attack that needs more steps."
        ),
    ]


def _bottom(results: Results, text: Text) -> list[str]:
    """Returns checks, pictures, origins and settings."""
    checks = [["passed" if check.passed else "FAILED", check.name, check.figure] for check in text.checks]
    settings = escape(json.dumps(results.settings.to_json(), indent=2, ensure_ascii=False))
    return [
        "<h2>Checks</h2>",
        f'<div class="checks">{_table(Table(["", "check", "figure"], checks), grouped=False)}</div>',
        "<h2>Pictures</h2>",
        _gallery(results),
        "<h2>Settings, origins and terms</h2>",
        *(f"<p>{escape(origin)}</p>" for origin in text.origins),
        f"<details><summary>All settings</summary><pre>{settings}</pre></details>",
    ]


def _note(sentences: str) -> str:
    return f'<p class="note">{escape(sentences)}</p>'


def _table(table: Table, grouped: bool = True) -> str:
    """Returns a table; if ``grouped``, a text in the first column is not repeated in the rows below it."""

    def line(tag: str, values: Sequence[str], kind: str = "") -> str:
        return f"<tr{kind}>" + "".join(f"<{tag}>{escape(value)}</{tag}>" for value in values) + "</tr>"

    body = []
    for number, row in enumerate(table.rows):
        again = grouped and number > 0 and table.rows[number - 1][0] == row[0]
        body.append(line("td", ["" if again else row[0], *row[1:]], "" if again else ' class="first"'))
    head = line("th", table.header)
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(body)}</tbody></table></div>'


# --- charts -----------------------------------------------------------------------------------------------------------


class _Chart:
    """A small drawing with axes, as an SVG inside the page.

    Args:
        title: text above it.
        across: labels under the horizontal axis at their places.
        up: the least and the greatest value.
        ticks: labels of the vertical axis at their values.
        below: name of the horizontal axis.
    """

    WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 250, 150, 44, 26, 8, 36

    def __init__(
        self,
        title: str,
        across: Sequence[tuple[float, str]],
        up: tuple[float, float],
        ticks: Sequence[tuple[float, str]],
        below: str,
    ) -> None:
        self.last = max(place for place, _ in across) or 1.0
        self.low, self.high = up
        self.title = title
        self.parts: list[str] = []
        for value, label in ticks:
            y = self.y(value)
            self.parts.append(f'<path class="grid" d="M{self.LEFT} {y:.1f}h{self.WIDTH}"/>')
            self.parts.append(f'<text x="{self.LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        base = self.TOP + self.HEIGHT
        for place, label in across:
            self.parts.append(f'<text x="{self.x(place):.1f}" y="{base + 16}" text-anchor="middle">{label}</text>')
        middle = self.LEFT + self.WIDTH / 2
        self.parts.append(
            f'<text class="axis" x="{middle}" y="{base + 32}" text-anchor="middle">{escape(below)}</text>'
        )

    def x(self, place: float) -> float:
        """Returns pixels from the left."""
        return self.LEFT + self.WIDTH * place / self.last

    def y(self, value: float) -> float:
        """Returns pixels from the top."""
        return self.TOP + self.HEIGHT * (1 - (value - self.low) / ((self.high - self.low) or 1.0))

    def line(self, points: Sequence[tuple[float, float]], colour: str, kind: str = "", dots: bool = False) -> None:
        """Draws a line through points of place and value."""
        path = " ".join(f"{self.x(place):.1f},{self.y(value):.1f}" for place, value in points)
        self.parts.append(f'<polyline class="{kind}" points="{path}" stroke="{colour}"/>')
        if dots:
            self.parts += [
                f'<circle cx="{self.x(place):.1f}" cy="{self.y(value):.1f}" r="3" fill="{colour}"/>'
                for place, value in points
            ]

    def bar(self, place: float, low: float, high: float, colour: str) -> None:
        """Draws an interval of values."""
        path = f"M{self.x(place):.1f} {self.y(low):.1f}V{self.y(high):.1f}"
        self.parts.append(f'<path class="bar" d="{path}" stroke="{colour}"/>')

    def html(self) -> str:
        """Returns the drawing under its title."""
        width, height = self.LEFT + self.WIDTH + self.RIGHT, self.TOP + self.HEIGHT + self.BOTTOM
        drawing = f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img">{"".join(self.parts)}</svg>'
        return f'<div class="chart"><p>{escape(self.title)}</p>{drawing}</div>'


def _radius_charts(results: Results) -> str:
    """Draws the share of images right against the radius for each defence: worst case, and dashed gray-box."""
    radii = [float(Fraction(eps)) for eps in results.settings.eps]
    across = [(0.0, "0"), *zip(radii, results.settings.eps, strict=True)]
    ticks = [(0.0, "0"), (0.5, "50 %"), (1.0, "100 %")]
    charts = []
    for number, defense in enumerate(results.defenses):
        rows = [row for row in results.rows if row.defense == defense]
        colour = COLOURS[number % len(COLOURS)]
        if not all(row.complete for row in rows):
            continue
        chart = _Chart(defense, across, (0.0, 1.0), ticks, "ε")
        if all("gray-box" in row.attacks for row in rows):
            chart.line(_shares(results, rows, radii, [row.attacks["gray-box"] for row in rows]), colour, "gray-box")
        points = _shares(results, rows, radii, [row.worst for row in rows])
        chart.line(points, colour, "worst", dots=True)
        for place, share in points:
            chart.bar(place, *wilson(share * results.count, results.count), colour)
        charts.append(chart.html())
    return f'<div class="charts">{"".join(charts)}</div>'


def _shares(
    results: Results, rows: Sequence[Row], radii: Sequence[float], counts: Sequence[float]
) -> list[tuple[float, float]]:
    """Returns points of radius and share of images right; the first is without an attack."""
    return [(r, n / results.count) for r, n in zip([0.0, *radii], [rows[0].clean, *counts], strict=True)]


def _loss_charts(results: Results) -> str:
    """Draws the loss at each step for each defence and attack at the largest radius, a line for each gradient."""
    eps = results.settings.eps[-1]
    charts = []
    for defense in results.defenses:
        for attack in results.settings.attacks:
            cells = [
                cell
                for cell in results.select(defense, eps, attack=attack)
                if cell.threat in ("white-box", "adaptive") and len(cell.curve) > 2
            ]
            if cells:
                charts.append(_loss_chart(cells, defense, attack, results.gradients))
    legend = "".join(
        f'<span style="color:{_colour(name, results.gradients)}">━ {escape(name)}</span>' for name in results.gradients
    )
    return f'<div class="charts">{"".join(charts)}</div><p class="legend">{legend}</p>' if charts else ""


def _colour(gradient: str | None, gradients: Sequence[str]) -> str:
    """Returns the colour of a gradient in all drawings; the bare network's is the first."""
    return COLOURS[0] if gradient is None else COLOURS[1 + gradients.index(gradient) % (len(COLOURS) - 1)]


def _loss_chart(cells: Sequence[Cell], defense: str, attack: str, gradients: Sequence[str]) -> str:
    values = [value for cell in cells for value in cell.curve]
    low, high = min(values), max(values)
    steps = max(len(cell.curve) for cell in cells) - 1
    ticks = [(low, f"{low:.3g}"), (high, f"{high:.3g}")]
    across = [(0.0, "0"), (steps / 2, f"{steps / 2:g}"), (float(steps), str(steps))]
    chart = _Chart(f"{defense}, {attack}", across, (low, high), ticks, "step")
    for cell in cells:
        chart.line(list(enumerate(cell.curve)), _colour(cell.gradient, gradients))
    return chart.html()


# --- pictures ---------------------------------------------------------------------------------------------------------


def _gallery(results: Results) -> str:
    """Returns the pictures of each defence at the largest radius: clean, adversarial, difference × 10, defended."""
    eps = results.settings.eps[-1]
    parts = []
    for defense in results.defenses:
        cells = [cell for cell in results.select(defense, eps) if cell.pictures]
        strips = []
        for place in range(len(cells[0].pictures) if cells else 0):
            # The attack with the largest margin on this image.
            index = cells[0].pictures[place].index
            cell = max(cells, key=lambda cell, index=index: cell.margin[index])  # type: ignore[misc]
            strips.append(_strip(results, cell, cell.pictures[place]))
        if strips:
            parts.append(f"<h3>{escape(defense)}, ε = {eps}</h3>" + "".join(strips))
    return "\n".join(parts) or "<p>None were requested.</p>"


def _strip(results: Results, cell: Cell, picture: Picture) -> str:
    name, label = results.images.names[picture.index], int(results.images.labels[picture.index])
    difference = (picture.adversarial.short() - picture.clean.short()) * 10 + 128
    by = f"{cell.attack} through {cell.gradient}" if cell.gradient else str(cell.attack)
    after = _verdict(cell, picture.index, label)
    before = _verdict(results.clean(cell.defense), picture.index, label)
    bare = cell.defense == "none"
    panels = [
        ("clean", picture.clean, before),
        (f"adversarial ({by})", picture.adversarial, after if bare else ""),
        ("difference × 10 on grey", difference.clamp(0, 255).to(torch.uint8), ""),
    ]
    if not bare:
        panels.append(("adversarial, defended", picture.defended, after))
    figures = "".join(
        f'<figure><img alt="{escape(title)}" src="data:image/png;base64,{png(image)}">'
        f"<figcaption>{escape(title)}<br>{caption}</figcaption></figure>"
        for title, image, caption in panels
    )
    return f'<div class="strip"><p>{escape(name)}, class {label}</p>{figures}</div>'


def _verdict(cell: Cell, index: int, label: int) -> str:
    kind = "right" if cell.predicted[index] == label else "wrong"
    seen = f"class {cell.predicted[index]}" if cell.predicted[index] >= 0 else "no class (NaN)"
    share = float(rights(cell)[index])
    shared = f" ({100 * share:.0f} % of draws right)" if 0 < share < 1 else ""
    return f'seen as {seen}: <b class="{kind}">{kind}</b>{shared}'


COLOURS = ("#555555", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07a00", "#3a9bd9")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #1b1b1b; background: #fff; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #555; vertical-align: bottom; } tr.first td { border-top: 1px solid #ddd; }
th:nth-child(n+3), td:nth-child(n+3) { text-align: right; } td:nth-child(n+2) { white-space: nowrap; }
.checks th, .checks td { text-align: left; white-space: normal; border-top: 1px solid #ddd; }
.note { color: #444; font-size: .9rem; }
.failed { background: #fff0e0; border-left: 4px solid #d55e00; padding: .5rem .8rem; }
.charts { display: flex; flex-wrap: wrap; align-items: flex-end; gap: .5rem; }
.legend span { margin-right: 1.2rem; font-size: .9rem; }
svg { max-width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; }
.chart { width: 320px; } .chart p { margin: .6rem 0 .2rem 44px; font-size: .8rem; font-weight: 600; }
.chart p { overflow-wrap: anywhere; line-height: 1.2; }
.grid { stroke: #ddd; } .bar { stroke-width: 1.2; opacity: .55; }
polyline { fill: none; stroke-width: 2; } .gray-box { stroke-width: 1.5; stroke-dasharray: 5 4; }
.strip { margin: 1rem 0; } .strip p { margin: 0 0 .3rem; font-weight: 600; }
figure { display: inline-block; margin: 0 .6rem .6rem 0; vertical-align: top; width: 224px; max-width: 46%; }
figure img { width: 100%; min-height: 1px; display: block; image-rendering: pixelated; }
.right { color: #00734f; } .wrong { color: #b34700; }
figcaption { font-size: .85rem; color: #444; }
.scroll { overflow-x: auto; }
pre { overflow-x: auto; background: #f6f6f6; padding: 1rem; font-size: .8rem; }
"""
