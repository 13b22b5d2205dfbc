"""The large conformance fuzz: tens of thousands of images through a backend, none of whose samples may differ.

    python tests/fuzz.py                      # the compiled CPU kernels, at least 300 images a cell
    python tests/fuzz.py --backend reference --images 300 --seed 7

For each cell (subsampling, RGB or grey, dtype, upsampling) it draws images of all contents and sizes, more than half of
them over 32×32, with qualities or tables, and compares three things with the oracles: the samples of `round_trip`, the
coefficients of `encode`, and the samples of `decode` from the coefficients of the oracle's file. It prints the table of
cells, and exits with status 1 if anything differed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from support import cases, oracles
from support.backends import BACKENDS, Backend
from support.settings import FACTORS

#: Images of one size go through the ops together.
BATCH = 5


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


CELLS = [Cell(*cell) for cell in itertools.product(FACTORS, (3, 1), cases.DTYPES, ("fancy", "nearest"))]


def sizes(rng: np.random.Generator, images: int) -> list[tuple[int, int]]:
    """A size for each batch: one large, and of the others two thirds over 32×32."""
    drawn = [(int(rng.integers(200, 700)), int(rng.integers(200, 700)))]
    for i in range(1, -(-images // BATCH)):
        if i % 3 != 0:
            size = (int(rng.integers(33, 101)), int(rng.integers(33, 101)))
        elif i % 2 == 0:
            size = cases.SIZES[rng.integers(len(cases.SIZES))]
        else:
            size = (int(rng.integers(1, 101)), int(rng.integers(1, 101)))
        drawn.append(size)
    return drawn


def try_batch(backend: Backend, cell: Cell, size: tuple[int, int], rng: np.random.Generator, tally: Tally) -> None:
    """One batch of a cell, counted into its tally."""
    batch = cases.draw(rng, cell.channels, *size, images=BATCH)
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
        components += [torch.empty(BATCH, 0, 0, 8, 8, dtype=torch.int16)] * 2
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
    tally.images += BATCH
    tally.over_32 += BATCH * (min(size) > 32)
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=list(BACKENDS), default="cpu")
    parser.add_argument("--images", type=int, default=300, help="at least so many for each cell (default 300)")
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    arguments = parser.parse_args()

    backend = BACKENDS[arguments.backend]
    if backend.missing is not None:
        print(f"backend {backend.name} is {backend.missing}", file=sys.stderr)
        return 2
    seed = arguments.seed if arguments.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
    console = Console(width=130)
    console.print(f"backend {backend.name}, seed {seed}, contents {', '.join(cases.CONTENTS)}", highlight=False)

    start = time.perf_counter()
    tallies = {cell: Tally() for cell in CELLS}
    for index, cell in enumerate(track(CELLS, console=console, description="cells")):
        rng = np.random.default_rng([seed, index])
        for size in sizes(rng, arguments.images):
            try_batch(backend, cell, size, rng, tallies[cell])

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
