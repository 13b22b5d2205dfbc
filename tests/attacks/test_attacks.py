"""PGD, noise and losses: against closed forms, and properties of every attack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.classifiers import SEED, Linear, Tiny
from torch import Tensor, nn

import fdjpeg
from fdjpeg.attacks import (
    LOSSES,
    PGD,
    Noise,
    distances,
    draw,
    margin,
    on_byte_grid,
    pgd,
    to_byte_grid,
    zero_gradients,
)
from fdjpeg.attacks.losses import AWAY, TOWARDS
from fdjpeg.attacks.pgd import _checkpoints

EPS = 8 / 255


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


def test_the_ascent_of_each_loss_points_where_its_value_does() -> None:
    generator = torch.Generator().manual_seed(SEED)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64).requires_grad_()
    y = torch.randint(0, 5, (6,), generator=generator)
    for losses in (AWAY, TOWARDS):
        for name, loss in losses.items():
            directions = [torch.autograd.grad(f(logits, y).sum(), logits)[0] for f in (loss.value, loss.climb)]
            cosine = nn.functional.cosine_similarity(*directions)
            torch.testing.assert_close(cosine, torch.ones_like(cosine), msg=f"{name}: {cosine}")


def test_targeted_losses_are_their_closed_forms() -> None:
    logits, target = torch.tensor([[1.0, 4.0, 2.0, -1.0]]), torch.tensor([2])
    torch.testing.assert_close(TOWARDS["margin"].value(logits, target), torch.tensor([-2.0]))
    torch.testing.assert_close(TOWARDS["dlr"].value(logits, target), torch.tensor([-2.0 / 4.0]))
    expected = logits.log_softmax(dim=1)[:, 2]
    torch.testing.assert_close(TOWARDS["cross-entropy"].value(logits, target), expected)


class Scaled(nn.Module):
    """A model whose logits are so large that the cross-entropy has no gradient in float32."""

    def __init__(self, model: nn.Module, by: float) -> None:
        super().__init__()
        self.model, self.by = model, by

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images) * self.by
        return logits


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("by", [1e4, 1e-30])
def test_a_saturated_softmax_hides_nothing(norm: str, by: float, model: nn.Module, x: Tensor, y: Tensor) -> None:
    scaled, eps = Scaled(model, by), 4 / 255 if norm == "linf" else 0.5
    if by > 1:
        points = x.clone().requires_grad_()
        nn.functional.cross_entropy(scaled(points), y, reduction="sum").backward()
        assert points.grad is not None
        assert bool((points.grad == 0).all())
    plain, found = (PGD(norm=norm)(each, x, y, eps) for each in (model, scaled))
    assert int((margin(model(found), y) > 0).sum()) >= int((margin(model(plain), y) > 0).sum()) > 0


class Broken(torch.autograd.Function):
    """The identity whose gradient is zero, or not a number, for all images but the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: float) -> Tensor:
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone()
        gradient[1:] = ctx.value
        return gradient, None


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_gradient_that_is_none_becomes_a_random_search(
    value: float, norm: str, model: nn.Module, x: Tensor, y: Tensor
) -> None:
    class Front(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = model(Broken.apply(images, value))
            return logits

    attack = PGD(6, norm=norm, until_fooled=False)
    result, plain = (attack.run(each, x, y, EPS) for each in (Front(), model))
    torch.testing.assert_close(result.x_adv[0], plain.x_adv[0])
    assert bool(result.x_adv.isfinite().all())
    curve = result.loss_curve
    assert curve is not None
    assert bool((curve[1:] != curve[:-1]).any(dim=0).all())  # every image moves
    assert float(distances(result.x_adv, x, norm).max()) <= EPS + 1e-6
    shares = zero_gradients(Front(), x, y)
    assert float(shares[0]) < 0.1  # the last row and column, which the stride leaves out
    assert bool((shares[1:] == 1).all())


def test_given_classes_are_what_the_attack_makes_for(model: nn.Module, x: Tensor, y: Tensor) -> None:
    wanted = (y + 1) % 4
    result = PGD(40, aim="given").run(model, x, wanted, 60 / 255)
    with torch.no_grad():
        taken = model(result.x_adv).argmax(dim=1) == wanted
    assert torch.equal(taken, result.margin > 0)
    assert bool(taken.any())
    plain = PGD(40).run(model, x, y, 60 / 255)
    with torch.no_grad():
        assert int(taken.sum()) >= int((model(plain.x_adv).argmax(dim=1) == wanted).sum())


def test_each_restart_of_a_targeted_attack_has_its_own_class(model: nn.Module, x: Tensor, y: Tensor) -> None:
    goals = pgd.goals(model, x, y, "likeliest", restarts=4)
    assert bool((torch.stack(goals) != y).all())
    with torch.no_grad():
        second = model(x).argsort(dim=1, descending=True)[:, 1]
    assert torch.equal(goals[0], second)
    assert bool((torch.stack(goals[:3]).sort(dim=0).values.diff(dim=0) > 0).all())  # three classes, all different
    assert torch.equal(goals[3], goals[0])  # there is no fourth


def test_the_judge_decides_which_point_is_best(model: nn.Module, x: Tensor, y: Tensor) -> None:
    judge = nn.Sequential(fdjpeg.JPEG(40), model).eval()
    attack = PGD(8, until_fooled=False)
    judged, alone = attack.run(model, x, y, EPS, judge=judge), attack.run(model, x, y, EPS)
    torch.testing.assert_close(judged.margin, margin(judge(judged.x_adv), y))
    torch.testing.assert_close(alone.margin, margin(model(alone.x_adv), y))
    # Both saw the same points, and the judge took the best of them by its own standard.
    assert bool((judged.margin >= margin(judge(alone.x_adv), y) - 1e-5).all())
    assert judged.queries == 2 * alone.queries == 2 * 6 * 9


def test_the_curve_is_of_the_restart_that_won_and_holds_once_an_image_is_left_alone(
    model: nn.Module, x: Tensor, y: Tensor
) -> None:
    attack = PGD(8, restarts=3, loss="margin", until_fooled=False)
    result = attack.run(model, x, y, EPS)
    assert result.loss_curve is not None
    assert result.loss_curve.shape == (9, 6)
    torch.testing.assert_close(result.loss_curve.amax(dim=0), result.margin)
    stopped = replace(attack, until_fooled=True).run(model, x, y, EPS)
    assert stopped.loss_curve is not None
    assert stopped.queries < result.queries == 6 * 9 * 3
    fooled = stopped.margin > 0
    assert bool(fooled.any())
    torch.testing.assert_close(stopped.loss_curve[-1, fooled], stopped.margin[fooled])


def test_halving_has_auto_pgds_checkpoints() -> None:
    # The paper's p_j for 100 steps, from its recurrence: 0, 0.22, then gaps that shrink by 0.03 down to 0.06.
    gaps, places = [22, 19, 16, 13, 10, 7, 6, 6], [22, 41, 57, 70, 80, 87, 93, 99]
    assert {p: g for p, g in _checkpoints(100).items() if p < 100} == dict(zip(places, gaps, strict=True))
    assert sum(_checkpoints(20).values()) >= 20
    assert min(_checkpoints(1).values()) == 1


# --- whole bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "eps"), [("linf", 3 / 255), ("linf", 2.6 / 255), ("l2", 0.3)])
def test_whole_bytes_are_whole_in_the_ball_and_what_was_judged(
    norm: str, eps: float, model: nn.Module, x: Tensor, y: Tensor
) -> None:
    result = PGD(10, norm=norm, whole_bytes=True).run(model, x, y, eps)
    in_bytes = result.x_adv * 255
    torch.testing.assert_close(in_bytes, in_bytes.round(), rtol=0, atol=1e-4)
    assert torch.equal((in_bytes.round() / 255).float(), result.x_adv)
    assert bool(on_byte_grid(result.x_adv).all())
    assert float(distances(result.x_adv, x, norm).max()) <= eps + 1e-6
    torch.testing.assert_close(margin(model(result.x_adv), y), result.margin)
    if norm == "linf":
        assert float((result.x_adv - x).abs().max() * 255) == pytest.approx(eps * 255 // 1, abs=1e-3)


def test_whole_bytes_need_images_of_whole_bytes(model: nn.Module, x: Tensor, y: Tensor) -> None:
    assert not bool(on_byte_grid(x + 0.3 / 255).any())
    with pytest.raises(ValueError, match=r"^x must be images of whole bytes k / 255"):
        PGD(whole_bytes=True)(model, x * 0.999, y, EPS)


def test_the_nearest_bytes_in_the_ball_by_exhaustion() -> None:
    x = torch.tensor([0, 5, 128, 250, 255]).view(1, 1, 1, 5) / 255
    for eps in (0, 1, 2.5, 4):
        for moved in torch.linspace(-eps, eps, 23).tolist():
            x_adv = (x + moved / 255).clamp(0, 1)
            candidates = torch.arange(256).view(-1, 1) / 255
            inside = (candidates - x.view(1, 5)).abs() <= eps / 255 + 1e-6
            away = (candidates - x_adv.view(1, 5)).abs().masked_fill(~inside, 2)
            found = to_byte_grid(x_adv, x, eps / 255, "linf").view(5)
            torch.testing.assert_close((found - x_adv.view(5)).abs(), away.amin(dim=0), rtol=0, atol=1e-6)
