"""Draws the picture of docs/bracket.md from a photograph: ``python benchmarks/bracket_pictures.py`` writes bracket.svg.

One coefficient of one block along a path of perturbations, behind steps of 30: the value that the codec keeps, and the
slopes that surrogates put in the place of its derivative. Then the distances of all coefficients from their ties,
before a first pass and after it, and the reach of a ball.
"""

from __future__ import annotations

import matplotlib
import torch
from figures import OURS, ROOT, SETTINGS, THEIRS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import fdjpeg
from fdjpeg import sources, surrogates
from fdjpeg._lattice import reach_by_band
from fdjpeg.attacks.codec import Codec, codecs_of

STEP = 30

#: The block and the band of the path: the photograph's 14th block row and column, and the first horizontal frequency.
BLOCK, BAND = (14, 14), (0, 1)

#: Length of the path, in levels of the samples that move most.
FARTHEST = 12.0


def unquantized(codec: Codec, x: Tensor) -> Tensor:
    """Luma's coefficients in steps, before rounding, as planes ``(N, H, W)``."""
    (stack,) = codec.transform.forward(255 * x - codec.shift)
    return stack[:, 0] / STEP


def path(codec: Codec, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns places on the path in levels, the coefficient there in steps, and the number that the codec keeps."""
    (shape,) = codec.transform.forward(x)
    at = (8 * BLOCK[0] + BAND[0], 8 * BLOCK[1] + BAND[1])
    one = torch.zeros_like(shape)
    one[0, 0, at[0], at[1]] = 1
    direction = codec.transform.adjoint([one]).mean(dim=1, keepdim=True)
    places = torch.linspace(-FARTHEST, FARTHEST, 481)
    images = (x + places[:, None, None, None] * direction / direction.abs().max() / 255).clamp(0, 1)
    many = codec.only(torch.zeros(len(images), dtype=torch.int64))
    kept = many.blocks(images)[0][:, BLOCK[0], BLOCK[1], BAND[0], BAND[1]]
    return places, unquantized(many, images)[:, at[0], at[1]], kept


def staircase(axes: Axes, places: Tensor, c: Tensor, kept: Tensor) -> None:
    """Draws the coefficient, and what the codec keeps of it."""
    axes.plot(places, c, color=THEIRS, label="coefficient")
    axes.plot(places, kept, color=OURS, label="kept by the codec")
    axes.set(title="a block's staircase", xlabel="perturbation, levels", ylabel=f"coefficient, steps of {STEP}")
    axes.legend(frameon=False, fontsize=8)


def slopes(axes: Axes, places: Tensor, c: Tensor) -> None:
    """Draws the slopes of three surrogates; the ties are where the true derivative is not 0."""
    for name, style in (("straight-through", ":"), ("cubic", "-"), ("tanh", "--")):
        axes.plot(places, surrogates.resolve(name).derivative(c), color=OURS, linestyle=style, label=name)
    for tie in places[1:][c.round().diff() != 0].tolist():
        axes.axvline(tie, color="#b34700", linewidth=0.8)
    axes.set(title="what surrogates see", xlabel="perturbation, levels", ylabel="slope", ylim=(0, 4))
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def ties(axes: Axes, codec: Codec, x: Tensor, entered: Tensor) -> None:
    """Draws how far coefficients are from their ties, and how far a ball moves one at most."""
    for images, color, label in ((x, THEIRS, "as photographed"), (entered, OURS, "after a first pass")):
        c = unquantized(codec, images).flatten()
        axes.hist((0.5 - (c - c.round()).abs()).numpy(), 50, range=(0, 0.5), color=color, alpha=0.75, label=label)
    for levels, style in ((1, "-"), (2, "--")):
        farthest = float(reach_by_band(levels).max()) / STEP
        axes.axvline(min(farthest, 0.5), color="#b34700", linestyle=style, linewidth=1, label=f"reach of {levels}/255")
    axes.set(
        title="what the ball reaches", xlabel="distance from the next tie, steps", ylabel="coefficients", yscale="log"
    )
    axes.legend(frameon=False, fontsize=7, loc="upper left")


def main() -> None:
    """Writes the file."""
    x = sources.load_images("photographs", count=1).images
    layer = fdjpeg.JPEG(tables=fdjpeg.QuantTables.flat(STEP), subsampling="4:4:4")
    (codec,) = codecs_of(layer, x, torch.arange(1), 0, "picture")
    with torch.no_grad(), matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(9, 3), layout="constrained", facecolor="white")
        left, middle, right = figure.subplots(1, 3)
        places, c, kept = path(codec, x)
        staircase(left, places, c, kept)
        slopes(middle, places, c)
        ties(right, codec, x, layer(x))
        for axes in (left, middle, right):
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(ROOT / "docs" / "bracket.svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
