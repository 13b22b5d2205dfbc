"""Achieved rates of each kernel, so that a missed target names its cause.

The profiler gives each kernel's time, blocks of threads and registers; ``expected.py`` gives its bytes, instructions
and turns of shared memory, from its compiled code. The largest share of what the GPU could do is what limits the
kernel: bytes, issue or shared memory; the tail if the last blocks leave much of the GPU idle; else latency, which is
too little in flight.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from gpu import measure, stand_in

#: Seconds for one item.
ITEM_LIMIT = 30.0
#: Calls under the profiler.
CALLS = 12
#: A share of the GPU's rate from which on a kernel is limited by it, and a share of the time that makes a tail count.
LIMITED, TAIL = 0.7, 0.1
#: Multiples of the issue rate of one warp a cycle: each multiprocessor has four schedulers.
SCHEDULERS = 4


class Kernel(NamedTuple):
    """A kernel as it ran."""

    microseconds: float
    blocks: int
    resident: int | None  #: blocks of threads that run at once on a multiprocessor
    registers: int | None


class Shares(NamedTuple):
    """Shares of the GPU's rates that a kernel used, and the share of its time in which its tail left the GPU idle."""

    bytes: float
    issue: float
    shared: float
    tail: float


def cause(shares: Shares) -> str:
    """Names what limits a kernel."""
    rates = {"bytes": shares.bytes, "issue": shares.issue, "shared memory": shares.shared}
    largest = max(rates, key=lambda name: rates[name])
    if rates[largest] >= LIMITED:
        return largest
    return "tail" if shares.tail >= TAIL else "latency"


def tail_of(blocks: int, at_once: int) -> float:
    """Returns the share of the time in which the last blocks leave multiprocessors idle, if all take as long."""
    rounds = blocks / at_once
    return 1 - rounds / -(-blocks // at_once)


def shares_of(kernel: Kernel, launch: Any, pixels: int, copy_rate: float, processors: int, clock: float) -> Shares:
    """Returns the shares.

    Args:
        kernel: as it ran.
        launch: an `expected.Launch`: bytes, instructions and turns for each pixel.
        pixels: of the images.
        copy_rate: bytes a second.
        processors: multiprocessors.
        clock: cycles a second of a multiprocessor while the kernel ran.
    """
    seconds = kernel.microseconds * 1e-6
    warps_per_pixel = 1 / 32
    cycles = seconds * clock * processors
    tail = 0.0 if kernel.resident is None else tail_of(kernel.blocks, kernel.resident * processors)
    return Shares(
        bytes=launch.bytes * pixels / seconds / copy_rate,
        issue=launch.instructions * pixels * warps_per_pixel / (SCHEDULERS * cycles),
        shared=launch.turns() * pixels * warps_per_pixel / cycles,
        tail=tail,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Names


_ENUMERATIONS = {
    "SampleType": ("uint8", "float16", "bfloat16", "float32", "float64"),
    "Make": ("planes", "planes_by_block", "coefficients"),
}


def spelled(name: str) -> str:
    """Returns a kernel's name in the profile as ``cuda_budget.json`` spells it."""
    name = name.replace("fdjpeg::", "").removeprefix("void ")
    depth, end = 0, len(name)
    for i, sign in enumerate(name):
        depth += (sign == "<") - (sign == ">")
        if sign == "(" and depth == 0:
            end = i
            break

    def constant(found: re.Match[str]) -> str:
        return f"{found[1]}::{_ENUMERATIONS[found[1]][int(found[2])]}"

    return re.sub(r"\((SampleType|Make)\)(\d+)", constant, name[:end])


def kernels_of(trace: dict[str, Any]) -> dict[str, Kernel]:
    """Returns the kernels of a profile by name, with the median of their times."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in trace["traceEvents"]:
        if event.get("cat") == "kernel":
            found.setdefault(spelled(event["name"]), []).append(event)
    kernels = {}
    for name, events in found.items():
        about = events[0].get("args", {})
        blocks = functools.reduce(lambda a, b: a * b, about.get("grid", [1]), 1)
        threads = functools.reduce(lambda a, b: a * b, about.get("block", [1]), 1)
        registers = about.get("registers per thread")
        # By registers alone; the kernels' shared memory allows as many, which the compiler asserts.
        resident = None if not registers else max(1, min(2048 // threads, 65536 // (-(-registers // 8) * 8 * threads)))
        median = statistics.median(event["dur"] for event in events)
        kernels[name] = Kernel(median, blocks, resident, registers)
    return kernels


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def _calls() -> dict[str, Callable[[Any], object]]:
    """Returns for each task of ``expected.py`` a call that launches its kernels."""
    import torch

    import fdjpeg
    from fdjpeg import _slopes, surrogates

    ops = torch.ops.fdjpeg
    setting = (None, 75.0, 2, 2, True)
    rounding = (*setting, "straight-through", 0.0, 0.0, False)

    def backward(image: Any, tables: bool) -> None:
        out, planes = ops.round_trip(image, *setting)
        ops.round_trip_backward(out, planes, image, *setting, tables)

    def by_surrogate(image: Any) -> None:
        out, planes = ops.round_trip(image, *setting)
        slopes = _slopes.slope_table(surrogates.resolve("cubic"), image.device)
        ops.surrogate_backward(out, planes, image, *setting, True, slopes)

    def real(image: Any, tables: bool) -> None:
        out, mask = ops.real_round_trip(image, *rounding)
        ops.real_round_trip_backward(out, mask, image, *rounding, tables)

    return {
        "forward": lambda image: ops.round_trip(image, *setting),
        "forward and backward": lambda image: backward(image, False),
        "forward and backward with tables": lambda image: backward(image, True),
        "forward and backward, cubic": by_surrogate,
        "DCT of blocks": lambda image: ops.block_dct(image),
        "inverse DCT of blocks": lambda image: fdjpeg.block_idct(image.view(*image.shape[:2], 28, 28, 8, 8)),
        "forward, real": lambda image: ops.real_round_trip(image, *rounding),
        "forward and backward, real": lambda image: real(image, False),
        "forward and backward with tables, real": lambda image: real(image, True),
    }


def tasks() -> dict[str, Any]:
    """Returns the tasks of ``expected.py`` by name."""
    import expected

    return {task.name: task for task in expected.TASKS}


def items() -> dict[str, Callable[[], Iterable[dict[str, Any]]]]:
    """Returns the work of each task."""
    return {name: functools.partial(_measure, name) for name in tasks()}


def clock() -> dict[str, float | str] | None:
    """Returns the clocks in MHz, the reasons for a lower one, watts and degrees of the first GPU at this moment."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return None
    names = ("clocks.sm", "clocks.mem", "clocks_event_reasons.active", "power.draw", "temperature.gpu")
    query = [smi, "-i", "0", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=5).stdout.strip().split(", ")
    except subprocess.TimeoutExpired:
        return None
    if len(answer) != len(names):
        return None
    return {
        name: float(one) if one.replace(".", "").isdigit() else one for name, one in zip(names, answer, strict=True)
    }


def _measure(name: str) -> Iterable[dict[str, Any]]:
    """Yields the clocks under the load of a task, and its kernels with what limits them."""
    import torch

    task = tasks()[name]
    dtype, call_name = name.split(" ", 1)
    images = measure.rotation(measure.SHAPE, getattr(torch, dtype))
    call = _calls()[call_name]
    for image in images:
        call(image)  # compiles, allocates and warms up
    # As much work as covers the question for the clocks, which takes some tens of milliseconds.
    for i in range(4000 if stand_in.DEVICE == "cuda" else 1):
        call(images[i % len(images)])
    clocks = clock()
    torch.cuda.synchronize()
    yield {"clocks": clocks}

    def several() -> None:
        for i in range(CALLS):
            call(images[i % len(images)])

    profiler = measure.profiled(several)
    if profiler is None:
        raise RuntimeError("the profiler does not run here")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(file))
        kernels = kernels_of(json.loads(file.read_text()))
    if stand_in.DEVICE == "cuda" and not kernels:
        raise RuntimeError("the profiler shows no kernels")
    yield from _rows(task, kernels, 1e6 * _number(clocks))


def _number(clocks: dict[str, float | str] | None) -> float:
    """Returns the clock of the multiprocessors in MHz; that of the model where it is not known."""
    value = None if clocks is None else clocks["clocks.sm"]
    return value if isinstance(value, float) and value > 0 else 1980.0


def _rows(task: Any, kernels: dict[str, Kernel], clock: float) -> Iterable[dict[str, Any]]:
    import torch

    processors = torch.cuda.get_device_properties(0).multi_processor_count
    pixels = measure.SHAPE[0] * measure.SHAPE[2] * measure.SHAPE[3]
    for launch in task.launches:
        kernel = kernels.get(launch.kernel)
        if kernel is None:
            yield {"kernel": launch.kernel, "missing": "not in the profile"}
            continue
        shares = shares_of(kernel, launch, pixels, measure.copy_rate(), processors, clock)
        yield {
            "kernel": launch.kernel,
            "expected_us": round(launch.seconds() * 1e6, 1),
            **kernel._asdict(),
            **{f"of_{name}": round(share, 3) for name, share in shares._asdict().items()},
            "limited by": cause(shares),
        }
