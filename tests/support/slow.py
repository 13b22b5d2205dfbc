"""Cases that are too slow for each run of the tests: `python -m pytest -n 2 -m slow` runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest

T = TypeVar("T")


def slow_unless(kept: Callable[[T], bool], cases: Iterable[T]) -> list[T]:
    """Marks cases `slow`, except those for which ``kept`` returns True; the list is for `pytest.mark.parametrize`."""
    return [case if kept(case) else pytest.param(case, marks=pytest.mark.slow) for case in cases]  # type: ignore[misc]
