"""Mistakes that users met in other differentiable JPEG layers, each with a test that would find it here."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import cases, oracles
from support.no_reading import NoReading
from support.settings import FACTORS
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._subclasses.fake_tensor import FakeTensorMode

import fdjpeg
from fdjpeg import JPEG, LearnableJPEG, QuantTables, RandomJPEG


@pytest.fixture
def image(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.random((2, 3, 24, 40))).float()


# --- a transposed luma table, copied from code to code


@pytest.mark.parametrize("arithmetic", ["libjpeg", "real"])
def test_horizontal_and_vertical_frequencies_are_not_exchanged(arithmetic: str) -> None:
    """T.81, Table K.1 is not symmetric. A wave of the highest horizontal frequency survives where its own step is 1."""
    tables = QuantTables.standard(50)
    assert tables.y[0, 7] == 61
    assert tables.y[7, 0] == 72
    wave = 0.5 + 0.3 * torch.cos((2 * torch.arange(16) + 1) * 7 * torch.pi / 16).expand(1, 1, 16, 16)
    for image, frequency in ((wave, (0, 7)), (wave.transpose(2, 3), (7, 0))):
        fine = torch.full((8, 8), 255.0)
        fine[0, 0] = fine[frequency] = 1
        kept = fdjpeg.jpeg(image, tables=QuantTables(fine, fine), arithmetic=arithmetic)
        assert (kept - image).abs().max() < 2 / 255
        lost = fdjpeg.jpeg(image, tables=QuantTables(fine.T, fine.T), arithmetic=arithmetic)
        assert (lost - image).abs().max() > 5 / 255


def test_a_transposed_luma_table_would_show() -> None:
    """Against Pillow with exactly that mistake made on purpose."""
    pixels = cases.CONTENTS["gradient"](np.random.default_rng(3), 3, 64, 64)
    pixels = np.bitwise_xor(pixels, cases.CONTENTS["noise"](np.random.default_rng(4), 3, 64, 64) & np.uint8(31))
    right = oracles.standard_tables(50)
    wrong = np.concatenate([right[:1].transpose(0, 2, 1), right[1:]])
    ours = fdjpeg.jpeg(torch.from_numpy(pixels), 50).numpy()
    assert np.array_equal(ours, oracles.round_trip(pixels, right, "4:2:0"))
    assert not np.array_equal(ours, oracles.round_trip(pixels, wrong, "4:2:0"))


# --- a soft floor in quality scaling


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("arithmetic", ["libjpeg", "real"])
def test_tables_of_a_quality_are_libjpegs_exactly(arithmetic: str, as_tensor: bool) -> None:
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    for quality in range(1, 101):
        expected = oracles.standard_tables(quality)
        given: float | Tensor = torch.tensor(float(quality), requires_grad=True) if as_tensor else quality
        tables = QuantTables.standard(given)
        assert np.array_equal(tables.stacked()[0].detach().numpy(), expected)
        if quality % 10 == 5:
            by_quality = fdjpeg.jpeg(image, given, arithmetic=arithmetic)
            by_tables = fdjpeg.jpeg(image, tables=QuantTables(*torch.from_numpy(expected)), arithmetic=arithmetic)
            assert torch.equal(by_quality.detach(), by_tables)


# --- a gradient to the tables exactly 0 at integer qualities; a soft clip that is never reached


@pytest.mark.parametrize("gradient", ["straight-through", "identity", "cubic", "sine", "tanh"])
@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 99])
def test_tables_and_quality_get_a_gradient_at_whole_numbers(quality: int, gradient: str, image: Tensor) -> None:
    leaf = torch.tensor(float(quality), requires_grad=True)
    learned = [table.float().requires_grad_() for table in (QuantTables.standard(quality).y, QuantTables.flat(9).y)]
    weight = torch.linspace(-1, 1, image.numel()).reshape(image.shape).sin()
    (of_quality,) = torch.autograd.grad((weight * fdjpeg.jpeg(image, leaf, gradient=gradient)).sum(), leaf)
    assert of_quality.isfinite()
    assert of_quality != 0
    out = fdjpeg.jpeg(image, tables=QuantTables(*learned), gradient=gradient)
    for of_table in torch.autograd.grad((weight * out).sum(), learned):
        assert of_table.isfinite().all()
        assert (of_table != 0).all()


def test_steps_at_and_beyond_their_bounds_get_one_too(image: Tensor) -> None:
    """Straight through the clamp, so that a step beyond a bound can come back."""
    for step in (-3.0, 0.0, 1.0, 255.0, 300.0):
        table = torch.full((8, 8), step, requires_grad=True)
        weight = torch.linspace(-1, 1, image.numel()).reshape(image.shape).sin()
        (weight * fdjpeg.jpeg(image, tables=QuantTables(table, table))).sum().backward()
        assert table.grad is not None
        assert (table.grad != 0).all()


def test_clipping_is_reached(rng: np.random.Generator) -> None:
    """The output is in [0, 1], and is 0 or 1 where the decoder clamps."""
    extremes = torch.from_numpy(cases.CONTENTS["extremes"](rng, 3, 32, 32)).float() / 255
    for arithmetic in ("libjpeg", "real"):
        out = fdjpeg.jpeg(extremes, 30, arithmetic=arithmetic)
        assert out.min() == 0
        assert out.max() == 1


# --- NaN at quality 100 or 0; 100 rejected; an integer quality tensor giving NaN; the caller's tensor overwritten


@pytest.mark.parametrize("content", ["flat", "extremes", "noise"])
@pytest.mark.parametrize(
    "gradient", ["straight-through", "identity", "cubic", "sine", "fourier", "tanh", "softmax", "zero"]
)
def test_no_quality_gives_nan(gradient: str, content: str, rng: np.random.Generator) -> None:
    image = torch.from_numpy(cases.CONTENTS[content](rng, 3, 16, 24)).float() / 255
    for value in (1.0, 100.0, 0.0, 101.0, float("nan")):
        leaf, quality = image.clone().requires_grad_(), torch.tensor(value, requires_grad=True)
        out = fdjpeg.jpeg(leaf, quality, gradient=gradient)
        out.square().sum().backward()
        for tensor in (out, leaf.grad, quality.grad):
            assert tensor is not None
            assert tensor.isfinite().all()


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.float64], ids=str
)
def test_quality_tensors_of_any_dtype(dtype: torch.dtype, image: Tensor) -> None:
    quality = torch.tensor([1, 100], dtype=dtype)
    out = fdjpeg.jpeg(image, quality)
    assert torch.equal(out, torch.stack([fdjpeg.jpeg(image[0], 1), fdjpeg.jpeg(image[1], 100)]))
    assert quality.tolist() == [1, 100]
    assert quality._version == 0


# --- sizes not a multiple of 16 rejected, or padded black; non-square images rejected; size fixed in the constructor


@pytest.mark.parametrize("subsampling", FACTORS)
def test_any_size_through_one_layer(subsampling: str, rng: np.random.Generator) -> None:
    layer = JPEG(50, subsampling=subsampling)
    for height, width in ((17, 31), (1, 1), (5, 64), (100, 3), (16, 16)):
        pixels = cases.CONTENTS["noise"](rng, 3, height, width)
        out = layer(torch.from_numpy(pixels)).numpy()
        assert np.array_equal(out, oracles.round_trip(pixels, 50, subsampling))


@pytest.mark.parametrize("arithmetic", ["libjpeg", "real"])
@pytest.mark.parametrize("subsampling", FACTORS)
def test_edges_are_not_darkened(subsampling: str, arithmetic: str) -> None:
    """A white image of an odd size stays white: padding repeats the edge."""
    white = torch.ones(1, 3, 19, 37)
    out = fdjpeg.jpeg(white, 10, subsampling=subsampling, arithmetic=arithmetic)
    assert (out - white).abs().max() < 1e-5


# --- CUDA tensors failing because a table sits on the CPU


def test_tables_and_quality_find_the_images_device() -> None:
    """`test_integration.py` has more cases, with gradients."""
    layers = (JPEG(50), JPEG(torch.tensor(50)), JPEG(tables=QuantTables.flat(8)), RandomJPEG((30, 95)))
    with FakeTensorMode(allow_non_fake_inputs=True):
        image = torch.rand(2, 3, 24, 40, device="cuda")
        for layer in layers:
            assert layer(image).device == image.device


# --- the DCT basis registered as thousands of trainable parameters; the input modified in place


def test_layers_hold_no_parameters_that_are_not_meant_to_be_learned() -> None:
    for layer in (JPEG(50), JPEG(tables=QuantTables.flat(8)), RandomJPEG((30, 95)), JPEG(50, arithmetic="real")):
        assert sum(parameter.numel() for parameter in layer.parameters()) == 0
    learnable = LearnableJPEG(QuantTables.standard(50))
    assert sum(parameter.numel() for parameter in learnable.parameters()) == 2 * 64
    optimizer = torch.optim.SGD(nn.Sequential(JPEG(50), nn.Conv2d(3, 1, 1)).parameters(), lr=0.1)
    assert len(optimizer.param_groups[0]["params"]) == 2


@pytest.mark.parametrize("arithmetic", ["libjpeg", "real"])
@pytest.mark.parametrize("gradient", ["straight-through", "identity", "cubic"])
def test_the_image_is_left_alone(gradient: str, arithmetic: str, image: Tensor) -> None:
    for given in (image, image.requires_grad_()):
        copy, version = given.detach().clone(), given._version
        out = fdjpeg.jpeg(given, 5, gradient=gradient, arithmetic=arithmetic)
        assert torch.equal(given.detach(), copy)
        assert given._version == version
        assert out.data_ptr() != given.data_ptr()
        assert not torch.equal(out.detach(), copy)


# --- bytes by truncation instead of rounding


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_bytes_are_rounded(dtype: torch.dtype) -> None:
    """Truncation would lose the bytes b for which b / 255 · 255 is just below b, and darken all others by half."""
    grey = (torch.arange(256) / 255).to(dtype).reshape(256, 1, 1, 1).expand(-1, -1, 8, 8)
    as_bytes = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1).expand(-1, -1, 8, 8)
    assert torch.equal(fdjpeg.encode(grey, 100).y, fdjpeg.encode(as_bytes, 100).y)
    noise = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    error = fdjpeg.jpeg(noise, 100, subsampling="4:4:4").double() - noise.double()
    assert abs(float(error.mean())) * 255 < 0.15  # truncation: −0.5


# --- chroma by nearest neighbour on the GPU but triangle on the CPU


@pytest.mark.parametrize("subsampling", ["4:2:2", "4:2:0", "4:4:0"])
def test_upsampling_is_what_was_asked_for(subsampling: str, rng: np.random.Generator) -> None:
    """Both by name, each with its own oracle, and not the same; `test_conformance.py` shows that all backends agree."""
    pixels = cases.CONTENTS["noise"](rng, 3, 33, 47)
    fancy, nearest = (
        fdjpeg.jpeg(torch.from_numpy(pixels), 75, subsampling=subsampling, upsampling=upsampling).numpy()
        for upsampling in ("fancy", "nearest")
    )
    assert np.array_equal(fancy, oracles.round_trip(pixels, 75, subsampling, "fancy"))
    assert np.array_equal(nearest, oracles.round_trip(pixels, 75, subsampling, "nearest"))
    assert not np.array_equal(fancy, nearest)
    assert np.array_equal(fancy, fdjpeg.jpeg(torch.from_numpy(pixels), 75, subsampling=subsampling).numpy())


# --- no fake kernels, host synchronisations, and so no torch.compile, no CUDA graphs


def test_one_op_forward_and_one_backward_without_a_look_at_values(image: Tensor) -> None:
    """There are two ops in the whole graph, and nothing that waits. (More in `test_integration.py`.)"""
    seen: list[str] = []

    def note(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        seen.extend(str(node.target) for node in graph.graph.nodes if "fdjpeg" in str(node.target))
        return make_boxed_func(graph.forward)

    compiled = torch.compile(fdjpeg.jpeg, fullgraph=True, backend=aot_autograd(fw_compiler=note, bw_compiler=note))
    leaf = image.requires_grad_()
    compiled(leaf, 50).sum().backward()
    assert seen == ["fdjpeg.round_trip.default", "fdjpeg.round_trip_backward.default"]
    with FakeTensorMode(), NoReading():
        fdjpeg.jpeg(torch.rand(2, 3, 24, 40, device="cuda"), torch.rand(2, device="cuda"))


# --- [0, 255] given instead of [0, 1], without a warning


def test_bytes_as_floats_are_noticed(image: Tensor) -> None:
    for wrong in (255 * image, (255 * image).requires_grad_(), (255 * image).half()):
        with pytest.warns(UserWarning, match=r"image must lie in \[0, 1\], got values up to 25.*divide by 255"):
            fdjpeg.jpeg(wrong, 50)
        with pytest.raises(ValueError, match=r"image must lie in \[0, 1\]"):
            fdjpeg.check(wrong)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fdjpeg.jpeg(image, 50)
        fdjpeg.jpeg((255 * image).byte(), 50)


# --- the file that was meant


def test_the_layer_is_what_a_user_would_have_written_with_pillow(image: Tensor) -> None:
    """Clip, round, save, open, divide: by hand, without our oracles."""
    by_hand = []
    for one in image:
        array = (one.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, "JPEG", quality=60)
        by_hand.append(torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1).float() / 255)
    assert torch.equal(fdjpeg.jpeg(image, 60), torch.stack(by_hand))
