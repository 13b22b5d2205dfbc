"""Bugs planted in the arithmetic and in the CPU's kernels, each of which changes what the kernels make of some images.

Rounding constants, shifts, biases, weights, edge rules, strides and masks of ``csrc/codec`` and ``csrc/cpu`` have
theirs in ``bugs/cpu_*.txt`` (see `support.planted_bugs`): for a sample type, or for the kernels in real numbers. The
program ``cpu/every_kernel.cpp`` runs all kernels over images of odd sizes, layouts and values. That the kernels without
a bug are right is for ``codec/test_conformance.py``, whose bounds are wider than what a bug must change.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support import emulation, planted_bugs
from support.planted_bugs import Mutant

PROGRAM = Path(__file__).resolve().parent / "cpu" / "every_kernel.cpp"
CSRC = PROGRAM.parents[3] / "csrc"

#: The files of bugs, and the sample type that their kernels are compiled for.
KINDS = {
    "cpu_float32": "float32",
    "cpu_uint8": "uint8",
    "cpu_float16": "float16",
    "cpu_bfloat16": "bfloat16",
    "cpu_float64": "float64",
    "cpu_real": "float64",
}

#: A bug must change some result by more: samples in [0, 1] and gradients of order 1 that backends may differ by less.
BOUND = 1e-4


def _planted(folder: Path, kind: str, bug: Mutant | None) -> Path:
    """Copies the sources with a bug, or without one."""
    emulation.restricted_copy(folder, [KINDS[kind]])
    shutil.copytree(CSRC / "cpu", folder / "cpu")
    if bug is not None:
        holding = [path for path in folder.glob("c*/*") for _ in range(path.read_text().count(bug.old))]
        holding = [path for path in holding if path.parent.name in ("codec", "cpu")]
        assert len(holding) == 1, f"{bug.name}: {bug.old!r} is {len(holding)} times in the sources, not once"
        holding[0].write_text(holding[0].read_text().replace(bug.old, bug.new))
    return folder


def _results(folder: Path, kind: str, bug: Mutant | None) -> NDArray[np.float64] | str:
    """Returns all that the kernels make, or why there is nothing: they do not compile, or do not end well."""
    program = folder / "program"
    flags = ["-std=c++20", "-O0", "-fwrapv", "-ffp-contract=off", "-w", f"-I{_planted(folder, kind, bug)}"]
    flags += [f"-I{PROGRAM.parent}", f"-DFDJPEG_TYPE={KINDS[kind]}"]
    if kind == "cpu_real":
        flags.append("-DFDJPEG_REAL")
    built = subprocess.run(["g++", *flags, str(PROGRAM), "-o", str(program)], capture_output=True, text=True)
    if built.returncode != 0:
        assert bug is not None, built.stderr
        assert "static assertion failed" in built.stderr, f"{bug.name}: {built.stderr}"
        return "found by the compiler"
    try:
        done = subprocess.run([program], capture_output=True, timeout=120)
    except subprocess.TimeoutExpired:
        return "ran for too long"
    finally:
        shutil.rmtree(folder)
    return np.frombuffer(done.stdout) if done.returncode == 0 else f"ended with {done.returncode}"


def _unnoticed(kind: str, bugs: Sequence[Mutant], folder: Path) -> list[str]:
    """Returns the bugs that change no result."""
    right = _results(folder / "right", kind, None)
    assert not isinstance(right, str), right

    def unnoticed(job: tuple[int, Mutant]) -> str | None:
        number, bug = job
        found = _results(folder / str(number), kind, bug)
        if isinstance(found, str) or found.shape != right.shape:
            return None
        with np.errstate(invalid="ignore"):  # infinity less infinity
            close = np.isclose(found, right, rtol=0, atol=BOUND, equal_nan=True)
        return bug.name if close.all() else None

    with ThreadPoolExecutor(2) as pool:
        return [name for name in pool.map(unnoticed, enumerate(bugs)) if name is not None]


pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


def test_some_planted_bugs_are_found(tmp_path: Path) -> None:
    bugs = planted_bugs.found_by("cpu_float32")
    assert _unnoticed("cpu_float32", [bugs[0], bugs[-1]], tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_planted_bugs_are_found(kind: str, tmp_path: Path) -> None:
    assert _unnoticed(kind, planted_bugs.found_by(kind), tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_bug_fits_in_one_place(kind: str) -> None:
    sources = [path.read_text() for room in ("codec", "cpu") for path in (CSRC / room).glob("*")]
    for bug in planted_bugs.found_by(kind):
        assert sum(source.count(bug.old) for source in sources) == 1, bug
        assert bug.old != bug.new
