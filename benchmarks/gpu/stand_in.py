"""A CPU in place of the GPU, with faults on request: the rehearsal of ``gpu.py`` where there is no GPU.

The environment variable ``FDJPEG_GPU_STAND_IN`` asks for it, in the command and in its child processes. It holds the
faults, separated by commas; "none" is none. A rehearsal shows that every part runs, keeps what it has and survives the
faults. Its times and bandwidths mean nothing, and its file is named "rehearsal".
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from types import SimpleNamespace
from typing import Any

VARIABLE = "FDJPEG_GPU_STAND_IN"
#: The op that has the fault of a kernel.
FAULTY = {"crash": "encode", "hang": "block_dct", "bits": "round_trip_by_block"}
FAULTS = (*FAULTY, "no-sanitizer", "no-network", "no-profiler")
#: Where the tensors are.
DEVICE = "cuda"
#: By how much the limits are longer: a CPU is slow, and does other work besides.
PATIENCE = 1


def faults() -> list[str] | None:
    """Returns the faults of the rehearsal, or None where this is none."""
    asked = os.environ.get(VARIABLE)
    return None if not asked else [fault for fault in asked.split(",") if fault != "none"]


class Event:
    """A GPU's event, without a GPU."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        """Notes the time."""
        self.time = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        """Returns the milliseconds between two events."""
        return 1e3 * (end.time - self.time) + 1e-6


#: A tool that finds nothing, in place of compute-sanitizer.
_SANITIZER = """
import subprocess, sys
code = subprocess.call(sys.argv[sys.argv.index("--error-exitcode") + 2 :])
print("ERROR SUMMARY: 0 errors")
sys.exit(code)
"""


def sanitizer() -> list[str] | None:
    """Returns the command of compute-sanitizer, or None where there is none."""
    asked = faults()
    if asked is None:
        found = shutil.which("compute-sanitizer")
        return None if found is None else [found]
    return None if "no-sanitizer" in asked else [sys.executable, "-c", _SANITIZER]


def _refuse(*arguments: Any) -> None:
    raise OSError("there is no network")


def install_if_asked() -> None:
    """Puts the CPU in place of the GPU if the environment asks for it."""
    asked = faults()
    if asked is None:
        return
    import torch

    import fdjpeg
    from gpu import measure

    global DEVICE, PATIENCE
    DEVICE, PATIENCE = "cpu", 4
    for name, value in {
        "Event": Event,
        "is_available": lambda: True,
        "get_device_name": lambda: "rehearsal",
        "get_device_capability": lambda: (9, 0),
        "get_device_properties": lambda device: SimpleNamespace(multi_processor_count=132, total_memory=0),
        "device_count": lambda: 1,
        **dict.fromkeys(("memory_allocated", "max_memory_allocated"), lambda: 0),
        **dict.fromkeys(("reset_peak_memory_stats", "synchronize", "empty_cache"), lambda: None),
    }.items():
        setattr(torch.cuda, name, value)
    # Its own kernels would be compiled for minutes.
    torch.compile = lambda function, *arguments, **options: function
    fdjpeg.backends = lambda: {"cuda": "available", "triton": "missing: a CPU replaces the GPU"}
    for name, smaller in {
        "SHAPE": (2, 3, 32, 32),
        "SIDES": (16, 64),
        "ROTATION_BYTES": 0,
        "SECONDS": 0.0,
        "COPIED": 2**20,
    }.items():
        setattr(measure, name, smaller)
    if "no-network" in asked:
        socket.socket.connect = _refuse  # type: ignore[method-assign,assignment]


class _Faulty:
    """The ops, one or more of which have a fault."""

    def __init__(self, ops: Any, asked: list[str]) -> None:
        self._ops, self._faults = ops, {FAULTY[fault]: fault for fault in asked if fault in FAULTY}

    def __getattr__(self, name: str) -> Any:
        op = getattr(self._ops, name)
        fault = self._faults.get(name)
        if fault == "crash":
            return lambda *arguments: os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "hang":
            return lambda *arguments: time.sleep(3600)
        if fault == "bits":
            return lambda *arguments: _one_bit_wrong(op(*arguments))
        return op


def _one_bit_wrong(results: Any) -> Any:
    first = results[0]
    first.view(-1)[-1] = 1 - first.view(-1)[-1]
    return results


def with_faults(ops: Any) -> Any:
    """Returns the ops; in a rehearsal with its faults."""
    asked = faults()
    return ops if asked is None else _Faulty(ops, asked)
