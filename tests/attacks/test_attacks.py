"""Attacks of our own: against closed forms, and what holds of every attack."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
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
    Transfer,
    distances,
    draw,
    first_pass,
    margin,
    on_byte_grid,
    to_byte_grid,
    zero_gradients,
)
from fdjpeg.attacks.losses import AWAY, TOWARDS
from fdjpeg.attacks.pgd import _checkpoints
from fdjpeg.evaluation.memory import in_batches

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
    with pytest.raises(ValueError, match=f"^{word} must be .* got"):
        PGD(**setting)  # type: ignore[arg-type]


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
    goals = PGD(restarts=4, aim="likeliest")._goals(model, x, y)
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


# --- randomised models --------------------------------------------------------------------------------------------


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


# --- threat models ------------------------------------------------------------------------------------------------


def test_transfer_asks_the_attacked_model_nothing_while_it_searches(model: nn.Module, x: Tensor, y: Tensor) -> None:
    attacked = nn.Sequential(fdjpeg.JPEG(50), model).eval()
    transfer = Transfer(PGD(5), model, "bare network")
    result = transfer.run(attacked, x, y, EPS)
    assert transfer.name == "PGD-5 on bare network"
    assert torch.equal(result.x_adv, PGD(5, until_fooled=False)(model, x, y, EPS))
    torch.testing.assert_close(result.margin, margin(attacked(result.x_adv), y))
    assert result.queries == len(x)  # the verdict itself
    assert transfer.settings()["by"]["steps"] == 5


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


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_batches_halve_where_memory_ends_and_results_stay(kind: str, model: nn.Module, x: Tensor, y: Tensor) -> None:
    sizes: list[int] = []

    def compute(part: Tensor) -> Tensor:
        sizes.append(len(part))
        if len(part) > 2:
            if kind == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return PGD(3, until_fooled=False)(model, x[part], y[part], EPS, indices=part)

    parts = list(in_batches(compute, torch.arange(5), 5))
    assert sizes == [5, 2, 2, 1]
    assert [part.tolist() for part, _ in parts] == [[0, 1], [2, 3], [4]]
    whole = PGD(3, until_fooled=False)(model, x[:5], y[:5], EPS)
    torch.testing.assert_close(torch.cat([found for _, found in parts]), whole, rtol=0, atol=1e-6)


def test_what_is_no_lack_of_memory_is_raised_and_one_image_that_does_not_fit_is_said() -> None:
    def fail(part: Tensor) -> Tensor:
        raise RuntimeError("shapes do not match")

    def never(part: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(in_batches(fail, torch.arange(3), 2))
    with pytest.raises(ValueError, match=r"^batch_size must be one that fits into memory, but 1 does not"):
        list(in_batches(never, torch.arange(3), 4))
    with pytest.raises(ValueError, match=r"^batch_size must be at least 1, got 0"):
        list(in_batches(never, torch.arange(3), 0))
    assert list(in_batches(never, torch.arange(0), 4)) == []


def test_the_pages_own_attack_runs(model: nn.Module, x: Tensor, y: Tensor) -> None:
    page = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Darken" in block)
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "attacks.md", "exec", dont_inherit=True), names)
    result = names["Darken"]().run(model, x, y, EPS)
    torch.testing.assert_close(result.x_adv, (x - EPS).clamp_min(0))
    torch.testing.assert_close(result.margin, margin(model(result.x_adv), y))
    assert names["Darken"]().settings() == {"attack": "Darken", "seed": 0, "norm": "linf"}


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"eps": -1 / 255}, ValueError, r"^eps must be 0 or more.* got -0.0039"),
        ({"eps": float("nan")}, ValueError, r"^eps must be 0 or more.* got nan"),
        ({"eps": float("inf")}, ValueError, r"^eps must be 0 or more.* got inf"),
        ({"x": torch.full((2, 3, 8, 8), 1.5)}, ValueError, r"^x must lie in \[0, 1\], got values from 1.5 to 1.5"),
        ({"x": torch.full((2, 3, 8, 8), -0.1)}, ValueError, r"^x must lie in \[0, 1\]"),
        ({"x": torch.full((2, 3, 8, 8), float("nan"))}, ValueError, r"^x must lie in \[0, 1\]"),
        ({"x": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, TypeError, r"^x must be floats.* got torch.uint8"),
        ({"x": torch.zeros(3, 8, 8)}, ValueError, r"^x must be images \(N, C, H, W\), got shape \(3, 8, 8\)"),
        ({"y": torch.tensor([0])}, ValueError, r"^y must be \(2,\), a class for each image, got shape \(1,\)"),
        ({"y": torch.tensor([0, 4])}, ValueError, r"^y must lie in 0…3 for a model of 4 classes, got 4"),
        ({"y": torch.tensor([0, -1])}, ValueError, r"^y must be classes 0, 1, …, got -1"),
        ({"y": torch.tensor([0.0, 1.0])}, TypeError, r"^y must be int64, got torch.float32"),
        ({"indices": torch.arange(3)}, ValueError, r"^indices must be \(2,\), one for each image, got shape \(3,\)"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    good = {"x": torch.full((2, 3, 8, 8), 0.5), "y": torch.tensor([0, 1]), "eps": 0.1, "indices": None}
    arguments = good | change
    for attack in (PGD(2), Noise(), PGD(2, norm="l2", draws=2)):
        with pytest.raises(error, match=message):
            attack(Tiny(), arguments["x"], arguments["y"], arguments["eps"], indices=arguments["indices"])


def test_a_model_that_returns_no_logits_is_named(x: Tensor, y: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^model must return logits \(6, classes\), got shape \(6, 3, 24, 24\)"):
        PGD(2)(nn.Identity(), x, y, EPS)


def test_no_images_and_no_radius_are_fine(model: nn.Module, x: Tensor, y: Tensor) -> None:
    for attack in (PGD(2), PGD(2, norm="l2", draws=3), Noise(norm="l2")):
        assert attack(model, x[:0], y[:0], EPS).shape == (0, 3, 24, 24)
        assert torch.equal(attack(model, x, y, 0.0), x)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"norm": "l1"}, "^norm must be 'linf' or 'l2' for this attack, got 'l1'"),
        ({"schedule": "linear"}, "^schedule must be one of constant, cosine, halving, got 'linear'"),
        ({"aim": "far"}, "^aim must be one of away, likeliest, given, got 'far'"),
        ({"momentum": 1.0}, "^momentum must be 0 or more and less than 1, got 1"),
        ({"draws": 0}, "^draws must be at least 1, got 0"),
    ],
)
def test_pgd_refuses_more_senseless_settings(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PGD(**setting)
