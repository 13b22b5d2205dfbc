"""The charts of a report: drawings of matplotlib as SVG inside the page, in the colours of its style sheet."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

from fdjpeg._packages import required

from .cells import Cell, wilson
from .results import Row
from .text import printable

#: The colours, by the names of the style sheet's variables. A chart is drawn in stand-ins, one for each name.
COLOURS = ("ink", "line", "clean", "unknowing", "knowing", "certified", "undecided")

#: Variables for the gradients of adaptive attackers, in the order of the report, and the dashes of their lines.
GRADIENT_COLOURS = tuple(f"gradient-{number}" for number in range(1, 8))
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (1, 1)), (0, (4, 1.5, 1, 1.5, 1, 1.5)), (0, (9, 3)))

_STAND_INS = {name: f"#0000{240 - number:02x}" for number, name in enumerate((*COLOURS, *GRADIENT_COLOURS))}

#: Widths in pixels: a phone's page without its margins, and half of a printed one.
WIDTH, SMALL_WIDTH = 380, 300

_FONT = 11
_LINE = 17


@dataclass(frozen=True)
class Mark:
    """One line of the chart of defences: shares of images right, 0 … 1; None where nothing was measured."""

    eps: str
    clean: float
    unknowing: float | None
    knowing: float | None
    interval: tuple[float, float] | None
    certified: float | None


def mark_of(row: Row, count: int) -> Mark:
    """Returns the marks of a row of the table."""
    gray = row.attacks.get("gray-box")
    return Mark(
        eps=row.eps,
        clean=row.clean / count,
        unknowing=None if gray is None else gray / count,
        knowing=row.worst / count if row.complete else None,
        interval=wilson(row.worst, count) if row.complete else None,
        certified=None if row.certified is None else row.certified / count,
    )


def defences(groups: Sequence[tuple[str, Sequence[Mark]]], label: str) -> str:
    """Draws the share of images right for each defence and radius, one line below the other, as one SVG.

    Args:
        groups: defences with their lines.
        label: the chart in words.
    """
    names = [_wrapped(printable(name), WIDTH - 10) for name, _ in groups]
    lines = sum(len(name) + len(marks) for name, (_, marks) in zip(names, groups, strict=True))
    left = 14 + 6.6 * max((len(mark.eps) + 4 for _, marks in groups for mark in marks), default=0)
    certified = any(mark.certified is not None for _, marks in groups for mark in marks)
    top, bottom, gap = (84 if certified else 56), 40, 8
    height = top + bottom + _LINE * lines + gap * len(groups)
    with _figure(WIDTH, height) as figure:
        axes = figure.add_axes((left / WIDTH, bottom / height, 1 - (left + 16) / WIDTH, 1 - (top + bottom) / height))
        axes.set(xlim=(0, 1), ylim=(_LINE * lines + gap * len(groups), 0), yticks=[])
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        axes.set_xlabel("images right")
        axes.grid(axis="x", color=_STAND_INS["line"], linewidth=0.8)
        y = float(gap)
        for name, (_, marks) in zip(names, groups, strict=True):
            for line in name:
                axes.text(
                    -(left - 2) / (WIDTH - left - 16),
                    y + _LINE / 2,
                    line,
                    ha="left",
                    va="center",
                    weight="bold",
                    color=_STAND_INS["ink"],
                )
                y += _LINE
            for mark in marks:
                _draw_mark(axes, mark, y + _LINE / 2)
                y += _LINE
            y += gap
        figure.legend(
            handles=_legend(axes, [mark for _, marks in groups for mark in marks]),
            loc="upper left",
            bbox_to_anchor=(0, 1),
            ncols=1,
            frameon=False,
            labelspacing=0.25,
            borderpad=0.1,
            labelcolor=_STAND_INS["ink"],
        )
        return _svg(figure, label)


def _draw_mark(axes: Any, mark: Mark, y: float) -> None:
    """Draws a line of the chart of defences."""
    axes.text(-0.025, y, f"ε = {mark.eps}", ha="right", va="center", color=_STAND_INS["ink"])
    axes.plot([0, 1], [y, y], color=_STAND_INS["line"], linewidth=0.6, zorder=1)
    if mark.certified is not None:
        until = max(mark.certified, mark.knowing or 0.0)
        axes.barh(y, mark.certified, height=9, color=_STAND_INS["certified"], zorder=2)
        axes.barh(
            y,
            until - mark.certified,
            left=mark.certified,
            height=8.4,
            facecolor="none",
            edgecolor=_STAND_INS["undecided"],
            hatch="////",
            linewidth=0.8,
            zorder=2,
        )
    style = {"marker": "|", "markersize": 11, "markeredgewidth": 2, "zorder": 3, "clip_on": False}
    axes.plot([mark.clean], [y], color=_STAND_INS["clean"], **style)
    if mark.unknowing is not None:
        axes.plot(
            [mark.unknowing],
            [y],
            marker="D",
            markersize=6.5,
            markerfacecolor="none",
            markeredgewidth=1.6,
            color=_STAND_INS["unknowing"],
            zorder=4,
            clip_on=False,
        )
    if mark.interval is not None:
        axes.plot(mark.interval, [y, y], color=_STAND_INS["knowing"], linewidth=1.6, zorder=4)
        axes.plot([mark.knowing], [y], marker="o", markersize=6.5, color=_STAND_INS["knowing"], zorder=5, clip_on=False)


def _legend(axes: Any, marks: Sequence[Mark]) -> list[Any]:
    """Returns samples of the marks that occur, with their meaning."""
    lines = required("matplotlib.lines", "matplotlib", "eval")
    patches = required("matplotlib.patches", "matplotlib", "eval")

    def sample(name: str, text: str, **style: Any) -> Any:
        return lines.Line2D([], [], color=_STAND_INS[name], label=text, **style)

    found = [sample("clean", "no attack", marker="|", markersize=11, markeredgewidth=2, linestyle="none")]
    if any(mark.unknowing is not None for mark in marks):
        style = {"marker": "D", "markersize": 6.5, "markerfacecolor": "none", "markeredgewidth": 1.6}
        found.append(sample("unknowing", "the attacker does not know the layer", linestyle="none", **style))
    found.append(sample("knowing", "worst case over all attacks, 95 % interval", marker="o", markersize=6.5))
    if any(mark.certified is not None for mark in marks):
        band = {"edgecolor": _STAND_INS["undecided"], "facecolor": "none", "hatch": "////"}
        found.append(patches.Patch(color=_STAND_INS["certified"], label="certified: no attack exists"))
        found.append(patches.Patch(label="neither certified nor attacked", **band))
    return found


def losses(cells: Sequence[tuple[str, Cell]], colour: dict[str, str], label: str) -> str:
    """Draws the mean loss of one attack at each step, a line for each gradient, as one SVG.

    Args:
        cells: names of gradients with their cells.
        colour: the style sheet's variable of each gradient, in the order of their dashes.
        label: the chart in words.
    """
    ticker = required("matplotlib.ticker", "matplotlib", "eval")
    width, height, left, bottom = SMALL_WIDTH, 180, 64, 40
    with _figure(width, height) as figure:
        axes = figure.add_axes((left / width, bottom / height, 1 - (left + 18) / width, 1 - (bottom + 12) / height))
        for name, cell in cells:
            dash = DASHES[list(colour).index(name) % len(DASHES)]
            axes.plot(cell.curve, color=_STAND_INS[colour[name]], linestyle=dash, linewidth=1.8)
        axes.set(xlabel="step", ylabel="loss")
        axes.yaxis.set_label_coords(-0.2, 0.5)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(ticker.MaxNLocator(4))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.grid(axis="y", color=_STAND_INS["line"], linewidth=0.8)
        return _svg(figure, label)


def swatch(number: int, variable: str) -> str:
    """Returns a short sample of the line of a gradient, as an SVG that screen readers pass over."""
    dash = DASHES[number % len(DASHES)]
    pattern = "" if isinstance(dash, str) else f' stroke-dasharray="{" ".join(f"{1.8 * part:g}" for part in dash[1])}"'
    return (
        '<svg aria-hidden="true" width="36" height="8" viewBox="0 0 36 8">'
        f'<path d="M0 4H36" style="stroke: var(--{variable}); stroke-width: 2"{pattern}/></svg>'
    )


@contextmanager
def _figure(width: float, height: float) -> Iterator[Any]:
    """Yields an empty figure of so many pixels, with settings that do not depend on the user's."""
    matplotlib = required("matplotlib", "matplotlib", "eval")
    figures = required("matplotlib.figure", "matplotlib", "eval")
    ink, line = _STAND_INS["ink"], _STAND_INS["line"]
    settings = {
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.size": _FONT,
        "legend.fontsize": _FONT,
        "hatch.linewidth": 0.8,
        "axes.edgecolor": line,
        "axes.labelcolor": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.axisbelow": True,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **settings}):
        figure = figures.Figure(figsize=(width / 72, height / 72), dpi=72)
        figure.patch.set_visible(False)
        yield figure


def _svg(figure: Any, label: str) -> str:
    """Returns a figure as SVG with a name for screen readers, its colours those of the style sheet."""
    matplotlib = required("matplotlib", "matplotlib", "eval")
    for axes in figure.axes:
        axes.patch.set_visible(False)
    drawn = io.StringIO()
    # Two drawings in one page must not share the ids of their clips.
    matplotlib.rcParams["svg.hashsalt"] = printable(label)
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    _, _, content = drawn.getvalue().partition("<svg")
    _, _, content = content.partition(">")
    variables = {colour: name for name, colour in _STAND_INS.items()}
    pattern = re.compile(r"(?<=: )#0000[0-9a-f]{2}")
    content = pattern.sub(lambda found: f"var(--{variables.get(found[0], 'ink')})", content)
    content = re.sub(r"<metadata>.*?</metadata>", "", content, flags=re.DOTALL)
    width, height = (72 * side for side in figure.get_size_inches())
    return (
        f'<svg role="img" aria-label="{escape(printable(label))}" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}">{content}'
    )


def _wrapped(name: str, width: float) -> list[str]:
    """Returns the lines of a name in bold that are at most ``width`` pixels wide, broken anywhere."""
    bold = required("matplotlib.font_manager", "matplotlib", "eval").FontProperties(weight="bold", size=_FONT)
    measure = required("matplotlib.textpath", "matplotlib", "eval").text_to_path.get_text_width_height_descent
    lines = [""]
    for character in name:
        if measure(lines[-1] + character, bold, ismath=False)[0] > width:
            lines.append("")
        lines[-1] += character
    return lines
