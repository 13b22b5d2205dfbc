"""Parts of fine-tuning, each alone: the network as a defence, learnable tables, draws, weights between, settings."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from support.defense_data import CHROMA, LUMA, SEED, network, patterns, stored
from torch import nn

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg.augmentations import DoubleJPEG, RandomJPEG, Recompress
from fdjpeg.defenses import FineTuned, fine_tuning
from fdjpeg.defenses.fine_tuning import (
    AugmentationSettings,
    ChanceDraws,
    Config,
    FineTuning,
    LearnedFront,
    interpolated,
    parse_augmentation,
)
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import Images
from fdjpeg.defenses.training.objective import Chance, Objective
from fdjpeg.defenses.training.run import Run

#: torch guesses the dimension of a softmax that is given none, and warns.
pytestmark = pytest.mark.filterwarnings("error:Implicit dimension choice")

X, Y = patterns(4, SEED)


def chance(count: int = 4, moment: str = "tuning/0") -> Chance:
    return Chance(3, moment, torch.arange(count), torch.device("cpu"))


# --- the defence ------------------------------------------------------------------------------------------------------


def test_the_layers_before_the_network_are_those_of_its_tables_and_of_its_front(classifier: nn.Module) -> None:
    made = FineTuned([LUMA + 0.4, CHROMA], "4:2:2", network().state_dict())
    assert made.tables == QuantTables(LUMA, CHROMA)  # whole steps
    behind = made.behind(fdjpeg.JPEG(30))
    assert [str(layer.subsampling) for layer in behind.layers()] == ["4:2:0", "4:2:2"]
    once = fdjpeg.jpeg(X, tables=made.tables, subsampling="4:2:2")
    twice = fdjpeg.jpeg(fdjpeg.jpeg(X, 30), tables=made.tables, subsampling="4:2:2")
    assert torch.equal(made(X), once)
    assert torch.equal(behind(X), twice)
    assert torch.equal(behind.deployed(classifier)(X), network()(twice))
    assert behind.subsampling == made.subsampling == "4:2:2"
    assert not behind.training
    assert made.front is None


def test_each_gradient_reaches_all_layers_and_the_front_stays_as_it_is() -> None:
    front = fdjpeg.JPEG(30)
    behind = FineTuned([LUMA, CHROMA]).behind(front)
    assert behind.gradients == fdjpeg.defenses.GRADIENTS
    for name, kind in (("cubic", fdjpeg.surrogates.Cubic), ("identity", fdjpeg.surrogates.Identity)):
        assert [type(layer.gradient) for layer in behind._through(name).layers()] == [kind, kind]
    assert [type(layer.gradient) for layer in behind.layers()] == [fdjpeg.surrogates.StraightThrough] * 2
    assert isinstance(front.gradient, fdjpeg.surrogates.StraightThrough)
    assert behind.layers()[0] is not front


def test_its_settings_are_those_that_make_it_again_and_are_shown() -> None:
    plain, made = FineTuned(), FineTuned([LUMA, CHROMA], "4:4:4")
    assert plain.config() == {"tables": None, "subsampling": "4:2:0"}
    assert made.config() == {"tables": [[[12] * 8] * 8, [[17] * 8] * 8], "subsampling": "4:4:4"}
    assert FineTuned(**made.config()).tables == made.tables
    assert repr(plain).startswith("FineTuned(\n  tables=None, subsampling='4:2:0', front=None\n")
    assert "tables=mean step 12.0 in luma, subsampling='4:4:4', front=None" in repr(made)
    assert "front=JPEG(" in repr(made.behind(fdjpeg.JPEG(75)))


def test_weights_of_another_network_are_refused() -> None:
    made = FineTuned(None, "4:2:0", network().state_dict())
    assert {name.partition(".")[0] for name in made.tensors()} == {"network"}
    with pytest.raises(ValueError, match=r"^checkpoint must fit the network that was fine-tuned, "):
        made.deployed(nn.Linear(2, 2))


# --- learnable tables -------------------------------------------------------------------------------------------------


def test_tables_are_learned_as_changes_of_logarithms() -> None:
    torch.manual_seed(SEED)
    front = LearnedFront(network(), 60, 10.0, "4:4:4")
    start = QuantTables.standard(60)
    assert front.tables() == start
    trained = {name for name, parameter in front.named_parameters() if parameter.requires_grad}
    assert trained == {"changes.0", "changes.1", *(f"network.{name}" for name, _ in front.network.named_parameters())}
    with torch.no_grad():  # one band of luma becomes twice as coarse, all of chroma three times finer
        front.changes[0][2, 3] += torch.tensor(2.0).log() / 10
        front.changes[1] -= torch.tensor(3.0).log() / 10
    luma = start.luma.clone()
    luma[2, 3] *= 2
    assert torch.equal(front.tables().luma, luma)
    assert torch.equal(front.tables().chroma, (start.chroma / 3).round().clamp(1, 255).long())
    steps = [logs.exp() for logs in front.logarithms().values()]
    torch.testing.assert_close(steps[1], start.chroma / 3, rtol=1e-5, atol=0)


def test_a_learnable_front_compresses_before_the_network() -> None:
    model = network().eval()
    front = LearnedFront(model, 20, 100.0, "4:2:2")
    x = X.clone().requires_grad_()
    expected = model(fdjpeg.LearnableJPEG(QuantTables.standard(20), subsampling="4:2:2")(X))
    torch.testing.assert_close(front(x), expected)
    front(x).square().sum().backward()
    assert all(float(change.grad.abs().sum()) > 0 for change in front.changes)
    assert all(parameter.grad is None for parameter in front.layer.parameters())


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_each_draw_of_an_augmentation_is_another_of_its_batchs_chance() -> None:
    draws = ChanceDraws(chance(500), "augmentation/1")
    found = [draws.uniform(), draws.uniform()]
    for number, values in enumerate(found, 1):
        assert torch.equal(values, chance(500).uniform((), f"augmentation/1/{number}"))
    assert not torch.equal(*found)
    host = draws.on_host()
    assert host.dtype == torch.float64
    assert torch.equal(host.float(), chance(500).uniform((), "augmentation/1/3"))
    whole = draws.integers(3)
    assert whole.dtype == torch.int64
    assert torch.equal(whole, (chance(500).uniform((), "augmentation/1/4").double() * 3).long())
    assert sorted(set(whole.tolist())) == [0, 1, 2]


def test_augmentations_come_one_after_the_other_with_draws_of_their_own() -> None:
    same = AugmentationSettings("random-jpeg", quality=(5, 95))
    objective = FineTuning(network(), network(), Config(augmentation=(same, same)))
    first, second = (
        layer.draw_from(ChanceDraws(chance(), f"augmentation/{place}"))
        for place, layer in enumerate(objective.augmentations)
    )
    assert not torch.equal(first.quality, second.quality)
    expected = fdjpeg.jpeg(fdjpeg.jpeg(X, first.quality), second.quality)
    assert torch.equal(objective.augmented(X, chance()), expected)


def test_frozen_statistics_leave_the_other_layers_in_training() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(4))
    model(X)
    for statistics, modes in (("frozen", [True, False, True]), ("trained", [True, True, True])):
        objective = FineTuning(model, model, Config(batch_statistics=statistics, teacher="none")).train()
        assert [part.training for part in objective.trained][:3] == modes
        assert not any(part.training for part in objective.eval().modules())


@pytest.mark.parametrize("teacher", ["original", "current"])
def test_the_divergence_is_weighted_and_from_the_teacher_to_the_student(teacher: str) -> None:
    student, original = network().eval(), network().eval()
    with torch.no_grad():
        student[7].weight *= 40  # type: ignore[index,operator]
    losses = []
    for weight in (0.0, 0.5, 2.0):
        coarse = AugmentationSettings("random-jpeg", quality=(5, 5))
        config = Config(augmentation=(coarse,), teacher=teacher, divergence=weight)
        losses.append(FineTuning(student, original, config).eval().loss(X, Y, chance()).item())
    wanted = (original if teacher == "original" else student)(X).double().log_softmax(dim=1)
    found = student(fdjpeg.jpeg(X, 5)).double().log_softmax(dim=1)
    divergence = (wanted.exp() * (wanted - found)).sum(dim=1).mean().item()
    judged = found if teacher == "original" else wanted
    entropy = -judged[torch.arange(4), Y].mean().item()
    assert divergence > 1e-3
    assert losses == pytest.approx([entropy + weight * divergence for weight in (0.0, 0.5, 2.0)], rel=1e-4)


def test_weights_between_are_a_share_of_the_way_and_counts_are_the_later_ones() -> None:
    before = {"w": torch.tensor([0.0, 4.0]), "n": torch.tensor(3)}
    after = {"w": torch.tensor([8.0, 0.0]), "n": torch.tensor(7)}
    for share, expected in ((0.25, [2.0, 3.0]), (1.0, [8.0, 0.0])):
        found = interpolated(before, after, share)
        assert found["w"].tolist() == expected
        assert int(found["n"]) == 7


# --- the training -----------------------------------------------------------------------------------------------------


class Noted(Run):
    """A run whose `fit` notes its arguments, and then adds 1 to all that is trained."""

    def __init__(self, out: Path) -> None:
        super().__init__(out, {}, validation=0.25, quiet=True)
        self.fits: list[tuple[str, Any, Images, Schedule]] = []

    def fit(self, name: str, objective: Objective, images: Images, schedule: Schedule) -> None:
        self.fits.append((name, objective, images, schedule))
        with torch.no_grad():
            for parameter in objective.trained.parameters():
                parameter += parameter.requires_grad


@pytest.mark.parametrize("quality", [None, 40])
def test_a_copy_is_tuned_and_measured_on_the_images_held_out(
    quality: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[Any, ...]] = []
    written: list[tuple[Any, ...]] = []
    monkeypatch.setattr(fine_tuning.accuracy, "measure", lambda *given: (measured.append(given), ["rows"])[1])
    monkeypatch.setattr(fine_tuning.accuracy, "write", lambda *given, quiet: written.append((*given, quiet)))
    images, classifier = stored(*patterns(8, SEED)), network().requires_grad_(False)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    schedule = Schedule(epochs=2, batch_size=2)
    config = Config(
        tables_quality=quality,
        tables_rate=0.5,
        interpolation=0.5,
        tuning=schedule,
        qualities=(30, 20),
        subsampling="4:4:4",
    )
    run = Noted(tmp_path)
    made = fine_tuning.train(run, images, classifier, config)
    ((name, objective, given, passed),) = run.fits
    assert (name, given, passed) == ("tuning", images, schedule)
    assert list(objective.frozen) == [classifier]
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    found = made.network.state_dict()
    assert all(torch.allclose(found[key], value + 0.5) for key, value in before.items())  # half of the way
    if quality is None:
        assert made.tables is None
        assert objective.trained is not classifier
    else:
        assert isinstance(objective.trained, LearnedFront)
        assert objective.trained.rate == 0.5
        assert objective.trained.layer.subsampling == "4:4:4"
        steps = QuantTables.standard(40)
        expected = QuantTables(steps.luma * torch.tensor(0.5).exp(), steps.chroma * torch.tensor(0.5).exp())
        assert made.tables == expected.integer()
    assert made.subsampling == "4:4:4"
    ((of, seen, first, second, qualities, subsampling),) = measured
    assert (of, first, qualities, subsampling) == (run, classifier, (30, 20), "4:4:4")
    held_out = run.split(images)[1].tolist()
    assert len(held_out) == 2
    assert seen.digest == images.select(held_out).digest
    assert torch.equal(second(X), made.deployed(classifier)(X))
    assert written == [(tmp_path, ["rows"], seen, True)]


def test_it_is_measured_on_named_images_by_the_first_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Any] = []
    written: list[Any] = []
    others = stored(*patterns(4, 1))
    monkeypatch.setattr(fine_tuning.accuracy, "images", lambda name, like: others if name == "others" else like)
    monkeypatch.setattr(fine_tuning.accuracy, "measure", lambda run, images, *_: measured.append(images))
    monkeypatch.setattr(fine_tuning.accuracy, "write", lambda *given, quiet: written.append(quiet))
    for rank in (0, 1):
        run = Noted(tmp_path / str(rank))
        monkeypatch.setattr(type(run.fabric), "global_rank", rank)
        fine_tuning.train(run, stored(*patterns(8, SEED)), network(), Config(test="others", validation=0.0))
    assert measured == [others, others]
    assert written == [True]


# --- settings ---------------------------------------------------------------------------------------------------------


def test_an_augmentation_is_the_layer_with_the_given_arguments() -> None:
    plain = AugmentationSettings("random-jpeg", qualities=(10, 40), weights=(1, 3), subsampling=("4:4:4",), p=0.25)
    layer = plain.layer()
    assert type(layer) is RandomJPEG
    assert (layer.qualities, layer.p, layer.subsamplings) == ((10, 40), 0.25, ("4:4:4",))
    double = parse_augmentation("double-jpeg,quality=40-90,second_quality=60-95,shift=aligned,p=0.5").layer()
    assert isinstance(double, DoubleJPEG)
    assert (double.first.quality, double.second.quality, double.p) == ((40, 90), (60, 95), 0.5)
    alike = AugmentationSettings("double-jpeg", quality=(40, 90)).layer()
    assert isinstance(alike, DoubleJPEG)
    assert alike.first.quality == alike.second.quality == (40, 90)
    again = parse_augmentation("recompress,scale=0.5-0.75,times=3").layer()
    assert isinstance(again, Recompress)
    assert (again.scale, again.times, again.restore) == ((0.5, 0.75), 3, True)
    assert again(X).shape == X.shape
    assert parse_augmentation("recompress,longer_side=8").layer().longer_side == 8  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        plain.p = 1.0  # type: ignore[misc]


def test_settings_of_a_wrong_type_are_values_out_of_place() -> None:
    with pytest.raises(ValueError, match=r"p must be a .*, got 'often'"):
        AugmentationSettings("random-jpeg", p="often")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^tables must be .*, got int$"):  # a TypeError of the layer
        AugmentationSettings("random-jpeg", tables=3)  # type: ignore[arg-type]


def test_settings_at_the_ends_of_their_ranges_are_taken() -> None:
    for changes in (
        {"divergence": 0.0},
        {"interpolation": 1.0},
        {"interpolation": 1e-6},
        {"tables_quality": 1},
        {"tables_quality": 100},
        {"qualities": (1, 100)},
        {"test": "others", "validation": 0.0},
        {"validation": 1e-6},
    ):
        config = Config(**changes)  # type: ignore[arg-type]
        assert {name: getattr(config, name) for name in changes} == changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"divergence": float("inf")}, "divergence must be at least 0 and finite, got inf"),
        ({"divergence": float("nan")}, "divergence must be at least 0 and finite, got nan"),
        ({"interpolation": 1.01}, "interpolation must be above 0 and at most 1, got 1.01"),
        ({"tables_quality": 101}, "tables_quality must be in 1…100, got 101"),
        ({"tables_rate": float("inf")}, "tables_rate must be positive and finite, got inf"),
        ({"qualities": ()}, r"qualities must be one or more integers in 1…100, got \(\)"),
        ({"augmentation": ()}, "augmentation must hold at least one entry, got none"),
    ],
)
def test_settings_just_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Config(**changes)
