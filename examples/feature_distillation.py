"""Feature distillation: a table derived from your images, with one pass and with two.

python examples/feature_distillation.py cifar10.npz
"""

from common import arguments, attack, read

from fdjpeg import defenses

options = arguments(__doc__)
network, train, images = read(options)
once = defenses.train("feature-distillation", train, options.out / "once", settings=options.config)
print("The table, for any encoder:", *once.tables.to_pillow()[0])
twice = defenses.FeatureDistillation(steps=once.steps, passes=2)
defenses.save(twice, options.out / "twice")
attack(network, images, f"saved:{options.out / 'once'}", f"saved:{options.out / 'twice'}")
