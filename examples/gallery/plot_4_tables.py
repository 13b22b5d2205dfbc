"""Quantization tables as heat maps
================================

Steps of the standard tables and of feature distillation. Low frequencies are at the top left.
"""

import matplotlib.pyplot as plt

import fdjpeg

tables = {f"quality {quality}": fdjpeg.QuantTables.standard(quality) for quality in (25, 50, 90)}
steps = fdjpeg.FeatureDistillation("paper").steps
tables["feature distillation"] = fdjpeg.QuantTables(steps, steps)

figure, places = plt.subplots(2, len(tables), figsize=(2.6 * len(tables), 5.6))
for column, (name, found) in enumerate(tables.items()):
    for row, (component, steps) in enumerate((("luma", found.luma), ("chroma", found.chroma))):
        shown = steps.reshape(8, 8).float()
        axes = places[row, column]
        axes.imshow(shown, cmap="viridis", vmin=1, vmax=120)
        axes.set_title(f"{name}, {component}", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        for u in range(8):
            for v in range(8):
                ink = "white" if shown[u, v] < 70 else "black"
                axes.text(v, u, f"{float(shown[u, v]):.0f}", ha="center", va="center", color=ink, fontsize=6)
figure.tight_layout()
