"""The figures of docs/finetuning.md are those of the kept results, and the measured step is one of ResNet-50's size."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results" / "finetuning"


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("augmented_step")


def test_the_network_of_the_step_has_the_parameters_of_resnet_50(step: ModuleType) -> None:
    with torch.device("meta"):
        network = step.network()
    # torchvision's documentation of resnet50: 25,557,032 parameters.
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_557_032
    assert network(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 1000)


def test_the_share_is_the_augmentations_time_over_the_steps(step: ModuleType) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    found = step.share_of_a_step(network, torch.rand(2, 3, 8, 8), 4, rounds=3)
    ratios = sorted(part / whole for part, whole in zip(found["augmentation"], found["step"], strict=True))
    assert found["share"] == ratios[1] > 0
    assert step.on_a_gpu((2, 3, 32, 32), "cpu", rounds=1)["share"] > 0


def kept(name: str) -> Any:
    """The newest kept results of this name."""
    return json.loads(max(KEPT.glob(f"*-{name}.json")).read_text(encoding="utf-8"))


def table_under(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading of docs/finetuning.md, without its header."""
    text = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert lines is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def points(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['difference']:+.1f} ({low:+.1f} … {high:+.1f})".replace("-", "−")


def test_the_table_of_accuracy_is_that_of_the_kept_results() -> None:
    results = kept("accuracy")
    trained, between = (results[name]["rows"] for name in ("trained", "between"))
    expected = [
        [row["files"], f"{row['before']:.1f}", f"{row['after']:.1f}", points(row), points(other)]
        for row, other in zip(trained, between, strict=True)
    ]
    assert table_under("## Accuracy") == expected


def test_the_table_of_watermarks_is_that_of_the_kept_results() -> None:
    expected = [
        [name, f"{one.pop('psnr'):.1f}", f"{100 * one.pop('clean')[0]:.1f}"]
        + [f"{100 * mean:.1f} ± {100 * half:.1f}" for mean, half in (one[key] for key in one if key.isdecimal())]
        for name, one in kept("watermark")["channels"].items()
    ]
    assert table_under("### A watermark") == expected


def test_the_table_of_speed_is_that_of_the_kept_results() -> None:
    rows: dict[str, list[str]] = {}
    for one in kept("speed")["rates"]:
        rows.setdefault(one["way"], []).append(f"{one['images_per_second']:,.0f} ({one['of_pillow']:.1f} ×)")
    assert table_under("## What it costs") == [[way, *cells] for way, cells in rows.items()]


def test_the_table_of_the_sandwich_is_that_of_the_kept_results() -> None:
    results = kept("sandwich")
    plain = {str(row["quality"]): row for row in results["plain"]}
    expected = [
        [quality, *(f"{value:.2f}" for value in (
            plain[quality]["bits"], plain[quality]["psnr"], row["bits"], row["psnr"], row["plain_psnr"])),
         f"{row['psnr'] - row['plain_psnr']:+.2f}".replace("-", "−")]
        for quality, row in results["sandwich"].items()
    ]  # fmt: skip
    assert table_under("### A sandwich") == expected


def test_the_table_of_robustness_is_that_of_the_kept_results() -> None:
    found = {
        (one["defense"], one["gradient"], one["eps"]): str(sum(one["right"])) for one in kept("robustness")["cells"]
    }
    ways = {"none": None, "saved:seed0": "end-to-end", "jpeg:75": "cubic", "saved:seed0,behind=jpeg:75": "cubic"}
    for (defense, gradient), cells in zip(ways.items(), table_under("## Adversarial robustness"), strict=True):
        keys = [(None, None), *((way, eps) for way in (gradient, "flip") for eps in ("1/255", "2/255"))]
        assert cells[1:] == [found.get((defense, *key), "–") for key in keys]
