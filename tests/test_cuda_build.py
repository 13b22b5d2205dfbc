"""What nvcc makes of the kernels: registers, spills and instructions, within what ``cuda_budget.json`` records."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sass
from sass import BUDGET, Kernel

ROOT = Path(__file__).resolve().parent.parent

_NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
pytestmark = pytest.mark.skipif(_NVCC is None, reason="there is no nvcc: the CUDA kernels are not compiled here")

KERNELS = pytest.mark.parametrize("kernel", BUDGET.kernels, ids=lambda kernel: kernel.name)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path]]:
    """For each architecture ptxas's report and the machine code of the budget's kernels."""
    assert _NVCC is not None
    known = subprocess.run([_NVCC, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    wanted = [architecture for architecture in BUDGET.architectures if architecture in known]
    assert BUDGET.target in wanted, f"{_NVCC} does not know {BUDGET.target}"
    folder = tmp_path_factory.mktemp("cubins")
    source = folder / "kernels.cu"
    source.write_text(sass.instantiations(BUDGET.kernels))

    def compile_for(architecture: str) -> tuple[str, Path]:
        target = folder / f"{architecture}.cubin"
        flags = ["-std=c++20", "-O3", f"-arch={architecture}", f"-I{ROOT / 'csrc'}", "-Xptxas=-v", "-cubin"]
        done = subprocess.run([_NVCC, *flags, "-o", str(target), str(source)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr, target

    with ThreadPoolExecutor() as pool:
        return dict(zip(wanted, pool.map(compile_for, wanted), strict=True))


@pytest.mark.parametrize("architecture", BUDGET.architectures)
@KERNELS
def test_registers_and_spills(compiled: dict[str, tuple[str, Path]], kernel: Kernel, architecture: str) -> None:
    if architecture not in compiled:
        pytest.skip(f"this nvcc does not know {architecture}")
    sections = compiled[architecture][0].split("Compiling entry function '")[1:]
    (section,) = [one for one in sections if kernel.pattern.match(one)]
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in section, section
    used = re.search(r"Used (\d+) registers", section)
    assert used is not None
    assert int(used[1]) <= kernel.registers


@KERNELS
def test_instructions_per_pixel(compiled: dict[str, tuple[str, Path]], kernel: Kernel) -> None:
    """On the architecture of the targets."""
    disassembler = sass.disassembler()
    if disassembler is None:
        pytest.skip("there is no cuobjdump, neither of a toolkit nor of Triton")
    _, cubin = compiled[BUDGET.target]
    listing = subprocess.run([disassembler, "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
    (instructions,) = [body for name, body in sass.functions(listing).items() if kernel.pattern.match(name)]
    per_pixel = sass.path_length(instructions) / kernel.pixels_per_thread
    assert per_pixel <= kernel.instructions_per_pixel + 0.05
    # Much less would mean that the counter lost its way, or that the budget can be tightened.
    assert per_pixel >= 0.9 * kernel.instructions_per_pixel


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


def test_library_beside_this_torch_holds_every_op() -> None:
    """Whichever torch this is: the library holds kernels for GPUs even where torch has no CUDA."""
    import torch

    from fdjpeg import _library

    if not _library._HOLDS_CUDA:
        pytest.skip("the library was built without CUDA kernels, or is not used")
    for op in ("round_trip", "round_trip_backward", "encode", "decode"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fdjpeg::{op}", "CUDA")
