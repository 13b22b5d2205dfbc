"""The quantization tables that occur in real files, and how often: the file that ``fdjpeg tables harvest`` writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fdjpeg._checks import check_path
from fdjpeg._numbers import is_whole
from fdjpeg._whole_files import whole_file
from fdjpeg.tables import QuantTables

#: What a file says it is; the number changes when older readers would misread it.
FORMAT = "fdjpeg-table-counts/1"


@dataclass(frozen=True)
class TableCounts:
    """Tables with the number of files that hold them.

    Attributes:
        tables: different sets, each ``(8, 8)``.
        counts: one for each set, at least 1.

    Example::

        counts = TableCounts([fdjpeg.QuantTables.standard(50), fdjpeg.QuantTables.standard(75)], [3, 1])
        counts.save("tables.txt")
        RandomJPEG(tables="tables.txt")(images)
    """

    tables: list[QuantTables]
    counts: list[int]

    def __post_init__(self) -> None:
        for name in ("tables", "counts"):
            if not isinstance(getattr(self, name), (list, tuple)):
                raise TypeError(f"{name} must be a list, got {getattr(self, name)!r}")
        if not all(isinstance(tables, QuantTables) for tables in self.tables):
            raise TypeError(f"tables must be fdjpeg.QuantTables, got {self.tables!r}")
        if len(self.counts) != len(self.tables) or not self.tables:
            raise ValueError(
                f"counts must be one for each of one or more tables, got {len(self.counts)} and {len(self.tables)}"
            )
        if not all(is_whole(count) and count >= 1 for count in self.counts):
            raise ValueError(f"counts must be integers of at least 1, got {self.counts!r}")
        object.__setattr__(self, "counts", [int(count) for count in self.counts])  # JSON knows Python's alone

    def save(self, file: str | os.PathLike[str]) -> None:
        """Writes a JSON file: the format, and for each set its count and Pillow's ``qtables``."""
        check_path("file", file)
        sets = [
            {"count": count, "qtables": tables.to_pillow()}
            for tables, count in zip(self.tables, self.counts, strict=True)
        ]
        with whole_file(file) as draft:
            draft.write_text(json.dumps({"format": FORMAT, "sets": sets}) + "\n", encoding="ascii")

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> TableCounts:
        """Reads such a file.

        Raises:
            ValueError: it cannot be read, or is another file.
        """
        check_path("file", file)
        name = os.fspath(file)
        try:
            content = json.loads(Path(file).read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise ValueError(f"tables must name a file of fdjpeg tables harvest, got {name!r}: {error}") from error
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            raise ValueError(f"tables must name a file of fdjpeg tables harvest ({FORMAT}), got {name!r}")
        try:
            sets = [(QuantTables.from_pillow(one["qtables"]), one["count"]) for one in content["sets"]]
            return cls([tables for tables, _ in sets], [count for _, count in sets])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"tables must name a file of tables and counts, got {name!r}: {error}") from error
