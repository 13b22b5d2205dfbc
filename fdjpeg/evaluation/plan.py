"""The plan of an evaluation: all its settings, checked once, before any image is attacked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import TypedDict

from torch import nn

from fdjpeg._checks import check_flags, check_list, check_module, check_seed, check_whole
from fdjpeg._numbers import make_plain
from fdjpeg.attacks import Attack, Norm, format_eps, from_name, parse_eps
from fdjpeg.attacks.base import check_norm
from fdjpeg.defenses import GRADIENTS, Defended
from fdjpeg.sources import Network

#: The forms of a defence that a plan accepts.
AnyDefense = str | nn.Module | Defended

#: Draws of a randomised defence in each gradient, and in each verdict.
DRAWS = 20


class PlanSettings(TypedDict, total=False):
    """The fields of `Plan` as keyword arguments of ``evaluate``."""

    defenses: Sequence[AnyDefense] | Mapping[str, Sequence[str]]
    attacks: Sequence[str | Attack]
    eps: Sequence[str | float | Fraction]
    norm: str
    gradients: Sequence[str]
    transfer: Sequence[nn.Module | Network]
    draws: int
    checks: bool
    certify: bool
    batch_size: int
    pictures: int
    seed: int


@dataclass(frozen=True)
class Plan:
    """The settings of an evaluation, checked when it is made.

    Attributes:
        defenses: names such as "jpeg:75" (see ``parse_defense``), modules (see ``of_module``) or ``Defended`` objects;
            or a mapping from names to the gradients that an adaptive attacker tries on each.
        attacks: names (``attacks.NAMES``) or objects; all in one norm.
        eps: radii, in units of the images' range; strings such as "2/255" are read exactly.
        norm: "linf" or "l2", for attacks given by name.
        gradients: those that an adaptive attacker tries on fdjpeg's layers, where ``defenses`` is not a mapping.
        transfer: other networks, attacked without any defence.
        draws: number of draws of a randomised defence for each gradient and each verdict; 1 or more.
        checks: whether to run the sanity checks that need their own attacks.
        certify: whether to certify images behind each defence that allows it, see ``fdjpeg.certificates``; in the norm
            "linf" only.
        batch_size: images at once, 1 or more; halved when the device runs out of memory. The figures belong to this
            batch size: another one may change the last bits of a network's arithmetic.
        pictures: images of the first batch that the report shows for each defence; 0 or more.
        seed: the seed of everything random.
        chosen: the attacks as objects, in their order.
        radii: the radii as exact numbers, ascending, each once.
        others: the networks of ``transfer`` with their names; equal names are numbered.

    Raises:
        ValueError: for an unknown attack or norm, no attack or radius, the same attack twice, attacks in several norms,
            certificates in another norm than "linf", or a number out of range.
        TypeError: if an item of ``transfer`` is not a ``torch.nn.Module`` or a ``Network``.

    Example::

        plan = Plan(defenses=["jpeg:75"], attacks=["pgd-50"], eps=["2/255"])
        report = evaluate(model, loader, plan)
    """

    defenses: Sequence[AnyDefense] | Mapping[str, Sequence[str]] = ("jpeg:75", "jpeg:50", "jpeg:25")
    attacks: Sequence[str | Attack] = ("pgd",)
    eps: Sequence[str | float | Fraction] = ("1/255", "2/255")
    norm: str = "linf"
    gradients: Sequence[str] = GRADIENTS
    transfer: Sequence[nn.Module | Network] = ()
    draws: int = DRAWS
    checks: bool = True
    certify: bool = False
    batch_size: int = 5
    pictures: int = 3
    seed: int = 0
    chosen: tuple[Attack, ...] = field(init=False, repr=False)
    radii: tuple[Fraction, ...] = field(init=False, repr=False)
    others: tuple[Network, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("attacks", "eps", "gradients", "transfer"):
            check_list(name, getattr(self, name))
        check_list("defenses", self.defenses)
        check_norm(self.norm)
        chosen = tuple(
            item if isinstance(item, Attack) else from_name(item, norm=self.norm, seed=self.seed)
            for item in self.attacks
        )
        _check_attacks(chosen)
        if self.certify and chosen[0].norm != "linf":
            raise ValueError(
                f"certify must be False for attacks in a norm other than linf, got True for {chosen[0].norm}"
            )
        radii = _radii(self.eps, chosen[0].norm)
        _check_gradients("gradients", self.gradients)
        _check_defenses(self.defenses)
        for name, least in (("batch_size", 1), ("draws", 1), ("pictures", 0)):
            check_whole(name, getattr(self, name), least)
        check_seed("seed", self.seed)
        check_flags(self, "checks", "certify")
        object.__setattr__(self, "chosen", chosen)
        object.__setattr__(self, "radii", radii)
        object.__setattr__(self, "others", _distinct(tuple(map(_transfer, self.transfer))))

    @property
    def ball(self) -> Norm:
        """The norm that all its attacks share."""
        return self.chosen[0].norm


def _radii(values: Sequence[str | float | Fraction], norm: Norm) -> tuple[Fraction, ...]:
    """Returns radii in ascending order, those that are the same floating number once.

    Raises:
        ValueError: there are none, or two that a report would write alike.
    """
    found = sorted({float(radius): radius for radius in (parse_eps(value, norm) for value in values)}.items())
    radii = tuple(radius for _, radius in found)
    if not radii:
        raise ValueError("eps must hold at least one radius, got none")
    for one, other in pairwise(radii):
        if format_eps(one) == format_eps(other):
            raise ValueError(f"eps must be radii that differ in six digits, got {float(one)!r} and {float(other)!r}")
    return radii


def _check_gradients(name: str, gradients: Sequence[str]) -> None:
    """Refuses no gradients, and the same one twice."""
    check_list(name, gradients)
    if not gradients:
        raise ValueError(f"{name} must hold at least one gradient, got none")
    if len(set(gradients)) < len(gradients):
        raise ValueError(f"{name} must be different, got {', '.join(map(str, gradients))}")


def _check_defenses(defenses: Sequence[AnyDefense] | Mapping[str, Sequence[str]]) -> None:
    """Refuses defences of another type, and a defence without gradients."""
    found: Iterable[object] = defenses
    for item in found:
        if not isinstance(item, (str, nn.Module, Defended)):
            came = f"the class {item.__name__}" if isinstance(item, type) else repr(item)
            raise TypeError(f"defenses must be names, modules or Defended, got {came}")
    if isinstance(defenses, Mapping):
        for name, gradients in defenses.items():
            _check_gradients(f"gradients of {name}", gradients)


def _transfer(item: nn.Module | Network) -> Network:
    if not isinstance(item, Network):
        check_module("transfer", item)
    return Network.of(item)


def _distinct(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """Returns networks with different names: the second "net" becomes "net 2"; a report tells them apart by name."""
    found: list[Network] = []
    for network in networks:
        names, number, name = {other.name for other in found}, 2, network.name
        while name in names:
            name, number = f"{network.name} {number}", number + 1
        found.append(network if name == network.name else replace(network, name=name))
    return tuple(found)


def _check_attacks(attacks: Sequence[Attack]) -> None:
    if not attacks:
        raise ValueError("attacks must hold at least one attack, got none")
    if len({attack.norm for attack in attacks}) > 1:
        raise ValueError(f"attacks must share one norm, got {', '.join(f'{a.name} in {a.norm}' for a in attacks)}")
    if attacks[0].norm == "l0":
        raise ValueError(f"attacks must be in the norm linf or l2 in an evaluation, got {attacks[0].name} in l0")
    if len({attack.name for attack in attacks}) < len(attacks):
        raise ValueError(f"attacks must be different, got {', '.join(attack.name for attack in attacks)}")
