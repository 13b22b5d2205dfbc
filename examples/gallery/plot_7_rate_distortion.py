"""Rate and distortion of learned tables
=====================================

Tables are learned on the left half of a photograph, within the bits of three standard qualities, and judged on the
right half. ``fdjpeg tables learn`` does the same for folders of images, on images that it held out.
"""

import matplotlib.pyplot as plt
from shown import photograph

import fdjpeg
from fdjpeg.learning import learn_tables
from fdjpeg.learning.rate_distortion import measure

image = photograph("astronaut.png", side=256)
crops = image.unfold(1, 64, 64).unfold(2, 64, 64).permute(2, 1, 0, 3, 4).reshape(2, 8, 3, 64, 64)
learning, judged = crops


def point(tables: fdjpeg.QuantTables) -> tuple[float, float]:
    """Returns bits per pixel of entropy-coded data, and PSNR in dB."""
    rate = float(fdjpeg.bits(fdjpeg.encode(judged, tables=tables)).double().mean()) / 64**2
    return rate, measure(judged, tables).means()["psnr"]


standard = [point(fdjpeg.QuantTables.standard(quality)) for quality in range(15, 90, 10)]
learned = []
for quality in (25, 50, 75):
    budget = fdjpeg.bits(fdjpeg.encode(learning, quality))
    learned.append(point(learn_tables(learning, budget, "psnr", iterations=30)))

figure, axes = plt.subplots(figsize=(6, 4))
axes.plot(*zip(*standard, strict=True), label="standard, qualities 15 to 85", color="0.4")
axes.plot(*zip(*learned, strict=True), "o", label="learned, budgets of 25, 50 and 75", color="tab:blue")
axes.set(xlabel="bits per pixel", ylabel="PSNR in dB")
axes.legend(loc="lower right")
figure.tight_layout()
