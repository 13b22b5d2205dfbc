"""What all tests share: fixed seeds, and the backends."""

from __future__ import annotations

import zlib

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
