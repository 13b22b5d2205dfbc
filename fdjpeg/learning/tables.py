"""Quantization tables learned from images: as many bits as another table takes, and the least of a loss for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fdjpeg._arguments import flattened, sampling_of
from fdjpeg.functional import encode, jpeg
from fdjpeg.learning import metrics
from fdjpeg.modules import LearnableJPEG
from fdjpeg.rate import bits, rate
from fdjpeg.tables import QuantTables

#: What is to be small: ``loss(decoded, original, labels)``, both images ``(N, C, H, W)`` in [0, 1], labels ``(N,)`` or
#: None, gives ``(N,)``.
Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]

#: Called after each iteration with the number of those that are done and of all.
Progress: TypeAlias = Callable[[int, int], None]

# ---------------------------------------------------------------------------------------------------------------------
# Losses


def _negative_psnr(decoded: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
    return -metrics.psnr(decoded, original)


def _squared_error(decoded: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
    return (255 * (decoded - original)).square().flatten(1).mean(1)


def _dissimilarity(decoded: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
    return 1 - metrics.ms_ssim(decoded, original)


#: The losses that need no more than their name: less PSNR in dB, the squared error in units of 0…255, 1 − MS-SSIM.
LOSSES: dict[str, Loss] = {"psnr": _negative_psnr, "mse": _squared_error, "ms-ssim": _dissimilarity}


@dataclass(frozen=True)
class ClassifierLoss:
    """A classifier's cross-entropy: with the labels, or, without any, with its own answer to the image as it was.

    Args:
        model: maps images in [0, 1] to logits ``(N, classes)``; it is used as it is, so put it into evaluation mode.
    """

    model: nn.Module

    def __call__(self, decoded: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
        """The cross-entropy of each image, in nats."""
        if labels is None:
            with torch.no_grad():
                labels = self.model(original).softmax(1)
        return F.cross_entropy(self.model(decoded), labels, reduction="none")


# ---------------------------------------------------------------------------------------------------------------------
# The derivative


@dataclass(frozen=True)
class DeadZone:
    """Straight-through rounding, but for coefficients that lie within a step of zero: there the jump is a narrow bump.

    r′(c) = 1 for |c| ≥ 1, and sech²((|c| − ½) / w) / 2w below, which is 1 on average too.

    For learning tables. The gradient by a step q is g · (k − c r′(c)). With r′ = 1 it is right on average where
    coefficients are spread evenly over a step. Of high frequencies most lie in the dead zone, |c| < ½, and lose nothing
    by a larger step; straight-through says that all of them lose, and keeps those steps small. Here only those say so
    that a larger step does put to zero (docs/tables.md has figures). Ours.

    Args:
        width: w, in steps.
    """

    width: float = 0.05

    def forward(self, c: Tensor) -> Tensor:
        """Round, half to even."""
        return c.round()

    def derivative(self, c: Tensor) -> Tensor:
        """The bump below a step, 1 from there on."""
        size = c.abs()
        bump = 1 / (2 * self.width * ((size - 0.5) / self.width).cosh().square())
        return torch.where(size < 1, bump, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Learning


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

    Adam on the logarithms of the steps (`LearnableJPEG`, the exact codec forward, `DeadZone` backward) minimises loss +
    λ · `rate` over minibatches; λ grows while the minibatch takes more bits than its budget, and falls while it takes
    fewer. In the end all steps are multiplied by one number, so that the images take their budget by `bits`, and the DC
    steps are chosen among the whole numbers near by the loss and `bits` themselves, of as many images as 16 minibatches
    hold.

    Args:
        images: ``(N, 3, H, W)`` or ``(N, 1, H, W)``, uint8, or floating in [0, 1]. Large ones are best cut into
            pieces, of a multiple of 16 pixels.
        budget: bits of entropy-coded data for each image, ``(N,)``; what counts is their sum. Such as
            ``bits(encode(images, 50))``: as many as the standard tables take at quality 50.
        loss: a name of `LOSSES`, a `ClassifierLoss`, or a function (`Loss`).
        labels: int64 ``(N,)``, for the loss.
        start: where to start; by default flat tables, chroma finer the fewer its samples.
        share: which components have a table together, as for `LearnableJPEG`.
        subsampling: as for `jpeg`.
        iterations: number of minibatches.
        batch_size: images in each, drawn without repetition until all have been seen.
        learning_rate: Adam's first, by which logarithms of steps move; it falls to 0 like a cosine.
        seed: of the draws.
        progress: called after each minibatch.

    Returns:
        Integer tables.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape or name, or a number is out of range.
    """
    batch = flattened(images)
    sampling = sampling_of(subsampling, "fancy")
    _check(batch, budget, labels, start, iterations, batch_size, learning_rate, seed)
    measure_of_loss = _resolve(loss)
    if start is None:
        # Chroma samples count for so many pixels that an error in them weighs more, by this factor.
        chroma = (sampling.horizontal * sampling.vertical) ** -0.5
        start = _fitted(QuantTables(torch.ones(8, 8), torch.full((8, 8), chroma)), batch, budget, subsampling)
    layer = LearnableJPEG(start, share=share, subsampling=subsampling, gradient=DeadZone()).to(batch.device)
    optimizer = torch.optim.Adam(layer.parameter_groups(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    multiplier: float | None = None
    for iteration in range(iterations):
        if len(order) < min(batch_size, len(batch)):
            order = torch.randperm(len(batch), generator=generator)
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
    assert multiplier is not None  # there is a minibatch at least
    judges = torch.randperm(len(batch), generator=generator)[: _JUDGES * batch_size].split(batch_size)
    parts = [(batch[chosen], None if labels is None else labels[chosen]) for chosen in judges]
    fitted = LearnableJPEG(_fitted(layer.steps(), batch, budget, subsampling), share=share)
    return _with_best_dc(fitted, partial(_cost, parts, measure_of_loss, multiplier, subsampling))


#: How many minibatches of images judge the DC steps.
_JUDGES = 16

#: To what power of (bits taken / bits wanted) the multiplier follows in each step.
_HASTE = 0.1


def _resolve(loss: str | Loss) -> Loss:
    if callable(loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(map(repr, LOSSES))}, or a function, got {loss!r}")
    return LOSSES[loss]


def _check(
    batch: Tensor,
    budget: Tensor,
    labels: Tensor | None,
    start: QuantTables | None,
    iterations: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> None:
    if len(batch) == 0:
        raise ValueError("images must hold at least one image, got none")
    for name, values in (("budget", budget), ("labels", labels)):
        if values is not None and (not isinstance(values, Tensor) or values.shape != batch.shape[:1]):
            came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"{name} must be a tensor of shape ({len(batch)},), one for each image, got {came}")
    if not bool((budget > 0).all()):
        raise ValueError(f"budget must be above 0, got {float(budget.min()):g}")
    for name, number in (("iterations", iterations), ("batch_size", batch_size)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {number!r}")
    if not (isinstance(learning_rate, (int, float)) and learning_rate > 0):
        raise ValueError(f"learning_rate must be a number above 0, got {learning_rate!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if start is not None and not isinstance(start, QuantTables):
        raise TypeError(f"start must be fdjpeg.QuantTables or None, got {type(start).__name__}")


def _as_floats(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _balance(loss: Tensor, rate: Tensor, layer: LearnableJPEG) -> float:
    """The multiplier at which a common factor on all steps would gain as much as it loses."""
    parameters = list(layer.parameters())
    sums = [
        sum(
            float(g.sum())
            for g in torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True)
            if g is not None
        )
        for x in (loss, rate)
    ]
    return max(sums[0], 1e-12) / max(-sums[1], 1e-12)


def _cost(
    parts: list[tuple[Tensor, Tensor | None]], loss: Loss, multiplier: float, subsampling: str, tables: QuantTables
) -> float:
    """The sum of loss + λ · `bits` over images and their labels: what learning makes small, without an estimate."""
    total = 0.0
    for images, labels in parts:
        original = _as_floats(images)
        losses = loss(jpeg(original, tables=tables, subsampling=subsampling), original, labels)
        total += float((losses + multiplier * bits(encode(images, tables=tables, subsampling=subsampling))).sum())
    return total


@torch.no_grad()
def _with_best_dc(layer: LearnableJPEG, cost: Callable[[QuantTables], float]) -> QuantTables:
    """The layer's integer tables with DC steps of least cost, each from two thirds to three halves of what it was.

    Flat parts of an image are kept without error where multiples of the DC step fall on whole samples, as all multiples
    of 8 do. No derivative shows that.
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
    """Tables multiplied by the one number at which the images take their budget by `bits`, steps within 1…255."""
    stacked, factor = tables.stacked()[0], 1.0
    for _ in range(_CORRECTIONS):
        fitted = QuantTables(*(factor * stacked).clamp(1, 255))
        taken = sum(int(bits(encode(part, tables=fitted, subsampling=subsampling)).sum()) for part in images.split(256))
        factor *= (taken / float(budget.sum())) ** _ELASTICITY
    return QuantTables(*(factor * stacked).clamp(1, 255))


#: Bits fall like steps to the power of −0.6 to −1, so that each correction leaves at most 0.3 of the error before it.
_CORRECTIONS, _ELASTICITY = 6, 1.2
