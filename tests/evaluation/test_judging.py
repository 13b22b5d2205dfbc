"""Judging by itself: what counts as random, what may leave a first pass or an attack, and to how many digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.evaluation_cases import Stub, Tiny
from torch import Tensor, nn

from fdjpeg.attacks import PGD
from fdjpeg.attacks.calls import Flat
from fdjpeg.defenses import Defended, of_module, parse_defense
from fdjpeg.evaluation import Cell, Plan, judging
from fdjpeg.evaluation.judging import Batch, Crafted, Evaluation, Verdict, _on_device
from fdjpeg.sources import ImageSet, Network

EPS = Fraction(8, 255)


class Layer(nn.Module):
    """A layer by a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def layer(function: Callable[[Tensor], Tensor], name: str = "layer") -> Defended:
    return of_module(Layer(function), name)


def run_of(network: Network, images: ImageSet, *defenses: Defended, **settings: Any) -> Evaluation:
    """A run of two batches of three images."""
    plan = Plan(**{"attacks": ["pgd-1"], "eps": ["8/255"], "batch_size": 3, "pictures": 0, **settings})
    return Evaluation(network, images, defenses, plan)


# --- randomness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "random"),
    [
        (lambda x: x + 1e-6 * torch.rand_like(x), True),
        (lambda x: x * (1 + 1e-6 * torch.rand_like(x)), True),
        (lambda x: 0 * x + 1e-10 * torch.rand_like(x), True),
        (lambda x: x * (1 + torch.rand(())), True),
        (lambda x: x / 0 * 0, False),
        (lambda x: torch.where(x < 0.5, float("nan"), x), False),
        (lambda x: x.round(), False),
    ],
)
def test_a_defence_is_random_where_two_calls_differ(
    function: Callable[[Tensor], Tensor], random: bool, network: Network, photographs: ImageSet
) -> None:
    """In the last bits as well; where both are not numbers they are alike."""
    torch.manual_seed(3)
    state = torch.get_rng_state()
    run = run_of(network, photographs, layer(function))
    assert run.random == {"none": False, "layer": random}
    assert torch.equal(torch.get_rng_state(), state)  # the caller's draws go on as they would have
    draws = {name: run.describe(defense)[1] for name, defense in zip(run.random, run.defenses, strict=True)}
    assert draws == {"none": 1, "layer": 20 if random else 1}


def test_randomness_is_asked_of_one_image(network: Network, photographs: ImageSet) -> None:
    met: list[tuple[int, ...]] = []
    run = run_of(network, photographs, layer(lambda x: (met.append(tuple(x.shape)), x)[1]))
    met.clear()
    assert not run.random["layer"]
    assert set(met) == {(1, 3, 24, 24)}


def test_randomness_does_not_depend_on_torchs_default_dtype(network: Network, photographs: ImageSet) -> None:
    convolution = of_module(nn.Conv2d(3, 3, 1).eval(), "convolution")
    torch.set_default_dtype(torch.float64)
    try:
        assert run_of(network, photographs, convolution).random == {"none": False, "convolution": False}
    finally:
        torch.set_default_dtype(torch.float32)


# --- first passes -----------------------------------------------------------------------------------------------------


def entered(offset: float, base: float, run: Evaluation) -> Tensor:
    first = replace(run.defenses[0], name="first", first=Layer(lambda x: torch.full_like(x, base) + offset))
    return run.entered(first, run.batch(0))


@pytest.mark.parametrize(("base", "sign"), [(0.0, -1), (1.0, 1)])
def test_a_first_pass_may_leave_the_range_by_rounding_only(
    base: float, sign: int, network: Network, photographs: ImageSet
) -> None:
    """By less than 10⁻⁵, which is cut off."""
    run = run_of(network, photographs)
    assert entered(sign * 0.9e-5, base, run).unique().tolist() == [base]
    assert entered(0, base, run).unique().tolist() == [base]
    for offset in (sign * 1e-5, sign * 1.1e-5, float("nan")):
        with pytest.raises(ValueError, match=r"^defense first must return images like its input, in \[0, 1\]"):
            entered(offset, base, run)
    smaller = replace(run.defenses[0], name="first", first=Layer(lambda x: x[..., 1:]))
    with pytest.raises(ValueError, match=r"got shape \(3, 3, 24, 23\) with values from"):
        run.entered(smaller, run.batch(0))


# --- verdicts and cells -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "fails"), [(5, False), (4, True), (3, True)])
def test_a_network_of_too_few_classes_is_named(
    classes: int, fails: bool, network: Network, photographs: ImageSet
) -> None:
    run = run_of(network, photographs)
    batch = run.batch(0)

    def judged() -> Verdict:
        return run.judge(
            Layer(lambda x: torch.zeros(len(x), classes)), batch.x, torch.tensor([0, 4, 1]), batch, 1, "it"
        )

    if fails:
        with pytest.raises(ValueError, match=f"^it must return logits of at least 5 classes, got {classes}$"):
            judged()
    else:
        assert judged().predicted.tolist() == [0, 0, 0]


def test_draws_of_a_verdict_have_seeds_of_run_draw_and_batch(
    network: Network, photographs: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(judging, "image_seed", lambda *given: (asked.append(given), len(asked))[1])
    run = run_of(network, photographs, seed=5)
    batch = run.batch(1)
    run.judge(network.module, batch.x, batch.y, batch, 2)
    assert asked == [(5, "verdict 0", 3), (5, "verdict 1", 3)]


def test_figures_of_a_cell_are_rounded(network: Network, photographs: ImageSet) -> None:
    """Margins and losses to four digits, distances to seven, seconds to two."""
    run = run_of(network, photographs)
    batch = run.batch(0)
    third = torch.full((3,), 1.23456789, dtype=torch.float64)
    verdict = Verdict(torch.tensor([0, 1, 2]), third / 2, third, torch.tensor([True, False, True]))
    run.judge = lambda *_: verdict  # type: ignore[method-assign]
    moved = batch.x.clone()
    moved[:, 0, 0, 0] = (moved[:, 0, 0, 0] - 0.0123456789).abs()
    found = run.cell(batch, run.defenses[0], "white-box", Crafted(moved, [0.5], 2, 7, 12.3456), eps=EPS)
    assert found.margin == [1.2346] * 3
    assert found.seconds == 12.35
    exact = (moved - batch.x).flatten(1).abs().amax(dim=1).tolist()
    assert found.distance == [round(value, 7) for value in exact]
    assert [len(f"{value:.12f}".rstrip("0")) for value in found.distance] == [9] * 3  # 0. and seven digits
    assert (found.right, found.predicted, found.undefined) == ([1.23456789 / 2] * 3, [0, 1, 2], 2)
    assert (found.loss, found.attacked, found.queries, found.differing) == ([0.5], 2, 7, None)


def test_cells_of_a_job_name_everything(network: Network, photographs: ImageSet) -> None:
    run = run_of(network, photographs, parse_defense("jpeg:75", ["cubic"]))
    batch = run.batch(1)
    made = Crafted(batch.x, [], 0, 0, 0.0)
    plain = run.cell(batch, run.defenses[1], "clean", made)
    assert (plain.key, plain.indices) == (("jpeg:75", "clean", None, None, None, None), [3, 4, 5])
    whole = run.cell(batch, run.defenses[1], "transfer", made, attack=Stub(), eps=EPS, gradient="cubic", source="net")
    assert whole.key == ("jpeg:75", "transfer", "stub", "cubic", "net", "8/255")
    assert (plain.differing, whole.pictures) == (0, [])  # Pillow is the oracle


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pictures", "shown"), [(0, []), (1, [1]), (2, [1, 2]), (9, [1, 2])])
def test_pictures_are_of_the_first_images_that_were_right(
    pictures: int, shown: list[int], network: Network, photographs: ImageSet
) -> None:
    """Of the first batch alone; none where no image was right."""
    run = run_of(network, photographs, pictures=pictures)
    made = Crafted(run.batch(0).x, [], 0, 0, 0.0)
    for right, wanted in (([0.0, 1.0, 0.5], shown), ([0.0, 0.0, 0.0], [])):
        run.found = {number: [Cell("none", "clean", indices=[0, 1, 2], right=right)] for number in (0, 1)}
        assert [picture.index for picture in run.shown(run.batch(0), run.defenses[0], made)] == wanted
        assert run.shown(run.batch(1), run.defenses[0], made) == []


# --- attacks ----------------------------------------------------------------------------------------------------------


def attacking(make: Callable[[Tensor], Tensor], loss: Tensor | None = None) -> Any:
    """An attack by a function, which has a loss if one is given."""

    def run(model: nn.Module, x: Tensor, *_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(x_adv=make(x), loss_curve=loss, queries=3)

    return SimpleNamespace(name="mine", run=run)


@pytest.mark.parametrize(
    ("make", "fails"),
    [
        (lambda x: x, False),
        (lambda x: x.round(), False),  # black and white are in [0, 1]
        (lambda x: x + 1.01, True),
        (lambda x: -0.01 - x, True),
        (lambda x: x[..., 1:], True),
        (lambda x: x * float("nan"), True),
    ],
)
def test_an_attack_must_return_images(
    make: Callable[[Tensor], Tensor], fails: bool, network: Network, photographs: ImageSet
) -> None:
    run = run_of(network, photographs)
    batch, chosen = run.batch(0), torch.tensor([True, False, True])

    def craft() -> Crafted:
        return run.craft(attacking(make), network.module, None, batch, batch.x, EPS, chosen)

    if fails:
        with pytest.raises(
            ValueError, match=r"^attack mine must return images like its input in \[0, 1\], got others$"
        ):
            craft()
    else:
        made = craft()
        assert torch.equal(made.x_adv[[0, 2]], make(batch.x[[0, 2]]))
        assert torch.equal(made.x_adv[1], batch.x[1])
        assert (made.queries, made.loss, made.attacked) == (3, [], 0)


def test_losses_are_kept_where_they_are_numbers(network: Network, photographs: ImageSet) -> None:
    run = run_of(network, photographs)
    batch, chosen = run.batch(0), torch.tensor([True, True, True])
    loss = torch.tensor([[0.123456, 1.0, 1.0], [1.0, 2.0, 3.0]])
    for value, kept in ((0.0, [2.1235, 6.0]), (float("inf"), []), (float("nan"), [])):
        made = run.craft(attacking(lambda x: x, loss + value), network.module, None, batch, batch.x, EPS, chosen)
        assert (made.loss, made.attacked) == (kept, 3 if kept else 0)


def test_a_network_without_a_derivative_is_attacked_with_zero(network: Network, photographs: ImageSet) -> None:
    run = run_of(network, photographs)
    detached = Layer(lambda x: network.module(x.detach()))
    for images in (photographs.images[:1], photographs.images):
        assert isinstance(run.climbable(detached, images), Flat)
        assert run.climbable(network.module, images) is network.module
    assert run.climbable(detached, photographs.images[:0]) is detached


def test_one_image_shows_a_derivative(network: Network, photographs: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(judging, "has_derivative", lambda model, x: (asked.append(len(x)), True)[1])
    run_of(network, photographs).climbable(network.module, photographs.images)
    assert asked == [1]


def test_a_surrogate_is_judged_by_the_deployed_network(network: Network, photographs: ImageSet) -> None:
    """Where the attacked network computes the exact forward pass, or is the deployed one, it is its own judge."""
    run = run_of(network, photographs, parse_defense("jpeg:75", ["cubic"]))
    deployed, seen, shown = (Layer(lambda x: x) for _ in range(3))
    named = {"deployed": lambda _: deployed, "attacked": lambda *_: seen, "exposes": lambda _: shown}
    exact, other = (replace(run.defenses[1], exact=truth, **named) for truth in (True, False))
    assert run._attacked(exact, "cubic") == (seen, None)
    assert run._attacked(other, "cubic") == (seen, deployed)
    assert run._attacked(other, None) == (deployed, None)
    assert run._attacked(other, "flip") == (shown, None)


def test_batches_and_what_attacks_made_cannot_be_changed(network: Network, photographs: ImageSet) -> None:
    batch = run_of(network, photographs).batch(1)
    assert (batch.number, batch.indices.tolist()) == (1, [3, 4, 5])
    with pytest.raises(FrozenInstanceError):
        batch.number = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Crafted(batch.x, [], 0, 0, 0.0).queries = 2  # type: ignore[misc]


def test_a_network_moves_to_a_device_as_a_copy() -> None:
    network = Network(Tiny().eval(), "tiny")
    assert _on_device(network, torch.device("cpu")) is network
    moved = _on_device(network, torch.device("meta"))
    assert (moved.device.type, network.device.type, moved.name) == ("meta", "cpu", "tiny")


def test_only_attacks_on_random_defences_average_over_draws(
    network: Network, photographs: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed, drawn = layer(lambda x: x.flip(3), "fixed"), layer(lambda x: x * (1 + 1e-3 * torch.rand(())), "drawn")
    run = run_of(network, photographs, fixed, drawn, draws=3)
    batch = Batch(0, torch.arange(3), photographs.images[:3], photographs.labels[:3])
    seen: dict[str, int] = {}
    for defense in (fixed, drawn):
        monkeypatch.setattr(run, "craft", lambda attack, *_, name=defense.name: seen.update({name: attack.draws}))
        run.through(PGD(steps=1), defense, "own", batch, EPS, torch.ones(len(batch.x), dtype=torch.bool))
    assert seen == {"fixed": 1, "drawn": 3}
