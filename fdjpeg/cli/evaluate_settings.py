"""The settings of the command ``fdjpeg evaluate``: from presets, a YAML file and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fdjpeg._settings import build, from_yaml
from fdjpeg.evaluation import Plan


@dataclass(frozen=True)
class Settings:
    """All settings of a run; the keys of a YAML file are these names, with values as on the command line.

    The defaults are the preset "quick". ``defense`` is a list, or a mapping from defences to the gradients that an
    adaptive attacker tries on each.
    """

    model: str = "efficientnet-lite0"
    data: str = "photographs"
    size: int | None = None
    defense: list[str] | dict[str, list[str]] = field(
        default_factory=lambda: {"jpeg:75": ["cubic"], "jpeg:50": ["cubic"], "jpeg:25": ["cubic"]}
    )
    attack: list[str] = field(default_factory=lambda: ["pgd-20", "flip-20"])
    eps: list[str] = field(default_factory=lambda: ["1/255", "2/255"])
    norm: str = Plan.norm
    gradient: list[str] = field(default_factory=lambda: list(Plan.gradients))
    transfer: list[str] = field(default_factory=list)
    draws: int = Plan.draws
    checks: bool = Plan.checks
    certify: bool = Plan.certify
    images: int = 20
    batch_size: int = Plan.batch_size
    pictures: int = Plan.pictures
    seed: int = Plan.seed
    device: str = "cpu"
    out: str = "fdjpeg-evaluation"

    def plan(self) -> Plan:
        """Returns the plan of the evaluation, without the networks of ``transfer``, which are not loaded yet.

        Raises:
            ValueError: as `Plan` does.
        """
        values = {_PLURALS.get(name, name): value for name, value in vars(self).items() if name != "transfer"}
        return Plan(**{item.name: values[item.name] for item in fields(Plan) if item.name in values})


#: Fields of a plan whose options have another name, because they are repeated.
_PLURALS = {"defense": "defenses", "attack": "attacks", "gradient": "gradients"}

#: The differences from the defaults of ``Settings``.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {},
    "standard": {
        "defense": ["jpeg:75", "jpeg:50", "jpeg:25"],
        "attack": ["pgd-50", "pgd-margin-50", "flip-50", "square-1000"],
        "eps": ["1/255", "2/255", "4/255"],
        "gradient": ["identity", "straight-through", "cubic", "tanh"],
        "images": 200,
        "batch_size": 20,
    },
    "full": {
        "defense": [
            "jpeg:75",
            "jpeg:50",
            "jpeg:25",
            "feature-distillation:paper",
            "feature-distillation:code",
            "stochastic-jpeg:20+40+60+80",
        ],
        "attack": [
            "pgd-100x5",
            "pgd-margin-100x5",
            "flip-100x5",
            "apgd-ce-100",
            "apgd-t-100",
            "fab-100",
            "square-5000",
        ],
        "eps": ["1/255", "2/255", "4/255", "8/255"],
        "gradient": ["identity", "straight-through", "cubic", "tanh", "fourier"],
        "images": 1000,
        "batch_size": 50,
    },
}


def resolve(preset: str, config: Path | None, given: Mapping[str, Any]) -> Settings:
    """Returns the settings of a run: those given, else the file's, else the preset's.

    Raises:
        ValueError: for an unknown preset, a file that cannot be read, or a key or value in it that is not a setting.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    return Settings(**{**asdict(Settings()), **PRESETS[preset], **_read(config), **given})


def _read(config: Path | None) -> dict[str, Any]:
    """Reads the settings of a YAML file; single values become lists where a setting is a list."""
    if config is None:
        return {}
    try:
        text = config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config must be a YAML file that can be read, got {str(config)!r}: {error}") from error
    found = from_yaml(text, str(config))
    if isinstance(found, dict):
        found = {str(key).replace("-", "_"): value for key, value in found.items()}
        lists = {item.name for item in fields(Settings) if str(item.type).startswith("list")}
        found = {name: _texts(value) if name in lists else value for name, value in found.items()}
    try:
        settings = build(Settings, found)
    except ValueError as error:
        raise ValueError(f"config {config}: {error}") from error
    return {name: getattr(settings, name) for name in found}


def _texts(value: Any) -> Any:
    """Returns a single value as a list, and numbers in lists as texts."""
    if isinstance(value, dict):
        return {str(key): _texts(tried) for key, tried in value.items()}
    values = value if isinstance(value, list) else [value]
    return [str(item) if type(item) in (int, float) else item for item in values]
