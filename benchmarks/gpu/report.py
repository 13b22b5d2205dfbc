"""Formats the results of ``gpu.py`` as tables: text for the terminal, Markdown for a README."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Results = dict[str, Any]
Row = dict[str, Any]


def text_table(rows: Iterable[Row]) -> str:
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


def readme_table(results: Results) -> str:
    """Returns the part of ``benchmarks/results/README.md`` for one run."""
    commit = (results["commit"] or "unknown")[:10]
    lines = [
        f"{results['gpu']}, driver {results['driver']}, torch {results['torch']}, {results['date']}, commit {commit}, "
        f"kernels {results['kernels']}.",
        "",
    ]
    for part in ("build", "smoke", "uses", "tests", "sanitizer"):
        for one in results.get(part, []):
            lines.append(f"- {part}: {one['name']}: {_verdict(one)}")
    for part, names in results.get("unreached", {}).items():
        if names:
            lines.append(f"- {part}: {len(names)} not reached: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}")
    if "copy_rate" in results:
        lines += [f"- copy rate: {results['copy_rate'] / 1e12:.2f} TB/s read and written", ""]
        lines += _times([*results.get("rows", []), *results.get("peers", [])])
    lines += _limits(results.get("bandwidth", []))
    return "\n".join([*lines, ""])


def _times(rows: Iterable[Row]) -> Iterable[str]:
    yield "| what | by | shape | dtype | sampling or arithmetic | µs (20 %, 80 %) | of the copy rate | MB | launches |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        cells = [
            row["name"],
            row.get("backend", ""),
            _shape(row),
            row.get("dtype", ""),
            row.get("subsampling", row.get("arithmetic", "")),
        ]
        if "failed" in row:
            cells += [f"failed: {_in_a_cell(row['failed'])}", "", "", ""]
        else:
            cells += [
                f"{row['us']:.1f} ({row['us_20']:.1f}, {row['us_80']:.1f})",
                f"{row['of_copy']:.0%}",
                f"{row['peak'] / 1e6:.1f}",
                _launches(row),
            ]
        yield f"| {' | '.join(cells)} |"


def _limits(tasks: Iterable[Row]) -> Iterable[str]:
    """Yields the table of what limits each kernel, if any was measured."""
    kernels = [(task["name"], row) for task in tasks for row in task["rows"] if "kernel" in row]
    if not kernels:
        return
    yield ""
    yield "| task | kernel | µs, expected | bytes | issue | shared memory | tail | limited by |"
    yield "|---|---|---|---|---|---|---|---|"
    for task, row in kernels:
        if "missing" in row:
            cells = [task, f"`{row['kernel']}`", row["missing"], "", "", "", "", ""]
        else:
            shares = [f"{row[f'of_{name}']:.0%}" for name in ("bytes", "issue", "shared", "tail")]
            times = f"{row['microseconds']:.1f}, {row['expected_us']:.1f}"
            cells = [task, f"`{row['kernel']}`", times, *shares, row["limited by"]]
        yield f"| {' | '.join(cells)} |"


def _shape(row: Row) -> str:
    return "×".join(map(str, row.get("shape", ())))


def _launches(row: Row) -> str:
    return "?" if row["launches"] is None else str(row["launches"])


def _in_a_cell(text: str) -> str:
    """Returns text on one line and without "|", which would end the cell."""
    return " ".join(text.split())[:80].replace("|", "/")


def _verdict(one: Row) -> str:
    if one["passed"] is None:
        return f"left out: {_in_a_cell(one['said'])}"
    verdict = "passed" if one["passed"] else "failed"
    why = "" if one["passed"] else f": {_in_a_cell(_reason(one['said']))}"
    notes = {key: value for row in one.get("rows", []) for key, value in row.items() if key in _NOTES}
    noted = "".join(f", {key} {value}" for key, value in notes.items())
    return f"{verdict} in {one['seconds']:.0f} s{noted}{why}"


#: Entries of a use's rows that the list shows.
_NOTES = ("layer's share", "cells", "differing")


def _reason(said: str) -> str:
    """Returns the line that says most: the first if it is how a process ended, else the last."""
    lines = [line for line in said.strip().split("\n") if line.strip()] or ["no output"]
    return lines[0] if lines[0].startswith(("killed", "hangs", "ended")) else lines[-1]
