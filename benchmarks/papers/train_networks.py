"""Trains the bare networks of the papers' experiments on Fashion-MNIST: ``python train_networks.py WORK``."""

from __future__ import annotations

import torch
from experiment import fashion, options, right, share, to_train_on
from small_networks import NETWORKS, trained


def main() -> None:
    given = options(__doc__).parse_args()
    torch.set_num_threads(1)
    images, test = to_train_on(given.train), fashion("test", 2000)
    for name in ("Papernot", "ResNet-like", *NETWORKS):
        network = trained(name, images, given.work)
        print(name, share(right(network.module, test.images, test.labels)), flush=True)


if __name__ == "__main__":
    main()
