"""Settings from YAML: values that are taken, and mistakes that are described by the setting's name and place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from fdjpeg import _settings


@dataclass
class Inner:
    size: int = 1
    name: str = "x"


@dataclass
class Outer:
    plain: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    several: tuple[Inner, ...] = ()
    listed: list[Inner] = field(default_factory=list)
    ends: tuple[int, int] | None = None
    eps: float = 0.0
    named: list[str] | dict[str, list[str]] = field(default_factory=list)


def test_values_of_every_kind_are_taken() -> None:
    values = {"maybe": {"size": 3}, "several": [{"name": "y"}], "ends": [1, 2], "eps": "8/255", "named": {"a": ["b"]}}
    assert _settings.build(Outer, values) == Outer(
        maybe=Inner(3), several=(Inner(name="y"),), ends=(1, 2), eps=8 / 255, named={"a": ["b"]}
    )
    assert values["eps"] == "8/255"  # the caller's values stay as they are


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sise": 1}, "each setting must be one of plain, maybe, several, listed, ends, eps, named, got sise"),
        ({"plain": {"sise": 1}}, "each setting must be one of size, name, got plain.sise"),
        ({"maybe": {"sise": 1}}, "each setting must be one of size, name, got maybe.sise"),
        ({"several": [{}, {"sise": 1}]}, "each setting must be one of size, name, got several.sise"),
        ({"listed": [{"sise": 1}]}, "each setting must be one of size, name, got listed.sise"),
        ({"ends": [1]}, "ends must be a list of 2, got [1]"),
        ({"ends": [1, 2, 3]}, "ends must be a list of 2, got [1, 2, 3]"),
        ({"maybe": 3}, "maybe must hold keys and values, got 3"),
        ({"eps": "a/b"}, "eps must be a number, got 'a/b'"),
        ({"eps": "1/0"}, "eps must be a number, got '1/0'"),
    ],
)
def test_a_mistake_is_described_by_its_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        _settings.build(Outer, values)
    assert str(caught.value) == message


def test_of_alternatives_the_one_that_fits_furthest_is_described() -> None:
    """A mapping is no list of names, and one of its names is not a text: the latter is the mistake."""
    with pytest.raises(ValueError, match=r"^here: named\.a must be a name, got 3$"):
        _settings.build(Outer, {"named": {"a": ["b", 3]}}, "here: ")
    with pytest.raises(ValueError, match=r"^named must be a name, got 3$"):
        _settings.build(Outer, {"named": ["b", 3]})


def test_a_date_is_a_text() -> None:
    """YAML makes a date of a name that looks like one."""
    assert _settings.build(Outer, _settings.from_yaml("named: [2026-12-01]", "mine.yaml")).named == ["2026-12-01"]


def test_an_empty_file_has_no_settings() -> None:
    assert _settings.from_yaml("", "mine.yaml") == {}
    assert _settings.from_yaml("0", "mine.yaml") == 0
    with pytest.raises(ValueError, match=r"^config must be YAML, got 'mine.yaml': "):
        _settings.from_yaml("a: [", "mine.yaml")
