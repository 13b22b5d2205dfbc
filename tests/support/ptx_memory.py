"""The memories that a kernel under ``support.ptx_machine`` sees, and every rule that an access can break."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]

#: Addresses between two buffers, which belong to none.
_GAP = 256
_BASE = 4096


class BrokenRule(Exception):
    """A kernel did what no kernel may do."""


class Global:
    """Buffers with gaps between them. Each access is checked: its range, its alignment, and races between threads."""

    def __init__(self) -> None:
        self._data = np.zeros(_BASE, np.uint8)
        self._inside = np.zeros(_BASE, bool)
        self._defined = np.zeros(_BASE, bool)
        self._places: dict[str, tuple[int, int]] = {}

    def add(self, name: str, content: Bytes, defined: bool = True, shift: int = 0) -> int:
        """Adds a buffer; returns its address, `shift` bytes behind a multiple of 256.

        Args:
            name: for `read`.
            content: its bytes.
            defined: whether they may be read before a kernel writes them.
            shift: bytes.
        """
        begin = -(-len(self._data) // _GAP) * _GAP + _GAP + shift
        room = begin + len(content) + _GAP - len(self._data)
        self._data = np.concatenate([self._data, np.zeros(room, np.uint8)])
        self._inside = np.concatenate([self._inside, np.zeros(room, bool)])
        self._defined = np.concatenate([self._defined, np.zeros(room, bool)])
        self._data[begin : begin + len(content)] = content
        self._inside[begin : begin + len(content)] = True
        self._defined[begin : begin + len(content)] = defined
        self._places[name] = (begin, len(content))
        return begin

    def read(self, name: str) -> Bytes:
        """Returns the bytes of a buffer.

        Raises:
            BrokenRule: some were never written.
        """
        begin, size = self._places[name]
        if not self._defined[begin : begin + size].all():
            missing = np.flatnonzero(~self._defined[begin : begin + size])
            raise BrokenRule(f"{len(missing)} bytes of {name} were not written, the first at {missing[0]}")
        return self._data[begin : begin + size].copy()

    def begin_kernel(self) -> None:
        """Forgets which thread wrote what: a kernel sees all that the one before it wrote."""
        self._writer = np.full(len(self._data), -1, np.int64)

    def _places_of(self, address: Numbers, size: int) -> Numbers:
        if (address % size != 0).any():
            raise BrokenRule(f"an access of {size} bytes at {address[address % size != 0][0]:#x} is not aligned")
        if (address < 0).any() or (address + size > len(self._data)).any():
            raise BrokenRule("an access is outside of all buffers")
        places = address[:, None] + np.arange(size)
        if not self._inside[places].all():
            raise BrokenRule("an access is outside of its buffer")
        return places

    def load(self, address: Numbers, size: int, thread: Numbers) -> Bytes:
        """Returns ``(threads, size)`` bytes."""
        places = self._places_of(address, size)
        if not self._defined[places].all():
            raise BrokenRule("a read of bytes that nothing wrote")
        writer = self._writer[places]
        if ((writer >= 0) & (writer != thread[:, None])).any():
            raise BrokenRule("a thread reads in global memory what another one of the same kernel wrote")
        return self._data[places]

    def store(self, address: Numbers, content: Bytes, thread: Numbers) -> None:
        """Writes ``(threads, size)`` bytes."""
        places = self._places_of(address, content.shape[1])
        writer = self._writer[places]
        if ((writer >= 0) & (writer != thread[:, None])).any() or len(np.unique(places)) != places.size:
            raise BrokenRule("two threads write the same bytes of global memory")
        self._data[places], self._defined[places], self._writer[places] = content, True, thread[:, None]


@dataclass
class Order:
    """What orders threads: each one's block and warp, and how many barriers of either it has passed."""

    block: Numbers
    warp: Numbers
    block_barriers: Numbers
    warp_barriers: Numbers


class Shared:
    """Shared memory of all blocks. An access is a race unless barriers order it and the others of the same word.

    Two accesses of a word by different threads, one of them a write, must have between them a barrier of the block, or
    one of the warp if both threads are of the same warp (PTX ISA, "Memory Consistency Model").
    """

    def __init__(self, blocks: int, size: int, order: Order) -> None:
        self._words = -(-size // 4)
        self._order = order
        shape = (blocks * self._words,)
        self._size = size
        self._data = np.zeros(shape[0] * 4, np.uint8)
        self._defined = np.zeros(shape, bool)
        # Of the last write and of the reads since the last barrier of the block: thread (-2: several), warp (-2:
        # several), barriers of the block and of the warp.
        self._write = {name: np.full(shape, -1, np.int64) for name in ("thread", "warp", "block", "turn")}
        self._reads = {name: np.full(shape, -1, np.int64) for name in ("thread", "warp", "block", "turn")}

    def _words_of(self, address: Numbers, size: int, thread: Numbers) -> Numbers:
        if (address % size != 0).any():
            raise BrokenRule(f"an access of {size} bytes of shared memory is not aligned")
        if size < 4:
            raise BrokenRule("an access of less than a word of shared memory is not modelled")
        if (address < 0).any() or (address + size > self._size).any():
            raise BrokenRule("an access is outside of shared memory")
        first = self._order.block[thread] * self._words + address // 4
        return first[:, None] + np.arange(size // 4)

    def _check(self, before: dict[str, Numbers], words: Numbers, thread: Numbers, what: str) -> None:
        order, t = self._order, thread[:, None]
        other = (before["thread"][words] != -1) & (before["thread"][words] != t)
        by_block = before["block"][words] < order.block_barriers[t]
        same_warp = before["warp"][words] == order.warp[t]
        by_warp = same_warp & (before["turn"][words] < order.warp_barriers[t])
        if (other & ~by_block & ~by_warp).any():
            raise BrokenRule(f"a race in shared memory: {what}")

    def load(self, address: Numbers, size: int, thread: Numbers) -> Bytes:
        """Returns ``(threads, size)`` bytes."""
        words = self._words_of(address, size, thread)
        if not self._defined[words].all():
            raise BrokenRule("a read of shared memory that nothing wrote")
        self._check(self._write, words, thread, "a read of what another thread writes")
        self._note_reads(words, thread)
        return self._data[words[:, :, None] * 4 + np.arange(4)].reshape(len(thread), size)

    def _note_reads(self, words: Numbers, thread: Numbers) -> None:
        order, reads = self._order, self._reads
        block = np.broadcast_to(order.block_barriers[thread][:, None], words.shape).ravel()
        turn = np.broadcast_to(order.warp_barriers[thread][:, None], words.shape).ravel()
        warp = np.broadcast_to(order.warp[thread][:, None], words.shape).ravel()
        who, flat = np.broadcast_to(thread[:, None], words.shape).ravel(), words.ravel()
        stale = flat[reads["block"][flat] < block]
        for one in reads.values():
            one[stale] = -1
        # Several threads may read a word at once: what they have in common, or -2.
        for name, value in (("thread", who), ("warp", warp)):
            low, high = np.full(len(reads[name]), np.iinfo(np.int64).max), np.full(len(reads[name]), -1)
            np.minimum.at(low, flat, value)
            np.maximum.at(high, flat, value)
            at_once = np.where(low[flat] == high[flat], value, -2)
            before = reads[name][flat]
            reads[name][flat] = np.where((before == -1) | (before == at_once), at_once, -2)
        np.maximum.at(reads["block"], flat, block)
        np.maximum.at(reads["turn"], flat, turn)

    def store(self, address: Numbers, content: Bytes, thread: Numbers) -> None:
        """Writes ``(threads, size)`` bytes."""
        words = self._words_of(address, content.shape[1], thread)
        if len(np.unique(words)) != words.size:
            raise BrokenRule("a race in shared memory: two threads write a word at once")
        self._check(self._write, words, thread, "two threads write a word")
        self._check(self._reads, words, thread, "a write of what another thread reads")
        order = self._order
        self._data[words[:, :, None] * 4 + np.arange(4)] = content.reshape(len(thread), -1, 4)
        self._defined[words] = True
        for name, value in (
            ("thread", thread),
            ("warp", order.warp[thread]),
            ("block", order.block_barriers[thread]),
            ("turn", order.warp_barriers[thread]),
        ):
            self._write[name][words] = value[:, None]
