"""Training of defences: what each must reach, what the engine does, and what it says of mistakes."""

from __future__ import annotations

import itertools
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from PIL import Image
from support import defense_data
from support.defense_data import SEED, accuracy, patterns, plain_pgd, stored
from torch import Tensor, nn

import fdjpeg
from fdjpeg import defenses
from fdjpeg.cli.main import main
from fdjpeg.defenses import checkpoint, defensive_distillation, feature_distillation, jpeg_ensemble, purifier, s2snet
from fdjpeg.defenses.recipes import RECIPES
from fdjpeg.defenses.training import config
from fdjpeg.defenses.training import images as data
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.objective import Chance, Objective, augment
from fdjpeg.defenses.training.run import Run
from fdjpeg.sources import PACKAGED, Network

CONFIGS = Path(defenses.__file__).parent / "configs"
FEW = Schedule(epochs=2, batch_size=32, augment="flip-crop")

#: Settings of seconds.
SETTINGS: dict[str, Any] = {
    "feature-distillation": feature_distillation.Config(),
    "jpeg-ensemble": jpeg_ensemble.Config(tuning=FEW),
    "purifier": purifier.Config(widths=(4, 6, 8), attack_steps=2, normal=FEW, adversarial=FEW, student=FEW),
    "s2snet": s2snet.Config(architecture="small", reconstruction=FEW, signal=FEW),
    "defensive-distillation": defensive_distillation.Config(widths=(4, 4, 8), training=FEW),
}


@dataclass(frozen=True)
class Trained:
    """A classifier of the patterns, and what it was trained and tested on."""

    classifier: nn.Module
    images: data.Images
    x: Tensor
    y: Tensor

    @property
    def network(self) -> Network:
        return Network(self.classifier, "patterns")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A network that gets the patterns right, trained by the engine itself."""
    images = stored(*patterns(512, seed=0))
    classifier = defense_data.network()
    run = Run(tmp_path_factory.mktemp("classifier"), {}, seed=SEED, quiet=True)
    schedule = Schedule(epochs=8, batch_size=32, learning_rate=5e-3, augment="none")
    run.fit("classifier", defensive_distillation.HardLabels(classifier, 1.0), images, schedule)
    x, y = patterns(256, seed=1)
    assert accuracy(classifier, x, y) > 0.95
    return Trained(classifier.eval(), images, x, y)


def train(kind: str, trained: Trained, out: Path, **changes: Any) -> Any:
    """A defence of `SETTINGS` on the first 64 images."""
    settings = replace(SETTINGS[kind], **changes)
    network = None if kind == "feature-distillation" else trained.network
    return defenses.train(kind, trained.images.select(range(64)), out, settings=settings, network=network, quiet=True)


# --- what must hold ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(RECIPES))
def test_training_leaves_a_defence_that_loads_and_nothing_else(kind: str, trained: Trained, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in trained.classifier.state_dict().items()}
    defense = train(kind, trained, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["defense.safetensors", "run.json", "training.json"]
    loaded = defenses.load(tmp_path)
    with torch.no_grad():
        logits = defense.wrap(trained.classifier)(trained.x[:8])
        assert logits.shape == (8, 4)
        assert bool(logits.isfinite().all())
        assert torch.equal(loaded.wrap(trained.classifier)(trained.x[:8]), logits)
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
    behind = [defenses.FeatureDistillation(f"uniform({step})").wrap(trained.classifier) for step in steps]
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
        accuracy(defense.wrap(trained.classifier), trained.x, trained.y) for defense in (untuned, ensemble)
    )
    assert before < 0.9
    assert after > before + 0.05


def test_plain_rounding_shows_robustness_that_is_not_there(trained: Trained) -> None:
    defense = defenses.JPEG(50)
    deployed = defense.wrap(trained.classifier)
    left = {}
    for gradient in ("zero", "straight-through", "cubic"):
        attacked = defense.for_attack(gradient).wrap(trained.classifier)
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
    deployed, tempered = (d.wrap(nn.Identity()) for d in (defense, defense.for_attack("tempered")))
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
    right = [accuracy(defense.wrap(trained.classifier), trained.x, trained.y) for defense in made]
    assert right[1] > 0.8
    for name, value in made[0].state_dict().items():
        assert torch.equal(made[1].state_dict()[name], value) == (".encoder." in name), name


# --- the engine -------------------------------------------------------------------------------------------------------


class Distance(Objective):
    """How far a number is from where the labels are; it gets worse on the images held out after a while."""

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
    """The loss of `Distance` in training, and no number on the images held out."""

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        loss = super().loss(images, labels, chance)
        return loss if self.trained.training else loss * torch.nan


def test_a_loss_that_is_no_number_on_images_held_out_ends_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, {}, validation=0.25, quiet=True)
    schedule = Schedule(epochs=3, batch_size=8, learning_rate=0.01, patience=1)
    with pytest.raises(ValueError, match=r"stage should have a finite loss, got loss \d.*, held out nan: lower"):
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


def folder_of(images: Tensor, labels: Tensor, root: Path) -> Path:
    """The images as a tree of PNG files."""
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        (root / f"class-{label}").mkdir(parents=True, exist_ok=True)
        samples = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(samples).save(root / f"class-{label}" / f"{number:03}.png")
    return root


@pytest.fixture
def npz(tmp_path: Path) -> str:
    """64 patterns in a file."""
    images, labels = patterns(64, seed=0)
    np.savez(tmp_path / "patterns.npz", train_images=(images * 255).round().byte().numpy(), train_labels=labels.numpy())
    return f"{tmp_path / 'patterns.npz'}:train"


def test_a_folder_gives_what_an_array_gives(npz: str, tmp_path: Path) -> None:
    root = folder_of(*patterns(64, seed=0), tmp_path / "tree")
    steps = []
    for name, workers in ((npz, 0), (str(root), 2)):
        images, out = data.load(name, 16), tmp_path / f"out-{workers}"
        defense = defenses.train("feature-distillation", images, out, workers=workers, quiet=True)
        steps.append(defense.state_dict()["steps"])
    assert torch.equal(*steps)
    assert len(data.load(str(root), 16)) == 64


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_ready_settings_are_settings(file: Path) -> None:
    recipe = RECIPES[file.parent.name]
    settings = config.read(recipe.config, file.stem, file.parent.name)
    assert isinstance(settings, recipe.config)
    assert sorted(entry.stem for entry in file.parent.iterdir()) == ["cifar10", "imagenet", "small"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1", "learning_rate is no setting; there are seed, validation, quality"),
        ("tuning: {epoch: 1}", "tuning.epoch is no setting; there are epochs"),
        ("tuning: 3", "tuning should hold keys and values, got 3"),
        ("tuning: {epochs: two}", "tuning.epochs should be a whole number, got 'two'"),
        ("tuning: {epochs: true}", "tuning.epochs should be a whole number, got True"),
        ("tuning: {epochs: 0}", "tuning.epochs should be at least 1, got 0"),
        ("tuning: {learning_rate: fast}", "tuning.learning_rate should be a number, got 'fast'"),
        ("tuning: {learning_rate: 0}", "learning_rate should be positive and finite, got 0"),
        ("tuning: {augment: rotate}", "augment should be one of none, flip, flip-crop, got 'rotate'"),
        ("levels: 3", "levels should be a list, got 3"),
        ("levels: [1, -2]", "levels should be positive and finite, got -2"),
        ("quality: 101", "quality should be in 1…100, got 101"),
        ("importance: size", "importance should be gradient or deviation, got 'size'"),
        ("[1, 2]", "the file should hold keys and values"),
        ("a: [", "config should be YAML"),
    ],
)
def test_wrong_settings_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config .*mine\.yaml|YAML") as caught:
        config.read(jpeg_ensemble.Config, str(tmp_path / "mine.yaml"), "jpeg-ensemble")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("feature-distillation", "coarse: 256", "coarse should be at most 255, got 256"),
        ("feature-distillation", "fine: 0", "fine should be at least 1, got 0"),
        ("feature-distillation", "n: 65", "n should be in 0…64, got 65"),
        ("purifier", "eps: 8", "eps should be at most 1, as images are, got 8.0"),
        ("purifier", "noise: .inf", "noise should be positive and finite, got inf"),
        ("purifier", "quality: [95, 30]", "quality should be two of 1…100, the least first, got (95, 30)"),
        ("defensive-distillation", "temperature: 0.5", "temperature should be at least 1, got 0.5"),
        ("defensive-distillation", "dropout: 1", "dropout should be in [0, 1), got 1.0"),
        ("s2snet", "architecture: vgg", "architecture should be one of segnet, small, got 'vgg'"),
    ],
)
def test_settings_out_of_range_are_named(kind: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config .*mine\.yaml") as caught:
        config.read(RECIPES[kind].config, str(tmp_path / "mine.yaml"), kind)
    assert message in str(caught.value)


def test_numbers_may_be_fractions_and_lack_a_point(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("eps: 4/255\nnormal: {learning_rate: 1e-3}\nquality: [20, 80]")
    settings = config.read(purifier.Config, str(tmp_path / "mine.yaml"), "purifier")
    assert settings.eps == 4 / 255
    assert settings.normal.learning_rate == 1e-3
    assert settings.quality == (20, 80)
    with pytest.raises(ValueError, match="config should be a YAML file or one of cifar10, imagenet, small"):
        config.read(purifier.Config, "medium", "purifier")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"config should be a YAML file .*bytes\.yaml"):
        config.read(purifier.Config, str(tmp_path / "bytes.yaml"), "purifier")


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line says of a mistake, in one sentence and with status 2."""
    with pytest.raises(SystemExit) as caught:
        main(["train", *arguments])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.count("Error:") == 1
    assert "Traceback" not in said
    return said


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' folder, where "support.defense_data:network" is found."""
    monkeypatch.chdir(Path(__file__).parents[1])


@pytest.mark.usefixtures("here")
def test_the_command_trains_and_says_what_it_saved(
    npz: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "feature-distillation", "--config", "small", "--data", npz, "--out", str(tmp_path / "out")])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "feature-distillation" in said
    assert str(tmp_path / "out" / "defense.safetensors") in said
    loaded: Any = defenses.load(tmp_path / "out")
    assert sorted(set(loaded.steps.flatten().tolist())) == [1, 40]


@pytest.mark.usefixtures("here")
def test_mistakes_on_the_command_line_are_sentences(
    npz: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = str(tmp_path / "out"), "support.defense_data:network"
    small = ("--config", "small", "--out", out)
    assert "defense should be one of feature-distillation" in fails(capsys, "magic", "--data", npz, *small)
    assert "data should be" in fails(capsys, "purifier", "--data", str(tmp_path / "none"), "--model", model, *small)
    assert "model should be given" in fails(capsys, "purifier", "--data", npz, *small)
    (tmp_path / "empty").mkdir()
    said = fails(capsys, "feature-distillation", "--data", str(tmp_path / "empty"), *small)
    assert "one folder of images for each class" in said
    images, labels = patterns(64, seed=0)
    np.savez(tmp_path / "wrong.npz", images=images.numpy(), labels=labels.numpy() + 1)
    said = fails(capsys, "purifier", "--data", str(tmp_path / "wrong.npz"), "--model", model, *small)
    assert "labels should lie in 0…3 for a model of 4 classes, got 1…4" in said
    np.savez(tmp_path / "negative.npz", images=images.numpy(), labels=labels.numpy() - 1)
    said = fails(capsys, "defensive-distillation", "--data", str(tmp_path / "negative.npz"), *small)
    assert "labels should be at least 0, got -1" in said
    assert not (tmp_path / "out").exists()
    said = fails(capsys, "feature-distillation", "--data", npz, "--device", "tpu", *small)
    assert 'device should be "auto", "cpu"' in said
    said = fails(capsys, "feature-distillation", "--data", npz, "--precision", "8", *small)
    assert "precision should be one of 32-true, bf16-mixed" in said


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_corrupt_image_is_named(workers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder_of(*patterns(16, seed=0), tmp_path / "tree")
    broken = root / "class-1" / "001.png"
    broken.write_bytes(broken.read_bytes()[:100])
    out = tmp_path / "out"
    where = ("--data", str(root), "--out", str(out))
    said = fails(capsys, "feature-distillation", *where, "--size", "16", "--config", "small", "--workers", workers)
    assert str(broken) in said.replace("\n", "")
    assert os.listdir(out) == ["run.json"]


def test_a_run_that_comes_to_nothing_leaves_the_folder_to_the_next(trained: Trained, tmp_path: Path) -> None:
    for tuning in (replace(FEW, batch_size=65), replace(FEW, epochs=1)):
        refused = pytest.raises(ValueError, match="at most the 64 images") if tuning.batch_size == 65 else nullcontext()
        with refused:
            train("jpeg-ensemble", trained, tmp_path, tuning=tuning)
    assert (tmp_path / checkpoint.FILE).exists()


def test_a_folder_belongs_to_the_run_that_something_is_kept_of(tmp_path: Path) -> None:
    Run(tmp_path, {"n": 1}, quiet=True)
    (tmp_path / "stages").mkdir()  # as by a run that was killed while it wrote its first checkpoint
    Run(tmp_path, {"n": 2}, quiet=True)
    assert json.loads((tmp_path / "run.json").read_text()) == {"n": 2}
    for kept in ("stages/stage.safetensors", "training.json", checkpoint.FILE):
        (tmp_path / kept).touch()
        Run(tmp_path, {"n": 2}, quiet=True)
        with pytest.raises(ValueError, match=r"without another run, .* where n is 2, not 3"):
            Run(tmp_path, {"n": 3}, quiet=True)
        (tmp_path / kept).unlink()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", r"out should be a folder whose run\.json holds a run's settings, got '.*': \[1\]"),
        ("{", r"out should be a folder whose run\.json can be read, got '.*': Expecting"),
    ],
)
def test_a_file_that_is_none_of_a_run_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Run(tmp_path, {}, quiet=True)


@pytest.mark.usefixtures("here")
def test_a_model_that_does_not_take_the_images_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def network() -> Network:
        return Network(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), "of 16 × 16", size=16)

    monkeypatch.setitem(PACKAGED, "flat", network)
    (tmp_path / "few.yaml").write_text("training: {epochs: 1, batch_size: 8}")
    tree = folder_of(*patterns(16, seed=0), tmp_path / "tree")
    given = ("--data", str(tree), "--model", "flat", "--config", str(tmp_path / "few.yaml"), "--out")
    said = fails(capsys, "defensive-distillation", *given, str(tmp_path / "large"), "--size", "32")
    assert "model should take images of 3 × 32 × 32, got of 16 × 16" in said
    assert not (tmp_path / "large").exists()
    # Without --size, files become what the model asks for.
    with pytest.raises(SystemExit) as caught:
        main(["train", "defensive-distillation", *given, str(tmp_path / "fitting")])
    assert caught.value.code == 0
    assert (tmp_path / "fitting" / "defense.safetensors").exists()


def test_bands_are_analysed_on_images_of_all_classes(trained: Trained, tmp_path: Path, monkeypatch: Any) -> None:
    in_order = trained.images.select(trained.images.labels.argsort(stable=True).tolist())
    seen: list[int] = []

    def spy(classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        seen.extend(labels.tolist())
        return torch.ones(2, 8, 8, dtype=torch.float64)

    monkeypatch.setattr(jpeg_ensemble, "gradient_sensitivity", spy)
    settings = jpeg_ensemble.Config(analysed=64)
    jpeg_ensemble.analyse(Run(tmp_path, {}, quiet=True), in_order, trained.classifier, settings)
    assert len(seen) == 64
    assert sorted(set(seen)) == [0, 1, 2, 3]


def test_a_selection_is_other_images(trained: Trained) -> None:
    chosen = trained.images.select([7, 3])
    assert torch.equal(chosen.image(1), trained.images.image(3))
    assert chosen.labels.tolist() == trained.images.labels[[7, 3]].tolist()
    assert [int(item[2]) for item in (chosen[0], chosen[1]) if not isinstance(item, ValueError)] == [0, 1]
    assert len({chosen.digest, trained.images.digest, trained.images.select([3, 7]).digest}) == 3


def test_another_run_in_the_same_folder_is_refused(trained: Trained, tmp_path: Path) -> None:
    train("feature-distillation", trained, tmp_path)
    with pytest.raises(ValueError, match=r"without another run, .* where config\.n is 15, not 14"):
        train("feature-distillation", trained, tmp_path, n=14)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out should be a folder that can be written"):
        train("feature-distillation", trained, tmp_path / "file")
    saved = defenses.save(defenses.JPEG(30), tmp_path / "saved")
    with pytest.raises(ValueError, match=r"out should be a folder without another defence, got .*saved'"):
        train("feature-distillation", trained, tmp_path / "saved")
    assert os.listdir(tmp_path / "saved") == [saved.name]
    assert isinstance(defenses.load(saved), defenses.JPEG)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning": replace(FEW, batch_size=65)}, "batch_size should be at most the 64 images to train on, got 65"),
        ({"tuning": replace(FEW, patience=1)}, "patience needs images held out"),
        ({"validation": 0.6}, r"validation should be in 0…0\.5, got 0\.6"),
        ({"tuning": replace(FEW, learning_rate=1e30)}, "should have a finite loss"),
    ],
)
def test_runs_that_cannot_be_are_refused(
    changes: dict[str, Any], message: str, trained: Trained, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train("jpeg-ensemble", trained, tmp_path, **changes)
    assert not (tmp_path / checkpoint.FILE).exists()


def test_import_needs_no_package_of_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("safetensors", "safetensors.torch", "yaml", "lightning_fabric"):
        monkeypatch.setitem(sys.modules, name, None)
    missing = r'pip install "fdjpeg\[train\]"'
    with pytest.raises(fdjpeg._packages.MissingPackage, match=f"safetensors.*{missing}"):
        defenses.save(defenses.JPEG(), tmp_path)
    with pytest.raises(fdjpeg._packages.MissingPackage, match=f"pyyaml.*{missing}"):
        config.read(purifier.Config, "small", "purifier")
    with pytest.raises(fdjpeg._packages.MissingPackage, match=f"lightning-fabric.*{missing}"):
        Run(tmp_path, {})
