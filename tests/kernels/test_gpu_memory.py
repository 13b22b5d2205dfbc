"""Batches and images of more than 2^31 samples on a GPU, and the memory that calls take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import gpu_cases
from support.gpu_cases import DEVICE, SETTING

import fdjpeg

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]

# The shared fixtures, for this file's tests.
ops, seed = gpu_cases.ops, gpu_cases.seed


def test_more_than_2_to_the_31_samples(ops: Any) -> None:
    _skip_below(16)
    one = torch.randint(0, 256, (1, 3, 1024, 1024), dtype=torch.uint8, device=DEVICE)
    batch = one.expand(700, -1, -1, -1).contiguous()
    assert batch.numel() > 2**31
    expected, _ = ops.round_trip(one, None, 75.0, 2, 2, True)
    out, _ = ops.round_trip(batch, None, 75.0, 2, 2, True)
    assert torch.equal(out[-1:], expected)
    assert torch.equal(out[:1], expected)
    del batch, out
    # One image: a tile of whole MCUs side by side is decoded alike everywhere but at the image's edge.
    tile = one[..., :256, :256]
    large = tile.repeat(1, 1, 106, 106)
    assert large.numel() > 2**31
    out, _ = ops.round_trip(large, None, 75.0, 2, 2, True)
    assert torch.equal(out[..., -512:-256, -512:-256], out[..., 256:512, 256:512])


def _skip_below(gigabytes: float) -> None:
    if torch.cuda.get_device_properties(0).total_memory < 1e9 * gigabytes:
        pytest.skip(f"less than {gigabytes:g} GB of memory")


def test_gradients_of_more_than_2_to_the_31_samples(ops: Any) -> None:
    _skip_below(60)
    one = torch.rand(1, 3, 1024, 1024, device=DEVICE).half()
    batch = one.expand(700, -1, -1, -1).contiguous()
    assert batch.numel() > 2**31
    expected = ops.round_trip_backward(*ops.round_trip(one, *SETTING), one, *SETTING, False)[0]
    actual = ops.round_trip_backward(*ops.round_trip(batch, *SETTING), batch, *SETTING, False)[0]
    assert torch.equal(actual[-1:], expected)
    assert torch.equal(actual[:1], expected)


def test_more_than_2_to_the_31_real_samples() -> None:
    _skip_below(60)
    one = torch.rand(1, 3, 1024, 1024, device=DEVICE).half()
    batch = one.expand(700, -1, -1, -1).contiguous()
    setting = (*SETTING, "sine", 0.0, 0.0, True)
    expected, _ = torch.ops.fdjpeg.real_round_trip(one, *setting)
    actual, _ = torch.ops.fdjpeg.real_round_trip(batch, *setting)
    assert torch.equal(actual[-1:], expected)
    assert torch.equal(actual[:1], expected)


def test_blocks_of_more_than_2_to_the_31_samples() -> None:
    _skip_below(30)
    samples = torch.randn(2**15 + 8, 2**16, device=DEVICE, dtype=torch.float16)
    assert samples.numel() > 2**31
    blocks = torch.ops.fdjpeg.block_dct(samples)
    assert torch.equal(blocks[-1:], torch.ops.fdjpeg.block_dct(samples[-8:]))
    assert torch.equal(torch.ops.fdjpeg.block_idct(blocks)[-8:], torch.ops.fdjpeg.block_idct(blocks[-1:]))


def test_more_images_than_a_grid_has_rows(ops: Any) -> None:
    image = torch.randint(0, 256, (70_000, 1, 8, 8), dtype=torch.uint8, device=DEVICE)
    image[-1] = image[0]
    out, _ = ops.round_trip(image, None, 75.0, 2, 2, True)
    assert torch.equal(out[-1], out[0])
    assert torch.equal(out[:100].cpu(), torch.ops.fdjpeg.round_trip(image[:100].cpu(), None, 75.0, 2, 2, True)[0])


@pytest.mark.parametrize("gradient", ["straight-through", "sine"])
@pytest.mark.parametrize("of_tables", [False, True])
def test_memory_beyond_images_and_gradients_is_the_planes(gradient: str, of_tables: bool) -> None:
    if fdjpeg.backends()["cuda"] != "available":
        pytest.skip(fdjpeg.backends()["cuda"])
    image = torch.rand(16, 3, 512, 512, device=DEVICE, requires_grad=True)
    steps = torch.full((8, 8), 16.0, device=DEVICE, requires_grad=of_tables)
    tables = fdjpeg.QuantTables(steps, steps)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = fdjpeg.jpeg(image, tables=tables, gradient=gradient)
    wanted = [image, steps] if of_tables else [image]
    gradients = torch.autograd.grad(out, wanted, torch.ones_like(out))
    peak = torch.cuda.max_memory_allocated() - before
    given = 3 * image.numel() * image.element_size()  # output, its gradient, the input's gradient
    assert peak - given <= 0.5 * image.numel() * image.element_size()
    del gradients


@pytest.mark.parametrize("soft", [False, True])
def test_memory_of_real_numbers_is_less_than_one_and_a_halfimages(soft: bool) -> None:
    image = torch.rand(16, 3, 512, 512, device=DEVICE, requires_grad=True)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = fdjpeg.jpeg(image, 75, arithmetic="real", gradient="sine" if soft else "straight-through", soft=soft)
    gradient = torch.autograd.grad(out, image, torch.ones_like(out))[0]
    peak = torch.cuda.max_memory_allocated() - before
    size = image.numel() * image.element_size()
    assert gradient.shape == image.shape
    assert peak - 3 * size <= 1.5 * size
