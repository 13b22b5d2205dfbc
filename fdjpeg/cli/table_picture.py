"""Quantization tables as a picture."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fdjpeg._packages import required
from fdjpeg._whole_files import whole_file
from fdjpeg.tables import QuantTables


def by_component(tables: QuantTables) -> dict[str, Tensor]:
    """Returns each different table, int64 ``(8, 8)``, by the components that use it."""
    y, cb, cr = tables.integer().stacked()[0].long()
    if not torch.equal(cb, cr):
        return {"Y": y, "Cb": cb, "Cr": cr}
    return {"Y, Cb and Cr": y} if torch.equal(y, cb) else {"Y": y, "Cb and Cr": cb}


def draw(tables: QuantTables, file: Path) -> None:
    """Draws the tables side by side into a file, a cell for each step: the number, on a shade by its logarithm.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    figures = required("matplotlib.figure", "matplotlib", "bench")
    colours = required("matplotlib.colors", "matplotlib", "bench")
    named = by_component(tables)
    figure = figures.Figure(figsize=(3.4 * len(named), 3.6), dpi=100, layout="constrained")
    for axis, (name, table) in zip(figure.subplots(1, len(named), squeeze=False)[0], named.items(), strict=True):
        # From white for a step of 1 to dark blue for 255; numbers on it have a contrast of at least 4.5 : 1.
        axis.imshow(table.numpy(), cmap="Blues", norm=colours.LogNorm(1, 255))
        axis.set_title(name)
        axis.set_axis_off()
        for row, steps in enumerate(table.tolist()):
            for column, step in enumerate(steps):
                colour = "white" if step > 30 else "black"
                axis.text(column, row, str(step), ha="center", va="center", fontsize=8, color=colour)
    with whole_file(file) as draft:
        figure.savefig(draft)
