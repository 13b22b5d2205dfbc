"""The reference's gradients, straight-through and of surrogates: autograd, finite differences and closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.reference_cases import (
    FLOATS,
    SIZES,
    contents,
    every_channels,
    every_subsampling,
    every_upsampling,
    interior,
    pillow_file,
    pillow_pixels,
    random_tables,
    t81_dct,
    to_tensor,
)
from torch import Tensor

from fdjpeg import reference, surrogates
from fdjpeg._geometry import SAMPLING_FACTORS

# ---------------------------------------------------------------------------------------------------------------------
# Straight-through


@every_channels
@every_upsampling
@every_subsampling
def test_adjoint_of_the_real_pipeline(subsampling: str, fancy: bool, channels: int) -> None:
    """⟨Jv, g⟩ = ⟨v, Jᵀg⟩, Jv by finite differences of the real pipeline with nothing rounded, away from the clamp."""
    factors = SAMPLING_FACTORS[subsampling]
    generator = torch.Generator().manual_seed(15)
    for height, width in SIZES:
        image = interior((2, channels, height, width), 15)
        tables = random_tables(2, 15, 4)
        v, g = torch.randn(2, *image.shape, generator=generator, dtype=torch.float64)
        step = 1e-3
        ahead, behind = (
            reference.real_pipeline(image + s * v, tables, *factors, fancy, lambda c: c) for s in (step, -step)
        )
        differences = (ahead - behind) / (2 * step)
        _, planes = reference.round_trip(image, tables, 75, *factors, fancy)
        of_image, _ = reference.round_trip_backward(g, planes, image, tables, 75, *factors, fancy, False)
        torch.testing.assert_close((v * of_image).sum(), (differences * g).sum(), rtol=1e-9, atol=1e-9)
        tangent = reference.straight_through_tangent(v, planes, image, *factors, fancy)
        torch.testing.assert_close(tangent, differences, rtol=1e-9, atol=1e-9)


@every_channels
@every_upsampling
@every_subsampling
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_backward_equals_autograd(subsampling: str, fancy: bool, channels: int, dtype: torch.dtype) -> None:
    """On noise that is clamped in places, at every size; the two are written separately."""
    factors = SAMPLING_FACTORS[subsampling]
    generator = torch.Generator().manual_seed(16)
    tolerance = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    for height, width in SIZES:
        image = torch.rand(2, channels, height, width, generator=generator, dtype=dtype)
        image[0, 0, 0, 0] = math.nan
        tables = random_tables(2, 16).requires_grad_()
        grad = torch.randn(image.shape, generator=generator, dtype=dtype)
        expected, planes = reference.round_trip(image, tables.detach(), 75, *factors, fancy)
        image.requires_grad_()
        out = reference.exact_with_surrogate(image, tables, *factors, fancy, surrogates.StraightThrough())
        assert torch.equal(out, expected)
        of_image, of_tables = torch.autograd.grad(out, (image, tables), grad)
        got = reference.round_trip_backward(grad, planes, image.detach(), tables.detach(), 75, *factors, fancy, True)
        torch.testing.assert_close(got[0], of_image, **tolerance)
        torch.testing.assert_close(got[1], of_tables, rtol=1e-5, atol=1e-5)
        assert got[1].dtype == torch.float32
        assert got[0][0, 0, 0, 0] == 0


@every_subsampling
def test_tangents_are_the_transposed_maps(subsampling: str) -> None:
    """Clamped noise with a NaN: ⟨Jv, g⟩ = ⟨v, Jᵀg⟩ for the image and for the tables; second derivatives by g follow."""
    factors = SAMPLING_FACTORS[subsampling]
    generator = torch.Generator().manual_seed(17)
    image = torch.rand(2, 3, 19, 37, generator=generator, dtype=torch.float64)
    image[1, 2, 18, 36] = math.nan
    _, planes = reference.round_trip(image, None, 20, *factors, True)
    g, v = torch.randn(2, *image.shape, generator=generator, dtype=torch.float64)
    v_tables = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    of_image, of_tables = reference.round_trip_backward(g, planes, image, None, 20, *factors, True, True)

    tangent = reference.straight_through_tangent(v, planes, image, *factors, True)
    torch.testing.assert_close((tangent * g).sum(), (v * of_image).sum())
    tangent = reference.table_tangent(v_tables, planes, image, None, 20, *factors, True)
    torch.testing.assert_close((tangent * g).sum(), (v_tables * of_tables).sum(), rtol=1e-5, atol=1e-5)

    def of_v(v: Tensor) -> Tensor:
        return reference.straight_through_tangent(v, planes, image, *factors, True)

    assert torch.autograd.gradcheck(of_v, v.requires_grad_(), fast_mode=True)


def test_clamps_mask_is_that_of_the_decoded_components() -> None:
    """At 4:4:4 the gradient is the incoming one where R, G, B of Pillow's Y, Cb, Cr are in 0…255, and 0 elsewhere."""
    for seed, pixels in enumerate(contents(np.random.default_rng(18), 40, 40, 3)):
        data = pillow_file(pixels, "4:4:4", quality=30)
        y, cb, cr = pillow_pixels(data, "YCbCr").astype(np.float64).transpose(2, 0, 1)
        cb, cr = cb - 128, cr - 128
        rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb])
        inside = torch.from_numpy((np.round(rgb) >= 0) & (np.round(rgb) <= 255))
        undecided = torch.from_numpy(np.minimum(abs(rgb + 0.5), abs(rgb - 255.5)) < 1e-2)

        image = reference.from_bytes(to_tensor(pixels).int(), torch.float64)
        _, planes = reference.round_trip(image, None, 30, 1, 1, True)
        g = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        of_image, _ = reference.round_trip_backward(g, planes, image, None, 30, 1, 1, True, False)
        # Colour mixes the channels, so a pixel is judged only where all three of its samples are decided.
        decided = ~undecided.any(0)
        torch.testing.assert_close(of_image[0][:, decided], (g[0] * inside)[:, decided], rtol=1e-9, atol=1e-9)
        assert decided.double().mean() > 0.9


def test_table_gradient_closed_form() -> None:
    """One grey block: g's own DCT times k - c."""
    generator = torch.Generator().manual_seed(19)
    image = interior((1, 1, 8, 8), 19)
    tables = random_tables(1, 19, 30)
    g = torch.randn(image.shape, generator=generator, dtype=torch.float64)
    _, planes = reference.round_trip(image, tables, 75, 1, 1, True)
    _, of_tables = reference.round_trip_backward(g, planes, image, tables, 75, 1, 1, True, True)
    c = reference.fdct(reference.to_bytes(image)[0] - 128)[0].double() / (8 * tables[0, 0].double())
    k = reference.encode(image, tables, 75, 1, 1)[0][0, 0, 0]
    expected = torch.from_numpy(t81_dct(g[0, 0].numpy())) / 255 * (k - c)
    torch.testing.assert_close(of_tables[0, 0].double(), expected, rtol=1e-5, atol=1e-7)
    assert not of_tables[0, 1:].any()


def test_table_gradient_is_optional() -> None:
    image = interior((2, 3, 8, 8), 20)
    _, planes = reference.round_trip(image, None, 75, 2, 2, True)
    _, of_tables = reference.round_trip_backward(image, planes, image, None, 75, 2, 2, True, False)
    assert of_tables.shape == (0,)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_backward_layout_and_odd_gradients(dtype: torch.dtype) -> None:
    image = interior((2, 3, 20, 18), 21).to(dtype)
    _, planes = reference.round_trip(image, None, 75, 2, 2, True)
    expected = reference.round_trip_backward(torch.ones_like(image), planes, image, None, 75, 2, 2, True, False)[0]
    assert expected.dtype == dtype
    expanded = torch.ones((), dtype=dtype).expand(image.shape)
    permuted = image.to(memory_format=torch.channels_last)
    got = reference.round_trip_backward(expanded, planes, permuted, None, 75, 2, 2, True, False)[0]
    assert torch.equal(got, expected)
    assert got.stride() == permuted.stride()


def test_nan_gradient_of_a_clamped_sample_is_dropped() -> None:
    """A clamped sample passes no gradient on, not even NaN; elsewhere a NaN gradient is the caller's."""
    image = torch.zeros(1, 3, 8, 8)
    image[:, 0] = 1.0
    _, planes = reference.round_trip(image, None, 1, 1, 1, True)
    of_image, _ = reference.round_trip_backward(
        torch.full_like(image, math.nan), planes, image, None, 1, 1, 1, True, False
    )
    inside = reference.straight_through_tangent(torch.ones_like(image), planes, image, 1, 1, True) != 0
    assert of_image[:, :, ~inside.any(1)[0]].isfinite().all()


# ---------------------------------------------------------------------------------------------------------------------
# Surrogates


class Wave:
    """A user's own surrogate, with only the two methods."""

    def forward(self, c: Tensor) -> Tensor:
        return c + 0.1 * c.sin()

    def derivative(self, c: Tensor) -> Tensor:
        return 1 + 0.1 * c.cos()


SURROGATES = [
    surrogates.StraightThrough(),
    surrogates.Cubic(floor=0.1),
    surrogates.Sine(),
    surrogates.Fourier(3),
    surrogates.Tanh(),
    surrogates.Softmax(),
    surrogates.Zero(),
    Wave(),
]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__)
def test_surrogates_keep_the_exact_forward(surrogate: surrogates.Surrogate, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(22)
    for channels, (subsampling, factors), fancy in itertools.product((3, 1), SAMPLING_FACTORS.items(), (True, False)):
        image = torch.rand(2, channels, 18, 21, generator=generator).to(dtype)
        image[0, 0, 0, :4] = torch.tensor([math.nan, math.inf, -math.inf, 3.0], dtype=dtype)
        image = image.to(memory_format=torch.channels_last)
        tables = random_tables(1, 22)
        expected, _ = reference.round_trip(image, tables, 75, *factors, fancy)
        got = reference.exact_with_surrogate(
            image.requires_grad_(), tables.requires_grad_(), *factors, fancy, surrogate
        )
        assert torch.equal(got, expected), subsampling
        assert got.dtype == dtype
        assert [s for s, size in zip(got.stride(), got.shape, strict=True) if size > 1] == [
            s for s, size in zip(expected.stride(), got.shape, strict=True) if size > 1
        ]
        of_image, of_tables = torch.autograd.grad(got.float().sum(), (image, tables))
        assert of_image.isfinite().all()
        assert of_tables.isfinite().all()
        assert of_image[0, 0, 0, 0] == 0


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__)
def test_surrogate_gradients_of_one_grey_block(surrogate: surrogates.Surrogate) -> None:
    """∂/∂coefficient = g r′(c) and ∂/∂q = g (k - c r′(c)), written out."""
    generator = torch.Generator().manual_seed(23)
    image = interior((1, 1, 8, 8), 23).requires_grad_()
    tables = random_tables(1, 23, 30).double().requires_grad_()
    g = torch.randn(image.shape, generator=generator, dtype=torch.float64)
    out = reference.exact_with_surrogate(image, tables, 1, 1, True, surrogate)
    of_image, of_tables = torch.autograd.grad(out, (image, tables), g)

    steps = tables.detach()[0, 0]
    c = reference.fdct(reference.to_bytes(image.detach())[0] - 128)[0].double() / (8 * steps)
    k = reference.encode(image.detach(), tables.detach().float(), 75, 1, 1)[0][0, 0, 0]
    of_coefficients = torch.from_numpy(t81_dct(g[0, 0].numpy()))
    slope = surrogate.derivative(c)
    torch.testing.assert_close(of_image[0, 0], reference.real_idct(of_coefficients * slope))
    torch.testing.assert_close(of_tables[0, 0], of_coefficients * (k - c * slope) / 255)
    assert not of_tables[0, 1:].any()


@every_upsampling
@every_subsampling
def test_surrogate_gradients_equal_the_real_pipelines(subsampling: str, fancy: bool) -> None:
    """Where the two arithmetics hardly differ in c, so do their gradients: here a slope that varies slowly."""
    factors = SAMPLING_FACTORS[subsampling]
    image = interior((1, 3, 19, 21), 24)
    tables = torch.full((1, 3, 8, 8), 16.0, dtype=torch.float64)
    image = (255 * image).round() / 255
    g = torch.randn(image.shape, generator=torch.Generator().manual_seed(24), dtype=torch.float64)

    def gradient(function: Callable[[Tensor], Tensor]) -> Tensor:
        point = image.clone().requires_grad_()
        return torch.autograd.grad(function(point), point, g)[0]

    exact = gradient(lambda x: reference.exact_with_surrogate(x, tables, *factors, fancy, Wave()))
    hard = surrogates.hard_rounding(Wave())
    real = gradient(lambda x: reference.real_pipeline(x, tables, *factors, fancy, hard))
    assert (exact - real).norm() < 0.02 * real.norm()


@pytest.mark.parametrize("quality", [1, 100])
@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__)
def test_no_gradient_is_nan(surrogate: surrogates.Surrogate, quality: int) -> None:
    tables = reference.standard_tables(quality, torch.empty(0)).float()
    for pixels in contents(np.random.default_rng(25), 24, 24, 3):
        image = reference.from_bytes(to_tensor(pixels).int(), torch.float32).requires_grad_()
        out = reference.exact_with_surrogate(image, tables.requires_grad_(), 2, 2, True, surrogate)
        for gradient in torch.autograd.grad(out.sum(), (image, tables)):
            assert gradient.isfinite().all()


def test_tables_are_differentiated_straight_through_their_rounding_and_limits() -> None:
    image = interior((1, 3, 16, 16), 26).requires_grad_()
    odd = torch.tensor([0.2, 300.0, 7.4, math.nan], dtype=torch.float64).repeat(48).reshape(1, 3, 8, 8)
    whole = reference.integer_tables(odd).double()
    gradients = []
    for tables in (odd, whole):
        out = reference.exact_with_surrogate(image, tables.requires_grad_(), 2, 2, True, surrogates.Cubic())
        gradients.append(torch.autograd.grad((out**2).sum(), tables)[0])
    assert torch.equal(*gradients)
    assert gradients[0].any()


def test_function_transforms() -> None:
    """``vmap(grad)`` over images gives the gradients of the images one by one."""
    images = interior((3, 3, 9, 10), 27)
    tables = random_tables(1, 27, 40).double()

    def loss(image: Tensor, tables: Tensor) -> Tensor:
        out = reference.exact_with_surrogate(image[None], tables, 2, 2, True, surrogates.Tanh())
        return (out**3).sum()

    got = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(0, None))(images, tables)
    for n in range(3):
        of_image, of_tables = torch.func.grad(loss, argnums=(0, 1))(images[n], tables)
        torch.testing.assert_close(got[0][n], of_image)
        torch.testing.assert_close(got[1][n], of_tables)
