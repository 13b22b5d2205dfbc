"""Controls, whose outcome is known in advance: which are made of a defence, and how each attacks and judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from support.evaluation_cases import Stub, Tiny
from torch import Tensor, nn

import fdjpeg
from fdjpeg.attacks import PGD, Attack
from fdjpeg.defenses import Defended, SeedFixed, of_module, parse_defense
from fdjpeg.evaluation import Cell, Plan, controls
from fdjpeg.evaluation.controls import (
    control_jobs,
    gradient_cells,
    one_step_cells,
    ones_cells,
    seed_fixed_cells,
    twice_cells,
)
from fdjpeg.evaluation.judging import Crafted, Evaluation
from fdjpeg.sources import ImageSet, Network

EPS = Fraction(8, 255)


class Bytes(nn.Module):
    """A layer that rounds to bytes; it has no gradients to choose from."""

    def forward(self, images: Tensor) -> Tensor:
        return (255 * images).round() / 255


def run_of(network: Network, images: ImageSet, *defenses: Defended, **settings: Any) -> Evaluation:
    """A run of one batch of three images."""
    plan = Plan(**{"attacks": ["pgd-2"], "eps": ["8/255"], "batch_size": 3, "pictures": 0, **settings})
    return Evaluation(network, images.select([0, 1, 2]), defenses, plan)


def test_plain_rounding_is_tried_where_a_layer_has_it(network: Network, photographs: ImageSet) -> None:
    """Neither on the bare network nor on a layer of other people's, which has its own gradient alone."""
    jpeg, own = parse_defense("jpeg:75", ["cubic"]), of_module(Bytes(), "bytes")
    names = [job.name.removeprefix("check: ") for job in control_jobs(run_of(network, photographs, jpeg, own))]
    assert names == [
        "share of zero gradients",
        "twice the steps on none at 8/255",
        "a large radius on none",
        "one step on jpeg:75 at 8/255",
        "twice the steps on jpeg:75 at 8/255",
        "a large radius on jpeg:75",
        "plain rounding on jpeg:75 at 8/255",
        "one step on bytes at 8/255",
        "twice the steps on bytes at 8/255",
        "a large radius on bytes",
        "tables of ones at 8/255",
    ]


@pytest.mark.parametrize(
    ("attacks", "by"),
    [
        (["pgd-2", "pgd-3"], "PGD-2"),
        ([Stub(), PGD(4, draws=2), PGD(3)], "PGD-3"),
        ([Stub()], None),
        ([PGD(4, draws=2)], None),
    ],
)
def test_controls_are_by_the_first_pgd_without_draws(
    attacks: Sequence[str | Attack], by: str | None, network: Network, photographs: ImageSet
) -> None:
    run = run_of(network, photographs, attacks=attacks)
    used = {job.settings["attack"]["steps"] for job in control_jobs(run)}
    assert used == ({int(by.removeprefix("PGD-"))} if by else set())


def test_controls_are_at_all_radii_or_at_the_first_or_last(network: Network, photographs: ImageSet) -> None:
    run = run_of(network, photographs, parse_defense("jpeg:75", ["cubic"]), eps=["2/255", "4/255", "8/255"])
    found: dict[str, list[str]] = {}
    for job in control_jobs(run):
        name, _, radius = job.name.partition(" at ")
        found.setdefault(name.removeprefix("check: "), []).append(radius)
    every = ["2/255", "4/255", "8/255"]
    assert found == {
        "share of zero gradients": [""],
        "twice the steps on none": every,
        "a large radius on none": [""],
        "one step on jpeg:75": every,
        "twice the steps on jpeg:75": every,
        "a large radius on jpeg:75": [""],
        "plain rounding on jpeg:75": ["8/255"],
        "tables of ones": ["2/255"],
    }


def test_cells_of_controls_name_defence_attack_gradient_and_radius(network: Network, photographs: ImageSet) -> None:
    """The steps of plain rounding are in its attack's name."""
    layers = [parse_defense(name, ["cubic"]) for name in ("jpeg:75", "stochastic-jpeg:20+60")]
    run = run_of(network, photographs, *layers, attacks=[PGD(5)], draws=2)
    run.craft = lambda attack, model, judge, batch, x, *_: Crafted(x, [1.0], 2, 3, 0.5)  # type: ignore[method-assign]
    run.found[0] = [
        Cell(defense.name, "clean", indices=[0, 1, 2], predicted=[0, 0, 0], right=[1, 1, 1]) for defense in run.defenses
    ]
    cells = [cell for job in control_jobs(run) if "zero grad" not in job.name for cell in job.compute(run.batch(0))]
    jpeg, random = (defense.name for defense in layers)
    assert [cell.key for cell in cells] == [
        ("none", "twice the steps", "PGD-5", None, None, "8/255"),
        ("none", "large radius", "PGD-5", None, None, None),
        (jpeg, "one step", "PGD-5", "cubic", None, "8/255"),
        (jpeg, "twice the steps", "PGD-5", None, None, "8/255"),
        (jpeg, "large radius", "PGD-5", None, None, None),
        (jpeg, "plain rounding", "PGD-3", "zero", None, "8/255"),
        (random, "one step", "PGD-5", "cubic", None, "8/255"),
        (random, "twice the steps", "PGD-5", None, None, "8/255"),
        (random, "large radius", "PGD-5", None, None, None),
        (random, "plain rounding", "PGD-3", "zero", None, "8/255"),
        (random, "seed fixed", "PGD-5", None, None, "8/255"),
        ("tables of ones", "tables of ones", "PGD-5", None, None, "8/255"),
    ]
    assert all((cell.loss, cell.attacked, cell.queries, cell.seconds) == ([1.0], 2, 3, 0.5) for cell in cells)


def test_a_seed_that_is_fixed_is_judged_by_one_draw(network: Network, photographs: ImageSet) -> None:
    run = run_of(network, photographs, parse_defense("stochastic-jpeg:20+60", ["cubic"]), draws=7)
    drawn: list[tuple[str, int]] = []
    judge = run.judge
    run.judge = lambda model, *given: (drawn.append((type(model).__name__, given[3])), judge(model, *given))[1]  # type: ignore[method-assign]
    run.craft = lambda attack, model, judge, batch, x, *_: Crafted(x, [], 0, 0, 0.0)  # type: ignore[method-assign]
    seed_fixed_cells(run, PGD(1), run.defenses[1], EPS, run.batch(0))
    assert drawn == [("SeedFixed", 1), ("SeedFixed", 1), ("SeedFixed", 7)]


def test_controls_attack_what_was_right_before(network: Network, photographs: ImageSet) -> None:
    labels = photographs.labels.clone()
    labels[1] = (labels[1] + 1) % 4
    run = run_of(
        network, replace(photographs, labels=labels), parse_defense("stochastic-jpeg:90+95", ["cubic"]), draws=2
    )
    batch, left = run.batch(0), list[list[bool]]()

    def craft(attack: Any, model: Any, judge: Any, batch: Any, x: Tensor, eps: Any, chosen: Tensor) -> Crafted:
        left.append(chosen.tolist())
        return Crafted(x, [], 0, 0, 0.0)

    run.craft = craft  # type: ignore[method-assign]
    for (cell,) in (ones_cells(run, PGD(1), EPS, batch), seed_fixed_cells(run, PGD(1), run.defenses[1], EPS, batch)):
        assert cell.right == [1, 0, 1]
    assert left == [[True, False, True]] * 2


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("gradients", [("cubic",), ()])
def test_the_seed_is_fixed_of_what_is_attacked_and_of_its_judge(
    exact: bool, gradients: tuple[str, ...], network: Network, photographs: ImageSet
) -> None:
    """The gradient is that of the network as attackers see it; without gradients, of the deployed one."""
    run = run_of(network, photographs, parse_defense("stochastic-jpeg:90+95", ["cubic"]), draws=2)
    deployed, seen = Tiny().eval(), Tiny().eval()
    defense = replace(
        run.defenses[1],
        gradients=gradients,
        exact=exact,
        deployed=lambda _: deployed,
        attacked=lambda *_: seen,
    )
    met: list[tuple[Any, Any]] = []

    def craft(attack: Any, model: Any, judge: Any, batch: Any, x: Tensor, *_: Any) -> Crafted:
        met.append((model, judge))
        return Crafted(x, [], 0, 0, 0.0)

    run.craft = craft  # type: ignore[method-assign]
    seed_fixed_cells(run, PGD(1), defense, EPS, run.batch(0))
    ((model, judge),) = met
    assert isinstance(model, SeedFixed)
    assert (seen in model.modules(), deployed in model.modules()) == (bool(gradients), not gradients)
    assert judge is None if exact else (isinstance(judge, SeedFixed) and deployed in judge.modules())


def test_one_step_is_of_the_seed_and_norm_of_the_run(network: Network, photographs: ImageSet) -> None:
    run = run_of(network, photographs, parse_defense("jpeg:75", ["sine", "cubic"]), norm="l2", seed=7)
    run.clean = lambda *_: torch.ones(3, dtype=torch.bool)  # type: ignore[method-assign]
    tried: list[tuple[str, int, str]] = []

    def through(attack: Attack, defense: Any, gradient: str, batch: Any, *_: Any) -> Crafted:
        tried.append((attack.norm, attack.seed, gradient))
        return Crafted(batch.x, [], 0, 0, 0.0)

    run.through = through  # type: ignore[method-assign]
    cells = one_step_cells(run, PGD(2, norm="l2"), run.defenses[1], EPS, run.batch(0))
    assert tried == [("l2", 7, "sine"), ("l2", 7, "cubic")]
    assert [(cell.attack, cell.gradient, cell.eps) for cell in cells] == [
        ("PGD-2", name, "8/255") for _, _, name in tried
    ]


def test_tables_of_ones_are_judged_once_before_and_once_after(network: Network, photographs: ImageSet) -> None:
    """They draw nothing."""
    run = run_of(network, photographs)
    seen: list[int] = []
    judge = run.judge
    run.judge = lambda *given: (seen.append(given[4]), judge(*given))[1]  # type: ignore[method-assign]
    ones_cells(run, PGD(1), EPS, run.batch(0))
    assert seen == [1, 1]


def test_shares_of_zeros_have_four_digits(
    network: Network, photographs: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = torch.tensor([1 / 3, 2 / 3, 1.0])
    monkeypatch.setattr(controls, "zero_gradients", lambda model, x, y: shares)
    run = run_of(network, photographs, parse_defense("jpeg:75", ["cubic"]))
    assert [cell.zeros for cell in gradient_cells(run, run.batch(0))] == [[0.3333, 0.6667, 1.0]]


def test_twice_the_steps_go_through_the_best_gradient_at_that_radius(network: Network, photographs: ImageSet) -> None:
    """On the images that attacks at that radius left right."""
    defense = parse_defense("jpeg:75", ["cubic", "sine"])
    run = run_of(network, photographs, defense, eps=["2/255", "8/255"])

    def adaptive(gradient: str, eps: str, right: list[float]) -> Cell:
        return Cell("jpeg:75", "adaptive", gradient=gradient, eps=eps, indices=[0, 1, 2], right=right)

    run.found[0] = [
        Cell("jpeg:75", "clean", indices=[0, 1, 2], right=[1, 1, 1]),
        adaptive("cubic", "2/255", [0, 0, 0]),
        adaptive("cubic", "8/255", [1, 1, 1]),
        adaptive("sine", "8/255", [1, 0, 1]),
    ]
    tried: list[tuple[int, str, Fraction, list[bool]]] = []

    def through(attack: PGD, defense: Any, gradient: str, batch: Any, eps: Fraction, left: Tensor) -> Crafted:
        tried.append((attack.steps, gradient, eps, left.tolist()))
        return Crafted(batch.x, [], 0, 0, 0.0)

    run.through = through  # type: ignore[method-assign, assignment]
    (cell,) = twice_cells(run, PGD(7), defense, EPS, run.batch(0))
    assert tried == [(14, "sine", EPS, [True, False, True])]
    assert cell.right == [1, 0, 1]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 0.9])
def test_a_layer_that_acts_in_some_calls_is_random(share: float, network: Network, photographs: ImageSet) -> None:
    class Sometimes(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flip(3) if torch.rand(()) < share else images

    layers = [of_module(Sometimes(), "sometimes"), of_module(fdjpeg.RandomJPEG(p=share), "random")]
    found = run_of(network, photographs, *layers, parse_defense("jpeg:75", ["cubic"])).random
    assert found == {"none": False, "sometimes": True, "random": True, "jpeg:75": False}
