"""A quality for each block: `fdjpeg.jpeg` with a map of qualities, its op, and `fdjpeg.StochasticJPEG`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support import cases, oracles
from support.backends import Backend
from support.no_reading import NoReading
from support.settings import FACTORS
from torch import Tensor

import fdjpeg
from fdjpeg import StochasticJPEG, reference
from fdjpeg._geometry import Geometry

SUBSAMPLINGS = pytest.mark.parametrize("subsampling", FACTORS)


@pytest.fixture
def round_trip_by_block(backend: Backend) -> Callable[..., Any]:
    """Runs the op by each backend that has a kernel for it; tensors come from and go to the CPU."""
    op = backend.round_trip_by_block
    if op is None:
        pytest.skip(f"{backend.name} has no kernel for it")

    def call(image: Tensor, qualities: Tensor, *sampling: Any) -> list[Tensor]:
        results = op(image.to(backend.device), qualities.to(backend.device), *sampling)
        return [result.cpu() for result in results]

    return call


#: Few, so that adjacent blocks are often alike and often not.
QUALITIES = (1, 20, 49, 50, 93, 100)


def _draw_map(rng: np.random.Generator, images: int, height: int, width: int) -> NDArray[np.uint8]:
    return rng.choice(np.array(QUALITIES, np.uint8), (images, -(-height // 8), -(-width // 8)))


def _blocks_to_samples(by_block: Tensor, height: int, width: int) -> Tensor:
    return by_block.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None, :height, :width]


def _expected(pixels: oracles.Bytes, qualities: NDArray[np.uint8], subsampling: str, fancy: bool) -> Tensor:
    """Decodes coefficients that are taken, block by block, from the file at the block's quality."""
    grey = pixels.shape[0] == 1
    horizontal, vertical = (1, 1) if grey else FACTORS[subsampling]
    maps = [qualities, *2 * [qualities[::vertical, ::horizontal]]]
    dequantized: list[NDArray[np.int16]] = []
    for quality in np.unique(qualities):
        held = oracles.coefficients(oracles.encode(pixels, int(quality), subsampling))
        at_quality = [(k * table).astype(np.int16) for k, table in zip(held.components, held.tables, strict=False)]
        dequantized = dequantized or [np.zeros_like(component) for component in at_quality]
        for target, source, by_block in zip(dequantized, at_quality, maps, strict=False):
            chosen = by_block == quality
            target[chosen] = source[chosen]
    components = [torch.from_numpy(component)[None] for component in dequantized]
    if grey:
        components += 2 * [torch.empty(1, 0, 0, 8, 8, dtype=torch.int16)]
    factors = FACTORS[subsampling]
    decoded = torch.ops.fdjpeg.decode(
        *components, torch.ones(1, 3, 8, 8), *pixels.shape[1:], *factors, fancy, torch.uint8
    )
    return decoded[0]


# ---------------------------------------------------------------------------------------------------------------------
# Forward


@pytest.mark.parametrize("channels", [3, 1], ids=["rgb", "grey"])
def test_each_block_of_pixels_is_that_of_the_file_at_its_quality(
    round_trip_by_block: Callable[..., Any], channels: int, rng: np.random.Generator
) -> None:
    for height, width in cases.SIZES:
        pixels = cases.draw(rng, channels, height, width, images=2).pixels
        qualities = _draw_map(rng, 2, height, width)
        out, _ = round_trip_by_block(torch.from_numpy(pixels), torch.from_numpy(qualities), 1, 1, True)
        chosen = _blocks_to_samples(torch.from_numpy(qualities), height, width)
        for quality in np.unique(qualities):
            files = np.stack([oracles.round_trip(image, int(quality), "4:4:4") for image in pixels])
            assert not ((chosen == int(quality)) & (out != torch.from_numpy(files))).any()


@SUBSAMPLINGS
def test_each_blocks_coefficients_are_those_of_the_file_at_its_quality(
    round_trip_by_block: Callable[..., Any], subsampling: str, rng: np.random.Generator
) -> None:
    for channels, (height, width) in ((3, (1, 1)), (3, (9, 10)), (3, (33, 34)), (1, (17, 15)), (3, (70, 145))):
        pixels = cases.draw(rng, channels, height, width, images=2).pixels
        qualities = _draw_map(rng, 2, height, width)
        for fancy in (True, False):
            out, _ = round_trip_by_block(
                torch.from_numpy(pixels), torch.from_numpy(qualities), *FACTORS[subsampling], fancy
            )
            for image, by_block, actual in zip(pixels, qualities, out, strict=True):
                assert torch.equal(actual, _expected(image, by_block, subsampling, fancy))


@SUBSAMPLINGS
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_one_quality_everywhere_is_that_quality(
    round_trip_by_block: Callable[..., Any], subsampling: str, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    image = cases.samples(rng, cases.draw(rng, 3, 41, 53).pixels, dtype)
    factors = FACTORS[subsampling]
    for quality in (1, 37, 75, 100):
        by_block = torch.full((3, 6, 7), quality, dtype=torch.uint8)
        out, planes = round_trip_by_block(image, by_block, *factors, True)
        expected, expected_planes = reference.round_trip(image, None, float(quality), *factors, True)
        assert torch.equal(out, expected)
        flags = Geometry.of(41, 53, 3, *factors).flag_offset  # more may be set than must be
        assert torch.equal(planes[:, :flags], expected_planes[:, :flags])


def test_qualities_outside_act_as_the_nearer_end(round_trip_by_block: Callable[..., Any]) -> None:
    image = torch.rand(1, 3, 8, 24)
    actual, _ = round_trip_by_block(image, torch.tensor([[[0, 101, 255]]], dtype=torch.uint8), 1, 1, True)
    expected, _ = round_trip_by_block(image, torch.tensor([[[1, 100, 100]]], dtype=torch.uint8), 1, 1, True)
    assert torch.equal(actual, expected)


def test_a_map_of_any_dtype_acts_rounded_and_clamped() -> None:
    image = torch.rand(1, 3, 8, 40)
    expected = fdjpeg.jpeg(image, torch.tensor([[[1, 1, 100, 38, 51]]]))
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(
            fdjpeg.jpeg(image, torch.tensor([[[torch.nan, -3, torch.inf, 37.5, 51.4]]], dtype=dtype)), expected
        )
    assert torch.equal(fdjpeg.jpeg(image, torch.tensor([[[0, -300, 700, 38, 51]]], dtype=torch.int16)), expected)
    learned = torch.tensor([[[torch.nan, -3, torch.inf, 37.5, 51.4]]], requires_grad=True)
    assert torch.equal(fdjpeg.jpeg(image, learned), expected)


def test_images_of_any_leading_shape_and_layout() -> None:
    image = torch.rand(2, 2, 3, 17, 20)
    by_block = torch.randint(1, 101, (4, 3, 3))
    out = fdjpeg.jpeg(image, by_block)
    assert out.shape == image.shape
    assert torch.equal(out[0, 1], fdjpeg.jpeg(image[0, 1], by_block[1:2]))
    strided = image.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    assert torch.equal(fdjpeg.jpeg(strided, by_block).unflatten(0, (2, 2)), out)
    assert fdjpeg.jpeg(torch.rand(0, 3, 9, 9), torch.empty(0, 2, 2)).shape == (0, 3, 9, 9)


# ---------------------------------------------------------------------------------------------------------------------
# Gradients


def _gradients(image: Tensor, quality: Tensor, **settings: Any) -> tuple[Tensor, ...]:
    image, quality = image.clone().requires_grad_(), quality.clone().requires_grad_()
    out = fdjpeg.jpeg(image, quality, **settings)
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
    return out.detach(), *torch.autograd.grad((out * weights).sum(), (image, quality))


@pytest.mark.parametrize("gradient", ["straight-through", "identity", "cubic", "zero"])
@pytest.mark.parametrize("arithmetic", ["libjpeg", "real"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0", "4:1:1"])
def test_gradients_of_one_quality_everywhere_are_that_qualitys(
    subsampling: str, arithmetic: str, gradient: str
) -> None:
    image = torch.rand(2, 3, 18, 35, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    quality = torch.tensor([30.0, 80.0], dtype=torch.float64)
    settings = {"subsampling": subsampling, "gradient": gradient, "arithmetic": arithmetic}
    out, of_image, of_quality = _gradients(image, quality, **settings)
    by_block = quality[:, None, None].expand(2, 3, 5)
    out_by_block, of_image_by_block, of_map = _gradients(image, by_block, **settings)
    torch.testing.assert_close(out_by_block, out, rtol=0, atol=1e-12)
    torch.testing.assert_close(of_image_by_block, of_image, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(of_map.sum((1, 2)), of_quality, rtol=1e-4, atol=1e-5)


@SUBSAMPLINGS
def test_gradient_of_the_image_alone_is_that_of_the_reference_pieces(
    subsampling: str, rng: np.random.Generator
) -> None:
    image = torch.from_numpy(cases.draw(rng, 3, 26, 43, images=2).pixels / 255)
    by_block = torch.from_numpy(_draw_map(rng, 2, 26, 43))
    fused = image.clone().requires_grad_()
    out = fdjpeg.jpeg(fused, by_block, subsampling=subsampling)
    (actual,) = torch.autograd.grad((out * out).sum(), fused)
    expected_out, expected, _ = _gradients(image, by_block.double(), subsampling=subsampling)
    assert torch.equal(out.detach(), expected_out)
    pieces = image.clone().requires_grad_()
    in_pieces = fdjpeg.jpeg(pieces, by_block.double().requires_grad_(), subsampling=subsampling)
    (expected,) = torch.autograd.grad((in_pieces * in_pieces).sum(), pieces)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gradient", ["sine", "tanh"])
def test_gradcheck_where_rounding_is_soft(gradient: str) -> None:
    generator = torch.Generator().manual_seed(5)
    image = (0.3 + 0.4 * torch.rand(1, 3, 9, 17, dtype=torch.float64, generator=generator)).requires_grad_()
    by_block = (20 + 70 * torch.rand(1, 2, 3, dtype=torch.float64, generator=generator)).requires_grad_()

    def soft(image: Tensor, by_block: Tensor) -> Tensor:
        return fdjpeg.jpeg(image, by_block, arithmetic="real", soft=True, gradient=gradient)

    inputs = (image, by_block)
    assert torch.autograd.gradcheck(soft, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(soft, inputs, fast_mode=True, check_undefined_grad=False)


def test_soft_second_derivatives_agree_in_both_modes() -> None:
    generator = torch.Generator().manual_seed(5)
    inputs = (
        0.3 + 0.4 * torch.rand(1, 3, 9, 17, dtype=torch.float64, generator=generator),
        20 + 70 * torch.rand(1, 2, 3, dtype=torch.float64, generator=generator),
    )

    def loss(image: Tensor, by_block: Tensor) -> Tensor:
        return fdjpeg.jpeg(image, by_block, arithmetic="real", soft=True, gradient="tanh").pow(3).sum()

    tangents = tuple(torch.randn_like(one) for one in inputs)
    leaves = tuple(one.clone().requires_grad_() for one in inputs)
    first = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    wanted = torch.autograd.grad(first, leaves, tangents)
    found = torch.func.jvp(torch.func.grad(loss, (0, 1)), inputs, tangents)[1]
    for one, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-6, atol=1e-6)


def test_surrogates_refuse_a_second_derivative_and_straight_through_has_one() -> None:
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    by_block = torch.randint(1, 101, (1, 2, 2))
    (grad,) = torch.autograd.grad((fdjpeg.jpeg(image, by_block) ** 2).sum(), image, create_graph=True)
    assert torch.autograd.grad(grad.sum(), image)[0].abs().sum() > 0
    out = fdjpeg.jpeg(image, by_block, gradient="cubic")
    (grad,) = torch.autograd.grad((out**2).sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(grad.sum(), image)


def test_identity_passes_the_gradient_whatever_the_samples() -> None:
    image = torch.tensor([torch.nan, torch.inf, -torch.inf, 2.0, 0.5]).expand(1, 1, 5, 5).clone().requires_grad_()
    for by_block in (torch.full((1, 1, 1), 40), torch.full((1, 1, 1), 40.0, requires_grad=True)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some samples are above 1
            out = fdjpeg.jpeg(image, by_block, gradient="identity")
        (grad,) = torch.autograd.grad(out.sum(), image)
        assert torch.equal(grad, torch.ones_like(image))


# ---------------------------------------------------------------------------------------------------------------------
# Inside of PyTorch


def test_compiles_and_maps() -> None:
    torch.compiler.reset()
    image, by_block = torch.rand(3, 2, 3, 17, 20), torch.randint(1, 101, (3, 2, 3, 3))

    def loss(image: Tensor, by_block: Tensor) -> Tensor:
        return (fdjpeg.jpeg(image, by_block) ** 2).sum()

    expected = torch.stack([torch.func.grad(loss)(one, quality) for one, quality in zip(image, by_block, strict=True)])
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(image, by_block), expected)
    mapped = torch.vmap(lambda one: fdjpeg.jpeg(one, by_block[0]))(image)
    assert torch.equal(mapped[2], fdjpeg.jpeg(image[2], by_block[0]))
    compiled = torch.compile(lambda image: fdjpeg.jpeg(image, by_block[0]), fullgraph=True)
    leaf, other = image[0].clone().requires_grad_(), image[0].clone().requires_grad_()
    (compiled(leaf) ** 2).sum().backward()
    loss(other, by_block[0]).backward()
    torch.testing.assert_close(leaf.grad, other.grad)


def test_nothing_is_read_back() -> None:
    layer = StochasticJPEG()
    image = torch.empty(2, 3, 16, 16, device="meta", requires_grad=True)
    with NoReading():
        layer.to("meta")(image).sum().backward()
        learned = torch.empty(2, 2, 2, device="meta", requires_grad=True)
        fdjpeg.jpeg(image, learned, gradient="cubic").sum().backward()
    assert image.grad is not None
    assert learned.grad is not None


# ---------------------------------------------------------------------------------------------------------------------
# StochasticJPEG


def test_stochastic_jpeg_draws_each_blocks_quality_from_those_given() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 8, 8, generator=generator).repeat(2, 1, 20, 25)
    out = StochasticJPEG((20, 40, 80), generator)(image)
    blocks = out.unfold(2, 8, 8).unfold(3, 8, 8).reshape(-1, 8, 8)
    at = [fdjpeg.jpeg(image[:1, :, :8, :8], quality)[0, 0] for quality in (20, 40, 80)]
    counts = [sum(torch.equal(block, wanted) for block in blocks) for wanted in at]
    assert sum(counts) == 1000
    assert min(counts) > 250  # 333 expected of each: five standard deviations away


def test_stochastic_jpeg_is_repeated_by_its_generator_and_keeps_no_state() -> None:
    image = torch.rand(2, 3, 24, 40)
    first, again = (StochasticJPEG(generator=torch.Generator().manual_seed(5))(image) for _ in range(2))
    assert torch.equal(first, again)
    layer = StochasticJPEG()
    assert not layer.state_dict()
    assert repr(layer) == (
        "StochasticJPEG(qualities=(20, 40, 60, 80), subsampling='4:2:0', gradient='straight-through')"
    )


def test_stochastic_jpeg_passes_its_settings_on() -> None:
    image = torch.rand(2, 3, 24, 40, requires_grad=True)
    settings = {"subsampling": "4:2:2", "upsampling": "nearest"}
    out = StochasticJPEG([60], gradient="identity", **settings)(image)
    assert torch.equal(out, fdjpeg.jpeg(image, 60, **settings))
    assert torch.equal(torch.autograd.grad(out.sum(), image)[0], torch.ones_like(image))


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize("qualities", [(), (0,), (20, 101), (20.0,), (True,), 20, "20"], ids=repr)
def test_stochastic_jpeg_refuses_bad_qualities(qualities: Any) -> None:
    with pytest.raises(ValueError, match="qualities must be one or more integers in 1…100, got "):
        StochasticJPEG(qualities)


def test_stochastic_jpeg_refuses_what_is_no_image() -> None:
    with pytest.raises(ValueError, match="image must have shape"):
        StochasticJPEG()(torch.rand(8))


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 2, 3), (2, 16, 24)], ids=str)
def test_shape_of_a_map(shape: tuple[int, ...]) -> None:
    image = torch.rand(2, 3, 16, 24)
    for function in (fdjpeg.jpeg, fdjpeg.check):
        with pytest.raises(ValueError) as refused:
            function(image, torch.full(shape, 50))
        assert str(refused.value) == (f"quality, a map, must have a value for each block, (2, 2, 3), got shape {shape}")


def test_dtype_of_a_map() -> None:
    with pytest.raises(TypeError, match=r"quality must have an integer or floating dtype, got torch\.bool"):
        fdjpeg.jpeg(torch.rand(1, 3, 8, 8), torch.ones(1, 1, 1, dtype=torch.bool))


def test_bytes_carry_no_gradient_to_a_map() -> None:
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(TypeError, match="image must be floating where quality requires a gradient, got uint8"):
        fdjpeg.jpeg(image, torch.full((1, 1, 1), 50.0, requires_grad=True))


def test_samples_above_one_draw_a_warning_where_the_caller_is() -> None:
    with pytest.warns(UserWarning, match="image must lie in") as caught:
        fdjpeg.jpeg(torch.full((1, 1, 8, 8), 2.0), torch.full((1, 1, 1), 50))
    assert caught[0].filename == __file__


def test_check_reads_a_map() -> None:
    image = torch.rand(1, 3, 8, 16)
    fdjpeg.check(image, torch.tensor([[[1, 100]]]))
    with pytest.raises(ValueError, match="quality must be in 1…100, got 101"):
        fdjpeg.check(image, torch.tensor([[[50, 101]]]))


def test_no_file_holds_a_quality_for_each_block() -> None:
    with pytest.raises(ValueError, match="quality must be a number, a 0-dim tensor or one of shape"):
        fdjpeg.encode(torch.rand(1, 3, 8, 8), torch.full((1, 1, 1), 50))


def test_the_op_refuses_another_map() -> None:
    wanted = r"qualities must be contiguous uint8 of shape \(1, 2, 3\), got "
    for qualities in (torch.ones(1, 2, 3), torch.ones(1, 3, 2, dtype=torch.uint8)):
        with pytest.raises(RuntimeError, match=wanted):
            torch.ops.fdjpeg.round_trip_by_block(torch.rand(1, 3, 16, 24), qualities, 2, 2, True)


@pytest.mark.parametrize(("gradient", "learned"), [("straight-through", False), ("cubic", False), ("identity", True)])
def test_compiled_in_one_graph(rng: np.random.Generator, gradient: str, learned: bool) -> None:
    image = torch.from_numpy(rng.random((2, 3, 18, 21))).float().requires_grad_()
    quality = torch.from_numpy(rng.integers(20, 90, (2, 3, 3))).float().requires_grad_(learned)
    torch.compiler.reset()

    def layer(image: Tensor, quality: Tensor) -> Tensor:
        return fdjpeg.jpeg(image, quality, gradient=gradient)

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    out, expected = compiled(image, quality), layer(image, quality)
    assert torch.equal(out, expected)
    leaves = [image, quality] if learned else [image]
    for one, other in zip(
        torch.autograd.grad(out.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
