"""Attacks by the names that commands, files and reports use."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from .autoattack import APGD, FAB, Square
from .base import Attack
from .carlini_wagner import CarliniWagnerL0, CarliniWagnerLinf
from .flip import Flip
from .foolbox import DDN, Boundary, CarliniWagner, DeepFool, HopSkipJump
from .jsma import JSMA
from .noise import Noise
from .pgd import PGD


@dataclass(frozen=True)
class _Kind:
    """The meaning of a name.

    Attributes:
        make: the attack's class, or a function of its settings.
        budget: the settings that the numbers after a name give, in order.
        fixed: settings that the name itself implies.
    """

    make: Callable[..., Attack]
    budget: tuple[str, ...]
    fixed: dict[str, Any]


#: PGD's settings for the attacks that preceded it.
_PLAIN: dict[str, Any] = {"schedule": "constant", "momentum": 0.0, "random_start": False}


def _fgsm(**settings: Any) -> PGD:
    """Makes PGD with one step of length eps from the image itself (Goodfellow et al. 2015, arXiv 1412.6572)."""
    return PGD(**_PLAIN | {"steps": 1, "step": 1.0, "label": "FGSM"} | settings)


def _bim(steps: int = 10, **settings: Any) -> PGD:
    """Makes PGD with equal steps from the image itself, 2.5 eps in all (Kurakin et al. 2017, arXiv 1607.02533)."""
    return PGD(**_PLAIN | {"steps": steps, "step": 2.5 / steps, "label": f"BIM-{steps}"} | settings)


_KINDS: dict[str, _Kind] = {
    "fgsm": _Kind(_fgsm, (), {}),
    "bim": _Kind(_bim, ("steps",), {}),
    "pgd": _Kind(PGD, ("steps", "restarts"), {}),
    "pgd-margin": _Kind(PGD, ("steps", "restarts"), {"loss": "margin"}),
    "pgd-dlr": _Kind(PGD, ("steps", "restarts"), {"loss": "dlr"}),
    "pgd-targeted": _Kind(PGD, ("steps", "restarts"), {"loss": "margin", "aim": "likeliest", "restarts": 9}),
    "flip": _Kind(Flip, ("steps", "restarts"), {}),
    "flip-margin": _Kind(Flip, ("steps", "restarts"), {"loss": "margin"}),
    "flip-targeted": _Kind(Flip, ("steps", "restarts"), {"loss": "margin", "aim": "likeliest", "restarts": 9}),
    "apgd-ce": _Kind(APGD, ("steps", "restarts"), {"loss": "ce"}),
    "apgd-dlr": _Kind(APGD, ("steps", "restarts"), {"loss": "dlr"}),
    "apgd-t": _Kind(APGD, ("steps", "restarts"), {"loss": "dlr-targeted", "restarts": 9}),
    "fab": _Kind(FAB, ("steps", "targets"), {}),
    "square": _Kind(Square, ("queries",), {}),
    "deepfool": _Kind(DeepFool, ("steps", "candidates"), {}),
    "cw": _Kind(CarliniWagner, ("steps", "searches"), {}),
    "cw-l0": _Kind(CarliniWagnerL0, ("steps", "rounds"), {}),
    "cw-linf": _Kind(CarliniWagnerLinf, ("steps", "rounds"), {}),
    "jsma": _Kind(JSMA, (), {}),
    "jsma-logits": _Kind(JSMA, (), {"surface": "logits"}),
    "ddn": _Kind(DDN, ("steps",), {}),
    "boundary": _Kind(Boundary, ("steps",), {}),
    "hopskipjump": _Kind(HopSkipJump, ("steps",), {}),
    "noise": _Kind(Noise, (), {}),
}

#: The names that ``from_name`` knows.
NAMES: tuple[str, ...] = tuple(_KINDS)


def from_name(name: str, **settings: Any) -> Attack:
    """Makes an attack by name, with its budget: "pgd", "pgd-20", "pgd-margin-50x3", "apgd-t-100x9", "square-5000".

    Args:
        name: one of ``NAMES``, in any case, then, after a hyphen, the number of steps (of queries, for "square"), then,
            after an "x", that of restarts (of target classes for "fab", of weights for "cw", of rounds for "cw-l0" and
            "cw-linf", of candidates for "deepfool").
        settings: fields of the attack's class, such as ``norm="l2"`` or ``draws=20``. A norm of None is the
            attack's own: "linf", or "l2" or "l0" for attacks that only minimise that norm.

    Raises:
        ValueError: for an unknown name or setting, a number that the attack does not use, or a value out of range.
        MissingPackage: if the attack needs a package that is not installed.

    Example::

        attack = from_name("pgd-20x5", norm="l2")  # 20 steps, 5 restarts
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be an attack's name, such as 'pgd-20x5', got {name!r}")
    kinds = r"(?P<kind>[a-z][a-z0-9]*(?:-[a-z][a-z0-9]*)*)"
    match = re.fullmatch(kinds + r"(?:-(?P<first>\d+)(?:[x×](?P<second>\d+))?)?", name.lower())
    kind = _KINDS.get(match["kind"]) if match else None
    if match is None or kind is None:
        raise ValueError(
            f'attack must be one of {", ".join(NAMES)}, or one with its budget, such as "pgd-20x5", got {name!r}'
        )
    numbers = [int(match[group]) for group in ("first", "second") if match[group] is not None]
    if len(numbers) > len(kind.budget):
        taken = " and ".join(kind.budget) or "no numbers"
        raise ValueError(f"attack {match['kind']} must have {taken} after its name, got {name!r}")
    known = {field.name for field in fields(PGD if kind.make in (_fgsm, _bim) else kind.make)}  # type: ignore[arg-type]
    if not settings.keys() <= known:
        raise ValueError(
            f"settings of {match['kind']} must be among {', '.join(sorted(known))}, "
            f"got {', '.join(sorted(settings.keys() - known))}"
        )
    if settings.get("norm", "") is None:
        settings = {key: value for key, value in settings.items() if key != "norm"}
    return kind.make(**kind.fixed | dict(zip(kind.budget, numbers, strict=False)) | settings)
