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
    """One launch: the kernel's name, the GPU, the kernel's compiled form, and the number of its threads."""

    name: str
    target: str
    compiled: Any
    threads: int


#: GPUs that kernels are compiled for, by name: the last architectures of NVIDIA's servers, and AMD's.
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx90a": GPUTarget("hip", "gfx90a", 64),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


class _Driver:
    """Answers Triton's questions about a GPU before it compiles for it."""

    def __init__(self, target: str) -> None:
        self.target = target

    def get_current_device(self) -> str:
        return self.target  # Triton keeps what it compiled by this name.

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return TARGETS[self.target]


def launches(target: str, call: Callable[[], Any]) -> list[Launch]:
    """Compiles, for a GPU of `TARGETS`, the kernels that `call` would launch, without launching them."""
    made = []
    run = JITFunction.run
    lanes = TARGETS[target].warp_size

    def compile_only(function: Any, *arguments: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> None:
        options["num_warps"] = options["num_warps"] * 32 // lanes  # as many threads, as where torch is built for it
        compiled = run(function, *arguments, grid=grid, warmup=True, **options)
        threads = lanes * compiled.metadata.num_warps
        for extent in grid:
            threads *= extent
        made.append(Launch(function.__name__, target, compiled, threads))

    with (
        mock.patch.dict(os.environ, {"TRITON_CACHE_DIR": str(_CACHE)}),
        mock.patch.object(triton.runtime.driver, "_active", _Driver(target)),
        mock.patch.object(JITFunction, "run", compile_only),
    ):
        call()
    return made


def names(call: Callable[[], Any]) -> list[str]:
    """Returns the kernels that `call` would launch, without compiling them."""
    made: list[str] = []

    def only_named(function: Any, *arguments: Any, **options: Any) -> None:
        made.append(function.__name__)

    with (
        mock.patch.object(JITFunction, "run", only_named),
        mock.patch.object(triton.runtime.driver, "_active", _Driver("sm_90")),
    ):
        call()
    return made


class Usage(NamedTuple):
    """The resources that a thread of a compiled kernel takes."""

    registers: int
    spilled: int  # bytes of its stack
    instructions: int
    turns: int | None  # None of AMD's, whose memory this does not model


def usage(launch: Launch) -> Usage:
    """Counts in the machine code, each instruction of which a thread executes once: no kernel holds a loop."""
    return _usage_on_amd(launch) if launch.target.startswith("gfx") else _usage_on_nvidia(launch)


def _usage_on_nvidia(launch: Launch) -> Usage:
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
    cost = sass.cost_of(instructions)
    return Usage(int(taken[1]), int(taken[2]), cost.instructions, cost.turns)


#: An instruction of AMD's, and a field of a kernel's description, in Triton's assembly.
_AMD_INSTRUCTION = re.compile(r"^\t(?:v|s|ds|global|buffer|flat)_\w+", re.MULTILINE)
_AMD_FIELD = re.compile(r"^\s+\.(vgpr_count|private_segment_fixed_size):\s+(\d+)", re.MULTILINE)


def _usage_on_amd(launch: Launch) -> Usage:
    assembly = launch.compiled.asm["amdgcn"]
    fields = {name: int(number) for name, number in _AMD_FIELD.findall(assembly)}
    instructions = len(_AMD_INSTRUCTION.findall(assembly))
    return Usage(fields["vgpr_count"], fields["private_segment_fixed_size"], instructions, None)
