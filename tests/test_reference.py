"""The oracle against its own: Pillow and libjpeg-turbo for the integers, T.81's formula and autograd for the rest."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jpeglib
import numpy as np
import pytest
import simplejpeg
import torch
from no_reading import NoCopying
from PIL import Image
from torch import Tensor

from fdjpeg import _constants, reference, surrogates
from fdjpeg._geometry import SAMPLING_FACTORS, Geometry

PILLOW = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SIZES = [(1, 1), (1, 9), (8, 8), (7, 3), (17, 2), (16, 33), (31, 45)]
every_subsampling = pytest.mark.parametrize("subsampling", SAMPLING_FACTORS)
every_upsampling = pytest.mark.parametrize("fancy", [True, False], ids=["fancy", "nearest"])
every_channels = pytest.mark.parametrize("channels", [3, 1], ids=["rgb", "grey"])


# ---------------------------------------------------------------------------------------------------------------------
# Material


def contents(rng: np.random.Generator, height: int, width: int, channels: int) -> Iterator[np.ndarray]:
    """White noise, 0/255 noise, a gradient and a flat colour: uint8 (H, W, C)."""
    shape = (height, width, channels)
    yield rng.integers(0, 256, shape, dtype=np.uint8)
    yield 255 * rng.integers(0, 2, shape, dtype=np.uint8)
    ramp = np.linspace(0, 255, height)[:, None, None] * np.linspace(0, 1, width)[None, :, None]
    yield np.broadcast_to(ramp, shape).astype(np.uint8) ^ rng.integers(0, 256, channels, dtype=np.uint8)
    yield np.broadcast_to(rng.integers(0, 256, channels, dtype=np.uint8), shape).copy()


def to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


def to_pixels(image: Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


def pillow_file(pixels: np.ndarray, subsampling: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    picture.save(buffer, "JPEG", subsampling=PILLOW[subsampling], **options)
    return buffer.getvalue()


def pillow_pixels(data: bytes, mode: str | None = None) -> np.ndarray:
    picture = Image.open(io.BytesIO(data))
    if mode is not None:
        picture.draft(mode, picture.size)
    pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def interior(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images so near to mid-grey that at small steps no sample comes close to 0 or 1."""
    return 0.4 + 0.2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_tables(count: int, seed: int, top: int = 255) -> Tensor:
    return torch.randint(1, top + 1, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed)).float()


# ---------------------------------------------------------------------------------------------------------------------
# The integers


@every_channels
@pytest.mark.parametrize("subsampling", PILLOW)
def test_equals_pillow(subsampling: str, channels: int) -> None:
    rng = np.random.default_rng(1)
    for size, quality in itertools.product(SIZES, (1, 24, 49, 50, 75, 100)):
        for pixels in contents(rng, *size, channels):
            expected = pillow_pixels(pillow_file(pixels, subsampling, quality=quality))
            got, _ = reference.round_trip(to_tensor(pixels), None, quality, *SAMPLING_FACTORS[subsampling], True)
            np.testing.assert_array_equal(to_pixels(got), expected, err_msg=f"{size}, quality {quality}")


@pytest.mark.parametrize("subsampling", PILLOW)
def test_custom_tables_equal_pillow(subsampling: str) -> None:
    """Three tables of their own, those of nothing but 1 and of nothing but 255 among them."""
    rng = np.random.default_rng(2)
    cases = [random_tables(1, seed)[0] for seed in range(4)] + [torch.ones(3, 8, 8), torch.full((3, 8, 8), 255.0)]
    for tables, size in itertools.product(cases, SIZES):
        qtables = [table.flatten().int().tolist() for table in tables]
        for pixels in contents(rng, *size, 3):
            expected = pillow_pixels(pillow_file(pixels, subsampling, qtables=qtables))
            got, _ = reference.round_trip(to_tensor(pixels), tables[None], 75, *SAMPLING_FACTORS[subsampling], True)
            np.testing.assert_array_equal(to_pixels(got), expected)


def turbo_file(pixels: np.ndarray, subsampling: str, quality: int) -> bytes:
    """A file by libjpeg-turbo's own interface, which uses the accurate DCT from quality 96 on."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, colorsubsampling=subsampling.replace(":", ""))


@every_upsampling
@every_subsampling
def test_equals_libjpeg_turbo(subsampling: str, fancy: bool) -> None:
    """All five subsamplings, and its fast upsampling for ours by repetition."""
    rng = np.random.default_rng(3)
    for size, quality in itertools.product(SIZES, (96, 98, 100)):
        for pixels in contents(rng, *size, 3):
            expected = simplejpeg.decode_jpeg(turbo_file(pixels, subsampling, quality), fastupsample=not fancy)
            got, _ = reference.round_trip(to_tensor(pixels), None, quality, *SAMPLING_FACTORS[subsampling], fancy)
            np.testing.assert_array_equal(to_pixels(got), expected, err_msg=f"{size}, quality {quality}")


@pytest.mark.parametrize("subsampling", PILLOW)
def test_repetition_equals_fast_upsampling_of_pillows_files(subsampling: str) -> None:
    rng = np.random.default_rng(3)
    for size, quality in itertools.product(SIZES, (3, 50, 90)):
        for pixels in contents(rng, *size, 3):
            data = pillow_file(pixels, subsampling, quality=quality)
            got, _ = reference.round_trip(to_tensor(pixels), None, quality, *SAMPLING_FACTORS[subsampling], False)
            np.testing.assert_array_equal(to_pixels(got), simplejpeg.decode_jpeg(data, fastupsample=True))


@every_subsampling
def test_decodes_the_coefficients_of_files(subsampling: str, tmp_path: Path) -> None:
    """At every quality, coefficients as an independent library reads them."""
    rng = np.random.default_rng(3)
    for size, quality in itertools.product(SIZES, (3, 50, 90)):
        for pixels in contents(rng, *size, 3):
            data = turbo_file(pixels, subsampling, quality)
            (tmp_path / "file.jpg").write_bytes(data)
            file = jpeglib.read_dct(tmp_path / "file.jpg")
            coefficients = [torch.from_numpy(blocks.astype(np.int16))[None] for blocks in (file.Y, file.Cb, file.Cr)]
            tables = reference.standard_tables(quality, torch.empty(0)).float()
            for fancy in (True, False):
                expected = simplejpeg.decode_jpeg(data, fastupsample=not fancy)
                got = reference.decode(*coefficients, tables, *size, *SAMPLING_FACTORS[subsampling], fancy, torch.uint8)
                np.testing.assert_array_equal(to_pixels(got), expected, err_msg=f"{size}, quality {quality}")


@every_channels
@every_subsampling
def test_decode_of_encode_is_the_round_trip(subsampling: str, channels: int) -> None:
    factors = SAMPLING_FACTORS[subsampling]
    image = torch.randint(0, 256, (2, channels, 19, 37), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    tables = random_tables(2, 4)
    for fancy in (True, False):
        coefficients = reference.encode(image, tables, 75, *factors)
        assert all(component.dtype == torch.int16 and component.is_contiguous() for component in coefficients)
        expected, _ = reference.round_trip(image, tables, 75, *factors, fancy)
        got = reference.decode(*coefficients, tables, 19, 37, *factors, fancy, torch.uint8)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
        for dtype in FLOATS:
            got = reference.decode(*coefficients, tables, 19, 37, *factors, fancy, dtype)
            torch.testing.assert_close(got, reference.from_bytes(expected.int(), dtype), rtol=0, atol=0)


def test_shapes_of_coefficients() -> None:
    image = torch.zeros(2, 3, 17, 33, dtype=torch.uint8)
    y, cb, cr = reference.encode(image, None, 75, 2, 1)
    assert y.shape == (2, 3, 5, 8, 8)
    assert cb.shape == cr.shape == (2, 3, 3, 8, 8)
    y, cb, cr = reference.encode(image[:, :1], None, 75, 2, 2)
    assert y.shape == (2, 3, 5, 8, 8)
    assert cb.shape == cr.shape == (2, 0, 0, 8, 8)


def test_hostile_coefficients_decode_to_bytes() -> None:
    """Coefficients that no encoder makes: nothing is promised of the pixels but that they are some."""
    generator = torch.Generator().manual_seed(5)
    y, cb, cr = (torch.randint(-32768, 32768, (3, 2, 2, 8, 8), generator=generator).short() for _ in range(3))
    y[0], y[1] = 32767, -32768
    image = reference.decode(y, cb, cr, torch.full((1, 3, 8, 8), 255.0), 16, 16, 1, 1, True, torch.uint8)
    assert image.shape == (3, 3, 16, 16)


@pytest.mark.parametrize("quality", [1, 2, 10, 33, 49, 50, 51, 75, 99, 100])
def test_standard_tables_are_pillows(quality: int) -> None:
    quantization = Image.open(
        io.BytesIO(pillow_file(np.zeros((8, 8, 3), np.uint8), "4:4:4", quality=quality))
    ).quantization
    y, cb, cr = reference.standard_tables(quality, torch.empty(0))[0]
    assert y.flatten().tolist() == list(quantization[0])
    assert cb.flatten().tolist() == cr.flatten().tolist() == list(quantization[1])


def test_standard_tables_between_whole_qualities_and_beyond() -> None:
    def tables(quality: float) -> Tensor:
        return reference.standard_tables(quality, torch.empty(0))

    # 5000 / 30.5 = 163.9 and 200 - 2 · 75.25 = 49.5, rounded down; 16 is the first step of luma.
    assert tables(30.5)[0, 0, 0, 0] == (16 * 163 + 50) // 100
    assert tables(75.25)[0, 0, 0, 0] == (16 * 49 + 50) // 100
    assert torch.equal(tables(-3), tables(1))
    assert torch.equal(tables(1000), tables(100))


def test_only_a_first_call_copies_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy would wait for a GPU, and end the capture of a CUDA graph: the standard tables stay on the device."""
    monkeypatch.setattr(_constants, "_KEPT", {})

    def call() -> None:
        image = torch.rand(2, 3, 40, 50, device="meta")
        qualities = torch.zeros(2, 5, 7, dtype=torch.uint8, device="meta")
        standard, factors, sine = (None, 75.0), (2, 2), ("sine", 0.0, 0.0)
        out, planes = reference.round_trip(image, *standard, *factors, True)
        reference.encode(image, *standard, *factors)
        reference.round_trip_by_block(image, qualities, *factors, True)
        reference.round_trip_backward(out, planes, image, *standard, *factors, True, True)
        slopes = torch.zeros(1025, device="meta")
        reference.surrogate_backward(out, planes, image, *standard, *factors, True, True, slopes)
        for soft in (False, True):
            out, mask = reference.real_round_trip(image, *standard, *factors, True, *sine, soft)
            reference.real_round_trip_backward(out, mask, image, *standard, *factors, True, *sine, soft, True)

    with NoCopying(), pytest.raises(AssertionError, match="copies a tensor of the host"):
        call()
    call()
    with NoCopying():
        call()


def test_integer_tables() -> None:
    tables = torch.tensor([math.nan, -math.inf, math.inf, -4, 0, 0.5, 1.5, 2.5, 2.500001, 254.5, 255.4, 300])
    assert reference.integer_tables(tables).tolist() == [1, 1, 255, 1, 1, 1, 2, 2, 3, 254, 255, 255]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floating_images_hold_all_bytes(dtype: torch.dtype) -> None:
    every = torch.arange(256, dtype=torch.int32)
    stored = reference.from_bytes(every, dtype)
    assert stored.dtype == dtype
    assert torch.equal(reference.to_bytes(stored), every)
    in_numpy = every.numpy().astype(np.float64 if dtype == torch.float64 else np.float32) / np.asarray(255, np.float32)
    assert torch.equal(stored, torch.from_numpy(in_numpy).to(dtype))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_bytes_of_odd_samples(dtype: torch.dtype) -> None:
    samples = torch.tensor([math.nan, math.inf, -math.inf, -0.1, 1.1, 7.0], dtype=dtype)
    assert reference.to_bytes(samples).tolist() == [0, 255, 0, 0, 255, 255]
    ties = torch.tensor([0.5, 1.5, 2.5, 253.5], dtype=torch.float64) / 255
    on_the_tie = (255 * ties) % 1 == 0.5
    assert on_the_tie.any()
    assert reference.to_bytes(ties)[on_the_tie].tolist() == torch.tensor([0, 2, 2, 254])[on_the_tie].tolist()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@every_subsampling
def test_floating_images_give_the_bytes_of_uint8(subsampling: str, dtype: torch.dtype) -> None:
    factors = SAMPLING_FACTORS[subsampling]
    image = torch.randint(0, 256, (2, 3, 21, 18), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))
    expected, planes = reference.round_trip(image, None, 60, *factors, True)
    got, planes_of_float = reference.round_trip(reference.from_bytes(image.int(), dtype), None, 60, *factors, True)
    torch.testing.assert_close(got, reference.from_bytes(expected.int(), dtype), rtol=0, atol=0)
    assert torch.equal(planes_of_float, planes)


@pytest.mark.parametrize("dtype", [torch.uint8, *FLOATS], ids=str)
def test_batch_strides_and_emptiness(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(7)
    image = reference.from_bytes(torch.randint(0, 256, (3, 3, 20, 34), generator=generator), dtype)
    tables = random_tables(3, 7)
    expected, _ = reference.round_trip(image, tables, 75, 2, 2, True)
    for n in range(3):
        alone, _ = reference.round_trip(image[n : n + 1], tables[n : n + 1], 75, 2, 2, True)
        assert torch.equal(alone, expected[n : n + 1])

    transposed = image.transpose(2, 3).contiguous().transpose(2, 3)
    strided = torch.stack([image, image], -1)[..., 0]
    for other in (image.to(memory_format=torch.channels_last), transposed, strided):
        kept = other.clone()
        got, _ = reference.round_trip(other, tables, 75, 2, 2, True)
        assert torch.equal(got, expected)
        assert got.stride() == torch.empty_like(other).stride()
        assert torch.equal(other, kept)

    empty = image[:0]
    got, planes = reference.round_trip(empty, None, 75, 2, 2, True)
    assert got.shape == empty.shape
    assert planes.shape == (0, Geometry.of(20, 34, 3, 2, 2).plane_bytes)
    coefficients = reference.encode(empty, None, 75, 2, 2)
    decoded = reference.decode(*coefficients, random_tables(1, 7), 20, 34, 2, 2, True, dtype)
    assert decoded.shape == empty.shape


@every_channels
@every_subsampling
def test_planes(subsampling: str, channels: int) -> None:
    """The components that a decoder would hold, at coded size; then a flag for each MCU; then zeros."""
    factors = SAMPLING_FACTORS[subsampling]
    image = interior((2, channels, 19, 37), 8, torch.float32)
    image[1, -1, 17, 36] = math.nan
    image[0, 0, 0, 0] = 1.5
    geometry = Geometry.of(19, 37, channels, *factors)
    _, planes = reference.round_trip(image, None, 75, *factors, True)
    assert planes.dtype == torch.uint8
    assert planes.shape == (2, geometry.plane_bytes)

    tables = reference.standard_tables(75, image)
    coefficients = reference.encode(image, None, 75, *factors)
    start = 0
    for component, blocks in enumerate(coefficients[:channels]):
        _, rows, columns, _, _ = blocks.shape
        grey = (blocks, blocks[:, :0, :0], blocks[:, :0, :0])
        table = tables[:, component : component + 1].expand(1, 3, 8, 8)
        expected = reference.decode(*grey, table, 8 * rows, 8 * columns, 1, 1, True, torch.uint8)
        assert torch.equal(planes[:, start : start + 64 * rows * columns], expected.flatten(1))
        start += 64 * rows * columns

    assert start == geometry.flag_offset
    flags = planes[:, start : start + geometry.mcu_rows * geometry.mcu_columns]
    flags = flags.reshape(2, geometry.mcu_rows, geometry.mcu_columns)
    last = (1, 17 // (8 * geometry.vertical), 36 // (8 * geometry.horizontal))
    assert {tuple(place) for place in flags.nonzero().tolist()} == {(0, 0, 0), last}
    assert not planes[:, start + flags[0].numel() :].any()


# ---------------------------------------------------------------------------------------------------------------------
# The real numbers


def t81_dct(block: np.ndarray) -> np.ndarray:
    """The DCT as ITU-T T.81, A.3.3 writes it: one sum for each coefficient."""
    out = np.empty((8, 8))
    for v, u in np.ndindex(8, 8):
        scale = (math.sqrt(0.5) if u == 0 else 1) * (math.sqrt(0.5) if v == 0 else 1) / 4
        waves = [
            block[y, x] * math.cos((2 * x + 1) * u * math.pi / 16) * math.cos((2 * y + 1) * v * math.pi / 16)
            for y, x in np.ndindex(8, 8)
        ]
        out[v, u] = scale * sum(waves)
    return out


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
    tables[:, 1:] = 1e6  # chroma is lost: what comes back is luma
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


# ---------------------------------------------------------------------------------------------------------------------
# Gradients: straight-through


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
    """On noise that is clamped in places, at every size; the two are written apart."""
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
    """At 4:4:4 the gradient is the incoming one where R, G, B of Pillow's Y, Cb, Cr lie in 0…255, and 0 elsewhere."""
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
    """A clamped sample passes nothing on, whatever comes in; what comes in elsewhere is the caller's."""
    image = torch.zeros(1, 3, 8, 8)
    image[:, 0] = 1.0
    _, planes = reference.round_trip(image, None, 1, 1, 1, True)
    of_image, _ = reference.round_trip_backward(
        torch.full_like(image, math.nan), planes, image, None, 1, 1, 1, True, False
    )
    inside = reference.straight_through_tangent(torch.ones_like(image), planes, image, 1, 1, True) != 0
    assert of_image[:, :, ~inside.any(1)[0]].isfinite().all()


# ---------------------------------------------------------------------------------------------------------------------
# Gradients: surrogates


class Wave:
    """A user's own surrogate, of nothing but the two methods."""

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
