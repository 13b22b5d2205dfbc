"""Filters before a classifier against SciPy and scikit-image, and the detector of feature squeezing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.defense_data import SEED, network
from torch import Tensor, nn

from fdjpeg.defenses import BitDepth, FeatureSqueezing, Median, TotalVariation, parse_defense, squeezing

#: torch guesses the dimension of a softmax that is given none, and warns.
pytestmark = pytest.mark.filterwarnings("error:Implicit dimension choice")

IMAGES = torch.rand(40, 3, 9, 7, generator=torch.Generator().manual_seed(SEED))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_median_is_scipys(size: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    expected = ndimage.median_filter(IMAGES.numpy(), size=(1, 1, size, size))
    assert torch.equal(Median(size)(IMAGES), torch.from_numpy(expected))


def test_a_window_larger_than_the_image_mirrors_it_again_and_again() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    small = IMAGES[:4, :, :3, :2]
    for size in (5, 8):
        expected = ndimage.median_filter(small.numpy(), size=(1, 1, size, size))
        assert torch.equal(Median(size)(small), torch.from_numpy(expected))


def test_the_median_works_on_its_images_device() -> None:
    expected = Median(3)(IMAGES[:2])
    with torch.device("meta"):
        assert torch.equal(Median(3)(IMAGES[:2]), expected)


def test_bits_have_so_many_levels() -> None:
    assert torch.equal(BitDepth(1)(IMAGES), (IMAGES > 0.5).float())
    assert len(BitDepth(5)(torch.linspace(0, 1, 1000).view(1, 1, 10, 100)).unique()) == 32
    whole = (IMAGES * 255).round() / 255
    torch.testing.assert_close(BitDepth(8)(whole), whole)


def test_total_variation_falls() -> None:
    pytest.importorskip("skimage")
    smooth = TotalVariation(0.1)(IMAGES)

    def variation(images: Tensor) -> Tensor:
        return images.diff(dim=2).abs().sum(dim=(1, 2, 3)) + images.diff(dim=3).abs().sum(dim=(1, 2, 3))

    assert bool((variation(smooth) < 0.8 * variation(IMAGES)).all())
    torch.testing.assert_close(smooth.mean(dim=(2, 3)), IMAGES.mean(dim=(2, 3)), atol=0.02, rtol=0)


def test_total_variation_is_scikit_images_of_each_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[int, ...], dict[str, Any]]] = []

    def denoise(image: Any, **settings: Any) -> Any:
        asked.append((image.shape, settings))
        return 2 * image.astype("float64") - 0.5

    library = SimpleNamespace(denoise_tv_chambolle=denoise)
    monkeypatch.setattr(squeezing, "required", lambda *names: library if names[0] == "skimage.restoration" else None)
    x = IMAGES[:3].clone().requires_grad_()
    out = TotalVariation(0.3)(x)
    assert asked == [((3, 9, 7), {"weight": 0.3, "channel_axis": 0})] * 3
    torch.testing.assert_close(out, (2 * IMAGES[:3] - 0.5).clamp(0, 1))
    assert out.dtype == torch.float32
    assert not out.requires_grad
    none = IMAGES[:0]
    assert TotalVariation(0.3)(none).shape == none.shape
    assert len(asked) == 3


@pytest.mark.parametrize("name", ["bit-depth:5", "median:2", "median:3", "jpeg:90"])
def test_an_attacker_has_a_gradient_through_each_filter(name: str) -> None:
    defended, model = parse_defense(name), network()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert "identity" in defended.gradients
    for gradient in defended.gradients:
        x = images.clone().requires_grad_()
        logits = defended.attacked(model, gradient)(x)
        torch.testing.assert_close(logits, defended.deployed(model)(images))
        (found,) = torch.autograd.grad(logits.square().sum(), x)
        assert bool(found.abs().sum() > 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bit-depth:9", "^bits in a defense"),
        ("bit-depth:5,4", "^bits in a defense"),
        ("median:1", "^size in a defense"),
        ("total-variation:-1", "^weight in a defense"),
        ("total-variation:nan", "^weight in a defense"),
    ],
)
def test_filters_out_of_range(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_defense(name)


def detector(false_alarms: float) -> tuple[FeatureSqueezing, Tensor]:
    images = torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    filters = [BitDepth(2), Median(3)]
    return FeatureSqueezing(network().eval(), filters).calibrated(images, false_alarms, at_once=25), images


@pytest.mark.parametrize("false_alarms", [0.0, 0.05, 0.5])
def test_so_many_clean_images_are_refused(false_alarms: float) -> None:
    made, images = detector(false_alarms)
    with torch.no_grad():
        refused = made.score(images) > made.threshold
        logits = made(images)
    assert int(refused.sum()) == int(false_alarms * 60)
    assert torch.equal(logits.argmax(dim=1) == 4, refused)
    assert torch.equal(logits[:, :4], made.network(images))


def test_the_score_is_the_largest_change_of_the_probabilities() -> None:
    made, images = detector(0.05)
    with torch.no_grad():
        plain = made.network(images).softmax(dim=1)
        changes = [(made.network(part(images)).softmax(dim=1) - plain).abs().sum(dim=1) for part in made.filters]
        torch.testing.assert_close(made.score(images), torch.maximum(*changes), atol=1e-6, rtol=1e-5)


class Darker(nn.Module):
    """A filter that differs little from the identity, so that the identity's derivative nearly is its own."""

    def forward(self, images: Tensor) -> Tensor:
        return 0.8 * images


def test_the_gradient_of_refusal_lowers_the_score() -> None:
    made = FeatureSqueezing(network().eval(), [Darker()], threshold=0.1)
    images = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    x = images.clone().requires_grad_()
    logits = made(x)
    (found,) = torch.autograd.grad((logits[:, 4] - logits[:, :4].amax(dim=1)).sum(), x)
    with torch.no_grad():
        excess = made.SLOPE * (made.score(images) - made.threshold)
        torch.testing.assert_close(logits[:, 4] - logits[:, :4].amax(dim=1), excess, atol=1e-5, rtol=1e-4)
        lower = made.score((images - 0.01 * found.sign()).clamp(0, 1)) < made.score(images)
    assert int(lower.sum()) >= 18


def test_refusal_is_ten_times_the_excess_above_the_largest_logit() -> None:
    made, images = detector(0.5)
    with torch.no_grad():
        logits, scores = made(images), made.score(images)
    expected = logits[:, :4].amax(dim=1) + 10 * (scores - made.threshold)
    torch.testing.assert_close(logits[:, 4], expected, atol=1e-5, rtol=1e-5)


def test_a_detector_without_a_threshold_refuses_nothing_and_stays_finite() -> None:
    made = FeatureSqueezing(network().eval(), [Median(2)])
    assert made.threshold == float("inf")
    with torch.no_grad():
        logits = made(IMAGES)
    torch.testing.assert_close(logits[:, 4], logits[:, :4].amax(dim=1) - 1e4)


def test_a_detector_leaves_the_modes_of_its_modules() -> None:
    model, part = network().train(), Median(2).train()
    made = FeatureSqueezing(model, [part])
    assert not made.training
    assert model.training
    assert part.training
    calibrated = made.calibrated(IMAGES[:4], 0.25)
    assert calibrated.network is model
    assert list(calibrated.filters) == [part]


def test_one_image_calibrates_and_may_come_alone() -> None:
    made = FeatureSqueezing(network().eval(), [Median(2)])
    with torch.no_grad():
        scores = made.score(IMAGES[:5])
    assert made.calibrated(IMAGES[:1], 0.0).threshold == pytest.approx(float(scores[0]), rel=1e-5)
    alone = made.calibrated(IMAGES[:5], 0.2, at_once=1).threshold
    assert alone == pytest.approx(float(scores.sort().values[3]), rel=1e-5)  # one of five is above it


def test_images_without_a_score_do_not_calibrate() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images * float("nan")

    with pytest.raises(
        ValueError, match=r"^clean must be images whose logits are numbers behind every filter, got NaN"
    ):
        FeatureSqueezing(network().eval(), [Median(2), Broken()]).calibrated(IMAGES)
    with pytest.raises(ValueError, match=r"^false_alarms must be at least 0 and less than 1, got -0\.1"):
        FeatureSqueezing(network().eval(), [Median(2)]).calibrated(IMAGES, -0.1)


def test_detectors_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"^filters must hold at least one module, got none"):
        FeatureSqueezing(network(), [])
    for given, message in ((IMAGES[:0], "^clean must hold"), (IMAGES, "^false_alarms must be")):
        with pytest.raises(ValueError, match=message):
            FeatureSqueezing(network(), [Median(2)]).calibrated(given, 1.0 if len(given) else 0.05)
