"""Attacks of our own: against closed forms, and what holds of every attack."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from classifiers import SEED, Linear, Tiny
from torch import Tensor, nn

from fdjpeg.evaluation.attacks import LOSSES, PGD, Noise, draw, margin

EPS = 8 / 255


@pytest.fixture
def model() -> nn.Module:
    return Tiny().eval()


@pytest.fixture
def x() -> Tensor:
    """Six smooth images of whole bytes."""
    coarse = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(SEED))
    images = nn.functional.interpolate(coarse, size=(24, 24), mode="bicubic").clamp(0, 1)
    return (images * 255).round() / 255


@pytest.fixture
def y(model: nn.Module, x: Tensor) -> Tensor:
    """The classes that the model sees: by definition it gets all images right."""
    with torch.no_grad():
        return model(x).argmax(dim=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("aim", ["away", "likeliest"])
@pytest.mark.parametrize(("schedule", "momentum"), [("constant", 0.0), ("cosine", 0.0), ("halving", 0.25)])
def test_pgd_finds_the_optimum_of_a_linear_model(
    norm: str, loss: str, aim: str, schedule: str, momentum: float
) -> None:
    x = 0.25 + torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(SEED)) / 2
    y, eps = torch.zeros(5, dtype=torch.int64), 0.05
    model = Linear(x.shape[1:])
    attack = PGD(40, loss=loss, norm=norm, aim=aim, schedule=schedule, momentum=momentum, until_fooled=False)
    result = attack.run(model, x, y, eps)
    expected = margin(model(model.optimum(x, eps, norm)), y)
    torch.testing.assert_close(result.margin, expected, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(margin(model(result.x_adv), y), result.margin)


def test_pgd_stays_in_the_ball_and_leaves_its_input_alone(model: nn.Module, x: Tensor, y: Tensor) -> None:
    before = x.clone()
    found = PGD(steps=5, restarts=2, until_fooled=False)(model, x, y, 8 / 255)
    assert float((found - x).abs().max()) <= 8 / 255 + 1e-6
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert torch.equal(x, before)
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_pgd_of_an_image_does_not_depend_on_its_batch(model: nn.Module, x: Tensor, y: Tensor) -> None:
    attack = PGD(steps=4, until_fooled=False)
    together = attack(model, x, y, 4 / 255)
    for index in (1, 4):
        one = slice(index, index + 1)
        alone = attack(model, x[one], y[one], 4 / 255, indices=torch.tensor([index]))
        torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-6)
    assert torch.equal(attack(model, x, y, 4 / 255), together)
    assert not torch.equal(replace(attack, seed=1)(model, x, y, 4 / 255), together)


def test_draw_is_uniform_and_each_images_own() -> None:
    numbers = draw(torch.Size([3, 32, 32]), torch.tensor([3, 7, 3]), seed=0, purpose="start 0")
    assert torch.equal(numbers[0], numbers[2])
    assert not torch.equal(numbers[0], numbers[1])
    assert abs(float(numbers.mean()) - 0.5) < 0.02
    assert not torch.equal(numbers[:1], draw(torch.Size([3, 32, 32]), torch.tensor([3]), seed=0, purpose="start 1"))


class Misleading(torch.autograd.Function):
    """The identity with its gradient turned round: every step makes the attack worse."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return -gradient


def test_pgd_keeps_the_best_point_even_where_its_gradient_misleads(model: nn.Module, x: Tensor, y: Tensor) -> None:
    class Turned(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = model(Misleading.apply(images))
            return logits

    start = (x + (2 * draw(x.shape[1:], torch.arange(6), 0, "start 0") - 1) * 8 / 255).clamp(0, 1)
    found = PGD(steps=10, until_fooled=False)(Turned(), x, y, 8 / 255)
    assert bool((margin(model(found), y) >= margin(model(start), y) - 1e-5).all())


def test_more_restarts_never_weaken_pgd(model: nn.Module, x: Tensor, y: Tensor) -> None:
    once, often = (PGD(steps=3, restarts=n, until_fooled=False)(model, x, y, 4 / 255) for n in (1, 3))
    assert bool((margin(model(often), y) >= margin(model(once), y) - 1e-6).all())


def test_stopping_at_the_first_success_changes_no_verdict(model: nn.Module, x: Tensor, y: Tensor) -> None:
    for eps in (1 / 255, 4 / 255, 16 / 255):
        early, late = (PGD(steps=8, until_fooled=stop)(model, x, y, eps) for stop in (True, False))
        fooled = [margin(model(found), y) > 0 for found in (early, late)]
        assert torch.equal(*fooled)


def test_noise_moves_every_sample_by_eps() -> None:
    x = torch.full((2, 3, 8, 8), 0.5)
    moved = Noise()(Tiny(), x, torch.zeros(2, dtype=torch.int64), 0.1)
    torch.testing.assert_close((moved - x).abs(), torch.full_like(x, 0.1))
    assert abs(float((moved - x).sign().mean())) < 0.2


def test_losses_are_their_closed_forms() -> None:
    logits, y = torch.tensor([[1.0, 4.0, 2.0, -1.0], [3.0, 0.0, 1.0, 2.5]]), torch.tensor([2, 0])
    torch.testing.assert_close(LOSSES["margin"](logits, y), torch.tensor([2.0, -0.5]))
    torch.testing.assert_close(LOSSES["dlr"](logits, y), torch.tensor([2.0 / 3.0, -0.5 / 2.0]))
    expected = torch.tensor([-2.0, -3.0]) + logits.exp().sum(dim=1).log()
    torch.testing.assert_close(LOSSES["cross-entropy"](logits, y), expected)


@pytest.mark.parametrize(
    ("setting", "word"),
    [({"steps": 0}, "steps"), ({"restarts": 0}, "restarts"), ({"loss": "mse"}, "loss"), ({"step": 0}, "step")],
)
def test_pgd_refuses_senseless_settings(setting: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=f"^{word} should be .* got"):
        PGD(**setting)  # type: ignore[arg-type]
