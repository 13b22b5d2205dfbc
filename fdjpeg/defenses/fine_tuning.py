"""Compression-augmented fine-tuning: a classifier trained further on images that were compressed at random.

The loss is cross-entropy on the augmented image plus a Kullback-Leibler divergence that holds its output near a
teacher's output on the clean one. By default the teacher is the original network. With ``teacher: current`` it is the
network itself: stability training, Zheng et al., "Improving the Robustness of Deep Neural Networks via Stability
Training", CVPR 2016, arXiv 1604.04293, with cross-entropy on the clean image. Learnable tables in front are the idea of
"JPEG inspired deep learning" (JPEG-DL), ICLR 2025, arXiv 2410.07081: its tables are trained with the network. Weights
between those before and after are from Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, arXiv
2109.01903, equation 1.

Ours: the default teacher, the optimizer, and that batch normalisation keeps the statistics of the original network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg._arguments import sampling_of
from fdjpeg._checks import check_list, check_no_gradient
from fdjpeg._numbers import is_finite
from fdjpeg._settings import build
from fdjpeg.attacks.exposed import Exposed
from fdjpeg.augmentations import Augmentation, DoubleJPEG, RandomJPEG, Recompress
from fdjpeg.augmentations.base import scaled

from .base import Defense, Weights, copied, device_of, load_state, set_gradient
from .gradients import GRADIENTS
from .training import accuracy
from .training.batch_statistics import LAYERS
from .training.config import Schedule, Settings, positive
from .training.images import Images
from .training.objective import Chance, Objective
from .training.run import Run


class FineTuned(Defense):
    """The fine-tuned network in place of the classifier, behind the tables that were learned with it, if any.

    Args:
        tables: steps of luma and chroma, ``(8, 8)`` each, of the layer in front; None without one.
        subsampling: of that layer.
        state: the weights of the network.

    Example::

        defense = fdjpeg.defenses.load("runs/fine-tuned")
        deployed = defense.deployed(classifier)
        on_uploads = defense.behind(fdjpeg.JPEG(75)).deployed(classifier)
    """

    kind = "fine-tuning"

    def __init__(
        self,
        tables: Sequence[Any] | None = None,
        subsampling: str = "4:2:0",
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        sampling_of(subsampling, "fancy")  # raises for an unknown name
        if tables is not None:
            check_list("tables", tables)
            check_no_gradient("tables", *tables)
        self.tables = None if tables is None else QuantTables(*tables).integer()
        self.subsampling = subsampling
        self.network = Weights(state or {})
        self.front: fdjpeg.JPEG | None = None

    @property
    def gradients(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Defense.gradients`: those of JPEG, or the network's own where there is no JPEG."""
        return ("end-to-end",) if self.tables is None and self.front is None else GRADIENTS

    def behind(self, front: fdjpeg.JPEG) -> FineTuned:
        """Returns the same defence behind a JPEG that images pass first, as a platform's."""
        changed = FineTuned(self.tensors_of_tables(), self.subsampling)
        changed.network = self.network
        changed.front = front
        return changed.eval()

    def layers(self) -> list[fdjpeg.JPEG]:
        """Returns the layers before the network, with the gradient that was asked for."""
        gradient = self.gradient or "straight-through"
        found: list[fdjpeg.JPEG] = []
        if self.front is not None:
            found.append(copy.deepcopy(self.front))
        if self.tables is not None:
            found.append(fdjpeg.JPEG(tables=self.tables, subsampling=self.subsampling))
        for layer in found:
            set_gradient(layer, gradient)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """See `Defense.forward`."""
        for layer in self.layers():
            images = layer.to(images.device)(images)
        return images

    def deployed(self, network: nn.Module) -> nn.Module:
        """Returns the fine-tuned network behind its layers, see `Defense.deployed`."""
        tuned, layers = self._tuned(network), self.layers()
        return nn.Sequential(*layers, tuned).to(device_of(network)).eval() if layers else tuned

    @property
    def exposes(self) -> Callable[[nn.Module], Exposed] | None:
        """See `Defense.exposes`."""
        if not self.layers():
            return None
        return lambda network: Exposed(
            [nn.Sequential(*self.layers()).to(device_of(network)).eval()], [self._tuned(network)]
        )

    def _tuned(self, network: nn.Module) -> nn.Module:
        """A copy of the network with the weights after fine-tuning."""
        tuned = copied(network)
        load_state(tuned, self.network.state_dict(), "the network that was fine-tuned")
        return tuned.eval()

    def tensors_of_tables(self) -> list[Tensor] | None:
        """Returns luma's and chroma's table, or None."""
        return None if self.tables is None else [self.tables.luma, self.tables.chroma]

    def config(self) -> dict[str, Any]:
        """See `Defense.config`."""
        tables = self.tensors_of_tables()
        return {
            "tables": None if tables is None else [table.tolist() for table in tables],
            "subsampling": self.subsampling,
        }

    def extra_repr(self) -> str:
        """Shows the tables' mean step and the layer in front."""
        tables = "None" if self.tables is None else f"mean step {float(self.tables.luma.double().mean()):.1f} in luma"
        return f"tables={tables}, subsampling={self.subsampling!r}, front={self.front}"

    def tensors(self) -> dict[str, Tensor]:
        """See `Defense.tensors`."""
        return {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Defense.load_tensors`; ``deployed`` compares them with the architecture."""
        self.network = Weights({name.removeprefix("network."): tensor for name, tensor in tensors.items()})


# --- settings --------------------------------------------------------------------------------------------------------

#: The settings of each augmentation, besides those of every one.
_OWN = {
    "random-jpeg": (),
    "double-jpeg": ("shift", "second_quality"),
    "recompress": ("scale", "longer_side", "times"),
}


@dataclass(frozen=True)
class AugmentationSettings:
    """One entry of ``augmentation``: a layer of `fdjpeg.augmentations` by name, with its arguments.

    Attributes:
        name: "random-jpeg", "double-jpeg" or "recompress".
        quality, qualities, weights, subsampling, p: as for `fdjpeg.augmentations.RandomJPEG`.
        tables: a file of ``fdjpeg tables harvest``.
        shift: of double-jpeg: "random" or "aligned".
        second_quality: of double-jpeg's second compression; as ``quality`` if None.
        scale, longer_side, times: as for `fdjpeg.augmentations.Recompress`, which resizes back at the end.

    Raises:
        ValueError: an unknown name, a setting of another augmentation, or a value that the layer refuses.
    """

    name: str
    quality: tuple[int, int] | None = None
    qualities: tuple[int, ...] | None = None
    weights: tuple[float, ...] | None = None
    tables: str | None = None
    subsampling: tuple[str, ...] = ("4:2:0",)
    p: float = 1.0
    shift: str | None = None
    second_quality: tuple[int, int] | None = None
    scale: tuple[float, float] | None = None
    longer_side: int | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        if self.name not in _OWN:
            raise ValueError(f"name must be one of {', '.join(_OWN)}, got {self.name!r}")
        others = {key for name, keys in _OWN.items() for key in keys if key not in _OWN[self.name]}
        for key in sorted(others):
            if getattr(self, key) is not None:
                raise ValueError(f"{key} must be left out for {self.name}, got {getattr(self, key)!r}")
        try:
            self.layer()
        except TypeError as error:
            raise ValueError(str(error)) from error

    def layer(self) -> Augmentation[Any]:
        """Returns the augmentation."""
        names = (
            "quality",
            "qualities",
            "weights",
            "tables",
            "subsampling",
            "p",
            "shift",
            "scale",
            "longer_side",
            "times",
        )
        given: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.name == "random-jpeg":
            return RandomJPEG(**given)
        if self.name == "double-jpeg":
            second = {} if self.second_quality is None else {"quality": self.second_quality}
            return DoubleJPEG(**given, second=second)
        return Recompress(**given, restore=True)


def parse_augmentation(text: str) -> AugmentationSettings:
    """Returns the settings that the command line gives as one text.

    Args:
        text: the name and settings of `AugmentationSettings`, such as "random-jpeg,quality=5-95,p=0.75": ranges with a
            hyphen, lists with plus signs ("qualities=30+50", "subsampling=4:2:0+4:4:4").

    Raises:
        ValueError: an unknown name or setting, or a value out of its range.
    """
    name, *options = text.split(",")
    values: dict[str, Any] = {"name": name}
    for option in options:
        key, _, value = option.partition("=")
        if key in ("quality", "second_quality", "scale"):
            values[key] = [_number(part) for part in value.split("-")]
        elif key in ("qualities", "weights"):
            values[key] = [_number(part) for part in value.split("+")]
        elif key == "subsampling":
            values[key] = value.split("+")
        else:
            values[key] = value if key in ("tables", "shift") else _number(value)
    return build(AugmentationSettings, values, f"augmentation {text!r}: ")


def _number(text: str) -> int | float | str:
    """A number where the text is one: what YAML would read."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _default_augmentation() -> tuple[AugmentationSettings, ...]:
    return (AugmentationSettings("random-jpeg", quality=(5, 95), p=0.75),)


@dataclass(frozen=True)
class Config(Settings):
    """The settings of ``fdjpeg train fine-tuning``.

    Attributes:
        validation: the share of the images that is held out, and measured on where ``test`` names no others.
        augmentation: applied one after the other, each with its own ``p``.
        teacher: "original", the network before; "current", the network itself (stability training); or "none".
        divergence: the weight of the Kullback-Leibler divergence from the teacher.
        batch_statistics: "frozen" keeps the statistics of batch normalisation; "trained" follows the images.
        interpolation: how far the result is on the way from the weights before to those trained, above 0 and at most 1.
        tables_quality: the quality at which learnable tables in front start; None without them.
        tables_rate: their learning rate, in logarithms of steps, as a multiple of the network's.
        tuning: the schedule.
        qualities: of the files by which accuracy is measured at the end, at ``subsampling``.
        subsampling: of these files: "4:4:4", "4:2:2" or "4:2:0".
        test: images to measure on, by the names that evaluate takes; None takes those held out by ``validation``.
    """

    validation: float = 0.1
    augmentation: tuple[AugmentationSettings, ...] = field(default_factory=_default_augmentation)
    teacher: str = "original"
    divergence: float = 1.0
    batch_statistics: str = "frozen"
    interpolation: float = 1.0
    tables_quality: int | None = None
    tables_rate: float = 100.0
    tuning: Schedule = field(default_factory=lambda: Schedule(epochs=3, learning_rate=1e-4))
    qualities: tuple[int, ...] = (90, 75, 50, 25, 10)
    subsampling: str = "4:2:0"
    test: str | None = None

    def __post_init__(self) -> None:
        if not self.augmentation:
            raise ValueError("augmentation must hold at least one entry, got none")
        for name, allowed in (
            ("teacher", ("original", "current", "none")),
            ("batch_statistics", ("frozen", "trained")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not (self.divergence >= 0 and is_finite(self.divergence)):
            raise ValueError(f"divergence must be at least 0 and finite, got {self.divergence}")
        if not 0 < self.interpolation <= 1:
            raise ValueError(f"interpolation must be above 0 and at most 1, got {self.interpolation}")
        if self.tables_quality is not None and not 1 <= self.tables_quality <= 100:
            raise ValueError(f"tables_quality must be in 1…100, got {self.tables_quality}")
        positive(tables_rate=self.tables_rate)
        accuracy.check(self.qualities, self.subsampling)
        if self.test is None and self.validation == 0:
            raise ValueError("validation must be above 0 where test names no images to measure on, got 0.0")


# --- training --------------------------------------------------------------------------------------------------------


class ChanceDraws:
    """The random numbers of an augmentation from a batch's `Chance`, so that each image has its own draws.

    Args:
        chance: of the batch.
        purpose: of this augmentation.
    """

    def __init__(self, chance: Chance, purpose: str) -> None:
        self.chance = chance
        self.purpose = purpose
        self.calls = 0

    def integers(self, count: int) -> Tensor:
        """See `fdjpeg.augmentations.Draws.integers`."""
        return scaled(self.uniform().double(), count)

    def uniform(self) -> Tensor:
        """See `fdjpeg.augmentations.Draws.uniform`."""
        self.calls += 1
        return self.chance.uniform((), f"{self.purpose}/{self.calls}")

    def on_host(self) -> Tensor:
        """See `fdjpeg.augmentations.Draws.on_host`."""
        return self.uniform().cpu().double()


class LearnedFront(nn.Module):
    """Learnable tables in front of a network, with their own rate of learning.

    The parameters are changes of the logarithms of the steps, in units of ``rate``. An optimizer whose step does not
    depend on a gradient's scale (AdamW) then moves the logarithms ``rate`` times as fast as the network's weights, and
    weight decay pulls the tables back to the first ones.

    Args:
        network: maps images to logits.
        quality: of the standard tables at which to start.
        rate: see above.
        subsampling: as for `fdjpeg.jpeg`.
    """

    def __init__(self, network: nn.Module, quality: int, rate: float, subsampling: str) -> None:
        super().__init__()
        self.network = network
        self.rate = rate
        self.layer = fdjpeg.LearnableJPEG(QuantTables.standard(quality), subsampling=subsampling).requires_grad_(False)
        self.changes = nn.ParameterList(nn.Parameter(torch.zeros(8, 8)) for _ in self.layer.log_steps)

    def logarithms(self) -> dict[str, Tensor]:
        """Returns the logarithms of the steps, by the names of the layer's parameters."""
        starts = self.layer.log_steps
        return {f"log_steps.{i}": starts[i] + self.rate * change for i, change in enumerate(self.changes)}

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of images ``(N, C, H, W)``."""
        compressed = torch.func.functional_call(self.layer, self.logarithms(), (images,))
        logits: Tensor = self.network(compressed)
        return logits

    def tables(self) -> QuantTables:
        """Returns the integer tables to deploy."""
        learned = copy.deepcopy(self.layer)
        learned.load_state_dict({name: value.detach() for name, value in self.logarithms().items()})
        return learned.tables


class FineTuning(Objective):
    """Cross-entropy on augmented images, and the divergence from a teacher's output on the clean ones.

    Args:
        network: is trained.
        original: the network before; it does not change.
        config: the settings.
    """

    def __init__(self, network: nn.Module, original: nn.Module, config: Config) -> None:
        super().__init__(network, [original] if config.teacher == "original" else [])
        self.augmentations = [entry.layer() for entry in config.augmentation]
        self.config = config

    def train(self, mode: bool = True) -> FineTuning:
        """See `Objective.train`; batch normalisation keeps its statistics where they are frozen."""
        super().train(mode)
        if self.config.batch_statistics == "frozen":
            for layer in self.trained.modules():
                if isinstance(layer, LAYERS):
                    layer.eval()
        return self

    def augmented(self, images: Tensor, chance: Chance) -> Tensor:
        """Returns images changed as the settings say, drawn from each image's own chance."""
        for place, layer in enumerate(self.augmentations):
            images = layer(images, layer.draw_from(ChanceDraws(chance, f"augmentation/{place}")))
        return images

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        """See `Objective.loss`."""
        logits = self.trained(self.augmented(images, chance)).float()
        if self.config.teacher == "none":
            return F.cross_entropy(logits, labels)
        if self.config.teacher == "current":
            clean = self.trained(images).float()
            return F.cross_entropy(clean, labels) + self.config.divergence * _divergence(clean, logits)
        with torch.no_grad():
            clean = self.frozen[0](images).float()
        return F.cross_entropy(logits, labels) + self.config.divergence * _divergence(clean, logits)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """The mean Kullback-Leibler divergence of the student's probabilities from the teacher's, both given as logits."""
    wanted = teacher.log_softmax(dim=1)
    return F.kl_div(student.log_softmax(dim=1), wanted, reduction="batchmean", log_target=True)


def interpolated(before: Mapping[str, Tensor], after: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Returns weights between two networks' on the CPU, ``share`` of the way to the second's (counts are the second's).

    Source: Wortsman et al., arXiv 2109.01903, equation 1.
    """
    found = {}
    for name, end in after.items():
        start, end = before[name].cpu(), end.cpu()
        found[name] = torch.lerp(start, end, share) if end.is_floating_point() else end
    return found


def train(run: Run, images: Images, classifier: nn.Module, config: Config) -> FineTuned:
    """Fine-tunes a copy of the classifier, and measures both on real files: accuracy.json, .md, .svg in the folder."""
    tuned = copied(classifier).requires_grad_(True)
    front = None
    if config.tables_quality is not None:
        front = LearnedFront(tuned, config.tables_quality, config.tables_rate, config.subsampling)
    run.fit("tuning", FineTuning(front or tuned, classifier, config), images, config.tuning)
    state = interpolated(classifier.state_dict(), tuned.state_dict(), config.interpolation)
    tables = None if front is None else front.tables().to("cpu")
    defense = FineTuned(None if tables is None else [tables.luma, tables.chroma], config.subsampling, state)
    measured = (
        images.select(run.split(images)[1].tolist()) if config.test is None else accuracy.images(config.test, images)
    )
    deployed = defense.deployed(classifier)
    rows = accuracy.measure(run, measured, classifier, deployed, config.qualities, config.subsampling)
    if run.fabric.global_rank == 0:
        accuracy.write(run.out, rows, measured, quiet=run.quiet)
    return defense
