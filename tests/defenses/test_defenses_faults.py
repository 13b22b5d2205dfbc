"""Other people's classifiers, full disks and broken files: each is named in one sentence, and no half file remains."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import defense_data
from support.defense_data import SETTINGS, folder_of, full_disk, patterns, stored
from torch import Tensor, nn

import fdjpeg
from fdjpeg import defenses
from fdjpeg.cli.main import main
from fdjpeg.defenses import checkpoint, differentiable, jpeg_ensemble, of_module
from fdjpeg.defenses.base import copied
from fdjpeg.defenses.training.classifier import check_classifier
from fdjpeg.defenses.training.images import load_training_images
from fdjpeg.defenses.training.run import Run
from fdjpeg.sources import Network

#: Weights and draws without a seed of their own follow from the name of the test.
pytestmark = pytest.mark.usefixtures("rng")

IMAGES = stored(*patterns(8, 0))


class Made(nn.Module):
    """A classifier of four classes whose logits a function changes."""

    def __init__(self, change: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.network = defense_data.network()
        self.change = change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.network(images), images)


def with_loss(logits: Tensor, images: Tensor) -> Any:
    return logits, logits.sum()


def named_logits(logits: Tensor, images: Tensor) -> Any:
    return {"logits": logits}


def of_nan(logits: Tensor, images: Tensor) -> Tensor:
    return logits * torch.tensor([1, 1, 1, torch.nan])


def in_place(logits: Tensor, images: Tensor) -> Tensor:
    images.sub_(0.5)
    return logits


class Beforehand(nn.Module):
    """A classifier that normalises its images in place, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.network = defense_data.network()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.sub_(0.5).div_(0.25))
        return logits


def raising(logits: Tensor, images: Tensor) -> Tensor:
    raise KeyError("mask")


#: Classifiers with which nothing can be trained, and what the refusal says.
WRONG: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "tuple": (lambda: Made(with_loss), "model must return a tensor of logits, got mine, which returns a tuple"),
    "dict": (lambda: Made(named_logits), "model must return a tensor of logits, got mine, which returns a dict"),
    "none": (lambda: Made(lambda y, x: None), "got mine, which returns a NoneType"),
    "list": (lambda: Made(lambda y, x: list(y)), "got mine, which returns a list"),
    "classes": (lambda: Made(lambda y, x: y.argmax(dim=1)), r"logits \(2, classes\) for 2 images, got shape \(2,\)"),
    "one image": (
        lambda: Made(lambda y, x: y[:1]),
        r"logits \(2, classes\) for 2 images, got shape \(1, 4\) from mine",
    ),
    "flat": (lambda: Made(lambda y, x: y.view(1, -1)), r"logits \(2, classes\) for 2 images, got shape \(1, 8\)"),
    "pixels": (lambda: Made(lambda y, x: y[:, :, None, None]), r"got shape \(2, 4, 1, 1\) from mine"),
    "integers": (lambda: Made(lambda y, x: (100 * y).int()), "logits of a floating dtype, got torch.int32 from mine"),
    "booleans": (lambda: Made(lambda y, x: y > 0), "logits of a floating dtype, got torch.bool from mine"),
    "one class": (lambda: Made(lambda y, x: y[:, :1]), "model must have at least two classes, got mine with 1"),
    "no class": (lambda: Made(lambda y, x: y[:, :0]), "model must have at least two classes, got mine with 0"),
    "few classes": (lambda: Made(lambda y, x: y[:, :3]), "0…2 for a model of 3 classes, got 0…3"),
    "NaN": (lambda: Made(of_nan), "model must return finite logits, got NaN or infinity from mine"),
    "infinity": (lambda: Made(lambda y, x: y / 0), "model must return finite logits, got NaN or infinity from mine"),
    "probabilities": (lambda: Made(lambda y, x: y.softmax(1)), "logits, got probabilities"),
    "in place": (Beforehand, "model must leave its images as they are, got mine, which changes them in place"),
    "in place later": (lambda: Made(in_place), "got mine, which changes them in place"),
    "raises": (lambda: Made(raising), r"model must take images of 3 × 16 × 16, got mine, which does not: 'mask'"),
    "float64": (lambda: defense_data.network().double(), "model must take images of 3 × 16 × 16, got mine"),
    "channels": (lambda: nn.Sequential(nn.Conv2d(1, 4, 16), nn.Flatten()), "model must take images of 3 × 16 × 16"),
    "size": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), "model must take images of 3 × 16 × 16"),
    "detached": (lambda: Made(lambda y, x: y.detach()), "got mine, whose logits have no gradient"),
    "of bytes": (lambda: nn.Sequential(Bytes(), defense_data.network()), "got mine, whose logits have no gradient"),
    "steep": (
        lambda: Made(lambda y, x: y + (x * 0).sum((1, 2, 3)).sqrt()[:, None]),
        "model must have a finite gradient",
    ),
    "a lock": (lambda: Locked(), "module must be one that can be copied, got Locked"),
}


class Bytes(nn.Module):
    """Rounds to bytes, which have no derivative."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 255).byte().float() / 255


class Locked(nn.Module):
    """Holds something that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.file = open(os.devnull)  # noqa: SIM115
        self.network = defense_data.network()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", list(WRONG))
def test_a_classifier_that_cannot_serve_is_named(kind: str, tmp_path: Path) -> None:
    make, message = WRONG[kind]
    with pytest.raises(ValueError, match=message):
        defenses.train(
            "s2snet", IMAGES, tmp_path / "out", settings=SETTINGS["s2snet"], network=Network(make(), "mine"), quiet=True
        )
    assert not (tmp_path / "out").exists()


def test_two_classes_suffice() -> None:
    two = stored(IMAGES.images, IMAGES.labels % 2)
    network = Network(Made(lambda logits, images: logits[:, :2]).eval(), "mine")
    check_classifier(network, two, differentiable=True)
    image = IMAGES.images[:1]
    assert of_module(network.module, "mine", image=image).gradients == ("own",)


def test_a_classifier_may_lack_a_gradient_where_none_is_needed() -> None:
    made = nn.Sequential(Bytes(), defense_data.network())
    check_classifier(Network(made, "mine"), IMAGES, differentiable=False)
    check_classifier(Network(defense_data.network().eval(), "mine"), IMAGES, differentiable=True)
    check_classifier(Network(defense_data.network().eval(), "mine"), IMAGES.select([0]), differentiable=True)


def tuple_network() -> nn.Module:
    return Made(with_loss)


def test_the_command_says_it_in_one_sentence(
    npz: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    model = "test_defenses_faults:tuple_network"
    with pytest.raises(SystemExit) as caught:
        main(["train", "purifier", "--config", "small", "--data", npz, "--model", model, "--out", str(tmp_path / "o")])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert f"model must return a tensor of logits, got {model}, which returns a tuple" in said
    assert "Traceback" not in said


def test_images_of_one_class_train_no_network_from_scratch(tmp_path: Path) -> None:
    settings = SETTINGS["defensive-distillation"]
    one = stored(patterns(8, 0)[0], torch.zeros(8, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels must be of at least two classes where no model is given, got only 0"):
        defenses.train("defensive-distillation", one, tmp_path, settings=settings, quiet=True)


def test_a_gradient_that_is_not_finite_deals_out_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spy(classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return torch.full((2, 8, 8), torch.nan, dtype=torch.float64)

    monkeypatch.setattr(jpeg_ensemble, "gradient_sensitivity", spy)
    run = Run(tmp_path, {}, quiet=True)
    with pytest.raises(ValueError, match="model must have a finite gradient for every image analysed"):
        jpeg_ensemble.analyse(run, IMAGES, defense_data.network(), jpeg_ensemble.Config())


# --- copies -----------------------------------------------------------------------------------------------------------


class Computed(nn.Module):
    """A layer with a buffer and an attribute that were computed from a parameter, which torch does not copy."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("twice", 2 * self.scale)
        self.plain = self.scale + 1

    def forward(self, images: Tensor) -> Tensor:
        return images * self.twice  # type: ignore[operator]


def test_computed_tensors_are_copied_detached() -> None:
    made = Computed()
    other = copied(made)
    assert other.twice.item() == 1.0  # type: ignore[operator]
    assert other.plain.item() == 1.5
    assert not other.twice.requires_grad  # type: ignore[union-attr]
    assert other.twice is not made.twice
    assert other.scale is not made.scale
    assert made.twice.requires_grad  # type: ignore[union-attr]
    whole = nn.Sequential(made, fdjpeg.JPEG(75))
    assert differentiable(whole, "cubic") is not whole


def test_a_classifier_with_computed_buffers_can_be_defended(tmp_path: Path) -> None:
    classifier = nn.Sequential(Computed(), defense_data.network()).eval()
    ensemble = defenses.JPEGEnsemble(
        defense_data.LUMA, defense_data.CHROMA, (1.0,), [{k: v.detach() for k, v in classifier.state_dict().items()}]
    )
    assert ensemble.deployed(classifier)(IMAGES.images).shape == (8, 4)
    check_classifier(Network(classifier, "mine"), IMAGES, differentiable=True)


# --- layers of other people -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x, x), "defense mine must return a tensor of floats, images or logits, got tuple"),
        (lambda x: x.mul_(0.5), "defense mine must leave its input as it is, got one that changes it in place"),
        (
            lambda x: (x * 255).byte(),
            r"defense mine must return a tensor of floats, images or logits, got torch\.uint8",
        ),
        (
            lambda x: x.view(2, -1),
            r"defense mine must return images of the shape that it gets, .*, got \(2, 384\) for \(1, 3, 16, 16\)",
        ),
        (
            lambda x: x.flatten(1)[:, :1],
            r"defense mine must return logits .* of at least two classes, got 1",
        ),
        (lambda x: x[..., :3], r"defense mine must return images of the shape that it gets, or logits"),
        (
            lambda x: x.nothing,
            r"defense mine must take float32 images of shape .* got AttributeError",
        ),
    ],
)
def test_a_layer_that_cannot_serve_is_named(change: Callable[[Tensor], Any], message: str) -> None:
    class Layer(nn.Module):
        def forward(self, images: Tensor) -> Any:
            return change(images)

    image = IMAGES.images[:1].clone()
    with pytest.raises(ValueError, match=message):
        of_module(Layer().eval(), "mine", image=image)
    assert torch.equal(image, IMAGES.images[:1])


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path) -> None:
    file = defenses.save(defenses.JPEG(30), tmp_path)
    before = file.read_bytes()
    message = r"out must be a folder that can be written, got '.*': .*File too large"
    with full_disk(), pytest.raises(ValueError, match=message):
        defenses.save(defenses.Purifier(3, (4, 6, 8)), tmp_path)
    assert os.listdir(tmp_path) == [file.name]
    assert file.read_bytes() == before
    with full_disk(), pytest.raises(ValueError, match=message), checkpoint.whole_file(tmp_path / "x.json") as draft:
        draft.write_text(100 * "x")
    assert os.listdir(tmp_path) == [file.name]


def test_no_temporary_folder_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    root = folder_of(*patterns(8, seed=0), tmp_path / "tree")
    images = load_training_images(str(root), 16)
    made: Any = defenses.train("feature-distillation", images, tmp_path / "out", quiet=True)
    assert sorted(set(made.steps.flatten().tolist())) == [1, 40]


def test_settings_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"out must be a folder whose run\.json can be read, got"):
        Run(tmp_path, {}, quiet=True)


def test_weights_that_are_not_finite_are_not_loaded(tmp_path: Path) -> None:
    defense = defenses.Purifier(3, (4, 6, 8))
    with torch.no_grad():
        defense.autoencoder.encoder[0].weight[0] = torch.nan  # type: ignore[operator,index]
    defenses.save(defense, tmp_path)
    with pytest.raises(ValueError, match=r"must hold finite weights, got '.*', where 'autoencoder.encoder.0.weight'"):
        defenses.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("purifier", {"widths": [4, 6]}),
        ("purifier", {"widths": [-4, 6, 8]}),
        ("purifier", {"widths": None}),
        ("purifier", {"channels": "three"}),
        ("jpeg", {"quality": "high"}),
        ("jpeg", ["quality"]),
        ("jpeg-ensemble", {"luma": 1, "chroma": 1}),
        ("jpeg-ensemble", {"luma": [], "chroma": [[]]}),
        ("defensive-distillation", {"temperature": None}),
        ("stochastic-jpeg", {"qualities": 3}),
        ("feature-distillation", {"steps": "paper"}),
    ],
)
def test_settings_of_another_type_are_named(kind: str, config: Any, tmp_path: Path) -> None:
    metadata = {"format": checkpoint.FORMAT, "defense": kind, "config": config}
    checkpoint.write_tensors(tmp_path / "x.safetensors", {}, metadata)
    with pytest.raises(ValueError, match=f"path must hold the settings of {kind}, got '.*x.safetensors'"):
        defenses.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("names", [[""], ["student"], ["student.a", "student.a.b"], ["student."], ["student.training"]])
def test_names_that_torch_refuses_are_named(names: list[str], tmp_path: Path) -> None:
    metadata = {"format": checkpoint.FORMAT, "defense": "defensive-distillation", "config": {}}
    checkpoint.write_tensors(tmp_path / "x.safetensors", dict.fromkeys(names, torch.zeros(1)), metadata)
    try:
        defenses.load(tmp_path / "x.safetensors").deployed(defense_data.network())
    except ValueError as error:
        assert "must hold the tensors of its settings" in str(error) or "checkpoint must fit" in str(error)  # noqa: PT017
    else:
        pytest.fail("taken")


def test_damaged_files_are_refused_or_read(tmp_path: Path, rng: np.random.Generator) -> None:
    file = defenses.save(defense_data.examples()["jpeg-ensemble"], tmp_path)
    whole = file.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            damaged[int(rng.integers(8 + length))] = int(rng.integers(256))
        if rng.random() < 0.2:
            del damaged[int(rng.integers(len(damaged))) :]
        file.write_bytes(damaged)
        try:
            defenses.load(file)
        except ValueError as error:
            assert str(file) in str(error)  # noqa: PT017
            refused += 1
    assert refused > 200
    deep = {**header["__metadata__"], "config": 100_000 * "["}
    text = json.dumps({**header, "__metadata__": deep}).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
    with pytest.raises(ValueError, match="path must be a safetensors file of fdjpeg"):
        defenses.load(file)
