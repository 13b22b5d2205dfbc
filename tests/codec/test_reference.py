"""The integers of the reference against Pillow, libjpeg-turbo and the coefficients of files."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path

import jpeglib
import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from support.no_reading import NoCopying
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
    to_pixels,
    to_tensor,
)
from support.settings import PILLOW
from torch import Tensor

from fdjpeg import _constants, reference
from fdjpeg._geometry import SAMPLING_FACTORS, Geometry


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
    """Three different tables, those of only 1 and of only 255 among them."""
    rng = np.random.default_rng(2)
    cases = [random_tables(1, seed)[0] for seed in range(4)] + [torch.ones(3, 8, 8), torch.full((3, 8, 8), 255.0)]
    for tables, size in itertools.product(cases, SIZES):
        qtables = [table.flatten().int().tolist() for table in tables]
        for pixels in contents(rng, *size, 3):
            expected = pillow_pixels(pillow_file(pixels, subsampling, qtables=qtables))
            got, _ = reference.round_trip(to_tensor(pixels), tables[None], 75, *SAMPLING_FACTORS[subsampling], True)
            np.testing.assert_array_equal(to_pixels(got), expected)


def turbo_file(pixels: np.ndarray, subsampling: str, quality: int) -> bytes:
    """Writes a file by libjpeg-turbo's own interface, which uses the accurate DCT from quality 96 on."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, colorsubsampling=subsampling.replace(":", ""))


@every_upsampling
@every_subsampling
def test_equals_libjpeg_turbo(subsampling: str, fancy: bool) -> None:
    """All five subsamplings; its fast upsampling is the oracle of ours by repetition."""
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
    """Coefficients that no encoder makes: the pixels are only promised to be bytes."""
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
    """The planes are a decoder's components at coded size, then a flag for each MCU, then zeros."""
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
