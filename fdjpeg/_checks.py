"""Checks of arguments that several rooms share: each refuses a wrong value with its name, the wanted and the given."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set

import torch
from torch import Tensor

from fdjpeg._numbers import is_finite, is_real, is_whole


def check_whole(name: str, value: object, least: int | None = None) -> None:
    """Refuses an argument that is no integer, or one below ``least``.

    Args:
        name: the argument's name.
        value: its value.
        least: the least right value; None for any.

    Raises:
        TypeError, ValueError: with the name, the wanted value and the given one.
    """
    if not is_whole(value):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if least is not None and value < least:  # type: ignore[operator]
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if isinstance(value, int) and value >= 2**63:
        raise ValueError(f"{name} must be an integer of 64 bits, got {value}")


def check_seed(name: str, value: object) -> None:
    """Refuses an argument that seeds no generator of torch's: they take 64 bits, with or without a sign.

    The arguments are those of `check_whole`.
    """
    if not is_whole(value):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not -(2**63) <= value < 2**64:  # type: ignore[operator]
        raise ValueError(f"{name} must be in -2^63…2^64 - 1, got {value}")


def check_positive(name: str, value: object) -> None:
    """Refuses an argument that is no number above 0, or not finite. The arguments are those of `check_whole`."""
    if not is_real(value):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (value > 0 and is_finite(value)):  # type: ignore[operator, arg-type]
        raise ValueError(f"{name} must be positive and finite, got {value}")


def check_text(name: str, value: object) -> None:
    """Refuses an argument that is no text. The arguments are those of `check_whole`."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, got {value!r}")


def check_tensor(name: str, value: object, shape: str = "") -> None:
    """Refuses an argument that is no tensor. ``shape`` is the wanted shape in words."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor{shape and ' ' + shape}, got {type(value).__name__}")


def check_no_gradient(name: str, *values: object) -> None:
    """Refuses tensors that require a gradient, where only their numbers are kept.

    Raises:
        ValueError: with the argument's name.
    """
    for value in values:
        if isinstance(value, Tensor) and value.requires_grad:
            raise ValueError(f"{name} must need no gradient, which would be lost here, got a tensor that requires one")


def check_module(name: str, value: object) -> None:
    """Refuses an argument that is no module. The arguments are those of `check_whole`."""
    if not isinstance(value, torch.nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, got {type(value).__name__}")


def check_flags(owner: object, *names: str) -> None:
    """Refuses attributes of ``owner`` that are neither True nor False.

    Raises:
        TypeError: with the attribute's name and value.
    """
    for name in names:
        check_flag(name, getattr(owner, name))


def check_flag(name: str, value: object) -> None:
    """Refuses an argument that is neither True nor False. The arguments are those of `check_whole`."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_path(name: str, value: object) -> None:
    """Refuses an argument that is no path. The arguments are those of `check_whole`."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {value!r}")


def check_list(name: str, value: object) -> None:
    """Refuses one text, or one thing, where several are wanted. The arguments are those of `check_whole`."""
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, Mapping, Set)):
        raise TypeError(f"{name} must be a list, got {value!r}")


def check_callable(name: str, value: object) -> None:
    """Refuses an argument that can neither be called nor is None. The arguments are those of `check_whole`."""
    if not (value is None or callable(value)):
        raise TypeError(f"{name} must be a function or None, got {value!r}")
