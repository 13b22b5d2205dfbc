"""Settings of a training run: dataclasses, filled from YAML files that are checked key by key."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fdjpeg._numbers import is_finite
from fdjpeg._settings import build, from_yaml

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
        if not (value > 0 and is_finite(value)):
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
        MissingPackage: PyYAML or pydantic is not installed.

    Example::

        config.read(purifier.Config, "cifar10", "purifier")
    """
    packaged = importlib.resources.files("fdjpeg.defenses") / "configs" / defense
    names = sorted(entry.name.removesuffix(".yaml") for entry in packaged.iterdir() if entry.name.endswith(".yaml"))
    try:
        text = (packaged / f"{name}.yaml" if name in names else Path(name)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config must be a YAML file or one of {', '.join(names)}, got {name!r}: {error}") from error
    values = from_yaml(text, name)
    try:
        return build(cls, values)
    except ValueError as error:
        raise ValueError(f"config {name}: {error}") from error
