"""The smallest parts of an image that layers encode independently of each other, and sums over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fdjpeg._geometry import BLOCK, ceil_div

from .transform import Stacks, Transform

#: Sums or largest values along a dimension.
Reduction = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Units:
    """A grid of units, each a whole number of MCUs (or of blocks of one channel) of every transform.

    Attributes:
        height, width: of the images, in samples.
        vertical, horizontal: the size of a unit, in blocks of luma.
        channels: 1, or the number of channels where every transform takes each as its own component.
    """

    height: int
    width: int
    vertical: int
    horizontal: int
    channels: int

    @classmethod
    def of(cls, transforms: Iterable[Transform]) -> Units:
        """The finest grid that fits all transforms of images of one size."""
        every = list(transforms)
        geometries = [transform.geometry for transform in every]
        # Sampling factors are powers of two, so the largest is a multiple of the others.
        return cls(
            geometries[0].height,
            geometries[0].width,
            max(geometry.vertical for geometry in geometries),
            max(geometry.horizontal for geometry in geometries),
            geometries[0].channels if all(transform.separate for transform in every) else 1,
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a unit, in samples."""
        return BLOCK * self.vertical, BLOCK * self.horizontal

    def sum(self, stacks: Stacks, transform: Transform) -> Tensor:
        """The sum of coefficients' values over each unit, ``(N, channels, rows, columns)``."""
        parts = [
            self._pooled(_blocks(stack).sum(dim=(3, 5)), footprint, torch.sum, 0.0)
            for stack, footprint in zip(stacks, transform.footprints, strict=True)
        ]
        return torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]

    def best(self, values: Sequence[tuple[Stacks, Transform]]) -> list[Stacks]:
        """Stacks of bool, true where a coefficient has the largest value of its unit; of equal values at each."""
        most = [
            self._pooled(_blocks(stack).amax(dim=(3, 5)), footprint, torch.amax, -torch.inf)
            for stacks, transform in values
            for stack, footprint in zip(stacks, transform.footprints, strict=True)
        ]
        largest = torch.stack(most).amax(dim=0)
        return [
            [
                stack == self._at_coefficients(largest, stack, footprint)
                for stack, footprint in zip(stacks, transform.footprints, strict=True)
            ]
            for stacks, transform in values
        ]

    def of_samples(self, samples: Tensor) -> Tensor:
        """The sum over each unit of samples' values, ``(N, C, H, W)``; as `sum`."""
        height, width = self.size
        beyond = (-self.width % width, -self.height % height)
        padded = F.pad(samples, (0, beyond[0], 0, beyond[1]))
        units = padded.unflatten(3, (-1, width)).unflatten(2, (-1, height)).sum(dim=(3, 5))
        return units if self.channels > 1 else units.sum(dim=1, keepdim=True)

    def to_samples(self, units: Tensor) -> Tensor:
        """Each unit's value at all of its samples: ``(N, channels, H, W)``."""
        return _spread(units, *self.size)[:, :, : self.height, : self.width]

    def _pooled(self, blocks: Tensor, footprint: tuple[int, int], reduce: Reduction, neutral: float) -> Tensor:
        """Values of blocks, each of so many blocks of luma, to values of units."""
        high, wide = self.vertical // footprint[0], self.horizontal // footprint[1]
        rows, columns = ceil_div(self.height, self.size[0]), ceil_div(self.width, self.size[1])
        padded = F.pad(blocks, (0, columns * wide - blocks.size(3), 0, rows * high - blocks.size(2)), value=neutral)
        units = reduce(reduce(padded.unflatten(3, (-1, wide)), 4).unflatten(2, (-1, high)), 3)
        return units if self.channels > 1 else reduce(units, 1)[:, None]

    def _at_coefficients(self, units: Tensor, stack: Tensor, footprint: tuple[int, int]) -> Tensor:
        """Each unit's value at all of its coefficients in one stack."""
        height, width = (size // factor for size, factor in zip(self.size, footprint, strict=True))
        return _spread(units, height, width)[:, :, : stack.size(2), : stack.size(3)]


def _blocks(planes: Tensor) -> Tensor:
    """A view ``(N, components, rows, 8, columns, 8)``."""
    return planes.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK))


def _spread(units: Tensor, height: int, width: int) -> Tensor:
    """Each value repeated over ``height × width``."""
    wide = units[:, :, :, None, :, None].expand(-1, -1, -1, height, -1, width)
    return wide.reshape(*units.shape[:2], units.size(2) * height, units.size(3) * width)
