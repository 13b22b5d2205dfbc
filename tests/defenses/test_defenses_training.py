"""Training of defences: the result that each must reach, and the engine."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.defense_data import SEED, SETTINGS, Trained, accuracy, folder_of, patterns, plain_pgd, stored, train
from torch import Tensor, nn

from fdjpeg import defenses
from fdjpeg.defenses import defensive_distillation, jpeg_ensemble, purifier, s2snet
from fdjpeg.defenses.recipes import RECIPES
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import load_training_images
from fdjpeg.defenses.training.objective import Chance, Objective, augment
from fdjpeg.defenses.training.run import Run

# --- the results ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(RECIPES))
def test_training_leaves_a_defence_that_loads_and_nothing_else(kind: str, trained: Trained, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in trained.classifier.state_dict().items()}
    defense = train(kind, trained, tmp_path)
    files = {"defense.safetensors", "run.json", "training.json"}
    if kind == "fine-tuning":
        files |= {"accuracy.json", "accuracy.md", "accuracy.svg"}
    left_out = set() if importlib.util.find_spec("matplotlib") else {"accuracy.svg"}
    assert set(os.listdir(tmp_path)) == files - left_out
    loaded = defenses.load(tmp_path)
    with torch.no_grad():
        logits = defense.deployed(trained.classifier)(trained.x[:8])
        assert logits.shape == (8, 4)
        assert bool(logits.isfinite().all())
        assert torch.equal(loaded.deployed(trained.classifier)(trained.x[:8]), logits)
    for name, value in trained.classifier.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.requires_grad for parameter in trained.classifier.parameters())
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert all(len(epochs) == 2 and np.isfinite(epochs[-1]["loss"]) for epochs in history.values())
    # A second call trains nothing.
    stamp = (tmp_path / "defense.safetensors").stat().st_mtime_ns
    train(kind, trained, tmp_path)
    assert (tmp_path / "defense.safetensors").stat().st_mtime_ns == stamp


def test_clean_accuracy_falls_with_the_step_and_tuning_recovers_it(trained: Trained, tmp_path: Path) -> None:
    steps = (1, 60, 90, 120, 180, 240)
    behind = [defenses.FeatureDistillation(f"uniform({step})").deployed(trained.classifier) for step in steps]
    falling = [accuracy(model, trained.x, trained.y) for model in behind]
    assert all(a >= b for a, b in itertools.pairwise(falling))
    assert falling[0] - falling[-1] > 0.5
    schedule = Schedule(epochs=6, batch_size=32, learning_rate=2e-3, augment="none")
    settings = jpeg_ensemble.Config(quality=5, levels=(1.0,), tuning=schedule)
    ensemble: Any = defenses.train(
        "jpeg-ensemble", trained.images, tmp_path, settings=settings, network=trained.network, quiet=True
    )
    untuned = defenses.JPEGEnsemble(ensemble.luma, ensemble.chroma, ensemble.levels)
    before, after = (
        accuracy(defense.deployed(trained.classifier), trained.x, trained.y) for defense in (untuned, ensemble)
    )
    assert before < 0.9
    assert after > before + 0.05


def test_plain_rounding_shows_robustness_that_is_not_there(trained: Trained) -> None:
    defense = defenses.JPEG(50)
    deployed = defense.deployed(trained.classifier)
    left = {}
    for gradient in ("zero", "straight-through", "cubic"):
        attacked = defense.attacked(trained.classifier, gradient)
        x_adv = plain_pgd(attacked, trained.x, trained.y, 8 / 255)
        left[gradient] = accuracy(deployed, x_adv, trained.y)
    assert left["zero"] > 0.9
    assert left["straight-through"] < 0.2
    assert left["cubic"] < 0.2


def test_cross_entropy_fails_on_distillation_where_the_margin_and_tempered_logits_succeed(tmp_path: Path) -> None:
    images = stored(*patterns(512, seed=0, amplitude=0.2, noise=0.05))
    x, y = patterns(128, seed=1, amplitude=0.2, noise=0.05)
    schedule = Schedule(epochs=8, batch_size=32, learning_rate=3e-3, augment="none")
    settings = defensive_distillation.Config(temperature=100, widths=(8, 8, 16), dropout=0.0, training=schedule)
    defense = defenses.train("defensive-distillation", images, tmp_path, settings=settings, quiet=True)
    deployed, tempered = defense.deployed(nn.Identity()), defense.attacked(nn.Identity(), "tempered")
    assert accuracy(deployed, x, y) > 0.95
    eps = 16 / 255
    assert accuracy(deployed, plain_pgd(deployed, x, y, eps), y) > 0.9
    assert accuracy(deployed, plain_pgd(deployed, x, y, eps, "margin"), y) < 0.1
    assert accuracy(deployed, plain_pgd(tempered, x, y, eps), y) < 0.1


def test_the_student_takes_noise_away(trained: Trained, tmp_path: Path) -> None:
    images = stored(*patterns(256, seed=0, amplitude=0.15, noise=0.02))
    x, _ = patterns(64, seed=1, amplitude=0.15, noise=0.02)
    short = Schedule(epochs=1, batch_size=32, augment="none")
    schedule = replace(short, epochs=8, learning_rate=5e-3)
    teachers: dict[str, Schedule] = dict.fromkeys(("normal", "adversarial"), short)
    settings = purifier.Config(widths=(8, 12, 12), noise=0.25, attack_steps=1, **teachers, student=schedule)
    student = defenses.train("purifier", images, tmp_path, settings=settings, network=trained.network, quiet=True)
    noisy = (x + 0.25 * torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED))).clamp(0, 1)
    with torch.no_grad():
        error = float((student(noisy) - x).square().mean())
    assert error < 0.5 * float((noisy - x).square().mean())
    assert error < 0.9 * float((x - x.mean()).square().mean())  # and it is not grey


def test_stage_two_serves_the_classifier_and_leaves_the_encoder_alone(trained: Trained, tmp_path: Path) -> None:
    first = Schedule(epochs=2, batch_size=8, learning_rate=3e-3, augment="none")
    made = []
    for epochs in (1, 3):
        settings = s2snet.Config(architecture="small", reconstruction=first, signal=replace(first, epochs=epochs))
        images, out = trained.images.select(range(192)), tmp_path / str(epochs)
        made.append(defenses.train("s2snet", images, out, settings=settings, network=trained.network, quiet=True))
    right = [accuracy(defense.deployed(trained.classifier), trained.x, trained.y) for defense in made]
    assert right[1] > 0.8
    for name, value in made[0].state_dict().items():
        assert torch.equal(made[1].state_dict()[name], value) == (".encoder." in name), name


# --- the engine -------------------------------------------------------------------------------------------------------


class Distance(Objective):
    """The distance of a number from 1; on the images held out from 0.1, where it grows after a while."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1, bias=False))

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        weight: Tensor = self.trained.weight  # type: ignore[assignment]
        return (weight - (1 if self.trained.training else 0.1)).square().mean()


def test_early_stop_takes_the_best_epoch(tmp_path: Path) -> None:
    objective = Distance()
    nn.init.zeros_(objective.trained.weight)  # type: ignore[arg-type]
    run = Run(tmp_path, {}, validation=0.25, quiet=True)
    schedule = Schedule(epochs=50, batch_size=8, learning_rate=0.01, patience=3)
    run.fit("stage", objective, stored(*patterns(64, 0)), schedule)
    losses = [epoch["held out"] for epoch in run.history["stage"]]
    assert len(losses) < 50
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3
    weight = float(objective.trained.weight.detach())  # type: ignore[operator,union-attr]
    assert (weight - 0.1) ** 2 == pytest.approx(losses[best], rel=1e-5)


class Beyond(Distance):
    """The loss of `Distance` in training, and NaN on the images held out."""

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        loss = super().loss(images, labels, chance)
        return loss if self.trained.training else loss * torch.nan


def test_a_loss_of_nan_on_images_held_out_ends_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, {}, validation=0.25, quiet=True)
    schedule = Schedule(epochs=3, batch_size=8, learning_rate=0.01, patience=1)
    with pytest.raises(ValueError, match=r"stage must have a finite loss, got loss \d.*, held out nan: lower"):
        run.fit("stage", Beyond(), stored(*patterns(64, 0)), schedule)


def test_chance_depends_on_the_image_not_on_its_batch() -> None:
    device = torch.device("cpu")
    together = Chance(1, "stage/0", torch.tensor([3, 5, 8]), device)
    alone = Chance(1, "stage/0", torch.tensor([5]), device)
    later = Chance(1, "stage/1", torch.tensor([5]), device)
    assert torch.equal(together.normal((2, 3), "noise")[1:2], alone.normal((2, 3), "noise"))
    assert not torch.equal(alone.normal((2, 3), "noise"), later.normal((2, 3), "noise"))
    many = Chance(1, "stage/0", torch.arange(2000), device).normal((3,), "noise")
    assert abs(float(many.mean())) < 0.05
    assert float(many.std()) == pytest.approx(1, abs=0.05)


def test_augmentation_flips_and_moves(rng: np.random.Generator) -> None:
    ramp = torch.arange(16.0).expand(1, 16, 16) / 16
    images = ramp.expand(64, 1, 16, 16)
    chance = Chance(int(rng.integers(100)), "stage/0", torch.arange(64), torch.device("cpu"))
    assert augment(images, "none", chance) is images
    flipped = augment(images, "flip", chance)
    kinds = {bool(torch.equal(image, ramp)) for image in flipped}
    assert kinds == {True, False}
    assert all(torch.equal(image, ramp) or torch.equal(image, ramp.flip(-1)) for image in flipped)
    moved = augment(images, "flip-crop", chance)
    assert moved.shape == images.shape
    assert {round(float(image[0, 8, 8]) * 16) for image in moved} >= {6, 7, 8, 9, 10}


def test_mixed_precision_trains(trained: Trained, tmp_path: Path) -> None:
    defense = defenses.train(
        "purifier",
        trained.images.select(range(64)),
        tmp_path,
        settings=SETTINGS["purifier"],
        network=trained.network,
        precision="bf16-mixed",
        quiet=True,
    )
    assert all(value.dtype == torch.float32 for value in defense.state_dict().values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", list(RECIPES))
def test_a_gpu_trains(kind: str, trained: Trained, tmp_path: Path) -> None:
    network = None if kind == "feature-distillation" else trained.network
    settings, images = SETTINGS[kind], trained.images.select(range(64))
    made = [
        defenses.train(kind, images, tmp_path / device, settings=settings, network=network, device=device, quiet=True)
        for device in ("cpu", "cuda")
    ]
    assert all(tensor.device.type == "cpu" for tensor in made[1].tensors().values())
    if kind == "feature-distillation":
        assert torch.equal(made[0].tensors()["steps"], made[1].tensors()["steps"])


def test_a_folder_gives_what_an_array_gives(npz: str, tmp_path: Path) -> None:
    root = folder_of(*patterns(64, seed=0), tmp_path / "tree")
    steps = []
    for name, workers in ((npz, 0), (str(root), 2)):
        images, out = load_training_images(name, 16), tmp_path / f"out-{workers}"
        defense = defenses.train("feature-distillation", images, out, workers=workers, quiet=True)
        steps.append(defense.state_dict()["steps"])
    assert torch.equal(*steps)
    assert len(load_training_images(str(root), 16)) == 64
