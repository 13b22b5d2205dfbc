"""The inner problem of `Flip`, without the network: which reachable coefficients gain most, to first order.

Each coefficient k has a sensitivity, the derivative of the loss by the coefficient. Wanted are samples within a box for
which the sum of sensitivities times quantized coefficients is largest. The sum falls apart into units, so several
candidates are made for all units at once, and each unit takes its best by the exact encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from .reachable import Box
from .transform import Stacks, Transform

#: Steps of an ascent. Its window narrows geometrically and its step falls linearly, from the first number to the other.
ASCENT_STEPS = 24
WINDOW = (0.5, 0.06)
STEP = (1.0, 0.08)

#: Share of the last move in the next; the rest is the new step.
INERTIA = 0.25

#: How far beyond its tie a coefficient is moved where samples are real numbers, as a share of its step.
BEYOND = 1e-3


@dataclass(frozen=True)
class Quantizer:
    """Steps, and the gain of moving each coefficient.

    Attributes:
        steps: of each coefficient, in levels, ``(1 or n, components, height, width)``.
        slope: the gain by a coefficient's value in levels, ``(n, components, height, width)``.
    """

    steps: Stacks
    slope: Stacks


@dataclass(frozen=True)
class Problem:
    """The inner problem for n images.

    Attributes:
        transform: the linear part of the encoder.
        shift: the level shift before it.
        box: the samples within reach.
        quantizers: at least one; gains add up over them.
    """

    transform: Transform
    shift: float
    box: Box
    quantizers: list[Quantizer]

    def candidates(self, here: Tensor, anywhere: Tensor) -> Iterator[Tensor]:
        """Makes candidates, levels ``(n, C, H, W)`` in the box, one after the other.

        Args:
            here: levels of the point at hand.
            anywhere: levels of a random point of the box.
        """
        yield self.single_flips()
        for start in (here, self.box.origin, anywhere):
            yield self.ascend(start)

    def ascend(self, start: Tensor) -> Tensor:
        """Climbs the gain with rounding's derivative replaced by a triangle around each tie that becomes ever narrower.

        Steps are along the sign of the gradient; a narrow triangle sees only coefficients that are about to flip.
        """
        least, most = self.box.least - self.shift, self.box.most - self.shift
        half_width = (most - least).flatten(1).amax(dim=1).view(-1, 1, 1, 1) / 2
        inverse = [[1 / steps for steps in quantizer.steps] for quantizer in self.quantizers]
        point, move = start - self.shift, torch.zeros_like(start)
        for number in range(ASCENT_STEPS):
            along = number / (ASCENT_STEPS - 1)
            window = WINDOW[0] * (WINDOW[1] / WINDOW[0]) ** along
            length = (1 - INERTIA) * (STEP[0] + (STEP[1] - STEP[0]) * along) * half_width
            direction = self._gradient(point, inverse, window).sign_()
            moved = direction.mul_(length).add_(point).add_(move, alpha=INERTIA).clamp_(least, most)
            torch.sub(moved, point, out=move)
            point = moved
        levels = point + self.shift
        return levels.round_() if self.box.whole else levels

    def _gradient(self, point: Tensor, inverse: list[Stacks], window: float) -> Tensor:
        """The gradient of the gain with rounding's slope a triangle of a half-width of ``window`` steps, not scaled."""
        levels = self.transform.forward(point)
        slopes: Stacks = []
        for place, coefficients in enumerate(levels):
            parts = []
            for quantizer, over in zip(self.quantizers, inverse, strict=True):
                steps = coefficients * over[place]
                # |z − round z| is 1/2 at a tie.
                near = steps.sub_(steps.round()).abs_().add_(window - 0.5).clamp_min_(0)
                parts.append(near.mul_(quantizer.slope[place]))
            slopes.append(reduce(Tensor.add_, parts))
        return self.transform.adjoint(slopes)

    def single_flips(self) -> Tensor:
        """Moves each unit so that, of the coefficients that can be brought over their next tie, the best one is.

        Needed on a quantization lattice, where all coefficients are half a step from their ties and an ascent starves.
        """
        box, transform = self.box, self.transform
        origin = transform.forward(box.origin - self.shift)
        middle = transform.forward((box.least + box.most) / 2 - self.shift)
        spread = transform.absolute.forward((box.most - box.least) / 2)
        values, directions, shares = [], [], []
        for place, start in enumerate(origin):
            direction = torch.stack([quantizer.slope[place] for quantizer in self.quantizers]).sum(dim=0).sign()
            reach = direction * (middle[place] - start) + spread[place]
            value, share = torch.zeros_like(start), torch.zeros_like(start)
            for quantizer in self.quantizers:
                steps = quantizer.steps[place]
                in_steps = start / steps
                distance = (0.5 - direction * (in_steps - in_steps.round())) * steps
                possible = reach >= distance
                value += torch.where(possible, direction * quantizer.slope[place] * steps, 0)
                needed = (distance + BEYOND * steps) / reach.clamp_min(1e-12)
                share = torch.where(possible, torch.maximum(share, needed.clamp_max(1)), share)
            values.append(torch.where(value > 0, value, -torch.inf))
            directions.append(direction)
            shares.append(share)
        places = transform.best_of_unit(values)
        found = [where & (value > 0) for where, value in zip(places, values, strict=True)]
        towards = transform.adjoint([where * way for where, way in zip(found, directions, strict=True)])
        corner = torch.where(towards > 0, box.most, torch.where(towards < 0, box.least, box.origin))
        if box.whole:
            return corner
        share = transform.by_unit([where * part for where, part in zip(found, shares, strict=True)]).clamp_max(1)
        return box.origin + transform.to_samples(share) * (corner - box.origin)
