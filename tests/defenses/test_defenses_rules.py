"""What the documentation of the defences states: defaults, layers, tables, and the parts of an evaluation's defence."""

from __future__ import annotations

import dataclasses
import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import defense_data
from support.defense_data import SEED, patterns, stored
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables, defenses
from fdjpeg.defenses import (
    Defended,
    checkpoint,
    defensive_distillation,
    feature_distillation,
    fine_tuning,
    jpeg_ensemble,
    names,
    of_module,
    parse_defense,
    purifier,
    recipes,
    s2snet,
)
from fdjpeg.defenses.base import Weights, device_of, load_state, straight_through
from fdjpeg.defenses.defensive_distillation import DistillationNet
from fdjpeg.defenses.feature_distillation import BandStatistics, derive
from fdjpeg.defenses.jpeg_ensemble import analyse, favoured_tables, squares_of_coefficients
from fdjpeg.defenses.purifier import ConvAutoencoder
from fdjpeg.defenses.s2snet import SegNetAutoencoder
from fdjpeg.defenses.training.config import Schedule, Settings
from fdjpeg.defenses.training.run import Run

#: Weights and draws without a seed of their own follow from the name of the test.
pytestmark = pytest.mark.usefixtures("rng")

IMAGES, LABELS = patterns(6, SEED)

# --- defaults ---------------------------------------------------------------------------------------------------------

#: Every default of a setting or an argument that a published defence or a result depends on.
DEFAULTS: dict[Any, dict[str, Any]] = {
    Schedule: {
        "epochs": 10,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "augment": "flip",
        "patience": None,
    },
    Settings: {"seed": 0, "validation": 0.0},
    feature_distillation.Config: {"n": 15, "fine": 1, "coarse": 40, "passes": 1, "batch_size": 256},
    jpeg_ensemble.Config: {
        "seed": 0,
        "validation": 0.0,
        "quality": 50,
        "importance": "gradient",
        "analysed": 1000,
        "levels": (0.5, 1.0, 2.0),
        "tuning": Schedule(3, 128, 1e-4),
    },
    purifier.Config: {
        "seed": 0,
        "validation": 0.0,
        "widths": (32, 64, 64),
        "noise": 0.1,
        "eps": 8 / 255,
        "attack_steps": 7,
        "classification": 0.1,
        "normal_lesson": 0.5,
        "adversarial_lesson": 0.5,
        "quality": (30, 95),
        "normal": Schedule(50, 128, 3e-3),
        "adversarial": Schedule(20, 128, 1e-3),
        "student": Schedule(20, 128, 1e-3),
    },
    s2snet.Config: {
        "seed": 0,
        "validation": 0.0,
        "architecture": "segnet",
        "reconstruction": Schedule(20, 128, 1e-3),
        "signal": Schedule(5, 128, 1e-4),
    },
    fine_tuning.Config: {
        "seed": 0,
        "validation": 0.1,
        "augmentation": (fine_tuning.AugmentationSettings("random-jpeg", quality=(5, 95), p=0.75),),
        "teacher": "original",
        "divergence": 1.0,
        "interpolation": 1.0,
        "batch_statistics": "frozen",
        "tables_quality": None,
        "tables_rate": 100.0,
        "tuning": Schedule(3, 128, 1e-4),
        "qualities": (90, 75, 50, 25, 10),
        "subsampling": "4:2:0",
        "test": None,
    },
    defensive_distillation.Config: {
        "seed": 0,
        "validation": 0.0,
        "temperature": 20.0,
        "widths": (64, 128, 256),
        "dropout": 0.5,
        "training": Schedule(50, 128, 1e-3, augment="none"),
    },
}


@pytest.mark.parametrize("settings", list(DEFAULTS), ids=lambda cls: f"{cls.__module__}.{cls.__qualname__}")
def test_settings_have_their_documented_defaults(settings: Any) -> None:
    made = settings()
    assert {field.name: getattr(made, field.name) for field in dataclasses.fields(made)} == DEFAULTS[settings]
    name = next(iter(DEFAULTS[settings]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, name, getattr(made, name))


#: Defaults of arguments.
ARGUMENTS: dict[Any, dict[str, Any]] = {
    defenses.JPEG: {"quality": 75, "subsampling": "4:2:0"},
    defenses.RandomJPEG: {"least": 30, "greatest": 95, "subsampling": "4:2:0"},
    defenses.StochasticJPEG: {"qualities": (20, 40, 60, 80), "subsampling": "4:2:0"},
    defenses.FeatureDistillation: {"preset": None, "steps": None, "passes": 1},
    defenses.JPEGEnsemble: {"levels": (0.5, 1.0, 2.0), "members": None},
    defenses.Purifier: {"channels": 3, "widths": (32, 64, 64)},
    defenses.S2SNet: {"architecture": "segnet", "channels": 3},
    defenses.DefensiveDistillation: {"temperature": 20.0, "network": None, "state": None},
    defenses.FineTuned: {"tables": None, "subsampling": "4:2:0", "state": None},
    ConvAutoencoder: {"channels": 3, "widths": (32, 64, 64)},
    SegNetAutoencoder: {"channels": 3},
    SegNetAutoencoder.forward: {"detached": False},
    DistillationNet: {"widths": (64, 128, 256), "channels": 3, "size": 32, "classes": 10, "dropout": 0.5},
    derive: {"n": 15, "fine": 1, "coarse": 40, "passes": 1},
    defenses.train: {
        "settings": "small",
        "network": None,
        "device": "auto",
        "precision": "32-true",
        "workers": 0,
        "quiet": False,
    },
    Run: {
        "seed": 0,
        "validation": 0.0,
        "device": "auto",
        "precision": "32-true",
        "workers": 0,
        "quiet": False,
    },
    defenses.FeatureSqueezing: {"threshold": float("inf")},
    defenses.FeatureSqueezing.calibrated: {"false_alarms": 0.05, "at_once": 250},
    names.jpeg_defense: {"subsampling": "4:2:0", "gradients": defenses.GRADIENTS},
    names.feature_distillation_defense: {"passes": 1, "entry": "before", "gradients": defenses.GRADIENTS},
    parse_defense: {"gradients": defenses.GRADIENTS, "network": None, "image": None},
    of_module: {"gradients": defenses.GRADIENTS, "image": None},
    Defended: {"layer": None, "first": None, "oracle": None, "module": None, "exact": True, "exposes": None},
}


@pytest.mark.parametrize("function", list(ARGUMENTS), ids=lambda part: part.__qualname__)
def test_arguments_have_their_documented_defaults(function: Any) -> None:
    parameters = inspect.signature(function).parameters.values()
    assert {p.name: p.default for p in parameters if p.default is not p.empty} == ARGUMENTS[function]


def test_no_setting_lacks_its_row() -> None:
    assert {recipe.config for recipe in recipes.RECIPES.values()} <= set(DEFAULTS)
    assert set(defenses.DEFENSES.values()) <= set(ARGUMENTS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipes.RECIPES["purifier"].classifier = "no"  # type: ignore[misc]
    needs = {name: recipe.classifier for name, recipe in recipes.RECIPES.items()}
    assert (
        needs.items()
        >= {
            "feature-distillation": "no",
            "jpeg-ensemble": "yes",
            "purifier": "yes",
            "s2snet": "yes",
            "defensive-distillation": "may",
            "fine-tuning": "yes",
        }.items()
    )


def test_defences_that_draw_in_each_call_are_marked(images: Tensor) -> None:
    for name, defense in defense_data.examples().items():
        torch.manual_seed(0)
        first, second = defense.eval()(images), defense(images)
        assert torch.equal(first, second) != defense.random, name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(weight_decay=-0.1), "weight_decay must be at least 0, got -0.1"),
        (lambda: Schedule(batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: Schedule(patience=0), "patience must be at least 1, got 0"),
        (lambda: Schedule(learning_rate=float("nan")), "learning_rate must be positive and finite, got nan"),
        (lambda: purifier.Config(classification=-1), "classification must be at least 0, got -1"),
        (lambda: purifier.Config(normal_lesson=-1), "normal_lesson must be at least 0, got -1"),
        (lambda: purifier.Config(adversarial_lesson=-1), "adversarial_lesson must be at least 0, got -1"),
        (lambda: purifier.Config(attack_steps=0), "attack_steps must be at least 1, got 0"),
        (lambda: purifier.Config(widths=(4, 0, 4)), "widths must be at least 1, got 0"),
        (lambda: purifier.Config(eps=0), "eps must be positive and finite, got 0"),
        (lambda: purifier.Config(eps=1.5), "eps must be at most 1, as images are, got 1.5"),
        (lambda: defenses.Purifier(3, (4, 0, 4)), "widths must be at least 1, got 0"),
        (lambda: purifier.Config(noise=0), "noise must be positive and finite, got 0"),
        (lambda: purifier.Config(quality=(0, 95)), r"quality must be two of 1…100, the least first, got \(0, 95\)"),
        (lambda: purifier.Config(quality=(30, 101)), r"quality must be two of 1…100"),
        (lambda: feature_distillation.Config(n=-1), "n must be in 0…64, got -1"),
        (lambda: feature_distillation.Config(fine=256), "fine must be at most 255, got 256"),
        (lambda: feature_distillation.Config(coarse=0), "coarse must be at least 1, got 0"),
        (lambda: feature_distillation.Config(passes=0), "passes must be 1 or 2, got 0"),
        (lambda: feature_distillation.Config(batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: jpeg_ensemble.Config(levels=()), "levels must hold at least one number, got none"),
        (lambda: jpeg_ensemble.Config(analysed=0), "analysed must be at least 1, got 0"),
        (lambda: jpeg_ensemble.Config(quality=0), "quality must be in 1…100, got 0"),
        (lambda: defensive_distillation.Config(dropout=-0.1), r"dropout must be in \[0, 1\), got -0.1"),
        (lambda: defensive_distillation.Config(widths=(4, 4, 0)), "widths must be at least 1, got 0"),
        (lambda: defenses.DefensiveDistillation(float("inf")), "temperature must be at least 1, got inf"),
        (lambda: defenses.JPEGEnsemble([[1] * 8] * 8, [[1] * 8] * 8, (0,)), "levels must be positive numbers"),
        (lambda: defenses.JPEGEnsemble([[1] * 8] * 8, [[1] * 8] * 8, (float("inf"),)), "levels must be positive"),
        (lambda: defenses.FeatureDistillation(steps=[[256] * 8] * 8), "steps must be whole, 1…255"),
    ],
)
def test_values_just_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_values_at_the_ends_of_their_ranges_are_taken() -> None:
    assert Schedule(epochs=1, batch_size=1, learning_rate=1e-9, weight_decay=0, patience=1).patience == 1
    least = purifier.Config(widths=(1, 1, 1), attack_steps=1, eps=1, classification=0, normal_lesson=0, quality=(1, 1))
    assert (least.eps, least.classification, least.quality) == (1, 0, (1, 1))
    assert purifier.Config(quality=(100, 100)).quality == (100, 100)
    for n, step in ((0, 1), (64, 255)):
        assert feature_distillation.Config(n=n, fine=step, coarse=step, passes=2, batch_size=1).n == n
        assert defenses.FeatureDistillation(steps=[[step] * 8] * 8).steps.unique().tolist() == [step]
    for quality in (1, 100):
        assert jpeg_ensemble.Config(quality=quality, analysed=1, levels=(1e-3,)).quality == quality
    assert jpeg_ensemble.Config(analysed=None, importance="deviation").analysed is None
    assert defensive_distillation.Config(temperature=1, dropout=0, widths=(1, 1, 1)).dropout == 0
    assert defenses.Purifier(1, (1, 1, 1))(IMAGES[:, :1]).shape == (6, 1, 16, 16)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_the_derived_table_has_fine_steps_in_the_strongest_bands() -> None:
    statistics = BandStatistics.none()
    statistics.add(IMAGES)
    made = derive(statistics, n=5, fine=3, coarse=77, passes=2)
    strongest = set(np.argsort(-statistics.deviation.numpy().ravel())[:5].tolist())
    assert {band for band, step in enumerate(made.steps.flatten().tolist()) if step == 3} == strongest
    assert made.steps.flatten().tolist().count(77) == 59
    assert made.passes == 2
    assert torch.equal(made.tables.luma, made.tables.chroma)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_training_feature_distillation_derives_from_all_images(batch_size: int, tmp_path: Path) -> None:
    statistics = BandStatistics.none()
    statistics.add(IMAGES)
    config = feature_distillation.Config(n=9, fine=2, coarse=50, passes=2, batch_size=batch_size)
    made = feature_distillation.train(Run(tmp_path, {}, quiet=True), stored(IMAGES, LABELS), None, config)
    assert torch.equal(made.steps, derive(statistics, 9, 2, 50).steps)
    assert made.passes == 2


def test_deviations_of_bands_are_those_of_hand_made_sums() -> None:
    total, squares = torch.zeros(8, 8, dtype=torch.int64), torch.zeros(8, 8, dtype=torch.int64)
    total[0, 1], squares[0, 1] = 6, 26  # 1, 5: mean 3, deviation 2
    total[3, 0], squares[3, 0] = -8, 32  # −4, −4
    found = BandStatistics(2, total, squares).deviation
    assert float(found[0, 1]) == 2
    assert float(found[3, 0]) == 0


def test_equally_important_bands_are_dealt_in_their_order() -> None:
    importance = torch.zeros(8, 8)
    importance[7, 7] = 1
    luma = favoured_tables(importance, importance, QuantTables.standard(50)).luma.flatten().tolist()
    ascending = sorted(QuantTables.standard(50).luma.flatten().tolist())
    assert luma == [*ascending[1:], ascending[0]]


def test_bands_are_sorted_by_a_stable_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU torch keeps the order of equal numbers only where it is asked for."""
    asked: list[dict[str, Any]] = []
    argsort = Tensor.argsort

    def spy(tensor: Tensor, *given: Any, **options: Any) -> Tensor:
        asked.append(options)
        return argsort(tensor, *given, **options)

    monkeypatch.setattr(Tensor, "argsort", spy)
    favoured_tables(torch.ones(8, 8), torch.ones(8, 8), QuantTables.standard(50))
    assert asked[::2] == [{"descending": True, "stable": True}] * 2


def test_weights_of_members_that_an_ensemble_lacks_are_refused() -> None:
    made = defenses.JPEGEnsemble([[9] * 8] * 8, [[9] * 8] * 8, (1, 2))
    for key in ("members.2.weight", "members.x.weight", "members.-1.weight"):
        with pytest.raises(ValueError, match=f"^checkpoint must hold weights of 2 members, got '{key}'$"):
            made.load_tensors({key: torch.zeros(1)})
    made.load_tensors({"members.0.a.b": torch.zeros(1), "members.1.a.b": torch.ones(1)})
    assert [float(member.state_dict()["a.b"]) for member in made.members] == [0, 1]
    made.load_tensors({})
    assert len(made.members) == 0


def test_squared_coefficients_are_about_the_mean_of_their_image() -> None:
    images = (IMAGES * 255).round() / 255
    coefficients = fdjpeg.encode(images, tables=QuantTables.flat(1), subsampling="4:4:4")
    expected = []
    for part in (coefficients.y, coefficients.cb, coefficients.cr):
        assert part is not None
        blocks = part.double().numpy().reshape(6, 4, 8, 8)
        expected.append(4 * blocks.var(axis=1).sum(axis=0))
    found = squares_of_coefficients(images).numpy()
    np.testing.assert_allclose(found, [expected[0], expected[1] + expected[2]], rtol=1e-12)
    grey = squares_of_coefficients(images[:, :1])
    assert torch.equal(grey[0], grey[1])


@pytest.mark.parametrize("importance", ["gradient", "deviation"])
@pytest.mark.parametrize("analysed", [5, None])
def test_importance_is_measured_on_images_drawn_from_the_seed(
    importance: str, analysed: int | None, tmp_path: Path, classifier: nn.Module
) -> None:
    config = jpeg_ensemble.Config(importance=importance, analysed=analysed, tuning=Schedule(batch_size=2), seed=3)
    images = stored(*patterns(12, SEED))
    found = analyse(Run(tmp_path, {}, quiet=True), images, classifier, config)
    generator = torch.Generator().manual_seed(3)
    places = list(range(12)) if analysed is None else torch.randperm(12, generator=generator)[:5].tolist()
    pixels, labels = images.images[places], images.labels[places]
    if importance == "gradient":
        expected = jpeg_ensemble.gradient_sensitivity(classifier, pixels, labels)
    else:
        expected = squares_of_coefficients(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_blocks_that_an_image_does_not_fill_are_left_out_of_the_importance() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 15 * 12, 3))
    images = torch.rand(1, 3, 15, 12)
    labels = torch.tensor([1])
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), labels), x)
    expected = fdjpeg.block_dct(gradient[:, :, :8, :8].double().sum(dim=1)).abs()[0, 0, 0]
    torch.testing.assert_close(jpeg_ensemble.gradient_sensitivity(model, images, labels)[0], expected)


# --- JPEG -------------------------------------------------------------------------------------------------------------


def test_jpeg_defences_are_fdjpegs_layers() -> None:
    assert torch.equal(defenses.JPEG(40, "4:2:2")(IMAGES), fdjpeg.jpeg(IMAGES, 40, subsampling="4:2:2"))
    for defense, layer in (
        (defenses.RandomJPEG(20, 60, "4:4:4"), fdjpeg.RandomJPEG((20, 60), subsampling="4:4:4")),
        (defenses.StochasticJPEG((10, 90), "4:2:2"), fdjpeg.StochasticJPEG((10, 90), subsampling="4:2:2")),
    ):
        torch.manual_seed(SEED)
        expected = layer(IMAGES)
        torch.manual_seed(SEED)
        assert torch.equal(defense(IMAGES), expected)
    made = defenses.RandomJPEG(20, 60, "4:4:4")
    assert made.config() == {"least": 20, "greatest": 60, "subsampling": "4:4:4"}


def test_jpeg_defences_keep_their_sources_qualities() -> None:
    assert defenses.StochasticJPEG().config() == {"qualities": [20, 40, 60, 80], "subsampling": "4:2:0"}
    assert defenses.RandomJPEG().config() == {"least": 30, "greatest": 95, "subsampling": "4:2:0"}


@pytest.mark.parametrize("kind", [defenses.JPEG, defenses.RandomJPEG, defenses.StochasticJPEG])
def test_another_subsampling_is_refused_when_a_defence_is_made(kind: Any) -> None:
    with pytest.raises(ValueError, match="subsampling"):
        kind(subsampling="4:3:2")


def test_the_surrogate_is_straight_through_unless_another_is_asked_for() -> None:
    defense = defenses.JPEG(75)
    assert defense.surrogate == "straight-through"
    changed = defense.attacked(nn.Identity(), "cubic")[0]  # type: ignore[index]
    assert changed.surrogate == "cubic"
    assert defense.gradient is None


def test_a_copy_with_a_gradient_shares_weights_and_no_table_of_names() -> None:
    defense = defenses.Purifier(3, (4, 6, 8))
    defense.register_buffer("note", torch.zeros(1))
    changed: Any = defense.attacked(nn.Identity(), "identity")[0]  # type: ignore[index]
    assert changed.autoencoder is defense.autoencoder
    changed.autoencoder = nn.Identity()
    changed.note = torch.ones(1)
    changed.extra = nn.Parameter(torch.zeros(1))
    assert isinstance(defense.autoencoder, ConvAutoencoder)
    assert float(defense.note) == 0  # type: ignore[arg-type]
    assert "extra" not in dict(defense.named_parameters())


def test_straight_through_has_one_value_and_the_others_gradient() -> None:
    images, changed = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([5.0, 7.0], requires_grad=True)
    out = straight_through(images, changed)
    assert out.tolist() == [5.0, 7.0]
    (3 * out).sum().backward()
    assert images.grad is not None
    assert images.grad.tolist() == [3.0, 3.0]
    assert changed.grad is None


def test_weights_hold_a_state_dict_by_its_names() -> None:
    state = {"a": torch.rand(2), "b.c": torch.rand(3), "b.d.e": torch.rand(1)}
    held = Weights(state).state_dict()
    assert set(held) == set(state)
    assert all(torch.equal(held[name], value) for name, value in state.items())
    assert device_of(Weights({"a": torch.zeros(1, device="meta")})) == torch.device("meta")
    assert device_of(nn.Identity()) == torch.device("cpu")


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_weights_are_loaded_all_or_none(change: str) -> None:
    module = nn.Linear(2, 2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    tensors = {"weight": torch.ones(2, 2), "bias": torch.ones(3 if change == "shape" else 2)}
    if change == "missing":
        del tensors["bias"]
    if change == "surplus":
        tensors["scale"] = torch.ones(1)
    with pytest.raises(ValueError, match="checkpoint must fit a layer"):
        load_state(module, tensors, "a layer")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# --- files ------------------------------------------------------------------------------------------------------------


def test_only_drafts_are_removed(tmp_path: Path) -> None:
    kept = [".defense.safetensors", ".hidden", "1.x.json", ".a.x.json", ".1.x.txt", "defense.safetensors"]
    drafts = [".123.defense.safetensors", ".9.run.json"]
    for name in (*kept, *drafts):
        (tmp_path / name).touch()
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / ".1.a.safetensors").touch()
    checkpoint.remove_drafts(tmp_path, tmp_path / "stages", tmp_path / "none")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "stages"])
    assert os.listdir(tmp_path / "stages") == []


def test_a_written_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    file = defenses.save(defenses.JPEG(30), tmp_path / "a" / "b")
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert file == tmp_path / "a" / "b" / "defense.safetensors"
    named = defenses.save(defenses.JPEG(30), tmp_path / "mine.safetensors")
    assert named == tmp_path / "mine.safetensors"
    loaded = defenses.load(named)
    assert not loaded.training
    assert repr(loaded) == "JPEG(quality=30, subsampling='4:2:0')"


def test_tensors_that_share_memory_and_are_strided_are_written(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    given = {"a": base, "b": base.T, "c": nn.Parameter(base[1])}
    checkpoint.write_tensors(tmp_path / "x.safetensors", given, {"n": [1, None, {"a": "b"}]})
    tensors, metadata = checkpoint.read_tensors(tmp_path / "x.safetensors")
    assert all(torch.equal(tensors[name], value) for name, value in given.items())
    assert metadata == {"n": [1, None, {"a": "b"}]}
