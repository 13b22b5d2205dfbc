"""`fdjpeg.compat`: each original's own example with only its import changed, its ranges, and what it got wrong."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from support.oracles import round_trip
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg.compat import basicsr, diff_jpeg, diffjpeg, kornia

pytestmark = pytest.mark.usefixtures("rng")


@pytest.fixture
def pixels(rng: np.random.Generator) -> Tensor:
    """Bytes ``(2, 3, 30, 41)`` of smooth content: neither size is a multiple of 16."""
    y, x = np.mgrid[:30, :41]
    waves = [[np.sin(x / rng.uniform(3, 9) + y / rng.uniform(3, 9)) for _ in range(3)] for _ in range(2)]
    return torch.from_numpy((127.5 + 120 * np.array(waves)).astype(np.uint8))


def _through_pillow(pixels: Tensor, *qualities: int) -> Tensor:
    arrays = [round_trip(image, quality, "4:2:0") for image, quality in zip(pixels.numpy(), qualities, strict=True)]
    return torch.from_numpy(np.stack(arrays))


def _as_bytes(image: Tensor) -> Tensor:
    return (255 * image).round().to(torch.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# Signatures, as the originals have them


@pytest.mark.parametrize(
    ("function", "signature"),
    [
        (
            kornia.jpeg_codec_differentiable,
            "(input, jpeg_quality, quantization_table_y=None, quantization_table_c=None)",
        ),
        (kornia.JPEGCodecDifferentiable, "(quantization_table_y=None, quantization_table_c=None)"),
        (kornia.JPEGCodecDifferentiable.forward, "(self, image_rgb, jpeg_quality)"),
        (kornia.RandomJPEG, "(jpeg_quality=50.0, same_on_batch=False, p=1.0, keepdim=False)"),
        (
            diff_jpeg.diff_jpeg_coding,
            "(image_rgb, jpeg_quality, quantization_table_y=None, quantization_table_c=None, ste=False)",
        ),
        (diff_jpeg.DiffJPEGCoding, "(ste=False)"),
        (
            diff_jpeg.DiffJPEGCoding.forward,
            "(self, image_rgb, jpeg_quality, quantization_table_y=None, quantization_table_c=None)",
        ),
        (diffjpeg.DiffJPEG, "(height, width, differentiable=True, quality=80)"),
        (basicsr.DiffJPEG, "(differentiable=True)"),
        (basicsr.DiffJPEG.forward, "(self, x, quality)"),
    ],
)
def test_signature(function: Any, signature: str) -> None:
    assert _signature(function) == signature


def _signature(function: Any) -> str:
    parameters = inspect.signature(function).parameters.values()
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(inspect.Signature(bare))


@pytest.fixture(scope="module")
def original() -> ModuleType:
    return pytest.importorskip("kornia")


def test_signatures_are_those_of_the_kornia_that_is_installed(original: ModuleType) -> None:
    for ours, theirs in (
        (kornia.jpeg_codec_differentiable, original.enhance.jpeg_codec_differentiable),
        (kornia.JPEGCodecDifferentiable, original.enhance.JPEGCodecDifferentiable),
        (kornia.RandomJPEG, original.augmentation.RandomJPEG),
    ):
        assert _signature(ours) == _signature(theirs)


# ---------------------------------------------------------------------------------------------------------------------
# kornia


def test_kornia_example() -> None:
    """Of the function's documentation."""
    from fdjpeg.compat.kornia import jpeg_codec_differentiable

    img = torch.rand(3, 3, 64, 64, requires_grad=True, dtype=torch.float)
    jpeg_quality = torch.tensor((99.0, 25.0, 1.0), requires_grad=True)
    img_jpeg = jpeg_codec_differentiable(img, jpeg_quality)
    img_jpeg.sum().backward()
    assert jpeg_quality.grad is not None
    assert jpeg_quality.grad.all(), "not 0 at whole qualities"

    quantization_table_y = torch.randint(1, 256, size=(3, 8, 8), dtype=torch.float)
    quantization_table_c = torch.randint(1, 256, size=(3, 8, 8), dtype=torch.float)
    img_jpeg = jpeg_codec_differentiable(img, jpeg_quality, quantization_table_y, quantization_table_c)
    img_jpeg.sum().backward()


def test_kornia_module_example() -> None:
    from fdjpeg.compat.kornia import JPEGCodecDifferentiable

    quantization_table_y = torch.nn.Parameter(torch.randint(1, 256, size=(2, 8, 8), dtype=torch.float))
    quantization_table_c = torch.nn.Parameter(torch.randint(1, 256, size=(2, 8, 8), dtype=torch.float))
    diff_jpeg_module = JPEGCodecDifferentiable(quantization_table_y, quantization_table_c)
    img = torch.rand(2, 3, 32, 32, requires_grad=True, dtype=torch.float)
    jpeg_quality = torch.tensor((99.0, 1.0), requires_grad=True)
    img_jpeg = diff_jpeg_module(img, jpeg_quality)
    img_jpeg.sum().backward()
    assert all(table.grad is not None and table.grad.any() for table in diff_jpeg_module.parameters())


def test_kornia_module_has_the_original_s_state(original: ModuleType, pixels: Tensor) -> None:
    ours, theirs = kornia.JPEGCodecDifferentiable(), original.enhance.JPEGCodecDifferentiable()
    ours.load_state_dict(theirs.state_dict())
    out = ours(pixels / 255, torch.tensor([60.0]))
    assert torch.equal(_as_bytes(out), _through_pillow(pixels, 60, 60))


def test_kornia_is_pillow_and_the_original_is_near(original: ModuleType, pixels: Tensor) -> None:
    image, quality = pixels / 255, torch.tensor([30.0, 90.0])
    ours = kornia.jpeg_codec_differentiable(image, quality)
    assert torch.equal(_as_bytes(ours), _through_pillow(pixels, 30, 90))
    theirs = original.enhance.jpeg_codec_differentiable(image, quality)
    assert (ours - theirs).square().mean() < 0.02**2
    assert not torch.equal(_as_bytes(ours), _as_bytes(theirs))


def test_kornia_quality_of_zero_acts_as_one(pixels: Tensor) -> None:
    ours = kornia.jpeg_codec_differentiable(pixels / 255, torch.tensor([0.0, 1.0]))
    assert torch.equal(_as_bytes(ours), _through_pillow(pixels, 1, 1))


def test_base_tables_are_scaled_as_libjpeg_does_it() -> None:
    image = torch.rand(2, 3, 24, 24)
    tables = QuantTables(torch.randint(1, 256, (8, 8)), torch.randint(1, 256, (8, 8)))
    as_they_are = kornia.jpeg_codec_differentiable(image, torch.tensor([50.0]), tables.y.float(), tables.cb.float())
    assert torch.equal(as_they_are, fdjpeg.jpeg(image, tables=tables))
    standard = QuantTables.standard(50)
    for quality in (1, 12, 49, 50, 75, 99, 100):
        scaled = kornia.jpeg_codec_differentiable(image, torch.tensor([quality]), standard.y, standard.cb)
        assert torch.equal(scaled, fdjpeg.jpeg(image, quality)), quality
    with_one_given = kornia.jpeg_codec_differentiable(image, torch.tensor([40, 60]), standard.y)
    assert torch.equal(with_one_given, fdjpeg.jpeg(image, torch.tensor([40, 60])))


@pytest.mark.parametrize(
    "quality", [60.0, torch.tensor(60.0), torch.full((1, 1), 60.0)], ids=["number", "0-dim", "2-dim"]
)
def test_kornia_quality_is_one_dimensional(quality: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="jpeg_quality must be a tensor of shape"):
        kornia.jpeg_codec_differentiable(torch.rand(1, 3, 8, 8), quality)


def test_random_jpeg_example() -> None:
    from fdjpeg.compat.kornia import RandomJPEG

    images = 0.1904 * torch.ones(2, 3, 32, 32)
    aug = RandomJPEG(jpeg_quality=(1.0, 50.0), p=1.0)
    assert aug(images).shape == images.shape
    aug = RandomJPEG(jpeg_quality=20.0, p=1.0)
    assert (aug(images) == aug(images, params=aug._params)).all()
    assert (aug._params["jpeg_quality"] >= 30).all()
    assert (aug._params["jpeg_quality"] <= 70).all()


def test_random_jpeg_draws_as_it_says() -> None:
    images = torch.rand(64, 3, 8, 8)
    augmentation = kornia.RandomJPEG((10.0, 20.0), p=0.5)
    out = augmentation(images)
    changed = (out != images).flatten(1).any(1)
    assert torch.equal(changed, augmentation._params["batch_prob"] > 0)
    assert 16 < changed.sum() < 48
    assert len(set(augmentation._params["jpeg_quality"].tolist())) > 32
    same = kornia.RandomJPEG((10.0, 90.0), same_on_batch=True)
    same(images)
    assert len(set(same._params["jpeg_quality"].tolist())) == 1
    assert same(images[0]).shape == (1, 3, 8, 8)
    assert kornia.RandomJPEG(keepdim=True)(images[0]).shape == (3, 8, 8)


@pytest.mark.parametrize("quality", [60, (0.0, 50.0), (60.0, 50.0), (1.0, 2.0, 3.0), (10.0, 101.0)], ids=str)
def test_random_jpeg_refuses_what_the_original_refuses(quality: Any) -> None:
    with pytest.raises(ValueError, match="jpeg_quality must be"):
        kornia.RandomJPEG(quality)


# ---------------------------------------------------------------------------------------------------------------------
# Diff-JPEG, DiffJPEG, BasicSR


@pytest.fixture
def image(pixels: Tensor) -> Tensor:
    """What the README reads from a file: floats in [0, 255]."""
    return pixels[:1].float()


def test_diff_jpeg_example(image: Tensor) -> None:
    """Of its README."""
    from fdjpeg.compat.diff_jpeg import diff_jpeg_coding

    # Init JPEG quality
    jpeg_quality: Tensor = torch.tensor([2.0])
    # Perform differentiable JPEG coding
    image_coded: Tensor = diff_jpeg_coding(image_rgb=image, jpeg_quality=jpeg_quality)
    assert image_coded.shape == image.shape
    image_coded = diff_jpeg_coding(image_rgb=image, jpeg_quality=jpeg_quality, ste=True)
    assert torch.equal(image_coded, _through_pillow(image.to(torch.uint8), 2).float())


def test_diff_jpeg_module_example(image: Tensor) -> None:
    from fdjpeg.compat.diff_jpeg import DiffJPEGCoding

    # Init module
    diff_jpeg_coding_module: nn.Module = DiffJPEGCoding()
    # Init JPEG quality
    jpeg_quality: Tensor = torch.tensor([19.04])
    # Perform differentiable JPEG coding
    image_coded: Tensor = diff_jpeg_coding_module(
        image_rgb=image,
        jpeg_quality=jpeg_quality,
        quantization_table_y=torch.randint(low=1, high=256, size=(8, 8)),
        quantization_table_c=torch.randint(low=1, high=256, size=(8, 8)),
    )
    assert image_coded.shape == image.shape
    assert 0 <= image_coded.min() <= image_coded.max() <= 255


def test_diff_jpeg_without_ste_is_smooth() -> None:
    image = 255 * torch.rand(1, 3, 8, 8, dtype=torch.float64)
    tangent = torch.randn_like(image)

    def along(step: float) -> Tensor:
        return diff_jpeg.diff_jpeg_coding(image + step * tangent, torch.tensor([75.0])).sum()

    x = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(diff_jpeg.diff_jpeg_coding(x, torch.tensor([75.0])).sum(), x)
    torch.testing.assert_close((along(1e-6) - along(-1e-6)) / 2e-6, (gradient * tangent).sum(), rtol=1e-4, atol=1e-4)


def test_diff_jpeg_rounds_its_tables(image: Tensor) -> None:
    """At 75 the original's soft floor misses 83 of the 128 steps by up to 0.96."""
    coded = diff_jpeg.diff_jpeg_coding(image, torch.tensor([75.0]))
    tables = QuantTables.standard(75)
    expected = fdjpeg.jpeg(image / 255, tables=tables, gradient="cubic", arithmetic="real", soft=True)
    torch.testing.assert_close(coded, 255 * expected)


def test_diff_jpeg_wants_floats() -> None:
    with pytest.raises(TypeError, match="image_rgb must be floating"):
        diff_jpeg.diff_jpeg_coding(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([50.0]))


@pytest.mark.parametrize("differentiable", [True, False])
def test_diffjpeg_example(differentiable: bool, pixels: Tensor) -> None:
    from fdjpeg.compat.diffjpeg import DiffJPEG

    jpeg = DiffJPEG(height=224, width=224, differentiable=differentiable, quality=80)
    image = (pixels / 255).requires_grad_()
    out = jpeg(image)
    assert torch.equal(_as_bytes(out), _through_pillow(pixels, 80, 80))
    (gradient,) = torch.autograd.grad(out.square().sum(), image)
    assert gradient.any() == differentiable
    assert not list(jpeg.parameters())


@pytest.mark.parametrize("differentiable", [True, False])
def test_basicsr_example(differentiable: bool, pixels: Tensor) -> None:
    """Of the module's last lines."""
    from fdjpeg.compat.basicsr import DiffJPEG

    jpeger = DiffJPEG(differentiable=differentiable)
    image = (pixels / 255).requires_grad_()
    quality = image.new_tensor([20, 40])
    out = jpeger(image, quality=quality)
    assert torch.equal(_as_bytes(out), _through_pillow(pixels, 20, 40))
    assert quality.tolist() == [20, 40], "the original overwrites it"
    assert torch.equal(_as_bytes(jpeger(image, 20)), _through_pillow(pixels, 20, 20))
    (gradient,) = torch.autograd.grad(out.square().sum(), image)
    assert gradient.any() == differentiable


def test_kornias_codec_keeps_its_tables_as_every_layer() -> None:
    """Copied, refused if computed, and whole again after ``to_empty``."""
    table = torch.full((8, 8), 20.0)
    codec = kornia.JPEGCodecDifferentiable(table)
    table.zero_()
    assert bool((codec.quantization_table_y == 20).all())
    with pytest.raises(ValueError, match="quantization_table_c must be a leaf of the autograd graph, got a computed"):
        kornia.JPEGCodecDifferentiable(None, torch.ones(8, 8, requires_grad=True) * 20)
    with torch.device("meta"):
        made = kornia.JPEGCodecDifferentiable()
    made.to_empty(device="cpu").reset_parameters()
    image, quality = torch.rand(1, 3, 16, 16), torch.tensor([50.0])
    assert torch.equal(made(image, quality), kornia.JPEGCodecDifferentiable()(image, quality))
