"""The calls of every op in Triton whose kernels are compiled ahead and measured, on memory that nothing touches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fdjpeg._geometry import Geometry
from fdjpeg._slopes import SLOPE_INTERVALS
from fdjpeg._triton import ops

#: The images of the targets in ``benchmarks/expected.py``.
MEASURED = (256, 3, 224, 224)

#: Kernels that work on tables alone; some of them hold a loop, or call the division of doubles.
SMALL = ("prepare_steps", "add_shares", "make_steps", "differentiate_steps")


class Call(NamedTuple):
    """Images of a kind, and the settings of an op on them."""

    dtype: torch.dtype
    shape: tuple[int, int, int, int] = MEASURED
    factors: tuple[int, int] = (2, 2)
    fancy: bool = True
    tables: bool = False

    def of(self, op: str) -> Callable[[], Any]:
        """Returns the call of an op by its name in `OPS`."""
        return OPS[op](self)

    @property
    def image(self) -> Tensor:
        """Images."""
        return torch.empty(self.shape, dtype=self.dtype)

    @property
    def geometry(self) -> Geometry:
        """Their geometry."""
        return Geometry.of(*self.shape[2:], self.shape[1], *self.factors)

    @property
    def options(self) -> tuple[Any, ...]:
        """The arguments after the image, of the round trip."""
        return self._given_tables, 75.0, *self.factors, self.fancy

    @property
    def _given_tables(self) -> Tensor | None:
        return torch.ones(self.shape[0], 3, 8, 8) if self.tables else None

    def planes(self) -> Tensor:
        """Returns the planes that forward keeps for backward."""
        return torch.empty(self.shape[0], self.geometry.plane_bytes, dtype=torch.uint8)

    def mask(self) -> Tensor:
        """Returns the mask that forward in real numbers keeps."""
        return torch.empty(self.shape[0], *self.shape[2:], dtype=torch.uint8)

    def blocks(self) -> Tensor:
        """Returns packed coefficients."""
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        return torch.empty(self.shape[0], self.geometry.flag_offset // 64, 8, 8, dtype=dtype)

    def levels(self) -> list[Tensor]:
        """Returns the quantized coefficients of each component."""
        planes = (self.geometry.luma, self.geometry.chroma, self.geometry.chroma)
        return [torch.empty(self.shape[0], plane.rows, plane.columns, 8, 8, dtype=torch.int16) for plane in planes]


def _backward(of_tables: bool) -> Callable[[Call], Callable[[], Any]]:
    return lambda one: lambda: ops.round_trip_backward(one.image, one.planes(), one.image, *one.options, of_tables)


def _surrogate(of_tables: bool) -> Callable[[Call], Callable[[], Any]]:
    return lambda one: (
        lambda: ops.surrogate_backward(
            one.image, one.planes(), one.image, *one.options, of_tables, torch.empty(SLOPE_INTERVALS + 1)
        )
    )


def _real(name: str, parameter: float, soft: bool) -> Callable[[Call], Callable[[], Any]]:
    return lambda one: lambda: ops.real_round_trip(one.image, *one.options, name, parameter, 0.0, soft)


def _real_backward(name: str, parameter: float, soft: bool, of_tables: bool) -> Callable[[Call], Callable[[], Any]]:
    return lambda one: (
        lambda: ops.real_round_trip_backward(
            one.image, one.mask(), one.image, *one.options, name, parameter, 0.0, soft, of_tables
        )
    )


def _by_block(one: Call) -> Callable[[], Any]:
    qualities = torch.empty(one.shape[0], one.geometry.luma.rows, one.geometry.luma.columns, dtype=torch.uint8)
    return lambda: ops.round_trip_by_block(one.image, qualities, *one.factors, one.fancy)


def _decode(one: Call) -> Callable[[], Any]:
    tables = torch.ones(1, 3, 8, 8)
    return lambda: ops.decode(*one.levels(), tables, *one.shape[2:], *one.factors, one.fancy, one.dtype)


def _by_steps(slopes: bool) -> Callable[[Call], Callable[[], Any]]:
    return lambda one: (
        lambda: ops.round_trip_by_steps(
            one.image, one.blocks(), torch.empty(SLOPE_INTERVALS + 1) if slopes else None, *one.factors, one.fancy
        )
    )


OPS: dict[str, Callable[[Call], Callable[[], Any]]] = {
    "forward": lambda one: lambda: ops.round_trip(one.image, *one.options),
    "forward by block": _by_block,
    "backward": _backward(False),
    "backward with tables": _backward(True),
    "surrogate backward": _surrogate(False),
    "surrogate backward with tables": _surrogate(True),
    "encode": lambda one: lambda: ops.encode(one.image, *one.options[:-1]),
    "decode": _decode,
    "real forward": _real("straight-through", 0.0, False),
    "real backward": _real_backward("straight-through", 0.0, False, False),
    "real backward with tables": _real_backward("straight-through", 0.0, False, True),
    "soft tanh forward": _real("tanh", 4.0, True),
    "soft tanh backward with tables": _real_backward("tanh", 4.0, True, True),
    "soft softmax forward": _real("softmax", 4.0, True),
    "soft softmax backward with tables": _real_backward("softmax", 4.0, True, True),
    "forward by steps": _by_steps(False),
    "forward by steps with slopes": _by_steps(True),
    "sum of blocks": lambda one: lambda: ops.sum_blocks(one.blocks(), one.geometry.luma.coded_samples // 64),
    "surrogate": lambda one: lambda: ops.surrogate(one.blocks(), "tanh", 4.0, 0.0, True),
    "backward, rounding": lambda one: lambda: ops.rounded_backward(*4 * [one.blocks()]),
    "backward, division by steps": lambda one: lambda: ops.scaled_backward(*3 * [one.blocks()], True),
    "backward, product with steps": lambda one: lambda: ops.scaled_backward(*3 * [one.blocks()], False),
    "blocks of an image": lambda one: lambda: ops.image_blocks(one.image, *one.factors),
    "backward, blocks of an image": lambda one: (
        lambda: ops.image_blocks_backward(one.blocks(), one.image, one.planes(), *one.factors)
    ),
    "image of blocks": lambda one: lambda: ops.blocks_image(one.blocks(), one.image, *one.factors, one.fancy),
    "backward, image of blocks": lambda one: (
        lambda: ops.blocks_image_backward(one.image, one.planes(), one.image, *one.factors, one.fancy)
    ),
    "DCT of blocks": lambda one: lambda: ops.block_dct(one.image),
    "inverse DCT of blocks": lambda one: (
        lambda: ops.block_idct(torch.empty(*one.shape[:2], *(side // 8 for side in one.shape[2:]), 8, 8))
    ),
}
