"""Defences as an evaluation takes them: names, gradients and fingerprints, and the networks of the saved ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import defense_data
from torch import Tensor, nn

import fdjpeg
from fdjpeg import defenses
from fdjpeg._fingerprint import digest
from fdjpeg.defenses import GRADIENTS, OPAQUE, UNDEFENDED, differentiable, of_module, parse_defense
from fdjpeg.defenses.gradients import distinct

EXAMPLES = defense_data.examples()


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_a_defense_and_its_defended_make_the_same_networks(name: str, classifier: nn.Module, images: Tensor) -> None:
    defense = EXAMPLES[name].eval()
    defended = of_module(defense, name)
    assert defended.gradients == defense.gradients
    assert (defended.first is None) == (defense.first is None)
    pairs = [(defended.deployed(classifier), defense.deployed(classifier))]
    pairs += [(defended.attacked(classifier, g), defense.attacked(classifier, g)) for g in defense.gradients]
    for ours, theirs in pairs:
        torch.manual_seed(0)
        expected = theirs(defense.entered(images))
        torch.manual_seed(0)
        assert torch.equal(ours(defended.entered(images)), expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", "none"),
        ("jpeg:75", "jpeg:75 0aaf4bd27ff54f0a"),
        ("jpeg:75,4:4:4", "jpeg:75,4:4:4 466784b416552a45"),
        ("random-jpeg:30-95", "random-jpeg:30-95 f1039f3f3fd7223d"),
        ("stochastic-jpeg:20+40+60+80", "stochastic-jpeg:20+40+60+80 5d98cd693ec184ca"),
        ("feature-distillation:code", "feature-distillation:code 0c21676960eea4ea"),
        (
            "feature-distillation:paper,passes=2,entry=after",
            "feature-distillation:paper,passes=2,entry=after 43c60544e8776e6b",
        ),
    ],
)
def test_fingerprints_of_names_are_those_of_finished_work(name: str, expected: str) -> None:
    """Stored evaluations are found by these digests; with other ones finished work would be computed again."""
    assert parse_defense(name).digest() == expected


def test_fingerprints_of_modules_are_those_of_finished_work() -> None:
    assert of_module(EXAMPLES["jpeg"].eval(), "jpeg").digest() == "jpeg d85daaddd8f446bd"
    assert of_module(EXAMPLES["feature-distillation"].eval(), "fd2").digest() == "fd2 27117f472f003f13"
    assert of_module(EXAMPLES["shared-ensemble"].eval(), "shared").digest() == "shared 074ae003542a76ba"
    assert digest(differentiable(nn.ReLU(), "identity")) == "820cd28c1905e6b8"
    assert digest(defenses.SeedFixed(fdjpeg.RandomJPEG((30, 95)), 3)) == "c9a9ce048ea81176"
    assert digest(differentiable(nn.Sequential(fdjpeg.JPEG(75)), "cubic")) == "98b0b475db844e13"


def test_an_evaluation_enters_after_the_first_of_two_passes_whatever_the_image(images: Tensor) -> None:
    twice = defenses.FeatureDistillation("uniform(30)", passes=2)
    on_the_lattice = torch.full((1, 3, 16, 16), 128 / 255)
    assert torch.equal(twice.entered(on_the_lattice), on_the_lattice)
    for image in (images[:1], on_the_lattice):
        assert of_module(twice, "twice", image=image).first is not None
        assert of_module(defenses.FeatureDistillation("uniform(30)"), "once", image=image).first is None


def test_a_defence_of_one_pass_is_entered_as_it_is(images: Tensor) -> None:
    assert parse_defense("jpeg:75").entered(images) is images
    assert defenses.JPEG(75).entered(images) is images


def test_a_saved_defence_has_the_name_that_it_was_asked_by(images: Tensor, tmp_path: Path) -> None:
    defenses.save(defenses.FeatureDistillation("paper", passes=2), tmp_path)
    defended = parse_defense(f"saved:{tmp_path}")
    assert defended.name == f"saved:{tmp_path}"
    assert defended.gradients == ("straight-through", "cubic")
    assert not defended.exact
    with torch.no_grad():
        expected = fdjpeg.FeatureDistillation("paper")(images)
    assert torch.equal(defended.entered(images), expected)


def test_the_identity_is_left_out_where_chroma_is_whole() -> None:
    assert distinct(GRADIENTS, "4:2:0") == GRADIENTS == ("identity", "straight-through", "cubic")
    assert distinct(GRADIENTS, "4:4:4") == ("straight-through", "cubic")
    assert distinct(("identity", "cubic"), "4:4:4") == ("identity", "cubic")
    assert parse_defense("jpeg:75").gradients == GRADIENTS
    for name in ("jpeg:75,4:4:4", "feature-distillation:paper"):
        assert parse_defense(name).gradients == ("straight-through", "cubic")


def test_gradients_belong_to_the_kind_of_module(images: Tensor, classifier: nn.Module) -> None:
    assert parse_defense("none") is UNDEFENDED
    assert UNDEFENDED.gradients == ()
    assert of_module(nn.Sequential(fdjpeg.JPEG(75), nn.Identity()).eval(), "mine", ("cubic",)).gradients == ("cubic",)
    assert of_module(nn.Identity().eval(), "mine").gradients == OPAQUE
    assert of_module(classifier, "classifier", image=images[:1]).gradients == ("own",)
    with pytest.raises(ValueError, match="quadratic"):
        parse_defense("jpeg:75", ("quadratic",))
