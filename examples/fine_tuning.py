"""Compression-augmented fine-tuning: a classifier learns to read JPEG files, and is attacked alone and behind JPEG.

python examples/fine_tuning.py cifar10.npz
"""

from common import arguments, attack, read

from fdjpeg import defenses

options = arguments(__doc__)
network, train, images = read(options)
defenses.train("fine-tuning", train, options.out, settings=options.config, network=network)
print((options.out / "accuracy.md").read_text())
attack(network, images, f"saved:{options.out}", "jpeg:75", f"saved:{options.out},behind=jpeg:75")
