"""Quantization tables learned from images: the least loss at the bits that another table takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fdjpeg._arguments import HALF_A_BYTE, flattened, sampling_of
from fdjpeg._calls import check_labels, logits_of
from fdjpeg._checks import check_callable, check_module, check_positive, check_seed, check_tensor, check_whole
from fdjpeg.functional import encode, jpeg
from fdjpeg.learning import metrics
from fdjpeg.modules import LearnableJPEG
from fdjpeg.rate import bits, rate
from fdjpeg.tables import QuantTables

#: A function to minimise: ``loss(decoded, original, labels)`` returns ``(N,)``. Both images are ``(N, C, H, W)`` in
#: [0, 1]; labels are ``(N,)`` or None.
Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]

#: Called after each iteration with the number of iterations done and of all iterations.
Progress: TypeAlias = Callable[[int, int], None]

# ---------------------------------------------------------------------------------------------------------------------
# Losses


def _negative_psnr(decoded: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
    return -metrics.psnr(decoded, original)


def _squared_error(decoded: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
    return (255 * (decoded - original)).square().flatten(1).mean(1)


def _dissimilarity(decoded: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
    return 1 - metrics.ms_ssim(decoded, original)


#: The losses that have a name: −PSNR in dB, the squared error in units of 0…255, 1 − MS-SSIM.
LOSSES: dict[str, Loss] = {"psnr": _negative_psnr, "mse": _squared_error, "ms-ssim": _dissimilarity}


@dataclass(frozen=True)
class ClassifierLoss:
    """A classifier's cross-entropy with the labels or, without labels, with its own answer to the original image.

    Args:
        model: maps images in [0, 1] to logits ``(N, classes)``; put it into evaluation mode first.

    Example::

        loss = ClassifierLoss(model.eval())
    """

    model: nn.Module

    def __post_init__(self) -> None:
        check_module("model", self.model)

    def __call__(self, decoded: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
        """Returns the cross-entropy of each image, in nats: ``(N,)``."""
        if labels is None:
            with torch.no_grad():
                labels = logits_of(self.model, original).softmax(1)
            return F.cross_entropy(logits_of(self.model, decoded), labels, reduction="none")
        logits = logits_of(self.model, decoded)
        check_labels(labels, logits.size(1))
        return F.cross_entropy(logits, labels, reduction="none")


# ---------------------------------------------------------------------------------------------------------------------
# The derivative


@dataclass(frozen=True)
class DeadZone:
    """Straight-through rounding, except for coefficients within a step of zero: there the jump is a narrow bump.

    ``r′(c) = 1`` for ``|c| ≥ 1``, and ``sech²((|c| − ½) / w) / 2w`` below, which is 1 on average too.

    It is for learning tables. The gradient by a step q is g · (k − c r′(c)). With r′ = 1 it is right on average where
    coefficients are spread evenly over a step. At high frequencies most are in the dead zone, ``|c| < ½``, and lose
    nothing by a larger step. Straight-through counts a loss for all of them, and so keeps those steps small. This
    surrogate counts a loss only for those that a larger step sets to zero (docs/tables.md has figures).

    Args:
        width: w, in steps.

    Source: ours.

    Example::

        image = fdjpeg.jpeg(torch.rand(2, 3, 32, 48), 75, gradient=DeadZone())
    """

    width: float = 0.05

    def __post_init__(self) -> None:
        check_positive("width", self.width)

    def forward(self, c: Tensor) -> Tensor:
        """Rounds half to even."""
        return c.round()

    def derivative(self, c: Tensor) -> Tensor:
        """Returns the bump below a step, 1 from there on."""
        size = c.abs()
        bump = 1 / (2 * self.width * ((size - 0.5) / self.width).cosh().square())
        return torch.where(size < 1, bump, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Learning


@torch.inference_mode(False)
@torch.enable_grad()
def learn_tables(
    images: Tensor,
    budget: Tensor,
    loss: str | Loss = "psnr",
    *,
    labels: Tensor | None = None,
    start: QuantTables | None = None,
    share: str = "chroma",
    subsampling: str = "4:2:0",
    iterations: int = 300,
    batch_size: int = 64,
    learning_rate: float = 0.06,
    seed: int = 0,
    progress: Progress | None = None,
) -> QuantTables:
    """Learns the tables of least loss among those that take a given number of bits.

    Adam on the logarithms of the steps minimises loss + λ · `rate` over minibatches (`LearnableJPEG`, the exact codec
    forward, `DeadZone` backward). λ grows while the minibatch takes more bits than its budget, and falls while it takes
    fewer. In the end all steps are multiplied by one number, so that the images take their budget by `bits`. The DC
    steps are then chosen among the integers near them by the loss and `bits` themselves, on the images of 16
    minibatches.

    Args:
        images: ``(N, 3, H, W)`` or ``(N, 1, H, W)``, uint8, or floating in [0, 1]. Cut large ones into pieces of
            a multiple of 16 pixels.
        budget: bits of entropy-coded data for each image, ``(N,)``; their sum counts. For instance
            ``bits(encode(images, 50))``, the bits that the standard tables take at quality 50.
        loss: a name of `LOSSES`, a `ClassifierLoss`, or a function (`Loss`).
        labels: int64 ``(N,)``, for the loss.
        start: the first tables; by default flat ones, with finer chroma the fewer its samples.
        share: the components that share a table, as for `LearnableJPEG`.
        subsampling: as for `jpeg`.
        iterations: number of minibatches.
        batch_size: images in each, drawn without repetition until all have been seen.
        learning_rate: Adam's first one, for logarithms of steps; it falls to 0 like a cosine.
        seed: of the draws.
        progress: called after each minibatch.

    Returns:
        Integer tables.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape or name, or a number is out of range.

    Source: ours; see docs/tables.md.

    Example::

        images = torch.rand(8, 3, 32, 32)
        budget = fdjpeg.bits(fdjpeg.encode(images, 50))
        tables = learn_tables(images, budget, "mse", iterations=10)
    """
    batch = flattened(images, "images")
    sampling = sampling_of(subsampling, "fancy")
    _check(batch, budget, labels, start, iterations, batch_size, learning_rate, seed, progress)
    iterations, batch_size, seed = int(iterations), int(batch_size), int(seed)  # torch takes no NumPy's
    measure_of_loss = partial(_loss_of, _resolve(loss))
    budget = budget.detach()
    if start is None:
        # A chroma sample covers several pixels, so an error in it weighs more: chroma steps are finer by this factor.
        chroma = (sampling.horizontal * sampling.vertical) ** -0.5
        flat = torch.ones(8, 8, dtype=torch.float32, device="cpu")
        start = _fitted(
            QuantTables(flat, flat * chroma),
            batch,
            budget,
            subsampling,
        )
    layer = LearnableJPEG(start, share=share, subsampling=subsampling, gradient=DeadZone()).to(batch.device)
    optimizer = torch.optim.Adam(layer.parameter_groups(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    generator = torch.Generator().manual_seed(int(seed))
    order = torch.empty(0, dtype=torch.int64, device="cpu")
    multiplier: float | None = None
    for iteration in range(iterations):
        if len(order) < min(batch_size, len(batch)):
            order = torch.randperm(len(batch), generator=generator, device="cpu")
        chosen, order = order[:batch_size], order[batch_size:]
        original = _as_floats(batch[chosen])
        mean_loss = measure_of_loss(layer(original), original, None if labels is None else labels[chosen]).mean()
        mean_rate = rate(original, tables=layer.steps(), subsampling=subsampling).mean()
        if multiplier is None:
            multiplier = _balance(mean_loss, mean_rate, layer)
        optimizer.zero_grad()
        (mean_loss + multiplier * mean_rate).backward()
        optimizer.step()
        schedule.step()
        multiplier *= float(mean_rate.detach() / budget[chosen].double().mean()) ** _HASTE
        if progress is not None:
            progress(iteration + 1, iterations)
    assert multiplier is not None  # there is at least one minibatch
    judges = torch.randperm(len(batch), generator=generator, device="cpu")[: _JUDGES * batch_size].split(batch_size)
    parts = [(batch[chosen], None if labels is None else labels[chosen]) for chosen in judges]
    fitted = LearnableJPEG(_fitted(layer.steps(), batch, budget, subsampling), share=share)
    return _with_best_dc(fitted, partial(_cost, parts, measure_of_loss, multiplier, subsampling))


#: The number of minibatches of images that judge the DC steps.
_JUDGES = 16

#: The power of (bits taken / bits wanted) by which the multiplier changes in each iteration.
_HASTE = 0.1


def _resolve(loss: str | Loss) -> Loss:
    if callable(loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(map(repr, LOSSES))}, or a function, got {loss!r}")
    return LOSSES[loss]


def _loss_of(loss: Loss, decoded: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
    """Returns a loss's value, or refuses what is no number for each image.

    Raises:
        TypeError, ValueError: the message names the loss.
    """
    found = loss(decoded, original, labels)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        came = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"loss must return a floating torch.Tensor ({len(decoded)},), got {came}")
    if found.shape not in ((), decoded.shape[:1]):
        raise ValueError(f"loss must return one number for each image, ({len(decoded)},), got {tuple(found.shape)}")
    if torch.is_grad_enabled() and decoded.requires_grad and not found.requires_grad:
        raise ValueError("loss must be differentiable by the decoded images, got one without a gradient")
    if not bool(found.isfinite().all()):
        raise ValueError("loss must be finite, got NaN or infinity")
    return found


def _check(
    batch: Tensor,
    budget: Tensor,
    labels: Tensor | None,
    start: QuantTables | None,
    iterations: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    progress: Progress | None,
) -> None:
    if len(batch) == 0:
        raise ValueError("images must hold at least one image, got none")
    check_tensor("budget", budget, "(N,)")
    for name, values in (("budget", budget), ("labels", labels)):
        if values is not None and (not isinstance(values, Tensor) or values.shape != batch.shape[:1]):
            came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"{name} must be a tensor of shape ({len(batch)},), one for each image, got {came}")
    if budget.dtype == torch.bool or budget.is_complex():
        raise TypeError(f"budget must be numbers of bits, got {budget.dtype}")
    if not bool(((budget > 0) & budget.isfinite()).all()):
        raise ValueError(f"budget must be above 0 and finite, got {budget.min():g} … {budget.max():g}")
    if batch.is_floating_point():
        low, high = float(batch.min()), float(batch.max())
        if not (low > -HALF_A_BYTE and high < 1 + HALF_A_BYTE):  # written so that NaN fails as well
            raise ValueError(f"images must be in [0, 1], got values from {low:.9g} to {high:.9g}")
    for name, number in (("iterations", iterations), ("batch_size", batch_size)):
        check_whole(name, number, 1)
    check_positive("learning_rate", learning_rate)
    check_seed("seed", seed)
    check_callable("progress", progress)
    if start is not None and not isinstance(start, QuantTables):
        raise TypeError(f"start must be fdjpeg.QuantTables or None, got {type(start).__name__}")


def _as_floats(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _balance(loss: Tensor, rate: Tensor, layer: LearnableJPEG) -> float:
    """Returns the multiplier at which a common factor on all steps would gain as much as it loses."""
    parameters = list(layer.parameters())
    sums = [sum(float(g.sum()) for g in torch.autograd.grad(x, parameters, retain_graph=True)) for x in (loss, rate)]
    return max(sums[0], 1e-12) / max(-sums[1], 1e-12)


def _cost(
    parts: list[tuple[Tensor, Tensor | None]], loss: Loss, multiplier: float, subsampling: str, tables: QuantTables
) -> float:
    """Sums loss + λ · `bits` over images and their labels: the objective, without an estimate of bits."""
    total = 0.0
    for images, labels in parts:
        original = _as_floats(images)
        losses = loss(jpeg(original, tables=tables, subsampling=subsampling), original, labels)
        total += float((losses + multiplier * bits(encode(images, tables=tables, subsampling=subsampling))).sum())
    return total


@torch.no_grad()
def _with_best_dc(layer: LearnableJPEG, cost: Callable[[QuantTables], float]) -> QuantTables:
    """Returns the layer's integer tables with DC steps of least cost, each from 2/3 to 3/2 of its former value.

    Flat parts of an image are kept without error if multiples of the DC step fall on whole samples, as those of 8 do.
    No derivative shows that.
    """
    least = cost(layer.tables)
    for logarithms in layer.log_steps:
        best = round(float(logarithms[0, 0].exp()))
        for step in range(-(-2 * best // 3), min(3 * best // 2, 255) + 1):
            before = logarithms[0, 0].clone()
            logarithms[0, 0] = math.log(step)
            now = cost(layer.tables)
            if now < least:
                least = now
            else:
                logarithms[0, 0] = before
    return layer.tables


@torch.no_grad()
def _fitted(tables: QuantTables, images: Tensor, budget: Tensor, subsampling: str) -> QuantTables:
    """Multiplies tables by the one number at which the images take their budget by `bits`, steps within 1…255."""
    stacked, factor = tables.stacked()[0], 1.0
    small, large = 0.0, math.inf  # factors that take too many bits, and no more than the budget
    for _ in range(_CORRECTIONS):
        fitted = QuantTables(*(factor * stacked).clamp(1, 255))
        taken = sum(int(bits(encode(part, tables=fitted, subsampling=subsampling)).sum()) for part in images.split(256))
        excess = taken / float(budget.sum())
        small, large = (factor, large) if excess > 1 else (small, factor)
        factor *= excess**_ELASTICITY
        if not small <= factor <= large:
            factor = math.sqrt(small * large)
    return QuantTables(*(factor * stacked).clamp(1, 255))


#: Bits fall like steps to the power of −0.6 to −1, so that each correction leaves at most 0.3 of the previous error. Of
#: noise they fall faster, and the corrections would swing, so they stay between factors known to be too small or large.
_CORRECTIONS, _ELASTICITY = 6, 1.2
