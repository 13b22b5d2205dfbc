"""Builds, tests and measures on a GPU, in two calls of at most five minutes, and writes one dated JSON file.

    python benchmarks/gpu.py OUT_DIR --call 1        # build, smoke test of each op, timings of the targets
    python benchmarks/gpu.py OUT_DIR --call 2        # uses, tests, peers, compute-sanitizer, what limits each kernel
    python benchmarks/gpu.py OUT_DIR                 # both
    python benchmarks/gpu.py OUT_DIR --prepare 9.0   # on a machine without a GPU: builds for the one that has it
    python benchmarks/gpu.py OUT_DIR --rehearse [FAULT ...]   # a CPU in place of the GPU

Needs torch with CUDA; nvcc and a C++ compiler if the library was not prepared. Uses pytest, compute-sanitizer, kornia,
torchvision and the packages of the tests if they are installed, and reports those that are not. Each result is written
at once, so an interrupted run keeps its results. Each part has a limit in seconds; time that a part leaves goes to the
next. ``benchmarks/results/README.md`` explains kept results.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from gpu import bandwidth, build, checks, items, kept, peers, smoke, stand_in, timings, uses  # noqa: E402

#: Seconds of a call, and those of them in which torch is imported and the GPU gets ready.
CALL_LIMIT, START = 300, 15


class Part(NamedTuple):
    """A part of a call: ``run(results, until)`` ends by that time of `time.monotonic`."""

    limit: int  # seconds
    run: Callable[[kept.Kept, float], None]


def _build(results: kept.Kept, until: float) -> None:
    build.run(results, until, ".".join(map(str, results.results["capability"])))


def _smoke(results: kept.Kept, until: float) -> None:
    def changed(done: list[items.Done]) -> None:
        results["smoke"] = done

    run = items.Run(results, items.command_of("smoke"), smoke.names(), until, smoke.ITEM_LIMIT, changed)
    items.report(results, "smoke", run.run())


def _timings(results: kept.Kept, until: float) -> None:
    _rows(results, until, "timings", list(timings.items()), timings.ITEM_LIMIT, "rows")


def _peers(results: kept.Kept, until: float) -> None:
    _rows(results, until, "peers", list(peers.items()), peers.ITEM_LIMIT, "peers")


def _rows(results: kept.Kept, until: float, part: str, names: list[str], limit: float, key: str) -> None:
    """Runs items whose rows go into the table of times."""

    def changed(done: list[items.Done]) -> None:
        rows: list[dict[str, Any]] = []
        for item in done:
            rows += item["rows"]
            if item["passed"] is not True and not any("failed" in row for row in item["rows"]):
                rows.append({"name": item["name"], "failed": item["said"].strip().split("\n")[-1] or "failed"})
        rates = [row["copy_rate"] for row in rows if "copy_rate" in row]
        if rates:
            results.results["copy_rate"] = rates[0]
        results[key] = [row for row in rows if "copy_rate" not in row]

    run = items.Run(results, items.command_of(part), names, until, limit, changed)
    items.report(results, part, run.run())


def _uses(results: kept.Kept, until: float) -> None:
    def changed(done: list[items.Done]) -> None:
        results["uses"] = done

    run = items.Run(results, items.command_of("uses"), uses.names(), until, uses.ITEM_LIMIT, changed)
    items.report(results, "uses", run.run())


def _bandwidth(results: kept.Kept, until: float) -> None:
    def changed(done: list[items.Done]) -> None:
        results["bandwidth"] = done

    command = items.command_of("bandwidth")
    run = items.Run(results, command, list(bandwidth.tasks()), until, bandwidth.ITEM_LIMIT, changed)
    items.report(results, "bandwidth", run.run())


#: The parts of the two calls, in order. The library is the same in both: the second finds it built.
CALLS: dict[int, dict[str, Part]] = {
    1: {"build": Part(115, _build), "smoke": Part(60, _smoke), "timings": Part(110, _timings)},
    2: {
        "build": Part(60, _build),
        "uses": Part(75, _uses),
        "tests": Part(60, checks.run_tests),
        "peers": Part(30, _peers),
        "sanitizer": Part(35, checks.sanitize),
        "bandwidth": Part(25, _bandwidth),
    },
}


def parts_of(call: int | None, chosen: list[str] | None) -> dict[str, Part]:
    """Returns the parts to run: those of a call or of both, or those of them that were chosen."""
    parts = CALLS[call] if call else {**CALLS[2], **CALLS[1]}
    order = [name for one in CALLS.values() for name in one if name in parts]
    return {name: parts[name] for name in dict.fromkeys(order) if chosen is None or name in chosen}


def in_a_writable_tree(arguments: list[str]) -> int | None:
    """Runs the command in a copy of the checkout if this one is read-only; returns its exit code, or None."""
    try:
        with tempfile.TemporaryFile(dir=ROOT):
            return None
    except OSError:
        pass
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "fdjpeg")
        # Times as they are, so that objects built before stay newer than their sources.
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", "__pycache__"), symlinks=True)
        print(f"the checkout is read-only; running in a copy, {tree}", flush=True)
        command = [sys.executable, str(tree / "benchmarks" / "gpu.py"), *arguments]
        return subprocess.call(command, env={**os.environ, kept.COMMIT: kept.commit() or ""})


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    names = dict.fromkeys(name for parts in CALLS.values() for name in parts)
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    parser.add_argument("--call", type=int, choices=CALLS, help="one of the two calls, both by default")
    parser.add_argument("--parts", nargs="+", choices=names, help="parts to run, all by default")
    parser.add_argument("--prepare", metavar="CAPABILITY", help='only build, for a GPU elsewhere, such as "9.0"')
    parser.add_argument(
        "--rehearse", nargs="*", choices=stand_in.FAULTS, metavar="FAULT",
        help=f"a CPU in place of the GPU, with faults: {', '.join(stand_in.FAULTS)}",
    )  # fmt: skip
    return parser


def main() -> None:
    """Builds, tests, measures."""
    arguments = _options().parse_args()
    out_dir = str(arguments.out_dir.resolve())
    copied = in_a_writable_tree([out_dir if one == str(arguments.out_dir) else one for one in sys.argv[1:]])
    if copied is not None:
        raise SystemExit(copied)
    if arguments.prepare is not None:
        build.prepare(arguments.out_dir, arguments.prepare)
        return
    if arguments.rehearse is not None:
        os.environ[stand_in.VARIABLE] = ",".join(arguments.rehearse) or "none"
    begin = time.monotonic()
    stand_in.install_if_asked()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU; this command is for a machine with one")
    results = kept.Kept(arguments.out_dir.resolve(), kept.environment())
    run_parts(results, parts_of(arguments.call, arguments.parts), begin + START)
    print(f"wrote {results.path}")


def run_parts(results: kept.Kept, parts: dict[str, Part], until: float) -> None:
    """Runs the parts, each until the sum of the limits so far."""
    for name, part in parts.items():
        until += part.limit * stand_in.PATIENCE
        begin = time.monotonic()
        print(f"=== {name}: {until - begin:.0f} s", flush=True)
        part.run(results, until)
        seconds = round(time.monotonic() - begin, 1)
        results["seconds"] = {**results.results.get("seconds", {}), name: seconds}


if __name__ == "__main__":
    main()
