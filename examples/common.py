"""Shared by the examples: their arguments, and an evaluation small enough for two cores."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fdjpeg import evaluation, sources
from fdjpeg.defenses.training.images import Images, StoredImages
from fdjpeg.sources import ImageSet, Network


def arguments(description: str | None) -> argparse.Namespace:
    """Returns the arguments of an example."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("npz", help='file of `fdjpeg data cifar10`, or images and labels, such as "cifar10.npz:train"')
    parser.add_argument("--model", default="resnet18-cifar10", help="classifier, by a name that fdjpeg evaluate takes")
    parser.add_argument("--config", default="small", help='settings: "small", "cifar10" or a YAML file')
    parser.add_argument("--train", type=int, default=512, help="greatest number of images to train on, the first ones")
    parser.add_argument(
        "--test", type=int, default=20, help="number of images to attack: the first of the test split, else the last"
    )
    parser.add_argument("--out", type=Path, default=Path("example"), help="folder of the trained defences")
    return parser.parse_args()


def read(options: argparse.Namespace) -> tuple[Network, Images, ImageSet]:
    """Returns the classifier, the images to train on and those to attack: of two splits, or two parts of one set."""
    network = sources.load_network(options.model)
    if options.npz.endswith(".npz") and "train_images" in np.load(options.npz).files:
        learnt, attacked = (sources.load_images(f"{options.npz}:{split}") for split in ("train", "test"))
        return network, StoredImages.of(learnt.head(options.train)), attacked.head(options.test)
    images = sources.load_images(options.npz)
    rest = len(images) - options.test
    if rest < 1:
        raise SystemExit(f"{options.npz} must hold more than the {options.test} images to attack, got {len(images)}")
    train = StoredImages.of(images.head(min(options.train, rest)))
    return network, train, images.select(list(range(rest, len(images))))


def attack(network: Network, images: ImageSet, *defenses: str, steps: int = 10, draws: int = 5) -> None:
    """Prints the number of images that are right behind each defence, for attackers who do not know it and who do."""
    report = evaluation.evaluate(
        network,
        images,
        defenses=defenses,
        attacks=[f"pgd-{steps}"],
        eps=["4/255"],
        draws=draws,
        checks=False,
        pictures=0,
    )
    print(report.headline)
    for line in (report.header, *report.table):
        print("  ".join(f"{value:>16.16}" if place else f"{value:36}" for place, value in enumerate(line)))
