"""What the kernels should take on an H200, from their bytes and their compiled instructions.

    expected µs = max(bytes / 4.3 TB/s, instructions × pixels / issue rate) / 0.85

4.3 TB/s is what a copy reaches on that GPU. The issue rate is that of four warps a cycle on each of 132 multiprocessors
at 1.98 GHz. 0.85 stands for what keeps a good kernel from its bound. Each kernel of an op has a maximum of its own.

    python benchmarks/expected.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

COPY_RATE = 4.3e12
ISSUE_RATE = 132 * 4 * 32 * 1.98e9
EFFICIENCY = 0.85
PIXELS = 256 * 224 * 224

_BUDGET = json.loads((Path(__file__).resolve().parent.parent / "tests" / "cuda_budget.json").read_text())
_INSTRUCTIONS = {kernel["name"]: kernel["instructions_per_pixel"] for kernel in _BUDGET["kernels"]}

#: Bytes of 4:2:0 planes for each pixel. They are read from the L2 cache right after they were written: 19 MB of 50.
PLANES = 1.5


class Launch(NamedTuple):
    """A kernel, and the bytes that it moves to or from the GPU's memory for each pixel.

    One for pixels works on three samples at once; of what works on single samples, three are a pixel.
    """

    kernel: str
    bytes: float
    samples: int = 1

    @property
    def seconds(self) -> float:
        """By the model above."""
        issue = _INSTRUCTIONS[self.kernel] * self.samples * PIXELS / ISSUE_RATE
        return max(self.bytes * PIXELS / COPY_RATE, issue) / EFFICIENCY


class Task(NamedTuple):
    """What is to be measured, on 256×3×224×224 at 4:2:0, and the target in microseconds."""

    name: str
    launches: tuple[Launch, ...]
    target: float

    @property
    def microseconds(self) -> float:
        """Expected."""
        return sum(launch.seconds for launch in self.launches) * 1e6


def _forward(dtype: str, size: int) -> tuple[Launch, Launch]:
    return (
        Launch(f"code_blocks<Layout<2, 2, false>, SampleType::{dtype}, Make::planes>", 3 * size + PLANES),
        Launch(f"emit_image<Upsampling<2, 2, true, false>, SampleType::{dtype}>", 3 * size),
    )


_DIFFERENTIATE = "differentiate<Upsampling<2, 2, true, false>, SampleType::float32>"
_DIFFERENTIATE_BLOCKS = "differentiate_blocks<Layout<2, 2, false>, Upsampling<2, 2, true, false>, SampleType::float32, false>"

TASKS = (
    Task("float32 forward", _forward("float32", 4), 90),
    Task("float16 forward", _forward("float16", 2), 85),
    Task("uint8 forward", _forward("uint8", 1), 80),
    Task("float32 forward and backward", (*_forward("float32", 4), Launch(_DIFFERENTIATE, 24 + PLANES)), 190),
    Task(
        "float32 forward and backward with tables",
        (*_forward("float32", 4), Launch(_DIFFERENTIATE_BLOCKS, 36 + PLANES)),
        275,
    ),
    # At least 80 % of the copy rate, as the forward.
    Task("float32 DCT of blocks", (Launch("dct_blocks<SampleType::float32>", 24, 3),), 90),
    Task("float32 inverse DCT of blocks", (Launch("idct_blocks<SampleType::float32>", 24, 3),), 90),
    Task("float16 DCT of blocks", (Launch("dct_blocks<SampleType::float16>", 12, 3),), 45),
)

if __name__ == "__main__":
    for task in TASKS:
        print(f"{task.name:42s} expected {task.microseconds:6.1f} µs, target {task.target:g}")
