"""The JPEG ensemble: a table that follows from the classifier's gradients, a tuned copy for each level, a vote.

python examples/jpeg_ensemble.py cifar10.npz
"""

from common import arguments, attack, read

from fdjpeg import defenses

options = arguments(__doc__)
network, train, images = read(options)
tuned = defenses.train("jpeg-ensemble", train, options.out / "tuned", settings=options.config, network=network)
untuned = defenses.JPEGEnsemble(tuned.luma, tuned.chroma, tuned.levels)
defenses.save(untuned, options.out / "untuned")
attack(network, images, f"saved:{options.out / 'untuned'}", f"saved:{options.out / 'tuned'}")
