"""Shared memory, tried exhaustively: who accesses which place between two barriers of the text of ``csrc/``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from support.index_proofs import Factors
from support.index_text import UPSAMPLING, Text, Whole, evaluated, group, known, run

LANES = [Whole(lane) for lane in range(32)]


class Fault(Exception):
    """An access out of range or of what nobody wrote, or two threads at one place with no barrier between."""


class Memory:
    """The places of an array, and who read and wrote each since the last barrier."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._everything: set[int] = set()
        self._writers: dict[int, int] = {}
        self._readers: dict[int, set[int]] = {}

    def write(self, thread: int, places: Iterable[int]) -> None:
        """A thread writes places."""
        for at in places:
            self._check(thread, at, self._readers.get(at, set()) | {self._writers.get(at, thread)})
            self._writers[at] = thread
            self._everything.add(at)

    def read(self, thread: int, places: Iterable[int]) -> None:
        """A thread reads places."""
        for at in places:
            self._check(thread, at, {self._writers.get(at, thread)})
            if at not in self._everything:
                raise Fault(f"thread {thread} reads place {at}, which nobody wrote")
            self._readers.setdefault(at, set()).add(thread)

    def barrier(self, there: bool = True) -> None:
        """The threads meet, if the barrier is in the text."""
        if there:
            self._writers, self._readers = {}, {}

    def written(self) -> set[int]:
        """Returns all places that were ever written."""
        return self._everything

    def _check(self, thread: int, at: int, others: set[int]) -> None:
        if not 0 <= at < self._places:
            raise Fault(f"thread {thread} is at place {at} of {self._places}")
        if others - {thread}:
            raise Fault(f"threads {thread} and {others - {thread}} are both at place {at}")


def row_at(start: int) -> list[int]:
    """Returns the places of a row of eight numbers (``read_tile<1>``)."""
    return [start + i for i in range(8)]


def column_at(start: int, names: dict[str, Any]) -> list[int]:
    """Returns the places of a column (``read_tile<kTileRow>``)."""
    return [start + i * names["kTileRow"] for i in range(8)]


class FineChroma:
    """The tile of gradients of upsampled chroma: ``FineChroma<U, Real, wide, tall, patch, row>``.

    Args:
        text: the text.
        factors: the layout.
        wide: the tile's width in pixels.
        tall: its height.
        patch: a thread's patch's width.
        patch_tall: its height.
        row: the length of a row of the tile.
    """

    def __init__(
        self, text: Text, factors: Factors, wide: int, tall: int, patch: int, patch_tall: int, row: int
    ) -> None:
        names: dict[str, Any] = {"wide": wide, "tall": tall, "patch": patch, "row": row}
        names["U"] = group(kHorizontal=Whole(factors.horizontal), kVertical=Whole(factors.vertical))
        for name in ("Column", "RowOfRing", "Ring"):
            found = text.found(UPSAMPLING, rf"[ ,]k{name} = ([^,;]*?(?:patch|\+ 2|tall))[,;]")
            names[f"k{name}"] = Whole(evaluated(found, names))
        self._factors, self._names, self._patch_tall = factors, names, patch_tall
        self.ring = names["kRing"]
        self.memory = Memory(text.value(UPSAMPLING, r"ChromaGradient<Real> sample\[(\(tall .*?)\];", names))
        self._place = text.found(UPSAMPLING, r"int place\(int y, int across, int x\) \{ (.*?) \}")
        self._store = text.found(UPSAMPLING, r"sample\[place\((.*?)\)\] = pixel")
        self._of_ring = text.found(UPSAMPLING, r"(const bool level = .*?) const int x = tile_x")
        self._at_ring = text.found(UPSAMPLING, r"sample\[place\((ring_y, .*?)\)\] = ring;")
        self._ring_y = text.found(UPSAMPLING, r"const int ring_y = (local_y .*?);")
        self._read = text.found(UPSAMPLING, r"const ChromaGradient<Real> g = sample\[place\((.*?)\)\];")

    def _at(self, arguments: str, names: dict[str, Any]) -> int:
        y, across, x = evaluated(arguments, names)
        return int(run(self._place, self._names | {"y": y, "across": across, "x": x}))

    def store(self, thread: int, local_y: int, local_x: int) -> None:
        """A thread writes its patch."""
        names = self._names | {"local_y": local_y, "local_x": local_x}
        for y, x in itertools.product(map(Whole, range(self._patch_tall)), map(Whole, range(self._names["patch"]))):
            self.memory.write(thread, [self._at(self._store, names | {"y": y, "x": x})])

    def make_ring(self, thread: int, i: int) -> None:
        """A thread writes pixel i of the ring."""
        names = known(self._of_ring, self._names | {"i": i})
        self.memory.write(thread, [self._at(self._at_ring, names)])

    def gather(self, thread: int, local_y: int, local_x: int) -> None:
        """A thread reads the gradients that its samples of chroma reach."""
        down, across = (int(factor == 2) for factor in (self._factors.vertical, self._factors.horizontal))
        names = self._names | {"local_y": local_y, "local_x": local_x}
        names |= {"Down": group(kBefore=Whole(down)), "Across": group(kBefore=Whole(across))}
        rows, pixels = range(self._patch_tall // self._factors.vertical), range(4 if down else 1)
        for i, y, x in itertools.product(rows, pixels, range(self._names["patch"] + 2 * across)):
            inside = names | {"i": Whole(i), "y": Whole(y), "x": Whole(x)}
            inside["ring_y"] = evaluated(self._ring_y, inside)
            self.memory.read(thread, [self._at(self._read, inside)])
