"""Threat models: transfer, a first pass, zero gradients; attacks on randomised models."""

from __future__ import annotations

import pytest
import torch
from support.classifiers import SEED
from torch import Tensor, nn

import fdjpeg
from fdjpeg.attacks import (
    PGD,
    Transfer,
    first_pass,
    margin,
    zero_gradients,
)

EPS = 8 / 255


def test_transfer_asks_the_attacked_model_nothing_while_it_searches(model: nn.Module, x: Tensor, y: Tensor) -> None:
    attacked = nn.Sequential(fdjpeg.JPEG(50), model).eval()
    transfer = Transfer(PGD(5), model, "bare network")
    result = transfer.run(attacked, x, y, EPS)
    assert transfer.name == "PGD-5 on bare network"
    assert torch.equal(result.x_adv, PGD(5, until_fooled=False)(model, x, y, EPS))
    torch.testing.assert_close(result.margin, margin(attacked(result.x_adv), y))
    assert result.queries == len(x)  # the verdict itself
    assert transfer.settings()["by"]["steps"] == 5


def test_examples_of_a_surrogate_are_those_of_the_images_places(model: nn.Module, x: Tensor, y: Tensor) -> None:
    places = torch.tensor([7, 4, 9, 1, 3, 8])
    found = Transfer(PGD(2), model).run(nn.Sequential(fdjpeg.JPEG(50), model).eval(), x, y, EPS, indices=places)
    assert torch.equal(found.x_adv, PGD(2, until_fooled=False)(model, x, y, EPS, indices=places))
    assert not torch.equal(found.x_adv, PGD(2, until_fooled=False)(model, x, y, EPS))


@pytest.mark.parametrize("gradient", [True, False])
def test_shares_of_zero_gradients_are_float32_on_the_images_device(gradient: bool, x: Tensor, y: Tensor) -> None:
    """Whatever torch's defaults are, and whether the model has a derivative or none."""

    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            means = images.mean(dim=(2, 3))
            return means if gradient else means.detach()

    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            shares = zero_gradients(Mean(), x, y.clamp(max=2))
    finally:
        torch.set_default_dtype(torch.float32)
    assert (shares.dtype, shares.device) == (torch.float32, x.device)
    assert bool((shares < 0.5).all() if gradient else (shares == 1).all())


def test_first_pass_puts_images_where_a_second_changes_nothing(x: Tensor) -> None:
    layer = fdjpeg.FeatureDistillation("uniform(30)")
    placed = first_pass(layer, x)
    assert float(placed.min()) >= 0
    assert float(placed.max()) <= 1
    assert not placed.requires_grad
    again = (first_pass(layer, placed) - placed).abs()
    assert float((again > 1.5 / 255).float().mean()) < 0.02  # but for samples that the clamp moved


def test_plain_rounding_shows_as_zero_gradients_and_as_robustness_that_a_surrogate_undoes(
    model: nn.Module, x: Tensor, y: Tensor
) -> None:
    masked, through = (nn.Sequential(fdjpeg.JPEG(75, gradient=g), model).eval() for g in ("zero", "cubic"))
    with torch.no_grad():
        y = masked(x).argmax(dim=1)
    assert bool((zero_gradients(masked, x, y) == 1).all())
    assert float(zero_gradients(through, x, y).max()) < 0.5
    left = [int((PGD().run(each, x, y, EPS).margin <= 0).sum()) for each in (masked, through)]
    assert left[0] > left[1]

    class Detached(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = model(images.detach())
            return logits

    assert bool((zero_gradients(Detached(), x, y) == 1).all())


class Shaken(nn.Module):
    """Adds noise before a model: to each image its own, or the same to all images of a call."""

    def __init__(self, model: nn.Module, each: bool, size: float = 0.05) -> None:
        super().__init__()
        self.model, self.each, self.size = model, each, size

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.randn(images.shape if self.each else images.shape[1:])
        logits: Tensor = self.model(images + self.size * noise)
        return logits


@pytest.mark.parametrize("each", [True, False])
def test_draws_average_over_a_randomised_model_the_same_in_every_batch(
    each: bool, model: nn.Module, x: Tensor, y: Tensor
) -> None:
    shaken, attack = Shaken(model, each), PGD(4, draws=20, until_fooled=False)
    state = torch.get_rng_state()
    together = attack.run(shaken, x, y, EPS)
    assert torch.equal(torch.get_rng_state(), state)
    chosen = torch.tensor([4, 1])
    alone = attack.run(shaken, x[chosen], y[chosen], EPS, indices=chosen)
    assert torch.equal(alone.x_adv, together.x_adv[chosen])
    # The margin is the mean over the draws, not one lucky draw.
    torch.manual_seed(SEED)
    with torch.no_grad():
        many = torch.stack([margin(Shaken(model, True)(together.x_adv), y) for _ in range(200)])
    spread = many.std(dim=0) / 20**0.5
    assert bool(((many.mean(dim=0) - together.margin).abs() < 6 * spread + 1e-3).all())


def test_more_draws_find_stronger_images(model: nn.Module, x: Tensor, y: Tensor) -> None:
    shaken = Shaken(model, each=True, size=0.3)
    expected = []
    for draws in (1, 30):
        found = PGD(6, draws=draws, until_fooled=False)(shaken, x, y, EPS)
        torch.manual_seed(SEED)
        with torch.no_grad():
            expected.append(torch.stack([margin(shaken(found), y) for _ in range(300)]).mean(dim=0))
    assert float(expected[1].mean()) > float(expected[0].mean())


def test_an_image_is_left_alone_only_when_every_draw_is_fooled(x: Tensor) -> None:
    class Coin(nn.Module):
        """Wrong in about half of all draws, whatever the image."""

        def forward(self, images: Tensor) -> Tensor:
            score = torch.rand(len(images)).sub(0.5) + images.mean(dim=(1, 2, 3)) * 0
            return torch.stack([torch.zeros_like(score), score], dim=1)

    y = torch.zeros(len(x), dtype=torch.int64)
    result = PGD(3, draws=20).run(Coin(), x, y, EPS)
    assert result.queries == 6 * 20 * 4


def test_random_jpeg_is_attacked_through_its_draws(model: nn.Module, x: Tensor, y: Tensor) -> None:
    defended = nn.Sequential(fdjpeg.RandomJPEG((30, 95), gradient="cubic"), model).eval()
    attack = PGD(3, draws=20)
    assert torch.equal(attack(defended, x[:2], y[:2], EPS), attack(defended, x[:2], y[:2], EPS))
