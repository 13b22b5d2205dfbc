"""The compiled libraries, loaded once at import: the kernels that they hold and the reasons why others are missing.

The library of C++ kernels comes first. The one of CUDA kernels is loaded only where they can serve.

The environment variable ``FDJPEG_BACKEND``, read once at import, requires a backend. ``cuda`` and ``triton`` serve
tensors on a GPU; importing fdjpeg fails if the backend is missing. ``reference`` is plain torch on every device, and
no library is loaded. If the variable is unset, each device uses the best backend available.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

import torch

from fdjpeg import _cuda_library

_CHOICES = ("cuda", "triton", "reference")
_PATH = Path(__file__).with_name("_C.abi3.so")

#: The backend that ``FDJPEG_BACKEND`` names, or None.
BACKEND: str | None = os.environ.get("FDJPEG_BACKEND") or None


def _why_not_loaded(library: Path) -> str | None:
    """Loads a library; returns None, or the reason why it does not load."""
    if BACKEND == "reference":
        return "FDJPEG_BACKEND=reference was set"
    if not library.is_file():
        return f"{library} does not exist: fdjpeg was not built here (`python -m pip install .` builds it)"
    try:
        torch.ops.load_library(library)
    except OSError as error:
        return f"{library} does not load with torch {torch.__version__}: {error.__cause__ or error}"
    return None


def _why_no_cuda() -> str | None:
    if _CUDA_FAILURE is not None:
        return _CUDA_FAILURE
    if not torch.cuda.is_available():
        return "the kernels are loaded, but torch sees no CUDA device"
    return None


def _why_no_triton() -> str | None:
    if not HAS_TRITON:
        return "the package triton is not installed"
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    return None


if BACKEND is not None and BACKEND not in _CHOICES:
    raise ValueError(f"FDJPEG_BACKEND must be {', '.join(_CHOICES)} or unset, got {BACKEND!r}")

_FAILURE: str | None = _why_not_loaded(_PATH)

#: Whether the library of C++ kernels is loaded.
LOADED: bool = _FAILURE is None

# It needs the schemas of the other.
_CUDA_FAILURE: str | None = _FAILURE or _cuda_library.why_not_here() or _why_not_loaded(_cuda_library.PATH)

#: Whether Triton is installed.
HAS_TRITON: bool = importlib.util.find_spec("triton") is not None


class Served(NamedTuple):
    """The backend that serves tensors on a kind of device, and the reason."""

    backend: str
    reason: str


def _served_on_gpus() -> Served:
    """Returns the backend of devices that torch calls "cuda": NVIDIA's, and AMD's under ROCm."""
    if BACKEND is not None:
        return Served(BACKEND, f"FDJPEG_BACKEND={BACKEND} was set")
    if _CUDA_FAILURE is None:
        return Served("cuda", "the compiled kernels are loaded")
    if not HAS_TRITON:
        return Served("reference", f"{_CUDA_FAILURE}; and the package triton is not installed")
    return Served("triton", _CUDA_FAILURE)


def _served_on_xpus() -> Served:
    """Returns the backend of Intel's GPUs."""
    if HAS_TRITON and BACKEND in (None, "triton"):
        return Served("triton", "no other backend has kernels for it; no such device has been tried")
    return Served("reference", f"FDJPEG_BACKEND={BACKEND} was set" if BACKEND else "the package triton is missing")


#: The backend of each kind of device, by torch's name of it. Every other device is served by the reference.
SERVED: dict[str, Served] = {
    "cpu": Served("cpu", "the library holds kernels for it") if LOADED else Served("reference", _FAILURE or ""),
    "cuda": _served_on_gpus(),
    "xpu": _served_on_xpus(),
}


def backends() -> dict[str, str]:
    """Reports the available kernels, and why the others are missing.

    Returns:
        For each of "cpu" (compiled C++), "cuda" (compiled CUDA), "triton" and "reference" (plain torch on any device)
        either "available" or "missing: " and the reason.

    Example::

        fdjpeg.backends()["cpu"]  # "available"
    """
    missing = {
        "cpu": _FAILURE,
        "cuda": _why_no_cuda(),
        "triton": _why_no_triton(),
        "reference": None,
    }
    return {name: "available" if why is None else f"missing: {why}" for name, why in missing.items()}


if BACKEND is not None and (_state := backends()[BACKEND]) != "available":
    raise ImportError(f"FDJPEG_BACKEND={BACKEND}, but this backend is {_state}")
