"""The kernels as nvcc compiles them: registers, spills and instructions stay within ``cuda_budget.json``."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support import sass
from support.kept_builds import kept_build
from support.sass import BUDGET, Kernel
from support.slow import slow_unless

ROOT = Path(__file__).resolve().parents[2]

_NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
pytestmark = pytest.mark.skipif(_NVCC is None, reason="there is no nvcc: the CUDA kernels are not compiled here")

KERNELS = pytest.mark.parametrize("kernel", BUDGET.kernels, ids=lambda kernel: kernel.name)


@functools.cache
def _compiled(architecture: str) -> tuple[str, Path] | None:
    """For an architecture ptxas's report and the machine code of the budget's kernels; None where nvcc lacks it."""
    assert _NVCC is not None
    nvcc = _NVCC
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    if architecture not in known:
        return None
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    source = sass.instantiations(BUDGET.kernels)
    flags = ["-std=c++20", "-O3", f"-I{ROOT / 'csrc'}", "-Xptxas=-v", "-cubin", f"-arch={architecture}"]
    flags += ["-o", "kernels.cubin", "kernels.cu"]

    def compile_into(folder: Path) -> None:
        (folder / "kernels.cu").write_text(source)

        done = subprocess.run([nvcc, *flags], capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr
        (folder / "log").write_text(done.stderr)

    headers = sorted(path for room in ("codec", "cuda") for path in (ROOT / "csrc" / room).iterdir())
    folder = kept_build("cubins", headers, (version, source, flags), compile_into)
    return (folder / "log").read_text(), folder / "kernels.cubin"


@pytest.fixture(scope="module")
def disassembled() -> dict[str, list[sass.Instruction]]:
    """The instructions of each kernel on the architecture of the targets, by mangled name."""
    disassembler = sass.disassembler()
    if disassembler is None:
        pytest.skip("there is no cuobjdump, neither of a toolkit nor of Triton")
    target = _compiled(BUDGET.target)
    assert target is not None, f"{_NVCC} does not know {BUDGET.target}"
    command = [disassembler, "-sass", str(target[1])]
    return sass.functions(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("architecture", slow_unless(lambda one: one == BUDGET.target, BUDGET.architectures))
@KERNELS
def test_registers_and_spills(kernel: Kernel, architecture: str) -> None:
    compiled = _compiled(architecture)
    if compiled is None:
        pytest.skip(f"this nvcc does not know {architecture}")
    sections = compiled[0].split("Compiling entry function '")[1:]
    (section,) = [one for one in sections if kernel.pattern.match(one)]
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in section, section
    used = re.search(r"Used (\d+) registers", section)
    assert used is not None
    assert int(used[1]) <= kernel.registers


@KERNELS
def test_instructions_and_turns_per_pixel(disassembled: dict[str, list[sass.Instruction]], kernel: Kernel) -> None:
    (instructions,) = [body for name, body in disassembled.items() if kernel.pattern.match(name)]
    cost = sass.cost_of(instructions, kernel.passes)
    for name, count in (("instructions_per_pixel", cost.instructions), ("turns_per_pixel", cost.turns)):
        per_pixel, budget = count / kernel.pixels_per_thread, getattr(kernel, name)
        assert per_pixel <= budget + 0.05, name
        # Much less would mean that the counter lost its way, or that the budget can be tightened.
        assert per_pixel >= 0.9 * budget, name


def test_the_recorded_instructions_meet_the_targets() -> None:
    """By the model of an H200 in ``benchmarks/expected.py``, where no GPU was at hand."""
    import sys

    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import expected
    finally:
        sys.path.pop(0)
    for task in expected.TASKS:
        assert task.microseconds <= task.target, task
