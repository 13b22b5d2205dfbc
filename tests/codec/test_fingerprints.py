"""Fingerprints of modules and settings: equal for equal values only, and without memory addresses."""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fdjpeg import _descriptions
from fdjpeg._fingerprint import attributes, described, digest


class Rule:
    """Prints its address, as objects do."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def scaled(self, images: Tensor) -> Tensor:
        return images * self.alpha


class Ruled(nn.Module):
    """Its printed form holds the address of its rule."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.rule = Rule(alpha)

    def extra_repr(self) -> str:
        return repr(self.rule)


def test_a_fingerprint_is_that_of_the_printed_form_and_the_weights() -> None:
    layer = nn.BatchNorm1d(2)
    known = repr(layer).encode()
    for name, value in layer.state_dict().items():
        known += name.encode() + value.numpy().tobytes()
    assert digest(layer) == hashlib.sha256(known).hexdigest()[:16]


def test_an_address_is_left_out_and_attributes_count_instead() -> None:
    assert " at 0x" in repr(Ruled(0.5))
    assert digest(Ruled(0.5)) == digest(Ruled(0.5)) != digest(Ruled(0.25))
    known = f"{re.sub(' at 0x[0-9a-f]+', '', repr(Ruled(0.5)))}\n: {attributes(Ruled(0.5))}"
    assert digest(Ruled(0.5)) == hashlib.sha256(known.encode()).hexdigest()[:16]
    assert attributes(Ruled(0.5)) == f"{{'rule': {__name__}.Rule {{'alpha': 0.5}}}}"


def test_values_are_described_by_kind_and_content() -> None:
    itself: list[Any] = [1]
    itself.append(itself)
    generator = torch.Generator().manual_seed(5)
    texts = {
        "{'a': 1, 'b': 2}": {"b": 2, "a": 1},
        "list(1, 2)": [1, 2],
        "tuple(1, 2)": (1, 2),
        "set(1, 2)": {2, 1},
        "list(1, itself)": itself,
        "Generator cpu 5": generator,
        "'text'": "text",
    }
    for text, value in texts.items():
        assert described(value) == text
    sha = hashlib.sha256(torch.ones(2).numpy().tobytes()).hexdigest()[:16]
    assert described(torch.ones(2)) == f"torch.float32 (2,) {sha}"
    assert described([nn.Identity()]) == f"list({digest(nn.Identity())})"


def test_callables_are_described_by_code_and_what_they_hold() -> None:
    def scaling(factor: float) -> Any:
        return lambda images: images * factor

    def partial(factor: float) -> Any:
        return functools.partial(Rule.scaled, images=factor)

    for make in (scaling, partial, lambda alpha: Rule(alpha).scaled):
        assert described(make(0.5)) == described(make(0.5)) != described(make(0.25))
        assert " at 0x" not in described(make(0.5))
    halves = [
        lambda images: images / 2,
        lambda images: images / 2,
        lambda images: images / 3,
        lambda images: images * 2,
    ]
    one, two, third, product = (described(function).partition("<lambda>")[2] for function in halves)
    assert one == two
    assert len({one, third, product}) == 3
    assert described(Rule(0.5).scaled).endswith(f" of {__name__}.Rule {{'alpha': 0.5}}")
    assert " at 0x" not in described(lambda: [lambda: 1])  # code within code prints its address


def test_an_object_without_attributes_counts_by_its_class_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"A builtins\.object prints its address in memory and has no attributes"):
        assert described(object()) == "builtins.object"


def test_a_digest_of_a_description_has_sixteen_digits() -> None:
    assert len(_descriptions.described(lambda images: images).partition("[")[2].rstrip("]")) == 16
