"""JPEG ensemble: a table favoured by networks, a copy of the classifier tuned for each level of it, a majority vote.

Source: Zhang & Gao, arXiv 2106.13394. We know only its abstract: a quantization table designed from an analysis of the
frequency coefficients, the pre-trained model tuned on images of different compression levels, a majority vote.

Ours, because the abstract leaves it open: a band's importance is the mean |∂loss/∂coefficient| (or its standard
deviation) at 4:4:4; the steps of the standard table are dealt out by importance, the smallest to the most important, so
that the mean step is the standard table's; the levels are that table × {0.5, 1, 2}; each member sees its own level; if
votes are equal, the class with the higher summed softmax wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg._calls import logits_of
from fdjpeg._numbers import is_finite
from fdjpeg.attacks.exposed import Exposed
from fdjpeg.sources.images import sample

from .base import JPEGDefense, Weights, copied, device_of, load_state, table_of
from .gradients import GRADIENTS, distinct
from .training.config import Schedule, Settings, at_least, positive
from .training.images import Images
from .training.objective import Chance, Objective
from .training.run import Run


class JPEGEnsemble(JPEGDefense):
    """Copies of one classifier, each behind its own level of a table, that vote.

    ``deployed`` returns the vote. A vote has no gradient, so ``attacked`` returns the mean log-probability through
    every branch.

    Args:
        luma, chroma: ``(8, 8)``, the table of level 1.
        levels: one factor of the table for each member; steps are rounded and clamped to 1…255.
        members: the state dict of each member; None if each is the classifier itself.

    Raises:
        ValueError: no level, a level that is not positive, tables of another shape, or another number of members.

    Example::

        tables = fdjpeg.QuantTables.standard(50)
        untuned = fdjpeg.defenses.JPEGEnsemble(tables.luma, tables.chroma, levels=(0.5, 1, 2))
    """

    kind = "jpeg-ensemble"
    gradients = distinct(GRADIENTS, "4:4:4")

    def __init__(
        self,
        luma: Tensor | list[list[float]],
        chroma: Tensor | list[list[float]],
        levels: Sequence[float] = (0.5, 1.0, 2.0),
        members: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.luma, self.chroma = table_of("luma", luma).float(), table_of("chroma", chroma).float()
        if len(levels) == 0 or not all(is_finite(level) and level > 0 for level in levels):
            raise ValueError(f"levels must be positive numbers, at least one, got {levels!r}")
        if members is not None and len(members) != len(levels):
            raise ValueError(f"members must be {len(levels)} state dicts, one for each level, got {len(members)}")
        self.levels = tuple(float(level) for level in levels)
        self.members = nn.ModuleList(Weights(member) for member in members or [])

    def layer(self, level: float) -> fdjpeg.JPEG:
        """Returns the compression of a level, which its member sees."""
        tables = QuantTables(self.luma * level, self.chroma * level).integer()
        return fdjpeg.JPEG(tables=tables, subsampling="4:4:4", gradient=self.surrogate)

    def deployed(self, network: nn.Module) -> nn.Module:
        """See `Defense.deployed`. Copies the classifier once for each member that has separate weights."""
        pairs = zip(*self._branches(network), strict=True)
        branches = [nn.Sequential(layer, member) for layer, member in pairs]
        return (Vote if self.gradient is None else MeanLogProbability)(branches).eval()

    @property
    def exposes(self) -> Callable[[nn.Module], Exposed] | None:
        """See `Defense.exposes`: the members' layers, and the vote."""
        return lambda network: Exposed(*self._branches(network), verdict=vote)

    def _branches(self, network: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
        """Returns the layer of each member, and the classifier behind it."""
        device = device_of(network)
        layers: list[nn.Module] = [self.layer(level).to(device) for level in self.levels]
        if not self.members:
            return layers, [network] * len(layers)
        members = []
        for number, state in enumerate(self.members):
            member = copied(network)
            load_state(member, state.state_dict(), f"the classifier given, for member {number + 1} of the ensemble")
            members.append(member.eval())
        return layers, members

    def config(self) -> dict[str, Any]:
        """See `Defense.config`."""
        return {"luma": self.luma.tolist(), "chroma": self.chroma.tolist(), "levels": list(self.levels)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Defense.load_tensors`."""
        states: list[dict[str, Tensor]] = [{} for _ in self.levels]
        for key, tensor in tensors.items():
            _, number, name = key.split(".", 2)
            if not number.isdecimal() or int(number) >= len(states):
                raise ValueError(f"checkpoint must hold weights of {len(states)} members, got {key!r}")
            states[int(number)][name] = tensor
        self.members = nn.ModuleList(Weights(state) for state in (states if tensors else []))


def vote(branches: Sequence[Tensor]) -> Tensor:
    """Counts the votes of branches by their logits: votes plus the mean softmax, ``(N, classes)``."""
    logits = torch.stack(list(branches))
    votes = F.one_hot(logits.argmax(dim=2), logits.shape[2]).sum(dim=0)
    return votes + logits.softmax(dim=2).mean(dim=0)


class Branches(nn.Module):
    """Classifiers that see the same images.

    Args:
        branches: each maps images to logits of the same classes.
    """

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)


class Vote(Branches):
    """The majority vote of classifiers; the summed softmax decides between equal votes."""

    def forward(self, images: Tensor) -> Tensor:
        """Returns ``(N, classes)``: votes, plus the members' mean softmax, which never outweighs a vote."""
        return vote([logits_of(branch, images) for branch in self.branches])


class MeanLogProbability(Branches):
    """The mean of the branches' log-probabilities, differentiable through every branch."""

    def forward(self, images: Tensor) -> Tensor:
        """Returns the mean, ``(N, classes)``."""
        return torch.stack([logits_of(branch, images).log_softmax(dim=1) for branch in self.branches]).mean(dim=0)


# --- the table -------------------------------------------------------------------------------------------------------


def favoured_tables(luma: Tensor, chroma: Tensor, standard: QuantTables) -> QuantTables:
    """Deals out the standard table's steps by importance: the smallest to the most important band.

    Args:
        luma, chroma: ``(8, 8)``, the importance of each band. Of equal ones the first in row-major order counts as the
            most important.
        standard: tables ``(8, 8)``. Their 64 steps each are kept, and so is their mean.
    """
    dealt = []
    for importance, table in ((luma, standard.luma), (chroma, standard.chroma)):
        order = importance.flatten().argsort(descending=True, stable=True)
        dealt.append(table.flatten().sort().values[order.argsort()].reshape(8, 8))
    return QuantTables(*dealt)


def gradient_sensitivity(classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Sums |∂loss/∂coefficient| over images and blocks, for luma and chroma at 4:4:4.

    The coefficients are those of the orthonormal DCT of Y, Cb and Cr; the loss is cross-entropy. Blocks that the image
    does not fill are left out. Grey images have luma's sums for both.

    Args:
        classifier: maps images in [0, 1] to logits.
        images: ``(N, 3 or 1, H, W)`` in [0, 1].
        labels: ``(N,)``, int64.

    Returns:
        ``(2, 8, 8)`` float64: luma, and Cb with Cr.
    """
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(classifier(x), labels, reduction="sum"), x)
    gradient = gradient.double()
    if gradient.shape[1] == 3:
        # The adjoint of R, G, B from Y, Cb, Cr (JFIF): ∂loss/∂Y = Σ ∂loss/∂RGB, and so on.
        to_rgb = gradient.new_tensor([[1.0, 0.0, 1.402], [1.0, -0.344136286, -0.714136286], [1.0, 1.772, 0.0]])
        gradient = torch.einsum("nchw,ck->nkhw", gradient, to_rgb)
    height, width = (size // 8 * 8 for size in gradient.shape[2:])
    # An orthonormal transform's inverse is its transpose, so coefficients' gradients are the gradient's coefficients.
    coefficients = fdjpeg.block_dct(gradient[..., :height, :width]).abs().sum(dim=(0, 2, 3))
    return torch.stack([coefficients[0], coefficients[1:].sum(dim=0) if len(coefficients) == 3 else coefficients[0]])


# --- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config(Settings):
    """Settings of ``fdjpeg train jpeg-ensemble``; all of them are ours.

    Attributes:
        quality: 1…100, of the standard table whose steps are dealt out.
        importance: of a band: "gradient" (mean |∂loss/∂coefficient|) or "deviation" (of its coefficients).
        analysed: number of images from which it is measured, drawn from the seed; None for all.
        levels: factors of the table, one member for each.
        tuning: the schedule of each member; a tenth of the learning rate that the network was trained with.
    """

    quality: int = 50
    importance: str = "gradient"
    analysed: int | None = 1000
    levels: tuple[float, ...] = (0.5, 1.0, 2.0)
    tuning: Schedule = field(default_factory=lambda: Schedule(epochs=3, learning_rate=1e-4))

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be in 1…100, got {self.quality}")
        if self.importance not in ("gradient", "deviation"):
            raise ValueError(f"importance must be gradient or deviation, got {self.importance!r}")
        if self.analysed is not None:
            at_least(1, analysed=self.analysed)
        if not self.levels:
            raise ValueError("levels must hold at least one number, got none")
        for level in self.levels:
            positive(levels=level)


class Tuning(Objective):
    """Cross-entropy of a classifier behind a layer."""

    def __init__(self, classifier: nn.Module, layer: nn.Module) -> None:
        super().__init__(classifier)
        self.layer = layer

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        """See `Objective.loss`."""
        return F.cross_entropy(self.trained(self.layer(images)).float(), labels)


def analyse(run: Run, images: Images, classifier: nn.Module, config: Config) -> Tensor:
    """Returns the importance of each band, ``(2, 8, 8)`` float64, luma and chroma; any number of processes agree.

    Raises:
        ValueError: the classifier's gradient is not finite.
    """
    # At random, because folders come in the order of their classes.
    chosen = images.select(sample(len(images), config.analysed, config.seed))
    parts = torch.zeros(-(-len(chosen) // config.tuning.batch_size), 2, 8, 8, dtype=torch.float64, device="cpu")
    for batch, pixels, labels in run.mine(chosen, config.tuning.batch_size):
        if config.importance == "gradient":
            parts[batch] = gradient_sensitivity(classifier, pixels, labels).cpu()
        else:
            parts[batch] = squares_of_coefficients(pixels).cpu()
    # Each batch's part comes from one process, so adding the zeros of the others changes no bit.
    importance = run.total(parts).sum(dim=0)
    if not bool(importance.isfinite().all()):
        raise ValueError("model must have a finite gradient for every image analysed, got NaN or infinity")
    return importance


def squares_of_coefficients(images: Tensor) -> Tensor:
    """Sums squared coefficients over images and blocks, ``(2, 8, 8)`` float64, luma, and Cb with Cr.

    The mean of a band over the blocks of an image is subtracted from its coefficients first.
    """
    coefficients = fdjpeg.encode(images, tables=QuantTables.flat(1), subsampling="4:4:4")
    sums = []
    for blocks in (coefficients.y, coefficients.cb, coefficients.cr):
        if blocks is not None:
            values = blocks.flatten(1, 2).double()
            sums.append((values - values.mean(dim=1, keepdim=True)).square().sum(dim=(0, 1)))
    return torch.stack([sums[0], sums[1] + sums[2] if len(sums) == 3 else sums[0]])


def train(run: Run, images: Images, classifier: nn.Module, config: Config) -> JPEGEnsemble:
    """Analyses the classifier, deals out the table, and tunes one copy for each level."""
    luma, chroma = analyse(run, images, classifier, config)
    tables = favoured_tables(luma, chroma, QuantTables.standard(config.quality))
    ensemble = JPEGEnsemble(tables.luma, tables.chroma, config.levels)
    members = []
    for place, level in enumerate(config.levels):
        member = copied(classifier).requires_grad_(True)
        layer = ensemble.layer(level)
        run.fit(f"member-{place + 1}", Tuning(member, layer), images, config.tuning)
        members.append({name: tensor.cpu() for name, tensor in member.state_dict().items()})
    return JPEGEnsemble(tables.luma, tables.chroma, config.levels, members)
