"""The ops by which `jpeg` serves a call: few in eager mode, and in graphs without Python only those of the library."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fdjpeg
from fdjpeg import surrogates

_DRAWN = torch.Generator().manual_seed(5)
IMAGE = torch.rand(2, 3, 9, 17, generator=_DRAWN, dtype=torch.float64)
GRAD = torch.randn(IMAGE.shape, generator=_DRAWN, dtype=torch.float64)
#: A map of qualities, with some that are limited, and one without a value.
MAP = 110 * torch.rand(2, 2, 3, generator=_DRAWN)
MAP[0, 0] = torch.tensor([math.nan, -3.5, 100.5])

#: The ops that C++ defines (csrc/ops/schemas.cpp), as far as a forward pass takes them.
OF_THE_LIBRARY = {"round_trip", "round_trip_by_block", "real_round_trip", "block_dct", "block_idct"}

SETTINGS: list[dict[str, Any]] = [
    {},
    {"gradient": "identity", "subsampling": "4:4:4"},
    {"gradient": "cubic", "upsampling": "nearest"},
    {"arithmetic": "real", "subsampling": "4:2:2"},
    {"gradient": "tanh", "arithmetic": "real"},
    {"gradient": "sine", "arithmetic": "real", "soft": True},
]


class Names(TorchDispatchMode):
    """Notes the ops of fdjpeg that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op.namespace == "fdjpeg":
            self.called.append(op.__name__.partition(".")[0])
        return op(*args, **(kwargs or {}))


def served(image: Tensor, quality: float | Tensor, **setting: Any) -> list[str]:
    with Names() as names:
        fdjpeg.jpeg(image, quality, **setting)
    return names.called


def differentiated(quality: Tensor, setting: dict[str, Any]) -> list[Tensor]:
    image, quality = IMAGE.clone().requires_grad_(), quality.clone().requires_grad_()
    out = fdjpeg.jpeg(image, quality, **setting)
    return [out, *torch.autograd.grad(out, (image, quality), GRAD)]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_graph_without_python_has_ops_of_the_library_and_the_same_numbers(
    setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    qualities = (torch.tensor([30.0, 101.0]), MAP)
    expected = [differentiated(quality, setting) for quality in qualities]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    for quality, results in zip(qualities, expected, strict=True):
        for ours, eager in zip(differentiated(quality, setting), results, strict=True):
            torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-7)  # slopes are looked up in eager mode
        for given in (quality, quality.to(torch.int32), quality.clone().requires_grad_()):
            names = served(IMAGE.clone().requires_grad_(), given, **setting)
            assert names
            assert set(names) <= OF_THE_LIBRARY


def test_an_eager_call_takes_few_ops() -> None:
    """One for a number's call, one more for the steps of each image, and of a map one where it needs no gradient."""
    image = IMAGE.clone().requires_grad_()
    for gradient in ("straight-through", "identity", "cubic"):
        assert served(image, 50, gradient=gradient) == ["round_trip"]
        assert served(image, torch.tensor([30, 60]), gradient=gradient) == ["standard_steps", "round_trip"]
        assert served(image, torch.tensor(30.0), gradient=gradient) == ["standard_steps", "round_trip"]
        assert served(IMAGE, MAP, gradient=gradient) == ["round_trip_by_block"]
        learned = served(image, MAP.clone().requires_grad_(), gradient=gradient)
        assert learned == ["standard_steps", "round_trip_by_steps"]
    assert served(image, MAP) == served(image, MAP, gradient="identity") == ["round_trip_by_block"]
    assert served(image, MAP, gradient="cubic") == ["standard_steps", "round_trip_by_steps"]
    assert served(image, 50, gradient="sine", arithmetic="real", soft=True) == ["real_round_trip"]
    assert served(image, torch.tensor(50), arithmetic="real") == ["standard_steps", "real_round_trip"]


class Own:
    """A surrogate of one's own, which no op serves: the numbers of rounding, and a derivative."""

    def forward(self, c: Tensor) -> Tensor:
        return c.round()

    def derivative(self, c: Tensor) -> Tensor:
        return 1 + 0.1 * c.cos()


def test_without_a_gradient_one_op_serves_any_surrogate() -> None:
    image = IMAGE.clone().requires_grad_()
    assert served(IMAGE, 50, gradient=Own()) == ["round_trip"]
    with torch.no_grad():
        assert served(image, 50, gradient=Own()) == ["round_trip"]
    assert served((255 * IMAGE).byte(), 50, gradient=Own()) == ["round_trip"]
    assert "round_trip_by_steps" in served(image, 50, gradient=Own())
    tables = fdjpeg.QuantTables(*torch.full((2, 8, 8), 9.0).requires_grad_().unbind(0))
    assert "round_trip_by_steps" in served(IMAGE, 75, tables=tables, gradient=Own())
    soft = served(image, 50, gradient=surrogates.Noise(), arithmetic="real", soft=True)
    assert soft == ["image_blocks", "standard_steps", "blocks_image"]


@pytest.mark.parametrize("arithmetic", ["libjpeg", "real"])
def test_a_surrogate_of_ones_own_is_exported_with_the_same_numbers(
    arithmetic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = torch.randint(5, 50, (2, 3, 8, 8), generator=torch.Generator().manual_seed(6)).double()
    given: list[dict[str, Any]] = [
        {"quality": 40},
        {"quality": torch.tensor([30.0, 70.0])},
        {"tables": fdjpeg.QuantTables(*tables.unbind(1))},
    ]

    def computed(arguments: dict[str, Any]) -> tuple[Tensor, Tensor, list[str]]:
        image = IMAGE.clone().requires_grad_()
        with Names() as names:
            out = fdjpeg.jpeg(image, **arguments, gradient=Own(), arithmetic=arithmetic)
        return out, torch.autograd.grad(out, image, GRAD)[0], names.called

    expected = [computed(arguments) for arguments in given]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    for arguments, (out, gradient, _) in zip(given, expected, strict=True):
        ours, of_image, names = computed(arguments)
        torch.testing.assert_close(ours, out)
        torch.testing.assert_close(of_image, gradient)
        assert set(names) == {"block_dct", "block_idct"}
