"""The Triton kernels as compiled: they stay within ``triton_budget.json``.

That they give the right bits is shown by `test_conformance.py`, where they are interpreted, and on a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("triton")

from support import ahead_of_time
from torch.utils._python_dispatch import TorchDispatchMode

from fdjpeg._geometry import Geometry
from fdjpeg._triton import ops as triton_kernels

_HERE = Path(__file__).resolve().parent
_BUDGET = json.loads((_HERE / "triton_budget.json").read_text())


def test_refuses_more_than_a_kernel_counts() -> None:
    image = torch.zeros(1, 1, 1, 1).expand(1, 3, 2**17, 2**17)
    with pytest.raises(ValueError, match=r"image must have at most .* got 131072 × 131072"):
        triton_kernels.round_trip(image, None, 75.0, 1, 1, True)
    with pytest.raises(ValueError, match=r"image must have at most"):
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
#: Kernels that work on tables alone; one of them holds a loop.
_SMALL = ("prepare_steps", "add_shares")


@pytest.mark.parametrize("budget", _BUDGET["calls"], ids=lambda budget: f"{budget['dtype']} {budget['op']}")
def test_keeps_to_the_budget(budget: dict[str, Any]) -> None:
    """On the architecture of the targets: `benchmarks/expected.py` computes the time from it."""
    call = Call(getattr(torch, budget["dtype"]), _MEASURED)
    launches = [one for one in call.launches(_BUDGET["capability"], budget["op"]) if one.name not in _SMALL]
    assert [one.name for one in launches] == [kernel["name"] for kernel in budget["kernels"]]
    pixels = _MEASURED[0] * _MEASURED[2] * _MEASURED[3]
    for launch, kernel in zip(launches, budget["kernels"], strict=True):
        usage = ahead_of_time.usage(launch)
        assert usage.spilled == 0, launch.name
        assert usage.registers <= kernel["registers"], launch.name
        for counted, recorded in (
            (usage.cost.instructions, kernel["instructions_per_pixel"]),
            (usage.cost.turns, kernel["turns_per_pixel"]),
        ):
            per_pixel = counted * launch.threads / pixels
            # Much less would mean that the counter lost its way, or that the budget can be tightened.
            assert 0.9 * recorded - 0.05 <= per_pixel <= recorded + 0.05, launch.name


class _Operators(TorchDispatchMode):
    """The operators of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_forward_launches_its_kernels_and_no_more() -> None:
    """Of torch it takes memory and views alone, once the standard tables are there."""
    call = Call(torch.float32, (2, 3, 16, 16))
    call.launches(90, "forward")
    with _Operators() as operators:
        launches = call.launches(90, "forward")
    assert [one.name for one in launches] == ["prepare_steps", "make_components", "code_planes", "emit_image"]
    assert operators.called <= {"empty", "empty_like", "new_empty", "slice", "detach", "alias"}


def test_takes_at_most_twice_the_time_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the model of an H200 in ``benchmarks/expected.py``, where no GPU was at hand."""
    monkeypatch.syspath_prepend(_HERE.parents[1] / "benchmarks")
    import expected

    assert [task.name.removesuffix(", Triton") for task in expected.TRITON_TASKS] == [
        task.name for task in expected.TASKS[: len(expected.TRITON_TASKS)]
    ]
    for task, cuda in zip(expected.TRITON_TASKS, expected.TASKS, strict=False):
        assert task.microseconds <= 2 * cuda.microseconds, task


@pytest.mark.parametrize(
    ("capability", "call"),
    [
        (80, Call(torch.float16, (2, 3, 32, 48), (1, 1), tables=True)),
        (80, Call(torch.float32, (1, 3, 1, 1))),  # Triton makes constants of arguments that are 1.
        (100, Call(torch.float32, (2, 1, 21, 37))),
        (90, Call(torch.float64, (2, 3, 21, 37), tables=True)),
        (90, Call(torch.float32, (2, 3, 21, 37))),
        (80, Call(torch.float32, (2, 3, 21, 37), (1, 2))),
        (100, Call(torch.bfloat16, (2, 3, 21, 37), (2, 1))),
        (100, Call(torch.float32, (2, 3, 32, 64), (4, 1), fancy=False)),
    ],
    ids=str,
)
def test_compiles_without_spills(capability: int, call: Call) -> None:
    launches = call.launches(capability, "forward") + call.launches(capability, "backward with tables")
    assert {launch.name for launch in launches} == {*_KERNELS, "add_shares"}
    for launch in (one for one in launches if one.name != "add_shares"):
        assert ahead_of_time.usage(launch).spilled == 0, launch.name
        fused = "fma.rn.f32" in launch.compiled.asm["ptx"]
        assert not fused, f"{launch.name}: a fused multiplication and addition rounds once, not twice"


_KERNELS = ("prepare_steps", "make_components", "code_planes", "emit_image", "differentiate", "share_of_blocks")
