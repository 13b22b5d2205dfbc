"""The papers' experiments: cells are kept and not computed again, and docs/papers.md has a row for each claim."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
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
