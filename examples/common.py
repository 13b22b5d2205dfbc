"""What the examples share: their arguments, and an evaluation small enough for two cores."""

from __future__ import annotations

import argparse
from pathlib import Path

from fdjpeg import evaluation, sources
from fdjpeg.defenses.training.images import Images
from fdjpeg.defenses.training.run import images as data
from fdjpeg.sources import ImageSet, Network


def arguments(description: str | None) -> argparse.Namespace:
    """The arguments of an example."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("npz", help='such as "cifar10.npz" with images and labels, or "cifar10.npz:train"')
    parser.add_argument("--model", default="resnet18-cifar10", help="a name that fdjpeg evaluate takes")
    parser.add_argument("--config", default="small", help='"small", "cifar10" or a YAML file')
    parser.add_argument("--train", type=int, default=512, help="images to train on at most, the first ones")
    parser.add_argument("--test", type=int, default=20, help="images to attack, the last ones")
    parser.add_argument("--out", type=Path, default=Path("example"), help="folder of what is trained and found")
    return parser.parse_args()


def read(options: argparse.Namespace) -> tuple[Network, Images, ImageSet]:
    """The classifier, the images to train on and those to attack."""
    images = sources.load_images(options.npz)
    rest = len(images) - options.test
    if rest < 1:
        raise SystemExit(f"{options.npz} should hold more than the {options.test} images to attack, got {len(images)}")
    train = data.of(images.head(min(options.train, rest)))
    return sources.load_network(options.model), train, images.select(list(range(rest, len(images))))


def attack(network: Network, images: ImageSet, *defenses: str, steps: int = 10, draws: int = 5) -> None:
    """Prints how many images each defence gets right, under attackers who do not know it and who do."""
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
