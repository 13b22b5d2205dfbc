"""Standard tables, their gradient by quality, and other tables by formula, against Pillow's own and plain numbers."""

from __future__ import annotations

import io
import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from support.table_cases import jpeg_bytes
from torch import Tensor
from torch._subclasses import FakeTensorMode

from fdjpeg import _constants
from fdjpeg._standard_tables import STANDARD_CHROMA, STANDARD_LUMA
from fdjpeg.tables import QuantTables

QUALITIES = range(1, 101)


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

    @pytest.mark.parametrize("soft", [3, None, "yes"])
    def test_soft_is_a_bool(self, soft: object) -> None:
        with pytest.raises(TypeError, match=f"soft must be True or False, got {soft!r}"):
            QuantTables.standard(50, soft=soft)  # type: ignore[arg-type]

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
