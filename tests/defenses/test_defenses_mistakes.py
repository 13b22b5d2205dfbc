"""Mistakes in the settings, data, folders and arguments of training: each is refused in a sentence that names it."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.defense_data import FEW, Trained, folder_of, patterns, train
from torch import Tensor, nn

import fdjpeg
from fdjpeg import defenses
from fdjpeg.cli.main import main
from fdjpeg.defenses import checkpoint, jpeg_ensemble, purifier
from fdjpeg.defenses.recipes import RECIPES
from fdjpeg.defenses.training import config
from fdjpeg.defenses.training.run import Run
from fdjpeg.sources import PACKAGED, Network

CONFIGS = Path(defenses.__file__).parent / "configs"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_ready_settings_are_settings(file: Path) -> None:
    recipe = RECIPES[file.parent.name]
    settings = config.read(recipe.config, file.stem, file.parent.name)
    assert isinstance(settings, recipe.config)
    assert sorted(entry.stem for entry in file.parent.iterdir()) == ["cifar10", "fashion-mnist", "imagenet", "small"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "learning_rate: 1",
            "must be one of seed, validation, quality, importance, analysed, levels, tuning, got learning_rate",
        ),
        (
            "tuning: {epoch: 1}",
            "must be one of epochs, batch_size, learning_rate, weight_decay, augment, patience, got tuning.epoch",
        ),
        ("tuning: 3", "tuning must hold keys and values, got 3"),
        ("tuning: {epochs: two}", "tuning.epochs must be a whole number, got 'two'"),
        ("tuning: {epochs: true}", "tuning.epochs must be a whole number, got True"),
        ("tuning: {epochs: 0}", "tuning.epochs must be at least 1, got 0"),
        ("tuning: {learning_rate: fast}", "tuning.learning_rate must be a number, got 'fast'"),
        ("tuning: {learning_rate: 0}", "learning_rate must be positive and finite, got 0"),
        ("tuning: {augment: rotate}", "augment must be one of none, flip, flip-crop, got 'rotate'"),
        ("levels: 3", "levels must be a list, got 3"),
        ("levels: [1, -2]", "levels must be positive and finite, got -2"),
        ("quality: 101", "quality must be in 1…100, got 101"),
        ("importance: size", "importance must be gradient or deviation, got 'size'"),
        ("[1, 2]", "the file must hold keys and values"),
        ("a: [", "config must be YAML"),
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
        ("feature-distillation", "coarse: 256", "coarse must be at most 255, got 256"),
        ("feature-distillation", "fine: 0", "fine must be at least 1, got 0"),
        ("feature-distillation", "n: 65", "n must be in 0…64, got 65"),
        ("purifier", "eps: 8", "eps must be at most 1, as images are, got 8.0"),
        ("purifier", "noise: .inf", "noise must be positive and finite, got inf"),
        ("purifier", "quality: [95, 30]", "quality must be two of 1…100, the least first, got (95, 30)"),
        ("defensive-distillation", "temperature: 0.5", "temperature must be at least 1, got 0.5"),
        ("defensive-distillation", "dropout: 1", "dropout must be in [0, 1), got 1.0"),
        ("s2snet", "architecture: vgg", "architecture must be one of segnet, small, got 'vgg'"),
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
    with pytest.raises(ValueError, match=r"config must be .* one of cifar10, fashion-mnist, imagenet, small"):
        config.read(purifier.Config, "medium", "purifier")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"config must be a YAML file .*bytes\.yaml"):
        config.read(purifier.Config, str(tmp_path / "bytes.yaml"), "purifier")


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Returns the message of the command line for a mistake: one sentence, with status 2."""
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
    assert "defense must be one of feature-distillation" in fails(capsys, "magic", "--data", npz, *small)
    assert "data must be" in fails(capsys, "purifier", "--data", str(tmp_path / "none"), "--model", model, *small)
    assert "model must be given" in fails(capsys, "purifier", "--data", npz, *small)
    (tmp_path / "empty").mkdir()
    said = fails(capsys, "feature-distillation", "--data", str(tmp_path / "empty"), *small)
    assert "one folder of images for each class" in said
    images, labels = patterns(64, seed=0)
    np.savez(tmp_path / "wrong.npz", images=images.numpy(), labels=labels.numpy() + 1)
    said = fails(capsys, "purifier", "--data", str(tmp_path / "wrong.npz"), "--model", model, *small)
    assert "labels must be in 0…3 for a model of 4 classes, got 1…4" in said
    np.savez(tmp_path / "negative.npz", images=images.numpy(), labels=labels.numpy() - 1)
    said = fails(capsys, "defensive-distillation", "--data", str(tmp_path / "negative.npz"), *small)
    assert "labels must be classes 0, 1, …, got -1" in said
    assert not (tmp_path / "out").exists()
    said = fails(capsys, "feature-distillation", "--data", npz, "--device", "tpu", *small)
    assert 'device must be "auto", "cpu"' in said
    said = fails(capsys, "feature-distillation", "--data", npz, "--precision", "8", *small)
    assert "precision must be one of 32-true, bf16-mixed" in said


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
        ("[1]", r"out must be a folder whose run\.json holds a run's settings, got '.*': \[1\]"),
        ("{", r"out must be a folder whose run\.json can be read, got '.*': Expecting"),
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
    assert "model must take images of 3 × 32 × 32, got of 16 × 16" in said
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
    with pytest.raises(ValueError, match="out must be a folder that can be written"):
        train("feature-distillation", trained, tmp_path / "file")
    saved = defenses.save(defenses.JPEG(30), tmp_path / "saved")
    with pytest.raises(ValueError, match=r"out must be a folder without another defence, got .*saved'"):
        train("feature-distillation", trained, tmp_path / "saved")
    assert os.listdir(tmp_path / "saved") == [saved.name]
    assert isinstance(defenses.load(saved), defenses.JPEG)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning": replace(FEW, batch_size=65)}, "batch_size must be at most the 64 images to train on, got 65"),
        ({"tuning": replace(FEW, patience=1)}, "validation must hold out images where patience is given, got 0.0"),
        ({"validation": 0.6}, r"validation must be in 0…0\.5, got 0\.6"),
        ({"tuning": replace(FEW, learning_rate=1e30)}, "must have a finite loss"),
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
