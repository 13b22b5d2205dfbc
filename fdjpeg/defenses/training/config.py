"""Settings of a training run: dataclasses, filled from YAML files that are checked key by key."""

from __future__ import annotations

import importlib.resources
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from fdjpeg._packages import required

Config = TypeVar("Config")

#: Ways of changing images at random, each image again in every epoch.
AUGMENTATIONS = ("none", "flip", "flip-crop")


@dataclass(frozen=True)
class Schedule:
    """The training of one network: AdamW, the learning rate falling to 0 as a cosine.

    Attributes:
        epochs: passes over the images, each in another order; a last batch that is not full is left out.
        batch_size: images of one step, of all processes together; each process takes an equal share.
        learning_rate: of the first step.
        weight_decay: of AdamW.
        augment: "none", "flip" (left to right, half of the images) or "flip-crop" (and moved by up to an eighth).
        patience: number of epochs without a lower loss on the images held out after which training stops and takes the
            best epoch's weights; None trains to the end and takes the last ones.

    Raises:
        ValueError: a value out of its range.

    Example::

        Schedule(epochs=20, batch_size=64, augment="flip-crop")
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    augment: str = "flip"
    patience: int | None = None

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        positive(learning_rate=self.learning_rate)
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if self.augment not in AUGMENTATIONS:
            raise ValueError(f"augment must be one of {', '.join(AUGMENTATIONS)}, got {self.augment!r}")
        if self.patience is not None:
            at_least(1, patience=self.patience)


@dataclass(frozen=True)
class Settings:
    """Settings of every training that draws random numbers.

    Attributes:
        seed: of all chance.
        validation: the share of the images that is held out, 0 … 0.5.
    """

    seed: int = 0
    validation: float = 0.0


def at_least(bound: int, **values: int) -> None:
    """Refuses numbers below ``bound``, by their names."""
    for name, value in values.items():
        if value < bound:
            raise ValueError(f"{name} must be at least {bound}, got {value}")


def positive(**values: float) -> None:
    """Refuses numbers that are not above 0 and finite, by their names."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")


def read(cls: type[Config], name: str, defense: str) -> Config:
    """Returns the settings of a file.

    Args:
        cls: a dataclass; keys that the file leaves out take its defaults.
        name: a YAML file, or the name of one that is packaged for this defence ("cifar10", "fashion-mnist", "imagenet",
            "small").
        defense: the defence's name.

    Raises:
        ValueError: no such file, not YAML, an unknown key, a value of another type or out of range; the message names
            the file and the key.
        MissingPackage: PyYAML is not installed.

    Example::

        config.read(purifier.Config, "cifar10", "purifier")
    """
    yaml = required("yaml", "pyyaml", "train")
    packaged = importlib.resources.files("fdjpeg.defenses") / "configs" / defense
    names = sorted(entry.name.removesuffix(".yaml") for entry in packaged.iterdir() if entry.name.endswith(".yaml"))
    try:
        text = (packaged / f"{name}.yaml" if name in names else Path(name)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config must be a YAML file or one of {', '.join(names)}, got {name!r}: {error}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"config must be YAML, got {name!r}: {error}") from error
    try:
        return build(cls, {} if values is None else values)
    except ValueError as error:
        raise ValueError(f"config {name}: {error}") from error


def build(cls: type[Config], values: Any, where: str = "") -> Config:
    """Builds a dataclass from plain values, each checked against its field.

    Args:
        cls: a dataclass whose fields are numbers, strings, truth values, tuples of these, dataclasses, or None.
        values: a mapping.
        where: goes before a key in messages.

    Raises:
        ValueError: an unknown key, a value of another type, or one that the dataclass refuses.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where.rstrip('.') or 'the file'} must hold keys and values, got {values!r}")
    types_of = typing.get_type_hints(cls)
    assert is_dataclass(cls)
    for key in values:
        if key not in types_of:
            raise ValueError(f"each setting must be one of {', '.join(types_of)}, got {where}{key}")
    for field in fields(cls):
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where}{field.name} must be given, got no such key")
    built = {key: _value(types_of[key], value, f"{where}{key}") for key, value in values.items()}
    try:
        return cls(**built)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error


def _value(kind: Any, value: Any, where: str) -> Any:
    """Returns a value as the type of its field."""
    if is_dataclass(kind):
        return build(typing.cast("type[Any]", kind), value, f"{where}.")
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if value is None:
            return None
        (kind,) = (part for part in typing.get_args(kind) if part is not type(None))
        return _value(kind, value, where)
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        endless = len(parts) == 2 and parts[1] is Ellipsis
        if not isinstance(value, Sequence) or isinstance(value, str) or not (endless or len(value) == len(parts)):
            wanted = "a list" if endless else f"a list of {len(parts)}"
            raise ValueError(f"{where} must be {wanted}, got {value!r}")
        return tuple(_value(parts[0], item, where) for item in value)
    if kind is float and isinstance(value, str):
        return _number(value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = {int: "a whole number", float: "a number", str: "a name", bool: "true or false"}
        raise ValueError(f"{where} must be {names[kind]}, got {value!r}")
    return value


def _number(text: str, where: str) -> float:
    """Returns a number that YAML takes for a string: "8/255", or "1e-3", which has no point."""
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{where} must be a number, got {text!r}") from error
