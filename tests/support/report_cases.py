"""Reports made of cells that are written down by hand, so that every figure is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from fdjpeg.evaluation import Cell, Report
from fdjpeg.evaluation.settings import ImageOrigin, NetworkOrigin, RunSettings
from fdjpeg.sources import ImageSet


def cell(defense: str, threat: str, predicted: list[int], eps: str | None = "1/255", **fields: object) -> Cell:
    """A cell of images of class 0."""
    chosen = {"right": [float(value == 0) for value in predicted], "margin": [0.0] * len(predicted), **fields}
    chosen.setdefault("attack", None if threat == "clean" else "PGD-20")
    indices = list(range(len(predicted)))
    return Cell(defense, threat, eps=eps, indices=indices, predicted=predicted, **chosen)  # type: ignore[arg-type]


CELLS = [
    cell("none", "clean", [0, 0, 0, 1], None),
    cell("jpeg:75", "clean", [0, 0, 0, 1], None),
    cell("none", "white-box", [1, 1, 1, 0]),  # the last is right only under attack: it does not count
    cell("none", "noise", [0, 0, 0, 1], attack="noise"),
    cell("jpeg:75", "noise", [0, 0, 0, 0], attack="noise"),
    cell("jpeg:75", "gray-box", [1, 0, 0, 1]),
    cell("jpeg:75", "adaptive", [0, 1, 0, 1], gradient="identity"),
    cell("jpeg:75", "adaptive", [0, 0, 0, 0], gradient="cubic"),
]


SETTINGS = RunSettings(
    images=ImageOrigin(4, source="here", terms="none", digest="", lattice_tried=4, on_lattice={}),
    model=NetworkOrigin("<net>", source="here", terms="none", digest=""),
    attacks={"PGD-20": {"steps": 20}},
    gradient_free=[],
    defenses={"jpeg:75": ["identity", "cubic"]},
    randomised=[],
    draws=20,
    transfer={},
    black_boxes=[],
    norm="linf",
    eps=["1/255"],
    batch_size=4,
    at_once=4,
    pictures=0,
    seed=0,
    checks=True,
    open=[],
    device="cpu",
    versions={"torch": "2"},
)


def made(*more: Cell, **settings: Any) -> Report:
    """Four images of class 0, right as in the cells above, so that the table is known."""
    images = ImageSet(torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64), ("a", "b", "c", "d"))
    return Report(replace(SETTINGS, **settings), [*CELLS, *more], images)
