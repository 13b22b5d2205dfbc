"""Each objective's loss against the formula of its docstring, on numbers made by hand; and which networks it trains."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.defense_data import SEED, network, patterns, stored
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg.defenses import defensive_distillation, jpeg_ensemble, purifier, s2snet
from fdjpeg.defenses.defensive_distillation import DistillationNet, HardLabels, SoftLabels
from fdjpeg.defenses.jpeg_ensemble import Tuning, Vote
from fdjpeg.defenses.purifier import AdversarialTeacher, NormalTeacher, Student
from fdjpeg.defenses.s2snet import ARCHITECTURES, Reconstruction, SegNetAutoencoder, Signal
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import Images
from fdjpeg.defenses.training.objective import Chance, Objective
from fdjpeg.defenses.training.run import Run

#: Weights and draws without a seed of their own follow from the name of the test.
pytestmark = [
    pytest.mark.usefixtures("rng"),
    # torch guesses the dimension of a softmax that is given none, and warns.
    pytest.mark.filterwarnings("error:Implicit dimension choice"),
]

DRAWN = torch.Generator().manual_seed(SEED)

#: Two images of whole bytes with smooth content, and their classes.
X = (torch.rand(2, 3, 8, 8, generator=DRAWN) * 255).round() / 255
Y = torch.tensor([2, 0])

#: The adversarial images of a spied attack.
X_ADV = (X + 8 / 255 * (torch.rand(2, 3, 8, 8, generator=DRAWN) - 0.5)).clamp(0, 1)


class Scale(nn.Module):
    """Multiplies images by a number, its only parameter."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor)))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.factor


class Means(nn.Module):
    """Logits of three classes: multiples of the mean of each channel."""

    def __init__(self, *multiples: float) -> None:
        super().__init__()
        self.multiples = nn.Parameter(torch.tensor(multiples, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) * self.multiples


class Given(Chance):
    """Numbers made by hand, by their purpose."""

    def __init__(self, **uniform: list[float]) -> None:
        super().__init__(0, "stage/0", torch.tensor([4, 9]), torch.device("cpu"))
        self.given = uniform

    def uniform(self, shape: Sequence[int], purpose: str) -> Tensor:
        return torch.tensor(self.given[purpose]).view(2, *[1] * len(shape)).expand(2, *shape)


def mse(a: Tensor, b: Tensor) -> float:
    return float(np.mean((a.detach().numpy().astype(np.float64) - b.detach().numpy().astype(np.float64)) ** 2))


def log_softmax(logits: Tensor) -> Any:
    values = logits.detach().numpy().astype(np.float64)
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    return float(-np.mean([row[label] for row, label in zip(log_softmax(logits), labels.tolist(), strict=True)]))


@pytest.fixture
def attacks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """PGD replaced by a spy that notes its settings and arguments and returns `X_ADV`."""
    noted: list[dict[str, Any]] = []

    class Spy:
        def __init__(self, **settings: Any) -> None:
            self.settings = settings

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, *, indices: Tensor) -> Tensor:
            noted.append({**self.settings, "model": model, "x": x, "y": y, "eps": eps, "indices": indices})
            return X_ADV

    monkeypatch.setattr(purifier, "PGD", Spy)
    return noted


# --- the purifier -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deviation", [0.1, 0.4])
def test_the_normal_teacher_removes_noise(deviation: float) -> None:
    chance = Given(noise=[0.9, 0.02])  # quantiles of the normal distribution
    shift = deviation * torch.tensor([1.2815515655, -2.0537489106]).view(2, 1, 1, 1)
    expected = mse(0.5 * (X + shift).clamp(0, 1), X)
    assert (NormalTeacher(Scale(0.5), deviation).loss(X, Y, chance)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.1, 3.0])
def test_the_adversarial_teachers_loss(weight: float, attacks: list[dict[str, Any]]) -> None:
    config = purifier.Config(eps=3 / 255, attack_steps=5, classification=weight)
    teacher, classifier = Scale(0.5), Means(1.0, -2.0, 3.0)
    loss = AdversarialTeacher(teacher, classifier, config).loss(X, Y, Given())
    expected = mse(0.5 * X_ADV, X) + weight * cross_entropy(classifier(0.5 * X_ADV), Y)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    (attack,) = attacks
    assert list(attack["model"]) == [teacher, classifier]
    assert attack["x"] is X
    assert attack["y"] is Y
    assert attack["eps"] == 3 / 255
    assert attack["steps"] == 5
    assert attack["until_fooled"] is False
    assert attack["indices"].tolist() == [4, 9]


def test_random_starts_of_the_attack_change_with_the_epoch(attacks: list[dict[str, Any]]) -> None:
    for moment in ("student/0", "student/0", "student/1"):
        chance = Chance(0, moment, torch.arange(2), torch.device("cpu"))
        purifier.adversarial(Means(1, 2, 3), X, Y, purifier.Config(), chance)
    first, again, later = (attack["seed"] for attack in attacks)
    assert first == again != later


@pytest.mark.parametrize(("of_adversary", "of_normal"), [(0.5, 0.5), (0.0, 0.25), (0.75, 0.0)])
def test_the_students_loss(attacks: list[dict[str, Any]], of_adversary: float, of_normal: float) -> None:
    lessons = {"adversarial_lesson": of_adversary, "normal_lesson": of_normal}
    config = purifier.Config(noise=0.2, quality=(20, 90), **lessons)
    student, normal, adversary, classifier = Scale(0.5), Scale(0.25), Scale(0.875), Means(1.0, -2.0, 3.0)
    objective = Student(student, normal, adversary, classifier, config)
    # The first image is compressed, at the least quality; the second gets noise.
    loss = objective.loss(X, Y, Given(corruption=[0.49, 0.5], quality=[0.0, 0.0], noise=[0.9, 0.9]))
    corrupted = torch.stack([fdjpeg.jpeg(X[:1], 20)[0], (X[1] + 0.2 * 1.2815515655).clamp(0, 1)])
    expected = mse(0.5 * corrupted, X) + of_adversary * mse(0.5 * X_ADV, 0.875 * X_ADV)
    expected += of_normal * mse(0.5 * X, 0.25 * X)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert [list(attack["model"]) for attack in attacks] == ([[adversary, classifier]] if of_adversary else [])
    loss.backward()
    assert student.factor.grad is not None
    assert all(part.factor.grad is None for part in (normal, adversary))


@pytest.mark.usefixtures("attacks")
def test_corrupting_qualities_are_whole_and_include_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def spy(images: Tensor, quality: Tensor) -> Tensor:
        asked.extend(quality.tolist())
        return images

    monkeypatch.setattr(purifier.fdjpeg, "jpeg", spy)
    objective = Student(Scale(1), Scale(1), Scale(1), Means(1, 2, 3), purifier.Config(quality=(30, 32)))
    for drawn in (0.0, 0.333, 0.334, 0.666, 0.667, 0.999):
        objective.loss(X, Y, Given(corruption=[0.0, 0.0], quality=[drawn, drawn], noise=[0.5, 0.5]))
    assert asked[::2] == [30, 30, 31, 31, 32, 32]


# --- defensive distillation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_hard_labels_are_learned_at_the_temperature(temperature: float) -> None:
    model = Means(10.0, -20.0, 30.0)
    expected = cross_entropy(model(X) / temperature, Y)
    assert (HardLabels(model, temperature).loss(X, Y, Given())).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_the_teachers_labels_are_soft_at_the_temperature(temperature: float) -> None:
    student, teacher = Means(10.0, -20.0, 30.0), Means(-40.0, 5.0, 20.0)
    soft = np.exp(log_softmax(teacher(X) / temperature))
    expected = float(-(soft * log_softmax(student(X) / temperature)).sum(axis=1).mean())
    loss = SoftLabels(student, teacher, temperature).loss(X, Y, Given())
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    unlabelled = SoftLabels(student, teacher, temperature).loss(X, Y - Y, Given())
    assert torch.equal(unlabelled, loss)  # the classes are not used
    loss.backward()
    assert student.multiples.grad is not None
    assert teacher.multiples.grad is None


# --- the S2SNet -------------------------------------------------------------------------------------------------------


def test_stage_one_is_the_squared_error_and_trains_all() -> None:
    net = SegNetAutoencoder(ARCHITECTURES["small"])
    objective = Reconstruction(net)
    objective.eval()
    loss = objective.loss(X, Y, Given())
    assert loss.item() == pytest.approx(mse(net(X), X), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_stage_two_is_the_classifiers_cross_entropy_and_trains_the_decoder() -> None:
    net, classifier = SegNetAutoencoder(ARCHITECTURES["small"]), Means(10.0, -20.0, 30.0)
    with torch.no_grad():  # so that the clamp is reached
        net.last.weight *= 1e4
        net.last.bias.fill_(1.0)  # type: ignore[union-attr]
    objective = Signal(net, classifier)
    objective.eval()
    signal = net(X).detach()
    assert min(float((signal > 1.1).float().mean()), float((signal < 0.9).float().mean())) > 0.1
    loss = objective.loss(X, Y, Given())
    assert loss.item() == pytest.approx(cross_entropy(classifier(signal.clamp(0, 1)), Y), rel=1e-5)
    loss.backward()
    trained = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in net.named_parameters() if not name.startswith("encoder.")}
    assert classifier.multiples.grad is None
    assert {name for name, parameter in net.named_parameters() if parameter.requires_grad} == trained
    x = X.clone().requires_grad_()
    assert torch.autograd.grad(objective.loss(x, Y, Given()), x, allow_unused=True) == (None,)  # bottleneck detached
    objective.train()
    assert not any(part.training for part in (*net.encoder.modules(), *classifier.modules()))
    assert all(part.training for part in net.decoder.modules())


# --- the ensemble -----------------------------------------------------------------------------------------------------


def test_a_member_is_tuned_on_the_cross_entropy_behind_its_layer() -> None:
    model, layer = Means(10.0, -20.0, 30.0), fdjpeg.JPEG(5, subsampling="4:4:4")
    expected = cross_entropy(model(layer(X)), Y)
    assert expected != pytest.approx(cross_entropy(model(X), Y), rel=1e-4)
    assert (Tuning(model, layer).loss(X, Y, Given())).item() == pytest.approx(expected, rel=1e-5)


def test_the_vote_is_the_number_of_votes_and_the_mean_softmax() -> None:
    members = [Means(1.0, 2.0, 3.0), Means(3.0, 2.0, 1.0), Means(2.0, 2.5, 0.0)]
    softmax = np.mean([np.exp(log_softmax(member(X))) for member in members], axis=0)
    votes = np.zeros((2, 3))
    for member in members:
        for row, winner in enumerate(member(X).argmax(dim=1).tolist()):
            votes[row, winner] += 1
    np.testing.assert_allclose(Vote(members)(X).detach().numpy(), votes + softmax, rtol=1e-5)


def test_a_member_of_nan_makes_the_vote_nan() -> None:
    assert bool(Vote([Means(1, 2, 3), Means(1, float("nan"), 3), Means(1, 2, 3)])(X).isnan().all())


# --- the order of stages ----------------------------------------------------------------------------------------------


class Noted(Run):
    """A run whose `fit` notes its arguments with the weights at the start, and then adds 1 to all that is trained."""

    def __init__(self, out: Path, seed: int = 0) -> None:
        super().__init__(out, {}, seed=seed, quiet=True)
        self.fits: dict[str, tuple[Any, Schedule, dict[str, Tensor], dict[str, Tensor]]] = {}

    def fit(self, name: str, objective: Objective, images: Images, schedule: Schedule) -> None:
        before = copy.deepcopy(objective.trained.state_dict())
        with torch.no_grad():
            for parameter in objective.trained.parameters():
                parameter += parameter.requires_grad
        self.fits[name] = objective, schedule, before, copy.deepcopy(objective.trained.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(value, other[name]) for name, value in one.items())


IMAGES = stored(*patterns(8, 0))
ONE, TWO, THREE = (Schedule(epochs=epochs) for epochs in (1, 2, 3))


def test_teacher_and_student_of_the_purifier_start_with_the_normal_teachers_weights(tmp_path: Path) -> None:
    classifier = network()
    config = purifier.Config(widths=(4, 6, 8), noise=0.3, normal=ONE, adversarial=TWO, student=THREE)
    run = Noted(tmp_path)
    made = purifier.train(run, IMAGES, classifier, config)
    assert list(run.fits) == ["normal", "adversarial", "student"]
    normal, adversary, student = run.fits.values()
    assert [fit[1] for fit in (normal, adversary, student)] == [ONE, TWO, THREE]
    assert normal[0].noise == 0.3
    assert same(adversary[2], normal[3])
    assert same(student[2], normal[3])
    assert same(made.autoencoder.state_dict(), student[3])
    assert list(adversary[0].frozen) == [classifier]
    assert list(student[0].frozen) == [normal[0].trained, adversary[0].trained, classifier]
    assert same(student[0].frozen[1].state_dict(), adversary[3])
    again = Noted(tmp_path / "again")
    purifier.train(again, IMAGES, classifier, config)
    assert same(again.fits["normal"][2], normal[2])  # weights follow from the seed
    other = Noted(tmp_path / "other", seed=1)
    purifier.train(other, IMAGES, classifier, config)
    assert not same(other.fits["normal"][2], normal[2])


def test_both_stages_of_the_s2snet_train_one_network(tmp_path: Path) -> None:
    run, classifier = Noted(tmp_path), network()
    config = s2snet.Config(architecture="small", reconstruction=ONE, signal=TWO)
    made = s2snet.train(run, IMAGES, classifier, config)
    (first, schedule, _, middle), (second, next_schedule, before, after) = run.fits.values()
    assert list(run.fits) == ["reconstruction", "signal"]
    assert (schedule, next_schedule) == (ONE, TWO)
    assert isinstance(first, Reconstruction)
    assert isinstance(second, Signal)
    assert same(middle, before)
    assert list(second.frozen) == [classifier]
    assert same(made.autoencoder.state_dict(), after)
    torch.manual_seed(1)  # the state of torch's generator is of no importance
    again = Noted(tmp_path / "again")
    s2snet.train(again, IMAGES, classifier, config)
    assert same(again.fits["reconstruction"][2], run.fits["reconstruction"][2])


@pytest.mark.parametrize("scratch", [True, False])
def test_the_distilled_network_learns_from_the_teacher_at_its_temperature(scratch: bool, tmp_path: Path) -> None:
    run, classifier = Noted(tmp_path), network()
    config = defensive_distillation.Config(temperature=7.0, widths=(4, 4, 8), dropout=0.25, training=TWO)
    made = defensive_distillation.train(run, IMAGES, None if scratch else classifier, config)
    (teacher, schedule, first, _), (student, next_schedule, second, after) = run.fits.values()
    assert list(run.fits) == ["teacher", "student"]
    assert schedule == next_schedule == TWO
    assert isinstance(teacher, HardLabels)
    assert isinstance(student, SoftLabels)
    assert teacher.temperature == student.temperature == made.temperature == 7.0
    assert list(student.frozen) == [teacher.trained]
    assert same(made.student.state_dict(), after)
    if scratch:
        assert isinstance(student.trained, DistillationNet)
        assert made.network == {"widths": [4, 4, 8], "channels": 3, "size": 16, "classes": 4, "dropout": 0.25}
        assert not same(first, second)  # two networks, each with its own seed
        again = Noted(tmp_path / "again")
        torch.manual_seed(1)  # the state of torch's generator is of no importance
        defensive_distillation.train(again, IMAGES, None, config)
        assert [same(fit[2], before) for fit, before in zip(again.fits.values(), (first, second), strict=True)] == [
            True,
            True,
        ]
    else:
        assert made.network is None
        assert same(first, dict(classifier.state_dict()))
        assert same(second, first)


def test_two_classes_are_enough_for_the_papers_network_and_images_must_be_square(tmp_path: Path) -> None:
    two = stored(IMAGES.images, IMAGES.labels % 2)
    config = defensive_distillation.Config(widths=(2, 2, 2), training=ONE)
    made = defensive_distillation.train(Noted(tmp_path), two, None, config)
    assert made.network is not None
    assert made.network["classes"] == 2
    oblong = stored(torch.zeros(2, 3, 16, 24), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"^images must be square where no model is given, got 16 × 24$"):
        defensive_distillation.train(Noted(tmp_path / "oblong"), oblong, None, config)


def test_copies_of_a_frozen_classifier_are_trained(tmp_path: Path) -> None:
    classifier = network().requires_grad_(False)
    for name, train, config in (
        ("distilled", defensive_distillation.train, defensive_distillation.Config(training=ONE)),
        ("ensemble", jpeg_ensemble.train, jpeg_ensemble.Config(importance="deviation", levels=(1.0,), tuning=ONE)),
    ):
        run = Noted(tmp_path / name)
        train(run, IMAGES, classifier, config)  # type: ignore[operator]
        for _, _, before, after in run.fits.values():
            assert not same(before, after)
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


def test_each_member_is_tuned_on_its_level_of_the_dealt_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importance = torch.rand(2, 8, 8, dtype=torch.float64, generator=DRAWN)
    monkeypatch.setattr(jpeg_ensemble, "analyse", lambda *_: importance)
    run, classifier = Noted(tmp_path), network()
    levels = (0.5, 1.0, 9.0)
    config = jpeg_ensemble.Config(quality=50, levels=levels, tuning=TWO)
    made = jpeg_ensemble.train(run, IMAGES, classifier, config)
    # The steps, smallest to the most important band, by NumPy.
    standard, tables = QuantTables.standard(50), []
    for scores, table in zip(importance.numpy(), (standard.luma, standard.chroma), strict=True):
        dealt = np.empty(64)
        dealt[np.argsort(-scores.ravel())] = np.sort(table.numpy().ravel())
        tables.append(dealt.reshape(8, 8))
    assert list(run.fits) == ["member-1", "member-2", "member-3"]
    for level, member, (objective, schedule, before, after) in zip(
        levels, made.members, run.fits.values(), strict=True
    ):
        expected = [np.clip(np.round(table * level), 1, 255) for table in tables]
        np.testing.assert_array_equal(objective.layer.y.numpy(), expected[0])
        np.testing.assert_array_equal(objective.layer.cb.numpy(), expected[1])
        assert objective.layer.subsampling == "4:4:4"
        assert schedule == TWO
        assert same(before, dict(classifier.state_dict()))  # each starts with the classifier's weights
        assert same(member.state_dict(), after)
    assert made.levels == levels
    np.testing.assert_array_equal(made.luma.numpy(), tables[0])
    np.testing.assert_array_equal(made.chroma.numpy(), tables[1])
