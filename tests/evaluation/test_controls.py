"""Controls, whose outcome is known in advance: which are made of a defence, and how each attacks and judges."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from fdjpeg.attacks import PGD, Attack
from fdjpeg.defenses import Defended, of_module, parse_defense
from fdjpeg.evaluation import Plan
from fdjpeg.evaluation.controls import control_jobs, one_step_cells, ones_cells
from fdjpeg.evaluation.judging import Crafted, Evaluation
from fdjpeg.sources import ImageSet, Network

EPS = Fraction(8, 255)


class Bytes(nn.Module):
    """A layer that rounds to bytes; it has no gradients to choose from."""

    def forward(self, images: Tensor) -> Tensor:
        return (255 * images).round() / 255


def run_of(network: Network, images: ImageSet, *defenses: Defended, **settings: Any) -> Evaluation:
    """A run of one batch of three images."""
    plan = Plan(attacks=["pgd-2"], eps=["8/255"], batch_size=3, pictures=0, **settings)
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


def test_a_layer_that_acts_in_seven_of_ten_calls_is_random(network: Network, photographs: ImageSet) -> None:
    class Sometimes(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flip(3) if torch.rand(()) < 0.7 else images

    layer = of_module(Sometimes(), "sometimes")
    assert run_of(network, photographs, layer).random == {"none": False, "sometimes": True}
