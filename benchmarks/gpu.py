"""Builds, runs every GPU test and measures in one command, and writes one dated JSON file.

    python benchmarks/gpu.py OUT_DIR [--parts build tests sanitizer timings]

Needs torch with CUDA, nvcc and a C++ compiler. Uses pytest, compute-sanitizer, kornia, torchvision and the packages of
the tests if they are installed, and reports those that are not. Each result is written at once, so an interrupted run
keeps its results. A run of the remaining parts adds to them. ``benchmarks/results/README.md`` explains kept results.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import gpu_report  # noqa: E402
import gpu_timings  # noqa: E402

#: What the results depend on.
KERNELS = (
    *sorted(
        path.relative_to(ROOT).as_posix()
        for pattern in ("csrc/codec/*", "csrc/cuda/*", "csrc/ops/*.cu", "csrc/ops/*.h", "fdjpeg/_triton/*.py")
        for path in ROOT.glob(pattern)
    ),
)
#: Seconds for the build, for each group of tests and for each sanitizer tool. Each part ends within ten minutes.
BUILD_LIMIT, TEST_LIMIT, SANITIZER_LIMIT = 580, 280, 180
#: Packages that the suite of all backends imports, in addition to torch and pytest.
SUITE_NEEDS = ("hypothesis", "jpeglib", "numpy", "PIL", "simplejpeg")


def kernel_hash() -> str:
    """Returns a digest of the kernels' sources."""
    digest = hashlib.sha256()
    for name in KERNELS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:16]


class Kept:
    """Results in a file that is written at each change. Results of the same kernels and day go into one file."""

    def __init__(self, out_dir: Path, about: dict[str, Any]) -> None:
        out_dir.mkdir(parents=True, exist_ok=True)
        self.path = out_dir / f"{about['date']}-{about['gpu'].lower().replace(' ', '-')}.json"
        self.log = self.path.with_suffix(".log")
        self.results = about
        if self.path.is_file():
            before = json.loads(self.path.read_text())
            if all(before[key] == about[key] for key in ("commit", "kernels")):
                self.results = {**before, **about}

    def __setitem__(self, key: str, value: Any) -> None:
        self.results[key] = value
        # Another file first, so that an interruption never leaves half of one.
        for path, text in (
            (self.path, json.dumps(self.results, indent=1) + "\n"),
            (self.path.with_suffix(".md"), gpu_report.readme_table(self.results)),
        ):
            draft = path.with_name(path.name + ".new")
            draft.write_text(text)
            draft.replace(path)

    def run(self, name: str, arguments: list[str], limit: float, **environment: str) -> dict[str, Any]:
        """Runs a command in the checkout. Returns whether it succeeded, its seconds, and the end of its output."""
        print("$", " ".join(arguments), flush=True)
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        begin, code = time.monotonic(), None
        with self.log.open("a+", errors="replace") as log:
            print("$", " ".join(arguments), file=log, flush=True)
            position = log.tell()
            child = subprocess.Popen(
                arguments,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": paths, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its child processes end with it
            )
            try:
                code = child.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                print(f"took more than {limit:g} s", file=log, flush=True)
            log.seek(position)
            said = log.read()[-4000:]
        print(said[-2000:], flush=True)
        seconds = round(time.monotonic() - begin, 1)
        return {"name": name, "command": arguments, "passed": code == 0, "seconds": seconds, "said": said}


def _left_out(name: str, why: str) -> dict[str, Any]:
    print(f"{name} left out: {why}", flush=True)
    return {"name": name, "passed": None, "said": why}


def _missing(packages: tuple[str, ...]) -> str | None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


# ---------------------------------------------------------------------------------------------------------------------
# The parts


def build(kept: Kept) -> None:
    """Compiles the library in place, for the GPU at hand."""
    import torch

    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    arguments = [sys.executable, "setup.py", "build_ext", "--inplace"]
    kept["build"] = [kept.run("library", arguments, BUILD_LIMIT, FDJPEG_CUDA="1", FDJPEG_CUDA_ARCHS=capability)]
    if not kept.results["build"][0]["passed"]:
        raise SystemExit("the library could not be built")


def _pytest(kept: Kept, name: str, arguments: list[str], limit: float, *before: str, **environment: str) -> Any:
    """Runs tests; succeeds only if at least one ran."""
    done = kept.run(name, [*before, sys.executable, "-m", "pytest", "-q", *arguments], limit, **environment)
    done["passed"] = done["passed"] and re.search(r"\b[1-9]\d* passed", done["said"]) is not None
    return done


#: Without conftest.py, whose packages a machine with a GPU may lack.
_GPU_TESTS = [
    *("--noconftest", "-m", "gpu"),
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/kernels/test_gpu*.py")),
]


def run_tests(kept: Kept) -> None:
    """Runs the GPU's own tests, then the suite that all backends share."""
    kept["tests"] = done = []
    for name, needs, arguments in (
        ("tests of GPUs", ("pytest",), _GPU_TESTS),
        ("conformance", ("pytest", *SUITE_NEEDS), ["tests/codec/test_conformance.py", "-k", "cuda or triton"]),
    ):
        why = _missing(needs)
        done.append(_left_out(name, why) if why else _pytest(kept, name, arguments, TEST_LIMIT))
        kept["tests"] = done


def sanitize(kept: Kept) -> None:
    """Runs the smallest of the GPU's tests under compute-sanitizer."""
    kept["sanitizer"] = done = []
    sanitizer = shutil.which("compute-sanitizer")
    why = "compute-sanitizer is not installed" if sanitizer is None else _missing(("pytest",))
    for tool in ("memcheck", "racecheck", "synccheck"):
        if why or sanitizer is None:
            done.append(_left_out(tool, why or ""))
        else:
            # Without torch's memory cache, so that no tensor owns the first byte beyond another.
            before = (sanitizer, "--tool", tool, "--error-exitcode", "9")
            tests = [*_GPU_TESTS, "-k", "small and not triton"]
            result = _pytest(kept, tool, tests, SANITIZER_LIMIT, *before, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
            if "SUMMARY:" not in result["said"] and "took more than" not in result["said"]:
                why = "compute-sanitizer does not run here"
                result["passed"] = None
            done.append(result)
        kept["sanitizer"] = done


def time_all(kept: Kept) -> None:
    """Measures everything."""
    import fdjpeg

    kept["backends"] = fdjpeg.backends()
    if kept.results["backends"]["cuda"] != "available":
        raise SystemExit(f"there is nothing to time: cuda is {kept.results['backends']['cuda']}")
    rate = gpu_timings.copy_rate()
    kept["copy_rate"] = rate
    print(f"copy rate {rate / 1e12:.2f} TB/s", flush=True)
    rows: list[dict[str, Any]] = []
    for row in gpu_timings.timings(rate):
        print(gpu_report.text_table([row]), flush=True)
        rows.append(row)
        kept["rows"] = rows


PARTS: dict[str, Callable[[Kept], None]] = {
    "build": build,
    "tests": run_tests,
    "sanitizer": sanitize,
    "timings": time_all,
}


def environment() -> dict[str, Any]:
    """Returns the origin of the results: date, commit, kernels, GPU, driver and versions."""
    import torch

    def answer(*command: str) -> str | None:
        if shutil.which(command[0]) is None:
            return None
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
        return said.split("\n")[0].strip() or None

    return {
        "date": datetime.date.today().isoformat(),
        "commit": answer("git", "rev-parse", "HEAD"),
        "kernels": kernel_hash(),
        "gpu": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "gpus": torch.cuda.device_count(),
        "driver": answer("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def main() -> None:
    """Builds, tests, measures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run, all by default")
    arguments = parser.parse_args()

    import torch

    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU; this command is for a machine with one")
    kept = Kept(arguments.out_dir, environment())
    for name, part in PARTS.items():
        if name in arguments.parts:
            part(kept)
    print(f"wrote {kept.path}")


if __name__ == "__main__":
    main()
