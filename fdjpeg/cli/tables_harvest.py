"""The command ``fdjpeg tables harvest``: the quantization tables that occur in a folder of JPEG files, counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from fdjpeg._whole_files import of_the_system, writing
from fdjpeg.augmentations import TableCounts
from fdjpeg.sources.files import is_hidden
from fdjpeg.tables import QuantTables

from .console import complaints, console, say_written

#: How a JPEG file begins (T.81 B.1.1.3: start of image), whatever its name.
_START = b"\xff\xd8\xff"

#: Sets that the summary shows.
_SHOWN = 10


def harvest(
    folder: Annotated[Path, typer.Argument(help="Folder of JPEG files, searched with all its folders.")],
    target: Annotated[Path, typer.Argument(help='JSON file of tables and counts, for RandomJPEG(tables="...").')],
) -> None:
    """Counts the quantization tables of the JPEG files in a folder, and writes them into one file.

    `fdjpeg.RandomJPEG(tables=TARGET)` draws from the file, each set as often as it was found. Only headers are read.
    Files of RGB or CMYK, and those with tables of 16 bits, are left out with a complaint; files and folders whose names
    begin with a dot without one.
    """
    counts = count_tables(folder)
    sets = [(tables, count) for tables, count in counts.most_common()]
    found = TableCounts([_tables_of(tables) for tables, _ in sets], [count for _, count in sets])
    with writing("target", target):
        found.save(target)
    total = sum(found.counts)
    for tables, count in list(zip(found.tables, found.counts, strict=True))[:_SHOWN]:
        means = ", ".join(f"{float(table.double().mean()):.1f}" for table in (tables.luma, tables.chroma))
        console.print(f"{count:8d} files  mean steps {means}  {_standard(tables)}".rstrip())
    if len(sets) > _SHOWN:
        console.print(f"… and {len(sets) - _SHOWN} more sets")
    console.print(f"{len(sets)} sets in {total} files")
    say_written(target)


def count_tables(folder: Path) -> Counter[tuple[tuple[int, ...], ...]]:
    """Returns how many files of a folder hold each set of tables, as Pillow's ``qtables``.

    Raises:
        ValueError: the folder holds no JPEG file with such tables.
    """
    counts: Counter[tuple[tuple[int, ...], ...]] = Counter()
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not is_hidden(file.relative_to(folder)))
    for file in track(files, "reading", console=complaints, transient=True):
        try:
            with file.open("rb") as stream:
                if stream.read(len(_START)) != _START:
                    continue
                stream.seek(0)
                tables = QuantTables.from_image(stream)
        except (OSError, ValueError) as error:
            if of_the_system(error):
                raise
            complaints.print(f"Left out: {file}: {error}", soft_wrap=True)
            continue
        counts[tuple(tuple(table) for table in tables.to_pillow())] += 1
    if not counts:
        raise ValueError(f"folder must hold JPEG files, got {str(folder)!r} with none that can be read")
    return counts


def _tables_of(tables: tuple[tuple[int, ...], ...]) -> QuantTables:
    return QuantTables.from_pillow([list(table) for table in tables])


def _standard(tables: QuantTables) -> str:
    """Names libjpeg's quality where the tables are its own."""
    for quality in range(1, 101):
        if tables == QuantTables.standard(quality):
            return f"(libjpeg's quality {quality})"
    return ""
