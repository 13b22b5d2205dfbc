"""The processes that share one evaluation, started by ``torchrun`` or as shards without contact."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from fdjpeg._checks import check_flag, check_text, check_whole

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among those that share a run: it does every ``size``-th piece of work, starting with ``rank``.

    Attributes:
        rank: 0 … size − 1.
        size: number of processes.
        together: whether they communicate: those of ``torchrun`` do, shards do not.

    Example::

        World.here()  # under torchrun one of several processes
        evaluate(model, loader, eps=["2/255"], attacks=["pgd-20"], out="run", world=World(rank=0, size=1))
    """

    rank: int = 0
    size: int = 1
    together: bool = False

    def __post_init__(self) -> None:
        check_whole("size", self.size, 1)
        check_whole("rank", self.rank, 0)
        check_flag("together", self.together)
        if self.rank >= self.size:
            raise ValueError(f"rank must be below size, {self.size}, got {self.rank}")

    @classmethod
    def here(cls) -> World:
        """Returns this process as ``torchrun`` started it, or alone. The first call connects to the others by gloo."""
        if dist.is_available() and not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # Attacks take hours, and the first process to finish waits for all the others.
            dist.init_process_group("gloo", timeout=timedelta(days=14))
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), together=True)
        return cls()

    @property
    def name(self) -> str:
        """Its name, such as "1-of-2"."""
        return f"{self.rank + 1}-of-{self.size}"

    def shard(self, text: str | None) -> World:
        """Returns one shard of several, written "2/8": its processes do every eighth piece of the work.

        Raises:
            ValueError: if it is not i/n with 1 ≤ i ≤ n.
        """
        if text is None:
            return self
        check_text("shard", text)
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ValueError(f"shard must be i/n with 1 ≤ i ≤ n, such as 2/8, got {text!r}")
        return World((int(number) - 1) * self.size + self.rank, int(count) * self.size, self.together)

    def mine(self, work: Sequence[T]) -> Sequence[T]:
        """Returns the share of this process."""
        return work[self.rank :: self.size]

    def gather(self, found: list[T]) -> list[T]:
        """Returns the findings of all processes that communicate, the same in each of them."""
        if not self.together:
            return found
        parts: list[list[T]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, found)
        return [item for part in parts for item in part]


def device_here(name: str) -> torch.device:
    """Returns a device by name; "cuda" is the GPU of this process.

    Raises:
        ValueError: if torch has no device of that name here.
    """
    try:
        device = torch.device(name)
        if name == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be one that torch has here, got {name!r}: {error}") from error
    return device
