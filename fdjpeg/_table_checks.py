"""Checks of quantization tables and of what they are made from, and small arithmetic on steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from fdjpeg._numbers import is_finite, is_real, is_whole, plain, values_can_be_read
from fdjpeg._standard_tables import (
    LARGEST_STEP,
    SMALLEST_STEP,
    clamped_quality,
    libjpeg_steps,
    soft_steps,
    straight_through_steps,
)

if TYPE_CHECKING:
    import numpy

    Table: TypeAlias = Tensor | Sequence[Sequence[float]] | numpy.ndarray[Any, Any]

#: The number of steps in a table.
STEPS = 64

#: The steps that are taken as numbers for real arithmetic. Beyond, float32 cannot divide by them.
SMALLEST_REAL_STEP, LARGEST_REAL_STEP = 1e-30, 1e30


def check_real(tensor: Tensor, name: str) -> None:
    """Raises unless the dtype is of integers or of floating numbers."""
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise TypeError(f"{name} must have an integer or floating dtype, got {tensor.dtype}")


def check_soft(soft: bool) -> None:
    """Raises unless it is a bool."""
    if not isinstance(soft, bool):
        raise TypeError(f"soft must be True or False, got {soft!r}")


# ---------------------------------------------------------------------------------------------------------------------
# Qualities


def quality_tensor(quality: object) -> Tensor:
    """Returns a number in 1…100 as a 0-dim tensor, so that numbers and tensors take one way through the arithmetic."""
    number = _number(quality, "quality", "a number or a tensor")
    if not 1 <= number <= 100:
        raise ValueError(f"quality must be in 1…100, got {quality}")
    return torch.tensor(float(number), dtype=torch.float64, device=home())


def check_quality_tensor(quality: Tensor) -> None:
    """Raises unless ``quality`` is real and 0-dim or ``(N,)``."""
    check_real(quality, "quality")
    if quality.dim() > 1:
        raise ValueError(f"quality must be a number or a tensor of shape () or (N,), got shape {tuple(quality.shape)}")


def standard_steps(quality: float | Tensor, soft: bool) -> Tensor:
    """Returns the steps of `fdjpeg.QuantTables.standard`, ``(..., 2, 8, 8)``, luma first."""
    check_soft(soft)
    if isinstance(quality, Tensor):
        check_quality_tensor(quality)
        dtype = torch.float64 if quality.dtype == torch.float64 else torch.float32
        differentiable = quality.is_floating_point()
    else:
        quality = quality_tensor(quality)
        dtype = torch.get_default_dtype()
        differentiable = False
    if soft:
        return soft_steps(quality).to(dtype)
    if differentiable:
        return straight_through_steps(quality).to(dtype)
    return libjpeg_steps(clamped_quality(quality))


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def home() -> torch.device | None:
    """Returns where tables of Python's numbers are made: torch's default device; the CPU where that holds no values."""
    if torch.compiler.is_compiling():  # cannot trace the question
        return None
    device = torch.get_default_device()
    return torch.device("cpu") if device.type == "meta" else device


def as_table(table: Table, name: str) -> Tensor:
    """Returns ``table`` as a tensor of a real dtype, ``(8, 8)`` or ``(N, 8, 8)``; a tensor stays itself."""
    if not isinstance(table, Tensor):
        try:
            table = torch.tensor(table, device=home())
        except (TypeError, ValueError, RuntimeError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(
                f"{name} must be a tensor, an array or nested lists of numbers, got {type(table).__name__} ({error})"
            ) from error
    check_real(table, name)
    if table.dim() not in (2, 3) or table.shape[-2:] != (8, 8):
        raise ValueError(f"{name} must have shape (8, 8) or (N, 8, 8), got {tuple(table.shape)}")
    return table


def flat_table(step: float | Tensor) -> Tensor:
    """Returns the table of `fdjpeg.QuantTables.flat`, ``(8, 8)`` or ``(N, 8, 8)``."""
    if not isinstance(step, Tensor):
        return torch.full((8, 8), positive(step, "step", "a number or a tensor"), device=home())
    check_real(step, "step")
    if step.dim() > 1:
        raise ValueError(f"step must be a number or a tensor of shape () or (N,), got shape {tuple(step.shape)}")
    return step.reshape(*step.shape, 1, 1).expand(*step.shape, 8, 8)


def check_alike(tables: Mapping[str, Tensor]) -> None:
    """Raises if the tables are on different devices, or for different numbers of images."""
    devices = {name: str(table.device) for name, table in tables.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"tables must be on one device, got {_listed(devices)}")
    batches = {name: table.shape[0] for name, table in tables.items() if table.dim() == 3 and table.shape[0] != 1}
    if any(one != other for one, other in pairwise(batches.values())):  # a set would fix a size that torch.export frees
        raise ValueError(f"tables must be for the same number of images, got {_listed(batches)}")


def _listed(values: Mapping[str, object]) -> str:
    """Lists values by name: ``y: 1, cb: 2``."""
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def squares_of(tables: Mapping[int, Sequence[int]], title: str) -> list[Tensor]:
    """Returns lists of 64 whole steps in row-major order as int64 ``(8, 8)`` tensors.

    Args:
        tables: by their numbers.
        title: names a table in messages, with ``{}`` for its number.

    Raises:
        ValueError: a list has not 64 entries, or holds anything but integers in 1…255.
    """
    for number, steps in tables.items():
        name = title.format(number)
        length = len(steps) if isinstance(steps, Sized) else type(steps).__name__
        if length != STEPS:
            raise ValueError(f"{name} must have {STEPS} steps, got {length}")
        _check_steps(steps, name)
    return [
        torch.tensor([int(step) for step in steps], dtype=torch.int64, device=home()).reshape(8, 8)
        for steps in tables.values()
    ]


def _check_steps(steps: Sequence[object], name: str) -> None:
    """Raises unless all ``steps`` are integers that a baseline file can hold."""
    for index, step in enumerate(steps):
        if not is_whole(step) or not SMALLEST_STEP <= step <= LARGEST_STEP:  # type: ignore[operator]
            raise ValueError(f"{name} must hold integers in 1…255, got {step} at [{index // 8}, {index % 8}]")


def check_steps_of(tables: Mapping[str, Tensor], arithmetic: str) -> None:
    """Raises if a step would be limited (see `fdjpeg.tables.check_tables`); tables that cannot be read pass."""
    if arithmetic not in ("libjpeg", "real"):
        raise ValueError(f'arithmetic must be "libjpeg" or "real", got {arithmetic!r}')
    if not values_can_be_read(*tables.values()):
        return
    for name, table in tables.items():
        steps = table.detach().double().cpu()
        if arithmetic == "libjpeg":
            right, wanted = (steps.round() >= SMALLEST_STEP) & (steps.round() <= LARGEST_STEP), "in 1…255"
        else:
            right, wanted = (steps > 0) & steps.isfinite(), "above 0 and finite"
        wrong = (~right).nonzero()
        if len(wrong):
            place = wrong[0].tolist()
            raise ValueError(f"tables.{name}{place} must be {wanted}, got {steps[tuple(place)].item():g}")


def integer_steps(table: Tensor) -> Tensor:
    """Returns clamp(round(q), 1, 255) in int64, half to even, NaN as 1."""
    steps = table.detach().double()
    return torch.where(steps.isnan(), 1, steps.round()).clamp(SMALLEST_STEP, LARGEST_STEP).to(torch.int64)


def fine_and_coarse(statistics: Table, n: int, fine: float, coarse: float) -> Tensor:
    """Makes the table of `QuantTables.feature_distillation`: ``fine`` in the ``n`` bands of largest ``statistics``."""
    statistics = as_table(statistics, "statistics")
    if statistics.dim() != 2:
        raise ValueError(f"statistics must have shape (8, 8), got {tuple(statistics.shape)}")
    if not is_whole(n):
        raise TypeError(f"n must be an integer, got {type(n).__name__}")
    if not 0 <= n <= STEPS:
        raise ValueError(f"n must be in 0…64, got {n}")
    order = statistics.detach().flatten().argsort(descending=True, stable=True)
    fine_steps = torch.full((int(n),), positive(fine, "fine"), device=order.device)
    coarse_steps = torch.full((STEPS - int(n),), positive(coarse, "coarse"), device=order.device)
    return torch.cat([fine_steps, coarse_steps])[order.argsort()].reshape(8, 8)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def _number(value: object, name: str, wanted: str = "a number") -> int | float:
    """Returns ``value``, if it is a real number (a NumPy one too), as an int or a float."""
    if is_real(value):
        return plain(value)  # type: ignore[arg-type]
    raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")


def positive(step: object, name: str, wanted: str = "a number") -> int | float:
    """Returns ``step``, if it is a positive finite number; a whole one stays an int."""
    number = _number(step, name, wanted)
    if not (number > 0 and is_finite(number)):
        raise ValueError(f"{name} must be above 0 and finite, got {step}")
    if not SMALLEST_REAL_STEP <= number <= LARGEST_REAL_STEP:
        raise ValueError(f"{name} must be in {SMALLEST_REAL_STEP:g}…{LARGEST_REAL_STEP:g}, got {step}")
    return number
