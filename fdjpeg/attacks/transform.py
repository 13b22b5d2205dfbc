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
from fdjpeg._geometry import BLOCK, Geometry

#: One tensor for each size of plane: ``(N, components, height, width)``.
Stacks = list[Tensor]


@dataclass(frozen=True)
class Transform:
    """The map from samples to unquantized coefficients, its transpose, and its units.

    A *unit* is the smallest part of an image that is encoded independently: an MCU of all components, or, where each
    channel is encoded separately, an 8×8 block of one channel.

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
        identity = torch.eye(3, dtype=torch.float64)
        converts = geometry.channels == 3 and not separate
        colour = reference.real_rgb_to_ycbcr(identity.T.reshape(3, 3, 1)).flatten(1) if converts else None
        angles = torch.arange(BLOCK, dtype=torch.float64)
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
    def unit_size(self) -> tuple[int, int]:
        """Height and width of a unit, in samples."""
        return BLOCK * self.geometry.vertical, BLOCK * self.geometry.horizontal

    # --- samples to coefficients and back ----------------------------------------------------------------------------

    def forward(self, samples: Tensor) -> Stacks:
        """Coefficients, in the samples' unit.

        Args:
            samples: ``(N, C, H, W)`` float32, less the level shift.
        """
        geometry = self.geometry
        components = samples if self.colour is None else _by_channel(self.colour, samples)
        luma, chroma = geometry.luma, geometry.chroma
        if not self.subsampled:
            return [self._dct(_extend(components, luma.rows * BLOCK, luma.columns * BLOCK))]
        first = _extend(components[:, :1], luma.rows * BLOCK, luma.columns * BLOCK)
        rest = _extend(
            components[:, 1:], chroma.height * geometry.vertical, chroma.columns * BLOCK * geometry.horizontal
        )
        rest = _average(rest, geometry.vertical, geometry.horizontal)
        rest = _extend(rest, chroma.rows * BLOCK, chroma.columns * BLOCK)
        return [self._dct(first), self._dct(rest)]

    def adjoint(self, stacks: Stacks) -> Tensor:
        """The transposed map of `forward`: ``(N, C, H, W)``."""
        geometry = self.geometry
        planes = [self._dct_adjoint(stack) for stack in stacks]
        if not self.subsampled:
            components = _fold(planes[0], geometry.height, geometry.width)
        else:
            chroma = _fold(planes[1], geometry.chroma.height, planes[1].size(3))
            chroma = _spread(chroma, geometry.vertical, geometry.horizontal)
            luma = _fold(planes[0], geometry.height, geometry.width)
            components = torch.cat([luma, _fold(chroma, geometry.height, geometry.width)], 1)
        return components if self.colour is None else _by_channel(self.colour.T, components)

    def dct_of(self, stacks: Stacks) -> Stacks:
        """The DCT alone, of components of coded size."""
        return [self._dct(stack) for stack in stacks]

    def _dct(self, planes: Tensor) -> Tensor:
        along_rows = planes.reshape(-1, 4 * BLOCK) @ self._four.T
        across = torch.matmul(self.dct, along_rows.view(-1, BLOCK, planes.size(3)))
        return across.view(planes.shape)

    def _dct_adjoint(self, planes: Tensor) -> Tensor:
        across = torch.matmul(self.dct.T, planes.reshape(-1, BLOCK, planes.size(3)))
        return (across.view(-1, 4 * BLOCK) @ self._four).view(planes.shape)

    @cached_property
    def _four(self) -> Tensor:
        """The DCT of four blocks side by side: a product of 32 columns is several times faster than one of 8."""
        return torch.block_diag(*[self.dct] * 4)

    def plane_of(self, stacks: Stacks, component: int) -> Tensor:
        """A view of one component's planes, ``(N, height, width)``."""
        if self.subsampled and component > 0:
            return stacks[1][:, component - 1]
        return stacks[0][:, component]

    # --- units -------------------------------------------------------------------------------------------------------

    def by_unit(self, stacks: Stacks) -> Tensor:
        """The sum of coefficients' values over each unit.

        Returns:
            ``(N, 1, rows, columns)``, or ``(N, C, rows, columns)`` where each channel is its own component.
        """
        geometry = self.geometry
        sums = [_blocks(stack).sum(dim=(3, 5)) for stack in stacks]
        if self.separate:
            return sums[0]
        if not self.subsampled:
            return sums[0].sum(dim=1, keepdim=True)
        beyond = (
            geometry.mcu_columns * geometry.horizontal - sums[0].size(3),
            geometry.mcu_rows * geometry.vertical - sums[0].size(2),
        )
        luma = F.pad(sums[0], (0, beyond[0], 0, beyond[1]))
        luma = luma.unflatten(3, (-1, geometry.horizontal)).sum(4).unflatten(2, (-1, geometry.vertical)).sum(3)
        return luma + sums[1].sum(dim=1, keepdim=True)

    def to_samples(self, units: Tensor) -> Tensor:
        """Each unit's value at all of its samples: ``(N, 1 or C, H, W)``."""
        height, width = self.unit_size
        spread = units[:, :, :, None, :, None].expand(-1, -1, -1, height, -1, width)
        full = spread.reshape(*units.shape[:2], units.size(2) * height, units.size(3) * width)
        return full[:, :, : self.geometry.height, : self.geometry.width]

    def best_of_unit(self, values: Stacks) -> Stacks:
        """Stacks of bool, true where a coefficient has the largest value of its unit; of equal values at each."""
        most = [_blocks(stack).amax(dim=(3, 5)) for stack in values]
        geometry = self.geometry
        if self.separate:
            largest = most[0]
        elif not self.subsampled:
            largest = most[0].amax(dim=1, keepdim=True)
        else:
            rows = geometry.mcu_rows * geometry.vertical - most[0].size(2)
            columns = geometry.mcu_columns * geometry.horizontal - most[0].size(3)
            luma = F.pad(most[0], (0, columns, 0, rows), value=-torch.inf)
            luma = luma.unflatten(3, (-1, geometry.horizontal)).amax(4).unflatten(2, (-1, geometry.vertical)).amax(3)
            largest = torch.maximum(luma, most[1].amax(dim=1, keepdim=True))
        return [stack == self._at_coefficients(largest, stack) for stack in values]

    def _at_coefficients(self, units: Tensor, stack: Tensor) -> Tensor:
        """Each unit's value at all of its coefficients in one stack."""
        # Luma has as many blocks in a unit as its sampling factors say, every other component one.
        luma = self.subsampled and stack.size(1) == 1
        blocks_high, blocks_wide = (self.geometry.vertical, self.geometry.horizontal) if luma else (1, 1)
        height, width = BLOCK * blocks_high, BLOCK * blocks_wide
        spread = units[:, :, :, None, :, None].expand(-1, -1, -1, height, -1, width)
        full = spread.reshape(*units.shape[:2], units.size(2) * height, units.size(3) * width)
        return full[:, :, : stack.size(2), : stack.size(3)]


def _blocks(planes: Tensor) -> Tensor:
    """A view ``(N, components, rows, 8, columns, 8)``."""
    return planes.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK))


def to_planes(blocks: Tensor) -> Tensor:
    """Blocks ``(N, rows, columns, 8, 8)``, as `fdjpeg.encode` returns them, to a plane ``(N, 1, height, width)``."""
    _, rows, columns, _, _ = blocks.shape
    return blocks.transpose(2, 3).reshape(-1, 1, rows * BLOCK, columns * BLOCK)


def _by_channel(matrix: Tensor, images: Tensor) -> Tensor:
    return torch.matmul(matrix, images.flatten(2)).view(images.shape)


def _average(planes: Tensor, vertical: int, horizontal: int) -> Tensor:
    """Means over ``vertical × horizontal`` samples."""
    for dim, factor in ((2, vertical), (3, horizontal)):
        if factor > 1:
            parts = planes.unflatten(dim, (-1, factor)).unbind(dim + 1)
            total = parts[0] + parts[1]
            for part in parts[2:]:
                total += part
            planes = total
    return planes / (vertical * horizontal)


def _spread(planes: Tensor, vertical: int, horizontal: int) -> Tensor:
    """The transposed map of `_average`."""
    count, components, height, width = planes.shape
    spread = (planes / (vertical * horizontal))[:, :, :, None, :, None]
    spread = spread.expand(-1, -1, -1, vertical, -1, horizontal)
    return spread.reshape(count, components, height * vertical, width * horizontal)


def _extend(planes: Tensor, height: int, width: int) -> Tensor:
    """Planes whose last row and column are repeated to a size."""
    beyond = (width - planes.size(3), height - planes.size(2))
    return F.pad(planes, (0, beyond[0], 0, beyond[1]), mode="replicate") if any(beyond) else planes


def _fold(planes: Tensor, height: int, width: int) -> Tensor:
    """The transposed map of `_extend`, onto a size: values beyond it are added to the last row and column."""
    for dim, size in ((2, height), (3, width)):
        if planes.size(dim) > size:
            inside, beyond = planes.split([size, planes.size(dim) - size], dim)
            planes = inside.clone()
            planes.select(dim, size - 1).add_(beyond.sum(dim))
    return planes
