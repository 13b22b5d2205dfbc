"""Quantization tables against Pillow's own, cjpeg's text format, and plain arithmetic on Python numbers."""

from __future__ import annotations

import copy
import io
import math
import pickle
import random
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree

import fdjpeg
from fdjpeg import _constants
from fdjpeg._standard_tables import STANDARD_CHROMA, STANDARD_LUMA
from fdjpeg.tables import QuantTables, check_tables

QUALITIES = range(1, 101)


def photograph_like(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    noise = np.random.default_rng(7).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)


def jpeg_bytes(image: Image.Image | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    (photograph_like() if image is None else image).save(stream, "JPEG", **options)
    return stream.getvalue()


def frame_header(data: bytes) -> int:
    """Where the parameters of the first frame header (SOF0 or SOF1) begin: length, precision, height, ..."""
    return next(data.index(marker) for marker in (b"\xff\xc0\x00", b"\xff\xc1\x00") if marker in data) + 2


def patched(data: bytes, position: int, value: int) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


def random_table(seed: int) -> Tensor:
    return torch.randint(1, 256, (8, 8), generator=torch.Generator().manual_seed(seed))


def two_tables() -> QuantTables:
    return QuantTables(random_table(1), random_table(2))


def three_tables() -> QuantTables:
    return QuantTables(random_table(1), random_table(2), random_table(3))


def libjpeg_step(base: int, quality: Fraction) -> int:
    scale = math.floor(5000 / quality) if quality < 50 else math.floor(200 - 2 * quality)
    return min(255, max(1, (base * scale + 50) // 100))


def libjpeg_tables(quality: float) -> list[list[list[int]]]:
    exact = Fraction(quality)
    return [[[libjpeg_step(b, exact) for b in row] for row in base] for base in (STANDARD_LUMA, STANDARD_CHROMA)]


def slope(quality: float) -> float:
    return -5000 / quality**2 if quality < 50 else -2.0


class TestStandard:
    @pytest.mark.parametrize("quality", QUALITIES)
    def test_equals_the_tables_that_pillow_writes(self, quality: int) -> None:
        written = Image.open(io.BytesIO(jpeg_bytes(quality=quality))).quantization
        tables = QuantTables.standard(quality)
        assert tables.y.flatten().tolist() == written[0]
        assert tables.cb.flatten().tolist() == tables.cr.flatten().tolist() == written[1]
        assert tables.y.dtype == torch.int64

    def test_luma_is_not_transposed(self) -> None:
        luma = QuantTables.standard(50).luma
        assert luma[0].tolist() == [16, 11, 10, 16, 24, 40, 51, 61]  # T.81, Table K.1, first row
        assert luma[:, 0].tolist() == [16, 12, 14, 14, 18, 24, 49, 72]

    @pytest.mark.parametrize(
        "dtype",
        [
            torch.uint8,
            torch.int8,
            torch.int32,
            torch.int64,
            torch.float16,
            torch.bfloat16,
            torch.float32,
            torch.float64,
        ],
    )
    def test_tensors_of_any_dtype_give_the_same_steps_as_numbers(self, dtype: torch.dtype) -> None:
        qualities = torch.tensor(list(QUALITIES), dtype=dtype)
        tables = QuantTables.standard(qualities)
        assert tables.batch_size == 100
        for index, quality in enumerate(QUALITIES):
            assert tables[index] == QuantTables.standard(quality) == QuantTables.standard(qualities[index])

    @pytest.mark.parametrize(
        ("quality", "dtype"),
        [
            (torch.tensor(75), torch.int64),
            (torch.tensor(75, dtype=torch.uint8), torch.int64),
            (torch.tensor(75.0, dtype=torch.float16), torch.float32),
            (torch.tensor(75.0, dtype=torch.bfloat16), torch.float32),
            (torch.tensor(75.0), torch.float32),
            (torch.tensor(75.0, dtype=torch.float64), torch.float64),
        ],
    )
    def test_dtype_of_the_steps(self, quality: Tensor, dtype: torch.dtype) -> None:
        assert QuantTables.standard(quality).y.dtype == dtype

    def test_fractional_qualities_are_floored_exactly(self) -> None:
        generator = random.Random(20)
        near = [5000 / n for n in range(101, 300, 7)]
        qualities = np.array(
            [generator.uniform(1, 100) for _ in range(200)] + near + [q / 2 for q in range(2, 201)], dtype=np.float32
        )
        # Just below, at and just above each quotient where the floor moves.
        qualities = np.concatenate([qualities, np.nextafter(qualities, np.float32(0)).clip(1, 100)])
        batched = QuantTables.standard(torch.from_numpy(qualities))
        for index, quality in enumerate(qualities.tolist()):
            luma, chroma = libjpeg_tables(quality)
            assert batched.y[index].tolist() == luma, quality
            assert batched.cb[index].tolist() == chroma, quality
            assert QuantTables.standard(quality) == batched[index], quality

    def test_double_precision_is_floored_as_python_does(self) -> None:
        # 5000 / quality rounds to n itself; a product with the rounded reciprocal falls short of many an n.
        qualities = [5000 / n for n in range(101, 5000, 40)]
        batched = QuantTables.standard(torch.tensor(qualities, dtype=torch.float64))
        for index, quality in enumerate(qualities):
            scale = math.floor(5000 / quality)
            expected = [[min(255, max(1, (base * scale + 50) // 100)) for base in row] for row in STANDARD_LUMA]
            assert batched.y[index].tolist() == expected, quality
            assert QuantTables.standard(quality).y.tolist() == expected, quality

    def test_numpy_numbers(self) -> None:
        assert QuantTables.standard(np.int64(30)) == QuantTables.standard(np.float32(30)) == QuantTables.standard(30)

    def test_values_of_tensors_are_clamped(self) -> None:
        wild = torch.tensor([-3.0, 0.0, 0.5, 101.0, 1e38, math.inf, -math.inf, math.nan])
        tame = torch.tensor([1, 1, 1, 100, 100, 100, 1, 1])
        assert QuantTables.standard(wild) == QuantTables.standard(tame)
        assert QuantTables.standard(torch.tensor([-3, 0, 101, 1000])) == QuantTables.standard(
            torch.tensor([1, 1, 100, 100])
        )

    def test_empty_batch(self) -> None:
        assert QuantTables.standard(torch.empty(0)).stacked().shape == (0, 3, 8, 8)

    @pytest.mark.parametrize("soft", [False, True])
    def test_the_callers_tensor_is_not_modified(self, soft: bool) -> None:
        quality = torch.tensor([0.0, 30.0, 75.0, 130.0])
        before, version = quality.clone(), quality._version
        QuantTables.standard(quality, soft=soft)
        assert torch.equal(quality, before)
        assert quality._version == version

    @pytest.mark.parametrize("soft", [False, True])
    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_nothing_is_read_back(self, device: str, soft: bool) -> None:
        with FakeTensorMode():  # a fake tensor has no values: reading one raises
            tables = QuantTables.standard(torch.empty(3, device=device), soft=soft)
            assert tables.device.type == device
            assert tables.stacked().shape == (3, 3, 8, 8)

    @pytest.mark.parametrize("quality", [0, 0.99, 100.5, 101, -1, math.nan, math.inf])
    def test_numbers_out_of_range(self, quality: float) -> None:
        with pytest.raises(ValueError, match=rf"quality must be in 1…100, got {quality}"):
            QuantTables.standard(quality)

    @pytest.mark.parametrize("quality", ["75", None, True, [75], 75j])
    def test_things_that_are_no_quality(self, quality: object) -> None:
        with pytest.raises(TypeError, match=f"quality must be a number or a tensor, got {type(quality).__name__}"):
            QuantTables.standard(quality)

    def test_shape_of_a_tensor(self) -> None:
        with pytest.raises(ValueError, match=r"quality must be a number or a tensor of shape .*got shape \(2, 1\)"):
            QuantTables.standard(torch.ones(2, 1))

    @pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
    def test_dtype_of_a_tensor(self, dtype: torch.dtype) -> None:
        with pytest.raises(TypeError, match=f"quality must have an integer or floating dtype, got {dtype}"):
            QuantTables.standard(torch.ones(2, dtype=dtype))


class TestStandardGradient:
    def test_closed_form_at_all_whole_qualities(self) -> None:
        quality = torch.arange(1.0, 101.0, dtype=torch.float64, requires_grad=True)
        tables = QuantTables.standard(quality)
        for table, base in ((tables.y, STANDARD_LUMA), (tables.cb, STANDARD_CHROMA)):
            weight = torch.rand(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            (gradient,) = torch.autograd.grad((table * weight).sum(), quality, retain_graph=True)
            sensitivity = (weight * torch.tensor(base)).sum().item() / 100
            expected = torch.tensor([sensitivity * slope(q) for q in QUALITIES], dtype=torch.float64)
            torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)
            assert (gradient != 0).all()

    @pytest.mark.parametrize("quality", [1.7, 12.3, 49.9, 50.0, 50.1, 77.7, 99.2])
    def test_is_the_derivative_without_floor_and_clamp(self, quality: float) -> None:
        def real(q: float) -> float:
            return sum(map(sum, STANDARD_LUMA)) * (5000 / q if q < 50 else 200 - 2 * q) / 100

        tensor = torch.tensor(quality, requires_grad=True, dtype=torch.float64)
        QuantTables.standard(tensor).y.sum().backward()
        h = 1e-5
        assert tensor.grad.item() == pytest.approx((real(quality + h) - real(quality - h)) / (2 * h), rel=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_every_floating_dtype_gets_one(self, dtype: torch.dtype) -> None:
        quality = torch.tensor([1, 25, 50, 75, 100], dtype=dtype, requires_grad=True)
        QuantTables.standard(quality).stacked()[:, :, 0, 0].sum().backward()
        expected = torch.tensor([(16 + 17 + 17) * slope(q) / 100 for q in (1, 25, 50, 75, 100)])
        torch.testing.assert_close(quality.grad, expected.to(dtype))

    def test_forward_is_the_same_with_and_without(self) -> None:
        quality = torch.linspace(1, 100, 500)
        with_gradient = QuantTables.standard(quality.clone().requires_grad_())
        assert torch.equal(with_gradient.stacked(), QuantTables.standard(quality).stacked())

    def test_beyond_the_range_it_is_that_of_the_nearest_quality(self) -> None:
        quality = torch.tensor([-5.0, 150.0, 1e30], requires_grad=True)
        QuantTables.standard(quality).y[:, 0, 0].sum().backward()
        torch.testing.assert_close(quality.grad, torch.tensor([16 * slope(1) / 100, -0.32, -0.32]))

    @pytest.mark.parametrize("soft", [False, True])
    def test_values_that_are_no_numbers_get_none(self, soft: bool) -> None:
        quality = torch.tensor([math.nan, math.inf, -math.inf], requires_grad=True)
        QuantTables.standard(quality, soft=soft).y.sum().backward()
        assert quality.grad.tolist() == [0.0, 0.0, 0.0]

    def test_under_func_transforms(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_constants, "_KEPT", {})  # as in the first call of a process

        def total(quality: Tensor) -> Tensor:
            return QuantTables.standard(quality).stacked().sum()

        quality = torch.tensor([10.0, 60.0, 100.0])
        base = sum(map(sum, STANDARD_LUMA)) + 2 * sum(map(sum, STANDARD_CHROMA))
        expected = torch.tensor([base * slope(q) / 100 for q in quality.tolist()])
        torch.testing.assert_close(torch.func.grad(total)(quality), expected)
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(quality), expected)
        torch.testing.assert_close(torch.func.jacrev(total)(quality), expected)

    def test_nothing_that_a_transform_wrapped_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def total(quality: Tensor) -> Tensor:
            return QuantTables.standard(quality).y.sum()

        monkeypatch.setattr(_constants, "_KEPT", {})
        base = sum(map(sum, STANDARD_LUMA))
        quality = torch.tensor([10.0, 60.0])
        expected = torch.diag(torch.tensor([base * 10000 / 10**3 / 100, 0]))
        torch.testing.assert_close(torch.func.hessian(total)(quality), expected)
        torch.testing.assert_close(torch.func.grad(total)(quality), torch.tensor([base * -0.5, base * -0.02]))
        torch._dynamo.reset()
        assert torch.compile(total, fullgraph=True, backend="aot_eager")(quality) == total(quality)

    def test_tables_made_under_inference_mode_leave_no_trace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_constants, "_KEPT", {})
        quality = torch.tensor([20.0], requires_grad=True)
        with torch.inference_mode():
            QuantTables.standard(quality)
        QuantTables.standard(quality).y.sum().backward()
        assert quality.grad.item() < 0


class TestSoftStandard:
    def test_values(self) -> None:
        tables = QuantTables.standard(torch.tensor([5.0, 37.5, 75.0, 100.0], dtype=torch.float64), soft=True)
        luma = torch.tensor(STANDARD_LUMA, dtype=torch.float64)
        expected = torch.stack([luma * 10, luma * (5000 / 37.5 / 100), luma * 0.5, torch.ones(8, 8)])
        torch.testing.assert_close(tables.y, expected.double())  # no floor, no bound above, 1 below

    def test_a_number_gives_the_default_dtype(self) -> None:
        tables = QuantTables.standard(30, soft=True)
        assert tables.y.dtype == torch.get_default_dtype()
        torch.testing.assert_close(tables.y, torch.tensor(STANDARD_LUMA) * (5000 / 30 / 100))

    def test_gradcheck(self) -> None:
        quality = torch.tensor([3.3, 30.7, 49.2, 51.1, 80.4], dtype=torch.float64, requires_grad=True)

        def steps(quality: Tensor) -> Tensor:
            return QuantTables.standard(quality, soft=True).stacked()

        assert torch.autograd.gradcheck(steps, quality)
        assert torch.autograd.gradgradcheck(steps, quality)


class TestConstructor:
    def test_two_tables(self) -> None:
        luma, chroma = random_table(1), random_table(2)
        tables = QuantTables(luma, chroma)
        assert tables.y is tables.luma is luma
        assert tables.cb is tables.cr is tables.chroma is chroma
        assert tables.batch_size is None
        assert tables.stacked().shape == (1, 3, 8, 8)

    def test_three_tables_keep_their_order_and_orientation(self) -> None:
        y, cb, cr = (random_table(seed) for seed in (1, 2, 3))
        assert torch.equal(QuantTables(y, cb, cr).stacked(), torch.stack([y, cb, cr])[None].float())

    def test_lists_and_arrays_are_copied(self) -> None:
        array = np.full((8, 8), 7, dtype=np.uint16)
        tables = QuantTables(array, [[9] * 8] * 8)
        array[:] = 1
        assert tables.y.unique().tolist() == [7]
        assert tables.cb.unique().tolist() == [9]
        assert tables.stacked().dtype == torch.float32

    def test_one_table_may_be_shared_by_a_batch(self) -> None:
        tables = QuantTables(torch.ones(3, 8, 8), torch.full((8, 8), 2))
        assert tables.batch_size == len(tables) == 3
        assert tables.stacked()[:, 0].unique().tolist() == [1]
        assert tables.stacked()[:, 1:].unique().tolist() == [2]
        assert tables[2] == QuantTables(torch.ones(8, 8), torch.full((8, 8), 2))

    def test_gradients_are_kept(self) -> None:
        y = torch.full((8, 8), 3.0, requires_grad=True)
        chroma = torch.full((2, 8, 8), 4.0, dtype=torch.float16, requires_grad=True)
        QuantTables(y, chroma).stacked().sum().backward()
        assert y.grad.unique().tolist() == [2]  # two images
        assert chroma.grad.unique().tolist() == [2]  # Cb and Cr

    @pytest.mark.parametrize(
        ("dtype", "stacked"), [(torch.float16, torch.float32), (torch.int32, torch.float32), (torch.float64,) * 2]
    )
    def test_dtype_of_stacked(self, dtype: torch.dtype, stacked: torch.dtype) -> None:
        assert QuantTables(torch.ones(8, 8, dtype=dtype), torch.ones(8, 8)).stacked().dtype == stacked

    @pytest.mark.parametrize("shape", [(64,), (8,), (8, 7), (1, 3, 8, 8), (8, 8, 1), ()])
    def test_shape(self, shape: tuple[int, ...]) -> None:
        message = f"cb must have shape (8, 8) or (N, 8, 8), got {shape}"
        with pytest.raises(ValueError) as caught:
            QuantTables(torch.ones(8, 8), torch.ones(shape))
        assert str(caught.value) == message

    def test_ragged_lists(self) -> None:
        with pytest.raises(ValueError, match="y must be a tensor, an array or nested lists of numbers, got list"):
            QuantTables([[1] * 8] * 7 + [[1] * 7], torch.ones(8, 8))

    @pytest.mark.parametrize("table", [None, object(), {}])
    def test_things_that_are_no_table(self, table: object) -> None:
        with pytest.raises(TypeError, match=f"cb must be a tensor, an array or nested .*, got {type(table).__name__}"):
            QuantTables(torch.ones(8, 8), table)

    @pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
    def test_dtype(self, dtype: torch.dtype) -> None:
        with pytest.raises(TypeError, match=f"y must have an integer or floating dtype, got {dtype}"):
            QuantTables(torch.ones(8, 8, dtype=dtype), torch.ones(8, 8))

    def test_batches_that_differ(self) -> None:
        with pytest.raises(ValueError, match="tables must be for the same number of images, got y: 2, cr: 3"):
            QuantTables(torch.ones(2, 8, 8), torch.ones(8, 8), torch.ones(3, 8, 8))

    def test_devices_that_differ(self) -> None:
        with FakeTensorMode(), pytest.raises(ValueError, match="must be on one device, got y: cpu, cb: cuda:0"):
            QuantTables(torch.ones(8, 8), torch.ones(8, 8, device="cuda"))


class TestFlat:
    def test_numbers(self) -> None:
        assert QuantTables.flat(7).stacked().unique().tolist() == [7]
        assert QuantTables.flat(7).y.dtype == torch.int64
        assert QuantTables.flat(2.5).y.dtype == torch.float32

    def test_tensors(self) -> None:
        step = torch.tensor([1.0, 40.0], requires_grad=True)
        tables = QuantTables.flat(step)
        assert tables[1] == QuantTables.flat(40)
        tables.stacked().sum().backward()
        assert step.grad.tolist() == [192.0, 192.0]
        assert QuantTables.flat(torch.tensor(3)) == QuantTables.flat(3)

    @pytest.mark.parametrize("step", [0, -1, math.nan, math.inf])
    def test_range(self, step: float) -> None:
        with pytest.raises(ValueError, match=f"step must be above 0 and finite, got {step}"):
            QuantTables.flat(step)

    @pytest.mark.parametrize("step", ["7", None, False])
    def test_type(self, step: object) -> None:
        with pytest.raises(TypeError, match=f"step must be a number or a tensor, got {type(step).__name__}"):
            QuantTables.flat(step)

    def test_tensors_that_do_not_fit(self) -> None:
        with pytest.raises(ValueError, match=r"step must be a number or a tensor of shape .*got shape \(8, 8\)"):
            QuantTables.flat(torch.ones(8, 8))
        with pytest.raises(TypeError, match=r"step must have an integer or floating dtype, got torch\.bool"):
            QuantTables.flat(torch.ones(2, dtype=torch.bool))


class TestFeatureDistillation:
    def test_the_paper_s_triangle(self) -> None:
        row, column = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
        tables = QuantTables.feature_distillation(100.0 - (row + column))
        assert torch.equal(tables.y, torch.where(row + column <= 4, 1, 40))
        assert torch.equal(tables.cr, tables.y)

    def test_the_largest_are_fine_wherever_they_are(self) -> None:
        statistics = torch.rand(8, 8, generator=torch.Generator().manual_seed(5))
        table = QuantTables.feature_distillation(statistics, n=9, fine=2.5, coarse=90).y
        cut = statistics.flatten().sort(descending=True).values[8]
        assert torch.equal(table == 2.5, statistics >= cut)
        assert table[statistics < cut].unique().tolist() == [90]

    @pytest.mark.parametrize("n", [0, 3, 64])
    def test_equal_ones_count_in_row_major_order(self, n: int) -> None:
        table = QuantTables.feature_distillation(np.zeros((8, 8)), n=n).y
        assert table.flatten().tolist() == [1] * n + [40] * (64 - n)

    def test_errors(self) -> None:
        ones = torch.ones(8, 8)
        with pytest.raises(ValueError, match=r"statistics must have shape \(8, 8\), got \(2, 8, 8\)"):
            QuantTables.feature_distillation(torch.ones(2, 8, 8))
        with pytest.raises(ValueError, match=r"n must be in 0…64, got 65"):
            QuantTables.feature_distillation(ones, n=65)
        with pytest.raises(TypeError, match="n must be an integer, got float"):
            QuantTables.feature_distillation(ones, n=1.5)
        with pytest.raises(ValueError, match="fine must be above 0 and finite, got 0"):
            QuantTables.feature_distillation(ones, fine=0)
        with pytest.raises(TypeError, match="coarse must be a number, got str"):
            QuantTables.feature_distillation(ones, coarse="40")
        with pytest.raises(TypeError, match=r"statistics must have an integer or floating dtype, got torch\.complex64"):
            QuantTables.feature_distillation(torch.ones(8, 8, dtype=torch.complex64))


class TestFromImage:
    @pytest.mark.parametrize("progressive", [False, True])
    def test_every_way_to_name_a_file(self, tmp_path: Path, progressive: bool) -> None:
        data = jpeg_bytes(qtables=two_tables().to_pillow(), progressive=progressive)
        path = tmp_path / "image.jpg"
        path.write_bytes(data)
        for file in (path, str(path), data, bytearray(data), io.BytesIO(data), Image.open(path)):
            tables = QuantTables.from_image(file)
            assert tables == two_tables()
            assert tables.y.dtype == torch.int64
            assert tables.batch_size is None

    def test_grey(self) -> None:
        data = jpeg_bytes(photograph_like("L"), quality=33)
        luma = QuantTables.standard(33).y
        assert QuantTables.from_image(data) == QuantTables(luma, luma)

    def test_components_find_their_tables_by_number(self) -> None:
        data = jpeg_bytes(qtables=three_tables().to_pillow())
        assert QuantTables.from_image(data) == three_tables()
        # Length 2, precision 1, height 2, width 2, components 1; then number, sampling, table for each component.
        first = frame_header(data) + 8
        data = patched(patched(data, first + 5, 0), first + 8, 1)
        y, cb, _ = (random_table(seed) for seed in (1, 2, 3))
        assert QuantTables.from_image(data) == QuantTables(y, y, cb)

    def test_table_that_is_not_there(self) -> None:
        data = jpeg_bytes()
        data = patched(data, frame_header(data) + 8 + 8, 3)
        with pytest.raises(
            ValueError, match=r"must define quantization table 3, which component 2 .*got only \[0, 1\]"
        ):
            QuantTables.from_image(data)

    def test_cmyk(self) -> None:
        with pytest.raises(ValueError, match=r"grey or YCbCr JPEG, got one of 4 components \(mode CMYK\)"):
            QuantTables.from_image(jpeg_bytes(photograph_like("CMYK")))

    @pytest.mark.parametrize("adobe", [True, False])
    def test_rgb_components(self, adobe: bool) -> None:
        data = jpeg_bytes(keep_rgb=True)
        if not adobe:  # then only the components' numbers, "R", "G" and "B", tell
            marker = data.index(b"\xff\xee")
            data = data[:marker] + data[marker + 2 + int.from_bytes(data[marker + 2 : marker + 4], "big") :]
        with pytest.raises(ValueError, match="grey or YCbCr JPEG, got one whose components are R, G and B"):
            QuantTables.from_image(data)

    def test_without_jfif_and_adobe_markers_components_are_ycbcr(self) -> None:
        data = jpeg_bytes(qtables=two_tables().to_pillow())
        assert data[2:4] == b"\xff\xe0"
        data = data[:2] + data[4 + int.from_bytes(data[4:6], "big") :]
        assert QuantTables.from_image(data) == two_tables()

    def test_twelve_bits(self) -> None:
        data = jpeg_bytes()
        position = frame_header(data) + 2
        assert data[position] == 8
        with pytest.raises(ValueError, match=r"JPEG file of 8-bit samples, got .*12-bit"):
            QuantTables.from_image(patched(data, position, 12))

    def test_steps_of_sixteen_bits(self) -> None:
        table = [300] + [20] * 63
        with pytest.raises(ValueError, match=r"table 0 of file must hold integers in 1…255, got 300 at \[0, 0\]"):
            QuantTables.from_image(jpeg_bytes(qtables=[table]))

    def test_step_zero(self) -> None:
        data = jpeg_bytes(qtables=[[77] * 64])
        position = data.index(b"\xff\xdb") + 5  # marker, length, precision and number
        assert data[position] == 77
        with pytest.raises(ValueError, match=r"table 0 of file must hold integers in 1…255, got 0 at \[0, 0\]"):
            QuantTables.from_image(patched(data, position, 0))

    @pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff", jpeg_bytes()[:60]])
    def test_broken_files(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="file must be a JPEG file of 8-bit samples, got one that Pillow refuses"):
            QuantTables.from_image(data)

    def test_other_formats(self) -> None:
        stream = io.BytesIO()
        photograph_like().save(stream, "PNG")
        with pytest.raises(ValueError, match="got one that Pillow refuses: not a JPEG"):
            QuantTables.from_image(stream.getvalue())
        with pytest.raises(ValueError, match="got an image of format PNG"):
            QuantTables.from_image(Image.open(stream))
        with pytest.raises(ValueError, match="got an image of format None"):
            QuantTables.from_image(Image.open(io.BytesIO(jpeg_bytes())).convert("RGB"))

    def test_things_that_are_no_file(self) -> None:
        with pytest.raises(TypeError, match=r"file must be a path, bytes, .*, got int"):
            QuantTables.from_image(7)
        with pytest.raises(FileNotFoundError):
            QuantTables.from_image("no/such/file.jpg")


class TestPillow:
    @pytest.mark.parametrize("tables", [two_tables(), three_tables(), QuantTables.flat(255), QuantTables.standard(60)])
    def test_there_and_back(self, tables: QuantTables) -> None:
        assert QuantTables.from_pillow(tables.to_pillow()) == tables
        assert QuantTables.from_image(jpeg_bytes(qtables=tables.to_pillow())) == tables
        assert QuantTables.from_pillow(Image.open(io.BytesIO(jpeg_bytes(qtables=tables.to_pillow()))).quantization) == (
            tables
        )

    def test_grey_images_take_the_first(self) -> None:
        data = jpeg_bytes(photograph_like("L"), qtables=three_tables().to_pillow())
        assert torch.equal(QuantTables.from_image(data).y, three_tables().y)

    @pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
    @pytest.mark.parametrize("tables", [two_tables(), three_tables()])
    def test_pillow_s_pixels_are_the_layer_s(self, tables: QuantTables, subsampling: str) -> None:
        image = photograph_like()
        data = jpeg_bytes(image, qtables=tables.to_pillow(), subsampling=subsampling)
        decoded = torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert torch.equal(fdjpeg.jpeg(tensor, tables=tables, subsampling=subsampling), decoded)

    def test_fractions_are_written_as_the_layer_rounds_them(self) -> None:
        table = torch.full((8, 8), 2.5)  # half to even: 2
        table[0, 0], table[0, 1] = 3.5, 254.6
        assert QuantTables(table, table).to_pillow()[0][:3] == [4, 255, 2]

    def test_batch(self) -> None:
        tables = QuantTables.standard(torch.tensor([10, 20]))
        with pytest.raises(ValueError, match=r"tables must be one set of tables, got a batch of 2: index it"):
            tables.to_pillow()
        assert tables[1].to_pillow() == QuantTables.standard(20).to_pillow()

    @pytest.mark.parametrize("step", [0, 256, math.nan])
    def test_steps_out_of_range(self, step: float) -> None:
        with pytest.raises(ValueError, match=rf"tables.y\[0, 0\] must be in 1…255, got {step}"):
            QuantTables.flat(torch.tensor(step)).to_pillow()

    @pytest.mark.parametrize(
        ("qtables", "message"),
        [
            ([], "qtables must hold one, two or three tables, got 0"),
            ([[1] * 64] * 4, "qtables must hold one, two or three tables, got 4"),
            ([[1] * 64, [1] * 63], "table 1 of qtables must have 64 steps, got 63"),
            ([7], "table 0 of qtables must have 64 steps, got int"),
            ([[0] * 64], r"table 0 of qtables must hold integers in 1…255, got 0 at \[0, 0\]"),
            ([[1] * 63 + [256]], r"table 0 of qtables must hold integers in 1…255, got 256 at \[7, 7\]"),
            ([[1.5] * 64], r"table 0 of qtables must hold integers in 1…255, got 1.5 at \[0, 0\]"),
            ([[True] * 64], r"table 0 of qtables must hold integers in 1…255, got True at \[0, 0\]"),
            ({1: [1] * 64}, r"qtables must have the keys 0, 1, 2 in order, got \[1\]"),
        ],
    )
    def test_wrong_tables(self, qtables: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            QuantTables.from_pillow(qtables)

    def test_things_that_are_no_tables(self) -> None:
        with pytest.raises(TypeError, match="qtables must be a list or a mapping of tables, got NoneType"):
            QuantTables.from_pillow(None)


class TestTextFiles:
    @pytest.mark.parametrize("tables", [two_tables(), three_tables(), QuantTables.flat(1)])
    def test_there_and_back(self, tmp_path: Path, tables: QuantTables) -> None:
        tables.save(tmp_path / "tables.txt")
        assert QuantTables.load(tmp_path / "tables.txt") == QuantTables.load(str(tmp_path / "tables.txt")) == tables
        stream = io.StringIO()
        tables.save(stream)
        stream.seek(0)
        assert QuantTables.load(stream) == tables
        assert QuantTables.load(io.BytesIO(stream.getvalue().encode())) == tables

    def test_one_table_serves_all_and_the_order_is_row_major(self) -> None:
        text = "# caf\xe9 1 2 3\n" + " ".join(map(str, range(1, 65))) + "# the end"
        tables = QuantTables.load(io.BytesIO(text.encode("latin-1")))
        assert tables.y[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
        assert torch.equal(tables.y, tables.cb)
        assert torch.equal(tables.y, tables.cr)

    def test_two_and_three_tables(self) -> None:
        def load(*steps: int) -> QuantTables:
            return QuantTables.load(io.StringIO("\n".join(f"{step} " * 64 for step in steps)))

        assert [table[0, 0].item() for table in (load(5, 6).y, load(5, 6).cb, load(5, 6).cr)] == [5, 6, 6]
        assert [table[0, 0].item() for table in (load(5, 6, 7).y, load(5, 6, 7).cb, load(5, 6, 7).cr)] == [5, 6, 7]

    def test_pillow_reads_the_text_too(self) -> None:
        stream = io.StringIO()
        three_tables().save(stream)
        assert QuantTables.from_image(jpeg_bytes(qtables=stream.getvalue())) == three_tables()

    @pytest.mark.skipif(shutil.which("cjpeg") is None, reason="cjpeg (libjpeg-turbo-progs) is not installed")
    @pytest.mark.parametrize("tables", [two_tables(), three_tables()])
    def test_cjpeg_uses_them(self, tmp_path: Path, tables: QuantTables) -> None:
        photograph_like().save(tmp_path / "image.ppm")
        tables.save(tmp_path / "tables.txt")
        slots = [] if torch.equal(tables.cb, tables.cr) else ["-qslots", "0,1,2"]
        command = ["cjpeg", "-qtables", tmp_path / "tables.txt", *slots, tmp_path / "image.ppm"]
        assert QuantTables.from_image(subprocess.run(command, capture_output=True, check=True).stdout) == tables

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "file must hold one, two or three tables of 64 integers, got 0 integers"),
            ("1 " * 65, "file must hold one, two or three tables of 64 integers, got 65 integers"),
            ("1 " * 256, "file must hold one, two or three tables of 64 integers, got 256 integers"),
            ("1 2\n3 x", "file must hold integers and # comments, got 'x' in line 2"),
            ("-1 " * 64, "file must hold integers and # comments, got '-1' in line 1"),
            ("1.5 " * 64, "file must hold integers and # comments, got '1.5' in line 1"),
            ("\u0661 " * 64, "file must hold integers and # comments, got '\u0661' in line 1"),
            ("1 " * 64 + "0 " * 64, r"table 1 of file must hold integers in 1…255, got 0 at \[0, 0\]"),
            ("1 " * 9 + "256 " * 55, r"table 0 of file must hold integers in 1…255, got 256 at \[1, 1\]"),
        ],
    )
    def test_wrong_text(self, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            QuantTables.load(io.StringIO(text))

    def test_things_that_are_no_file(self) -> None:
        with pytest.raises(TypeError, match="file must be a path or an open file, got int"):
            QuantTables.load(7)

    def test_nothing_is_written_for_wrong_tables(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"tables.y\[0, 0\] must be in 1…255, got 256"):
            QuantTables.flat(256).save(tmp_path / "tables.txt")
        with pytest.raises(ValueError, match="got a batch of 1: index it"):
            QuantTables.flat(torch.ones(1)).save(tmp_path / "tables.txt")
        assert not list(tmp_path.iterdir())


class TestContainer:
    def test_integer(self) -> None:
        table = torch.ones(8, 8)
        table[0] = torch.tensor([-4, 0.4, 0.5, 1.5, 2.5, 254.6, 300, math.nan])
        table[1, :2] = torch.tensor([math.inf, -math.inf])
        integer = QuantTables(table, table).integer()
        assert integer.y.dtype == torch.int64
        assert integer.y[0].tolist() == [1, 1, 1, 2, 2, 255, 255, 1]
        assert integer.y[1, :2].tolist() == [255, 1]

    def test_cannot_be_changed(self) -> None:
        tables = two_tables()
        for name in ("y", "luma", "_tables", "new"):
            with pytest.raises(AttributeError, match=f"QuantTables cannot be changed: .*setting '{name}'"):
                setattr(tables, name, torch.ones(8, 8))
        with pytest.raises(AttributeError, match=r"QuantTables cannot be changed: .*deleting '_tables'"):
            del tables._tables

    def test_indexing_and_iteration(self) -> None:
        tables = QuantTables.standard(torch.tensor([10, 20, 30]))
        assert len(tables) == tables.batch_size == 3
        assert [one == QuantTables.standard(quality) for one, quality in zip(tables, (10, 20, 30), strict=True)] == (
            [True] * 3
        )
        assert tables[-1] == QuantTables.standard(30)
        assert tables[1:] == QuantTables.standard(torch.tensor([20, 30]))
        with pytest.raises(IndexError):
            tables[3]

    def test_one_set_has_no_length(self) -> None:
        for use in (len, iter, lambda tables: tables[0]):
            with pytest.raises(TypeError, match="QuantTables that are not a batch"):
                use(two_tables())
        assert two_tables()
        assert QuantTables.standard(torch.empty(0))

    def test_equality(self) -> None:
        y, cb = random_table(1), random_table(2)
        assert QuantTables(y, cb) == QuantTables(y.float(), cb.double(), cb.clone())
        assert QuantTables(y, cb) != QuantTables(y, cb + 1)
        assert QuantTables(y, cb) != QuantTables(y, cb, cb + 1)
        assert QuantTables(y, cb) != QuantTables(y[None], cb)
        assert QuantTables(y, cb) != 7
        with pytest.raises(TypeError, match="unhashable"):
            hash(QuantTables(y, cb))

    def test_allclose(self) -> None:
        tables = three_tables()
        near = tables.to(torch.float64)
        near = QuantTables(near.y + 1e-4, near.cb, near.cr)
        assert not tables.allclose(near)
        assert tables.allclose(near, atol=1e-3)
        assert not tables.allclose(QuantTables(near.y[None], near.cb))

    def test_to(self) -> None:
        tables = three_tables().to(torch.float16)
        assert {table.dtype for table in (tables.y, tables.cb, tables.cr)} == {torch.float16}
        assert two_tables().to("meta").device.type == "meta"

    def test_repr_shows_the_steps(self) -> None:
        text = repr(QuantTables.standard(50))
        assert text.startswith("QuantTables(\n    luma=tensor([[ 16,  11,  10,  16,  24,  40,  51,  61],\n")
        assert "    chroma=tensor([[17, 18, 24, 47, 99, 99, 99, 99],\n" in text
        assert [line.strip()[:3] for line in repr(three_tables()).splitlines() if "=" in line] == ["y=t", "cb=", "cr="]

    def test_pytree(self) -> None:
        for tables, leaves in ((two_tables(), 2), (three_tables(), 3)):
            flat, spec = _pytree.tree_flatten(tables)
            assert len(flat) == leaves
            assert _pytree.tree_unflatten(flat, spec) == tables
            names = [str(path[0]) for path, _ in _pytree.tree_flatten_with_path(tables)[0]]
            assert names == [".y", ".cb", ".cr"][:leaves]
        shapes = _pytree.tree_map(lambda table: tuple(table.shape), two_tables())  # no checks on the way
        assert shapes.y == (8, 8)

    def test_pickle_and_copy(self) -> None:
        tables = three_tables()
        assert pickle.loads(pickle.dumps(tables)) == copy.deepcopy(tables) == copy.copy(tables) == tables

    def test_torch_load_needs_no_trust(self) -> None:
        stream = io.BytesIO()
        torch.save({"tables": three_tables()}, stream)
        stream.seek(0)
        assert torch.load(stream, weights_only=True)["tables"] == three_tables()


class TestCheckTables:
    @pytest.mark.parametrize("step", [1, 1.0, 2.5, 255])
    def test_good_steps(self, step: float) -> None:
        check_tables(QuantTables.flat(step))
        check_tables(QuantTables.flat(torch.tensor([1.0, step])))

    @pytest.mark.parametrize("step", [0, 0.5, -1, 255.5, 256, math.nan, math.inf])
    def test_bad_steps(self, step: float) -> None:
        cr = torch.full((8, 8), 9.0)
        cr[5, 2] = step
        with pytest.raises(ValueError, match=rf"tables.cr\[5, 2\] must be in 1…255, got {step}"):
            check_tables(QuantTables(torch.ones(8, 8), torch.ones(8, 8), cr))

    def test_batches_name_the_image(self) -> None:
        with pytest.raises(ValueError, match=r"tables.y\[1, 0, 0\] must be in 1…255, got 256"):
            check_tables(QuantTables.flat(torch.tensor([255, 256])))

    def test_real_arithmetic(self) -> None:
        check_tables(QuantTables.flat(1000.5), "real")
        check_tables(QuantTables.flat(0.5), "real")
        for step in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=rf"tables.y\[0, 0\] must be above 0 and finite, got {step:g}"):
                check_tables(QuantTables.flat(torch.tensor(step)), "real")

    def test_arguments(self) -> None:
        with pytest.raises(TypeError, match=r"tables must be fdjpeg.QuantTables, got Tensor"):
            check_tables(torch.ones(1, 3, 8, 8))
        with pytest.raises(ValueError, match='arithmetic must be "libjpeg" or "real", got \'float\''):
            check_tables(two_tables(), "float")


class ScaledTables(torch.nn.Module):
    """Everything that a layer does with tables: takes, makes, scales, returns."""

    def forward(self, tables: QuantTables, quality: Tensor) -> tuple[QuantTables, Tensor]:
        standard = QuantTables.standard(quality)
        numbers = QuantTables.standard(80).stacked() + QuantTables.flat(3).stacked()
        return tables.to(torch.float32).integer(), tables.stacked() * standard.stacked() + numbers


class TestTracing:
    @pytest.mark.parametrize("tables", [two_tables(), three_tables(), QuantTables.standard(torch.tensor([10.0, 90]))])
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compile(self, tables: QuantTables, dynamic: bool) -> None:
        torch._dynamo.reset()
        compiled = torch.compile(ScaledTables(), fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for qualities in ([30.0, 75.0], [1.0, 100.0]):
            got, expected = (module(tables, torch.tensor(qualities)) for module in (compiled, ScaledTables()))
            assert got[0] == expected[0]
            assert torch.equal(got[1], expected[1])

    @pytest.mark.slow
    def test_inductor_floors_as_libjpeg_does(self) -> None:
        torch._dynamo.reset()
        steps = torch.compile(lambda quality: QuantTables.standard(quality).stacked(), fullgraph=True)
        quality = torch.arange(1.0, 101.0, requires_grad=True)
        assert torch.equal(steps(quality), QuantTables.standard(torch.arange(1, 101)).stacked())
        (gradient,) = torch.autograd.grad(steps(quality).sum(), quality)
        (expected,) = torch.autograd.grad(QuantTables.standard(quality).stacked().sum(), quality)
        torch.testing.assert_close(gradient, expected)

    @pytest.mark.parametrize("strict", [False, True])
    def test_export(self, strict: bool) -> None:
        arguments = (three_tables(), torch.tensor([30.0, 75.0]))
        stream = io.BytesIO()
        torch.export.save(torch.export.export(ScaledTables(), arguments, strict=strict), stream)
        stream.seek(0)
        got, expected = torch.export.load(stream).module()(*arguments), ScaledTables()(*arguments)
        assert got[0] == expected[0]
        assert torch.equal(got[1], expected[1])

    def test_vmap_over_tables_and_quality(self) -> None:
        tables = QuantTables.standard(torch.tensor([10.0, 50.0, 90.0]))
        assert torch.equal(torch.vmap(lambda one: one.stacked()[0])(tables), tables.stacked())
        assert torch.vmap(QuantTables.standard)(torch.tensor([10.0, 50.0, 90.0])) == tables

    def test_grad_with_respect_to_tables(self) -> None:
        gradient = torch.func.grad(lambda tables: (tables.stacked() ** 2).sum())(two_tables().to(torch.float32))
        assert torch.equal(gradient.y, 2 * two_tables().y)
        assert torch.equal(gradient.chroma, 4 * two_tables().cb)  # Cb and Cr share it
