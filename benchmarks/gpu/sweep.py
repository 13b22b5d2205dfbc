"""Tries the alternatives of ``csrc/cuda/tuning.h`` on a GPU: times, and whether the bits stay the same.

    python benchmarks/gpu/sweep.py OUT_DIR                             # builds and runs all
    python benchmarks/gpu/sweep.py OUT_DIR --only emit-wide --build-only --capability 9.0

A program for each alternative is built in OUT_DIR, several at once, unless it is there; so OUT_DIR may come from a
machine without a GPU. Needs nvcc, not torch.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("sweep.cu")
#: Seconds for one program.
LIMIT = 30
AS_IT_IS = "as it is"
#: The switches of each alternative. Programs with asynchronous copies hold float32 alone: shared memory has no room for
#: two of its rows with more than four warps.
ALTERNATIVES: dict[str, dict[str, int]] = {
    AS_IT_IS: {},
    "code-4-warps": {"FDJPEG_CODE_WARPS": 4, "FDJPEG_CODE_BLOCKS": 8},
    "code-5-blocks": {"FDJPEG_CODE_BLOCKS": 5},
    "code-3-blocks": {"FDJPEG_CODE_BLOCKS": 3},
    "code-async": {"FDJPEG_CODE_ASYNC": 1, "FDJPEG_CODE_WARPS": 4, "FDJPEG_CODE_BLOCKS": 5},
    "code-async-2-warps": {"FDJPEG_CODE_ASYNC": 1, "FDJPEG_CODE_WARPS": 2, "FDJPEG_CODE_BLOCKS": 10},
    "emit-patch-32": {"FDJPEG_EMIT_PATCH": 32},
    "emit-wide": {"FDJPEG_EMIT_WIDE": 8},
    "emit-6-blocks": {"FDJPEG_EMIT_BLOCKS": 6},
    "emit-3-blocks": {"FDJPEG_EMIT_BLOCKS": 3},
    "gradient-4-blocks": {"FDJPEG_GRADIENT_BLOCKS": 4},
    "gradient-2-blocks": {"FDJPEG_GRADIENT_BLOCKS": 2},
    "no-streaming": {"FDJPEG_STREAMING": 0},
}


def flags_of(name: str) -> list[str]:
    """Returns the compiler's flags of an alternative."""
    switches = ALTERNATIVES[name]
    alone = ["-DFDJPEG_SWEEP_FLOAT32_ALONE"] if switches.get("FDJPEG_CODE_ASYNC") else []
    return [f"-D{switch}={value}" for switch, value in switches.items()] + alone


def build(folder: Path, name: str, capability: str) -> Path:
    """Returns the program of an alternative, built if it is not there."""
    program = folder / name.replace(" ", "-")
    if program.is_file():
        return program
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    number = capability.replace(".", "")
    target = f"-gencode=arch=compute_{number},code=sm_{number}"
    command = [
        nvcc,
        "-std=c++20",
        "-O3",
        target,
        f"-I{ROOT / 'csrc'}",
        *flags_of(name),
        str(SOURCE),
        "-o",
        str(program),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{name} could not be built: {done.stderr[-2000:]}")
    return program


def run(program: Path) -> list[dict[str, Any]]:
    """Returns the lines of a program, or one with the reason why it failed."""
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return [{"failed": f"more than {LIMIT} s"}]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return rows if done.returncode == 0 else [*rows, {"failed": done.stderr.strip() or f"code {done.returncode}"}]


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Returns a line for each alternative and kernel that differs from what is in use: times, and equality of bits."""
    usual = {(row["kernel"], row["dtype"]): row for row in results.get(AS_IT_IS, []) if "us" in row}
    lines = []
    for name, rows in results.items():
        for row in rows:
            if "failed" in row:
                lines.append(f"{name:20s} failed: {row['failed']}")
                continue
            before = usual.get((row["kernel"], row["dtype"]))
            against = ""
            if before is not None and name != AS_IT_IS:
                bits = "same bits" if row["digest"] == before["digest"] else "OTHER BITS"
                against = f" ({row['us'] / before['us'] - 1:+.1%}, {bits})"
            where = f"{row['kernel']:14s} {row['dtype']:8s}"
            lines.append(f"{name:20s} {where} {row['us']:7.1f} µs, {row['resident']} resident{against}")
    return "\n".join(lines)


def main() -> None:
    """Builds, runs, prints a table and writes sweep.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    parser.add_argument("--only", nargs="+", choices=ALTERNATIVES, default=list(ALTERNATIVES), metavar="NAME")
    parser.add_argument("--build-only", action="store_true", help="build the programs, for a GPU elsewhere")
    parser.add_argument("--capability", default="9.0", help='of the GPU, "9.0" by default')
    options = parser.parse_args()
    options.out_dir.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys([AS_IT_IS, *options.only])
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", 0)) or os.cpu_count()) as pool:
        programs = list(pool.map(lambda name: build(options.out_dir, name, options.capability), names))
    if options.build_only:
        return
    results: dict[str, list[dict[str, Any]]] = {}
    for name, program in zip(names, programs, strict=True):
        results[name] = run(program)
        (options.out_dir / "sweep.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    if any("failed" in row for rows in results.values() for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
