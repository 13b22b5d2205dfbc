"""Mutation testing: each kind of fault is found and planted, and its page is that of the kept outcomes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mutation
import pytest
from support.mutants import mutants, sample
from support.mutation_runs import Baseline, Planter, named

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


@pytest.mark.parametrize("code", ["min(a, b)", "torch.maximum(a, b)", "zip(a, strict=True)"])
def test_changes_without_effect_are_not_planted(code: str) -> None:
    assert [mutant.kind for mutant in mutants(code.encode())] == ["statement dropped"]


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
    assert set(drawn) < set(sample("m", source, 6, 0))
    assert drawn == sample("m", source, 5, 0)
    assert drawn != sample("m", source, 5, 1) or drawn != sample("n", source, 5, 0)


PLANTED = """class Sum:
    @property
    def twice(self):
        return 2 * 4

    def later(self):
        def inner(a):
            return a + self.twice

        return inner


def f(a):
    return a - 1


alias = f
made_before = Sum().later()
"""


def test_code_is_exchanged_in_methods_closures_and_functions_that_others_hold(tmp_path: Path) -> None:
    module = tmp_path / "fdjpeg" / "m.py"
    module.parent.mkdir()
    module.write_text(PLANTED)
    source = PLANTED.encode()

    def fresh() -> object:
        specification = importlib.util.spec_from_file_location("m", module)
        found = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(found)
        return found

    for before, after, expected in [
        ("2 * 4", "2 / 4", [0.5, 1.5, 1.5, 0]),
        ("a + self", "a - self", [8, -7, -7, 0]),
        ("a - 1", "a + 1", [8, 9, 9, 2]),
    ]:
        wanted = PLANTED.replace(before, after).encode()
        (mutant,) = (mutant for mutant in mutants(source) if mutant.apply(source) == wanted)
        loaded = fresh()
        held, bound = loaded.alias, loaded.Sum()  # type: ignore[attr-defined]
        assert Planter(tmp_path).plant("fdjpeg/m.py", mutant, source)
        made_before = loaded.made_before  # type: ignore[attr-defined]
        assert [bound.twice, bound.later()(1), made_before(1), held(1)] == expected


def test_tests_within_the_budget_are_the_shortest_and_shared_fixtures_count_once() -> None:
    seconds = {"a[1]": 1.0, "a[2]": 1.5, "b": 2.0, "c": 0.5, "d": 0.5}
    calls = {test: ["m.py:7"] for test in seconds} | {"d": ["m.py:9"]}
    uses = {test: ["shared"] if test in "bc" else [] for test in seconds}
    baseline = Baseline(seconds, calls, uses, {"shared": 3.0}, ["m.py:1"])
    (mutant, *_) = mutants(b"\n" * 7 + b"x = 1")
    assert baseline.able("m.py", mutant) == list(seconds)  # of no function: what calls anything of the module
    assert baseline.able("n.py", mutant) == []
    tests = ["a[1]", "a[2]", "b", "c"]
    assert baseline.chosen(tests, 100) == ["a[1]", "a[2]", "c", "b"]  # after 1, 2.5, 3.5 and 5 seconds
    assert baseline.chosen(tests, 6) == ["a[1]", "a[2]", "c"]
    assert baseline.chosen(tests, 8) == ["a[1]", "a[2]", "c", "b"]
    assert baseline.chosen(tests, 0) == ["a[1]"]


def test_what_a_test_names_without_a_call_counts_for_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("fdjpeg.m")
    module.LIMIT, module.other = 1.5, 2
    monkeypatch.setitem(sys.modules, "fdjpeg.m", module)

    def compares() -> bool:
        return module.LIMIT == 1.5 and module.other == 2

    def given() -> None:
        pass

    given.__module__, given.__qualname__ = "fdjpeg.n", "given"
    assert named(SimpleNamespace(function=compares)) == {"fdjpeg/m.py:LIMIT"}
    assert named(SimpleNamespace(callspec=SimpleNamespace(params={"f": given, "n": 3}))) == {"fdjpeg/n.py:given"}
    assert named(SimpleNamespace()) == set()


def test_the_tables_are_those_of_the_kept_outcomes() -> None:
    assert (mutation.KEPT / "README.md").read_text() == mutation.page()
    assert mutation.tables()[0] in (mutation.ROOT / "docs" / "trust.md").read_text()


def test_all_that_survived_are_tried_again(tmp_path: Path) -> None:
    module = "fdjpeg/rate.py"
    source = (mutation.ROOT / module).read_bytes()
    first, second, third, *_ = mutants(source)
    for mutant, outcome in ((first, "survived"), (second, "caught"), (third, "not called")):
        mutation.add(tmp_path / "core.jsonl", {**mutation.described(module, mutant, source), "outcome": outcome})
    assert mutation.survivors(module, source, [], tmp_path) == [first, third]
    assert mutation.survivors(module, source, [first], tmp_path) == [third]
