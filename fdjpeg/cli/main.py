"""The command ``fdjpeg``: all its commands, and how mistakes end them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer
from rich.markup import escape

from fdjpeg._packages import MissingPackage

from .bench import bench
from .console import complaints, show_anything
from .data import data
from .doctor import doctor
from .evaluate import evaluate, spread
from .roundtrip import roundtrip
from .tables import app as tables
from .train import train

app = typer.Typer(
    help="JPEG as one differentiable PyTorch op: evaluate it as a defence, and compare its bits with Pillow's.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for command in (evaluate, bench, train, data, roundtrip, doctor):
    app.command()(command)
app.add_typer(tables, name="tables")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with ``arguments`` (``sys.argv`` if None); mistakes end it with one sentence and code 2.

    Errors of the system, such as a missing temporary folder, end it in the same way with the system's own words.
    """
    show_anything()
    try:
        app(spread(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, OSError, MissingPackage) as error:
        complaints.print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise SystemExit(2) from error
