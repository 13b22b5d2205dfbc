"""Smoke test: each op once on the GPU, at one odd size, against the same op on the CPU.

The exact ops must give the same bits, the others the same numbers to rounding. Each op is tried by itself, so that a
kernel that crashes or hangs costs the results of no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from gpu import stand_in

#: Seconds for one op.
ITEM_LIMIT = 20.0
SHAPE = (2, 3, 221, 333)
#: Dtype, sampling factors, and the largest error of gradients and of real numbers, as a share of the largest number.
_VARIANTS = {
    "float32 4:2:0": ("float32", (2, 2), 1e-4),
    "float32 4:4:4": ("float32", (1, 1), 1e-4),
    "float16 4:2:0": ("float16", (2, 2), 4e-3),
    "uint8 4:2:0": ("uint8", (2, 2), 0.0),
}

#: Maps ops and inputs to results. The inputs are on the device of the ops.
Call = Callable[[Any, dict[str, Any]], tuple[Any, ...]]


def _inputs(dtype: str, factors: tuple[int, int]) -> dict[str, Any]:
    """Returns what the ops take, on the CPU: by the CPU's ops where it is another op's result."""
    import torch

    from fdjpeg import _slopes, surrogates

    torch.manual_seed(0)
    small = torch.rand(SHAPE[0], SHAPE[1], 28, 42)
    image = torch.nn.functional.interpolate(small, SHAPE[2:], mode="bilinear") + 0.05 * torch.randn(SHAPE)
    image = image.clamp(0, 1)
    image = (image * 255).to(torch.uint8) if dtype == "uint8" else image.to(getattr(torch, dtype))
    real = torch.float32 if dtype == "uint8" else image.dtype
    setting = (None, 75.0, *factors, True)
    rounding = (*setting, "sine", 0.0, 0.0, True)
    ops = torch.ops.fdjpeg
    _, planes = ops.round_trip(image, *setting)
    _, mask = ops.real_round_trip(image, *rounding)
    samples = torch.randn(SHAPE[0], SHAPE[1], 216, 328).to(real)
    return {
        "image": image,
        "grad": torch.randn(SHAPE).to(real),
        "planes": planes,
        "mask": mask,
        "setting": setting,
        "real setting": rounding,
        "factors": factors,
        "qualities": torch.randint(1, 101, (SHAPE[0], 28, 42), dtype=torch.uint8),
        "slopes": _slopes.slope_table(surrogates.resolve("sine"), torch.device("cpu")),
        "tables": torch.full((1, 3, 8, 8), 16.0),
        "coefficients": ops.encode(image, *setting[:-1]),
        "samples": samples,
        "blocks": ops.block_dct(samples),
        "packed": ops.image_blocks(image, *factors),
        "steps": ops.standard_steps(torch.rand(SHAPE[0], ops.image_blocks(image, *factors).size(1)), 1, False, True),
    }


def _moved(value: Any, device: str) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_moved(one, device) for one in value)
    return value


def _decode(ops: Any, i: dict[str, Any]) -> tuple[Any, ...]:
    return (ops.decode(*i["coefficients"], i["tables"], *SHAPE[2:], *i["factors"], True, i["image"].dtype),)


#: The ops with the same bits, and those with the same numbers to rounding.
_EXACT: dict[str, Call] = {
    "round_trip": lambda ops, i: tuple(ops.round_trip(i["image"], *i["setting"])),
    "round_trip_by_block": lambda ops, i: tuple(
        ops.round_trip_by_block(i["image"], i["qualities"], *i["factors"], True)
    ),
    "encode": lambda ops, i: tuple(ops.encode(i["image"], *i["setting"][:-1])),
    "decode": _decode,
    "standard_steps": lambda ops, i: (ops.standard_steps(i["qualities"].flatten(1), 99, True, False),),
    "round_trip_by_steps": lambda ops, i: tuple(
        ops.round_trip_by_steps(i["image"], i["steps"], None, *i["factors"], True)[:2]
    ),
}
_CLOSE: dict[str, Call] = {
    "round_trip_backward": lambda ops, i: tuple(
        ops.round_trip_backward(i["grad"], i["planes"], i["image"], *i["setting"], False)[:1]
    ),
    "round_trip_backward with tables": lambda ops, i: tuple(
        ops.round_trip_backward(i["grad"], i["planes"], i["image"], *i["setting"], True)
    ),
    "surrogate_backward": lambda ops, i: tuple(
        ops.surrogate_backward(i["grad"], i["planes"], i["image"], *i["setting"], True, i["slopes"])
    ),
    "real_round_trip": lambda ops, i: tuple(ops.real_round_trip(i["image"], *i["real setting"])[:1]),
    "real_round_trip_backward": lambda ops, i: tuple(
        ops.real_round_trip_backward(i["grad"], i["mask"], i["image"], *i["real setting"], True)
    ),
    "block_dct": lambda ops, i: (ops.block_dct(i["samples"]),),
    "block_idct": lambda ops, i: (ops.block_idct(i["blocks"]),),
    "standard_steps_backward": lambda ops, i: (
        ops.standard_steps_backward(i["steps"], i["steps"][..., 0, 0], 99, True, False),
    ),
    "sum_blocks": lambda ops, i: (ops.sum_blocks(i["steps"], i["steps"].size(1) * 2 // 3),),
    "surrogate": lambda ops, i: tuple(ops.surrogate(i["packed"] / 9, "tanh", 4.0, 0.0, True)),
    "rounded_backward": lambda ops, i: tuple(ops.rounded_backward(i["packed"], i["steps"], i["packed"], i["steps"])),
    "scaled_backward": lambda ops, i: tuple(ops.scaled_backward(i["packed"], i["packed"], i["steps"], True)),
    "image_blocks": lambda ops, i: (ops.image_blocks(i["image"], *i["factors"]),),
    "image_blocks_backward": lambda ops, i: (
        ops.image_blocks_backward(i["packed"], i["image"], i["planes"], *i["factors"]),
    ),
    "blocks_image": lambda ops, i: tuple(ops.blocks_image(i["packed"], i["image"], *i["factors"], True)[:1]),
    "blocks_image_backward": lambda ops, i: (
        ops.blocks_image_backward(i["grad"], i["planes"], i["image"], *i["factors"], True),
    ),
}
#: Ops that take floats alone.
_FLOATS = ("backward", "block_dct", "block_idct", "real_round_trip", "blocks_image")


def names() -> list[str]:
    """Returns the items: the targets' ops first."""
    ops = [*_EXACT, *_CLOSE]
    first = ["round_trip", "round_trip_backward", "round_trip_backward with tables"]
    return [*first, *(op for op in ops if op not in first), *(f"triton {op}" for op in ops)]


def items() -> dict[str, Callable[[], Iterable[dict[str, Any]]]]:
    """Returns the work of each item."""
    return {name: partial(_try, name) for name in names()}


def _try(name: str) -> Iterable[dict[str, Any]]:
    """Yields a row for each variant of an op; raises if one of them differs."""
    import torch

    triton = name.startswith("triton ")
    op = name.removeprefix("triton ")
    there = _ops_of("triton" if triton else "cuda", op.split(" ")[0])
    if there is None:
        yield {"skipped": "this backend has no kernel for it, or is not available"}
        return
    differing = []
    for variant, (dtype, factors, tolerance) in _VARIANTS.items():
        if dtype == "uint8" and any(part in op for part in _FLOATS):
            continue
        inputs = _inputs(dtype, factors)
        expected = (_EXACT.get(op) or _CLOSE[op])(torch.ops.fdjpeg, inputs)
        on_device = {key: _moved(value, stand_in.DEVICE) for key, value in inputs.items()}
        actual = (_EXACT.get(op) or _CLOSE[op])(there, on_device)
        error = max(_error(a.cpu(), e) for a, e in zip(actual, expected, strict=True))
        same = error == 0 if op in _EXACT else error <= tolerance
        yield {"variant": variant, "error": error, "same": same}
        if not same:
            differing.append(f"{variant} differs by {error:.3g} of the largest number")
    if differing:
        raise ValueError("; ".join(differing))


def _error(actual: Any, expected: Any) -> float:
    """Returns the largest difference as a share of the largest number; infinite for NaN or another shape."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return float("inf")
    a, e = actual.double(), expected.double()
    difference = (a - e).abs().max().item()
    return difference / max(e.abs().max().item(), 1e-30) if difference == difference else float("inf")


def _ops_of(backend: str, op: str) -> Any:
    """Returns the ops of a backend on the GPU, or None where it lacks this one."""
    import torch

    import fdjpeg

    if fdjpeg.backends()[backend] != "available":
        if backend == "cuda":
            raise RuntimeError(f"cuda is {fdjpeg.backends()['cuda']}")
        return None
    if backend == "cuda":
        return stand_in.with_faults(torch.ops.fdjpeg)
    from fdjpeg._triton import ops

    return ops if hasattr(ops, op) else None
