"""A training step by step: losses in float64, seeds, checkpoints by the clock, drafts, progress, held-out images."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from support.defense_data import SEED, patterns, stored
from torch import Tensor, nn

from fdjpeg.defenses.training import run as engine
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import StoredImages
from fdjpeg.defenses.training.objective import Chance, Objective, seed_for
from fdjpeg.defenses.training.run import Run
from fdjpeg.defenses.training.stage import Stage

#: Weights and draws without a seed of their own follow from the name of the test.
pytestmark = pytest.mark.usefixtures("rng")

IMAGES: StoredImages = stored(*patterns(20, SEED))


class Told(Objective):
    """A loss whose value a function gives for the number of the call; it notes torch's seed at each call."""

    def __init__(self, tell: Callable[[int], float] = lambda call: 1.0) -> None:
        super().__init__(nn.Linear(1, 1, bias=False))
        self.tell = tell
        self.calls = 0
        self.seeds: list[int] = []

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        self.seeds.append(torch.initial_seed())
        self.calls += 1
        weight: Tensor = self.trained.weight  # type: ignore[assignment]
        return torch.tensor(self.tell(self.calls), dtype=torch.float64) + 0 * weight.sum()


def fitted(out: Path, objective: Objective, schedule: Schedule, **options: Any) -> Run:
    run = Run(out, {}, **{"quiet": True, **options})
    run.fit("stage", objective, IMAGES, schedule)
    return run


# --- losses -----------------------------------------------------------------------------------------------------------


def test_losses_are_added_up_in_float64(tmp_path: Path) -> None:
    """Of many steps in float32 the last ones would be lost."""
    objective = Told(lambda call: 2.0**26 if call == 1 else 1 / 3 if call <= 4 else 2.0**26 + 1 / 7)
    run = fitted(tmp_path, objective, Schedule(epochs=1, batch_size=4), validation=0.2)
    entry = run.history["stage"][0]
    assert entry["loss"] == pytest.approx((2.0**26 + 1) / 4, rel=1e-12)
    assert entry["held out"] == pytest.approx(2.0**26 + 1 / 7, rel=1e-12)


def test_losses_are_added_up_on_the_runs_device_whatever_torchs_default_is(tmp_path: Path) -> None:
    run = Run(tmp_path, {}, quiet=True)
    stage: Any = Stage("stage", Told(), Schedule(epochs=1, batch_size=10))
    one = torch.zeros(10)
    run.read = lambda images, batches: iter([(IMAGES.images[:10], one, one)] * len(batches))  # type: ignore[method-assign]
    run.fabric = SimpleNamespace(global_rank=0, world_size=1, device=torch.device("cpu"), backward=lambda loss: None)
    chosen = torch.arange(20)
    wrapped = (lambda batch: torch.tensor(3.0, device="cpu")), MagicMock()
    with torch.device("meta"):
        assert run._epoch(stage, wrapped, IMAGES, chosen, lambda text: None) == 3.0


def test_one_image_held_out_is_enough(tmp_path: Path) -> None:
    objective = Told(lambda call: float(call))
    run = fitted(tmp_path, objective, Schedule(epochs=2, batch_size=19, patience=1), validation=0.05)
    assert run.history["stage"][0] == {"loss": 1.0, "held out": 2.0}


def test_a_process_without_an_image_of_a_batch_held_out_reads_none(tmp_path: Path) -> None:
    run, read = Run(tmp_path, {}, quiet=True), []
    run.fabric = SimpleNamespace(
        global_rank=1, world_size=2, device=torch.device("cpu"), autocast=lambda: nullcontext()
    )

    def reads(images: Any, batches: list[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        read.extend(batch.tolist() for batch in batches)
        yield from ((IMAGES.images[batch], IMAGES.labels[batch], batch) for batch in batches)

    run.read = reads  # type: ignore[method-assign, assignment]
    run.total = lambda mine: mine + torch.tensor([30.0, 3.0])  # type: ignore[method-assign]
    stage: Any = Stage("stage", Told(lambda call: 5.0), Schedule(batch_size=4))
    # Batches of four and of one: this process has the second and the fourth of the first, and nothing of the other.
    assert run._validate(stage, IMAGES, torch.tensor([2, 3, 5, 7, 11])) == (2 * 5 + 30) / (2 + 3)
    assert read == [[3, 7]]


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_each_step_seeds_torch_by_stage_epoch_step_and_process(tmp_path: Path) -> None:
    """Dropout draws from torch's generator; stored checkpoints resume by these seeds."""
    objective = Told()
    fitted(tmp_path, objective, Schedule(epochs=2, batch_size=10), seed=5)
    expected = [seed_for(5, f"stage/{epoch}/{step}/0") for epoch in range(2) for step in range(2)]
    assert objective.seeds == expected
    assert len(set(expected)) == 4


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_follows_after_more_than_its_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1e6
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 16.0)
    at: list[tuple[int, int]] = []
    run = Run(tmp_path, {}, quiet=True)
    run._store = lambda stage: at.append((stage.position.epoch, stage.position.step))  # type: ignore[method-assign]

    def tell(call: int) -> float:
        nonlocal now
        now += 8
        return 1.0

    run.fit("stage", Told(tell), IMAGES, Schedule(epochs=1, batch_size=2))
    # After 16 seconds not yet; after 24, 48 and 72 seconds of ten steps; then at the end of the epoch and of the stage.
    assert at == [(0, 3), (0, 6), (0, 9), (1, 0), (1, 0)]


def test_losses_that_are_not_finite_never_reach_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(ValueError, match=r"^stage must have a finite loss, got loss nan: lower learning_rate$"):
        fitted(tmp_path, Told(lambda call: float("nan")), Schedule(epochs=1, batch_size=4))
    assert not list((tmp_path / "stages").glob("*"))


def test_a_run_removes_the_drafts_of_one_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    drafts = [tmp_path / ".123.run.json", tmp_path / "stages" / ".9.stage.safetensors"]
    for draft in drafts:
        draft.touch()
    Run(tmp_path, {"n": [1, {"a": 2}]}, quiet=True)
    assert not any(draft.exists() for draft in drafts)
    text = (tmp_path / "run.json").read_text()
    assert json.loads(text) == {"n": [1, {"a": 2}]}
    assert text.startswith('{\n "n": [\n  1,\n')  # a line for each value, for people and for diffs


# --- progress ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Each progress bar: its arguments, and then the texts by which it is advanced."""
    found: list[list[Any]] = []

    @contextmanager
    def bar(run: Run, *given: Any) -> Iterator[Callable[[str], None]]:
        found.append([given])
        yield found[-1].append

    monkeypatch.setattr(Run, "bar", bar)
    return found


def test_a_bar_counts_the_steps_of_all_epochs_and_those_already_done(
    bars: list[list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    schedule = Schedule(epochs=2, batch_size=6)  # three steps, and two images left out

    def stopping(call: int) -> float:
        if call == 5:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, Told(stopping), schedule)
    with caplog.at_level(logging.INFO, logger="fdjpeg"):
        fitted(tmp_path, Told(lambda call: 0.5), schedule)
    assert bars == [
        [("stage", 6, 0), *["epoch 1"] * 3, "epoch 2"],
        [("stage", 6, 4), *["epoch 2"] * 2],
    ]
    assert caplog.messages == ["stage begins at epoch 2, step 2", "stage, epoch 2: {'loss': 0.5}"]


def test_a_bar_counts_the_batches_of_statistics(bars: list[list[Any]], tmp_path: Path) -> None:
    assert [number for number, *_ in Run(tmp_path, {}, quiet=True).mine(IMAGES, 7)] == [0, 1, 2]
    assert bars == [[("statistics", 3), "", "", ""]]


def test_a_bar_begins_at_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run(tmp_path, {}).bar("statistics", 5) as advance:
        advance("")
    assert "1/5" in capsys.readouterr().err


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2])
def test_batch_statistics_are_of_all_processes_where_there_are_several(
    world: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[nn.Module] = []
    monkeypatch.setattr(
        engine.batch_statistics, "of_all_processes", lambda module: (asked.append(module), nullcontext())[1]
    )
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(2))
    run, objective = Run(tmp_path, {}, quiet=True), Told(lambda call: 3.0)
    run.fabric = SimpleNamespace(
        global_rank=0,
        world_size=world,
        device=torch.device("cpu"),
        setup=lambda module, optimizer: (module, optimizer),
        broadcast=lambda value: value,
        backward=lambda loss: loss.backward(),
        barrier=lambda: None,
    )
    run.fit("stage", objective, IMAGES, Schedule(epochs=1, batch_size=10))
    assert asked == [objective] * (world - 1)
    assert run.history["stage"] == [{"loss": 3.0}]
