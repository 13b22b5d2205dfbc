"""The kept results of GPUs: whether they are of these kernels, and that ``benchmarks/gpu.py`` works without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import fdjpeg
from fdjpeg import _triton

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    """``benchmarks/gpu.py`` as a module."""
    specification = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks" / "gpu.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    path = list(sys.path)
    specification.loader.exec_module(module)
    sys.path[:] = path
    return module


def test_newest_result_is_of_these_kernels(gpu: ModuleType) -> None:
    """Warns and does not fail, because a change need not wait for a GPU."""
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
        target.parent.mkdir(parents=True, exist_ok=True)
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
        path.relative_to(ROOT).as_posix()
        for pattern in ("csrc/**/*.cu", "csrc/**/*.cuh", "fdjpeg/_triton/*.py")
        for path in ROOT.glob(pattern)
    }
    assert "fdjpeg/_triton/forward.py" in on_gpu
    assert on_gpu <= set(gpu.KERNELS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_command_says_that_it_needs_a_gpu(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "gpu.py"
    done = subprocess.run([sys.executable, script, tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "torch sees no GPU" in done.stderr


class _Event:
    """A GPU's event, without a GPU."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.time = time.perf_counter()

    def elapsed_time(self, end: _Event) -> float:
        return 1e3 * (end.time - self.time) + 1e-6


def _torchvision() -> ModuleType:
    """Stands in for torchvision: the two functions of its codec that a GPU would run."""
    module = ModuleType("torchvision.io")
    module.__spec__ = ModuleSpec("torchvision", None)
    module.encode_jpeg = lambda images, quality: list(images)
    module.decode_jpeg = lambda files, device: [file.to(device) for file in files]
    return module


@pytest.fixture
def pretended(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``gpu_timings`` with a CPU in place of the GPU, small images and few turns."""
    timings: ModuleType = gpu.gpu_timings
    for name, value in {
        "DEVICE": "cpu",
        "SHAPE": (2, 3, 32, 32),
        "SIDES": (16, 64),
        "ROTATION_BYTES": 0,
        "SECONDS": 0.0,
        "launches": lambda call: 2,
        "copy_rate": lambda: 4e12,
    }.items():
        monkeypatch.setattr(timings, name, value)
    for name in ("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    for name, value in {
        "Event": _Event,
        "is_available": lambda: True,
        "get_device_name": lambda: "Pretended GPU",
        "get_device_capability": lambda: (9, 0),
        "device_count": lambda: 1,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(_triton, "launches", torch.ops.fdjpeg, raising=False)
    monkeypatch.setattr(fdjpeg, "backends", lambda: {"cuda": "available"})
    for name in ("torchvision", "torchvision.io"):
        monkeypatch.setitem(sys.modules, name, _torchvision())
    return timings


@pytest.fixture
def commands(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Answers of the parts' commands, by name: "passed" and "said". All succeed unless a test changes them."""
    answers: dict[str, dict[str, Any]] = {}

    def run(kept: Any, name: str, arguments: list[str], limit: float, **environment: str) -> dict[str, Any]:
        answer = {"passed": True, "said": "======== ERROR SUMMARY: 0 errors\n7 passed, 2 skipped"}
        return {"name": name, "command": arguments, "seconds": 1.0, **answer, **answers.get(name, {})}

    monkeypatch.setattr(gpu.Kept, "run", run)
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setattr(gpu.shutil, "which", lambda name: name if name == "compute-sanitizer" else None)
    return answers


@pytest.fixture
def main(
    gpu: ModuleType, pretended: ModuleType, commands: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Runs the command, by default with all parts, and returns the results in its file."""

    def run(*parts: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["gpu.py", str(tmp_path), *(["--parts", *parts] if parts else [])])
        gpu.main()
        return _results(tmp_path)

    return run


def _results(out: Path) -> dict[str, Any]:
    (file,) = out.glob("*-pretended-gpu.json")
    return dict(json.loads(file.read_text()))


def test_whole_run(
    gpu: ModuleType, main: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs every measurement with a CPU in place of the GPU; checks the file and both tables."""
    results = main()
    assert results["kernels"] == gpu.kernel_hash()
    assert (results["gpu"], results["capability"], results["copy_rate"]) == ("Pretended GPU", [9, 0], 4e12)
    for part, names in {
        "build": ["library"],
        "tests": ["tests of GPUs", "conformance"],
        "sanitizer": ["memcheck", "racecheck", "synccheck"],
    }.items():
        assert [(command["name"], command["passed"]) for command in results[part]] == [(name, True) for name in names]
    rows = results["rows"]
    assert {row["name"] for row in rows} >= {
        *("forward", "forward and backward", "forward and backward with tables", "forward and backward by a surrogate"),
        *("forward, a quality for each block", "block_dct", "block_idct", "copy", "nvJPEG encode and decode"),
        "torch.compile of the reference",
    }
    assert {row.get("backend") for row in rows} == {"cuda", "triton", "fdjpeg.jpeg", None}
    assert {row["name"] for row in rows if "failed" in row} <= {"kornia"}, rows
    for row in rows:
        assert "failed" in row or (row["us"] > 0 and row["of_copy"] > 0 and row["launches"] == 2)
    assert [tuple(row["shape"]) for row in rows if row.get("shape") == [1, 3, 64, 64]]
    shown = capsys.readouterr().out
    assert shown.count("of copy") == sum("failed" not in row for row in rows)
    table = next(tmp_path.glob("*.md")).read_text()
    assert table == gpu.gpu_report.readme_table(results)
    assert table.count("\n| ") == len(rows) + 1
    assert "- tests: conformance: passed in 1 s" in table


def test_parts_add_to_one_file(
    gpu: ModuleType, pretended: ModuleType, main: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretended, "timings", lambda rate: iter([{"name": "copy", "failed": "as pretended"}]))
    assert "tests" not in main("build")
    assert "rows" not in main("tests", "sanitizer")
    results = main("timings")
    assert {"build", "tests", "sanitizer", "rows"} <= set(results)
    monkeypatch.setattr(gpu, "kernel_hash", lambda: "of others")
    assert "rows" not in main("build")


def test_what_fails_is_recorded_and_the_rest_goes_on(
    gpu: ModuleType, pretended: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation, by_ops = pretended.rotation, pretended.block_transforms

    def too_large(shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        if dtype == torch.float64:
            raise torch.OutOfMemoryError("as pretended")
        return rotation(shape, dtype)

    def fails(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("a | peer\nfails")

    monkeypatch.setattr(pretended, "rotation", too_large)
    monkeypatch.setattr(torch, "compile", lambda function: fails)
    monkeypatch.setattr(sys.modules["torchvision.io"], "encode_jpeg", fails)
    monkeypatch.setattr(pretended, "public", fails)
    fails.__name__ = "public"
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "kornia" else find(name))
    rows = list(pretended.timings(4e12))
    failed = {row["name"]: row["failed"] for row in rows if "failed" in row}
    assert failed["kornia"] == "kornia is not installed"
    assert failed["forward and backward"] == "OutOfMemoryError: as pretended"
    for name in ("torch.compile of the reference", "nvJPEG encode and decode", "public"):
        assert failed[name].startswith("RuntimeError: a | peer"), name
    assert {row["dtype"] for row in rows if row["name"] == "forward" and "us" in row} == {
        *("float32", "float16", "bfloat16", "uint8")
    }
    assert by_ops.__name__ not in failed
    assert "failed: RuntimeError: a / peer fails |" in gpu.gpu_report.readme_table(_about(rows))


def _about(rows: list[dict[str, Any]]) -> dict[str, Any]:
    about = dict.fromkeys(("gpu", "driver", "torch", "date", "commit", "kernels"), "?")
    return {**about, "copy_rate": 4e12, "rows": rows}


def test_a_run_that_is_cut_keeps_what_it_had(
    pretended: ModuleType, main: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def cut(rate: float) -> Iterator[dict[str, Any]]:
        yield from pretended.copy(rate)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretended, "timings", cut)
    with pytest.raises(KeyboardInterrupt):
        main()
    results = _results(tmp_path)
    assert [row["name"] for row in results["rows"]] == ["copy"]
    assert results["tests"][0]["passed"]
    assert "| copy |" in next(tmp_path.glob("*.md")).read_text()


def test_parts_say_what_was_left_out_and_what_failed(
    gpu: ModuleType,
    main: Callable[..., dict[str, Any]],
    commands: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    here = {"jpeglib": None, "simplejpeg": None}
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: here.get(name, ModuleSpec(name, None)))
    commands["tests of GPUs"] = {"said": "45 skipped"}  # none ran
    commands["memcheck"] = {"passed": False, "said": "Device not supported"}
    results = main("tests", "sanitizer")
    tests, conformance = results["tests"]
    assert tests["passed"] is False
    assert (conformance["passed"], conformance["said"]) == (None, "not installed: jpeglib, simplejpeg")
    assert [tool["passed"] for tool in results["sanitizer"]] == [None, None, None]
    assert results["sanitizer"][2]["said"] == "compute-sanitizer does not run here"
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    results = main("sanitizer")
    assert results["sanitizer"][0]["said"] == "compute-sanitizer is not installed"
    commands["library"] = {"passed": False, "said": "nvcc fatal"}
    with pytest.raises(SystemExit, match="the library could not be built"):
        main()
    assert _results(tmp_path)["build"][0]["said"] == "nvcc fatal"
    monkeypatch.setattr(fdjpeg, "backends", lambda: {"cuda": "missing: as pretended"})
    with pytest.raises(SystemExit, match="cuda is missing: as pretended"):
        main("timings")


def test_tests_of_gpus_run_where_a_cpu_stands_for_one() -> None:
    """Shows that the tests have no mistakes of their own. It cannot show that they fail on a wrong GPU kernel."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    arguments = [
        "-p",
        "support.gpu_on_cpu",
        "-p",
        "no:cacheprovider",
        "--noconftest",
        "-q",
        "-m",
        "gpu",
        *sorted(str(path) for path in ROOT.glob("tests/kernels/test_gpu*.py")),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 140, done.stdout


def test_commands_are_run_within_their_time(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    kept = gpu.Kept(tmp_path, {"date": "today", "gpu": "none", "commit": None, "kernels": "?"})
    show = "import os; print(os.environ['PYTHONPATH'], os.environ['ASKED'])"
    done = kept.run("one", [sys.executable, "-c", show], 60, ASKED="yes")
    assert done["passed"]
    assert done["said"] == f"{ROOT}{os.pathsep}elsewhere yes\n"
    assert not kept.run("another", [sys.executable, "-c", "raise SystemExit(9)"], 60)["passed"]
    waits = "import subprocess, sys; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    late = kept.run("late", [sys.executable, "-c", waits], 1)
    assert not late["passed"]
    assert late["said"] == "begun\ntook more than 1 s\n"
    assert late["seconds"] < 30
    assert "begun" in kept.log.read_text()


def test_newest_result_is_what_the_readme_shows(gpu: ModuleType) -> None:
    shown = (RESULTS / "README.md").read_text()
    for newest in sorted(RESULTS.glob("????-??-??-*.json"))[-1:]:
        assert gpu.gpu_report.readme_table(json.loads(newest.read_text())) in shown
    assert "python benchmarks/gpu.py OUT_DIR" in shown


def test_readme_shows_the_times_that_are_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import expected

    shown = (RESULTS / "README.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")] for line in shown.splitlines() if line.startswith("|")]
    times = [(time, row[5]) for row in rows if len(row) == 7 for time in row[4].split("; ")]
    for task in (*expected.TASKS, *expected.TRITON_TASKS):
        assert (f"{task.microseconds:.1f}", f"{task.target:.0f}") in times, task.name


def test_table_shows_results_and_failures(gpu: ModuleType) -> None:
    rows = [
        {"name": "forward", "backend": "cuda", "dtype": "float32", "shape": (1, 3, 8, 8), "subsampling": "4:2:0"}
        | {"us": 80.0, "us_20": 79.0, "us_80": 81.0, "of_copy": 0.9, "peak": 2e6, "launches": None},
        {"name": "kornia", "failed": "not installed"},
    ]
    shown = gpu.gpu_report.text_table(rows).splitlines()
    assert "80.0 µs" in shown[0]
    assert "90.0% of copy" in shown[0]
    assert "? launches" in shown[0]
    assert "not installed" in shown[1]
    table = gpu.gpu_report.readme_table(_about(rows))
    assert "| forward | cuda | 1×3×8×8 | float32 | 4:2:0 | 80.0 (79.0, 81.0) | 90% | 2.0 | ? |" in table
    assert "| kornia |  |  |  |  | failed: not installed |  |  |  |" in table
