"""Recipes: what a training depends on, what it is given, and how settings are read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support import defense_data
from support.defense_data import folder_of, patterns, stored
from torch import Tensor, nn

import fdjpeg
from fdjpeg import defenses
from fdjpeg.defenses import checkpoint, feature_distillation, purifier, recipes
from fdjpeg.defenses.training import config
from fdjpeg.defenses.training import images as training_images
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import load_training_images
from fdjpeg.defenses.training.objective import Chance, Objective
from fdjpeg.defenses.training.run import PRECISIONS, Run
from fdjpeg.sources import Network

#: Weights and draws without a seed of their own follow from the name of the test.
pytestmark = pytest.mark.usefixtures("rng")

IMAGES = stored(*patterns(8, 0))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The purifier's recipe replaced by one that notes its arguments and trains nothing."""
    noted: list[tuple[Any, ...]] = []

    def spy(*arguments: Any) -> defenses.Defense:
        noted.append(arguments)
        return defenses.Purifier(3, (4, 6, 8))

    changed = dataclasses.replace(recipes.RECIPES["purifier"], train=spy)
    monkeypatch.setitem(recipes.RECIPES, "purifier", changed)
    return noted


def test_a_recipe_gets_a_frozen_copy_of_the_classifier(given: list[tuple[Any, ...]], tmp_path: Path) -> None:
    module = defense_data.network().train()
    settings = purifier.Config(seed=5, validation=0.25)
    network = Network(module, "mine")
    made = defenses.train("purifier", IMAGES, tmp_path, settings=settings, network=network, quiet=True)
    ((run, images, classifier, passed),) = given
    assert (run.seed, run.validation, images, passed) == (5, 0.25, IMAGES, settings)
    assert classifier is not module
    assert not any(part.training for part in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert all(part.training for part in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not made.training
    expected = {
        "defense": "purifier",
        "config": json.loads(json.dumps(dataclasses.asdict(settings))),
        "images": {"source": IMAGES.source, "digest": IMAGES.digest},
        "network": {"name": "mine", "digest": network.digest()},
        "precision": "32-true",
        "fdjpeg": fdjpeg.__version__,
    }
    assert json.loads((tmp_path / "run.json").read_text()) == expected
    assert json.loads((tmp_path / "training.json").read_text()) == {**expected, "history": {}}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"settings": purifier.Config(noise=0.2)}, "config.noise is 0.1, not 0.2"),
        ({"settings": purifier.Config(normal=Schedule(50, 64, 3e-3))}, "config.normal.batch_size is 128, not 64"),
        ({"images": IMAGES.select([0, 1, 2, 3, 4, 5, 7])}, "images.digest is"),
        ({"precision": "bf16-mixed"}, "precision is '32-true', not 'bf16-mixed'"),
        ({"network": Network(nn.Sequential(defense_data.network()), "mine")}, "network.digest is"),
        ({"network": Network(defense_data.network(), "other")}, "network.name is 'mine', not 'other'"),
    ],
)
@pytest.mark.usefixtures("given")
def test_a_folder_is_of_one_run(change: dict[str, Any], key: str, tmp_path: Path) -> None:
    same: dict[str, Any] = {
        "images": IMAGES,
        "out": tmp_path,
        "settings": purifier.Config(),
        "network": Network(defense_data.network(), "mine"),
        "quiet": True,
    }
    defenses.train("purifier", **same)
    defenses.train("purifier", **same)
    with pytest.raises(ValueError, match=f"without another run, got .*, where {key}"):
        defenses.train("purifier", **{**same, **change})


def test_options_are_passed_to_the_run(given: list[tuple[Any, ...]], tmp_path: Path) -> None:
    network = Network(defense_data.network(), "mine")
    for workers, quiet in ((2, True), (0, False)):
        defenses.train(
            "purifier",
            IMAGES,
            tmp_path / str(workers),
            settings=purifier.Config(),
            network=network,
            workers=workers,
            quiet=quiet,
        )
    assert [(run.workers, run.quiet) for run, *_ in given] == [(2, True), (0, False)]
    for option, message in (
        ({"device": "tpu"}, 'device must be "auto", "cpu" or, where torch has it, "cuda", got \'tpu\''),
        ({"precision": "8"}, "precision must be one of 32-true, bf16-mixed, got '8'"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            defenses.train("feature-distillation", IMAGES, tmp_path / "none", **option)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


def test_settings_without_chance_have_seed_0_and_hold_out_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Run] = []

    def spy(run: Run, *_: Any) -> defenses.Defense:
        runs.append(run)
        return defenses.FeatureDistillation("paper")

    changed = dataclasses.replace(recipes.RECIPES["feature-distillation"], train=spy)
    monkeypatch.setitem(recipes.RECIPES, "feature-distillation", changed)
    defenses.train("feature-distillation", IMAGES, tmp_path, quiet=True)
    assert [(run.seed, run.validation) for run in runs] == [(0, 0.0)]


def test_arguments_that_cannot_be_are_refused_before_any_work(tmp_path: Path) -> None:
    negative = dataclasses.replace(IMAGES, labels=IMAGES.labels - 1)
    wrong: Any = defense_data.network()
    for arguments, kind, message in (
        ({"network": wrong}, TypeError, "network must be a Network or None, got Sequential"),
        ({"images": negative}, ValueError, "labels must be at least 0, got -1"),
        ({"out": 3}, TypeError, "out must be a path, got 3"),
        ({"kind": "jpeg"}, ValueError, "defense must be one of feature-distillation, .*, got 'jpeg'"),
        ({"kind": ["purifier"]}, ValueError, r"defense must be one of .*, got \['purifier'\]"),
    ):
        same: dict[str, Any] = {"kind": "feature-distillation", "images": IMAGES, "out": tmp_path / "out"}
        with pytest.raises(kind, match=f"^{message}$"):
            defenses.train(**{**same, **arguments})
    assert not (tmp_path / "out").exists()


def test_a_second_call_trains_nothing(given: list[tuple[Any, ...]], tmp_path: Path) -> None:
    for _ in range(2):
        network = Network(defense_data.network(), "mine")
        defenses.train("purifier", IMAGES, tmp_path, settings=purifier.Config(), network=network, quiet=True)
    assert len(given) == 1


def test_a_classifier_that_is_not_needed_is_not_kept(tmp_path: Path) -> None:
    network = Network(defense_data.network(), "mine")
    defenses.train("feature-distillation", IMAGES, tmp_path, network=network, quiet=True)
    assert json.loads((tmp_path / "run.json").read_text())["network"] is None


def test_a_killed_run_that_had_saved_its_defence_ends_well(given: list[tuple[Any, ...]], tmp_path: Path) -> None:
    network = Network(defense_data.network(), "mine")
    arguments: dict[str, Any] = {"settings": purifier.Config(), "network": network, "quiet": True}
    defenses.train("purifier", IMAGES, tmp_path, **arguments)
    (tmp_path / "training.json").unlink()  # it is written last
    defenses.train("purifier", IMAGES, tmp_path, **arguments)
    assert len(given) == 2
    assert (tmp_path / "training.json").exists()
    assert checkpoint.read_tensors(tmp_path / checkpoint.FILE)[1]["config"] == {"channels": 3, "widths": [4, 6, 8]}


# --- images and precision ---------------------------------------------------------------------------------------------


class Linear(Objective):
    """A linear network that notes the dtypes of its images and of its output."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(768, 1))
        self.seen: set[tuple[torch.dtype, torch.dtype]] = set()

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        out = self.trained(images.flatten(1))
        self.seen.add((images.dtype, out.dtype))
        return out.float().square().mean()


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_images_are_float32_whatever_the_precision(precision: str, dtype: torch.dtype, tmp_path: Path) -> None:
    assert precision in PRECISIONS
    objective = Linear()
    run = Run(tmp_path, {}, precision=precision, validation=0.25, quiet=True)
    run.fit("stage", objective, IMAGES, Schedule(epochs=1, batch_size=4))
    assert objective.seen == {(torch.float32, dtype)}


def test_a_folder_is_read_again_in_every_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(*patterns(8, seed=0), tmp_path / "tree")
    read: Counter[Path] = Counter()
    open_image = training_images.open_image

    def spy(file: Path, size: int) -> Tensor:
        read[file] += 1
        return open_image(file, size)

    monkeypatch.setattr(training_images, "open_image", spy)
    images = load_training_images(str(root), 16)
    assert images.shape == (3, 16, 16)
    assert not read
    Run(tmp_path / "out", {}, quiet=True).fit("stage", Linear(), images, Schedule(epochs=3, batch_size=8))
    assert len(read) == 8
    assert set(read.values()) == {3}
    assert load_training_images(str(root)).shape == (3, 224, 224)
    assert images.source == "8 images of 4 class folders in tree"
    assert images.digest != load_training_images(str(root), 32).digest
    assert images.digest == load_training_images(str(root), 16).digest
    extra = folder_of(*patterns(9, seed=0), tmp_path / "tree")
    assert images.digest != load_training_images(str(extra), 16).digest


@pytest.mark.parametrize("place", [0, 2000, 9999], ids=["first", "within 4 KiB", "last"])
def test_another_image_of_the_same_name_and_size_is_another_fingerprint(tmp_path: Path, place: int) -> None:
    file = tmp_path / "class" / "image.bmp"
    file.parent.mkdir()
    content = bytearray(10_000)
    file.write_bytes(content)
    before = load_training_images(str(tmp_path), 16).digest
    content[place] ^= 1
    file.write_bytes(content)
    assert load_training_images(str(tmp_path), 16).digest != before


def test_a_folder_is_known_by_its_files_names_lengths_and_the_4_kib_at_their_ends(tmp_path: Path) -> None:
    """Stored runs are found by this fingerprint; with another one finished work would be done again."""
    content = bytes(range(250)) * 40
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "image.bmp").write_bytes(content)
    known = b"16" + b"class/image.bmp 10000\n" + content[:4096] + content[-4096:]
    assert load_training_images(str(tmp_path), 16).digest == hashlib.sha256(known).hexdigest()[:16]


def test_a_selection_has_a_fingerprint_of_sixteen_digits() -> None:
    digests = [IMAGES.digest, *(IMAGES.select(places).digest for places in ([0, 1], [1, 0], [0]))]
    assert [len(digest) for digest in digests] == [16] * 4
    assert len(set(digests)) == 4
    assert IMAGES.select([0, 1]).digest == IMAGES.select([0, 1]).digest


def test_a_bar_shows_stage_and_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        with Run(tmp_path, {}, quiet=quiet).bar("normal", 5, 2) as advance:
            advance("epoch 1")
        said = capsys.readouterr()
        assert said.out == ""
        assert ("normal" in said.err and "3/5 epoch 1" in said.err) != quiet


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widths: [4, 6]", "widths must be a list of 3"),
        ("widths: abc", "widths must be a list, got 'abc'"),
        ("widths: [4, 6, eight]", "widths must be a whole number, got 'eight'"),
        ("widths: [4, 6, 8.5]", "widths must be a whole number, got 8.5"),
        ("quality: [20, 50, 80]", "quality must be a list of 2, got [20, 50, 80]"),
        ("noise: true", "noise must be a number, got True"),
        ("noise: 1/0", "noise must be a number, got '1/0'"),
        ("noise: [1]", "noise must be a number, got [1]"),
        ("seed: 1.5", "seed must be a whole number, got 1.5"),
        ("seed: null", "seed must be a whole number, got None"),
        ("normal: {patience: soon}", "normal.patience must be a whole number, got 'soon'"),
        ("normal: {augment: 3}", "normal.augment must be a name, got 3"),
        ("normal: null", "normal must hold keys and values, got None"),
        ("text", "the file must hold keys and values, got 'text'"),
    ],
)
def test_values_of_another_kind_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config .*mine\.yaml") as caught:
        config.read(purifier.Config, str(tmp_path / "mine.yaml"), "purifier")
    assert message in str(caught.value)


def test_values_become_the_types_of_their_fields(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("noise: 1\neps: 3/4\nwidths: [4, 6, 8]\nnormal: {patience: 2}\nseed: 7")
    found = config.read(purifier.Config, str(tmp_path / "mine.yaml"), "purifier")
    assert found == purifier.Config(7, noise=1.0, eps=0.75, widths=(4, 6, 8), normal=Schedule(patience=2))
    assert isinstance(found.noise, float)
    (tmp_path / "empty.yaml").write_text("")
    assert config.read(purifier.Config, str(tmp_path / "empty.yaml"), "purifier") == purifier.Config()
    (tmp_path / "none.yaml").write_text("student: {patience: null}")
    assert config.read(purifier.Config, str(tmp_path / "none.yaml"), "purifier").student.patience is None
    packaged = config.read(feature_distillation.Config, "cifar10", "feature-distillation")
    assert packaged == feature_distillation.Config(batch_size=500)


def test_a_key_without_a_default_must_be_given() -> None:
    @dataclass
    class Needed:
        n: int
        m: int = 0

    assert config.build(Needed, {"n": 1}) == Needed(1)
    with pytest.raises(ValueError, match=r"outer\.n must be given, got no such key"):
        config.build(Needed, {"m": 1}, "outer.")
