"""Stored work keeps its fingerprints, and a plan its settings: a later version must find the finished work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from torch import Tensor, nn

from fdjpeg import evaluation
from fdjpeg.attacks import PGD
from fdjpeg.evaluation import Plan
from fdjpeg.evaluation.controls import control_jobs
from fdjpeg.evaluation.judging import Evaluation, Job
from fdjpeg.evaluation.plan import PlanSettings


class Plain(nn.Module):
    """A linear classifier whose weights are the same everywhere. Its name is part of the fingerprint."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.arange(2 * 3 * 16 * 16).view(2, -1).remainder(13) - 6.0)

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - 0.5) @ self.weights.t()


def _as_before(run: Evaluation) -> Iterator[Job]:
    """The controls with the keys of commit 2feec61, which lacked what decides three of them."""
    for job in control_jobs(run):
        keys = {"large radius": ("all", "best at"), "seed fixed": ("all",), "plain rounding": ("steps",)}
        added = keys.get(job.settings["check"], ())
        yield replace(job, settings={key: value for key, value in job.settings.items() if key not in added})


@pytest.mark.parametrize(
    ("controls", "expected"),
    [
        (_as_before, "ea07f7f24ede0425c82e7488541af0af29a63535a58c452a101b3f2d5aaa420e"),
        (control_jobs, "154cff7e72b01d57073f9315239e9007f2fb5c8a36d85170e96603f797963b84"),
    ],
    ids=["all but three controls as before", "now"],
)
def test_fingerprints_are_those_of_earlier_versions(
    controls: Callable[[Evaluation], Iterator[Job]], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computed with the same code at commit 2feec61, before settings became a plan; versions are held fixed.

    The keys of the large radius and of the fixed seed have changed since: they hold all attacks of the run, whose best
    gradient those controls take. So has that of plain rounding, which takes fewer steps.
    """
    monkeypatch.setattr("fdjpeg.evaluation.protocol.control_jobs", controls)
    monkeypatch.setattr("fdjpeg.evaluation.protocol.versions", lambda: {"fdjpeg": "0", "torch": "0"})
    images = (torch.arange(3 * 3 * 16 * 16).view(3, 3, 16, 16) * 7 % 251).to(torch.uint8)
    network = Plain().eval()
    evaluation.evaluate(
        network,
        (images, network(images.float() / 255).argmax(1)),
        defenses=[
            "jpeg:75",
            "jpeg:50,4:4:4",
            "stochastic-jpeg:20+80",
            "feature-distillation:paper,passes=2,entry=after",
        ],
        attacks=["pgd-2", "fgsm"],
        eps=["2/255", "4/255"],
        gradients=["identity", "cubic"],
        transfer=[Plain().eval()],
        draws=2,
        batch_size=2,
        pictures=1,
        seed=3,
        out=tmp_path,
    )
    lines = (tmp_path / "work" / "1-of-1.jsonl").read_text().splitlines()
    keys = sorted(line.split("\t")[0] for line in lines)
    assert len(keys) == 154
    digest = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    assert digest == expected


def test_keyword_arguments_are_the_fields_of_a_plan() -> None:
    names = {item.name for item in fields(Plan) if item.init}
    hints = get_type_hints(Plan)
    assert {name: hints[name] for name in names} == get_type_hints(PlanSettings)


def test_a_plan_is_checked_and_resolved_once() -> None:
    plan = Plan(attacks=["pgd-3", PGD(7, norm="l2")], eps=["0.5", 2, "1/2"], norm="l2", seed=4)
    assert plan.chosen == (PGD(3, norm="l2", seed=4), PGD(7, norm="l2"))
    assert [float(radius) for radius in plan.radii] == [0.5, 2.0]
    assert replace(plan, seed=5).chosen[0] == PGD(3, norm="l2", seed=5)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        replace(plan, draws=0)
    with pytest.raises(FrozenInstanceError):
        plan.seed = 5  # type: ignore[misc]


def test_a_plan_gives_what_keyword_arguments_do(network, photographs) -> None:
    settings = {"defenses": ["jpeg:75"], "attacks": ["fgsm"], "eps": ["4/255"], "gradients": ["cubic"]}
    plan = Plan(**settings, checks=False)
    by_plan = evaluation.evaluate(network, photographs, plan)
    by_words = evaluation.evaluate(network, photographs, checks=False, **settings)
    assert by_plan.html() == by_words.html()
    assert evaluation.evaluate(network, photographs, plan, pictures=0).settings.pictures == 0
    with pytest.raises(TypeError, match="epsilon"):
        evaluation.evaluate(network, photographs, epsilon=["4/255"])  # type: ignore[call-arg]
