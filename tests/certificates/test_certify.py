"""Certificates as a whole, on small networks behind lattices: what is certified holds, what is broken is broken."""

from __future__ import annotations

import importlib
from dataclasses import FrozenInstanceError
from typing import Any, ClassVar

import pytest
import torch
from support.classifiers import SEED, Tiny
from support.perturbations import codec_of, listed
from torch import Tensor, nn

import fdjpeg
from fdjpeg.attacks import PGD, Exposed, Flip, margin
from fdjpeg.certificates import Certificate, certify
from fdjpeg.certificates import reach as reach_module
from fdjpeg.defenses.defended import Defended, layer_defense, of_module
from fdjpeg.defenses.jpeg_ensemble import JPEGEnsemble


def lattice(preset: str) -> Defended:
    """Two passes, entered after the first."""
    layer = fdjpeg.FeatureDistillation(preset)
    return layer_defense(preset, layer, ("straight-through",), first=layer)


@pytest.fixture
def network() -> nn.Module:
    return Tiny().eval()


def images(count: int, size: tuple[int, int] = (8, 8), seed: int = SEED) -> Tensor:
    """Smooth images of whole bytes that hardly reach 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    x = nn.functional.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size=size, mode="bicubic")
    return (255 * (0.15 + 0.7 * x).clamp(0, 1)).round() / 255


def labels_of(defended: Defended, network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return defended.deployed(network)(defended.entered(x)).argmax(dim=1)


def attacked(defended: Defended, network: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The largest margin that two attacks find for each image."""
    with torch.no_grad():
        entered = defended.entered(x)
    flip = Flip(4).run(defended.exposed(network), entered, y, eps)
    pgd = PGD(4).run(defended.attacked(network, "straight-through"), entered, y, eps)
    return torch.maximum(flip.margin, pgd.margin)


@pytest.mark.parametrize(("preset", "levels"), [("uniform(17)", 1.0), ("uniform(31)", 1.8), ("code", 1.6)])
def test_no_certified_image_is_broken(preset: str, levels: float, network: nn.Module) -> None:
    defended, x = lattice(preset), images(10)
    y = labels_of(defended, network, x)
    certificate = certify(defended, network, x, y, levels / 255, most_outcomes=500)
    margins = attacked(defended, network, x, y, levels / 255)
    assert not bool((certificate.certified & (margins > 0)).any())
    assert int(certificate.certified.sum()) >= 5
    assert certificate.count("broken") == int((margins > 0).sum())  # here both sides meet
    assert certificate.count("misclassified") == 0
    for image, status in enumerate(certificate.statuses):
        changeable, outcomes = int(certificate.changeable[image]), int(certificate.outcomes[image])
        assert (status == "constant") == (changeable == 0)
        assert outcomes == 1 if status == "constant" else outcomes != 1
        assert status != "enumerated" or 1 < outcomes <= 500
        assert status == "open" or int(certificate.unresolved[image]) == 0


def test_broken_images_are_attacks_in_the_ball(network: nn.Module) -> None:
    """A network that is about to change its mind is broken by an outcome that is attained."""

    class Sharp(nn.Module):
        """The class is whether the image is exactly what it was."""

        def __init__(self, template: Tensor) -> None:
            super().__init__()
            self.register_buffer("template", template)

        def forward(self, images: Tensor) -> Tensor:
            same = (images[:, None] == self.template).flatten(2).all(dim=2).any(dim=1).float()
            return torch.stack([1 - same, same], dim=1)

    for preset, levels in (("uniform(16)", 1.0), ("code", 1.6)):
        defended, x = lattice(preset), images(4)
        with torch.no_grad():
            entered = defended.entered(x)
            sharp = Sharp(defended.layer(entered)).eval()  # type: ignore[misc]
        y = torch.ones(4, dtype=torch.int64)
        certificate = certify(defended, sharp, x, y, levels / 255, most_outcomes=2000)
        assert certificate.found.keys() == {i for i, status in enumerate(certificate.statuses) if status == "broken"}
        assert certificate.count("broken") >= 3
        assert certificate.count("enumerated") == 0
        for image, attack in certificate.found.items():
            assert float((attack - entered[image]).abs().max()) <= levels / 255 + 1e-6
            assert 0 <= float(attack.min()) <= float(attack.max()) <= 1
            with torch.no_grad():
                assert int(defended.deployed(sharp)(attack[None]).argmax()) == 0


def test_planted_certificates_are_caught_by_an_attack(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds for files, used for floats: at 1.8/255 Flip breaks what they certify."""

    class Mean(nn.Module):
        """Two classes, by a threshold of the first image's decoded mean: any change upwards is another class."""

        def forward(self, images: Tensor) -> Tensor:
            score = images.flatten(1).mean(dim=1) - self.threshold  # type: ignore[operator]
            return torch.stack([-score, score], dim=1)

    defended = lattice("uniform(31)")
    x = torch.full((1, 3, 8, 8), 100 / 255)
    mean = Mean().eval()
    with torch.no_grad():
        mean.threshold = float(defended.layer(defended.entered(x)).mean()) + 1e-3  # type: ignore[misc, assignment]
    y = torch.zeros(1, dtype=torch.int64)
    honest = certify(defended, mean, x, y, 1.8 / 255)
    margins = attacked(defended, mean, x, y, 1.8 / 255)
    assert bool(margins > 0)
    assert not bool(honest.certified.any())
    assert certify(defended, mean, x, y, 1.8 / 255, whole_bytes=True).statuses == ("constant",)
    monkeypatch.setattr(reach_module, "BEYOND", -0.8)
    assert certify(defended, mean, x, y, 1.8 / 255).statuses == ("constant",)  # the check between both sides fails


def test_misclassified_and_open_images(network: nn.Module) -> None:
    defended, x = lattice("uniform(17)"), images(8)
    y = labels_of(defended, network, x)
    wrong = y.clone()
    wrong[::2] = (y[::2] + 1) % 4
    certificate = certify(defended, network, x, wrong, 1 / 255, most_outcomes=1)
    assert all(status == "misclassified" for status in certificate.statuses[::2])
    assert {"open", "constant"} >= set(certificate.statuses[1::2])
    assert {certificate.outcomes.dtype, certificate.unresolved.dtype} == {torch.int64}
    assert "open" in certificate.statuses
    assert certificate.outcomes.tolist() == [int(status == "constant") for status in certificate.statuses]
    assert not bool(certificate.unresolved.any())  # there were too many outcomes to judge any
    assert certificate.certified.tolist() == [status == "constant" for status in certificate.statuses]


class Undecided(nn.Module):
    """Gives four classes the same logit."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).sum(dim=1, keepdim=True).expand(-1, 4) * 0


def test_an_image_of_equal_logits_is_not_right() -> None:
    """Not even with logits of 0, whose lead over each other is 0 as well."""
    x = images(2)
    certificate = certify(lattice("uniform(31)"), Undecided().eval(), x, torch.zeros(2, dtype=torch.int64), 0.0)
    assert certificate.statuses == ("misclassified",) * 2


def test_an_image_leads_by_its_own_logits() -> None:
    """However large those of another image of the batch are."""

    class Loud(nn.Module):
        """Sees class 0 everywhere, in a bright image with logits ten million times as large."""

        def forward(self, images: Tensor) -> Tensor:
            score = images.flatten(1).mean(dim=1)
            return torch.stack([torch.where(score > 0.5, 1e7, 1.0) * score, torch.zeros_like(score)], dim=1)

    x = torch.cat([torch.full((1, 3, 8, 8), value) for value in (0.3, 0.8)])
    certificate = certify(lattice("uniform(31)"), Loud().eval(), x, torch.zeros(2, dtype=torch.int64), 0.0)
    assert certificate.statuses == ("constant",) * 2


class Mean(nn.Module):
    """Two classes, by a threshold of the image's mean."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1).mean(dim=1) - self.threshold
        return torch.stack([-score, score], dim=1)


@pytest.mark.parametrize(("lead", "status"), [(0.9e-5, "misclassified"), (1.1e-5, "constant")])
def test_the_true_class_must_lead_by_a_share_of_the_largest_logit(lead: float, status: str) -> None:
    """By more than 10⁻⁵ of it, since another batch size may change the last bits of a network's arithmetic."""

    class Leading(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([[-100.0, -100 * (1 + lead)]]).expand(len(images), -1) + 0 * images.sum()

    y = torch.zeros(1, dtype=torch.int64)
    assert certify(lattice("uniform(31)"), Leading().eval(), images(1), y, 0.0).statuses == (status,)


def test_at_most_256_images_go_through_the_network_at_once() -> None:
    class Counting(Mean):
        sizes: ClassVar[list[int]] = []

        def forward(self, images: Tensor) -> Tensor:
            self.sizes.append(len(images))
            return super().forward(images)

    x = images(1).expand(257, -1, -1, -1).contiguous()
    assert certify(lattice("uniform(31)"), Counting(-1).eval(), x, torch.ones(257).long(), 0.0).count("constant") == 257
    assert Counting.sizes == [256, 1]


def test_a_certificate_of_no_image_holds_nothing() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    certificate = Certificate((), nothing, nothing, nothing)
    assert certificate.found == {}
    assert (certificate.certified.dtype, certificate.certified.shape) == (torch.bool, (0,))


def test_labels_beyond_the_networks_classes_are_named() -> None:
    message = "^labels must be in 0…1 for a network of 2 classes, got 2$"
    with pytest.raises(ValueError, match=message):
        certify(lattice("uniform(31)"), Mean(0.5).eval(), images(1), torch.tensor([2]), 0.0)


@pytest.mark.parametrize("proof", [True, False])
def test_wrong_outcomes_are_excluded_or_stay_unresolved(proof: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    defended, x = lattice("uniform(16)"), images(1)
    with torch.no_grad():
        entered = defended.entered(x)
        mean = Mean(float(defended.layer(entered).mean()) + 1e-4).eval()  # type: ignore[misc]
    module = importlib.import_module("fdjpeg.certificates.certify")
    monkeypatch.setattr(module, "attained", lambda *_: None)
    monkeypatch.setattr(module, "excluded", lambda *_: proof)
    certificate = certify(defended, mean, x, torch.zeros(1, dtype=torch.int64), 1 / 255, most_outcomes=3000)
    assert int(certificate.outcomes) > 8
    assert certificate.statuses == (("enumerated",) if proof else ("open",))
    assert certificate.count("broken") == 0
    assert (int(certificate.unresolved) == 0) == proof


class Except(nn.Module):
    """Sees class 0 in every image but some; of those the other class, or as much of both."""

    def __init__(self, images: Tensor, tie: bool = False) -> None:
        super().__init__()
        self.images, self.score = images, 0.0 if tie else 1.0

    def forward(self, images: Tensor) -> Tensor:
        met = (images[:, None] == self.images).flatten(2).all(dim=2).any(dim=1)
        score = torch.where(met, self.score, -1.0)
        return torch.stack([-score, score], dim=1)


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_each_wrong_outcome_counts(wrong: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is neither attained nor excluded is enough for an image to stay open."""
    defended, x = lattice("uniform(16)"), images(1)
    with torch.no_grad():
        entered = defended.entered(x)
    codec = codec_of(fdjpeg.FeatureDistillation("uniform(16)"), entered)
    outcomes = listed(codec, entered, 1.0, 3000)
    assert outcomes.total is not None
    numbers = torch.arange(outcomes.total - wrong, outcomes.total)
    decoded = codec.only(torch.zeros(wrong, dtype=torch.int64)).decode(outcomes.coefficients(numbers), torch.float32)
    module = importlib.import_module("fdjpeg.certificates.certify")
    monkeypatch.setattr(module, "attained", lambda *_: None)
    monkeypatch.setattr(module, "excluded", lambda *_: False)
    certificate = certify(defended, Except(decoded).eval(), x, torch.zeros(1, dtype=torch.int64), 1 / 255)
    assert certificate.statuses == ("open" if wrong else "enumerated",)
    assert (int(certificate.outcomes), int(certificate.unresolved)) == (outcomes.total, wrong)


def test_units_are_searched_where_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks side by side, of which one has its own outcome: there is nothing to look for in it."""
    defended, x = lattice("uniform(17)"), images(1, (8, 16), 0)
    with torch.no_grad():
        entered = defended.entered(x)
    codec = codec_of(fdjpeg.FeatureDistillation("uniform(17)"), entered)
    outcomes = listed(codec, entered, 1.0, 3000)
    (first, unit), (second, _) = outcomes.units.items()
    assert unit.outcomes is not None
    wrong = torch.tensor([len(unit.outcomes)])  # the second unit's first other outcome
    decoded = codec.only(torch.zeros(1, dtype=torch.int64)).decode(outcomes.coefficients(wrong), torch.float32)
    asked: list[Any] = []
    module = importlib.import_module("fdjpeg.certificates.certify")
    monkeypatch.setattr(module, "attained", lambda codec, box, outcomes, place, outcome: asked.append((place, outcome)))
    monkeypatch.setattr(module, "excluded", lambda unit, outcome: asked.append(unit.outcomes.index(outcome)))
    certificate = certify(defended, Except(decoded).eval(), x, torch.zeros(1, dtype=torch.int64), 1 / 255)
    assert certificate.statuses == ("open",)
    (place, outcome), number = asked
    assert (place, number) == (second, 1)
    assert outcome == outcomes.units[second].outcomes[1]  # type: ignore[index]
    assert first != second


def test_what_was_made_in_inference_mode_is_named_and_nothing_is_made_in_it() -> None:
    with torch.inference_mode():
        network = Tiny().eval()
    y = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^network must be made outside of torch.inference_mode, got "):
        certify(lattice("uniform(31)"), network, images(1), y, 0.0)
    with torch.inference_mode():
        certificate = certify(lattice("uniform(31)"), Mean(-1).eval(), images(1), y, 0.0)
    assert not certificate.changeable.is_inference()
    assert not certificate.outcomes.is_inference()


@pytest.mark.parametrize("tie", [True, False])
def test_an_attack_must_be_misclassified(tie: bool) -> None:
    """Where it gives two classes the same logit, the image is neither certified nor broken."""
    defended, x = lattice("uniform(31)"), torch.full((1, 3, 8, 8), 100 / 255)
    with torch.no_grad():
        bright = defended.layer(defended.entered(x) + 1.8 / 255)  # type: ignore[misc]
    certificate = certify(defended, Except(bright, tie).eval(), x, torch.zeros(1, dtype=torch.int64), 1.8 / 255)
    assert certificate.statuses == (("open" if tie else "broken"),)
    assert int(certificate.unresolved) == int(tie)
    assert list(certificate.found) == ([] if tie else [0])


def test_a_certificate_cannot_be_changed() -> None:
    certificate = certify(lattice("uniform(31)"), Mean(0.5).eval(), images(1), torch.zeros(1, dtype=torch.int64), 0.0)
    with pytest.raises(FrozenInstanceError):
        certificate.statuses = ("constant",)  # type: ignore[misc]


def test_one_pass_is_never_constant(network: nn.Module) -> None:
    defended = of_module(fdjpeg.JPEG(75), "jpeg:75")
    x = images(3)
    certificate = certify(defended, network, x, labels_of(defended, network, x), 1 / 255)
    assert certificate.statuses == ("open",) * 3
    assert int(certificate.changeable.min()) > 30


def test_several_members_that_can_move_are_open(network: nn.Module) -> None:
    """Outcomes of one layer alone are listed."""
    members = JPEGEnsemble(torch.full((8, 8), 30), torch.full((8, 8), 30), levels=(0.5, 1)).eval()
    defended, x = of_module(members, "ensemble"), images(1)
    certificate = certify(defended, network, x, labels_of(defended, network, x), 1 / 255)
    assert certificate.statuses == ("open",)
    assert certificate.outcomes.tolist() == [0]


def test_every_radius_is_constant_where_nothing_can_move(network: nn.Module) -> None:
    """A radius of 0; files at less than one level; two passes entered before both; several members."""
    x = images(2)
    layer = fdjpeg.JPEG(50)
    for defended, settings in (
        (of_module(layer, "jpeg:50"), {"eps": 0.0}),
        (of_module(layer, "jpeg:50"), {"eps": 0.9 / 255, "whole_bytes": True}),
        (of_module(fdjpeg.FeatureDistillation("paper", passes=2), "paper"), {"eps": 0.0}),
        (of_module(JPEGEnsemble(torch.full((8, 8), 30), torch.full((8, 8), 30)).eval(), "ensemble"), {"eps": 0.0}),
    ):
        y = labels_of(defended, network, x)
        assert certify(defended, network, x, y, **settings).statuses == ("constant",) * 2


def test_two_passes_entered_before_both_are_enumerated_through_both(network: nn.Module) -> None:
    """The attacker meets images that happen to be on the lattice."""
    x = fdjpeg.FeatureDistillation("uniform(16)")(images(4))
    defended = of_module(fdjpeg.FeatureDistillation("uniform(16)", passes=2), "two")
    y = labels_of(defended, network, x)
    certificate = certify(defended, network, x, y, 1 / 255, most_outcomes=300)
    alone = certify(lattice("uniform(16)"), network, images(4), y, 1 / 255, most_outcomes=300)
    assert torch.equal(certificate.changeable, alone.changeable)
    assert torch.equal(certificate.outcomes, alone.outcomes)
    assert not bool((certificate.certified & (attacked(defended, network, x, y, 1 / 255) > 0)).any())


def test_lists_do_not_depend_on_the_batch_or_on_threads(network: nn.Module) -> None:
    defended, x = lattice("uniform(17)"), images(4, (8, 16))
    y = labels_of(defended, network, x)

    def run(part: slice) -> Certificate:
        return certify(defended, network, x[part], y[part], 1 / 255, most_outcomes=200)

    together, alone = run(slice(None)), [run(slice(i, i + 1)) for i in range(4)]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    again = run(slice(None))
    torch.set_num_threads(threads)
    assert again.statuses == together.statuses
    assert torch.equal(again.outcomes, together.outcomes)
    assert int(together.outcomes.max()) > 1
    assert tuple(one.statuses[0] for one in alone) == together.statuses
    assert [int(one.outcomes) for one in alone] == together.outcomes.tolist()
    assert [int(one.changeable) for one in alone] == together.changeable.tolist()


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (
            lambda: of_module(nn.Identity(), "nothing"),
            {},
            "defended must show JPEG layers of fdjpeg to be certified, got nothing",
        ),
        (
            lambda: of_module(fdjpeg.RandomJPEG(), "random"),
            {},
            "defended must be deterministic to be certified, got random",
        ),
        (lambda: of_module(fdjpeg.JPEG(50, arithmetic="real"), "real"), {}, "defended must compute as libjpeg does"),
        (lambda: lattice("uniform(20)"), {"most_outcomes": 0}, "most_outcomes must be at least 1, got 0"),
        (lambda: lattice("code"), {"whole_bytes": True}, "images must consist of whole bytes"),
        (lambda: lattice("code"), {"eps": -1.0}, "eps must be 0 or more"),
    ],
)
def test_what_cannot_be_certified_is_named(make: Any, settings: dict[str, Any], message: str) -> None:
    network, x = Tiny().eval(), images(1)
    with pytest.raises(ValueError, match=message):
        certify(make(), network, x, torch.zeros(1, dtype=torch.int64), **{"eps": 1 / 255} | settings)


def test_defenses_show_their_layers(network: nn.Module) -> None:
    """Saved defences, by the same protocol; the exposed classifier is the deployed one."""
    x = images(2, (16, 16))
    shown = (
        fdjpeg.defenses.JPEG(40),
        fdjpeg.defenses.FeatureDistillation("code", passes=2),
        fdjpeg.defenses.FeatureDistillation(steps=torch.full((8, 8), 20)),
        JPEGEnsemble(torch.full((8, 8), 12), torch.full((8, 8), 20)),
    )
    for defense in shown:
        defended = of_module(defense.eval(), defense.kind)
        exposed = defended.exposed(network)
        assert isinstance(exposed, Exposed)
        with torch.no_grad():
            torch.testing.assert_close(exposed(x), defended.deployed(network)(x))
        y = labels_of(defended, network, x)
        found = Flip(2, until_fooled=False).run(exposed, defended.entered(x), y, 2 / 255)
        with torch.no_grad():
            torch.testing.assert_close(margin(defended.deployed(network)(found.x_adv), y), found.margin)
    for defense in (fdjpeg.defenses.RandomJPEG(40, 60), fdjpeg.defenses.StochasticJPEG()):
        assert isinstance(of_module(defense.eval(), "random").exposed(network), Exposed)


def test_a_network_that_fails_is_named_by_its_argument() -> None:
    class Failing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("no")

    with pytest.raises(ValueError, match=r"^network must take float32 images of shape \(1, 3, 8, 8\) in"):
        certify(lattice("uniform(31)"), Failing().eval(), images(1), torch.zeros(1, dtype=torch.int64), 0.0)
