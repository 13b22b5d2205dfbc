"""The charts' look as it was approved: everything that is drawn of a sample of each kind, in ``chart_looks.json``.

A change of look is a deliberate one: ``python tests/evaluation/test_chart_looks.py --write`` makes the list again. The
samples are drawn by matplotlib onto a page that notes each stroke, with letters of one size, so that neither fonts nor
versions matter.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from fdjpeg.evaluation import Cell

pytest.importorskip("matplotlib")

from matplotlib import colors
from matplotlib.backend_bases import RendererBase
from matplotlib.textpath import text_to_path

from fdjpeg.evaluation import charts

LOOKS = Path(__file__).with_name("chart_looks.json")

#: Marks of a defence of which everything was measured, and of others where less was.
WHOLE = charts.Mark("1/255", 0.9, 0.8, 0.4, (0.3, 0.55), 0.25)
UNCERTIFIED = charts.Mark("16/255", 0.7, 0.5, 0.125, (0.05, 0.2), None)
UNFINISHED = charts.Mark("1/255", 0.6, None, None, None, 0.5)


def curves() -> list[tuple[str, Cell]]:
    """Losses through eight gradients, more than there are dashes, that rise within 22 steps."""
    rises = [[number + math.log1p(step) for step in range(23)] for number in range(8)]
    return [(f"gradient {n}", Cell("jpeg:75", "adaptive", loss=rise, attacked=1)) for n, rise in enumerate(rises)]


#: What is drawn of each sample.
SAMPLES: dict[str, Callable[[], str]] = {
    "defences": lambda: charts.defences(
        [("none", [UNCERTIFIED, UNFINISHED]), ("a price of $1$, < 2", [WHOLE])], "Share of <images>"
    ),
    "defences without certificates": lambda: charts.defences([("none", [UNCERTIFIED])], "Shares"),
    "defences, only certified": lambda: charts.defences([("none", [UNFINISHED])], "Shares"),
    "a defence without a line": lambda: charts.defences([("none", [])], "Nothing"),
    "losses": lambda: charts.losses(
        curves(), {name: charts.GRADIENT_COLOURS[n % 7] for n, (name, _) in enumerate(curves())}, "Loss"
    ),
    "one loss of two steps": lambda: charts.losses(
        [("bare network", Cell("none", "white-box", loss=[0.0, 0.25, 1.0], attacked=1))],
        {"bare network": "ink"},
        "Loss",
    ),
}


class Page(RendererBase):
    """Notes the strokes of a figure in their order, in pixels from its upper left corner."""

    def __init__(self, figure: Any) -> None:
        super().__init__()
        self.dpi = figure.dpi
        self.width, self.height = (side * self.dpi for side in figure.get_size_inches())
        self.drawn: list[dict[str, Any]] = []

    def points_to_pixels(self, points: float) -> float:
        return points * self.dpi / 72

    def get_canvas_width_height(self) -> tuple[float, float]:
        return self.width, self.height

    def get_text_width_height_descent(self, text: str, font: Any, ismath: object) -> tuple[float, float, float]:
        size = self.points_to_pixels(font.get_size_in_points())
        # Higher than any font's letters, because newer versions take the font's height where that is larger.
        return 0.6 * size * len(text), 1.6 * size, 0.4 * size

    def draw_path(self, gc: Any, path: Any, transform: Any, face: Any = None) -> None:
        corners = self._places(transform.transform(path.vertices))
        if len(corners) == 1:
            return  # the line of a single marker
        if len(corners) > 5:
            corners = [corners[0], f"{len(corners)} points", corners[-1]]
        self._add("path", gc, face, at=corners)

    def draw_markers(
        self,
        gc: Any,
        marker_path: Any,
        marker_trans: Any,
        path: Any,
        trans: Any,
        face: Any = None,
    ) -> None:
        shape = marker_trans.transform(marker_path.vertices)
        size = [_rounded(side) for side in shape.max(axis=0) - shape.min(axis=0)]
        self._add("marker", gc, face, at=self._places(trans.transform(path.vertices)), size=size, points=len(shape))

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: object = False, mtext: Any = None
    ) -> None:
        (place,) = self._places(mtext.get_transform().transform([mtext.get_unitless_position()]))
        family = prop.get_family()
        drawn = {
            "text": s,
            "at": place,
            "aligned": f"{mtext.get_ha()} {mtext.get_va()}",
            "angle": angle or None,
            "size": _rounded(self.points_to_pixels(prop.get_size_in_points())),
            "weight": prop.get_weight(),
            "family": None if family == ["sans-serif"] else family,
            "colour": _name(gc.get_rgb()),
            "formula": str(ismath) if ismath else None,
        }
        self.drawn.append({name: value for name, value in drawn.items() if value is not None})

    def _add(self, kind: str, gc: Any, face: Any, **more: Any) -> None:
        width = gc.get_linewidth()
        clip = gc.get_clip_rectangle()
        offset, dashes = gc.get_dashes()
        drawn = {
            "drawn": kind,
            **more,
            "line": _name(gc.get_rgb()) if width else None,
            "width": _rounded(width),
            "dashes": dashes and [_rounded(offset), [_rounded(part) for part in dashes]],
            "fill": None if face is None else _name(face),
            "hatch": gc.get_hatch() and [gc.get_hatch(), _name(gc.get_hatch_color()), gc.get_hatch_linewidth()],
            "clipped": clip and self._places(clip.get_points()),
        }
        self.drawn.append({name: value for name, value in drawn.items() if value is not None})

    def _places(self, points: Any) -> list[Any]:
        return [[_rounded(x), _rounded(self.height - y)] for x, y in points]


def _rounded(value: float) -> float:
    return round(float(value), 1) + 0.0  # without a sign of zero


def _name(colour: Any) -> str | None:
    """Returns the style sheet's name of a colour, None for one that cannot be seen."""
    names = {stand_in: name for name, stand_in in charts._STAND_INS.items()}
    written = colors.to_hex(colour)
    return None if colors.to_rgba(colour)[3] == 0 else names.get(written, written)


def look(name: str) -> dict[str, Any]:
    """Draws a sample; returns its figure's size, the start of its SVG and its strokes."""
    found: dict[str, Any] = {}
    write = charts._svg

    def noted(figure: Any, label: str) -> str:
        written = write(figure, label)
        page = Page(figure)
        figure.draw(page)
        found.update(size=[_rounded(page.width), _rounded(page.height)], strokes=page.drawn)
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "_svg", noted)
        return {"start": SAMPLES[name]().partition(">")[0] + ">", **found}


def kept() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(LOOKS.read_text(encoding="utf-8"))
    return whole


@pytest.mark.parametrize("name", list(SAMPLES))
def test_a_chart_looks_as_it_was_approved(name: str) -> None:
    now, approved = json.loads(json.dumps(look(name))), kept()[name]
    assert now["strokes"] == approved["strokes"], "see the top of this file if the change is wanted"
    assert now == approved


def test_a_chart_is_the_same_each_time_and_shares_no_names_with_another() -> None:
    one, again, other = (charts.defences([("none", [UNCERTIFIED])], label) for label in ("a", "a", "b"))
    assert one == again
    clips, others = (set(re.findall(r'<clipPath id="([^"]+)"', drawn)) for drawn in (one, other))
    assert clips
    assert not clips & others
    assert re.findall(r"<(\?xml|!DOCTYPE|svg|metadata)", one) == ["svg"]


def test_names_have_the_width_of_the_page_but_for_margins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is too long goes on in the next line, and each line moves what follows."""
    asked: list[tuple[str, float]] = []
    monkeypatch.setattr(charts, "_wrapped", lambda name, width: asked.append((name, width)) or ["one", "two"])
    assert 'viewBox="0 0 380 155"' in charts.defences([("a\x1bb", [UNCERTIFIED])], "Shares")
    assert asked == [("a�b", 370)]


def test_names_are_broken_where_their_bold_letters_are_too_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float, object]] = []

    def measure(text: str, font: Any, ismath: object) -> tuple[float, float, float]:
        asked.append((font.get_weight(), font.get_size_in_points(), ismath))
        return 10.0 * len(text), 99.0, 99.0

    monkeypatch.setattr(text_to_path, "get_text_width_height_descent", measure)
    assert charts._wrapped("abcdefg", 30) == ["abc", "def", "g"]
    assert charts._wrapped("abc", 29.9) == ["ab", "c"]
    assert charts._wrapped("", 30) == [""]
    assert set(asked) == {("bold", 11, False)}


def test_a_mark_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        WHOLE.clean = 1.0  # type: ignore[misc]


def test_colours_are_those_of_the_style_sheet() -> None:
    style = resources.files("fdjpeg.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    names = set(re.findall(r"--([a-z0-9-]+): #", style))
    assert set(charts.COLOURS) < names
    assert set(charts.GRADIENT_COLOURS) == {name for name in names if name.startswith("gradient-")}
    assert len(set(charts._STAND_INS.values())) == len(charts._STAND_INS) == 14


def test_samples_of_lines_have_their_dashes() -> None:
    """Above the charts of losses, as SVG that needs no matplotlib: the dashes of those charts."""
    samples = [charts.swatch(number, f"gradient-{number + 1}") for number in range(8)]
    lines = [stroke for stroke in kept()["losses"]["strokes"] if "gradient" in stroke.get("line", "")]
    dashes = [" ".join(f"{part:g}" for part in line.get("dashes", (0, []))[1]) for line in lines]
    assert [re.findall(r'stroke-dasharray="([^"]*)"', sample) for sample in samples] == [
        [one] * bool(one) for one in dashes
    ]
    for number, sample in enumerate(samples):
        start = '<svg aria-hidden="true" width="36" height="8" viewBox="0 0 36 8"><path d="M0 4H36"'
        assert sample.startswith(f'{start} style="stroke: var(--gradient-{number + 1}); stroke-width: 2"')


def main() -> None:
    parser = argparse.ArgumentParser(description="Shows the strokes of sample charts.")
    parser.add_argument("--write", action="store_true", help="keep them as the approved look")
    arguments = parser.parse_args()
    lines = []
    for name in SAMPLES:
        chart = look(name)
        head = "".join(f"  {json.dumps(key)}: {json.dumps(chart[key])},\n" for key in chart if key != "strokes")
        strokes = ",\n".join(f"   {json.dumps(stroke, ensure_ascii=False)}" for stroke in chart["strokes"])
        lines.append(f' {json.dumps(name)}: {{\n{head}  "strokes": [\n{strokes}\n  ]\n }}')
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    print(text, end="")
    if arguments.write:
        LOOKS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
