"""Rows of bad input by the kind of an argument: an integer, a text, a module, a tensor, a list, a path."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from support.bad_input import Row, rows

Call = Callable[..., object]


def of_whole(name: str, argument: str, call: Call, least: int | None = None) -> list[Row]:
    """Rows of an integer of at least ``least``."""
    found = rows(
        name,
        (lambda: call(**{argument: "5"}), TypeError, f"{argument} must be an integer, got '5'"),
        (lambda: call(**{argument: 2.5}), TypeError, f"{argument} must be an integer, got 2.5"),
        (lambda: call(**{argument: True}), TypeError, f"{argument} must be an integer, got True"),
        (lambda: call(**{argument: [5]}), TypeError, f"{argument} must be an integer, got [5]"),
    )
    if least is not None:
        message = f"{argument} must be at least {least}, got {least - 1}"
        found += rows(name, (lambda: call(**{argument: least - 1}), ValueError, message))
    return found


def of_positive(name: str, argument: str, call: Call) -> list[Row]:
    """Rows of a number above 0."""
    wanted = f"{argument} must be positive and finite, got"
    return rows(
        name,
        (lambda: call(**{argument: "5"}), TypeError, f"{argument} must be a number, got '5'"),
        (lambda: call(**{argument: None}), TypeError, f"{argument} must be a number, got None"),
        (lambda: call(**{argument: 0}), ValueError, f"{wanted} 0"),
        (lambda: call(**{argument: -1}), ValueError, f"{wanted} -1"),
        (lambda: call(**{argument: math.nan}), ValueError, f"{wanted} nan"),
        (lambda: call(**{argument: math.inf}), ValueError, f"{wanted} inf"),
        (lambda: call(**{argument: 10**400}), ValueError, f"{wanted} 1000"),
    )


def of_text(name: str, argument: str, call: Call) -> list[Row]:
    """Rows of a text."""
    return _of_type(name, argument, call, f"{argument} must be a text, got ", repr)


def of_flag(name: str, argument: str, call: Call) -> list[Row]:
    """Rows of True or False."""
    wanted = f"{argument} must be True or False, got "
    return rows(
        name,
        (lambda: call(**{argument: 1}), TypeError, f"{wanted}1"),
        (lambda: call(**{argument: "yes"}), TypeError, f"{wanted}'yes'"),
        (lambda: call(**{argument: None}), TypeError, f"{wanted}None"),
    )


def of_module(name: str, argument: str, call: Call, none: bool = False) -> list[Row]:
    """Rows of a ``torch.nn.Module``; ``none`` says whether None is right."""
    wanted = f"{argument} must be a torch.nn.Module, got "
    found = rows(
        name,
        (lambda: call(**{argument: "resnet18"}), TypeError, f"{wanted}str"),
        (lambda: call(**{argument: torch.zeros(2)}), TypeError, f"{wanted}Tensor"),
        (lambda: call(**{argument: len}), TypeError, f"{wanted}builtin_function_or_method"),
    )
    return found if none else [*found, *rows(name, (lambda: call(**{argument: None}), TypeError, f"{wanted}NoneType"))]


def of_tensor(name: str, argument: str, call: Call, none: bool = False) -> list[Row]:
    """Rows of a tensor; ``none`` says whether None is right."""
    wanted = f"{argument} must be a torch.Tensor"
    found = rows(
        name,
        (lambda: call(**{argument: [0.5]}), TypeError, wanted),
        (lambda: call(**{argument: "image"}), TypeError, wanted),
        (lambda: call(**{argument: 3}), TypeError, wanted),
    )
    return found if none else [*found, *rows(name, (lambda: call(**{argument: None}), TypeError, wanted))]


def of_list(name: str, argument: str, call: Call) -> list[Row]:
    """Rows of a list of things."""
    return rows(
        name,
        (lambda: call(**{argument: "one"}), TypeError, f"{argument} must be a list, got 'one'"),
        (lambda: call(**{argument: None}), TypeError, f"{argument} must be a list, got None"),
        (lambda: call(**{argument: 3}), TypeError, f"{argument} must be a list, got 3"),
    )


def of_path(name: str, argument: str, call: Call) -> list[Row]:
    """Rows of a path."""
    return _of_type(name, argument, call, f"{argument} must be a path, got ", repr)


def of_choice(name: str, argument: str, call: Call) -> list[Row]:
    """Rows of a name among a few."""
    wanted = f"{argument} must be "
    return rows(
        name,
        (lambda: call(**{argument: "another"}), ValueError, wanted),
        (lambda: call(**{argument: None}), ValueError, wanted),
        (lambda: call(**{argument: ["linf"]}), ValueError, wanted),
    )


def _of_type(name: str, argument: str, call: Call, wanted: str, shown: Callable[[Any], str]) -> list[Row]:
    values = (None, 3, [1])
    return rows(
        name,
        *(
            (lambda value=value: call(**{argument: value}), TypeError, wanted + shown(value))  # type: ignore[misc]
            for value in values
        ),
    )


def of_callable(name: str, argument: str, call: Call) -> list[Row]:
    """Rows of a function or None."""
    wanted = f"{argument} must be a function or None, got "
    return rows(
        name,
        (lambda: call(**{argument: 3}), TypeError, f"{wanted}3"),
        (lambda: call(**{argument: "print"}), TypeError, f"{wanted}'print'"),
    )
