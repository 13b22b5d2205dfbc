"""The alternatives that a GPU may choose: all switches compile, and the sweep names those that change bits."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
_NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from gpu import sweep

    return sweep


def test_every_switch_is_tried(sweep: ModuleType) -> None:
    """And each one differs from the value in use."""
    text = (ROOT / "csrc" / "cuda" / "tuning.h").read_text()
    in_use = {name: int(value) for name, value in re.findall(r"#define (FDJPEG_\w+) (\d+)", text)}
    tried = [(name, value) for switches in sweep.ALTERNATIVES.values() for name, value in switches.items()]
    assert {name for name, _ in tried} == set(in_use)
    assert all(in_use[name] != value for name, value in tried)


@pytest.mark.skipif(_NVCC is None, reason="there is no nvcc")
def test_switches_compile(sweep: ModuleType, tmp_path: Path) -> None:
    """One of each at once, to PTX: the code before registers are assigned."""
    assert _NVCC is not None
    names = ("code-async", "emit-wide", "emit-6-blocks", "gradient-4-blocks", "no-streaming")
    flags = dict.fromkeys(flag for name in names for flag in sweep.flags_of(name))
    command = [_NVCC, "-std=c++20", "-O3", "-ptx", "-arch=sm_90", f"-I{ROOT / 'csrc'}", *flags, str(sweep.SOURCE)]
    done = subprocess.run([*command, "-o", tmp_path / "all.ptx"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ptx = (tmp_path / "all.ptx").read_text()
    assert "cp.async.ca.shared.global" in ptx
    assert "ld.global.cs" not in ptx


def test_table_of_a_sweep(sweep: ModuleType, tmp_path: Path) -> None:
    program = tmp_path / "program"
    line = '{"kernel": "emit_image", "dtype": "float32", "us": 50.0, "resident": 4, "digest": "a"}'
    program.write_text(f"#!/bin/sh\necho '{line}'\necho broken >&2\nexit 1\n")
    program.chmod(0o755)
    usual, failed = sweep.run(program)
    assert failed == {"failed": "broken"}
    other = {**usual, "us": 40.0, "digest": "b"}
    lines = sweep.table({sweep.AS_IT_IS: [usual], "emit-wide": [other], "x": [failed]}).splitlines()
    assert lines[0].endswith("50.0 µs, 4 resident")
    assert lines[1].endswith("40.0 µs, 4 resident (-20.0%, OTHER BITS)")
    assert lines[2].endswith("failed: broken")
