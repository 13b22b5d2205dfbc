"""What defences share: layers that they expose, gradients of layers, tables, copies, and weights by their names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support import defense_data
from support.defense_data import CHROMA, LUMA, SEED, patterns
from torch import Tensor, nn

import fdjpeg
from fdjpeg import defenses, surrogates
from fdjpeg.attacks.exposed import Exposed
from fdjpeg.defenses import Defense, differentiable
from fdjpeg.defenses.base import Weights, copied, load_state, set_gradient, table_of

IMAGES = patterns(4, SEED)[0]


# --- exposed layers ---------------------------------------------------------------------------------------------------


def test_a_layer_is_exposed_before_the_classifier(classifier: nn.Module) -> None:
    for defense in (defenses.JPEG(40, "4:4:4"), defenses.FeatureDistillation("uniform(30)")):
        exposed = defense.exposed(classifier)
        assert isinstance(exposed, Exposed)
        (layer,), (behind,) = exposed.layers, exposed.classifiers
        assert behind is classifier
        assert torch.equal(layer(IMAGES), defense(IMAGES))
        assert torch.equal(exposed(IMAGES), defense.deployed(classifier)(IMAGES))


def test_an_ensemble_exposes_every_branch_and_its_vote(classifier: nn.Module) -> None:
    tuned = defense_data.network()
    with torch.no_grad():
        tuned[7].bias += torch.arange(4)  # type: ignore[index,operator]
    for members in (None, [classifier.state_dict(), tuned.state_dict()]):
        defense = defenses.JPEGEnsemble(LUMA, CHROMA, (0.5, 4), members)
        exposed = defense.exposed(classifier)
        assert len(exposed.layers) == len(exposed.classifiers) == 2
        assert torch.equal(exposed(IMAGES), defense.deployed(classifier)(IMAGES))


def test_a_fine_tuned_network_exposes_the_layers_before_it(classifier: nn.Module) -> None:
    state = defense_data.network().state_dict()
    tables = defenses.FineTuned([LUMA, CHROMA], "4:4:4", state)
    behind = tables.behind(fdjpeg.JPEG(30))
    for defense in (tables, behind):
        exposed = defense.exposed(classifier)
        assert torch.equal(exposed(IMAGES), defense.deployed(classifier)(IMAGES))
        assert not any(part.training for part in (*exposed.layers[0].modules(), *exposed.classifiers[0].modules()))
    once = fdjpeg.jpeg(fdjpeg.jpeg(IMAGES, 30), tables=fdjpeg.QuantTables(LUMA, CHROMA), subsampling="4:4:4")
    assert torch.equal(behind.exposed(classifier).layers[0](IMAGES), once)
    assert torch.equal(behind(IMAGES), once)


def test_layers_are_exposed_on_the_classifiers_device() -> None:
    on_meta = nn.Conv2d(3, 4, 1, device="meta")
    tuned = defenses.FineTuned([LUMA, CHROMA], state=on_meta.state_dict())
    for defense in (defenses.FeatureDistillation("paper"), defenses.JPEGEnsemble(LUMA, CHROMA), tuned):
        tables = list(defense.exposed(on_meta).layers.state_dict().values())
        assert tables
        assert all(table.is_meta for table in tables)


@pytest.mark.parametrize("defense", [defenses.Purifier(3, (4, 6, 8)), defenses.FineTuned()], ids=lambda d: d.kind)
def test_a_defence_without_a_layer_exposes_none(defense: Defense, classifier: nn.Module) -> None:
    message = "defense must hold a JPEG layer of fdjpeg with p=1 and without soft, got " + defense.kind
    with pytest.raises(ValueError, match=f"^{message}$"):
        defense.exposed(classifier)


# --- gradients --------------------------------------------------------------------------------------------------------


class Half(nn.Module):
    """A user's surrogate that is a module, so that it becomes a child of the layer."""

    def forward(self, c: Tensor) -> Tensor:
        return c.round()

    def derivative(self, c: Tensor) -> Tensor:
        return torch.full_like(c, 0.5)


def test_a_surrogate_that_is_a_module_is_replaced() -> None:
    layer = fdjpeg.JPEG(75, gradient=Half())
    assert "gradient" in dict(layer.named_children())
    changed = differentiable(layer, "cubic")
    assert isinstance(changed.gradient, surrogates.Cubic)
    assert "gradient" not in dict(changed.named_children())
    assert isinstance(layer.gradient, Half)
    set_gradient(layer, "zero")
    assert isinstance(layer.gradient, surrogates.Zero)
    set_gradient(layer, Half())  # type: ignore[arg-type]
    assert isinstance(layer.gradient, Half)
    with pytest.raises(ValueError, match="nothing"):
        set_gradient(layer, "nothing")
    assert isinstance(layer.gradient, Half)


def test_a_gradient_that_a_defence_lacks_is_refused_with_those_that_it_has(classifier: nn.Module) -> None:
    for defense, wanted in ((defenses.Purifier(), "end-to-end, identity"), (defenses.DefensiveDistillation(), None)):
        names = wanted or "end-to-end, tempered"
        message = f"gradient must be one of {names} for {defense.kind}, got 'cubic'"
        with pytest.raises(ValueError, match=f"^{message}$"):
            defense.attacked(classifier, "cubic")


def test_a_plain_defence_leaves_images_and_classifier_alone(classifier: nn.Module) -> None:
    class Nothing(Defense):
        kind = "nothing"
        gradients = ()

    defense = Nothing()
    assert defense(IMAGES) is IMAGES
    assert defense.entered(IMAGES) is IMAGES
    assert (defense.first, defense.exposes, defense.gradient, defense.random) == (None, None, None, False)
    assert (defense.config(), defense.tensors()) == ({}, {})
    assert repr(defense) == "Nothing()"
    deployed = defense.deployed(classifier.train())
    assert list(deployed) == [defense, classifier]  # type: ignore[call-overload]
    assert not any(part.training for part in deployed.modules())


# --- tables, copies, weights ------------------------------------------------------------------------------------------


def test_a_table_is_taken_as_it_is_or_made_of_a_list() -> None:
    given = torch.arange(1.0, 65).view(8, 8)
    assert table_of("steps", given) is given
    made = table_of("steps", given.int().tolist())
    assert made.dtype == torch.int64
    assert torch.equal(made, given.long())
    assert table_of("steps", (given + 0.5).tolist()).dtype == torch.float32
    for shape in ((8,), (1, 8, 8), (8, 7)):
        with pytest.raises(ValueError, match=r"^luma must have shape \(8, 8\), got ") as caught:
            table_of("luma", torch.ones(shape))
        assert str(caught.value).endswith(str(shape))
    with pytest.raises(ValueError, match=r"^steps must need no gradient, which would be lost here"):
        table_of("steps", given.clone().requires_grad_())
    with torch.device("meta"):
        assert table_of("steps", given.tolist()).device == torch.device("cpu")


def test_tables_that_require_a_gradient_are_refused_by_their_names() -> None:
    learned = LUMA.clone().requires_grad_()
    for name, make in (
        ("steps", lambda: defenses.FeatureDistillation(steps=learned)),
        ("luma", lambda: defenses.JPEGEnsemble(learned, CHROMA)),
        ("chroma", lambda: defenses.JPEGEnsemble(LUMA, learned)),
        ("tables", lambda: defenses.FineTuned([LUMA, learned])),
    ):
        with pytest.raises(ValueError, match=f"^{name} must need no gradient"):
            make()


def test_numbers_of_numpy_are_saved_as_plain_ones(tmp_path: Any) -> None:
    given = defenses.RandomJPEG(np.int64(20), np.uint8(90))  # type: ignore[arg-type]
    defenses.save(given, tmp_path)
    assert defenses.load(tmp_path).config() == {"least": 20, "greatest": 90, "subsampling": "4:2:0"}
    defenses.save(defenses.JPEG(np.float32(62.5)), tmp_path / "float")  # type: ignore[arg-type]
    assert defenses.load(tmp_path / "float").config()["quality"] == 62.5


def test_a_copy_shares_nothing_and_names_the_module_that_has_none() -> None:
    given = defense_data.network()
    other = copied(given)
    assert type(other) is type(given)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert all(float(parameter.detach().abs().sum()) > 0 for parameter in given.parameters())

    class Rigid(nn.Module):
        def __deepcopy__(self, memo: Any) -> Any:
            raise KeyError("held")

    with pytest.raises(ValueError, match=r"^module must be one that can be copied, got Rigid: 'held'$"):
        copied(Rigid())


def test_weights_that_do_not_fit_are_named_with_what_differs() -> None:
    module = nn.Linear(2, 3)
    fitting = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    end = "it is of another architecture"
    for tensors, message in (
        ({"weight": fitting["weight"]}, f"checkpoint must fit a layer, got one without 'bias': {end}"),
        (
            {**fitting, "scale": torch.ones(1)},
            f"checkpoint must fit a layer, which has no 'scale', got one that has: {end}",
        ),
        (
            {**fitting, "bias": torch.ones(4)},
            f"checkpoint must fit a layer, where 'bias' has shape (3,), got (4,): {end}",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            load_state(module, tensors, "a layer")
        assert str(caught.value) == message
    load_state(module, fitting, "a layer")
    assert torch.equal(module.weight, fitting["weight"])


def test_weights_follow_the_module_that_holds_them() -> None:
    held = Weights({"0.weight": torch.ones(2), "0.bias": torch.zeros(1), "1.0.a": torch.ones(1)})
    assert list(held.state_dict()) == ["0.weight", "0.bias", "1.0.a"]
    assert not list(held.parameters())
    assert all(value.dtype == torch.float64 for value in held.double().state_dict().values())


def test_a_network_of_another_kind_needs_no_weights_of_its_own() -> None:
    shared = defenses.JPEGEnsemble(LUMA, CHROMA, (1, 3))
    network = defense_data.network()
    pair = shared.deployed(network).branches
    assert pair[0][1] is pair[1][1] is network  # type: ignore[index]
