"""Measures fdjpeg and its peers with pytest-benchmark: ``python -m pytest benchmarks --benchmark-only``.

The published tables come from ``fdjpeg bench``, which calls the peers in turns. Here each peer is measured separately,
with pytest-benchmark's statistics, comparisons and histories.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fdjpeg.bench.measure import BACKWARD, BATCHES, FORWARD, _call, photographs, size_of
from fdjpeg.bench.peers import PEERS


@pytest.mark.parametrize("direction", [FORWARD, BACKWARD])
@pytest.mark.parametrize("batch", [name for name in BATCHES if name != "1x4096"])
@pytest.mark.parametrize("peer", list(PEERS))
def test_round_trip(benchmark: Any, peer: str, batch: str, direction: str) -> None:
    chosen = PEERS[peer]
    if (why := chosen.missing()) is not None:
        pytest.skip(why)
    if direction == BACKWARD and not chosen.differentiable:
        pytest.skip(f"{peer} is not differentiable")
    torch.set_num_threads(1)
    benchmark.group = f"{batch}, {direction}, one thread"
    call = _call(chosen, direction, chosen.prepare(photographs(*size_of(batch))), chosen.codec(75, "4:2:0"))
    assert benchmark(call) is not None
