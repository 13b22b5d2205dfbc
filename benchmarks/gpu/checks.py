"""The tests that need a GPU, those of most worth first, and compute-sanitizer."""

from __future__ import annotations

import re
import sys
import time
from typing import Any

from gpu import items, kept, stand_in

#: Seconds for one test and for each tool of the sanitizer.
TEST_LIMIT, SANITIZER_LIMIT = 30.0, 60.0
#: Packages that the suite of all backends imports, in addition to torch and pytest.
SUITE_NEEDS = ("hypothesis", "jpeglib", "numpy", "PIL", "simplejpeg")
_SUITE = "tests/codec/test_conformance.py"


def gpu_tests() -> list[str]:
    """Returns the files of the GPU's own tests, which need torch and pytest alone."""
    return sorted(path.relative_to(kept.ROOT).as_posix() for path in kept.ROOT.glob("tests/kernels/test_gpu*.py"))


def _pytest() -> list[str]:
    plugins = [] if stand_in.faults() is None else ["-p", "support.gpu_on_cpu"]
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugins]


def run_tests(results: kept.Kept, until: float) -> None:
    """Runs the GPU's own tests, then the suite that all backends share, until the time is over."""
    kept_tests: dict[str, list[dict[str, Any]]] = {}
    unreached: list[str] = []
    # Without conftest.py, whose packages a machine with a GPU may lack.
    own = ["-p", "gpu.pytest_items", "--noconftest", "-m", "gpu", *gpu_tests()]
    suite = ["-p", "gpu.pytest_items", _SUITE, "-k", "cuda or triton"]
    results["tests"] = []
    for name, needs, arguments in (
        ("tests of GPUs", ("pytest",), own),
        ("conformance", ("pytest", *SUITE_NEEDS), suite),
    ):
        why = kept.missing(needs)
        if why is not None:
            results["tests"] = [*results.results["tests"], kept.left_out(name, why)]
            continue
        kept_tests[name] = []
        before = list(results.results["tests"])

        def changed(done: list[dict[str, Any]], name: str = name, before: list[dict[str, Any]] = before) -> None:
            results["tests"] = [*before, _summary(name, done)]

        run = items.Run(results, [*_pytest(), *arguments], None, until, TEST_LIMIT, changed)
        unreached += run.run() if run.left != [] else []
        if not run.done and time.monotonic() > until - 1:
            results["tests"] = [*before, kept.left_out(name, "out of the part's time")]
        elif not run.done:
            results["tests"] = [*before, {"name": name, "passed": False, "seconds": 0, "said": "no test ran"}]
    items.report(results, "tests", unreached)


def _summary(name: str, done: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns one entry for all tests; it passed if at least one did, and none failed."""
    failed = [test for test in done if test["passed"] is False]
    ran = [test for test in done if test["passed"] and test["said"] != "skipped"]
    return {
        "name": name,
        "passed": bool(ran) and not failed,
        "seconds": round(sum(test["seconds"] for test in done), 1),
        "said": f"{len(ran)} passed, {len(failed)} failed, {len(done) - len(ran) - len(failed)} skipped",
        "failed": {test["name"]: test["said"][-500:] for test in failed},
        "slowest": {test["name"]: test["seconds"] for test in sorted(done, key=lambda one: -one["seconds"])[:5]},
    }


def sanitize(results: kept.Kept, until: float) -> None:
    """Runs the smallest of the GPU's tests under compute-sanitizer."""
    results["sanitizer"] = done = []
    sanitizer = stand_in.sanitizer()
    why = "compute-sanitizer is not installed" if sanitizer is None else kept.missing(("pytest",))
    for tool in ("memcheck", "racecheck", "synccheck"):
        left = until - time.monotonic()
        if why is None and left < 5:
            why = "out of the part's time"
        if why is not None or sanitizer is None:
            done.append(kept.left_out(tool, why or ""))
        else:
            # Without torch's memory cache, so that no tensor owns the first byte beyond another.
            command = [*sanitizer, "--tool", tool, "--error-exitcode", "9", *_pytest(), "--noconftest", "-m", "gpu"]
            tests = [*gpu_tests(), "-k", "small_images and not triton"]
            limit = min(SANITIZER_LIMIT * stand_in.PATIENCE, left)
            result = results.run(tool, [*command, *tests], limit, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
            ran = re.search(r"\b[1-9]\d* passed", result["said"]) is not None
            result["passed"] = result["passed"] and ran
            if "SUMMARY:" not in result["said"] and "took more than" not in result["said"]:
                why = "compute-sanitizer does not run here"
                result["passed"] = None
            done.append(result)
        results["sanitizer"] = done
