"""Generators of random numbers that a caller gives: what they must be, and where they must not draw again."""

from __future__ import annotations

import torch


def check_generator(generator: torch.Generator | None) -> None:
    """Raises unless it is a generator of torch's, or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}")


def within_backward() -> bool:
    """Returns whether a backward pass runs, in which activation checkpointing repeats forward passes."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def check_not_repeated(generator: torch.Generator | None, owner: str) -> None:
    """Raises where activation checkpointing repeats draws of a private generator, which it does not restore."""
    if generator is not None and within_backward():
        raise RuntimeError(
            f"generator must be None where activation checkpointing repeats {owner}, because only torch's own "
            f"generators are restored, got {generator!r}"
        )
