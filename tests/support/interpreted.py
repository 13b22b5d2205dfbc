"""The Triton kernels interpreted, so that they need no GPU: the ops of the round trip.

Triton chooses its interpreter when it is imported. So these run in a process of their own, which starts with the first
call and ends with this one.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import io
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import torch


def missing() -> str | None:
    """Why nothing can be interpreted, or None."""
    return None if importlib.util.find_spec("triton") else "the package triton is not installed"


def round_trip(*arguments: Any) -> Any:
    """As `fdjpeg._triton.launches.round_trip`."""
    return _interpret("round_trip", arguments)


def round_trip_backward(*arguments: Any) -> Any:
    """As `fdjpeg._triton.launches.round_trip_backward`."""
    return _interpret("round_trip_backward", arguments)


def _interpret(function: str, arguments: tuple[Any, ...]) -> Any:
    with mock.patch.dict(os.environ, {"TRITON_INTERPRET": "1"}):
        results = _interpreter().submit(_call, function, _packed(arguments)).result()
    return _unpacked(results)


@functools.cache
def _interpreter() -> ProcessPoolExecutor:
    # Started afresh: a copy of this process may have imported Triton.
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _prepare)


def _prepare() -> None:
    """In the process of its own."""
    from triton.runtime.interpreter import interpreter_builder

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # so that what nobody wrote is 255 or NaN
    # Integers wrap as those of a GPU do. To look for it takes half of the time, and what matters changes the bits.
    interpreter_builder.options = dataclasses.replace(interpreter_builder.options, sanitize_overflow=False)


def _call(function: str, arguments: bytes) -> bytes:
    """In the process of its own, too."""
    from fdjpeg._triton import launches as triton_kernels

    return _packed(getattr(triton_kernels, function)(*_unpacked(arguments)))


def _packed(values: Any) -> bytes:
    """Tensors and numbers as bytes; strides stay as they are."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


def _unpacked(content: bytes) -> Any:
    return torch.load(io.BytesIO(content))
