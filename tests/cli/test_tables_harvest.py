"""The command ``fdjpeg tables harvest``: the tables of real files, counted, as `fdjpeg.RandomJPEG` draws them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg.augmentations import TableCounts
from fdjpeg.cli import main as cli


def run(*arguments: object) -> int:
    """The command's exit status."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["tables", "harvest", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_tables_of_real_files_are_counted_and_drawn_as_often(
    rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    (photos / "inner").mkdir(parents=True)
    picture = Image.fromarray(rng.integers(0, 256, (16, 24, 3), dtype=np.uint8))
    own = QuantTables(*rng.integers(1, 256, (3, 8, 8)))
    for number in range(5):
        picture.save(photos / f"{number}.jpg", quality=75)
    picture.save(photos / "inner" / "no-suffix", format="JPEG", qtables=own.to_pillow(), subsampling=0)
    picture.convert("L").save(photos / "grey.jpeg", quality=30)
    picture.convert("CMYK").save(photos / "cmyk.jpg")
    picture.save(photos / "other.png")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    target = tmp_path / "tables.json"
    assert run(photos, target) == 0
    told = capsys.readouterr()
    assert "3 sets in 7 files" in told.out
    assert "libjpeg's quality 75" in told.out
    left_out = [line.split(": ")[1] for line in told.err.splitlines() if line.startswith("Left out")]
    assert sorted(left_out) == [str(photos / "broken.jpg"), str(photos / "cmyk.jpg")]
    counted = TableCounts.load(target)
    grey = QuantTables(QuantTables.standard(30).luma, QuantTables.standard(30).luma)
    assert sorted(counted.counts, reverse=True) == counted.counts == [5, 1, 1]
    assert counted.tables[0] == QuantTables.standard(75)
    assert {counted.tables[1] == own, counted.tables[1] == grey} == {True, False}
    layer = fdjpeg.RandomJPEG(tables=target)
    image = torch.rand(64, 3, 16, 24)
    out, drawn = layer(image, return_parameters=True)
    for place in drawn.table.unique().tolist():
        one = fdjpeg.jpeg(image, tables=counted.tables[place])
        assert torch.equal(out[drawn.table == place], one[drawn.table == place])


def test_mistakes_of_harvest_end_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, tmp_path / "out.json") == 2
    assert "folder must hold JPEG files" in capsys.readouterr().err
    Image.new("RGB", (8, 8)).save(tmp_path / "one.jpg")
    assert run(tmp_path, tmp_path / "nowhere" / "out.json") == 2
    assert "target must be a file that can be written" in capsys.readouterr().err
    assert run(tmp_path, tmp_path / "out.json") == 0
    assert json.loads((tmp_path / "out.json").read_text())["sets"][0]["count"] == 1


def test_hidden_files_are_passed_over_as_by_all_commands(tmp_path: Path) -> None:
    for place, quality in (("seen.jpg", 50), (".hidden.jpg", 90), (".thumbnails/seen.jpg", 90)):
        (tmp_path / "photos" / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / place, quality=quality)
    assert run(tmp_path / "photos", tmp_path / "counts.json") == 0
    assert TableCounts.load(tmp_path / "counts.json").tables == [QuantTables.standard(50)]
