"""Fancy against nearest chroma
============================

libjpeg upsamples chroma by a triangle filter ("fancy"); decoders on GPUs often repeat samples ("nearest"). A network
that was trained on one meets the other in deployment.
"""

from shown import around_grey, photograph, side_by_side

import fdjpeg

image = photograph(side=96)
fancy = fdjpeg.jpeg(image, 75, upsampling="fancy")
nearest = fdjpeg.jpeg(image, 75, upsampling="nearest")
change = nearest.short() - fancy.short()
figure = side_by_side(
    {
        "original": image,
        "fancy": fancy,
        "nearest": nearest,
        f"nearest − fancy\nup to {int(change.abs().max())} levels": around_grey(change, 32),
    }
)
