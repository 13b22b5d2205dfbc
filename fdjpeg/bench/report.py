"""Results of a benchmark as files: JSON, CSV, a Markdown page and plots."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from fdjpeg._markdown import markdown_table
from fdjpeg._whole_files import whole_file

from .measure import BACKWARD, BATCHES, FORWARD, Measurement, Results


def save(results: Results, folder: str | os.PathLike[str]) -> list[Path]:
    """Writes ``cpu.json``, ``cpu.csv``, ``cpu.md`` and, if matplotlib is installed, three plots into ``folder``.

    Returns:
        The files.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    data, table, page = target / "cpu.json", target / "cpu.csv", target / "cpu.md"
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


def markdown(results: Results, plots: list[str] | None = None) -> str:
    """Returns the results as a page: a table for each number of threads and direction, then memory and fidelity."""
    machine = results.machine
    lines = [
        "# fdjpeg and its peers on a CPU",
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
    for batch in BATCHES:
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
            count, height, width = BATCHES[m.batch]
            samples = 3 * count * height * width
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
            cells.append(f"{psnr} / {100 * row['equal']:.2f} / {row['largest']}")
        rows.append([peer, *cells])
    title = "## Fidelity to Pillow: PSNR in dB / % of samples equal / largest difference"
    return [title, "", *markdown_table(["peer", *(f"quality {q}" for q in qualities)], rows), ""]


# ---------------------------------------------------------------------------------------------------------------------
# Plots


def _plots(results: Results, folder: Path) -> list[Path]:
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    against_size: list[tuple[str, str, Callable[[Measurement], float | None]]] = [
        ("time", "milliseconds, forward+backward where there is one", lambda m: m.seconds * 1e3 if m.rounds else None),
        ("memory", "MiB beyond the input", lambda m: None if m.memory is None else m.memory / 2**20),
    ]
    made = [_against_size(results, folder / f"cpu-{name}.svg", label, value) for name, label, value in against_size]
    made.append(_speed_against_fidelity(results, folder / "cpu-fidelity.svg"))
    return [path for path in made if path is not None]


def _widest(results: Results, peer: str, batch: str) -> Measurement | None:
    """Returns a peer's measurement on one thread, with backward if it has one."""
    return results.find(peer, batch, BACKWARD, 1) or results.find(peer, batch, FORWARD, 1)


def _against_size(
    results: Results, path: Path, label: str, value: Callable[[Measurement], float | None]
) -> Path | None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    drawn = False
    for peer in dict.fromkeys(m.peer for m in results.measurements):
        points = []
        for batch, (count, height, width) in BATCHES.items():
            m = _widest(results, peer, batch)
            measured = None if m is None else value(m)
            if measured is not None:
                points.append((count * height * width, measured))
        if points:
            drawn = True
            axes.plot(*zip(*sorted(points), strict=True), marker="o", label=peer)
    axes.set(xscale="log", yscale="log", xlabel="pixels in the batch", ylabel=f"{label} (one thread)")
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend(fontsize=8)
        figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)
    return path if drawn else None


def _speed_against_fidelity(results: Results, path: Path) -> Path | None:
    from matplotlib import pyplot

    timed = [m.batch for m in results.measurements if m.rounds and (m.direction, m.threads) == (FORWARD, 1)]
    if not timed:
        return None
    batch = "1×1024²" if "1×1024²" in timed else timed[0]
    count, height, width = BATCHES[batch]
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for row in results.fidelity:
        m = results.find(row["peer"], batch, FORWARD, 1)
        if row["quality"] == results.quality and m is not None and m.rounds:
            speed = count * height * width / m.seconds / 1e6
            axes.scatter(100 * row["equal"], speed)
            axes.annotate(row["peer"], (100 * row["equal"], speed), fontsize=8)
    axes.set(
        yscale="log",
        xlabel="% of samples equal to Pillow's",
        ylabel=f"megapixels a second, {batch}, forward, one thread",
    )
    axes.grid(alpha=0.3)
    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)
    return path
