"""Quantization steps from a proof: tables behind which a radius cannot change a coefficient.

Two passes of one table at 4:4:4 put images on a lattice before an attacker meets them. Their coefficients are multiples
of the steps, but for what bytes lose. A step is certifying if half of it exceeds both together: that offset, and the
reach of the radius.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fdjpeg._checks import check_positive
from fdjpeg._geometry import BLOCK
from fdjpeg.reference.exact import _ISLOW

#: How far rounding in float32 may carry an image out of its ball, in units of the images' range.
SLACK = 1e-6

#: Levels by which an image may leave its ball and still count as one of it: attacks are checked with a tolerance of
#: ``SLACK``, and 255 x is rounded in float32, by at most 2⁻²⁴ of 255.
BEYOND = 255 * SLACK + 255 * 2**-23

#: The largest absolute value of a dequantized coefficient of a block of bytes: 8 · 128, and half of the largest step.
_LARGEST = 8 * 128 + 128


def levels_of(eps: float) -> int:
    """Returns the levels by which a float image of a radius can change a byte: ``floor(255 eps + 1/2)``, rounded up."""
    return int(255 * eps + 0.5 + BEYOND)


def reach_by_band(levels: int) -> Tensor:
    """Returns the largest change of each band's coefficient by any perturbation of so many levels.

    Each component changes by at most ``levels``: the integer weights of libjpeg's colours have absolute values that
    add up to 65536, so a change of L in each channel moves the sum by at most 65536 L, and its rounding shift by L. The
    integer DCT then adds products of its entries, and rounds twice, before the change and after it.

    Returns:
        ``(8, 8)`` float64, by [vertical, horizontal] frequency, in units of samples, for every component.
    """
    matrix = _matrix().abs()
    gains = torch.outer(matrix.sum(dim=1), matrix.sum(dim=1)) / 2**29
    return levels * gains + 2 * _forward_rounding()


def offset_by_band() -> Tensor:
    """Returns how far a coefficient of the lattice can be from a multiple of its step, where no sample was limited.

    The inverse DCT rounds its samples (by 1/2, and by 1/2 in its first pass), and the forward and inverse integer
    matrices are not quite each other's inverse. Colours lose nothing: where R, G and B are not limited, all Y, Cb and
    Cr come back from them exactly (a test tries all 2^24).

    Returns:
        ``(8, 8)`` float64, as `reach_by_band`.
    """
    matrix = _matrix()
    samples = 0.5 + matrix.abs().sum(dim=0).max() * 0.5 / 2**18
    gains = torch.outer(matrix.abs().sum(dim=1), matrix.abs().sum(dim=1)) / 2**29
    once = matrix @ matrix.T / 2**29  # the identity, but for the rounding of the entries
    error = (
        (torch.kron(once, once) - torch.eye(BLOCK**2, dtype=torch.float64, device="cpu"))
        .abs()
        .sum(dim=1)
        .view(BLOCK, BLOCK)
    )
    return samples * gains + error * _LARGEST + _forward_rounding()


def certifying_steps(eps: float) -> Tensor:
    """Returns the least whole steps that certify by design, for every component.

    For every image whose first pass limited no sample, two passes of these steps at 4:4:4, entered after the first,
    decode to one and the same image whatever a perturbation of the radius does.

    Args:
        eps: radius in the norm "linf", in units of the images' range [0, 1].

    Returns:
        ``(8, 8)`` int64 on the CPU, row-major by [vertical, horizontal] frequency.

    Raises:
        TypeError: ``eps`` is not a number.
        ValueError: a radius that is not positive, or that needs a step above 255.
    """
    check_positive("eps", eps)
    if eps > 1:
        raise ValueError(f"eps must be in (0, 1], got {eps}")
    steps = (2 * (reach_by_band(levels_of(eps)) + offset_by_band())).floor().to(torch.int64) + 1
    if int(steps.max()) > 255:
        raise ValueError(f"eps must be small enough for steps up to 255, got {eps}, which needs {int(steps.max())}")
    return steps


def _matrix() -> Tensor:
    """The integer DCT of one pass, ``(8, 8)`` float64: √8 · 2¹³ times the orthonormal one."""
    return torch.tensor(_ISLOW, dtype=torch.float64, device="cpu")


def _forward_rounding() -> Tensor:
    """A bound of the integer DCT's rounding in each band, see ``fdjpeg.certificates.units.ColourBall``."""
    rows = _matrix().abs().sum(dim=1) * 2**10 + 2**25
    return (rows / 2**29)[:, None].expand(BLOCK, BLOCK)
