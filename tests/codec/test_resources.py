"""The ops and the memory of a process, each in a process of its own: see `support.resources`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


def _run(*arguments: str) -> str:
    path = os.pathsep.join((str(TESTS), str(TESTS.parent)))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "support.resources", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is counted in /proc")
def test_memory_stays_flat() -> None:
    lines = _run("flat", "300").splitlines()
    assert [line.split(":")[0] for line in lines] == [f"300 calls of each op, {n} channels" for n in (3, 1)]
    assert all(float(line.split()[-3]) <= 4 for line in lines), lines


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is counted in /proc")
def test_a_failed_allocation_is_named_and_leaves_the_process_usable() -> None:
    lines = _run("failed").splitlines()
    assert len(lines) == 5
    assert all("can't allocate memory" in line for line in lines), lines
