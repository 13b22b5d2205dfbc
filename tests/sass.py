"""Counts the instructions that a thread of a compiled kernel executes, from the disassembly."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P[T0-9]+ )?\s*([A-Z0-9_.]+)\s*(.*?)\s*;", re.MULTILINE)
_TARGET = re.compile(r"(?:`\(\S+\)|0x([0-9a-f]+))\s*$")
#: Accesses that only the path of an ordinary thread has: whole words of the image, and shared memory's wide stores.
_WIDE = re.compile(r"^(LDG|STG|STS)\S*\.(64|128)(\.|$)")


@dataclass(frozen=True)
class Instruction:
    """One line of a disassembly."""

    address: int
    predicate: str
    opcode: str
    operands: str

    @property
    def target(self) -> int:
        """Where a branch leads."""
        found = _TARGET.search(self.operands)
        if found is None or found[1] is None:
            raise ValueError(f"a branch to an address was wanted, got {self.opcode} {self.operands}")
        return int(found[1], 16)


def functions(listing: str) -> dict[str, list[Instruction]]:
    """The instructions of each kernel in what ``cuobjdump -sass`` prints, by mangled name."""
    kernels = {}
    for part in listing.split("Function : ")[1:]:
        name, body = part.split("\n", 1)
        kernels[name.strip()] = [
            Instruction(int(address, 16), predicate.strip(), opcode, operands)
            for address, predicate, opcode, operands in _INSTRUCTION.findall(body)
        ]
    return kernels


def path_length(instructions: Sequence[Instruction]) -> int:
    """Instructions on the path of an ordinary thread.

    That is, of all paths from the entry to an exit, the shortest of those with the most wide accesses: a thread at the
    image's edge, or one whose samples do not lie together, takes narrow ones. A loop counts once, a call as never
    taken.
    """
    place = {instruction.address: i for i, instruction in enumerate(instructions)}

    # Backwards, so that what follows is known: no recursion, and branches back are left out.
    best: list[tuple[int, int] | None] = [None] * (len(instructions) + 1)
    for i in range(len(instructions) - 1, -1, -1):
        instruction = instructions[i]
        kind = instruction.opcode.split(".")[0]
        conditional = (
            instruction.predicate not in ("", "@PT") or ".DIV" in instruction.opcode or "P" in _condition(instruction)
        )
        following: list[tuple[int, int] | None] = []
        if kind == "EXIT":
            following.append((0, 0))
            if conditional:
                following.append(best[i + 1])
        elif kind == "BRA":
            target = place.get(instruction.target)
            if target is not None and target > i:
                following.append(best[target])
            if conditional or (target is not None and target <= i):
                following.append(best[i + 1])
        elif kind == "CALL":
            following.append(best[i + 1] if conditional else None)
        elif kind in ("RET", "BRX", "JMX"):
            following.append(None)
        else:
            following.append(best[i + 1])
        reachable = [one for one in following if one is not None]
        if reachable:
            wide, length = max(reachable, key=lambda one: (one[0], -one[1]))
            best[i] = (wide + bool(_WIDE.match(instruction.opcode)), length + 1)
    if best[0] is None:
        raise ValueError("the kernel has no path to an exit")
    return best[0][1]


def _condition(instruction: Instruction) -> str:
    """The predicate among a branch's operands, as in ``BRA P0, 0x40``."""
    operands = instruction.operands.split(",")
    return operands[0] if len(operands) > 1 and re.match(r"!?U?P[0-6]$", operands[0].strip()) else ""


@cache
def disassembler() -> str | None:
    """The path of a ``cuobjdump``, or None: the CUDA toolkit's, or the one that comes with Triton."""
    found = shutil.which("cuobjdump")
    if found is None and (triton := importlib.util.find_spec("triton")) is not None and triton.origin is not None:
        candidate = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        found = str(candidate) if candidate.is_file() else None
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The budget


class Kernel(NamedTuple):
    """An instance of a kernel's template, and what it may cost."""

    name: str  # as C++ spells it
    job: str  # the type of its argument
    pixels_per_thread: int
    registers: int  # on any architecture
    instructions_per_pixel: float  # on the target

    @property
    def pattern(self) -> re.Pattern[str]:
        """What the mangled name begins with: the kernel's own, its numbers, and its type's place in SampleType."""
        kernel, arguments = self.name.split("<", 1)
        shape, type_and_rest = arguments.split("SampleType::")
        type_name, *rest = re.findall(r"\w+", type_and_rest)
        place = ("uint8", "float16", "bfloat16", "float32", "float64").index(type_name)
        flags = {"true": "Lb1", "false": "Lb0"}
        numbers = [flags.get(one, f"Li{one}") for one in re.findall(r"\b(?:\d+|true|false)\b", shape)]
        tail = "".join(flags[one] + "E" for one in rest)
        return re.compile(
            rf"_ZN6fdjpeg\d+{kernel}INS_\d+[A-Z][a-z]+I{'E'.join(numbers)}EEELNS_\d+SampleTypeE{place}E{tail}E"
        )


class Budget(NamedTuple):
    """What ``cuda_budget.json`` holds."""

    architectures: list[str]
    target: str
    kernels: list[Kernel]


def _budget() -> Budget:
    content = json.loads((Path(__file__).resolve().parent / "cuda_budget.json").read_text())
    return Budget(content["architectures"], content["target"], [Kernel(**kernel) for kernel in content["kernels"]])


BUDGET = _budget()


def instantiations(kernels: Sequence[Kernel]) -> str:
    """The source of just these kernels."""
    lines = [f"template __global__ void fdjpeg::{one.name}(const __grid_constant__ {one.job});" for one in kernels]
    return "\n".join(['#include "codec_launch.h"', "using namespace fdjpeg;", *lines, ""])
