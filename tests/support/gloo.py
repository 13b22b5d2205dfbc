"""Process groups on the CPU that end without a deadlock."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed


def in_process_group(
    function: Callable[..., Any], *arguments: Any, store: str | Path, rank: int = 0, size: int = 1
) -> Any:
    """Calls a function inside a gloo process group, and ends the group after all that the function made.

    If DistributedDataParallel held the last reference to a group, its destructor would wait for a thread of gloo's that
    waits for the interpreter's lock: torch would hang, now and then.

    Args:
        function: makes its models itself, so that they are gone when it returns.
        arguments: of the function.
        store: a file in which the processes meet.
        rank, size: this process, of so many.
    """
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        return function(*arguments)
    finally:
        gc.collect()
        torch.distributed.destroy_process_group()
