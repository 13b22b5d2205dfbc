"""Results of a benchmark as files: JSON, CSV, a Markdown page and plots."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from fdjpeg._markdown import markdown_table
from fdjpeg._numbers import percent
from fdjpeg._whole_files import whole_file

from .measure import BACKWARD, FORWARD, Measurement, Results, size_of


def save(results: Results, folder: str | os.PathLike[str]) -> list[Path]:
    """Writes ``cpu.json``, ``cpu.csv``, ``cpu.md`` and, if matplotlib is installed, plots into ``folder``.

    On a GPU the names begin with "cuda".

    Returns:
        The files.

    Example::

        save(run(["fdjpeg uint8"], ["1x32"], rounds=3, threads=[1]), "results")
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    data, table, page = (target / f"{_stem(results)}.{ending}" for ending in ("json", "csv", "md"))
    with whole_file(data) as draft:
        draft.write_text(json.dumps(results.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with whole_file(table) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        rows = [asdict(m) for m in results.measurements]
        writer = csv.DictWriter(file, fieldnames=list(Measurement.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(rows)
    plots = _plots(results, target)
    with whole_file(page) as draft:
        draft.write_text(markdown(results, [plot.name for plot in plots]), encoding="utf-8")
    return [data, table, page, *plots]


def _stem(results: Results) -> str:
    return results.device.split(":")[0]


def markdown(results: Results, plots: list[str] | None = None) -> str:
    """Returns the results as a page: a table for each number of threads and direction, then memory and fidelity."""
    machine = results.machine
    lines = [
        f"# fdjpeg and its peers on a {'CPU' if results.device == 'cpu' else 'GPU'}",
        "",
        f"Quality {results.quality}, {results.subsampling}. Medians in milliseconds, 20th–80th percentile in brackets; "
        "all peers of a cell were called in turns in one run, so compare within a row.",
        "",
        *(f"- {name}: {value}" for name, value in machine.items()),
        *(f"- not measured: {peer}: {why}" for peer, why in results.missing.items()),
        "",
    ]
    for threads in sorted({m.threads for m in results.measurements}):
        for direction in (FORWARD, BACKWARD):
            lines += _time_table(results, direction, threads)
    lines += _memory_table(results) + _fidelity_table(results)
    lines += [f"![{name}]({name})" for name in plots or []]
    return "\n".join(lines).rstrip() + "\n"


def _peers_in(results: Results, direction: str, threads: int) -> list[str]:
    return list(dict.fromkeys(m.peer for m in results.measurements if (m.direction, m.threads) == (direction, threads)))


def _time_table(results: Results, direction: str, threads: int) -> list[str]:
    peers = _peers_in(results, direction, threads)
    rows = []
    for batch in results.batches:
        cells = [results.find(peer, batch, direction, threads) for peer in peers]
        if any(cell is not None for cell in cells):
            rows.append([batch, *(_time(cell) for cell in cells)])
    if not rows:
        return []
    title = f"## {direction.capitalize()}, {threads} thread{'s' if threads > 1 else ''}"
    return [title, "", *markdown_table(["batch", *peers], rows), ""]


def _time(m: Measurement | None) -> str:
    if m is None:
        return ""
    if m.rounds == 0:
        return m.error or ""
    return f"{m.seconds * 1e3:.2f} ({m.low * 1e3:.2f}–{m.high * 1e3:.2f})"


def _memory_table(results: Results) -> list[str]:
    rows = []
    for m in results.measurements:
        if m.memory is not None:
            samples = 3 * math.prod(size_of(m.batch))
            rows.append([m.peer, m.batch, m.direction, f"{m.memory / 2**20:.1f}", f"{m.memory / samples:.2f}"])
    if not rows:
        return []
    header = ["peer", "batch", "direction", "MiB beyond the input", "bytes a sample"]
    return ["## Peak memory, results included", "", *markdown_table(header, rows), ""]


def _fidelity_table(results: Results) -> list[str]:
    if not results.fidelity:
        return []
    qualities = sorted({row["quality"] for row in results.fidelity})
    rows = []
    for peer in dict.fromkeys(row["peer"] for row in results.fidelity):
        cells = []
        for quality in qualities:
            row = next(r for r in results.fidelity if (r["peer"], r["quality"]) == (peer, quality))
            psnr = "∞" if row["psnr"] is None else f"{row['psnr']:.1f}"
            cells.append(f"{psnr} / {percent(row['equal'], 2)} / {row['largest']}")
        rows.append([peer, *cells])
    title = "## Fidelity to Pillow: PSNR in dB / % of samples equal / largest difference"
    return [title, "", *markdown_table(["peer", *(f"quality {q}" for q in qualities)], rows), ""]


# ---------------------------------------------------------------------------------------------------------------------
# Plots


def _plots(results: Results, folder: Path) -> list[Path]:
    if importlib.util.find_spec("matplotlib") is None:
        return []
    made = []
    for direction in (FORWARD, BACKWARD):
        file = folder / f"{_stem(results)}-time-{direction.replace('+', '-')}.svg"
        made.append(
            _against_size(results, file, direction, "milliseconds", lambda m: m.seconds * 1e3 if m.rounds else None)
        )
        file = folder / f"{_stem(results)}-memory-{direction.replace('+', '-')}.svg"
        made.append(
            _against_size(
                results, file, direction, "MiB beyond input", lambda m: None if m.memory is None else m.memory / 2**20
            )
        )
    made.append(_speed_against_fidelity(results, folder / f"{_stem(results)}-fidelity.svg"))
    return [path for path in made if path is not None]


def _against_size(
    results: Results, path: Path, direction: str, label: str, value: Callable[[Measurement], float | None]
) -> Path | None:
    """Draws one direction on one thread; only peers that have it are compared."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for peer in dict.fromkeys(m.peer for m in results.measurements):
        found = [results.find(peer, batch, direction, 1) for batch in results.batches]
        points = [(math.prod(size_of(m.batch)), size) for m in found if m and (size := value(m)) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=peer)
    if not axes.lines:
        return None
    axes.set(xscale="log", yscale="log", xlabel="pixels in the batch", ylabel=label, title=f"{direction}, one thread")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    with whole_file(path) as draft:
        figure.savefig(draft)
    return path


def _speed_against_fidelity(results: Results, path: Path) -> Path | None:
    """Draws each peer's speed over the share of samples that equal Pillow's; names are in the legend."""
    from matplotlib.figure import Figure

    timed = [m.batch for m in results.measurements if m.rounds and (m.direction, m.threads) == (FORWARD, 1)]
    if not timed:
        return None
    batch = "1x1024" if "1x1024" in timed else timed[0]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in results.fidelity if row["quality"] == results.quality]
    for row, marker in zip(rows, itertools.cycle("os^vD*Ph")):
        m = results.find(row["peer"], batch, FORWARD, 1)
        if m is not None and m.rounds:
            speed = math.prod(size_of(batch)) / m.seconds / 1e6
            axes.scatter(100 * row["equal"], speed, label=row["peer"], marker=marker, alpha=0.8)
    axes.set(yscale="log", xlim=(-3, 103), xlabel="% of samples equal to Pillow's", ylabel="megapixels a second")
    axes.set_title(f"{batch}, forward, one thread, quality {results.quality}")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    with whole_file(path) as draft:
        figure.savefig(draft)
    return path
