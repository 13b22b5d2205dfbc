"""Runs a compiled kernel's PTX on arrays: all threads of a launch at once, each with its own place in the program.

A second witness of the kernels. It shares nothing with the emulation but the tests' oracle: it was written from the PTX
ISA manual, and runs what nvcc made of the sources. Threads run together where they are at the same instruction. Those
that are behind run first, so that branches join again. A barrier, a shuffle or a vote holds each thread until all
others of its block or warp that have not ended are there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support import ptx_arithmetic as arithmetic
from support.ptx_arithmetic import TYPES
from support.ptx_memory import BrokenRule, Global, Order, Shared
from support.ptx_program import Instruction, Kernel, Module, bytes_of, operands_of

WARP = 32
_SPECIAL = ("%tid", "%ctaid", "%ntid", "%nctaid", "%laneid")
_ENDED = np.iinfo(np.int64).max

Array = NDArray[Any]


class Machine:
    """One launch of a kernel.

    Args:
        module: where the kernel is.
        kernel: to run.
        grid: blocks along x and y.
        job: the bytes of its parameter.
        memory: global memory.
    """

    def __init__(self, module: Module, kernel: Kernel, grid: tuple[int, int], job: bytes, memory: Global) -> None:
        if len(job) != kernel.parameter_bytes:
            raise ValueError(f"job must be {kernel.parameter_bytes} bytes, got {len(job)}")
        self._module, self._kernel, self._memory = module, kernel, memory
        self._parameter = np.frombuffer(job, np.uint8)
        self._constants = np.frombuffer(bytes(module.constant_bytes), np.uint8)
        blocks = grid[0] * grid[1]
        count = blocks * kernel.threads
        everyone = np.arange(count)
        block = everyone // kernel.threads
        thread = everyone % kernel.threads
        zeros = np.zeros(count, np.int64)
        self._order = Order(block, everyone // WARP, zeros.copy(), zeros.copy())
        self._shared = Shared(blocks, kernel.shared_bytes, self._order)
        special = {
            "%tid.x": thread,
            "%tid.y": zeros,
            "%tid.z": zeros,
            "%ctaid.x": block % grid[0],
            "%ctaid.y": block // grid[0],
            "%ctaid.z": zeros,
            "%ntid.x": zeros + kernel.threads,
            "%laneid": thread % WARP,
        }
        self._special = {name: values.astype("u4") for name, values in special.items()}
        self._registers = {name: np.zeros(count, TYPES[kind]) for name, kind in kernel.registers.items()}
        self._at = np.zeros(count, np.int64)  # each thread's next instruction
        self._waits = np.zeros(count, bool)  # at a barrier, a shuffle or a vote
        self._everyone = everyone

    def run(self) -> None:
        """Runs the kernel to its end.

        Raises:
            BrokenRule: an access, a race or a barrier that no kernel may have.
        """
        self._memory.begin_kernel()
        with np.errstate(all="ignore"):  # whole numbers wrap, floats overflow
            while (self._at != _ENDED).any():
                free = np.where(self._waits, _ENDED, self._at)
                first = int(free.min())
                if first == _ENDED:
                    self._meet()
                else:
                    others = free[free > first]
                    self._go_on(first, int(others.min()) if len(others) else _ENDED, np.flatnonzero(free == first))

    def _go_on(self, at: int, limit: int, threads: Array) -> None:
        """Runs threads that are at the same instruction, until they part, wait, or meet others."""
        while at < limit:
            instruction = self._kernel.instructions[at]
            active = threads
            if instruction.guard is not None:
                active = threads[self._registers[instruction.guard][threads] != instruction.negated]
            if instruction.name in ("bra", "ret", "exit"):
                self._at[threads] = at + 1
                target = self._kernel.labels[instruction.operands[0]] if instruction.name == "bra" else _ENDED
                self._at[active] = target
                return
            if instruction.name in ("bar", "barrier", "shfl", "vote"):
                if instruction.guard is not None:
                    raise NotImplementedError("a barrier under a predicate")
                self._at[threads] = at
                self._waits[threads] = True
                return
            if len(active):
                self._execute(instruction, active)
            at += 1
        self._at[threads] = at

    # -----------------------------------------------------------------------------------------------------------------
    # Where threads meet

    def _meet(self) -> None:
        """Lets the threads of each block or warp pass whose threads are all at the same place."""
        passed = False
        alive = self._at != _ENDED
        for at in np.unique(self._at[alive]):
            instruction = self._kernel.instructions[at]
            groups = self._order.block if _of_block(instruction) else self._order.warp
            here, all_alive = np.bincount(groups, alive & (self._at == at)), np.bincount(groups, alive)
            complete = (here == all_alive) & (here > 0)
            threads = np.flatnonzero(alive & complete[groups])
            if len(threads):
                passed = True
                self._pass(instruction, threads)
                self._at[threads], self._waits[threads] = at + 1, False
        if not passed:
            raise BrokenRule("threads wait for others that never come")

    def _pass(self, instruction: Instruction, threads: Array) -> None:
        if instruction.name in ("bar", "barrier"):
            if _of_block(instruction):
                self._order.block_barriers[threads] += 1
            else:
                self._check_mask(self._value(instruction.operands[0], threads, TYPES["b32"]), threads)
            self._order.warp_barriers[threads] += 1
            return
        self._check_mask(self._value(instruction.operands[-1], threads, TYPES["b32"]), threads)
        if instruction.name == "vote":
            self._vote(instruction, threads)
        else:
            self._shuffle(instruction, threads)

    def _check_mask(self, mask: Array, threads: Array) -> None:
        """All threads of a warp must be there that the mask names: the kernels name all."""
        if (mask != 0xFFFFFFFF).any():
            raise NotImplementedError("a mask that leaves out threads")
        if len(threads) % WARP or (np.bincount(self._order.warp[threads]) % WARP != 0).any():
            raise BrokenRule("a thread that ended is named by the mask of a warp's instruction")

    def _vote(self, instruction: Instruction, threads: Array) -> None:
        if instruction.modifiers[:2] != ("sync", "ballot"):
            raise NotImplementedError(f"vote.{'.'.join(instruction.modifiers)}")
        bits = self._value(instruction.operands[1], threads, TYPES["pred"]).reshape(-1, WARP)
        words = (bits.astype("u8") << np.arange(WARP, dtype="u8")).sum(axis=1).astype("u4")
        self._set(instruction.operands[0], threads, np.repeat(words, WARP))

    def _shuffle(self, instruction: Instruction, threads: Array) -> None:
        """``shfl.sync.idx`` and ``.bfly``, by the formulas of the manual (9.7.9.6)."""
        a, b, c = (self._value(operand, threads, TYPES["b32"]) for operand in instruction.operands[1:4])
        lane = (threads % WARP).astype("u4")
        offset, clamp, segment = b & 31, c & 31, c >> np.uint32(8) & 31
        highest = lane & segment | clamp & ~segment & 31
        if instruction.modifiers[1] == "idx":
            source = lane & segment | offset & ~segment & 31
        elif instruction.modifiers[1] == "bfly":
            source = lane ^ offset
        else:
            raise NotImplementedError(f"shfl.{'.'.join(instruction.modifiers)}")
        valid = source <= highest
        source = np.where(valid, source, lane)
        place = np.arange(len(threads)) // WARP * WARP + source
        target, _, predicate = instruction.operands[0].partition("|")
        self._set(target, threads, a[place])
        if predicate:
            self._set(predicate, threads, valid)

    # -----------------------------------------------------------------------------------------------------------------
    # Single instructions

    def _execute(self, instruction: Instruction, threads: Array) -> None:
        name, modifiers, operands = instruction.name, instruction.modifiers, instruction.operands
        try:
            if name in ("ld", "st"):
                self._access(instruction, threads)
            elif name == "cp":
                self._copy(instruction, threads)
            elif name == "cvta":
                self._set(operands[0], threads, self._value(operands[1], threads, TYPES["u64"]))
            elif name == "mov" and "{" in operands[0] + operands[1]:
                self._set_parts(operands, modifiers[0], threads)
            else:
                kinds = _operand_kinds(name, modifiers, len(operands) - 1)
                values = [self._value(one, threads, kind) for one, kind in zip(operands[1:], kinds, strict=True)]
                self._set(operands[0], threads, arithmetic.computed(name, modifiers, values))
        except BrokenRule as error:
            raise BrokenRule(f"{error} (line {instruction.line}: {name}.{'.'.join(modifiers)})") from None

    def _value(self, operand: str, threads: Array, kind: Any) -> Array:
        """Returns an operand's value: a register's, a number, or a variable's address."""
        if operand in self._registers:
            return self._registers[operand][threads]
        if operand in self._special:
            return self._special[operand][threads]
        return np.full(len(threads), self._number(operand, kind))

    def _number(self, operand: str, kind: Any) -> Any:
        if operand.startswith("0f"):
            return np.frombuffer(struct.pack("<I", int(operand[2:], 16)), "f4")[0]
        if operand.startswith("0d"):
            return np.frombuffer(struct.pack("<Q", int(operand[2:], 16)), "f8")[0]
        address = self._address_of_variable(operand)
        number = int(operand, 0) if address is None else address
        if kind.kind == "b":
            return bool(number)
        return np.array([number % 2 ** (8 * kind.itemsize)], f"u{kind.itemsize}").view(kind)[0]

    def _address_of_variable(self, name: str) -> int | None:
        for table in (self._kernel.shared, self._module.constants):
            if name in table:
                return table[name]
        return 0 if name == f"{self._kernel.name}_param_0" else None

    def _set(self, register: str, threads: Array, value: Array) -> None:
        if register == "_":
            return
        target = self._registers[register]
        target[threads] = arithmetic.widened(value, target.dtype)

    def _set_parts(self, operands: tuple[str, ...], kind: str, threads: Array) -> None:
        """``mov`` between a register and the parts of one."""
        target, source = operands
        if target.startswith("{"):
            parts = operands_of(target[1:-1])
            whole = np.ascontiguousarray(self._value(source, threads, TYPES[kind]))
            pieces = whole.view(np.uint8).reshape(len(threads), len(parts), -1)
            for i, part in enumerate(parts):
                piece = np.ascontiguousarray(pieces[:, i]).view(f"u{pieces.shape[2]}")[:, 0]
                self._set(part, threads, piece)
        else:
            parts = operands_of(source[1:-1])
            size = bytes_of(kind) // len(parts)
            values = [self._value(part, threads, np.dtype(f"u{size}")) for part in parts]
            whole = np.stack([np.ascontiguousarray(value).view(f"u{size}") for value in values], axis=1)
            self._set(target, threads, whole.view(f"u{bytes_of(kind)}")[:, 0])

    # -----------------------------------------------------------------------------------------------------------------
    # Memory

    def _address(self, operand: str, threads: Array) -> Array:
        """Returns the addresses of ``[register+number]`` or ``[variable+number]``."""
        base, _, offset = operand[1:-1].partition("+")
        return self._value(base, threads, TYPES["u64"]).astype("i8") + int(offset or 0)

    def _access(self, instruction: Instruction, threads: Array) -> None:
        """``ld`` and ``st``, of one value or a vector of two or four."""
        space, kind = instruction.modifiers[0], instruction.modifiers[-1]
        count = next((int(one[1:]) for one in instruction.modifiers if one in ("v2", "v4")), 1)
        size = bytes_of(kind) * count
        loads = instruction.name == "ld"
        place, value = instruction.operands[::-1] if loads else instruction.operands
        address = self._address(place, threads)
        names = operands_of(value[1:-1]) if count > 1 else (value,)
        if loads:
            content = np.ascontiguousarray(self._loader(space)(address, size, threads))
            values = content.view(TYPES[kind]).reshape(len(threads), count)
            for i, name in enumerate(names):
                self._set(name, threads, values[:, i])
        else:
            parts = [arithmetic.read(self._value(name, threads, TYPES[kind]), TYPES[kind]) for name in names]
            content = np.stack(parts, axis=1).view(np.uint8)
            store = {"global": self._memory.store, "shared": self._shared.store}[space]
            store(address, content, threads)

    def _loader(self, space: str) -> Callable[[Array, int, Array], Array]:
        fixed = {"param": self._parameter, "const": self._constants}
        if space in fixed:
            return lambda address, size, threads: _of_fixed(fixed[space], address, size)
        return {"global": self._memory.load, "shared": self._shared.load}[space]

    def _copy(self, instruction: Instruction, threads: Array) -> None:
        """``cp.async``: done at once, as the thread that copied reads nothing before it waits."""
        if instruction.modifiers[:2] == ("async", "wait_all"):
            return
        if instruction.modifiers != ("async", "ca", "shared", "global"):
            raise NotImplementedError(f"cp.{'.'.join(instruction.modifiers)}")
        target, source = (self._address(operand, threads) for operand in instruction.operands[:2])
        size = int(instruction.operands[2])
        self._shared.store(target, self._memory.load(source, size, threads), threads)


def _of_block(instruction: Instruction) -> bool:
    return instruction.name in ("bar", "barrier") and "warp" not in instruction.modifiers


def _of_fixed(content: Array, address: Array, size: int) -> Array:
    if (address % size != 0).any() or (address < 0).any() or (address + size > len(content)).any():
        raise BrokenRule("an access outside of parameters or constants, or not aligned")
    return content[address[:, None] + np.arange(size)]


def _operand_kinds(name: str, modifiers: tuple[str, ...], count: int) -> list[Any]:
    """Returns the types as which an instruction's numbers are to be read."""
    kind = TYPES.get(modifiers[-1], TYPES["b32"])
    if name in ("shl", "shr"):
        return [kind, TYPES["u32"]]
    if name == "selp":
        return [kind, kind, TYPES["pred"]]
    if name == "mad" and modifiers[0] == "wide":
        return [kind, kind, np.dtype(f"{kind.kind}{2 * kind.itemsize}")]
    if modifiers[0] == "pack":
        return [TYPES["s32"], TYPES["s32"], TYPES["b32"]]
    return [kind] * count
