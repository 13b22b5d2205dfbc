"""The files of a report: JSON, CSV and Markdown; ``page`` makes the HTML page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fdjpeg._markdown import markdown_table
from fdjpeg._whole_files import whole_file, writing

from .cells import number, total, wilson
from .checks import Check
from .results import Results
from .text import Text

#: Columns of the CSV file: a cell's key, then its figures.
_COLUMNS = ("defense", "threat", "attack", "gradient", "source", "eps")
_FIGURES = ("images", "right", "share", "low", "high", "queries", "seconds")


def as_json(results: Results, checks: list[Check]) -> dict[str, Any]:
    """Returns everything but the pictures, as plain values; None in place of numbers that are not finite."""
    whole: dict[str, Any] = _finite(
        {
            "settings": results.settings.to_json(),
            "table": [asdict(row) | {"interval": wilson(row.worst, results.count)} for row in results.rows],
            "checks": [asdict(check) for check in checks],
            "images": [
                {"name": name, "label": label}
                for name, label in zip(results.images.names, results.images.labels.tolist(), strict=True)
            ],
            "cells": [
                {name: value for name, value in cell.to_json(pictures=False).items() if name != "indices"}
                | {"count": total(cell)}
                for cell in results.cells
            ],
        }
    )
    return whole


def _finite(value: Any) -> Any:
    """Returns a value that every reader of JSON takes."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_csv(results: Results) -> str:
    """Returns one line for each experiment, for spreadsheets and plots."""
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow([*_COLUMNS, *_FIGURES])
    for cell in results.cells:
        if not cell.right:
            continue
        right = total(cell, results.clean_of(cell))
        low, high = wilson(right, results.count)
        figures = [results.count, number(right), *(f"{value:.4f}" for value in (right / results.count, low, high))]
        key = ["" if value is None else value for value in cell.key]
        writer.writerow([*key, *figures, cell.queries, cell.seconds])
    return lines.getvalue()


def as_markdown(text: Text, versions: Mapping[str, str]) -> str:
    """Returns table, notes, checks, origins and versions as Markdown."""
    lines = ["# fdjpeg evaluation", "", f"**{text.finding}**", "", text.headline, ""]
    lines += [f"**{sentence}**\n" for sentence in text.warnings]
    lines += [f"- {sentence}" for sentence in text.findings]
    lines += ["", *markdown_table(*text.table)]
    if text.by_attack is not None:
        lines += ["", "Each attack by itself, worst case over gradients:", ""]
        lines += markdown_table(*text.by_attack)
    lines += ["", *(f"{note}\n" for note in text.notes)]
    lines += ["## Checks", ""]
    lines += [f"- {'passed' if c.passed else 'FAILED'}: {c.name} ({c.figure})" for c in text.checks]
    lines += ["", "## Images and network", ""]
    lines += [f"- {origin}" for origin in text.origins]
    lines += ["- " + ", ".join(f"{name} {version}" for name, version in versions.items())]
    return "\n".join(lines) + "\n"


def write(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Writes texts into the folder, which is made if needed, each to the file of its name.

    Raises:
        ValueError: if the folder cannot be written.
    """
    with writing("folder", folder, "folder"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            # Names of files may hold bytes that are not UTF-8.
            with whole_file(folder / name) as draft:
                draft.write_text(text, encoding="utf-8", errors="backslashreplace")
    return [folder / name for name in texts]
