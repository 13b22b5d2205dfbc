"""The kept results of GPUs: whether they are of these kernels, and how ``benchmarks/gpu.py`` keeps and shows them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def kept() -> Iterator[ModuleType]:
    """``benchmarks/gpu/kept.py``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        from gpu import kept

        yield kept


def test_newest_result_is_of_these_kernels(kept: ModuleType) -> None:
    """Warns and does not fail, because a change need not wait for a GPU."""
    newest = max(RESULTS.glob("????-??-??-*.json"), default=None)
    if newest is None:
        warnings.warn("GPU pending: no result of a GPU is kept (benchmarks/gpu.py makes one)", stacklevel=1)
        return
    result = json.loads(newest.read_text())
    if result["kernels"] != kept.kernel_hash():
        warnings.warn(f"GPU pending: {newest.name} is of older kernels", stacklevel=1)


def test_hash_follows_each_source_of_the_kernels(
    kept: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in kept.KERNELS:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    expected = kept.kernel_hash()
    monkeypatch.setattr(kept, "ROOT", tmp_path)
    assert kept.kernel_hash() == expected
    for name in kept.KERNELS:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content + b" ")
        assert kept.kernel_hash() != expected, name
        (tmp_path / name).write_bytes(content)


def test_every_source_of_the_gpu_is_in_the_hash(kept: ModuleType) -> None:
    on_gpu = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("csrc/**/*.cu", "csrc/**/*.cuh", "fdjpeg/_triton/*.py")
        for path in ROOT.glob(pattern)
    }
    assert "fdjpeg/_triton/forward.py" in on_gpu
    assert on_gpu <= set(kept.KERNELS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_command_says_that_it_needs_a_gpu(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "gpu.py"
    done = subprocess.run([sys.executable, script, tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "torch sees no GPU" in done.stderr


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


def test_commands_are_run_within_their_time(kept: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    results = kept.Kept(tmp_path, {"date": "today", "gpu": "none", "commit": None, "kernels": "?"})
    own = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")]
    show = "import os; print(os.environ['PYTHONPATH'], os.environ['ASKED'])"
    done = results.run("one", [sys.executable, "-c", show], 60, ASKED="yes")
    assert done["passed"]
    assert done["said"] == f"{os.pathsep.join([*own, 'elsewhere'])} yes\n"
    assert not results.run("another", [sys.executable, "-c", "raise SystemExit(9)"], 60)["passed"]
    waits = "import subprocess, sys; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    late = results.run("late", [sys.executable, "-c", waits], 1)
    assert not late["passed"]
    assert late["said"] == "begun\ntook more than 1 s\n"
    assert late["seconds"] < 30
    assert "begun" in results.log.read_text()


def test_newest_result_is_what_the_readme_shows(kept: ModuleType) -> None:
    shown = (RESULTS / "README.md").read_text()
    for newest in sorted(RESULTS.glob("????-??-??-*.json"))[-1:]:
        assert kept.report.readme_table(json.loads(newest.read_text())) in shown
    assert "python benchmarks/gpu.py OUT_DIR" in shown


def test_readme_shows_the_times_that_are_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import expected

    shown = (RESULTS / "README.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")] for line in shown.splitlines() if line.startswith("|")]
    times = [(time, row[5]) for row in rows if len(row) == 7 for time in row[4].split("; ")]
    for task in (*expected.TASKS, *expected.TRITON_TASKS):
        assert (f"{task.microseconds:.1f}", f"{task.target:.0f}") in times, task.name


def _about(rows: list[dict[str, Any]]) -> dict[str, Any]:
    about = dict.fromkeys(("gpu", "driver", "torch", "date", "commit", "kernels"), "?")
    return {**about, "copy_rate": 4e12, "rows": rows}


def test_table_shows_results_and_failures(kept: ModuleType) -> None:
    rows = [
        {"name": "forward", "backend": "cuda", "dtype": "float32", "shape": (1, 3, 8, 8), "subsampling": "4:2:0"}
        | {"us": 80.0, "us_20": 79.0, "us_80": 81.0, "of_copy": 0.9, "peak": 2e6, "launches": None},
        {"name": "kornia", "failed": "not installed"},
    ]
    shown = kept.report.text_table(rows).splitlines()
    assert "80.0 µs" in shown[0]
    assert "90.0% of copy" in shown[0]
    assert "? launches" in shown[0]
    assert "not installed" in shown[1]
    table = kept.report.readme_table(_about(rows))
    assert "| forward | cuda | 1×3×8×8 | float32 | 4:2:0 | 80.0 (79.0, 81.0) | 90% | 2.0 | ? |" in table
    assert "| kornia |  |  |  |  | failed: not installed |  |  |  |" in table


def test_table_shows_every_part(kept: ModuleType) -> None:
    """Also what was not reached, and what limits each kernel."""
    kernel = {"kernel": "code<a>", "microseconds": 80.0, "expected_us": 70.0, "limited by": "bytes"}
    shares = {"of_bytes": 0.8, "of_issue": 0.5, "of_shared": 0.2, "of_tail": 0.01}
    results = _about([]) | {
        "smoke": [
            {"name": "encode", "passed": False, "seconds": 3.0, "said": "killed by SIGSEGV\nlog\nmore", "rows": []},
            {"name": "triton", "passed": None, "seconds": 0.0, "said": "no kernel", "rows": []},
        ],
        "uses": [{"name": "train x", "passed": True, "seconds": 9.0, "said": "", "rows": [{"layer's share": 0.2}]}],
        "unreached": {"tests": ["a::b"], "peers": []},
        "peers": [{"name": "kornia", "failed": "a | b\nc"}],
        "bandwidth": [{"name": "forward", "passed": True, "rows": [{"clocks": None}, kernel | shares]}],
    }
    table = kept.report.readme_table(results).splitlines()
    for line in (
        "- smoke: encode: failed in 3 s: killed by SIGSEGV",
        "- smoke: triton: left out: no kernel",
        "- uses: train x: passed in 9 s, layer's share 0.2",
        "- tests: 1 not reached: a::b",
        "| kornia |  |  |  |  | failed: a / b c |  |  |  |",
        "| forward | `code<a>` | 80.0, 70.0 | 80% | 50% | 20% | 1% | bytes |",
    ):
        assert line in table, line
    assert not any(line.startswith("- peers") for line in table)


@pytest.mark.slow
def test_readme_counts_the_cases_of_each_backend() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/codec/test_conformance.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = re.findall(
        r"\[(?:\S*-)?(reference|cpu|emulated|interpreted|cuda|triton)(?:-\S*)?\]$", done.stdout, re.MULTILINE
    )
    readme = (RESULTS / "README.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| (\w+) \| (\d+) \| (?:yes|no)", readme, re.MULTILINE))
    assert {name: str(names.count(name)) for name in set(names)} == shown
