"""The Triton kernels interpreted, so that they need no GPU: the ops of the round trip.

Triton chooses its interpreter when it is imported. So these run in a separate process, which starts with the first
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
    """Returns the reason why Triton cannot interpret, or None."""
    return None if importlib.util.find_spec("triton") else "the package triton is not installed"


def round_trip(*arguments: Any) -> Any:
    """Runs `fdjpeg._triton.launches.round_trip`."""
    return _interpret("round_trip", arguments)


def round_trip_backward(*arguments: Any) -> Any:
    """Runs `fdjpeg._triton.launches.round_trip_backward`."""
    return _interpret("round_trip_backward", arguments)


def _interpret(function: str, arguments: tuple[Any, ...]) -> Any:
    with mock.patch.dict(os.environ, {"TRITON_INTERPRET": "1"}):
        results = _interpreter().submit(_call, function, _packed(arguments)).result()
    return _unpacked(results)


@functools.cache
def _interpreter() -> ProcessPoolExecutor:
    # A new process: a copy of this one may have imported Triton.
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _prepare)


def _prepare() -> None:
    """Prepares the separate process."""
    from triton.runtime.interpreter import interpreter_builder

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # so that unwritten memory is 255 or NaN
    # Integers wrap as on a GPU. Checking for it takes half of the time, and an overflow that matters changes the bits.
    interpreter_builder.options = dataclasses.replace(interpreter_builder.options, sanitize_overflow=False)


def _call(function: str, arguments: bytes) -> bytes:
    """Calls an op in the separate process."""
    from fdjpeg._triton import launches as triton_kernels

    return _packed(getattr(triton_kernels, function)(*_unpacked(arguments)))


def _packed(values: Any) -> bytes:
    """Packs tensors and numbers as bytes; strides are kept."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


def _unpacked(content: bytes) -> Any:
    return torch.load(io.BytesIO(content))
