"""The sanity checks of real runs: masked gradients, oracles, radii and images that fail them."""

from __future__ import annotations

from dataclasses import replace

import torch
from support.evaluation_cases import Rounded, Stub, check, textured

from fdjpeg import defenses, evaluation
from fdjpeg.sources import ImageSet, Network
from fdjpeg.sources.image_set import pillow_codec, to_pillow, to_tensor


def test_plain_rounding_is_reported_as_masked_gradients(network: Network, photographs: ImageSet) -> None:
    report = evaluation.evaluate(network, photographs, defenses=[Rounded()], eps=["12/255"], attacks=["pgd-10"])
    assert report.settings.defenses == {"Rounded": ["own", "identity"]}
    assert report.summary()[0].startswith("Masked gradients: Rounded is not shown to be robust")
    assert "Rounded through own: 100 % exactly zero" in report.summary()[0]
    assert not check(report, "Gradients are not zero").passed
    row = next(row for row in report.rows if row.defense == "Rounded")
    assert row.attacks["identity"] < row.attacks["own"]
    for text in (report.markdown(), report.html()):
        assert text.index("Masked gradients") < text.index("95 % interval")


def test_a_jpeg_layer_is_not_taken_for_one(network: Network, photographs: ImageSet) -> None:
    report = evaluation.evaluate(
        network, photographs, defenses=["jpeg:60"], eps=["4/255", "12/255"], gradients=["cubic"], attacks=["pgd-20"]
    )
    assert not any("Masked" in sentence for sentence in report.summary())
    for start in ("Gradients", "A radius that allows", "Many steps", "Twice the steps", "The loss", "Plain", "A codec"):
        assert check(report, start).figure
    assert check(report, "Plain rounding").passed


def test_an_oracle_that_disagrees_is_named(network: Network, photographs: ImageSet) -> None:
    off_by_one = replace(defenses.jpeg_defense(75, gradients=["identity"]), oracle=lambda images: images ^ 1)
    report = evaluation.evaluate(network, photographs, defenses=[off_by_one], eps=["2/255"], attacks=["fgsm"])
    assert not check(report, "Every judged image is Pillow's").passed
    assert "sample for sample" in report.summary()[0]


def test_an_attack_that_leaves_the_ball_is_named(network: Network, photographs: ImageSet, monkeypatch) -> None:
    monkeypatch.setattr("fdjpeg.attacks.base.project", lambda x_adv, *_: x_adv)
    report = evaluation.evaluate(network, photographs, defenses=[], eps=["2/255"], attacks=[Stub(move=4)])
    assert not check(report, "Adversarial images stay within their radius").passed


def test_decompressed_jpegs_are_named_at_the_top(network: Network) -> None:
    image = textured(96)
    decoded = to_tensor(pillow_codec(to_pillow(image), 60, "4:2:0")[0])
    data = ImageSet.of((torch.stack([decoded, image]), torch.tensor([0, 1])))
    report = evaluation.evaluate(network, data, defenses=[], eps=["2/255"], attacks=["fgsm"])
    assert "No image is a decompressed JPEG: no (1 of the 2 images tried; image 0 of quality 60)" in report.summary()[0]
