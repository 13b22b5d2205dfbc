"""Wrong outcomes: an image of the ball that attains one, or a proof that none does.

Both are searched unit by unit, since units have samples of their own. An outcome of a unit is a set of half-spaces. A
weighting of them, λ ≥ 0, excludes it where ``Σ λ tie`` exceeds the largest ``Σ λ normal · samples`` over the ball
(Farkas' lemma; any weighting found is a proof, however it was found). If none does, samples that attain the outcome
are looked for along the same weightings, and the exact encoder decides whether they do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fdjpeg._geometry import BLOCK
from fdjpeg.attacks.codec import Codec
from fdjpeg.attacks.reachable import Box

from .outcomes import Outcomes, Place
from .units import Unit

#: Steps of the search for weights.
STEPS = 150

#: Bits to which weights are rounded, so that a proof in whole numbers has no rounding.
WEIGHT_BITS = 10

#: Margins of the search for samples, from none to `MOST_MARGIN` levels (or almost half a step), and ways of rounding.
MARGINS = 8
MOST_MARGIN = 1.0
DITHERS = 16


def excluded(unit: Unit, outcome: tuple[int, ...]) -> bool:
    """Whether weights prove that no samples of the unit have an outcome."""
    spaces = [
        space
        for entry, value in zip(unit.entries, outcome, strict=True)
        for space in unit.ball.half_spaces(entry, value)
    ]
    if not spaces or not unit.ball.pairs:
        return False
    normals = torch.stack([space.normal for space in spaces])
    ties = torch.tensor([space.tie for space in spaces], dtype=normals.dtype, device="cpu")
    whole = not normals.is_floating_point()
    scale = ties.double().abs().amax().clamp_min(1)
    weights = torch.full((len(spaces),), 1 / len(spaces), dtype=torch.float64, device="cpu")
    for step in range(STEPS):
        used = (weights * (1 << WEIGHT_BITS)).round().to(normals.dtype) if whole else weights
        combined = (used.view(-1, 1, 1) * normals).sum(dim=0, keepdim=True)
        if bool((used * ties).sum() > unit.ball.support(combined)[0]):
            return True
        # The gap's gradient by a weight is how far the ball's best point falls short of that tie.
        best = unit.ball.best(combined)
        short = (ties - (normals * best).sum(dim=(1, 2))).double() / scale
        # Multiplicative weights: they stay positive, and sum to 1.
        weights = weights * (short * (4 / (1 + step) ** 0.5)).clamp(-1, 1).exp()
        weights = weights / weights.sum()
    return False


def attained(codec: Codec, box: Box, outcomes: Outcomes, place: Place, outcome: tuple[int, ...]) -> Tensor | None:
    """Samples of a unit with which the exact encoder gives an outcome.

    Args:
        codec: the first pass, of this image alone.
        box: the samples of this image within reach.
        outcomes: of this image.
        place: of the unit.
        outcome: values of the unit's entries.

    Returns:
        Levels of the image, ``(1, C, H, W)``, its own outside the unit; None where none were found.
    """
    unit = outcomes.units[place]
    wanted = [component.clone() for component in outcomes.own]
    for entry, value in zip(unit.entries, outcome, strict=True):
        wanted[entry.component][0, entry.row, entry.column, entry.vertical, entry.horizontal] = value
    for start in (box.origin, box.at(_random(box, 0)), box.at(_random(box, 1))):
        tried = _approached(codec, box, unit, outcome, start)
        found = codec.blocks(box.only(torch.zeros(len(tried), dtype=torch.int64, device="cpu")).images(tried))
        same = [(ours == theirs).flatten(1).all(dim=1) for ours, theirs in zip(found, wanted, strict=True)]
        hits = torch.stack(same).all(dim=0).nonzero().flatten()
        if len(hits):
            return tried[int(hits[0])][None]
    return None


def _random(box: Box, number: int) -> Tensor:
    return torch.rand(
        box.origin.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float32, device="cpu"
    )


def _approached(codec: Codec, box: Box, unit: Unit, outcome: tuple[int, ...], start: Tensor) -> Tensor:
    """Levels of images ``(n, C, H, W)`` that come near an outcome, by projected gradients in real numbers.

    Each of several margins, by which every tie is to be passed, gives one image; where levels are whole, each is
    rounded in several ways.
    """
    transform = codec.transform
    steps = torch.tensor([entry.step for entry in unit.entries], dtype=torch.float32, device="cpu")
    ties = torch.tensor(outcome, dtype=torch.float32, device="cpu") * steps
    at_origin = transform.forward(box.origin - codec.shift)
    own, rows = [], []
    for entry in unit.entries:
        at = (BLOCK * entry.row + entry.vertical, BLOCK * entry.column + entry.horizontal)
        own.append(transform.plane_of(at_origin, entry.component)[0][at])
        one = [torch.zeros_like(stack) for stack in at_origin]
        transform.plane_of(one, entry.component)[0][at] = 1
        rows.append(transform.adjoint(one).flatten())
    from_origin, matrix = torch.stack(own), torch.stack(rows)  # (entries), (entries, samples)
    inside = (matrix != 0).any(dim=0)
    origin, least, most = (part.flatten() for part in (box.origin, box.least, box.most))
    shares = torch.linspace(0, 0.45, MARGINS, dtype=torch.float32, device="cpu")
    margins = shares[:, None] * torch.minimum(steps, torch.full_like(steps, 2 * MOST_MARGIN))
    point = torch.where(inside, start.flatten(), origin).repeat(MARGINS, 1)
    for _ in range(STEPS):
        values = from_origin + (point - origin) @ matrix.T
        low = (ties - steps / 2 + margins - values).clamp_min(0)
        high = (values - ties - steps / 2 + margins).clamp_min(0)
        point = torch.minimum(torch.maximum(point + 1.5 * (low - high) @ matrix, least), most)
    if box.whole:
        fixed = torch.Generator().manual_seed(0)
        shape = (DITHERS, MARGINS, point.size(1))
        dither = torch.rand(shape, generator=fixed, dtype=torch.float32, device="cpu") - 0.5
        dither[0] = 0
        rounded = (point + 0.9 * dither).round().flatten(0, 1)
        point = torch.where(inside, torch.minimum(torch.maximum(rounded, least), most), origin)
    return point.view(-1, *box.origin.shape[1:])
