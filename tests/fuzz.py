"""The large conformance fuzz: tens of thousands of images through a backend, none of whose samples may differ.

    python tests/fuzz.py                                    # the compiled CPU kernels, 500 images a cell
    python tests/fuzz.py --images 10000 --out fuzz.jsonl    # 10⁶ images; a stopped run resumes
    python tests/fuzz.py --backend reference --seed 7

For each cell (subsampling, RGB or grey, dtype, upsampling) it draws images of all contents and sizes, more than half of
them over 32×32, with qualities or tables, and compares three things with the oracles: the samples of `round_trip`, the
coefficients of `encode`, and the samples of `decode` from the coefficients of the oracle's file. It prints the table of
cells, and exits with status 1 if anything differed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from support import cases, oracles
from support.backends import BACKENDS, Backend
from support.settings import FACTORS

#: Images of one cell that are drawn from one seed and recorded together.
PIECE = 500

#: Images of one size go through the ops together; two of each piece are large.
BATCH = 25
LARGE = 2


@dataclass(frozen=True)
class Cell:
    """One combination that must hold by itself."""

    subsampling: str
    channels: int
    dtype: torch.dtype
    upsampling: str

    def __str__(self) -> str:
        return ", ".join(self.words)

    @property
    def words(self) -> tuple[str, str, str, str]:
        colour = "grey" if self.channels == 1 else "RGB"
        return self.subsampling, colour, str(self.dtype).removeprefix("torch."), self.upsampling


@dataclass
class Tally:
    """What was seen of a cell."""

    images: int = 0
    over_32: int = 0
    samples: int = 0
    round_trip: int = 0  # differing samples
    encode: int = 0  # differing coefficients
    decode: int = 0  # differing samples
    examples: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return self.round_trip + self.encode + self.decode > 0

    def __iadd__(self, other: Tally) -> Tally:
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))
        return self


CELLS = [Cell(*cell) for cell in itertools.product(FACTORS, (3, 1), cases.DTYPES, ("fancy", "nearest"))]


def batches(rng: np.random.Generator) -> list[tuple[tuple[int, int], int]]:
    """Returns the size and the number of images of each batch of a piece: two thirds over 32×32, after a large one."""
    drawn = [((int(rng.integers(200, 700)), int(rng.integers(200, 700))), LARGE)]
    left = PIECE - LARGE
    while left:
        i, images = len(drawn), min(BATCH, left)
        if i % 3 != 0:
            size = (int(rng.integers(33, 65)), int(rng.integers(33, 65)))
        elif i % 2 == 0:
            size = cases.SIZES[rng.integers(len(cases.SIZES))]
        else:
            size = (int(rng.integers(1, 65)), int(rng.integers(1, 65)))
        drawn.append((size, images))
        left -= images
    return drawn


def try_piece(backend: Backend, cell: Cell, seed: tuple[int, int, int]) -> Tally:
    """Tries a piece of a cell."""
    rng, tally = np.random.default_rng(seed), Tally()
    for size, images in batches(rng):
        try_batch(backend, cell, size, images, rng, tally)
    return tally


def try_batch(
    backend: Backend, cell: Cell, size: tuple[int, int], images: int, rng: np.random.Generator, tally: Tally
) -> None:
    """Tries one batch of a cell, and counts it into its tally."""
    batch = cases.draw(rng, cell.channels, *size, images=images)
    image = cases.samples(rng, batch.pixels, cell.dtype)
    files = [
        oracles.encode(pixels, batch.strength(i), cell.subsampling) for i, pixels in enumerate(oracles.to_bytes(image))
    ]
    held = [oracles.coefficients(file) for file in files]
    expected = oracles.from_bytes(np.stack([oracles.decode(file, cell.upsampling) for file in files]), cell.dtype)
    components = [
        torch.from_numpy(np.stack(component)) for component in zip(*(h.components for h in held), strict=True)
    ]
    if cell.channels == 1:
        components += [torch.empty(images, 0, 0, 8, 8, dtype=torch.int16)] * 2
    tables = torch.from_numpy(np.stack([h.tables for h in held])).float()

    factors, fancy = FACTORS[cell.subsampling], cell.upsampling == "fancy"
    on_device = image.to(backend.device)
    steps, quality = batch.arguments(backend.device)
    out, _ = backend.round_trip(on_device, steps, quality, *factors, fancy)
    encoded = backend.encode(on_device, steps, quality, *factors)
    tensors = [tensor.to(backend.device) for tensor in (*components, tables)]
    decoded = backend.decode(*tensors, *size, *factors, fancy, cell.dtype)

    wrong = {
        "round_trip": (out.cpu() != expected).flatten(1).sum(1),
        "encode": sum((a.cpu() != b).flatten(1).sum(1) for a, b in zip(encoded, components, strict=True)),
        "decode": (decoded.cpu() != expected).flatten(1).sum(1),
    }
    tally.images += images
    tally.over_32 += images * (min(size) > 32)
    tally.samples += expected.numel()
    for op, differing in wrong.items():
        setattr(tally, op, getattr(tally, op) + int(differing.sum()))
        tally.examples += [f"{op}: {int(differing[i])} in {batch.describe(int(i))}" for i in differing.nonzero()]


def table_of(tallies: dict[Cell, Tally]) -> Table:
    table = Table(title="Conformance: samples and coefficients that differ from the oracles'")
    for heading in ("subsampling", "colour", "dtype", "upsampling"):
        table.add_column(heading)
    for heading in ("images", "over 32×32", "samples", "round_trip ≠", "encode ≠", "decode ≠"):
        table.add_column(heading, justify="right")
    for cell, tally in tallies.items():
        counts = (tally.images, tally.over_32, tally.samples, tally.round_trip, tally.encode, tally.decode)
        table.add_row(*cell.words, *(f"{count:,}" for count in counts), style="red" if tally.failed else None)
    return table


class Records:
    """Finished pieces in a file, by backend, seed, cell and number."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file is not None and file.exists() else []
        self.found: dict[tuple[Any, ...], Tally] = {}
        for record in map(json.loads, lines):  # a torn last line is left out
            self.found[tuple(record["piece"])] = Tally(**record["tally"])

    @property
    def seed(self) -> int | None:
        """Returns the seed of the last piece."""
        return next(reversed(self.found))[1] if self.found else None

    def add(self, piece: tuple[Any, ...], tally: Tally) -> None:
        self.found[piece] = tally
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"piece": piece, "tally": asdict(tally)}) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=list(BACKENDS), default="cpu")
    parser.add_argument("--images", type=int, default=PIECE, help=f"for each cell, a multiple of {PIECE}")
    parser.add_argument("--seed", type=int, default=None, help="default: that of the file, or a new one; printed")
    parser.add_argument("--out", type=Path, default=None, help="file of finished pieces, which are not tried again")
    arguments = parser.parse_args()

    backend = BACKENDS[arguments.backend]
    if backend.missing is not None:
        print(f"backend {backend.name} is {backend.missing}", file=sys.stderr)
        return 2
    records = Records(arguments.out)
    seed = arguments.seed if arguments.seed is not None else records.seed
    seed = seed if seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
    console = Console(width=130)
    console.print(f"backend {backend.name}, seed {seed}, contents {', '.join(cases.CONTENTS)}", highlight=False)

    start = time.perf_counter()
    tallies = {cell: Tally() for cell in CELLS}
    pieces = list(itertools.product(range(-(-arguments.images // PIECE)), enumerate(CELLS)))
    for number, (index, cell) in track(pieces, console=console, description="pieces of cells"):
        piece = (backend.name, seed, str(cell), number)
        if piece not in records.found:
            records.add(piece, try_piece(backend, cell, (seed, index, number)))
        tallies[cell] += records.found[piece]

    console.print(table_of(tallies))
    for cell, tally in tallies.items():
        for example in tally.examples[:3]:
            console.print(f"{cell}: {example}", style="red", highlight=False)
    images = sum(tally.images for tally in tallies.values())
    samples = sum(tally.samples for tally in tallies.values())
    failed = sum(tally.failed for tally in tallies.values())
    console.print(
        f"{images:,} images, {samples:,} samples, {len(CELLS)} cells, {failed} with differences, "
        f"{time.perf_counter() - start:.0f} s, seed {seed}",
        highlight=False,
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
