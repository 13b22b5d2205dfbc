"""Formats the results of ``gpu.py`` as tables: text for the terminal, Markdown for a README."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def text_table(rows: Iterable[dict[str, Any]]) -> str:
    """Returns a line of text for each row."""
    lines = []
    for row in rows:
        what = f"{row.get('backend', ''):12s} {row['name']:36s} {row.get('dtype', ''):9s}"
        where = f"{_shape(row):18s} {row.get('subsampling', row.get('arithmetic', '')):7s}"
        if "failed" in row:
            lines.append(f"{what} {where} failed: {row['failed'][:60]}")
        else:
            cost = f"{row['us']:10.1f} µs {row['of_copy']:6.1%} of copy, {row['peak'] / 1e6:8.1f} MB"
            lines.append(f"{what} {where} {cost}, {_launches(row)} launches")
    return "\n".join(lines)


def readme_table(results: dict[str, Any]) -> str:
    """Returns the part of ``benchmarks/results/README.md`` for one run."""
    commit = (results["commit"] or "unknown")[:10]
    lines = [
        f"{results['gpu']}, driver {results['driver']}, torch {results['torch']}, {results['date']}, commit {commit}, "
        f"kernels {results['kernels']}.",
        "",
    ]
    for part in ("build", "tests", "sanitizer"):
        for command in results.get(part, []):
            lines.append(f"- {part}: {command['name']}: {_verdict(command)}")
    if "copy_rate" not in results:
        return "\n".join([*lines, ""])
    lines += [
        f"- copy rate: {results['copy_rate'] / 1e12:.2f} TB/s read and written",
        "",
        "| what | by | shape | dtype | sampling or arithmetic | µs (20 %, 80 %) | of the copy rate | MB | launches |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results.get("rows", []):
        cells = [
            row["name"],
            row.get("backend", ""),
            _shape(row),
            row.get("dtype", ""),
            row.get("subsampling", row.get("arithmetic", "")),
        ]
        if "failed" in row:
            # On one line and without "|", which would end the cell.
            cells += [f"failed: {' '.join(row['failed'].split())[:80]}".replace("|", "/"), "", "", ""]
        else:
            cells += [
                f"{row['us']:.1f} ({row['us_20']:.1f}, {row['us_80']:.1f})",
                f"{row['of_copy']:.0%}",
                f"{row['peak'] / 1e6:.1f}",
                _launches(row),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _shape(row: dict[str, Any]) -> str:
    return "×".join(map(str, row.get("shape", ())))


def _launches(row: dict[str, Any]) -> str:
    return "?" if row["launches"] is None else str(row["launches"])


def _verdict(command: dict[str, Any]) -> str:
    if command["passed"] is None:
        return f"left out: {command['said']}"
    return f"{'passed' if command['passed'] else 'failed'} in {command['seconds']:.0f} s"
