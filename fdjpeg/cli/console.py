"""The consoles that the commands write to."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

#: Standard output, for results.
console = Console()

#: Standard error, for progress and complaints.
complaints = Console(stderr=True)


def say_written(file: Path) -> None:
    """Prints the name of a file that was written."""
    console.print(f"Written: {file}", soft_wrap=True, markup=False, highlight=False)
