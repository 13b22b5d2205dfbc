"""The reference's real numbers: T.81's formula, BT.601, libjpeg's filters, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.reference_cases import (
    FLOATS,
    SIZES,
    every_channels,
    every_subsampling,
    every_upsampling,
    interior,
    random_tables,
    t81_dct,
)
from torch import Tensor

from fdjpeg import reference, surrogates
from fdjpeg._geometry import SAMPLING_FACTORS


def test_dct_is_that_of_the_standard() -> None:
    block = np.random.default_rng(9).integers(-128, 128, (8, 8))
    expected = t81_dct(block)
    real = reference.real_dct(torch.from_numpy(block).double())
    np.testing.assert_allclose(real.numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(reference.real_idct(real).numpy(), block, atol=1e-10)
    integer = reference.fdct(torch.from_numpy(block).int())
    np.testing.assert_allclose(integer.numpy() / 8, expected, atol=0.5)


def test_real_round_trip_of_one_grey_block() -> None:
    rng = np.random.default_rng(10)
    pixels = rng.random((8, 8))
    steps = rng.uniform(0.5, 40, (8, 8))
    k = np.round(t81_dct(255 * pixels - 128) / steps)
    basis = np.stack([t81_dct(np.eye(64)[n].reshape(8, 8)).ravel() for n in range(64)])  # rows by sample
    expected = np.clip((basis @ (k * steps).ravel()).reshape(8, 8) + 128, 0, 255) / 255
    tables = torch.from_numpy(steps).expand(1, 3, 8, 8)
    got = reference.real_pipeline(torch.from_numpy(pixels)[None, None], tables, 2, 2, True)
    np.testing.assert_allclose(got[0, 0].numpy(), expected, atol=1e-12)


def test_colour_is_bt_601() -> None:
    """With steps that erase all but the DC coefficients' sum, a flat colour comes back by the published constants."""
    colour = torch.tensor([0.9, 0.2, 0.4], dtype=torch.float64)
    image = colour[:, None, None].expand(1, 3, 8, 8)
    tables = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    tables[:, 1:] = 1e6  # chroma is lost, so the result is luma
    got = reference.real_pipeline(image, tables, 1, 1, True, lambda c: torch.where(c.abs() < 1e-2, 0, c))
    luma = 0.299 * 0.9 + 0.587 * 0.2 + 0.114 * 0.4
    torch.testing.assert_close(got, torch.full_like(image, luma))
    tables = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    tables[:, 1] = 1e6  # only Cb is lost
    got = reference.real_pipeline(image, tables, 1, 1, True, lambda c: torch.where(c.abs() < 1e-2, 0, c))
    cr = 0.713267 * (0.9 - luma)
    expected = torch.tensor([luma + 1.402 * cr, luma - 0.714136 * cr, luma], dtype=torch.float64)
    torch.testing.assert_close(got[0, :, 0, 0], expected, rtol=0, atol=1e-5)


@every_channels
def test_real_round_trip_without_rounding_is_the_identity(channels: int) -> None:
    image = torch.rand(2, channels, 19, 37, dtype=torch.float64, generator=torch.Generator().manual_seed(11))
    got = reference.real_pipeline(image, random_tables(2, 11), 1, 1, True, lambda c: c)
    torch.testing.assert_close(got, image, rtol=0, atol=1e-12)


@every_upsampling
@every_subsampling
def test_real_resampling_is_libjpegs_but_for_its_biases(subsampling: str, fancy: bool) -> None:
    """At steps of 1 both arithmetics are within a few bytes everywhere, edges and tiny sizes included, and unbiased."""
    generator = torch.Generator().manual_seed(12)
    ones = torch.ones(1, 3, 8, 8)
    errors = []
    for height, width in SIZES:
        image = torch.rand(8, 3, height, width, generator=generator)
        exact, _ = reference.round_trip(image, ones, 75, *SAMPLING_FACTORS[subsampling], fancy)
        real = reference.real_pipeline(image, ones, *SAMPLING_FACTORS[subsampling], fancy)
        errors.append(255 * (exact - real).flatten())
    error = torch.cat(errors)
    assert error.abs().max() < 6
    assert error.mean().abs() < 0.3


@pytest.mark.parametrize("dtype", [torch.uint8, *FLOATS], ids=str)
def test_real_round_trip_keeps_dtype_and_layout(dtype: torch.dtype) -> None:
    samples = interior((2, 3, 9, 11), 13)
    image = (255 * samples).round().to(torch.uint8) if dtype == torch.uint8 else samples.to(dtype)
    image = image.to(memory_format=torch.channels_last)
    got = reference.real_pipeline(image, random_tables(1, 13, 20), 2, 2, True)
    assert got.dtype == dtype
    assert got.stride() == image.stride()
    in_float64 = reference.real_pipeline(
        image.double() / (255 if dtype == torch.uint8 else 1), random_tables(1, 13, 20).double(), 2, 2, True
    )
    if dtype == torch.uint8:
        torch.testing.assert_close(got.double(), 255 * in_float64, rtol=0, atol=0.501)
    else:
        torch.testing.assert_close(got, in_float64.to(dtype))


@every_upsampling
@every_subsampling
def test_real_round_trip_gradcheck(subsampling: str, fancy: bool) -> None:
    image = interior((1, 3, 5, 7), 14).requires_grad_()
    tables = random_tables(1, 14, 20).double().requires_grad_()

    def soft(image: Tensor, tables: Tensor) -> Tensor:
        return reference.real_pipeline(image, tables, *SAMPLING_FACTORS[subsampling], fancy, surrogates.Sine().forward)

    assert torch.autograd.gradcheck(soft, (image, tables), fast_mode=True)
