"""A photograph at qualities 5 to 95
=================================

A tensor of qualities gives each image of a batch its own. The samples are those of Pillow's files.
"""

import torch
from shown import photograph, side_by_side

import fdjpeg

image = photograph()
qualities = torch.tensor([5, 10, 20, 35, 50, 75, 95])
batch = fdjpeg.jpeg(image.expand(len(qualities), -1, -1, -1), qualities)
sizes = fdjpeg.bits(fdjpeg.encode(image.expand(len(qualities), -1, -1, -1), qualities)) / 8 / 1024

titles = [f"quality {quality}, {size:.1f} KiB" for quality, size in zip(qualities, sizes, strict=True)]
figure = side_by_side({"original": image, **dict(zip(titles, batch, strict=True))})
