"""The engine of training: which images it trains on, in which order, at which rate, and when it stops and resumes."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.defense_data import SEED, full_disk, patterns, stored
from torch import Tensor, nn

from fdjpeg.defenses import checkpoint
from fdjpeg.defenses.training import run as engine
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import Images, StoredImages, in_unit_range
from fdjpeg.defenses.training.objective import Batch, Chance, Objective, augment, seed_for
from fdjpeg.defenses.training.run import Run
from fdjpeg.defenses.training.stage import Position, Stage
from fdjpeg.sources import ImageSet

#: Weights and draws without a seed of their own follow from the name of the test.
pytestmark = pytest.mark.usefixtures("rng")

COUNT = 27

#: Images that hold their own index: each is constant, index / 100.
NUMBERED = StoredImages.of(
    ImageSet(
        (torch.arange(COUNT) / 100).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone(),
        torch.arange(COUNT) % 4,
        tuple(map(str, range(COUNT))),
    )
)


class Spied(Objective):
    """A loss that is the mean index of its images, and notes what it is given and in which mode."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1, bias=False), [nn.BatchNorm1d(1)])
        self.steps: list[tuple[bool, list[int], str, Tensor, Tensor]] = []
        self.interrupted_at: int | None = None

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        if self.interrupted_at == len(self.steps):
            raise KeyboardInterrupt
        mode = self.trained.training
        assert all(part.training == mode for part in self.trained.modules())
        assert not any(part.training for part in self.frozen.modules())
        self.steps.append((mode, chance.indices.tolist(), chance.moment, images, labels))
        weight: Tensor = self.trained.weight  # type: ignore[assignment]
        return chance.indices.double().mean() + 0 * weight.sum()

    def of(self, mode: bool, epoch: int, batches: int) -> list[int]:
        """Returns the indices of an epoch, in order: those trained on, or those held out."""
        steps = [step for step in self.steps if step[0] == mode]
        return [index for step in steps[epoch * batches : (epoch + 1) * batches] for index in step[1]]


def runs(out: Path, objective: Objective, schedule: Schedule, name: str = "stage", **options: Any) -> Run:
    run = Run(out, {}, quiet=True, **options)
    run.fit(name, objective, NUMBERED, schedule)
    return run


# --- which images, in which order -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 3), (0.25, 7), (0.5, 14)])
def test_the_split_is_disjoint_and_covers_all(share: float, count: int, tmp_path: Path) -> None:
    chosen, held_out = Run(tmp_path, {}, validation=share, quiet=True).split(NUMBERED)
    assert len(held_out) == count
    assert sorted([*chosen.tolist(), *held_out.tolist()]) == list(range(COUNT))
    assert held_out.tolist() == sorted(held_out.tolist())
    again = Run(tmp_path, {}, validation=share, quiet=True).split(NUMBERED)
    other = Run(tmp_path, {}, validation=share, seed=1, quiet=True).split(NUMBERED)
    assert torch.equal(chosen, again[0])
    assert torch.equal(held_out, again[1])
    assert not torch.equal(chosen, other[0])


def test_images_held_out_are_never_trained_on(tmp_path: Path) -> None:
    objective = Spied()
    run = runs(tmp_path, objective, Schedule(epochs=3, batch_size=4), validation=0.25)
    chosen, held_out = (set(part.tolist()) for part in run.split(NUMBERED))
    for epoch in range(3):
        trained = objective.of(True, epoch, 5)
        assert len(trained) == len(set(trained)) == 20  # five whole batches of twenty images
        assert set(trained) <= chosen
        assert objective.of(False, epoch, 2) == sorted(held_out)  # batches of 4 and 3
    assert not objective.trained.training


def test_each_epoch_has_an_order_of_its_own_that_follows_from_seed_and_stage(tmp_path: Path) -> None:
    def order(out: str, name: str = "stage", seed: int = 0) -> list[list[int]]:
        objective = Spied()
        runs(tmp_path / out, objective, Schedule(epochs=3, batch_size=9), name, seed=seed)
        return [objective.of(True, epoch, 3) for epoch in range(3)]

    first = order("first")
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in first)
    assert len({tuple(epoch) for epoch in (*first, list(range(COUNT)))}) == 4
    assert order("again") == first
    assert all(one != other for one, other in zip(order("stage", name="other"), first, strict=True))
    assert all(one != other for one, other in zip(order("seed", seed=1), first, strict=True))


def test_images_and_classes_keep_together_and_chance_has_its_moment(tmp_path: Path) -> None:
    objective = Spied()
    runs(tmp_path, objective, Schedule(epochs=2, batch_size=9, augment="none"), validation=0.1)
    for _, indices, _, images, labels in objective.steps:
        torch.testing.assert_close(images[:, 0, 0, 0] * 100, torch.tensor(indices).float())
        assert images.dtype == torch.float32
        assert labels.tolist() == [index % 4 for index in indices]
    moments = [step[2] for step in objective.steps if step[0]]
    assert moments == ["stage/0", "stage/0", "stage/1", "stage/1"]
    # The same chance in every epoch, so that the losses of the images held out can be compared.
    assert {step[2] for step in objective.steps if not step[0]} == {"stage/held out"}


def test_losses_are_means_over_steps_and_over_images_held_out(tmp_path: Path) -> None:
    objective = Spied()
    run = runs(tmp_path, objective, Schedule(epochs=2, batch_size=4), validation=0.25)
    held_out = run.split(NUMBERED)[1].double()
    for epoch, entry in enumerate(run.history["stage"]):
        assert entry["loss"] == pytest.approx(np.mean(objective.of(True, epoch, 5)))
        assert entry["held out"] == pytest.approx(float(held_out.mean()))  # although the last batch is smaller
    assert "held out" not in runs(tmp_path / "all", Spied(), Schedule(epochs=1, batch_size=4)).history["stage"][0]


def test_bytes_become_numbers_in_the_unit_interval() -> None:
    assert in_unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    floats = torch.tensor([0.0, 0.25, 1.0])
    assert in_unit_range(floats) is floats


# --- the rate ---------------------------------------------------------------------------------------------------------


def test_the_rate_is_one_cosine_over_all_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    decays: set[float] = set()
    step = torch.optim.AdamW.step

    def spy(optimizer: torch.optim.AdamW, *arguments: Any) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        decays.add(optimizer.param_groups[0]["weight_decay"])
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    runs(tmp_path, Spied(), Schedule(epochs=3, batch_size=6, learning_rate=0.02, weight_decay=0.3))
    assert rates == pytest.approx([0.02 * (1 + math.cos(math.pi * k / 12)) / 2 for k in range(12)])
    assert decays == {0.3}


class Slope(Objective):
    """A loss whose gradient is 1."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1, bias=False))
        nn.init.constant_(self.trained.weight, 5.0)  # type: ignore[arg-type]

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        weight: Tensor = self.trained.weight  # type: ignore[assignment]
        return weight.sum()


def test_each_step_is_one_of_adamw_down_the_gradient_of_its_batch(tmp_path: Path) -> None:
    objective = Slope()
    runs(tmp_path, objective, Schedule(epochs=1, batch_size=9, learning_rate=0.1, weight_decay=0.5))
    weight = 5.0
    for k in range(3):  # under a constant gradient of 1 Adam's step is the rate
        rate = 0.1 * (1 + math.cos(math.pi * k / 3)) / 2
        weight = weight * (1 - rate * 0.5) - rate
    assert objective.trained.weight.item() == pytest.approx(weight, rel=1e-5)  # type: ignore[operator,union-attr]


# --- patience ---------------------------------------------------------------------------------------------------------


def stage(patience: int | None, epochs: int = 9) -> Stage:
    return Stage("stage", Slope(), Schedule(epochs=epochs, batch_size=4, patience=patience))


def after(stopping: Stage, held_out: Sequence[float]) -> tuple[int, float]:
    """Ends epochs with these losses until the stage stops; returns their number and the final weight."""
    weight: Tensor = stopping.objective.trained.weight  # type: ignore[assignment]
    for epoch, loss in enumerate(held_out):
        if not stopping.unfinished:
            break
        weight.data.fill_(epoch)
        stopping.end_epoch({"loss": 1.0, "held out": loss})
    stopping.finish()
    return stopping.position.epoch, weight.item()


@pytest.mark.parametrize(
    ("patience", "held_out", "epochs", "best"),
    [
        (1, [3.0, 2.0, 2.5, 1.0], 3, 1),
        (2, [3.0, 2.0, 2.5, 2.6, 1.0], 4, 1),
        (2, [3.0, 2.0, 2.5, 1.9, 2.0, 2.0, 1.0], 6, 3),  # an epoch that is better starts the count again
        (2, [3.0, 3.0, 3.0, 1.0], 3, 0),  # an equal loss is not lower
        (3, [3.0, 2.0, 1.0], 3, 2),
        (None, [1.0, 2.0, 3.0, 4.0], 4, 3),  # the last weights
    ],
)
def test_patience_stops_and_takes_the_best_epoch(
    patience: int | None, held_out: list[float], epochs: int, best: int
) -> None:
    assert after(stage(patience, epochs=len(held_out)), held_out) == (epochs, best)


@pytest.mark.parametrize("losses", [{"loss": math.nan}, {"loss": 1.0, "held out": math.inf}])
def test_losses_that_are_not_finite_are_named(losses: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"stage must have a finite loss, got loss .*(nan|inf).*: lower learning_rate"):
        stage(None).end_epoch(losses)


def test_weights_that_are_not_finite_are_named() -> None:
    broken = stage(None)
    broken.objective.trained.weight.data.fill_(math.inf)  # type: ignore[operator,union-attr]
    with pytest.raises(ValueError, match="stage must have finite weights, got NaN or infinity in weight"):
        broken.finish()


def test_a_network_without_parameters_is_named() -> None:
    objective = Slope()
    objective.trained.requires_grad_(False)
    with pytest.raises(ValueError, match="model must have parameters to train, got none for member-1"):
        Stage("member-1", objective, Schedule())


# --- checkpoints ------------------------------------------------------------------------------------------------------


class Dropping(Objective):
    """A small network with dropout and batch normalisation, on images changed at random."""

    def __init__(self) -> None:
        torch.manual_seed(SEED)
        layers = (nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
        super().__init__(nn.Sequential(*layers))
        self.taken = 0
        self.interrupted_at: int | None = None

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        if self.taken == self.interrupted_at:
            raise KeyboardInterrupt
        self.taken += 1
        return nn.functional.cross_entropy(self.trained(images + 0.1 * chance.normal(images.shape[1:], "n")), labels)


RESUMED = Schedule(epochs=4, batch_size=8, augment="flip-crop", patience=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Any]:
    """The weights and the history of a run without a stop."""
    objective = Dropping()
    run = runs(tmp_path_factory.mktemp("whole"), objective, RESUMED, validation=0.25)
    return objective.trained.state_dict(), run.history


# Of an epoch's two steps and one look at the images held out: before the first checkpoint, between and at epochs.
@pytest.mark.parametrize("seconds", [0.0, 600.0])
@pytest.mark.parametrize("at", [0, 1, 3, 4, 5, 8])
def test_an_interrupted_run_resumes_to_the_same_bits(
    at: int,
    seconds: float,
    whole: tuple[dict[str, Tensor], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", seconds)
    objective = Dropping()
    objective.interrupted_at = at
    with pytest.raises(KeyboardInterrupt):
        runs(tmp_path, objective, RESUMED, validation=0.25)
    left = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    stored_yet = at >= (1 if seconds == 0 else 3)
    assert left == ["run.json", *["stages/stage.safetensors"] * stored_yet]
    resumed = Dropping()
    torch.manual_seed(at)  # the state of torch's generator is of no importance
    with caplog.at_level(logging.INFO, logger="fdjpeg"):
        run = runs(tmp_path, resumed, RESUMED, validation=0.25)
    assert run.history == whole[1]
    for name, value in whole[0].items():
        assert torch.equal(resumed.trained.state_dict()[name], value)
    # Nothing is done twice beyond the last checkpoint.
    done = at // 3 * 3 if seconds else at // 3 * 3 + min(at % 3, 2)
    assert resumed.taken == 3 * len(whole[1]["stage"]) - done
    assert caplog.messages[0] == f"stage begins at epoch {done // 3 + 1}, step {done % 3 + 1}"


def test_a_disk_that_fills_in_training_leaves_a_run_that_resumes(
    whole: tuple[dict[str, Tensor], Any], tmp_path: Path
) -> None:
    broken = Dropping()
    Run(tmp_path / "out", {}, quiet=True)
    with full_disk(), pytest.raises(ValueError, match=r"out must be a folder that can be written, got .*stages'"):
        runs(tmp_path / "out", broken, RESUMED, validation=0.25)
    assert broken.taken == 3
    assert os.listdir(tmp_path / "out" / "stages") == []
    resumed = Dropping()
    runs(tmp_path / "out", resumed, RESUMED, validation=0.25)
    for name, value in whole[0].items():
        assert torch.equal(resumed.trained.state_dict()[name], value)


def test_a_finished_stage_is_not_trained_again(whole: tuple[dict[str, Tensor], Any], tmp_path: Path) -> None:
    runs(tmp_path, Dropping(), RESUMED, validation=0.25)
    again = Dropping()
    run = runs(tmp_path, again, RESUMED, validation=0.25)
    assert again.taken == 0
    assert not again.trained.training
    assert run.history == whole[1]
    assert all(torch.equal(again.trained.state_dict()[name], value) for name, value in whole[0].items())
    kept = checkpoint.read_tensors(tmp_path / "stages" / "stage.safetensors")[0]
    assert {name.partition("/")[0] for name in kept} == {"model"}  # no state of an optimizer is needed any more
    run.complete({"n": 1})
    assert sorted(os.listdir(tmp_path)) == ["run.json", "training.json"]
    written = (tmp_path / "training.json").read_text()
    assert json.loads(written) == {"n": 1, "history": run.history}
    assert written.startswith('{\n "n": 1,\n "history": {')  # a line for each figure, for people and for diffs


def test_a_checkpoint_keeps_optimizer_best_weights_and_position(tmp_path: Path) -> None:
    first = stage(2)
    for held_out in (3.0, 2.0, 2.5):
        first.optimizer.zero_grad()
        first.objective.loss(
            torch.zeros(1), torch.zeros(1), Chance(0, "", torch.zeros(1), torch.device("cpu"))
        ).backward()
        first.optimizer.step()
        first.end_epoch({"loss": 1.0, "held out": held_out})
    checkpoint.write_tensors(tmp_path / "x.safetensors", first.tensors(), first.position.metadata())
    tensors, metadata = checkpoint.read_tensors(tmp_path / "x.safetensors")
    second = stage(2)
    second.restore(tensors, Position.of(metadata))
    assert vars(second.position) == vars(first.position)
    assert (second.position.epoch, second.position.best, second.position.stale) == (3, 2.0, 1)
    assert second.best.keys() == first.best.keys()
    assert torch.equal(second.best["weight"], first.best["weight"])
    assert not torch.equal(second.best["weight"], second.objective.trained.state_dict()["weight"])
    states = [part.optimizer.state_dict()["state"][0] for part in (first, second)]
    assert states[0].keys() == states[1].keys() >= {"step", "exp_avg", "exp_avg_sq"}
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert Position.of(json.loads(json.dumps(Position().metadata()))) == Position()  # JSON has no infinity


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"half", "got '.*stage.safetensors'"),
        ({"metadata": {"epoch": 1}}, "out must hold checkpoints of this run only, got '.*stage.safetensors'"),
        ({"tensors": {"other/a": torch.zeros(1)}}, "out must hold checkpoints of this run only"),
        ({"tensors": {"model/weight": torch.zeros(3, 1)}}, "out must hold checkpoints of this run only"),
        ({"tensors": {"model/else": torch.zeros(1, 1)}}, "out must hold checkpoints of this run only"),
    ],
)
def test_a_checkpoint_that_is_torn_or_foreign_is_named(content: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "stages" / "stage.safetensors"
    if isinstance(content, bytes):
        file.parent.mkdir()
        file.write_bytes(content)
    else:
        metadata = content.get("metadata", Position().metadata())
        checkpoint.write_tensors(file, content.get("tensors", {}), metadata)
    with pytest.raises(ValueError, match=message):
        runs(tmp_path, Slope(), Schedule(epochs=1, batch_size=4))
    assert file.exists()


# --- chance -----------------------------------------------------------------------------------------------------------


def test_all_chance_follows_from_seed_moment_purpose_and_index() -> None:
    def drawn(seed: int = 3, moment: str = "a/0", purpose: str = "p", index: int = 7) -> Tensor:
        return Chance(seed, moment, torch.tensor([index]), torch.device("cpu")).uniform((2, 2), purpose)

    assert drawn().shape == (1, 2, 2)
    assert torch.equal(drawn(), drawn())
    for change in ({"seed": 4}, {"moment": "a/1"}, {"moment": "b/0"}, {"purpose": "q"}, {"index": 8}):
        assert not torch.equal(drawn(), drawn(**change))  # type: ignore[arg-type]
    seeds = {seed_for(seed, purpose) for seed in (0, 1) for purpose in ("a", "b")}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seed_for(0, str(n)) for n in range(64)) > 2**62
    chance = Chance(0, "a/0", torch.tensor([1]), torch.device("cpu"))
    assert chance.seed_for("x") == seed_for(0, "a/0/x")
    uniform, normal = chance.uniform((500,), "x"), chance.normal((500,), "x")
    assert bool(((uniform < 0.5) == (normal < 0)).all())
    torch.testing.assert_close(torch.special.ndtr(normal), uniform, rtol=0, atol=2e-6)
    chance.uniform = lambda shape, purpose: torch.tensor([0.0, 0.5, 1 - 2**-24])  # type: ignore[method-assign]
    assert chance.normal((), "x").tolist() == pytest.approx([-4.7534, 0, 4.7534], abs=0.02)  # at a millionth


def test_a_new_network_draws_its_weights_from_the_seed_and_its_stage(tmp_path: Path) -> None:
    def weights(seed: int, name: str) -> list[float]:
        torch.manual_seed(int(torch.randint(1000, ())))
        Run(tmp_path, {}, seed=seed, quiet=True).start(name)
        return torch.rand(4).tolist()

    assert weights(0, "a") == weights(0, "a")
    assert weights(0, "a") != weights(0, "b")
    assert weights(0, "a") != weights(1, "a")
    Run(tmp_path, {}, seed=3, quiet=True).start("a")
    assert torch.initial_seed() == seed_for(3, "a/start")


class Drawn(Chance):
    """Given numbers: which images are flipped, and how far each is moved."""

    def __init__(self, flip: list[float], crop: list[list[float]]) -> None:
        super().__init__(0, "", torch.arange(len(flip)), torch.device("cpu"))
        self.given = {"flip": torch.tensor(flip).view(-1, 1, 1, 1), "crop": torch.tensor(crop)}

    def uniform(self, shape: Sequence[int], purpose: str) -> Tensor:
        assert self.given[purpose].shape[1:] == tuple(shape)
        return self.given[purpose]


def test_flips_are_left_to_right_and_moves_reach_an_eighth() -> None:
    # An eighth is 8 and 7, which no other divisor gives.
    images = torch.rand(4, 3, 64, 56, generator=torch.Generator().manual_seed(SEED))
    chance = Drawn([0.0, 0.499, 0.5, 0.999], [[0.0, 0.0], [0.999, 0.999], [0.5, 0.5], [0.25, 0.75]])
    flipped = np.concatenate([images[:2].numpy()[..., ::-1], images[2:].numpy()])
    np.testing.assert_array_equal(augment(images, "flip", chance).numpy(), flipped)
    padded = np.pad(flipped, ((0, 0), (0, 0), (8, 8), (7, 7)), mode="reflect")
    moved = augment(images, "flip-crop", chance).numpy()
    for number, (down, right) in enumerate([(0, 0), (16, 14), (8, 7), (4, 11)]):
        np.testing.assert_array_equal(moved[number], padded[number, :, down : down + 64, right : right + 56])


# --- reading ---------------------------------------------------------------------------------------------------------


def test_batches_pass_fabric_as_they_are() -> None:
    images, labels = torch.rand(1, 1, 2, 2), torch.zeros(1)
    chance = Chance(0, "", torch.zeros(1), torch.device("cpu"))
    batch = Batch(images, labels, chance)
    assert batch.images is images
    assert batch.labels is labels
    assert batch.chance is chance


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_read_in_the_order_that_is_asked_for(workers: int, tmp_path: Path) -> None:
    images: Images = stored(*patterns(16, 0))
    batches = [torch.tensor([3, 9, 1]), torch.tensor([15, 0])]
    for batch, (pixels, labels, indices) in zip(
        batches, Run(tmp_path, {}, workers=workers, quiet=True).read(images, batches), strict=True
    ):
        assert torch.equal(indices, batch)
        assert torch.equal(labels, images.labels[batch])
        assert torch.equal(pixels, torch.stack([images.image(int(index)) for index in batch]))
