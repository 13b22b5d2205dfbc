"""An evaluation's defence: its layer, its networks, its names and its oracle by Pillow."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from support.defense_data import SEED, patterns
from torch import Tensor, nn

import fdjpeg
from fdjpeg import defenses
from fdjpeg.defenses import UNDEFENDED, differentiable, names, of_module, parse_defense
from fdjpeg.defenses.defended import layer_defense

#: Weights and draws without a seed of their own follow from the name of the test.
pytestmark = pytest.mark.usefixtures("rng")

IMAGES = patterns(6, SEED)[0]


class Dark(nn.Module):
    """Squares its images: another order of layer and network gives another result."""

    def forward(self, images: Tensor) -> Tensor:
        return images.square()


def test_a_layer_is_before_the_network(classifier: nn.Module) -> None:
    layer = Dark().eval()
    made = layer_defense("dark", layer, ("own", "identity"), first=nn.Identity(), oracle=torch.neg)
    expected = classifier(IMAGES.square())
    assert torch.equal(made.deployed(classifier)(IMAGES), expected)
    assert made.layer is made.module is layer
    assert made.exact
    assert made.oracle is torch.neg
    assert isinstance(made.first, nn.Identity)
    grads = {}
    for gradient in made.gradients:
        x = IMAGES.clone().requires_grad_()
        logits = made.attacked(classifier, gradient)(x)
        assert torch.equal(logits, expected)
        (grads[gradient],) = torch.autograd.grad(logits[:, 0].sum(), x)
    torch.testing.assert_close(grads["own"], grads["identity"] * 2 * IMAGES)
    assert not any(part.training for part in made.deployed(classifier).modules())
    assert not any(part.training for part in made.attacked(classifier, "identity").modules())
    with pytest.raises(ValueError, match="must be one of own, identity, got 'cubic'"):
        layer_defense("dark", layer, ("own", "cubic"))


def test_a_whole_classifier_stands_in_for_the_network(classifier: nn.Module) -> None:
    made = of_module(classifier, "mine", image=IMAGES[:1])
    assert made.deployed(nn.Identity()) is classifier
    assert made.attacked(nn.Identity(), "own") is classifier
    assert made.layer is None
    assert made.module is classifier
    own = nn.Sequential(fdjpeg.JPEG(75), classifier).eval()
    made = of_module(own, "mine", ("cubic", "zero"), image=IMAGES[:1])
    assert made.gradients == ("cubic", "zero")
    attacked = made.attacked(nn.Identity(), "zero")
    assert attacked is not own
    x = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(attacked(x).sum(), x)
    assert float(gradient.abs().max()) == 0
    assert torch.equal(attacked(IMAGES), own(IMAGES))


def test_a_saved_defence_is_passed_on_with_its_layer() -> None:
    defense = defenses.FeatureDistillation("uniform(30)", passes=2)
    made = of_module(defense, "twice")
    assert made.layer is made.module is defense
    assert made.oracle is None
    assert UNDEFENDED.deployed(defense) is UNDEFENDED.attacked(defense, "") is defense


@pytest.mark.parametrize(
    "name",
    [
        "jpeg:60",
        "jpeg:60,4:2:2",
        "feature-distillation:uniform(30)",
        "feature-distillation:uniform(30),passes=2",
        "feature-distillation:uniform(30),passes=2,entry=after",
    ],
)
def test_oracles_are_the_same_layers_by_pillow(name: str) -> None:
    made = parse_defense(name)
    assert made.oracle is not None
    assert made.layer is not None
    pixels = (IMAGES * 255).round()
    assert torch.equal(made.oracle(pixels.byte()), (made.layer(pixels / 255) * 255).round().byte())


def test_entry_and_passes_place_the_attacker() -> None:
    pixels = (IMAGES * 255).round() / 255
    once = fdjpeg.FeatureDistillation("uniform(30)")
    before = parse_defense("feature-distillation:uniform(30),passes=2")
    after = parse_defense("feature-distillation:uniform(30),passes=2,entry=after")
    single = parse_defense("feature-distillation:uniform(30)")
    assert before.first is None
    assert single.first is None
    assert torch.equal(after.entered(pixels), once(pixels))
    assert before.layer is not None
    assert torch.equal(before.layer(pixels), once(once(pixels)))
    assert after.layer is not None
    assert torch.equal(after.layer(pixels), once(pixels))
    assert before.name == "feature-distillation:uniform(30),passes=2,entry=before"
    assert parse_defense("feature-distillation:code").oracle is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jpeg", 'defense must be "none"'),
        ("jpeg:0", "must be an integer 1…100"),
        ("jpeg:101", "must be an integer 1…100"),
        ("jpeg:7.5", "must be an integer 1…100"),
        ("jpeg:75,4:1:0", "subsampling in a defense must be one of"),
        ("jpeg:75,4:4:4,4:4:4", "subsampling in a defense must be one of"),
        ("random-jpeg:30", "must give qualities such as"),
        ("random-jpeg:30-95,4:4:4", "must give qualities such as"),
        ("stochastic-jpeg:20+x", "must give qualities such as"),
        ("stochastic-jpeg:20,30", "must give qualities such as"),
        ("feature-distillation:paper,passes=3", "must be passes=1 or 2"),
        ("feature-distillation:paper,pass=2", "must be passes=1 or 2"),
        ("feature-distillation:paper,entry=after", "passes must be 2 in a defense with entry=after"),
        ("saved:nowhere", "must name a saved defence that exists, got 'saved:nowhere'"),
        ("math:pi", "callable|defense"),
        ("bit-depth:0", "must be an integer 1…8, got 'bit-depth:0'"),
        ("bit-depth:9", "must be an integer 1…8, got 'bit-depth:9'"),
        ("bit-depth:x", "must be an integer 1…8, got 'bit-depth:x'"),
        ("median:x", "must be an integer of at least 2, got 'median:x'"),
        ("median:3,4", "must be an integer of at least 2, got 'median:3,4'"),
        ("total-variation:0", "weight in a defense .* must be a positive number, got 'total-variation:0'"),
        ("total-variation:inf", "weight in a defense .* must be a positive number, got 'total-variation:inf'"),
        ("total-variation:x", "weight in a defense .* must be a positive number, got 'total-variation:x'"),
        ("total-variation:0.1,2", "weight in a defense .* must be a positive number, got 'total-variation:0.1,2'"),
    ],
)
def test_wrong_names_are_refused(name: str, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        parse_defense(name)


def test_names_at_the_ends_of_their_ranges_are_taken() -> None:
    for name in ("jpeg:1", "jpeg:100", "random-jpeg:1-100", "stochastic-jpeg:1+100", "jpeg:100,4:4:4"):
        assert parse_defense(name).name == name
    for quality in (1, 100):
        assert names.jpeg_defense(quality).name == f"jpeg:{quality}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: names.jpeg_defense(75, "4:4:0"), "subsampling must be one of '4:4:4', '4:2:2', '4:2:0', got '4:4:0'"),
        (lambda: names.jpeg_defense(75, 2), "subsampling must be one of '4:4:4', '4:2:2', '4:2:0', got 2"),
        (lambda: names.jpeg_defense(0), "quality must be at least 1, got 0"),
        (lambda: names.feature_distillation_defense("paper", True), "passes must be 1 or 2, got True"),
        (lambda: names.feature_distillation_defense("paper", 3), "passes must be 1 or 2, got 3"),
        (
            lambda: names.feature_distillation_defense("paper", 2, "between"),
            "entry must be 'before' or 'after', got 'between'",
        ),
    ],
)
def test_wrong_arguments_of_named_defences_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


def test_a_callable_gets_the_network_if_it_needs_an_argument_by_place(
    classifier: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that lack a default only arguments that can be given by their place count."""
    got: list[tuple[Any, ...]] = []

    def note(*given: Any) -> nn.Module:
        got.append(given)
        return Dark()

    takes: list[Any] = [
        lambda network: note(network),
        lambda network, /: note(network),
        lambda network, size=3: note(network),
    ]
    others: list[Any] = [
        lambda: note(),
        lambda size=3: note(*[size][1:]),
        lambda *rest: note(*rest),
        lambda **options: note(*options),
        lambda *, size=3: note(*[size][1:]),
    ]
    for make in (*takes, *others):
        monkeypatch.setattr(defenses, "made", make, raising=False)
        assert isinstance(parse_defense("fdjpeg.defenses:made", network=classifier).layer, Dark)
    assert got == [(classifier,)] * 3 + [()] * 5
    monkeypatch.setattr(defenses, "made", takes[2], raising=False)
    with pytest.raises(ValueError, match="missing 1 required positional argument: 'network'"):
        parse_defense("fdjpeg.defenses:made")


def test_a_callable_may_return_what_an_evaluation_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = parse_defense("jpeg:40")
    monkeypatch.setattr(defenses, "made", lambda: made, raising=False)
    assert parse_defense("fdjpeg.defenses:made") is made


def test_filters_are_called_as_they_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    weights: list[float] = []
    monkeypatch.setattr(names, "TotalVariation", lambda weight: (weights.append(weight), Dark())[1])
    kinds = {"bit-depth:1": defenses.BitDepth, "bit-depth:8": defenses.BitDepth, "median:2": defenses.Median}
    for name, kind in {**kinds, "total-variation:0.05": Dark}.items():
        made = parse_defense(name)
        assert made.name == name
        assert type(made.layer) is kind
    assert weights == [0.05]


def test_a_callable_without_a_signature_is_called_without_the_network(
    classifier: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unsigned:
        """Python cannot tell its arguments, as of some functions in C."""

        __signature__ = "none"

        def __call__(self, *given: object) -> nn.Module:
            return nn.Identity() if given == () else pytest.fail(f"got {given}")

    monkeypatch.setattr(defenses, "unsigned", Unsigned(), raising=False)
    assert isinstance(parse_defense("fdjpeg.defenses:unsigned", network=classifier).module, nn.Identity)


def test_a_defence_works_on_the_images_device() -> None:
    image = torch.zeros(1, 3, 16, 16, device="meta")
    made = parse_defense("feature-distillation:paper,passes=2,entry=after", image=image)
    assert made.layer is not None
    assert made.layer(made.entered(image)).is_meta


def test_a_saved_defence_moves_to_the_images_device(tmp_path: Path) -> None:
    defenses.save(defenses.FeatureDistillation("uniform(30)"), tmp_path)
    moved = parse_defense(f"saved:{tmp_path}", image=torch.zeros(1, 3, 16, 16, device="meta"))
    left = parse_defense(f"saved:{tmp_path}")
    assert isinstance(moved.module, defenses.FeatureDistillation)
    assert isinstance(left.module, defenses.FeatureDistillation)
    assert moved.module.steps.is_meta
    assert left.module.steps.device == torch.device("cpu")
    assert not moved.module.training


def test_only_both_methods_make_a_module_a_defence() -> None:
    class Half(Dark):
        def deployed(self) -> None:
            """Something else of this name."""

    made = of_module(Half().eval(), "half")
    assert made.gradients == ("own", "identity")
    assert torch.equal(made.deployed(nn.Identity())(IMAGES), IMAGES.square())


def test_names_are_texts_for_every_kind_of_module(classifier: nn.Module) -> None:
    wrong: Any = 3
    for module, image in ((Dark().eval(), None), (defenses.JPEG(75), None), (classifier, IMAGES[:1])):
        with pytest.raises(TypeError, match=r"^name must be a text, got 3$"):
            of_module(module, wrong, image=image)


def test_a_defence_for_an_evaluation_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        UNDEFENDED.name = "another"  # type: ignore[misc]


def test_differentiable_changes_all_layers_of_a_copy() -> None:
    inner = nn.Sequential(fdjpeg.JPEG(75), nn.Sequential(fdjpeg.RandomJPEG((30, 90)), nn.ReLU()))
    changed = differentiable(inner, "cubic")
    of_copy = [type(part.gradient).__name__ for part in changed.modules() if hasattr(part, "gradient")]
    of_given = [type(part.gradient).__name__ for part in inner.modules() if hasattr(part, "gradient")]
    assert of_copy == ["Cubic", "Cubic"]
    assert "Cubic" not in of_given
    relu = nn.ReLU()
    assert differentiable(relu, "own") is relu


@pytest.mark.parametrize("seed", [0, 3])
def test_a_fixed_seed_draws_the_same_in_every_call_and_leaves_the_generator(seed: int) -> None:
    layer = fdjpeg.RandomJPEG((10, 90))
    fixed = defenses.SeedFixed(layer.eval(), seed)
    state = torch.get_rng_state()
    first = fixed(IMAGES)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(seed + 99)
    assert torch.equal(fixed(IMAGES), first)
    assert not torch.equal(defenses.SeedFixed(layer, seed + 1)(IMAGES), first)
    assert not fixed.training
    assert defenses.SeedFixed(fdjpeg.RandomJPEG((10, 90)), seed).training


def test_the_gradients_that_are_asked_for_are_taken() -> None:
    """By every kind of defence that has them; names of which a defence has only some leave it its own."""
    tables = fdjpeg.QuantTables.standard(50)
    kinds = {
        "median": lambda asked: parse_defense("median:2", asked),
        "module": lambda asked: of_module(defenses.Median(2), "median", asked),
        "jpeg": lambda asked: of_module(defenses.JPEG(75), "jpeg", asked),
        "purifier": lambda asked: of_module(defenses.Purifier(), "purifier", asked),
        "ensemble": lambda asked: of_module(defenses.JPEGEnsemble(tables.luma, tables.chroma), "ensemble", asked),
    }
    for name, asked, wanted in (
        ("median", ["identity"], ("identity",)),
        ("median", ["own"], ("own",)),
        ("median", [], ("own", "identity")),
        ("median", ["identity", "own"], ("identity", "own")),
        ("module", ["identity", "own"], ("identity", "own")),
        ("jpeg", ["identity", "straight-through"], ("identity", "straight-through")),
        ("jpeg", ["straight-through", "identity"], ("straight-through", "identity")),
        ("ensemble", ["identity", "cubic"], ("identity", "cubic")),
        ("median", ["cubic", "identity"], ("own", "identity")),
        ("module", ["identity"], ("identity",)),
        ("purifier", ["identity"], ("identity",)),
        ("purifier", ["identity", "cubic"], ("end-to-end", "identity")),
        ("ensemble", ["cubic"], ("cubic",)),
        ("ensemble", ["tanh"], ("tanh",)),
        ("ensemble", ["identity", "straight-through", "cubic"], ("straight-through", "cubic")),
        ("ensemble", ["identity", "straight-through", "tanh"], ("straight-through", "tanh")),
        ("ensemble", ["end-to-end"], ("straight-through", "cubic")),
    ):
        assert kinds[name](asked).gradients == wanted, (name, asked)


def test_feature_distillation_attacked_before_both_passes_has_both_in_its_layer() -> None:
    for passes, entry, inside in ((1, "before", 1), (2, "before", 2), (2, "after", 1)):
        made = names.feature_distillation_defense("paper", passes, entry)
        layer = fdjpeg.FeatureDistillation("paper", passes=inside)
        assert torch.equal(made.deployed(nn.Identity())(IMAGES), layer(IMAGES)), (passes, entry)


def test_gradients_are_a_list_for_every_name() -> None:
    for name in ("none", "jpeg:75", "median:2", "feature-distillation:paper"):
        with pytest.raises(TypeError, match=r"^gradients must be a list, got 'cubic'$"):
            parse_defense(name, "cubic")  # type: ignore[arg-type]
