"""Common parts of the papers' experiments: kept figures, images, accuracies, tables and plots.

An experiment is a set of cells. Each is computed once, written to the experiment's JSON as soon as it is done, and
carries its date, commit and machine. A run that was stopped computes only the cells that are missing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdjpeg._markdown import markdown_table
from fdjpeg.bench.measure import describe_machine
from fdjpeg.defenses.training.images import Images, StoredImages
from fdjpeg.evaluation.cells import wilson
from fdjpeg.sources import ImageSet, load_images

RESULTS = Path(__file__).parents[1] / "results" / "papers"

#: Images that go through a network at once.
AT_ONCE = 250


@dataclass
class Experiment:
    """An experiment's kept cells.

    Attributes:
        name: of its files.
        title: of its plot, with the paper.
        out: folder of its files.
        only: text that the names of cells must hold to be computed.
        scale: written into each cell, such as the number of training images.
    """

    name: str
    title: str
    out: Path = RESULTS
    only: str = ""
    scale: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, title: str, given: argparse.Namespace) -> Experiment:
        """Returns an experiment with the options of a command, which computes on one core."""
        torch.set_num_threads(1)
        return cls(name, title, given.out, given.only, scale={"training_images": given.train})

    def __post_init__(self) -> None:
        self.cells: dict[str, Any] = json.loads(self.file.read_text())["cells"] if self.file.exists() else {}

    @property
    def file(self) -> Path:
        """The JSON."""
        return self.out / f"{self.name}.json"

    def cell(self, name: str, compute: Callable[[], dict[str, Any]]) -> None:
        """Computes a cell and keeps it, unless it is there already."""
        if name in self.cells or self.only not in name:
            return
        start = time.process_time()
        found = compute()
        machine = describe_machine()
        kept = {key: machine[key] for key in ("date", "processor", "cores", "torch", "commit")}
        self.cells[name] = found | self.scale | {"cpu_seconds": round(time.process_time() - start, 1)} | kept
        self.out.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(".part")
        draft.write_text(json.dumps({"title": self.title, "cells": self.cells}, indent=1, ensure_ascii=False) + "\n")
        draft.replace(self.file)
        print(f"{name}: {self.cells[name]['cpu_seconds']} s", flush=True)

    def get(self, name: str, key: str) -> Any:
        """Returns a value of a cell, or None where the cell is missing."""
        return self.cells.get(name, {}).get(key)

    def caption(self) -> str:
        """Returns machine, dates and commits of the cells."""
        if not self.cells:
            return "not run yet"
        cells = self.cells.values()
        days = sorted({cell["date"][:10] for cell in cells})
        commits = sorted({cell["commit"] for cell in cells})
        processors = sorted({f"1 core of an {cell['processor']}, torch {cell['torch']}" for cell in cells})
        hours = sum(cell["cpu_seconds"] for cell in cells) / 3600
        scales = sorted({cell["training_images"] for cell in cells if "training_images" in cell})
        trained = f"{' or '.join(map(str, scales))} training images, " if scales else ""
        return (
            f"{trained}{'; '.join(processors)}, {', '.join(days)}, commit {', '.join(commits)}, {hours:.2f} core-hours"
        )

    def write(self, tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]]) -> None:
        """Writes the tables, each with a heading, columns and rows, under one caption."""
        text = f"# {self.title}\n\n{self.caption()}\n"
        for heading, columns, rows in tables:
            text += "\n".join(["", f"## {heading}", "", *markdown_table(columns, rows), ""])
        self.out.mkdir(parents=True, exist_ok=True)
        self.file.with_suffix(".md").write_text(text)
        print(text)

    def plot(self, draw: Callable[[Any], None], panels: int = 1) -> None:
        """Writes a plot; ``draw`` gets matplotlib's axes."""
        import matplotlib

        matplotlib.use("Agg")
        matplotlib.rcParams["svg.hashsalt"] = "fdjpeg"
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(1, panels, figsize=(5 * panels, 4), squeeze=False)
        draw(axes[0] if panels > 1 else axes[0][0])
        figure.suptitle(self.title, fontsize=9)
        figure.text(0.01, 0.01, self.caption(), fontsize=4)
        figure.tight_layout(rect=(0, 0.03, 1, 1))
        figure.savefig(self.file.with_suffix(".svg"), metadata={"Date": None})
        pyplot.close(figure)


def legend_above(axes: Any) -> None:
    """Puts the legend above the bars, which fill the plot."""
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=3, fontsize=6)


def options(description: str | None, work: bool = True, images: int | None = None) -> argparse.ArgumentParser:
    """Returns the options that all experiments have; ``images`` is the default number to attack, for each seed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if work:
        parser.add_argument("work", type=Path, help="Folder of trained networks.")
        parser.add_argument("--train", type=int, default=20_000, help="Number of training images.")
    if images is not None:
        parser.add_argument("--seeds", type=int, default=1, help="Number of seeds, up to 3.")
        parser.add_argument("--images", type=int, default=images, help="Images to attack.")
    parser.add_argument("--out", type=Path, default=RESULTS, help="Folder of the figures.")
    parser.add_argument("--only", default="", help="Text that the names of cells must hold.")
    parser.add_argument("--report", action="store_true", help="Only write table and plot of the finished cells.")
    return parser


def clean_cell(run: Experiment, name: str, model: nn.Module, test: ImageSet) -> None:
    """Computes the cell of what a model gets right without an attack."""
    run.cell(name, lambda: {"right": share(right(model, test.images, test.labels))})


def fashion(split: str, count: int) -> ImageSet:
    """Returns the first images of a split of Fashion-MNIST, from where Debian's package puts it."""
    return load_images(f"fashion-mnist:{split}", count=count)


def to_train_on(count: int = 20_000) -> Images:
    """Returns the first training images of Fashion-MNIST."""
    return StoredImages.of(fashion("train", count))


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Returns the logits of any number of images."""
    with torch.no_grad():
        return torch.cat([model(part) for part in images.split(AT_ONCE)])


def right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Returns which images a model gets right, ``(N,)`` bool."""
    return logits(model, images).argmax(dim=1) == labels


def share(flags: Tensor) -> dict[str, Any]:
    """Returns a share in percent with its count and its interval (Wilson, 95 %)."""
    count, yes = len(flags), int(flags.sum())
    low, high = wilson(yes, count) if count else (0.0, 1.0)
    return {
        "yes": yes,
        "count": count,
        "percent": 100 * yes / max(count, 1),
        "low": 100 * low,
        "high": 100 * high,
    }


def percent(found: dict[str, Any] | None) -> str:
    """Writes a share with its interval, or "not run yet"."""
    if not found:
        return "not run yet"
    return f"{found['percent']:.1f} % ({found['low']:.1f}–{found['high']:.1f})"


def number(value: float | None, digits: int = 3) -> str:
    """Writes a number, or "not run yet"."""
    return "not run yet" if value is None else f"{value:.{digits}g}"
