"""An image's possible outcomes: the product of those of its units, and the quantized coefficients that they mean."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from fdjpeg._geometry import BLOCK
from fdjpeg.attacks.codec import Codec

from .reach import Reach, padded_blocks, steps_by_block
from .units import AnyBall, Ball, ChannelBall, ColourBall, Entry, Unit, unit_of

#: A unit's place: its component (None where it holds all of them), block row and block column.
Place = tuple[int | None, int, int]


@dataclass(frozen=True)
class Outcomes:
    """All that one image's coefficients can be, or more than that.

    Attributes:
        units: those with coefficients that can change, by place.
        own: the image's own coefficients of each component, int32 ``(1, rows, columns, 8, 8)``.
        total: the number of outcomes: the product of the units'; None where it exceeds what was asked for.
    """

    units: dict[Place, Unit]
    own: list[Tensor]
    total: int | None

    def coefficients(self, numbers: Tensor) -> list[Tensor]:
        """The coefficients of outcomes, by their numbers 0 … total − 1.

        Args:
            numbers: ``(n,)`` int64; 0 is the image's own.

        Returns:
            Of each component, int32 ``(n, rows, columns, 8, 8)``.
        """
        found = [component.repeat(len(numbers), 1, 1, 1, 1) for component in self.own]
        for unit, choice in zip(self.units.values(), self.choices(numbers), strict=True):
            values = torch.tensor(unit.outcomes, dtype=torch.int32, device="cpu")[choice]
            for column, entry in enumerate(unit.entries):
                block = found[entry.component][:, entry.row, entry.column]
                block[:, entry.vertical, entry.horizontal] = values[:, column]
        return found

    def choices(self, numbers: Tensor) -> list[Tensor]:
        """Which of its outcomes each unit has in outcomes of the image, ``(n,)`` int64 for each unit."""
        found = []
        for unit in self.units.values():
            assert unit.outcomes is not None
            found.append(numbers % len(unit.outcomes))
            numbers = numbers // len(unit.outcomes)
        return found


def outcomes_of(codec: Codec, reach: Reach, own: list[Tensor], image: int, most: int) -> Outcomes:
    """Lists the possible outcomes of one image.

    Args:
        codec: the first pass, of the whole batch.
        reach: bounds of the whole batch.
        own: of each component of this image, int32 ``(1, rows, columns, 8, 8)``.
        image: its place in the batch.
        most: outcomes at most.
    """
    if codec.transform.subsampled and int(reach.changeable[image]) > most.bit_length():
        return Outcomes({}, own, None)  # nothing excludes a pair there, so there are at least 2 to that power
    by_place: dict[Place, list[Entry]] = defaultdict(list)
    for component, (low, high) in enumerate(zip(reach.lowest, reach.highest, strict=True)):
        steps = steps_by_block(codec, component).expand_as(low)[image]
        for row, column, vertical, horizontal in (low[image] < high[image]).nonzero().tolist():
            at = (row, column, vertical, horizontal)
            entry = Entry(
                component, *at, int(own[component][0][at]), int(low[image][at]), int(high[image][at]), int(steps[at])
            )
            by_place[None if _joint(codec) else component, row, column].append(entry)
    units: dict[Place, Unit] = {}
    total = 1
    for place, entries in by_place.items():
        units[place] = unit_of(_ball(codec, reach, image, place), entries, most // total)
        found = units[place].outcomes
        if found is None:
            return Outcomes(units, own, None)
        total *= len(found)
    return Outcomes(units, own, total)


def _joint(codec: Codec) -> bool:
    """Whether a unit holds the blocks of all components in one place."""
    return codec.arithmetic == "libjpeg" and not codec.transform.subsampled


def _ball(codec: Codec, reach: Reach, image: int, place: Place) -> Ball:
    component, row, column = place
    if codec.transform.subsampled:
        return AnyBall()
    ends = []
    for end in (reach.least[image], reach.most[image]):
        channels = end if component is None else end[component : component + 1]
        ends.append(padded_blocks(codec, channels)[:, row, column])
    if component is None:
        return ColourBall(ends[0].view(-1, BLOCK, BLOCK), ends[1].view(-1, BLOCK, BLOCK))
    return ChannelBall(ends[0][0], ends[1][0])
