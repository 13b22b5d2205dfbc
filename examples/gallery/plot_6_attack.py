"""An attack before and behind the layer
=====================================

PGD through the cubic surrogate attacks a classifier of ImageNet behind JPEG at quality 75. The layer removes most of a
perturbation that does not know it; this one is made to pass.
"""

import torch
from shown import around_grey, side_by_side

import fdjpeg
from fdjpeg import attacks, sources
from fdjpeg.sources.image_set import to_bytes

network = sources.load_network("efficientnet-lite0").module
images = sources.photographs(224)
clean, label = images.images[:1], images.labels[:1]
levels = 2

panels = {f"clean\n{images.classes[int(label)]}": to_bytes(clean[0])}
attack = attacks.PGD(steps=5)
layer = fdjpeg.JPEG(75, gradient="cubic")
for name, model in (("unaware of the layer", network), ("aware", torch.nn.Sequential(layer, network))):
    adversarial = attack(model, clean, label, levels / 255)
    with torch.no_grad():
        seen = int(network(layer(adversarial)).argmax())
        behind = layer(adversarial) - layer(clean)
    panels[f"{name}: before"] = around_grey(255 * (adversarial - clean)[0], levels)
    panels[f"{name}: behind\n{images.classes[seen]}"] = around_grey(255 * behind[0], 16)
figure = side_by_side(panels, columns=5)
