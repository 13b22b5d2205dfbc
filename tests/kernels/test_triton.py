"""The Triton kernels of every op as compiled for NVIDIA's and AMD's GPUs: they stay within ``triton_budget.json``.

That they give the right bits is shown by `test_conformance.py`, where they are interpreted, and on a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton_usage
from support import ahead_of_time
from support.triton_calls import SMALL, Call
from torch.utils._python_dispatch import TorchDispatchMode

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


def _id(budget: dict[str, Any]) -> str:
    return f"{budget['target']} {budget['dtype']} {budget['op']}"


#: One of each vendor, which compile in a few seconds. `python tests/triton_usage.py` measures all.
_QUICK = ("sm_90 uint8 forward", "gfx942 float32 DCT of blocks")


@pytest.mark.parametrize(
    "budget",
    [pytest.param(one, marks=() if _id(one) in _QUICK else pytest.mark.slow, id=_id(one)) for one in _BUDGET["calls"]],
)
def test_keeps_to_the_budget(budget: dict[str, Any]) -> None:
    """`benchmarks/expected.py` computes the time from the one of the targets' GPU, an H200: sm_90."""
    found = triton_usage.measured(budget["target"], budget["op"], budget["dtype"])
    assert [one["name"] for one in found["kernels"]] == [one["name"] for one in budget["kernels"]]
    for kernel, recorded in zip(found["kernels"], budget["kernels"], strict=True):
        assert kernel["spilled"] == 0, kernel
        assert kernel["registers"] <= recorded["registers"] + 2, kernel
        for number in ("instructions_per_pixel", "turns_per_pixel"):
            if number in recorded:
                # Much less would mean that the counter lost its way, or that the budget can be tightened.
                assert 0.9 * recorded[number] - 0.05 <= kernel[number] <= recorded[number] + 0.05, kernel


def test_every_op_has_a_budget_on_every_gpu() -> None:
    recorded = {(one["target"], one["op"], one["dtype"]) for one in _BUDGET["calls"]}
    assert recorded == {
        (target, op, dtype) for target in ahead_of_time.TARGETS for op, dtype in triton_usage.calls(target)
    }


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
    ahead_of_time.names(call.of("forward"))
    with _Operators() as operators:
        launched = ahead_of_time.names(call.of("forward"))
    assert launched == ["prepare_steps", "make_components", "code_planes", "emit_image"]
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "call"),
    [
        ("sm_80", Call(torch.float16, (2, 3, 32, 48), (1, 1), tables=True)),
        ("sm_80", Call(torch.float32, (1, 3, 1, 1))),  # Triton makes constants of arguments that are 1.
        ("sm_100", Call(torch.float32, (2, 1, 21, 37))),
        ("sm_90", Call(torch.float64, (2, 3, 21, 37), tables=True)),
        ("sm_90", Call(torch.float32, (2, 3, 21, 37))),
        ("sm_80", Call(torch.float32, (2, 3, 21, 37), (1, 2))),
        ("sm_100", Call(torch.bfloat16, (2, 3, 21, 37), (2, 1))),
        ("sm_100", Call(torch.float32, (2, 3, 32, 64), (4, 1), fancy=False)),
        ("gfx90a", Call(torch.float32, (2, 3, 21, 37))),
        ("gfx942", Call(torch.bfloat16, (2, 3, 32, 48), (1, 1))),
    ],
    ids=str,
)
@pytest.mark.parametrize("op", ["forward", "backward with tables", "surrogate backward", "real backward with tables"])
def test_compiles_without_spills(target: str, call: Call, op: str) -> None:
    """Also at sizes that are not those of whole MCUs; real numbers alone may be fused.

    One kernel of doubles, a surrogate's at edges, spills 48 bytes.
    """
    most = 48 if op == "surrogate backward" and call.dtype == torch.float64 else 0
    launches = [one for one in ahead_of_time.launches(target, call.of(op)) if one.name not in SMALL]
    assert launches
    for launch in launches:
        assert ahead_of_time.usage(launch).spilled <= most, launch.name
        if not op.startswith("real") and target.startswith("sm"):
            fused = "fma.rn.f32" in launch.compiled.asm["ptx"]
            assert not fused, f"{launch.name}: a fused multiplication and addition rounds once, not twice"
