"""The Triton kernels interpreted, so that they need no GPU.

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
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch

import fdjpeg
from fdjpeg.ops import SCHEMAS


def missing() -> str | None:
    """Returns the reason why Triton cannot interpret, or None."""
    return None if importlib.util.find_spec("triton") else "the package triton is not installed"


def __getattr__(function: str) -> Any:
    """Returns a function of `fdjpeg._triton.ops`, by its name."""
    if function not in SCHEMAS:
        raise AttributeError(function)
    return functools.partial(_interpret, function)


def _interpret(function: str, *arguments: Any) -> Any:
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
    from fdjpeg._triton import ops as triton_ops

    return _packed(getattr(triton_ops, function)(*_unpacked(arguments)))


def planted(file: str, old: str, new: str, function: str, arguments: tuple[Any, ...]) -> Any:
    """Runs an op of a copy of `fdjpeg._triton`, in whose ``file`` ``old``, which occurs once, became ``new``."""
    with mock.patch.dict(os.environ, {"TRITON_INTERPRET": "1"}):
        return _unpacked(_interpreter().submit(_call_planted, file, old, new, function, _packed(arguments)).result())


def _call_planted(file: str, old: str, new: str, function: str, arguments: bytes) -> bytes:
    """Calls an op of such a copy in the separate process."""
    source = Path(fdjpeg.__file__).parent / "_triton"
    with TemporaryDirectory() as folder:
        name = f"planted_{abs(hash((file, old, new)))}"
        copy = shutil.copytree(source, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        text = (copy / f"{file}.py").read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {file}.py"
        (copy / f"{file}.py").write_text(text.replace(old, new), encoding="utf-8")
        with mock.patch.object(sys, "path", [folder, *sys.path]):
            ops = importlib.import_module(f"{name}.ops")
            return _packed(getattr(ops, function)(*_unpacked(arguments)))


def _packed(values: Any) -> bytes:
    """Packs tensors and numbers as bytes; strides are kept."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


def _unpacked(content: bytes) -> Any:
    return torch.load(io.BytesIO(content))
