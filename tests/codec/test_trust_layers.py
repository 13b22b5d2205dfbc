"""Layers keep their promises however they are made, copied, moved and described.

Made on the meta device, of NumPy's numbers, of parameters, of tensors with a graph behind them, and with surrogates of
a user's own.
"""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fdjpeg
from fdjpeg import JPEG, FeatureDistillation, LearnableJPEG, QuantTables, StochasticJPEG, defenses, surrogates
from fdjpeg._descriptions import described
from fdjpeg.sources import Normalized

IMAGE = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))

#: Layers of each kind, made of Python's numbers only.
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "quality": lambda: JPEG(30),
    "quality tensor": lambda: JPEG(torch.tensor([30.0, 70.0], device="cpu")),
    "tables": lambda: JPEG(tables=QuantTables.standard(30)),
    "flat tables": lambda: JPEG(tables=QuantTables.flat(9)),
    "tables of lists": lambda: JPEG(tables=QuantTables([[7] * 8] * 8, [[9] * 8] * 8)),
    "Pillow's tables": lambda: JPEG(tables=QuantTables.from_pillow([[5] * 64])),
    "soft": lambda: JPEG(tables=QuantTables.standard(40, soft=True), arithmetic="real", gradient="sine", soft=True),
    "blocks": lambda: StochasticJPEG((20, 90), torch.Generator("cpu").manual_seed(0)),
    "learnable": lambda: LearnableJPEG(QuantTables.standard(50), share="none"),
    "paper": lambda: FeatureDistillation("paper", passes=2),
    "code": lambda: FeatureDistillation("code"),
    "uniform": lambda: FeatureDistillation("uniform(12)", gradient="cubic"),
}

EVERY_LAYER = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())


# ---------------------------------------------------------------------------------------------------------------------
# The meta device, and other default devices


@EVERY_LAYER
def test_made_on_the_meta_device_and_emptied_a_layer_has_its_constants(make: Callable[[], nn.Module]) -> None:
    expected = make()(IMAGE)
    with torch.device("meta"):
        layer = make()
    layer.to_empty(device="cpu")
    for tensor in [*layer.parameters(), *layer.buffers()]:
        tensor.data.fill_(123)  # whatever an empty tensor holds
    if hasattr(layer, "reset_parameters"):
        layer.reset_parameters()
    assert torch.equal(layer(IMAGE), expected)


@EVERY_LAYER
def test_a_strict_state_dict_is_all_that_an_emptied_layer_needs(make: Callable[[], nn.Module]) -> None:
    state, expected = make().state_dict(), make()(IMAGE)
    with torch.device("meta"):
        layer = make()
    layer.to_empty(device="cpu")
    for tensor in [*layer.parameters(), *layer.buffers()]:
        tensor.data.fill_(123)
    layer.load_state_dict(state, strict=True)
    assert torch.equal(layer(IMAGE), expected)


@EVERY_LAYER
def test_a_layer_holds_nothing_that_a_state_dict_lacks(make: Callable[[], nn.Module]) -> None:
    layer = make()
    assert {name for name, _ in [*layer.named_parameters(), *layer.named_buffers()]} == set(layer.state_dict())


@EVERY_LAYER
def test_a_default_device_does_not_reach_into_a_call(make: Callable[[], nn.Module]) -> None:
    layer, expected = make(), make()(IMAGE)
    with torch.device("meta"):
        assert torch.equal(layer(IMAGE), expected)


@EVERY_LAYER
def test_other_global_switches_change_no_bit(make: Callable[[], nn.Module]) -> None:
    expected = make()(IMAGE)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        out = make()(IMAGE)
    finally:
        torch.set_default_dtype(before)
        torch.use_deterministic_algorithms(False)
    if make is LAYERS["soft"]:  # the only tables whose dtype is documented to be the default one
        torch.testing.assert_close(out, expected)
    else:
        assert torch.equal(out, expected)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_parts_of_a_model_are_made_where_the_model_is(device: str) -> None:
    with torch.device(device):
        model = nn.Sequential(JPEG(50), nn.Conv2d(3, 4, 3), LearnableJPEG(QuantTables.standard(50)), StochasticJPEG())
    assert model[1].weight.device.type == device
    moved = model.to_empty(device="cpu")
    assert {tensor.device.type for tensor in moved.parameters()} == {"cpu"}


def test_a_layer_of_meta_tensors_says_that_it_has_no_values() -> None:
    layer = JPEG(torch.empty(2, device="meta"))
    layer.to_empty(device="cpu")
    with pytest.raises(RuntimeError, match="quality must have been given with values to be reset, got a meta tensor"):
        layer.reset_parameters()
    tables = QuantTables(*torch.empty(2, 8, 8, device="meta"))
    learnable = LearnableJPEG(tables)  # nothing is read
    assert learnable.log_steps[0].is_meta


@EVERY_LAYER
def test_copies_and_pickles_are_the_layer(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    expected = make()(IMAGE)
    stream = io.BytesIO()
    torch.save(make(), stream)
    stream.seek(0)
    for again in (copy.deepcopy(make()), pickle.loads(pickle.dumps(make())), torch.load(stream, weights_only=False)):
        assert torch.equal(again(IMAGE), expected)


# ---------------------------------------------------------------------------------------------------------------------
# NumPy's numbers


@pytest.mark.parametrize(
    ("numpys", "pythons"),
    [
        (lambda: JPEG(np.int64(30)), lambda: JPEG(30)),
        (lambda: JPEG(np.float32(30.5)), lambda: JPEG(30.5)),
        (lambda: JPEG(Fraction(61, 2)), lambda: JPEG(30.5)),
        (lambda: JPEG(tables=QuantTables.flat(np.uint8(9))), lambda: JPEG(tables=QuantTables.flat(9))),
        (lambda: JPEG(tables=QuantTables.standard(np.float64(9.5))), lambda: JPEG(tables=QuantTables.standard(9.5))),
        (
            lambda: JPEG(tables=QuantTables.feature_distillation(np.eye(8), np.int32(3), np.int16(2), np.float32(30))),
            lambda: JPEG(tables=QuantTables.feature_distillation(torch.eye(8), 3, 2, 30)),
        ),
        (
            lambda: JPEG(tables=QuantTables.from_pillow([np.full(64, 7)])),
            lambda: JPEG(tables=QuantTables.from_pillow([[7] * 64])),
        ),
        (lambda: FeatureDistillation("paper", np.int64(2)), lambda: FeatureDistillation("paper", 2)),
        (
            lambda: StochasticJPEG(np.array([20, 90]), torch.Generator().manual_seed(1)),
            lambda: StochasticJPEG((20, 90), torch.Generator().manual_seed(1)),
        ),
        (
            lambda: StochasticJPEG([np.int8(20), 90], torch.Generator().manual_seed(1)),
            lambda: StochasticJPEG((20, 90), torch.Generator().manual_seed(1)),
        ),
    ],
)
def test_numpys_numbers_are_pythons(numpys: Callable[[], nn.Module], pythons: Callable[[], nn.Module]) -> None:
    layer, expected = numpys(), pythons()
    assert torch.equal(layer(IMAGE), expected(IMAGE))
    assert repr(layer) == repr(expected)


@pytest.mark.parametrize(
    ("numpys", "pythons"),
    [
        (lambda: surrogates.Fourier(np.int64(3)), lambda: surrogates.Fourier(3)),
        (lambda: surrogates.Tanh(np.float32(2.5)), lambda: surrogates.Tanh(2.5)),
        (lambda: surrogates.Tanh(np.int8(2)), lambda: surrogates.Tanh(2)),
        (lambda: surrogates.Softmax(Fraction(5, 2)), lambda: surrogates.Softmax(2.5)),
        (lambda: surrogates.Cubic(floor=np.float64(0.5)), lambda: surrogates.Cubic(floor=0.5)),
    ],
)
def test_surrogates_of_numpys_numbers_are_those_of_pythons(numpys: Any, pythons: Any) -> None:
    made, expected = numpys(), pythons()
    assert made == expected
    assert hash(made) == hash(expected)
    assert repr(made) == repr(expected)
    assert torch.equal(fdjpeg.jpeg(IMAGE, gradient=made), fdjpeg.jpeg(IMAGE, gradient=expected))


def test_coefficients_take_a_size_of_numpys_numbers() -> None:
    made = fdjpeg.encode(IMAGE)
    size = tuple(np.array(made.size))
    again = fdjpeg.Coefficients(made.y, made.cb, made.cr, made.tables, size, made.subsampling)
    assert again.size == made.size
    assert all(type(side) is int for side in again.size)
    assert torch.equal(fdjpeg.decode(again), fdjpeg.decode(made))
    assert torch.equal(again[np.int64(1)].y, made[1].y)


@pytest.mark.parametrize("value", [np.bool_(True), np.nan, np.float64("inf"), np.str_("4"), np.array([4.0])])
def test_what_is_not_such_a_number_is_refused(value: Any) -> None:
    for make in (surrogates.Tanh, surrogates.Softmax, surrogates.Fourier, partial(surrogates.Cubic, floor=value)):
        with pytest.raises((TypeError, ValueError), match=r"(alpha|terms|floor) must be "):
            make() if isinstance(make, partial) else make(value)


# ---------------------------------------------------------------------------------------------------------------------
# Parameters, and tensors with a graph behind them


def test_a_parameter_stays_one_and_is_trained() -> None:
    quality = nn.Parameter(torch.tensor([30.0, 60.0]))
    layer = JPEG(quality)
    assert dict(layer.named_parameters()) == {"quality": quality}
    assert layer.quality is quality
    layer(IMAGE).square().sum().backward()
    assert quality.grad is not None
    assert quality.grad.abs().min() > 0
    before = quality.detach().clone()
    torch.optim.SGD(layer.parameters(), lr=1.0).step()
    assert not torch.equal(quality, before)


def test_tables_of_parameters_and_a_map_stay_parameters() -> None:
    y, chroma = nn.Parameter(torch.full((8, 8), 9.0)), nn.Parameter(torch.full((8, 8), 12.0))
    layer = JPEG(tables=QuantTables(y, chroma))
    assert {id(parameter) for parameter in layer.parameters()} == {id(y), id(chroma)}
    layer(IMAGE).square().sum().backward()
    assert y.grad is not None
    assert chroma.grad is not None
    map_of_qualities = nn.Parameter(torch.full((2, 2, 3), 40.0))
    assert [name for name, _ in JPEG(map_of_qualities).named_parameters()] == ["quality"]


def test_a_frozen_parameter_stays_a_parameter() -> None:
    layer = JPEG(nn.Parameter(torch.tensor(50.0), requires_grad=False))
    assert [parameter.requires_grad for parameter in layer.parameters()] == [False]


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: JPEG(tables=LearnableJPEG(QuantTables.standard(50)).steps()), r"tables\.y"),
        (lambda: JPEG(2 * torch.tensor(25.0, requires_grad=True)), "quality"),
        (lambda: JPEG(tables=QuantTables.standard(torch.tensor(50.0, requires_grad=True))), r"tables\.y"),
        (lambda: JPEG(torch.full((1, 2, 3), 9.0, requires_grad=True).exp()), "quality"),
    ],
)
def test_a_computed_tensor_is_refused_when_a_layer_is_made(make: Callable[[], nn.Module], argument: str) -> None:
    with pytest.raises(ValueError, match=rf"{argument} must be a leaf of the autograd graph, got a computed tensor"):
        make()


def test_what_is_offered_instead_works() -> None:
    learnable = LearnableJPEG(QuantTables.standard(50))
    layer = JPEG(tables=learnable.tables)
    assert torch.equal(copy.deepcopy(layer)(IMAGE), learnable(IMAGE))
    with torch.no_grad():
        assert torch.equal(JPEG(tables=learnable.steps())(IMAGE), learnable(IMAGE))
    fdjpeg.jpeg(IMAGE, tables=learnable.steps()).sum().backward()


def test_a_leaf_that_requires_grad_gets_it_through_the_layer() -> None:
    quality = torch.tensor(50.0, requires_grad=True)
    layer = JPEG(quality)
    assert list(layer.parameters()) == []
    copy.deepcopy(layer)
    layer(IMAGE).square().sum().backward()
    assert quality.grad is not None


def test_a_layer_never_writes_into_a_tensor_that_it_was_given() -> None:
    quality, table = torch.tensor([30, 60]), torch.full((8, 8), 9)
    tables = QuantTables(table, table)
    for layer, other in ((JPEG(quality), JPEG(quality + 7)), (JPEG(tables=tables), JPEG(tables=QuantTables.flat(50)))):
        layer.load_state_dict(other.state_dict())
        layer.to_empty(device="cpu")
        layer.reset_parameters()
    assert quality.tolist() == [30, 60]
    assert table.unique().tolist() == [9]
    assert tables == QuantTables.flat(9)


# ---------------------------------------------------------------------------------------------------------------------
# A surrogate of one's own


class Mine:
    """A surrogate without a ``repr``."""

    def __init__(self, strength: float, extra: object = None) -> None:
        self.strength = strength
        self.extra = extra

    def forward(self, c: Tensor) -> Tensor:
        return c.round()

    def derivative(self, c: Tensor) -> Tensor:
        return torch.full_like(c, self.strength)


class Slotted:
    __slots__ = ("strength",)

    def __init__(self, strength: float) -> None:
        self.strength = strength

    forward = Mine.forward
    derivative = Mine.derivative


def _curve(c: float) -> Callable[[float], float]:
    return lambda x: c * x


@pytest.mark.parametrize(
    "make",
    [
        lambda strength: Mine(strength),
        lambda strength: Slotted(strength),
        lambda strength: Mine(1.0, Mine(strength)),
        lambda strength: Mine(1.0, [Mine(strength), {"a": Mine(2.0)}]),
        lambda strength: Mine(1.0, torch.full((100, 100), strength)),
        lambda strength: Mine(1.0, _curve(strength)),
        lambda strength: Mine(1.0, partial(max, strength, key=abs)),
        lambda strength: Mine(1.0, torch.Generator().manual_seed(int(8 * strength))),
        lambda strength: surrogates.Noise(torch.Generator().manual_seed(int(8 * strength))),
    ],
)
def test_a_surrogate_is_written_by_class_and_attributes(make: Callable[[float], Any]) -> None:
    kept = [make(0.5), make(0.5), make(0.25)]  # all alive, so that addresses differ
    first, again, other = (surrogates.written(surrogate) for surrogate in kept)
    assert first == again != other
    assert " at 0x" not in first


def test_layers_with_it_print_no_address() -> None:
    for layer in (
        JPEG(gradient=Mine(2.0)),
        StochasticJPEG(gradient=Mine(2.0)),
        FeatureDistillation(gradient=Mine(2.0)),
    ):
        assert "gradient=Mine(extra=None, strength=2.0)" in repr(layer)


def test_a_surrogate_that_holds_itself_is_written_too() -> None:
    mine = Mine(1.0)
    mine.extra = [mine]
    assert surrogates.written(mine) == "Mine(extra=list(...), strength=1.0)"


def test_other_processes_write_the_same() -> None:
    script = (
        "import torch\nfrom fdjpeg._descriptions import described\n"
        "class Held:\n    pass\n"
        "held = Held()\nheld.set, held.function = {'a', 'b', 'c'}, lambda x: x + len({1, 2})\n"
        "held.tensor, held.kind = torch.arange(5), torch.nn.ReLU\nprint(described(held))"
    )
    texts = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(texts) == 1


def test_code_that_differs_is_written_differently() -> None:
    assert described(lambda x: x + 1) != described(lambda x: x + 2)
    assert described(lambda x=1: x) != described(lambda x=2: x)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", ["StochasticJPEG", "Noise"])
def test_checkpointing_repeats_no_draws_of_a_private_generator(kind: str, reentrant: bool) -> None:
    """A second forward pass with other draws would give the gradient of another compression."""

    def layer(generator: torch.Generator | None) -> nn.Module:
        if kind == "StochasticJPEG":
            return StochasticJPEG(generator=generator)
        return JPEG(50, arithmetic="real", soft=True, gradient=surrogates.Noise(generator))

    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    made = checkpoint(layer(torch.Generator().manual_seed(0)), image, use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match=f"generator must be None where activation checkpointing repeats {kind}"):
        made.square().sum().backward()
    gradients = []
    for through in (True, False):
        torch.manual_seed(0)
        whole = checkpoint(layer(None), image, use_reentrant=reentrant) if through else layer(None)(image)
        gradients += torch.autograd.grad(whole.square().sum(), image) if not (reentrant and through) else [None]
    assert reentrant or torch.equal(*gradients)


def test_a_gradient_that_would_be_lost_is_refused() -> None:
    """Where numbers are kept in place of a parameter, no optimizer would train it."""
    table = nn.Parameter(torch.full((8, 8), 9.0))
    for make in (
        lambda: fdjpeg.RandomJPEG(tables=[QuantTables(table, table)]),
        lambda: fdjpeg.RandomJPEG(qualities=(30, 60), weights=nn.Parameter(torch.ones(2))),
        lambda: defenses.JPEGEnsemble(table, table),
        lambda: defenses.FeatureDistillation(steps=table),
        lambda: defenses.FineTuned([table, table]),
        lambda: Normalized(nn.Identity(), nn.Parameter(torch.zeros(3)), (1, 1, 1)),
    ):
        with pytest.raises(ValueError, match="must need no gradient, which would be lost here"):
            make()


class OwnModule(nn.Module):
    """A surrogate with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(1))

    def forward(self, c: Tensor) -> Tensor:
        return c.round()

    def derivative(self, c: Tensor) -> Tensor:
        return torch.ones_like(c) * self.slope


def test_a_surrogate_that_is_a_module_can_be_replaced() -> None:
    layer = JPEG(50, gradient=OwnModule())
    assert [name for name, _ in layer.named_parameters()] == ["gradient.slope"]
    assert repr(defenses.differentiable(layer, "cubic")) == repr(JPEG(50, gradient="cubic"))


def test_one_set_of_tables_in_a_batch_is_one_set_everywhere(tmp_path: Path) -> None:
    one, wanted = QuantTables.standard(torch.tensor([50])), QuantTables.standard(50)
    assert one.to_pillow() == wanted.to_pillow()
    one.save(tmp_path / "tables.txt")
    assert QuantTables.load((tmp_path / "tables.txt").read_bytes()) == wanted
    assert fdjpeg.RandomJPEG(tables=[one]).steps == fdjpeg.RandomJPEG(tables=[wanted]).steps
    layer = fdjpeg.RandomJPEG()
    with pytest.raises(ValueError, match="parameters must be for 2 images, got those of 1"):
        layer(torch.rand(2, 3, 8, 8), layer.draw(torch.rand(1, 3, 8, 8)))
