"""The command ``fdjpeg bench``: fdjpeg compared with Pillow and every installed peer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from fdjpeg import bench as benchmark
from fdjpeg.bench.measure import BATCHES
from fdjpeg.bench.report import markdown

from .console import console


def bench(
    peer: Annotated[
        list[str] | None,
        typer.Option(help=f"Peer: {', '.join(benchmark.PEERS)}; repeatable; all installed ones by default."),
    ] = None,
    batch: Annotated[
        list[str] | None, typer.Option(help=f"Batch: {', '.join(BATCHES)}; repeatable; all by default.")
    ] = None,
    quality: Annotated[int, typer.Option(help="JPEG quality, 1…100.")] = 75,
    subsampling: Annotated[
        str, typer.Option(help="Subsampling, 4:4:4, 4:2:2 or 4:2:0; most peers support only the last.")
    ] = "4:2:0",
    threads: Annotated[
        list[int] | None, typer.Option(help="Number of torch threads; repeatable; 1 and all by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Number of calls of each peer in each cell, in turns.")] = 15,
    budget: Annotated[float, typer.Option(help="Seconds after which a peer drops out of a cell.")] = 10.0,
    memory: Annotated[bool, typer.Option(help="Peak memory, measured in a separate process for each peer.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for JSON, CSV, Markdown and plots.")] = Path("fdjpeg-bench"),
) -> None:
    """Measures time, memory and fidelity of fdjpeg and its peers on this machine's CPU, in one run."""
    out.mkdir(parents=True, exist_ok=True)
    with console.status("starting") as status:
        results = benchmark.run(
            peer,
            batch or list(BATCHES),
            quality=quality,
            subsampling=subsampling,
            threads=threads,
            rounds=rounds,
            budget=budget,
            memory=memory,
            progress=status.update,
        )
    files = benchmark.save(results, out)
    console.print(Markdown(markdown(results)))
    console.print("saved: " + ", ".join(str(file) for file in files))
