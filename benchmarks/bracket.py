"""Both sides of the truth behind JPEG layers: images that attacks leave right, and images that a certificate holds for.

``python benchmarks/bracket.py OUT.json [--first 0] [--count 100] [--only TEXT]`` runs cell after cell on the CIFAR-10
subset and the ResNet-18 that pyautoattack carries, and writes each into one JSON as soon as it is done. A cell that is
there already is not run again. Image by image it keeps who is right, so that cells can be paired. ``--photographs``
takes EfficientNet-Lite0 and the 20 photographs of foolbox instead, and attacks only.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fdjpeg._machine import commit, processor
from fdjpeg.attacks import distances, from_name
from fdjpeg.certificates import certify
from fdjpeg.defenses import parse_defense
from fdjpeg.defenses.defended import Defended
from fdjpeg.sources import load_images, load_network

FD = "feature-distillation"
CODE, UNIFORM_30, UNIFORM_40 = (
    f"{FD}:{preset},passes=2,entry=after" for preset in ("code", "uniform(30)", "uniform(40)")
)

#: Defence, radius in levels.
ATTACKED = [
    ("jpeg:75", 1),
    ("jpeg:75", 2),
    ("jpeg:50", 1),
    ("jpeg:25", 1),
    (f"{FD}:paper", 1),
    (CODE, 2),
    (UNIFORM_30, 2),
]

PHOTOGRAPHED = [(f"jpeg:{quality}", levels) for levels in (1, 0.5) for quality in (75, 50, 25)]

#: Against each of these cells: Flip, and PGD through each surrogate.
GRADIENTS = ("cubic", "tanh", "straight-through")

CERTIFIED = [(UNIFORM_30, 1), (UNIFORM_40, 1), (CODE, 0.5), (UNIFORM_40, 2), (CODE, 1), ("jpeg:75", 1)]


@dataclass
class Images:
    """A part of the set: its place, images in [0, 1], classes, and how many go through the network at once."""

    first: int
    x: Tensor
    y: Tensor
    at_once: int = 100

    def right(self, model: nn.Module, x: Tensor) -> Tensor:
        """Which images a model classifies correctly."""
        with torch.no_grad():
            return torch.cat([model(part).argmax(dim=1) for part in x.split(self.at_once)]) == self.y


def attack(
    network: nn.Module, images: Images, defended: Defended, levels: float, name: str, spared: Sequence[int] = ()
) -> dict[str, Any]:
    """Attacks the images that are right without one, but for those that are ``spared``, by their places."""
    method, _, gradient = name.partition(" ")
    deployed = defended.deployed(network)
    with torch.no_grad():
        entered = defended.entered(images.x)
    clean = images.right(deployed, entered)
    rows = clean.nonzero().flatten()
    model = defended.attacked(network, gradient) if gradient else defended.exposed(network)
    start, queries, x_adv = time.process_time(), 0, entered.clone()
    for part in rows[~torch.isin(rows, torch.tensor(spared, dtype=rows.dtype))].split(images.at_once):
        found = from_name(method).run(model, entered[part], images.y[part], levels / 255, indices=images.first + part)
        x_adv[part] = found.x_adv
        queries += found.queries
    seconds = time.process_time() - start
    right = clean & images.right(deployed, x_adv)
    return {
        "clean": rows.tolist(),
        "right": right.nonzero().flatten().tolist(),
        "queries": queries,
        "cpu_seconds": round(seconds, 1),
        "farthest": round(float(distances(x_adv, entered, "linf").max()) * 255, 5),
    }


def certificate(network: nn.Module, images: Images, defended: Defended, levels: float) -> dict[str, Any]:
    """Certifies all images."""
    start = time.process_time()
    found = certify(defended, network, images.x, images.y, levels / 255)
    return {
        "statuses": list(found.statuses),
        "changeable": found.changeable.tolist(),
        "outcomes": found.outcomes.tolist(),
        "unresolved": found.unresolved.tolist(),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("FDJPEG_CIFAR10_SUBSET", "cifar10-subset.npz"))
    )
    parser.add_argument("--first", type=int, default=0, help="First image.")
    parser.add_argument(
        "--count", type=int, default=100, help="Number of images to attack; twice as many are certified."
    )
    parser.add_argument("--only", default="", help="Text that the names of cells must hold.")
    parser.add_argument("--photographs", action="store_true", help="EfficientNet-Lite0 and photographs instead.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = load_network("efficientnet-lite0" if options.photographs else "resnet18-cifar10").module
    if options.photographs:
        photographs = load_images("photographs")
        pixels, labels = photographs.images, photographs.labels
        options.count = len(pixels)
    else:
        with np.load(options.data) as data:
            pixels, labels = torch.from_numpy(data["test_images"]).float() / 255, torch.from_numpy(data["test_labels"])

    def part(count: int) -> Images:
        rows = slice(options.first, options.first + count)
        return Images(options.first, pixels[rows], labels[rows].long(), 5 if options.photographs else 100)

    cells: dict[str, Callable[[], dict[str, Any]]] = {}
    for name, levels in PHOTOGRAPHED if options.photographs else ATTACKED:
        for method in ("flip-20", *(f"pgd-20 {gradient}" for gradient in GRADIENTS)):
            cells[f"{method} on {name} at {levels}"] = lambda a=(name, levels, method): attack(
                network, part(options.count), parse_defense(a[0]), a[1], a[2]
            )
    for name, levels in [] if options.photographs else CERTIFIED:
        cells[f"certificate of {name} at {levels}"] = lambda a=(name, levels): certificate(
            network, part(2 * options.count), parse_defense(a[0]), a[1]
        )
    kept = json.loads(options.out.read_text()) if options.out.exists() else {"runs": {}}
    for cell, run in cells.items():
        key = f"{cell}, images from {options.first}, {options.count}"
        if options.only not in cell or key in kept["runs"]:
            continue
        kept["runs"][key] = run() | {"date": datetime.now(timezone.utc).isoformat(timespec="seconds")} | machine()
        whole = options.out.with_suffix(".part")
        whole.write_text(json.dumps(kept, indent=1))
        whole.replace(options.out)
        print(summary(key, kept["runs"][key]), flush=True)


def machine() -> dict[str, str]:
    """The commit and the machine."""
    cores = f"{os.cpu_count()} shared cores of an {processor()}"
    return {"commit": commit(), "machine": cores, "torch": torch.__version__}


def summary(key: str, cell: dict[str, Any]) -> str:
    """One line for the terminal."""
    if "statuses" in cell:
        counts = {status: cell["statuses"].count(status) for status in sorted(set(cell["statuses"]))}
        return f"{key}: {counts}, unresolved {sum(cell['unresolved'])}, {cell['cpu_seconds']} s"
    return f"{key}: {len(cell['right'])} of {len(cell['clean'])}, {cell['queries']} queries, {cell['cpu_seconds']} s"


if __name__ == "__main__":
    main()
