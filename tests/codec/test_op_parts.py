"""Parts of the ops and their reference, one at a time: empty results, bounds that count as inside, and modes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import fdjpeg
from fdjpeg import QuantTables, _huffman, _tangents, reference, stages
from fdjpeg.ops import packed_steps
from fdjpeg.reference import pieces
from fdjpeg.reference.conversions import laid_out_like


def test_codes_have_the_lengths_of_the_standard() -> None:
    """T.81, tables K.3 and K.4; and each code's prefix is no other code, so that the shares of all of them are one."""
    luma, chroma = (_huffman._lengths(table) for table in (_huffman._DC_LUMA, _huffman._DC_CHROMA))
    assert [luma[size] for size in range(12)] == [2, 3, 3, 3, 3, 3, 4, 5, 6, 7, 8, 9]
    assert [chroma[size] for size in range(12)] == [2, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    for table in (_huffman._AC_LUMA, _huffman._AC_CHROMA):
        lengths = list(_huffman._lengths(table).values())
        assert sum(2.0**-length for length in (*lengths, *[16] * (162 - len(lengths)))) == 1 - 2**-16


@pytest.mark.parametrize("channels", [1, 3])
def test_tensors_without_values_have_the_shapes_of_images(channels: int) -> None:
    coefficients = fdjpeg.encode(torch.zeros(2, channels, 16, 24, device="meta"), 50)
    for dtype in (torch.uint8, torch.float32):
        decoded = fdjpeg.decode(coefficients, dtype=dtype)
        assert decoded.is_meta
        assert (tuple(decoded.shape), decoded.dtype) == ((2, channels, 16, 24), dtype)


@pytest.mark.parametrize("whole", [True, False])
def test_steps_of_many_qualities_are_those_of_few(whole: bool) -> None:
    qualities = torch.linspace(1, 100, 150, dtype=torch.float64).view(1, 150)
    found = packed_steps._looked_up_steps(qualities, 90, whole, soft=not whole)
    assert torch.equal(found, reference.standard_steps(qualities, 90, whole, not whole))


def test_steps_have_a_slope_up_to_the_best_quality() -> None:
    """At 99.5 the percentage is 1: of the 64 steps only those of a base above 100 are above 1."""
    slopes = pieces.standard_slopes(torch.tensor([[99.5, 100.5]]), 2, whole=False, soft=True)[0]
    assert float(slopes[0, 6, 5]) == pytest.approx(-2 * 121 / 100)
    assert float(slopes[0, 0, 0]) == 0
    assert not bool(slopes[1].any())


def test_samples_at_both_ends_are_inside() -> None:
    """Of samples 0 and 255 a gradient passes; of those beyond none does."""
    for sample, inside in ((0.0, 1), (255.0, 1), (-0.5, 0), (255.5, 0)):
        transforms = reference.Transforms(torch.clone, lambda _, s=sample: torch.full((1, 8, 8), s - 128))
        image, mask = pieces.blocks_image(
            torch.zeros(1, 1, 8, 8), torch.empty(1, 1, 8, 8), 1, 1, fancy=False, transforms=transforms
        )
        assert image.unique().tolist() == [min(max(sample, 0), 255) / 255]
        assert mask.unique().tolist() == [inside]


def test_samples_of_nan_get_no_gradient_where_the_codec_is_exact() -> None:
    image = torch.full((1, 1, 8, 8), 0.5)
    image[..., 3, 4] = float("nan")
    grad = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    exact, real = (pieces.image_blocks_backward(grad, image, planes, 1, 1) for planes in (torch.empty(0), None))
    assert float(exact[..., 3, 4]) == 0
    assert float(real[..., 3, 4]) != 0
    assert torch.equal(exact.where(~image.isnan(), 0), real.where(~image.isnan(), 0))


def test_the_identity_leaves_the_value_of_quantized_channels() -> None:
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)).requires_grad_()
    steps = torch.full((8, 8), 30.0)
    found = stages.quantize_channels(image, steps, gradient="identity")
    torch.testing.assert_close(found, stages.quantize_channels(image, steps, gradient="straight-through"))
    assert torch.equal(torch.autograd.grad(found.sum(), image)[0], torch.ones_like(image))


class Own:
    """A surrogate of one's own, which no op serves."""

    def forward(self, c: Tensor) -> Tensor:
        return c.round()

    def derivative(self, c: Tensor) -> Tensor:
        return torch.ones_like(c)


def test_a_map_of_qualities_has_the_gradient_of_one_quality_everywhere() -> None:
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    one, each = torch.tensor(40.0, requires_grad=True), torch.full((1, 1, 1), 40.0, requires_grad=True)
    for gradient in (Own(), "straight-through"):
        results = [fdjpeg.jpeg(image, quality, gradient=gradient) for quality in (one, each)]
        assert torch.equal(*results)
        of_one, of_each = (
            torch.autograd.grad(result[..., 0, 0].sum(), quality)[0].sum()
            for result, quality in zip(results, (one, each), strict=True)
        )
        torch.testing.assert_close(of_each, of_one)
        assert float(of_one) != 0


def test_learned_tables_pass_their_settings_on() -> None:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    tables = QuantTables.standard(30)
    settings: dict[str, Any] = {"gradient": "cubic", "arithmetic": "real", "soft": True}
    found = fdjpeg.LearnableJPEG(tables, **settings)(image)
    torch.testing.assert_close(found, fdjpeg.jpeg(image, tables=tables, **settings))
    assert not torch.equal(found, fdjpeg.jpeg(image, tables=tables, **{**settings, "soft": False}))


def test_blocks_may_have_the_lowest_and_the_highest_quality() -> None:
    assert fdjpeg.StochasticJPEG((1, 100)).qualities == (1, 100)


def test_forward_mode_is_left_to_eager_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """While torch.compile traces, a Function without jvp is applied, unless there may be tangents."""
    breaks: list[str] = []
    dynamo = SimpleNamespace(graph_break=lambda msg: breaks.append(msg))
    monkeypatch.setitem(vars(torch), "_dynamo", dynamo)  # importing it takes a second
    function: Any = SimpleNamespace(apply=lambda *_: "reverse", in_both_modes=SimpleNamespace(apply=lambda *_: "both"))
    plain = torch.ones(2)
    assert _tangents.apply_function(function) == "both"
    assert not _tangents.carries_tangent(plain)
    with forward_ad.dual_level():
        assert not _tangents.carries_tangent(plain)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert _tangents.apply_function(function) == "reverse"
    assert breaks == []
    with forward_ad.dual_level():
        assert _tangents.apply_function(function) == "both"
        assert breaks == ["fdjpeg has no forward-mode derivatives inside of torch.compile"]
        assert _tangents.carries_tangent(plain)  # it cannot be asked while it is traced


def test_samples_keep_their_dtype_in_the_layout_of_an_image() -> None:
    image = torch.zeros(1, 3, 8, 8, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    samples = torch.arange(192, dtype=torch.int32).view(1, 3, 8, 8)
    found = laid_out_like(image, samples)
    assert (found.dtype, found.stride()) == (torch.int32, image.stride())
    assert torch.equal(found, samples)


def test_one_set_of_slopes_serves_a_mapped_batch() -> None:
    image, steps, slopes = torch.rand(2, 1, 1, 8, 8), torch.full((1, 1, 8, 8), 9.0), torch.ones(2, 8193)

    def mapped(slopes: Tensor, dim: int | None) -> Tensor:
        def one(image: Tensor, slopes: Tensor) -> Tensor:
            result: Tensor = torch.ops.fdjpeg.round_trip_by_steps(image, steps, slopes, 1, 1, False)[0]
            return result

        return torch.func.vmap(one, in_dims=(0, dim))(image, slopes)

    assert mapped(slopes[0], None).shape == image.shape
    with pytest.raises(NotImplementedError, match="fdjpeg::round_trip_by_steps cannot map over slopes"):
        mapped(slopes, 0)
