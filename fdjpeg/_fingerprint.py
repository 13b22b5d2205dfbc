"""Fingerprints of modules and settings: equal only for the same weights, classes and attributes, in every process."""

from __future__ import annotations

import functools
import hashlib
import re
import types
import warnings
from typing import Any

import torch
from torch import Tensor, nn

#: A place in memory, as objects without a text of their own are printed; it differs from process to process.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

#: Attributes of every ``torch.nn.Module``; weights and submodules are in the fingerprint already.
_OF_MODULES = frozenset(vars(nn.Module()))


def digest(module: nn.Module) -> str:
    """Returns a fingerprint of a module's parameters, buffers and printed form.

    Where the printed form holds memory addresses, they are left out, and the attributes of all submodules count
    instead: objects by their class and attributes, functions by their name and code.
    """
    printed = repr(module)
    if _ADDRESS.search(printed):
        parts = [f"{name}: {attributes(part)}" for name, part in module.named_modules()]
        printed = "\n".join([_ADDRESS.sub("", printed), *parts])
    state = hashlib.sha256(printed.encode())
    for name, value in module.state_dict().items():
        state.update(name.encode())
        if isinstance(value, Tensor):
            state.update(_content(value))
    return state.hexdigest()[:16]


def attributes(part: nn.Module) -> str:
    """Returns the attributes of a module that are neither weights nor submodules, as text."""
    own = {name: value for name, value in vars(part).items() if name not in _OF_MODULES}
    return described(own)


def described(value: Any) -> str:
    """Returns a text of a value that holds no memory address: equal only for equal values.

    Warns:
        UserWarning: for an object without attributes that prints an address; only its class counts.
    """
    return _described(value, ())


def _described(value: Any, above: tuple[int, ...]) -> str:
    if id(value) in above:
        return "itself"
    above = (*above, id(value))
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(_content(value)).hexdigest()[:16]}"
    if isinstance(value, nn.Module):
        return digest(value)
    if isinstance(value, dict):
        items = sorted((_described(key, above), _described(item, above)) for key, item in value.items())
        return f"{{{', '.join(f'{key}: {item}' for key, item in items)}}}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(_described(item, above) for item in value)})"
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}({', '.join(sorted(_described(item, above) for item in value))})"
    if isinstance(value, functools.partial):
        return f"partial {_described([value.func, value.args, value.keywords], above)}"
    if isinstance(value, torch.Generator):
        return f"Generator {value.device} {value.initial_seed()}"
    if isinstance(value, types.MethodType):
        return f"{_described(value.__func__, above)} of {_described(value.__self__, above)}"
    if isinstance(value, types.FunctionType):
        return _function(value, above)
    return _object(value, above)


def _function(function: types.FunctionType, above: tuple[int, ...]) -> str:
    """A function by its name, its code and the values that it closes over."""
    code = function.__code__
    constants = [item for item in code.co_consts if not isinstance(item, types.CodeType)]
    closed = [cell.cell_contents for cell in function.__closure__ or ()]
    held = _described([constants, list(code.co_names), closed, function.__defaults__ or ()], above)
    return f"{function.__module__}.{function.__qualname__} {hashlib.sha256(code.co_code).hexdigest()[:16]} {held}"


def _object(value: Any, above: tuple[int, ...]) -> str:
    printed = repr(value)
    if not _ADDRESS.search(printed):
        return printed
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if hasattr(value, "__dict__"):
        return f"{kind} {_described(vars(value), above)}"
    warnings.warn(
        f"A {kind} prints its address in memory and has no attributes: finished work is found by its class alone",
        stacklevel=2,
    )
    return kind


def _content(value: Tensor) -> bytes:
    content: bytes = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return content
