"""Ctrl-C in every command ends it without a traceback, and leaves neither a draft nor half a file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg.cli.main import main

#: What every command reads: made by `folder`.
PICTURE, ARRAYS, OUT = "picture.png", "images.npz", "out"

#: Each command that writes one file.
WRITING = {
    "roundtrip": ["roundtrip", PICTURE, OUT + ".png"],
    "tables convert": ["tables", "convert", "75", OUT + ".txt"],
    "tables convert to JSON": ["tables", "convert", "75", OUT + ".json"],
    "tables harvest": ["tables", "harvest", ".", OUT + ".json"],
}

#: Each command that works for long, and a function within its work.
WORKING = {
    "evaluate": (["evaluate", "--data", ARRAYS, "--out", OUT], "fdjpeg.cli.evaluate.sources.load_network"),
    "bench": (["bench", "--batch", "1x8", "--out", OUT], "fdjpeg.cli.bench.benchmark.run"),
    "train": (
        ["train", "feature-distillation", "--data", ARRAYS, "--config", "small", "--out", OUT],
        "fdjpeg.cli.train.load_training_images",
    ),
    "tables learn": (["tables", "learn", ARRAYS, OUT], "fdjpeg.cli.tables_learn.learn_tables"),
}


def interrupted(*arguments: object, **options: object) -> None:
    """Stands in for a function in which Ctrl-C comes."""
    raise KeyboardInterrupt


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a picture and an archive of images."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(PICTURE)
    Image.fromarray(pixels[0]).save("picture.jpg")
    np.savez(ARRAYS, images=pixels, labels=np.arange(8))
    QuantTables.standard(75).save("tables.txt")
    return tmp_path


def _ended(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Runs a command that must end as an interrupted one does."""
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code in (1, 130)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", WRITING)
def test_writing(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(os.listdir(folder))
    monkeypatch.setattr(os, "replace", interrupted)
    _ended(WRITING[name], capsys)
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("name", WORKING)
def test_working(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command, function = WORKING[name]
    monkeypatch.setattr(function, interrupted)
    _ended(command, capsys)
    assert not list(folder.rglob(".*.*"))
    assert not (folder / OUT / "results.json").exists()


def test_a_signal_comes_after_a_long_op() -> None:
    """Ctrl-C during an op is raised when it returns, and the next call gives the same bits."""
    image = torch.rand(4, 3, 64, 64)
    expected = fdjpeg.jpeg(image, 75)
    # A shell that starts the tests in the background has them ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            _interrupted_by_a_signal(image)
    finally:
        signal.signal(signal.SIGINT, before)
    assert torch.equal(fdjpeg.jpeg(image, 75), expected)


def _interrupted_by_a_signal(image: torch.Tensor) -> None:
    signal.raise_signal(signal.SIGINT)
    fdjpeg.jpeg(image, 75)
