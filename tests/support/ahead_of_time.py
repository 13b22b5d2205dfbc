"""Compiles the launches of `fdjpeg._triton.ops` with Triton for GPUs that this machine lacks."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from support import sass

#: Triton names its files there by their sources.
_CACHE = Path(__file__).resolve().parents[2] / "build" / "tests" / "triton"


class Launch(NamedTuple):
    """One launch: the kernel's name, its compiled form, and the number of its threads."""

    name: str
    compiled: Any
    threads: int


class _Driver:
    """Answers Triton's questions about a GPU before it compiles for it."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps what it compiled by this number.

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


def launches(capability: int, call: Callable[[], Any]) -> list[Launch]:
    """Compiles, for a GPU of this capability, the kernels that `call` would launch, without launching them."""
    made = []
    run = JITFunction.run

    def compile_only(function: Any, *arguments: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> None:
        compiled = run(function, *arguments, grid=grid, warmup=True, **options)
        programs = 1
        for extent in grid:
            programs *= extent
        made.append(Launch(function.__name__, compiled, programs * 32 * compiled.metadata.num_warps))

    with (
        mock.patch.dict(os.environ, {"TRITON_CACHE_DIR": str(_CACHE)}),
        mock.patch.object(triton.runtime.driver, "_active", _Driver(capability)),
        mock.patch.object(JITFunction, "run", compile_only),
    ):
        call()
    return made


class Usage(NamedTuple):
    """The resources that a thread of a compiled kernel takes."""

    cost: sass.Cost
    registers: int
    spilled: int  # bytes of its stack


def usage(launch: Launch) -> Usage:
    """Counts in the machine code, each instruction of which a thread executes once: no kernel holds a loop."""
    disassembler = sass.disassembler()
    assert disassembler is not None, "Triton comes with one"
    with TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(launch.compiled.asm["cubin"])
        command = [disassembler, "-sass", "-res-usage", str(cubin)]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (instructions,) = sass.functions(listing).values()
    last = max(i for i, instruction in enumerate(instructions) if instruction.opcode == "EXIT")
    back = [one for one in instructions[:last] if one.opcode == "BRA" and one.target <= one.address]
    assert not back, f"{launch.name} holds a loop"
    taken = re.search(r"REG:(\d+) STACK:(\d+)", listing)
    assert taken is not None
    return Usage(sass.cost_of(instructions), int(taken[1]), int(taken[2]))
