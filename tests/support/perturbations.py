"""What images of a ball become behind the exact encoder, against what a certificate says that they can become."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg._geometry import SAMPLING_FACTORS
from fdjpeg.attacks.codec import Codec, codecs_of
from fdjpeg.attacks.reachable import Box
from fdjpeg.certificates import reach as reach_module
from fdjpeg.certificates.outcomes import Outcomes, outcomes_of
from fdjpeg.certificates.units import Entry
from support.classifiers import SEED

LAYERS = {name: fdjpeg.JPEG(60, subsampling=name) for name in SAMPLING_FACTORS} | {
    "fine": fdjpeg.JPEG(tables=QuantTables.flat(1), subsampling="4:4:4"),
    "lattice": fdjpeg.FeatureDistillation("uniform(20)"),
    "code": fdjpeg.FeatureDistillation("code"),
    "paper": fdjpeg.FeatureDistillation("paper"),
}

RADII = (0.5, 1, 1.3, 1.8, 2.5)
SIZES = ((8, 8), (16, 24), (13, 11))

#: Presets and radii at which a few coefficients of a lattice can change, so that outcomes can be listed.
FEW = [("uniform(15)", 1.0), ("uniform(16)", 1.3), ("uniform(31)", 1.8), ("code", 1.6), ("code", 1.7)]

#: Directions along basis functions, each in both senses; random corners; random insides; random corners off the grid.
DIRECTIONS, CORNERS, INSIDES, FLOATS = 150, 60, 60, 60


@dataclass(frozen=True)
class Case:
    """One image and its ball.

    Attributes:
        layer: a name of `LAYERS`, or a preset of feature distillation.
        channels, size: of the image.
        levels: radius, in levels.
        on_grid: whether the image consists of whole bytes.
        whole_bytes: whether its attacker does.
        listed: whether outcomes are listed too.
        seed: of image and perturbations.
    """

    layer: str
    channels: int
    size: tuple[int, int]
    levels: float
    on_grid: bool
    whole_bytes: bool = False
    listed: bool = False
    seed: int = SEED


@dataclass(frozen=True)
class Counts:
    """What happened to one case: images, coefficients outside, outcomes of units met, and those not listed."""

    images: int = 0
    outside: int = 0
    met: int = 0
    lost: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in vars(self)))


def cases(number: int = 0) -> Iterator[Case]:
    """Every layer at every radius, and lattices with lists; each round, by its number, has other images and sizes."""
    seed = SEED + number
    for place, layer in enumerate(LAYERS):
        for turn, levels in enumerate(RADII, place + number):
            on_grid = turn % 2 == 0
            files = on_grid and layer != "code" and turn % 6 == 4
            yield Case(layer, 1 if turn % 5 == 4 else 3, SIZES[turn % 3], levels, on_grid, files, seed=seed)
    for turn, (preset, levels) in enumerate(FEW, number):
        yield Case(preset, 1 if turn % 4 == 3 else 3, (16, 13), levels, turn % 2 == 0, listed=True, seed=seed)


def image(layer: nn.Module, channels: int, size: tuple[int, int], on_grid: bool, seed: int = SEED) -> Tensor:
    """One image, on the layer's lattice, with dark and light parts; or off the byte grid."""
    generator = torch.Generator().manual_seed(seed)
    x = (1.3 * torch.rand(1, channels, *size, generator=generator) - 0.15).clamp(0, 1)
    x = nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), "replicate"), 3, 1)
    x = layer((255 * x).round() / 255).detach()
    return x if on_grid else (x + (torch.rand(x.shape, generator=generator) - 0.5) / 255).clamp(0, 1)


def codec_of(layer: nn.Module, x: Tensor) -> Codec:
    """The one pass of a layer."""
    (codec,) = codecs_of(layer, x, torch.arange(len(x)), 0, "test")
    return codec


def perturbations(codec: Codec, box: Box, seed: int = SEED, effort: int = 1) -> Tensor:
    """Levels of images in the box: corners along basis functions, alone and in pairs, random corners and insides."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [stack.shape[1:] for stack in codec.transform.forward(box.origin)]
    sizes = [shape.numel() for shape in shapes]
    bands = torch.randint(sum(sizes), (DIRECTIONS * effort, 2), generator=generator)
    weights = torch.randn(bands.shape, generator=generator)
    weights[::2, 1] = 0  # half of them alone
    rows = torch.zeros(len(bands), sum(sizes)).scatter_add_(1, bands, weights).split(sizes, 1)
    directions = codec.transform.adjoint([row.view(-1, *shape) for row, shape in zip(rows, shapes, strict=True)])
    corners = torch.where(directions > 0, box.most, torch.where(directions < 0, box.least, box.origin))
    opposite = torch.where(directions < 0, box.most, torch.where(directions > 0, box.least, box.origin))
    signs = torch.rand((CORNERS * effort, *box.origin.shape[1:]), generator=generator)
    inside = torch.rand((INSIDES * effort, *box.origin.shape[1:]), generator=generator)
    return torch.cat([corners, opposite, torch.where(signs < 0.5, box.least, box.most), box.at(inside)])


def seen(
    codec: Codec, x: Tensor, levels: float, whole_bytes: bool = False, seed: int = SEED, effort: int = 1
) -> list[Tensor]:
    """The exact coefficients of many images of the ball."""
    box = Box.of(x, levels / 255, codec.arithmetic == "libjpeg", whole_bytes)
    images = box.images(perturbations(codec, box, seed, effort))
    if not whole_bytes:
        eps, generator = levels / 255, torch.Generator().manual_seed(seed + 1)
        signs = torch.rand((FLOATS * effort, *x.shape[1:]), generator=generator)
        images = torch.cat([images, torch.where(signs < 0.5, x - eps, x + eps).clamp(0, 1)])
    assert float((images - x).abs().max()) <= levels / 255 + 1e-6
    many = codec.only(torch.zeros(len(images), dtype=torch.int64))
    return [k.to(torch.int32) for k in many.blocks(images)]


def listed(codec: Codec, x: Tensor, levels: float, most: int = 300) -> Outcomes:
    """The outcomes of one image."""
    reach = reach_module.reach_of(codec, x, levels / 255, whole_bytes=False)
    own = [k.to(torch.int32) for k in codec.blocks(x)]
    return outcomes_of(codec, reach, own, 0, most)


def values_of(blocks: list[Tensor], entries: list[Entry]) -> list[tuple[int, ...]]:
    """The values of entries in each of many images."""
    columns = [blocks[e.component][:, e.row, e.column, e.vertical, e.horizontal].tolist() for e in entries]
    return list(zip(*columns, strict=True))


def tried(case: Case, effort: int = 1) -> Counts:
    """Tries a case: no count but those of images and of outcomes met may differ from 0.

    Args:
        case: the image and its ball.
        effort: a multiple of `DIRECTIONS` and of the other numbers of perturbations.
    """
    layer = LAYERS[case.layer] if case.layer in LAYERS else fdjpeg.FeatureDistillation(case.layer)
    x = image(layer, case.channels, case.size, case.on_grid, case.seed)
    if case.whole_bytes:
        x = (255 * x).round() / 255
    codec = codec_of(layer, x)
    reach = reach_module.reach_of(codec, x, case.levels / 255, case.whole_bytes)
    found = seen(codec, x, case.levels, case.whole_bytes, case.seed, effort)
    triples = zip(found, reach.lowest, reach.highest, strict=True)
    outside = sum(int(((k < low) | (k > high)).sum()) for k, low, high in triples)
    met = lost = 0
    for unit in listed(codec, x, case.levels).units.values() if case.listed else ():
        happened = set(values_of(found, unit.entries))
        if unit.outcomes is not None:
            met += len(happened)
            lost += len(happened - set(unit.outcomes))
    return Counts(len(found[0]), outside, met, lost)


def digest_of_lists(batch_size: int, images: int = 12) -> str:
    """A fingerprint of counts of coefficients and lists of outcomes of images, taken in batches."""
    found = hashlib.sha256()
    for preset, levels in (("uniform(16)", 1.3), ("code", 1.6), ("code", 1.7)):
        layer = fdjpeg.FeatureDistillation(preset)
        whole = torch.cat([image(layer, 3, (8, 8), number % 2 == 0, number) for number in range(images)])
        for x in whole.split(batch_size):
            codec = codec_of(layer, x)
            reach = reach_module.reach_of(codec, x, levels / 255, whole_bytes=False)
            blocks = [k.to(torch.int32) for k in codec.blocks(x)]
            for place in range(len(x)):
                outcomes = outcomes_of(codec, reach, [k[place : place + 1] for k in blocks], place, 300)
                lists = {at: unit.outcomes for at, unit in outcomes.units.items()}
                found.update(repr((int(reach.changeable[place]), outcomes.total, lists)).encode())
    return found.hexdigest()
