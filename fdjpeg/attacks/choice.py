"""One step of `Flip` without the network: candidates for every unit, judged by the exact encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from .candidates import Problem, Quantizer
from .codec import Codec
from .reachable import Ball, Box
from .transform import Stacks
from .units import Units

#: The passes of each branch in each draw: ``[draw][branch][pass]``.
Draws = list[list[list[Codec]]]

#: Steps of the search for the price of a ball's radius, and how many powers of ten it spans on each side.
PRICE_STEPS = 40
PRICE_RANGE = 6

#: A gain that is not worth a move.
NEGLIGIBLE = 1e-9


def searched(passes: list[Codec]) -> list[int]:
    """The places of the passes whose ties are searched: all, but of equal ones only the last."""
    return [place for place, codec in enumerate(passes) if not any(codec is other for other in passes[place + 1 :])]


def best_of_each_unit(box: Box, draws: Draws, gradients: list[Tensor], here: Tensor, start: Tensor) -> Tensor:
    """Moves each unit to its best candidate, to first order; or leaves it where it is.

    Nothing is read back from the device. With one draw of one pass it needs up to 30 times the memory of ``here``
    beyond its arguments. (The resident set rose by 26 times at 224 × 224, and by 17 times at 1024 × 1024.)

    Args:
        box: of n images.
        draws: the codecs of these images.
        gradients: of the loss by the output of each searched pass, of each branch, ``(n, C, H, W)``.
        here: levels ``(n, C, H, W)`` of the point at hand.
        start: levels of the point from which to climb.

    Returns:
        Levels within reach.
    """
    with torch.no_grad():
        chains = [passes for branches in draws for passes in branches]
        of_branch, at = [], 0
        for passes in draws[0]:
            count = len(searched(passes))
            of_branch.append(gradients[at : at + count])
            at += count
        slopes = [
            [passes[place].sensitivity(gradient) for place, gradient in zip(searched(passes), own, strict=True)]
            for branches in draws
            for passes, own in zip(branches, of_branch, strict=True)
        ]
        units = Units.of(codec.transform for passes in chains for codec in passes)
        quantizers = [
            quantizer for passes, own in zip(chains, slopes, strict=True) for quantizer in _quantizers(passes, own)
        ]
        problem = Problem(box, quantizers, units)
        now = [_quantized(passes, box.judged(here)) for passes in chains]
        options = [here, *problem.candidates(start)]
        if isinstance(box, Ball):
            options.append(box.origin)  # from which a unit leaves its part of the radius to others
        found = [_gain(box, units, chains, slopes, now, levels) for levels in options[1:]]
        gains = torch.stack([torch.full_like(found[0], NEGLIGIBLE), *found])
        choice = _priced(gains, [box.cost(levels) for levels in options], units, box)
        levels = here
        for number, candidate in enumerate(options[1:], 1):
            levels = torch.where(units.to_samples(choice == number), candidate, levels)
        return levels


def _quantizers(passes: list[Codec], slopes: list[Stacks]) -> list[Quantizer]:
    """The searched passes as the inner problem takes them: of unlike ones the coarsest of each image.

    A much finer pass before or behind it is nearly the identity, and its own ties are beside the point.
    """
    every = [passes[place] for place in searched(passes)]
    steps = [codec.steps() for codec in every]
    if len(every) > 1:
        count = len(slopes[0][0])
        means = [torch.stack([stack.flatten(1).mean(dim=1) for stack in own]).mean(dim=0) for own in steps]
        coarsest = torch.stack([mean.expand(count) for mean in means]).argmax(dim=0)
        slopes = [
            [stack * (coarsest == number).view(-1, 1, 1, 1) for stack in own] for number, own in enumerate(slopes)
        ]
    return [Quantizer(codec.transform, *parts) for codec, *parts in zip(every, steps, slopes, strict=True)]


def _quantized(passes: list[Codec], images: Tensor) -> Stacks:
    """The coefficients of the last pass."""
    for codec in passes[:-1]:
        images = codec(images)
    return passes[-1].coefficients(images)


def _gain(
    box: Box, units: Units, chains: list[list[Codec]], slopes: list[list[Stacks]], now: list[Stacks], levels: Tensor
) -> Tensor:
    """What each unit gains by a candidate: changes of its coefficients times their sensitivities."""
    images = box.judged(levels)
    total = None
    for passes, own, before in zip(chains, slopes, now, strict=True):
        k = _quantized(passes, images)
        values = [
            (a - b).mul_(step).mul_(slope)
            for a, b, step, slope in zip(k, before, passes[-1].steps(), own[-1], strict=True)
        ]
        gain = units.sum(values, passes[-1].transform)
        total = gain if total is None else total + gain
    assert total is not None
    return total


def _priced(gains: Tensor, costs: list[Tensor | None], units: Units, box: Box) -> Tensor:
    """The number of each unit's option: of the largest gain, or where units share a radius of the largest profit.

    The profit is the gain less a price for each part of the squared radius, the lowest at which the choices fit.
    """
    if not isinstance(box, Ball):
        return gains.argmax(dim=0)
    taken = torch.stack([units.of_samples(cost) for cost in costs if cost is not None])
    typical = gains.amax(dim=0).flatten(1).sum(dim=1).clamp_min(1e-12) / max(box.radius**2, 1e-12)
    low = torch.full_like(typical, -PRICE_RANGE)
    high = -low

    def choice(power: Tensor) -> Tensor:
        return (gains - (typical * 10**power).view(-1, 1, 1, 1) * taken).argmax(dim=0, keepdim=True)

    for _ in range(PRICE_STEPS):
        middle = (low + high) / 2
        fits = taken.gather(0, choice(middle))[0].flatten(1).sum(dim=1) <= box.radius**2
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    return choice(high)[0]
