"""A report in words and tables of text, from which its files are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .checks import Check


class Table(NamedTuple):
    """Names of columns, and rows of as many texts."""

    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Text:
    """A report in words.

    Attributes:
        headline: the run in one sentence.
        warnings: masked defences, failed checks and open experiments; empty where all is well.
        findings: one sentence for each defence.
        table: images right, a row for each defence and radius.
        by_attack: images right under each attack; None for a single attack.
        notes: how to read the table.
        checks: the sanity checks.
        origins: sources and terms of images and network.
    """

    headline: str
    warnings: list[str]
    findings: list[str]
    table: Table
    by_attack: Table | None
    notes: list[str]
    checks: list[Check]
    origins: list[str]
