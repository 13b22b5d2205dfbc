"""Measures the CPU targets as ratios, from calls in turns: ``python benchmarks/ratios.py [OUT.json [PART …]]``.

- One thread, 1024², 4:2:0, quality 75: against Pillow behind tensors and its codec alone, OpenCV, simplejpeg, kornia.
- The same against ``x.clone()`` of the float32 image, where memory is reused and where it is fresh: five runs each.
- The whole ``fdjpeg.jpeg`` call on one uint8 image against fromarray + save + open + asarray, over qualities and sizes.
- Two threads against one.
- 512 images of 32² in one batch against a loop over Pillow.
- Surrogates, soft and table gradients against straight-through, and the memory that they need beyond it.

The parts are against_peers, against_clone, against_pillow_everywhere, batches, gradients and gradient_memory; by
default all run.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fdjpeg
from fdjpeg._machine import describe_machine
from fdjpeg.bench.measure import bytes_at_peak, photographs, run_python
from fdjpeg.bench.peers import PEERS

QUALITIES = (10, 25, 50, 75, 90, 95)
SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
SURROGATES = ("cubic", "sine", "fourier", "tanh", "softmax")


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = 15) -> dict[str, float]:
    """Returns how many times longer ``theirs`` takes: the ratio of medians of calls in turns, and quintiles of pairs.

    ``cpu_ratio`` is the same by the calling thread's CPU time, which other work on the machine affects less.
    """
    ours(), theirs()
    pairs, cpu_pairs = [], []
    for _ in range(rounds):
        times, cpu_times = [], []
        for call in (ours, theirs):
            start, cpu_start = time.perf_counter(), time.thread_time()
            call()
            times.append(time.perf_counter() - start)
            cpu_times.append(time.thread_time() - cpu_start)
        pairs.append(times)
        cpu_pairs.append(cpu_times)
    mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    cpu_mine, cpu_other = (statistics.median(column) for column in zip(*cpu_pairs, strict=True))
    low, *_, high = statistics.quantiles([b / a for a, b in pairs], n=5)
    times_longer = {"ratio": other / mine, "low": low, "high": high, "cpu_ratio": cpu_other / cpu_mine}
    return {"ours_ms": mine * 1e3, "theirs_ms": other * 1e3, **times_longer}


def gradient_of(image: Tensor, function: Callable[[Tensor], Tensor]) -> Callable[[], Any]:
    """Returns a call of ``function`` with its backward."""
    leaf = image.detach().requires_grad_()
    grad = torch.rand_like(leaf)
    return lambda: torch.autograd.grad(function(leaf), leaf, grad)


def against_peers() -> dict[str, dict[str, float]]:
    """Compares with the peers: one thread, one photograph of 1024²."""
    pixels = photographs(1, 1024, 1024)
    found = {}
    for ours, theirs in (
        ("fdjpeg float32", "Pillow tensors"),
        ("fdjpeg uint8", "Pillow codec"),
        ("fdjpeg uint8", "OpenCV"),
        ("fdjpeg uint8", "simplejpeg"),
        ("fdjpeg float32", "kornia"),
    ):
        if (why := PEERS[theirs].missing()) is not None:
            print(f"{theirs}: {why}")
            continue
        calls = []
        for name in (ours, theirs):
            peer = PEERS[name]
            codec, batch = peer.codec(75, "4:2:0"), peer.prepare(pixels)
            calls.append(lambda codec=codec, batch=batch: codec(batch))
        found[f"{ours} forward / {theirs}"] = ratio(*calls, rounds=31)
        if PEERS[theirs].differentiable:
            backward = [gradient_of(PEERS[n].prepare(pixels), PEERS[n].codec(75, "4:2:0")) for n in (ours, theirs)]
            found[f"{ours} forward+backward / {theirs}"] = ratio(*backward, rounds=15)
    return found


#: What glibc is told, so that it keeps freed memory for the next call, or returns it to the system at once.
REGIMES = {
    "reused": {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)},
    "fresh": {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
}


def against_clone(runs: int = 5) -> dict[str, dict[str, float]]:
    """Compares with ``clone()`` of one photograph of 1024² as float32, in each regime of memory.

    The figures of a row are medians over runs, each a process of its own.
    """
    found = {}
    for regime, settings in REGIMES.items():
        command = [sys.executable, __file__, "", "against_clone_here"]
        results = [
            json.loads(subprocess.run(command, env=os.environ | settings, capture_output=True, check=True).stdout)
            for _ in range(runs)
        ]
        for name in results[0]:
            columns = results[0][name]
            found[f"{name} / clone, memory {regime}"] = {
                column: statistics.median(result[name][column] for result in results) for column in columns
            }
    return found


def against_clone_here() -> dict[str, dict[str, float]]:
    """Compares in this process: how many times the clone's time each call takes."""
    pixels = photographs(1, 1024, 1024)
    image = pixels.float() / 255
    codec = partial(fdjpeg.jpeg, quality=75)
    calls = {
        "float32 forward": lambda: codec(image),
        "float32 forward+backward": gradient_of(image, codec),
        "uint8 forward": lambda: codec(pixels),
    }
    found = {}
    for name, call in calls.items():
        row = ratio(image.clone, call, rounds=101)
        found[name] = {"ours_ms": row["theirs_ms"], "clone_ms": row["ours_ms"], "times the clone": row["ratio"]}
        found[name] |= {"low": row["low"], "high": row["high"], "by CPU time": row["cpu_ratio"]}
    return found


def against_pillow_everywhere() -> dict[str, dict[str, float]]:
    """Compares the whole call on one uint8 image with Pillow's, over qualities and sizes."""
    found = {}
    pillow, mine = PEERS["Pillow codec"], PEERS["fdjpeg uint8"]
    for size in SIZES:
        pixels = photographs(1, size, size)
        for quality in QUALITIES:
            ours, theirs = mine.codec(quality, "4:2:0"), pillow.codec(quality, "4:2:0")
            arrays = pillow.prepare(pixels)
            found[f"{size}², quality {quality}"] = ratio(
                lambda ours=ours, pixels=pixels: ours(pixels),
                lambda theirs=theirs, arrays=arrays: theirs(arrays),
                rounds=5 if size > 1024 else 15,
            )
    return found


def two_threads(image: Tensor, rounds: int = 9, calls: int = 15) -> dict[str, float]:
    """Compares two threads with one: medians of ``calls`` in turns, after as many that warm up."""
    times: dict[int, list[float]] = {2: [], 1: []}
    for _ in range(rounds):
        for count, found in times.items():
            torch.set_num_threads(count)
            for _ in range(calls):
                fdjpeg.jpeg(image, 75)
            taken = []
            for _ in range(calls):
                start = time.perf_counter()
                fdjpeg.jpeg(image, 75)
                taken.append(time.perf_counter() - start)
            found.append(statistics.median(taken))
    torch.set_num_threads(1)
    low, *_, high = statistics.quantiles([one / two for two, one in zip(times[2], times[1], strict=True)], n=5)
    two, one = statistics.median(times[2]), statistics.median(times[1])
    return {"ours_ms": two * 1e3, "theirs_ms": one * 1e3, "ratio": one / two, "low": low, "high": high}


def batches() -> dict[str, dict[str, float]]:
    """Compares two threads with one, and a batch of small images with a loop over Pillow."""
    photograph = photographs(1, 1024, 1024)
    found = {
        "two threads / one, 1024² float32": two_threads(photograph.float() / 255),
        "two threads / one, 1024² uint8": two_threads(photograph),
    }
    small = photographs(512, 32, 32)
    codec, pillow = PEERS["fdjpeg uint8"].codec(75, "4:2:0"), PEERS["Pillow codec"].codec(75, "4:2:0")
    arrays = PEERS["Pillow codec"].prepare(small)
    found["512 images of 32² in a batch / a loop over Pillow"] = ratio(lambda: codec(small), lambda: pillow(arrays))
    return found


#: Batches for gradients: images, rows and columns.
GRADIENT_BATCHES = {"1024²": (1, 1024, 1024), "8 of 224²": (8, 224, 224)}


def gradient_paths() -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns every gradient that kernels compute, other than straight-through's by the image."""
    tables = fdjpeg.QuantTables.standard(torch.tensor(75.0, requires_grad=True))
    paths = {name: partial(fdjpeg.jpeg, quality=75, gradient=name) for name in SURROGATES}
    for name in SURROGATES:
        paths[f"soft {name}"] = partial(fdjpeg.jpeg, quality=75, gradient=name, arithmetic="real", soft=True)
    paths["real numbers, rounded"] = partial(fdjpeg.jpeg, quality=75, arithmetic="real")
    paths["straight-through, tables too"] = partial(fdjpeg.jpeg, tables=tables)
    return paths


def gradients() -> dict[str, dict[str, float]]:
    """Measures other gradients as a multiple of straight-through's forward+backward, one thread, float32."""
    found = {}
    for batch, size in GRADIENT_BATCHES.items():
        image = photographs(*size).float() / 255
        plain = gradient_of(image, partial(fdjpeg.jpeg, quality=75))
        for name, path in gradient_paths().items():
            found[f"{batch}, {name}"] = ratio(plain, gradient_of(image, path), rounds=15)
    return found


def gradient_memory() -> dict[str, dict[str, float]]:
    """Measures their peak memory of forward+backward beyond straight-through's, as a multiple of the input."""
    return json.loads(run_python(__file__, "", "gradient_memory_here"))


def gradient_memory_here() -> dict[str, dict[str, float]]:
    """Measures the same in this process, which must return freed memory to the system at once."""
    found = {}
    for batch, size in GRADIENT_BATCHES.items():
        image = photographs(*size).float() / 255
        paths = {"straight-through": partial(fdjpeg.jpeg, quality=75), **gradient_paths()}
        calls = {name: gradient_of(image, path) for name, path in paths.items()}
        peaks = {}
        for name, call in calls.items():
            call()
            peaks[name] = bytes_at_peak(call)
        for name, peak in peaks.items():
            beyond = (peak - peaks["straight-through"]) / image.nbytes
            found[f"{batch}, {name}"] = {"bytes": peak, "beyond straight-through, of the input": beyond}
    return found


PARTS = (against_peers, against_clone, against_pillow_everywhere, batches, gradients, gradient_memory)


def main() -> None:
    """Measures, prints, and saves if a file is named."""
    torch.set_num_threads(1)
    file, *names = sys.argv[1:] or [""]
    for measure in (against_clone_here, gradient_memory_here):
        if names == [measure.__name__]:
            print(json.dumps(measure()))
            return
    results: dict[str, Any] = {"machine": describe_machine()}
    for part in PARTS:
        if names and part.__name__ not in names:
            continue
        results[part.__name__] = part()
        for name, row in results[part.__name__].items():
            print(f"{name:55s} " + ("  ".join(f"{key} {value:.2f}" for key, value in row.items())), flush=True)
    if file:
        Path(file).write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
