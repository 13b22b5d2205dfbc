"""The linear part of a JPEG encoder as separable passes over whole planes: colour, averages, DCT.

Real arithmetic with the geometry of `fdjpeg.reference`. A *plane* holds coefficients where their block is: element
``[8 r + u, 8 c + v]`` is the coefficient of vertical frequency u and horizontal frequency v in block ``(r, c)``. Planes
of one size share a tensor ``(N, components, height, width)``, so an image has one such stack, or two where chroma is
subsampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from fdjpeg import reference
from fdjpeg._geometry import BLOCK, Geometry, ceil_div

#: Added to bytes before the DCT (T.81, A.3.1), and taken off after its inverse.
LEVEL_SHIFT = 128

#: One tensor for each size of plane: ``(N, components, height, width)``.
Stacks = list[Tensor]


@dataclass(frozen=True)
class Transform:
    """The map from samples to unquantized coefficients, and its transpose.

    Attributes:
        geometry: of the images.
        separate: whether each channel is its own component, without colour conversion.
        colour: ``(3, 3)`` float32, R, G, B to Y, Cb, Cr; None without colour conversion.
        dct: ``(8, 8)`` float32, frequencies by samples.
    """

    geometry: Geometry
    separate: bool
    colour: Tensor | None
    dct: Tensor

    @classmethod
    def of(cls, geometry: Geometry, separate: bool, device: torch.device) -> Transform:
        """Makes the map of a geometry."""
        identity = torch.eye(3, dtype=torch.float64, device="cpu")
        converts = geometry.channels == 3 and not separate
        colour = reference.real_rgb_to_ycbcr(identity.T.reshape(3, 3, 1)).flatten(1) if converts else None
        angles = torch.arange(BLOCK, dtype=torch.float64, device="cpu")
        dct = ((2 * angles[None] + 1) * angles[:, None] * math.pi / (2 * BLOCK)).cos() / 2
        dct[0] = math.sqrt(1 / BLOCK)
        return cls(geometry, separate, None if colour is None else colour.float().to(device), dct.float().to(device))

    @cached_property
    def absolute(self) -> Transform:
        """The map whose matrix holds the absolute values of this one's: a bound of how far a box of samples reaches.

        Exact but for replicated edges, where one sample acts on a coefficient several times and the sum of absolute
        values exceeds that of the sum.
        """
        return replace(self, colour=None if self.colour is None else self.colour.abs(), dct=self.dct.abs())

    @property
    def subsampled(self) -> bool:
        """Whether chroma's planes are smaller than luma's."""
        return (self.geometry.horizontal, self.geometry.vertical) != (1, 1)

    @property
    def shift(self) -> float:
        """The level shift that is taken off samples before `forward`."""
        return 0.0 if self.separate else float(LEVEL_SHIFT)

    @property
    def footprints(self) -> list[tuple[int, int]]:
        """For each stack, how many blocks of luma one of its blocks covers, down and across."""
        return [(1, 1)] if not self.subsampled else [(1, 1), (self.geometry.vertical, self.geometry.horizontal)]

    # --- samples to coefficients and back ----------------------------------------------------------------------------

    def forward(self, samples: Tensor) -> Stacks:
        """Coefficients, in the samples' unit.

        Args:
            samples: ``(N, C, H, W)`` float32, less the level shift.
        """
        luma, chroma = self.geometry.luma, self.geometry.chroma
        if not self.subsampled:
            components = samples if self.colour is None else _by_channel(self.colour, samples)
            return [self._dct(_extended(components, luma.rows * BLOCK, luma.columns * BLOCK, 1))]
        assert self.colour is not None
        vertical, horizontal = self.geometry.vertical, self.geometry.horizontal
        first, rest = (_by_channel(part, samples) for part in (self.colour[:1], self.colour[1:]))
        rest = _extended(rest, chroma.rows * BLOCK * vertical, chroma.columns * BLOCK * horizontal, vertical)
        first = _extended(first, luma.rows * BLOCK, luma.columns * BLOCK, 1)
        return [self._dct(first), self._dct(rest, vertical, horizontal)]

    def adjoint(self, stacks: Stacks) -> Tensor:
        """The transposed map of `forward`: ``(N, C, H, W)``."""
        height, width = self.geometry.height, self.geometry.width
        first = _folded(self._dct_adjoint(stacks[0]), height, width, 1)
        if not self.subsampled:
            return first if self.colour is None else _by_channel(self.colour.T, first)
        assert self.colour is not None
        vertical, horizontal = self.geometry.vertical, self.geometry.horizontal
        rest = _folded(self._dct_adjoint(stacks[1], vertical, horizontal), height, width, vertical)
        total = _by_channel(self.colour[1:].T, rest)
        flat, luma = total.flatten(2), self.colour[:1].T.expand(len(total), -1, -1)
        torch.baddbmm(flat, luma, first.flatten(2), out=flat)
        return total

    def dct_of(self, stacks: Stacks) -> Stacks:
        """The DCT alone, of components of coded size."""
        return [self._dct(stack) for stack in stacks]

    def row_energies(self) -> list[Tensor]:
        """For each stack ``(components, 1, 1)``: the squared length of a coefficient's row of the matrix.

        Exact but for replicated edges.
        """
        if self.colour is None:
            return [self.dct.new_ones(self.geometry.channels, 1, 1)]
        energies = self.colour.square().sum(dim=1).view(-1, 1, 1)
        if not self.subsampled:
            return [energies]
        return [energies[:1], energies[1:] / (self.geometry.vertical * self.geometry.horizontal)]

    def _dct(self, planes: Tensor, vertical: int = 1, horizontal: int = 1) -> Tensor:
        """The DCT of means over ``vertical × horizontal`` samples: down columns, then along rows."""
        down, along = self._passes(vertical, horizontal)
        height, width = planes.size(2) // vertical, planes.size(3) // horizontal
        columns = torch.matmul(down, planes.reshape(-1, BLOCK * vertical, planes.size(3)))
        return (columns.view(-1, along.size(1)) @ along.T).view(*planes.shape[:2], height, width)

    def _dct_adjoint(self, planes: Tensor, vertical: int = 1, horizontal: int = 1) -> Tensor:
        """The transposed map of `_dct`."""
        down, along = self._passes(vertical, horizontal)
        height, width = planes.size(2) * vertical, planes.size(3) * horizontal
        rows = planes.reshape(-1, along.size(0)) @ along
        return torch.matmul(down.T, rows.view(-1, BLOCK, width)).view(*planes.shape[:2], height, width)

    def _passes(self, vertical: int, horizontal: int) -> tuple[Tensor, Tensor]:
        """The matrices of one block down columns, and of two blocks along rows."""
        return self._down[vertical], self._along[horizontal]

    @cached_property
    def _down(self) -> dict[int, Tensor]:
        return {factor: self.dct.repeat_interleave(factor, 1) / factor for factor in {1, self.geometry.vertical}}

    @cached_property
    def _along(self) -> dict[int, Tensor]:
        """Two blocks side by side, which are multiplied faster than one or four."""
        factors = {1, self.geometry.horizontal}
        return {factor: torch.block_diag(*[self.dct.repeat_interleave(factor, 1) / factor] * 2) for factor in factors}

    def plane_of(self, stacks: Stacks, component: int) -> Tensor:
        """A view of one component's planes, ``(N, height, width)``."""
        if self.subsampled and component > 0:
            return stacks[1][:, component - 1]
        return stacks[0][:, component]


def to_planes(blocks: Tensor) -> Tensor:
    """Blocks ``(N, rows, columns, 8, 8)``, as `fdjpeg.encode` returns them, to a plane ``(N, 1, height, width)``."""
    _, rows, columns, _, _ = blocks.shape
    return blocks.transpose(2, 3).reshape(-1, 1, rows * BLOCK, columns * BLOCK)


def _by_channel(matrix: Tensor, images: Tensor) -> Tensor:
    return torch.matmul(matrix, images.flatten(2)).view(len(images), len(matrix), *images.shape[2:])


def _extended(planes: Tensor, height: int, width: int, group: int) -> Tensor:
    """Planes brought to a size: the last column is repeated, and of the rows the last group.

    Rows are averaged by groups. The last group is completed by its last row; only its mean is repeated below it, as
    the encoder does (`fdjpeg.reference.geometry.subsampled_rows`).
    """
    whole = ceil_div(planes.size(2), group) * group
    beyond = (width - planes.size(3), whole - planes.size(2))
    if any(beyond):
        planes = F.pad(planes, (0, beyond[0], 0, beyond[1]), mode="replicate")
    if height == whole:
        return planes
    return torch.cat([planes, planes[:, :, whole - group :].repeat(1, 1, (height - whole) // group, 1)], 2)


def _folded(planes: Tensor, height: int, width: int, group: int) -> Tensor:
    """The transposed map of `_extended`, onto a size."""
    whole = ceil_div(height, group) * group
    if planes.size(2) > whole:
        inside, beyond = planes.split([whole, planes.size(2) - whole], 2)
        planes = inside.clone()
        planes[:, :, whole - group :].add_(beyond.unflatten(2, (-1, group)).sum(dim=2))
    for dim, size in ((2, height), (3, width)):
        if planes.size(dim) > size:
            inside, beyond = planes.split([size, planes.size(dim) - size], dim)
            planes = inside.clone()
            planes.select(dim, size - 1).add_(beyond.sum(dim))
    return planes
