"""Flip in an evaluation: its column, the defences that have none, and the worst case that it takes part in."""

from __future__ import annotations

import pytest
import torch
from support.evaluation_cases import smooth, tiny
from torch import Tensor, nn

import fdjpeg
from fdjpeg import defenses, evaluation
from fdjpeg.attacks import Flip
from fdjpeg.defenses import of_module, parse_defense
from fdjpeg.evaluation import Report

STANDARD = fdjpeg.QuantTables.standard(50)


class Blur(nn.Module):
    """A layer without coefficients."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluation.evaluate(
        tiny(),
        smooth(8),
        defenses=["jpeg:60", "feature-distillation:uniform(30),passes=2,entry=after", Blur()],
        attacks=["pgd-3", "flip-3"],
        eps=["2/255", "8/255"],
        gradients=["straight-through"],
        checks=True,
        batch_size=4,
        pictures=0,
    )


def test_every_layer_of_ours_has_the_column_and_others_have_a_dash(report: Report) -> None:
    column = report.header.index("flip")
    shown = {(row[0], row[1]): row[column] for row in report.table}
    for name in ("jpeg:60", "feature-distillation:uniform(30),passes=2,entry=after"):
        assert all(shown[name, eps] != "–" for eps in report.settings.eps)
    for name in ("none", "Blur"):
        assert all(shown[name, eps] == "–" for eps in report.settings.eps)
    assert any("Without such a layer, and so without this column: Blur." in note for note in report.notes)
    assert all(row.complete for row in report.rows)


def test_flip_runs_once_for_each_defence_and_radius_and_never_on_the_bare_network(report: Report) -> None:
    cells = report.select(attack="Flip-3")
    assert {(cell.threat, cell.gradient) for cell in cells} == {("adaptive", "flip")}
    assert len(cells) == 2 * len(report.settings.eps)
    assert all(cell.queries > 0 for cell in cells)


def test_the_worst_case_takes_flip_in(report: Report) -> None:
    for row in report.rows:
        if "flip" in row.attacks:
            assert row.worst <= row.attacks["flip"]
            assert row.known <= row.attacks["flip"]


def test_without_an_exposed_layer_flip_alone_leaves_a_defence_unattacked() -> None:
    images = smooth(4)
    found = evaluation.evaluate(
        tiny(), images, defenses=[Blur()], attacks=["pgd-2", Flip(2)], eps=["4/255"], checks=False, batch_size=4
    )
    assert not found.select(attack="Flip-2")
    assert all(row.complete for row in found.rows)


@pytest.mark.parametrize(
    "defense",
    [
        defenses.JPEG(60),
        defenses.FeatureDistillation("paper"),
        defenses.FeatureDistillation("code", passes=2),
        defenses.RandomJPEG(40, 60),
        defenses.StochasticJPEG((40, 60)),
        defenses.JPEGEnsemble(STANDARD.luma, STANDARD.chroma, levels=(0.5, 1, 2)),
    ],
    ids=lambda defense: defense.kind,
)
def test_saved_defences_show_their_layers(defense: defenses.Defense) -> None:
    network = tiny().module
    exposed, deployed = defense.exposed(network), defense.deployed(network)
    x = smooth(4).images
    torch.manual_seed(0)
    ours = exposed(x)
    torch.manual_seed(0)
    assert torch.equal(ours, deployed(x))
    assert of_module(defense, "it").exposes is not None


@pytest.mark.parametrize("name", ["jpeg:75", "random-jpeg:40-60", "stochastic-jpeg:20+40", "feature-distillation:code"])
def test_defences_by_name_show_their_layers(name: str) -> None:
    assert parse_defense(name).exposes is not None


def test_a_classifier_and_the_bare_network_show_none() -> None:
    assert defenses.UNDEFENDED.exposes is None
    assert of_module(tiny().module, "a classifier", image=smooth(1).images).exposes is None


@pytest.mark.parametrize("name", ["median:2", "bit-depth:5"])
def test_a_defence_without_layers_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"defense must hold a JPEG layer of fdjpeg .*, got {name}"):
        parse_defense(name).exposed(tiny().module)
