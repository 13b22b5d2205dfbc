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
        finding: the result in one sentence.
        headline: the run in one sentence.
        warnings: masked defences, failed checks and open experiments; empty where all is well.
        findings: one sentence for each defence.
        overview: images right for the attackers who know nothing and everything, a row for each defence and radius.
        overview_caption: its units.
        table: images right for every attacker, a row for each defence and radius.
        by_attack: images right under each attack; None for a single attack.
        notes: how to read the table.
        checks: the sanity checks.
        origins: sources and terms of images and network.
    """

    finding: str
    headline: str
    warnings: list[str]
    findings: list[str]
    overview: Table
    overview_caption: str
    table: Table
    by_attack: Table | None
    notes: list[str]
    checks: list[Check]
    origins: list[str]


def printable(text: str) -> str:
    """Returns text that pages and drawings can hold: control characters and bytes that are not UTF-8 are replaced."""
    whole = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(character if character.isprintable() or character == "\n" else "�" for character in whole)
