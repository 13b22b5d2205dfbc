"""The report's page: its finding, names and pictures, colours that can be read, and nothing cut in a browser."""

from __future__ import annotations

import html
import html.parser
import importlib.resources
import json
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from support.report_cases import HOSTILE, cell, crowded, made

from fdjpeg import sources
from fdjpeg.evaluation import Report, page, wilson
from fdjpeg.evaluation.cells import Picture
from fdjpeg.evaluation.text import Table
from fdjpeg.sources import classes

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


def named(report: Report, **fields: object) -> Report:
    return Report(report.settings, report.cells, replace(report.images, **fields))


def test_the_finding_is_one_sentence_on_top_of_every_file() -> None:
    finding = "To an attacker who knows the layer, jpeg:75 keeps 1 of 4 images at 1/255; it seemed to keep 2."
    report = made()
    assert report.finding == finding
    assert report.markdown().split("\n")[2] == f"**{finding}**"
    page_ = report.html()
    assert page_.index(finding) < page_.index("<table")
    without = Report(replace(report.settings, defenses={}), report.cells, report.images)
    assert without.finding == "The bare network keeps 0 of 4 images at 1/255."
    masked = made(cell("jpeg:75", "black-box", [1, 1, 1, 1], attack="Square-5"), gradient_free=["Square-5"])
    assert masked.finding.startswith("No attack of this run could follow the gradients of jpeg:75: the 0 of 4 images")


def test_of_several_defences_the_finding_is_about_the_best() -> None:
    more = [
        cell("other", "clean", [0, 0, 0, 0], None),
        cell("other", "gray-box", [0, 0, 0, 0]),
        *(cell("other", "adaptive", [0, 0, 1, 0], gradient=gradient) for gradient in ("identity", "cubic")),
    ]
    both = {"jpeg:75": ["identity", "cubic"], "other": ["identity", "cubic"]}
    finding = made(*more, defenses=both).finding
    assert finding.endswith("the best of 2 defences, other, keeps 3 of 4 images at 1/255; it seemed to keep 4.")


def test_classes_have_their_names() -> None:
    names = classes.imagenet()
    assert len(names) == 1000
    assert (names[0], names[243], names[517], names[134]) == ("tench", "bull mastiff", "crane", "crane")
    assert classes.class_names(["n01440764", "n02108422"]) == names
    assert classes.class_names(["cats", "dogs"]) == ("cats", "dogs")
    assert classes.class_names(["0", "1"]) == ()
    photographs = sources.photographs(32).head(1)
    assert photographs.classes[int(photographs.labels[0])] == "bull mastiff"


def test_pictures_show_what_each_network_sees_and_a_difference_in_radii() -> None:
    clean = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    adversarial = clean.clone()
    adversarial[:, 0, 0], adversarial[:, 1, 1] = 102, 99
    picture = Picture(1, clean, adversarial, clean, clean, bare=1)
    shown = cell("jpeg:75", "adaptive", [0, 1, 0, 0], "2/255", gradient="cubic", pictures=[picture])
    report = named(made(shown, eps=["1/255", "2/255"]), classes=("cat", "dog & bone"))
    (group,) = page._pictures(report)
    (strip,) = group["strips"]
    assert strip["title"] == "b, cat (0)"
    read = {panel["name"]: (panel["reader"], panel["seen"], panel["verdict"]) for panel in strip["panels"]}
    assert read == {
        "clean": ("bare", "cat (0)", "right"),
        "adversarial, by PGD-20 through cubic": ("bare", "dog & bone (1)", "wrong"),
        "difference": ("", "", ""),
        "clean, behind the layer": ("defended", "cat (0)", "right"),
        "adversarial, behind the layer": ("defended", "dog & bone (1)", "wrong"),
    }
    difference = page._difference(report, picture)
    assert difference[0].tolist() == [[255, 128], [128, 64]]  # +ε, none; none, −ε/2
    assert "black −2/255 and white +2/255" in report.html()
    assert "dog &amp; bone (1)" in report.html()


def test_a_difference_is_in_shares_of_the_radius_and_cut_off_beyond() -> None:
    grey = torch.full((1, 2, 3), 100, dtype=torch.uint8)
    moved = grey + torch.tensor([[[3, 9, 2], [-3 + 256, -9 + 256, -2 + 256]]], dtype=torch.uint8)
    picture = Picture(0, grey, moved, grey, grey, bare=0)
    # 2/3 of 127.5 is 85; halves are rounded to even numbers.
    assert page._difference(made(eps=["3/255"]), picture).tolist() == [[[255, 255, 212], [0, 0, 42]]]
    # In L2 the largest change is black or white.
    assert page._difference(made(eps=["3/255"], norm="l2"), picture).tolist() == [[[170, 255, 156], [85, 0, 99]]]
    unmoved = replace(picture, adversarial=grey)
    assert page._difference(made(norm="l2"), unmoved).unique().tolist() == [128]


def test_classes_are_named_where_they_have_names() -> None:
    report = named(made(), classes=("cat", "dog"))
    assert [page._class(report, index) for index in (-1, 0, 1, 2)] == [
        "no class (NaN)",
        "cat (0)",
        "dog (1)",
        "class 2",
    ]


def test_verdicts_are_right_wrong_or_a_share_of_draws() -> None:
    found = cell("jpeg:75", "adaptive", [0, 0, 0, 0], right=[1.0, 0.0, 0.05, 0.95])
    shares = ["right", "wrong", "right in 5 % of draws", "right in 95 % of draws"]
    assert [page._verdict(found, index) for index in range(4)] == shares


def test_the_chart_has_the_rows_of_each_defence_and_the_page_a_table_of_attacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[Any, str]] = []
    monkeypatch.setattr(page.charts, "defences", lambda *given: drawn.append(given) or "")
    report = made(attacks={"PGD-20": {}, "FGSM": {}})
    assert "Images right, worst case over gradients." in report.html()
    ((groups, label),) = drawn
    assert [(name, [(mark.eps, mark.clean, mark.unknowing) for mark in marks]) for name, marks in groups] == [
        ("none", [("1/255", 0.75, None)]),
        ("jpeg:75", [("1/255", 0.75, 0.5)]),
    ]
    assert label == f"Share of images right for each defence and radius. {report.finding}"
    assert "worst case over gradients" not in made().html()


def test_settings_are_readable_on_the_page() -> None:
    report = made()
    settings = json.dumps(report.settings.to_json(), indent=2, ensure_ascii=False)
    assert html.unescape(report.html()).count(settings) == 1


def test_the_page_holds_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page.charts, "defences", lambda *_: "")
    name = "a\x1b[31m\udcffü"
    written = made(model=replace(made().settings.model, name=name)).html()
    assert "<title>fdjpeg evaluation: a�[31m\\udcffü</title>" in written
    assert "\\u00fc" not in written  # not in the settings either
    assert not {"\x1b", "\udcff"} & set(written)


def test_a_table_without_a_column_keeps_the_others() -> None:
    table = page._without(Table(["a", "b", "c", "d"], [["1", "2", "3", "4"]]), "b")
    assert table == Table(["a", "c", "d"], [["1", "3", "4"]])


def test_the_page_says_when_where_and_how_it_was_made() -> None:
    report = made()
    run = report.settings.run
    written = report.html()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", run.date)
    assert run.threads == torch.get_num_threads()
    assert "pytest" in run.command or "execnet" in run.command or "-c" in run.command
    for text in (run.date, run.processor, f"<dt>threads</dt><dd>{run.threads}</dd>", run.commit):
        assert text in written
    assert report.json()["settings"]["run"]["date"] == run.date


def test_a_band_is_drawn_where_there_are_certificates() -> None:
    charts = pytest.importorskip("fdjpeg.evaluation.charts")
    mark = charts.Mark("1/255", 0.9, 0.8, 0.5, (0.4, 0.6), None)
    without = charts.defences([("jpeg:75", [mark])], "chart")
    assert "var(--certified)" not in without
    drawn = charts.defences([("jpeg:75", [replace(mark, certified=0.3)])], "chart")
    assert "var(--certified)" in drawn
    assert "certified: no attack exists" in drawn


# ---------------------------------------------------------------------------------------------------------------------
# Colours


def themes() -> dict[str, dict[str, str]]:
    """Returns the colours of the style sheet, light and dark."""
    style = importlib.resources.files("fdjpeg.evaluation").joinpath("report.css").read_text()
    light, dark = (dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", part)) for part in style.split("@media screen"))
    return {"light": light, "dark": dark}


def luminance(colour: str) -> float:
    """Returns relative luminance (WCAG 2.2)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_can_be_read_on_its_ground(theme: str) -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    colours = themes()[theme]
    assert set(colours) == set(themes()["light"])
    grounds = {"warning": ["warning-paper"], "ink": ["paper", "panel", "warning-paper"]}
    for name, colour in colours.items():
        if name in ("paper", "panel", "warning-paper", "line"):
            continue
        for ground in grounds.get(name, ["paper"]):
            assert contrast(colour, colours[ground]) >= 4.5, (name, ground)


def test_a_colour_means_one_thing() -> None:
    for colours in themes().values():
        meanings = {name: colour for name, colour in colours.items() if name not in ("clean", "soft")}
        assert len(set(meanings.values())) == len(meanings)
    drawn = made().html()
    assert set(re.findall(r"var\(--([a-z0-9-]+)\)", drawn)) <= set(themes()["light"])
    assert not re.findall(r"(?:fill|stroke): #", drawn)


# ---------------------------------------------------------------------------------------------------------------------
# Names, structure and a browser


class Reader(html.parser.HTMLParser):
    """Collects elements with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the largest preset with hostile names."""
    folder = tmp_path_factory.mktemp("report")
    crowded().save(folder)
    return folder / "report.html"


@pytest.mark.slow
def test_hostile_names_stay_text(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    elements = Reader(text).elements
    assert not [tag for tag, _ in elements if tag == "script"]
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert "\x1b" not in text
    assert text.count("<svg") == text.count("</svg>")
    assert HOSTILE[:30] not in text
    assert html.escape(HOSTILE[:30]) in text


@pytest.mark.slow
def test_the_page_is_readable_for_screen_readers(written: Path) -> None:
    elements = Reader(written.read_text(encoding="utf-8")).elements
    for tag, attributes in elements:
        if tag == "img":
            assert str(attributes["alt"]).rpartition(": ")[2] not in ("", "image")
        if tag == "th":
            assert attributes["scope"] in ("col", "row", "rowgroup")
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
    assert [tag for tag, _ in elements].count("table") == [tag for tag, _ in elements].count("caption")
    assert dict(elements)["html"] == {"lang": "en"}


#: Reports elements that leave the page or their drawing, and texts of a drawing that overlap.
MEASURE = """
<pre id="measured"></pre><script>
const wide = document.documentElement.clientWidth, faults = [];
if (document.documentElement.scrollWidth > wide) faults.push(`page ${document.documentElement.scrollWidth}`);
for (const element of document.querySelectorAll("main *")) {
  const box = element.getBoundingClientRect();
  if (box.width > 1 && (box.right > wide + 1 || box.left < -1))
    faults.push(`${element.tagName} ${element.className.baseVal ?? element.className} ${box.left} ${box.right}`);
}
for (const drawing of document.querySelectorAll("svg")) {
  const inside = drawing.getBoundingClientRect();
  const texts = [...drawing.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
  texts.forEach(([name, a], place) => {
    const across = a.left < inside.left - 2 || a.right > inside.right + 2;
    if (across || a.top < inside.top - 2 || a.bottom > inside.bottom + 2)
      faults.push(`cut: ${name}`);
    for (const [other, b] of texts.slice(place + 1))
      if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4)
        faults.push(`overlap: ${name} | ${other}`);
  });
}
for (const cell of document.querySelectorAll("td, th, dd, figcaption"))
  if (cell.scrollWidth > cell.clientWidth + 1 && getComputedStyle(cell).display !== "inline")
    faults.push(`cell: ${cell.textContent}`);
document.getElementById("measured").textContent = JSON.stringify({wide, faults: faults.slice(0, 20)});
</script>
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [420, 1400])
def test_nothing_is_cut_and_nothing_overlaps_in_a_browser(written: Path, width: int, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    measured = tmp_path / "measured.html"
    measured.write_text(written.read_text(encoding="utf-8").replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    # Chromium's own windows have a least width; frames have none.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe src="measured.html" width="{width}" height="900"></iframe><p id="copy"></p><script>'
        "onload = () => { document.getElementById('copy').textContent = "
        "document.querySelector('iframe').contentDocument.getElementById('measured').textContent }</script>"
    )
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1600,1000", "--dump-dom", frame.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    found = json.loads(html.unescape(re.findall(r'<p id="copy">(.*?)</p>', shown, re.DOTALL)[0]))
    assert 0 < width - found["wide"] < 30
    assert found["faults"] == []


class Axes:
    """Notes what is drawn: the first numbers of each call, and its style."""

    def __init__(self) -> None:
        self.drawn: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *where, **style: self.drawn.append((name, where, style))


def test_each_mark_is_drawn_at_its_share_in_its_colour() -> None:
    charts = pytest.importorskip("fdjpeg.evaluation.charts")
    names = {colour: name for name, colour in charts._STAND_INS.items()}
    mark = charts.Mark("1/255", 0.9, 0.8, 0.5, (0.4, 0.6), 0.3)

    def drawn(**changes: Any) -> list[tuple[str, tuple[Any, ...], Any]]:
        axes = Axes()
        charts._draw_mark(axes, replace(mark, **changes), 7.0)
        return [
            (name, where, names.get(style.get("color", style.get("edgecolor")))) for name, where, style in axes.drawn
        ]

    text, line = ("text", (-0.025, 7.0, "ε = 1/255"), "ink"), ("plot", ([0, 1], [7.0, 7.0]), "line")
    band = ("barh", (7.0, 0.3), "certified")
    clean, gray = ("plot", ([0.9], [7.0]), "clean"), ("plot", ([0.8], [7.0]), "unknowing")
    worst = [("plot", ((0.4, 0.6), [7.0, 7.0]), "knowing"), ("plot", ([0.5], [7.0]), "knowing")]
    undecided = [found for found in drawn() if found[2] == "undecided"]
    assert [name for name, *_ in undecided] == ["barh"]
    assert undecided[0][1] == (7.0, pytest.approx(0.2))  # from what is certified to the worst case
    assert [found for found in drawn() if found[2] != "undecided"] == [text, line, band, clean, gray, *worst]
    # Attacks that were not finished leave no worst case, so nothing is undecided.
    assert drawn(knowing=None, interval=None)[2:] == [band, ("barh", (7.0, 0.0), "undecided"), clean, gray]
    assert drawn(unknowing=None, certified=None) == [text, line, clean, *worst]
    axes = Axes()
    charts._draw_mark(axes, mark, 7.0)
    (left,) = (style["left"] for _, _, style in axes.drawn if "left" in style)
    assert left == 0.3


def test_marks_are_shares_of_all_images() -> None:
    charts = pytest.importorskip("fdjpeg.evaluation.charts")
    (row,) = made(eps=["1/255"]).rows[1:]
    mark = charts.mark_of(row, 4)
    assert (mark.eps, mark.clean, mark.unknowing, mark.knowing, mark.certified) == ("1/255", 0.75, 0.5, 0.25, None)
    assert mark.interval == wilson(1, 4)
    part = charts.mark_of(replace(row, complete=False, certified=1, attacks={}), 4)
    assert (part.unknowing, part.knowing, part.interval, part.certified) == (None, None, None, 0.25)


def test_lines_of_the_chart_follow_each_other_below_the_legend() -> None:
    charts = pytest.importorskip("fdjpeg.evaluation.charts")
    mark = charts.Mark("1/255", 0.9, 0.8, 0.5, (0.4, 0.6), 0.3)
    drawn = charts.defences([("jpeg:75", [mark, mark]), (60 * "a", [mark])], "chart")
    pattern = r'<text style="([^"]*)" x="([^"]*)" y="([^"]*)"[^>]*>([^<]*)'
    found = [(style, float(x), float(y), text) for style, x, y, text in re.findall(pattern, drawn)]
    names = [(x, y, text) for style, x, y, text in found if "weight: 700" in style]
    radii = [(x, y) for _, x, y, text in found if text == "ε = 1/255"]
    (first, second, third), (one, two, three) = names, radii
    assert [x for x, _, _ in names] == pytest.approx([2, 2, 2])
    assert second[2] + third[2] == 60 * "a"  # too long for one line
    lines = [first[1], one[1], two[1], second[1], third[1], three[1]]
    assert [b - a for a, b in pairwise(lines)] == pytest.approx([17, 17, 25, 17, 17], abs=0.01)
    legend = [y for style, _, y, _ in found if "anchor: start" in style and "weight" not in style]
    assert len(legend) == 5
    assert max(legend) + 17 < first[1]
    ticks = {text: x for _, x, _, text in found if text.endswith("%") or text == "0"}
    assert ticks["100 %"] == pytest.approx(charts.WIDTH - 16, abs=0.1)
    assert ticks["0"] > one[0] + 5  # the radii end before the axis begins
    assert 'viewBox="0 0 380 242"' in drawn  # six lines, two gaps, the legend and the axis
