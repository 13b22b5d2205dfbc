"""The Triton kernels, interpreted, give the bits of the reference; what they are compiled to keeps to a budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("triton")

import ahead_of_time

from fdjpeg import triton_kernels
from fdjpeg._geometry import Geometry

_HERE = Path(__file__).resolve().parent
_BUDGET = json.loads((_HERE / "triton_budget.json").read_text())

# The interpreter must be chosen before the kernels are defined, and so in a process of its own.
_INTERPRETED = """
import itertools, json, math, sys
import torch
from fdjpeg import reference, triton_kernels

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(7)
horizontal, vertical = json.loads(sys.argv[1])
tolerances = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 2e-5, torch.float64: 1e-12}
dtypes = itertools.cycle([torch.float32, torch.uint8, torch.bfloat16, torch.float64, torch.float16])
checked = 0
for fancy, channels, (height, width) in itertools.product((True, False), (3, 1), ((21, 37), (1, 5), (16, 4))):
    for dtype in (torch.float32, next(dtypes)):
        image = torch.rand(2, channels, height, width, generator=generator)
        image = (image * 255).to(dtype) if dtype == torch.uint8 else image.to(dtype)
        if dtype != torch.uint8:
            image[0, 0, 0, width // 2] = math.nan
        if checked % 3 == 0:
            image = image.to(memory_format=torch.channels_last)
        tables = None if checked % 2 else torch.rand(2, 3, 8, 8, generator=generator) * 40
        options = (tables, 60.0, horizontal, vertical, fancy)
        out, planes = triton_kernels.round_trip(image, *options)
        expected, expected_planes = reference.round_trip(image, *options)
        assert torch.equal(out, expected) and out.stride() == expected.stride(), (fancy, image.shape, dtype)
        assert torch.equal(planes, expected_planes), (fancy, image.shape, dtype)
        checked += 1
        if dtype == torch.uint8:
            continue
        grad = torch.randn(image.shape, generator=generator).to(dtype)
        arguments = (grad, planes, image, *options, checked % 4 < 2)
        actual, of_tables = triton_kernels.round_trip_backward(*arguments)
        expected, expected_of_tables = reference.round_trip_backward(*arguments)
        difference = (actual.double() - expected.double()).abs().max() / expected.double().abs().max()
        assert difference <= tolerances[dtype], (fancy, image.shape, dtype, difference)
        assert of_tables.shape == expected_of_tables.shape
        if of_tables.numel():
            difference = (of_tables - expected_of_tables).abs().max() / expected_of_tables.abs().max()
            assert difference <= 1e-4, (fancy, image.shape, dtype, difference)
print(checked)
"""


@pytest.mark.parametrize("factors", [(1, 1), (2, 1), (2, 2), (1, 2), (4, 1)], ids=str)
def test_interpreted(factors: tuple[int, int]) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _INTERPRETED, json.dumps(factors)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 24


def test_refuses_more_than_a_kernel_counts() -> None:
    image = torch.zeros(1, 1, 1, 1).expand(1, 3, 2**17, 2**17)
    with pytest.raises(ValueError, match=r"image should have up to .* got 131072 × 131072"):
        triton_kernels.round_trip(image, None, 75.0, 1, 1, True)
    with pytest.raises(ValueError, match="image should have up to"):
        triton_kernels.round_trip_backward(image, image, image, None, 75.0, 1, 1, True, False)


# ---------------------------------------------------------------------------------------------------------------------
# Compiled ahead of time


class Call(NamedTuple):
    """A call of the ops, whose launches are compiled for a GPU that is not there."""

    dtype: torch.dtype
    shape: tuple[int, int, int, int]
    factors: tuple[int, int] = (2, 2)
    fancy: bool = True
    tables: bool = False

    def launches(self, capability: int, op: str) -> list[ahead_of_time.Launch]:
        """Of "forward", "backward" or "backward with tables"."""
        image = torch.empty(self.shape, dtype=self.dtype)  # of memory that nothing touches
        tables = torch.ones(self.shape[0], 3, 8, 8) if self.tables else None
        options = (tables, 75.0, *self.factors, self.fancy)
        if op == "forward":
            return ahead_of_time.launches(capability, lambda: triton_kernels.round_trip(image, *options))
        planes = torch.empty(
            self.shape[0], Geometry.of(*self.shape[2:], self.shape[1], *self.factors).plane_bytes, dtype=torch.uint8
        )
        arguments = (image, planes, image, *options, op == "backward with tables")
        return ahead_of_time.launches(capability, lambda: triton_kernels.round_trip_backward(*arguments))


_MEASURED = (256, 3, 224, 224)


@pytest.mark.parametrize("budget", _BUDGET["calls"], ids=lambda budget: f"{budget['dtype']} {budget['op']}")
def test_keeps_to_the_budget(budget: dict[str, Any]) -> None:
    """On the architecture of the targets: `benchmarks/expected.py` says how much time that is."""
    call = Call(getattr(torch, budget["dtype"]), _MEASURED)
    launches = [one for one in call.launches(_BUDGET["capability"], budget["op"]) if one.name != "prepare_steps"]
    assert [one.name for one in launches] == [kernel["name"] for kernel in budget["kernels"]]
    pixels = _MEASURED[0] * _MEASURED[2] * _MEASURED[3]
    for launch, kernel in zip(launches, budget["kernels"], strict=True):
        cost = ahead_of_time.cost(launch)
        assert cost.spilled == 0, launch.name
        assert cost.registers <= kernel["registers"], launch.name
        per_pixel = cost.instructions * launch.threads / pixels
        # Much less would mean that the counter lost its way, or that the budget can be tightened.
        assert 0.9 * kernel["instructions_per_pixel"] <= per_pixel <= kernel["instructions_per_pixel"] + 0.05, (
            launch.name
        )


@pytest.mark.parametrize(
    ("capability", "call"),
    [
        (80, Call(torch.float16, (2, 3, 32, 48), (1, 1), tables=True)),
        (80, Call(torch.float32, (1, 3, 1, 1))),  # Triton makes constants of arguments that are 1.
        (80, Call(torch.float32, (2, 1, 21, 37))),
        (90, Call(torch.float64, (2, 3, 21, 37), tables=True)),
        (90, Call(torch.float32, (2, 3, 21, 37), (1, 2))),
        (100, Call(torch.bfloat16, (2, 3, 21, 37), (2, 1))),
        (100, Call(torch.float32, (2, 3, 32, 64), (4, 1), fancy=False)),
    ],
    ids=str,
)
def test_compiles_without_spills(capability: int, call: Call) -> None:
    launches = call.launches(capability, "forward") + call.launches(capability, "backward with tables")
    assert {launch.name for launch in launches} == set(_KERNELS)
    for launch in launches:
        assert ahead_of_time.cost(launch).spilled == 0, launch.name
        fused = "fma.rn.f32" in launch.compiled.asm["ptx"]
        assert not fused, f"{launch.name}: a fused multiplication and addition rounds once, not twice"


_KERNELS = ("prepare_steps", "make_components", "code_planes", "emit_image", "differentiate", "share_of_blocks")
