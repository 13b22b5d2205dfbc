"""Wrong outcomes: which of them are excluded, by which numbers, and where samples that attain them are looked for."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from support.perturbations import LAYERS, codec_of, image, listed
from torch import Tensor, nn

import fdjpeg
from fdjpeg.attacks.reachable import Box
from fdjpeg.certificates.reach import padded_blocks
from fdjpeg.certificates.realise import MARGINS, _approached, _random, excluded
from fdjpeg.certificates.units import AnyBall, ChannelBall, Entry, HalfSpace, Unit


def test_outcomes_are_excluded_where_two_of_three_coefficients_change() -> None:
    """Steps of 25 at 1.7 levels: 64 samples can bring one coefficient over its tie, and never two of them."""
    x = image(LAYERS["code"], 3, (8, 8), True, 0)
    unit = next(unit for unit in listed(codec_of(LAYERS["code"], x), x, 1.7).units.values() if len(unit.entries) == 3)
    for outcome in product(*(entry.values for entry in unit.entries)):
        changed = sum(value != entry.value for value, entry in zip(outcome, unit.entries, strict=True))
        assert excluded(unit, outcome) == (changed > 1)


def test_where_nothing_is_known_of_samples_every_sum_is_possible() -> None:
    assert AnyBall().support(torch.zeros(3, 1, 64)).tolist() == [float("inf")] * 3
    assert AnyBall().half_spaces(Entry(0, 0, 0, 0, 0, value=0, lowest=-1, highest=1, step=16), 0) == []
    with pytest.raises(NotImplementedError):
        AnyBall().best(torch.zeros(1, 1, 64))
    # Nothing excludes a pair where chroma is subsampled: few coefficients that can change mean too many outcomes.
    x = image(nn.Identity(), 3, (16, 16), on_grid=True)
    codec = codec_of(LAYERS["4:2:0"], x)
    outcomes = listed(codec, x, 1.0)
    assert (outcomes.units, outcomes.total) == ({}, None)
    assert all(torch.equal(ours, k.int()) for ours, k in zip(outcomes.own, codec.blocks(x), strict=True))


class Point(ChannelBall):
    """One block of samples, and one half-space, three times; notes the numbers in which weights are tried."""

    def __init__(self, sample: float, tie: float, dtype: torch.dtype) -> None:
        super().__init__(*(torch.full((8, 8), sample, dtype=torch.float64),) * 2)
        self.tie, self.dtype, self.used = tie, dtype, set[torch.dtype]()

    def support(self, normals: Tensor) -> Tensor:
        self.used.add(normals.dtype)
        return super().support(normals.double())

    def half_spaces(self, entry: Entry, value: int) -> list[HalfSpace]:
        normal = torch.zeros(1, 64, dtype=self.dtype)
        normal[0, 0] = 1
        return [HalfSpace(0, normal, self.tie)] * 3


@pytest.mark.parametrize(
    ("sample", "tie", "dtype", "proved"),
    [
        (1000.0, 1000.0 + 1e-9, torch.float64, True),
        (1000.0, 1000.0 - 1e-9, torch.float64, False),
        (2.0**40, 2**40 + 1, torch.int64, True),
        (2.0**40, 2**40, torch.int64, False),
    ],
)
def test_proofs_are_in_the_numbers_of_their_half_spaces(
    sample: float, tie: float, dtype: torch.dtype, proved: bool
) -> None:
    """Whole numbers, which have no rounding, or float64, and never float32."""
    ball = Point(sample, tie, dtype)
    entry = Entry(0, 0, 0, 0, 0, value=0, lowest=-1, highest=1, step=16)
    assert excluded(Unit(ball, [entry], None), (1,)) == proved
    assert ball.used == {dtype}


def test_blocks_are_where_their_plane_is() -> None:
    """Whatever torch's default device, with the last row and column repeated."""
    plane = torch.arange(15.0).view(1, 3, 5)
    codec = codec_of(LAYERS["4:4:4"], torch.zeros(1, 3, 3, 5))
    with torch.device("meta"):
        (block,) = padded_blocks(codec, plane).flatten(0, 2)
    assert block.device.type == "cpu"
    assert torch.equal(block[:3, :5], plane[0])
    assert torch.equal(block[2:, 4:], torch.full((6, 4), 14.0))


@pytest.mark.parametrize("preset", ["uniform(16)", "code"])
def test_samples_outside_of_a_unit_stay_as_they_are(preset: str) -> None:
    """Whatever the search starts from: two blocks side by side, of which the left one is the unit."""
    layer = fdjpeg.FeatureDistillation(preset)
    x = image(layer, 3, (8, 16), True)
    codec = codec_of(layer, x)
    outcomes = listed(codec, x, 1.6)
    box = Box.of(x, 1.6 / 255, codec.arithmetic == "libjpeg", whole_bytes=False)
    place = next(place for place in outcomes.units if place[2] == 0)
    unit = outcomes.units[place]
    tried = _approached(codec, box, unit, tuple(entry.highest for entry in unit.entries), box.most)
    assert torch.equal(tried[..., 8:], box.origin[..., 8:].expand(len(tried), -1, -1, -1))
    assert not torch.equal(tried[..., :8], box.origin[..., :8].expand(len(tried), -1, -1, -1))
    assert bool((tried >= box.least).all() & (tried <= box.most).all())
    # Whole levels are rounded in several ways, up and down by a level, next to the nearest, which come first.
    moved = (tried.view(-1, MARGINS, *tried.shape[1:]) - tried[:MARGINS]).unique().tolist()
    assert moved == ([-1, 0, 1] if box.whole else [0])
    # From random samples, always the same.
    assert torch.equal(_random(box, 0), _random(box, 0))
    assert not torch.equal(_random(box, 0), _random(box, 1))
