"""Compiles each program of the tests once for all test processes, and again only when a source has changed."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[2] / "build" / "tests"


def kept_build(name: str, sources: Iterable[Path], commands: object, build: Callable[[Path], None]) -> Path:
    """Returns a folder that ``build(folder)`` fills.

    Args:
        name: of the folder, under ``build/tests``.
        sources: files that the result depends on.
        commands: anything else it depends on, such as a compiler's flags, compared by ``repr``.
        build: is called with an empty folder, unless one of the same sources and commands was filled before.
    """
    digest = hashlib.sha256(repr(commands).encode())
    for source in sources:
        digest.update(source.read_bytes())
    key = digest.hexdigest()
    folder, marker = _FOLDER / name, _FOLDER / name / "key"
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with open(_FOLDER / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not marker.is_file() or marker.read_text() != key:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            marker.write_text(key)
    return folder
