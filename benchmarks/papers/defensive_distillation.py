"""Defensive distillation (Papernot et al., arXiv 1511.04508) on Fashion-MNIST."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from experiment import fashion, options, right, share, to_train_on
from small_networks import PAPERNOT

from fdjpeg import defenses
from fdjpeg.defenses import Defense, defensive_distillation
from fdjpeg.defenses.training.images import Images

SETTINGS = defensive_distillation.Config(widths=(32, 64, 200), training=PAPERNOT)


def distilled(temperature: int, seed: int, images: Images, work: Path) -> Defense:
    """Returns the network distilled at a temperature."""
    settings = replace(SETTINGS, temperature=float(temperature), seed=seed)
    out = work / f"distilled-{temperature}-{seed}"
    return defenses.train("defensive-distillation", images, out, settings=settings, device="cpu", quiet=True)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--temperatures", type=int, nargs="+", default=[1, 20, 100, 2, 5, 10, 30, 50])
    given = parser.parse_args()
    torch.set_num_threads(1)
    images, test = to_train_on(), fashion("test", 2000)
    for temperature in given.temperatures:
        defense = distilled(temperature, 0, images, given.work)
        print(temperature, share(right(defense.deployed(torch.nn.Identity()), test.images, test.labels)), flush=True)


if __name__ == "__main__":
    main()
