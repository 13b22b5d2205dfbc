"""The walls between the rooms of the package: which may import which, and that no imports go round in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fdjpeg"

#: For each room the rooms that it may import, besides itself. A module directly in the package counts as "core", and so
#: do the rooms of the codec itself.
CORE = {"augmentations", "ops", "reference", "_triton"}
MAY_IMPORT = {
    "core": set(),
    "compat": {"core"},
    "learning": {"core"},
    "attacks": {"core"},
    "sources": {"core"},
    "defenses": {"core", "attacks", "sources"},
    "certificates": {"core", "attacks", "sources", "defenses"},
    "evaluation": {"core", "attacks", "sources", "defenses", "certificates"},
}

#: Rooms that may import all others: the programs on top.
ON_TOP = {"bench", "cli"}


class Import(NamedTuple):
    """A module of the package that names another."""

    importer: str
    imported: str
    at_once: bool  #: at the level of the module (for a type checker only, too), not later inside of a function


# ---------------------------------------------------------------------------------------------------------------------
# Reading the imports


def _name_of(file: Path, root: Path) -> str:
    parts = file.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _modules(package: Path = PACKAGE) -> dict[str, Path]:
    return {_name_of(file, package): file for file in sorted(package.rglob("*.py"))}


def _statements(node: ast.AST, at_once: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes under ``node``, and whether each is outside of functions."""
    for child in ast.iter_child_nodes(node):
        later = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        now = at_once and not later
        yield child, now
        yield from _statements(child, now)


def _base_of(name: str, is_package: bool, node: ast.ImportFrom) -> str:
    """The absolute name of the module from which ``node`` imports."""
    if node.level == 0:
        return node.module or ""
    package = name.split(".") if is_package else name.split(".")[:-1]
    above = package[: len(package) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def _names_in(name: str, file: Path, node: ast.AST) -> list[str]:
    """The dotted names that a node imports, or in a string might import."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _base_of(name, file.name == "__init__.py", node)
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # `importlib.import_module("fdjpeg.x")` and its like: a string that is nothing but a module's name.
        return [node.value] if node.value.startswith("fdjpeg.") and node.value.replace(".", "").isidentifier() else []
    return []


def _module_named(dotted: str, modules: dict[str, Path]) -> str | None:
    """The longest beginning of a dotted name that is a module of the package."""
    parts = dotted.split(".")
    beginnings = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((beginning for beginning in beginnings if beginning in modules), None)


def imports_of(package: Path = PACKAGE) -> list[Import]:
    """Every import of a module of the package by another, those inside functions and in strings included."""
    modules = _modules(package)
    found = set()
    for name, file in modules.items():
        for node, at_once in _statements(ast.parse(file.read_text())):
            for dotted in _names_in(name, file, node):
                imported = _module_named(dotted, modules)
                if imported is not None and imported != name:
                    found.add(Import(name, imported, at_once))
    return sorted(found)


def _room(module: str) -> str:
    parts = module.split(".")
    if len(parts) == 1 or parts[1] in CORE or (PACKAGE / f"{parts[1]}.py").exists():
        return "core"
    return parts[1]


# ---------------------------------------------------------------------------------------------------------------------
# Arrows between rooms


def _against_the_rules(imports: list[Import]) -> set[tuple[str, str]]:
    arrows = set()
    for importer, imported, _ in imports:
        one, other = _room(importer), _room(imported)
        # The program's entry, `python -m fdjpeg`, starts the command line.
        if one == other or one in ON_TOP or importer == "fdjpeg.__main__":
            continue
        if other not in MAY_IMPORT[one]:
            arrows.add((importer, other))
    return arrows


def test_every_room_has_a_rule() -> None:
    rooms = {_room(name) for name in _modules()}
    assert rooms <= set(MAY_IMPORT) | ON_TOP


def test_rooms_import_only_those_below_them() -> None:
    assert _against_the_rules(imports_of()) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "from fdjpeg.evaluation import report",
        "def f():\n    from fdjpeg import evaluation",
        "def f():\n    import fdjpeg.evaluation.report as report",
        "from .. import evaluation",
        "import importlib\nimportlib.import_module('fdjpeg.evaluation')",
    ],
)
def test_an_arrow_upwards_is_found(tmp_path: Path, statement: str) -> None:
    for file in ("__init__", "evaluation/__init__", "evaluation/report", "sources/__init__"):
        path = tmp_path / "fdjpeg" / f"{file}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "fdjpeg/sources/images.py").write_text(statement)
    assert _against_the_rules(imports_of(tmp_path / "fdjpeg")) == {("fdjpeg.sources.images", "evaluation")}


def test_importing_the_package_loads_the_core_alone() -> None:
    program = "import sys, fdjpeg; print(*(name for name in sys.modules if name.startswith('fdjpeg')))"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = ran.stdout.split()
    assert "fdjpeg.ops" in loaded
    assert [name for name in loaded if _room(name) != "core"] == []
    assert "fdjpeg._triton.launches" not in loaded


# ---------------------------------------------------------------------------------------------------------------------
# Circles


def _circles(imports: list[Import]) -> set[frozenset[str]]:
    """The sets of modules that import each other at module level, directly or through others."""
    # `from package import module` needs the module, but not that the package's own file be finished: a package that
    # gathers its modules' names is no circle. So an arrow to a package counts only from outside of it.
    arrows: dict[str, set[str]] = {}
    for importer, imported, at_once in imports:
        if at_once and not importer.startswith(f"{imported}."):
            arrows.setdefault(importer, set()).add(imported)
    reached = {module: _reachable(module, arrows) for module in arrows}
    circles = set()
    for module, others in reached.items():
        if module in others:
            circles.add(frozenset({module} | {other for other in others if module in reached.get(other, set())}))
    return circles


def _reachable(start: str, arrows: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(arrows.get(start, ()))
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += arrows.get(module, ())
    return seen


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert _circles(imports_of()) == set()


def test_a_circle_is_found() -> None:
    arrows = [Import("a", "b", True), Import("b", "c", True), Import("c", "a", True), Import("c", "d", True)]
    assert _circles(arrows) == {frozenset("abc")}
    assert _circles([*arrows[:2], Import("c", "a", False)]) == set()
