"""What all tests share: fixed seeds, and the backends."""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from support.backends import BACKENDS, Backend

# The processes of `-n 2` share the processors, and so do those that they start: threads of several processes that wait
# for each other on the same processors take three times as long.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))
    torch.set_num_threads(min(torch.get_num_threads(), share))

# The same examples in every run; `--hypothesis-profile default` looks for new ones.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("fixed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n``, a process that has no tests left takes some of another's: the slow ones come one after the other."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator with a seed of the test's own; torch's is seeded likewise. A failure shows the seed."""
    seed = zlib.crc32(request.node.name.encode())
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


#: Of a test with many cases, a slow backend is tried by one in so many: no parameter has a multiple of so many values,
#: and so each value of each comes up.
_ONE_IN = int(os.environ.get("FDJPEG_ONE_IN", "7"))

#: The files whose tests try the slow backends.
_OF_SLOW = ("test_conformance", "test_empty_batches")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Lets few tests try a slow backend (`_OF_SLOW`): by all cases of a test, or some if they are many."""
    of_slow: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        backend = BACKENDS.get(item.callspec.params.get("backend")) if hasattr(item, "callspec") else None
        if backend is not None and backend.slow:
            of_slow[item.nodeid.partition("[")[0]].append(item)
    left_out = set()
    for test, cases in of_slow.items():
        many = len(cases) >= 5 * _ONE_IN
        tried = cases[:: _ONE_IN if many else 1] if any(suite in test for suite in _OF_SLOW) else []
        left_out |= set(cases) - set(tried)
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]
