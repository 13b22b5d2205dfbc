"""Learned tables: better than the first ones, within their budget, and the same in any file."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import fdjpeg
from fdjpeg import QuantTables, bits, encode
from fdjpeg._geometry import PILLOW_SUBSAMPLINGS
from fdjpeg.learning.metrics import psnr
from fdjpeg.learning.tables import ClassifierLoss, DeadZone, learn_tables


def textured(rng: np.random.Generator, count: int, channels: int, size: int) -> Tensor:
    """Returns bytes with the spectrum of photographs: amplitudes that fall like 1 / frequency, and grain."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    spectrum = np.fft.fft2(rng.normal(size=(count, channels, size, size))) / np.maximum(frequency, 1 / size)
    images = np.fft.ifft2(spectrum).real
    images = 128 + 45 * images / images.std() + rng.normal(0, 3, images.shape)
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8))


def kept(images: Tensor, tables: QuantTables, subsampling: str = "4:2:0") -> float:
    decoded = fdjpeg.jpeg(images.double() / 255, tables=tables, subsampling=subsampling)
    return float(psnr(decoded, images.double() / 255).mean())


def taken(images: Tensor, tables: QuantTables, subsampling: str = "4:2:0") -> float:
    return float(bits(encode(images, tables=tables, subsampling=subsampling)).sum())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return textured(np.random.default_rng(3), 48, 3, 32)


@pytest.mark.parametrize("loss", ["psnr", "mse", "ms-ssim"])
def test_learned_tables_keep_more_than_the_standard_ones_for_the_same_bits(images: Tensor, loss: str) -> None:
    learning, held_out = images[:36], images[36:]
    standard = QuantTables.standard(50)
    tables = learn_tables(learning, bits(encode(learning, 50)), loss, iterations=25, batch_size=18)
    assert taken(learning, tables) == pytest.approx(taken(learning, standard), rel=0.02)
    print(loss, kept(held_out, tables), kept(held_out, standard), taken(held_out, tables), taken(held_out, standard))
    if loss != "ms-ssim":
        assert kept(held_out, tables) > kept(held_out, standard) + 0.3


def test_learning_improves_on_its_start_and_repeats_itself(images: Tensor) -> None:
    frequency = torch.arange(8)[:, None] + torch.arange(8)
    bad = QuantTables(150 - 10 * frequency, 150 - 10 * frequency)
    budget = bits(encode(images, 60, subsampling="4:4:4"))
    options = {"start": bad, "subsampling": "4:4:4", "share": "none", "iterations": 20, "batch_size": 24}
    seen: list[tuple[int, int]] = []
    tables = learn_tables(images, budget, progress=lambda done, total: seen.append((done, total)), **options)
    assert seen == [(done, 20) for done in range(1, 21)]
    assert kept(images, tables, "4:4:4") > kept(images, bad, "4:4:4") + 1
    assert taken(images, tables, "4:4:4") == pytest.approx(float(budget.sum()), rel=0.02)
    assert learn_tables(images, budget, **options) == tables


def test_flat_images_get_a_dc_step_whose_multiples_are_whole_samples() -> None:
    """Under a DC step of 8 a flat block of any level is kept without error, and under 7 or 9 hardly any."""
    rng = np.random.default_rng(7)
    levels = torch.from_numpy(rng.integers(0, 256, (48, 1, 1, 1), np.uint8))
    textures = torch.from_numpy(rng.integers(0, 32, (48, 1, 16, 16), np.uint8))
    images = torch.cat([levels.expand(48, 1, 16, 16), textures + (levels // 2)])
    budget = bits(encode(images, 75))
    tables = learn_tables(images, budget, iterations=15, batch_size=48)
    assert int(tables.y[0, 0]) == 8
    assert taken(images, tables) == pytest.approx(float(budget.sum()), rel=0.02)


def test_a_classifier_keeps_the_frequencies_that_it_looks_at() -> None:
    """Classes that differ in one band only, below where the standard table of that quality rounds it away."""
    rng = np.random.default_rng(5)
    wave = torch.zeros(8, 8, dtype=torch.float64)
    wave[5, 5] = 40
    band = fdjpeg.reference.real_idct(wave).repeat(4, 4)
    labels = torch.arange(64) % 2
    signs = 2 * labels.double() - 1
    images = (
        (textured(rng, 64, 1, 32).double() * 0.6 + 50 + signs[:, None, None, None] * band).clamp(0, 255).to(torch.uint8)
    )

    class Matched(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            answer = (x * band.to(x.dtype)).sum((1, 2, 3)) / 50
            return torch.stack([-answer, answer], 1)

    budget = bits(encode(images, 25))
    tables = learn_tables(images, budget, ClassifierLoss(Matched()), labels=labels, iterations=30, batch_size=32)
    assert int(tables.y[5, 5]) < 0.8 * float(tables.y[4:, 4:].double().mean())
    without_labels = learn_tables(images, budget, ClassifierLoss(Matched()), iterations=2, batch_size=8)
    assert isinstance(without_labels, QuantTables)


def test_dead_zone_is_straight_through_from_a_step_on_and_of_the_same_mean_below() -> None:
    c = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1]
    assert float(DeadZone().derivative(c).mean()) == pytest.approx(1, rel=1e-3)
    assert DeadZone().derivative(torch.tensor([-7.5, -1.0, 1.0, 3.2])).tolist() == [1, 1, 1, 1]
    assert float(DeadZone().derivative(torch.tensor(0.1))) < 1e-5
    assert torch.equal(DeadZone().forward(c), c.round())


def test_dead_zone_tells_the_squared_errors_derivative_by_a_step() -> None:
    """Laplacian coefficients, as those of high frequencies are; against the truth by finite differences."""
    c = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    for scale in (0.1, 0.15, 0.2, 0.5, 1.0, 2.0):
        density = (-c.abs() / scale).exp()
        density = density / density.sum()

        def error(q: float, density: Tensor = density) -> float:
            return float((density * (q * (c / q).round() - c).square()).sum())

        truth = (error(1.02) - error(0.98)) / 0.04
        k = c.round()
        estimates = {
            name: float((density * 2 * (k - c) * (k - c * slope)).sum())
            for name, slope in (("dead zone", DeadZone().derivative(c)), ("straight-through", torch.ones_like(c)))
        }
        print(scale, truth, estimates)
        far, near = (abs(estimates[name] - truth) for name in ("straight-through", "dead zone"))
        assert near < (0.6 * far if scale <= 0.2 else 0.2 * truth)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("subsampling", PILLOW_SUBSAMPLINGS)
def test_files_with_learned_tables_decode_to_the_layers_output(channels: int, subsampling: str) -> None:
    images = textured(np.random.default_rng(9), 6, channels, 40)[..., :37, :]
    budget = bits(encode(images, 45, subsampling=subsampling))
    tables = learn_tables(images, budget, share="none", subsampling=subsampling, iterations=4, batch_size=6)
    layer = fdjpeg.LearnableJPEG(tables, share="none", subsampling=subsampling)
    floats, differing = layer(images.float() / 255), 0
    for image, out in zip(images, (255 * floats).round().to(torch.uint8), strict=True):
        stream = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()).save(
            stream, "JPEG", qtables=layer.tables.to_pillow(), subsampling=PILLOW_SUBSAMPLINGS[subsampling]
        )
        with Image.open(stream) as decoded:
            pixels = torch.from_numpy(np.array(decoded)).reshape(37, 40, channels).permute(2, 0, 1)
        differing += int((pixels != out).sum())
    assert differing == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": torch.zeros(0, 3, 16, 16)}, "images must hold at least one image, got none"),
        ({"budget": torch.ones(3)}, r"budget must be a tensor of shape \(4,\), one for each image, got \(3,\)"),
        ({"budget": torch.zeros(4)}, "budget must be above 0 and finite, got 0"),
        ({"labels": torch.zeros(5)}, r"labels must be a tensor of shape \(4,\)"),
        ({"loss": "lpips"}, "loss must be one of 'psnr', 'mse', 'ms-ssim', or a function, got 'lpips'"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"learning_rate": 0}, "learning_rate must be positive and finite, got 0"),
        ({"share": "luma"}, "share must be one of"),
        ({"subsampling": "4:2:1"}, "subsampling must be one of"),
    ],
)
def test_learning_says_what_is_wrong(arguments: dict[str, object], message: str) -> None:
    given = {"images": torch.full((4, 3, 16, 16), 0.5), "budget": torch.full((4,), 100.0), **arguments}
    with pytest.raises(ValueError, match=message):
        learn_tables(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 100}, r"budget must be a torch.Tensor \(N,\), got int"),
        ({"batch_size": 2.5}, "batch_size must be an integer, got 2.5"),
        ({"learning_rate": "fast"}, "learning_rate must be a number, got 'fast'"),
        ({"seed": "s"}, "seed must be an integer, got 's'"),
        ({"start": 50}, "start must be fdjpeg.QuantTables or None"),
    ],
)
def test_learning_says_what_is_of_the_wrong_type(arguments: dict[str, object], message: str) -> None:
    images = torch.full((4, 3, 16, 16), 0.5)
    with pytest.raises(TypeError, match=message):
        learn_tables(**{"images": images, "budget": torch.full((4,), 100.0), **arguments})  # type: ignore[arg-type]
