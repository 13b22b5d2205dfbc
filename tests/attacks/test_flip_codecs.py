"""The codecs, transforms and units of Flip at their edges: qualities, dtypes, parts of a batch and odd sizes."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest
import torch
from support.classifiers import SEED
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables, reference
from fdjpeg._geometry import SAMPLING_FACTORS, Geometry
from fdjpeg.attacks.codec import Codec, DrawsByImage, codecs_of, has_coefficients, inward
from fdjpeg.attacks.transform import Transform, to_planes
from fdjpeg.attacks.units import Units


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(SEED), dtype=dtype)


def codec_of(layer: nn.Module, x: Tensor) -> Codec:
    (codec,) = codecs_of(layer, x, torch.arange(len(x)), 0, "test")
    return codec


# --- codecs -----------------------------------------------------------------------------------------------------------


def test_two_images_with_tables_of_their_own_keep_them() -> None:
    x = images(2, 3, 16, 16)
    layer = fdjpeg.JPEG(torch.tensor([20, 80]))
    codec = codec_of(layer, x)
    for rows in (torch.tensor([1]), torch.tensor([1, 0]), torch.tensor([0, 0])):
        assert torch.equal(codec.only(rows)(x[rows]), fdjpeg.JPEG(torch.tensor([20, 80])[rows])(x[rows]))


def test_qualities_of_blocks_reach_both_ends() -> None:
    x = images(1, 1, 16, 16)
    quality = torch.tensor([[[1.0, 100.0], [0.2, 99.6]]])
    layer = fdjpeg.JPEG(50)
    layer.quality = quality  # as a float map is kept
    codec = codec_of(layer, x)
    assert codec.qualities is not None
    assert codec.qualities.tolist() == [[[1, 100], [1, 100]]]


def test_steps_are_whole_and_in_a_bytes_range_where_the_codec_is_of_integers() -> None:
    x, steps = images(1, 3, 16, 16), torch.full((8, 8), 20.4)
    steps[0, :4] = torch.tensor([0.2, 300.0, 2.5, 3.5])
    tables = QuantTables(steps, steps, steps)
    for arithmetic, wanted in (("libjpeg", [1, 255, 2, 4, 20]), ("real", [0.2, 300, 2.5, 3.5, 20.4])):
        codec = codec_of(fdjpeg.JPEG(tables=tables, arithmetic=arithmetic, subsampling="4:4:4"), x)  # type: ignore[arg-type]
        (stack,) = codec.steps()
        assert stack[0, 2, 0, :5].tolist() == pytest.approx(wanted)
        assert stack[0, 0, 8, 8:13].tolist() == pytest.approx(wanted)


def test_real_numbers_are_not_decoded_from_coefficients() -> None:
    x = images(1, 3, 8, 8)
    codec = codec_of(fdjpeg.JPEG(50, arithmetic="real"), x)
    with pytest.raises(
        ValueError, match=r"^arithmetic must be libjpeg or the preset code to decode coefficients, got real$"
    ):
        codec.decode(codec.blocks(x), x.dtype)


@pytest.mark.parametrize("layer", [fdjpeg.JPEG(60), fdjpeg.FeatureDistillation("code")])
def test_grey_coefficients_decode_to_the_layers_output(layer: nn.Module) -> None:
    x = images(2, 1, 13, 21)
    codec = codec_of(layer, x)
    assert torch.equal(codec.decode(codec.blocks(x), x.dtype), layer(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_channels_are_quantized_in_the_numbers_of_the_layer(dtype: torch.dtype) -> None:
    """Flat blocks next to a tie, on either side, by less than float32 holds where the images are of float64."""
    layer = fdjpeg.FeatureDistillation("code")
    step = float(layer.steps.flatten()[0])
    beside = 1e-12 if dtype == torch.float64 else 4 * torch.finfo(dtype).eps
    for number in range(1, 5):
        tie = (number + 0.5) * step / (8 * 255)
        for side in (-1, 1):
            x = torch.full((1, 1, 8, 8), tie * (1 + side * beside), dtype=torch.float64).to(dtype)
            codec = codec_of(layer, x)
            (blocks,) = codec.blocks(x)
            assert float(blocks[0, 0, 0, 0, 0]) == number + (side > 0)
            assert torch.equal(codec.decode([blocks], dtype), layer(x))


def test_only_what_leads_out_of_the_range_is_taken_off_a_gradient() -> None:
    gradient = torch.tensor([0.5, -0.5, 0.5, -0.5, 0.5, -0.5, 0.0, 0.0])
    decoded = torch.tensor([0.0, 0.0, 1.0, 1.0, 1e-6, 1 - 1e-6, 0.0, 1.0])
    assert inward(gradient, decoded).tolist() == [0.5, 0, 0, -0.5, 0.5, -0.5, 0, 0]


def test_a_sequence_has_coefficients_if_it_has_layers_and_each_has() -> None:
    layer, other = fdjpeg.JPEG(50), nn.Identity()
    found = [
        has_coefficients(nn.Sequential(*parts)) for parts in ((), (layer,), (layer, layer), (other, layer), (other,))
    ]
    assert found == [False, True, True, False, False]
    assert [has_coefficients(one) for one in (layer, other, None)] == [True, False, False]


def test_codecs_transforms_and_units_cannot_be_changed() -> None:
    codec = codec_of(fdjpeg.JPEG(50), images(1, 3, 8, 8))
    for part in (codec, codec.transform, Units.of([codec.transform])):
        with pytest.raises(FrozenInstanceError):
            part.geometry = None  # type: ignore[misc, union-attr]


def test_whole_numbers_are_drawn_below_their_count() -> None:
    found = DrawsByImage(torch.arange(400), seed=0, purpose="quality").integers(3)
    assert (int(found.min()), int(found.max())) == (0, 2)
    assert found.dtype == torch.int64


# --- transforms -------------------------------------------------------------------------------------------------------


def transform_of(subsampling: str, size: tuple[int, int]) -> Transform:
    return Transform.of(Geometry.of(*size, 3, *SAMPLING_FACTORS[subsampling]), False, torch.device("cpu"))


@pytest.mark.parametrize("subsampling", list(SAMPLING_FACTORS))
@pytest.mark.parametrize("size", [(12, 10), (20, 10)])
def test_even_sizes_that_are_no_blocks_are_the_references_and_have_their_transpose(
    subsampling: str, size: tuple[int, int]
) -> None:
    """Edges are the last row and column repeated, of subsampled chroma its last mean."""
    transform, samples = transform_of(subsampling, size), 255 * images(2, 3, *size)
    components = reference.components_of(samples.double(), transform.geometry)
    wanted = [to_planes(reference.real_dct(reference.to_blocks(component)))[:, 0] for component in components]
    stacks = transform.forward(samples)
    for component, plane in enumerate(wanted):
        torch.testing.assert_close(transform.plane_of(stacks, component).double(), plane, rtol=1e-5, atol=2e-3)
    weights = [torch.randn(stack.shape, generator=torch.Generator().manual_seed(SEED)) for stack in stacks]
    there = sum(float((a.double() * b.double()).sum()) for a, b in zip(stacks, weights, strict=True))
    assert there == pytest.approx(float((samples.double() * transform.adjoint(weights).double()).sum()), rel=1e-5)


def test_the_dct_is_rounded_once() -> None:
    """Each entry is the float32 next to the formula's value, whatever torch's default is."""
    wanted = [
        [math.cos((2 * x + 1) * u * math.pi / 16) / 2 if u else math.sqrt(1 / 8) for x in range(8)] for u in range(8)
    ]
    assert torch.equal(transform_of("4:4:4", (8, 8)).dct, torch.tensor(wanted, dtype=torch.float64).float())


def test_sensitivities_are_of_the_colour_matrix_rounded_once() -> None:
    """A gradient of one channel alone, flat: each component's first coefficient is 8 times its share of it.

    Also where torch's default is a half type.
    """
    codec = codec_of(fdjpeg.JPEG(50, subsampling="4:4:4"), images(1, 3, 8, 8))
    unit = torch.eye(3, dtype=torch.float64).reshape(3, 3, 1)
    to_rgb = reference.real_ycbcr_to_rgb(unit).flatten(1)
    for channel in range(3):
        gradient = torch.zeros(1, 3, 8, 8)
        gradient[:, channel] = 255.0
        torch.set_default_dtype(torch.float16)
        try:
            (found,) = codec.sensitivity(gradient)
        finally:
            torch.set_default_dtype(torch.float32)
        flat = found[0, :, 0, 0].double() / 8
        torch.testing.assert_close(flat, to_rgb[channel].float().double(), rtol=3e-7, atol=0)


# --- units ------------------------------------------------------------------------------------------------------------


def test_the_best_of_a_unit_at_the_edge_is_in_it_however_negative() -> None:
    """A unit of 4:2:0 of which three of four blocks are beyond the image."""
    transform = transform_of("4:2:0", (24, 24))
    values = [-1 - images(*stack.shape) for stack in transform.forward(torch.zeros(1, 3, 24, 24))]
    units = Units.of([transform])
    (best,) = units.best([(values, transform)])
    assert units.sum([at.float() for at in best], transform).flatten().tolist() == [1] * 4
