"""The command ``fdjpeg bench``: fdjpeg compared with Pillow and every installed peer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.status import Status
from rich.table import Table

from fdjpeg import bench as benchmark
from fdjpeg._numbers import percent
from fdjpeg._whole_files import writing
from fdjpeg.bench.measure import BACKWARD, BATCHES, FORWARD, Measurement
from fdjpeg.evaluation.world import device_here

from .console import complaints, console, say_written


def bench(
    peer: Annotated[
        list[str] | None,
        typer.Option(help=f"Peer: {', '.join(benchmark.PEERS)}; one or more, all installed ones by default."),
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(help=f"Batch, images x side; one or more, {' '.join(BATCHES)} by default."),
    ] = None,
    quality: Annotated[int, typer.Option(help="JPEG quality, 1…100.")] = 75,
    subsampling: Annotated[
        str, typer.Option(help="Subsampling, 4:4:4, 4:2:2 or 4:2:0; most peers support only the last.")
    ] = "4:2:0",
    threads: Annotated[
        list[int] | None, typer.Option(help="Number of torch threads; one or more, 1 and all by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Number of calls of each peer in each cell, in turns.")] = 15,
    budget: Annotated[float, typer.Option(help="Seconds after which a peer drops out of a cell.")] = 10.0,
    memory: Annotated[bool, typer.Option(help="Peak memory, measured in a separate process for each peer.")] = True,
    device: Annotated[str, typer.Option(help="Device of the batches, such as cuda.")] = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for JSON, CSV, Markdown and plots.")] = Path("fdjpeg-bench"),
) -> None:
    """Measures time, memory and fidelity of fdjpeg and its peers on this machine, in one run."""
    device_here(device)
    with writing("out", out, "folder"):
        out.mkdir(parents=True, exist_ok=True)
    status = Status("", console=complaints)

    def progress(doing: str) -> None:
        status.update(doing)
        status.start()

    try:
        results = benchmark.run(
            peer,
            batch or BATCHES,
            device=device,
            quality=quality,
            subsampling=subsampling,
            threads=threads or ([1] if device != "cpu" else None),
            rounds=rounds,
            budget=budget,
            memory=memory,
            progress=progress,
        )
    finally:
        status.stop()
    for table in _tables(results):
        console.print(table)
    for name, why in results.missing.items():
        console.print(f"Not measured: {name}: {why}.")
    with writing("out", out, "folder"):
        files = benchmark.save(results, out)
    for file in files:
        say_written(file)


def _tables(results: benchmark.Results) -> Iterator[Table]:
    """Yields the medians in tables that fit into 80 columns: a row for each peer, a column for each batch."""
    for threads in sorted({m.threads for m in results.measurements}):
        for direction in (FORWARD, BACKWARD):
            title = f"{direction.capitalize()}, {threads} thread{'s' if threads > 1 else ''}: median in milliseconds"
            yield from _table(results, title, direction, threads, _milliseconds)
    for direction in (FORWARD, BACKWARD):
        yield from _table(results, f"{direction.capitalize()}: peak memory in MiB", direction, 1, _mebibytes)
    qualities = sorted({row["quality"] for row in results.fidelity})
    peers = dict.fromkeys(row["peer"] for row in results.fidelity)
    shares = {(row["peer"], row["quality"]): percent(row["equal"], 2) for row in results.fidelity}
    rows = [[name, *(shares[name, quality] for quality in qualities)] for name in peers]
    yield _drawn("Samples equal to Pillow's in %, by quality", [str(quality) for quality in qualities], rows)


def _table(
    results: benchmark.Results, title: str, direction: str, threads: int, shown: Callable[[Measurement], str]
) -> Iterator[Table]:
    """Yields the table of one direction and number of threads, if anything was measured."""
    rows = []
    for peer in dict.fromkeys(m.peer for m in results.measurements):
        found = [results.find(peer, batch, direction, threads) for batch in results.batches]
        cells = ["" if m is None else shown(m) for m in found]
        if any(cells):
            rows.append([peer, *cells])
    if rows:
        yield _drawn(title, results.batches, rows)


def _drawn(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table("", title=title, title_justify="left", title_style="bold", box=None, header_style="")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _milliseconds(m: Measurement) -> str:
    return f"{m.seconds * 1e3:.2f}" if m.rounds else "–"


def _mebibytes(m: Measurement) -> str:
    return "" if m.memory is None else f"{m.memory / 2**20:.1f}"
