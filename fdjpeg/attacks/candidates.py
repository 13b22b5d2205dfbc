"""The inner problem of `Flip`, without the network: which reachable coefficients gain most, to first order.

Each coefficient k has a sensitivity, the derivative of the loss by the coefficient. Wanted are samples within a box for
which the sum of sensitivities times quantized coefficients is largest. The sum falls apart into units, so several
candidates are made for all units at once, and each unit takes its best by the exact encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor

from fdjpeg._geometry import Geometry

from .reachable import HALVINGS, Ball, Box
from .transform import Stacks, Transform
from .units import Units

#: Steps of an ascent. Its window narrows geometrically and its step falls linearly, from the first number to the other.
ASCENT_STEPS = 16
WINDOW = (0.5, 0.06)
STEP = (1.0, 0.08)

#: Share of the last move in the next; the rest is the new step.
INERTIA = 0.25

#: Flips whose costs add up to these shares of the squared radius make one candidate each in the norm "l2".
FLIPPED = (0.5, 2.0)

#: How far beyond its tie a coefficient is moved where samples are real numbers, as a share of its step.
BEYOND = 1e-3


@dataclass(frozen=True)
class Quantizer:
    """Steps, and the gain of moving each coefficient.

    Attributes:
        transform: the linear part of the encoder.
        steps: of each coefficient, in levels, ``(1 or n, components, height, width)``.
        slope: the gain by a coefficient's value in levels, ``(n, components, height, width)``.
    """

    transform: Transform
    steps: Stacks
    slope: Stacks


@dataclass(frozen=True)
class Problem:
    """The inner problem for n images.

    Attributes:
        box: the samples within reach.
        quantizers: at least one; gains add up over them.
        units: parts of the images that all quantizers treat independently.
    """

    box: Box
    quantizers: list[Quantizer]
    units: Units

    def candidates(self, start: Tensor) -> Iterator[Tensor]:
        """Makes candidates, one after the other: levels ``(n, C, H, W)``.

        Each unit alone is within reach, and in the norm "linf" all of them together are.

        Args:
            start: levels within reach, from which to climb.
        """
        if isinstance(self.box, Ball):
            for share in FLIPPED:
                yield self.many_flips(self.box, share)
        else:
            yield self.single_flips()
        yield self.ascend(start)

    @cached_property
    def _groups(self) -> list[_Group]:
        """The quantizers of each transform."""
        groups: dict[tuple[Geometry, bool], _Group] = {}
        for quantizer in self.quantizers:
            transform = quantizer.transform
            groups.setdefault((transform.geometry, transform.separate), _Group(transform, [])).members.append(quantizer)
        return list(groups.values())

    # --- ascents -----------------------------------------------------------------------------------------------------

    def ascend(self, start: Tensor) -> Tensor:
        """Climbs the gain with rounding's derivative replaced by a triangle around each tie that becomes ever narrower.

        A narrow triangle sees only coefficients that are about to flip. In the norm "linf" steps are along the sign of
        the gradient.
        """
        box, shift = self._shifted
        point, move = start - shift, torch.zeros_like(start)
        for number in range(ASCENT_STEPS):
            along = number / (ASCENT_STEPS - 1)
            window = WINDOW[0] * (WINDOW[1] / WINDOW[0]) ** along
            length = STEP[0] + (STEP[1] - STEP[0]) * along
            moved = box.moved(point, self._gradient(point, window), length, move, INERTIA)
            torch.sub(moved, point, out=move)
            point = moved
        return self.box.settled(point + shift)

    @cached_property
    def _shifted(self) -> tuple[Box, float]:
        """The box less the level shift of the first group, and that shift."""
        shift = self._groups[0].transform.shift
        return self.box.shifted(-shift), shift

    def _gradient(self, point: Tensor, window: float) -> Tensor:
        """The gradient of the gain with rounding's slope a triangle of a half-width of ``window`` steps, not scaled."""
        parts = []
        for group in self._groups:
            apart = self._groups[0].transform.shift - group.transform.shift
            stacks = group.transform.forward(point + apart if apart else point)
            slopes = [group.slope(place, coefficients, window) for place, coefficients in enumerate(stacks)]
            parts.append(group.transform.adjoint(slopes))
        return reduce(Tensor.add_, parts)

    # --- flips -------------------------------------------------------------------------------------------------------

    def single_flips(self) -> Tensor:
        """Moves each unit so that, of the coefficients that can be brought over their next tie, the best one is.

        Needed on a quantization lattice, where all coefficients are half a step from their ties and an ascent starves.
        """
        box = self.box
        flips = [group.single_flips(box) for group in self._groups]
        transforms = [group.transform for group in self._groups]
        places = self.units.best([(flip.values, transform) for flip, transform in zip(flips, transforms, strict=True)])
        towards, shares = [], []
        for flip, where, transform in zip(flips, places, transforms, strict=True):
            found = [at & (value > 0) for at, value in zip(where, flip.values, strict=True)]
            towards.append(transform.adjoint([a * b for a, b in zip(found, flip.directions, strict=True)]))
            shares.append(self.units.sum([a * b for a, b in zip(found, flip.shares, strict=True)], transform))
        direction = reduce(Tensor.add_, towards)
        corner = torch.where(direction > 0, box.most, torch.where(direction < 0, box.least, box.origin))
        if box.whole:
            return corner
        share = reduce(Tensor.add_, shares).clamp_(max=1)
        return box.origin + self.units.to_samples(share) * (corner - box.origin)

    def many_flips(self, ball: Ball, share: float) -> Tensor:
        """Moves all coefficients over their next ties that gain most for the radius that they take.

        Rows of the encoder's matrix are nearly orthogonal, so their costs nearly add up: a coefficient at a distance
        from its tie takes that distance divided by the length of its row.

        Args:
            ball: the box.
            share: of the squared radius, the sum of the flips' costs.
        """
        flips = [group.cheapest_flips(ball) for group in self._groups]
        values = torch.cat([value.flatten(1) for flip in flips for value in flip.values], 1)
        costs = torch.cat([cost.flatten(1) for flip in flips for cost in flip.shares], 1)
        price = values / costs.clamp_min(1e-12)
        # The price above which the flips fit the budget, by halving between none and all of them.
        low, high = price.new_zeros(len(price), 1), price.amax(dim=1, keepdim=True) * 2 + 1e-12
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fits = (costs * (price >= middle)).sum(dim=1, keepdim=True) <= share * ball.radius**2
            low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
        limit = high.view(-1, 1, 1, 1)
        way: list[Tensor] = []
        for flip, group in zip(flips, self._groups, strict=True):
            chosen = [
                move * ((value > 0) & (value >= limit * cost.clamp_min(1e-12)))
                for move, value, cost in zip(flip.directions, flip.values, flip.shares, strict=True)
            ]
            way.append(group.transform.adjoint(chosen))
        return ball.settled_outwards(ball.middle + reduce(Tensor.add_, way))


@dataclass(frozen=True)
class _Flips:
    """Changes of single coefficients, for each coefficient of a transform."""

    values: Stacks  # gains; not positive where there is no change to be had
    directions: Stacks  # of the change; in `Problem.many_flips` in levels, divided by the row's squared length
    shares: Stacks  # of the way to the box's corner; in `Problem.many_flips` of the squared radius, in levels


@dataclass(frozen=True)
class _Group:
    """Quantizers behind one transform."""

    transform: Transform
    members: list[Quantizer]

    @cached_property
    def _inverse(self) -> list[Stacks]:
        return [[1 / steps for steps in quantizer.steps] for quantizer in self.members]

    def slope(self, place: int, coefficients: Tensor, window: float) -> Tensor:
        """The gain's slope by the coefficients of one stack, with a triangle of ``window`` steps around each tie."""
        terms = []
        for quantizer, inverse in zip(self.members, self._inverse, strict=True):
            steps = coefficients * inverse[place]
            # |z − round z| is 1/2 at a tie.
            near = steps.sub_(steps.round()).abs_().add_(window - 0.5).clamp_min_(0)
            terms.append(near.mul_(quantizer.slope[place]))
        return reduce(Tensor.add_, terms)

    def single_flips(self, box: Box) -> _Flips:
        """The next flip of each coefficient, where the box holds one."""
        transform = self.transform
        origin = transform.forward(box.origin - transform.shift)
        middle = transform.forward((box.least + box.most) / 2 - transform.shift)
        spread = transform.absolute.forward((box.most - box.least) / 2)
        found = _Flips([], [], [])
        for place, start in enumerate(origin):
            direction = self._direction(place)
            reach = direction * (middle[place] - start) + spread[place]
            value, share = torch.zeros_like(start), torch.zeros_like(start)
            for quantizer in self.members:
                steps = quantizer.steps[place]
                distance = _to_tie(start, steps, direction)
                possible = reach >= distance
                value += torch.where(possible, direction * quantizer.slope[place] * steps, 0)
                needed = (distance + BEYOND * steps) / reach.clamp_min(1e-12)
                share = torch.where(possible, torch.maximum(share, needed.clamp_max(1)), share)
            found.values.append(value)
            found.directions.append(direction)
            found.shares.append(share)
        return found

    def cheapest_flips(self, ball: Ball) -> _Flips:
        """The next flip of each coefficient, with its cost; of several quantizers the one that gains most for it."""
        transform = self.transform
        found = _Flips([], [], [])
        for place, (start, energy) in enumerate(
            zip(transform.forward(ball.middle - transform.shift), transform.row_energies(), strict=True)
        ):
            direction = self._direction(place)
            value, move = torch.zeros_like(start), torch.ones_like(start)
            for quantizer in self.members:
                steps = quantizer.steps[place]
                distance = _to_tie(start, steps, direction) + BEYOND * steps
                gain = direction * quantizer.slope[place] * steps
                better = gain * move.square() > value * distance.square()
                value, move = torch.where(better, gain, value), torch.where(better, distance, move)
            found.values.append(value)
            found.directions.append(direction * move / energy)
            found.shares.append(move.square() / energy)
        return found

    def _direction(self, place: int) -> Tensor:
        """The direction in which each coefficient of one stack gains, over all quantizers."""
        return torch.stack([quantizer.slope[place] for quantizer in self.members]).sum(dim=0).sign()


def _to_tie(coefficients: Tensor, steps: Tensor, direction: Tensor) -> Tensor:
    """The distance of coefficients from their next tie in a direction, in levels."""
    in_steps = coefficients / steps
    return (0.5 - direction * (in_steps - in_steps.round())) * steps
