"""Finished work in a folder, from which a stopped run resumes and which the shards of one run share."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from fdjpeg._whole_files import writing

from .cells import Cell


class Store:
    """Cells by the fingerprint of everything they depend on, one line of JSON for each piece of finished work.

    A line is written at once and counts only if all of it can be read, so a run may be killed at any point. Of several
    lines with the same fingerprint the last whole one counts. Each process appends to its own file; all files of the
    folder are read.

    Args:
        folder: made if needed; None keeps nothing.
        process: name that is unique among the processes of a run.
        others: more folders of finished work to read.

    Raises:
        ValueError: if ``folder`` cannot be written, or one of ``others`` holds no finished work.
    """

    def __init__(self, folder: Path | None, process: str, others: Iterable[Path] = ()) -> None:
        self.file: Path | None = None
        #: Lines of each fingerprint that may be whole, the newest last.
        self._lines: dict[str, list[str]] = {}
        for other in others:
            if not (other / "work").is_dir():
                raise ValueError(f"merge must name folders of finished work, got {str(other)!r}, which holds none")
            self._read(other / "work")
        if folder is None:
            return
        self.file = folder / "work" / f"{process}.jsonl"
        with writing("out", folder, "folder"):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._read(self.file.parent)
            with self.file.open("a+b") as lines:
                # The rest of a killed run's last line would spoil the next one.
                if lines.seek(0, 2) > 0 and (lines.seek(-1, 2), lines.read(1))[1] != b"\n":
                    lines.write(b"\n")

    def _read(self, folder: Path) -> None:
        for file in sorted(folder.glob("*.jsonl")):
            for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
                key, _, cells = line.partition("\t")
                if cells.endswith("]"):
                    self._lines.setdefault(key, []).append(cells)

    def __contains__(self, key: str) -> bool:
        return self.load(key) is not None

    def load(self, key: str) -> list[Cell] | None:
        """Returns the cells of a piece of work that was finished before, else None."""
        lines = self._lines.get(key, [])
        while lines:
            try:
                return [Cell.from_json(cell) for cell in json.loads(lines[-1])]
            except (ValueError, TypeError, KeyError, AttributeError, OSError):  # torn, also behind an inner list
                lines.pop()
        return None

    def save(self, key: str, cells: list[Cell]) -> None:
        """Stores a finished piece of work.

        Raises:
            ValueError: if the folder cannot be written any more.
        """
        if self.file is None:
            return
        line = f"{key}\t{json.dumps([cell.to_json() for cell in cells])}\n"
        # The file is buffered: all of it is written, or an error raised.
        with writing("out", self.file.parent.parent, "folder"), self.file.open("ab") as lines:
            lines.write(line.encode())
