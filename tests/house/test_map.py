"""The maps follow the code: CONTRIBUTING's rooms and arrows, and the promises of tests/README.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import house_map

TESTS = house_map.ROOT / "tests"


def test_the_map_in_contributing_is_that_of_the_code() -> None:
    page = house_map.PAGE.read_text(encoding="utf-8")
    assert page == house_map.with_map(page), "run `python tests/support/house_map.py`"


def test_each_folder_without_a_docstring_has_a_sentence() -> None:
    assert set(house_map.SENTENCES) == {*house_map.folders("csrc"), *house_map.folders("tests")}


@pytest.mark.parametrize(
    ("line", "room"),
    [
        ("import fdjpeg.later", "fdjpeg.later"),
        ("import fdjpeg", "fdjpeg"),
        ("from fdjpeg import later", "fdjpeg.later"),
        ("from fdjpeg.later import thing", "fdjpeg.later"),
        ("from ..later.inner.file import thing", "fdjpeg.later.inner"),
        ("from .. import later", "fdjpeg.later"),
        ("def f():\n    from fdjpeg.later import thing", "fdjpeg.later"),
    ],
)
def test_an_import_becomes_an_arrow(line: str, room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("fdjpeg", "fdjpeg/room", "fdjpeg/later", "fdjpeg/later/inner"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text('"""A room. And more."""\n')
    (tmp_path / "fdjpeg/room/file.py").write_text(f"import torch\nimport fdjpegs\n{line}\n")
    monkeypatch.setattr(house_map, "ROOT", tmp_path)
    assert house_map.imports("fdjpeg.room") == {room}
    assert house_map.first_sentence(tmp_path / "fdjpeg/room/__init__.py") == "A room."


def test_each_test_file_is_in_the_map_of_promises_and_each_name_is_a_file() -> None:
    rows = [line.split("|")[2] for line in (TESTS / "README.md").read_text().splitlines() if line.startswith("| ")]
    patterns = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    found = {pattern: set(TESTS.glob(pattern)) for pattern in patterns}
    assert not [pattern for pattern, files in found.items() if not files]
    files = {*TESTS.glob("**/test_*.py"), TESTS / "fuzz.py"}
    missing = files - set().union(*found.values())
    assert not missing, f"tests/README.md must name {sorted(file.name for file in missing)}"
