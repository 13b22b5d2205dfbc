"""Two compressions, the second on a grid of blocks that is shifted against the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from fdjpeg._numbers import whole_numbers

from .base import Augmentation, Compression, Draws, in_groups, listed, scaled
from .random_jpeg import DEFAULT_RANGE, JPEGParameters, RandomJPEG

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Shifts 0…7 in each direction: the grid of blocks repeats after 8.
SHIFTS = 8


class DoubleJPEGParameters(NamedTuple):
    """The draws of `DoubleJPEG` for N images.

    Attributes:
        applied: ``(N,)`` bool, whether the image is compressed.
        shift: ``(N, 2)`` int64 on the CPU: rows and columns, 0…7, by which the grids differ.
        first, second: the draws of the compressions; their own ``applied`` is always true.

    Example::

        out, drawn = DoubleJPEG((30, 95))(images, return_parameters=True)
        drawn.first.quality, drawn.shift  # (N,), (N, 2)
    """

    applied: Tensor
    shift: Tensor
    first: JPEGParameters
    second: JPEGParameters


class DoubleJPEG(Augmentation[DoubleJPEGParameters]):
    """Compresses each image twice, with a shift of the grid of blocks in between, as cropped and resaved files have it.

    The image is extended by dy rows above and dx columns to the left, which repeat its edge; compressed; cut back; and
    compressed again. Its size stays.

    Shifts that are drawn for each image are drawn on the CPU, because the sizes of the extended images depend on them:
    images of one shift are compressed together, and torch.compile breaks the graph there. A fixed shift does not.

    Args:
        quality: of both compressions, drawn separately; see `RandomJPEG`.
        p: the probability that an image is compressed at all.
        generator: of the images' device; None takes torch's own. See `RandomJPEG` for activation checkpointing.
        shift: "random" (uniform in 0…7 rows and columns for each image), "aligned" (none), or the same
            ``(rows, columns)``, 0…7, for all images.
        second: the arguments of the second compression that differ from the first, such as
            ``{"quality": (70, 95)}``.
        compression: ``qualities``, ``weights``, ``tables``, ``subsampling``, ``upsampling`` and ``gradient`` of
            `RandomJPEG`.

    Shape:
        ``(..., 3, H, W)`` or ``(..., 1, H, W)`` to the same.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    Example::

        out, drawn = DoubleJPEG((30, 95), p=0.5)(images, return_parameters=True)
    """

    parameters_type = DoubleJPEGParameters

    def __init__(
        self,
        quality: tuple[int, int] = DEFAULT_RANGE,
        p: float = 1.0,
        generator: torch.Generator | None = None,
        *,
        shift: str | tuple[int, int] = "random",
        second: Mapping[str, Any] | None = None,
        **compression: Unpack[Compression],
    ) -> None:
        super().__init__(p, generator)
        self.shift = _checked_shift(shift)
        self.first = RandomJPEG(quality, **compression)
        self.second = RandomJPEG(**_second(quality, compression, second))

    def draw_from(self, draws: Draws) -> DoubleJPEGParameters:
        """See `Augmentation.draw_from`."""
        first, second = self.first.draw_from(draws), self.second.draw_from(draws)
        applied = self._applied(draws, first.applied)
        if self.shift is None:
            shift = torch.stack([scaled(draws.on_host(), SHIFTS) for _ in range(2)], dim=1)
        else:
            shift = torch.tensor(self.shift, device="cpu").expand(applied.size(0), 2)
        return DoubleJPEGParameters(applied, shift, first, second)

    def augmented(self, batch: Tensor, parameters: DoubleJPEGParameters) -> Tensor:
        """See `Augmentation.augmented`."""
        if self.shift is not None:
            once = self._shifted(batch, self.shift, parameters)
        else:
            shifts = [(rows, columns) for rows, columns in listed(parameters.shift)]
            once = in_groups(batch, shifts, parameters, self._shifted)
        return self.second.augmented(once, parameters.second)

    def _shifted(self, batch: Tensor, shift: tuple[int, int], parameters: DoubleJPEGParameters) -> Tensor:
        """The first compression, on a grid that begins ``shift`` rows and columns before the image."""
        rows, columns = shift
        extended = torch.cat([batch[:, :, :1].expand(-1, -1, rows, -1), batch], dim=2)
        extended = torch.cat([extended[:, :, :, :1].expand(-1, -1, -1, columns), extended], dim=3)
        return self.first.augmented(extended, parameters.first)[:, :, rows:, columns:]

    def extra_repr(self) -> str:
        """The constructor's arguments that the compressions do not show."""
        return f"p={self.p:g}, shift={'random' if self.shift is None else self.shift!r}"


def _checked_shift(shift: object) -> tuple[int, int] | None:
    """The fixed shift, or None for a random one."""
    if isinstance(shift, str) and shift in ("random", "aligned"):
        return None if shift == "random" else (0, 0)
    numbers = whole_numbers(shift)
    if numbers is not None and len(numbers) == 2 and all(0 <= number < SHIFTS for number in numbers):
        return (numbers[0], numbers[1])
    raise ValueError(f'shift must be "random", "aligned" or two integers in 0…7, got {shift!r}')


def _second(quality: tuple[int, int], first: Compression, changes: Mapping[str, Any] | None) -> Any:
    """The arguments of the second compression."""
    if not (changes is None or isinstance(changes, Mapping)):
        raise TypeError(f"second must be a mapping of arguments or None, got {changes!r}")
    changes = {} if changes is None else dict(changes)
    allowed = {"quality", *Compression.__annotations__}
    if unknown := sorted(set(changes) - allowed):
        raise ValueError(f"second must hold arguments among {', '.join(sorted(allowed))}, got {unknown[0]!r}")
    arguments = {"quality": quality, **cast("dict[str, Any]", first)}
    if {"quality", "qualities", "tables"} & set(changes):  # one takes the place of another
        for name in ("quality", "qualities", "tables", "weights"):
            arguments.pop(name, None)
    return {**arguments, **changes}
