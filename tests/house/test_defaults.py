"""Tensors that the package makes for itself have a device, and not the default one, which a program may set."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "fdjpeg"

#: Rooms that work on the CPU, or where their images are.
ROOMS = ("attacks", "augmentations", "bench", "certificates", "cli", "defenses", "evaluation", "learning", "sources")

#: Functions of torch that make tensors.
MAKERS = {
    *("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm", "tensor", "zeros")
}

#: Parameters and buffers of layers are made where torch makes them, as users of torch expect.
OF_LAYERS = {
    ("defenses", "fine_tuning.py", "torch.zeros(8, 8)"),
    ("sources", "networks.py", "torch.tensor(mean, dtype=torch.float32)"),
    ("sources", "networks.py", "torch.tensor(std, dtype=torch.float32)"),
}


def _without_device(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MAKERS):
            continue
        of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
        if of_torch and not any(keyword.arg in ("device", None) for keyword in node.keywords):
            yield ast.unparse(node)


@pytest.mark.parametrize("room", ROOMS)
def test_every_tensor_is_made_on_a_named_device(room: str) -> None:
    found = {
        (room, file.name, call) for file in (PACKAGE / room).rglob("*.py") for call in _without_device(file.read_text())
    }
    assert found - OF_LAYERS == set()


def test_a_tensor_without_a_device_is_found() -> None:
    assert list(_without_device("torch.zeros(3, dtype=torch.int64)\ntorch.ones(2, device='cpu')")) == [
        "torch.zeros(3, dtype=torch.int64)"
    ]
