"""The papers' experiments: cells are kept and not computed again, and docs/papers.md has a row for each claim."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "papers.md"
KEPT = ROOT / "benchmarks" / "results" / "papers"

#: Claims of each abstract.
CLAIMS = {
    "Feature distillation": 8,
    "NN-favoured table, noisy training, vote": 4,
    "Distillation-based purification": 3,
    "S2SNets": 4,
    "Defensive distillation": 4,
}
VERDICTS = ("reproduces", "in part", "not", "open", "cannot be tested here")


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "papers"))
    return importlib.import_module("experiment")


def test_a_stopped_experiment_computes_only_what_is_missing(experiment: ModuleType, tmp_path: Path) -> None:
    computed: list[str] = []

    def compute(name: str) -> dict[str, Any]:
        computed.append(name)
        if name == "killed":
            raise KeyboardInterrupt
        return {"right": experiment.share(torch.tensor([True, False]))}

    first = experiment.Experiment("some", "Some", tmp_path)
    first.cell("one", lambda: compute("one"))
    with pytest.raises(KeyboardInterrupt):
        first.cell("two", lambda: compute("killed"))
    again = experiment.Experiment("some", "Some", tmp_path)
    for name in ("one", "two"):
        again.cell(name, lambda name=name: compute(name))
    assert computed == ["one", "killed", "two"]
    assert not list(tmp_path.glob("*.part"))
    cell = json.loads((tmp_path / "some.json").read_text())["cells"]["two"]
    assert {"date", "commit", "processor", "cpu_seconds"} <= cell.keys()
    assert cell["right"]["percent"] == 50
    again.write([("Table", ["a", "b"], [["x", experiment.percent(None)]])])
    assert "| x | not run yet |" in (tmp_path / "some.md").read_text()


def rows(section: str) -> list[list[str]]:
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    (table,) = (part for part in text.split("\n\n") if part.startswith("| claim |"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]


@pytest.mark.parametrize("section", CLAIMS)
def test_every_claim_has_a_row_with_a_verdict(section: str) -> None:
    found = rows(section)
    assert len(found) == CLAIMS[section]
    for row in found:
        assert len(row) == 6
        assert row[-1].startswith(VERDICTS), row[-1]
        # A claim whose experiment was not run has no verdict from it.
        assert row[1] != "not run yet" or row[-1].startswith("open"), row


def test_kept_results_are_named_by_their_experiments() -> None:
    programs = {file.stem for file in (ROOT / "benchmarks" / "papers").glob("*.py")}
    for file in KEPT.glob("*.json"):
        assert file.stem in programs
        for cell in json.loads(file.read_text())["cells"].values():
            assert {"date", "commit", "processor"} <= cell.keys()


# ---------------------------------------------------------------------------------------------------------------------
# Figures

#: The experiment of each section.
EXPERIMENTS = {
    "Feature distillation": "feature_distillation",
    "NN-favoured table, noisy training, vote": "nn_favoured_table",
    "Distillation-based purification": "purification",
    "S2SNets": "s2snet",
    "Defensive distillation": "defensive_distillation",
}

#: Decimals in the rows that are settings.
SETTINGS = {"0.1"}


def numbers(kept: Any) -> Iterator[float]:
    """Yields all numbers of a kept JSON."""
    if isinstance(kept, dict):
        kept = list(kept.values())
    if isinstance(kept, list):
        for one in kept:
            yield from numbers(one)
    elif isinstance(kept, int | float):
        yield float(kept)


def means_over_attacks(cells: dict[str, Any]) -> Iterator[float]:
    """Yields feature distillation's mean shares over its six attacks, and their complements."""
    for levels in (2, 8):
        names = [f"attack {name}" for name in (f"FGSM {levels}", f"BIM {levels}", "DeepFool", "CW2", "CW0", "CWi")]
        found = [fmean(cells[name][kind]["percent"] for name in names) for kind in _shares(cells[names[0]])]
        for table in ("paper", "uniform(30)"):
            twice = [cells[f"{name} on feature-distillation:{table},passes=2,entry=after"] for name in names]
            found += [fmean(cell[kind]["percent"] for cell in twice) for kind in ("clean", "right")]
        yield from found
        yield from (100 - one for one in found)


def means_over_others(cells: dict[str, Any]) -> Iterator[float]:
    """Yields how many images of others fool a network, and how many of its images fool others, on average."""
    matrix = cells["how networks lie"]["matrix"]
    for name in matrix:
        yield fmean(matrix[other][name]["percent"] for other in matrix if other != name)
        yield fmean(matrix[name][other]["percent"] for other in matrix if other != name)


def means_over_seeds(cells: dict[str, Any]) -> Iterator[float]:
    """Yields the purifiers' shares, clean and attacked, as means over the seeds of each student."""
    for lesson in ("both", "normal", "adversarial", "none"):
        for part in ("clean", "attacked"):
            found = [cells[f"{lesson}, seed {seed}: {part}"] for seed in (0, 1, 2)]
            yield from (fmean(cell[share]["percent"] for cell in found) for share in _shares(found[0]))


def gaps_by_temperature(cells: dict[str, Any]) -> Iterator[float]:
    """Yields the median gaps of the logits, divided by the temperature."""
    for name, cell in cells.items():
        if name.startswith("T = ") and "gap" in cell:
            yield cell["gap"] / int(name.removeprefix("T = ").partition(",")[0])


DERIVED = {
    "feature_distillation": means_over_attacks,
    "purification": means_over_seeds,
    "s2snet": means_over_others,
    "defensive_distillation": gaps_by_temperature,
}


def _shares(cell: dict[str, Any]) -> list[str]:
    return [name for name, value in cell.items() if isinstance(value, dict)]


def _cells(name: str) -> dict[str, Any]:
    cells: dict[str, Any] = json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))["cells"]
    return cells


@pytest.mark.parametrize("section", EXPERIMENTS)
def test_every_decimal_of_a_row_is_a_kept_figure(section: str) -> None:
    # A row may quote another experiment's figure, for comparison.
    known = [number for name in EXPERIMENTS.values() for number in numbers(_cells(name))]
    for name, derive in DERIVED.items():
        known += derive(_cells(name))
    for row in rows(section):
        for text in set(re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", " ".join(row))) - SETTINGS:
            digits = len(text.partition(".")[2])
            written = {form for number in known for form in (f"{number:.{digits}f}", f"{number:.2g}")}
            assert text in written, f"{text} of {row[0]!r} is no kept figure"


@pytest.mark.parametrize("name", EXPERIMENTS.values())
def test_the_tables_are_those_of_the_kept_figures(experiment: ModuleType, name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.json").write_bytes((KEPT / f"{name}.json").read_bytes())
    program = importlib.import_module(name)
    program.report(experiment.Experiment(name, json.loads((KEPT / f"{name}.json").read_text())["title"], tmp_path))
    assert (tmp_path / f"{name}.md").read_text() == (KEPT / f"{name}.md").read_text()
