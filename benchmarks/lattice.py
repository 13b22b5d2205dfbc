"""Design from the proof: tables that certify a radius, and a network that is fine-tuned behind them.

    python benchmarks/lattice.py coverage cifar10.npz OUT.json        # seconds: bounds alone, no network
    python benchmarks/lattice.py train cifar10.npz FOLDER             # six epochs; resumes where it was stopped
    python benchmarks/lattice.py judge cifar10.npz FOLDER OUT.json    # before and after fine-tuning

cifar10.npz holds train_images, train_labels, test_images and test_labels, lossless. ``coverage`` counts, for each set
of tables, the images whose first pass limits no sample, and those of which no coefficient can change. ``train``
fine-tunes the ResNet-18 that pyautoattack carries on images behind tables of `DRAWN`, drawn for each. ``judge`` counts
the images right, those certified, and those that Flip leaves, cell after cell. Flip tries the images that are not
certified: no attack breaks the others. A cell that is there already is not run again, and ``--only TEXT`` runs those
whose names hold the text.
"""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any

import torch
from bracket import Images, attack, certificate, machine, summary
from torch import Tensor

import fdjpeg
from fdjpeg import QuantTables, defenses, sources
from fdjpeg.attacks.codec import Codec, codecs_of
from fdjpeg.augmentations.table_counts import TableCounts
from fdjpeg.certificates.reach import reach_of
from fdjpeg.defenses.defended import Defended, layer_defense
from fdjpeg.defenses.fine_tuning import AugmentationSettings, Config
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import load_training_images
from fdjpeg.reference.exact import _ISLOW, _pass, dequantize, unlimited_rgb
from fdjpeg.reference.geometry import from_blocks
from fdjpeg.reference.linear import transposed

#: Test images that are judged.
COUNT = 200

TABLES = {
    "certifying(1/255)": QuantTables.certifying(1 / 255),
    "certifying(2/255)": QuantTables.certifying(2 / 255),
    "uniform(30)": QuantTables.flat(30),
    "uniform(40)": QuantTables.flat(40),
    "uniform(48)": QuantTables.flat(48),
    "certifying(2/255) + 6": QuantTables(*[QuantTables.certifying(2 / 255).y + 6] * 2),
}

#: Tables that fine-tuning draws from, one for each image.
DRAWN = ("certifying(2/255)", "uniform(40)", "uniform(48)")


def lattice(name: str) -> Defended:
    """Two passes of some tables, entered after the first."""
    layer = fdjpeg.JPEG(tables=TABLES[name], subsampling="4:4:4")
    return layer_defense(name, layer, ("cubic",), first=layer)


def unlimited(codec: Codec, x: Tensor) -> Tensor:
    """Which images pass the decoder without any sample limited to 0…255, ``(N,)`` bool."""
    assert codec.tables is not None
    steps = [table[:, None, None].to(torch.int32) for table in codec.tables.unbind(1)]
    inverse, components = transposed(_ISLOW), []
    for k, step in zip(codec.blocks(x), steps, strict=True):
        values = _pass(inverse, _pass(inverse, dequantize(k.to(torch.int32), step), -2, 11), -1, 18) + 128
        components.append(from_blocks(values))
    inside = torch.ones(len(x), dtype=torch.bool)
    for plane in (*components, unlimited_rgb(components, codec.geometry, True)):
        inside &= ((plane >= 0) & (plane <= 255)).flatten(1).all(dim=1)
    return inside


def coverage(x: Tensor, out: Path) -> None:
    """Counts what the tables do for images, at 1 and 2 levels."""
    rows = []
    for name in TABLES:
        defended = lattice(name)
        (codec,) = codecs_of(defended.module, x, torch.arange(len(x)), 0, "coverage")
        free, entered = unlimited(codec, x), defended.entered(x)
        row: dict[str, Any] = {"tables": name, "images": len(x), "unlimited": int(free.sum())}
        for levels in (1, 2):
            constant = reach_of(codec, entered, levels / 255, False).changeable == 0
            row[f"constant at {levels}"] = int(constant.sum())
            row[f"unlimited and constant at {levels}"] = int((constant & free).sum())
        rows.append(row)
        print(row, flush=True)
    _write(out, {"coverage": rows})


def settings(folder: Path) -> Config:
    """Returns the settings of fine-tuning on the lattice: the recipe's, and a pass of drawn tables over every image.

    The second pass of the defence is left out: on the lattice it changes next to nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tables.json"
    TableCounts([TABLES[name] for name in DRAWN], [1] * len(DRAWN)).save(file)
    return Config(
        augmentation=(AugmentationSettings("random-jpeg", tables=str(file), subsampling=("4:4:4",)),),
        tuning=Schedule(epochs=6, batch_size=64, learning_rate=3e-4, augment="flip-crop"),
        qualities=(75,),
        validation=0.02,
    )


def judge(npz: str, folder: Path, out: Path, only: str) -> None:
    """Judges the network before and after fine-tuning behind each set of tables, at 1 and 2 levels."""
    images = sources.load_images(f"{npz}:test", count=COUNT)
    original = sources.load_network("resnet18-cifar10").module
    networks = {"fine-tuned": defenses.load(folder / "tuned").deployed(original), "original": original}
    chosen = Images(0, images.images, images.labels)
    for radius, name, state in product((2, 1), TABLES, networks):
        cell = f"{name}, {state}, at {radius}"
        if only not in cell:
            continue
        kept = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
        runs: dict[str, Any] = kept.get("runs", {})
        for kind in ("certificate", "flip-20"):
            key = f"{kind} of {cell}"
            if key in runs:
                continue
            if kind == "certificate":
                run = certificate(networks[state], chosen, lattice(name), radius)
            else:
                statuses = enumerate(runs[f"certificate of {cell}"]["statuses"])
                certified = [place for place, status in statuses if status in ("constant", "enumerated")]
                run = attack(networks[state], chosen, lattice(name), radius, kind, certified)
            runs[key] = run | {"date": datetime.now(timezone.utc).isoformat(timespec="seconds")} | machine()
            _write(out, {"runs": runs})
            print(summary(key, runs[key]), flush=True)


def _write(out: Path, found: dict[str, Any]) -> None:
    kept = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    out.write_text(json.dumps(kept | found | {"machine": machine()}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Runs the command that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, files in (("coverage", ["out"]), ("train", ["folder"]), ("judge", ["folder", "out"])):
        one = commands.add_parser(name)
        one.add_argument("npz")
        for file in files:
            one.add_argument(file, type=Path)
        if name == "judge":
            one.add_argument("--only", default="", help="Text that the names of cells must hold.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "coverage":
        with torch.no_grad():
            coverage(sources.load_images(f"{options.npz}:test", count=COUNT).images, options.out)
    elif options.command == "train":
        images = load_training_images(f"{options.npz}:train")
        chosen, network = settings(options.folder), sources.load_network("resnet18-cifar10")
        defenses.train("fine-tuning", images, options.folder / "tuned", settings=chosen, network=network, device="cpu")
    else:
        judge(options.npz, options.folder, options.out, options.only)


if __name__ == "__main__":
    main()
