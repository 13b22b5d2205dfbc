"""Surrogates of rounding, which take the place of the derivative of ``k = round(c)``, c a DCT coefficient in steps.

Each is a small frozen object with ``forward(c)``, the surrogate r(c) itself, and ``derivative(c)``, its derivative
r′(c), both elementwise and for floating tensors of any shape. `resolve` turns a name into such an object, and accepts a
user's own.

The exact codec rounds in its forward pass, and uses only ``derivative`` in its backward pass. With ``soft=True``
``forward`` replaces rounding, and autograd differentiates it; the surrogate must be ``smooth`` for that.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from fdjpeg._descriptions import described
from fdjpeg._generators import check_generator, check_not_repeated
from fdjpeg._numbers import is_finite, is_real, is_whole, plain

__all__ = [
    "Cubic",
    "Fourier",
    "Identity",
    "Noise",
    "Sine",
    "Softmax",
    "StraightThrough",
    "Surrogate",
    "Tanh",
    "Zero",
    "hard_rounding",
    "resolve",
]


@runtime_checkable
class Surrogate(Protocol):
    """An object that ``gradient=`` takes instead of a name: two methods, elementwise on floating tensors.

    Three attributes count as False where they are missing: ``smooth``, whether ``forward`` may be
    used with ``soft=True``; ``only_soft``, whether it may be used in no other way; and ``periodic``, whether
    ``derivative`` depends on c − round(c) only, which lets the fast kernels serve it.

    Example::

        class Half:
            periodic = True

            def forward(self, c):
                return c.round()

            def derivative(self, c):
                return torch.full_like(c, 0.5)

        fdjpeg.jpeg(torch.rand(1, 3, 32, 32, requires_grad=True), 75, gradient=Half()).mean().backward()
    """

    def forward(self, c: Tensor) -> Tensor:
        """Returns the surrogate of ``round(c)``."""

    def derivative(self, c: Tensor) -> Tensor:
        """Returns the surrogate of its derivative."""


@dataclass(frozen=True)
class StraightThrough:
    """Rounding whose derivative is 1: r(c) = round(c), half to even; r′(c) = 1.

    Source: Bengio, Léonard and Courville, "Estimating or propagating gradients through stochastic neurons for
    conditional computation", 2013, arXiv 1308.3432.

    Example::

        fdjpeg.jpeg(image, 75, gradient=fdjpeg.surrogates.StraightThrough())  # or gradient="straight-through"
    """

    name: ClassVar[str] = "straight-through"
    smooth: ClassVar[bool] = False

    def forward(self, c: Tensor) -> Tensor:
        """Returns c, rounded half to even."""
        return c.round()

    def derivative(self, c: Tensor) -> Tensor:
        """Returns 1 everywhere."""
        return torch.ones_like(c)


@dataclass(frozen=True)
class Identity(StraightThrough):
    """The whole layer's derivative by the image is taken to be the identity: colour, resampling and clamps included.

    For rounding alone, and so for the tables, it equals `StraightThrough`. Only the whole layer treats it differently:
    the image's gradient passes unchanged.

    Source: backward pass differentiable approximation, Athalye, Carlini and Wagner, "Obfuscated gradients give a false
    sense of security", ICML 2018, arXiv 1802.00420, section 4.1.

    Example::

        image = torch.rand(1, 3, 32, 32, requires_grad=True)
        fdjpeg.jpeg(image, 75, gradient="identity").sum().backward()  # image.grad is 1 everywhere
    """

    name: ClassVar[str] = "identity"


@dataclass(frozen=True)
class Zero:
    """Plain rounding: r(c) = round(c), half to even; r′(c) = 0. Only for showing what masked gradients look like.

    Example::

        image = torch.rand(1, 3, 32, 32, requires_grad=True)
        fdjpeg.jpeg(image, 75, gradient=Zero()).mean().backward()  # image.grad is 0
    """

    name: ClassVar[str] = "zero"
    periodic: ClassVar[bool] = True
    smooth: ClassVar[bool] = False

    def forward(self, c: Tensor) -> Tensor:
        """Returns c, rounded half to even."""
        return c.round()

    def derivative(self, c: Tensor) -> Tensor:
        """Returns 0 everywhere."""
        return torch.zeros_like(c)


@dataclass(frozen=True)
class Floored(ABC):
    """A smooth surrogate with a floor under its derivative.

    Args:
        floor: the least value of ``derivative``, at least 0; 0 leaves the derivative as it is. Several surrogates are
            flat at whole numbers, where most coefficients of a smooth image are: a floor lets some gradient through.
            ``forward`` does not use it.

    Raises:
        TypeError: ``floor`` is not a number.
        ValueError: ``floor`` is negative or not finite.
    """

    smooth: ClassVar[bool] = True
    periodic: ClassVar[bool] = True

    floor: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _set_number(self, "floor", "a finite number of at least 0", lambda x: x >= 0)

    def derivative(self, c: Tensor) -> Tensor:
        """Returns r′(c), or ``floor`` where that is more."""
        slope = self._slope(c)
        return slope.clamp(min=self.floor) if self.floor > 0 else slope

    @abstractmethod
    def forward(self, c: Tensor) -> Tensor:
        """Returns the surrogate of ``round(c)``."""

    @abstractmethod
    def _slope(self, c: Tensor) -> Tensor:
        """Returns r′(c), the derivative of ``forward``."""


@dataclass(frozen=True)
class Cubic(Floored):
    """A cubic about the nearest whole number k = round(c): r(c) = k + (c − k)³; r′(c) = 3 (c − k)².

    It jumps where rounding does, by 3/4 instead of 1.

    Args:
        floor: the least value of the derivative, which is 0 at whole numbers; 0 leaves it so.

    Source: Shin and Song, "JPEG-resistant adversarial images", NIPS 2017 workshop on machine learning and computer
    security.

    Example::

        fdjpeg.jpeg(image, 75, gradient=fdjpeg.surrogates.Cubic(floor=0.1))
    """

    name: ClassVar[str] = "cubic"

    def forward(self, c: Tensor) -> Tensor:
        """Returns the cubic about the nearest whole number."""
        k = c.round()
        return k + (c - k) ** 3

    def _slope(self, c: Tensor) -> Tensor:
        return 3 * (c - c.round()) ** 2


@dataclass(frozen=True)
class Sine(Floored):
    """A staircase with one wave a step: r(c) = c − sin(2πc) / 2π; r′(c) = 1 − cos(2πc).

    Args:
        floor: the least value of the derivative, which is 0 at whole numbers; 0 leaves it so.

    Source: elementary. It subtracts half of the first term of `Fourier`: with more, r would descend in places.

    Example::

        fdjpeg.jpeg(image, 75, arithmetic="real", gradient="sine", soft=True)
    """

    name: ClassVar[str] = "sine"

    def forward(self, c: Tensor) -> Tensor:
        """Returns the staircase."""
        return c - _turns(c).sin() / (2 * math.pi)

    def _slope(self, c: Tensor) -> Tensor:
        return 1 - _turns(c).cos()


@dataclass(frozen=True)
class Fourier(Floored):
    """The Fourier series of rounding, truncated: r(c) = c − Σₙ (−1)ⁿ⁺¹ sin(2πnc) / (πn), n from 1 to ``terms``.

    r′(c) = 1 − 2 Σₙ (−1)ⁿ⁺¹ cos(2πnc): at whole numbers 1 for an even number of terms and −1 for an odd one, between
    them 2 ``terms`` + 1; it is negative in places.

    Args:
        floor: the least value of the derivative; 0 leaves it as it is, negative in places.
        terms: how many terms of the series, a whole number of at least 1; 10 by default, our choice.

    Raises:
        TypeError: ``terms`` is not an integer.
        ValueError: ``terms`` is less than 1.

    Source: the sawtooth's Fourier series, subtracted from the identity.

    Example::

        fdjpeg.jpeg(image, 75, gradient=fdjpeg.surrogates.Fourier(terms=4))
    """

    name: ClassVar[str] = "fourier"

    terms: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_whole(self.terms):
            raise TypeError(f"terms must be an int, got {self.terms!r}")
        if self.terms < 1:
            raise ValueError(f"terms must be at least 1, got {self.terms}")
        object.__setattr__(self, "terms", int(self.terms))

    def forward(self, c: Tensor) -> Tensor:
        """Returns the identity less the series."""
        turns = _turns(c)
        for n in range(1, self.terms + 1):
            c = c - (-1) ** (n + 1) * (n * turns).sin() / (math.pi * n)
        return c

    def _slope(self, c: Tensor) -> Tensor:
        turns = _turns(c)
        slope = torch.ones_like(c)
        for n in range(1, self.terms + 1):
            slope = slope - 2 * (-1) ** (n + 1) * (n * turns).cos()
        return slope


@dataclass(frozen=True)
class Tanh(Floored):
    """Soft rounding: r(c) = ⌊c⌋ + ½ + ½ tanh(α t) / tanh(α / 2), t = c − ⌊c⌋ − ½.

    r′(c) = α (1 − tanh²(α t)) / (2 tanh(α / 2)): at the default α about 0.15 at whole numbers and 2.1 between them.
    As α goes to 0, r tends to the identity; as α grows, to rounding.

    Args:
        floor: the least value of the derivative; 0 leaves it as it is.
        alpha: α, in 0.001…1000; 4 by default, our choice.

    Raises:
        TypeError: ``alpha`` is not a number.
        ValueError: ``alpha`` is not in 0.001…1000.

    Source: Agustsson and Theis, "Universally quantized neural compression", NeurIPS 2020, arXiv 2006.09952, section
    4.1.

    Example::

        fdjpeg.jpeg(image, 75, gradient=fdjpeg.surrogates.Tanh(alpha=6))
    """

    name: ClassVar[str] = "tanh"

    alpha: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_alpha(self)

    def forward(self, c: Tensor) -> Tensor:
        """Returns c, softly rounded."""
        whole = c.floor() + 0.5
        return whole + (self.alpha * (c - whole)).tanh() / (2 * math.tanh(self.alpha / 2))

    def _slope(self, c: Tensor) -> Tensor:
        wave = (self.alpha * (c - c.floor() - 0.5)).tanh()
        return self.alpha * (1 - wave**2) / (2 * math.tanh(self.alpha / 2))


@dataclass(frozen=True)
class Softmax(Floored):
    """The mean of the 5 nearest whole numbers j, weighted by softmax_j(−α (c − j)²).

    r′(c) is 2 α times the variance of j under those weights.

    Args:
        floor: the least value of the derivative; 0 leaves it as it is.
        alpha: α, in 0.001…1000, for c in steps; 4 by default, our choice. At the same α it is close to `Tanh`.

    Raises:
        TypeError: ``alpha`` is not a number.
        ValueError: ``alpha`` is not in 0.001…1000.

    Source: "JPEG inspired deep learning" (JPEG-DL), ICLR 2025, arXiv 2410.07081; there α is learned.

    Example::

        fdjpeg.jpeg(image, 75, gradient=fdjpeg.surrogates.Softmax(alpha=8))
    """

    name: ClassVar[str] = "softmax"

    alpha: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_alpha(self)

    def forward(self, c: Tensor) -> Tensor:
        """Returns the weighted mean."""
        k = c.round()
        weights, offsets = self._weights(c - k)
        return k + _weighted_sum(weights, offsets)

    def _slope(self, c: Tensor) -> Tensor:
        weights, offsets = self._weights(c - c.round())
        mean = _weighted_sum(weights, offsets)
        return 2 * self.alpha * (_weighted_sum(weights, [j * j for j in offsets]) - mean**2)

    def _weights(self, remainder: Tensor) -> tuple[Tensor, list[int]]:
        """Returns weights along a new first dimension, and their whole numbers, counted from the nearest."""
        offsets = [-2, -1, 0, 1, 2]
        logits = torch.stack([-self.alpha * (remainder - j) ** 2 for j in offsets])
        return logits.softmax(0), offsets


@dataclass(frozen=True)
class Noise:
    """Rounding's error as noise: r(c) = c + u, u uniform in [−½, ½), drawn again at each call; r′(c) = 1.

    Only for ``soft=True``: with an exact forward it would be `StraightThrough`.

    Args:
        generator: where the noise comes from; None for the default generator of the tensor's device. It draws on its
            own device, so that a CPU generator gives the same noise on every device. Activation checkpointing repeats
            the noise of None only; with a generator its repeated forward pass raises a ``RuntimeError``.

    Raises:
        TypeError: ``generator`` is neither a ``torch.Generator`` nor None.

    Source: Ballé, Laparra and Simoncelli, "End-to-end optimized image compression", ICLR 2017, arXiv 1611.01704.

    Example::

        noise = fdjpeg.surrogates.Noise(torch.Generator().manual_seed(0))
        fdjpeg.jpeg(image, 75, arithmetic="real", gradient=noise, soft=True)
    """

    name: ClassVar[str] = "noise"
    smooth: ClassVar[bool] = True
    only_soft: ClassVar[bool] = True

    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        check_generator(self.generator)

    def forward(self, c: Tensor) -> Tensor:
        """Returns the coefficient with noise."""
        return c + self.drawn(c)

    def drawn(self, like: Tensor) -> Tensor:
        """Draws the noise of coefficients, which depends on their number alone."""
        check_not_repeated(self.generator, "Noise")
        device = like.device if self.generator is None else self.generator.device
        draw = torch.rand(like.shape, generator=self.generator, device=device, dtype=like.dtype)
        return draw.to(like.device) - 0.5

    def derivative(self, c: Tensor) -> Tensor:
        """Returns 1 everywhere."""
        return torch.ones_like(c)


_NAMED = (StraightThrough, Identity, Cubic, Sine, Fourier, Tanh, Softmax, Zero)

#: The surrogates that need no more than their name. (Not noise, which cannot be repeated without its own generator.)
BY_NAME: dict[str, Callable[..., Surrogate]] = {kind.name: kind for kind in _NAMED}

#: The name of each of them.
NAMES: dict[type, str] = {kind: kind.name for kind in _NAMED}


def resolve(gradient: str | Surrogate) -> Surrogate:
    """Returns the surrogate that ``gradient`` names, with its default parameters, or ``gradient`` itself if it is one.

    Args:
        gradient: "straight-through", "identity", "cubic", "sine", "fourier", "tanh", "softmax" or "zero"; or an object
            with methods ``forward(c)`` and ``derivative(c)``.

    Raises:
        ValueError: no surrogate has that name.
        TypeError: it is neither a name nor such an object.

    Example::

        resolve("tanh")  # Tanh(floor=0.0, alpha=4.0)
    """
    names = ", ".join(repr(name) for name in BY_NAME)
    if isinstance(gradient, str):
        if gradient not in BY_NAME:
            raise ValueError(f"gradient must be one of {names}, or a surrogate object; got {gradient!r}")
        return BY_NAME[gradient]()
    wanted = f"gradient must be one of {names}, or an object with methods forward(c) and derivative(c)"
    if isinstance(gradient, type):
        raise TypeError(f"{wanted}; got the class {gradient.__name__}, of which an object must be made first")
    if not all(callable(getattr(gradient, method, None)) for method in ("forward", "derivative")):
        raise TypeError(f"{wanted}; got {gradient!r}")
    return gradient


def written(surrogate: Surrogate) -> str:
    """Writes a surrogate as its user would after ``gradient=``: its name if that is enough, else class and attributes.

    Two objects of the same class and attributes give the same text, in every process.
    """
    kind = type(surrogate)
    return repr(NAMES[kind]) if kind in NAMES and surrogate == kind() else described(surrogate)


def hard_rounding(surrogate: Surrogate) -> Callable[[Tensor], Tensor]:
    """Returns a function of c whose value is round(c), half to even, and whose derivative is the surrogate's.

    For the real arithmetic without ``soft``. Its second derivative is 0, which is the truth for `StraightThrough` only.

    Example::

        c = torch.tensor([0.3], requires_grad=True)
        hard_rounding(Cubic())(c).backward()  # c.grad is 3 · 0.3²
    """

    def rounding(c: Tensor) -> Tensor:
        point = c.detach()
        return point.round() + surrogate.derivative(point) * (c - point)

    return rounding


def _turns(c: Tensor) -> Tensor:
    """Returns 2πc less whole turns, which keeps the sines of large coefficients accurate."""
    return 2 * math.pi * (c - c.detach().round())


def _weighted_sum(weights: Tensor, values: list[int]) -> Tensor:
    """Returns the sum over the first dimension of ``weights`` times ``values``."""
    first, *rest = (weight * value for weight, value in zip(weights.unbind(0), values, strict=True))
    return sum(rest, first)


def _set_number(surrogate: Floored, name: str, wanted: str, holds: Callable[[float], bool]) -> None:
    """Makes a field of a frozen surrogate, which may be NumPy's number, Python's; raises unless ``holds`` of it."""
    value = getattr(surrogate, name)
    if not is_real(value):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    if not (is_finite(value) and holds(value)):
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    object.__setattr__(surrogate, name, plain(value))


#: The sharpness of a surrogate. Beyond, float32 loses it: the result or the derivative would be NaN.
SMALLEST_ALPHA, LARGEST_ALPHA = 1e-3, 1e3


def _check_alpha(surrogate: Tanh | Softmax) -> None:
    _set_number(surrogate, "alpha", "a positive finite number", lambda x: x > 0)
    if not SMALLEST_ALPHA <= surrogate.alpha <= LARGEST_ALPHA:
        raise ValueError(f"alpha must be in {SMALLEST_ALPHA:g}…{LARGEST_ALPHA:g}, got {surrogate.alpha!r}")
