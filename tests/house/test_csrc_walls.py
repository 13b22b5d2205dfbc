"""The walls between the rooms of csrc: torch is known in ops alone, and kernels include nothing of another backend."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
#: The rooms that each room may include, itself among them.
ALLOWED = {
    "codec": {"codec"},
    "cpu": {"codec", "cpu"},
    "cuda": {"codec", "cuda"},
    "ops": {"codec", "cpu", "cuda", "ops"},
}
_INCLUDE = re.compile(r"^\s*#\s*include\s*([<\"])([^>\"]+)[>\"]", re.MULTILINE)
_OF_TORCH = ("torch/", "ATen/", "c10/", "pybind11/", "Python.h")
SOURCES = sorted(path for path in CSRC.rglob("*") if path.is_file())


def violations(room: str, text: str) -> list[str]:
    """Returns the includes in a source text that a room must not have."""
    found = []
    for quote, name in _INCLUDE.findall(text):
        of_torch = name.startswith(_OF_TORCH) and room != "ops"
        beyond = quote == '"' and name.split("/")[0] not in ALLOWED[room]
        if of_torch or beyond:
            found.append(name)
    return found


def test_each_source_is_in_a_room() -> None:
    assert SOURCES
    assert {path.relative_to(CSRC).parts[0] for path in SOURCES} == set(ALLOWED)
    assert all(len(path.relative_to(CSRC).parts) == 2 for path in SOURCES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(CSRC).as_posix())
def test_includes_stay_within_the_walls(path: Path) -> None:
    assert violations(path.parent.name, path.read_text()) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(CSRC).as_posix())
def test_includes_name_a_file_of_csrc(path: Path) -> None:
    """An include is written from csrc on, so that its room is seen."""
    for quote, name in _INCLUDE.findall(path.read_text()):
        assert quote == "<" or (CSRC / name).is_file(), name


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("codec", "#include <torch/csrc/stable/tensor.h>"),
        ("cpu", "#include <torch/headeronly/core/ScalarType.h>"),
        ("cuda", '#include "torch/csrc/stable/ops.h"'),
        ("cuda", "#  include <c10/cuda/CUDAStream.h>"),
        ("cuda", '#include "cpu/image_rows.h"'),
        ("cpu", '#include "cuda/samples.cuh"'),
        ("codec", '#include "cpu/lanes.h"'),
        ("codec", '#include "ops/arguments.h"'),
        ("cuda", '#include "samples.cuh"'),
    ],
)
def test_an_include_through_a_wall_is_found(room: str, line: str) -> None:
    assert violations(room, f"#pragma once\n{line}\n") != []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("ops", "#include <torch/csrc/stable/tensor.h>"),
        ("cuda", "#include <cuda_fp16.h>"),
        ("cuda", '#include "codec/geometry.h"'),
        ("cpu", '#include "cpu/lanes.h"'),
    ],
)
def test_an_include_within_the_walls_is_not(room: str, line: str) -> None:
    assert violations(room, f"{line}\n") == []


def test_only_lanes_is_longer_than_500_lines() -> None:
    longer = {path.name for path in SOURCES if len(path.read_text().splitlines()) > 500}
    assert longer <= {"lanes.h"}
