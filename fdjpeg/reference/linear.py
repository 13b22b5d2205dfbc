"""Linear maps by small matrices, for both arithmetics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import TypeVar

import torch
from torch import Tensor

_Number = TypeVar("_Number", int, float)


def transposed(matrix: Sequence[Sequence[_Number]]) -> list[list[_Number]]:
    """Returns the transposed matrix."""
    return [list(column) for column in zip(*matrix, strict=True)]


def linear_map(matrix: Sequence[Sequence[float]], x: Tensor, dim: int) -> Tensor:
    """Applies a matrix along ``dim``.

    ``matmul`` would not do: a GPU has none for integers, and autocast would lower its precision.
    """
    inputs = x.unbind(dim)
    return torch.stack([reduce(add, [m * s for m, s in zip(row, inputs, strict=True)]) for row in matrix], dim)
