"""Settings from YAML: dataclasses that pydantic fills and checks key by key, with messages in this package's words."""

from __future__ import annotations

import functools
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from fdjpeg._packages import required

Config = TypeVar("Config")

#: Wanted values by pydantic's types of errors.
_WANTED = {
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "string": "a name",
    "tuple": "a list",
}


def from_yaml(text: str, name: str) -> Any:
    """Returns the values of a YAML text, an empty mapping if it holds none.

    Args:
        text: of the file.
        name: of the file, for the message.

    Raises:
        ValueError: the text is not YAML.
        MissingPackage: PyYAML is not installed.
    """
    yaml = required("yaml", "pyyaml", "train")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"config must be YAML, got {name!r}: {error}") from error
    return {} if values is None else values


def build(cls: type[Config], values: Any, where: str = "") -> Config:
    """Builds a dataclass from plain values, each checked against its field.

    Lists become tuples where a field is one. Where it is a floating number, so may be a text such as "8/255", or
    "1e-3", which YAML takes for one because it has no point.

    Args:
        cls: a dataclass whose fields are numbers, strings, truth values, lists of these, dataclasses, or None.
        values: a mapping.
        where: goes before a key in messages.

    Raises:
        ValueError: an unknown key, a value of another type, or one that the dataclass refuses.
        MissingPackage: pydantic is not installed.
    """
    pydantic = required("pydantic", "pydantic", "train")
    checked = _adapter(cls)  # type: ignore[arg-type]  # mypy takes a class for not hashable
    plain = json.loads(json.dumps(values, default=str))  # a copy, whose texts may become numbers
    for _ in range(2):
        try:
            built: Config = checked.validate_json(json.dumps(plain), strict=True, extra="forbid")
        except pydantic.ValidationError as error:
            found = error.errors(include_url=False)
            made = [_made_number(plain, one) for one in found]  # all of them, not up to the first
            if not any(made):
                raise ValueError(_in_words(cls, found, where)) from error
        else:
            return built
    raise AssertionError("the second time no text is left that could be a number")


@functools.cache
def _adapter(cls: type[Config]) -> Any:
    """Returns what checks values against a dataclass; making it takes longer than a check."""
    return required("pydantic", "pydantic", "train").TypeAdapter(cls)


def _made_number(values: Any, error: Mapping[str, Any]) -> bool:
    """Puts a number in place of a text that is one, where an error asks for a number; returns whether it did."""
    if error["type"] != "float_type" or not isinstance(error["input"], str):
        return False
    numerator, _, denominator = error["input"].partition("/")
    try:
        number = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        return False
    *places, last = error["loc"]
    for place in places:
        values = values[place]
    values[last] = number
    return True


def _in_words(cls: type, errors: Sequence[Mapping[str, Any]], where: str) -> str:
    """Describes the first setting's error: the setting, what it must be, and the value that came.

    Of a setting with alternatives, the one that fits furthest is described.
    """
    error = max((one for one in errors if one["loc"][:1] == errors[0]["loc"][:1]), key=lambda one: len(one["loc"]))
    kind, loc = error["type"], error["loc"]
    # Without places in lists and alternatives of a type.
    names = [str(part) for part in loc if not isinstance(part, int) and "[" not in part]
    name = where + ".".join(names)
    if kind == "value_error":
        return f"{name}.{error['ctx']['error']}" if names else f"{where}{error['ctx']['error']}"
    if kind == "unexpected_keyword_argument":
        return f"each setting must be one of {', '.join(_keys(cls, loc[:-1]))}, got {name}"
    if kind == "missing" and isinstance(loc[-1], int):
        length = max(one["loc"][-1] for one in errors if one["loc"][:-1] == loc[:-1]) + 1
        return f"{name} must be a list of {length}, got {error['input']!r}"
    if kind == "missing":
        return f"{name} must be given, got no such key"
    if kind.startswith("dataclass"):
        return f"{name.rstrip('.') or 'the file'} must hold keys and values, got {error['input']!r}"
    if kind == "too_long":
        return f"{name} must be a list of {error['ctx']['max_length']}, got {error['input']!r}"
    return f"{name} must be {_WANTED.get(kind.split('_')[0], error['msg'])}, got {error['input']!r}"


def _keys(cls: Any, loc: Sequence[int | str]) -> list[str]:
    """Returns the names of the settings of the dataclass at a place in another one."""
    for part in loc:
        kind = typing.get_type_hints(cls)[part] if isinstance(part, str) else cls
        parts = [one for one in typing.get_args(kind) if one not in (type(None), Ellipsis)]
        # An alternative to None, or the items of a list.
        cls = parts[0] if parts and typing.get_origin(kind) in (types.UnionType, typing.Union, tuple, list) else kind
    assert is_dataclass(cls)
    return [field.name for field in fields(cls)]
