"""Reads PTX, the virtual machine code that nvcc makes of a kernel, as the PTX ISA manual describes it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

#: Bytes of the types of PTX, by their last letters.
_SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}


@dataclass(frozen=True)
class Instruction:
    """One instruction: ``@guard opcode operands``.

    Attributes:
        name: the opcode's first word, such as "ld".
        modifiers: its other words, such as ("global", "cs", "v4", "u32").
        operands: registers, numbers, addresses ("[%rd1+4]") and vectors ("{%r1, %r2}").
        guard: the predicate's register, or None.
        negated: whether the instruction is executed where the predicate is false.
        line: of the source, for messages.
    """

    name: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str | None
    negated: bool
    line: int


@dataclass
class Kernel:
    """An entry of a module.

    Attributes:
        name: mangled.
        parameter_bytes: of its one parameter.
        threads: of a block, as the kernel's launch bounds state.
        registers: the type of each register, such as "b32".
        shared: the address of each variable in shared memory.
        shared_bytes: of all of them.
        instructions: in order.
        labels: the index of the instruction that follows each.
    """

    name: str
    parameter_bytes: int = 0
    threads: int = 0
    registers: dict[str, str] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    shared_bytes: int = 0
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


@dataclass
class Module:
    """The kernels of a file by mangled name, and its constant memory."""

    kernels: dict[str, Kernel] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    constant_bytes: bytearray = field(default_factory=bytearray)


_VARIABLE = re.compile(r"\.(shared|const) \.align (\d+) \.(\w+) ([\w$]+)\[(\d+)\](?: = \{([^}]*)\})?")
_RANGE = re.compile(r"\.reg \.(\w+)\s+(%\w+)<(\d+)>")
_NAMES = re.compile(r"\.reg \.(\w+)\s+(%?\w+(?:\s*,\s*%?\w+)*)\s*$")
_ENTRY = re.compile(r"\.entry ([\w$]+)\(")
_PARAMETER = re.compile(r"\.param \.align \d+ \.b8 [\w$]+\[(\d+)\]")
_THREADS = re.compile(r"\.maxntid (\d+)")
_LABEL = re.compile(r"([$\w]+):\s*(.*)$")
_INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.]*(?:::\w+)*[\w.]*)\s*(.*)$", re.DOTALL)


def operands_of(text: str) -> tuple[str, ...]:
    """Returns operands, split at the commas outside of brackets and braces."""
    found, depth, begin = [], 0, 0
    for i, sign in enumerate(text):
        depth += (sign in "[{") - (sign in "]}")
        if sign == "," and depth == 0:
            found.append(text[begin:i].strip())
            begin = i + 1
    last = text[begin:].strip()
    return (*found, last) if last else tuple(found)


def _declare(kernel: Kernel, statement: str) -> None:
    """Takes a declaration of registers or of shared memory in a kernel's body."""
    if found := _RANGE.match(statement):
        kernel.registers.update({f"{found[2]}{i}": found[1] for i in range(int(found[3]))})
    elif found := _NAMES.match(statement):
        kernel.registers.update({name.strip(): found[1] for name in found[2].split(",")})
    elif found := _VARIABLE.match(statement):
        align, size = int(found[2]), int(found[5])
        kernel.shared[found[4]] = -(-kernel.shared_bytes // align) * align
        kernel.shared_bytes = kernel.shared[found[4]] + size
    elif not statement.startswith((".loc", ".pragma")):
        raise ValueError(f"a declaration that is not understood: {statement}")


def _add(kernel: Kernel, statement: str, line: int) -> None:
    """Takes an instruction, the label before it, or a declaration."""
    while found := _LABEL.match(statement):
        kernel.labels[found[1]] = len(kernel.instructions)
        statement = found[2].strip()
    if not statement:
        return
    if statement.startswith("."):
        return _declare(kernel, statement)
    found = _INSTRUCTION.match(statement)
    if found is None:
        raise ValueError(f"line {line} is not understood: {statement}")
    name, *modifiers = found[3].split(".")
    operands = operands_of(found[4])
    kernel.instructions.append(Instruction(name, tuple(modifiers), operands, found[2], found[1] == "!", line))


def parse(text: str) -> Module:
    """Returns the kernels and constants of a module."""
    module, kernel, in_body, statement = Module(), None, False, ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("//")[0].strip()
        if not in_body:
            if found := _ENTRY.search(line):
                kernel = Kernel(found[1])
                module.kernels[kernel.name] = kernel
            elif kernel is not None and (found := _PARAMETER.match(line)):
                kernel.parameter_bytes = int(found[1])
            elif kernel is not None and (found := _THREADS.match(line)):
                kernel.threads = int(found[1])
            elif found := _VARIABLE.match(line):
                module.constants[found[4]] = len(module.constant_bytes)
                values = [int(value) for value in found[6].split(",")]
                module.constant_bytes += bytes(values) + bytes(int(found[5]) - len(values))
            elif line == "{":
                in_body, statement, scopes = True, "", 0
            continue
        assert kernel is not None
        # A scope of its own is how nvcc wraps some instructions; it declares names that do not occur outside.
        while line.startswith("{") and not statement:
            scopes, line = scopes + 1, line[1:].strip()
        if line == "}" and not statement and scopes == 0:
            in_body, kernel = False, None
            continue
        statement = f"{statement} {line}".strip()
        while True:
            if statement.startswith("}") and scopes:
                scopes, statement = scopes - 1, statement[1:].strip()
            elif ";" in statement:
                one, statement = statement.split(";", 1)
                _add(kernel, one.strip(), number)
                statement = statement.strip()
            elif (found := _LABEL.match(statement)) and not found[2]:
                _add(kernel, statement, number)
                statement = ""
            else:
                break
    return module


def bytes_of(kind: str) -> int:
    """Returns the bytes of a type such as "u32"."""
    return _SIZES[kind[1:]]
