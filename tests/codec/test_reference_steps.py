"""The reference's steps at qualities, by formulas of libjpeg in plain numbers; and the dtype of its integers."""

from __future__ import annotations

import math

import pytest
import torch

from fdjpeg import QuantTables, reference, surrogates
from fdjpeg._geometry import SAMPLING_FACTORS, geometry_of
from fdjpeg.reference import exact, pieces
from fdjpeg.reference.tables import standard_tables_by_block

#: The first step of luma and of chroma (T.81, Tables K.1 and K.2), and the largest of luma, at [6, 5].
LUMA, CHROMA, LARGEST = 16, 17, 121

QUALITIES = (1.0, 3.0, 12.5, 48.5, 49.0, 49.5, 50.0, 50.5, 51.0, 75.25, 99.0)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_and_curvatures_are_the_derivatives_of_libjpegs_percentage(dtype: torch.dtype, soft: bool) -> None:
    """s is 5000 / q below 50 and 200 − 2 q from there on, and a step is base · s / 100."""
    qualities = torch.tensor([QUALITIES], dtype=dtype)
    number = len(QUALITIES)
    slopes = pieces.standard_slopes(qualities, number, False, soft)
    curvatures = pieces.standard_curvatures(qualities, number, False, soft)
    assert slopes.dtype == curvatures.dtype == dtype
    assert slopes.shape == curvatures.shape == (1, number, 8, 8)
    first = [-5000 / quality**2 if quality < 50 else -2 for quality in QUALITIES]
    second = [10000 / quality**3 if quality < 50 else 0 for quality in QUALITIES]
    assert slopes[0, :, 6, 5].tolist() == pytest.approx([LARGEST * value / 100 for value in first], rel=1e-6)
    assert curvatures[0, :, 6, 5].tolist() == pytest.approx([LARGEST * value / 100 for value in second], rel=1e-6)
    of_chroma = pieces.standard_slopes(qualities, 0, False, soft)[0, :-1, 0, 0]
    assert of_chroma.tolist() == pytest.approx([CHROMA * value / 100 for value in first[:-1]], rel=1e-6)


def test_only_soft_steps_stay_where_a_quality_is_out_of_range() -> None:
    """Straight through, the slope there is that of the nearer end; a quality without a value has none."""
    qualities = torch.tensor([[0.5, -3.0, 100.5, 1e6, math.nan, math.inf, -math.inf]])
    for derivative, low in ((pieces.standard_slopes, -5000.0), (pieces.standard_curvatures, 10000.0)):
        assert not bool(derivative(qualities, 7, False, True).any())
        high = -2.0 if low < 0 else 0.0
        expected = [LUMA * value / 100 for value in (low, low, high, high, 0, 0, 0)]
        assert derivative(qualities, 7, False, False)[0, :, 0, 0].tolist() == pytest.approx(expected)


def test_whole_qualities_are_rounded_half_to_even_before_their_slope() -> None:
    qualities = torch.tensor([[49.5, 49.6, 10.5, 11.5]])
    whole, exactly = (
        pieces.standard_slopes(qualities, 4, True, False),
        pieces.standard_slopes(torch.tensor([[50.0, 50.0, 10.0, 12.0]]), 4, False, False),
    )
    assert torch.equal(whole, exactly)
    rounded = pieces.standard_steps(torch.tensor([[50.0, 50.0, 10.0, 12.0]]), 4, False, False)
    assert torch.equal(pieces.standard_steps(qualities, 4, True, False), rounded)


def test_the_gradient_of_qualities_is_the_sum_over_a_table_in_their_dtype() -> None:
    grad = torch.zeros(1, 2, 8, 8)
    grad[0, 0, 0, 0], grad[0, 1, 0, 0], grad[0, 0, 6, 5] = 1, 10, 100
    for dtype in (torch.float16, torch.float64):
        found = pieces.standard_steps_backward(grad, torch.tensor([[60.0, 70.0]], dtype=dtype), 1, False, False)
        assert found.dtype == dtype
        assert found[0].tolist() == pytest.approx([-0.02 * (LUMA + 100 * LARGEST), -0.02 * 10 * CHROMA], rel=1e-3)


def test_tables_of_a_map_are_those_of_each_quality() -> None:
    """All uint8 numbers, those out of range as the nearer end."""
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    geometry = geometry_of(torch.empty(1, 3, 128, 128), 2, 1)
    luma, cb, cr = standard_tables_by_block(every, geometry)
    assert (luma.shape, cb.shape, luma.dtype) == ((1, 16, 16, 8, 8), (1, 16, 8, 8, 8), torch.int32)
    for number in range(256):
        y, chroma, _ = reference.standard_tables(min(max(number, 1), 100), every)[0]
        row, column = divmod(number, 16)
        assert torch.equal(luma[0, row, column], y)
        if column % 2 == 0:  # of two blocks of luma, chroma takes the quality of the left one
            assert torch.equal(cb[0, row, column // 2], chroma)
            assert torch.equal(cr[0, row, column // 2], chroma)


@pytest.mark.parametrize("factors", SAMPLING_FACTORS.values(), ids=str)
def test_integers_of_the_reference_are_int32(factors: tuple[int, int]) -> None:
    """Their products wrap around as those of the kernels do."""
    image = torch.full((1, 3, 9, 17), 0.25)
    geometry = geometry_of(image, *factors)
    transformed = exact.transform_components(image, geometry)
    tables = reference.standard_tables(50, image)
    decoded = exact.decode_components([exact.quantize(blocks, tables[0, 0]) for blocks in transformed], tables)
    whole = [*transformed, *decoded, exact.unlimited_rgb(decoded, geometry, True), tables]
    assert {one.dtype for one in whole} == {torch.int32}


@pytest.mark.parametrize(
    ("quality", "percentage"),
    [(49.01, 102), (49.5, 101), (50.502, 98), (51, 98), (1.5, 3333), (99.75, 0), (100.5, 0), (0.3, 5000)],
)
def test_a_fraction_of_a_quality_makes_its_own_tables(quality: float, percentage: int) -> None:
    """5000 / 49.01 is 102.02, and 200 − 2 · 50.502 is 98.996: each is rounded down."""
    table = reference.standard_tables(quality, torch.empty(0))[0, 0]
    step = min(max((LARGEST * percentage + 50) // 100, 1), 255)
    assert int(table[6, 5]) == step
    if 1 <= quality <= 100:
        assert torch.equal(table, QuantTables.standard(quality).y)
        assert torch.equal(table, QuantTables.standard(torch.tensor([quality], dtype=torch.float64)).y[0])
    soft = reference.real_tables(None, quality, True, torch.empty(0, dtype=torch.float64))[0, 0]
    act = min(max(quality, 1), 100)
    expected = max(LARGEST * (5000 / act if act < 50 else 200 - 2 * act) / 100, 1)
    assert float(soft[6, 5]) == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------------------------------
# Which samples the last limiting passes


@pytest.mark.parametrize(
    ("y", "cr", "red"),
    [(255, 128, True), (255, 129, False), (254, 129, True), (0, 128, True), (0, 127, False), (1, 127, True)],
)
def test_red_passes_where_it_is_within_its_range_before_the_last_limiting(y: int, cr: int, red: bool) -> None:
    """A step of Cr is 1.402 of red, rounded to 1: of 256 and of −1 nothing passes."""
    image = torch.zeros(1, 3, 8, 8)
    geometry = geometry_of(image, 1, 1)
    decoded = [torch.full((1, 8, 8), value, dtype=torch.int32) for value in (y, 128, cr)]
    planes = exact.pack_planes(decoded, torch.zeros(1, 1, 1, dtype=torch.bool), geometry)
    grad = torch.zeros(1, 3, 8, 8)
    grad[:, 0] = 1
    of_image, _ = reference.round_trip_backward(grad, planes, image, None, 50.0, 1, 1, True, False)
    of_blocks = pieces.blocks_image_backward(grad, planes, image, 1, 1, True)
    assert bool(of_image.any()) == bool(of_blocks.any()) == red
    assert bool(reference.straight_through_tangent(grad, planes, image, 1, 1, True)[:, 0].any()) == red


def test_in_real_numbers_every_sample_between_black_and_white_passes() -> None:
    """What comes out between the two was not limited, and what comes out at one was."""
    image = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    setting = (torch.full((1, 3, 8, 8), 60.0), 0.0, 1, 1, True, "straight-through", 0.0, 0.0, False)
    out, mask = reference.real_round_trip(image, *setting)
    inside = torch.stack([mask >> channel & 1 for channel in range(3)], 1).bool()
    assert torch.equal(inside, (out > 0) & (out < 1))
    assert 0.5 < float(inside.float().mean()) < 0.99
    assert bool(inside[out * 255 < 1].any())
    assert bool(inside[out * 255 > 254].any())


def test_a_change_of_a_sample_without_a_value_is_none_where_the_codec_is_exact() -> None:
    image = torch.full((1, 3, 8, 8), 0.5)
    image[0, 1, 3, 4] = math.nan
    v = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    without = v.clone()
    without[0, 1, 3, 4] = 0
    found = pieces.image_blocks_tangent(v, image, True, 1, 1)
    assert torch.equal(found, pieces.image_blocks_tangent(without, image, False, 1, 1))
    assert not torch.equal(found, pieces.image_blocks_tangent(v, image, False, 1, 1))
    assert torch.allclose(found, pieces.image_blocks(without, 1, 1) - pieces.image_blocks(0 * without, 1, 1), atol=1e-3)


def test_grey_images_have_no_blocks_of_chroma() -> None:
    coefficients = reference.encode(torch.zeros(2, 1, 9, 17), None, 50.0, 2, 2)
    assert [tuple(one.shape) for one in coefficients] == [(2, 2, 3, 8, 8), (2, 0, 0, 8, 8), (2, 0, 0, 8, 8)]
    assert {one.dtype for one in coefficients} == {torch.int16}
    decoded = reference.decode(*coefficients, torch.ones(1, 3, 8, 8), 9, 17, 2, 2, True, torch.uint8)
    assert decoded.shape == (2, 1, 9, 17)


def test_gradients_of_tables_that_nobody_wants_are_empty() -> None:
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    _, planes = reference.round_trip(image, None, 50.0, 1, 1, True)
    slopes = torch.ones(1025)
    exactly = (image, planes, image, None, 50.0, 1, 1, True)
    real = (None, 50.0, 1, 1, True, "sine", 0.0, 0.0, False)
    _, mask = reference.real_round_trip(image, *real)
    for wanted, shape in ((False, (0,)), (True, (2, 3, 8, 8))):
        assert reference.round_trip_backward(*exactly, wanted)[1].shape == shape
        assert reference.surrogate_backward(*exactly, wanted, slopes)[1].shape == shape
        assert reference.real_round_trip_backward(image, mask, image, *real, wanted)[1].shape == shape


def test_samples_without_a_value_get_no_gradient_and_pass_no_change() -> None:
    image = torch.rand(1, 3, 9, 17, generator=torch.Generator().manual_seed(3))
    image[0, 1, 3, 4] = image[0, 2, 8, 16] = math.nan
    odd = image.isnan()
    v, of_tables = torch.randn(1, 3, 9, 17, generator=torch.Generator().manual_seed(4)), torch.ones(1, 3, 8, 8)
    slopes = surrogates.Tanh().derivative(torch.linspace(-0.5, 0.5, 1025))
    _, planes = reference.round_trip(image, None, 50.0, 2, 2, True)
    setting = (planes, image, None, 50.0, 2, 2, True)
    for backward in (
        reference.round_trip_backward(v, *setting, False),
        reference.surrogate_backward(v, *setting, False, slopes),
    ):
        assert not bool(backward[0][odd].any())
        assert bool(backward[0][~odd].all())
    for values in (0.0, 5.0):  # whatever the change is there
        changed = v.masked_fill(odd, values)
        exactly = reference.straight_through_tangent(changed, planes, image, 2, 2, True)
        by_slopes = reference.surrogate_tangent(changed, of_tables, *setting, slopes)
        if values == 0:
            expected = exactly, by_slopes
    assert torch.equal(exactly, expected[0])
    assert torch.equal(by_slopes, expected[1])
    alone = [reference.surrogate_tangent(v, None, *setting, slopes) for _ in range(2)]
    none = reference.surrogate_tangent(torch.zeros_like(v), of_tables, *setting, slopes)
    torch.testing.assert_close(alone[0] + none, by_slopes, atol=1e-5, rtol=1e-4)


def test_tangents_of_surrogates_are_the_transposed_maps_of_their_gradients() -> None:
    """⟨Jv, g⟩ = ⟨v, Jᵀg⟩ for images and tables, exact and in real numbers."""
    generator = torch.Generator().manual_seed(8)
    image = torch.rand(2, 3, 9, 17, generator=generator, dtype=torch.float64)
    v, g = torch.randn(2, 2, 3, 9, 17, generator=generator, dtype=torch.float64)
    of_tables = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    tables = torch.randint(5, 60, (2, 3, 8, 8), generator=generator).double()
    slopes = surrogates.Tanh().derivative(torch.linspace(-0.5, 0.5, 8193, dtype=torch.float64))
    for factors in ((2, 1), (2, 2)):
        setting = (tables, 0.0, *factors, True)
        _, planes = reference.round_trip(image, *setting)
        change = reference.surrogate_tangent(v, of_tables, planes, image, *setting, slopes)
        back = reference.surrogate_backward(g, planes, image, *setting, True, slopes)
        expected = (v * back[0]).sum() + (of_tables * back[1]).sum()
        torch.testing.assert_close((change * g).sum(), expected, rtol=1e-5, atol=1e-5)
        for soft in (False, True):
            real = (*setting, "tanh", 4.0, 0.0, soft)
            _, mask = reference.real_round_trip(image, *real)
            change = reference.real_tangent(v, of_tables, mask, image, *real)
            back = reference.real_round_trip_backward(g, mask, image, *real, True)
            expected = (v * back[0]).sum() + (of_tables * back[1]).sum()
            torch.testing.assert_close((change * g).sum(), expected)
            without = reference.real_tangent(v, None, mask, image, *real)
            torch.testing.assert_close((without * g).sum(), (v * back[0]).sum())
