"""The documents: each call in docs/migrating.md runs, and tables in docs equal the kept results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import fdjpeg

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "migrating.md"
REPLACEMENTS = [
    row.split("|")[2] for row in PAGE.read_text(encoding="utf-8").splitlines() if row.startswith("| ") and "`" in row
]


@pytest.mark.parametrize("cell", REPLACEMENTS)
def test_replacement_runs(cell: str) -> None:
    (code, *_) = re.findall(r"`([^`]+)`", cell)
    x = torch.rand(2, 3, 19, 30, generator=torch.Generator().manual_seed(0))
    names = {
        "fdjpeg": fdjpeg,
        "x": x,
        "x255": 255 * x,
        "q": 60,
        "quality": torch.tensor([40, 60]),
        "table_y": torch.full((8, 8), 9.0),
        "table_c": torch.full((8, 8), 20.0),
        "byte_image": (255 * x).to(torch.uint8),
        "hwc_bytes": (255 * x).to(torch.uint8).movedim(-3, -1),
    }
    result = eval(code, names)
    if isinstance(result, torch.nn.Module):
        result = result(x)
    assert result.shape in (x.shape, names["hwc_bytes"].shape)  # type: ignore[attr-defined]


def test_the_page_has_a_replacement_for_each_peer() -> None:
    assert len(REPLACEMENTS) == 10


#: The results of each CIFAR-10 table of docs/evaluation.md: a row that identifies it, and files in order of radii.
EVALUATIONS = {
    "jpeg:75 | 170 | –": ["cifar10", "cifar10-large"],
    "stochastic-jpeg:20+40+60+80 | 35.7": ["cifar10-random"],
}


def counts(rows: list[dict[str, object]], column: str) -> str:
    """Returns a cell of the page: a count for each radius, – where none was taken."""
    if column == "clean":
        rows = rows[:1]
    found: list[float | None] = []
    for row in rows:
        attacks: dict[str, float] = row["attacks"]  # type: ignore[assignment]
        named = {"clean": row["clean"], "noise": row["noise"], "worst case": row["worst"], **attacks}
        named["certified"] = row.get("certified")
        # If chroma is not subsampled, identity and straight-through are one attack; one run called it identity.
        if column in ("identity", "straight-through") and str(row["defense"]).startswith("feature-distillation"):
            named["straight-through"] = attacks.get("straight-through", attacks.get("identity"))
            named.pop("identity", None)
        found.append(named.get(column))  # type: ignore[arg-type]
    written = [f"{count:.0f}" if count == round(count) else f"{count:.1f}" for count in found if count is not None]
    return ", ".join(written) or "–"


def results(*names: str, date: str = "2026-11-21") -> list[dict[str, object]]:
    folder = ROOT / "benchmarks" / "results" / "evaluation"
    files = [(folder / f"{date}-{name}.json").read_text(encoding="utf-8") for name in names]
    return [row for file in files for row in json.loads(file)["table"]]


def table_with(row: str) -> tuple[list[str], list[list[str]]]:
    """Returns columns and rows of the table in docs/evaluation.md with a row that begins with ``row``."""
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (table,) = (part for part in page.split("\n\n") if part.startswith("| defence |") and f"\n| {row} |" in part)
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines())
    return head, lines


@pytest.mark.parametrize("row", EVALUATIONS)
def test_the_cifar10_tables_are_those_of_the_results(row: str) -> None:
    (_, *columns), lines = table_with(row)
    for defence, *cells in lines:
        rows = [found for found in results(*EVALUATIONS[row]) if found["defense"] == defence]
        assert [counts(rows, column) for column in columns] == cells, defence


def test_the_table_of_photographs_is_that_of_the_results() -> None:
    (_, _, *columns), lines = table_with("none | 1/255")
    for (defence, eps, *cells), row in zip(lines, results("photographs", date="2026-11-30"), strict=True):
        assert (defence, eps) == (row["defense"], row["eps"])
        assert [counts([row], column) for column in columns] == cells, (defence, eps)


def test_the_bracket_of_cifar10_is_that_of_the_results() -> None:
    (_, *columns), lines = table_with("jpeg:75 | 170 | 34, 9, 0")
    assert columns == ["clean", "worst case, 2026-11-21", "Flip", "certified"]
    bounds, attacked = results("cifar10-bracket", date="2026-11-30"), results("cifar10")
    proofs = results("cifar10-certified", date="2026-11-30")
    assert len(lines) == 9
    for defence, clean, worst, flip, certified in lines:
        new, old = ([row for row in rows if row["defense"] == defence] for rows in (bounds, attacked))
        assert counts(new, "clean") == clean == counts(old, "clean")
        assert counts(old, "worst case") == worst
        assert counts(new, "flip") == flip
        assert counts([row for row in proofs if row["defense"] == defence], "certified") == certified


#: Names in docs/defenses.md, and in benchmarks/defenses.py.
DEFENSES = {
    "none (white-box)": "none",
    "feature distillation, paper": "feature-distillation:paper",
    "feature distillation, paper, two passes": "feature-distillation:paper, two passes",
    "feature distillation, uniform(30)": "feature-distillation:uniform(30)",
    "feature distillation, uniform(30), two passes": "feature-distillation:uniform(30), two passes",
    "JPEG at quality 50": "jpeg:50",
    "a quality for each block": "stochastic-jpeg",
    "JPEG ensemble": "jpeg-ensemble",
    "purifier": "purifier",
    "S2SNet, small": "s2snet",
    "defensive distillation, T = 20": "defensive-distillation",
}


def tables_of_defenses(columns: str) -> list[list[list[str]]]:
    """Returns the rows of each table in docs/defenses.md with these first columns: small network, then ResNet-18."""
    page = (ROOT / "docs" / "defenses.md").read_text(encoding="utf-8")
    tables = [part.strip().splitlines()[2:] for part in page.split("\n\n") if part.startswith(columns)]
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in lines] for lines in tables]


@pytest.mark.parametrize(("place", "network"), [(0, "small"), (1, "resnet18-cifar10")])
def test_the_tables_of_defenses_are_those_of_the_results(place: int, network: str) -> None:
    file = ROOT / "benchmarks" / "results" / "defenses" / f"2026-11-21-{network}.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    rows = {tuple(row[:2]): row[2:] for row in found["rows"]}
    written = tables_of_defenses("| defence | ε | clean |")[place]
    assert len(written) == 2 * len({DEFENSES[name] for name, *_ in written})
    for name, eps, *cells in written:
        assert cells == rows[DEFENSES[name], eps], (name, eps)
    left = {tuple(row[:3]): row[3] for row in found["gradients"]}
    for name, gradient, *cells in tables_of_defenses("| defence | gradient | PGD-20")[place]:
        small, large = (left[DEFENSES[name], eps, gradient] for eps in ("2/255", "8/255"))
        expected = [
            small["PGD-20"],
            small["PGD-margin-20"],
            small["DeepFool-20"],
            large["PGD-20"],
            large["PGD-margin-20"],
        ]
        assert cells == expected, (name, gradient)


#: Kept results of docs/defenses.md: those of all attacks, and those of Flip and certificates.
DATES_OF_DEFENSES = ("2026-11-21-resnet18-cifar10", "2026-11-30-resnet18-cifar10-bracket")


def test_the_bracket_of_defenses_is_that_of_the_results() -> None:
    (table,) = tables_of_defenses("| defence | clean | worst case, 2026-11-21 |")
    folder = ROOT / "benchmarks" / "results" / "defenses"
    read = {date: json.loads((folder / f"{date}.json").read_text(encoding="utf-8")) for date in DATES_OF_DEFENSES}
    before, later = ({tuple(row[:2]): row[2:] for row in found["rows"]} for found in read.values())
    evaluated = {row["defense"]: row for row in results("cifar10-bracket", date="2026-11-30") if row["eps"] == "2/255"}
    assert len(table) == 5
    for name, clean, worst, flip, certified in table:
        known = DEFENSES[name]
        row = before[known, "2/255"]
        assert [clean, worst] == [row[0], row[-2]]
        if (known, "2/255") in later:
            assert [clean, flip, certified] == later[known, "2/255"]
        else:
            same = evaluated[known.replace(", two passes", ",passes=2,entry=after")]
            assert [clean, flip] == [counts([same], "clean"), counts([same], "flip")]


BRACKET = ROOT / "benchmarks" / "results" / "bracket"
BRACKET_PAGE = ROOT / "docs" / "bracket.md"


def runs_of(name: str) -> dict[str, dict[str, Any]]:
    """Returns the cells of a kept result about the bracket, without the images in their names."""
    runs = json.loads((BRACKET / f"2026-11-30-{name}.json").read_text(encoding="utf-8"))["runs"]
    return {cell.split(", images from ")[0]: run for cell, run in runs.items()}


def certified_of(run: dict[str, Any]) -> int:
    return sum(status in ("constant", "enumerated") for status in run["statuses"])


@pytest.mark.parametrize(("name", "cells"), [("resnet18-cifar10", 7), ("other-images", 1), ("photographs", 6)])
def test_figures_of_the_bracket_are_those_of_the_kept_results(name: str, cells: int) -> None:
    page = BRACKET_PAGE.read_text(encoding="utf-8")
    runs = runs_of(name)
    attacked = [cell.removeprefix("flip-20 on ") for cell in runs if cell.startswith("flip-20 on ")]
    assert len(attacked) == cells
    for cell in attacked:
        flip = runs[f"flip-20 on {cell}"]
        others = [runs[f"pgd-20 {gradient} on {cell}"] for gradient in ("cubic", "tanh", "straight-through")]
        left, kept = set.intersection(*(set(other["right"]) for other in others)), set(flip["right"])
        figures = [len(flip["clean"]), *(len(other["right"]) for other in others), len(left), len(kept)]
        queries, seconds = (sum(other[key] for other in others) for key in ("queries", "cpu_seconds"))
        assert seconds >= flip["cpu_seconds"]
        row = [
            *cell.rsplit(" at ", 1),
            *map(str, figures),
            f"{len(left - kept)} / {len(kept - left)}",
            f"{queries} / {flip['queries']}",
            f"{seconds:.0f} / {flip['cpu_seconds']:.0f}",
        ]
        assert f"| {' | '.join(row)} |" in page


def test_certificates_of_the_bracket_are_those_of_the_kept_results() -> None:
    page = BRACKET_PAGE.read_text(encoding="utf-8")
    runs = {cell: run for cell, run in runs_of("resnet18-cifar10").items() if cell.startswith("certificate of ")}
    assert len(runs) == 6
    changeable = sorted(runs["certificate of jpeg:75 at 1"]["changeable"])
    assert f"at the least {changeable[0]} of 1,536 coefficients" in page
    assert f"{changeable[len(changeable) // 2]} in the median" in page
    for cell, run in runs.items():
        count = {status: run["statuses"].count(status) for status in ("constant", "enumerated", "broken", "open")}
        wrong = sum(
            status == "open" and unresolved > 0
            for status, unresolved in zip(run["statuses"], run["unresolved"], strict=True)
        )
        figures = [
            len(run["statuses"]) - run["statuses"].count("misclassified"),
            count["constant"],
            count["enumerated"],
            certified_of(run),
            count["broken"],
            count["open"],
            wrong,
        ]
        defence, levels = cell.removeprefix("certificate of ").rsplit(" at ", 1)
        assert f"| {defence} | {levels} | {' | '.join(map(str, figures))} |" in page


def test_figures_of_fine_tuning_on_the_lattice_are_those_of_the_kept_results() -> None:
    page = BRACKET_PAGE.read_text(encoding="utf-8")
    runs = runs_of("lattice")
    cells = [cell.removeprefix("certificate of ") for cell in runs if cell.startswith("certificate of ")]
    assert cells
    for tables in dict.fromkeys(cell.rsplit(", at ", 1)[0] for cell in cells):
        figures = []
        for levels in (1, 2):
            certificate, flip = runs[f"certificate of {tables}, at {levels}"], runs[f"flip-20 of {tables}, at {levels}"]
            figures += [certified_of(certificate), len(flip["right"])]
        row = [tables.removesuffix(", fine-tuned"), len(flip["clean"]), *figures]
        assert f"| {' | '.join(map(str, row))} |" in page


def test_costs_of_the_inner_problem_are_those_of_the_kept_results() -> None:
    page = " ".join(BRACKET_PAGE.read_text(encoding="utf-8").split())
    found = json.loads((BRACKET / "2026-11-30-inner-problem.json").read_text(encoding="utf-8"))
    gradient = found["network's gradient, ms"]
    assert found["sizes"]["224"]["inner problem, ms"] <= gradient
    assert f"the gradient of EfficientNet-Lite0 {gradient:.0f} ms" in page
    for size, cost in found["sizes"].items():
        assert f"{cost['inner problem, ms']:.0f} ms" in page
        memory = f"{cost['peak, images']:.0f} times at {size} × {size} ({cost['peak, bytes'] / 1e6:.0f} MB)"
        assert memory in page


def test_the_table_of_certifying_steps_is_that_of_the_kept_results() -> None:
    page = BRACKET_PAGE.read_text(encoding="utf-8")
    file = BRACKET / "2026-11-30-lattice.json"
    for row in json.loads(file.read_text(encoding="utf-8"))["coverage"]:
        figures = [row["unlimited"], row["constant at 1"], row["constant at 2"]]
        name = row["tables"]
        if name.startswith("certifying"):
            steps = fdjpeg.QuantTables.certifying(int(name[len("certifying(")]) / 255).y
            name += f", steps {int(steps.min())} … {int(steps.max())}"
        assert f"| {name} | {' | '.join(map(str, figures))} |" in page
