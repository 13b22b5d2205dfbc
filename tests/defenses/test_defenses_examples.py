"""Every script of examples/ runs, attacks its defence and prints the result."""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.defense_data import patterns

EXAMPLES = Path(__file__).parents[2] / "examples"
OTHERS = ("common", "crops", "learn_tables", "sandwich", "watermark")  # see house/test_examples.py
SCRIPTS = sorted(file.stem for file in EXAMPLES.glob("*.py") if file.stem not in OTHERS)

#: Settings with which training takes seconds; the packaged ones take minutes.
SETTINGS = {
    "feature_distillation": "n: 15",
    "jpeg_ensemble": "tuning: {epochs: 1, batch_size: 16}",
    "purifier": "{widths: [4, 4, 4], attack_steps: 1, normal: {epochs: 1, batch_size: 16},"
    " adversarial: {epochs: 1, batch_size: 16}, student: {epochs: 1, batch_size: 16}}",
    "s2snet": "{architecture: small, reconstruction: {epochs: 1, batch_size: 16}, signal: {epochs: 1, batch_size: 16}}",
    "fine_tuning": "{tuning: {epochs: 1, batch_size: 16}, validation: 0.25, qualities: [10]}",
    "defensive_distillation": "{widths: [4, 4, 8], training: {epochs: 1, batch_size: 16}}",
}


def test_there_is_one_for_each_defence() -> None:
    assert sorted(SCRIPTS) == sorted([*SETTINGS, "jpeg"])


@pytest.mark.parametrize("name", SCRIPTS)
def test_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = patterns(40, seed=0)
    np.savez(tmp_path / "few.npz", images=images.numpy(), labels=labels.numpy())
    (tmp_path / "settings.yaml").write_text(SETTINGS.get(name, ""))
    here = [
        "--out",
        str(tmp_path / "out"),
        "--config",
        str(tmp_path / "settings.yaml"),
        "--model",
        "support.defense_data:network",
    ]
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "few.npz"), "--train", "32", "--test", "4", *here])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / f"{name}.py"))
    monkeypatch.delitem(sys.modules, "common")
    said = capsys.readouterr().out
    assert "images classified correctly" in said
    assert "saved:" in said


def test_examples_attack_no_image_that_they_train_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = patterns(10, seed=0)
    np.savez(tmp_path / "few.npz", images=images.numpy(), labels=labels.numpy())
    monkeypatch.syspath_prepend(str(EXAMPLES))
    common = importlib.import_module("common")
    monkeypatch.delitem(sys.modules, "common")
    options = argparse.Namespace(npz=str(tmp_path / "few.npz"), model="support.defense_data:network", train=512, test=4)
    _, train, attacked = common.read(options)
    assert len(train) == 6
    assert torch.equal(attacked.images, images[6:])
    options.test = 10
    with pytest.raises(SystemExit, match="must hold more than the 10 images to attack, got 10"):
        common.read(options)
