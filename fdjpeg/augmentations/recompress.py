"""Resizing and compression, once or more: the changes that an image undergoes on its way through platforms."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fdjpeg import reference
from fdjpeg._numbers import is_finite, is_real, is_whole

from .base import Augmentation, Compression, Draws, in_groups, listed
from .random_jpeg import DEFAULT_RANGE, JPEGParameters, RandomJPEG

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Filters, by the names of Pillow's ``resize``.
FILTERS = ("bicubic", "bilinear")

Size = tuple[int, int]


class RecompressParameters(NamedTuple):
    """The draws of `Recompress` for N images.

    Attributes:
        applied: ``(N,)`` bool, whether the image is changed.
        scale: ``(N, times)`` float64 on the CPU, the factor of each resizing; None where it is fixed.
        compressions: the draws of each compression; their own ``applied`` is always true.

    Example::

        out, drawn = Recompress((30, 95), scale=(0.5, 1.0), restore=True)(images, return_parameters=True)
        drawn.scale, drawn.compressions[0].quality
    """

    applied: Tensor
    scale: Tensor | None
    compressions: tuple[JPEGParameters, ...]


class Recompress(Augmentation[RecompressParameters]):
    """Resizes each image and compresses it, once or more, as platforms do.

    Resizing is that of Pillow 13: bytes after each direction, with a filter that widens where the image shrinks.
    Floating samples act as bytes, as in `fdjpeg.jpeg`, and all roundings are straight through in the gradient.

    The result has the size of the last resizing. ``restore=True`` resizes it back at the end; it is needed wherever the
    images of a batch would come out in several sizes: for a range of scales, and for ``p`` strictly between 0 and 1.
    A range is drawn on the CPU, because sizes depend on it: a graph break under torch.compile.

    Args:
        quality: of each compression, drawn separately; see `RandomJPEG`.
        p: the probability that an image is changed at all.
        generator: of the images' device; None takes torch's own. See `RandomJPEG` for activation checkpointing.
        scale: the factor of height and width, above 0; or the least and the greatest, uniform between them.
        longer_side: pixels of the longer side, in place of ``scale``; smaller images keep their size.
        times: how often the image is resized and compressed; each scale applies to the size before it.
        restore: resize to the first size at the end.
        filter: "bicubic" or "bilinear", as Pillow's.
        compression: ``qualities``, ``weights``, ``tables``, ``subsampling``, ``upsampling`` and ``gradient`` of
            `RandomJPEG`.

    Shape:
        ``(..., 3, H, W)`` or ``(..., 1, H, W)`` to ``(..., C, H', W')``.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range, or two of them exclude each other.

    Example::

        out = Recompress((30, 95), scale=(0.5, 1.0), restore=True)(images)
    """

    parameters_type = RecompressParameters

    def __init__(
        self,
        quality: tuple[int, int] = DEFAULT_RANGE,
        p: float = 1.0,
        generator: torch.Generator | None = None,
        *,
        scale: float | tuple[float, float] | None = None,
        longer_side: int | None = None,
        times: int = 1,
        restore: bool = False,
        filter: str = "bicubic",
        **compression: Unpack[Compression],
    ) -> None:
        super().__init__(p, generator)
        if (scale is None) == (longer_side is None):
            raise ValueError(f"scale or longer_side must be given, and only one, got {scale!r} and {longer_side!r}")
        if not is_whole(times) or times < 1:
            raise ValueError(f"times must be an integer of at least 1, got {times!r}")
        if longer_side is not None and (not is_whole(longer_side) or longer_side < 1):
            raise ValueError(f"longer_side must be an integer of at least 1, got {longer_side!r}")
        if filter not in FILTERS:
            raise ValueError(f"filter must be one of {', '.join(map(repr, FILTERS))}, got {filter!r}")
        if not isinstance(restore, bool):
            raise TypeError(f"restore must be True or False, got {restore!r}")
        self.scale = None if scale is None else _checked_scale(scale)
        self.fixed = self.scale is None or self.scale[0] == self.scale[1]
        if not restore and not (self.fixed and self.p in (0, 1)):
            raise ValueError(
                "restore must be True where a batch would hold several sizes (a range of scales, or 0 < p < 1), "
                f"got scale={scale!r}, p={p!r}, restore=False"
            )
        self.longer_side = None if longer_side is None else int(longer_side)
        self.times = int(times)
        self.restore = restore
        self.filter = filter
        self.compress = RandomJPEG(quality, **compression)

    def draw_from(self, draws: Draws) -> RecompressParameters:
        """See `Augmentation.draw_from`."""
        compressions = tuple(self.compress.draw_from(draws) for _ in range(self.times))
        applied, scale = self._applied(draws, compressions[0].applied), None
        if self.scale is not None and not self.fixed:
            least, greatest = self.scale
            scale = torch.stack([least + (greatest - least) * draws.on_host() for _ in range(self.times)], dim=1)
        return RecompressParameters(applied, scale, compressions)

    def augmented(self, batch: Tensor, parameters: RecompressParameters) -> Tensor:
        """See `Augmentation.augmented`."""
        if self.p == 0 and not self.restore:
            return batch.clone()
        if parameters.scale is None:
            scales = (1.0 if self.scale is None else self.scale[0],) * self.times
            return self._through(batch, self.sizes((batch.size(2), batch.size(3)), scales), parameters)
        first = (batch.size(2), batch.size(3))
        ways = [self.sizes(first, tuple(scales)) for scales in listed(parameters.scale)]
        return in_groups(batch, ways, parameters, self._through)

    def sizes(self, size: Size, scales: tuple[float, ...]) -> tuple[Size, ...]:
        """Returns height and width after each resizing of an image of ``size``."""
        found = []
        for scale in scales:
            if self.longer_side is not None:
                scale = min(self.longer_side / max(size), 1.0)
            size = (max(round(size[0] * scale), 1), max(round(size[1] * scale), 1))
            found.append(size)
        return tuple(found)

    def _where_applied(self, out: Tensor, image: Tensor, parameters: RecompressParameters) -> Tensor:
        return super()._where_applied(out, image, parameters) if self.restore else out

    def _through(self, batch: Tensor, way: tuple[Size, ...], parameters: RecompressParameters) -> Tensor:
        """Images resized to each size of the way, and compressed there."""
        out = batch
        for size, compression in zip(way, parameters.compressions, strict=True):
            out = self.compress.augmented(resize(out, size, self.filter), compression)
        return resize(out, (batch.size(2), batch.size(3)), self.filter) if self.restore else out

    def extra_repr(self) -> str:
        """The constructor's arguments that the compression does not show."""
        size = f"longer_side={self.longer_side}" if self.scale is None else f"scale={self.scale}"
        return f"p={self.p:g}, {size}, times={self.times}, restore={self.restore}, filter={self.filter!r}"


def resize(batch: Tensor, size: Size, filter: str = "bicubic") -> Tensor:
    """Resizes images as Pillow 13's ``Image.resize`` does.

    Older versions of Pillow always resize horizontally first, which differs where samples overshoot 0…255 in between.

    Args:
        batch: ``(N, C, H, W)``, uint8, or floating in [0, 1], whose samples act as bytes.
        size: the height and width wanted.
        filter: "bicubic" (a = −0.5) or "bilinear", wider where the image shrinks.

    Returns:
        ``(N, C, *size)`` of the same dtype: bytes, or bytes / 255. The gradient passes straight through the roundings,
        and stops where a sample overshoots 0…255.
    """
    height, width = size
    levels = _levels(batch)
    vertical_first = batch.size(2) - height > 2 * max(batch.size(3) - width, 0)  # found by comparing with Pillow
    for vertical in (vertical_first, not vertical_first):
        if vertical and batch.size(2) != height:
            levels = _resized_lines(levels.mT, height, filter).mT
        elif not vertical and batch.size(3) != width:
            levels = _resized_lines(levels, width, filter)
    return reference.from_bytes(levels, batch.dtype)


#: Pillow's weights are whole multiples of 1 / FIXED_POINT.
FIXED_POINT = 2**22

#: Samples that are made by one product of matrices: few enough that the matrix holds few zeros.
_STRIP = 64


def _resized_lines(levels: Tensor, wanted: int, filter: str) -> Tensor:
    """Each line of ``(..., size)`` bytes, float64, as ``(..., wanted)`` bytes. Sums are exact in float64."""
    size = levels.size(-1)
    reach = (2 if filter == "bicubic" else 1) * max(size / wanted, 1.0) + 1
    parts = []
    for start in range(0, wanted, _STRIP):
        stop = min(start + _STRIP, wanted)
        first = max(math.floor((start + 0.5) * size / wanted - reach), 0)
        last = min(math.ceil((stop - 0.5) * size / wanted + reach), size)
        window = levels[..., first:last]
        parts.append(window @ _weights(size, wanted, filter, (first, last), (start, stop), levels.device))
    return _rounded(torch.cat(parts, dim=-1))


def _weights(
    size: int, wanted: int, filter: str, taken: tuple[int, int], made: tuple[int, int], device: torch.device
) -> Tensor:
    """The part of Pillow's matrix that makes the samples ``made`` from the samples ``taken``, float64.

    Bicubic: Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981, a = −0.5.
    """
    scale = size / wanted
    centres = (torch.arange(*made, device=device, dtype=torch.float64) + 0.5) * scale
    samples = torch.arange(*taken, device=device, dtype=torch.float64) + 0.5
    x = (samples[:, None] - centres).abs() / max(scale, 1.0)
    if filter == "bilinear":
        weights = (1 - x).clamp(min=0)
    else:
        near = (1.5 * x - 2.5) * x * x + 1
        far = ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights = torch.where(x < 1, near, torch.where(x < 2, far, 0))
    weights = weights / weights.sum(0)
    return (weights * FIXED_POINT).round() / FIXED_POINT


def _levels(batch: Tensor) -> Tensor:
    """Images in 0…255, whole numbers in float64, with the gradient of ``255 · batch``."""
    levels = reference.to_bytes(batch).double()
    return levels + 255 * reference.differential(batch.double()) if batch.is_floating_point() else levels


def _rounded(levels: Tensor) -> Tensor:
    """Whole numbers in 0…255, half up as Pillow rounds them; the gradient is that of the clamp."""
    clamped = levels.clamp(0, 255)
    return (clamped.detach() + 0.5).floor() + reference.differential(clamped)


def _checked_scale(scale: object) -> tuple[float, float]:
    several = isinstance(scale, Iterable) and not isinstance(scale, (str, bytes))
    ends: Any = tuple(scale) if several else (scale, scale)  # type: ignore[arg-type]
    right = len(ends) == 2 and all(map(is_real, ends))
    if not right or not (0 < ends[0] <= ends[1] and is_finite(ends[1])):
        raise ValueError(f"scale must be a number above 0, or the least and the greatest, got {scale!r}")
    return float(ends[0]), float(ends[1])
