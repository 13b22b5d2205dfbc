"""The example of learned tables runs, and its files have the tables that it learned."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdjpeg import QuantTables

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_learn_tables_writes_files_with_the_tables_that_it_learned(rng: np.random.Generator, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for number in range(2):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        coarse.resize((96, 72), Image.Resampling.BICUBIC).save(images / f"{number}.png")
    options = ["--squares", "16", "--iterations", "8", "--quality", "60"]
    command = [sys.executable, str(EXAMPLES / "learn_tables.py"), str(images), str(out), *options]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.count("dB with the learned ones") == 2
    assert float(printed.split("Mean gain: ")[1].split()[0]) > 0
    tables = QuantTables.load(out / "tables.txt")
    assert [QuantTables.from_image(out / f"{number}.jpg") for number in range(2)] == [tables, tables]


@pytest.mark.parametrize("name", ["watermark", "sandwich"])
def test_examples_of_training_through_the_codec_judge_real_files(
    name: str,
    rng: np.random.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(4):
        coarse = Image.fromarray(rng.integers(0, 256, (18, 20, 3), dtype=np.uint8))
        coarse.resize((160, 144), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.png")
    options = ["--images", str(tmp_path), "--steps", "1", "--crops", "4"]
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "out.json"), *options])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    monkeypatch.delitem(sys.modules, "crops")
    assert "files of Pillow at 4:2:0, 4 crops" in capsys.readouterr().out
    results = json.loads((tmp_path / "out.json").read_text())
    if name == "watermark":
        shares = [one for channel in results["channels"].values() for one in channel.values() if isinstance(one, list)]
        assert all(0 <= mean <= 1 for mean, _ in shares)
        assert "fdjpeg" in results["channels"]
    else:
        assert len(results["sandwich"]) == 4
        # After one step the networks hardly change anything, so the files are those of plain JPEG.
        assert all(abs(row["psnr"] - row["plain_psnr"]) < 0.5 for row in results["sandwich"].values())
