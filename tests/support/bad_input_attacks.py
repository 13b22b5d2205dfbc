"""The rows of bad input of `fdjpeg.attacks` and `fdjpeg.certificates`."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn

import fdjpeg
from fdjpeg import attacks, certificates
from fdjpeg.defenses import parse_defense
from support.bad_input import Row, rows
from support.bad_input_kinds import (
    of_choice,
    of_flag,
    of_module,
    of_positive,
    of_tensor,
    of_text,
    of_whole,
)

NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)).eval()
X = torch.full((2, 3, 8, 8), 0.5)
Y = torch.tensor([0, 1])
DEFENDED = parse_defense("feature-distillation:uniform(30),passes=2,entry=after")

_BY_RUN = "is for attacks, on arguments that `Attack.run` has checked"

#: Public names that take nothing from the caller that could be wrong.
NOTHING_BAD = {
    "attacks.LOSSES": "is a table",
    "attacks.NAMES": "is a tuple",
    "attacks.NORMS": "is a tuple",
    "attacks.Norm": "is a type",
    "attacks.AttackResult": "is a result",
    "attacks.Found": "is a result",
    "attacks.Counted": _BY_RUN,
    "attacks.MinimumNorm": "is abstract; its kinds have rows",
    "attacks.distances": _BY_RUN,
    "attacks.draw": _BY_RUN,
    "attacks.on_byte_grid": _BY_RUN,
    "attacks.project": _BY_RUN,
    "attacks.to_byte_grid": _BY_RUN,
    "certificates.Certificate": "is a result",
    "certificates.Status": "is a type",
}

#: Settings of attacks by the kind of their values; every field of an attack is in one of them.
_WHOLE = ("steps", "restarts", "draws", "searches", "candidates", "targets", "queries", "rounds")
_CHOICES = ("norm", "loss", "schedule", "aim", "surface", "target")
_FLAGS = ("until_fooled", "random_start", "whole_bytes", "pairs")
_POSITIVE = ("step", "temperature")
_SHARES = {"share": "in (0, 1)", "theta": "in [-1, 1] and not 0"}


def _of_attack(kind: type[attacks.Attack]) -> list[Row]:
    """Rows of every setting of a kind of attack."""
    name, found = f"attacks.{kind.__name__}", []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        setting = field.name
        if setting in _WHOLE:
            found += of_whole(name, setting, kind, 1)
        elif setting == "seed":
            found += of_whole(name, setting, kind)
        elif setting in _CHOICES:
            found += of_choice(name, setting, kind)
        elif setting in _FLAGS:
            found += of_flag(name, setting, kind)
        elif setting in _POSITIVE:
            found += of_positive(name, setting, kind)
        elif setting in _SHARES:
            wanted = f"{setting} must be {_SHARES[setting]}, got "
            found += rows(
                name,
                (lambda s=setting: kind(**{s: "1"}), TypeError, f"{setting} must be a number, got '1'"),
                (lambda s=setting: kind(**{s: 0}), ValueError, f"{wanted}0"),
                (lambda s=setting: kind(**{s: 1.5}), ValueError, f"{wanted}1.5"),
                (lambda s=setting: kind(**{s: math.nan}), ValueError, f"{wanted}nan"),
            )
        elif setting == "label":
            found += rows(name, (lambda: kind(label=3), TypeError, "label must be a text, got 3"))
        elif setting == "momentum":
            found += rows(
                name,
                (lambda: kind(momentum="0"), TypeError, "momentum must be a number, got '0'"),
                (lambda: kind(momentum=1), ValueError, "momentum must be 0 or more and less than 1, got 1"),
                (lambda: kind(momentum=math.nan), ValueError, "momentum must be 0 or more and less than 1, got nan"),
            )
        else:
            raise AssertionError(f"the setting {setting} of {kind.__name__} must have its rows of bad input")
    return found


def _of_run() -> list[Row]:
    """Rows of the arguments that all attacks take."""
    name = "attacks.Attack"

    def run(**changed: object) -> object:
        arguments = {"model": NETWORK, "x": X, "y": Y, "eps": 0.1, **changed}
        return attacks.PGD(steps=1).run(**arguments)  # type: ignore[arg-type]

    shape = "must be images (N, C, H, W), got shape"
    return [
        *of_module(name, "model", run),
        *of_module(name, "judge", run, none=True),
        *of_tensor(name, "x", run),
        *of_tensor(name, "y", run),
        *rows(
            name,
            (lambda: run(x=X[0]), ValueError, f"x {shape} (3, 8, 8)"),
            (lambda: run(x=(255 * X).byte()), TypeError, "x must be floats in [0, 1], got torch.uint8"),
            (lambda: run(x=2 * X + 0.1), ValueError, "x must be in [0, 1], got values from 1.1"),
            (lambda: run(x=X * math.nan), ValueError, "x must be in [0, 1], got values from nan to nan"),
            (lambda: run(y=Y[:1]), ValueError, "y must be (2,), a class for each image, got shape (1,)"),
            (lambda: run(y=Y.float()), TypeError, "y must be int64, got torch.float32"),
            (lambda: run(y=-Y), ValueError, "y must be classes 0, 1, …, got -1"),
            (lambda: run(y=Y + 9), ValueError, "y must be in 0…3 for a model of 4 classes, got 10"),
            (
                lambda: run(eps=-0.1),
                ValueError,
                "eps must be 0 or more, in units of the images' range [0, 1], got -0.1",
            ),
            (
                lambda: run(eps=math.nan),
                ValueError,
                "eps must be 0 or more, in units of the images' range [0, 1], got n",
            ),
            (lambda: run(eps="2/255"), TypeError, "eps must be a number, got '2/255'"),
            (lambda: run(eps=None), TypeError, "eps must be a number, got None"),
            (lambda: run(indices=[0, 1]), TypeError, "indices must be an int64 tensor, got list"),
            (lambda: run(indices=Y.float()), TypeError, "indices must be an int64 tensor, got torch.float32"),
            (lambda: run(indices=Y[:1]), ValueError, "indices must be (2,), one for each image, got shape (1,)"),
            (
                lambda: run(model=nn.Identity()),
                ValueError,
                "model must return logits (2, classes), got shape (2, 3, 8, 8)",
            ),
        ),
    ]


def _of_names() -> list[Row]:
    return [
        *rows(
            "attacks.from_name",
            (lambda: attacks.from_name(5), TypeError, "name must be an attack's name, such as 'pgd-20x5', got 5"),  # type: ignore[arg-type]
            (lambda: attacks.from_name("pdg-20"), ValueError, "attack must be one of fgsm, bim, pgd, "),
            (
                lambda: attacks.from_name("fgsm-20"),
                ValueError,
                "attack fgsm must have no numbers after its name, got 'f",
            ),
            (lambda: attacks.from_name("pgd-20", size=3), ValueError, "settings of pgd must be among "),
            (lambda: attacks.from_name("pgd-0"), ValueError, "steps must be at least 1, got 0"),
        ),
        *rows(
            "attacks.parse_eps",
            *(
                (lambda value=value: attacks.parse_eps(value), ValueError, "eps must be a number such as 4/255 or 0.0")
                for value in (None, "two", "1/0", "", [1], math.nan, math.inf, True)
            ),
            (
                lambda: attacks.parse_eps("-1/255"),
                ValueError,
                "eps must be in (0, 1], in units of the images' range [0",
            ),
            (
                lambda: attacks.parse_eps(0),
                ValueError,
                "eps must be in (0, 1], in units of the images' range [0, 1], go",
            ),
            (
                lambda: attacks.parse_eps("2"),
                ValueError,
                "eps must be in (0, 1], in units of the images' range [0, 1], ",
            ),
            (lambda: attacks.parse_eps("0", "l2"), ValueError, "eps must be positive, in units of the images' range"),
            (lambda: attacks.parse_eps("1/255", "l1"), ValueError, "norm must be "),
        ),
        *rows(
            "attacks.format_eps",
            (
                lambda: attacks.format_eps("1/255"),
                TypeError,
                "eps must be a fractions.Fraction, as parse_eps makes it, ",
            ),  # type: ignore[arg-type]
            (
                lambda: attacks.format_eps(0.1),
                TypeError,
                "eps must be a fractions.Fraction, as parse_eps makes it, got",
            ),  # type: ignore[arg-type]
        ),
    ]


def _of_losses() -> list[Row]:
    found = []
    logits = torch.zeros(2, 4)
    for loss in ("margin", "dlr", "correct", "cross_entropy"):
        call = getattr(attacks, loss)
        found += rows(
            f"attacks.{loss}",
            (lambda f=call: f(None, Y), TypeError, "logits must be a floating torch.Tensor (N, classes), got NoneType"),
            (
                lambda f=call: f(logits.long(), Y),
                TypeError,
                "logits must be a floating torch.Tensor (N, classes), got t",
            ),
            (lambda f=call: f(logits[0], Y), ValueError, "logits must be (N, classes), got shape (4,)"),
            (lambda f=call: f(logits, [0, 1]), TypeError, "y must be an int64 torch.Tensor (N,), got list"),
            (lambda f=call: f(logits, Y.float()), TypeError, "y must be an int64 torch.Tensor (N,), got torch.float32"),
            (lambda f=call: f(logits, Y[:1]), ValueError, "y must be (2,), a class for each image, got shape (1,)"),
        )
    few = "model must have at least 3 classes for the loss dlr, got 2: use margin"
    return [*found, *rows("attacks.dlr", (lambda: attacks.dlr(logits[:, :2], Y), ValueError, few))]


def _of_the_rest() -> list[Row]:
    def zeros(**changed: object) -> object:
        return attacks.zero_gradients(**{"model": NETWORK, "x": X, "y": Y, **changed})  # type: ignore[arg-type]

    def transfer(**changed: object) -> object:
        return attacks.Transfer(**{"attack": attacks.PGD(), "surrogate": NETWORK, **changed})  # type: ignore[arg-type]

    def exposed(**changed: object) -> object:
        return attacks.Exposed(**{"layers": [fdjpeg.JPEG(75)], "classifiers": [NETWORK], **changed})  # type: ignore[arg-type]

    unshown = "model must be an Exposed, which shows its JPEG layers, for the attack Flip-20, got Sequential"
    return [
        *of_module("attacks.zero_gradients", "model", zeros),
        *of_tensor("attacks.zero_gradients", "x", zeros),
        *of_tensor("attacks.zero_gradients", "y", zeros),
        *of_module("attacks.Transfer", "surrogate", transfer),
        *of_text("attacks.Transfer", "title", transfer),
        *rows(
            "attacks.Transfer",
            (lambda: transfer(attack="pgd"), TypeError, "attack must be one of fdjpeg.attacks, got 'pgd'"),
        ),
        *rows(
            "attacks.Exposed",
            (lambda: exposed(layers=None), TypeError, "layers must be a list, got None"),
            (lambda: exposed(layers="ab"), TypeError, "layers must be a list, got 'ab'"),
            (
                lambda: exposed(layers=[len]),
                TypeError,
                "layers must be a torch.nn.Module, got builtin_function_or_meth",
            ),
            (lambda: exposed(classifiers=[3]), TypeError, "classifiers must be a torch.nn.Module, got int"),
            (lambda: exposed(classifiers=[]), ValueError, "layers must be as many as classifiers, got 1 and 0"),
            (lambda: exposed(verdict=3), TypeError, "verdict must be a function of logits or None, got 3"),
        ),
        *rows("attacks.Flip", (lambda: attacks.Flip()(NETWORK, X, Y, 0.1), TypeError, unshown)),
        *rows(
            "attacks.first_pass",
            (lambda: attacks.first_pass(None, X), TypeError, "layer must be a torch.nn.Module, got NoneType"),  # type: ignore[arg-type]
            (lambda: attacks.first_pass(fdjpeg.JPEG(75), [X]), TypeError, "images must be a torch.Tensor, got list"),  # type: ignore[arg-type]
        ),
    ]


def _of_certificates() -> list[Row]:
    def certify(**changed: object) -> object:
        arguments = {"defended": DEFENDED, "network": NETWORK, "images": X, "labels": Y, "eps": 1 / 255, **changed}
        return certificates.certify(**arguments)  # type: ignore[arg-type]

    name = "certificates.certify"
    random = "defended must be deterministic to be certified, got random-jpeg:30-95"
    return [
        *of_module(name, "network", certify),
        *of_tensor(name, "images", certify),
        *of_tensor(name, "labels", certify),
        *of_whole(name, "most_outcomes", certify, 1),
        *of_flag(name, "whole_bytes", certify),
        *rows(
            name,
            (
                lambda: certify(defended=parse_defense("none")),
                ValueError,
                "defended must show JPEG layers of fdjpeg to be certified, got none",
            ),
            (
                lambda: certify(defended=None),
                ValueError,
                "defended must show JPEG layers of fdjpeg to be certified, got None",
            ),
            (lambda: certify(defended=parse_defense("random-jpeg:30-95")), ValueError, random),
            (lambda: certify(images=X[0]), ValueError, "images must be images (N, C, H, W), got shape (3, 8, 8)"),
            (lambda: certify(labels=Y[:1]), ValueError, "labels must be (2,), a class for each image, got shape (1,)"),
            (lambda: certify(eps="1/255"), TypeError, "eps must be a number, got '1/255'"),
            (
                lambda: certify(eps=-1.0),
                ValueError,
                "eps must be 0 or more, in units of the images' range [0, 1], got -1",
            ),
        ),
    ]


KINDS = [
    kind
    for kind in (getattr(attacks, name) for name in attacks.__all__)
    if isinstance(kind, type) and issubclass(kind, attacks.Attack) and dataclasses.is_dataclass(kind)
    if kind is not attacks.Transfer
]

ROWS: list[Row] = [
    *(row for kind in KINDS for row in _of_attack(kind)),
    *_of_run(),
    *_of_names(),
    *_of_losses(),
    *_of_the_rest(),
    *_of_certificates(),
]
