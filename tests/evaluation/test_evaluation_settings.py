"""Radii, defences by name, and settings that an evaluation refuses."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from support.evaluation_cases import Rounded, Stub, Tiny, small, smooth
from torch import nn

import fdjpeg
from fdjpeg import attacks, defenses, evaluation
from fdjpeg.attacks import PGD
from fdjpeg.defenses import differentiable, parse_defense
from fdjpeg.evaluation import Plan, World
from fdjpeg.evaluation.judging import Evaluation
from fdjpeg.sources import ImageSet, Network


@pytest.mark.parametrize(
    ("text", "value", "written"),
    [
        ("4/255", Fraction(4, 255), "4/255"),
        ("3/255", Fraction(1, 85), "3/255"),
        (" 0.5 / 255", Fraction(1, 510), "0.5/255"),
        ("0.2", Fraction(1, 5), "0.2"),
        ("1/3", Fraction(1, 3), "85/255"),
        ("1/7", Fraction(1, 7), "1/7"),
        (8 / 255, Fraction(8 / 255), "0.0313725"),
        ("0.03", Fraction(3, 100), "0.03"),
        (0.5, Fraction(1, 2), "0.5"),
        ("1", Fraction(1), "1"),
    ],
)
def test_eps_is_read_exactly(text: str | float, value: Fraction, written: str) -> None:
    assert attacks.parse_eps(text) == value
    assert attacks.format_eps(value) == written


@pytest.mark.parametrize("text", ["0", "-1/255", "two", "", "1/0", "8", "nan", float("nan"), float("inf"), "1/2/3"])
def test_eps_that_is_none_is_refused(text: str | float) -> None:
    with pytest.raises(ValueError, match=r"^eps must"):
        attacks.parse_eps(text)


def test_eps_of_the_l2_norm_may_be_large() -> None:
    assert attacks.parse_eps("3", "l2") == 3
    assert attacks.format_eps(Fraction(3)) == "3"


def test_gradients_may_differ_from_defence_to_defence(network: Network, photographs: ImageSet) -> None:
    named = {"jpeg:75": ["cubic"], "jpeg:50": ["identity", "tanh"]}
    report = small(network, photographs, defenses=named)
    assert report.settings.defenses == named
    assert [row.attacks.keys() for row in report.rows[1:]] == [{"gray-box", "cubic"}, {"gray-box", "identity", "tanh"}]


def test_a_defence_is_found_by_module_and_name(network: Network, photographs: ImageSet, tmp_path, monkeypatch) -> None:
    (tmp_path / "defences_of_mine.py").write_text(
        "import torch, fdjpeg\n"
        "class Dark(torch.nn.Module):\n"
        "    def forward(self, images):\n"
        "        return images * 0.9\n"
        "def codec():\n"
        "    return torch.nn.Sequential(Dark(), fdjpeg.JPEG(80))\n"
        "def whole(network):\n"
        "    return torch.nn.Sequential(Dark(), network)\n"
        "def cut():\n"
        "    return torch.nn.AvgPool2d(2)\n"
    )
    monkeypatch.chdir(tmp_path)
    names = [f"defences_of_mine:{name}" for name in ("Dark", "codec", "whole")]
    report = small(network, photographs, defenses=names)
    assert report.settings.defenses == dict(zip(names, (["own", "identity"], ["cubic"], ["own"]), strict=True))
    with pytest.raises(ValueError, match="must return images of the shape that it gets, or logits"):
        small(network, photographs, defenses=["defences_of_mine:cut"])
    with pytest.raises(ValueError, match="defense must name something that can be imported"):
        small(network, photographs, defenses=["defences_of_mine:none"])


def test_a_saved_defence_is_loaded(network: Network, photographs: ImageSet, tmp_path) -> None:
    pytest.importorskip("safetensors")

    defenses.save(defenses.FeatureDistillation("paper", passes=2), tmp_path / "two")
    report = small(network, photographs, defenses=[f"saved:{tmp_path / 'two'}"])
    named = small(network, photographs, defenses=["feature-distillation:paper,passes=2,entry=after"])
    (saved,), (same,) = (r.select(threat="adaptive", gradient="cubic") for r in (report, named))
    assert (saved.predicted, saved.margin) == (same.predicted, same.margin)
    with pytest.raises(ValueError, match="defense must name a saved defence that exists"):
        small(network, photographs, defenses=["saved:nowhere"])


@pytest.mark.parametrize(
    "first", [lambda x: x + 2e-5, lambda x: x - 2e-5, lambda x: x * float("nan"), lambda x: x[..., :8]]
)
def test_a_first_pass_returns_images(first: Any, network: Network, photographs: ImageSet) -> None:
    defense = replace(parse_defense("jpeg:75", ["cubic"]), first=first)
    run = Evaluation(network, photographs, [], Plan(attacks=["pgd-1"]))
    message = r"^defense jpeg:75 must return images like its input, in \[0, 1\], from its first pass, got shape"
    with pytest.raises(ValueError, match=message):
        run.entered(defense, run.batch(0))
    # A rounding error is cut off.
    x = run.batch(0).x
    for beyond in (5e-6, -5e-6):
        assert torch.equal(
            run.entered(replace(defense, first=lambda x, beyond=beyond: x + beyond), run.batch(0)),
            (x + beyond).clamp(0, 1),
        )


def test_a_layer_keeps_its_forward_pass_whatever_its_gradient() -> None:
    images = smooth().images
    layers = [fdjpeg.JPEG(40), nn.Sequential(fdjpeg.FeatureDistillation("code"), nn.Identity()), Rounded()]
    for layer in layers:
        names = ["own", "identity"] if isinstance(layer, Rounded) else ["identity", "straight-through", "cubic", "zero"]
        for name in names:
            assert torch.equal(differentiable(layer, name)(images), layer(images))
    x = images.clone().requires_grad_()
    differentiable(Rounded(), "identity")(x).backward(torch.full_like(x, 3.0))
    assert torch.equal(x.grad, torch.full_like(x, 3.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be one of own, identity, got 'cubic'"):
        differentiable(Rounded(), "cubic")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"defenses": ["jpeg"]}, "defense must be"),
        ({"defenses": ["jpeg:0"]}, "quality in a defense .* got 'jpeg:0'"),
        ({"defenses": ["jpeg:75,4:1:0"]}, "subsampling in a defense"),
        ({"defenses": ["random-jpeg:75"]}, "defense must give qualities such as"),
        ({"defenses": ["random-jpeg:80-20"]}, "1 ≤ least ≤ greatest ≤ 100"),
        ({"defenses": ["stochastic-jpeg:x"]}, "defense must give qualities such as"),
        ({"defenses": ["feature-distillation:mine"]}, "preset must be"),
        ({"defenses": ["feature-distillation:paper,passes=3"]}, "options of a defense"),
        ({"defenses": ["feature-distillation:paper,entry=after"]}, "passes must be 2 in a defense with entry=after"),
        ({"defenses": ["webp:75"]}, "defense must name something that can be imported, got 'webp:75'"),
        ({"defenses": ["jpeg:75", "jpeg:75"]}, "defenses must be different"),
        ({"gradients": ["quadratic"]}, "quadratic"),
        ({"attacks": []}, "attacks must hold at least one"),
        ({"attacks": ["pdg"]}, "attack must be one of"),
        ({"attacks": ["pgd", "pgd-20"]}, "attacks must be different"),
        ({"attacks": ["pgd", PGD(norm="l2", steps=3)]}, "attacks must share one norm"),
        ({"norm": "l1"}, "norm must be"),
        ({"eps": []}, "eps must hold at least one"),
        ({"eps": ["0/255"]}, "eps must be in"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"pictures": -1}, "pictures must be at least 0"),
    ],
)
def test_senseless_settings_are_refused(network: Network, photographs: ImageSet, setting, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(network, photographs, **setting)


def test_probabilities_and_wrong_classes_are_refused(photographs: ImageSet) -> None:
    with pytest.raises(ValueError, match="got probabilities"):
        evaluation.evaluate(nn.Sequential(Tiny(), nn.Softmax(dim=1)), photographs)
    with pytest.raises(ValueError, match="for a model of 2 classes"):
        evaluation.evaluate(Tiny(2), replace(photographs, labels=photographs.labels + 2))
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got function"):
        evaluation.evaluate(lambda x: x, photographs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"images must be in \[0, 1\], or uint8, got values from 0 to 255"):
        evaluation.evaluate(Tiny(), (photographs.images / photographs.images.max() * 255, photographs.labels))
    with pytest.raises(ValueError, match="at least one image"):
        evaluation.evaluate(Tiny(), [])


def test_unwritable_folders_are_refused_before_any_work(network: Network, photographs: ImageSet, tmp_path) -> None:
    (tmp_path / "file").touch()
    attack = Stub()
    with pytest.raises(ValueError, match="out must be a folder that can be written"):
        evaluation.evaluate(network, photographs, out=tmp_path / "file", attacks=[attack])
    assert attack.met == []  # type: ignore[attr-defined]


def test_a_shard_is_written_as_a_fraction() -> None:
    assert World().shard("2/8") == World(1, 8)
    assert World(1, 2, True).shard("2/8") == World(3, 16, True)
    assert World().shard(None) == World()
    for text in ("0/8", "9/8", "2", "a/b", "1/0"):
        with pytest.raises(ValueError, match="shard must be i/n"):
            World().shard(text)
