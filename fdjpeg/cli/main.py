"""The command ``fdjpeg``: all its commands, and how mistakes end them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

import fdjpeg
from fdjpeg._packages import MissingPackage

from .bench import bench
from .console import LEVELS, complain, console, show_anything, show_log
from .data import data
from .doctor import doctor
from .evaluate import evaluate
from .lists import Command
from .roundtrip import roundtrip
from .tables import app as tables
from .train import train

app = typer.Typer(
    help="JPEG as one differentiable PyTorch op: evaluate it as a defence, and compare its bits with Pillow's.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

for command in (evaluate, bench, train, data, roundtrip, doctor):
    app.command(cls=Command)(command)
app.add_typer(tables, name="tables")


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"fdjpeg {fdjpeg.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Version of fdjpeg.")
    ] = False,
    log: Annotated[str, typer.Option(help=f"Least level of the messages shown: {', '.join(LEVELS)}.")] = "warning",
) -> None:
    """Takes the options before a command."""
    show_log(log)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with ``arguments`` (``sys.argv`` if None); mistakes end it with one sentence and code 2.

    Errors of the system, such as a missing temporary folder, end it in the same way with the system's own words.
    """
    show_anything()
    try:
        app(None if arguments is None else list(arguments))
    except (ValueError, OSError, MissingPackage) as error:
        complain("Error:", str(error))
        raise SystemExit(2) from error
