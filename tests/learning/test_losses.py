"""The losses and measures of learning by numbers made by hand, and what they take."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fdjpeg import QuantTables
from fdjpeg.learning import LOSSES, ClassifierLoss, DeadZone, bits_ratio, measure, ms_ssim, psnr
from fdjpeg.learning.metrics import ssim

IMAGES = torch.rand(2, 3, 16, 18, generator=torch.Generator().manual_seed(6))


def test_named_losses_are_in_the_units_that_are_stated() -> None:
    """−PSNR in dB, at most 100 of them; squared errors of samples of 0…255; and 1 − MS-SSIM."""
    changed = IMAGES.clamp(0.1, 0.9) + 2 / 255
    original = changed - 2 / 255
    assert LOSSES["mse"](changed, original, None).tolist() == pytest.approx([4, 4], rel=1e-5)
    assert LOSSES["psnr"](changed, original, None).tolist() == pytest.approx([20 * math.log10(2 / 255)] * 2, rel=1e-5)
    assert LOSSES["psnr"](original, original, None).tolist() == [-100, -100]
    assert LOSSES["ms-ssim"](original, original, None).tolist() == pytest.approx([0, 0], abs=1e-6)
    different = LOSSES["ms-ssim"](changed.flip(0), original, None)
    assert torch.allclose(different, 1 - ms_ssim(changed.flip(0), original))
    assert bool((different > 0.5).all())


class Brightness(nn.Module):
    """Two classes, whose logits are 0 and four times an image's mean."""

    def forward(self, x: Tensor) -> Tensor:
        mean = 4 * x.flatten(1).mean(1)
        return torch.stack([torch.zeros_like(mean), mean], 1)


def test_a_classifiers_loss_is_the_cross_entropy_with_labels_or_with_its_own_answer() -> None:
    original, decoded = (torch.full((2, 3, 8, 8), value) for value in (0.5, 0.25))
    right, other = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))  # of the decoded image: logits 0 and 1
    loss = ClassifierLoss(Brightness())
    labelled = loss(decoded, original, torch.tensor([1, 0]))
    assert labelled.tolist() == pytest.approx([-math.log(right), -math.log(other)])
    sure = 1 / (1 + math.exp(-2))
    expected = -sure * math.log(right) - (1 - sure) * math.log(other)
    decoded.requires_grad_()
    own = loss(decoded, original, None)
    assert own.tolist() == pytest.approx([expected] * 2)
    assert bool(torch.autograd.grad(own.sum(), decoded)[0].any())


@pytest.mark.parametrize("likeness", [psnr, ssim, ms_ssim])
def test_bytes_are_refused_on_either_side(likeness: Any) -> None:
    for pair in ((IMAGES, IMAGES.byte()), (IMAGES.byte(), IMAGES)):
        got = " and ".join(str(image.dtype) for image in pair)
        with pytest.raises(TypeError, match=rf"^decoded and original must be floats in \[0, 1\], got {got}$"):
            likeness(*pair)


def test_an_image_as_large_as_the_window_is_measured() -> None:
    image = IMAGES[:, :, :11, :11]
    assert ssim(image, image).tolist() == ms_ssim(image, image).tolist() == pytest.approx([1, 1])
    as_bytes = (255 * IMAGES).byte()
    for height, width, found in ((11, 18, True), (16, 11, True), (10, 18, False), (16, 10, False)):
        likeness = measure(as_bytes[:, :, :height, :width], QuantTables.flat(9)).ms_ssim
        assert (likeness is not None) == found


def test_the_default_device_does_not_reach_into_a_measure() -> None:
    found = [one(IMAGES, 0.9 * IMAGES) for one in (psnr, ssim, ms_ssim)]
    with torch.device("meta"):
        again = [one(IMAGES, 0.9 * IMAGES) for one in (psnr, ssim, ms_ssim)]
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_what_was_measured_and_a_dead_zone_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DeadZone().width = 1.0  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        measure((255 * IMAGES).byte(), QuantTables.flat(9)).psnr = torch.zeros(2)  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        ClassifierLoss(Brightness()).model = nn.Identity()  # type: ignore[misc]
    assert hash(DeadZone(0.1)) == hash(DeadZone(0.1))


# ---------------------------------------------------------------------------------------------------------------------
# Ratios


def curves(generator: torch.Generator) -> dict[str, Tensor]:
    """Bits and quality of 30 images, and of the four points of a curve."""
    bits, kept = torch.rand(2, 30, generator=generator, dtype=torch.float64) + 1
    return {
        "bits": 3 * bits,
        "kept": kept + 1.4,
        "curve_bits": bits * torch.tensor([[1.0], [2.0], [4.0], [8.0]]),
        "curve_kept": kept + torch.tensor([[0.0], [1.0], [2.0], [3.0]]),
    }


def test_the_interval_is_of_a_thousand_resamples_of_seed_0_by_default() -> None:
    given = curves(torch.Generator().manual_seed(1))
    given["kept"] = given["kept"].flip(0)  # so that the images matter
    assert bits_ratio(**given) == bits_ratio(**given, resamples=1000, seed=0)
    assert bits_ratio(**given) != bits_ratio(**given, resamples=1000, seed=1)


@pytest.mark.parametrize("unit", [1e-6, 1e9])
def test_a_ratio_does_not_depend_on_the_units_of_bits_and_quality(unit: float) -> None:
    given = curves(torch.Generator().manual_seed(2))
    expected = bits_ratio(**given)
    for names in (("bits", "curve_bits"), ("kept", "curve_kept")):
        scaled = {name: unit * values if name in names else values for name, values in given.items()}
        assert bits_ratio(**scaled) == pytest.approx(expected, rel=1e-6)
    assert 1 < expected.value < 1.3


def test_levels_that_differ_by_a_thousand_millionth_are_one() -> None:
    one = torch.ones(1, dtype=torch.float64)
    bits = torch.tensor([[100.0], [200.0]], dtype=torch.float64)
    for less, value in ((1e-9, 2), (0.5e-9, 2), (1.1e-9, 1)):
        assert bits_ratio(200 * one, one, bits, torch.stack([one - less, one])).value == pytest.approx(value)
