"""The libraries for one GPU: used as they are if they were built beforehand from these sources, else built.

The two libraries and the stamp next to the objects, ``fdjpeg/_C*.abi3.so`` and ``build/gpu.json``, may come from
another machine (``python benchmarks/gpu.py OUT_DIR --prepare 9.0``). Objects in ``build/`` are used again if they are
newer than the sources.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from gpu import kept, stand_in

LIBRARIES = tuple(kept.ROOT / "fdjpeg" / f"{name}.abi3.so" for name in ("_C", "_C_cuda"))
STAMP = kept.ROOT / "build" / "gpu.json"
#: The child process that loads a library, where it may end the process.
_LOADS = """
import fdjpeg
found = fdjpeg.backends()
raise SystemExit(None if found["cuda"] == "available" else f"no kernels for a GPU: {found}")
"""


def _sources() -> list[str]:
    found = [path for pattern in ("csrc/**/*.*", "setup.py", "build_backend.py") for path in kept.ROOT.glob(pattern)]
    return sorted(path.relative_to(kept.ROOT).as_posix() for path in found)


def _stamp(capability: str) -> dict[str, str]:
    """Returns what tells whether the libraries are of these sources and for this GPU."""
    digest = hashlib.sha256()
    for library in LIBRARIES:
        digest.update(library.read_bytes())
    return {"sources": kept.digest_of(_sources()), "capability": capability, "libraries": digest.hexdigest()[:16]}


def is_ready(capability: str) -> bool:
    """Whether the libraries were built from these sources for this GPU."""
    if not all(file.is_file() for file in (*LIBRARIES, STAMP)):
        return False
    return bool(json.loads(STAMP.read_text()) == _stamp(capability))


def run(results: kept.Kept, until: float, capability: str) -> None:
    """Makes the library ready, and keeps how that went.

    Raises:
        SystemExit: it could not be built, and nothing else can be measured.
    """
    import time

    done: list[dict[str, Any]] = []
    if stand_in.faults() is not None:
        done.append(kept.left_out("library", "a rehearsal runs the kernels of the CPU"))
    elif is_ready(capability):
        done.append(results.run("library, built beforehand", [sys.executable, "-c", _LOADS], until - time.monotonic()))
    if not done or done[-1]["passed"] is False:
        done.append(compile_library(results, until - time.monotonic(), capability))
    results["build"] = done
    if done[-1]["passed"] is False:
        raise SystemExit("the library could not be built")


def compile_library(results: kept.Kept, limit: float, capability: str) -> dict[str, Any]:
    """Compiles the library in place, for one kind of GPU."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = results.run("library", command, limit, FDJPEG_CUDA="1", FDJPEG_CUDA_ARCHS=capability)
    if done["passed"] and all(library.is_file() for library in LIBRARIES):
        STAMP.parent.mkdir(exist_ok=True)
        STAMP.write_text(json.dumps(_stamp(capability)) + "\n")
    return done


def prepare(folder: Path, capability: str) -> None:
    """Builds the library for a GPU that is elsewhere."""
    about = {"date": "prepare", "gpu": capability, "commit": None, "kernels": kept.kernel_hash()}
    if not compile_library(kept.Kept(folder, about), 3600, capability)["passed"]:
        raise SystemExit("the library could not be built")
    files = ", ".join(path.relative_to(kept.ROOT).as_posix() for path in (*LIBRARIES, STAMP))
    print(f"for a GPU of capability {capability}: {files}")
