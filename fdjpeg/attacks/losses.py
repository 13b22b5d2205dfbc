"""The losses that attacks maximise: functions of logits ``(N, classes)`` and classes ``(N,)``, one number an image.

A loss has a value, which curves and reports show, and an ascent. The ascent is a function whose gradient points the
same way but does not fade where the value is flat. Attacks use the sign or the direction of a gradient, never its
length, so nothing is lost by that, and a saturated softmax cannot hide the direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Logits ``(N, classes)`` and classes ``(N,)`` to ``(N,)``.
LossFunction = Callable[[Tensor, Tensor], Tensor]


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the largest other logit minus the true one, ``(N,)``: positive where the image is misclassified.

    It is infinite where it is not a number (NaN among the logits, or a difference of infinities): such an image is
    misclassified.

    Source: Carlini & Wagner 2017, arXiv 1608.04644, f6.

    Example::

        wrong = margin(model(x), y) > 0
    """
    _check(logits, y)
    true = logits.gather(1, y[:, None]).squeeze(1)
    difference = _others(logits, y).amax(dim=1) - true
    return difference.masked_fill(difference.isnan(), torch.inf)


def correct(logits: Tensor, y: Tensor) -> Tensor:
    """Returns ``(N,)`` bool: whether the class of the largest logit is the true one. Of NaN it never is.

    Example::

        right = int(correct(model(x), y).sum())
    """
    finite = margin(logits, y) < torch.inf
    return (logits.argmax(dim=1) == y) & finite


def soft_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Returns log Σ exp of the other logits minus the true one, ``(N,)``; its softplus is the cross-entropy.

    Its gradient is the cross-entropy's divided by 1 − p, where p is the probability of the true class. The direction is
    the same, with full length even where p is 1 in float32 (as behind defensive distillation).
    """
    true = logits.gather(1, y[:, None]).squeeze(1)
    return _others(logits, y).logsumexp(dim=1) - true


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the cross-entropy of each image, ``(N,)``, in nats.

    Example::

        loss = cross_entropy(model(x), y)  # one for each image
    """
    _check(logits, y)
    return F.cross_entropy(logits, y, reduction="none")


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the difference of logits ratio, ``(N,)``: the margin over the gap of the largest and third largest logit.

    Source: Croce & Hein 2020, arXiv 2003.01690, eq. 6. It does not change when the logits are scaled.

    Raises:
        ValueError: for fewer than three classes.

    Example::

        loss = dlr(model(x), y)  # one for each image
    """
    _check(logits, y)
    _check_classes(logits, 3, "dlr")
    largest = logits.topk(3, dim=1).values
    return margin(logits, y) / (largest[:, 0] - largest[:, 2]).clamp_min(1e-12)


def margin_towards(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the target's logit minus the largest other one, ``(N,)``: positive where the target is predicted."""
    return -margin(logits, target)


def cross_entropy_towards(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the logarithm of the target's probability, ``(N,)``."""
    return -cross_entropy(logits, target)


def soft_margin_towards(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the target's logit minus log Σ exp of the others, ``(N,)``: the ascent of ``cross_entropy_towards``."""
    return -soft_margin(logits, target)


def dlr_towards(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the targeted difference of logits ratio, ``(N,)``.

    Source: Croce & Hein 2020, arXiv 2003.01690, eq. 7, with the largest other logit in place of the true one (they are
    the same until the image is misclassified). The divisor, largest logit minus the mean of the third and fourth, does
    not cancel the target's own.

    Raises:
        ValueError: for fewer than four classes.
    """
    _check_classes(logits, 4, "dlr towards a class")
    largest = logits.topk(4, dim=1).values
    gap = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2
    return margin_towards(logits, target) / gap.clamp_min(1e-12)


def _others(logits: Tensor, y: Tensor) -> Tensor:
    return logits.scatter(1, y[:, None], -torch.inf)


def others_ranked(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the classes other than ``y``, the likeliest first, ``(N, classes - 1)``.

    The true class is left out by its number: another one may have a logit of minus infinity too.
    """
    ranked = _others(logits, y).argsort(dim=1, descending=True)
    return ranked[ranked != y[:, None]].view(len(logits), -1)


def _check(logits: Tensor, y: Tensor) -> None:
    """Refuses what is no ``(N, classes)`` and ``(N,)``.

    Raises:
        TypeError, ValueError: with the argument, the wanted value and the given one.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        came = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits must be a floating torch.Tensor (N, classes), got {came}")
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        raise TypeError(
            f"y must be an int64 torch.Tensor (N,), got {y.dtype if isinstance(y, Tensor) else type(y).__name__}"
        )
    if logits.ndim != 2:
        raise ValueError(f"logits must be (N, classes), got shape {tuple(logits.shape)}")
    if y.shape != logits.shape[:1]:
        raise ValueError(f"y must be ({len(logits)},), a class for each image, got shape {tuple(y.shape)}")


def _check_classes(logits: Tensor, least: int, name: str) -> None:
    if logits.shape[1] < least:
        raise ValueError(
            f"model must have at least {least} classes for the loss {name}, got {logits.shape[1]}: use margin"
        )


@dataclass(frozen=True)
class Ascent:
    """A loss as PGD uses it.

    Attributes:
        value: the reported loss, which adaptive steps compare.
        climb: the function that is differentiated.
    """

    value: LossFunction
    climb: LossFunction


#: Losses by name: away from the true class.
LOSSES: dict[str, LossFunction] = {"cross-entropy": cross_entropy, "margin": margin, "dlr": dlr}

AWAY = {
    "cross-entropy": Ascent(cross_entropy, soft_margin),
    "margin": Ascent(margin, margin),
    "dlr": Ascent(dlr, dlr),
}
TOWARDS = {
    "cross-entropy": Ascent(cross_entropy_towards, soft_margin_towards),
    "margin": Ascent(margin_towards, margin_towards),
    "dlr": Ascent(dlr_towards, dlr_towards),
}
