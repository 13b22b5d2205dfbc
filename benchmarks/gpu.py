"""Everything that only a GPU can show, in one command: builds, runs every GPU test, measures, writes one dated JSON.

    python benchmarks/gpu.py OUT_DIR

Needs torch with CUDA, nvcc and a C++ compiler; uses pytest, compute-sanitizer, kornia, torchvision and Pillow where
they are there and says which are not. ``benchmarks/results/README.md`` explains the results that are kept.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: What the results depend on.
KERNELS = (
    *(
        f"csrc/{name}"
        for name in ("block_launch.h", "codec.h", "codec_launch.h", "codec_real.h", "cuda_ops.h", "jpeg_math.h")
    ),
    *(f"csrc/{name}" for name in ("real_launch.h", "real_math.h")),
    *sorted(f"csrc/{path.name}" for path in (ROOT / "csrc").glob("*.cu*")),
    "fdjpeg/triton_kernels.py",
)
SHAPE = (256, 3, 224, 224)
SUBSAMPLINGS = {"4:2:0": (2, 2), "4:4:4": (1, 1)}
#: Sides of square images; each batch holds about as many pixels as SHAPE's, if one image has no more.
SIDES = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
DEVICE = "cuda"
#: Enough inputs in turn that none is still in a cache of 50 MB.
ROTATION_BYTES = 400e6
REPETITIONS = 30


def kernel_hash() -> str:
    """A digest of the kernels' sources."""
    digest = hashlib.sha256()
    for name in KERNELS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:16]


def command(arguments: list[str], limit: float, **environment: str) -> dict[str, Any]:
    """Runs a command in the checkout: whether it succeeded, and the end of what it said."""
    print("$", " ".join(arguments), flush=True)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    try:
        done = subprocess.run(
            arguments,
            cwd=ROOT,
            env=variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return {"command": arguments, "passed": False, "said": f"took more than {limit:g} s"}
    print(done.stdout[-2000:], flush=True)
    return {"command": arguments, "passed": done.returncode == 0, "said": done.stdout[-4000:]}


def build() -> dict[str, Any]:
    """Compiles the library in place, for the GPU at hand."""
    import torch

    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    arguments = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return command(arguments, 900, FDJPEG_CUDA="1", FDJPEG_CUDA_ARCHS=capability)


def run_tests() -> list[dict[str, Any]]:
    """The GPU tests, once for each backend; then the smallest of them under compute-sanitizer."""
    # Without conftest.py, whose packages such a machine may lack.
    pytest = [sys.executable, "-m", "pytest", "--noconftest", "-q", "-m", "gpu", "tests/test_gpu.py"]
    results = [command(pytest, 900)]
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return [*results, {"command": ["compute-sanitizer"], "passed": None, "said": "not installed"}]
    small = [*pytest, "-k", "small and not triton"]
    for tool in ("memcheck", "racecheck", "synccheck"):
        # Without torch's cache of memory, so that the first byte beyond a tensor is nobody's.
        uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        results.append(command([sanitizer, "--tool", tool, "--error-exitcode", "9", *small], 900, **uncached))
    return results


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def microseconds(calls: list[Callable[[], object]], repetitions: int = REPETITIONS) -> dict[str, float]:
    """The time of one call on the GPU: median, and the 20th and 80th percentile.

    The calls do the same on different data, so that no cache holds what the next one reads. Events stand around a whole
    turn through them, which leaves the gaps between launches in: they are part of what a user pays.
    """
    import torch

    for _ in range(3):
        for call in calls:
            call()
    torch.cuda.synchronize()
    times = []
    for _ in range(repetitions):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for call in calls:
            call()
        end.record()
        torch.cuda.synchronize()
        times.append(1e3 * start.elapsed_time(end) / len(calls))
    fifths = statistics.quantiles(times, n=5)
    return {"us": statistics.median(times), "us_20": fifths[0], "us_80": fifths[3]}


def rotation(shape: tuple[int, ...], dtype: Any) -> list[Any]:
    """Random images, as many as it takes to fill the caches several times."""
    import torch

    bytes_of_one = torch.Size(shape).numel() * torch.empty((), dtype=dtype).element_size()
    count = max(2, min(64, int(ROTATION_BYTES // bytes_of_one) + 1))
    # Smooth, as photographs are: some coefficients survive and some do not.
    small = torch.rand(shape[0], shape[1], max(2, shape[2] // 8), max(2, shape[3] // 8), device=DEVICE)
    image = torch.nn.functional.interpolate(small, shape[2:], mode="bilinear")
    image = (image + 0.05 * torch.randn_like(image)).clamp(0, 1)
    image = (image * 255).to(dtype) if dtype == torch.uint8 else image.to(dtype)
    return [image.roll(i, -1).contiguous() for i in range(count)]


def copy_rate() -> float:
    """Bytes read and written in a second by a large copy on the device."""
    import torch

    sources = [torch.randint(0, 255, (2**30,), dtype=torch.uint8, device=DEVICE) for _ in range(2)]
    target = torch.empty_like(sources[0])
    time = microseconds([functools.partial(target.copy_, source) for source in sources])
    return 2 * 2**30 / (time["us"] * 1e-6)


def peak_bytes(call: Callable[[], object]) -> int:
    """Memory that a call takes at its peak beyond what was there, its results included."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del result
    return int(peak)


def launches(call: Callable[[], object]) -> int | None:
    """Kernels that a call launches; None where the profiler does not say."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    found = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events())
    return found or None


def measure(name: str, calls: list[Callable[[], object]], moved: float, rate: float, **about: Any) -> dict[str, Any]:
    """One row of the results; a peer that fails says why."""
    try:
        row = {"name": name, **about, **microseconds(calls), "bytes": moved, "peak": peak_bytes(calls[0])}
        row["launches"] = launches(calls[0])
        row["of_copy"] = moved / (row["us"] * 1e-6) / rate
    except Exception as error:  # whatever a peer may raise
        row = {"name": name, **about, "failed": f"{type(error).__name__}: {error}"[:500]}
    print(table([row]), flush=True)
    return row


def ours(rate: float, backend: str, ops: Any, shape: tuple[int, ...], full: bool) -> Iterable[dict[str, Any]]:
    """Forward, and forward with backward, of the exact arithmetic."""
    import torch

    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.float64) if full else (torch.float32,)
    for subsampling, factors in SUBSAMPLINGS.items():
        for dtype in dtypes:
            images = rotation(shape, dtype)
            about = {"backend": backend, "shape": shape, "dtype": str(dtype)[6:], "subsampling": subsampling}
            moved = 2.0 * images[0].numel() * images[0].element_size()

            def forward(image: Any, factors: Any = factors) -> Any:
                return ops.round_trip(image, None, 75.0, *factors, True)

            yield measure("forward", [functools.partial(forward, image) for image in images], moved, rate, **about)
            if dtype == torch.uint8:
                continue
            for tables in (False, True):

                def both(image: Any, factors: Any = factors, tables: bool = tables) -> Any:
                    out, planes = ops.round_trip(image, None, 75.0, *factors, True)
                    return ops.round_trip_backward(out, planes, image, None, 75.0, *factors, True, tables)

                name = "forward and backward" + (" with tables" if tables else "")
                calls = [functools.partial(both, image) for image in images]
                yield measure(name, calls, (2.5 if tables else 2) * moved, rate, **about)
            if full:
                yield from with_coefficients(rate, ops, images, factors, moved, about)


def with_coefficients(
    rate: float, ops: Any, images: list[Any], factors: tuple[int, int], moved: float, about: dict[str, Any]
) -> Iterable[dict[str, Any]]:
    """A surrogate's gradients, and a quality for each block."""
    import torch

    from fdjpeg import surrogates

    slopes = surrogates.slope_table(surrogates.resolve("sine"), images[0].device)
    shape = images[0].shape
    size = (shape[0], -(-shape[2] // 8), -(-shape[3] // 8))
    qualities = torch.randint(20, 95, size, dtype=torch.uint8, device=images[0].device)

    def both(image: Any) -> Any:
        out, planes = ops.round_trip(image, None, 75.0, *factors, True)
        return ops.surrogate_backward(out, planes, image, None, 75.0, *factors, True, True, slopes)

    def by_block(image: Any) -> Any:
        return ops.round_trip_by_block(image, qualities, *factors, True)

    calls: list[Callable[[], object]] = [functools.partial(both, image) for image in images]
    yield measure("forward and backward by a surrogate", calls, 2.5 * moved, rate, **about)
    calls = [functools.partial(by_block, image) for image in images]
    yield measure("forward, a quality for each block", calls, moved, rate, **about)


def public(rate: float) -> Iterable[dict[str, Any]]:
    """The public function, in both arithmetics, with autograd."""
    import torch

    import fdjpeg

    images = rotation(SHAPE, torch.float32)[:2]
    moved = 2.0 * images[0].numel() * 4
    for arithmetic in ("libjpeg", "real"):
        about = {"backend": "fdjpeg.jpeg", "arithmetic": arithmetic, "shape": SHAPE, "dtype": "float32"}

        def forward(image: Any, arithmetic: str = arithmetic) -> Any:
            with torch.no_grad():
                return fdjpeg.jpeg(image, 75, arithmetic=arithmetic)

        def both(image: Any, arithmetic: str = arithmetic) -> Any:
            image = image.detach().requires_grad_()
            return torch.autograd.grad(fdjpeg.jpeg(image, 75, arithmetic=arithmetic).sum(), image)

        yield measure("forward", [functools.partial(forward, image) for image in images], moved, rate, **about)
        yield measure(
            "forward and backward", [functools.partial(both, image) for image in images], 2 * moved, rate, **about
        )


def peers(rate: float) -> Iterable[dict[str, Any]]:
    """What else there is: kornia, torch.compile of the reference, nvJPEG through torchvision, a copy."""
    import torch

    from fdjpeg import reference

    images = rotation(SHAPE, torch.float32)[:2]
    moved = 2.0 * images[0].numel() * 4
    about = {"shape": SHAPE, "dtype": "float32"}
    target = torch.empty_like(images[0])
    yield measure("copy", [functools.partial(target.copy_, image) for image in images], moved, rate, **about)

    compiled = torch.compile(lambda image: reference.round_trip(image, None, 75.0, 2, 2, True)[0])
    calls = [functools.partial(compiled, image) for image in images]
    yield measure("torch.compile of the reference", calls, moved, rate, **about)

    if importlib.util.find_spec("kornia") is None:
        yield {"name": "kornia", "failed": "not installed"}
    else:
        from kornia.enhance import jpeg_codec_differentiable

        quality = torch.full((SHAPE[0],), 75.0, device=DEVICE)
        calls = [functools.partial(jpeg_codec_differentiable, image, quality) for image in images]
        yield measure("kornia", calls, moved, rate, **about)

    if importlib.util.find_spec("torchvision") is None:
        yield {"name": "nvJPEG", "failed": "torchvision is not installed"}
    else:
        from torchvision.io import decode_jpeg, encode_jpeg

        batches = [list(batch) for batch in rotation(SHAPE, torch.uint8)[:2]]

        def nvjpeg(batch: Any) -> Any:
            return decode_jpeg([file.cpu() for file in encode_jpeg(batch, quality=75)], device=DEVICE)

        calls = [functools.partial(nvjpeg, batch) for batch in batches]
        yield measure("nvJPEG encode and decode", calls, moved / 4, rate, **about | {"dtype": "uint8"})


def sweep_shapes() -> list[tuple[int, int, int, int]]:
    """Square images from small to large."""
    pixels = SHAPE[0] * SHAPE[2] * SHAPE[3]
    return [(max(1, pixels // side**2), 3, side, side) for side in SIDES]


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Rows of the results as text."""
    lines = []
    for row in rows:
        what = f"{row.get('backend', ''):12s} {row['name']:36s} {row.get('dtype', ''):9s}"
        where = f"{'×'.join(map(str, row.get('shape', ()))):18s} {row.get('subsampling', ''):6s}"
        if "failed" in row:
            lines.append(f"{what} {where} failed: {row['failed'][:60]}")
        else:
            cost = f"{row['us']:10.1f} µs {row['of_copy']:6.1%} of copy"
            lines.append(f"{what} {where} {cost}, {row['peak'] / 1e6:8.1f} MB, {row['launches']} launches")
    return "\n".join(lines)


def environment() -> dict[str, Any]:
    """Where the results come from."""
    import torch

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout if shutil.which(query[0]) else ""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit or None,
        "kernels": kernel_hash(),
        "gpu": torch.cuda.get_device_name(),
        "capability": torch.cuda.get_device_capability(),
        "gpus": torch.cuda.device_count(),
        "driver": driver.split("\n")[0] or None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    """Builds, tests, measures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    out_dir: Path = parser.parse_args().out_dir

    import torch

    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU; this command is for a machine with one")
    out_dir.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {**environment(), "build": build()}
    name = results["gpu"].lower().replace(" ", "-")
    path = out_dir / f"{results['date']}-{name}.json"

    def keep() -> None:
        """After each part, so that what was measured stays if the next part fails."""
        path.write_text(json.dumps(results, indent=1) + "\n")

    keep()
    if not results["build"]["passed"]:
        raise SystemExit("the library could not be built")
    # From here on in this process: the library did not exist before.
    sys.path.insert(0, str(ROOT))
    import fdjpeg

    results["backends"] = fdjpeg.backends()
    results["tests"] = run_tests()
    keep()
    rate = results["copy_rate"] = copy_rate()
    print(f"copy rate {rate / 1e12:.2f} TB/s", flush=True)
    rows: list[dict[str, Any]] = []
    results["rows"] = rows

    def parts() -> Iterable[Iterable[dict[str, Any]]]:
        yield ours(rate, "cuda", torch.ops.fdjpeg, SHAPE, full=True)
        if importlib.util.find_spec("triton") is not None:
            from fdjpeg import triton_kernels

            yield ours(rate, "triton", triton_kernels, SHAPE, full=False)
        yield public(rate)
        yield peers(rate)
        for shape in sweep_shapes():
            yield ours(rate, "cuda", torch.ops.fdjpeg, shape, full=False)

    for part in parts():
        for row in part:
            rows.append(row)
            keep()
    print(table(rows))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
