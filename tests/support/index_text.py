"""The expressions of indices in the text of ``csrc/``, evaluated on Python's integers or on z3's.

A proof over them is a proof about the source: whatever an expression there says is what is proved.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import z3

_CSRC = Path(__file__).resolve().parents[2] / "csrc"

GEOMETRY, DISPATCH, TUNING = "codec/geometry.h", "cuda/dispatch.h", "cuda/tuning.h"
SAMPLES, WARP, UPSAMPLING = "cuda/samples.cuh", "cuda/warp_blocks.cuh", "cuda/upsampling.cuh"
FORWARD, BACKWARD, THROUGH = "cuda/exact_forward.cuh", "cuda/exact_backward.cuh", "cuda/exact_backward_blocks.cuh"
REAL_FORWARD, REAL_BACKWARD = "cuda/real_forward.cuh", "cuda/real_backward.cuh"
EXACT_LAUNCH, REAL_LAUNCH = "cuda/exact_launch.h", "cuda/real_launch.h"


class Whole(int):
    """An integer of C++: its division is towards zero, here of numbers that are not negative."""

    def __add__(self, other: Any) -> Any:
        return _of(int.__add__(self, other) if isinstance(other, int) else NotImplemented)

    def __sub__(self, other: Any) -> Any:
        return _of(int.__sub__(self, other) if isinstance(other, int) else NotImplemented)

    def __mul__(self, other: Any) -> Any:
        return _of(int.__mul__(self, other) if isinstance(other, int) else NotImplemented)

    def __truediv__(self, other: Any) -> Any:
        return _of(int.__floordiv__(self, other) if isinstance(other, int) else NotImplemented)

    def __mod__(self, other: Any) -> Any:
        return _of(int.__mod__(self, other) if isinstance(other, int) else NotImplemented)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Any) -> Any:
        return _of(int(other) - int(self))


def _of(value: Any) -> Any:
    return value if value is NotImplemented else Whole(value)


def choose(condition: Any, one: Any, other: Any) -> Any:
    """``condition ? one : other``."""
    return (one if condition else other) if isinstance(condition, bool) else z3.If(condition, one, other)


def both(*conditions: Any) -> Any:
    """``&&``."""
    return all(conditions) if all(isinstance(one, bool) for one in conditions) else z3.And(*conditions)


def either(*conditions: Any) -> Any:
    """``||``."""
    return any(conditions) if all(isinstance(one, bool) for one in conditions) else z3.Or(*conditions)


def smaller(one: Any, other: Any) -> Any:
    """The smaller number."""
    return choose(one < other, one, other)


def larger(one: Any, other: Any) -> Any:
    """The larger number."""
    return choose(one < other, other, one)


def clamp(value: Any, low: Any, high: Any) -> Any:
    """The number limited to a range."""
    return choose(value < low, low, choose(high < value, high, value))


FUNCTIONS: dict[str, Any] = {
    "choose": choose, "both": both, "either": either, "smaller": smaller, "larger": larger, "clamp": clamp,
}  # fmt: skip


class Text:
    """The files of ``csrc/``, one of which may be changed.

    Args:
        file: the changed one, such as "cuda/samples.cuh".
        old: a text that occurs once in it.
        new: what takes its place.
    """

    def __init__(self, file: str = "", old: str = "", new: str = "") -> None:
        self._file, self._old, self._new = file, old, new
        self._texts: dict[str, str] = {}

    def of(self, file: str) -> str:
        """Returns a file's text, with single spaces."""
        if file in self._texts:
            return self._texts[file]
        text = (_CSRC / file).read_text(encoding="utf-8")
        if file == self._file:
            assert text.count(self._old) == 1, f"{self._old!r} occurs {text.count(self._old)} times in {file}"
            text = text.replace(self._old, self._new)
        self._texts[file] = " ".join(re.sub(r"//[^\n]*", "", text).split())
        return self._texts[file]

    def found(self, file: str, pattern: str) -> str:
        """Returns what the only group of a pattern matches at its first place in a file."""
        match = re.search(pattern, self.of(file))
        assert match is not None, f"{pattern!r} is not in {file}"
        return match[1]

    def value(self, file: str, pattern: str, names: dict[str, Any]) -> Any:
        """Evaluates the expression that a pattern's group matches."""
        return evaluated(self.found(file, pattern), names)

    def between(self, file: str, first: str, then: str, wanted: str) -> bool:
        """Whether a text, such as a barrier, is between another's first place and the next place of a third."""
        text = self.of(file)
        start = text.index(first)
        return wanted in text[start : text.index(then, start + len(first))]


def evaluated(expression: str, names: dict[str, Any]) -> Any:
    """Evaluates an expression of C++ on given names; ``a::b`` and ``a.b`` are attributes."""
    return eval(_compiled(expression), {"__builtins__": {}, **FUNCTIONS, **names})


def run(body: str, names: dict[str, Any]) -> Any:
    """Runs ``const int a = …;`` statements up to a ``return …;``, whose value it returns."""
    before, found, result = f"; {body}".rpartition("; return ")
    assert found, f"no return in {body!r}"
    return evaluated(result.rstrip("; "), known(before, names))


def known(body: str, names: dict[str, Any]) -> dict[str, Any]:
    """Returns the names with those that ``const int a = …;`` statements declare."""
    names = dict(names)
    for statement in filter(None, (one.strip() for one in body.split(";"))):
        names |= declared(statement, names)
    return names


def declared(statement: str, names: dict[str, Any]) -> dict[str, Any]:
    """Returns the names that ``const int a = …, b = …`` declares."""
    made: dict[str, Any] = {}
    _, rest = re.split(r"^(?:static )?(?:constexpr |const )*(?:int64_t|unsigned|int|bool|uint8_t\*) ", statement)
    for part in _split(rest, ","):
        name, _, expression = part.partition("=")
        made[name.strip()] = evaluated(expression, names | made)
    return made


@cache
def _compiled(expression: str) -> CodeType:
    return compile(python_of(expression), expression, "eval")


def python_of(expression: str) -> str:
    """Returns an expression of C++ as Python's."""
    text = re.sub(r"static_cast<[^<>]*>", "", expression).replace("::", ".").replace("->", ".").strip()
    text = re.sub(r"\bpass\b", "pass_", re.sub(r"u?int64_t\{([^{}]*)\}", r"(\1)", text))
    parts = _split(text, ",")
    return ", ".join(_one(part.strip()) for part in parts)


def _one(text: str) -> str:
    question = _find(text, "?")
    if question >= 0:
        rest = text[question + 1 :]
        colon = _colon(rest)
        return (
            f"choose({_one(text[:question].strip())}, {_one(rest[:colon].strip())}, {_one(rest[colon + 1 :].strip())})"
        )
    for symbol, name in (("||", "either"), ("&&", "both")):
        parts = _split(text, symbol)
        if len(parts) > 1:
            return f"{name}({', '.join(_one(part.strip()) for part in parts)})"
    return re.sub(r"\(([^()]*(?:\([^()]*(?:\([^()]*(?:\([^()]*\)[^()]*)*\)[^()]*)*\)[^()]*)*)\)", _inner, text)


def _inner(match: re.Match[str]) -> str:
    return f"({python_of(match[1])})"


def _colon(text: str) -> int:
    """Returns the place of the colon that ends the first choice, in which others may be."""
    inner = 0
    for i, character in _top(text):
        if character == ":" and inner == 0:
            return i
        inner += (character == "?") - (character == ":")
    raise AssertionError(f"no colon in {text!r}")


def _top(text: str) -> list[tuple[int, str]]:
    """Returns the characters outside of parentheses, with their places."""
    depth, found = 0, []
    for i, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if depth == 0:
            found.append((i, character))
    return found


def _find(text: str, symbol: str) -> int:
    return next((i for i, _ in _top(text) if text.startswith(symbol, i)), -1)


def _split(text: str, symbol: str) -> list[str]:
    at = _find(text, symbol)
    return [text] if at < 0 else [text[:at], *_split(text[at + len(symbol) :], symbol)]


def group(**names: Any) -> SimpleNamespace:
    """Returns names as attributes, such as the constants of a template."""
    return SimpleNamespace(**names)
