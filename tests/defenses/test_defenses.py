"""Defences as modules: their outputs, the gradients that attackers get, and saved files."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image
from support import defense_data
from support.defense_data import CHROMA, LUMA, SEED, accuracy, needs_foolbox
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables, defenses
from fdjpeg.defenses import Defense, checkpoint
from fdjpeg.defenses.defensive_distillation import DistillationNet
from fdjpeg.defenses.feature_distillation import BandStatistics, derive
from fdjpeg.defenses.jpeg_ensemble import MeanLogProbability, Vote, favoured_tables, gradient_sensitivity
from fdjpeg.defenses.s2snet import ARCHITECTURES, SegNetAutoencoder, gradient_cosine

EXAMPLES = defense_data.examples()


# --- what all have in common ------------------------------------------------------------------------------------------


def test_every_kind_has_an_example() -> None:
    assert {type(defense).kind for defense in EXAMPLES.values()} == set(defenses.DEFENSES)


@torch.no_grad()
@pytest.mark.parametrize("name", list(EXAMPLES))
def test_logits_come_from_what_the_classifier_sees(name: str, classifier: nn.Module, images: Tensor) -> None:
    defense = EXAMPLES[name].eval()
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    kept = images.clone()
    torch.manual_seed(0)
    seen = defense(images)
    assert seen.shape == images.shape
    assert float(seen.min()) >= 0
    assert float(seen.max()) <= 1
    deployed = defense.deployed(classifier)
    torch.manual_seed(0)
    logits = deployed(images)
    assert logits.shape[0] == 6
    assert not any(part.training for part in deployed.modules())
    if seen is not images:
        assert torch.equal(logits, classifier(seen))
    assert torch.equal(images, kept)
    for key, value in classifier.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_each_gradient_reaches_the_images_and_leaves_the_defence_as_it_is(
    name: str, classifier: nn.Module, images: Tensor
) -> None:
    defense = EXAMPLES[name].eval()
    found = {}
    for gradient in defense.gradients:
        x = images.clone().requires_grad_()
        torch.manual_seed(0)
        logits = defense.attacked(classifier, gradient)(x)
        (found[gradient],) = torch.autograd.grad(logits[:, 0].sum(), x)
        assert found[gradient].abs().sum() > 0
        assert defense.gradient is None
        torch.manual_seed(0)
        expected = defense(images)
        torch.manual_seed(0)
        torch.testing.assert_close(defense._through(gradient)(images), expected, rtol=0, atol=1e-6)
    first, *others = found.values()
    assert all(not torch.equal(first, other) for other in others) or name == "jpeg"  # see below
    with pytest.raises(ValueError, match="nothing"):
        defense.attacked(classifier, "nothing")


@pytest.mark.parametrize("name", ["feature-distillation", "code", "derived", "jpeg-ensemble"])
def test_the_identity_is_not_a_separate_attack_at_444(name: str, classifier: nn.Module, images: Tensor) -> None:
    defense = EXAMPLES[name].eval()
    assert defense.gradients == ("straight-through", "cubic")
    found = []
    for gradient in ("identity", "straight-through"):
        x = images.clone().requires_grad_()
        logits = defense.attacked(classifier, gradient)(x)
        found += torch.autograd.grad(logits[:, 0].sum(), x)
    # These images hardly reach the last clamp, in which alone the two differ.
    assert float((found[0] - found[1]).abs().mean()) < 1e-2 * float(found[0].abs().mean())


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_a_saved_defence_is_the_same(name: str, classifier: nn.Module, images: Tensor, tmp_path: Path) -> None:
    defense = EXAMPLES[name].eval()
    file = defenses.save(defense, tmp_path / "there")
    assert file == tmp_path / "there" / "defense.safetensors"
    assert os.listdir(tmp_path / "there") == [file.name]
    loaded = defenses.load(tmp_path / "there")
    assert type(loaded) is type(defense)
    assert loaded.config() == defense.config()
    for gradient in (None, *defense.gradients):
        ours, theirs = (
            part.deployed(classifier) if gradient is None else part.attacked(classifier, gradient)
            for part in (defense, loaded)
        )
        torch.manual_seed(0)
        expected = ours(defense.entered(images))
        torch.manual_seed(0)
        assert torch.equal(theirs(loaded.entered(images)), expected)
    metadata = checkpoint.read_tensors(file)[1]
    assert metadata["defense"] == defense.kind
    assert metadata["fdjpeg"] == fdjpeg.__version__
    assert metadata["config"] == json.loads(json.dumps(defense.config()))


@pytest.mark.parametrize("name", ["jpeg-ensemble", "defensive-distillation"])
def test_weights_for_another_architecture_are_refused(name: str) -> None:
    other = nn.Sequential(nn.Conv2d(3, 16, 5), nn.Flatten(), nn.LazyLinear(4))
    other(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"checkpoint must fit .*'(3|2)\..*: it is of another architecture"):
        EXAMPLES[name].deployed(other)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    defenses.save(defenses.Purifier(3, (4, 6, 8)), tmp_path)
    tensors, metadata = checkpoint.read_tensors(tmp_path / checkpoint.FILE)
    metadata["config"]["widths"] = [4, 6, 9]
    checkpoint.write_tensors(tmp_path / checkpoint.FILE, tensors, metadata)
    message = r"got .*defense\.safetensors.*'autoencoder\.encoder\.4\.weight' has shape \(9, 6, 3, 3\), got \(8, 6"
    with pytest.raises(ValueError, match=message):
        defenses.load(tmp_path)


def test_files_that_are_not_saved_defences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which does not exist"):
        defenses.load(tmp_path)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ValueError, match="must be a safetensors file of fdjpeg"):
        defenses.load(tmp_path / "text.safetensors")
    checkpoint.write_tensors(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {"format": "other/1"})
    with pytest.raises(ValueError, match="must be a defence that fdjpeg saved"):
        defenses.load(tmp_path / "other.safetensors")
    checkpoint.write_tensors(
        tmp_path / "later.safetensors", {}, {"format": checkpoint.FORMAT, "defense": "later", "config": {}}
    )
    with pytest.raises(ValueError, match=r"path must hold one of .*\bjpeg\b.*, got '.*' with 'later'"):
        defenses.load(tmp_path / "later.safetensors")
    checkpoint.write_tensors(
        tmp_path / "settings.safetensors", {}, {"format": checkpoint.FORMAT, "defense": "jpeg", "config": {"q": 1}}
    )
    with pytest.raises(ValueError, match="must hold the settings of jpeg"):
        defenses.load(tmp_path / "settings.safetensors")
    metadata = {"format": checkpoint.FORMAT, "defense": "s2snet", "config": {"architecture": "vgg"}}
    checkpoint.write_tensors(tmp_path / "vgg.safetensors", {}, metadata)
    with pytest.raises(ValueError, match=r"settings of s2snet, got .*vgg\.safetensors.*one of segnet, small"):
        defenses.load(tmp_path / "vgg.safetensors")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"before")

    def write(content: bytes, *, stopped: bool) -> None:
        with checkpoint.whole_file(file) as draft:
            draft.write_bytes(content)
            if stopped:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(b"half", stopped=True)
    assert os.listdir(tmp_path) == ["x.safetensors"]
    assert file.read_bytes() == b"before"
    write(b"after", stopped=False)
    assert os.listdir(tmp_path) == ["x.safetensors"]
    assert file.read_bytes() == b"after"


# --- JPEG and feature distillation ------------------------------------------------------------------------------------


def by_pillow(image: Tensor, **options: Any) -> Tensor:
    """Returns one image ``(3, H, W)`` of whole bytes after Pillow's encoder and decoder."""
    buffer = io.BytesIO()
    samples = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(samples).save(buffer, "JPEG", **options)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float() / 255


def test_jpeg_and_derived_tables_are_pillows(images: Tensor) -> None:
    images = (images * 255).round() / 255
    assert torch.equal(EXAMPLES["jpeg"](images)[0], by_pillow(images[0], quality=40, subsampling=0))
    derived = EXAMPLES["derived"]
    assert isinstance(derived, defenses.FeatureDistillation)
    expected = by_pillow(images[0], qtables=derived.tables.to_pillow(), subsampling=0)
    assert torch.equal(derived(images)[0], expected)


@needs_foolbox
@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_the_15_largest_bands_of_small_photographs_are_the_triangle(kind: str) -> None:
    statistics = BandStatistics.none()
    statistics.add(defense_data.foolbox_images(kind)[0])
    band = torch.arange(8)
    triangle = band[:, None] + band <= 4
    assert torch.equal(derive(statistics).steps, torch.where(triangle, 1, 40))


def test_statistics_are_those_of_an_orthonormal_dct_and_add_up_in_any_order(images: Tensor) -> None:
    images = (images * 255).round() / 255
    whole, parts = BandStatistics.none(), BandStatistics.none()
    whole.add(images)
    for image in reversed(list(images)):
        parts.add((image[None] * 255).round().to(torch.uint8))
    assert whole.count == parts.count == 6 * 3 * 4
    assert torch.equal(whole.total, parts.total)
    assert torch.equal(whole.squares, parts.squares)
    blocks = (images.double() * 255).numpy().reshape(6, 3, 2, 8, 2, 8).transpose(0, 1, 2, 4, 3, 5)
    coefficients = scipy.fft.dctn(blocks, axes=(-2, -1), norm="ortho")
    expected = coefficients.std(axis=(0, 1, 2, 3))
    # Coefficients are rounded to whole ones, which adds a variance of about a twelfth.
    torch.testing.assert_close(whole.deviation, torch.from_numpy(np.sqrt(expected**2 + 1 / 12)), rtol=1e-2, atol=0.0)
    with pytest.raises(ValueError, match="at least one image, got none"):
        _ = BandStatistics.none().deviation


def test_sums_over_the_coefficients_are_those_of_a_constant_image_by_hand() -> None:
    statistics = BandStatistics.none()
    for _ in range(2):  # white: 8 · (255 − 128) in the first band, in 2 blocks of each of 3 channels
        statistics.add(torch.ones(1, 3, 8, 16))
    expected = torch.zeros(8, 8, dtype=torch.int64)
    expected[0, 0] = 8 * 127
    assert statistics.count == 12
    assert torch.equal(statistics.total, 12 * expected)
    assert torch.equal(statistics.squares, 12 * expected.square())
    assert statistics.total.dtype == statistics.squares.dtype == torch.int64


@needs_foolbox
def test_two_passes_restore_what_one_pass_does_not() -> None:
    images = defense_data.foolbox_images("cifar10")[0]
    twice = defenses.FeatureDistillation("uniform(30)", passes=2)
    entered = twice.entered(images)
    noise = torch.randint(0, 2, images.shape, generator=torch.Generator().manual_seed(SEED)) * 2 - 1
    attacked = (entered + 2 / 255 * noise).clamp(0, 1)
    # Such noise moves no coefficient by nearly half a step.
    assert torch.equal(twice(attacked), entered)
    # The layer rounds to bytes: half a step of 15 holds against 8 · 1, not against 8 · 2. (Nothing here is clipped.)
    entered = twice.entered(0.25 + images / 2)
    assert torch.equal(twice(entered + 1.4 / 255), entered)
    moved = twice(entered + 1.8 / 255)
    assert torch.equal(moved, twice(entered + 2 / 255))
    assert not torch.equal(moved, entered)
    once = defenses.FeatureDistillation("uniform(30)")
    assert torch.equal(once.entered(images), images)
    changed = once((images + 2 / 255 * noise).clamp(0, 1)) != once(images)
    assert float(changed.float().mean()) > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either preset or steps must be given"),
        ({"preset": "paper", "steps": [[1] * 8] * 8}, "either preset or steps must be given"),
        ({"preset": "papyrus"}, "papyrus"),
        ({"steps": [[1] * 8]}, r"steps must have shape \(8, 8\), got \(1, 8\)"),
        ({"steps": [[0] * 8] * 8}, "steps must be whole, 1…255"),
        ({"steps": torch.full((8, 8), 1.5)}, "steps must be whole, 1…255"),
        ({"preset": "paper", "passes": 3}, "passes must be 1 or 2, got 3"),
    ],
)
def test_feature_distillation_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        defenses.FeatureDistillation(**arguments)


# --- the ensemble -----------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """The same logits for every image."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = torch.tensor([probabilities]).log()

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


def test_the_vote_is_of_the_majority_and_ties_go_to_the_higher_softmax() -> None:
    image = torch.zeros(1, 3, 8, 8)
    weak, strong = Fixed(0.5, 0.4, 0.1), Fixed(0.0001, 0.9998, 0.0001)
    assert int(Vote([weak, weak, strong])(image).argmax()) == 0  # although the mean probability of class 1 is larger
    assert int(Vote([weak, strong])(image).argmax()) == 1
    assert int(Vote([strong, weak])(image).argmax()) == 1
    expected = (weak.logits + strong.logits) / 2
    torch.testing.assert_close(MeanLogProbability([weak, strong])(image), expected)


def test_each_member_sees_its_own_level(images: Tensor, classifier: nn.Module) -> None:
    ensemble = EXAMPLES["jpeg-ensemble"]
    attacked = ensemble.attacked(classifier, "cubic")
    assert isinstance(attacked, MeanLogProbability)
    assert isinstance(ensemble.deployed(classifier), Vote)
    for branch, step in zip(attacked.branches, (6, 12, 24), strict=True):
        expected = fdjpeg.jpeg(images, tables=QuantTables(LUMA / 12 * step, (CHROMA / 12 * step).round()))
        layer = branch[0]  # type: ignore[index]
        assert isinstance(layer, fdjpeg.JPEG)
        assert int(layer.y[0, 0]) == step  # type: ignore[index]
        assert layer(images).shape == expected.shape


def test_favoured_tables_deal_out_the_standard_steps() -> None:
    generator = torch.Generator().manual_seed(SEED)
    importance = torch.rand(2, 8, 8, generator=generator)
    standard = QuantTables.standard(50)
    tables = favoured_tables(*importance, standard)
    for dealt, given, table in zip(
        (tables.luma, tables.chroma), (standard.luma, standard.chroma), importance, strict=True
    ):
        assert sorted(dealt.flatten().tolist()) == sorted(given.flatten().tolist())
        order = table.flatten().argsort(descending=True)
        assert (dealt.flatten()[order].diff() >= 0).all()


def test_gradient_sensitivity_is_the_derivative_by_the_coefficients(classifier: nn.Module, images: Tensor) -> None:
    network = classifier.double()
    labels = torch.arange(6) % 4
    # Coefficients of Y, Cb and Cr as leaves, through scipy's matrix and Pillow's colours.
    dct = torch.from_numpy(scipy.fft.dct(np.eye(8), axis=0, norm="ortho"))
    weights = torch.tensor(
        [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]]
    )
    planes = torch.einsum("kc,nchw->nkhw", weights.double(), images.double())
    blocks = planes.view(6, 3, 2, 8, 2, 8)
    leaves = torch.einsum("ui,nkricj,vj->nkrcuv", dct, blocks, dct).requires_grad_()
    back = torch.einsum("ui,nkrcuv,vj->nkricj", dct, leaves, dct).reshape(planes.shape)
    rgb = torch.einsum("ck,nkhw->nchw", weights.double().inverse(), back)
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(network(rgb), labels, reduction="sum"), leaves)
    per_component = gradient.abs().sum(dim=(0, 2, 3))
    expected = torch.stack([per_component[0], per_component[1] + per_component[2]])
    found = gradient_sensitivity(network, images.double(), labels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)
    grey = gradient_sensitivity(nn.Sequential(nn.Flatten(), nn.Linear(256, 4)), images[:, :1], labels)
    assert torch.equal(grey[0], grey[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LUMA[:1], CHROMA), r"luma must have shape \(8, 8\), got \(1, 8\)"),
        ((LUMA, CHROMA[:1]), r"chroma must have shape \(8, 8\), got \(1, 8\)"),
        ((LUMA, CHROMA, ()), "levels must be positive numbers, at least one"),
        ((LUMA, CHROMA, (1, -1)), "levels must be positive numbers, at least one"),
        ((LUMA, CHROMA, (1, 2), [{}]), "members must be 2 state dicts, one for each level, got 1"),
    ],
)
def test_the_ensemble_refuses(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        defenses.JPEGEnsemble(*arguments)


# --- autoencoders and distillation ------------------------------------------------------------------------------------


def test_segnet_has_the_papers_layers() -> None:
    net = SegNetAutoencoder(ARCHITECTURES["segnet"])
    widths = [64, 64, 128, 128, 256, 256, 256, *[512] * 6]
    encoder = [part.out_channels for part in net.encoder.modules() if isinstance(part, nn.Conv2d)]
    decoder = [part.out_channels for part in net.decoder.modules() if isinstance(part, nn.Conv2d)]
    assert encoder == widths
    assert decoder == [512, 512, 512, 512, 512, 256, 256, 256, 128, 128, 64, 64, 64]
    assert net.last.kernel_size == (1, 1)


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (5, 9)])
def test_autoencoders_keep_the_size(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(SEED))
    for name in ("purifier", "s2snet"):
        assert EXAMPLES[name].eval()(x).shape == x.shape
    assert defenses.S2SNet("small", channels=1).eval()(x[:, :1]).shape == x[:, :1].shape


def test_a_detached_bottleneck_gives_the_encoder_no_gradient(images: Tensor) -> None:
    net = SegNetAutoencoder(ARCHITECTURES["small"])
    net(images, detached=True).sum().backward()
    assert all(parameter.grad is None for parameter in net.encoder.parameters())
    assert all(parameter.grad is not None for parameter in net.decoder.parameters())
    net(images).sum().backward()
    assert all(parameter.grad is not None for parameter in net.encoder.parameters())


def test_gradient_cosine_shows_whether_a_layer_passes_the_gradient_on(classifier: nn.Module, images: Tensor) -> None:
    labels = torch.arange(6) % 4
    bare, defended = Defense().deployed(classifier), EXAMPLES["s2snet"].deployed(classifier)
    torch.testing.assert_close(gradient_cosine(bare, classifier, images, labels), torch.ones(6))
    other = gradient_cosine(defended, classifier, images, labels)
    assert float(other.abs().max()) < 0.5


def test_tempered_logits_are_the_deployed_ones_divided(classifier: nn.Module, images: Tensor) -> None:
    defense = EXAMPLES["defensive-distillation"]
    tempered = defense.attacked(classifier, "tempered")(images)
    torch.testing.assert_close(tempered, defense.deployed(classifier)(images) / 20)


def test_the_papers_network_replaces_the_classifier(images: Tensor) -> None:
    logits = EXAMPLES["own-network"].deployed(nn.Identity())(images)
    assert logits.shape == (6, 10)
    assert accuracy(EXAMPLES["own-network"].deployed(nn.Identity()), images, logits.argmax(dim=1)) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: defenses.DefensiveDistillation(0.5), "temperature must be at least 1, got 0.5"),
        (lambda: defenses.S2SNet("vgg"), "architecture must be one of segnet, small, got 'vgg'"),
        (lambda: DistillationNet(size=8), "size must be at least 16, got 8"),
        (lambda: defenses.JPEG(0), "quality"),
        (lambda: defenses.RandomJPEG(90, 20), "quality"),
        (lambda: defenses.StochasticJPEG(()), "qualities"),
    ],
)
def test_bad_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
