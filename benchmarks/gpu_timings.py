"""Measures the ops and their peers on a GPU: rows of the results that ``gpu.py`` keeps."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import statistics
from collections.abc import Callable, Iterable
from typing import Any

Call = Callable[[], object]
Row = dict[str, Any]

SHAPE = (256, 3, 224, 224)
SUBSAMPLINGS = {"4:2:0": (2, 2), "4:4:4": (1, 1)}
#: Sides of square images. Each batch holds about as many pixels as SHAPE, or one image if that has more.
SIDES = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
DEVICE = "cuda"
#: Bytes of inputs used in turn, so that none is still in a cache of 50 MB.
ROTATION_BYTES = 400e6
#: As many turns are timed as fit into SECONDS, within these bounds.
FEWEST, MOST, SECONDS = 3, 30, 1.0


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


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
    small = torch.rand(shape[0], shape[1], max(2, shape[2] // 8), max(2, shape[3] // 8), device=DEVICE)
    image = torch.nn.functional.interpolate(small, shape[2:], mode="bilinear")
    image = (image + 0.05 * torch.randn_like(image)).clamp(0, 1)
    image = (image * 255).to(dtype) if dtype == torch.uint8 else image.to(dtype)
    return [image.roll(i, -1).contiguous() for i in range(count)]


def copy_rate() -> float:
    """Returns the bytes that a large copy on the device reads and writes in a second."""
    import torch

    sources = [torch.randint(0, 255, (2**30,), dtype=torch.uint8, device=DEVICE) for _ in range(2)]
    target = torch.empty_like(sources[0])
    time = microseconds([functools.partial(target.copy_, source) for source in sources])
    return 2 * 2**30 / (time["us"] * 1e-6)


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


def launches(call: Call) -> int | None:
    """Returns the number of kernels that a call launches, or None if the profiler cannot count them."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            call()
            torch.cuda.synchronize()
    except RuntimeError:  # it may not be permitted
        return None
    found = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events())
    return found or None


def _failed(name: str, error: Exception, about: dict[str, Any]) -> Row:
    return {"name": name, **about, "failed": f"{type(error).__name__}: {error}"[:500]}


def measure(name: str, calls: list[Call], moved: float, rate: float, **about: Any) -> Row:
    """Returns one row of the results; if a call fails, the row holds the reason.

    Args:
        name: the measurement's name.
        calls: the calls to measure, on different data.
        moved: bytes that a call must read and write.
        rate: bytes a second of a copy.
        about: further entries of the row.
    """
    try:
        row = {"name": name, **about, **microseconds(calls), "bytes": moved, "peak": peak_bytes(calls[0])}
        row["launches"] = launches(calls[0])
        row["of_copy"] = moved / (row["us"] * 1e-6) / rate
    except Exception as error:  # whatever a peer may raise
        row = _failed(name, error, about)
    return row


def guarded(name: str, rows: Callable[[], Iterable[Row]], **about: Any) -> Iterable[Row]:
    """Yields rows. If their data cannot be made or a package is missing, one row holds the reason for the rest."""
    import torch

    try:
        yield from rows()
    except Exception as error:  # as above
        yield _failed(name, error, about)
    with contextlib.suppress(RuntimeError):  # after some failures a GPU no longer responds
        torch.cuda.empty_cache()  # for the next row, which may be large


# ---------------------------------------------------------------------------------------------------------------------
# Ours


def ours(rate: float, backend: str, ops: Any, shape: tuple[int, ...], full: bool) -> Iterable[Row]:
    """Measures the exact arithmetic, forward and with backward; if `full`, for every dtype and with surrogates."""
    import torch

    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.float64) if full else (torch.float32,)
    for subsampling, factors in SUBSAMPLINGS.items():
        for dtype in dtypes:
            about = {"backend": backend, "shape": shape, "dtype": str(dtype)[6:], "subsampling": subsampling}
            rows = functools.partial(_exact, rate, ops, shape, dtype, factors, full, about)
            yield from guarded("forward and backward", rows, **about)


def _exact(
    rate: float,
    ops: Any,
    shape: tuple[int, ...],
    dtype: Any,
    factors: tuple[int, int],
    full: bool,
    about: dict[str, Any],
) -> Iterable[Row]:
    import torch

    images = rotation(shape, dtype)
    moved = 2.0 * images[0].numel() * images[0].element_size()

    def forward(image: Any) -> Any:
        return ops.round_trip(image, None, 75.0, *factors, True)

    def both(tables: bool, image: Any) -> Any:
        out, planes = forward(image)
        return ops.round_trip_backward(out, planes, image, None, 75.0, *factors, True, tables)

    yield measure("forward", [functools.partial(forward, image) for image in images], moved, rate, **about)
    if dtype == torch.uint8:
        return
    for tables in (False, True):
        name = "forward and backward" + (" with tables" if tables else "")
        calls: list[Call] = [functools.partial(both, tables, image) for image in images]
        yield measure(name, calls, (2.5 if tables else 2) * moved, rate, **about)
    if full:
        yield from _with_coefficients(rate, ops, images, factors, moved, about)


def _with_coefficients(
    rate: float, ops: Any, images: list[Any], factors: tuple[int, int], moved: float, about: dict[str, Any]
) -> Iterable[Row]:
    """Measures a surrogate's gradients, and a quality for each block."""
    import torch

    from fdjpeg import _slopes, surrogates

    slopes = _slopes.slope_table(surrogates.resolve("sine"), images[0].device)
    shape = images[0].shape
    size = (shape[0], -(-shape[2] // 8), -(-shape[3] // 8))
    qualities = torch.randint(20, 95, size, dtype=torch.uint8, device=images[0].device)

    def both(image: Any) -> Any:
        out, planes = ops.round_trip(image, None, 75.0, *factors, True)
        return ops.surrogate_backward(out, planes, image, None, 75.0, *factors, True, True, slopes)

    def by_block(image: Any) -> Any:
        return ops.round_trip_by_block(image, qualities, *factors, True)

    calls: list[Call] = [functools.partial(both, image) for image in images]
    yield measure("forward and backward by a surrogate", calls, 2.5 * moved, rate, **about)
    calls = [functools.partial(by_block, image) for image in images]
    yield measure("forward, a quality for each block", calls, moved, rate, **about)


def block_transforms(rate: float) -> Iterable[Row]:
    """Measures the DCT of blocks and its inverse alone."""
    import torch

    for dtype in (torch.float32, torch.float16):
        images = rotation(SHAPE, dtype)
        moved = 2.0 * images[0].numel() * images[0].element_size()
        about = {"backend": "cuda", "shape": SHAPE, "dtype": str(dtype)[6:]}
        for op in (torch.ops.fdjpeg.block_dct, torch.ops.fdjpeg.block_idct):
            calls: list[Call] = [functools.partial(op, image) for image in images]
            yield measure(op.__name__, calls, moved, rate, **about)
            images = [op(image) for image in images]


def public(rate: float) -> Iterable[Row]:
    """Measures the public function, in both arithmetics, with autograd."""
    import torch

    import fdjpeg

    images = rotation(SHAPE, torch.float32)
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


def triton(rate: float) -> Iterable[Row]:
    """Measures the round trip by Triton."""
    from fdjpeg._triton import launches as triton_kernels

    yield from ours(rate, "triton", triton_kernels, SHAPE, full=False)


def sweep(rate: float) -> Iterable[Row]:
    """Measures the round trip of square images by CUDA, from small to large."""
    import torch

    for shape in sweep_shapes():
        yield from ours(rate, "cuda", torch.ops.fdjpeg, shape, full=False)


def sweep_shapes() -> list[tuple[int, int, int, int]]:
    """Returns the shapes of `sweep`."""
    pixels = SHAPE[0] * SHAPE[2] * SHAPE[3]
    return [(max(1, pixels // side**2), 3, side, side) for side in SIDES]


# ---------------------------------------------------------------------------------------------------------------------
# Peers


def _of_floats(name: str, rate: float, call: Callable[[Any], object]) -> Row:
    """Returns the row of a call that takes float32 images."""
    import torch

    images = rotation(SHAPE, torch.float32)[:2]
    calls: list[Call] = [functools.partial(call, image) for image in images]
    return measure(name, calls, 2.0 * images[0].numel() * 4, rate, shape=SHAPE, dtype="float32")


def copy(rate: float) -> Iterable[Row]:
    """Measures a plain copy on the device."""
    import torch

    target = torch.empty(SHAPE, device=DEVICE)
    yield _of_floats("copy", rate, target.copy_)


def kornia(rate: float) -> Iterable[Row]:
    """Measures kornia, the most widely used layer in plain torch."""
    import torch
    from kornia.enhance import jpeg_codec_differentiable

    quality = torch.full((SHAPE[0],), 75.0, device=DEVICE)
    yield _of_floats("kornia", rate, lambda image: jpeg_codec_differentiable(image, quality))


def nvjpeg(rate: float) -> Iterable[Row]:
    """Measures the GPU's own codec through torchvision, with its files."""
    import torch
    from torchvision.io import decode_jpeg, encode_jpeg

    batches = [list(batch) for batch in rotation(SHAPE, torch.uint8)[:2]]

    def encode_and_decode(batch: Any) -> Any:
        return decode_jpeg([file.cpu() for file in encode_jpeg(batch, quality=75)], device=DEVICE)

    calls: list[Call] = [functools.partial(encode_and_decode, batch) for batch in batches]
    moved = 2.0 * torch.Size(SHAPE).numel()
    yield measure("nvJPEG encode and decode", calls, moved, rate, shape=SHAPE, dtype="uint8")


def compiled_reference(rate: float) -> Iterable[Row]:
    """Measures the reference under ``torch.compile``."""
    import torch

    from fdjpeg import reference

    compiled = torch.compile(lambda image: reference.round_trip(image, None, 75.0, 2, 2, True)[0])
    yield _of_floats("torch.compile of the reference", rate, compiled)


def timings(rate: float) -> Iterable[Row]:
    """Yields all rows: the most important first and the slowest last, in case the run is interrupted."""
    import torch

    yield from ours(rate, "cuda", torch.ops.fdjpeg, SHAPE, full=True)
    parts: list[Callable[[float], Iterable[Row]]] = [block_transforms, public, copy, triton]
    for package, peer in (("kornia", kornia), ("torchvision", nvjpeg)):
        if importlib.util.find_spec(package) is None:
            yield {"name": peer.__name__, "failed": f"{package} is not installed"}
        else:
            parts.append(peer)
    for part in (*parts, sweep, compiled_reference):
        yield from guarded(part.__name__, functools.partial(part, rate))
