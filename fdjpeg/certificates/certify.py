"""Certificates: proofs, image by image, that no perturbation of a radius changes the verdict behind a JPEG layer.

The classifier behind the layer sees a function of whole numbers, the quantized coefficients. If they take one value for
every image of the ball, so does the verdict (level 1, "constant"). If they can take several, the verdict is proved by
judging a superset of what they can be (level 2, "enumerated"). A wrong outcome in the superset is either attained by
an image that is then an attack, or excluded by a proof (level 3), or neither, and then the image stays open.

The argument, step by step: `fdjpeg.certificates.reach` (samples and intervals), `fdjpeg.certificates.units` (values
that are possible together), `fdjpeg.certificates.realise` (wrong outcomes). The method is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from fdjpeg._calls import about, check_weights, logits_of
from fdjpeg._checks import check_module, check_whole
from fdjpeg.attacks.base import Counted, check_input, frozen
from fdjpeg.attacks.codec import codecs_of, is_random
from fdjpeg.attacks.exposed import Exposed
from fdjpeg.attacks.losses import margin
from fdjpeg.attacks.reachable import Box

from .outcomes import Outcomes, Place, outcomes_of
from .reach import reach_of
from .realise import attained, excluded

Status = Literal["constant", "enumerated", "open", "misclassified", "broken"]

#: Share of the largest logit by which the true one must lead for an outcome to count as right: far more than what
#: another batch size or thread count changes in a network's last bits.
LEAD = 1e-5

#: Images that go through the network at once.
AT_ONCE = 256


class Certifiable(Protocol):
    """A defence that shows its layers: ``Defended`` is one."""

    def entered(self, images: Tensor) -> Tensor:
        """Returns the images as an attacker meets them."""

    @property
    def exposes(self) -> Callable[[nn.Module], Exposed] | None:
        """Makes the defended classifier with its layers shown; None where it has none."""


@dataclass(frozen=True)
class Certificate:
    """What was proved for N images.

    Attributes:
        statuses: for each image

            - "constant": no coefficient can change within the ball, and the image is classified correctly;
            - "enumerated": all that the coefficients can be was judged, and is classified correctly;
            - "open": neither proved nor broken;
            - "misclassified": wrong without an attack;
            - "broken": an image of the ball is misclassified; ``found`` holds it.
        changeable: ``(N,)`` int64, the number of coefficients that can change.
        outcomes: ``(N,)`` int64, the number of outcomes judged; 0 where there were too many.
        unresolved: ``(N,)`` int64, wrong outcomes that could be neither attained nor excluded.
        found: misclassified images ``(C, H, W)`` in the ball, by the place of the image that they come from.

    Example::

        certificate = certify(parse_defense("jpeg:25"), network, images, labels, 0.1 / 255)
        certificate.certified  # (N,)
        certificate.count("open")
    """

    statuses: tuple[Status, ...]
    changeable: Tensor
    outcomes: Tensor
    unresolved: Tensor
    found: dict[int, Tensor] = field(default_factory=dict)

    @property
    def certified(self) -> Tensor:
        """Which images no attack of the radius can break, ``(N,)`` bool."""
        return torch.tensor(
            [status in ("constant", "enumerated") for status in self.statuses], dtype=torch.bool, device="cpu"
        )

    def count(self, status: Status) -> int:
        """The number of images of a status."""
        return self.statuses.count(status)


def unmet(defended: Certifiable, network: nn.Module, images: Tensor) -> str | None:
    """Returns what a defence lacks to be certified.

    Args:
        defended, network: as for `certify`.
        images: ``(N, C, H, W)``, floats in [0, 1]; one is enough.

    Returns:
        A demand such as "be deterministic", or None if the defence meets all of them.
    """
    exposes = getattr(defended, "exposes", None)
    if exposes is None:
        return "show JPEG layers of fdjpeg"
    layers = exposes(network).layers
    if any(is_random(layer) for layer in layers):
        return "be deterministic"
    firsts = [
        codecs_of(layer, images, torch.arange(len(images), device="cpu"), 0, "certificate")[0] for layer in layers
    ]
    if any(codec.arithmetic == "real" for codec in firsts):
        return "compute as libjpeg does, or as the preset code"
    return None


def certify(
    defended: Certifiable,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    whole_bytes: bool = False,
    most_outcomes: int = 3000,
) -> Certificate:
    """Certifies images behind a JPEG layer against every perturbation of a radius in the norm "linf".

    The ball is around the images as an attacker meets them: behind the first of two passes, where a defence has one.
    It holds all images of floats in [0, 1] within ``eps``, and a little more (``fdjpeg._lattice.BEYOND``).

    Args:
        defended: the defence. Its layers must be deterministic, in libjpeg's arithmetic or the preset "code".
        network: the bare network, in evaluation mode, images ``(N, C, H, W)`` in [0, 1] to logits.
        images: ``(N, C, H, W)``, floats in [0, 1].
        labels: ``(N,)``, int64, the true classes.
        eps: radius, in units of the images' range [0, 1].
        whole_bytes: certify against attackers bound to files: only images of whole bytes k / 255. Then what the
            attacker meets must consist of whole bytes. A radius of 1.8/255 holds 1 level for them, and 2 for others.
        most_outcomes: judged for one image, at most.

    Raises:
        ValueError, TypeError: arguments of another shape, type or range; a defence without a layer whose coefficients
            can be bounded; or a network that fails, changes its input or returns no logits of these classes.

    Example:
        >>> defended = parse_defense("feature-distillation:uniform(30),passes=2,entry=after")
        >>> certify(defended, network, images, labels, 1 / 255).certified.sum()
    """
    check_input(images, labels, eps, ("images", "labels"))
    check_whole("most_outcomes", most_outcomes, 1)
    if not isinstance(whole_bytes, bool):
        raise TypeError(f"whole_bytes must be True or False, got {whole_bytes!r}")
    check_module("network", network)
    check_weights(network, "network")
    demand = unmet(defended, network, images[:1])
    if demand is not None:
        raise ValueError(f"defended must {demand} to be certified, got {getattr(defended, 'name', defended)}")
    exposed = defended.exposes(network)  # type: ignore[misc]  # `unmet` demands it
    with torch.inference_mode(False), torch.no_grad(), frozen(exposed):
        entered = defended.entered(images.clone())
        return _Certifying(exposed, entered, labels, float(eps), whole_bytes, int(most_outcomes)).run()


class _Certifying:
    """One call of `certify`."""

    def __init__(
        self, exposed: Exposed, x: Tensor, y: Tensor, eps: float, whole_bytes: bool, most_outcomes: int
    ) -> None:
        self.exposed, self.x, self.y = exposed, x, y
        self.eps, self.whole_bytes, self.most = eps, whole_bytes, most_outcomes
        indices = torch.arange(len(x), device="cpu")
        self.branches = [codecs_of(layer, x, indices, 0, "certificate") for layer in exposed.layers]
        # Bounds and lists on the CPU, in whole numbers or element by element, so that they are the same everywhere.
        on_cpu = x.cpu()
        self.on_cpu = [codecs_of(layer, on_cpu, indices, 0, "certificate")[0] for layer in exposed.layers]
        self.reaches = [reach_of(codec, on_cpu, eps, whole_bytes) for codec in self.on_cpu]

    def run(self) -> Certificate:
        """Certifies each image."""
        judged = Counted(self.exposed, self.y, self.x.dtype)
        judged.names = ("labels", "network")
        with about("network"):
            right = self._judge(lambda rows: judged(self.x[rows]), torch.arange(len(self.x), device="cpu"))
        changeable = torch.stack([reach.changeable for reach in self.reaches]).sum(dim=0)
        statuses: list[Status] = []
        outcomes, unresolved = (
            torch.zeros(len(self.x), dtype=torch.int64, device="cpu"),
            torch.zeros(len(self.x), dtype=torch.int64, device="cpu"),
        )
        found: dict[int, Tensor] = {}
        for image in range(len(self.x)):
            if not bool(right[image]):
                statuses.append("misclassified")
            elif int(changeable[image]) == 0:
                statuses.append("constant")
                outcomes[image] = 1
            elif len(self.branches) > 1:
                statuses.append("open")
            else:
                status, outcomes[image], unresolved[image], attack = self._enumerate(image)
                statuses.append(status)
                if attack is not None:
                    found[image] = attack
        return Certificate(tuple(statuses), changeable, outcomes, unresolved, found)

    def _enumerate(self, image: int) -> tuple[Status, int, int, Tensor | None]:
        """Levels 2 and 3 for one image: its status, outcomes judged, those unresolved, and an attack."""
        ((codec, *_),) = self.branches
        own = [
            k.to("cpu", torch.int32)
            for k in codec.only(torch.tensor([image], device="cpu")).blocks(self.x[image : image + 1])
        ]
        outcomes = outcomes_of(self.on_cpu[0], self.reaches[0], own, image, self.most)
        if outcomes.total is None:
            return "open", 0, 0, None
        right = self._judge(
            lambda numbers: self._behind(outcomes, image, numbers), torch.arange(outcomes.total, device="cpu"), image
        )
        wrong = (~right).nonzero().flatten()
        if len(wrong) == 0:
            return "enumerated", outcomes.total, 0, None
        attack, unresolved = self._resolve(outcomes, image, wrong)
        if attack is not None:
            return "broken", outcomes.total, unresolved, attack
        return ("open" if unresolved else "enumerated"), outcomes.total, unresolved, None

    def _behind(self, outcomes: Outcomes, image: int, numbers: Tensor) -> Tensor:
        """The logits of outcomes: decoded, through later passes and the classifier."""
        ((first, *rest),) = self.branches
        rows = torch.full((len(numbers),), image, device="cpu")
        blocks = [k.to(self.x.device) for k in outcomes.coefficients(numbers)]
        images = first.only(rows).decode(blocks, self.x.dtype)
        for codec in rest:
            images = codec.only(rows)(images)
        (classifier,) = self.exposed.classifiers
        return self.exposed.verdict([logits_of(classifier, images)])

    def _judge(self, logits_of: Callable[[Tensor], Tensor], numbers: Tensor, image: int | None = None) -> Tensor:
        """Whether images or outcomes, by their numbers, are classified correctly, ``(n,)`` bool."""
        found = []
        for part in numbers.split(AT_ONCE):
            labels = self.y[part] if image is None else self.y[image].expand(len(part))
            logits = logits_of(part).float()
            lead = LEAD * logits.abs().amax(dim=1)
            found.append((margin(logits, labels) < -lead).cpu())
        return torch.cat(found)

    def _resolve(self, outcomes: Outcomes, image: int, wrong: Tensor) -> tuple[Tensor | None, int]:
        """Attains or excludes wrong outcomes: the first misclassified image found, and how many stay unresolved."""
        codec = self.on_cpu[0].only(torch.tensor([image], device="cpu"))
        x = self.x[image : image + 1].cpu()
        box = Box.of(x, self.eps, codec.arithmetic == "libjpeg", self.whole_bytes)
        known: dict[tuple[Place, tuple[int, ...]], Tensor | bool] = {}
        unresolved = 0
        for choice in torch.stack(outcomes.choices(wrong), 1).tolist():
            levels, possible, complete = box.origin, True, True
            for (place, unit), number in zip(outcomes.units.items(), choice, strict=True):
                if number == 0:
                    continue
                assert unit.outcomes is not None
                outcome = unit.outcomes[number]
                if (place, outcome) not in known:
                    samples = attained(codec, box, outcomes, place, outcome)
                    known[place, outcome] = excluded(unit, outcome) if samples is None else samples
                answer = known[place, outcome]
                if isinstance(answer, Tensor):
                    levels = levels + (answer - box.origin)
                else:
                    possible, complete = possible and not answer, False
            if not possible:
                continue
            attack = box.images(levels)
            if complete and not self._right(attack, image):
                return attack[0].to(self.x), unresolved
            unresolved += 1
        return None, unresolved

    def _right(self, attack: Tensor, image: int) -> bool:
        """Whether the deployed classifier gives an image ``(1, C, H, W)`` the label of another, by its place."""
        return bool(margin(self.exposed(attack.to(self.x)).float(), self.y[image : image + 1]) <= 0)
