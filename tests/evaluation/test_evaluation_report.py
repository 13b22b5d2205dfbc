"""The report: tables and checks against outcomes written down by hand, and files that can be read back."""

from __future__ import annotations

import csv
import html.parser
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.evaluation_cases import smooth, tiny
from support.report_cases import SETTINGS, cell, made

from fdjpeg import evaluation
from fdjpeg.evaluation import Cell, Report
from fdjpeg.evaluation.cells import CERTIFICATE, join
from fdjpeg.sources import ImageSet


def test_worst_case_is_taken_image_by_image() -> None:
    bare, defended = made().rows
    assert (bare.clean, bare.noise, bare.worst) == (3, 3, 0)
    assert defended.attacks == {"gray-box": 2, "identity": 2, "cubic": 3}
    assert defended.worst == 1  # two, two and three are right, but only one image under all three
    assert made().findings == [
        "jpeg:75 at 1/255: 3 of 4 right without an attack, 2 when the attacker does not know the layer, "
        "1 when the attacker does."
    ]
    assert made().table[1] == ["jpeg:75", "1/255", "3", "3", "–", "2", "2", "3", "1", "5–70 %"]


def test_few_images_are_called_few(monkeypatch: pytest.MonkeyPatch) -> None:
    assert made().headline.endswith("They are few: chance alone moves a share by up to 35 points (95 %).")
    monkeypatch.setattr("fdjpeg.evaluation.report.MANY", 4)
    assert "few" not in made().headline


def test_several_attacks_are_joined_image_by_image_and_told_apart() -> None:
    report = made(
        cell("jpeg:75", "adaptive", [0, 0, 1, 1], gradient="identity", attack="FGSM"),
        cell("jpeg:75", "black-box", [1, 0, 0, 0], attack="Square-50"),
        attacks={"PGD-20": {}, "FGSM": {}, "Square-50": {}},
        gradient_free=["Square-50"],
    )
    row = report.rows[1]
    assert row.attacks == {"gray-box": 2, "identity": 1, "cubic": 3, "black-box": 2}
    assert (row.known, row.worst) == (1, 0)
    assert report.attacks_table[1] == ["jpeg:75", "1/255", "2", "2", "2"]
    assert "Each attack by itself" in report.markdown()


def test_shares_of_draws_add_up() -> None:
    report = made(cell("jpeg:75", "adaptive", [0, 0, 0, 0], gradient="tanh", right=[0.5, 0.75, 0.25, 1.0]))
    assert report.rows[1].attacks["tanh"] == 1.5
    assert report.rows[1].worst == 0.25  # the third image alone is right under the others
    assert report.table[1][-2] == "0.2"


def test_batches_are_joined_in_the_order_of_their_images() -> None:
    first = cell("none", "white-box", [0, 1], attacked=2, loss=[2.0, 4.0], differing=1, queries=3)
    second = replace(first, indices=[2, 3], predicted=[1, 0], right=[0.0, 1.0], attacked=1, loss=[3.0, 5.0])
    (joined,) = join([second, first])
    assert (joined.indices, joined.predicted) == ([0, 1, 2, 3], [0, 1, 1, 0])
    assert joined.curve == [5 / 3, 3.0]
    assert (joined.differing, joined.queries) == (2, 6)


FAILURES = {
    "A larger radius never helps the defender": (
        [
            cell("jpeg:75", "adaptive", [0, 0, 0, 1], "2/255", gradient="cubic"),
            cell("jpeg:75", "adaptive", [0, 0, 0, 1], "2/255", gradient="identity"),
            cell("none", "white-box", [1, 1, 1, 1], "2/255"),
        ],
        {"eps": ["1/255", "2/255"]},
    ),
    "Random noise does less harm": ([cell("jpeg:75", "noise", [1, 1, 1, 1], attack="noise")], {}),
    "Knowing the layer": ([cell("jpeg:75", "transfer", [1, 1, 1, 1], source="other")], {}),
    "Queries alone": ([cell("jpeg:75", "black-box", [1, 1, 1, 1], attack="Square-5")], {}),
    "Gradients are not zero": ([Cell("jpeg:75", "zero gradients", gradient="cubic", zeros=[1.0, 0.9])], {}),
    "A radius that allows any image": ([cell("jpeg:75", "large radius", [0, 0, 1, 1], None)], {}),
    "Many steps": ([cell("jpeg:75", "one step", [1, 1, 1, 1], gradient="cubic")], {}),
    "Twice the steps": ([cell("jpeg:75", "twice the steps", [1, 1, 1, 1])], {}),
    "The loss has stopped rising": (
        [
            cell(
                "jpeg:75",
                "adaptive",
                [0, 0, 0, 1],
                gradient="tanh",
                attacked=1,
                loss=[float(number**2) for number in range(21)],
            )
        ],
        {},
    ),
    "Plain rounding": ([cell("jpeg:75", "plain rounding", [1, 1, 1, 1], gradient="zero")], {}),
    "A codec whose steps are all 1": ([cell("tables of ones", "tables of ones", [0, 0, 0, 0])], {}),
    "Adversarial images stay within": ([cell("jpeg:75", "transfer", [0, 0, 0, 1], distance=[0.1])], {}),
}


def test_noise_is_compared_with_attacks_where_there_are_some() -> None:
    """Flip alone attacks no bare network, which noise may harm all the same."""
    made_of = made(
        cell("none", "noise", [1, 1, 1, 1], attack="noise"),
        attacks={"Flip-20": {}},
        on_coefficients=["Flip-20"],
    )
    report = replace(made_of, cells=[found for found in made_of.cells if found.threat in ("clean", "noise")])
    (check,) = (check for check in report.checks if check.name.startswith("Random noise"))
    assert check.passed
    assert report.rows[0].complete


@pytest.mark.parametrize("name", list(FAILURES))
def test_every_check_can_fail(name: str) -> None:
    cells, settings = FAILURES[name]
    report = made(*cells, **settings)
    (check,) = (check for check in report.checks if check.name.startswith(name))
    assert not check.passed
    assert any(check.figure in sentence for sentence in report.summary())
    assert ("jpeg:75" in check.masked) == (name in MASKED)


#: Checks whose failure shows that gradients are masked.
MASKED = ("Knowing the layer", "Queries alone", "Gradients are not zero", "A radius that allows any image")


def test_the_overview_has_the_columns_that_decide() -> None:
    """No attack, an attacker who does not know the layer, worst case and interval; no column without figures."""
    assert made().overview.header == ["defence", "ε", "no attack", "layer unknown", "worst case", "95 % interval"]
    bare, defended = made().overview.rows
    assert bare == ["none", "1/255", "3", "–", "0", "0–49 %"]
    assert defended == ["jpeg:75", "1/255", "3", "2", "1", "5–70 %"]
    # Of attacks that are not finished the worst case is a bound, without an interval.
    unfinished = made(attacks={"PGD-20": {}, "FGSM": {}}).overview
    assert unfinished.header[-1] == "worst case"
    assert [row[-1] for row in unfinished.rows] == ["≤ 0", "≤ 1"]


def test_files_hold_experiments_and_versions() -> None:
    """A check that judges no images has no line in the table of experiments."""
    zeros = Cell("jpeg:75", "zero gradients", gradient="cubic", zeros=[0.5, 0.25])
    assert made(zeros).csv() == made().csv()
    assert made(versions={"python": "3.1", "torch": "2"}).markdown().endswith("\n- python 3.1, torch 2\n")


def test_report_files_can_be_read_back(tmp_path) -> None:
    results, table, markdown, page = made(cell("jpeg:75", "black-box", [0, 0, 0, 1])).save(tmp_path / "new" / "folder")
    found = json.loads(results.read_text())
    assert found["table"][1]["worst"] == 1
    assert found["cells"][5]["right"] == [0, 1, 1, 0]
    assert [image["name"] for image in found["images"]] == ["a", "b", "c", "d"]
    assert "| jpeg:75 | 1/255 | 3 | 3 | – | 2 | 3 | 2 | 3 | 1 | 5–70 % |" in markdown.read_text()
    lines = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [line["right"] for line in lines] == ["3", "3", "0", "3", "3", "2", "2", "3", "3"]
    assert float(lines[5]["share"]) == 0.5

    class Reader(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "img", "br"):
                self.open.append(tag)
            assert all(not (value or "").startswith(("http", "//", "file")) for _, value in attributes)

        def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    reader = Reader()
    reader.feed(page.read_text())
    assert reader.open == []
    assert "&lt;net&gt;" in page.read_text()


def test_report_shows_pictures_and_curves_of_each_defence() -> None:
    chosen = {"defenses": ["jpeg:75"], "eps": ["2/255"], "gradients": ["cubic"], "attacks": ["pgd-3"], "checks": False}
    report = evaluation.evaluate(tiny(), smooth(), pictures=2, **chosen)  # type: ignore[arg-type]
    # Two images: clean, adversarial and difference on the bare network; with the layer also both images behind it.
    assert report.html().count("<img ") == 2 * 3 + 2 * 5
    # One chart of all defences, one of the losses of each, and samples of the lines of two gradients.
    assert report.html().count("<svg ") == 1 + 2 + 2
    (adaptive,) = report.select(threat="adaptive")
    assert len(adaptive.curve) == 4
    without = evaluation.evaluate(tiny(), smooth(), pictures=0, **chosen)  # type: ignore[arg-type]
    assert "<img " not in without.html()


def test_an_unwritable_folder_is_named(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="folder must be a folder that can be written"):
        made().save(tmp_path / "file")


@pytest.mark.parametrize(("right", "count"), [(0, 20), (3, 20), (10, 20), (20, 20), (90, 100)])
def test_wilson_interval_is_scipys(right: int, count: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert evaluation.wilson(right, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_notes_tell_what_a_run_had() -> None:
    def notes(**settings: object) -> list[str]:
        return made(**settings).notes

    plain = notes()
    assert len(plain) == 3
    assert plain[0].endswith("through the layer with that gradient.")
    several = notes(attacks={"PGD-20": {}, "Flip-20": {}})
    assert several[0].endswith("with that gradient, of several attacks the worst case image by image.")
    assert several[1:] == plain[1:]
    (box,) = notes(black_boxes=["codec", "jpeg:75"])[3:]
    assert box.startswith("Black box: codec, jpeg:75. Its forward pass is a function outside of torch")
    (flip,) = notes(on_coefficients=["Flip-20"])[3:]
    assert flip.startswith("Flip: Flip-20 searches the quantized coefficients behind a JPEG layer")
    assert flip.endswith("Without such a layer, and so without this column: jpeg:75.")
    (flip,) = notes(on_coefficients=["Flip-20"], exposed=["jpeg:75"])[3:]
    assert flip.endswith("of fdjpeg, without any surrogate.")
    (draws,) = notes(randomised=["jpeg:75"], draws=7)[3:]
    assert draws.startswith("Randomised: jpeg:75. Their gradients and verdicts are means of 7 draws")
    queries = made(cell("jpeg:75", "black-box", [0, 0, 0, 0], attack="Square-5"), gradient_free=["Square-5"]).notes
    assert queries[3:] == ["Black-box: attacks by queries alone (Square-5)."]
    other = made(cell("jpeg:75", "transfer", [0, 0, 0, 0], source="net"), transfer={"net": "here"}).notes
    assert other[3:] == ["Transfer: the images that fool net."]


@pytest.mark.parametrize("count", [4, 10, 20, 50, 98])
def test_chance_moves_a_share_by_half_of_its_widest_interval(count: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    widest = stats.binomtest(count // 2, count).proportion_ci(0.95, method="wilson")
    images = ImageSet(torch.zeros(count, 3, 1, 1), torch.zeros(count).long(), tuple(map(str, range(count))))
    headline = Report(SETTINGS, [], images).headline
    points = f"{50 * (widest.high - widest.low):.0f}"
    assert headline.endswith(f"They are few: chance alone moves a share by up to {points} points (95 %).")
    assert headline.startswith(
        f"<net> on {count} images, PGD-20 in the L∞ ball: images classified correctly, of {count}."
    )


def test_a_single_attack_has_no_table_of_attacks() -> None:
    assert made().text.by_attack is None
    assert made(attacks={"PGD-20": {}, "FGSM": {}}).text.by_attack is not None
    text = made().text
    assert (text.table.header, text.table.rows) == (made().header, made().table)
    assert (text.finding, text.headline, text.findings) == (made().finding, made().headline, made().findings)
    assert (text.warnings, text.notes, text.checks) == (made().summary(), made().notes, made().checks)
    assert text.overview_caption == "Images right, of 4."


def test_certificates_have_a_column_where_they_were_asked_for() -> None:
    proof = cell("jpeg:75", CERTIFICATE, [0, 0, 1, 1], attack=None, status=["constant"] * 2 + ["open"] * 2)
    with_, without = made(proof, certify=True), made(proof)
    place = with_.header.index("certified")
    assert [row[place] for row in with_.table] == ["–", "2"]
    assert "certified" not in without.header
    assert {len(row) for row in without.table} == {len(without.header)}
    assert {len(row) for row in with_.table} == {len(with_.header)}
    assert with_.findings[0].endswith("1 when the attacker does, 2 certified against any attack.")
    assert with_.overview.rows[1][-1] == "2"


def test_findings_are_of_finished_rows_at_the_largest_radius() -> None:
    larger = [cell("jpeg:75", "gray-box", [0, 1, 1, 1], "2/255"), cell("none", "white-box", [1, 1, 1, 1], "2/255")]
    through = [cell("jpeg:75", "adaptive", [0, 1, 1, 1], "2/255", gradient=name) for name in ("identity", "cubic")]
    settings = {"eps": ["1/255", "2/255"]}
    (finding,) = made(*larger, *through, **settings).findings
    assert finding.startswith("jpeg:75 at 2/255: 3 of 4 right without an attack, 1 when the attacker does not know")
    assert made(*larger, through[0], **settings).findings == []  # an attack is missing
    assert made(*larger, through[0], **settings).finding == "The bare network keeps 0 of 4 images at 2/255."
    assert made(larger[1], *through, **settings).finding == "The bare network keeps 0 of 4 images at 2/255."


def test_what_is_wrong_is_on_top() -> None:
    """Masked gradients, checks that failed for another reason, and what is not finished."""
    zeros = Cell("jpeg:75", "zero gradients", gradient="cubic", zeros=[1.0])
    worse = cell("jpeg:75", "noise", [1, 1, 1, 1], attack="noise")
    masked, failed, open_ = made(zeros, worse, open=["a", "b", "c", "d"]).summary()
    assert masked.startswith("Masked gradients: jpeg:75 is not shown to be robust.")
    assert masked.endswith("(jpeg:75 through cubic: 100 % exactly zero).")
    assert failed.startswith(
        "Check failed: Random noise does less harm than the attacks: no (jpeg:75 at 1/255: 0 after"
    )
    assert open_ == "4 experiments are not finished: a, b, c, …"
    assert made().summary() == []


def test_results_are_one_value_a_line_in_utf_8(tmp_path: Path) -> None:
    model = replace(made().settings.model, name="über")
    text = made(model=model).save(tmp_path)[0].read_text(encoding="utf-8")
    assert text.splitlines()[:2] == ["{", ' "settings": {']
    assert '"name": "über"' in text
    assert text.endswith("}\n")
