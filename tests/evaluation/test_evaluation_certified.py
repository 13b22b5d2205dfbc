"""Certificates in an evaluation: their column, the band, and the check that no attack breaks a certified image."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from support.evaluation_cases import check, smooth, tiny
from support.report_cases import cell, made

from fdjpeg import evaluation, sources
from fdjpeg.attacks import margin
from fdjpeg.certificates import Certificate
from fdjpeg.cli import main as cli
from fdjpeg.defenses import parse_defense
from fdjpeg.evaluation import Cell, Plan, Report, certified
from fdjpeg.evaluation.cells import CERTIFICATE
from fdjpeg.evaluation.judging import Evaluation
from fdjpeg.evaluation.world import World

LATTICE = "feature-distillation:uniform(40),passes=2,entry=after"
START = "No attack breaks a certified image"


def evaluated(**settings: object) -> Report:
    chosen = {
        "defenses": [LATTICE, "jpeg:60", "random-jpeg:40-60"],
        "attacks": ["pgd-2"],
        "eps": ["1/255", "2/255"],
        "gradients": ["straight-through"],
        "checks": False,
        "certify": True,
        "batch_size": 3,
        "draws": 2,
        "pictures": 0,
    }
    return evaluation.evaluate(tiny(), smooth(6), **{**chosen, **settings})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluated()


def test_the_column_is_between_the_attacks_and_the_worst_case(report: Report) -> None:
    column = report.header.index("certified")
    assert report.header[column + 1] == "worst case"
    shown = {(row[0], row[1]): row[column] for row in report.table}
    for eps in report.settings.eps:
        assert int(shown[LATTICE, eps]) > 0
        assert shown["jpeg:60", eps] == "0"
        assert shown["none", eps] == shown["random-jpeg:40-60", eps] == "–"
    assert all(row.certified is None or row.certified <= row.worst for row in report.rows)
    assert all(row.complete for row in report.rows)
    assert check(report, START).passed


def test_the_report_says_why_a_defence_has_none(report: Report) -> None:
    (why,) = (note for note in report.notes if note.startswith("Nothing can be certified"))
    least = min(report.select("jpeg:60", "1/255", CERTIFICATE)[0].changeable)
    assert f"behind jpeg:60: at 1/255 {least} coefficients of an image can change at the least" in why
    assert "Without certificates: random-jpeg:40-60 would have to be deterministic." in report.notes
    assert LATTICE not in why


def test_the_band_and_the_files_hold_certificates(report: Report, tmp_path: Path) -> None:
    results, table, *_ = report.save(tmp_path)
    assert "neither certified nor attacked" in report.html()
    found = json.loads(results.read_text())
    assert found["settings"]["certify"] is True
    rows = {(row["defense"], row["eps"]): row["certified"] for row in found["table"]}
    assert rows["none", "1/255"] is None
    assert rows[LATTICE, "1/255"] == report.select(LATTICE, "1/255", CERTIFICATE)[0].right.count(1.0)
    (kept,) = (c for c in found["cells"] if (c["defense"], c["threat"], c["eps"]) == (LATTICE, CERTIFICATE, "1/255"))
    assert set(kept["status"]) <= {"constant", "enumerated", "open", "misclassified", "broken"}
    assert f"{LATTICE}" in table.read_text()
    assert any("certified against any attack" in sentence for sentence in report.findings)


def test_reports_without_certificates_have_no_column() -> None:
    report = made()
    assert "certified" not in report.header
    assert not any(check.stops for check in report.checks)
    assert "neither certified nor attacked" not in report.html()


def test_shards_and_other_batches_certify_the_same(report: Report, tmp_path: Path) -> None:
    settings = {"defenses": [LATTICE], "batch_size": 2, "out": tmp_path}
    for rank in range(2):
        evaluated(world=World(rank, 2), **settings)
    merged = evaluated(**settings)
    for ours, theirs in zip(merged.select(threat=CERTIFICATE), report.select(LATTICE, None, CERTIFICATE), strict=True):
        assert (ours.indices, ours.status, ours.changeable, ours.queries) == (
            theirs.indices,
            theirs.status,
            theirs.changeable,
            theirs.queries,
        )


# --- the check -------------------------------------------------------------------------------------------------------


def certificate(statuses: list[str], eps: str = "1/255") -> Cell:
    right = [float(status in ("constant", "enumerated")) for status in statuses]
    return replace(
        cell("jpeg:75", CERTIFICATE, [0, 0, 0, 1], eps, attack=None, right=right),
        status=statuses,
        changeable=[0, 2, 30, 40],
    )


#: In the cells of `support.report_cases` only the first of the four images survives all attacks but gray-box's.
HOLDS = ["open", "open", "enumerated", "misclassified"]


def test_a_certificate_that_all_attacks_respect_passes() -> None:
    report = made(certificate(HOLDS), certify=True)
    assert check(report, START).passed
    assert report.rows[1].certified == report.rows[1].worst == 1


@pytest.mark.parametrize(
    ("statuses", "names"),
    [
        (["constant", "open", "open", "misclassified"], ["a behind jpeg:75 at 1/255 by PGD-20 (gray-box)"]),
        (["open", "enumerated", "open", "misclassified"], ["b behind jpeg:75 at 1/255 by PGD-20 (adaptive)"]),
    ],
)
def test_a_certificate_that_an_attack_contradicts_fails(statuses: list[str], names: list[str]) -> None:
    found = check(made(certificate(statuses), certify=True), START)
    assert not found.passed
    assert found.stops
    assert found.figure == "; ".join(names)


def test_attacks_of_a_smaller_radius_count_and_those_of_a_larger_do_not() -> None:
    wrong = cell("jpeg:75", "adaptive", [0, 0, 1, 0], "2/255", gradient="cubic")
    settings = {"certify": True, "eps": ["1/255", "2/255"]}
    white = cell("none", "white-box", [1, 1, 1, 1], "2/255")
    assert check(made(certificate(HOLDS), wrong, white, **settings), START).passed
    assert not check(made(certificate(HOLDS, "2/255"), wrong, white, **settings), START).passed
    smaller = replace(wrong, eps="1/510")
    assert not check(made(certificate(HOLDS), smaller, certify=True), START).passed


def test_an_image_that_a_certificate_broke_is_right_in_no_worst_case() -> None:
    report = made(certificate(["open", "open", "broken", "misclassified"]), certify=True)
    assert (report.rows[1].certified, report.rows[1].worst) == (0, 0)
    assert check(report, START).passed


def test_an_image_that_a_certificate_found_is_judged_as_that_of_an_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(attacks=["pgd-1"], eps=["8/255"], batch_size=3, certify=True)
    run = Evaluation(tiny(), smooth(3), [parse_defense("jpeg:75", ["cubic"])], plan)
    batch, (_, defense) = run.batch(0), run.defenses
    found = 1 - batch.x[1]
    counts = [torch.tensor(values) for values in ([0, 3, 5], [1, 4, 6], [0, 0, 2])]
    planted = Certificate(("constant", "broken", "open"), *counts, {1: found})
    monkeypatch.setattr(certified, "certify", lambda *_: planted)
    begun = time.perf_counter()
    (cell,) = certified.certificate_cells(run, defense, Fraction(8, 255), batch)
    assert 0 <= cell.seconds <= time.perf_counter() - begun + 0.005  # it is rounded
    assert (cell.status, cell.changeable, cell.queries) == (["constant", "broken", "open"], [0, 3, 5], 11)
    assert cell.attacked == 0  # there is no loss
    assert cell.right == [1, 0, 0]  # what is proved, not what the network sees
    assert cell.distance == pytest.approx([0, float((found - batch.x[1]).abs().max()), 0], abs=1e-6)
    with torch.no_grad():
        logits = defense.deployed(run.network.module)(torch.stack([batch.x[0], found, batch.x[2]]))
    assert cell.margin == pytest.approx(margin(logits, batch.y).tolist(), abs=1e-4)


def test_a_defence_without_certificates_is_named_at_its_least_radius() -> None:
    """In whatever order its cells came."""
    none = certificate(["open", "open", "open", "misclassified"], "2/255")
    cells = [none, replace(none, eps="1/255", changeable=[7, 9, 8, 40])]
    (why,) = (
        note
        for note in made(*cells, certify=True, eps=["1/255", "2/255"]).notes
        if note.startswith("Nothing can be certified")
    )
    assert "behind jpeg:75: at 1/255 7 coefficients of an image can change at the least, 8 in the median" in why


def test_certificates_are_for_one_norm() -> None:
    with pytest.raises(ValueError, match="certify must be False for attacks in a norm other than linf, got True"):
        evaluation.Plan(norm="l2", certify=True)


@pytest.mark.parametrize("honest", [True, False])
def test_a_contradiction_ends_the_command_in_an_error(
    honest: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A planted certificate for every image, though noise of half the range breaks some."""

    def planted(defended: object, network: object, images: torch.Tensor, *rest: object) -> Certificate:
        zeros = torch.zeros(len(images), dtype=torch.int64)
        return Certificate(("constant",) * len(images), zeros, zeros + 1, zeros)

    monkeypatch.setattr("fdjpeg.sources.images.photographs", lambda size: smooth(4))
    monkeypatch.setitem(sources.PACKAGED, "efficientnet-lite0", tiny)
    if not honest:
        monkeypatch.setattr(certified, "certify", planted)
    options = ["--attack", "pgd-3", "--eps", "64/255", "--defense", "jpeg:80", "--gradient", "cubic", "--no-checks"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", "--certify", "--out", str(tmp_path), *options])
    assert int(ended.value.code or 0) == (0 if honest else 1)
    printed = capsys.readouterr().out
    assert ("FAILED" in printed) is not honest
    assert ("Check failed: No attack breaks a certified image" in printed.replace("\n", " ")) is not honest
    assert (tmp_path / "report.html").exists()
