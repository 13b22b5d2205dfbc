"""Objects in words that do not depend on where they are in memory, so that the next process writes the same."""

from __future__ import annotations

import functools
import hashlib
import re
import types
from typing import Any

import torch
from torch import Tensor

_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)


def described(value: Any) -> str:
    """Returns an object's ``repr``; where that holds an address, the object's class and attributes instead.

    Functions are written with a digest of their code and of all that they close over, generators with their seed, and
    tensors with a digest of their values.
    """
    return _described(value, ())


def _described(value: Any, outer: tuple[Any, ...]) -> str:
    if any(value is other for other in outer):
        return "..."
    inner = (*outer, value)
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, torch.Generator):
        return f"Generator(device={str(value.device)!r}, seed={value.initial_seed()})"
    if isinstance(value, functools.partial):
        return (
            f"partial({_described(value.func, inner)}, {_listed(value.args, inner)}, {_named(value.keywords, inner)})"
        )
    if isinstance(value, types.MethodType):
        return f"{_described(value.__self__, inner)}.{value.__name__}"
    if isinstance(value, types.FunctionType):
        return _function(value, inner)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if type(value) in (list, tuple):
        return f"{type(value).__name__}({_listed(value, inner)})"
    if type(value) in (set, frozenset):
        return f"{type(value).__name__}({', '.join(sorted(_described(item, inner) for item in value))})"
    if type(value) is dict:
        pairs = (f"{_described(key, inner)}: {_described(item, inner)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    text = repr(value)
    if not _ADDRESS.search(text):
        return text
    attributes = _attributes(value)
    if attributes:
        return f"{type(value).__qualname__}({_named(attributes, inner)})"
    return _ADDRESS.sub("", text)


def _listed(values: Any, outer: tuple[Any, ...]) -> str:
    return ", ".join(_described(value, outer) for value in values)


def _named(values: dict[str, Any], outer: tuple[Any, ...]) -> str:
    return ", ".join(f"{name}={_described(value, outer)}" for name, value in sorted(values.items()))


def _attributes(value: Any) -> dict[str, Any]:
    """Returns what an object holds, in its dictionary and in slots."""
    slots = (name for kind in type(value).__mro__ for name in _slots(kind))
    held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return {**held, **getattr(value, "__dict__", {})}


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _tensor(tensor: Tensor) -> str:
    shape = f"dtype={tensor.dtype}, shape={tuple(tensor.shape)}"
    if tensor.is_meta:
        return f"tensor({shape}, device='meta')"
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"tensor({shape}, sha256={_digest(bytes(values.tolist()))})"


def _function(function: types.FunctionType, outer: tuple[Any, ...]) -> str:
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    held = [_described(item, outer) for item in (function.__defaults__, function.__kwdefaults__, cells)]
    digest = _digest(_code(function.__code__) + "".join(held).encode())
    return f"{function.__module__}.{function.__qualname__}[{digest}]"


def _code(code: types.CodeType) -> bytes:
    constants = (_code(item) if isinstance(item, types.CodeType) else repr(item).encode() for item in code.co_consts)
    return code.co_code + repr(code.co_names).encode() + b"".join(constants)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
