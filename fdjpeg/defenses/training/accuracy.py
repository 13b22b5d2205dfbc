"""Accuracy of a network before and after training, on JPEG files that Pillow writes and reads."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from fdjpeg._geometry import PILLOW_SUBSAMPLINGS
from fdjpeg._markdown import markdown_table
from fdjpeg._numbers import percent
from fdjpeg._packages import MissingPackage, required
from fdjpeg.attacks import correct
from fdjpeg.sources.image_set import pillow_codec, to_bytes, to_pillow, to_tensor

from ..checkpoint import whole_file
from .images import Images, load_training_images
from .run import Run

#: Images that are judged at once.
_BATCH = 64

#: The standard normal quantile of a two-sided interval of 95 %.
_Z = 1.96


@dataclass(frozen=True)
class Row:
    """Accuracy on the images at one quality.

    Attributes:
        quality: of the files; None for the images as they are.
        subsampling: of the files.
        images: number of images.
        before, after: images that each network gets right.
        gained, lost: images that only the network after, and only the one before, gets right.
    """

    quality: int | None
    subsampling: str
    images: int
    before: int
    after: int
    gained: int
    lost: int

    @property
    def name(self) -> str:
        """The row's name in tables."""
        return "clean" if self.quality is None else f"{self.quality} ({self.subsampling})"

    def difference(self) -> tuple[float, float, float]:
        """Returns the paired difference of the accuracies in points, and its interval of 95 % (Wald's).

        Source: Agresti, "Categorical Data Analysis", 3rd edition, 2013, 11.1.1.
        """
        n, change = self.images, self.gained - self.lost
        error = math.sqrt(self.gained + self.lost - change**2 / n) / n
        return 100 * change / n, 100 * (change / n - _Z * error), 100 * (change / n + _Z * error)


def check(qualities: Sequence[int], subsampling: str) -> None:
    """Refuses qualities and subsamplings that Pillow does not write."""
    if not qualities or not all(1 <= quality <= 100 for quality in qualities):
        raise ValueError(f"qualities must be one or more integers in 1…100, got {qualities!r}")
    if subsampling not in PILLOW_SUBSAMPLINGS:
        raise ValueError(f"subsampling must be one of {', '.join(PILLOW_SUBSAMPLINGS)}, got {subsampling!r}")


def images(name: str, like: Images) -> Images:
    """Returns the images of this name, of the shape of others.

    Raises:
        ValueError: there are none, or they have another shape.
    """
    found = load_training_images(name, like.shape[1])
    if found.shape != like.shape:
        raise ValueError(f"test must hold images of shape {like.shape}, got {found.shape}")
    return found


def by_pillow(pixels: Tensor, quality: int | None, subsampling: str) -> Tensor:
    """Returns floats in [0, 1] through files of Pillow, or bytes as floats where ``quality`` is None."""
    stored = to_bytes(pixels).cpu()
    if quality is not None:
        files = [pillow_codec(to_pillow(image), quality, subsampling)[0] for image in stored]
        stored = torch.stack([to_tensor(file) for file in files])
    return stored.to(pixels.device, torch.float32) / 255


def measure(
    run: Run, images: Images, before: nn.Module, after: nn.Module, qualities: Sequence[int], subsampling: str
) -> list[Row]:
    """Counts what two networks get right, clean and at each quality; all processes share the images.

    Args:
        run: the run.
        images: to judge.
        before, after: map images in [0, 1] to logits.
        qualities, subsampling: of the files.

    Returns:
        The clean images first, then one row for each quality.
    """
    strengths = [None, *qualities]
    counts = torch.zeros(len(strengths), 4, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        for _, pixels, labels in run.mine(images, _BATCH):
            for row, quality in zip(counts, strengths, strict=True):
                seen = by_pillow(pixels, quality, subsampling)
                old, new = (correct(network(seen).float(), labels) for network in (before, after))
                row += torch.stack([old.sum(), new.sum(), (new & ~old).sum(), (old & ~new).sum()]).cpu()
    totals = run.total(counts).long().tolist()
    return [Row(quality, subsampling, len(images), *row) for quality, row in zip(strengths, totals, strict=True)]


def write(out: Path, rows: Sequence[Row], images: Images, *, quiet: bool) -> None:
    """Writes accuracy.json, accuracy.md and, where matplotlib is installed, accuracy.svg; prints the table."""
    content = [
        {**asdict(row), "points": dict(zip(("difference", "low", "high"), row.difference(), strict=True))}
        for row in rows
    ]
    report = {"images": {"source": images.source, "digest": images.digest}, "rows": content}
    with whole_file(out / "accuracy.json") as draft:
        draft.write_text(json.dumps(report, indent=1) + "\n")
    header = ("quality", "before", "after", "difference in points, 95 %")
    cells = [_cells(row) for row in rows]
    (out / "accuracy.md").write_text("\n".join(markdown_table(header, cells)) + "\n", encoding="utf-8")
    console = Console(stderr=True, quiet=quiet)
    table = Table(*header, title=f"Accuracy on {rows[0].images} images")
    for line in cells:
        table.add_row(*line)
    console.print(table)
    try:
        _plot(out / "accuracy.svg", rows)
    except MissingPackage as error:
        console.print(f"No plot: {error}", markup=False, highlight=False)


def _cells(row: Row) -> list[str]:
    difference, low, high = row.difference()
    shares = (f"{percent(right / row.images, 1)} %" for right in (row.before, row.after))
    return [row.name, *shares, f"{difference:+.1f} ({low:+.1f} … {high:+.1f})"]


def _plot(file: Path, rows: Sequence[Row]) -> None:
    """Draws accuracy against quality, the clean images as two horizontal lines."""
    pyplot: Any = required("matplotlib.figure", "matplotlib", "bench")
    figure = pyplot.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    files = sorted((row for row in rows if row.quality is not None), key=lambda row: row.quality or 0)
    for name, colour in (("before", "C1"), ("after", "C0")):
        shares = [100 * getattr(row, name) / row.images for row in files]
        axes.plot([row.quality for row in files], shares, "o-", color=colour, label=name)
        axes.axhline(100 * getattr(rows[0], name) / rows[0].images, color=colour, linestyle=":", label=f"{name}, clean")
    axes.set(xlabel=f"JPEG quality of Pillow's files ({rows[0].subsampling})", ylabel="accuracy in %", ylim=(0, 100))
    axes.legend()
    figure.savefig(file, format="svg")
