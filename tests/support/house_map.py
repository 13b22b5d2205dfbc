"""Writes the map of the house into CONTRIBUTING.md, from the code: ``python tests/support/house_map.py``.

A room is a folder. Python rooms are described by the first sentence of their docstring, folders without one by
`SENTENCES`. Arrows are the imports and includes that the files of a room hold.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN = "<!-- The map: made by `python tests/support/house_map.py`. -->\n"
END = "<!-- End of the map. -->\n"

CORE = "fdjpeg"

#: Folders that have no docstring.
SENTENCES = {
    "csrc/codec": "The arithmetic, exact and real, over a lane type, and plain jobs. No torch, threads or device.",
    "csrc/cpu": "The CPU kernels: lanes, rows of images, and one source file for each instruction set. No torch.",
    "csrc/cuda": "The GPU kernels, which launch nothing, and launch templates over a launcher. No torch.",
    "csrc/ops": "Schemas, argument checks, and the ops' registration on a CPU and a GPU. Torch is included only here.",
    "tests/augmentations": "Augmentations, and their adapters for pipelines.",
    "tests/attacks": "Attacks of this package and of others.",
    "tests/certificates": "Certificates: bounds, outcomes, and what no attack may break.",
    "tests/cli": "The command `fdjpeg`.",
    "tests/codec": "The codec's bits, gradients, tables, layers and coefficients, on every backend.",
    "tests/compat": "Other packages' names over fdjpeg.",
    "tests/defenses": "The published defences and their training.",
    "tests/evaluation": "The protocol, its images and networks, and the report.",
    "tests/house": "Packaging, documents, kept results, and the walls between rooms.",
    "tests/kernels": "The kernels without a GPU (emulated, interpreted, compiled), and on one.",
    "tests/learning": "Learned tables, rate and distortion.",
    "tests/sources": "The reader of image files, and data sets in the files in which they are published.",
    "tests/support": "Backends, oracles, cases and emulation that tests of several rooms share.",
}


def first_sentence(file: Path) -> str:
    """Returns the first sentence of a Python file's docstring, on one line."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\.) ", paragraph)[0].replace("``", "`").replace("|", r"\|")


def packages() -> list[str]:
    """Returns the Python rooms as dotted names: the package itself and every package in it."""
    return sorted(".".join(file.parent.relative_to(ROOT).parts) for file in ROOT.glob(f"{CORE}/**/__init__.py"))


def folders(parent: str) -> list[str]:
    """Returns the folders in ``parent`` that hold source files, as paths from the root."""
    endings = {".py", ".h", ".cpp", ".cu", ".cuh"}
    found = {file.parent for file in (ROOT / parent).glob("*/*") if file.suffix in endings}
    return sorted(folder.relative_to(ROOT).as_posix() for folder in found)


def room_of(module: str) -> str:
    """Returns the innermost room that holds a dotted module name."""
    return max((room for room in packages() if f"{module}.".startswith(f"{room}.")), key=len)


def imported(file: Path) -> set[str]:
    """Returns the modules of this package that a Python file imports, inside functions too, as dotted names."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(parts[: -node.level]) if node.level else ""
            base = ".".join(filter(None, (above, node.module)))
            # `from package import name`: the name may be a room; where it is not, its package is the room.
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if f"{name}.".startswith(f"{CORE}.")}


def imports(room: str) -> set[str]:
    """Returns the rooms that a Python room imports. ``__main__.py`` is left out: it only starts the command."""
    files = [file for file in ROOT.joinpath(*room.split(".")).glob("*.py") if file.name != "__main__.py"]
    return {room_of(name) for file in files for name in imported(file)} - {room}


def includes(folder: str) -> set[str]:
    """Returns the folders of csrc that one of them includes, and ``torch`` if it includes its headers."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / folder).iterdir()))
    found = {f"csrc/{name}" for name in re.findall(r'#\s*include "(\w+)/', text) if (ROOT / "csrc" / name).is_dir()}
    torch = {"torch"} if re.search(r"#\s*include [<\"](torch|ATen|c10)/", text) else set()
    return (found | torch) - {folder}


def path_of(package: str) -> str:
    """Returns a Python room as the map shows it."""
    return package.replace(".", "/")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Returns a Markdown table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, *rows)).replace("|\n", f"|\n|{'---|' * len(head)}\n", 1)


def names(found: set[str]) -> str:
    """Returns names in order, as code."""
    return ", ".join(f"`{name}`" for name in sorted(found))


def house_map() -> str:
    """Returns the map: rooms with their arrows, then the modules of the core."""
    rooms = [(f"`{folder}/`", SENTENCES[folder], names(includes(folder))) for folder in folders("csrc")]
    for room in packages():
        sentence = "The core: the public API, and private helpers." if room == CORE else first_sentence(init_of(room))
        rooms.append((f"`{path_of(room)}/`", sentence, names({path_of(other) for other in imports(room)})))
    rooms += [(f"`{folder}/`", SENTENCES[folder], "") for folder in folders("tests")]
    modules = [
        (f"`{file.name}`", first_sentence(file))
        for file in sorted((ROOT / CORE).glob("*.py"), key=lambda file: (file.name.startswith("_"), file.name))
        if not file.name.startswith("__")
    ]
    return (
        table(("room", "holds", "uses"), rooms) + "\nThe modules of the core:\n\n" + table(("module", "holds"), modules)
    )


def init_of(room: str) -> Path:
    """Returns the file that describes a Python room."""
    return ROOT.joinpath(*room.split("."), "__init__.py")


def with_map(page: str) -> str:
    """Returns a page whose part between the marks is the map."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{house_map()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_map(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
