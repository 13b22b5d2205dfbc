"""Attacks and adapters of other packages: against distances that are known, and against their own direct use."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from support.classifiers import SEED, Linear, Tiny
from torch import Tensor, nn

import fdjpeg
from fdjpeg._packages import MissingPackage
from fdjpeg.attacks import NAMES, PGD, distances, from_name, margin
from fdjpeg.evaluation import adapters

foolbox, _ = (
    pytest.importorskip(package, reason=f'needs {package}: pip install "fdjpeg[eval]"')
    for package in ("foolbox", "pyautoattack")
)

#: Budgets that suit small images.
SMALL = {
    "apgd-ce": "apgd-ce-20",
    "apgd-dlr": "apgd-dlr-20",
    "apgd-t": "apgd-t-20x3",
    "fab": "fab-20x3",
    "square": "square-100",
    "deepfool": "deepfool-20",
    "cw": "cw-60x5",
    "ddn": "ddn-60",
    "boundary": "boundary-100",
    "hopskipjump": "hopskipjump-3",
}
OWN_AND_THEIRS = ("pgd-20", "apgd-ce-20")
BY_NAME = [
    (small, norm)
    for name, small in SMALL.items()
    for norm in ("linf", "l2")
    if norm == "l2" or name not in ("cw", "ddn", "boundary")
]


@pytest.fixture
def x() -> Tensor:
    return 0.25 + torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(SEED)) / 2


@pytest.fixture
def y() -> Tensor:
    return torch.zeros(5, dtype=torch.int64)


@pytest.fixture
def linear(x: Tensor) -> Linear:
    """Five classes, of which all images belong to the first."""
    return Linear(x.shape[1:]).eval()


def to_boundary(model: Linear, x: Tensor, norm: str) -> Tensor:
    """The distance of each image from the boundary, in closed form."""
    score = -margin(model(x), torch.zeros(len(x), dtype=torch.int64))
    return score / (model.weights.abs().sum() if norm == "linf" else model.weights.norm())


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["apgd-ce-20", "apgd-dlr-20", "apgd-t-20x2", "fab-20x2"])
def test_auto_attacks_succeed_beyond_the_boundarys_distance_and_never_within_it(
    name: str, norm: str, linear: Linear, x: Tensor, y: Tensor
) -> None:
    distance = to_boundary(linear, x, norm)
    eps = float(distance.sort().values[2:4].mean())
    assert float((distance - eps).abs().min()) > 0.02 * eps
    result = from_name(name, norm=norm).run(linear, x, y, eps)
    assert torch.equal(result.margin > 0, distance < eps)
    assert float(distances(result.x_adv, x, norm).max()) <= eps + 1e-6


@pytest.mark.parametrize(
    ("name", "norm", "excess"),
    [
        ("deepfool-20", "linf", 1.05),
        ("deepfool-20", "l2", 1.05),
        ("cw-200x8", "l2", 1.1),
        ("ddn-100", "l2", 1.05),
        ("boundary-500", "l2", 10.0),
        ("hopskipjump-6", "linf", 2.0),
        ("hopskipjump-6", "l2", 2.0),
    ],
)
def test_minimum_norm_attacks_find_the_nearest_boundary(
    name: str, norm: str, excess: float, linear: Linear, x: Tensor, y: Tensor
) -> None:
    attack, nearest = from_name(name, norm=norm), to_boundary(linear, x, norm)
    result = attack.run(linear, x, y, float(nearest.max()) * 10)
    assert result.distance is not None
    assert bool((result.distance >= nearest * 0.999).all())
    assert bool((result.distance <= nearest * excess).all())
    # At a radius exactly those are fooled whose distance is within it.
    eps = float(result.distance.median()) * 1.0001
    assert torch.equal(attack.run(linear, x, y, eps).margin > 0, result.distance <= eps)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_needs_no_gradient(norm: str, linear: Linear, x: Tensor, y: Tensor) -> None:
    class Opaque(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return linear(images).detach()

    size = torch.nn.functional.interpolate(x, size=(10, 10))
    linear = Linear(size.shape[1:])
    eps = float(to_boundary(linear, size, norm).max()) * 4
    result = from_name("square-400", norm=norm).run(Opaque(), size, y, eps)
    assert bool((result.margin > 0).all())
    assert result.queries <= 5 * 410
    with pytest.raises(ValueError, match=r"model must be differentiable.* such as square"):
        PGD()(Opaque(), size, y, eps)


@pytest.mark.parametrize(("name", "norm"), BY_NAME)
def test_an_image_does_not_depend_on_its_batch_nor_on_chance_elsewhere(name: str, norm: str) -> None:
    model = Tiny(5).eval()
    images = torch.rand(4, 3, 15, 15, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        y = model(images).argmax(dim=1)
    y[1] = (y[1] + 1) % 5  # one that is wrong before any attack
    attack, eps = from_name(name, norm=norm), 0.03 if norm == "linf" else 0.5
    before, state = images.clone(), torch.get_rng_state()
    together = attack(model, images, y, eps)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)
    torch.rand(7)
    chosen = torch.tensor([3, 2])
    alone = attack(model, images[chosen], y[chosen], eps, indices=chosen)
    torch.testing.assert_close(alone, together[chosen], rtol=0, atol=1e-5)
    assert float(distances(together, images, norm).max()) <= eps + 1e-6
    assert float(together.min()) >= 0
    assert float(together.max()) <= 1


@pytest.mark.parametrize(("name", "norm"), [(name, norm) for name, norm in BY_NAME if "square" not in name])
def test_a_model_without_gradient_breaks_no_attack(name: str, norm: str) -> None:
    model = nn.Sequential(fdjpeg.JPEG(75, gradient="zero"), Tiny(5)).eval()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        y = model(images).argmax(dim=1)
    eps = 0.02 if norm == "linf" else 0.3
    result = from_name(name, norm=norm).run(model, images, y, eps)
    assert bool(result.x_adv.isfinite().all())
    assert float(distances(result.x_adv, images, norm).max()) <= eps + 1e-6
    torch.testing.assert_close(result.margin, margin(model(result.x_adv), y))
    if result.distance is not None:
        assert not bool(result.distance.isnan().any())


@pytest.mark.parametrize("name", ["fab-5x2", "deepfool-5", "ddn-5", "cw-5x2", "apgd-ce-5", "pgd-5"])
def test_learnable_tables_get_no_gradient_from_attacks(name: str) -> None:
    layer = fdjpeg.LearnableJPEG(fdjpeg.QuantTables.standard(75))
    model = nn.Sequential(layer, Tiny(5)).eval()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(SEED))
    mine = torch.full_like(layer.log_steps[0], 7.0)
    layer.log_steps[0].grad = mine
    with torch.no_grad():
        y = model(images).argmax(dim=1)
    from_name(name, norm=None)(model, images, y, 0.02)
    assert layer.log_steps[0].grad is mine
    assert bool((mine == 7).all())
    assert all(p.grad is None for p in model.parameters() if p is not layer.log_steps[0])
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("defended", [False, True])
def test_own_pgd_is_no_weaker_than_others_at_equal_budget(norm: str, defended: bool) -> None:
    layer = fdjpeg.JPEG(75, gradient="cubic") if defended else nn.Identity()
    model = nn.Sequential(layer, Tiny(10)).eval()
    images = torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        y = model(images).argmax(dim=1)
    eps = 2 / 255 if norm == "linf" else 0.1
    fooled = [int((from_name(n, norm=norm).run(model, images, y, eps).margin > 0).sum()) for n in OWN_AND_THEIRS]
    kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    fooled.append(int(kind(steps=20, rel_stepsize=2.5 / 20)(wrapped, images, y, epsilons=eps)[2].sum()))
    ours, *theirs = fooled
    assert 5 < ours < 55, f"{ours} of 60 images: too easy or too hard to compare"
    assert all(ours >= their - 1 for their in theirs), f"fooled by PGD, APGD-CE, foolbox's PGD: {fooled}"


def test_every_name_makes_an_attack_whose_settings_json_can_hold() -> None:
    names = set()
    for name in NAMES:
        attack = from_name(name, seed=3)
        settings = json.loads(json.dumps(attack.settings()))
        assert settings["seed"] == attack.seed == 3
        only = {"cw": "l2", "ddn": "l2", "boundary": "l2", "cw-l0": "l0", "jsma": "l0", "jsma-logits": "l0"}
        assert settings["norm"] == attack.norm == only.get(name, "linf")
        assert attack == from_name(name, seed=3)
        names.add(attack.name)
    assert len(names) == len(NAMES)


def test_names_carry_budgets() -> None:
    assert from_name("pgd-7x3") == PGD(steps=7, restarts=3)
    assert from_name("PGD-margin-50×2", norm="l2", draws=4) == PGD(50, 2, "margin", norm="l2", draws=4)
    assert from_name("square-300").settings()["queries"] == 300
    assert from_name("apgd-t-10x4").name == "APGD-T-10×4"
    assert from_name("fgsm").name == "FGSM"
    assert from_name("bim-12").settings()["step"] == pytest.approx(2.5 / 12)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pdg", {}, "^attack must be one of fgsm, bim, pgd, .* got 'pdg'"),
        ("pgd-", {}, "^attack must be one of"),
        ("", {}, "^attack must be one of"),
        ("noise-3", {}, "^attack noise must have no numbers after its name, got 'noise-3'"),
        ("square-10x2", {}, "^attack square must have queries after its name"),
        ("square", {"draws": 3}, "^settings of square must be among norm, queries, seed, got draws"),
        ("pgd-0", {}, "^steps must be at least 1, got 0"),
        ("square-0", {}, "^queries must be at least 1, got 0"),
        ("deepfool-0", {}, "^steps must be at least 1, got 0"),
        ("cw", {"searches": 0}, "^searches must be at least 1, got 0"),
        ("boundary", {"norm": "linf"}, "^norm must be 'l2' for this attack, got 'linf'"),
        ("cw", {"norm": "linf"}, "^norm must be 'l2' for this attack, got 'linf'"),
        ("pgd", {"norm": "l1"}, "^norm must be 'linf' or 'l2' for this attack, got 'l1'"),
        ("apgd-ce", {"norm": "Linf"}, "^norm must be 'linf' or 'l2'"),
    ],
)
def test_names_and_settings_that_mean_nothing_are_refused(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_name(name, **settings)


def test_too_few_classes_for_a_loss_are_said(x: Tensor) -> None:
    model, y = Tiny(2).eval(), torch.zeros(5, dtype=torch.int64)
    size = torch.nn.functional.interpolate(x, size=(16, 16))
    with pytest.raises(ValueError, match="at least 3 classes for the loss dlr, got 2"):
        PGD(loss="dlr")(model, size, y, 0.1)
    with pytest.raises(ValueError, match=r"model must have at least 4 classes for APGD-T.*, got 2"):
        from_name("apgd-t-5")(model, size, y, 0.1)


@pytest.mark.parametrize(("name", "package"), [("square", "pyautoattack"), ("ddn", "foolbox")])
def test_a_missing_package_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(MissingPackage, match=rf"needs the package {package}, which is not installed; pip install"):
        from_name(name)


def test_square_in_l2_says_which_sizes_it_cannot_tile(linear: Linear, x: Tensor, y: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^x must be images that five tiles cover.* got 8 × 8"):
        from_name("square-5", norm="l2")(linear, x, y, 0.5)


# --- adapters -----------------------------------------------------------------------------------------------------


def test_torchattacks_through_a_sequential_differentiates_the_layer() -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="needs pip install --no-deps torchattacks")
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(SEED))
    network = Tiny(5).eval()
    layer = fdjpeg.JPEG(50, gradient="cubic")
    defended = nn.Sequential(layer, network).eval()
    with torch.no_grad():
        y = defended(images).argmax(dim=1)
    found = torchattacks.PGD(defended, eps=4 / 255, alpha=1 / 255, steps=5, random_start=False)(images, y)
    ours = PGD(5, step=0.25, schedule="constant", momentum=0, random_start=False, until_fooled=False)
    # It returns the last point, not the best: ours is at least as good.
    assert bool((ours.run(defended, images, y, 4 / 255).margin >= margin(defended(found), y) - 1e-5).all())
    assert not torch.equal(found, torchattacks.PGD(network, 4 / 255, 1 / 255, 5, random_start=False)(images, y))


def test_art_runs_and_differentiates_the_layer() -> None:
    try:
        from art.attacks.evasion import FastGradientMethod
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        pytest.skip(f"needs pip install adversarial-robustness-toolbox ({error})")
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(SEED))
    network, layer = Tiny(5).eval(), fdjpeg.JPEG(50, gradient="cubic")
    defended = nn.Sequential(layer, network)
    classifier = PyTorchClassifier(
        network,
        nn.CrossEntropyLoss(),
        (3, 16, 16),
        5,
        clip_values=(0, 1),
        device_type="cpu",
        preprocessing_defences=adapters.art_preprocessor(layer),
    )
    logits = classifier.predict(images.numpy())
    torch.testing.assert_close(torch.from_numpy(logits), defended(images).detach())
    y = logits.argmax(axis=1)
    points = images.clone().requires_grad_()
    nn.functional.cross_entropy(defended(points), torch.from_numpy(y)).backward()
    theirs = torch.from_numpy(classifier.loss_gradient(images.numpy(), np.eye(5, dtype=np.float32)[y]))
    expected = points.grad
    assert expected is not None
    cosine = torch.nn.functional.cosine_similarity(theirs.flatten(1), expected.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(4), rtol=0, atol=1e-5)
    found = FastGradientMethod(classifier, eps=4 / 255).generate(images.numpy(), np.eye(5, dtype=np.float32)[y])
    ours = from_name("fgsm", until_fooled=False)(defended, images, torch.from_numpy(y), 4 / 255)
    agree = np.isclose(found, ours.numpy(), atol=1e-6).mean()
    assert agree > 0.999


@pytest.mark.parametrize("name", ["boundary-3", "hopskipjump-1"])
def test_decisions_find_nothing_where_no_noise_is_misclassified(name: str) -> None:
    class Certain(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :2] * 0 + torch.tensor([1.0, 0.0])

    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(SEED))
    result = from_name(name, norm="l2").run(Certain().eval(), images, torch.zeros(2, dtype=torch.int64), 1.0)
    assert torch.equal(result.x_adv, images)
    assert result.distance is not None
    assert bool(result.distance.isinf().all())


def test_art_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("art") is not None:
        monkeypatch.setitem(__import__("sys").modules, "art.defences.preprocessor.preprocessor", None)
    with pytest.raises(MissingPackage, match="pip install adversarial-robustness-toolbox"):
        adapters.art_preprocessor(fdjpeg.JPEG(75))
