"""Compression-augmented fine-tuning: its loss, its draws, its report, and the networks that it leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from support import defense_data
from support.defense_data import FEW, SETTINGS, Trained, patterns, stored, train
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables, defenses
from fdjpeg.attacks import Flip
from fdjpeg.attacks.exposed import Exposed
from fdjpeg.cli.main import main
from fdjpeg.defenses import parse_defense
from fdjpeg.defenses.fine_tuning import AugmentationSettings, Config, FineTuned, FineTuning, parse_augmentation
from fdjpeg.defenses.training import accuracy, run
from fdjpeg.defenses.training.config import Schedule, build
from fdjpeg.defenses.training.objective import Chance
from fdjpeg.sources.image_set import pillow_codec, to_bytes, to_pillow, to_tensor

EVERY = tuple(
    parse_augmentation(text)
    for text in (
        "random-jpeg,qualities=10+40,weights=1+2,subsampling=4:2:0+4:4:4,p=0.75",
        "double-jpeg,quality=40-90,second_quality=60-95,p=0.5",
        "recompress,scale=0.5-1.2,times=2,p=0.5",
    )
)


def behind_pillow(images: Tensor, quality: int, subsampling: str = "4:2:0") -> Tensor:
    files = [pillow_codec(to_pillow(image), quality, subsampling)[0] for image in to_bytes(images)]
    return torch.stack([to_tensor(file) for file in files]).float() / 255


def test_it_wins_back_what_files_of_low_quality_cost(trained: Trained, tmp_path: Path) -> None:
    settings = Config(
        augmentation=(AugmentationSettings("random-jpeg", quality=(5, 40), p=0.75),),
        tuning=Schedule(epochs=3, batch_size=32, learning_rate=2e-3, augment="none"),
        validation=0.25,
        qualities=(20,),
    )
    images = trained.images.select(range(320))
    defense: Any = defenses.train(
        "fine-tuning", images, tmp_path, settings=settings, network=trained.network, quiet=True
    )
    files = behind_pillow(trained.x, 20)
    deployed = defense.deployed(trained.classifier)
    before, after = (defense_data.accuracy(model, files, trained.y) for model in (trained.classifier, deployed))
    assert after > before + 0.04
    clean = defense_data.accuracy(deployed, trained.x, trained.y)
    assert clean > defense_data.accuracy(trained.classifier, trained.x, trained.y) - 0.03


def test_the_report_counts_what_both_networks_get_right_on_files(trained: Trained, tmp_path: Path) -> None:
    defense = train("fine-tuning", trained, tmp_path)
    report = json.loads((tmp_path / "accuracy.json").read_text())
    assert [row["quality"] for row in report["rows"]] == [None, 75, 10]
    # The same quarter is held out by every run of this seed.
    held_out = trained.images.select(range(64))
    kept = run.Run(tmp_path / "other", {}, validation=0.25, quiet=True).split(held_out)[1].tolist()
    pixels, labels = (torch.stack([held_out.image(i) for i in kept]), held_out.labels[kept])
    deployed = defense.deployed(trained.classifier)
    for row in report["rows"]:
        seen = to_bytes(pixels).float() / 255 if row["quality"] is None else behind_pillow(pixels, row["quality"])
        with torch.no_grad():
            old, new = (network(seen).argmax(1) == labels for network in (trained.classifier, deployed))
        counts = {"images": 16, "before": int(old.sum()), "after": int(new.sum())}
        counts |= {"gained": int((new & ~old).sum()), "lost": int((old & ~new).sum())}
        assert {key: row[key] for key in counts} == counts
    lines = (tmp_path / "accuracy.md").read_text().splitlines()
    assert len(lines) == 2 + len(report["rows"])


def test_the_interval_of_a_paired_difference_is_that_of_its_images() -> None:
    row = accuracy.Row(None, "4:2:0", 200, 150, 160, 25, 15)
    each = np.repeat([1.0, -1.0, 0.0], [25, 15, 160])
    error = 1.96 * each.std() / 200**0.5
    expected = [100 * value for value in (each.mean(), each.mean() - error, each.mean() + error)]
    assert np.allclose(row.difference(), expected)


def test_the_plot_shows_percents_over_the_quality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clean images are a horizontal line for each network; the files are in the order of their quality."""
    pyplot = MagicMock()  # importing the real one takes seconds
    monkeypatch.setattr(accuracy, "required", lambda *_: pyplot)
    rows = [accuracy.Row(quality, "4:2:0", 50, *counts, 0, 0) for quality, *counts in ((None, 40, 45), (75, 20, 30))]
    accuracy._plot(tmp_path / "accuracy.svg", [*rows, accuracy.Row(10, "4:2:0", 50, 5, 10, 0, 0)])
    axes = pyplot.Figure.return_value.subplots.return_value
    curves = {call.kwargs["label"]: call.args[:2] for call in axes.plot.call_args_list}
    assert curves == {"before": ([10, 75], [10, 40]), "after": ([10, 75], [20, 60])}
    clean = {call.kwargs["label"]: call.args for call in axes.axhline.call_args_list}
    assert clean == {"before, clean": (80,), "after, clean": (90,)}


def test_it_is_measured_on_other_images_where_they_are_named(trained: Trained, tmp_path: Path) -> None:
    x, y = patterns(24, seed=3)
    np.savez(tmp_path / "set.npz", test_images=to_bytes(x).numpy(), test_labels=y.numpy())
    train("fine-tuning", trained, tmp_path / "out", test=f"{tmp_path / 'set.npz'}:test", validation=0.0)
    assert json.loads((tmp_path / "out" / "accuracy.json").read_text())["rows"][0]["images"] == 24


# --- the loss ---------------------------------------------------------------------------------------------------------


def chance(count: int, first: int = 0) -> Chance:
    return Chance(3, "tuning/0", torch.arange(first, first + count), torch.device("cpu"))


@pytest.mark.parametrize("teacher", ["original", "current", "none"])
def test_the_loss_is_cross_entropy_and_the_divergence_from_the_teacher(teacher: str) -> None:
    network, original = defense_data.network(), defense_data.network()
    with torch.no_grad():
        next(network.parameters()).mul_(1.3)
    config = Config(teacher=teacher, divergence=0.7, validation=0.1)
    objective = FineTuning(network, original, config).eval()
    x, y = patterns(12, seed=4)
    changed = objective.augmented(x, chance(12))
    assert 0 < int((changed != x).flatten(1).any(1).sum()) < 12
    student, clean = network(changed).softmax(1), network(x).softmax(1)
    wanted = {"original": original(x).softmax(1), "current": clean, "none": student}[teacher]
    divergence = (wanted * (wanted.log() - student.log())).sum(1).mean()
    judged = clean if teacher == "current" else student
    expected = -judged.log()[torch.arange(12), y].mean() + 0.7 * divergence
    loss = objective.loss(x, y, chance(12))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(parameter.grad is None for parameter in original.parameters())


def test_an_image_is_changed_alike_in_any_batch() -> None:
    objective = FineTuning(defense_data.network(), defense_data.network(), Config(augmentation=EVERY, validation=0.1))
    x, _ = patterns(16, seed=5)
    whole = objective.augmented(x, chance(16))
    parts = [objective.augmented(x[i : i + 4], chance(4, i)) for i in range(0, 16, 4)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(objective.augmented(x, Chance(3, "tuning/1", torch.arange(16), x.device)), whole)


@pytest.mark.parametrize("statistics", ["frozen", "trained"])
def test_batch_statistics_are_kept_where_they_are_frozen(statistics: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    objective = FineTuning(network, network, Config(batch_statistics=statistics, teacher="none", validation=0.1))
    before = network[1].running_mean.clone()
    objective.train()
    objective.loss(*patterns(8, seed=6), chance(8))
    assert torch.equal(network[1].running_mean, before) == (statistics == "frozen")


# --- the defence ------------------------------------------------------------------------------------------------------


def test_learned_tables_are_trained_and_deployed_as_integers(trained: Trained, tmp_path: Path) -> None:
    defense = train("fine-tuning", trained, tmp_path, tables_quality=60, tuning=replace(FEW, learning_rate=2e-3))
    assert defense.tables != QuantTables.standard(60)
    assert defense.tables.luma.dtype == torch.int64
    assert int((defense.tables.luma - QuantTables.standard(60).luma).abs().max()) < 60
    model = defense.deployed(trained.classifier)
    x = trained.x[:4]
    assert torch.equal(model(x), model[-1](fdjpeg.jpeg(x, tables=defense.tables)))
    report = json.loads((tmp_path / "accuracy.json").read_text())
    assert report["rows"][0]["images"] == 16


def test_weights_between_are_a_share_of_the_way_to_the_trained_ones(trained: Trained, tmp_path: Path) -> None:
    whole = train("fine-tuning", trained, tmp_path / "whole").tensors()
    between = train("fine-tuning", trained, tmp_path / "between", interpolation=0.75).tensors()
    for name, start in trained.classifier.state_dict().items():
        end, found = whole[f"network.{name}"], between[f"network.{name}"]
        expected = 0.25 * start + 0.75 * end if start.is_floating_point() else end
        torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-5, atol=1e-7)


def test_a_saved_network_is_evaluated_alone_and_behind_any_jpeg(trained: Trained, tmp_path: Path) -> None:
    network = defense_data.network()
    defenses.save(FineTuned(None, "4:2:0", network.state_dict()), tmp_path)
    x = trained.x[:4]
    alone = parse_defense(f"saved:{tmp_path}")
    assert alone.gradients == ("end-to-end",)
    assert torch.equal(alone.deployed(trained.classifier)(x), network(x))
    behind = parse_defense(f"saved:{tmp_path},behind=jpeg:30,4:4:4")
    assert behind.gradients == defenses.GRADIENTS
    deployed = behind.deployed(trained.classifier)
    assert torch.equal(deployed(x), network(fdjpeg.jpeg(x, 30, subsampling="4:4:4")))
    assert alone.exposes is None
    with pytest.raises(ValueError, match=r"defense must hold a JPEG layer of fdjpeg .*, got saved:"):
        alone.exposed(trained.classifier)
    exposed = behind.exposed(trained.classifier)
    assert torch.equal(exposed(x), deployed(x))
    attack = Flip(2, until_fooled=False)
    directly = attack(Exposed([fdjpeg.JPEG(30, subsampling="4:4:4")], [network]), x, trained.y[:4], 2 / 255)
    assert torch.equal(attack(exposed, x, trained.y[:4], 2 / 255), directly)
    gradients = []
    for name in behind.gradients:
        y = x.clone().requires_grad_()
        gradients += torch.autograd.grad(behind.attacked(trained.classifier, name)(y).sum(), y)
    assert not torch.equal(gradients[1], gradients[2])
    assert behind.digest() != alone.digest()
    for wrong in ("behind=jpeg:0", "behind=none", "behind=jpeg:75,4:2:1"):
        with pytest.raises(ValueError, match=r"defense .*must be"):
            parse_defense(f"saved:{tmp_path},{wrong}")
    defenses.save(defenses.JPEG(75), tmp_path / "jpeg")
    with pytest.raises(ValueError, match="defense must be a fine-tuned network behind a JPEG"):
        parse_defense(f"saved:{tmp_path / 'jpeg'},behind=jpeg:75")


def test_a_stopped_run_resumes_to_the_same_weights(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train("fine-tuning", trained, tmp_path / "whole", tables_quality=60, augmentation=EVERY)
    write, written = run.write_tensors, []

    def write_and_stop(*arguments: Any) -> None:
        write(*arguments)
        written.append(arguments)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(run, "write_tensors", write_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train("fine-tuning", trained, tmp_path / "out", tables_quality=60, augmentation=EVERY)
    assert (tmp_path / "out" / "stages").is_dir()
    resumed = train("fine-tuning", trained, tmp_path / "out", tables_quality=60, augmentation=EVERY)
    assert resumed.config() == whole.config()
    for name, value in whole.tensors().items():
        assert torch.equal(resumed.tensors()[name], value)
    assert (tmp_path / "out" / "accuracy.json").read_text() == (tmp_path / "whole" / "accuracy.json").read_text()


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_command_line_names_augmentations_as_a_file_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EVERY[0] == build(
        AugmentationSettings,
        {
            "name": "random-jpeg",
            "qualities": [10, 40],
            "weights": [1, 2],
            "subsampling": ["4:2:0", "4:4:4"],
            "p": 0.75,
        },
    )
    (tmp_path / "net.py").write_text("from support import defense_data\nmake = defense_data.network\n")
    x, y = patterns(64, seed=2)
    np.savez(tmp_path / "set.npz", images=to_bytes(x).numpy(), labels=y.numpy())
    (tmp_path / "mine.yaml").write_text("tuning: {epochs: 1, batch_size: 16}\nvalidation: 0.25\nqualities: [10]\n")
    monkeypatch.chdir(tmp_path)
    texts = ["--augmentation", "random-jpeg,quality=10-20,p=0.5", "--augmentation", "double-jpeg,p=0.25"]
    options = ["--data", "set.npz", "--config", "mine.yaml", "--model", "net:make", "--out", "out"]
    main_ends(["train", "fine-tuning", *options, *texts], 0)
    saved = json.loads((tmp_path / "out" / "run.json").read_text())["config"]["augmentation"]
    assert [(entry["name"], entry["quality"], entry["p"]) for entry in saved] == [
        ("random-jpeg", [10, 20], 0.5),
        ("double-jpeg", None, 0.25),
    ]
    main_ends(["train", "purifier", *options, *texts], 2)


def main_ends(arguments: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code or 0) == code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blur", "name must be one of random-jpeg, double-jpeg, recompress, got 'blur'"),
        ("random-jpeg,quality=95-5", "quality must be two integers, 1 ≤ least ≤ greatest ≤ 100"),
        ("random-jpeg,quality=5", r"quality must be a list of 2, got \[5\]"),
        ("random-jpeg,quality=5-x", "quality must be a whole number, got 'x'"),
        ("random-jpeg,p=2", "p must be a probability, 0…1, got 2"),
        ("random-jpeg,strength=2", "each setting must be one of name, quality, .* got .*strength"),
        ("random-jpeg,shift=aligned", "shift must be left out for random-jpeg, got 'aligned'"),
        ("double-jpeg,shift=often", 'shift must be "random", "aligned" or two integers in 0…7, got \'often\''),
        ("recompress,p=0.5", "scale or longer_side must be given"),
        ("random-jpeg,tables=nowhere", "tables must name a file of fdjpeg tables harvest"),
    ],
)
def test_a_mistake_in_an_augmentation_has_its_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_augmentation(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": ()}, "augmentation must hold at least one entry, got none"),
        ({"teacher": "other"}, "teacher must be one of original, current, none, got 'other'"),
        ({"batch_statistics": "lost"}, "batch_statistics must be one of frozen, trained, got 'lost'"),
        ({"interpolation": 0.0}, "interpolation must be above 0 and at most 1, got 0"),
        ({"divergence": -1.0}, "divergence must be at least 0 and finite, got -1"),
        ({"tables_quality": 0}, "tables_quality must be in 1…100, got 0"),
        ({"tables_rate": 0.0}, "tables_rate must be positive and finite, got 0"),
        ({"qualities": (101,)}, r"qualities must be one or more integers in 1…100, got \(101,\)"),
        ({"subsampling": "4:1:1"}, "subsampling must be one of 4:4:4, 4:2:2, 4:2:0, got '4:1:1'"),
        ({"validation": 0.0}, "validation must be above 0 where test names no images to measure on"),
    ],
)
def test_a_mistake_in_the_settings_has_its_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS["fine-tuning"], **changes)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "augmentation.name must be given, got no such key"),
        ({"name": "random-jpeg", "quality": [5]}, r"augmentation.quality must be a list of 2, got \[5\]"),
    ],
)
def test_a_mistake_within_a_list_is_named(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(Config, {"augmentation": [entry]})


def test_images_to_measure_on_must_have_the_shape_of_those_to_train_on(trained: Trained, tmp_path: Path) -> None:
    np.savez(tmp_path / "grey.npz", images=np.zeros((3, 1, 16, 16), np.uint8), labels=np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"test must hold images of shape \(3, 16, 16\), got \(1, 16, 16\)"):
        train("fine-tuning", trained, tmp_path / "out", test=str(tmp_path / "grey.npz"))


def test_it_needs_the_classifier(tmp_path: Path) -> None:
    settings = SETTINGS["fine-tuning"]
    with pytest.raises(ValueError, match="model must be"):
        defenses.train("fine-tuning", stored(*patterns(64, seed=1)), tmp_path, settings=settings, quiet=True)
