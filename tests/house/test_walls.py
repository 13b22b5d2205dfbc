"""The walls between rooms: dependencies run one way, and torch is included only by the ops."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest
from support import house_map

#: The core's own rooms, which may use each other; then the others, each after all rooms that it may use.
CORE = {"fdjpeg", "fdjpeg.augmentations", "fdjpeg.ops", "fdjpeg.reference", "fdjpeg._triton"}
LATER = [
    {"learning", "attacks", "sources"},
    {"defenses", "certificates"},
    {"evaluation"},
    {"bench"},
    {"cli"},
]
PLACES = {room: number for number, rooms in enumerate(LATER) for room in rooms}


def test_each_room_has_a_place() -> None:
    new = [room for room in house_map.packages() if room not in CORE and room.split(".")[1] not in PLACES]
    assert not new, f"CORE or LATER must name {new}"


@pytest.mark.parametrize("room", house_map.packages())
def test_a_room_uses_only_earlier_ones(room: str) -> None:
    for used in house_map.imports(room) - CORE:
        assert room not in CORE, f"the core's {room} uses {used}"
        user, other = room.split(".")[1], used.split(".")[1]
        assert user == other or PLACES[other] < PLACES[user], f"{room} uses {used}"


def test_no_import_is_hidden_in_a_string() -> None:
    hidden = [
        f"{file.name}: {argument.value}"
        for file in sorted((house_map.ROOT / house_map.CORE).glob("**/*.py"))
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("import_module")
        for argument in call.args
        if isinstance(argument, ast.Constant) and str(argument.value).startswith((".", house_map.CORE))
    ]
    assert not hidden


def test_importing_the_package_loads_only_the_core() -> None:
    script = "import sys, fdjpeg; print(*(name for name in sys.modules if name.startswith('fdjpeg.')))"
    environment = {**os.environ, "PYTHONPATH": str(house_map.ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[1] for name in done.stdout.split()}
    assert "functional" in loaded
    assert not loaded & set(PLACES)


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("csrc/codec", set()),
        ("csrc/cpu", {"csrc/codec"}),
        ("csrc/cuda", {"csrc/codec"}),
        ("csrc/ops", {"csrc/codec", "csrc/cpu", "csrc/cuda", "torch"}),
    ],
)
def test_a_folder_of_csrc_includes_only_these(folder: str, allowed: set[str]) -> None:
    assert house_map.includes(folder) <= allowed


def test_each_folder_of_csrc_has_its_wall() -> None:
    assert house_map.folders("csrc") == ["csrc/codec", "csrc/cpu", "csrc/cuda", "csrc/ops"]
