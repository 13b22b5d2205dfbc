"""A network that no function can use is named in one sentence by each function that takes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fdjpeg
from fdjpeg import attacks, defenses, learning
from fdjpeg.certificates import certify
from fdjpeg.evaluation import evaluate
from fdjpeg.sources import Network


class Linear(nn.Module):
    """Logits of four classes, made into what a test needs."""

    def __init__(self, made: Callable[[Tensor], Any] = lambda logits: logits, channels: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(64 * channels, 4)
        self.made = made
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.made(self.linear(x.flatten(1)))


class InPlace(Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.sub_(0.5))


IMAGES, LABELS = torch.rand(2, 3, 8, 8), torch.tensor([0, 0])
BYTES = (IMAGES * 255).byte()
TABLES = fdjpeg.QuantTables.standard(50)

#: Every way by which a network comes in, other than `evaluate`'s own.
WAYS: dict[str, Callable[[nn.Module], object]] = {
    "certify": lambda net: certify(defenses.parse_defense("jpeg:50"), net, IMAGES, LABELS, 0.1 / 255),
    "measure": lambda net: learning.measure(BYTES, TABLES, model=net, labels=LABELS),
    "classifier loss": lambda net: learning.ClassifierLoss(net)(IMAGES, IMAGES, None),
    "feature squeezing": lambda net: defenses.FeatureSqueezing(net, [defenses.Median(2)])(IMAGES),
    "its score": lambda net: defenses.FeatureSqueezing(net, [defenses.Median(2)]).score(IMAGES),
    "flip": lambda net: attacks.Flip(steps=1)(defenses.parse_defense("jpeg:50").exposed(net), IMAGES, LABELS, 0.1),
    "vote": lambda net: defenses.JPEGEnsemble(TABLES.luma, TABLES.chroma).deployed(net)(IMAGES),
    "mean of votes": lambda net: defenses.JPEGEnsemble(TABLES.luma, TABLES.chroma).attacked(net, "cubic")(IMAGES),
    "zero gradients": lambda net: attacks.zero_gradients(net, IMAGES, LABELS),
}
FAULTS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a tuple": (lambda: Linear(lambda logits: (logits, 1)), "model must return logits .* as one tensor, got tuple"),
    "one class": (lambda: Linear(lambda logits: logits[:, :1]), "model must return logits .* at least two classes"),
    "double": (lambda: Linear().double(), "model must take float32 images .* got RuntimeError from it"),
    "grey": (lambda: Linear(channels=1), "model must take float32 images .* got RuntimeError from it"),
    "in place": (InPlace, "model must leave its input as it is"),
}


#: A member of a vote changes only what the layer before it made.
CASES = [(way, fault) for way in WAYS for fault in FAULTS if not ("vote" in way and fault == "in place")]


@pytest.mark.parametrize(("way", "fault"), CASES)
def test_a_network_is_named_by_whatever_takes_it(way: str, fault: str) -> None:
    made, sentence = FAULTS[fault]
    before = IMAGES.clone()
    if way == "certify":  # whose argument has another name
        sentence = sentence.replace("model", "network", 1)
    with pytest.raises(ValueError, match=f"^{sentence}"):
        WAYS[way](made())
    assert torch.equal(IMAGES, before)


def test_labels_beyond_the_classes_are_refused_by_a_proof() -> None:
    with pytest.raises(ValueError, match=r"^labels must be in 0…3 for a network of 4 classes, got 7"):
        certify(defenses.parse_defense("jpeg:50"), Linear(), IMAGES, LABELS + 7, 0.1 / 255)


def test_another_network_is_named_as_such() -> None:
    """The network that examples are made on is at fault, not the attacked one."""
    broken = Linear(lambda logits: (logits, 1))
    with pytest.raises(ValueError, match=r"^surrogate must return logits"):
        attacks.Transfer(attacks.PGD(steps=1), broken)(Linear(), IMAGES, LABELS, 0.1)
    with pytest.raises(ValueError, match=r"^transfer network other must return logits"):
        evaluate(Linear(), (IMAGES, LABELS), defenses=["jpeg:50"], transfer=[Network(broken, "other")])
    probabilities = Linear(lambda logits: logits.softmax(1))
    with pytest.raises(ValueError, match=r"^transfer network other must return logits, got probabilities"):
        evaluate(Linear(), (IMAGES, LABELS), defenses=["jpeg:50"], transfer=[Network(probabilities, "other")])


class Drain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(0.5)


def test_a_layer_that_changes_images_in_place_is_named() -> None:
    with pytest.raises(ValueError, match=r"^layer must leave its input as it is"):
        attacks.first_pass(Drain(), IMAGES)
    with pytest.raises(ValueError, match=r"^layer must return images of the shape .* got shape"):
        attacks.first_pass(Linear(), IMAGES)
    with pytest.raises(ValueError, match=r"^filters must leave its input as it is"):
        defenses.FeatureSqueezing(Linear(), [Drain()])(IMAGES)


class Undefined(Linear):
    """Has no answer for images of few levels, and the right one for others."""

    def forward(self, x: Tensor) -> Any:
        few = ((x * 3).round() / 3 == x).flatten(1).all(1)
        return super().forward(x).masked_fill(few[:, None], torch.nan)


def test_nan_behind_a_filter_is_neither_accepted_nor_right() -> None:
    detector = defenses.FeatureSqueezing(Undefined(), [defenses.BitDepth(2)], threshold=0.5)
    logits = detector(IMAGES)
    assert logits[:, -1].isnan().all()
    assert not attacks.correct(logits, detector.network(IMAGES).argmax(1)).any()
    with pytest.raises(ValueError, match="clean must be images whose logits are numbers"):
        detector.calibrated(IMAGES)


class Computed(nn.Module):
    """Holds a buffer that was computed from its parameter, which ``copy.deepcopy`` refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("halved", self.scale / 2)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_a_layer_with_computed_tensors_is_evaluated() -> None:
    report = evaluate(Linear(), (IMAGES, LABELS), defenses=[Computed()], attacks=["pgd-1"], eps=[0.01], checks=False)
    assert [row.defense for row in report.rows] == ["none", "Computed"]
