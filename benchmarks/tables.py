"""Compares tables learned for PSNR with the standard ones on the photographs of docs/tables.md, at equal bits.

    mkdir packages && cd packages
    apt-get download lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds palapeli-data
    apt-get download plasma-workspace-wallpapers
    for file in *.deb; do dpkg -x $file .; done
    cd .. && python benchmarks/tables.py packages OUT

The photographs of these Debian packages are JPEG files. They are made four times smaller, which removes their blocks,
and cut into squares. Each third of the photographs is measured with tables learned on the other two thirds, so no
square's tables have seen its photograph. Finished work is kept in OUT/state.pt, from which a stopped run resumes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg._machine import describe_machine
from fdjpeg.learning.metrics import psnr
from fdjpeg.learning.rate_distortion import Measured, Ratio, bits_ratio, measure
from fdjpeg.learning.tables import learn_tables
from fdjpeg.sources.image_set import to_tensor

#: The wallpapers of each package that are photographs in colour.
PHOTOGRAPHS = {
    "usr/share/backgrounds/{}.jpg": (
        "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Kleiber_by_Lukas_Baubkus Picture_0B_by_freespace "
        "Picture_1A_by_freespace Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich "
        "friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi "
        "picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi"
    ),
    "usr/share/backgrounds/mate/nature/{}.jpg": (
        "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower"
    ),
    "usr/share/wallpapers/{}/contents/images/2560x1600.jpg": (
        "BytheWater ColorfulCups DarkestHour EveningGlow FallenLeaf Kite OneStandsOut Path summer_1am"
    ),
    "usr/share/palapeli/collection/{}.jpg": (
        "cincinnati-bridge citrus-fruits european-honey-bee panther-chameleon-female"
    ),
}
REDUCTION, SIDE = 4, 192

QUALITIES = (25, 50, 75)

#: The qualities of the standard tables between which their curve is interpolated.
CURVE = (10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 85, 90)

THIRDS = 3
STEPS, BATCH, SEED = 60, 16, 0


def squares(packages: Path) -> tuple[Tensor, Tensor]:
    """Returns adjacent squares of each photograph's middle, uint8 ``(N, 3, SIDE, SIDE)``, and its number for each."""
    cut, sources = [], []
    for pattern, names in PHOTOGRAPHS.items():
        for name in names.split():
            with Image.open(packages / pattern.format(name)) as image:
                size = image.width // REDUCTION, image.height // REDUCTION
                small = to_tensor(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
            rows, columns = (side // SIDE for side in small.shape[-2:])
            top, left = (
                (side - count * SIDE) // 2 for side, count in zip(small.shape[-2:], (rows, columns), strict=True)
            )
            middle = small[:, top : top + rows * SIDE, left : left + columns * SIDE]
            cut.append(middle.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE).permute(1, 2, 0, 3, 4).flatten(0, 1))
            sources += [len(cut) - 1] * len(cut[-1])
    return torch.cat(cut), torch.tensor(sources)


def thirds(sources: Tensor) -> Tensor:
    """Returns 0, 1 or 2 for each square. Photographs go in random order to the third with the fewest squares so far."""
    counts = sources.bincount()
    sizes = torch.zeros(THIRDS, dtype=torch.int64)
    third = torch.zeros_like(counts)
    for photograph in torch.randperm(len(counts), generator=torch.Generator().manual_seed(SEED)).tolist():
        third[photograph] = sizes.argmin()
        sizes[third[photograph]] += counts[photograph]
    return third[sources]


def luma_weighted_psnr(images: Tensor, tables: QuantTables) -> Tensor:
    """Returns the PSNR of Y, Cb and Cr, weighted 6 : 1 : 1, in which colour counts less than in that of R, G and B."""
    planes = (fdjpeg.rgb_to_ycbcr(batch.double() / 255) for batch in (fdjpeg.jpeg(images, tables=tables), images))
    weights = torch.tensor([6.0, 1.0, 1.0], dtype=torch.float64)[:, None, None] / 8
    decoded, original = (ycbcr * (3 * weights).sqrt() for ycbcr in planes)
    return psnr(decoded, original)


class State:
    """Finished work, by name, in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with torch.serialization.safe_globals([Measured]):
            self.finished: dict[str, Any] = torch.load(file, weights_only=True) if file.exists() else {}

    def __call__(self, name: str, compute: Callable[..., Any], *arguments: Any) -> Any:
        """Returns the result kept under ``name``, or computes and keeps it."""
        if name not in self.finished:
            print(name, flush=True)
            self.finished[name] = compute(*arguments)
            torch.save(self.finished, self.file)
        return self.finished[name]


def joined(parts: list[tuple[Measured, Tensor]], of: str) -> Tensor:
    """Returns a column of the measurements, all thirds together."""
    return torch.cat([weighted if of == "luma_weighted" else getattr(measured, of) for measured, weighted in parts])


def main() -> None:
    """Learns, measures, prints, and writes OUT/results.json."""
    packages, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    state = State(out / "state.pt")
    images, sources = squares(packages)
    third = thirds(sources)
    sources = torch.cat([sources[third == t] for t in range(THIRDS)])
    print(f"{len(images)} squares of {len(sources.unique())} photographs, by thirds {third.bincount().tolist()}")

    def learned(quality: int, t: int) -> list[list[int]]:
        others = images[third != t]
        budget = fdjpeg.bits(fdjpeg.encode(others, quality))
        return learn_tables(others, budget, "psnr", iterations=STEPS, batch_size=BATCH, seed=SEED).to_pillow()

    def measured(tables: QuantTables, t: int) -> tuple[Measured, Tensor]:
        chosen = images[third == t]
        return measure(chosen, tables), luma_weighted_psnr(chosen, tables)

    points = {}
    for q in QUALITIES:
        tables = [QuantTables.from_pillow(state(f"tables near {q}, third {t}", learned, q, t)) for t in range(THIRDS)]
        points[q] = [state(f"near {q}, third {t}", measured, tables[t], t) for t in range(THIRDS)]
    standard = [(q, QuantTables.standard(q)) for q in CURVE]
    curve = [[state(f"standard {q}, third {t}", measured, tables, t) for t in range(THIRDS)] for q, tables in standard]

    def ratio(quality: int, counted: str, kept: str) -> Ratio:
        columns = [torch.stack([joined(parts, of) for parts in curve]) for of in (counted, kept)]
        own = (joined(points[quality], of) for of in (counted, kept))
        return bits_ratio(*own, *columns, sources=sources, seed=SEED)

    def means(parts: list[tuple[Measured, Tensor]]) -> dict[str, float]:
        columns = ("bits", "file_bits", "psnr", "ms_ssim", "luma_weighted")
        return {of: round(float(joined(parts, of).double().mean()), 4) for of in columns}

    results: dict[str, Any] = {
        "machine": describe_machine(),
        "squares": len(images),
        "learned": {q: means(parts) for q, parts in points.items()},
        "standard": {q: means(parts) for q, parts in zip(CURVE, curve, strict=True)},
        "ratios": {},
    }
    for q in QUALITIES:
        mean = joined(points[q], "bits").double().mean()
        print(f"near quality {q}: {mean:.0f} bits a square, {joined(points[q], 'psnr').mean():.2f} dB")
        for counted in ("bits", "file_bits"):
            for kept in ("psnr", "ms_ssim", "luma_weighted"):
                found = ratio(q, counted, kept)
                results["ratios"][f"{q}: {counted} at equal {kept}"] = found._asdict()
                print(f"  {counted} at equal {kept}: {found}")
    (out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
