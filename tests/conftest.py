"""What all tests share: fixed seeds, and the backends."""

from __future__ import annotations

import zlib
from collections import Counter

import hypothesis
import numpy as np
import pytest
import torch
from backends import BACKENDS, Backend

# The same examples in every run; `--hypothesis-profile default` looks for new ones.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("fixed")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator with a seed of the test's own; torch's is seeded likewise. A failure shows the seed."""
    seed = zlib.crc32(request.node.nodeid.encode())
    print(f"seed {seed}")
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each implementation of the ops in turn."""
    chosen = BACKENDS[request.param]
    if chosen.missing is not None:
        pytest.skip(f"backend {chosen.name}: {chosen.missing}")
    return chosen


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A slow backend is tried by the suite of conformance alone, by one in seven of each test's cases.

    No parameter there has seven values or a multiple of them: so each value of each comes up.
    """
    seen: Counter[str] = Counter()
    left_out = []
    for item in items:
        backend = BACKENDS.get(item.callspec.params.get("backend")) if hasattr(item, "callspec") else None
        if backend is not None and backend.slow:
            test = item.nodeid.partition("[")[0]
            if "test_conformance" not in test or seen[test] % 7:
                left_out.append(item)
            seen[test] += 1
    config.hook.pytest_deselected(items=left_out)
    out = set(left_out)
    items[:] = [item for item in items if item not in out]
