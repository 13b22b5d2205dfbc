"""Results in one file, written at each change, and the commands whose outcome goes into it."""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Any

from gpu import report

ROOT = Path(__file__).resolve().parents[2]

#: The variable that holds the commit in a copy of the checkout.
COMMIT = "FDJPEG_GPU_COMMIT"

#: The results depend on these files.
KERNELS = (
    *sorted(
        path.relative_to(ROOT).as_posix()
        for pattern in (
            "csrc/codec/*",
            "csrc/cuda/*",
            "csrc/ops/*.cu",
            "csrc/ops/*_cuda.cpp",
            "csrc/ops/*.h",
            "fdjpeg/_triton/*.py",
        )
        for path in ROOT.glob(pattern)
    ),
)


def digest_of(names: tuple[str, ...] | list[str]) -> str:
    """Returns a digest of files of the checkout."""
    digest = hashlib.sha256()
    for name in names:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:16]


def kernel_hash() -> str:
    """Returns a digest of the kernels' sources."""
    return digest_of(KERNELS)


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
            (self.path.with_suffix(".md"), report.readme_table(self.results)),
        ):
            draft = path.with_name(path.name + ".new")
            draft.write_text(text)
            draft.replace(path)

    def run(self, name: str, arguments: list[str], limit: float, **environment: str) -> dict[str, Any]:
        """Runs a command in the checkout. Returns whether it succeeded, its seconds, and the end of its output."""
        print("$", " ".join(arguments), flush=True)
        begin, code = time.monotonic(), None
        with self.log.open("a+", errors="replace") as log:
            print("$", " ".join(arguments), file=log, flush=True)
            position = log.tell()
            child = start(arguments, log, **environment)
            try:
                code = child.wait(max(limit, 0.1))
            except subprocess.TimeoutExpired:
                end(child)
                print(f"took more than {limit:.3g} s", file=log, flush=True)
            log.seek(position)
            said = log.read()[-4000:]
        print(said[-2000:], flush=True)
        seconds = round(time.monotonic() - begin, 1)
        return {"name": name, "command": arguments, "passed": code == 0, "seconds": seconds, "said": said}


def start(arguments: list[str], log: IO[str], **environment: str) -> subprocess.Popen[bytes]:
    """Starts a command in the checkout, whose output goes to a file."""
    own = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")]
    paths = os.pathsep.join(filter(None, [*own, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that its child processes end with it
    )


def end(child: subprocess.Popen[bytes]) -> None:
    """Ends a command that `start` started, and its child processes."""
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def left_out(name: str, why: str) -> dict[str, Any]:
    """Returns the result of something that was not tried."""
    print(f"{name} left out: {why}", flush=True)
    return {"name": name, "passed": None, "said": why}


def missing(packages: tuple[str, ...]) -> str | None:
    """Names the packages that are not installed; None if all are."""
    names = [package for package in packages if importlib.util.find_spec(package) is None]
    return f"not installed: {', '.join(names)}" if names else None


def _answer(*command: str) -> str | None:
    """Returns the first line of a command's output; None if the command is missing, fails or says nothing."""
    if shutil.which(command[0]) is None:
        return None
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return (ended.stdout.split("\n")[0].strip() or None) if ended.returncode == 0 else None


def commit() -> str | None:
    """Returns the commit of the checkout, also in a copy without its history."""
    return os.environ.get(COMMIT) or _answer("git", "rev-parse", "HEAD")


def environment() -> dict[str, Any]:
    """Returns the origin of the results: date, commit, kernels, GPU, driver and versions."""
    import torch

    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "kernels": kernel_hash(),
        "gpu": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "gpus": torch.cuda.device_count(),
        "driver": _answer("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
