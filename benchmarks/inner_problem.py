"""Cost of one step of Flip without the network: ``python benchmarks/inner_problem.py OUT.json``.

Behind JPEG at quality 75, for the first photograph of foolbox at several sizes: CPU milliseconds of one thread for an
image (medians of `REPEATS`), next to those of the gradient of EfficientNet-Lite0 at its own size, and the peak of the
resident memory above that before the step. Each peak is measured in a process of its own. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fdjpeg
from fdjpeg._machine import describe_machine
from fdjpeg.attacks.choice import best_of_each_unit
from fdjpeg.attacks.codec import codecs_of
from fdjpeg.attacks.reachable import Box
from fdjpeg.sources import load_images, load_network

SIZES = (224, 1024)
REPEATS = 15
EPS = 1 / 255


def photograph(size: int) -> Tensor:
    """The first photograph, resized."""
    return F.interpolate(load_images("photographs", count=1).images, (size, size), mode="bilinear", antialias=True)


def step(x: Tensor) -> Callable[[], Tensor]:
    """The inner problem of one step, with a random gradient."""
    codecs = codecs_of(fdjpeg.JPEG(75), x, torch.arange(len(x)), 0, "cost")
    box = Box.of(x, EPS, rounds=True, whole_bytes=False)
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return lambda: best_of_each_unit(box, [[codecs]], [gradient], box.origin, box.origin)


def milliseconds(call: Callable[[], object]) -> float:
    """The median CPU time of a call, after one that is not counted."""
    call()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        times.append(1000 * (time.process_time() - start))
    return round(sorted(times)[REPEATS // 2], 1)


def peak(call: Callable[[], object]) -> int:
    """The peak of the resident memory during a call above that before it, in bytes."""

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))

    ctypes.CDLL("libc.so.6").malloc_trim(0)  # pages that the process has free already would hide a part
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    call()
    return status("VmHWM") - before


def main() -> None:
    """Measures, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--peak", type=int, help="Only print the peak for one size.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        step(photograph(16))()  # what is made once
        call = step(photograph(options.peak))
        print(peak(call))
        return
    network = load_network("efficientnet-lite0")
    x = photograph(network.size or SIZES[0])

    def gradient() -> Tensor:
        image = x.clone().requires_grad_()
        return torch.autograd.grad(network.module(image).logsumexp(dim=1).sum(), image)[0]

    found: dict[str, Any] = {"network's gradient, ms": milliseconds(gradient), "sizes": {}}
    for size in SIZES:
        command = [sys.executable, __file__, str(options.out), "--peak", str(size)]
        memory = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        bytes_of_image = 4 * 3 * size**2
        found["sizes"][size] = {
            "inner problem, ms": milliseconds(step(photograph(size))),
            "peak, bytes": memory,
            "peak, images": round(memory / bytes_of_image, 1),
        }
    options.out.write_text(json.dumps(found | describe_machine(), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
