"""Calls every op of the library, for tests of the promises of all ops. It needs only torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fdjpeg import _slopes, surrogates


def results_of(
    ops: Any, images: int, channels: int, factors: tuple[int, int], device: str = "cpu", parts: bool = True
) -> dict[str, tuple[Tensor, ...]]:
    """Calls each op on noise of shape (images, channels, 21, 37).

    Args:
        ops: the ops by name, such as `torch.ops.fdjpeg`.
        images: the number of images.
        channels: 1 or 3.
        factors: the sampling factors of luma.
        device: where the tensors are.
        parts: whether to call the ops of the codec's parts too, if ``ops`` has them; the compiled libraries do not.

    Returns:
        By the op's name its results, each of them with the images along the first dimension.
    """
    height, width = 21, 37
    image = torch.rand(images, channels, height, width, device=device)
    grad = torch.rand(images, channels, height, width, device=device)
    tables = torch.full((images, 3, 8, 8), 16.0, device=device)
    qualities = torch.full((images, 3, 5), 50, dtype=torch.uint8, device=device)
    slopes = _slopes.slope_table(surrogates.resolve("sine"), torch.device(device))
    setting = (tables, 0.0, *factors, True)
    real = (*setting, "sine", 0.0, 0.0, True)
    out, planes = ops.round_trip(image, *setting)
    real_out, mask = ops.real_round_trip(image, *real)
    coefficients = ops.encode(image, *setting[:-1])
    # Decoded by one set of tables, as by one for each image.
    decoded = [
        ops.decode(*coefficients, steps, height, width, *factors, True, dtype)
        for steps in (tables, torch.full((1, 3, 8, 8), 16.0, device=device))
        for dtype in (torch.uint8, torch.float64)
    ]
    samples = torch.rand(images, channels, 16, 24, device=device)
    blocks = ops.block_dct(samples)
    return {
        "round_trip": (out, planes),
        "round_trip of bytes": tuple(ops.round_trip((255 * image).to(torch.uint8), None, 75.0, *factors, True)),
        "round_trip_by_block": tuple(ops.round_trip_by_block(image, qualities, *factors, True)),
        "round_trip_backward": tuple(ops.round_trip_backward(grad, planes, image, *setting, True)),
        "surrogate_backward": tuple(ops.surrogate_backward(grad, planes, image, *setting, True, slopes)),
        "encode": tuple(coefficients),
        "decode": tuple(decoded),
        "real_round_trip": (real_out, mask),
        "real_round_trip_backward": tuple(ops.real_round_trip_backward(grad, mask, image, *real, True)),
        "block_dct": (blocks,),
        "block_idct": (ops.block_idct(blocks),),
    } | (_of_parts(ops, image, grad, planes, slopes, factors) if parts and hasattr(ops, "image_blocks") else {})


def _of_parts(
    ops: Any, image: Tensor, grad: Tensor, planes: Tensor, slopes: Tensor | None, factors: tuple[int, int]
) -> dict[str, tuple[Tensor, ...]]:
    """Calls the ops of the codec's parts, which CUDA's library leaves to Triton."""
    blocks = ops.image_blocks(image, *factors)
    out, mask = ops.blocks_image(blocks, image, *factors, True)
    qualities, of_steps = (torch.rand(len(image), 7, *shape, device=image.device) for shape in ((), (8, 8)))
    qualities = 100 * qualities
    steps = torch.full_like(blocks, 9.0)
    by_steps = [ops.round_trip_by_steps(image, steps, given, *factors, True) for given in (None, slopes)]
    return {
        "standard_steps": tuple(ops.standard_steps(qualities, 3, not soft, soft) for soft in (False, True)),
        "standard_steps_backward": (ops.standard_steps_backward(of_steps, qualities, 3, True, False),),
        "sum_blocks": (ops.sum_blocks(of_steps, 3),),
        "surrogate": tuple(ops.surrogate(blocks, "tanh", 4.0, 0.0, True)),
        "rounded_backward": tuple(
            one
            for given in ((None, blocks), (blocks, blocks), (blocks, None))
            for one in ops.rounded_backward(blocks, steps, *given)[given[1] is None :]
        ),
        "scaled_backward": tuple(
            one for divided in (False, True) for one in ops.scaled_backward(blocks, blocks, steps, divided)
        ),
        "round_trip_by_steps": tuple(one for results in by_steps for one in results),
        "image_blocks": (blocks,),
        "image_blocks_backward": tuple(
            ops.image_blocks_backward(steps, image, kept, *factors) for kept in (None, planes)
        ),
        "blocks_image": (out, mask),
        "blocks_image_backward": tuple(
            ops.blocks_image_backward(grad, kept, image, *factors, True) for kept in (mask, planes)
        ),
    }


def assert_empty_batches_give_empty_results(
    ops: Any, channels: int, factors: tuple[int, int], device: str = "cpu"
) -> None:
    """Asserts that no images give results of the shapes and dtypes of those of two, but for the images."""
    of_none, of_two = (results_of(ops, images, channels, factors, device) for images in (0, 2))
    for op, expected in of_two.items():
        assert [(tuple(one.shape), one.dtype, one.device) for one in of_none[op]] == [
            ((0, *one.shape[1:]), one.dtype, one.device) for one in expected
        ], op
    assert {one.size(1) for one in of_none["decode"]} == {channels}
