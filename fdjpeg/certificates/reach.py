"""Bounds of the samples and of the coefficients that any image of a ball can have.

The radius of a ball is measured on images of floats. A codec that rounds its input to bytes sees ``rint(255 x)``, so an
attacker with float images reaches ``floor(255 eps + 1/2)`` levels around a byte; only one who is bound to files is held
to ``floor(255 eps)``. The floor for both would be unsound: at 1.8/255 a float image moves bytes by 2 levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fdjpeg._geometry import BLOCK
from fdjpeg._lattice import BEYOND
from fdjpeg.attacks.byte_grid import TOLERANCE, on_byte_grid
from fdjpeg.attacks.codec import Codec
from fdjpeg.reference.exact import _ISLOW, quantize, rgb_to_ycbcr, subsample
from fdjpeg.reference.geometry import component_planes, to_blocks
from fdjpeg.reference.linear import linear_map
from fdjpeg.reference.real import _DCT

#: Bound of the error of the float32 DCT of samples of 0…255, in levels, for "channels". With u = 2⁻²⁴: a sample is
#: rounded once (255 x), and each of two passes adds 8 products of an entry rounded to float32, in any order, with an
#: error of at most γ₉ = 9u / (1 − 9u) of the sum of absolute values, which is at most √8 times the largest sample in
#: each pass (Higham, "Accuracy and Stability of Numerical Algorithms", sec. 3.1). So it is at most γ₁₉ · 8 · 255 =
#: 0.0024; the division by the step adds at most u · 2040, and the widening of samples by `BEYOND` is apart.
CHANNELS_ERROR = 19 * 2**-24 / (1 - 19 * 2**-24) * 8 * 255 + 2**-24 * 2040


@dataclass(frozen=True)
class Reach:
    """The samples within reach, and intervals of the coefficients, for N images.

    Attributes:
        least, most: ``(N, C, H, W)``, the ends of each sample, in levels of 0…255: int32 bytes where the codec rounds
            to them, else float64.
        lowest, highest: for each component the ends of each coefficient, int32 ``(N, rows, columns, 8, 8)``.
    """

    least: Tensor
    most: Tensor
    lowest: list[Tensor]
    highest: list[Tensor]

    @property
    def changeable(self) -> Tensor:
        """The number of each image's coefficients that can take more than one value, ``(N,)`` int64."""
        pairs = zip(self.lowest, self.highest, strict=True)
        return torch.stack([(low < high).flatten(1).sum(dim=1) for low, high in pairs]).sum(dim=0)


def reach_of(codec: Codec, x: Tensor, eps: float, whole_bytes: bool) -> Reach:
    """Bounds for every image within ``eps`` of ``x`` in the norm "linf", and within [0, 1].

    Args:
        codec: the first pass; of arithmetic "libjpeg" or "channels".
        x: ``(N, C, H, W)``, floats in [0, 1].
        eps: radius, in units of the images' range.
        whole_bytes: whether the attacker is bound to whole bytes; then ``x`` must consist of them.

    Raises:
        ValueError: for other images with ``whole_bytes``.
    """
    if whole_bytes and not bool(on_byte_grid(x).all()):
        raise ValueError("images must consist of whole bytes k / 255 for a certificate with whole_bytes")
    levels = 255 * x.detach().double()
    if whole_bytes:
        levels = levels.round()
        radius = float(int(255 * eps + TOLERANCE))
    else:
        radius = 255 * eps + BEYOND
    if codec.arithmetic == "libjpeg":
        least = (levels - radius - 0.5).ceil().clamp(0, 255).to(torch.int32)
        most = (levels + radius + 0.5).floor().clamp(0, 255).to(torch.int32)
        return Reach(least, most, *_integer_intervals(codec, least, most))
    least, most = (levels - radius).clamp_min(0), (levels + radius).clamp_max(255)
    return Reach(least, most, *_channel_intervals(codec, least, most))


def _integer_intervals(codec: Codec, least: Tensor, most: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Intervals of libjpeg's coefficients, by monotone steps from interval to interval.

    Colour: each of libjpeg's three formulas is monotone in each channel, so its interval is the formula at two corners,
    rounding included. Averages: monotone. Each pass of the integer DCT: an exact linear map, whose ends are sums of
    positive entries times one end and negative entries times the other, then a monotone rounding shift. Quantization:
    monotone. Each step maps every member of the intervals before it into the intervals after it.
    """
    geometry = codec.geometry
    ends = list(zip(_component_ends(least, most), _component_ends(most, least), strict=True))
    lowest, highest = [], []
    for place, ((low, high), (plane, horizontal, vertical)) in enumerate(
        zip(ends, component_planes(geometry), strict=True)
    ):
        blocks = [to_blocks(subsample(end, geometry, plane, horizontal, vertical) - 128) for end in (low, high)]
        rows = _pass_interval(blocks[0], blocks[1], -1, 11)
        columns = _pass_interval(*rows, -2, 15)
        steps = steps_by_block(codec, place)
        lowest.append(quantize(columns[0], steps))
        highest.append(quantize(columns[1], steps))
    return lowest, highest


def _component_ends(towards: Tensor, against: Tensor) -> list[Tensor]:
    """Each component at the corner of the box of colours where it is least, or, with the ends exchanged, largest.

    Y rises with R, G and B; Cb falls with R and G and rises with B; Cr rises with R and falls with G and B.
    """
    if towards.size(1) == 1:
        return [towards[:, 0]]
    rising = [(True, True, True), (False, False, True), (True, False, False)]
    corners = [
        torch.stack([(towards if rises else against)[:, channel] for channel, rises in enumerate(signs)], 1)
        for signs in rising
    ]
    return [rgb_to_ycbcr(corner)[component] for component, corner in enumerate(corners)]


def _pass_interval(low: Tensor, high: Tensor, dim: int, shift: int) -> tuple[Tensor, Tensor]:
    positive = [[max(entry, 0) for entry in row] for row in _ISLOW]
    negative = [[min(entry, 0) for entry in row] for row in _ISLOW]
    half = 1 << (shift - 1)
    least = linear_map(positive, low, dim) + linear_map(negative, high, dim)
    most = linear_map(positive, high, dim) + linear_map(negative, low, dim)
    return (least + half) >> shift, (most + half) >> shift


def _channel_intervals(codec: Codec, least: Tensor, most: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Intervals of "channels", in float64 and wider by `CHANNELS_ERROR`: a box's support along each basis function."""
    lowest, highest = [], []
    for channel in range(least.size(1)):
        low, high = (padded_blocks(codec, end[:, channel]) for end in (least, most))
        middle = _dct_of(_DCT, (low + high) / 2)
        spread = _dct_of([[abs(entry) for entry in row] for row in _DCT], (high - low) / 2) + CHANNELS_ERROR
        steps = steps_by_block(codec, channel)
        lowest.append(((middle - spread) / steps - 0.5).ceil().to(torch.int32))
        highest.append(((middle + spread) / steps + 0.5).floor().to(torch.int32))
    return lowest, highest


def _dct_of(matrix: list[list[float]], blocks: Tensor) -> Tensor:
    return linear_map(matrix, linear_map(matrix, blocks, -1), -2)


def padded_blocks(codec: Codec, plane: Tensor) -> Tensor:
    """A plane ``(N, H, W)`` in blocks, its last row and column replicated to whole ones."""
    luma = codec.geometry.luma
    rows = torch.arange(luma.rows * BLOCK, device=plane.device).clamp(max=luma.height - 1)
    columns = torch.arange(luma.columns * BLOCK, device=plane.device).clamp(max=luma.width - 1)
    return to_blocks(plane.index_select(1, rows).index_select(2, columns))


def steps_by_block(codec: Codec, component: int) -> Tensor:
    """One component's steps, int32, as they broadcast over its blocks ``(N, rows, columns, 8, 8)``."""
    if codec.qualities is not None:
        return codec.tables_by_block()[component].to(torch.int32)
    assert codec.tables is not None
    return codec.tables[:, component, None, None].to(torch.int32)
