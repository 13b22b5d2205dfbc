"""The consoles that the commands write to."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

#: Standard output, for results.
console = Console()

#: Standard error, for progress and complaints.
complaints = Console(stderr=True)


def show_anything() -> None:
    """Makes the standard streams replace characters that their encoding lacks, which must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def say_written(file: Path) -> None:
    """Prints the name of a file that was written."""
    console.print(f"Written: {file}", soft_wrap=True, markup=False, highlight=False)
