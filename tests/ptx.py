"""Runs the exact kernels' PTX of every layout and type in the interpreter of ``support/ptx_machine.py``.

    python tests/ptx.py                                   # some minutes; needs nvcc
    python tests/ptx.py --only "4:2:0 float32" --sizes    # and every width and height of up to two MCUs
    python tests/ptx.py --bugs                            # the planted bugs of kernels/bugs/, in float32

A line for each layout and type: the images that were run, and how they differ from the CPU's op. The machine itself
checks the rest: ranges, alignment, races, barriers, and reads of what nothing wrote. All threads of a tile run, and the
addresses in shared memory depend on a thread's number alone, so a run covers the tile exhaustively.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from support import planted_bugs, ptx_cases, ptx_kernels, ptx_program, settings  # noqa: E402
from support.emulation import restricted_copy  # noqa: E402
from support.ptx_kernels import Sampling  # noqa: E402
from support.ptx_memory import BrokenRule  # noqa: E402

SAMPLINGS = {**{name: Sampling(*factors) for name, factors in settings.FACTORS.items()}, "grey": Sampling(1, 1, True)}
DTYPES = tuple(ptx_kernels.TYPES)
#: Height, width, and samples by which images are moved from an aligned address: odd sizes, words of 16 bytes, and both.
SHAPES = ((17, 35, 0), (18, 38, 0), (9, 67, 0), (32, 64, 0), (32, 64, 1), (1, 1, 0))


def triangles(sampling: Sampling) -> tuple[bool, ...]:
    """Returns the upsamplings that a sampling has: by the triangle, if it halves a direction, and by repetition."""
    return (True, False) if 2 in (sampling.horizontal, sampling.vertical) else (False,)


def names_of(sampling: Sampling, dtype: torch.dtype) -> list[ptx_kernels.Names]:
    """Returns the kernels of a sampling and type."""
    return [ptx_kernels.names_of(sampling, triangle, dtype) for triangle in triangles(sampling)]


def shapes_of(sampling: Sampling, sizes: bool) -> Iterator[tuple[int, int, int]]:
    """Yields the shapes to run."""
    yield from SHAPES
    if sizes:
        yield from ((13, width, 0) for width in range(1, 16 * sampling.horizontal + 1))
        yield from ((height, 21, 0) for height in range(1, 16 * sampling.vertical + 1))


def check_all(only: str, sizes: bool) -> int:
    """Runs all kernels whose line holds a text; returns how many lines differ."""
    failures = 0
    for dtype in DTYPES:
        for subsampling, sampling in SAMPLINGS.items():
            title = f"{subsampling} {str(dtype).removeprefix('torch.')}"
            if only in title:
                failures += _differs(title, sampling, dtype, sizes)
    return failures


def _differs(title: str, sampling: Sampling, dtype: torch.dtype, sizes: bool) -> bool:
    """Runs the kernels of a sampling and type, and prints their line."""
    begin = time.monotonic()
    module = ptx_kernels.kept_module(names_of(sampling, dtype), title.replace(":", "").replace(" ", "-"))
    count, found = 0, []
    for triangle in triangles(sampling):
        for height, width, shift in shapes_of(sampling, sizes):
            # libjpeg repeats samples where a row of chroma is too narrow for its triangle.
            if triangle and -(-width // sampling.horizontal) <= 2:
                continue
            image = ptx_cases.image_of(dtype, height, width, sampling)
            found += _outcome(module, sampling, triangle, image, shift)
            count += 1
    seconds = time.monotonic() - begin
    print(f"{title:16s} {count} images, {seconds:.0f} s: {'; '.join(found) or 'equal'}", flush=True)
    return bool(found)


def _outcome(
    module: ptx_program.Module, sampling: Sampling, triangle: bool, image: torch.Tensor, shift: int
) -> list[str]:
    where = f"{tuple(image.shape[2:])}{' triangle' if triangle else ''}{' shifted' if shift else ''}"
    try:
        return [f"{where}: {one}" for one in ptx_cases.check(module, sampling, triangle, image, shift)]
    except BrokenRule as rule:
        return [f"{where}: {rule}"]


def bugs() -> int:
    """Compiles the kernels with each planted bug of their sources; returns how many were not found."""
    missed = 0
    for name in ("forward", "backward"):
        for bug in planted_bugs.found_by(name):
            with tempfile.TemporaryDirectory() as folder:
                headers = Path(folder, "csrc")
                restricted_copy(headers, ("float32",))
                outcome = _with(bug, headers, Path(folder, "bug.ptx"))
            missed += outcome == "not found"
            print(f"{name}: {bug.name}: {outcome}", flush=True)
    return missed


def _with(bug: planted_bugs.Mutant, headers: Path, target: Path) -> str:
    """Returns how a bug was found, or that it changes none of these kernels."""
    (file,) = [path for path in headers.rglob("*.*") if bug.old in path.read_text()]
    sampling, dtype = SAMPLINGS[bug.subsampling], torch.float32
    names = names_of(sampling, dtype)
    usual = ptx_kernels.compile_ptx(names, headers, target.with_name("usual.ptx")).read_text()
    file.write_text(file.read_text().replace(bug.old, bug.new))
    changed = ptx_kernels.compile_ptx(names, headers, target).read_text()
    if usual.replace("usual", "bug") == changed:
        return "not in these kernels"
    module = ptx_program.parse(changed)
    for triangle in triangles(sampling):
        for height, width, shift in ((17, 35, 0), (18, 38, 0), (32, 64, 1), (33, 130, 0)):
            found = _outcome(module, sampling, triangle, ptx_cases.image_of(dtype, height, width, sampling), shift)
            if found:
                return found[0]
    return "not found"


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", default="", help='lines that hold this, such as "4:2:0 float32"')
    parser.add_argument("--sizes", action="store_true", help="every width and height of up to two MCUs")
    parser.add_argument("--bugs", action="store_true", help="the planted bugs of the sources")
    options = parser.parse_args()
    if ptx_kernels.NVCC is None:
        raise SystemExit("nvcc is not installed")
    sys.exit(bool(bugs() if options.bugs else check_all(options.only, options.sizes)))


if __name__ == "__main__":
    main()
