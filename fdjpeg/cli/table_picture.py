"""Quantization tables as a picture."""

from __future__ import annotations

import math

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fdjpeg._geometry import BLOCK
from fdjpeg.tables import QuantTables


def by_component(tables: QuantTables) -> dict[str, Tensor]:
    """Returns each different table, int64 ``(8, 8)``, by the components that use it."""
    y, cb, cr = tables.integer().stacked()[0].long()
    if not torch.equal(cb, cr):
        return {"Y": y, "Cb": cb, "Cr": cr}
    return {"Y, Cb and Cr": y} if torch.equal(y, cb) else {"Y": y, "Cb and Cr": cb}


def draw(tables: QuantTables) -> Image.Image:
    """Draws the tables side by side, a cell for each step: the number, on a shade by its logarithm."""
    cell, margin = 28, 20
    named = by_component(tables)
    side = BLOCK * cell
    picture = Image.new("RGB", (len(named) * (side + margin) + margin, side + 2 * margin), "white")
    pen = ImageDraw.Draw(picture)
    for number, (name, table) in enumerate(named.items()):
        left, top = margin + number * (side + margin), margin
        _write(pen, left + side / 2, margin / 2, name, "black")
        for row, steps in enumerate(table.tolist()):
            for column, step in enumerate(steps):
                shade = round(255 * (1 - math.log(step) / math.log(255)))
                x, y = left + column * cell, top + row * cell
                pen.rectangle((x, y, x + cell - 2, y + cell - 2), (shade, shade, 255))
                _write(pen, x + cell / 2 - 1, y + cell / 2 - 1, str(step), "black" if shade > 130 else "white")
    return picture


def _write(pen: ImageDraw.ImageDraw, x: float, y: float, text: str, colour: str) -> None:
    """Writes text centred at (x, y)."""
    left, top, right, bottom = pen.textbbox((0, 0), text)
    pen.text((x - (left + right) / 2, y - (top + bottom) / 2), text, colour)
