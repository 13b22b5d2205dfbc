"""Torch's default device and default dtype reach into no call: the same numbers, dtypes and devices without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils import _pytree

import fdjpeg
from fdjpeg import QuantTables, _huffman, _onnx, reference, surrogates
from fdjpeg._geometry import Geometry
from fdjpeg.learning.metrics import ms_ssim, psnr, ssim
from fdjpeg.reference import pieces

_DRAWN = torch.Generator().manual_seed(11)
IMAGE = torch.rand(2, 3, 9, 18, generator=_DRAWN)
GRAD = torch.randn(2, 3, 9, 18, generator=_DRAWN)
LARGER = torch.rand(1, 3, 22, 24, generator=_DRAWN)
TABLES = torch.randint(1, 90, (2, 3, 8, 8), generator=_DRAWN).float()
QUALITIES = torch.tensor([[12.5, 49.5, 50.5, 93.0]])
BY_BLOCK = torch.randint(1, 101, (2, 2, 3), generator=_DRAWN, dtype=torch.uint8)
MAP = BY_BLOCK.float()
FACTORS = ((2, 2), (4, 1))
SLOPES = surrogates.Sine().derivative(torch.linspace(-0.5, 0.5, 1025))


def exact_by_the_reference() -> list[Any]:
    """The ops of the exact codec, and their transposed maps."""
    results: list[Any] = []
    for factors, tables in zip(FACTORS, (TABLES, None), strict=True):
        setting = (tables, 40.0, *factors, True)
        out, planes = reference.round_trip(IMAGE, *setting)
        results += [out, planes, *reference.encode(IMAGE, *setting[:-1])]
        results += reference.round_trip_backward(GRAD, planes, IMAGE, *setting, True)
        results += reference.surrogate_backward(GRAD, planes, IMAGE, *setting, True, SLOPES)
        results += reference.surrogate_backward(GRAD, planes, IMAGE, *setting, False, SLOPES)
        results.append(reference.surrogate_tangent(GRAD, TABLES, planes, IMAGE, *setting, SLOPES))
    results += reference.round_trip_backward(GRAD, planes, IMAGE, *setting, False)
    results.append(reference.straight_through_tangent(GRAD, planes, IMAGE, *factors, True))
    results.append(reference.table_tangent(TABLES, planes, IMAGE, *setting))
    results += reference.round_trip_by_block(IMAGE, BY_BLOCK, *factors, True)
    results.append(reference.exact_with_surrogate(IMAGE, TABLES, *factors, True, surrogates.Cubic()))
    return results


def real_by_the_reference() -> list[Any]:
    """The ops in real numbers, and their derivatives."""
    results: list[Any] = []
    for factors, tables, soft in ((FACTORS[0], None, True), (FACTORS[1], TABLES, False)):
        setting = (tables, 40.0, *factors, True, "sine", 0.0, 0.0, soft)
        out, mask = reference.real_round_trip(IMAGE, *setting)
        results += [out, mask, reference.real_tangent(GRAD, TABLES, mask, IMAGE, *setting)]
        for table_gradient in (False, True):
            results += reference.real_round_trip_backward(GRAD, mask, IMAGE, *setting, table_gradient)
    small = (IMAGE[:1, :, :8, :8], TABLES[:1], 40.0, 1, 1, True, "sine", 0.0, 0.0, True)
    results += reference.real_second_gradient((small[0], None), small[0], *small)
    results.append(reference.quantize_channels(IMAGE, TABLES[0, 0], torch.round))
    return results


def parts_by_the_reference() -> list[Any]:
    """The ops of the codec's parts."""
    results: list[Any] = []
    for soft in (False, True):
        results.append(steps := pieces.standard_steps(QUALITIES, 2, not soft, soft))
        results.append(pieces.standard_slopes(QUALITIES, 2, not soft, soft))
        results.append(pieces.standard_curvatures(QUALITIES, 2, not soft, soft))
        results.append(pieces.standard_steps_backward(torch.ones_like(steps), QUALITIES, 2, not soft, soft))
    for factors in FACTORS:
        blocks = pieces.image_blocks(IMAGE, *factors)
        steps = torch.full_like(blocks, 11)
        out, mask = pieces.blocks_image(blocks, IMAGE, *factors, True)
        results += [blocks, out, mask]
        for slopes in (None, SLOPES):
            by_steps = pieces.round_trip_by_steps(IMAGE, steps, slopes, *factors, True)
            results += by_steps
        results.append(pieces.image_blocks_backward(steps, IMAGE, by_steps[1], *factors))
        results.append(pieces.image_blocks_tangent(GRAD, IMAGE, True, *factors))
        results.append(pieces.blocks_image_backward(GRAD, mask, IMAGE, *factors, True))
        results.append(pieces.blocks_image_tangent(steps, by_steps[1], IMAGE, *factors, True))
    return results


def standard_operators() -> list[Any]:
    """The functions that stand in for the ops in ONNX."""
    results: list[Any] = []
    for factors in (*FACTORS, (1, 2)):
        for fancy in (False, True):
            results.append(_onnx.round_trip(IMAGE, TABLES, 0.0, *factors, fancy)[0])
            results.append(_onnx.round_trip_by_block(IMAGE, BY_BLOCK, *factors, fancy)[0])
            results.append(_onnx.real_round_trip(IMAGE, None, 40.0, *factors, fancy, "sine", 0.0, 0.0, True)[0])
    return results


def lengths() -> list[Any]:
    """Bits counted and estimated."""
    results: list[Any] = []
    for subsampling, image in (("4:2:0", IMAGE), ("4:4:4", IMAGE[:, :1])):
        coefficients = fdjpeg.encode(image, 60, subsampling=subsampling)
        results += [fdjpeg.bits(coefficients), fdjpeg.decode(coefficients)]
        results.append(fdjpeg.rate(image, 60, subsampling=subsampling))
        results.append(_huffman.in_zigzag(coefficients.y))
    results.append(_huffman.scan_order(IMAGE[:, 0, :2, :3], 2, 2, Geometry.of(9, 18, 3, 2, 2)))
    return results


def steps_and_stages() -> list[Any]:
    """Tables made of tensors, and the codec's steps."""
    made = [QuantTables.feature_distillation(TABLES[0, 0], 15, 2, 40), QuantTables.flat(TABLES[:, 0, 0, 0])]
    made += [QuantTables.standard(QUALITIES[0], soft=soft) for soft in (False, True)]
    ycbcr = fdjpeg.rgb_to_ycbcr(IMAGE)
    likeness = [measure(LARGER, 0.9 * LARGER) for measure in (psnr, ssim, ms_ssim)]
    return [*made, *[tables.stacked() for tables in made], ycbcr, fdjpeg.ycbcr_to_rgb(ycbcr), *likeness]


def calls() -> list[Any]:
    """`jpeg` by each of its routes, with the gradients of image, tables and quality."""
    results: list[Any] = []
    settings: list[dict[str, Any]] = [
        {"gradient": "cubic"},
        {"gradient": surrogates.Noise(torch.Generator().manual_seed(1)), "arithmetic": "real", "soft": True},
        {"gradient": "sine", "arithmetic": "real", "soft": True},
        {"gradient": "tanh", "arithmetic": "real"},
    ]
    for setting in settings:
        for strength in (QUALITIES[0, :2], MAP, TABLES):
            image, leaf = IMAGE.clone().requires_grad_(), strength.clone().requires_grad_()
            given = {"tables": QuantTables(*leaf.unbind(1))} if leaf.ndim == 4 else {"quality": leaf}
            out = fdjpeg.jpeg(image, **given, **setting)
            results += [out, *torch.autograd.grad(out, (image, leaf), GRAD)]
    return results


GROUPS = [
    exact_by_the_reference,
    real_by_the_reference,
    parts_by_the_reference,
    standard_operators,
    lengths,
    steps_and_stages,
    calls,
]


@contextmanager
def other_defaults(dtype: torch.dtype, device: str) -> Iterator[None]:
    """Another default dtype and another default device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_defaults_reach_into_no_call(group: Callable[[], list[Any]]) -> None:
    expected = _pytree.tree_leaves(group())
    for defaults in ((torch.float16, "meta"), (torch.float64, "cpu")):
        with other_defaults(*defaults):
            found = _pytree.tree_leaves(group())
        assert len(found) == len(expected)
        for place, (ours, plain) in enumerate(zip(found, expected, strict=True)):
            seen, expected_of_it = ((place, one.device, one.shape, one.dtype) for one in (ours, plain))
            assert seen == expected_of_it, defaults
            assert torch.equal(ours, plain), (place, defaults)
