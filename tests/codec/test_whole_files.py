"""Files appear whole or not at all, by every writer of the library."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg._whole_files import is_draft, whole_file, writing
from fdjpeg.augmentations import TableCounts
from fdjpeg.defenses import JPEG, save
from fdjpeg.evaluation import files

TABLES = QuantTables.flat(9)
COEFFICIENTS = fdjpeg.encode(torch.full((1, 3, 16, 16), 0.5))

#: What writes a file of a name.
WRITERS: dict[str, Callable[[Path], object]] = {
    "tables.txt": TABLES.save,
    "image.jpg": COEFFICIENTS.save,
    "counts.json": TableCounts([TABLES], [1]).save,
    "defense.safetensors": lambda file: save(JPEG(75), file),
    "report.md": lambda file: files.write(file.parent, {file.name: "text"}),
}


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest) -> str:
    """The name of a file that one of the writers makes."""
    pytest.importorskip({"image.jpg": "jpeglib", "defense.safetensors": "safetensors"}.get(request.param, "torch"))
    return str(request.param)


def test_an_interrupt_leaves_the_former_file(writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / writer
    file.write_text("former")

    def interrupted(*paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        WRITERS[writer](file)
    assert os.listdir(tmp_path) == [writer]
    assert file.read_text() == "former"


def test_a_file_is_replaced_with_its_mode_and_through_its_link(writer: str, tmp_path: Path) -> None:
    target, link = tmp_path / "kept" / writer, tmp_path / writer
    target.parent.mkdir()
    target.write_text("former")
    target.chmod(0o640)
    link.symlink_to(target)
    WRITERS[writer](link)
    assert link.is_symlink()
    assert target.read_bytes() != b"former"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.listdir(target.parent) == [writer]


def test_a_device_is_written_as_it_is() -> None:
    with whole_file(os.devnull) as draft:
        assert draft == Path(os.devnull)


def test_a_draft_keeps_the_suffix(tmp_path: Path) -> None:
    with whole_file(tmp_path / "picture.png") as draft:
        assert draft.suffix == ".png"
        assert is_draft(draft.name)
    assert not is_draft("picture.png")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing/tables\.txt"):
        TABLES.save(tmp_path / "missing" / "tables.txt")


def test_a_file_that_may_not_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replacing it would need only the folder's permission."""
    target = tmp_path / "tables.txt"
    target.write_text("before")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everything
    with pytest.raises(PermissionError, match="Permission denied"), whole_file(target) as draft:
        draft.write_text("after")
    assert target.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["tables.txt"]


@pytest.mark.parametrize(
    ("error", "why"), [(OSError(28, "No space left on device"), "No space left on device"), (OSError("gone"), "gone")]
)
def test_the_reason_is_in_words(error: OSError, why: str) -> None:
    message = f"^out must be a folder that can be written, got 'there': {why}$"
    with pytest.raises(ValueError, match=message), writing("out", "there", "folder"):
        raise error
