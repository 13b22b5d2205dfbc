"""Compiles the Triton kernels of every op for every GPU of `support.ahead_of_time`, and prints what a thread takes.

    python tests/triton_usage.py                    # half an hour on one core; needs no GPU
    python tests/triton_usage.py sm_90 gfx942       # for these alone
    python tests/triton_usage.py sm_90 --only real  # of ops whose name holds a text
    python tests/triton_usage.py --write            # also writes the budgets of tests/kernels/triton_budget.json

A line for each kernel: registers, bytes spilled, instructions for each pixel of 256×3×224×224 at 4:2:0, and turns of
shared memory and L1 cache for each pixel (NVIDIA's alone). It fails if a kernel spills.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE.parent), str(_HERE)]

from support import ahead_of_time, triton_calls  # noqa: E402
from support.triton_calls import MEASURED, Call  # noqa: E402

_BUDGET = _HERE / "kernels" / "triton_budget.json"
_PIXELS = MEASURED[0] * MEASURED[2] * MEASURED[3]


def calls(target: str) -> list[tuple[str, str]]:
    """Returns the ops and dtypes that have a budget: the other dtypes on the GPU of the targets alone."""
    every = [(op, "float32") for op in triton_calls.OPS]
    if target != "sm_90":
        return every
    return [
        *every,
        ("forward", "float16"),
        ("forward", "uint8"),
        ("DCT of blocks", "float16"),
        ("real forward", "float64"),
        ("real backward with tables", "float64"),
        ("surrogate backward with tables", "float64"),
    ]


def measured(target: str, op: str, dtype: str) -> dict[str, Any]:
    """Compiles an op's kernels, and returns its entry in the budget, with the bytes spilled."""
    kernels = []
    for launch in ahead_of_time.launches(target, Call(getattr(torch, dtype)).of(op)):
        if launch.name in triton_calls.SMALL:
            continue
        usage = ahead_of_time.usage(launch)
        per_pixel = launch.threads / _PIXELS
        kernel = {
            "name": launch.name,
            "registers": usage.registers,
            "spilled": usage.spilled,
            "instructions_per_pixel": round(usage.instructions * per_pixel, 1),
        }
        if usage.turns is not None:
            kernel["turns_per_pixel"] = round(usage.turns * per_pixel, 1)
        kernels.append(kernel)
    return {"target": target, "dtype": dtype, "op": op, "kernels": kernels}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=list(ahead_of_time.TARGETS), metavar="TARGET")
    parser.add_argument("--only", default="", help="ops whose name holds this text")
    parser.add_argument("--write", action="store_true", help="write what was measured as the budgets")
    return parser.parse_args()


def _write(found: list[dict[str, Any]]) -> None:
    """Puts entries in the place of those of the same call."""
    kept = {_key(one): one for one in json.loads(_BUDGET.read_text())["calls"]} if _BUDGET.exists() else {}
    kept |= {_key(one): one for one in found}
    for one in kept.values():
        for kernel in one["kernels"]:
            kernel.pop("spilled", None)  # no budget allows any
    lines = ",\n".join("    " + json.dumps(one) for one in kept.values())
    _BUDGET.write_text(f'{{\n  "calls": [\n{lines}\n  ]\n}}\n')


def _key(one: dict[str, Any]) -> tuple[str, str, str]:
    return one["target"], one["op"], one["dtype"]


def main() -> int:
    """Measures what the arguments name; returns the number of kernels that spill."""
    given = _arguments()
    found, spilling = [], 0
    for target in given.targets:
        for op, dtype in calls(target):
            if given.only not in op:
                continue
            found.append(measured(target, op, dtype))
            for kernel in found[-1]["kernels"]:
                spilling += kernel["spilled"] > 0
                rest = "  ".join(f"{name} {value}" for name, value in kernel.items() if name != "name")
                print(f"{target:7s} {dtype:8s} {op:34s} {kernel['name']:26s} {rest}", flush=True)
            if given.write:
                _write(found[-1:])
    print(f"{sum(len(one['kernels']) for one in found)} kernels, {spilling} of them spill")
    return spilling


if __name__ == "__main__":
    sys.exit(main() > 0)
