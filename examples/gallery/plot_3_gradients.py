"""Gradient maps of each surrogate
===============================

The forward pass is the same for all. The gradient of the squared error behind the layer differs by the surrogate of
rounding. Each panel is scaled to its own largest gradient; grey is zero.
"""

import torch
from shown import around_grey, photograph, side_by_side

import fdjpeg

image = (photograph() / 255.0).requires_grad_()
target = 0.5 * torch.ones_like(image)

panels = {}
for gradient in ("straight-through", "identity", "cubic", "sine", "fourier", "tanh", "softmax", "zero"):
    loss = (fdjpeg.jpeg(image, 25, gradient=gradient) - target).square().sum()
    (slope,) = torch.autograd.grad(loss, image)
    panels[f"{gradient}\nmean |∂| = {float(slope.abs().mean()):.2g}"] = around_grey(
        slope, float(slope.abs().max().clamp_min(1e-9))
    )
figure = side_by_side(panels)
