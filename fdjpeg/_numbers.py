"""Numbers as arguments: Python's and NumPy's are taken alike; and tensors whose values may be read."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import fields
from fractions import Fraction

import torch
from torch import Tensor
from torch.utils._device import DeviceContext


def is_whole(value: object) -> bool:
    """Returns whether ``value`` is an integer, of NumPy's types or a traced size too, and not a bool."""
    return isinstance(value, (numbers.Integral, torch.SymInt)) and not isinstance(value, bool)


def is_real(value: object) -> bool:
    """Returns whether ``value`` is a real number, of NumPy's types too, and not a bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_finite(value: float) -> bool:
    """Returns whether a real number is neither NaN nor infinite, nor an integer beyond the floating numbers."""
    return -sys.float_info.max <= plain(value) <= sys.float_info.max  # NumPy would round the bounds


def plain(value: numbers.Real | float) -> int | float:
    """Returns a number as Python's int or float."""
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def make_plain(settings: object) -> None:
    """Makes NumPy's numbers among the fields of a frozen dataclass Python's: torch and JSON take only those."""
    for field in fields(settings):  # type: ignore[arg-type]  # a dataclass
        value = getattr(settings, field.name, None)  # fields that are made later are missing
        if is_real(value) and type(value) not in (int, float, Fraction):
            object.__setattr__(settings, field.name, plain(value))  # type: ignore[arg-type]  # a real number


def whole_numbers(values: object) -> tuple[int, ...] | None:
    """Returns an ordered collection of integers (a list, a range, a NumPy array) as a tuple; None for anything else."""
    if isinstance(values, (str, bytes, Tensor, Set, Mapping)) or not isinstance(values, Iterable):
        return None
    listed = tuple(values)
    return tuple(map(int, listed)) if all(map(is_whole, listed)) else None


def shown(value: float, right: Callable[[float], bool]) -> str:
    """Writes a number; a wrong one with as many digits as it takes to show that: 1.0000001 instead of 1."""
    for digits in (6, 9):
        text = f"{value:.{digits}g}"
        if right(float(text)) == right(value):
            return text
    return repr(value)


def percent(share: float, digits: int = 0) -> str:
    """Writes a share as a number of percent. Only 0 and 1 become 0 and 100: an exception is not rounded away."""
    text, least = f"{100 * share:.{digits}f}", 10.0**-digits
    if share < 1 and float(text) >= 100:
        return f"{100 - least:.{digits}f}"
    if share > 0 and float(text) <= 0:
        return f"{least:.{digits}f}"
    return text


def values_can_be_read(*tensors: Tensor) -> bool:
    """Returns whether the values of tensors are there, and looking at them disturbs nobody.

    They are not while torch.compile, torch.export, torch.jit.trace or ``make_fx`` trace, inside transformations of
    ``torch.func``, under any other mode (such as ``FakeTensorMode``), and for meta tensors and subclasses.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    modes = map(torch._C._get_function_stack_at, range(torch._C._len_torch_function_stack()))
    if any(not isinstance(mode, DeviceContext) for mode in modes):  # torch.device as a context is a mode as well
        return False
    return all(type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_meta for tensor in tensors)
