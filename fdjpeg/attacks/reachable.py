"""The images of a ball as a codec sees them: bytes that its samples can be rounded to, or real numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from fdjpeg import reference

from .byte_grid import TOLERANCE


@dataclass(frozen=True)
class Box:
    """The samples that each sample of n images can become within a radius of the norm "linf", in levels of 0…255.

    Attributes:
        least, most: ``(n, C, H, W)`` float32, the ends; whole where the codec rounds its input to bytes.
        origin: the images themselves.
        nearest, farthest: the ends as samples of 0…1, of the images' dtype.
        whole: whether levels between the ends are whole numbers only.
    """

    LEVELS: ClassVar[tuple[str, ...]] = ("least", "most", "origin")

    least: Tensor
    most: Tensor
    origin: Tensor
    nearest: Tensor
    farthest: Tensor
    whole: bool

    @classmethod
    def of(cls, x: Tensor, eps: float, rounds: bool, whole_bytes: bool) -> Box:
        """Makes the box of images.

        A codec that rounds to bytes sees ``rint(255 (x − eps))`` … ``rint(255 (x + eps))``, which can be one level more
        than ``255 eps`` on each side. An attacker bound to files reaches ``floor(255 eps)`` levels.

        Args:
            x: ``(n, C, H, W)``, in [0, 1].
            eps: radius, in units of the images' range.
            rounds: whether the codec rounds its input to bytes.
            whole_bytes: whether the attacker is bound to whole bytes; then ``x`` consists of them.
        """
        if whole_bytes:
            origin = (255 * x).round().float()
            reach = int(eps * 255 + TOLERANCE)
            least, most = (origin - reach).clamp_min(0), (origin + reach).clamp_max(255)
            ends = reference.from_bytes(least, x.dtype), reference.from_bytes(most, x.dtype)
            return cls(least, most, origin, *ends, whole=True)
        nearest, farthest = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
        levels = [reference.to_bytes(end) if rounds else 255 * end for end in (nearest, farthest, x)]
        least, most, origin = (level.float() for level in levels)
        return cls(least, most, origin, nearest, farthest, whole=rounds)

    @cached_property
    def half_width(self) -> Tensor:
        """Half of each image's longest side, ``(n, 1, 1, 1)``."""
        return (self.most - self.least).flatten(1).amax(dim=1).view(-1, 1, 1, 1) / 2

    def images(self, levels: Tensor) -> Tensor:
        """Images of the ball that a codec sees as ``levels``: of those the nearest to ``levels / 255``."""
        return reference.from_bytes(levels, self.nearest.dtype).clamp(self.nearest, self.farthest)

    def judged(self, levels: Tensor) -> Tensor:
        """Images, not necessarily of the ball, that a codec sees as ``levels``."""
        return self.images(levels)

    def at(self, share: Tensor) -> Tensor:
        """Levels at a share of the way between the ends, 0…1."""
        return self.settled(self.least + share.to(self.least) * (self.most - self.least))

    def settled(self, levels: Tensor) -> Tensor:
        """Levels as a codec sees them: whole where it rounds. May write to its argument."""
        return levels.round_() if self.whole else levels

    def moved(self, point: Tensor, direction: Tensor, length: float, last: Tensor, inertia: float) -> Tensor:
        """A point after a step that climbs along a gradient, within reach. May write to ``direction``.

        Args:
            point: levels, not necessarily whole, ``(n, C, H, W)``.
            direction: the gradient.
            length: of the step, as a share of the way from the middle of the box to its end.
            last: the last step.
            inertia: the share of the last step in this one.
        """
        step = direction.sign_().mul_(length * (1 - inertia) * self.half_width)
        return step.add_(last, alpha=inertia).add_(point).clamp_(self.least, self.most)

    def cost(self, levels: Tensor) -> Tensor | None:
        """The part of the budget that each sample takes; None where samples do not share one."""
        return None

    def shifted(self, by: float) -> Box:
        """The same with ``by`` added to all levels."""
        levels: dict[str, Any] = {name: getattr(self, name) + by for name in self.LEVELS}
        return replace(self, **levels)

    def only(self, chosen: Tensor | slice) -> Box:
        """The box of some images, by their places."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors: dict[str, Any] = {name: part[chosen] for name, part in parts.items() if isinstance(part, Tensor)}
        return replace(self, **tensors)


#: Steps of the searches for a number by halving. Each search goes a fixed number of steps, so that nothing is read.
HALVINGS = 24


@dataclass(frozen=True)
class Ball(Box):
    """The samples that n images can become within a radius of the norm "l2"; fields as of `Box`, whose ends are bounds.

    A codec that rounds sees a byte b wherever a sample is within half a level of it. So a sample x takes only
    ``max(|b − x| − 1/2, 0)`` of the radius: bytes are within reach if the squares of that sum to at most its square.

    Attributes:
        middle: ``(n, C, H, W)``, the images in levels, as they are.
        radius: in levels.
        room: how far from a byte a sample may be to be seen as it, in levels.
    """

    LEVELS: ClassVar[tuple[str, ...]] = (*Box.LEVELS, "middle")

    middle: Tensor
    radius: float
    room: float

    @classmethod
    def of(cls, x: Tensor, eps: float, rounds: bool, whole_bytes: bool) -> Ball:
        """Makes the ball around images; arguments as of `Box.of`."""
        box = Box.of(x, eps, rounds, whole_bytes)
        tensors = {field.name: getattr(box, field.name) for field in fields(box)}
        precision = max(torch.finfo(x.dtype).eps, torch.finfo(torch.float32).eps)
        # Samples keep off the tie between two bytes by what their own type may be wrong by.
        room = max(0.5 - max(TOLERANCE, 255 * precision), 0.0) if box.whole and not whole_bytes else 0.0
        middle = box.origin if whole_bytes else (255 * x.to(reference.real_dtype(x))).float()
        return cls(**tensors, middle=middle, radius=255 * eps * (1 - 4 * precision), room=room)

    @cached_property
    def extent(self) -> float:
        """At least the distance of the farthest levels within reach from the middle, not counting the ends."""
        return self.radius + self.room * self.middle[0].numel() ** 0.5

    def images(self, levels: Tensor) -> Tensor:
        """Images of the ball that a codec sees as ``levels``, which must be within reach; the nearest to them.

        The nearest is between the middle and the levels, in each sample at the same share of the way, or at the
        farthest point that is seen as the level.
        """
        way = levels - self.middle
        distance, least = way.abs(), self._taken(levels)
        near, far = torch.zeros_like(self.half_width), torch.ones_like(self.half_width)
        for _ in range(HALVINGS):
            tried = (near + far) / 2
            fits = _length(torch.maximum(tried * distance, least)) <= self.radius
            near, far = torch.where(fits, tried, near), torch.where(fits, far, tried)
        near = torch.where(_length(distance) <= self.radius, 1, near)
        reached = self.middle + way.sign() * torch.maximum(near * distance, least)
        exact = reference.from_bytes(levels, self.nearest.dtype)
        between = (reached.to(reference.real_dtype(exact)) / 255).to(exact.dtype).clamp(0, 1)
        # Where the samples go the whole way, the sum has no error: levels are whole numbers of few bits.
        return torch.where(distance < TOLERANCE, exact, between)

    def judged(self, levels: Tensor) -> Tensor:
        """See `Box.judged`: for the units of images that are not within reach as a whole."""
        return reference.from_bytes(levels, self.nearest.dtype)

    def at(self, share: Tensor) -> Tensor:
        """Levels within reach in a direction that random shares 0…1 give."""
        direction = 2 * share.to(self.middle) - 1
        return self.settled(self.within(self.middle + direction * (self.extent / _length(direction).clamp_min(1e-12))))

    def settled(self, levels: Tensor) -> Tensor:
        """See `Box.settled`. Of the samples that would become other bytes, those that go least far stay, until all fit.

        Args:
            levels: a point that `within` returned.
        """
        if not self.whole:
            return levels
        way = (levels - self.middle).abs_()
        moved = levels.round()
        cost = self.cost(moved)
        low, high = torch.zeros_like(self.half_width), way.flatten(1).amax(dim=1).view(-1, 1, 1, 1) + 1
        for number in range(HALVINGS):
            least = low if number == 0 else (low + high) / 2
            fits = (cost * (way >= least)).flatten(1).sum(dim=1).view(-1, 1, 1, 1) <= self.radius**2
            low, high = torch.where(fits, low, least), torch.where(fits, least, high)
        return torch.where(way >= high, moved, self.origin)

    def moved(self, point: Tensor, direction: Tensor, length: float, last: Tensor, inertia: float) -> Tensor:
        """See `Box.moved`; ``length`` is a share of the way from the middle to the end."""
        scale = length * (1 - inertia) * self.extent / _length(direction).clamp_min(1e-12)
        return self.within(direction.mul_(scale).add_(last, alpha=inertia).add_(point))

    def within(self, levels: Tensor) -> Tensor:
        """The point of the ball, with the room of every sample added, towards ``levels``."""
        way = levels - self.middle
        free = way.clamp(-self.room, self.room)
        taken = way.sub_(free)
        scale = (self.radius / _length(taken).clamp_min(1e-12)).clamp_max(1)
        inside = taken.mul_(scale).add_(free).add_(self.middle)
        return torch.minimum(torch.maximum(inside, self.least), self.most)

    def settled_outwards(self, levels: Tensor) -> Tensor:
        """Levels between the ends; where samples have room, rounded so that the last eighth of a level counts as one.

        A move by m levels costs ``(m − 1/2)²``, so of a sample's move by u levels m = 1 costs less for its gain than
        m = 0 already from u = 1/8 on.
        """
        way = levels - self.middle
        if self.room:
            way = way.sign() * (way.abs() + 0.375).round()
        return torch.minimum(torch.maximum(super().settled(self.middle + way), self.least), self.most)

    def cost(self, levels: Tensor) -> Tensor:
        """See `Box.cost`: squares, whose sum may be up to ``radius²``."""
        return self._taken(levels).square_()

    def _taken(self, levels: Tensor) -> Tensor:
        """How far each sample must be moved to be seen as its level."""
        taken = (levels - self.middle).abs_().sub_(self.room).clamp_min_(0)
        return taken.masked_fill_(levels == self.origin, 0)


def _length(images: Tensor) -> Tensor:
    """The Euclidean length of each image, ``(n, 1, 1, 1)``."""
    return images.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
