"""Measures a call on a GPU: time, memory, launches, and the rate of a copy to compare with."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any

from gpu import stand_in

Call = Callable[[], object]
Row = dict[str, Any]

#: The design's batch of images.
SHAPE = (256, 3, 224, 224)
#: Sides of square images. Each batch holds about as many pixels as SHAPE, or one image if that has more.
SIDES = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
#: Bytes of inputs used in turn, so that none is still in a cache of 50 MB.
ROTATION_BYTES = 400e6
#: Bytes of the copy whose rate the others are compared with.
COPIED = 2**30
#: As many turns are timed as fit into SECONDS, within these bounds.
FEWEST, MOST, SECONDS = 3, 30, 1.0


def _turn(calls: list[Call]) -> float:
    """Returns the seconds on the GPU for all calls, each made once."""
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for call in calls:
        call()
    end.record()
    torch.cuda.synchronize()
    return 1e-3 * start.elapsed_time(end)


def microseconds(calls: list[Call]) -> dict[str, float]:
    """Returns the time of one call on the GPU: median, and the 20th and 80th percentile.

    The calls do the same on different data, so that no cache holds the next call's input. Events enclose a whole turn
    through them. The gaps between launches are therefore included, because a user pays for them too.
    """
    for _ in range(2):
        _turn(calls)  # compiles, allocates and warms up
    turns = min(MOST, max(FEWEST, int(SECONDS / _turn(calls))))
    times = [1e6 * _turn(calls) / len(calls) for _ in range(turns)]
    fifths = statistics.quantiles(times, n=5)
    return {"us": statistics.median(times), "us_20": fifths[0], "us_80": fifths[3]}


def rotation(shape: tuple[int, ...], dtype: Any) -> list[Any]:
    """Returns enough random images to fill the caches several times."""
    import torch

    bytes_of_one = torch.Size(shape).numel() * torch.empty((), dtype=dtype).element_size()
    count = max(2, min(64, int(ROTATION_BYTES // bytes_of_one) + 1))
    # Smooth like photographs, so that some coefficients survive quantization and some do not.
    small = torch.rand(shape[0], shape[1], max(2, shape[2] // 8), max(2, shape[3] // 8), device=stand_in.DEVICE)
    image = torch.nn.functional.interpolate(small, shape[2:], mode="bilinear")
    image = (image + 0.05 * torch.randn_like(image)).clamp(0, 1)
    image = (image * 255).to(dtype) if dtype == torch.uint8 else image.to(dtype)
    return [image.roll(i, -1).contiguous() for i in range(count)]


@functools.cache
def copy_rate() -> float:
    """Returns the bytes that a large copy on the device reads and writes in a second, measured once a process."""
    import torch

    sources = [torch.randint(0, 255, (COPIED,), dtype=torch.uint8, device=stand_in.DEVICE) for _ in range(2)]
    target = torch.empty_like(sources[0])
    time = microseconds([functools.partial(target.copy_, source) for source in sources])
    return 2 * COPIED / (time["us"] * 1e-6)


def peak_bytes(call: Call) -> int:
    """Returns the peak memory of a call beyond the memory in use before it, with its results."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del result
    return int(peak)


def profiled(call: Call) -> Any:
    """Calls a function under the profiler and returns the profiler, or None where it is not permitted."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    asked = stand_in.faults()
    if "no-profiler" in (asked or ()):
        return None
    profiler = profile(activities=[ProfilerActivity.CUDA if asked is None else ProfilerActivity.CPU])
    try:
        profiler.start()
    except (AssertionError, RuntimeError) as error:
        print(f"the profiler does not run: {error}", flush=True)
        return None
    try:
        call()
        torch.cuda.synchronize()
    finally:
        profiler.stop()
    return profiler


def launches(call: Call) -> int | None:
    """Returns the number of kernels that a call launches, or None if the profiler cannot count them."""
    import torch

    profiler = profiled(call)
    if profiler is None:
        return None
    found = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events())
    return found or None


def row(name: str, calls: list[Call], moved: float, **about: Any) -> Row:
    """Returns one row of the results; if a call fails, the row holds the reason.

    Args:
        name: the measurement's name.
        calls: the calls to measure, on different data.
        moved: bytes that a call must read and write.
        about: further entries of the row.
    """
    try:
        found = {"name": name, **about, **microseconds(calls), "bytes": moved, "peak": peak_bytes(calls[0])}
        found["launches"] = launches(calls[0])
        found["of_copy"] = moved / (found["us"] * 1e-6) / copy_rate()
    except Exception as error:  # whatever a peer may raise
        return {"name": name, **about, "failed": f"{type(error).__name__}: {error}"[:500]}
    return found


def of_floats(name: str, call: Callable[[Any], object]) -> Row:
    """Returns the row of a call that takes float32 images."""
    import torch

    images = rotation(SHAPE, torch.float32)[:2]
    calls: list[Call] = [functools.partial(call, image) for image in images]
    return row(name, calls, 2.0 * images[0].numel() * 4, shape=SHAPE, dtype="float32")
