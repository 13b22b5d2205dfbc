"""Every command that writes names its argument where it cannot: on a full disk, and where no folder can be."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.defense_data import full_disk

from fdjpeg.cli.main import main

#: Each command that writes, the argument that names the place, and what is to be written. PLACE is replaced.
WRITING = {
    "roundtrip": (["roundtrip", "picture.png", "PLACE/out.png"], "target must be a file"),
    "tables convert": (["tables", "convert", "75", "PLACE/out.txt"], "target must be a file"),
    "tables convert to JSON": (["tables", "convert", "75", "PLACE/out.json"], "target must be a file"),
    "tables derive": (["tables", "derive", "pictures", "PLACE/out.txt"], "target must be a file"),
    "tables harvest": (["tables", "harvest", ".", "PLACE/out.json"], "target must be a file"),
    "tables show": (["tables", "show", "75", "--picture", "PLACE/out.png"], "picture must be a file"),
    "tables learn": (
        ["tables", "learn", "images.npz", "PLACE/out", "--quality", "50", "--iterations", "5"],
        "out must be a folder",
    ),
    "bench": (
        ["bench", "--batch", "1x8", "--peer", "fdjpeg uint8", "--rounds", "1", "--no-memory", "--out", "PLACE/out"],
        "out must be a folder",
    ),
    "train": (
        ["train", "feature-distillation", "--data", "images.npz", "--config", "small", "--out", "PLACE/out"],
        "out must be a folder",
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with pictures and an archive of images."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    Path("pictures").mkdir()
    for name in ("picture.png", "picture.jpg", "pictures/picture.png"):
        Image.fromarray(pixels[0]).save(name)
    np.savez("images.npz", images=pixels, labels=np.arange(8))
    return tmp_path


@pytest.mark.parametrize("place", ["full", "/dev/null"])
@pytest.mark.parametrize("command", WRITING)
def test_a_place_that_cannot_be_written_is_named(
    command: str, place: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, wanted = WRITING[command]
    Path("full").mkdir()
    given = [argument.replace("PLACE", place) for argument in arguments]
    with full_disk() if place == "full" else nullcontext(), pytest.raises(SystemExit) as caught:
        main(given)
    printed = capsys.readouterr().err
    assert caught.value.code == 2
    assert f"Error: {wanted} that can be written, got '{place}/out" in printed
    assert "Errno" not in printed
    assert not any(file.is_file() for file in Path("full").rglob("*"))
