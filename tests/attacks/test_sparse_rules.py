"""The rules of JSMA and of Carlini and Wagner's rounds in L0 and L∞, on models of a few samples made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fdjpeg.attacks import JSMA, CarliniWagnerL0, CarliniWagnerLinf, jsma
from fdjpeg.attacks.carlini_wagner import _State


class Weighted(nn.Module):
    """Two classes: the second's logit is the weighted sum of the samples, the first's what it must exceed."""

    def __init__(self, weights: list[float], least: float) -> None:
        super().__init__()
        self.weights, self.least = torch.tensor(weights), least
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        score = images.flatten(1) @ self.weights.to(images)
        return torch.stack([self.least - score, score - self.least], dim=1)


def row(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype).view(1, 1, 1, -1)


def zeros(count: int = 1) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


def listed(images: Tensor) -> list[Any]:
    return images.flatten(1).tolist() if len(images) > 1 else images.flatten().tolist()


# --- JSMA -------------------------------------------------------------------------------------------------------------


def test_pairs_take_two_of_the_budget_each() -> None:
    """Four samples would do; a budget of three is one pair, whose samples are those of the largest weights."""
    model = Weighted([1, 2, 3, 4], 9.5).eval()
    attack = JSMA(surface="logits")
    for budget, distance, changed in ((3, torch.inf, [0, 0, 1, 1]), (4, 4, [1, 1, 1, 1]), (1, torch.inf, [0] * 4)):
        found = attack.run(model, row(0, 0, 0, 0), zeros(), budget)
        assert found.distance is not None
        assert found.distance.tolist() == [distance]
        assert listed(found.x_adv) == changed
    single = JSMA(surface="logits", pairs=False)
    assert [listed(single.run(model, row(0, 0, 0, 0), zeros(), budget).x_adv) for budget in (1, 3)] == [
        [0, 0, 0, 1], [0, 1, 1, 1],
    ]  # fmt: skip


def test_a_model_is_not_called_without_images() -> None:
    """The first image is predicted as wanted after one sample, the second never: its samples have all moved."""
    model = Weighted([1, 1], 0.5).eval()
    JSMA(surface="logits", pairs=False, target="given").run(model, row(0, 0), torch.tensor([1]), 2)
    assert 0 not in model.sizes
    stuck = Weighted([1, 1], 9).eval()
    JSMA(surface="logits", pairs=False, target="given").run(stuck, row(1, 1), torch.tensor([1]), 2)
    assert 0 not in stuck.sizes


@pytest.mark.parametrize("surface", ["probabilities", "logits"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_maps_are_of_derivatives_at_the_temperature(surface: Any, temperature: float) -> None:
    """By autograd: of the target's output, and of the sum of the others', of logits divided by the temperature."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    x = torch.rand(3, 1, 2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.tensor([2, 0, 3])
    logits = x.flatten(1) @ weights
    attack = JSMA(surface=surface, temperature=temperature)
    towards, others = attack._derivatives(logits, x, targets)
    outputs = logits / temperature
    outputs = outputs.softmax(dim=1) if surface == "probabilities" else outputs
    for number, target in enumerate(targets.tolist()):
        found = [torch.autograd.grad(outputs[number, k], x, retain_graph=True)[0][number] for k in range(4)]
        jacobian = [gradient.flatten() for gradient in found]
        torch.testing.assert_close(towards[number], jacobian[target])
        rest = torch.stack([one for k, one in enumerate(jacobian) if k != target]).sum(dim=0)
        torch.testing.assert_close(others[number], rest)


def test_as_many_searches_share_a_matrix_of_pairs_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three features a matrix has nine numbers, so that two fit in 20 and one in 17; one always does."""
    parts: list[int] = []
    true = jsma._best_pair
    monkeypatch.setattr(jsma, "_best_pair", lambda rise, fall: (parts.append(len(rise)), true(rise, fall))[1])
    generator = torch.Generator().manual_seed(3)
    towards, others = torch.rand(5, 3, generator=generator), -torch.rand(5, 3, generator=generator)
    movable = torch.ones(5, 3, dtype=torch.bool)
    whole = JSMA()._best(towards, others, movable)
    for most, wanted in ((20, [2, 2, 1]), (18, [2, 2, 1]), (17, [1] * 5), (5, [1] * 5)):
        parts.clear()
        monkeypatch.setattr(jsma, "_PAIRS_AT_ONCE", most)
        assert all(map(torch.equal, JSMA()._best(towards, others, movable), whole))
        assert parts == wanted


def test_a_pair_is_of_two_features_that_may_move_and_of_the_largest_product() -> None:
    """Products of the pairs (0, 1), (0, 2), (1, 2) are 3 · 9, 4 · 7 and 5 · 4; features alone would have 1 · 6, …"""
    towards, others = torch.tensor([[1.0, 2.0, 3.0]]), -torch.tensor([[6.0, 3.0, 1.0]])
    every = torch.tensor([[True, True, True]])
    places, found = JSMA()._best(towards, others, every)
    assert (sorted(places[0].tolist()), found.tolist()) == ([0, 2], [True])
    places, found = JSMA()._best(towards, others, torch.tensor([[True, True, False]]))
    assert (sorted(places[0].tolist()), found.tolist()) == ([0, 1], [True])
    _, found = JSMA()._best(towards, others, torch.tensor([[True, False, False]]))
    assert found.tolist() == [False]
    # Upwards nothing raises the target's output and lowers the rest; downwards everything does.
    _, found = JSMA()._best(-towards, -others, every)
    assert found.tolist() == [False]
    places, found = JSMA(theta=-1)._best(-towards, -others, every)
    assert (sorted(places[0].tolist()), found.tolist()) == ([0, 2], [True])
    place, found = JSMA(pairs=False)._best(towards, others, every)
    assert (place.tolist(), found.tolist()) == ([[0]], [True])  # 1 · 6 as 2 · 3; the first of equals


@pytest.mark.parametrize("pairs", [True, False])
def test_a_product_of_derivatives_is_as_small_as_its_type_makes_it(pairs: bool) -> None:
    """Half of the least positive number of float32 is rounded to zero, and then nothing moves."""
    least = torch.finfo(torch.float32).smallest_normal * torch.finfo(torch.float32).eps
    attack, movable = JSMA(pairs=pairs), torch.ones(1, 2, dtype=torch.bool)
    share = 2 if pairs else 1  # of two features that are alike
    towards = torch.full((1, 2), 2.0**-74 / share)
    for times, found in ((0.5, False), (1.5, True)):
        others = -torch.full((1, 2), times * (least / 2.0**-74) / share)
        assert attack._best(towards, others, movable)[1].tolist() == [found]


def test_a_lone_feature_moves_only_where_it_raises_the_target_and_lowers_the_rest() -> None:
    attack, movable = JSMA(pairs=False), torch.ones(1, 3, dtype=torch.bool)
    for towards, others in (
        ([0.5, -0.25, 0], [0.5, -0.25, -1]), ([-3, 2, 0], [-3, 2, 0]), ([0, 0, 0], [-1, -2, -3]),
    ):  # fmt: skip
        _, found = attack._best(torch.tensor([towards]), torch.tensor([others]), movable)
        assert found.tolist() == [False]
    place, found = attack._best(torch.tensor([[0.5, 0.25, 9]]), torch.tensor([[-0.25, -0.75, 9]]), movable)
    assert (place.tolist(), found.tolist()) == ([[1]], [True])


def test_the_sum_of_the_others_derivatives_is_taken_over_their_own() -> None:
    """Near saturation: the derivative of the sum, which is that of the target's with the other sign, would differ."""
    logits, targets = torch.tensor([[0.0, 10.0, 40.0]]), torch.tensor([0])
    p = logits.softmax(dim=1)[0]
    of_target, of_others = jsma._softmax_seeds(logits, targets)
    own = [[p[k] * (float(k == by) - p[by]) for by in range(3)] for k in range(3)]
    assert of_target.tolist() == [[float(value) for value in own[0]]]
    assert of_others.tolist() == [[float(own[1][by] + own[2][by]) for by in range(3)]]
    assert float(of_others[0, 1]) == 0 != float(of_target[0, 1])


@pytest.mark.parametrize("pairs", [True, False])
def test_derivatives_that_are_no_numbers_move_nothing(pairs: bool) -> None:
    nothing = torch.full((1, 3), torch.nan)
    _, found = JSMA(pairs=pairs)._best(nothing, nothing, torch.ones(1, 3, dtype=torch.bool))
    assert found.tolist() == [False]


def test_targets_are_every_wrong_class_the_likeliest_or_the_given() -> None:
    logits = torch.tensor([[5.0, 1, 2, 3], [0.0, 9, 8, 4]])
    x, y = torch.zeros(2, 1, 1, 1), torch.tensor([0, 2])

    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return logits

    for target, rows, classes in (
        ("every", [0, 0, 0, 1, 1, 1], [3, 2, 1, 1, 3, 0]), ("likeliest", [0, 1], [3, 1]), ("given", [0, 1], [0, 2]),
    ):  # fmt: skip
        found = JSMA(target=target)._targets(Fixed(), x, y)  # type: ignore[arg-type]
        assert [part.tolist() for part in found] == [rows, classes]


def test_a_tie_needs_a_change_and_a_wrong_image_none() -> None:
    model = Weighted([1, 1], 0.5).eval()
    found = JSMA(surface="logits", pairs=False).run(model, row(0.25, 0.25), zeros(), 2)
    assert found.distance is not None
    assert found.distance.tolist() == [1]
    found = JSMA(surface="logits", pairs=False).run(model, row(0.25, 0.26), zeros(), 2)
    assert found.distance is not None
    assert found.distance.tolist() == [0]
    assert torch.equal(found.x_adv, row(0.25, 0.26))


# --- Carlini and Wagner -----------------------------------------------------------------------------------------------


def test_a_tie_is_not_wrong_before_the_search() -> None:
    x = row(0.5, 0.5)
    found = CarliniWagnerLinf(steps=5, rounds=2).run(Weighted([1, 1], 1.0).eval(), x, zeros(), 0.5)
    assert found.distance is not None
    assert 0 < float(found.distance) < 0.5


def test_a_round_that_has_won_comes_nearer_by_the_penalty_alone() -> None:
    """All images are wrong, so that misclassification pulls nowhere; the bound is below the change."""
    state = _State.at(row(0.25, 0.25, dtype=torch.float64))
    state.here = state.here + 0.25
    state.bound[:] = 0.0625
    CarliniWagnerLinf(steps=3)._round(Weighted([0, 0], -1.0), state, zeros(), zeros())  # type: ignore[arg-type]
    assert 0.1 < float(state.distance) < 0.249
    assert torch.equal(state.here, state.best)
    assert state.weight.tolist() == [1]


def test_weights_grow_fourfold_in_each_failed_round() -> None:
    state = _State.at(row(0.25, 0.25))
    for weight in (4, 16, 64):
        CarliniWagnerLinf(steps=1)._round(Weighted([0, 0], 1.0), state, zeros(), zeros())  # type: ignore[arg-type]
        assert state.weight.tolist() == [weight]


class Broken(torch.autograd.Function):
    """The sum of each image's samples, with gradients made up, the next of a list in each call."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, gradients: list[Tensor]) -> Tensor:
        ctx.gradients = gradients
        return images.flatten(1).sum(dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.gradients.pop(0) * gradient.view(-1, 1, 1, 1), None


@pytest.mark.parametrize("steps", [1, 2])
def test_samples_whose_gradient_is_not_finite_stay_until_it_is(steps: int) -> None:
    gradients = [row(torch.nan, torch.inf, -torch.inf, 1), row(1, 1, 1, 1)]

    class Front(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = Broken.apply(images, gradients)
            return torch.stack([9 - score, score - 9], dim=1)

    x = row(0.25, 0.25, 0.25, 0.25)
    state = _State.at(x)
    CarliniWagnerLinf(steps=steps)._round(Front(), state, zeros(), zeros())  # type: ignore[arg-type]
    moved = (state.here - x).flatten().abs() > 1e-3
    assert moved.tolist() == [steps == 2] * 3 + [True]


def test_a_change_of_exactly_half_of_a_bytes_step_is_seen() -> None:
    x = row(0, 0, dtype=torch.float64)
    state = _State.at(x)
    half = 0.5 / 255
    point = row(half, 0.999 * half, dtype=torch.float64)
    model: Any = Weighted([1, 1], 0.0)
    note = CarliniWagnerL0()._note
    assert note(model, state, zeros(), point, zeros()).tolist() == [True]
    assert listed(state.best) == [half, 0]
    # The same distance again is not nearer.
    assert note(model, state, zeros(), point.flip(3), zeros()).tolist() == [False]
    assert listed(state.best) == [half, 0]


def test_samples_that_did_not_change_are_not_among_the_share_that_is_put_back() -> None:
    """Of ten free samples five changed: a fifth of these is one, and the five others are put back as well."""
    x = torch.zeros(1, 1, 2, 5)
    state = _State.at(x)
    state.best = torch.tensor([1.0, 0, 0.2, 0, 0.3, 0, 0.4, 0, 1.0, 0]).view_as(x)
    state.here = state.best.clone()
    CarliniWagnerL0(share=0.2).harder(state, torch.ones_like(x), torch.tensor([True]))
    assert state.free.flatten().int().tolist() == [1, 0, 0, 0, 1, 0, 1, 0, 1, 0]
    assert torch.equal(state.here, torch.where(state.free, state.best, x))


def test_the_bound_falls_to_nine_tenths_of_the_largest_change_of_images_that_were_won() -> None:
    state = _State.at(torch.zeros(3, 1, 1, 2))
    state.distance = torch.tensor([0.5, 0.25, 0.125])
    state.bound = torch.ones(3)
    CarliniWagnerLinf().harder(state, torch.zeros(2, 1, 1, 2), torch.tensor([True, False, True]))
    assert state.bound.tolist() == pytest.approx([0.45, 1, 0.1125])
