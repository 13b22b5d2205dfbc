"""The consoles that the commands write to, and progress bars."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

#: Standard output, for results. Names of files and defences are shown as they are: ":x:" and "[b]" mean nothing.
console = Console(emoji=False, markup=False, highlight=False)

#: Standard error, for progress and complaints.
complaints = Console(stderr=True, emoji=False, markup=False, highlight=False)

#: Levels of the log, from the most to the fewest messages.
LEVELS = ("debug", "info", "warning", "error")


class ShowProgress(Protocol):
    """A function that moves a progress bar."""

    def __call__(self, done: int, total: int | None, doing: str = ..., /) -> None:
        """Shows the finished work, the whole work (None if unknown) and the name of the current piece."""


def show_anything() -> None:
    """Makes the standard streams replace characters that their encoding lacks, which must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def show_log(level: str) -> None:
    """Shows messages of the package's loggers from a level on, on standard error.

    Raises:
        ValueError: for another level than `LEVELS`.
    """
    if level not in LEVELS:
        raise ValueError(f"log must be one of {', '.join(LEVELS)}, got {level!r}")
    logger = logging.getLogger("fdjpeg")
    logger.setLevel(level.upper())
    logger.handlers = [RichHandler(console=complaints, show_path=False, markup=False)]


def complain(heading: str, sentence: str) -> None:
    """Prints a sentence on standard error after a heading in red."""
    complaints.print(Text.assemble((heading, "bold red"), f" {sentence}"), soft_wrap=True)


def say_written(file: Path) -> None:
    """Prints the name of a file that was written."""
    console.print(f"Written: {file}", soft_wrap=True)


def print_json(found: Any) -> None:
    """Prints plain values as JSON, for programs."""
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False))


@contextmanager
def progress_bars(unit: str = "", visible: bool = True) -> Iterator[Callable[[str], ShowProgress]]:
    """Shows progress bars on standard error, from the first finished work on, so that none is above a mistake.

    Yields:
        A function that makes a bar of a name, which changes with each call of the bar.
    """
    bars = Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="ellipsis", no_wrap=True)),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        TimeElapsedColumn(),
        TextColumn("left:", markup=False),
        TimeRemainingColumn(),
        console=complaints,
        disable=not visible,
    )

    def new(name: str) -> ShowProgress:
        tasks: list[TaskID] = []

        def show(done: int, total: int | None, doing: str = name, /) -> None:
            bars.start()
            if not tasks:
                tasks.append(bars.add_task(name, total=total))
            bars.update(tasks[0], completed=done, total=total, description=doing)

        return show

    try:
        yield new
    finally:
        bars.stop()
