"""Numbers at their limits: tried on both sides, and written with the digits that show on which side they are."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import _pytree

import fdjpeg
from fdjpeg import JPEG, Coefficients, LearnableJPEG, QuantTables, _standard_tables, surrogates
from fdjpeg._arguments import without_autocast

IMAGE = torch.rand(2, 3, 9, 17, generator=torch.Generator().manual_seed(5))


# ---------------------------------------------------------------------------------------------------------------------
# Qualities and steps


def test_a_percentage_is_that_of_fractions_of_a_quality_too() -> None:
    found = [_standard_tables.percentage(quality) for quality in (0.5, 1, 1.5, 2, 49.5, 50, 50.5, 99.5, 100, 100.5)]
    assert found == pytest.approx([5000, 5000, 5000 / 1.5, 2500, 5000 / 49.5, 100, 99, 1, 0, 0])


def test_steps_have_a_second_derivative_below_50_only() -> None:
    qualities = torch.tensor([49.999, 50.0], dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(QuantTables.standard(qualities).y[:, 0, 0].sum(), qualities, create_graph=True)[0]
    assert first.tolist() == pytest.approx([-0.16 * 5000 / 49.999**2, -0.32])
    second = torch.autograd.grad(first.sum(), qualities)[0]
    assert second.tolist() == pytest.approx([0.16 * 10000 / 49.999**3, 0])


@pytest.mark.parametrize(("step", "right"), [(1e-30, True), (0.9e-30, False), (1e30, True), (1.1e30, False)])
def test_flat_steps_are_within_what_float32_divides_by(step: float, right: bool) -> None:
    if right:
        assert QuantTables.flat(step).y.unique().tolist() == pytest.approx([step])
        return
    with pytest.raises(ValueError, match=re.escape(f"step must be in 1e-30…1e+30, got {step}")):
        QuantTables.flat(step)


@pytest.mark.parametrize(
    ("arithmetic", "right", "wrong", "wanted"),
    [
        ("libjpeg", (0.51, 1, 255, 255.49), (0.5, 0, 255.51, math.nan, math.inf), "in 1…255"),
        ("real", (1e-30, 0.3, 1e30), (0, -1, math.nan, math.inf), "above 0 and finite"),
    ],
)
def test_steps_are_checked_as_they_act(
    arithmetic: str, right: tuple[float, ...], wrong: tuple[float, ...], wanted: str
) -> None:
    for step in (*right, *wrong):
        table = torch.full((2, 8, 8), 9.0, dtype=torch.float64)
        table[1, 3, 4] = table[1, 7, 7] = step
        tables = QuantTables(torch.full((8, 8), 9.0), table)
        if step in right:
            fdjpeg.tables.check_tables(tables, arithmetic)
            continue
        message = re.escape(f"tables.cb[1, 3, 4] must be {wanted}, got {step:g}")
        with pytest.raises(ValueError, match=f"^{message}$"):
            fdjpeg.tables.check_tables(tables, arithmetic)


@pytest.mark.parametrize(("images", "sets"), [(2, 3), (3, 2), (1, 2), (0, 2)])
def test_tables_are_one_set_or_one_for_each_image(images: int, sets: int) -> None:
    tables = QuantTables.flat(torch.full((sets,), 9))
    message = re.escape(f"tables must be (8, 8) or one for each of the {images} images, got {sets}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        fdjpeg.jpeg(IMAGE[:1].expand(images, 3, 9, 17), tables=tables)
    with pytest.raises(ValueError, match=f"^{message}$"):
        fdjpeg.check(IMAGE[:1].expand(images, 3, 9, 17), tables=tables)
    assert fdjpeg.jpeg(IMAGE, tables=tables[:1]).shape == IMAGE.shape


def test_tables_of_two_sizes_of_batches_do_not_fit_unless_one_is_one() -> None:
    one, two, three = (torch.full((count, 8, 8), 9) for count in (1, 2, 3))
    assert QuantTables(one, three).batch_size == QuantTables(three, one, three).batch_size == 3
    for tables, listed in (((two, three), "y: 2, cb: 3"), ((one, three, two), "cb: 3, cr: 2")):
        with pytest.raises(ValueError, match=f"^tables must be for the same number of images, got {listed}$"):
            QuantTables(*tables)


def test_nearly_equal_is_torchs_allclose_of_these_tables_to_the_others() -> None:
    one = torch.ones(8, 8, dtype=torch.float64)

    def close(step: float, other: float, **tolerances: float) -> bool:
        return QuantTables(step * one, step * one).allclose(QuantTables(other * one, other * one), **tolerances)

    assert close(1 + 0.9e-5, 1)
    assert not close(1 + 1.5e-5, 1)
    assert close(1e-9, 1e-8)
    assert not close(1e-9, 1.6e-8)
    assert close(1, 2, rtol=0.5, atol=0)
    assert not close(2, 1, rtol=0.5, atol=0)
    assert close(2, 1, rtol=0, atol=1)


# ---------------------------------------------------------------------------------------------------------------------
# Messages and texts


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((-1.0, 1.0), "-1 to 1"),
        ((-1.0, 0.99999999), "-1 to 1"),
        ((-1.0, 1.0000001), "-1 to 1.0000001"),
        ((0.0, 255.0), "0 to 255"),
        ((-0.0021, 0.5), "-0.0021 to 0.5"),
    ],
)
def test_a_sample_that_is_too_large_is_shown_to_be(values: tuple[float, float], text: str) -> None:
    image = torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)
    image[0, 0, 0, 0], image[0, 2, 7, 7] = values
    with pytest.raises(ValueError, match=rf"^image must lie in \[0, 1\], got values from {text}$"):
        fdjpeg.check(image)


@pytest.mark.parametrize(("quality", "text"), [(100.0000001, "100.0000001"), (0.99999, "0.99999"), (-3.0, "-3")])
def test_a_quality_that_is_out_of_range_is_shown_to_be(quality: float, text: str) -> None:
    qualities = torch.tensor([50.0, quality, 1000.0], dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"^quality must be in 1…100, got {text}$"):
        fdjpeg.check(IMAGE[:1].expand(3, 3, 9, 17), qualities)


def test_a_layer_is_written_with_what_differs_from_its_defaults() -> None:
    common = "subsampling='4:2:0', gradient='straight-through'"
    assert repr(JPEG(30)) == f"JPEG(quality=30, {common})"
    assert repr(JPEG(30, upsampling="nearest")) == f"JPEG(quality=30, {common}, upsampling='nearest')"
    assert repr(JPEG(torch.ones(2), arithmetic="real")) == (
        f"JPEG(quality=tensor of shape (2,), {common}, arithmetic='real', soft=False)"
    )
    soft = JPEG(tables=QuantTables.flat(9), gradient="sine", subsampling="4:4:4", arithmetic="real", soft=True)
    assert repr(soft) == "JPEG(tables=..., subsampling='4:4:4', gradient='sine', arithmetic='real', soft=True)"


def test_tables_are_written_below_each_other() -> None:
    lines = repr(QuantTables(torch.full((8, 8), 9), torch.full((8, 8), 7))).splitlines()
    assert lines[0] == "QuantTables("
    assert lines[1] == "    luma=tensor([[9, 9, 9, 9, 9, 9, 9, 9],"
    assert lines[2:8] == ["                 [9, 9, 9, 9, 9, 9, 9, 9],"] * 6
    assert lines[8] == "                 [9, 9, 9, 9, 9, 9, 9, 9]]),"
    assert lines[9] == "    chroma=tensor([[7, 7, 7, 7, 7, 7, 7, 7],"
    assert lines[10] == "                   [7, 7, 7, 7, 7, 7, 7, 7],"
    assert lines[-1] == ")"


def test_the_leaves_of_tables_have_their_names() -> None:
    tables = QuantTables(*(torch.full((8, 8), step) for step in (1, 2, 3)))
    named, _ = _pytree.tree_flatten_with_path({"a": tables, "b": QuantTables.flat(9)})
    assert [_pytree.keystr(path) for path, _ in named] == ["['a'].y", "['a'].cb", "['a'].cr", "['b'].y", "['b'].cb"]
    assert [int(leaf[0, 0]) for _, leaf in named] == [1, 2, 3, 9, 9]


# ---------------------------------------------------------------------------------------------------------------------
# Layers and devices


def test_learned_steps_are_limited_and_come_back() -> None:
    """At a bound a gradient passes that points inside, however small it is."""
    layer = LearnableJPEG(QuantTables.standard(50), share="all")
    (logs,) = layer.log_steps
    with torch.no_grad():
        logs.fill_(math.log(9))
        logs[0] = torch.tensor([-1.0, 0.0, 0.5, 1.0, 5.0, math.log(255), 6.0, 100.0])
    assert layer.steps().y[0].tolist() == pytest.approx([1, 1, math.exp(0.5), math.e, math.exp(5), 255, 255, 255])
    for sign in (-1e-3, 1e-3, -5, 5):
        (gradient,) = torch.autograd.grad(sign * layer.steps().y.sum(), logs)
        inwards = [sign < 0] * 2 + [True] * 3 + [sign > 0] * 3
        assert gradient[0].bool().tolist() == inwards


class Moved:
    """A leaf that notes how it is moved."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, dict[str, Any]]] = []

    def to(self, device: Any, **given: Any) -> Moved:
        self.calls.append((device, given))
        return self


def test_coefficients_wait_for_their_move_unless_told_otherwise() -> None:
    structure = _pytree.tree_flatten(fdjpeg.encode(IMAGE, 50))[1]
    leaves = [Moved() for _ in range(structure.num_leaves)]
    coefficients: Coefficients = _pytree.tree_unflatten(leaves, structure)
    tables = Moved()
    object.__setattr__(coefficients, "tables", tables)
    coefficients.to("cpu")
    coefficients.to("cuda:1", non_blocking=True)
    wanted = [("cpu", {"non_blocking": False}), ("cuda:1", {"non_blocking": True})]
    assert [one.calls for one in (*leaves[:3], tables)] == [wanted] * 4


def test_autocast_is_off_inside_whether_it_was_on_or_not() -> None:
    one = torch.ones(4, 4)
    device = torch.device("cpu")
    for outer in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=outer), without_autocast(device):
            assert not torch.is_autocast_enabled("cpu")
            assert (one @ one).dtype == torch.float32
    with without_autocast(torch.device("meta")):
        assert (one @ one).dtype == torch.float32


# ---------------------------------------------------------------------------------------------------------------------
# Surrogates and stages


@pytest.mark.parametrize("kind", [surrogates.Tanh, surrogates.Softmax])
def test_alpha_is_between_a_thousandth_and_a_thousand(kind: type[surrogates.Tanh | surrogates.Softmax]) -> None:
    for alpha in (1e-3, 0.5, 1e3, np.float32(0.5), np.int64(1000)):
        assert kind(alpha).alpha == alpha
        assert type(kind(alpha).alpha) in (int, float)
    for alpha in (0.9e-3, 1001, 1999.0):
        with pytest.raises(ValueError, match=re.escape(f"alpha must be in 0.001…1000, got {alpha!r}")):
            kind(alpha)
    for alpha in (0, -1e-9, math.inf, math.nan):
        with pytest.raises(ValueError, match=re.escape(f"alpha must be a positive finite number, got {alpha!r}")):
            kind(alpha)


def test_numbers_of_surrogates_are_pythons() -> None:
    """Their texts are in fingerprints, where NumPy's would differ."""
    assert repr(surrogates.Fourier(np.int64(3), floor=np.float32(0.5))) == "Fourier(floor=0.5, terms=3)"
    assert repr(surrogates.Tanh(np.float64(2), floor=np.int32(0))) == "Tanh(floor=0, alpha=2.0)"
    assert [surrogates.Fourier().terms, surrogates.Tanh().alpha, surrogates.Softmax().alpha] == [10, 4, 4]
    for floor in (0.25, 0.0):
        assert float(surrogates.Cubic(floor=floor).derivative(torch.zeros(()))) == floor
    with pytest.raises(TypeError, match="positional argument"):
        surrogates.Cubic(0.5)  # type: ignore[misc]


def test_noise_is_what_its_generator_draws_less_a_half() -> None:
    c = torch.linspace(-3, 3, 50)
    drawn = torch.rand(50, generator=torch.Generator().manual_seed(9))
    found = surrogates.Noise(torch.Generator().manual_seed(9)).forward(c)
    assert torch.equal(found, c + (drawn - 0.5))
    assert torch.equal(surrogates.Noise().derivative(c), torch.ones(50))


@pytest.mark.parametrize("outer", [(), (2,), (2, 1), (1, 2, 1)], ids=str)
def test_stages_take_any_number_of_outer_dimensions(outer: tuple[int, ...]) -> None:
    image = torch.rand(*outer, 3, 8, 16, generator=torch.Generator().manual_seed(9))
    one = image.reshape(-1, 3, 8, 16)[0]
    ycbcr = fdjpeg.rgb_to_ycbcr(image)
    assert torch.equal(ycbcr.reshape(-1, 3, 8, 16)[0], fdjpeg.rgb_to_ycbcr(one))
    torch.testing.assert_close(fdjpeg.ycbcr_to_rgb(ycbcr), image)
    blocks = fdjpeg.block_dct(image)
    assert blocks.shape == (*outer, 3, 1, 2, 8, 8)
    torch.testing.assert_close(fdjpeg.block_idct(blocks), image)
    for wrong in (image[..., :12], image[..., :4, :]):
        shape = re.escape(str(tuple(wrong.shape)))
        with pytest.raises(ValueError, match=rf"^samples must have shape .*, H and W multiples of 8, got {shape}: pad"):
            fdjpeg.block_dct(wrong)
    for wrong in (image[..., :2, :, :], torch.cat([image, image], -3)):
        for function in (fdjpeg.rgb_to_ycbcr, fdjpeg.ycbcr_to_rgb):
            with pytest.raises(ValueError, match=r"^image must have shape \(..., 3, H, W\), got"):
                function(wrong)
    with pytest.raises(ValueError, match=r"^blocks must have shape \(..., rows, columns, 8, 8\), got"):
        fdjpeg.block_idct(blocks[..., :4])


def test_blocks_need_rows_and_columns_and_samples_two_dimensions() -> None:
    assert fdjpeg.block_idct(torch.zeros(2, 3, 8, 8)).shape == (16, 24)
    assert fdjpeg.block_dct(torch.zeros(16, 24)).shape == (2, 3, 8, 8)
    for wrong in (torch.zeros(3, 8, 8), torch.zeros(8, 8)):
        with pytest.raises(ValueError, match=r"^blocks must have shape \(..., rows, columns, 8, 8\), got"):
            fdjpeg.block_idct(wrong)
    for wrong in (torch.zeros(8), torch.zeros(16)):
        with pytest.raises(ValueError, match=r"^samples must have shape \(..., H, W\)"):
            fdjpeg.block_dct(wrong)


def test_the_rate_of_one_grey_is_exact_with_its_dummy_blocks() -> None:
    """2 bits of luma or chroma for no difference, 4 or 2 for the end of a block: nothing is left to chance."""
    for height, width, subsampling in ((8, 8, "4:4:4"), (9, 17, "4:2:0"), (9, 33, "4:1:1")):
        image = torch.full((1, 3, height, width), 128 / 255, dtype=torch.float64)
        counted = fdjpeg.bits(fdjpeg.encode(image, 50, subsampling=subsampling))
        assert fdjpeg.rate(image, 50, subsampling=subsampling).tolist() == pytest.approx(counted.tolist(), abs=1e-6)
    assert int(counted) == 16 * 6 + 2 * 4 * 4  # two rows of two MCUs, of four blocks of luma and two of chroma


def test_straight_through_quantization_has_second_derivatives() -> None:
    """Of c / q by q, twice: 2 c / q³."""
    coefficients = torch.full((1, 8, 8), 30.0, dtype=torch.float64, requires_grad=True)
    steps = torch.full((8, 8), 4.0, dtype=torch.float64, requires_grad=True)
    levels = fdjpeg.quantize(coefficients, steps)
    assert levels.unique().tolist() == [8]  # 7.5, half to even
    (first,) = torch.autograd.grad(levels.sum(), steps, create_graph=True)
    assert first[0, 0].item() == pytest.approx(-30 / 16)
    (second,) = torch.autograd.grad(first.sum(), steps, create_graph=True)
    assert second[0, 0].item() == pytest.approx(2 * 30 / 64)


@pytest.mark.parametrize("function", [fdjpeg.quantize, fdjpeg.dequantize])
def test_steps_of_stages_are_dense(function: Any) -> None:
    message = r"^steps must be a dense tensor, got one of layout torch.sparse_coo$"
    with pytest.raises(TypeError, match=message):
        function(torch.zeros(8, 8), torch.ones(8, 8).to_sparse())


def test_tables_that_chroma_shares_are_two() -> None:
    for tables in (
        QuantTables.certifying(1 / 255),
        QuantTables.from_pillow([list(range(1, 65))]),
        QuantTables.load(b"16 " * 64),
        QuantTables.flat(9),
        QuantTables.standard(50),
        QuantTables.feature_distillation(torch.rand(8, 8)),
    ):
        assert len(_pytree.tree_leaves(tables)) == 2
        assert len(tables.to_pillow()) == 2


class Own:
    """A surrogate of one's own that says nothing of being smooth."""

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        return c.round()

    def derivative(self, c: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(c)


def test_a_surrogate_is_soft_only_if_it_says_that_it_is_smooth() -> None:
    own: Any = Own()
    for call in (
        lambda: fdjpeg.jpeg(IMAGE, 50, gradient=own, arithmetic="real", soft=True),
        lambda: JPEG(50, gradient=own, arithmetic="real", soft=True),
        lambda: fdjpeg.quantize(torch.zeros(8, 8), torch.ones(8, 8), own, soft=True),
    ):
        with pytest.raises(ValueError, match=r"^soft=True needs a gradient with a smooth forward, got <.*Own object"):
            call()
    own.smooth = True
    assert fdjpeg.jpeg(IMAGE, 50, gradient=own, arithmetic="real", soft=True).shape == IMAGE.shape


def test_files_have_libjpegs_floors_for_numbers_and_tensors() -> None:
    """At 33 the percentage is 151.5: soft tables would have it, files have 151."""
    expected = QuantTables.standard(33)
    assert int(expected.y[6, 5]) == (121 * 151 + 50) // 100
    for quality in (33, torch.tensor(33), torch.tensor([33.0, 33.0]), torch.tensor([33.0], dtype=torch.float64)):
        made = fdjpeg.encode(IMAGE, quality)
        assert torch.equal(made.tables.stacked()[0], expected.stacked()[0])
        assert torch.equal(made.y, fdjpeg.encode(IMAGE, tables=expected).y)
        assert torch.equal(fdjpeg.rate(IMAGE, quality), fdjpeg.rate(IMAGE, tables=expected))
        assert not torch.allclose(fdjpeg.rate(IMAGE, quality, soft=True), fdjpeg.rate(IMAGE, quality), rtol=1e-6)
    finer = torch.tensor(90.1, dtype=torch.float64)  # of 19.8 %, a base of 18 makes 3.56; of 19 % it makes 3
    assert torch.equal(fdjpeg.encode(IMAGE, finer).y, fdjpeg.encode(IMAGE, 90.1).y)
