"""The example of learned tables runs, and its files have the tables that it learned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
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
