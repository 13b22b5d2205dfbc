"""Defensive distillation: the paper's network, trained twice at a temperature, from scratch.

python examples/defensive_distillation.py cifar10.npz --train 4000
"""

from common import arguments, attack, read

from fdjpeg import defenses

options = arguments(__doc__)
network, train, images = read(options)
defenses.train("defensive-distillation", train, options.out / "distilled", settings=options.config)
attack(network, images, f"saved:{options.out / 'distilled'}")
