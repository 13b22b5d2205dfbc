"""The command ``fdjpeg bench``: fdjpeg beside Pillow and every peer that is installed."""

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
        list[str] | None, typer.Option(help=f"Any of: {', '.join(benchmark.PEERS)}; repeatable; all by default.")
    ] = None,
    batch: Annotated[list[str] | None, typer.Option(help=f"Any of: {', '.join(BATCHES)}; repeatable.")] = None,
    quality: Annotated[int, typer.Option(help="JPEG quality, 1…100.")] = 75,
    subsampling: Annotated[str, typer.Option(help="4:4:4, 4:2:2 or 4:2:0; most peers have only the last.")] = "4:2:0",
    threads: Annotated[list[int] | None, typer.Option(help="Torch threads; repeatable; 1 and all by default.")] = None,
    rounds: Annotated[int, typer.Option(help="Calls of each peer in each cell, in turns.")] = 15,
    budget: Annotated[float, typer.Option(help="Seconds after which a peer drops out of a cell.")] = 10.0,
    memory: Annotated[bool, typer.Option(help="Measure peak memory too, each peer in a process of its own.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for JSON, CSV, Markdown and plots.")] = Path("fdjpeg-bench"),
) -> None:
    """Time, memory and fidelity of fdjpeg and its peers on this machine's CPU, side by side in one run."""
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
