"""JPEG at one quality, at a random one for each image, and at a random one for each block: nothing is trained.

python examples/jpeg.py cifar10.npz
"""

from common import arguments, attack, read

from fdjpeg import defenses

options = arguments(__doc__)
network, _, images = read(options)
made = {
    "fixed": defenses.JPEG(75),
    "random": defenses.RandomJPEG(30, 95),
    "stochastic": defenses.StochasticJPEG((20, 40, 60, 80)),
}
for name, defense in made.items():
    defenses.save(defense, options.out / name)
attack(network, images, *(f"saved:{options.out / name}" for name in made), steps=5, draws=2)
