"""Compression at a quality, a table and a subsampling drawn for each image."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fdjpeg import functional, surrogates
from fdjpeg._arguments import DEFAULT_QUALITY, check_arguments
from fdjpeg._checks import check_no_gradient
from fdjpeg._constants import constant
from fdjpeg._numbers import is_finite, is_real, whole_numbers
from fdjpeg.surrogates import Surrogate
from fdjpeg.tables import QuantTables, check_tables

from .base import Augmentation, Draws, in_groups, scaled
from .table_counts import TableCounts

#: Qualities that are drawn where nothing else is asked for.
DEFAULT_RANGE = (30, 95)


class JPEGParameters(NamedTuple):
    """The draws of `RandomJPEG` for N images.

    Attributes:
        applied: ``(N,)`` bool, whether the image is compressed.
        quality: ``(N,)`` int64, 1…100; None where tables are drawn.
        table: ``(N,)`` int64, the place of the image's table in the list; None where qualities are drawn.
        subsampling: ``(N,)`` int64 on the CPU, the place of its subsampling in the list; None where there is only one.

    Example::

        out, drawn = RandomJPEG((30, 95))(images, return_parameters=True)
        drawn.quality  # (N,)
    """

    applied: Tensor
    quality: Tensor | None
    table: Tensor | None
    subsampling: Tensor | None


class RandomJPEG(Augmentation[JPEGParameters]):
    """Compresses each image at its own quality, drawn in every call, in training and in evaluation.

    Quality, tables and ``p`` are drawn on the images' device, without synchronisation and without a break under
    torch.compile. Several subsamplings are drawn on the CPU, because each needs its own call: a graph break.

    With ``generator=None`` activation checkpointing (``torch.utils.checkpoint``) repeats the draws, because it restores
    torch's generators. A layer with a private generator takes them from outside there: ``layer(image, parameters)``
    with ``parameters = layer.draw(image)``.

    Example::

        augment = fdjpeg.RandomJPEG((5, 95), p=0.75)
        logits = classifier(augment(images))
        compressed, labels = augment(images, return_parameters=True)  # labels.quality, labels.applied

    Args:
        quality: the least and the greatest integer quality, both drawn; uniform between them.
        p: the probability that an image is compressed at all.
        generator: of the images' device; None takes torch's own.
        qualities: integer qualities to draw from, in place of ``quality``.
        weights: of ``qualities`` or ``tables``, at least 0, in any unit; None draws them uniformly.
        tables: tables to draw from, in place of ``quality``; or a file of ``fdjpeg tables harvest``, which brings its
            counts as weights.
        subsampling: as for `fdjpeg.jpeg`; or several, to draw from uniformly.
        upsampling, gradient: as for `fdjpeg.jpeg`.

    Shape:
        ``(..., 3, H, W)`` or ``(..., 1, H, W)`` to the same.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range, or two of them exclude each other.
    """

    parameters_type = JPEGParameters

    def __init__(
        self,
        quality: tuple[int, int] = DEFAULT_RANGE,
        p: float = 1.0,
        generator: torch.Generator | None = None,
        *,
        qualities: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
        tables: Sequence[QuantTables] | str | os.PathLike[str] | None = None,
        subsampling: str | Sequence[str] = "4:2:0",
        upsampling: str = "fancy",
        gradient: str | Surrogate = "straight-through",
    ) -> None:
        super().__init__(p, generator)
        if isinstance(tables, (str, os.PathLike)):
            if weights is not None:
                raise ValueError(f"weights must be None where tables are a file, which has counts, got {weights!r}")
            counted = TableCounts.load(tables)
            tables, weights = counted.tables, counted.counts
        self.quality = _checked_range(quality)
        given = [name for name, value in (("qualities", qualities), ("tables", tables)) if value is not None]
        if given and (self.quality != DEFAULT_RANGE or len(given) > 1):
            raise ValueError(f"{' and '.join(given)} take the place of quality: give one of them, got several")
        self.subsamplings = _listed(subsampling)
        if not self.subsamplings:
            raise ValueError("subsampling must be a name or one or more of them, got none")
        for name in self.subsamplings:
            check_arguments(75, None, name, upsampling, gradient, "libjpeg", False)
        self.subsampling = subsampling if isinstance(subsampling, str) else self.subsamplings
        self.upsampling = upsampling
        self.gradient = surrogates.resolve(gradient)
        self.qualities = None if qualities is None else checked_qualities(qualities)
        # Plain numbers, so that a layer made on the meta device has them too.
        self.steps = None if tables is None else _stacked(tables)
        self.count = len(self.steps or self.qualities or ())
        self.weights = None if weights is None else _checked_weights(weights, self.count)
        self.boundaries = _boundaries(self.weights)

    def draw_from(self, draws: Draws) -> JPEGParameters:
        """See `Augmentation.draw_from`."""
        quality = table = subsampling = None
        if self.steps is not None:
            drawn = table = self._chosen(draws)
        elif self.qualities is not None:
            drawn = self._chosen(draws)
            quality = constant(self.qualities, torch.int64, drawn)[drawn]
        else:
            drawn = quality = self.quality[0] + draws.integers(self.quality[1] - self.quality[0] + 1)
        applied = self._applied(draws, drawn)
        if len(self.subsamplings) > 1:
            subsampling = scaled(draws.on_host(), len(self.subsamplings))
        return JPEGParameters(applied, quality, table, subsampling)

    def _chosen(self, draws: Draws) -> Tensor:
        """Places in the list of qualities or tables, by weight."""
        if self.weights is None:
            return draws.integers(self.count)
        chance = draws.uniform()
        return torch.searchsorted(constant(self.boundaries, torch.float32, chance), chance, right=True)

    def augmented(self, batch: Tensor, parameters: JPEGParameters) -> Tensor:
        """See `Augmentation.augmented`."""
        if parameters.subsampling is None or batch.size(1) == 1:
            return self._compressed(batch, self.subsamplings[0], parameters)
        names = [self.subsamplings[place] for place in parameters.subsampling.tolist()]
        return in_groups(batch, names, parameters, self._compressed)

    def _compressed(self, batch: Tensor, subsampling: str, parameters: JPEGParameters) -> Tensor:
        tables = None
        if parameters.table is not None and self.steps is not None:
            steps = constant(self.steps, torch.float32, batch)[parameters.table.to(batch.device)]
            tables = QuantTables(*steps.unbind(1))
        return functional.jpeg(
            batch,
            DEFAULT_QUALITY if parameters.quality is None else parameters.quality,
            tables=tables,
            subsampling=subsampling,
            upsampling=self.upsampling,
            gradient=self.gradient,
        )

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        if self.steps is not None:
            strength = f"tables={self.count} sets"
        elif self.qualities is not None:
            strength = f"qualities={self.qualities}"
        else:
            strength = f"quality={self.quality}"
        text = f"{strength}, p={self.p:g}, subsampling={self.subsampling!r}"
        return f"{text}, gradient={surrogates.written(self.gradient)}"


def _listed(subsampling: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the names in a list; anything else is one name, right or wrong."""
    if isinstance(subsampling, (tuple, list)) and all(isinstance(name, str) for name in subsampling):
        return tuple(subsampling)
    return (subsampling,)  # type: ignore[return-value]


def _checked_range(quality: object) -> tuple[int, int]:
    ends = whole_numbers(quality)
    if ends is None or len(ends) != 2 or not 1 <= ends[0] <= ends[1] <= 100:
        raise ValueError(f"quality must be two integers, 1 ≤ least ≤ greatest ≤ 100, got {quality!r}")
    return ends[0], ends[1]


def checked_qualities(qualities: object) -> tuple[int, ...]:
    """Returns integer qualities, or raises where there is none or one is out of 1…100."""
    found = whole_numbers(qualities)
    if not found or not all(1 <= quality <= 100 for quality in found):
        raise ValueError(f"qualities must be one or more integers in 1…100, got {qualities!r}")
    return found


def _checked_weights(weights: Any, count: int) -> tuple[float, ...]:
    if count == 0:
        raise ValueError(f"weights must come with qualities or tables, got {weights!r} alone")
    check_no_gradient("weights", weights)
    if isinstance(weights, Tensor):
        weights = weights.tolist()
    if isinstance(weights, str) or not hasattr(weights, "__len__"):
        raise TypeError(f"weights must be a list of numbers, got {weights!r}")
    if len(weights) != count:
        raise ValueError(f"weights must be {count} numbers, one for each choice, got {len(weights)}")
    right = all(is_real(weight) and is_finite(weight) and weight >= 0 for weight in weights)
    if not right or sum(weights) == 0 or not is_finite(sum(weights)):
        raise ValueError(f"weights must be finite, at least 0 and not all 0, got {weights!r}")
    return tuple(float(weight) for weight in weights)


def _boundaries(weights: tuple[float, ...] | None) -> tuple[float, ...]:
    """Returns where one choice ends and the next begins in [0, 1]; nothing where all are alike."""
    if weights is None:
        return ()
    ends = tuple(itertools.accumulate(weights))
    return tuple(end / ends[-1] for end in ends[:-1])


def _stacked(tables: Sequence[QuantTables]) -> tuple[Any, ...]:
    """Returns sets of tables as nested tuples ``(T, 3, 8, 8)``."""
    if not isinstance(tables, Sequence):
        raise TypeError(f"tables must be a list of fdjpeg.QuantTables or a file, got {type(tables).__name__}")
    for one in tables:
        check_tables(one)
        check_no_gradient("tables", one.y, one.cb, one.cr)
        if one.batch_size not in (None, 1):
            raise ValueError(f"tables must be single sets, got a batch of {one.batch_size} in the list")
    if not tables:
        raise ValueError("tables must be one or more sets, got none")
    try:
        return _nested(torch.cat([one.stacked().float() for one in tables]).tolist())
    except RuntimeError as error:
        raise ValueError(
            "tables must hold values, which the layer keeps as numbers, got tensors without, such as meta tensors"
        ) from error


def _nested(values: list[Any]) -> tuple[Any, ...]:
    return tuple(_nested(value) if isinstance(value, list) else value for value in values)
