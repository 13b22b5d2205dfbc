"""Any call of the other public functions and layers, by hypothesis: each keeps what its docstring promises, or refuses.

`test_any_call.py` calls `jpeg`, and has the command for many more cases.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.drawn import ANY, called, images
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables, augmentations

SUBSAMPLINGS = st.sampled_from(("4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1"))
QUALITIES = st.integers(1, 100)


@st.composite
def tables(draw: st.DrawFn) -> QuantTables:
    """Whole steps in 1…255, the same for all images."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count = draw(st.sampled_from((2, 3)))
    return QuantTables(*torch.randint(1, draw(st.integers(2, 256)), (count, 8, 8), generator=generator))


@st.composite
def layers(draw: st.DrawFn) -> nn.Module:
    """A layer or an augmentation, right arguments only."""
    low = draw(st.integers(1, 100))
    span, p = (low, draw(st.integers(low, 100))), draw(st.floats(0, 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    common = {"subsampling": draw(SUBSAMPLINGS), "upsampling": draw(st.sampled_from(("fancy", "nearest")))}
    return draw(
        st.sampled_from(
            (
                lambda: fdjpeg.JPEG(low, **common),
                lambda: fdjpeg.JPEG(tables=QuantTables.flat(low), arithmetic="real", **common),
                lambda: fdjpeg.LearnableJPEG(QuantTables.standard(low), **common),
                lambda: fdjpeg.RandomJPEG(span, p=p, generator=generator, **common),
                lambda: fdjpeg.StochasticJPEG(span, generator=generator),
                lambda: fdjpeg.FeatureDistillation("code"),
                lambda: augmentations.RandomJPEG(span, p=p, generator=generator),
                lambda: augmentations.DoubleJPEG(span, p=p, generator=generator),
                lambda: augmentations.Recompress(
                    scale=(0.4, 1.6), restore=True, quality=span, p=p, generator=generator
                ),
            )
        )
    )()


@ANY
@given(images(), layers())
def test_a_layer_keeps_shape_and_range(image: Tensor, layer: nn.Module) -> None:
    before = image.clone()
    if image.dtype == torch.uint8 and isinstance(layer, (fdjpeg.FeatureDistillation, fdjpeg.LearnableJPEG)):
        with pytest.raises(TypeError, match="image must be floating"):
            layer(image)
        return
    found = layer(image)
    assert torch.equal(image, before)
    assert (found.shape, found.dtype) == (image.shape, image.dtype)
    if found.numel() and found.is_floating_point():
        assert 0 <= float(found.detach().min()) <= float(found.detach().max()) <= 1
    generator = getattr(layer, "generator", None)
    if generator is None:
        assert torch.equal(layer(image), found)


@ANY
@given(images(), QUALITIES, SUBSAMPLINGS)
def test_the_halves_make_the_whole(image: Tensor, quality: int, subsampling: str) -> None:
    made = fdjpeg.encode(image, quality, subsampling=subsampling)
    whole = fdjpeg.jpeg(image, quality, subsampling=subsampling)
    assert torch.equal(fdjpeg.decode(made, dtype=image.dtype), whole.reshape(-1, *image.shape[-3:]))
    counted = fdjpeg.bits(made)
    assert counted.shape == (image.shape[:-3].numel(),)
    assert bool((counted >= 2).all())
    again = fdjpeg.encode(image, tables=QuantTables.standard(quality), subsampling=subsampling)
    assert all(torch.equal(a, b) for a, b in zip(made.components, again.components, strict=True))


@ANY
@given(images(), QUALITIES, SUBSAMPLINGS)
def test_the_rate_is_finite_and_has_a_gradient(image: Tensor, quality: int, subsampling: str) -> None:
    points = image if image.dtype == torch.uint8 else image.clone().requires_grad_()
    found = fdjpeg.rate(points, quality, subsampling=subsampling)
    assert bool(found.isfinite().all())
    assert bool((found >= 0).all())
    if points.requires_grad and found.requires_grad:
        (gradient,) = torch.autograd.grad(found.sum(), points)
        assert gradient.shape == image.shape
        assert not gradient.isnan().any()


@ANY
@given(tables(), QUALITIES)
def test_tables_come_back_from_text_and_from_pillow(made: QuantTables, quality: int) -> None:
    for kept in (made, QuantTables.standard(quality)):
        text = io.StringIO()
        kept.save(text)
        text.seek(0)
        loaded = QuantTables.load(text)
        assert all(torch.equal(a, b) for a, b in zip(loaded.stacked(), kept.stacked(), strict=True))
        assert kept.allclose(loaded)
        written = kept.to_pillow()
        assert [len(table) for table in written] == [64] * len(written)
        assert torch.equal(torch.tensor(written[0]).view(8, 8), kept.y.long())


@ANY
@given(images(), tables(), st.booleans())
def test_stages_undo_each_other(image: Tensor, steps: QuantTables, wide: bool) -> None:
    if image.dtype not in (torch.float32, torch.float64) or not image.numel():
        return
    points = image.double() if wide else image
    bound = {"rtol": 0.0, "atol": 1e-9 if points.dtype == torch.float64 else 1e-3}
    if image.size(-3) == 3:
        torch.testing.assert_close(fdjpeg.ycbcr_to_rgb(fdjpeg.rgb_to_ycbcr(points)), points, **bound)
    blocks = points[..., :1, :1].expand(*points.shape[:-2], 8, 8)
    frequencies = fdjpeg.block_dct(blocks)
    torch.testing.assert_close(fdjpeg.block_idct(frequencies), blocks, **bound)
    levels = fdjpeg.quantize(frequencies, steps.y)
    assert torch.equal(levels, levels.round())
    assert bool(((fdjpeg.dequantize(levels, steps.y) - frequencies).abs() <= steps.y / 2 + 1e-3).all())


@ANY
@given(images(), QUALITIES, SUBSAMPLINGS, st.sampled_from(("straight-through", "identity", "cubic", "sine")))
def test_transforms_of_torch_func(image: Tensor, quality: int, subsampling: str, gradient: str) -> None:
    batch = image.reshape(-1, *image.shape[-3:])
    settings: dict[str, Any] = {"quality": quality, "subsampling": subsampling, "gradient": gradient}

    def coded(one: Tensor) -> Tensor:
        return fdjpeg.jpeg(one, **settings)

    whole = coded(batch)
    if batch.size(0):
        assert torch.equal(torch.func.vmap(coded)(batch), whole)
    if not batch.is_floating_point():
        return
    weights = torch.linspace(-1, 1, max(batch.numel(), 1), dtype=batch.dtype)[: batch.numel()].view(batch.shape)
    by_func = torch.func.grad(lambda one: (weights * coded(one)).sum())(batch)
    points = batch.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad((weights * coded(points)).sum(), points)
    assert torch.equal(by_func, by_autograd)
    _, pull = torch.func.vjp(coded, batch)
    assert torch.equal(pull(weights)[0], by_autograd)


@ANY
@given(images(), QUALITIES, SUBSAMPLINGS)
def test_forward_and_backward_mode_agree(image: Tensor, quality: int, subsampling: str) -> None:
    if image.dtype != torch.float64 or not image.numel():
        return
    tangent = torch.sin(torch.arange(image.numel(), dtype=torch.float64)).view(image.shape)
    weights = torch.cos(torch.arange(image.numel(), dtype=torch.float64)).view(image.shape)

    def coded(one: Tensor) -> Tensor:
        return fdjpeg.jpeg(one, quality, subsampling=subsampling, gradient="sine", arithmetic="real", soft=True)

    _, along = torch.func.jvp(coded, (image.contiguous(),), (tangent,))
    _, pull = torch.func.vjp(coded, image)
    torch.testing.assert_close((along * weights).sum(), (pull(weights)[0] * tangent).sum(), rtol=1e-6, atol=1e-9)


@ANY
@given(images(), st.one_of(QUALITIES, st.floats(allow_nan=True), st.none(), st.text(max_size=3)))
def test_check_accepts_what_jpeg_accepts(image: Tensor, quality: Any) -> None:
    refused = called(image, {"quality": quality}) is None
    if refused:
        with pytest.raises((TypeError, ValueError)):
            fdjpeg.check(image, quality)
    else:
        fdjpeg.check(image, quality)
