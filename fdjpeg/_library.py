"""The compiled library, loaded once at import: the kernels that it holds and the reasons why others are missing.

The environment variable ``FDJPEG_BACKEND``, read once at import, requires a backend. ``cuda`` and ``triton`` serve
tensors on a GPU; importing fdjpeg fails if the backend is missing. ``reference`` is plain torch on every device, and
the library is not loaded at all. If the variable is unset, each device uses the best backend available.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch

_CHOICES = ("cuda", "triton", "reference")
_PATH = Path(__file__).with_name("_C.abi3.so")

#: The backend that ``FDJPEG_BACKEND`` names, or None.
BACKEND: str | None = os.environ.get("FDJPEG_BACKEND") or None


def _load() -> str | None:
    """Loads the library; returns None, or the reason why it is not loaded."""
    if BACKEND == "reference":
        return "FDJPEG_BACKEND=reference was set"
    if not _PATH.is_file():
        return f"{_PATH} does not exist: fdjpeg was not built here (`python -m pip install .` builds it)"
    try:
        torch.ops.load_library(_PATH)
    except OSError as error:
        return f"{_PATH} does not load with torch {torch.__version__}: {error.__cause__ or error}"
    return None


def _holds(device: str) -> bool:
    """Returns whether the library, just loaded, registered kernels for a device type."""
    return LOADED and torch._C._dispatch_has_kernel_for_dispatch_key("fdjpeg::round_trip", device.upper())


def _why_no_cuda() -> str | None:
    if _FAILURE is not None:
        return _FAILURE
    if not _HOLDS_CUDA:
        return "the library was built without CUDA kernels (FDJPEG_CUDA=1 at the installation insists on them)"
    if not torch.cuda.is_available():
        return "the library holds the kernels, but torch sees no CUDA device"
    return None


def _why_no_triton() -> str | None:
    if not _HAS_TRITON:
        return "the package triton is not installed"
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    return None


if BACKEND is not None and BACKEND not in _CHOICES:
    raise ValueError(f"FDJPEG_BACKEND must be {', '.join(_CHOICES)} or unset, got {BACKEND!r}")

_FAILURE: str | None = _load()

#: Whether the library, and with it the kernels for the CPU, is loaded.
LOADED: bool = _FAILURE is None

# Read before any other module registers kernels for the same ops.
_HOLDS_CUDA: bool = _holds("cuda")

_HAS_TRITON: bool = importlib.util.find_spec("triton") is not None

#: Whether Triton serves tensors on a GPU: if it is required, or if the library holds no CUDA kernels.
USES_TRITON: bool = BACKEND == "triton" or (BACKEND is None and _HAS_TRITON and not _HOLDS_CUDA)


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
