"""The difference between differentiable JPEGs and Pillow
======================================================

Each panel shows the samples that a library returns minus those of Pillow's file, at quality 75 and 4:2:0. Grey is no
difference; black and white are 8 of 255 levels. Real numbers are what a perfect floating-point pipeline computes.
"""

from shown import around_grey, photograph, side_by_side

import fdjpeg
from fdjpeg.bench.peers import PEERS

image = photograph()
by_pillow = fdjpeg.jpeg(image, 75).short()  # equal to Pillow's, as `fdjpeg doctor` checks

made = {"real numbers": (255 * fdjpeg.jpeg(image / 255.0, 75, arithmetic="real")).round()[None]}
for name, peer in PEERS.items():
    if peer.missing() is None and name not in ("fdjpeg bfloat16", "fdjpeg uint8", "Pillow tensors"):
        made[name] = peer.tensor(peer.codec(75, "4:2:0")(peer.prepare(image[None])))

panels = {}
for name, out in made.items():
    change = out[0].short() - by_pillow
    panels[f"{name}\n{100 * float((change == 0).float().mean()):.1f} % equal"] = around_grey(change, 8)
figure = side_by_side(panels)
