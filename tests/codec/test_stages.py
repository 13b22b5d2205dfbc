"""The codec's steps one by one: against SciPy and Pillow, by gradcheck, together, and with bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import fdjpeg
from fdjpeg import QuantTables, reference, surrogates
from fdjpeg.surrogates import Noise

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-6, torch.float64: 1e-13}


def _double(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------------------
# The transforms


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(8, 8), (24, 40), (2, 3, 16, 56), (1, 0, 8, 8), (2, 0, 8)], ids=str)
def test_transforms_equal_scipys(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    samples = _double(*shape).to(dtype)
    *outer, height, width = shape
    blocks = samples.double().reshape(*outer, height // 8, 8, width // 8, 8).transpose(-3, -2)
    expected = scipy.fft.dctn(blocks.numpy(), axes=(-2, -1), norm="ortho")
    out = fdjpeg.block_dct(samples)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), torch.from_numpy(expected), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    back = fdjpeg.block_idct(out)
    assert back.dtype == dtype
    assert back.shape == shape
    torch.testing.assert_close(back.double(), samples.double(), rtol=0, atol=4 * TOLERANCE[dtype])


def test_transforms_without_kernels() -> None:
    samples = _double(3, 2, 16, 24)
    blocks = torch.ops.fdjpeg.block_dct(samples)
    torch.testing.assert_close(reference.block_dct(samples), blocks)
    torch.testing.assert_close(reference.block_idct(blocks), torch.ops.fdjpeg.block_idct(blocks))


def test_transforms_of_strided_tensors() -> None:
    samples = _double(2, 3, 32, 48)
    for odd in (samples[..., ::2, ::2], samples.transpose(2, 3), samples[:1].expand(4, 3, 32, 48)):
        torch.testing.assert_close(fdjpeg.block_dct(odd), fdjpeg.block_dct(odd.contiguous()), rtol=0, atol=0)
    blocks = fdjpeg.block_dct(samples)
    for odd in (blocks.transpose(-1, -2), blocks[:, :, ::2]):
        torch.testing.assert_close(fdjpeg.block_idct(odd), fdjpeg.block_idct(odd.contiguous()), rtol=0, atol=0)


def test_threads_change_nothing() -> None:
    samples = _double(5, 128, 512).float()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = fdjpeg.block_dct(samples)
        torch.set_num_threads(3)
        assert torch.equal(fdjpeg.block_dct(samples), alone)
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------------------------------
# Colour


def test_colour_is_the_codecs_before_it_rounds() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None]
    image = pixels.double() / 255
    ours = 255 * fdjpeg.rgb_to_ycbcr(image)
    libjpegs = torch.stack(reference.rgb_to_ycbcr(pixels.int()), 1)
    assert (ours - libjpegs).abs().max() <= 0.51  # its constants have 16 bits
    pillows = torch.from_numpy(np.array(Image.fromarray(rgb).convert("YCbCr"))).permute(2, 0, 1)
    assert (ours - pillows).abs().max() <= 1.01  # its constants have 6 bits
    torch.testing.assert_close(fdjpeg.ycbcr_to_rgb(fdjpeg.rgb_to_ycbcr(image)), image)


def test_colour_at_known_points() -> None:
    colours = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    centre, half = 128 / 255, 0.5
    expected = [
        [0, centre, centre],
        [1, centre, centre],
        [0.299, centre - 0.299 / 1.772, centre + half],
        [0.114, centre + half, centre - 0.114 / 1.402],
    ]
    out = fdjpeg.rgb_to_ycbcr(colours.T.reshape(3, 2, 2)).reshape(3, 4).T
    torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("function", [fdjpeg.rgb_to_ycbcr, fdjpeg.ycbcr_to_rgb], ids=lambda f: f.__name__)
def test_colour_keeps_shape_and_dtype(function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    image = _double(2, 2, 3, 4, 5)
    out = function(image.to(dtype))
    assert (out.dtype, out.shape) == (dtype, image.shape)
    torch.testing.assert_close(out.double(), function(image.to(dtype).double()), rtol=TOLERANCE[dtype], atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Quantization


def test_quantization_rounds_half_to_even() -> None:
    coefficients = torch.zeros(8, 8)
    coefficients[0] = torch.tensor([5.0, 15.0, 25.0, -5.0, -15.0, 14.9, 15.1, 0.0])
    levels = fdjpeg.quantize(coefficients, torch.full((8, 8), 10))
    assert levels[0].tolist() == [0, 2, 2, 0, -2, 1, 2, 0]
    assert torch.equal(fdjpeg.dequantize(levels, torch.full((8, 8), 10)), 10 * levels)


@pytest.mark.parametrize("name", ["straight-through", "cubic", "sine", "fourier", "tanh", "softmax", "zero"])
def test_quantizations_gradient_is_the_surrogates(name: str) -> None:
    coefficients, steps = (40 * _double(2, 3, 8, 8) - 20).requires_grad_(), (1 + _double(8, 8)).requires_grad_()
    grad = _double(2, 3, 8, 8)
    levels = fdjpeg.quantize(coefficients, steps, name)
    c = (coefficients / steps).detach()
    assert torch.equal(levels, c.round())
    slope = surrogates.resolve(name).derivative(c)
    of_coefficients, of_steps = torch.autograd.grad(levels, (coefficients, steps), grad)
    torch.testing.assert_close(of_coefficients, grad * slope / steps.detach())
    torch.testing.assert_close(of_steps, (-grad * slope * c / steps.detach()).sum((0, 1)))


def test_quantization_refuses_false_second_derivatives() -> None:
    coefficients = (40 * _double(8, 8)).requires_grad_()
    loss = fdjpeg.quantize(coefficients, torch.full((8, 8), 7.0), "sine").square().sum()
    (first,) = torch.autograd.grad(loss, coefficients, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(first.sum(), coefficients)


def test_noise_is_soft_quantization() -> None:
    coefficients, steps = 40 * _double(8, 8), torch.full((8, 8), 3.0, dtype=torch.float64)
    levels = fdjpeg.quantize(coefficients, steps, Noise(torch.Generator().manual_seed(1)), soft=True)
    off = levels - coefficients / steps
    assert off.abs().max() <= 0.5
    assert off.abs().max() > 0.4


# ---------------------------------------------------------------------------------------------------------------------
# All of them


def _soft(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda coefficients, steps: fdjpeg.quantize(coefficients, steps, name, soft=True)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (fdjpeg.block_dct, [(2, 8, 16)]),
        (fdjpeg.block_idct, [(2, 1, 2, 8, 8)]),
        (fdjpeg.rgb_to_ycbcr, [(2, 3, 2, 3)]),
        (fdjpeg.ycbcr_to_rgb, [(2, 3, 2, 3)]),
        (fdjpeg.dequantize, [(2, 8, 8), (8, 8)]),
        *((_soft(name), [(2, 8, 8), (8, 8)]) for name in ("sine", "fourier", "tanh", "softmax", "cubic")),
    ],
)
def test_gradcheck(function: Callable[..., Tensor], shapes: list[tuple[int, ...]]) -> None:
    # The second flipped, so that no coefficient is a whole number of steps.
    inputs = [(0.5 + _double(*shape).flip([0] * i)).requires_grad_() for i, shape in enumerate(shapes)]
    assert gradcheck(function, inputs, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize(("gradient", "soft"), [("straight-through", False), ("tanh", False), ("tanh", True)])
def test_together_they_are_the_codec(gradient: str, soft: bool) -> None:
    image = _double(2, 3, 16, 24).requires_grad_()
    tables = QuantTables.standard(torch.tensor([40.0, 85.0]).double())
    steps = tables.stacked()[..., None, None, :, :]
    ycbcr = 255 * fdjpeg.rgb_to_ycbcr(image) - 128
    levels = fdjpeg.quantize(fdjpeg.block_dct(ycbcr), steps, gradient, soft=soft)
    ycbcr = fdjpeg.block_idct(fdjpeg.dequantize(levels, steps))
    out = fdjpeg.ycbcr_to_rgb((ycbcr + 128) / 255).clamp(0, 1)
    expected = fdjpeg.jpeg(image, tables=tables, subsampling="4:4:4", gradient=gradient, arithmetic="real", soft=soft)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    gradients = (torch.autograd.grad(x.square().sum(), image)[0] for x in (out, expected))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)


def _pieces(image: Tensor, steps: Tensor) -> Tensor:
    coefficients = fdjpeg.block_dct(fdjpeg.rgb_to_ycbcr(image))
    return fdjpeg.ycbcr_to_rgb(fdjpeg.block_idct(fdjpeg.dequantize(fdjpeg.quantize(coefficients, steps), steps)))


def test_compile_vmap_and_jacobian() -> None:
    torch.compiler.reset()
    image, steps = _double(2, 3, 8, 16).requires_grad_(), 0.1 + _double(8, 8)
    expected = _pieces(image, steps)
    grad = _double(2, 3, 8, 16).flip(0)
    (of_image,) = torch.autograd.grad(expected, image, grad)
    compiled = torch.compile(_pieces, fullgraph=True, backend="aot_eager")(image, steps)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(torch.autograd.grad(compiled, image, grad)[0], of_image)
    torch.testing.assert_close(torch.func.vmap(_pieces, in_dims=(0, None))(image, steps), expected)
    assert torch.func.vmap(fdjpeg.block_dct, in_dims=-1)(_double(8, 8, 3)).shape == (3, 1, 1, 8, 8)
    _, pullback = torch.func.vjp(lambda x: _pieces(x, steps), image.detach())
    torch.testing.assert_close(pullback(grad)[0], of_image)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (fdjpeg.block_dct, ([1.0],), TypeError, "samples must be a torch.Tensor, got list"),
        (
            fdjpeg.block_dct,
            (torch.zeros(8, 8, dtype=torch.uint8),),
            TypeError,
            "samples must be float16, .* got torch.uint8",
        ),
        (
            fdjpeg.block_dct,
            (torch.zeros(8, 12),),
            ValueError,
            r"samples must have .* multiples of 8, got \(8, 12\): pad",
        ),
        (fdjpeg.block_dct, (torch.zeros(8),), ValueError, r"samples must have shape \(..., H, W\)"),
        (fdjpeg.block_dct, (torch.zeros(8, 8).to_sparse(),), TypeError, "samples must be a dense tensor, got .*sparse"),
        (fdjpeg.block_idct, (torch.zeros(8, 8),), ValueError, r"blocks must have shape .* got \(8, 8\)"),
        (fdjpeg.block_idct, (torch.zeros(1, 1, 8, 4),), ValueError, r"blocks must have shape .* got \(1, 1, 8, 4\)"),
        (fdjpeg.block_idct, (torch.zeros(1, 1, 8, 8).int(),), TypeError, "blocks must be float16"),
        (fdjpeg.rgb_to_ycbcr, (torch.zeros(1, 8, 8),), ValueError, r"image must have shape \(..., 3, H, W\), got"),
        (fdjpeg.rgb_to_ycbcr, (torch.zeros(3, 8, 8).byte(),), TypeError, "image must be float16, .* got torch.uint8"),
        (fdjpeg.ycbcr_to_rgb, (torch.zeros(3, 8),), ValueError, r"image must have shape .* got \(3, 8\)"),
        (fdjpeg.ycbcr_to_rgb, (None,), TypeError, "image must be a torch.Tensor, got NoneType"),
        (fdjpeg.quantize, (torch.zeros(8, 8).int(), torch.ones(8, 8)), TypeError, "coefficients must be float16"),
        (fdjpeg.quantize, (torch.zeros(8, 8), 3.0), TypeError, "steps must be a torch.Tensor, got float"),
        (fdjpeg.quantize, (torch.zeros(8, 8), torch.ones(8, 8) > 0), TypeError, "steps must have .* got torch.bool"),
        (
            fdjpeg.quantize,
            (torch.zeros(8, 8), torch.ones(2, 8, 8)),
            ValueError,
            r"steps must broadcast .* got \(2, 8, 8\)",
        ),
        (fdjpeg.quantize, (torch.zeros(8, 8), torch.ones(7)), ValueError, r"steps must broadcast .* got \(7,\)"),
        (
            fdjpeg.quantize,
            (torch.zeros(8, 8), torch.ones(8, 8), "round"),
            ValueError,
            "gradient must be one of .* 'round'",
        ),
        (fdjpeg.dequantize, (torch.zeros(8, 8).int(), torch.ones(8, 8)), TypeError, "levels must be float16"),
        (fdjpeg.dequantize, (torch.zeros(8, 8), torch.ones(9, 8)), ValueError, "steps must broadcast"),
    ],
)
def test_bad_input(function: Any, arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        function(*arguments)


def test_soft_quantization_needs_a_smooth_surrogate() -> None:
    with pytest.raises(ValueError, match="soft=True needs a gradient with a smooth forward, got 'zero'"):
        fdjpeg.quantize(torch.zeros(8, 8), torch.ones(8, 8), "zero", soft=True)
    with pytest.raises(TypeError, match="soft must be True or False, got 1"):
        fdjpeg.quantize(torch.zeros(8, 8), torch.ones(8, 8), "sine", soft=1)  # type: ignore[arg-type]
