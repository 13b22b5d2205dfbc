"""The instruction sets that the CPU's kernels are compiled for, and those of this machine."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

#: Bytes of a register of each.
VECTOR_BYTES = {"scalar": 16, "avx2": 32, "avx512": 64}


def in_use(isa: str) -> subprocess.CompletedProcess[str]:
    """Runs a process with ``FDJPEG_ISA`` set, which prints the instruction set in use."""
    return subprocess.run(
        [sys.executable, "-c", "import torch, fdjpeg; print(torch.ops.fdjpeg.cpu_instruction_set())"],
        env={**os.environ, "FDJPEG_ISA": isa},
        capture_output=True,
        text=True,
    )


@functools.cache
def available() -> tuple[str, ...]:
    """Returns the instruction sets of this machine, as the message for an unknown one lists them."""
    message = in_use("bogus").stderr
    return tuple(isa for isa in VECTOR_BYTES if f"{isa}," in message or f"{isa})" in message)
