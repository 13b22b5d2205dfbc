"""JSMA and Carlini and Wagner's L0 and L∞ attacks: against plain loops, known distances and ART's own."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from support.classifiers import SEED, Linear
from torch import Tensor, nn

from fdjpeg.attacks import (
    JSMA,
    CarliniWagner,
    CarliniWagnerL0,
    CarliniWagnerLinf,
    distances,
    from_name,
    margin,
    project,
)


class Dense(nn.Module):
    """Two hidden layers' worth of curvature on 4 × 4 pixels, three classes; the logits can be scaled."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        self.first = nn.Parameter(torch.randn(16, 8, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(8, 3, generator=generator, dtype=torch.float64))
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * (images.flatten(1) @ self.first).tanh() @ self.second


IMAGES = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)


def classes(model: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(dim=1)


def plainly(model: nn.Module, image: Tensor, target: int, budget: int, attack: JSMA) -> tuple[Tensor, int | None]:
    """Algorithm 3 of arXiv 1511.07528, one image and one pair after the other."""
    point, left = image.clone().flatten(), set(range(image.numel()))
    left = {p for p in left if (point[p] < 1 if attack.theta > 0 else point[p] > 0)}
    step = 2 if attack.pairs else 1

    def outputs(flat: Tensor) -> Tensor:
        logits = model(flat.view_as(image)[None])[0] / attack.temperature
        return logits.softmax(dim=0) if attack.surface == "probabilities" else logits

    for count in range(0, budget + 1, step):
        if int(outputs(point).argmax()) == target:
            return point.view_as(image), count
        if count + step > budget:
            break
        jacobian: Any = torch.autograd.functional.jacobian(outputs, point)
        sign = 1 if attack.theta > 0 else -1
        best, move = 0.0, None
        for group in combinations(sorted(left), step):
            alpha = sign * sum(float(jacobian[target, p]) for p in group)
            beta = sign * sum(float(jacobian[:, p].sum() - jacobian[target, p]) for p in group)
            if alpha > 0 > beta and -alpha * beta > best:
                best, move = -alpha * beta, group
        if move is None:
            break
        for p in move:
            point[p] = min(max(float(point[p]) + attack.theta, 0.0), 1.0)
            left.remove(p)
    return point.view_as(image), None


@pytest.mark.parametrize(
    "attack",
    [
        JSMA(target="given"),
        JSMA(target="given", pairs=False),
        JSMA(target="given", surface="logits"),
        JSMA(target="given", theta=-0.5),
        JSMA(target="given", temperature=3.0),
    ],
)
def test_all_images_at_once_are_as_one_after_the_other(attack: JSMA) -> None:
    model = Dense().eval()
    target = (classes(model) + 1) % 3
    found = attack.run(model, IMAGES, target, eps=10)
    assert found.distance is not None
    for number, image in enumerate(IMAGES):
        expected, count = plainly(model, image, int(target[number]), 10, attack)
        torch.testing.assert_close(found.x_adv[number], expected)
        changed = float("inf") if count is None else float((expected != image).sum())
        assert float(found.distance[number]) == changed
    assert bool(found.distance.isfinite().any())
    assert torch.equal(found.margin > 0, found.distance.isfinite())


def test_every_target_counts_by_the_fewest_changes() -> None:
    model = Dense().eval()
    y = classes(model)
    each = [JSMA(target="given").run(model, IMAGES, (y + turn) % 3, eps=12).distance for turn in (1, 2)]
    found = JSMA().run(model, IMAGES, y, eps=12)
    assert found.distance is not None
    assert torch.equal(found.distance, torch.minimum(*each))  # type: ignore[arg-type]
    assert torch.equal(found.margin > 0, found.distance.isfinite())


def test_a_wrong_image_needs_no_change() -> None:
    model = Dense().eval()
    found = JSMA().run(model, IMAGES, (classes(model) + 1) % 3, eps=4)
    assert found.distance is not None
    assert not bool(found.distance.any())
    assert torch.equal(found.x_adv, IMAGES)


def test_a_saturated_softmax_stops_it_and_the_temperature_undoes_that() -> None:
    """The published effect of defensive distillation, and its break."""
    plain, saturated = Dense(2.0).float().eval(), Dense(2000.0).float().eval()
    images, target = IMAGES.float(), (classes(plain, IMAGES.float()) + 1) % 3
    free = JSMA(target="given").run(plain, images, target, eps=12)
    stopped = JSMA(target="given").run(saturated, images, target, eps=12)
    again = JSMA(target="given", temperature=1000.0).run(saturated, images, target, eps=12)
    assert free.distance is not None
    assert stopped.distance is not None
    assert again.distance is not None
    assert bool(free.distance.isfinite().any())
    assert not bool(stopped.distance.isfinite().any())
    assert torch.equal(again.distance, free.distance)


def test_few_changes_are_counted_and_kept() -> None:
    x = torch.zeros(2, 1, 2, 2)
    x_adv = torch.tensor([[0.1, 0.4, 0.0, 0.2], [0.0, 0.0, 0.3, 0.0]]).view_as(x)
    assert distances(x_adv, x, "l0").tolist() == [3, 1]
    kept = project(x_adv, x, 2, "l0")
    assert torch.equal(kept[0].flatten(), torch.tensor([0.0, 0.4, 0.0, 0.2]))
    assert torch.equal(kept[1], x_adv[1])


@pytest.fixture
def linear() -> tuple[Linear, Tensor, Tensor]:
    x = 0.25 + torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(SEED)) / 2
    return Linear(x.shape[1:]).eval(), x, torch.zeros(4, dtype=torch.int64)


def test_carlini_and_wagner_reach_the_boundary_in_linf(linear: tuple[Linear, Tensor, Tensor]) -> None:
    model, x, y = linear
    best = -margin(model(x), y) / model.weights.abs().sum()
    found = CarliniWagnerLinf(steps=40, rounds=25).run(model, x, y, eps=1)
    assert found.distance is not None
    assert bool((found.distance >= best * 0.999).all())
    assert bool((found.distance <= best * 1.3 + 0.002).all())
    assert torch.equal(margin(model(found.x_adv), y) > 0, torch.ones(4, dtype=torch.bool))


def test_carlini_and_wagner_find_few_samples(linear: tuple[Linear, Tensor, Tensor]) -> None:
    model, x, y = linear
    gain = torch.where(model.weights > 0, (1 - x) * model.weights, -x * model.weights).flatten(1)
    reached = gain.sort(dim=1, descending=True).values.cumsum(dim=1) > -margin(model(x), y)[:, None]
    fewest = reached.int().argmax(dim=1) + 1
    found = CarliniWagnerL0(steps=60, rounds=30, step=0.2).run(model, x, y, eps=x[0].numel())
    assert found.distance is not None
    assert bool((found.distance >= fewest).all())
    assert bool((found.distance <= 2 * fewest + 2).all())
    assert torch.equal(distances(found.x_adv, x, "l0"), found.distance)


@pytest.mark.parametrize("name", ["jsma", "jsma-logits", "cw-l0-3x2", "cw-linf-3x2"])
def test_they_have_names(name: str) -> None:
    assert from_name(name).norm == ("linf" if "linf" in name else "l0")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JSMA(theta=0), "^theta must be in"),
        (lambda: JSMA(temperature=0), "^temperature must be positive and finite, got 0"),
        (lambda: JSMA(surface="loss"), "^surface must be one of probabilities, logits, got 'loss'"),  # type: ignore[arg-type]
        (lambda: JSMA(target="all"), "^target must be one of"),  # type: ignore[arg-type]
        (lambda: JSMA(norm="l2"), "^norm must be 'l0' for this attack, got 'l2'"),
        (lambda: CarliniWagnerL0(share=1), "^share must be in"),
        (lambda: CarliniWagnerL0(rounds=0), "^rounds must be at least 1, got 0"),
        (lambda: CarliniWagnerLinf(norm="l0"), "^norm must be 'linf' for this attack, got 'l0'"),
    ],
)
def test_settings_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture
def art() -> Any:
    """ART's estimators; its attacks are ``art.attacks``."""
    estimators = pytest.importorskip("art.estimators.classification", reason="needs adversarial-robustness-toolbox")
    pytest.importorskip("art.attacks.evasion")
    return estimators


def test_jsma_equals_arts(art: Any) -> None:
    """ART moves one pair a round by the same map; it keeps pairs that lower α or raise β, so successes are compared."""
    from art.attacks.evasion import SaliencyMapMethod

    model = nn.Sequential(Dense().float(), nn.Softmax(dim=1)).eval()
    images, y = IMAGES.float(), classes(Dense().float().eval(), IMAGES.float())
    target = (y + 1) % 3
    wrapped = art.PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 4, 4), 3, clip_values=(0.0, 1.0))
    theirs = SaliencyMapMethod(wrapped, theta=1.0, gamma=0.75, batch_size=1, verbose=False)
    made = torch.from_numpy(theirs.generate(images.numpy(), np.eye(3, dtype=np.float32)[target.numpy()]))
    found = JSMA(target="given").run(Dense().float().eval(), images, target, eps=12)
    assert found.distance is not None
    both = found.distance.isfinite() & (classes(Dense().float().eval(), made) == target)
    assert bool(both.any())
    assert torch.equal(classes(Dense().float().eval(), made) == target, found.distance.isfinite())
    torch.testing.assert_close(distances(made, images, "l0")[both], found.distance[both])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "ours"),
    [
        ("CarliniL2Method", {"binary_search_steps": 8, "learning_rate": 0.05, "initial_const": 0.1},
         CarliniWagner(steps=200, searches=8, step=0.05)),
        ("CarliniLInfMethod", {"learning_rate": 0.02, "initial_const": 1e-3}, CarliniWagnerLinf(step=0.02)),
        ("CarliniL0Method", {"binary_search_steps": 5, "learning_rate": 0.05, "initial_const": 0.1},
         CarliniWagnerL0(steps=100, rounds=40, step=0.1)),
    ],
)  # fmt: skip
def test_carlini_and_wagners_attacks_are_as_strong_as_arts(art: Any, name: str, settings: Any, ours: Any) -> None:
    from art.attacks import evasion

    model = Dense().float().eval()
    images = 0.2 + 0.6 * torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(SEED))
    y = classes(model, images)
    wrapped = art.PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 4, 4), 3, clip_values=(0.0, 1.0))
    theirs = getattr(evasion, name)(wrapped, max_iter=50, batch_size=8, verbose=False, **settings)
    made = torch.from_numpy(theirs.generate(images.numpy(), np.eye(3, dtype=np.float32)[y.numpy()]))
    found = ours.run(model, images, y, eps=16)
    assert bool((found.margin > 0).all())
    fooled = classes(model, made) != y
    assert bool(fooled.any())
    assert float(found.distance[fooled].mean()) <= 1.05 * float(distances(made, images, ours.norm)[fooled].mean())
