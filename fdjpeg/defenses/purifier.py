"""Purifier: an autoencoder before an unchanged classifier, the student of a normal and an adversarial teacher.

Source: Koo, Chae, Lee, Appl. Sci. 13, 11313, 2023. We know only its abstract: a convolutional autoencoder; two
teachers, one trained normally and one adversarially; ensemble knowledge distillation into the student, which is the
purifier; two teachers beat one.

Ours, because the abstract leaves it open: the layers of `ConvAutoencoder`; the losses of the three trainings, given at
each; and that the adversarial teacher and the student start with the normal teacher's final weights.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fdjpeg
from fdjpeg._checks import check_list, check_whole
from fdjpeg.attacks import PGD

from .base import Defense, straight_through
from .gradients import AUTOENCODER
from .training.config import Schedule, Settings, at_least, positive
from .training.images import Images
from .training.objective import Chance, Objective
from .training.run import Run


class ConvAutoencoder(nn.Module):
    """An autoencoder with a bottleneck of a quarter of the height and width: 3→32→64→64 channels, then back.

    Args:
        channels: of the images, 3 or 1.
        widths: channels of the three layers.
    """

    def __init__(self, channels: int = 3, widths: tuple[int, int, int] = (32, 64, 64)) -> None:
        super().__init__()
        first, second, third = widths
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, first, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(second, third, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(third, second, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(second, first, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, channels, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Maps images ``(N, C, H, W)`` in [0, 1] to the same; sizes that 4 does not divide are padded and cut."""
        height, width = images.shape[-2:]
        padded = nn.functional.pad(images, (0, -width % 4, 0, -height % 4), mode="replicate")
        result: Tensor = self.decoder(self.encoder(padded))[..., :height, :width]
        return result


class Purifier(Defense):
    """The student before the classifier.

    Evaluate it end to end: a purifier trained only on attacks of the classifier falls to attacks through both.

    Args:
        channels, widths: as for `ConvAutoencoder`.

    Example::

        defense = fdjpeg.defenses.train("purifier", images, "runs/purifier", network=network)
        assert isinstance(defense, fdjpeg.defenses.Purifier)
    """

    kind = "purifier"
    gradients = AUTOENCODER

    def __init__(self, channels: int = 3, widths: tuple[int, int, int] = (32, 64, 64)) -> None:
        super().__init__()
        check_whole("channels", channels, 1)
        check_list("widths", widths)
        if len(widths) != 3:
            raise ValueError(f"widths must be three integers, got {widths!r}")
        for width in widths:
            check_whole("widths", width, 1)
        self.channels = channels
        self.widths = tuple(widths)
        self.autoencoder = ConvAutoencoder(channels, widths)

    def forward(self, images: Tensor) -> Tensor:
        """See `Defense.forward`."""
        purified = self.autoencoder(images)
        return straight_through(images, purified) if self.gradient == "identity" else purified

    def config(self) -> dict[str, Any]:
        """See `Defense.config`."""
        return {"channels": self.channels, "widths": list(self.widths)}


@dataclass(frozen=True)
class Config(Settings):
    """Settings of ``fdjpeg train purifier``; all of them are ours.

    Attributes:
        widths: of `ConvAutoencoder`, for teachers and student.
        noise: standard deviation of the noise that the normal teacher and the student remove, in units of [0, 1].
        eps: L∞ radius of the adversarial images, in units of [0, 1].
        attack_steps: steps of the PGD that finds them.
        classification: μ, the weight of cross-entropy in the adversarial teacher's loss.
        normal_lesson, adversarial_lesson: the weights of both teachers' images in the student's loss; 0 leaves a
            teacher out.
        quality: the least and the greatest quality of JPEG as a corruption, 1…100.
        normal, adversarial, student: the schedules of the two teachers and of the student. The last two start with the
            normal teacher's final weights. Their epochs climb through the classifier, and few are enough.
    """

    widths: tuple[int, int, int] = (32, 64, 64)
    noise: float = 0.1
    eps: float = 8 / 255
    attack_steps: int = 7
    classification: float = 0.1
    normal_lesson: float = 0.5
    adversarial_lesson: float = 0.5
    quality: tuple[int, int] = (30, 95)
    normal: Schedule = field(default_factory=lambda: Schedule(epochs=50, learning_rate=3e-3))
    adversarial: Schedule = field(default_factory=lambda: Schedule(epochs=20))
    student: Schedule = field(default_factory=lambda: Schedule(epochs=20))

    def __post_init__(self) -> None:
        at_least(1, widths=min(self.widths), attack_steps=self.attack_steps)
        positive(noise=self.noise, eps=self.eps)
        if self.eps > 1:
            raise ValueError(f"eps must be at most 1, as images are, got {self.eps}")
        for name in ("classification", "normal_lesson", "adversarial_lesson"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ValueError(f"quality must be two of 1…100, the least first, got {self.quality}")


class NormalTeacher(Objective):
    """MSE(T(x + noise), x).

    Args:
        autoencoder: T.
        noise: standard deviation of the noise.
    """

    def __init__(self, autoencoder: nn.Module, noise: float) -> None:
        super().__init__(autoencoder)
        self.noise = noise

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        """See `Objective.loss`."""
        return F.mse_loss(self.trained(noisy(images, self.noise, chance)).float(), images)


class AdversarialTeacher(Objective):
    """MSE(T(x_adv), x) + μ CE(C(T(x_adv)), y), with x_adv from PGD through C∘T.

    Args:
        autoencoder: T.
        classifier: C.
        config: eps, attack_steps and classification (μ).
    """

    def __init__(self, autoencoder: nn.Module, classifier: nn.Module, config: Config) -> None:
        super().__init__(autoencoder, [classifier])
        self.config = config

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        """See `Objective.loss`."""
        (classifier,) = self.frozen
        x_adv = adversarial(nn.Sequential(self.trained, classifier), images, labels, self.config, chance)
        purified = self.trained(x_adv).float()
        loss = F.cross_entropy(classifier(purified).float(), labels)
        return F.mse_loss(purified, images) + self.config.classification * loss


class Student(Objective):
    """MSE(S(x̃), x) + a MSE(S(x_adv), T_A(x_adv)) + b MSE(S(x), T_N(x)).

    Image by image, x̃ is x with noise or x behind JPEG of a random quality. x_adv comes from PGD through C∘T_A.

    Args:
        autoencoder: S.
        normal, adversary: the teachers T_N and T_A.
        classifier: C.
        config: noise, quality, eps, attack_steps, adversarial_lesson (a) and normal_lesson (b).
    """

    def __init__(
        self, autoencoder: nn.Module, normal: nn.Module, adversary: nn.Module, classifier: nn.Module, config: Config
    ) -> None:
        super().__init__(autoencoder, [normal, adversary, classifier])
        self.config = config

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        """See `Objective.loss`."""
        normal, adversary, classifier = self.frozen
        least, greatest = self.config.quality
        quality = least + ((greatest - least + 1) * chance.uniform((), "quality")).long()
        compressed = chance.uniform((1, 1, 1), "corruption") < 0.5
        corrupted = noisy(images, self.config.noise, chance)
        corrupted = torch.where(compressed, fdjpeg.jpeg(images, quality), corrupted)
        loss = F.mse_loss(self.trained(corrupted).float(), images)
        if self.config.adversarial_lesson:
            x_adv = adversarial(nn.Sequential(adversary, classifier), images, labels, self.config, chance)
            loss = loss + self.config.adversarial_lesson * self._lesson(x_adv, adversary)
        if self.config.normal_lesson:
            loss = loss + self.config.normal_lesson * self._lesson(images, normal)
        return loss

    def _lesson(self, images: Tensor, teacher: nn.Module) -> Tensor:
        """Returns the student's distance from a teacher on the same images."""
        with torch.no_grad():
            wanted = teacher(images).float()
        return F.mse_loss(self.trained(images).float(), wanted)


def noisy(images: Tensor, deviation: float, chance: Chance) -> Tensor:
    """Adds normally distributed noise to images, and clamps them to [0, 1]."""
    return (images + deviation * chance.normal(images.shape[1:], "noise")).clamp(0, 1)


def adversarial(model: nn.Module, images: Tensor, labels: Tensor, config: Config, chance: Chance) -> Tensor:
    """Returns the images that PGD finds within eps; each random start depends on the image's index and the epoch."""
    attack = PGD(steps=config.attack_steps, until_fooled=False, seed=chance.seed_for("attack"))
    return attack(model, images, labels, config.eps, indices=chance.indices)


def train(run: Run, images: Images, classifier: nn.Module, config: Config) -> Purifier:
    """Trains the normal teacher, then the adversarial one and the student, which start with its weights."""
    run.start("normal")
    normal = Purifier(images.shape[0], config.widths)
    run.fit("normal", NormalTeacher(normal.autoencoder, config.noise), images, config.normal)
    adversary, student = copy.deepcopy(normal), copy.deepcopy(normal)
    teaching = AdversarialTeacher(adversary.autoencoder, classifier, config)
    run.fit("adversarial", teaching, images, config.adversarial)
    learning = Student(student.autoencoder, normal.autoencoder, adversary.autoencoder, classifier, config)
    run.fit("student", learning, images, config.student)
    return student
