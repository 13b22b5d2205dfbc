"""An S2SNet: an autoencoder whose decoder is tuned with the gradients of the frozen classifier.

python examples/s2snet.py cifar10.npz
"""

from common import arguments, attack, read

from fdjpeg import defenses

options = arguments(__doc__)
network, train, images = read(options)
defenses.train("s2snet", train, options.out / "s2snet", settings=options.config, network=network)
attack(network, images, f"saved:{options.out / 's2snet'}")
