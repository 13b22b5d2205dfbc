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
#: Accesses of global and of shared memory, and the bits that a thread moves if these are more than 32.
_MEMORY = re.compile(r"^(?:LD|ST)[GS]\b(?:\S*\.(64|128)(?:\.|$))?")
#: Those that only the path of an ordinary thread has: whole words of the image, and shared memory's wide stores.
_WIDE = re.compile(r"^(LDG|STG|STS)\S*\.(64|128)(\.|$)")

#: Turns of a loop within another one, for the choice of a path: a row or a column of a block has eight samples.
_TURNS = 8


@dataclass(frozen=True)
class Instruction:
    """One line of a disassembly."""

    address: int
    predicate: str
    opcode: str
    operands: str

    @property
    def target(self) -> int:
        """The target of a branch."""
        found = _TARGET.search(self.operands)
        if found is None or found[1] is None:
            raise ValueError(f"a branch to an address was wanted, got {self.opcode} {self.operands}")
        return int(found[1], 16)


def functions(listing: str) -> dict[str, list[Instruction]]:
    """Returns the instructions of each kernel in the output of ``cuobjdump -sass``, by mangled name."""
    kernels = {}
    for part in listing.split("Function : ")[1:]:
        name, body = part.split("\n", 1)
        kernels[name.strip()] = [
            Instruction(int(address, 16), predicate.strip(), opcode, operands)
            for address, predicate, opcode, operands in _INSTRUCTION.findall(body)
        ]
    return kernels


class Cost(NamedTuple):
    """The instructions and memory turns that a thread executes."""

    instructions: int
    turns: int  # of 32 lanes × 32 bits, in which memory's data lines serve a warp whose accesses spread over them


class _Step(NamedTuple):
    """The best path from an instruction on."""

    place: int
    following: int
    wide: int  # accesses from here on
    length: int


def cost_of(instructions: Sequence[Instruction], passes: int = 1) -> Cost:
    """Returns the cost of an ordinary thread's path, on which the longest innermost loop is passed so many times."""
    path = _path(instructions)
    loop = _longest_loop(instructions, path) if passes > 1 else range(0)
    cost = Cost(0, 0)
    for i in path:
        times = passes if i in loop else 1
        memory = _MEMORY.match(instructions[i].opcode)
        turns = 0 if memory is None else int(memory[1] or 32) // 32
        cost = Cost(cost.instructions + times, cost.turns + times * turns)
    return cost


def _longest_loop(instructions: Sequence[Instruction], path: Sequence[int]) -> range:
    """Returns the innermost loop, from a backward branch's target to the branch, with the most of the path in it."""
    on_path = [one for one in _loops(instructions) if one[-1] in path and one[0] in path]
    innermost = [one for one in on_path if not any(other != one and other[-1] in one for other in on_path)]
    return max(innermost, key=lambda one: sum(i in one for i in path))


def _loops(instructions: Sequence[Instruction]) -> list[range]:
    """Returns all loops, each from a backward branch's target to the branch."""
    place = {instruction.address: i for i, instruction in enumerate(instructions)}
    return [
        range(target, i + 1)
        for i, instruction in enumerate(instructions)
        if instruction.opcode.split(".")[0] == "BRA" and (target := place.get(instruction.target, i + 1)) <= i
    ]


def _path(instructions: Sequence[Instruction]) -> list[int]:
    """Returns, of all paths from the entry to an exit, the shortest of those with the most wide accesses.

    A thread at the image's edge, or one whose samples are not contiguous, takes narrow ones. A loop counts once, a
    loop within another one as eight turns, for the choice of the path; a call as never taken.
    """
    place = {instruction.address: i for i, instruction in enumerate(instructions)}
    loops = _loops(instructions)
    within = {i for one in loops if any(other != one and {*one} < {*other} for other in loops) for i in one}

    # Backwards, so that the rest of the path is known, without recursion; branches back are left out.
    best: list[_Step | None] = [None] * (len(instructions) + 1)
    for i in range(len(instructions) - 1, -1, -1):
        instruction = instructions[i]
        kind = instruction.opcode.split(".")[0]
        conditional = (
            instruction.predicate not in ("", "@PT") or ".DIV" in instruction.opcode or "P" in _condition(instruction)
        )
        following: list[_Step | None] = []
        if kind == "EXIT":
            following.append(_Step(len(instructions), 0, 0, 0))
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
            after = max(reachable, key=lambda one: (one.wide, -one.length))
            wide = after.wide + bool(_WIDE.match(instruction.opcode))
            best[i] = _Step(i, after.place, wide, after.length + (_TURNS if i in within else 1))
    path, step = [], best[0]
    if step is None:
        raise ValueError("the kernel has no path to an exit")
    while step is not None and step.length > 0:
        path.append(step.place)
        step = best[step.following]
    return path


def _condition(instruction: Instruction) -> str:
    """Returns the predicate among a branch's operands, as in ``BRA P0, 0x40``."""
    operands = instruction.operands.split(",")
    return operands[0] if len(operands) > 1 and re.match(r"!?U?P[0-6]$", operands[0].strip()) else ""


@cache
def disassembler() -> str | None:
    """Returns the path of a ``cuobjdump``, or None: the CUDA toolkit's, or the one that comes with Triton."""
    found = shutil.which("cuobjdump")
    if found is None and (triton := importlib.util.find_spec("triton")) is not None and triton.origin is not None:
        candidate = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        found = str(candidate) if candidate.is_file() else None
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The budget


#: As in csrc/codec/geometry.h and csrc/cuda/exact_forward.cuh.
_ENUMERATIONS = {
    "SampleType": ("uint8", "float16", "bfloat16", "float32", "float64"),
    "Make": ("planes", "planes_by_block", "coefficients"),
}


#: How the arguments of templates are mangled.
_FLAGS = {"true": "Lb1E", "false": "Lb0E"}


class Kernel(NamedTuple):
    """An instance of a kernel's template, and its allowed cost."""

    name: str  # as C++ spells it
    job: str  # the type of its argument
    pixels_per_thread: int
    registers: int  # on any architecture
    instructions_per_pixel: float  # on the target
    turns_per_pixel: float  # of the L1 cache and shared memory: see Cost; likewise
    passes: int = 1  # of the loop over a warp's blocks, where it is one

    @property
    def pattern(self) -> re.Pattern[str]:
        """The beginning of the mangled name: the kernel's own, and its template's arguments."""
        kernel, arguments = self.name.removesuffix(">").split("<", 1)
        mangled = ""
        for template, values, enumeration, value, flag in re.findall(
            r"(\w+)<([^<>]*)>|(\w+)::(\w+)|(true|false)", arguments
        ):
            if flag:
                mangled += _FLAGS[flag]
            elif template:
                inner = [_FLAGS.get(one, f"Li{one}E") for one in values.split(", ")]
                mangled += rf"NS_\d+{template}I{''.join(inner)}EE"
            else:
                mangled += rf"LNS_\d+{enumeration}E{_ENUMERATIONS[enumeration].index(value)}E"
        return re.compile(rf"_ZN6fdjpeg\d+{kernel}I{mangled}E")


class Budget(NamedTuple):
    """The content of ``cuda_budget.json``."""

    architectures: list[str]
    target: str
    kernels: list[Kernel]


def _budget() -> Budget:
    content = json.loads((Path(__file__).resolve().parents[1] / "kernels" / "cuda_budget.json").read_text())
    return Budget(content["architectures"], content["target"], [Kernel(**kernel) for kernel in content["kernels"]])


BUDGET = _budget()


def instantiations(kernels: Sequence[Kernel]) -> str:
    """Returns the source of only these kernels."""
    lines = [f"template __global__ void fdjpeg::{one.name}(const __grid_constant__ {one.job});" for one in kernels]
    launches = (Path(__file__).resolve().parents[2] / "csrc" / "cuda").glob("*_launch.h")
    headers = [f'#include "cuda/{path.name}"' for path in sorted(launches)]
    return "\n".join([*headers, "using namespace fdjpeg;", *lines, ""])
