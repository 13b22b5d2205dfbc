"""The images of a ball as a codec sees them: bytes that its samples can be rounded to, or real numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

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

    def images(self, levels: Tensor) -> Tensor:
        """Images of the ball that a codec sees as ``levels``: of those the nearest to ``levels / 255``."""
        return reference.from_bytes(levels, self.nearest.dtype).clamp(self.nearest, self.farthest)

    def at(self, share: Tensor) -> Tensor:
        """Levels at a share of the way between the ends, 0…1."""
        levels = self.least + share.to(self.least) * (self.most - self.least)
        return levels.round() if self.whole else levels

    def only(self, chosen: Tensor | slice) -> Box:
        """The box of some images, by their places."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "whole"}
        return replace(self, **{name: tensor[chosen] for name, tensor in tensors.items()})
