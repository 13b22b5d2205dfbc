"""Times peers in turns, so that all see the same machine; memory in separate processes; fidelity to Pillow."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fdjpeg._machine import describe_machine

from .peers import PEERS, Peer

#: Batches that are timed by default: images x side in pixels.
BATCHES = ("512x32", "8x224", "1x1024", "1x4096")
#: The directions of a measurement.
FORWARD, BACKWARD = "forward", "forward+backward"

_QUALITIES_OF_FIDELITY = (10, 50, 75, 95)


@dataclass(frozen=True)
class Measurement:
    """One peer on one batch, in one direction, with one number of threads.

    Attributes:
        seconds: the median, and the 20th and 80th percentiles, of ``rounds`` calls.
        memory: bytes at the peak in addition to those before the call, its results included; None if not measured.
        error: the reason for a missing measurement.

    Example::

        results = run(["fdjpeg uint8"], ["1x32"], rounds=3, threads=[1])
        results.measurements[0].seconds
    """

    peer: str
    batch: str
    direction: str
    threads: int
    rounds: int = 0
    seconds: float = math.nan
    low: float = math.nan
    high: float = math.nan
    memory: int | None = None
    error: str | None = None


@dataclass
class Results:
    """Everything that a run measured, and on which machine.

    Example::

        results = run(["fdjpeg uint8"], ["1x32"], rounds=3, threads=[1])
        results.find("fdjpeg uint8", "1x32", "forward", 1)
    """

    machine: dict[str, Any]
    quality: int
    subsampling: str
    device: str = "cpu"
    measurements: list[Measurement] = field(default_factory=list)
    fidelity: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def find(self, peer: str, batch: str, direction: str, threads: int) -> Measurement | None:
        """Returns the measurement of that description, or None."""
        key = (peer, batch, direction, threads)
        return next((m for m in self.measurements if (m.peer, m.batch, m.direction, m.threads) == key), None)

    @property
    def batches(self) -> list[str]:
        """The batches that were timed, smallest first."""
        return sorted({m.batch for m in self.measurements}, key=lambda name: (math.prod(size_of(name)), name))

    def as_json(self) -> dict[str, Any]:
        """Returns plain data, with None for missing measurements."""

        def plain(value: Any) -> Any:
            return None if isinstance(value, float) and math.isnan(value) else value

        data = asdict(self)
        data["measurements"] = [{key: plain(value) for key, value in row.items()} for row in data["measurements"]]
        return data


def size_of(batch: str) -> tuple[int, int, int]:
    """Returns images, height and width of a batch such as "8x224", or "8x224x320" of height 224 and width 320.

    Raises:
        ValueError: if it is not such a batch.
    """
    sizes = [int(word) for word in batch.lower().split("x") if word.isascii() and word.isdigit()]
    if len(sizes) not in (2, 3) or len(sizes) != batch.lower().count("x") + 1 or min(sizes) < 1:
        raise ValueError(f"batch must be images x side, such as 8x224, got {batch!r}")
    return sizes[0], sizes[1], sizes[-1]


def photographs(count: int, height: int, width: int) -> Tensor:
    """Returns photographs, uint8 ``(count, 3, height, width)``: those in foolbox, or else shapes in soft noise.

    Content matters: Pillow's entropy coder, which fdjpeg does not need, is slower on busier pictures.
    """
    from fdjpeg._packages import MissingPackage, package_folder
    from fdjpeg.sources.files import read_picture
    from fdjpeg.sources.image_set import fit, to_tensor

    size = max(height, width)
    try:
        files = sorted((package_folder("foolbox") / "data").glob("imagenet_*.jpg"))
        read = (read_picture(file).image.convert("RGB") for file in files[:count])
        pictures = [to_tensor(fit(image, size))[:, :height, :width] for image in read]
    except MissingPackage:
        pictures = []
    if not pictures:
        generator = torch.Generator().manual_seed(0)
        shape = (min(count, 20), 3, max(2, size // 32), max(2, size // 32))
        coarse = torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu")
        smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
        noise = torch.randn(smooth.shape, generator=generator, dtype=torch.float32, device="cpu") / 32
        pictures = list(((smooth + noise).clamp(0, 1) * 255).round().to(torch.uint8))
    return torch.stack([pictures[i % len(pictures)] for i in range(count)]).contiguous()


def _machine(device: str) -> dict[str, Any]:
    named = {} if device == "cpu" else {"device": torch.cuda.get_device_name(device)}
    return {**describe_machine(), **named}


def prepared(peer: Peer, pictures: Tensor, device: str) -> Any:
    """Returns uint8 images in the peer's form, on a device."""
    batch = peer.prepare(pictures)
    return batch if device == "cpu" else batch.to(device)


def _call(peer: Peer, direction: str, batch: Any, codec: Callable[[Any], Any]) -> Callable[[], Any]:
    """Returns the function that is timed. On a GPU it waits for the result."""
    call = _unfinished_call(peer, direction, batch, codec)
    if not (isinstance(batch, Tensor) and batch.is_cuda):
        return call

    def finished() -> Any:
        result = call()
        torch.cuda.synchronize(batch.device)
        return result

    return finished


def _unfinished_call(peer: Peer, direction: str, batch: Any, codec: Callable[[Any], Any]) -> Callable[[], Any]:
    if direction == FORWARD:

        def forward() -> Any:
            with torch.no_grad():
                return codec(batch)

        return forward
    grad = torch.rand_like(batch)

    def forward_backward() -> Any:
        leaf = batch.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(codec(leaf), leaf, grad)
        return gradient

    return forward_backward


def _time_in_turns(calls: dict[str, Callable[[], Any]], rounds: int, budget: float) -> dict[str, list[float]]:
    """Calls each in turn, ``rounds`` times; one whose calls took more than ``budget`` seconds in total drops out."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():  # warm caches, pools and lazy imports
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            if sum(times[name]) > budget and len(times[name]) >= 3:
                continue
            start = time.perf_counter()
            result = call()
            times[name].append(time.perf_counter() - start)
            del result
    return times


def peak_memory(peer: str, batch: str, direction: str, quality: int, subsampling: str, device: str = "cpu") -> int:
    """Measures the bytes that one call adds at its peak, in a fresh process. On a CPU Linux only."""
    arguments = json.dumps([peer, batch, direction, quality, subsampling, device])
    return int(run_python("-m", "fdjpeg.bench.measure", arguments))


def run_python(*arguments: str) -> str:
    """Returns the output of a fresh Python in which `bytes_at_peak` is accurate.

    Freed memory goes back to the system at once, so memory used before a call cannot hide what the call needs.

    Raises:
        RuntimeError: if it failed; the message is its last line.
    """
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=600, env={**os.environ, **settings}
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit status {done.returncode}")
    return done.stdout


def _resident(field_name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field_name}")


def _measure_memory_here(name: str, batch: str, direction: str, quality: int, subsampling: str, device: str) -> int:
    peer = PEERS[name]
    torch.set_num_threads(1)
    codec = peer.codec(quality, subsampling)
    _call(peer, direction, prepared(peer, photographs(1, 32, 32), device), codec)()  # lazy imports and tables
    call = _call(peer, direction, prepared(peer, photographs(*size_of(batch)), device), codec)
    return bytes_at_peak(call) if device == "cpu" else _bytes_at_peak_of_gpu(call, device)


def _bytes_at_peak_of_gpu(call: Callable[[], Any], device: str) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def bytes_at_peak(call: Callable[[], Any]) -> int:
    """Measures the bytes that a call adds at its peak, its results included. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _resident("VmRSS")
    result = call()
    peak = _resident("VmHWM")
    del result
    return peak - before


def measure_fidelity(
    peer: Peer, pictures: Tensor, quality: int, subsampling: str, device: str = "cpu"
) -> dict[str, Any]:
    """Measures a peer against Pillow: PSNR in dB (None if equal), share of equal samples, largest difference."""
    wanted = PEERS["Pillow codec"]
    reference = wanted.tensor(wanted.codec(quality, subsampling)(wanted.prepare(pictures))).double()
    with torch.no_grad():
        out = peer.tensor(peer.codec(quality, subsampling)(prepared(peer, pictures, device))).cpu().double()
    difference = (out - reference).abs()
    error = difference.square().mean().item()
    return {
        "peer": peer.name,
        "quality": quality,
        "psnr": None if error == 0 else 10 * math.log10(255**2 / error),
        "equal": (difference == 0).double().mean().item(),
        "largest": int(difference.max().item()),
    }


def run(
    peers: Sequence[str] | None = None,
    batches: Iterable[str] = BATCHES,
    *,
    device: str = "cpu",
    quality: int = 75,
    subsampling: str = "4:2:0",
    threads: Sequence[int] | None = None,
    rounds: int = 15,
    budget: float = 10.0,
    memory: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> Results:
    """Measures peers side by side.

    Args:
        peers: names of `PEERS`; all that are installed if None.
        batches: such as "8x224", see `size_of`.
        device: of the batches; on a GPU, the peers that run there.
        quality, subsampling: of every call.
        threads: numbers of torch threads; 1 and the number of cores if None.
        rounds: calls of each peer for each cell, in turns.
        budget: seconds after which a peer drops out of a cell, after at least three calls.
        memory: whether peak memory is measured too (Linux).
        progress: called with the name of each measurement.

    Raises:
        ValueError: if a name is unknown, or a number is not positive.

    Example::

        results = run(["fdjpeg uint8", "fdjpeg float32"], ["1x32"], rounds=3, threads=[1])
    """
    chosen = _chosen(peers)
    batches = [name for name in batches if size_of(name)]
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    threads = sorted({1, os.cpu_count() or 1}) if threads is None else list(threads)
    results = Results(_machine(device), quality, subsampling, device)
    results.missing = {peer.name: why for peer in chosen if (why := peer.missing(device))}
    present = [peer for peer in chosen if peer.name not in results.missing]
    before = torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            for batch in batches:
                for direction in (FORWARD, BACKWARD):
                    progress(f"{batch}, {direction}, {count} thread{'s' if count > 1 else ''}")
                    setting = (direction, count, quality, subsampling, rounds, budget, device)
                    results.measurements += _cell(present, batch, *setting)
    finally:
        torch.set_num_threads(before)
    if memory and (device != "cpu" or Path("/proc/self/clear_refs").exists()):
        results.measurements = [_with_memory(m, results, progress) for m in results.measurements]
    pictures = photographs(20, 256, 256)
    for peer in present:
        progress(f"fidelity of {peer.name}")
        for at in sorted({*_QUALITIES_OF_FIDELITY, quality}):
            results.fidelity.append(measure_fidelity(peer, pictures, at, subsampling, device))
    return results


def _chosen(names: Sequence[str] | None) -> list[Peer]:
    for name in names or ():
        if name not in PEERS:
            raise ValueError(f"peers must be among {', '.join(PEERS)}, got {name!r}")
    return [peer for peer in PEERS.values() if names is None or peer.name in names]


def _cell(
    peers: Sequence[Peer],
    batch: str,
    direction: str,
    threads: int,
    quality: int,
    subsampling: str,
    rounds: int,
    budget: float,
    device: str,
) -> list[Measurement]:
    pictures = photographs(*size_of(batch))
    calls: dict[str, Callable[[], Any]] = {}
    measured: list[Measurement] = []
    for peer in peers:
        if direction == BACKWARD and not peer.differentiable:
            continue
        try:
            batch_here = prepared(peer, pictures, device)
            calls[peer.name] = _call(peer, direction, batch_here, peer.codec(quality, subsampling))
        except ValueError as error:
            measured.append(Measurement(peer.name, batch, direction, threads, error=str(error)))
    for name, times in _time_in_turns(calls, rounds, budget).items():
        deciles = statistics.quantiles(times, n=5, method="inclusive") if len(times) > 1 else times * 4
        measured.append(
            Measurement(name, batch, direction, threads, len(times), statistics.median(times), deciles[0], deciles[-1])
        )
    return measured


def _with_memory(m: Measurement, results: Results, progress: Callable[[str], None]) -> Measurement:
    if m.threads != 1 or m.error is not None or size_of(m.batch)[1] < 64:
        return m
    progress(f"memory of {m.peer}, {m.batch}, {m.direction}")
    try:
        setting = (results.quality, results.subsampling, results.device)
        needed = peak_memory(m.peer, m.batch, m.direction, *setting)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return Measurement(**{**asdict(m), "error": f"memory: {error}"})
    return Measurement(**{**asdict(m), "memory": needed})


if __name__ == "__main__":
    print(_measure_memory_here(*json.loads(sys.argv[1])))
