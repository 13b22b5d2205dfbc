"""Bugs planted in the arithmetic and in the CPU's kernels, each of which changes what the kernels make of some images.

Rounding constants, shifts, biases, weights, orders, edge rules, strides and masks of ``csrc/codec`` and ``csrc/cpu``
have theirs in ``bugs/cpu_*.txt`` (see `support.planted_bugs`): for an instruction set, for a sample type, or for the
kernels in real numbers. The program ``cpu/every_kernel.cpp`` runs all kernels over images of odd sizes, layouts and
values. That the kernels without a bug are right is for ``codec/test_conformance.py`` and ``codec/test_real.py``, whose
bounds are wider than what a bug must change.

On aarch64 the kernels are those for any processor, of which the compiler makes NEON's instructions: no line is for NEON
alone. There the program must make the same bits as here, and notice the bugs in all operations on lanes.

Some lines have none, since no result depends on them, or only on memory that nobody reads:

- sizes of scratch memory, which have room to spare; prefetches; how large a batch is that is written around the caches;
- what vectors hold beyond the last block or sample, and half of the words that `fractions_of_bytes` chooses from;
- the test for two rows of chroma that are one: without it both sums go to that row, in the order of the program, which
  a compiler that makes vectors of the loop need not keep.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from support import emulation, instruction_sets, planted_bugs
from support.planted_bugs import Mutant
from support.slow import slow_unless

CSRC = Path(__file__).resolve().parents[2] / "csrc"
PROGRAM = Path(__file__).resolve().parent / "cpu"


class Kind(NamedTuple):
    """What a file of bugs is found by: the kernels of a sample type and an instruction set."""

    type: str
    isa: str = "scalar"
    real: bool = False
    machine: str = "here"


#: The files of bugs.
KINDS = {
    "cpu_float32": Kind("float32"),
    "cpu_uint8": Kind("uint8"),
    "cpu_float16": Kind("float16"),
    "cpu_bfloat16": Kind("bfloat16"),
    "cpu_float64": Kind("float64"),
    "cpu_avx2": Kind("float32", "avx2"),
    "cpu_avx2_uint8": Kind("uint8", "avx2"),
    "cpu_avx2_float16": Kind("float16", "avx2"),
    "cpu_avx2_float64": Kind("float64", "avx2"),
    "cpu_avx512": Kind("float32", "avx512"),
    "cpu_avx512_uint8": Kind("uint8", "avx512"),
    "cpu_avx512_float16": Kind("float16", "avx512"),
    "cpu_avx512_float64": Kind("float64", "avx512"),
    "cpu_real": Kind("float64", real=True),
    "cpu_real_uint8": Kind("uint8", real=True),
    "cpu_real_float16": Kind("float16", real=True),
    "cpu_real_float32": Kind("float32", real=True),
    "cpu_real_avx2": Kind("float32", "avx2", real=True),
    "cpu_real_avx512": Kind("float32", "avx512", real=True),
}

#: The compiler's options for an instruction set, as in ``csrc/cpu/exact_avx2.cpp`` and its like.
OPTIONS = {
    "scalar": "",
    "avx2": "-mavx2 -mfma -mf16c",
    "avx512": "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma -mf16c",
}


#: The compiler of a machine's programs, and what runs them here.
MACHINES = {
    "here": (["g++"], []),
    "aarch64": (["aarch64-linux-gnu-g++", "-static"], ["qemu-aarch64"]),
}


def _bound(kind: Kind) -> float:
    """A bug must change some result by more: pixels in [0, 1], gradients of order 1, or the bits of exact samples."""
    return 1e-9 if kind.real and kind.type == "float64" else 1e-4


def _planted(folder: Path, kind: Kind, bug: Mutant | None) -> Path:
    """Copies the sources with a bug, or without one; nothing is inlined in them, so that they compile twice as fast."""
    emulation.restricted_copy(folder, [kind.type])
    shutil.copytree(CSRC / "cpu", folder / "cpu")
    sources = [path for room in ("codec", "cpu") for path in (folder / room).iterdir()]
    if bug is not None:
        holding = [path for path in sources for _ in range(path.read_text().count(bug.old))]
        assert len(holding) == 1, f"{bug.name}: {bug.old!r} is {len(holding)} times in the sources, not once"
        holding[0].write_text(holding[0].read_text().replace(bug.old, bug.new))
    for path in sources:
        path.write_text(path.read_text().replace("__attribute__((always_inline))", ""))
    return folder


class _Compiler:
    """Compiles the program for a kind of kernels, what never changes only once."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self._kind, self._folder = kind, folder
        self._compiler, self._runner = MACHINES[kind.machine]
        shutil.copytree(PROGRAM, folder, dirs_exist_ok=True)  # a compiled header serves only files in the same folder
        self._flags = ["-std=c++20", "-O0", "-fwrapv", "-ffp-contract=off", "-w", *OPTIONS[kind.isa].split()]
        self._flags += [f"-DFDJPEG_VECTOR_BYTES={instruction_sets.VECTOR_BYTES[kind.isa]}"]
        self._flags += [f"-DFDJPEG_TYPE={kind.type}", *(["-DFDJPEG_REAL"] if kind.real else [])]
        standard = folder / "standard.h"
        header = ["-x", "c++-header", standard, "-o", f"{standard}.gch"]
        subprocess.run([*self._compiler, *self._flags, *header], check=True)

    def results(self, number: int, bug: Mutant | None) -> NDArray[np.float64] | str:
        """Returns all that the kernels make, or why there is nothing: they do not compile, or do not end well."""
        folder = self._folder / str(number)
        program = folder / "program"
        sources = ["-I", str(_planted(folder, self._kind, bug)), str(self._folder / "every_kernel.cpp")]
        command = [*self._compiler, *self._flags, *sources, "-o", program]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode != 0:
            assert bug is not None, built.stderr
            assert "static assertion failed" in built.stderr, f"{bug.name}: {built.stderr}"
            return "found by the compiler"
        try:
            done = subprocess.run([*self._runner, program], capture_output=True, timeout=600)
        except subprocess.TimeoutExpired:
            return "ran for too long"
        finally:
            shutil.rmtree(folder)
        return np.frombuffer(done.stdout) if done.returncode == 0 else f"ended with {done.returncode}"


def _right(kind: Kind, folder: Path) -> tuple[_Compiler, NDArray[np.float64]]:
    """Returns a compiler, and what the kernels make without a bug."""
    if kind.isa not in instruction_sets.available():
        pytest.skip(f"this processor has no {kind.isa}")
    for tool in (tools[0] for tools in MACHINES[kind.machine] if tools):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}")
    compiler = _Compiler(kind, folder)
    right = compiler.results(0, None)
    assert not isinstance(right, str), right
    return compiler, right


def _unnoticed(kind: Kind, bugs: Sequence[Mutant], folder: Path) -> list[str]:
    """Returns the bugs that change no result."""
    compiler, right = _right(kind, folder)

    def unnoticed(job: tuple[int, Mutant]) -> str | None:
        number, bug = job
        found = compiler.results(number, bug)
        if isinstance(found, str) or found.shape != right.shape:
            return None
        with np.errstate(invalid="ignore"):  # infinity less infinity
            close = np.isclose(found, right, rtol=0, atol=_bound(kind), equal_nan=True)
        return bug.name if close.all() else None

    with ThreadPoolExecutor(2) as pool:
        return [name for name in pool.map(unnoticed, enumerate(bugs, 1)) if name is not None]


pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


@pytest.mark.parametrize("kind", slow_unless(lambda kind: kind in ("cpu_float32", "cpu_avx2", "cpu_real"), KINDS))
def test_a_planted_bug_is_found(kind: str, tmp_path: Path) -> None:
    assert _unnoticed(KINDS[kind], planted_bugs.found_by(kind)[:1], tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_planted_bugs_are_found(kind: str, tmp_path: Path) -> None:
    assert _unnoticed(KINDS[kind], planted_bugs.found_by(kind), tmp_path) == []


#: The kinds of kernels for any processor.
PORTABLE = [name for name, kind in KINDS.items() if kind.isa == "scalar"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", PORTABLE)
def test_every_kernel_makes_the_same_on_aarch64(kind: str, tmp_path: Path) -> None:
    """Bit for bit; in real numbers but for the functions of the C library."""
    here, there = (_right(KINDS[kind]._replace(machine=machine), tmp_path / machine)[1] for machine in MACHINES)
    assert here.shape == there.shape
    if KINDS[kind].real:
        np.testing.assert_allclose(there, here, rtol=1e-6, atol=1e-6, equal_nan=True)
    else:
        assert here.tobytes() == there.tobytes()


def _bugs_of_lanes(kind: str) -> list[Mutant]:
    lanes = [path.read_text() for path in (CSRC / "cpu").glob("*lanes.h")]
    return [bug for bug in planted_bugs.found_by(kind) if any(bug.old in source for source in lanes)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(filter(_bugs_of_lanes, PORTABLE)))
def test_planted_bugs_of_lanes_are_found_on_aarch64(kind: str, tmp_path: Path) -> None:
    assert _unnoticed(KINDS[kind]._replace(machine="aarch64"), _bugs_of_lanes(kind), tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_bug_fits_in_one_place(kind: str) -> None:
    sources = [path.read_text() for room in ("codec", "cpu") for path in (CSRC / room).glob("*")]
    for bug in planted_bugs.found_by(kind):
        assert sum(source.count(bug.old) for source in sources) == 1, bug
        assert bug.old != bug.new
