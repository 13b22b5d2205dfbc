"""Each op by torch's own check (schema, shapes without values, autograd, tracing); one schema in C++ and Python."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fdjpeg import _slopes, ops, surrogates


def _op_arguments(name: str, image: Tensor, tables: Tensor | None, quality: float, factors: tuple[int, int]) -> Any:
    """Returns arguments of an op, by its name."""
    setting = (tables, quality, *factors)
    if name == "round_trip":
        return image, *setting, True
    if name == "round_trip_by_block":
        _, _, height, width = image.shape
        qualities = torch.randint(1, 101, (image.size(0), -(-height // 8), -(-width // 8)), dtype=torch.uint8)
        return image, qualities, *factors, True
    if name == "encode":
        return image, *setting
    if name == "decode":
        coefficients = torch.ops.fdjpeg.encode(image, *setting)
        steps = torch.full((1, 3, 8, 8), 9.0) if tables is None else tables
        return *coefficients, steps, *image.shape[2:], *factors, True, image.dtype
    sine = ("sine", 0.0, 0.0, image.is_floating_point())
    if name == "real_round_trip":
        return image, *setting, True, *sine
    if name in ("block_dct", "block_idct"):
        samples = torch.rand(2, 1, 16, 24).to(image.dtype if image.is_floating_point() else torch.float64)
        return (samples,) if name == "block_dct" else (torch.ops.fdjpeg.block_dct(samples),)
    grad = torch.ones_like(image)
    if name == "real_round_trip_backward":
        _, mask = torch.ops.fdjpeg.real_round_trip(image, *setting, True, *sine)
        return grad, mask, image, *setting, True, *sine, tables is not None
    _, planes = torch.ops.fdjpeg.round_trip(image, *setting, True)
    slopes = _slopes.slope_table(surrogates.resolve("cubic"), image.device)
    if name == "round_trip_backward":
        return grad, planes, image, *setting, True, tables is not None
    if name == "surrogate_backward":
        return grad, planes, image, *setting, True, tables is not None, slopes
    qualities = torch.rand(image.size(0), 5) * 100
    if name == "standard_steps":
        return qualities, 2, True, False
    if name == "standard_steps_backward":
        return torch.rand(image.size(0), 5, 8, 8), qualities, 2, False, True
    blocks = torch.ops.fdjpeg.image_blocks(image, *factors)
    if name == "sum_blocks":
        return blocks, blocks.size(1) if image.size(1) == 1 else blocks.size(1) * 2 // 3
    if name == "surrogate":
        return blocks, "tanh", 4.0, 0.1, tables is None
    if name == "rounded_backward":
        return blocks, blocks, None if tables is None else blocks, blocks if quality else None
    if name == "scaled_backward":
        steps = torch.full_like(blocks[:1], 9.0).expand_as(blocks)
        return blocks, blocks, steps if quality else steps.contiguous(), tables is None
    if name == "round_trip_by_steps":
        return image, torch.full_like(blocks[:1], 9.0), None if tables is None else slopes, *factors, True
    if name == "image_blocks":
        return image, *factors
    if name == "image_blocks_backward":
        return blocks, image, None if tables is None else planes, *factors
    if name == "blocks_image":
        return blocks, image, *factors, True
    if name == "blocks_image_backward":
        return grad, planes, image, *factors, True
    raise AssertionError(f"arguments of {name}: unknown here")


#: The ops that only Python defines, for which one subsampling must do.
_OF_PARTS = [
    *(name for name in ops.SCHEMAS if name.endswith("steps") or "steps_" in name or "image" in name),
    *("sum_blocks", "surrogate", "rounded_backward", "scaled_backward"),
]


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        (name, factors)
        for name in ops.SCHEMAS
        for factors in ([(2, 2)] if name in _OF_PARTS else [(1, 1), (2, 2), (1, 2), (4, 1)])
    ],
    ids=str,
)
def test_opcheck(name: str, factors: tuple[int, int]) -> None:
    op = getattr(torch.ops.fdjpeg, name).default
    every = [(channels, dtype) for channels in (1, 3) for dtype in (torch.uint8, torch.bfloat16, torch.float32)]
    # The sampling factors decide the planes' sizes, which no dtype changes: all dtypes are tried with one of them.
    for channels, dtype in every if factors == (2, 2) else [(3, torch.float32)]:
        if "backward" in name and dtype == torch.uint8:
            continue
        image = torch.rand(2, channels, 9, 20)
        image = (255 * image).to(dtype) if dtype == torch.uint8 else image.to(dtype)
        for tables, quality in ((None, 60.0), (torch.full((2, 3, 8, 8), 7.0), 0.0)):
            torch.library.opcheck(op, _op_arguments(name, image, tables, quality, factors))


@pytest.mark.parametrize("name", ops.SCHEMAS)
def test_opcheck_of_strided_tensors(name: str) -> None:
    op = getattr(torch.ops.fdjpeg, name).default
    for image in (
        torch.rand(2, 3, 9, 20).contiguous(memory_format=torch.channels_last),
        torch.rand(2, 3, 18, 40)[:, :, ::2, ::2],
        torch.rand(1, 3, 1, 1).expand(2, 3, 9, 20),
        torch.rand(0, 3, 9, 20),
    ):
        torch.library.opcheck(op, _op_arguments(name, image, None, 60.0, (2, 2)))


@pytest.mark.parametrize("name", ops.SCHEMAS)
def test_schemas_in_cpp_are_those_in_python(name: str) -> None:
    """Of the ops of the codec's parts there is Python's alone."""
    expected = torch._C.parse_schema(f"fdjpeg::{name}{ops.SCHEMAS[name]}")
    assert str(getattr(torch.ops.fdjpeg, name).default._schema) == str(expected)
