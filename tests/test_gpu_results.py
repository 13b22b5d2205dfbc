"""The kept results of GPUs: whether they are of the kernels as they are, and that the command can be used at all."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    """``benchmarks/gpu.py`` as a module."""
    specification = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks" / "gpu.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_newest_result_is_of_these_kernels(gpu: ModuleType) -> None:
    """A warning, not a failure: a change need not wait for a GPU."""
    newest = max(RESULTS.glob("????-??-??-*.json"), default=None)
    if newest is None:
        warnings.warn("GPU pending: no result of a GPU is kept (benchmarks/gpu.py makes one)", stacklevel=1)
        return
    result = json.loads(newest.read_text())
    if result["kernels"] != gpu.kernel_hash():
        warnings.warn(f"GPU pending: {newest.name} is of older kernels", stacklevel=1)


def test_hash_follows_each_source_of_the_kernels(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in gpu.KERNELS:
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    expected = gpu.kernel_hash()
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    assert gpu.kernel_hash() == expected
    for name in gpu.KERNELS:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content + b" ")
        assert gpu.kernel_hash() != expected, name
        (tmp_path / name).write_bytes(content)


def test_every_source_of_the_gpu_is_in_the_hash(gpu: ModuleType) -> None:
    on_gpu = {
        path.relative_to(ROOT).as_posix() for pattern in ("*.cu", "*.cuh") for path in ROOT.glob(f"csrc/{pattern}")
    }
    assert on_gpu <= set(gpu.KERNELS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_command_says_that_it_needs_a_gpu(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "gpu.py"
    done = subprocess.run([sys.executable, script, tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "torch sees no GPU" in done.stderr


class _Event:
    """What a GPU's event is, without one."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.time = time.perf_counter()

    def elapsed_time(self, end: _Event) -> float:
        return 1e3 * (end.time - self.time) + 1e-6


def test_every_measurement_runs(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU that stands for the GPU, on small images: the calls, the rows and their table."""
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "SHAPE", (2, 3, 24, 32))
    monkeypatch.setattr(gpu, "ROTATION_BYTES", 0)
    monkeypatch.setattr(gpu, "REPETITIONS", 3)
    monkeypatch.setattr(gpu, "launches", lambda call: 2)
    for name in ("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    rows = [*gpu.ours(4e12, "cuda", torch.ops.fdjpeg, gpu.SHAPE, full=True), *gpu.public(4e12), *gpu.peers(4e12)]
    failed = {row["name"] for row in rows if "failed" in row}
    assert failed <= {"kornia", "nvJPEG", "nvJPEG encode and decode"}, rows
    assert len(gpu.table(rows).splitlines()) == len(rows)
    json.dumps(rows)


def test_table_shows_results_and_failures(gpu: ModuleType) -> None:
    rows = [
        {"name": "forward", "backend": "cuda", "dtype": "float32", "shape": (1, 3, 8, 8), "subsampling": "4:2:0"}
        | {"us": 80.0, "of_copy": 0.9, "peak": 2e6, "launches": 2},
        {"name": "kornia", "failed": "not installed"},
    ]
    shown = gpu.table(rows).splitlines()
    assert "80.0 µs" in shown[0]
    assert "90.0% of copy" in shown[0]
    assert "not installed" in shown[1]
