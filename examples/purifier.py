"""The distilled purifier: an autoencoder that learns from a normal and an adversarial teacher.

python examples/purifier.py cifar10.npz
"""

from common import arguments, attack, read

from fdjpeg import defenses

options = arguments(__doc__)
network, train, images = read(options)
defenses.train("purifier", train, options.out / "purifier", settings=options.config, network=network)
attack(network, images, f"saved:{options.out / 'purifier'}")
