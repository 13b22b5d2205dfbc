"""The mutants that `tests/mutation.py` plants: each kind is found, and what is no behaviour is left alone."""

from __future__ import annotations

import pytest
from support.mutants import mutants, sample

SOURCE = '''"""A module."""

from dataclasses import dataclass


@dataclass
class Settings:
    """Its settings."""

    rate: float = 0.5
    name: str = "x1"


def f(a: int, b: "list[int]" = 3, *, c: bool = True) -> int:
    """Returns 1 + 1."""
    if not a:
        raise ValueError(f"a must be {b + 1}, got {a}" + " here")
    g(a, b, key=2)
    return -a if a > b and c else a - 1
'''


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("rate: float = 0.5", "rate: float = 1.0"),
        ('b: "list[int]" = 3', 'b: "list[int]" = 4'),
        ('b: "list[int]" = 3', 'b: "list[int]" = 2'),
        ("c: bool = True", "c: bool = False"),
        ("if not a:", "if not (not a):"),
        ("if not a:", "if (a):"),
        ('raise ValueError(f"a must be {b + 1}, got {a}" + " here")', "pass"),
        ("g(a, b, key=2)", "pass"),
        ("g(a, b, key=2)", "g(b, a, key=2)"),
        ("g(a, b, key=2)", "g(a, b, key=3)"),
        ("g(a, b, key=2)", "g(a, b)"),
        ("-a if", "(a) if"),
        ("if a > b", "if a >= b"),
        ("and c", "or c"),
        ("if a > b and c else", "if not (a > b and c) else"),
        ("a - 1", "a + 1"),
        ("a - 1", "a - 2"),
    ],
)
def test_each_kind_of_fault_is_planted(before: str, after: str) -> None:
    assert before in SOURCE
    made = {mutant.apply(SOURCE.encode()).decode() for mutant in mutants(SOURCE.encode())}
    assert SOURCE.replace(before, after) in made


def test_literals_annotations_and_messages_are_left_alone() -> None:
    found = mutants(SOURCE.encode())
    assert len({mutant.apply(SOURCE.encode()) for mutant in found}) == len(found)
    for mutant in found:
        changed = mutant.apply(SOURCE.encode()).decode()
        for text in ('"""Returns 1 + 1."""', '"list[int]"', '"x1"', "-> int"):
            assert text in changed
        assert "a must be {b + 1}" in changed or "pass" in changed


def test_a_mutant_knows_its_function_and_its_lines() -> None:
    source = SOURCE.encode()
    places = {(mutant.line, mutant.function) for mutant in mutants(source)}
    assert {(10, 0), (14, 0), (18, 14), (19, 14)} <= places
    (swapped,) = (mutant for mutant in mutants(source) if mutant.kind == "arguments swapped")
    assert swapped.before(source) == "g(a, b, key=2)"
    assert swapped.after(source) == "g(b, a, key=2)"


def test_the_sample_follows_from_seed_and_name() -> None:
    source = SOURCE.encode()
    assert sample("m", source, 1000, 0) == mutants(source)
    drawn = sample("m", source, 5, 0)
    assert len(drawn) == 5
    assert drawn == sample("m", source, 5, 0)
    assert drawn != sample("m", source, 5, 1) or drawn != sample("n", source, 5, 0)
