"""Estimates the kernels' times on an H200 from their bytes and their compiled instructions.

    expected µs = max(bytes / 4.3 TB/s, instructions × pixels / issue rate, turns × pixels / turn rate) / 0.85

A copy reaches 4.3 TB/s on that GPU. The issue rate is four warps a cycle on each of 132 multiprocessors at 1.98 GHz. A
turn is one cycle of shared memory and the L1 cache, which serve a warp with a word of 32 bits a thread. A good kernel
reaches 0.85 of its bound. The maximum is taken for each kernel of an op separately.

A surrogate's kernel gathers from a table in shared memory, three words for each coefficient. If the coefficients are
spread evenly between their levels, the fullest of the 32 banks holds 3.5 of a warp's words on average, and the gather
takes as many turns. Equal coefficients share a word. At worst all 32 words differ and are in one bank; that time is
printed too.

    python benchmarks/expected.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

COPY_RATE = 4.3e12
TURN_RATE = 132 * 32 * 1.98e9
ISSUE_RATE = 4 * TURN_RATE
EFFICIENCY = 0.85
PIXELS = 256 * 224 * 224

_TESTS = Path(__file__).resolve().parent.parent / "tests" / "kernels"
_BUDGET = json.loads((_TESTS / "cuda_budget.json").read_text())
_TRITON_BUDGET = json.loads((_TESTS / "triton_budget.json").read_text())


def _triton_kernels() -> dict[str, dict[str, Any]]:
    """Returns the budgets for this GPU; of an op that launches a kernel again, the second is called "… again"."""
    kernels: dict[str, dict[str, Any]] = {}
    for call in _TRITON_BUDGET["calls"]:
        for kernel in call["kernels"] if call["target"] == "sm_90" else ():
            name = f"{call['dtype']} {call['op']}: {kernel['name']}"
            kernels[f"{name} again" if name in kernels else name] = kernel
    return kernels


_KERNELS = {kernel["name"]: kernel for kernel in _BUDGET["kernels"]} | _triton_kernels()

#: Bytes of 4:2:0 planes for each pixel. They take 19 of the L2 cache's 50 MB, and are read from it right after they are
#: written. Real planes are four times as large, so at most 25 MB of them are made at a time.
PLANES, REAL_PLANES = 1.5, 6

#: Bytes for each pixel that mark where the clamp of real numbers was active.
MASK = 1

#: Gathers for each pixel of a surrogate's kernel: three for each of its 1.5 coefficients.
GATHERS = 4.5
TURNS_OF_A_GATHER, TURNS_AT_WORST = 3.5, 32


class Launch(NamedTuple):
    """A kernel, and the bytes that it moves to or from the GPU's memory for each pixel.

    A kernel for pixels works on three samples at once (``samples=1``); one for single samples runs three times a pixel.
    """

    kernel: str
    bytes: float
    samples: int = 1
    gathers: float = 0  # for each pixel

    @property
    def instructions(self) -> float:
        """Returns the instructions for each pixel."""
        return self.samples * float(_KERNELS[self.kernel]["instructions_per_pixel"])

    def turns(self, turns_of_a_gather: float = TURNS_OF_A_GATHER) -> float:
        """Returns the turns of shared memory and the L1 cache for each pixel."""
        turns = self.samples * float(_KERNELS[self.kernel]["turns_per_pixel"])
        return turns + self.gathers * (turns_of_a_gather - 1)

    def seconds(self, turns_of_a_gather: float = TURNS_OF_A_GATHER) -> float:
        """Returns the time by the model above."""
        turns = self.turns(turns_of_a_gather)
        rates = (self.bytes / COPY_RATE, self.instructions / ISSUE_RATE, turns / TURN_RATE)
        return max(rates) * PIXELS / EFFICIENCY


def _at_80_percent(bytes_per_pixel: float) -> float:
    """Returns the microseconds of so many bytes at 80 % of the copy rate."""
    return bytes_per_pixel * PIXELS / COPY_RATE / 0.8 * 1e6


class Task(NamedTuple):
    """A measurement on 256×3×224×224 at 4:2:0, and its target in microseconds."""

    name: str
    launches: tuple[Launch, ...]
    target: float  # of CUDA's kernels; for Triton's, twice the time expected of CUDA's

    @property
    def microseconds(self) -> float:
        """Returns the expected time."""
        return sum(launch.seconds() for launch in self.launches) * 1e6

    @property
    def microseconds_at_worst(self) -> float:
        """Returns the expected time if all words that a warp gathers are in one bank."""
        return sum(launch.seconds(TURNS_AT_WORST) for launch in self.launches) * 1e6


def _forward(dtype: str, size: int) -> tuple[Launch, Launch]:
    return (
        Launch(f"code_blocks<Layout<2, 2, false>, SampleType::{dtype}, Make::planes>", 3 * size + PLANES),
        Launch(f"emit_image<Upsampling<2, 2, true, false>, SampleType::{dtype}>", 3 * size),
    )


_REAL_FORWARD = (
    Launch("real_code_blocks<Layout<2, 2, false>, SampleType::float32>", 12 + REAL_PLANES),
    Launch("real_emit_pixels<Upsampling<2, 2, true, false>, SampleType::float32>", 12 + MASK),
)
_REAL_SAMPLES = "real_differentiate_samples<Upsampling<2, 2, true, false>, SampleType::float32>"
_REAL_BLOCKS = "real_differentiate<Layout<2, 2, false>, Upsampling<2, 2, true, false>, SampleType::float32>"
_DIFFERENTIATE = "differentiate<Upsampling<2, 2, true, false>, SampleType::float32>"
_THROUGH_BLOCKS = "differentiate_blocks<Layout<2, 2, false>, Upsampling<2, 2, true, false>, SampleType::float32"
_OF_TABLES, _BY_SURROGATE = f"{_THROUGH_BLOCKS}, false>", f"{_THROUGH_BLOCKS}, true>"

TASKS = (
    Task("float32 forward", _forward("float32", 4), 90),
    Task("float16 forward", _forward("float16", 2), 65),
    Task("uint8 forward", _forward("uint8", 1), 60),
    Task("float32 forward and backward", (*_forward("float32", 4), Launch(_DIFFERENTIATE, 24 + PLANES)), 190),
    Task(
        "float32 forward and backward with tables",
        (*_forward("float32", 4), Launch(_OF_TABLES, 36 + PLANES)),
        275,
    ),
    # The same for every surrogate, because the kernel reads a table.
    Task(
        "float32 forward and backward, cubic",
        (*_forward("float32", 4), Launch(_BY_SURROGATE, 36 + PLANES, gathers=GATHERS)),
        275,
    ),
    # At least 80 % of the copy rate, like the forward pass.
    Task("float32 DCT of blocks", (Launch("dct_blocks<SampleType::float32>", 24, 3),), 90),
    Task("float32 inverse DCT of blocks", (Launch("idct_blocks<SampleType::float32>", 24, 3),), 90),
    Task("float16 DCT of blocks", (Launch("dct_blocks<SampleType::float16>", 12, 3),), 45),
    # The same for the bytes of real numbers; with tables, the target of the exact op.
    Task("float32 forward, real", _REAL_FORWARD, _at_80_percent(31)),
    Task("float32 forward and backward, real", (*_REAL_FORWARD, Launch(_REAL_SAMPLES, 24 + MASK)), _at_80_percent(56)),
    Task("float32 forward and backward with tables, real", (*_REAL_FORWARD, Launch(_REAL_BLOCKS, 36 + MASK)), 275),
)


def _triton_forward(dtype: str, size: int) -> tuple[Launch, ...]:
    return (
        Launch(f"{dtype} forward: make_components", 3 * size + PLANES),
        Launch(f"{dtype} forward: code_planes", PLANES),
        Launch(f"{dtype} forward: emit_image", 3 * size),
    )


#: Bytes for each pixel of the components' gradients, 32 bits a sample, which no cache holds.
_GRADIENTS = 4 * PLANES

_TRITON_OF_TABLES = (
    # The gradients are written, and read by the last kernel.
    Launch("float32 backward with tables: differentiate", 24 + PLANES + _GRADIENTS),
    Launch("float32 backward with tables: make_components", 12 + PLANES),
    Launch("float32 backward with tables: differentiate_blocks", PLANES + _GRADIENTS),
)
_TRITON_BY_SURROGATE = (
    Launch("float32 surrogate backward: differentiate", 12 + PLANES + _GRADIENTS),
    Launch("float32 surrogate backward: make_components", 12 + PLANES),
    # Two gathers for each of the 1.5 coefficients of a pixel.
    Launch("float32 surrogate backward: differentiate_blocks", PLANES + 2 * _GRADIENTS, gathers=3),
    Launch("float32 surrogate backward: emit_gradient", 12 + _GRADIENTS),
)
_TRITON_REAL_FORWARD = (
    Launch("float32 real forward: make_components", 12 + REAL_PLANES),
    Launch("float32 real forward: code_real_planes", 2 * REAL_PLANES),
    Launch("float32 real forward: emit_image", 12 + MASK + REAL_PLANES),
)
_TRITON_REAL_OF_TABLES = (
    Launch("float32 real backward with tables: differentiate", 12 + MASK + _GRADIENTS),
    Launch("float32 real backward with tables: make_components", 12 + REAL_PLANES),
    Launch("float32 real backward with tables: differentiate_real_blocks", REAL_PLANES + _GRADIENTS),
    Launch("float32 real backward with tables: differentiate_real_blocks again", REAL_PLANES + 2 * _GRADIENTS),
    Launch("float32 real backward with tables: emit_gradient", 12 + _GRADIENTS),
)

#: The same tasks by Triton take at most this multiple of CUDA's time.
TRITON_FACTOR = 2
_TRITON_LAUNCHES = (
    _triton_forward("float32", 4),
    _triton_forward("float16", 2),
    _triton_forward("uint8", 1),
    (*_triton_forward("float32", 4), Launch("float32 backward: differentiate", 24 + PLANES)),
    (*_triton_forward("float32", 4), *_TRITON_OF_TABLES),
    (*_triton_forward("float32", 4), *_TRITON_BY_SURROGATE),
    (Launch("float32 DCT of blocks: transform_blocks", 24),),
    (Launch("float32 inverse DCT of blocks: transform_blocks", 24),),
    (Launch("float16 DCT of blocks: transform_blocks", 12),),
    _TRITON_REAL_FORWARD,
    (*_TRITON_REAL_FORWARD, Launch("float32 real backward: differentiate", 24 + MASK)),
    (*_TRITON_REAL_FORWARD, *_TRITON_REAL_OF_TABLES),
)
TRITON_TASKS = tuple(
    Task(f"{task.name}, Triton", launches, TRITON_FACTOR * task.microseconds)
    for task, launches in zip(TASKS, _TRITON_LAUNCHES, strict=False)
)

if __name__ == "__main__":
    for task in (*TASKS, *TRITON_TASKS):
        at_worst = f" ({task.microseconds_at_worst:.1f} at worst)" if any(one.gathers for one in task.launches) else ""
        print(f"{task.name:48s} expected {task.microseconds:6.1f} µs{at_worst}, target {task.target:.4g}")
