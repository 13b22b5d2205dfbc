"""The soundness run of certificates: a million images of balls through the exact encoder, none of which may leave them.

    python tests/soundness.py OUT.jsonl                    # 10⁶ images; a stopped run resumes
    python tests/soundness.py OUT.jsonl --images 20000
    python tests/soundness.py --lists --batch-size 5       # a fingerprint of bounds and lists of outcomes

Each case is an image and a radius: on and off the byte grid, at radii that are no whole levels, for attackers with
float images and with files. Its perturbations are corners along basis functions, alone and in pairs, random corners,
and random insides. No coefficient may be outside of its interval, and no unit's values may be missing from its list of
outcomes. The command prints the counts, and exits with status 1 if anything was outside.

With ``--lists`` it prints a fingerprint that must be the same at any batch size and any number of threads, in any
process.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from itertools import count
from pathlib import Path

import torch
from support.perturbations import Counts, cases, digest_of_lists, tried

#: Perturbations of each image, as a multiple of those in the tests.
EFFORT = 8


def run(out: Path, images: int) -> Counts:
    """Tries cases until so many images were tried; those in the file are not tried again."""
    kept: dict[str, Counts] = {}
    if out.exists():
        for line in out.read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            kept[found["case"]] = Counts(**found["counts"])
    total = Counts()
    for case in (case for number in count() for case in cases(number)):
        if total.images >= images:
            break
        name = f"{case!r}, effort {EFFORT}"
        if name not in kept:
            kept[name] = tried(case, EFFORT)
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"case": name, "counts": asdict(kept[name])}) + "\n")
        total += kept[name]
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="File of finished cases.")
    parser.add_argument("--images", type=int, default=1_000_000, help="Number of perturbed images.")
    parser.add_argument("--lists", action="store_true", help="Print a fingerprint of bounds and lists instead.")
    parser.add_argument("--batch-size", type=int, default=12, help="Images at once, for --lists.")
    options = parser.parse_args()
    if options.lists:
        print(f"{digest_of_lists(options.batch_size)}  ({torch.get_num_threads()} threads)")
        return
    if options.out is None:
        parser.error("out must be a file, got none")
    total = run(options.out, options.images)
    print(
        f"{total.images} images, {total.outside} coefficients outside of their intervals; "
        f"{total.met} outcomes of units met, {total.lost} not listed"
    )
    sys.exit(1 if total.outside or total.lost else 0)


if __name__ == "__main__":
    main()
