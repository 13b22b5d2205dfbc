"""Lists on the command line: ``--eps 1/255 2/255``, the same for all options of all commands that take several values.

An option may also be repeated. Arguments come before such an option, or after ``--``.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand


class Command(TyperCommand):
    """A command whose options take several values one after the other."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses arguments after each value of a list has got its option."""
        return super().parse_args(ctx, spread(self, args))


def spread(command: TyperCommand, arguments: Sequence[str]) -> list[str]:
    """Returns arguments with ``--eps 1/255 2/255`` written as ``--eps 1/255 --eps 2/255``.

    Args:
        command: its options tell which take several values. A list of whole numbers ends before any other word.
        arguments: of the command.
    """
    several = {name: item.name for item in command.params if getattr(item, "multiple", False) for name in item.opts}
    hints = typing.get_type_hints(command.callback)
    numbers = {name for name, hint in hints.items() if list[int] in (hint, *typing.get_args(hint))}
    found: list[str] = []
    option, has_value = "", False
    for number, argument in enumerate(arguments):
        if argument == "--":
            return [*found, *arguments[number:]]
        if argument.startswith("-"):
            option, equals, _ = argument.partition("=")
            has_value = bool(equals)
        elif not has_value:
            has_value = True
        elif option in several and (several[option] not in numbers or argument.isdecimal()):
            found.append(option)
        else:
            option = ""
        found.append(argument)
    return found
