"""Images of whole bytes k / 255, as files hold them."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Norm, distances

#: How far from a whole byte a sample may be and still count as one, in bytes: the rounding of float32, not more.
TOLERANCE = 1e-3


def on_byte_grid(x: Tensor) -> Tensor:
    """Returns whether each image of ``x``, ``(N, C, H, W)`` in [0, 1], has only whole bytes k / 255: ``(N,)`` bool.

    Example::

        on_byte_grid(torch.zeros(2, 3, 8, 8))  # True, True
    """
    in_bytes = x.double() * 255
    return ((in_bytes - in_bytes.round()).abs() <= TOLERANCE).flatten(1).all(dim=1)


def to_byte_grid(x_adv: Tensor, x: Tensor, eps: float, norm: Norm) -> Tensor:
    """Returns an image of whole bytes near ``x_adv`` in the ball of radius ``eps`` around ``x``.

    For "linf" it is the nearest one. For "l2" it is the nearest one if that is in the ball; if not, samples are rounded
    towards ``x``, which cannot leave the ball.

    Args:
        x_adv: ``(N, C, H, W)``, in the ball and in [0, 1].
        x: ``(N, C, H, W)``, of whole bytes.
        eps: radius, in units of the images' range.
        norm: "linf" or "l2".

    Example::

        x = torch.randint(256, (2, 3, 8, 8)) / 255
        on_byte_grid(to_byte_grid((x + 0.01).clamp(0, 1), x, 0.01, "linf"))  # True, True
    """
    start = (x.double() * 255).round()
    move = x_adv.double() * 255 - start
    nearest = move.round()
    if norm == "linf":
        reach = int(eps * 255 + TOLERANCE)
        moved = nearest.clamp(-reach, reach)
    else:
        outside = distances(nearest / 255, torch.zeros_like(nearest), norm) > eps
        moved = torch.where(outside.view(-1, 1, 1, 1), move.trunc(), nearest)
    return ((start + moved).clamp(0, 255) / 255).to(x.dtype)
