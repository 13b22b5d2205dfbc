"""Surrogates in the form that kernels take: a table of the derivative across one step, or a built-in one's formula."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fdjpeg.surrogates import (
    BY_NAME,
    NAMES,
    Cubic,
    Floored,
    Fourier,
    Sine,
    Softmax,
    StraightThrough,
    Surrogate,
    Tanh,
    Zero,
)

# ---------------------------------------------------------------------------------------------------------------------
# Formulas, for the kernels of the real arithmetic


class Formula(NamedTuple):
    """A built-in surrogate as the kernels of the real arithmetic take it."""

    name: str
    parameter: float  #: alpha, or the number of terms; else 0
    floor: float


def formula_of(surrogate: Surrogate) -> Formula | None:
    """Returns the formula from which `surrogate_of` makes ``surrogate`` again; None for noise or a user's own.

    `Identity` gives the formula of `StraightThrough`, which it is for coefficients.
    """
    kind = type(surrogate)
    if kind not in NAMES:
        return None
    if isinstance(surrogate, Floored):
        parameter = getattr(surrogate, "alpha", getattr(surrogate, "terms", 0))
        return Formula(NAMES[kind], float(parameter), float(surrogate.floor))
    return Formula(Zero.name if kind is Zero else StraightThrough.name, 0.0, 0.0)


def surrogate_of(formula: Formula) -> Surrogate:
    """Returns the surrogate of a formula."""
    kind = BY_NAME[formula.name]
    if kind in (Tanh, Softmax):
        return kind(formula.parameter, floor=formula.floor)
    if kind is Fourier:
        return kind(int(formula.parameter), floor=formula.floor)
    return kind(floor=formula.floor) if kind in (Cubic, Sine) else kind()


# ---------------------------------------------------------------------------------------------------------------------
# Tables, for the kernels of the exact arithmetic

#: The number of equal parts into which `slope_table` divides a step: linear interpolation then errs by less than 1e-5
#: of the largest slope, for the built-in surrogates at their default parameters.
SLOPE_INTERVALS = 8192


def slope_table(surrogate: Surrogate, device: torch.device) -> Tensor | None:
    """Tabulates a surrogate's derivative across one step, for kernels to interpolate.

    Args:
        surrogate: one with an attribute ``periodic`` that is True: its derivative depends on c − round(c) only.
        device: where the table is wanted; it is computed there, so that no copy has to be waited for.

    Returns:
        float32 ``(SLOPE_INTERVALS + 1,)``: r′ at c − round(c) from −½ to ½, both included. None if the surrogate is
        not periodic.
    """
    if not getattr(surrogate, "periodic", False):
        return None
    remainder = torch.linspace(-0.5, 0.5, SLOPE_INTERVALS + 1, dtype=torch.float64, device=device)
    return surrogate.derivative(remainder).to(torch.float32)


def slopes_for(image: Tensor, surrogate: Surrogate) -> Tensor | None:
    """Returns `slope_table` on the device of an image: that of a built-in surrogate is computed once and then kept.

    It is computed again where a kept one must not be used: for a user's own surrogate, which may change; while
    torch.compile or torch.export trace; for fake images and other subclasses; and while a CUDA graph is captured, which
    would outlive it.
    """
    formula, device = formula_of(surrogate), image.device
    plain = not torch.compiler.is_compiling() and type(image) in (Tensor, torch.nn.Parameter)
    if formula is None or not plain or device.type not in ("cpu", "meta", "cuda"):
        return slope_table(surrogate, device)
    if device.type != "cuda":
        return _kept_slope_table(formula, device, None)
    if torch.cuda.is_current_stream_capturing():
        return slope_table(surrogate, device)
    return _kept_slope_table(formula, device, torch.cuda.current_stream(device))


@lru_cache(maxsize=64)
def _kept_slope_table(formula: Formula, device: torch.device, stream: torch.cuda.Stream | None) -> Tensor | None:
    """Keeps a table for one stream: the one that writes it, so that every reader comes after."""

    def computed() -> Tensor | None:
        with torch.cuda.stream(stream):
            return slope_table(surrogate_of(formula), device)

    # A new thread is outside of the caller's torch.func transforms, modes and inference mode, whose tensors would be of
    # no use after them.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(computed).result()


def interpolate_slopes(slopes: Tensor, remainder: Tensor) -> Tensor:
    """Reads `slope_table` as a kernel does, at c − round(c) of any shape: linear between the two nearest entries."""
    position = (remainder + 0.5) * (slopes.numel() - 1)
    below = position.long().clamp(0, slopes.numel() - 2)
    return torch.lerp(slopes[below].to(remainder), slopes[below + 1].to(remainder), position - below)
