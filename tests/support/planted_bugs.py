"""Bugs in the GPU's kernels, each of which the emulation's cases must notice: see ``test_emulation.py``.

They are in ``bugs/*.txt``, a file for the cases that find them and a paragraph for each: its name, the lines that it
removes from the kernels' sources, where they occur once, after a minus, and the lines that it puts there, after a plus.
The first and the last line may be parts of a line. A name may end with the subsampling whose cases find the bug.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).resolve().parents[1] / "kernels" / "bugs"


class Mutant(NamedTuple):
    """A bug: `old`, which occurs once in the kernels' sources, becomes `new`."""

    name: str
    old: str
    new: str
    subsampling: str


def _mutant(paragraph: str) -> Mutant:
    title, *lines = paragraph.splitlines()
    name, subsampling = re.fullmatch(r"(.*?)(?: \((\d:\d:\d)\))?", title).groups()
    old, new = ("\n".join(line[1:] for line in lines if line[0] == sign) for sign in "-+")
    return Mutant(name, old, new, subsampling or "4:2:0")


def found_by(cases: str) -> list[Mutant]:
    """Returns the bugs that the cases of "forward", "backward" or "real" ops, or of "blocks", must notice."""
    return [_mutant(paragraph) for paragraph in (_FOLDER / f"{cases}.txt").read_text().strip().split("\n\n")]
