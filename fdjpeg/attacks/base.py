"""The common part of all attacks: interface, radii, norms, and random numbers that belong to an image, not a batch."""

from __future__ import annotations

import hashlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, is_dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fdjpeg._arguments import HALF_A_BYTE
from fdjpeg._calls import check_weights, checked_logits, is_out_of_memory, logits_of
from fdjpeg._checks import check_module, check_tensor
from fdjpeg._lattice import SLACK
from fdjpeg._numbers import is_finite, is_real, plain
from fdjpeg._packages import EXTRA, MissingPackage

from .calls import NO_DERIVATIVE, has_derivative, used_gpus, usual_defaults
from .losses import margin

#: "l0" counts the samples that changed; only the attacks that look for few changes are in it.
Norm = Literal["linf", "l2", "l0"]
NORMS = ("linf", "l2")


@dataclass
class AttackResult:
    """The result of an attack on a batch of N images.

    Attributes:
        x_adv: ``(N, C, H, W)``, in [0, 1] and in the ball around each image, detached.
        margin: ``(N,)``, the margin of ``x_adv`` under the judge, positive where it is misclassified; of several
            draws of a randomised judge the mean.
        queries: number of images that went through the model or the judge in total.
        loss_curve: ``(steps + 1, N)``, the loss at each point visited, of the restart that ``x_adv`` comes from; an
            image that was left alone after it was fooled keeps its last value. None for attacks without such a curve.
        distance: ``(N,)``, the distance of the nearest misclassified image that a minimum-norm attack found (infinite
            where it found none). None for other attacks.

    Example::

        result = PGD(steps=20).run(model, x, y, 1 / 255)
        fooled = result.margin > 0
    """

    x_adv: Tensor
    margin: Tensor
    queries: int
    loss_curve: Tensor | None = None
    distance: Tensor | None = None


class Attack(ABC):
    """Maps images to adversarial images in a ball around them: ``attack(model, x, y, eps) -> x_adv``.

    Subclasses are frozen dataclasses; their fields are their settings. Random numbers depend only on ``seed`` and on an
    image's index in the whole set, so its result does not depend on its batch, process or device.

    Attributes:
        norm: "linf", "l2" or "l0": the norm that ``eps`` is measured in.
        seed: the seed of everything random.
        foreign: whether another package searches, which makes its tensors by torch's defaults.

    Example::

        @dataclasses.dataclass(frozen=True)
        class Bright(Attack):
            # As bright as the ball allows.

            norm: str = "linf"
            seed: int = 0
            name = "bright"

            def search(self, model, x, y, eps, indices, judge):
                return Found(x + eps)

        x_adv = Bright()(model, x, y, 1 / 255)
    """

    norm: Norm
    seed: int
    foreign: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """The name in reports, such as "PGD-20×5"."""

    @abstractmethod
    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        """Runs the attack itself, on checked arguments. See ``run``."""

    @property
    def one_at_a_time(self) -> bool:
        """Whether images go through the attack one by one, because it draws numbers for a whole batch at once."""
        return False

    def settings(self) -> dict[str, Any]:
        """Returns everything that decides the attack's result, as values that JSON can hold."""
        return {"attack": type(self).__name__, **(asdict(self) if is_dataclass(self) else {})}

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, *, indices: Tensor | None = None) -> Tensor:
        """Returns adversarial images ``(N, C, H, W)`` for ``x``. The arguments are those of ``run``."""
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
        """Returns adversarial images, and how they were found.

        Args:
            model: maps images in [0, 1] to logits ``(N, classes)``; in evaluation mode. The attack differentiates it.
                Its parameters' ``grad`` is left as it was.
            x: ``(N, C, H, W)``, floats in [0, 1]; the model gets images of its dtype. It is not modified. An excess of
                less than half a byte, as rounding makes it, is cut off. Images of a half type may leave the ball by
                their own rounding.
            y: ``(N,)``, int64, the true classes.
            eps: radius, in units of the images' range [0, 1]; in "l0" a number of samples. At 0 nothing may change.
            indices: ``(N,)``, int64, each image's place in the whole set, which seeds its random numbers;
                0 … N − 1 if None.
            judge: decides the verdict, if ``model`` only approximates the exact forward pass; ``model`` itself if None.
                ``PGD`` asks it at every point; other attacks search by ``model`` alone.

        Raises:
            ValueError, TypeError: for arguments of another shape, type or range.
        """
        check_module("model", model)
        check_module("judge", model if judge is None else judge)
        check_input(x, y, eps)
        # Whatever modes the caller is in: an attack differentiates.
        with torch.inference_mode(False), torch.enable_grad():
            return self._run(model, x, y, eps, indices, judge)

    def _run(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, indices: Tensor | None, judge: nn.Module | None
    ) -> AttackResult:
        """Runs the attack on checked arguments."""
        x = x.clamp(0, 1) if x.numel() and (float(x.min()) < 0 or float(x.max()) > 1) else x
        # Beyond the farthest image of [0, 1] a ball holds no more, and float32 no such radius.
        samples = x[:1].numel()
        eps = min(eps, {"linf": 1, "l2": samples**0.5, "l0": samples}[self.norm]) if samples else eps
        indices = torch.arange(len(x), device="cpu") if indices is None else indices
        if not isinstance(indices, Tensor) or indices.dtype != torch.int64:
            came = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
            raise TypeError(f"indices must be an int64 tensor, got {came}")
        if indices.shape != y.shape:
            raise ValueError(f"indices must be ({len(x)},), one for each image, got shape {tuple(indices.shape)}")
        for party in (model, *(() if judge is None else (judge,))):
            check_weights(party)
        counted = Counted(model, y, x.dtype)
        deciding = counted if judge is None else Counted(judge, y, x.dtype)
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
        # These are copies, which autograd can keep also where the caller's were made in inference mode.
        x, y, indices = x[group], y[group], indices[group.cpu()]
        if len(x) == 0:
            return Found(x.clone(), margin=x.new_empty(0))
        defaults = usual_defaults(x.device) if self.foreign else nullcontext()
        with seeded(image_seed(self.seed, "attack", int(indices[0]))), defaults:
            try:
                # Other packages do not compute in half types.
                given = x.float() if self.foreign and x.dtype in (torch.float16, torch.bfloat16) else x
                found = self.search(model, given, y, eps, indices, None if judge is model else judge)
            except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
                # Each package fails in its own way on a gradient that is not there.
                if is_out_of_memory(error) or has_derivative(model.model, x[:1]):
                    raise
                raise ValueError(NO_DERIVATIVE) from error
            found.x_adv = _inside(found.x_adv.detach().to(x.dtype), x, eps, self.norm)
            if found.margin is None:
                with torch.no_grad():
                    found.margin = margin(judge(found.x_adv), y)
        return found


@dataclass
class Found:
    """The result of ``Attack.search``; fields as in ``AttackResult``. A margin of None is filled in by the judge.

    Example::

        found = Found(x, distance=torch.zeros(len(x)))  # the images themselves
    """

    x_adv: Tensor
    margin: Tensor | None = None
    loss_curve: Tensor | None = None
    distance: Tensor | None = None


def _inside(x_adv: Tensor, x: Tensor, eps: float, norm: Norm) -> Tensor:
    """Brings the images of ``x_adv`` outside the ball or [0, 1] into both, and leaves the others as they are.

    A sample that is not a number is put back.
    """
    x_adv = torch.where(x_adv.isnan(), x, x_adv)
    out = (distances(x_adv, x, norm) > eps + SLACK) | ((x_adv < 0) | (x_adv > 1)).flatten(1).any(dim=1)
    return torch.where(out.view(-1, 1, 1, 1), project(x_adv, x, eps, norm), x_adv)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """Joins parts of a batch along their last dimension, the images'; returns None if there are none."""
    there = [part for part in parts if part is not None]
    return torch.cat(there, dim=-1) if there else None


class Counted(nn.Module):
    """A model that counts its images, and refuses outputs that cannot be logits of the classes ``y``.

    It gives the model images of ``dtype``, if there is one: some packages make float32 of all.

    Example::

        counted = Counted(model, y)
        logits = counted(x)
        counted.queries  # len(x)
    """

    #: Names of the classes and of the model in errors.
    names: tuple[str, str] = ("y", "model")

    def __init__(self, model: nn.Module, y: Tensor, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.greatest = int(y.max()) if y.numel() else 0
        self.queries = 0
        self.called = False
        self.training = model.training  # `train()` would reach into the caller's model

    def forward(self, images: Tensor) -> Tensor:
        """Returns the model's logits."""
        logits = logits_of(self.model, images if self.dtype is None else images.to(self.dtype), again=self.called)
        self.called = True
        return self._counted(logits, len(images))

    def checked(self, logits: Tensor, images: int) -> Tensor:
        """Returns the logits of a number of images that were computed elsewhere, counted and checked."""
        return self._counted(checked_logits(logits, images), images)

    def _counted(self, logits: Tensor, images: int) -> Tensor:
        self.queries += images
        if self.greatest >= logits.shape[1]:
            labels, party = self.names
            raise ValueError(
                f"{labels} must be in 0…{logits.shape[1] - 1} for a {party} of {logits.shape[1]} classes, "
                f"got {self.greatest}"
            )
        return logits


def check_input(x: Tensor, y: Tensor, eps: float, names: tuple[str, str] = ("x", "y")) -> None:
    """Refuses images, classes and radii that no attack can work with; ``names`` are the first two arguments' names.

    Raises:
        ValueError, TypeError: with the argument, the wanted value and the given one.
    """
    images, classes = names
    check_tensor(images, x, "(N, C, H, W)")
    check_tensor(classes, y, "(N,)")
    if x.ndim != 4:
        raise ValueError(f"{images} must be images (N, C, H, W), got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{images} must be floats in [0, 1], got {x.dtype}")
    if x.numel():
        low, high = float(x.min()), float(x.max())
        if not (low > -HALF_A_BYTE and high < 1 + HALF_A_BYTE):  # written so that NaN fails as well
            raise ValueError(f"{images} must be in [0, 1], got values from {low:.9g} to {high:.9g}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"{classes} must be ({len(x)},), a class for each image, got shape {tuple(y.shape)}")
    if y.dtype != torch.int64:
        raise TypeError(f"{classes} must be int64, got {y.dtype}")
    if y.numel() and int(y.min()) < 0:
        raise ValueError(f"{classes} must be classes 0, 1, …, got {int(y.min())}")
    if not is_real(eps):
        raise TypeError(f"eps must be a number, got {eps!r}")
    if not (eps >= 0 and is_finite(eps)):
        raise ValueError(f"eps must be 0 or more, in units of the images' range [0, 1], got {eps}")


def check_norm(norm: str, supported: tuple[str, ...] = NORMS) -> None:
    """Refuses a norm that an attack does not support.

    Raises:
        ValueError: with the norms that it supports.
    """
    if norm not in supported:
        raise ValueError(f"norm must be {' or '.join(map(repr, supported))} for this attack, got {norm!r}")


def parse_eps(value: str | float | Fraction, norm: str = "linf") -> Fraction:
    """Returns a radius, such as "4/255", "0.03", 0.03 or a Fraction, as an exact number.

    Raises:
        ValueError: if it is not a number, not positive, or above 1 in the norm "linf".

    Example::

        parse_eps("2/255")  # Fraction(2, 255)
    """
    check_norm(norm)
    try:
        if isinstance(value, bool):
            raise TypeError("True and False are no radii")
        if isinstance(value, str):
            numerator, slash, denominator = value.partition("/")
            if "/" in denominator:
                raise ValueError("two slashes")
            eps = Fraction(numerator.strip()) / Fraction(denominator.strip() if slash else 1)
        else:
            eps = Fraction(value if isinstance(value, Fraction) else plain(value))
        floating = float(eps * 255) / 255
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"eps must be a number such as 4/255 or 0.03, got {value!r}") from error
    if eps <= 0 or (eps > 1 and norm == "linf"):
        most = "be in (0, 1]" if norm == "linf" else "be positive"
        raise ValueError(f"eps must {most}, in units of the images' range [0, 1], got {value!r}")
    if floating == 0:
        raise ValueError(f"eps must be above 0 as a floating number, got {value!r}")
    return eps


def format_eps(eps: Fraction) -> str:
    """Writes a radius as people type it: in whole 255ths, as an exact decimal, in parts of 255ths, or as a ratio.

    A number that was a float before is rounded to six digits.

    Example::

        format_eps(Fraction(2, 255))  # "2/255"
    """
    if not isinstance(eps, (Fraction, int)):
        raise TypeError(f"eps must be a fractions.Fraction, as parse_eps makes it, got {eps!r}")
    eps = Fraction(eps)
    steps = eps * 255
    if steps.denominator == 1 and (eps * 5).denominator > 1:  # 0.2, which is 51/255, is a decimal
        return f"{steps.numerator}/255"
    for value, unit in ((eps, ""), (steps, "/255")):
        decimal = f"{float(value):.10g}"
        if Fraction(decimal) == value:
            return decimal + unit
    return f"{float(eps):g}" if Fraction(float(eps)) == eps else str(eps)


def distances(a: Tensor, b: Tensor, norm: Norm) -> Tensor:
    """Returns the distance of each image of ``a`` from that of ``b``, ``(N,)``, in units of the images' range.

    For "l0" it is the number of samples that differ.

    Example::

        within = distances(x_adv, x, "linf") <= 4 / 255
    """
    difference = (a - b).flatten(1)
    if norm == "l0":
        return (difference != 0).sum(dim=1).to(difference)
    return difference.abs().amax(dim=1) if norm == "linf" else difference.norm(dim=1)


def project(x_adv: Tensor, x: Tensor, eps: float | Tensor, norm: Norm = "linf") -> Tensor:
    """Brings ``x_adv`` into the ball of ``norm`` and radius ``eps`` around ``x``, and into [0, 1].

    For "linf" the result is the nearest such image. For "l2" it is scaled into the ball, then clamped, which moves it
    further inside. For "l0" the samples that changed most keep their change, as many as ``eps`` allows.

    Example::

        x_adv = project(x_adv, x, 4 / 255, "linf")
    """
    if norm == "l0":
        flat = (x_adv - x).flatten(1)
        rank = flat.abs().argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        limit = eps.view(-1, 1) if isinstance(eps, Tensor) else eps
        return torch.where((rank < limit).view_as(x), x_adv, x).clamp(0, 1)
    if norm == "linf":
        return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)
    delta = x_adv - x
    length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return (x + delta * (eps / length.clamp_min(1e-12)).clamp_max(1)).clamp(0, 1)


def image_seed(seed: int, purpose: str, index: int) -> int:
    """Returns a seed of 63 bits for one purpose and the image of one index."""
    label = f"{seed}/{purpose}/{index}".encode()
    return int.from_bytes(hashlib.blake2b(label, digest_size=8).digest(), "big") >> 1


def draw(shape: torch.Size, indices: Tensor, seed: int, purpose: str, normal: bool = False) -> Tensor:
    """Draws numbers uniform in [0, 1), or standard normal, ``(N, *shape)`` on the CPU, each image's from its own seed.

    They depend on ``seed``, ``purpose`` and the image's index, not on batches, devices or processes.

    Example::

        start = draw(x.shape[1:], torch.arange(len(x)), seed=0, purpose="start")  # (N, C, H, W)
    """
    make = torch.randn if normal else torch.rand
    rows = [
        make(
            shape,
            generator=torch.Generator().manual_seed(image_seed(seed, purpose, index)),
            dtype=torch.float32,
            device="cpu",
        )
        for index in indices.tolist()
    ]
    return torch.stack(rows) if rows else torch.empty(0, *shape, dtype=torch.float32, device="cpu")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global generators, from which other packages draw, and restores their state afterwards."""
    with torch.random.fork_rng(devices=used_gpus()):
        seed_generators(seed)
        yield


def seed_generators(seed: int) -> None:
    """Seeds torch's global generators, those of GPUs only where a network can draw from them: see `used_gpus`."""
    if torch.cuda.is_available() and not torch.cuda.is_initialized():
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Makes no parameter require a gradient inside: attacks that call ``backward`` would leave one in each."""
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
        MissingPackage: if the package is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise MissingPackage(
            f"The attack {attack} needs the package {name}, which is not installed; {EXTRA} installs it."
        )
