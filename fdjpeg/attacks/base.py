"""What all attacks share: their interface, radii, norms, and chance that belongs to an image and not to a batch."""

from __future__ import annotations

import hashlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fdjpeg._packages import EXTRA, MissingPackage

from .losses import margin

Norm = Literal["linf", "l2"]
NORMS = ("linf", "l2")

#: How far rounding in float32 may carry an image out of its ball, in units of the images' range.
SLACK = 1e-6


@dataclass
class AttackResult:
    """What an attack found for a batch of N images.

    Attributes:
        x_adv: ``(N, C, H, W)``, in [0, 1] and in the ball around each image, detached.
        margin: ``(N,)``, the margin of ``x_adv`` under the judge, positive where it is misclassified; of several
            draws of a randomised judge the mean.
        queries: images that went through the model or the judge, all in all.
        loss_curve: ``(steps + 1, N)``, the loss at each point visited, of the restart that ``x_adv`` comes from; an
            image that was left alone after it was fooled keeps its last value. None if the attack has no such thing.
        distance: ``(N,)``, the distance of the nearest misclassified image that a minimum-norm attack found (infinite
            where it found none). None for other attacks.
    """

    x_adv: Tensor
    margin: Tensor
    queries: int
    loss_curve: Tensor | None = None
    distance: Tensor | None = None


class Attack(ABC):
    """Maps images to adversarial images in a ball around them: ``attack(model, x, y, eps) -> x_adv``.

    Subclasses are frozen dataclasses; their fields are their settings. All chance comes from ``seed`` and from an
    image's index in the whole set, so its result does not depend on the batch, the process or the device it is in.

    Attributes:
        norm: "linf" or "l2": the norm that ``eps`` is measured in.
        seed: of all that is random.
    """

    norm: Norm
    seed: int

    @property
    @abstractmethod
    def name(self) -> str:
        """As reports print it, such as "PGD-20×5"."""

    @abstractmethod
    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        """The attack itself, for arguments that were checked. See ``run``."""

    @property
    def one_at_a_time(self) -> bool:
        """Whether images go through the attack one by one: where chance is drawn for a whole batch at once."""
        return False

    def settings(self) -> dict[str, Any]:
        """All that decides what the attack does, as JSON can hold it."""
        return {"attack": type(self).__name__, **(asdict(self) if is_dataclass(self) else {})}

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, *, indices: Tensor | None = None) -> Tensor:
        """Adversarial images ``(N, C, H, W)`` for ``x``. The arguments are those of ``run``."""
        return self.run(model, x, y, eps, indices=indices).x_adv

    def run(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        eps: float,
        *,
        indices: Tensor | None = None,
        judge: nn.Module | None = None,
    ) -> AttackResult:
        """Adversarial images, and how they were found.

        Args:
            model: maps images in [0, 1] to logits ``(N, classes)``; in evaluation mode. The attack differentiates it.
                Its parameters' ``grad`` is left as it was.
            x: ``(N, C, H, W)``, floats in [0, 1]. It is not modified.
            y: ``(N,)``, int64, the true classes.
            eps: radius, in units of the images' range [0, 1]. At 0 nothing may change.
            indices: ``(N,)``, int64, each image's place in the whole set, from which all chance is drawn;
                0 … N − 1 if None.
            judge: gives the verdict where that is not ``model`` itself: the exact forward pass, if ``model`` only
                approximates it. ``PGD`` asks it at every point for the best; other attacks search by ``model`` alone.

        Raises:
            ValueError, TypeError: for arguments of another shape, type or range.
        """
        check_input(x, y, eps)
        indices = torch.arange(len(x)) if indices is None else indices
        if indices.shape != y.shape:
            raise ValueError(f"indices should be ({len(x)},), one for each image, got shape {tuple(indices.shape)}")
        counted = Counted(model, y)
        deciding = counted if judge is None else Counted(judge, y)
        groups = torch.arange(len(x), device=x.device).split(1 if self.one_at_a_time else max(len(x), 1))
        with frozen(counted), frozen(deciding):
            found = [self._group(counted, deciding, x, y, eps, indices, group) for group in groups]
        return AttackResult(
            x_adv=torch.cat([part.x_adv for part in found]),
            margin=torch.cat([part.margin for part in found if part.margin is not None]),
            queries=counted.queries + (deciding.queries if deciding is not counted else 0),
            loss_curve=_joined([part.loss_curve for part in found]),
            distance=_joined([part.distance for part in found]),
        )

    def _group(
        self, model: Counted, judge: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, group: Tensor
    ) -> Found:
        """Attacks the images ``group`` together, with the global generators seeded from the first of them."""
        x, y, indices = x[group], y[group], indices[group.cpu()]
        if len(x) == 0:
            return Found(x.clone(), margin=x.new_empty(0))
        with seeded(image_seed(self.seed, "attack", int(indices[0])), x.device):
            found = self.search(model, x, y, eps, indices, None if judge is model else judge)
            found.x_adv = _inside(found.x_adv.detach(), x, eps, self.norm)
            if found.margin is None:
                with torch.no_grad():
                    found.margin = margin(judge(found.x_adv), y)
        return found


@dataclass
class Found:
    """What ``Attack.search`` returns; fields as in ``AttackResult``. A margin of None is filled in by the judge."""

    x_adv: Tensor
    margin: Tensor | None = None
    loss_curve: Tensor | None = None
    distance: Tensor | None = None


def _inside(x_adv: Tensor, x: Tensor, eps: float, norm: Norm) -> Tensor:
    """``x_adv``, with the images that are not in the ball or not in [0, 1] brought there, and no other touched."""
    out = (distances(x_adv, x, norm) > eps + SLACK) | ((x_adv < 0) | (x_adv > 1)).flatten(1).any(dim=1)
    return torch.where(out.view(-1, 1, 1, 1), project(x_adv, x, eps, norm), x_adv)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """Parts of a batch side by side (their last dimension is the images'), or None where there are none."""
    there = [part for part in parts if part is not None]
    return torch.cat(there, dim=-1) if there else None


class Counted(nn.Module):
    """A model that counts the images that go through it, and refuses what cannot be logits of the classes ``y``."""

    def __init__(self, model: nn.Module, y: Tensor) -> None:
        super().__init__()
        self.model = model
        self.greatest = int(y.max()) if y.numel() else 0
        self.queries = 0
        self.training = model.training  # `train()` would reach into the caller's model

    def forward(self, images: Tensor) -> Tensor:
        """The model's logits."""
        return self.checked(self.model(images), len(images))

    def checked(self, logits: Tensor, images: int) -> Tensor:
        """Logits of a number of images, counted."""
        self.queries += images
        if logits.ndim != 2 or len(logits) != images:
            raise ValueError(f"model should return logits ({images}, classes), got shape {tuple(logits.shape)}")
        if self.greatest >= logits.shape[1]:
            raise ValueError(
                f"y should lie in 0…{logits.shape[1] - 1} for a model of {logits.shape[1]} classes, got {self.greatest}"
            )
        return logits


class Exposed(nn.Module):
    """A classifier that shows the JPEG layers in it, for an attack on their coefficients, such as ``Flip``.

    This is the protocol between such attacks and whoever knows the defence: a defence hands one over, made of its
    layers and the classifiers behind them (``Defended.exposed``). Its forward pass is that of the deployed classifier.

    Attributes:
        layers: one for each branch: layers of fdjpeg, or a ``torch.nn.Sequential`` of them, images to images.
        classifiers: the classifier behind each, images to logits.
        verdict: makes the logits of the deployed classifier from those of the branches.

    Example:
        >>> exposed = Exposed([fdjpeg.JPEG(75)], [network])
        >>> x_adv = Flip(steps=20)(exposed, x, y, 1 / 255)
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        classifiers: Sequence[nn.Module],
        verdict: Callable[[Sequence[Tensor]], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if len(layers) != len(classifiers) or not layers:
            raise ValueError(f"layers must be as many as classifiers, got {len(layers)} and {len(classifiers)}")
        self.layers = nn.ModuleList(layers)
        self.classifiers = nn.ModuleList(classifiers)
        self.verdict = _only if verdict is None else verdict
        self.training = False  # `eval()` would reach into the caller's modules

    def forward(self, images: Tensor) -> Tensor:
        """The deployed classifier's logits ``(N, classes)``."""
        branches = zip(self.layers, self.classifiers, strict=True)
        return self.verdict([classifier(layer(images)) for layer, classifier in branches])


def _only(logits: Sequence[Tensor]) -> Tensor:
    (of_one,) = logits
    return of_one


def check_input(x: Tensor, y: Tensor, eps: float) -> None:
    """Refuses images, classes and radii that no attack can work with.

    Raises:
        ValueError, TypeError: naming the argument, what it should be and what came.
    """
    if x.ndim != 4:
        raise ValueError(f"x should be images (N, C, H, W), got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x should be floats in [0, 1], got {x.dtype}")
    if x.numel() and not (float(x.min()) >= 0 and float(x.max()) <= 1):  # written so that NaN fails as well
        raise ValueError(f"x should lie in [0, 1], got values from {float(x.min()):g} to {float(x.max()):g}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"y should be ({len(x)},), a class for each image, got shape {tuple(y.shape)}")
    if y.dtype != torch.int64:
        raise TypeError(f"y should be int64, got {y.dtype}")
    if y.numel() and int(y.min()) < 0:
        raise ValueError(f"y should be classes 0, 1, …, got {int(y.min())}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps should be 0 or more, in units of the images' range [0, 1], got {eps}")


def check_norm(norm: str, supported: tuple[str, ...] = NORMS) -> None:
    """Refuses a norm that an attack does not know.

    Raises:
        ValueError: naming those that it does.
    """
    if norm not in supported:
        raise ValueError(f"norm should be {' or '.join(map(repr, supported))} for this attack, got {norm!r}")


def parse_eps(value: str | float | Fraction, norm: str = "linf") -> Fraction:
    """A radius as an exact number: "4/255", "0.03", 0.03 or a Fraction.

    Raises:
        ValueError: if it is no number, not positive, or above 1 in the norm "linf".
    """
    try:
        if isinstance(value, str):
            numerator, _, denominator = value.partition("/")
            eps = Fraction(numerator.strip()) / Fraction(denominator.strip() or 1)
        else:
            eps = Fraction(value)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"eps should be a number such as 4/255 or 0.03, got {value!r}") from error
    if eps <= 0 or (eps > 1 and norm == "linf"):
        most = "lie in (0, 1]" if norm == "linf" else "be positive"
        raise ValueError(f"eps should {most}, in units of the images' range [0, 1], got {value!r}")
    return eps


def format_eps(eps: Fraction) -> str:
    """The usual way of writing a radius: in 255ths below 1 where they are whole, else as a decimal."""
    steps = eps * 255
    return f"{steps.numerator}/255" if steps.denominator == 1 and eps < 1 else f"{float(eps):g}"


def distances(a: Tensor, b: Tensor, norm: Norm) -> Tensor:
    """The distance of each image of ``a`` from that of ``b``, ``(N,)``, in units of the images' range."""
    difference = (a - b).flatten(1)
    return difference.abs().amax(dim=1) if norm == "linf" else difference.norm(dim=1)


def project(x_adv: Tensor, x: Tensor, eps: float | Tensor, norm: Norm = "linf") -> Tensor:
    """``x_adv`` brought into the ball of ``norm`` and radius ``eps`` around ``x``, and into [0, 1].

    For "linf" it is the nearest such image. For "l2" it is scaled into the ball, then clamped, which moves it
    further inside.
    """
    if norm == "linf":
        return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)
    delta = x_adv - x
    length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return (x + delta * (eps / length.clamp_min(1e-12)).clamp_max(1)).clamp(0, 1)


def image_seed(seed: int, purpose: str, index: int) -> int:
    """A seed of 63 bits for one purpose and the image of one index."""
    label = f"{seed}/{purpose}/{index}".encode()
    return int.from_bytes(hashlib.blake2b(label, digest_size=8).digest(), "big") >> 1


def draw(shape: torch.Size, indices: Tensor, seed: int, purpose: str, normal: bool = False) -> Tensor:
    """Numbers uniform in [0, 1), or standard normal, ``(N, *shape)`` on the CPU, each image's from its own seed.

    They depend on ``seed``, ``purpose`` and the image's index: not on batches, devices or processes.
    """
    make = torch.randn if normal else torch.rand
    rows = [
        make(shape, generator=torch.Generator().manual_seed(image_seed(seed, purpose, index)))
        for index in indices.tolist()
    ]
    return torch.stack(rows) if rows else torch.empty(0, *shape)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's global generators, from which other people's attacks and layers draw; puts their state back."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside: attacks that call ``backward`` would leave one in each."""
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def check_package(name: str, attack: str) -> None:
    """Refuses an attack whose package is missing.

    Raises:
        MissingPackage: if it is.
    """
    if importlib.util.find_spec(name) is None:
        raise MissingPackage(f"The attack {attack} needs the package {name}, which is not installed; {EXTRA} does it.")
