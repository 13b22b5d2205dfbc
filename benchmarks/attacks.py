"""Our PGD and other packages' attacks at equal budget, paired: ``python benchmarks/attacks.py IMAGES OUT.json``.

IMAGES is named as for ``fdjpeg evaluate --data``: "cifar.npz:test", or a folder of class folders. The network is the
ResNet-18 for CIFAR-10 in pyautoattack, alone and behind JPEG. Every attack has the same images, radius, loss
and steps; foolbox and torchattacks take equal steps of 2.5 radii in total, since neither states a length.
The file is written after every batch, and a stopped run resumes from it; ``--table`` prints its table.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fdjpeg
from fdjpeg._machine import describe_machine
from fdjpeg._markdown import markdown_table
from fdjpeg.attacks import Attack, Counted, Found, Norm, correct, from_name, parse_eps, zero_gradients
from fdjpeg.attacks.base import check_package
from fdjpeg.evaluation import wilson
from fdjpeg.sources import load_images, load_network

STEPS = 20
#: Number of images in the row that shows masked gradients.
MASKED = 100


@dataclass(frozen=True)
class FoolboxPGD(Attack):
    """foolbox's PGD in L∞; it returns its last point."""

    seed: int = 0
    norm: Norm = "linf"
    name = f"foolbox PGD-{STEPS}"

    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        """See ``Attack.run``."""
        import foolbox

        attack = foolbox.attacks.LinfPGD(steps=STEPS, rel_stepsize=2.5 / STEPS)
        return Found(attack(foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device), x, y, epsilons=eps)[1])


@dataclass(frozen=True)
class TorchattacksPGD(Attack):
    """torchattacks' PGD in L∞; it returns its last point."""

    seed: int = 0
    norm: Norm = "linf"
    name = f"torchattacks PGD-{STEPS}"

    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        """See ``Attack.run``."""
        import torchattacks

        attack = torchattacks.PGD(model, eps=eps, alpha=2.5 * eps / STEPS, steps=STEPS)
        attack.set_device(x.device)
        return Found(attack(x, y))


def attack_named(name: str) -> Attack:
    """Returns one of our attacks by name, or "foolbox" or "torchattacks"."""
    if name in ("foolbox", "torchattacks"):
        check_package(name, name)
    return {"foolbox": FoolboxPGD, "torchattacks": TorchattacksPGD}.get(name, lambda: from_name(name))()


#: The experiments: the layer before the network, the gradient through it, and the attack.
ROWS = [
    *(
        (before, "cubic", name)
        for before in ("none", "jpeg:75")
        for name in (f"pgd-{STEPS}", f"apgd-ce-{STEPS}", "foolbox", "torchattacks")
    ),
    ("jpeg:75", "zero", f"pgd-{STEPS}"),
]


class Results:
    """The file: settings, the machine, and a row for each experiment with the margins of the images done so far."""

    def __init__(self, file: Path, settings: dict[str, Any]) -> None:
        self.file = file
        self.data: dict[str, Any] = {"settings": settings, "machine": describe_machine(), "rows": {}}
        if file.exists():
            stored = json.loads(file.read_text())
            if stored["settings"] != settings:
                raise ValueError(f"OUT must be of a run with these settings or a new file, got {str(file)!r}")
            self.data = stored

    def row(self, key: str) -> dict[str, Any]:
        """Returns an experiment's row, made if needed."""
        empty = {"margin": [], "queries": 0, "seconds": 0.0}
        row: dict[str, Any] = self.data["rows"].setdefault(key, empty)
        return row

    def save(self) -> None:
        """Writes the file, completely or not at all."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(".part")
        draft.write_text(json.dumps(self.data, indent=1) + "\n")
        draft.replace(self.file)


def run(results: Results, network: nn.Module, x: Tensor, y: Tensor, eps: float, batch_size: int) -> None:
    """Runs all experiments, each on the images that its network gets right without an attack."""
    for before, gradient, name in ROWS:
        model = network if before == "none" else nn.Sequential(fdjpeg.JPEG(75, gradient=gradient), network).eval()
        with torch.no_grad():
            right = correct(torch.cat([model(part) for part in x.split(batch_size)]), y)
        chosen = right.nonzero().flatten()
        row = results.row(f"{before} {gradient} {name}")
        row["right without an attack"] = len(chosen)
        if gradient == "zero":
            chosen = chosen[chosen < MASKED]
            row["images"] = MASKED
            row["right without an attack"] = len(chosen)
            if "zero gradients" not in row:
                few = chosen[:batch_size]
                row["zero gradients"] = float(zero_gradients(model, x[few], y[few]).mean())
        attack = attack_named(name)
        row["attack"], row["settings"] = attack.name, attack.settings()
        for part in chosen[len(row["margin"]) :].split(batch_size):
            start = time.process_time()
            found = attack.run(model, x[part], y[part], eps, indices=part)
            row["margin"] += [round(value, 4) for value in found.margin.tolist()]
            row["queries"] += found.queries
            row["seconds"] = round(row["seconds"] + time.process_time() - start, 1)
            results.save()
            print(f"{before} {gradient} {attack.name}: {len(row['margin'])} of {len(chosen)} images", flush=True)
    results.save()


def table(data: dict[str, Any]) -> str:
    """Returns the data of the file as a Markdown table."""
    count, rows = data["settings"]["images"], data["rows"]
    titles = [
        "before the network",
        "attack",
        "left right",
        "95 % interval",
        f"fooled by our PGD-{STEPS} alone / by this alone",
        "queries an image",
        "CPU s",
    ]
    lines = []
    for key, row in rows.items():
        before, gradient, _ = key.split(" ")
        ours = rows[f"{before} cubic pgd-{STEPS}"]["margin"]
        left = [value <= 0 for value in row["margin"]]
        pairs = list(zip([value <= 0 for value in ours], left, strict=False))
        alone = f"{sum(not a and b for a, b in pairs)} / {sum(a and not b for a, b in pairs)}"
        images = row.get("images", count)
        low, high = wilson(sum(left), images)
        lines.append(
            [
                before if gradient == "cubic" else f"{before}, plain rounding",
                row["attack"],
                f"{sum(left)} of {images}",
                f"{100 * low:.1f} … {100 * high:.1f} %",
                "" if row["margin"] is ours else alone,
                f"{row['queries'] / max(len(left), 1):.1f}",
                f"{row['seconds']:.0f}",
            ]
        )
    return "\n".join(markdown_table(titles, lines))


def main() -> None:
    """Runs the experiments that the file lacks, or prints its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", metavar="IMAGES", help='such as "cifar.npz:test"')
    parser.add_argument("out", metavar="OUT.json", type=Path)
    parser.add_argument("--images", type=int, default=300, help="number of images, the first ones")
    parser.add_argument("--eps", default="1/255")
    parser.add_argument("--batch-size", type=int, default=25)
    parser.add_argument("--table", action="store_true", help="print the table of OUT.json, and run nothing")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.out.read_text())))
        return
    images, network = load_images(options.data, count=options.images), load_network("resnet18-cifar10")
    settings = {
        "network": network.name,
        "source": network.source,
        "images": len(images),
        "digest": images.digest(),
        "norm": "linf",
        "eps": options.eps,
        "steps": STEPS,
        "batch_size": options.batch_size,
    }
    results = Results(options.out, settings)
    run(results, network.module, images.images, images.labels, float(parse_eps(options.eps)), options.batch_size)
    print(table(results.data))


if __name__ == "__main__":
    main()
