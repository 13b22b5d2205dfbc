"""One unit's coefficients that can change: which of their values are possible together.

A *unit* is what is encoded from its own samples: an 8×8 block of all components at 4:4:4, a grey block, a block of
one channel for "channels". That coefficient i has at least the value k is a half-space: its unquantized value is at
least the tie below k. Two half-spaces exclude each other where the largest sum of both sides over the ball falls short
of the sum of their ties. That test is necessary for two values to occur in one image, so what passes it is a superset
of what is possible.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fdjpeg._geometry import BLOCK
from fdjpeg.reference.exact import _ISLOW, rgb_to_ycbcr
from fdjpeg.reference.real import _DCT

from .reach import CHANNELS_ERROR

#: Fractional bits of a product of two entries of libjpeg's DCT, 2¹³ each, in units of its output, which is 8 times the
#: orthonormal DCT: a sum of samples times such products is 2²⁶ times the output, but for rounding.
BITS = 26

#: Colours that one sample is tried at, at most: those within 3 levels. Beyond, values count as possible together.
MOST_COLOURS = 7**3

#: Half-spaces of a unit up to which those of different components are tested as well: that costs most.
MOST_SPACES = 150

#: Nodes of the search for a unit's outcomes, for each outcome that is asked for.
NODES = 20


@dataclass(frozen=True)
class Entry:
    """A coefficient that can change.

    Attributes:
        component, row, column: its block.
        vertical, horizontal: its frequencies.
        value: the image's own.
        lowest, highest: the ends of its interval.
        step: its quantization step.
    """

    component: int
    row: int
    column: int
    vertical: int
    horizontal: int
    value: int
    lowest: int
    highest: int
    step: int

    @property
    def values(self) -> list[int]:
        """All values that it can take, the image's own first."""
        return [self.value, *(k for k in range(self.lowest, self.highest + 1) if k != self.value)]


@dataclass(frozen=True)
class HalfSpace:
    """``normal · samples ≥ tie``: an entry is at least, or at most, a value.

    Attributes:
        component: the entry's: where the normal is not 0.
        normal: ``(components, 64)``, in the units of the `Ball`.
        tie: what is to be reached, less what rounding can contribute.
    """

    component: int
    normal: Tensor
    tie: int | float


class Ball(ABC):
    """The samples of one unit within reach."""

    @abstractmethod
    def support(self, normals: Tensor) -> Tensor:
        """Returns the largest ``normal · samples`` over the ball, or a bound of it, for ``(n, components, 64)``."""

    @abstractmethod
    def best(self, normal: Tensor) -> Tensor:
        """Returns samples ``(components, 64)`` at which one normal ``(1, components, 64)`` has its support."""

    @abstractmethod
    def half_spaces(self, entry: Entry, value: int) -> list[HalfSpace]:
        """Returns what must hold if an entry has a value: nothing at the ends of its interval."""

    @property
    def pairs(self) -> bool:
        """Whether half-spaces are tested in pairs."""
        return True


class ColourBall(Ball):
    """Bytes of a block of libjpeg's arithmetic without subsampling.

    Everything is in whole numbers. Of the samples of one pixel it knows all colours within reach and their exact
    components, the codec's own rounding included. The output C of the DCT of components X is
    ``2^26 C = Σ B X + r`` with B the products of the two passes' integer entries and r from rounding alone: the first
    pass rounds each of 8 numbers by at most 1/2, which the second multiplies by its entries A, and the second rounds by
    at most 1/2. So ``|r| ≤ 2^10 Σ |A| + 2^25``.

    Args:
        least, most: ``(channels, 8, 8)`` bytes, int64: the ends of each sample.
    """

    def __init__(self, least: Tensor, most: Tensor) -> None:
        ends = [end.flatten(1).to(torch.int32) for end in (least, most)]
        width = int((ends[1] - ends[0]).max()) + 1
        self._pairs = width ** len(least) <= MOST_COLOURS
        grid = torch.cartesian_prod(
            *[torch.arange(width if self._pairs else 1, dtype=torch.int32, device="cpu")] * len(least)
        )
        grid = grid.view(-1, len(least)).T[:, None]  # (channels, 1, colours)
        colours = torch.minimum(ends[0][..., None] + grid, ends[1][..., None])
        # (components, 64, colours), level-shifted
        self.components = torch.stack(rgb_to_ycbcr(colours[None]))[:, 0].to(torch.int64) - 128

    @property
    def pairs(self) -> bool:
        """See `Ball.pairs`: not where a pixel has too many colours."""
        return self._pairs

    def support(self, normals: Tensor) -> Tensor:
        """See `Ball.support`; exact, int64."""
        used = [component for component in range(len(self.components)) if bool(normals[:, component].any())]
        if len(used) == 1:  # linear in one number: its ends are enough
            low, high = self.components[used[0]].aminmax(dim=1)
            normal = normals[:, used[0]]
            return torch.maximum(normal * low, normal * high).sum(dim=1)
        sums = torch.zeros(1, dtype=torch.int64, device="cpu")
        for component in used:
            sums = sums + normals[:, component, :, None] * self.components[component]
        return sums.amax(dim=2).sum(dim=1) if used else torch.zeros(len(normals), dtype=torch.int64, device="cpu")

    def best(self, normal: Tensor) -> Tensor:
        """See `Ball.best`."""
        places = (normal[0, :, :, None] * self.components).sum(dim=0).argmax(dim=1)
        return self.components[:, torch.arange(BLOCK * BLOCK, device="cpu"), places]

    def half_spaces(self, entry: Entry, value: int) -> list[HalfSpace]:
        """See `Ball.half_spaces`. C is quantized to k or more where ``C ≥ 8 q k − 4 q``, one more where k ≤ 0."""
        rows, columns = _ISLOW[entry.vertical], _ISLOW[entry.horizontal]
        basis = torch.tensor([a * b for a in rows for b in columns], dtype=torch.int64, device="cpu")
        normal = torch.zeros(len(self.components), BLOCK * BLOCK, dtype=torch.int64, device="cpu")
        normal[entry.component] = basis
        rounding = (sum(map(abs, rows)) << 10) + (1 << 25)
        found = []
        for sign, k, end in ((1, value, entry.lowest), (-1, -value, -entry.highest)):
            if k > end:
                tie = 8 * entry.step * k - 4 * entry.step + (1 if k <= 0 else 0)
                found.append(HalfSpace(entry.component, sign * normal, (tie << BITS) - rounding))
        return found


class ChannelBall(Ball):
    """Samples of a block of "channels": real numbers in a box, float64.

    Args:
        least, most: ``(8, 8)`` float64, the ends of each sample, in levels.
    """

    def __init__(self, least: Tensor, most: Tensor) -> None:
        self.middle = ((least + most) / 2).flatten()
        self.spread = ((most - least) / 2).flatten()

    def support(self, normals: Tensor) -> Tensor:
        """See `Ball.support`; exact but for float64's rounding, which the ties leave room for."""
        return (normals[:, 0] * self.middle + normals[:, 0].abs() * self.spread).sum(dim=1)

    def best(self, normal: Tensor) -> Tensor:
        """See `Ball.best`."""
        return self.middle + normal[0].sign() * self.spread

    def half_spaces(self, entry: Entry, value: int) -> list[HalfSpace]:
        """See `Ball.half_spaces`; a tie itself may be rounded either way."""
        rows, columns = _DCT[entry.vertical], _DCT[entry.horizontal]
        normal = torch.tensor([[a * b for a in rows for b in columns]], dtype=torch.float64, device="cpu")
        found = []
        for sign, k, end in ((1, value, entry.lowest), (-1, -value, -entry.highest)):
            if k > end:
                found.append(HalfSpace(0, sign * normal, entry.step * (k - 0.5) - CHANNELS_ERROR - 1e-9))
        return found


class AnyBall(Ball):
    """Samples about which nothing is known: chroma is subsampled, and a unit's blocks share them."""

    def support(self, normals: Tensor) -> Tensor:
        """See `Ball.support`."""
        return torch.full((len(normals),), math.inf, dtype=torch.float64, device="cpu")

    def best(self, normal: Tensor) -> Tensor:
        """See `Ball.best`."""
        raise NotImplementedError

    def half_spaces(self, entry: Entry, value: int) -> list[HalfSpace]:
        """See `Ball.half_spaces`."""
        return []

    @property
    def pairs(self) -> bool:
        """See `Ball.pairs`."""
        return False


@dataclass(frozen=True)
class Unit:
    """Entries of one unit, and the sets of values that are possible together, as far as pairs show.

    Attributes:
        ball: its samples.
        entries: those that can change.
        outcomes: values of the entries; the first is the image's own. None where there are more than were asked for.
    """

    ball: Ball
    entries: list[Entry]
    outcomes: list[tuple[int, ...]] | None


def unit_of(ball: Ball, entries: list[Entry], most: int) -> Unit:
    """Lists a unit's outcomes, ``most`` of them at most."""
    options = [(place, value) for place, entry in enumerate(entries) for value in entry.values]
    compatible = _compatible(ball, entries, options)
    start = {place: number for number, (place, _) in reversed(list(enumerate(options)))}
    ends = [start.get(place + 1, len(options)) for place in range(len(entries))]
    outcomes: list[tuple[int, ...]] = []
    # Depth first: one option for each entry in turn, the image's own first, all of them compatible with those before.
    possible = sum(1 << number for number, mask in enumerate(compatible) if mask >> number & 1)
    stack: list[tuple[list[int], int]] = [([], possible)]
    for _ in range(NODES * (most + 1)):
        if not stack:
            return Unit(ball, entries, outcomes)
        chosen, allowed = stack.pop()
        if len(chosen) == len(entries):
            outcomes.append(tuple(options[number][1] for number in chosen))
            if len(outcomes) > most:
                break
            continue
        for number in reversed(range(start[len(chosen)], ends[len(chosen)])):
            if allowed >> number & 1:
                stack.append(([*chosen, number], allowed & compatible[number]))
    return Unit(ball, entries, None)


def _compatible(ball: Ball, entries: list[Entry], options: list[tuple[int, int]]) -> list[int]:
    """For each option a bit mask of those that it can occur with."""
    everything = (1 << len(options)) - 1
    if not ball.pairs:
        return [everything] * len(options)
    spaces: list[HalfSpace] = []
    owners: list[int] = []
    for number, (place, value) in enumerate(options):
        for space in ball.half_spaces(entries[place], value):
            spaces.append(space)
            owners.append(number)
    masks = [everything] * len(options)
    if not spaces:
        return masks
    normals = torch.stack([space.normal for space in spaces])
    ties = torch.tensor([space.tie for space in spaces], dtype=normals.dtype, device="cpu")
    components = torch.tensor([space.component for space in spaces], device="cpu")
    for first, owner in enumerate(owners):
        seconds = torch.arange(first, len(spaces), device="cpu")
        alike = components[first:] == components[first]
        groups = [seconds[alike], seconds[~alike]] if len(spaces) <= MOST_SPACES else [seconds[alike]]
        excluded = [
            group[ball.support(normals[first] + normals[group]) < ties[first] + ties[group]] for group in groups
        ]
        for second in torch.cat(excluded).tolist():
            other = owners[second]
            if options[owner][0] != options[other][0]:
                masks[owner] &= ~(1 << other)
                masks[other] &= ~(1 << owner)
            elif owner == other:
                masks[owner] = 0  # the value itself cannot occur
    return masks
