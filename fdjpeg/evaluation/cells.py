"""The figures of an evaluation before they become tables: one cell for each judged experiment."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fdjpeg._checks import check_positive
from fdjpeg._numbers import is_real
from fdjpeg.sources.image_set import to_pillow, to_tensor

#: Threats whose successes count towards the worst case. Noise is not an attacker, and checks are not in the table.
ATTACKERS = ("white-box", "gray-box", "adaptive", "transfer", "black-box")

#: The threat of the cells that hold certificates.
CERTIFICATE = "certificate"


def wilson(right: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Returns Wilson's score interval for a proportion, at 95 % by default.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209–212. Unlike the normal approximation it is
    valid for few images and at 0 and 1.

    Raises:
        ValueError: for a share outside 0…1, or a count of 0.

    Example::

        low, high = wilson(0, 20)  # 0.0, 0.161
    """
    if not (is_real(right) and is_real(count) and 0 <= right <= count and count > 0):
        raise ValueError(
            f"right must be a number of the count, 0 ≤ right ≤ count and count > 0, got {right} of {count}"
        )
    check_positive("z", z)
    share = right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    spread = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - spread), min(1.0, centre + spread)


def png(image: Tensor) -> str:
    """Returns a uint8 image ``(C, H, W)`` as PNG in base64."""
    buffer = io.BytesIO()
    to_pillow(image).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def unpng(text: str) -> Tensor:
    """Returns the image that ``png`` wrote."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return to_tensor(image)


@dataclass(frozen=True)
class Picture:
    """One adversarial image, before and behind the layer.

    Attributes:
        index: its place in the set.
        clean, adversarial, defended: uint8 ``(C, H, W)``; the last is the adversarial image behind the layer.
        clean_defended: the clean image behind the layer.
        bare: the class that the bare network sees in the adversarial image; −1 where its logits are not numbers.
    """

    index: int
    clean: Tensor
    adversarial: Tensor
    defended: Tensor
    clean_defended: Tensor
    bare: int


@dataclass(frozen=True)
class Cell:
    """One judged experiment; lists of images have one entry for each of ``indices``.

    Attributes:
        defense: name of the layer, or "none".
        threat: "clean", "noise", "white-box" (the bare network attacked and judged), "gray-box" (the bare network
            attacked, the defended one judged), "adaptive" (the defended network attacked and judged), "transfer"
            (another network attacked), "black-box" (the defended network attacked by queries alone), "certificate"
            (every image of the ball at once), or the name of a sanity check.
        attack: its name; None when clean.
        gradient: the gradient that an adaptive attacker used, else None.
        source: for a transfer, the network that was attacked instead.
        eps: radius, as "2/255"; None when clean.
        indices: places of its images in the set, ascending.
        predicted: class under the exact forward pass (under the first draw of a randomised defence); −1 where the
            logits are not numbers.
        right: 1 where that is the true class, else 0; for a randomised defence the share of draws in which it is. Of a
            certificate 1 where it holds, else 0.
        margin: largest other logit minus the true one, so positive where wrong; a mean over draws; infinite where the
            logits are not numbers.
        distance: of each adversarial image from its original, in the norm of the run.
        zeros: share of samples whose gradient is exactly zero, if that is the check; else empty.
        status: of a certificate, as ``fdjpeg.certificates.Certificate.statuses``; else empty.
        changeable: of a certificate, the number of coefficients that can change; else empty.
        loss: sum of the attack's loss over the images under attack, at each step; empty for attacks without one.
        attacked: number of images under attack.
        undefined: number of images whose logits are not numbers (NaN), in any draw; none of them is right.
        differing: number of samples behind the layer that differ from the oracle's; None without an oracle.
        queries: number of images that went through the network during the attack, or of a certificate's outcomes.
        seconds: the attack's time; 0 if the images of another cell are judged.
        pictures: a few of the adversarial images.

    Example::

        report = evaluate(model, loader, defenses=["jpeg:75"], attacks=["pgd-20"], eps=["2/255"])
        [cell.right for cell in report.cells if cell.threat == "clean"]
    """

    defense: str
    threat: str
    attack: str | None = None
    gradient: str | None = None
    source: str | None = None
    eps: str | None = None
    indices: list[int] = field(default_factory=list)
    predicted: list[int] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    margin: list[float] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    zeros: list[float] = field(default_factory=list)
    status: list[str] = field(default_factory=list)
    changeable: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    attacked: int = 0
    undefined: int = 0
    differing: int | None = None
    queries: int = 0
    seconds: float = 0.0
    pictures: list[Picture] = field(default_factory=list)

    @property
    def key(self) -> tuple[str | None, ...]:
        """The fields that distinguish a cell from the others of a run, for any images."""
        return (self.defense, self.threat, self.attack, self.gradient, self.source, self.eps)

    @property
    def curve(self) -> list[float]:
        """The mean loss of the images under attack, at each step."""
        return [value / self.attacked for value in self.loss] if self.attacked else []

    def to_json(self, *, pictures: bool = True) -> dict[str, Any]:
        """Returns plain values, with pictures as PNG in base64."""
        plain = {name: value for name, value in vars(self).items() if name != "pictures"}
        if pictures:
            plain["pictures"] = [
                [p.index, *map(png, (p.clean, p.adversarial, p.defended, p.clean_defended)), p.bare]
                for p in self.pictures
            ]
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Cell:
        """Returns the cell that ``to_json`` wrote."""
        pictures = [
            Picture(index, unpng(clean), unpng(adversarial), unpng(defended), unpng(clean_defended), bare)
            for index, clean, adversarial, defended, clean_defended, bare in plain["pictures"]
        ]
        return cls(**{**plain, "pictures": pictures})


#: Fields of a cell that have one entry for each image.
_PER_IMAGE = ("indices", "predicted", "right", "margin", "distance", "zeros", "status", "changeable")


def join(cells: Iterable[Cell]) -> list[Cell]:
    """Joins the cells of each experiment on several batches, in the order of their first appearance."""
    groups: dict[tuple[str | None, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.key, []).append(cell)
    return [_joined(group) for group in groups.values()]


def _joined(parts: list[Cell]) -> Cell:
    parts = sorted(parts, key=lambda cell: cell.indices[:1])
    lists: dict[str, Any] = {name: [value for cell in parts for value in getattr(cell, name)] for name in _PER_IMAGE}
    attacked = [cell for cell in parts if cell.attacked]
    steps = {len(cell.loss) for cell in attacked}
    differing = [cell.differing for cell in parts if cell.differing is not None]
    joined = replace(
        parts[0],
        loss=[sum(values) for values in zip(*(cell.loss for cell in attacked), strict=True)] if len(steps) == 1 else [],
        attacked=sum(cell.attacked for cell in parts),
        undefined=sum(cell.undefined for cell in parts),
        differing=sum(differing) if differing else None,
        queries=sum(cell.queries for cell in parts),
        seconds=round(sum(cell.seconds for cell in parts), 2),
        pictures=[picture for cell in parts for picture in cell.pictures],
    )
    return replace(joined, **lists)


def rights(cell: Cell) -> Tensor:
    """Returns ``(N,)`` float64: how far each image of a cell is right, 0 … 1."""
    return torch.tensor(cell.right, dtype=torch.float64, device="cpu")


def total(cell: Cell, clean: Cell | None = None) -> float:
    """Returns the number of images right in a cell, of those right without an attack if ``clean`` is given."""
    right = rights(cell)
    return float(right.sum() if clean is None else torch.minimum(right, rights(clean)).sum())


def unbroken(cell: Cell) -> Cell:
    """Returns a certificate's cell as that of an attack: all images are right but those that it broke."""
    return replace(cell, right=[float(status != "broken") for status in cell.status])


def worst_case(cells: list[Cell]) -> float:
    """Returns the number of images right in all of these cells, image by image."""
    return float(torch.stack([rights(cell) for cell in cells]).amin(dim=0).sum())


def number(value: float) -> str:
    """Returns a count of images as text, with one decimal if a randomised defence gets shares of images right."""
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"
