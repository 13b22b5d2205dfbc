"""Work in batches on a device that may run out of memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from fdjpeg._calls import is_out_of_memory

Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)


def in_batches(
    function: Callable[[Tensor], Result], indices: Tensor, batch_size: int
) -> Iterator[tuple[Tensor, Result]]:
    """Calls ``function`` on batches of ``indices``, and halves them if the device runs out of memory.

    The batch that failed is tried again in halves, and the rest uses the smaller size. Attacks draw random numbers by
    image, so results do not depend on it.

    Args:
        function: of some of the indices, ``(n,)``. It must have no effect if it raises.
        indices: ``(N,)``, int64.
        batch_size: indices at once, to begin with.

    Yields:
        Each batch with its result, in order.

    Raises:
        ValueError: if not even a batch of one fits, or ``batch_size`` is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    done = 0
    while done < len(indices):
        batch = indices[done : done + batch_size]
        results: list[Result] = []
        try:
            results.append(function(batch))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise ValueError(f"batch_size must fit into memory, got 1, which does not: {error}") from error
        if results:
            done += len(batch)
            yield batch, results[0]
            continue
        # Only here, after the handler, are the traceback and the tensors of the failed call gone.
        batch_size = len(batch) // 2
        _LOG.warning("out of memory with %d images at once, goes on with %d", len(batch), batch_size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
