"""Measured files and compared curves: against Pillow, pytorch-msssim and ratios that are known beforehand."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support import oracles
from torch import Tensor

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg.learning.metrics import HIGHEST_PSNR, ms_ssim, ms_ssim_scales, psnr, ssim
from fdjpeg.learning.rate_distortion import bits_ratio, measure


def smooth_bytes(rng: np.random.Generator, count: int, channels: int, size: int) -> Tensor:
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, channels, size // 8, size // 8)))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(("height", "width"), [(176, 200), (181, 177)])
def test_ms_ssim_of_five_scales_is_pytorch_msssims(rng: np.random.Generator, height: int, width: int) -> None:
    from pytorch_msssim import ms_ssim as theirs

    original = torch.from_numpy(rng.uniform(0, 1, (2, 3, height, width)))
    decoded = (original + torch.from_numpy(rng.normal(0, 0.1, original.shape))).clamp(0, 1)
    assert ms_ssim_scales(height, width) == 5
    torch.testing.assert_close(
        ms_ssim(decoded, original), theirs(decoded, original, data_range=1, size_average=False), rtol=1e-5, atol=1e-6
    )


def test_ssim_is_pytorch_msssims_and_ms_ssim_takes_the_scales_that_there_is_room_for(rng: np.random.Generator) -> None:
    from pytorch_msssim import ssim as theirs

    assert [ms_ssim_scales(side, 500) for side in (11, 21, 22, 32, 44, 88, 175, 176, 500)] == [
        1,
        1,
        2,
        2,
        3,
        4,
        4,
        5,
        5,
    ]
    original = torch.from_numpy(rng.uniform(0, 1, (2, 3, 20, 40)))
    decoded = (0.5 * original + 0.2).flip(0) * 0.3 + 0.7 * original
    one = theirs(decoded, original, data_range=1, size_average=False)
    assert one.shape == (2,)
    torch.testing.assert_close(ssim(decoded, original), one)
    torch.testing.assert_close(ms_ssim(decoded, original), one)  # one scale is SSIM
    with pytest.raises(ValueError, match="decoded and original must have at least 11 × 11 pixels, got 10 × 40"):
        ms_ssim(original[:, :, :10], original[:, :, :10])


def test_psnr_is_of_all_channels_and_has_an_end() -> None:
    original = torch.zeros(2, 3, 4, 4)
    decoded = original.clone()
    decoded[1, 0] = 0.3
    assert psnr(decoded, original).tolist() == pytest.approx([HIGHEST_PSNR, -10 * np.log10(0.03)])


@pytest.mark.parametrize("channels", [1, 3])
def test_measured_is_what_pillow_writes_and_reads(rng: np.random.Generator, channels: int) -> None:
    images = smooth_bytes(rng, 3, channels, 32)
    tables = QuantTables.standard(40)
    labels = torch.tensor([0, 1, 0])

    class Constant(torch.nn.Module):  # answers 0 for every image
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([1.0, 0.0]).expand(len(x), 2)

    found = measure(images, tables, subsampling="4:2:2", model=Constant(), labels=labels)
    for number, image in enumerate(images):
        file = oracles.encode(image.numpy(), 40, "4:2:2")
        assert int(found.file_bits[number]) == 8 * len(file)
        decoded = torch.from_numpy(oracles.decode(file).copy())
        error = (decoded.double() - image.double()).square().mean()
        assert float(found.psnr[number]) == pytest.approx(float(10 * (255**2 / error).log10()), rel=1e-5)
    assert torch.equal(found.bits, fdjpeg.bits(fdjpeg.encode(images, 40, subsampling="4:2:2")))
    assert found.correct is not None
    assert found.correct.tolist() == [1, 0, 1]
    assert found.ms_ssim is not None
    assert found.means()["bits"] == float(found.bits.double().mean())
    assert measure(images[..., :10], tables).ms_ssim is None


def test_a_ratio_that_is_known_is_found_with_its_interval(rng: np.random.Generator) -> None:
    images = torch.from_numpy(rng.uniform(0.5, 1.5, 300))  # the cost of each image
    curve_bits = torch.stack([images * 2.0**k for k in range(8, 14)])
    curve_kept = torch.stack([30 + images + 6 * k for k in range(6)])
    # Halfway between two points the curve's bits are their geometric mean: 2^10.5 times 1.
    found = bits_ratio(0.8 * 2**10.5 * images, 30 + images + 6 * 2.5, curve_bits, curve_kept)
    assert found.value == pytest.approx(0.8, rel=1e-6)
    assert found.low <= found.value <= found.high
    assert found.high - found.low < 1e-6  # the same images on both sides
    noisy = bits_ratio(
        0.8 * 2**10.5 * images, 45 + images + torch.from_numpy(rng.normal(0, 6, 300)), curve_bits, curve_kept
    )
    # A deviation of 6 over √300 images: 0.35 of a point's 6, or a factor of 2^(0.35 / 6) each way, twice.
    assert noisy.low < noisy.value < noisy.high
    assert 1.05 < noisy.high / noisy.low < 1.35
    kept = 45 + images + torch.from_numpy(np.random.default_rng(4).normal(0, 6, 300))
    drawn = [bits_ratio(images, kept, curve_bits, curve_kept, seed=seed) for seed in range(3)]
    assert len({one.value for one in drawn}) == 1, "draws make the interval, not the value"
    assert len({one.low for one in drawn}) == 3
    assert str(found) == "80.0% [80.0%, 80.0%]"


def test_images_of_one_source_are_drawn_together(rng: np.random.Generator) -> None:
    bits, kept = (torch.from_numpy(rng.uniform(0.5, 1.5, 40)) for _ in range(2))
    curve = (torch.stack([bits * 2.0**k for k in range(-3, 4)]), torch.stack([kept + k for k in range(-3, 4)]))
    noisy = kept + torch.from_numpy(rng.normal(0, 1, 40))
    alone = bits_ratio(bits, noisy, *curve)
    fourfold = [tensor.repeat_interleave(4, -1) for tensor in (bits, noisy, *curve)]
    together = bits_ratio(*fourfold, sources=torch.arange(40).repeat_interleave(4))
    assert together == pytest.approx(alone)
    apart = bits_ratio(*fourfold)
    assert apart.high - apart.low < 0.7 * (alone.high - alone.low)  # as if there were four times as many


def test_where_a_curve_falls_its_highest_so_far_stands() -> None:
    ones = torch.ones(4, dtype=torch.float64)
    curve_bits = torch.stack([100 * ones, 200 * ones, 400 * ones, 800 * ones])
    curve_kept = torch.stack([0.2 * ones, 0.6 * ones, 0.5 * ones, 0.9 * ones])
    assert bits_ratio(100 * ones, 0.6 * ones, curve_bits, curve_kept).value == pytest.approx(0.5)
    assert bits_ratio(100 * ones, 0.2 * ones, curve_bits, curve_kept).value == pytest.approx(1)
    assert bits_ratio(100 * ones, 0.95 * ones, curve_bits, curve_kept).value == pytest.approx(1 / 8)  # an upper bound
    assert np.isnan(bits_ratio(100 * ones, 0.1 * ones, curve_bits, curve_kept).value)


@pytest.mark.parametrize("likeness", [psnr, ssim, ms_ssim])
@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (2, 1, 16, 16), (3, 16, 16)], ids=str)
def test_likeness_is_of_images_of_one_shape(likeness: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    """Broadcasting would give a figure of other images."""
    wanted = f"decoded and original must have one shape, (N, C, H, W), got {shape} and (2, 3, 16, 16)"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        likeness(torch.zeros(shape), torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize("shape", [(4,), (2, 3), (0, 4)], ids=str)
def test_curves_are_of_the_same_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"curve_bits must be (K, 4), got shape {shape}")):
        bits_ratio(torch.ones(4), torch.ones(4), torch.ones(shape), torch.ones(shape))


def test_measure_says_what_is_wrong() -> None:
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"images must be uint8 \(N, C, H, W\), got torch.float32"):
        measure(images.float(), QuantTables.flat(9))
    with pytest.raises(TypeError, match=r"tables must be fdjpeg\.QuantTables, got int"):
        measure(images, 50)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="subsampling must be one of 4:4:4, 4:2:2, 4:2:0, got '4:4:0'"):
        measure(images, QuantTables.flat(9), subsampling="4:4:0")
    with pytest.raises(TypeError, match=r"labels must be a torch\.Tensor where a model is given, got NoneType"):
        measure(images, QuantTables.flat(9), model=torch.nn.Flatten())
