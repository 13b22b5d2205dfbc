"""The searches for proofs and for samples: how far they go, which weights and margins they try, in which order."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.fft import idctn
from support.classifiers import Tiny
from support.perturbations import codec_of, image
from torch import Tensor

import fdjpeg
from fdjpeg.attacks.reachable import Box
from fdjpeg.certificates import certify, realise
from fdjpeg.certificates.outcomes import Outcomes
from fdjpeg.certificates.realise import DITHERS, MARGINS, _approached, _random, attained, excluded
from fdjpeg.certificates.units import AnyBall, ChannelBall, ColourBall, Entry, HalfSpace, Unit, unit_of
from fdjpeg.defenses.defended import layer_defense

ENTRY = Entry(0, 0, 0, 0, 0, value=0, lowest=-1, highest=1, step=16)


def block(value: float) -> Tensor:
    return torch.full((8, 8), value, dtype=torch.float64)


def axis(sample: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The normal of one sample."""
    normal = torch.zeros(1, 64, dtype=dtype)
    normal[0, sample] = 1
    return normal


class Tried(ChannelBall):
    """A ball of samples 0 that notes each weighting, and says that one of them, by its number, is a proof."""

    def __init__(self, spaces: list[HalfSpace], proof: int = 0) -> None:
        super().__init__(block(0), block(0))
        self.spaces, self.proof, self.normals = spaces, proof, list[Tensor]()

    def support(self, normals: Tensor) -> Tensor:
        self.normals.append(normals[0, 0])
        return torch.tensor([-math.inf if len(self.normals) == self.proof else math.inf], dtype=torch.float64)

    def half_spaces(self, entry: Entry, value: int) -> list[HalfSpace]:
        return self.spaces


@pytest.mark.parametrize(("proof", "found"), [(1, True), (150, True), (151, False)])
def test_a_hundred_and_fifty_weightings_are_tried(proof: int, found: bool) -> None:
    ball = Tried([HalfSpace(0, axis(0), 1.0)], proof)
    assert excluded(Unit(ball, [ENTRY], None), (1,)) == found
    assert len(ball.normals) == min(proof, 150)


def test_weights_are_positive_and_sum_to_one() -> None:
    """Whatever torch's default dtype; they grow where the ball falls short of a tie by more."""
    ball = Tried([HalfSpace(0, axis(sample), 10.0) for sample in range(3)])
    ball.middle[:3] = torch.tensor([9.0, 8.0, -20.0])
    excluded(Unit(ball, [ENTRY], None), (1,))
    weights = torch.stack(ball.normals)[:, :3]
    assert weights.dtype == torch.float64
    assert bool((weights > 0).all())
    assert torch.allclose(weights.sum(dim=1), torch.ones(150, dtype=torch.float64), rtol=0, atol=1e-12)
    assert weights[0].tolist() == pytest.approx([1 / 3] * 3, abs=1e-15)
    growth = (weights[:, 1] / weights[:, 0]).log().diff()
    assert bool((growth > 0).all())
    assert bool((growth.diff() < 0).all())  # by smaller and smaller steps, so that they settle


@pytest.mark.parametrize("tie", [10.0, 0.25])
def test_weights_follow_what_is_short_of_the_largest_tie(tie: float) -> None:
    """By four of its shares, at most by a factor of e, and by 1/√n in step n; ties below 1 count as 1.

    Which outcomes are excluded, and so every certificate that was ever kept, depends on these numbers.
    """
    ball = Tried([HalfSpace(0, axis(sample), tie) for sample in range(4)])
    scale = max(tie, 1)
    ball.middle[:4] = tie - scale * torch.tensor([0.1, 0.2, 3.0, -4.0], dtype=torch.float64)
    excluded(Unit(ball, [ENTRY], None), (1,))
    logarithms = torch.stack(ball.normals)[:, :4].log()
    steps = (logarithms - logarithms[:, :1]).diff(dim=0)
    assert steps[0].tolist() == pytest.approx([0, 0.4, 1 - 0.4, -1 - 0.4])
    assert steps[3].tolist() == pytest.approx([0, 0.2, 1 - 0.2, -1 - 0.2])


@pytest.mark.parametrize(("spaces", "total"), [(1, 1024), (2, 1024), (3, 3 * 341), (7, 7 * 146)])
def test_weights_of_whole_numbers_are_rounded_to_ten_bits(spaces: int, total: int) -> None:
    """So that sums of products with libjpeg's numbers are exact in 64 bits."""
    ball = Tried([HalfSpace(0, axis(0, torch.int64), 1)] * spaces, proof=1)
    assert excluded(Unit(ball, [ENTRY], None), (1,))
    assert ball.normals[0].dtype == torch.int64
    assert int(ball.normals[0][0]) == total


def test_at_most_three_thousand_outcomes_are_judged_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def outcomes(codec: Any, reach: Any, own: list[Tensor], place: int, most: int) -> Outcomes:
        asked.append(most)
        return Outcomes({}, own, None)

    monkeypatch.setattr(importlib.import_module("fdjpeg.certificates.certify"), "outcomes_of", outcomes)
    layer = fdjpeg.FeatureDistillation("uniform(16)")
    x, network = image(layer, 3, (8, 8), True), Tiny().eval()
    defended = layer_defense("lattice", layer, ("straight-through",), first=layer)
    with torch.no_grad():
        y = defended.deployed(network)(defended.entered(x)).argmax(dim=1)
    assert certify(defended, network, x, y, 1 / 255).statuses == ("open",)
    certify(defended, network, x, y, 1 / 255, most_outcomes=7)
    assert asked == [3000, 7]


@pytest.mark.parametrize(("step", "most"), [(30, 0.9), (1, 0.45)])
def test_margins_grow_from_none_to_a_level_or_half_a_step(step: int, most: float) -> None:
    """From samples at a tie, each image is looked for that much beyond it, and is found up to half as far again."""
    x = torch.full((1, 3, 8, 8), 0.5)
    codec = codec_of(fdjpeg.FeatureDistillation("code"), x)
    box = Box.of(x, 20 / 255, rounds=False, whole_bytes=False)
    entry = Entry(1, 0, 0, 0, 0, value=0, lowest=0, highest=1, step=step)
    tie = torch.full((1, 3, 8, 8), (40 - 0.5) * step / 8)  # DC is 8 times a flat block's level
    unit = Unit(ChannelBall(block(0), block(0)), [entry], None)
    wanted = replace(box, origin=tie, least=tie - 20, most=tie + 20)
    found = _approached(codec, wanted, unit, (40,), tie)
    beyond = 8 * (found[:, 1] - tie[:, 1]).mean(dim=(1, 2))
    margins = torch.linspace(0, most, MARGINS)
    assert bool((beyond >= margins - 1e-3).all())
    assert bool((beyond <= 1.5 * margins + 1e-3).all())


def test_samples_are_rounded_to_the_nearest_levels_first() -> None:
    layer = fdjpeg.FeatureDistillation("uniform(16)")
    x = image(layer, 3, (8, 8), True)
    codec = codec_of(layer, x)
    box = Box.of(x, 1.6 / 255, rounds=True, whole_bytes=False)
    own = [int(k[0, 0, 0, 1, 2]) for k in codec.blocks(x)]
    entries = [Entry(c, 0, 0, 1, 2, value=k, lowest=k, highest=k + 1, step=16) for c, k in enumerate(own)]
    unit, outcome = Unit(AnyBall(), entries, None), tuple(k + 1 for k in own)
    real, whole = (_approached(codec, replace(box, whole=w), unit, outcome, box.origin) for w in (False, True))
    assert (len(real), len(whole)) == (MARGINS, DITHERS * MARGINS) == (8, 16 * 8)
    nearest = torch.minimum(torch.maximum(real.round(), box.least), box.most)
    assert torch.equal(whole[:MARGINS], nearest)
    assert not torch.equal(whole[MARGINS : 2 * MARGINS], nearest)


def test_whole_levels_that_have_the_outcome_stay() -> None:
    """Rounding moves a sample by less than half a level."""
    layer = fdjpeg.FeatureDistillation("uniform(31)")
    x = image(layer, 3, (8, 8), True)
    box = Box.of(x, 1.6 / 255, rounds=True, whole_bytes=False)
    codec = codec_of(layer, x)
    entry = Entry(0, 0, 0, 1, 2, value=int(codec.blocks(x)[0][0, 0, 0, 1, 2]), lowest=-9, highest=9, step=31)
    found = _approached(codec, box, Unit(AnyBall(), [entry], None), (entry.value,), box.origin)
    assert torch.equal(found, box.origin.expand_as(found))


def test_samples_are_looked_for_from_three_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the image and from two random places, the same in every call; of samples that fit the first are taken."""
    layer = fdjpeg.FeatureDistillation("uniform(31)")
    x = image(layer, 3, (8, 8), True)
    codec = codec_of(layer, x)
    box = Box.of(x, 20 / 255, rounds=True, whole_bytes=False)
    own = [k.int() for k in codec.blocks(x)]
    entry = Entry(0, 0, 0, 0, 0, value=int(own[0][0, 0, 0, 0, 0]), lowest=-99, highest=99, step=31)
    place, unit = (None, 0, 0), Unit(AnyBall(), [entry], None)
    outcomes = Outcomes({place: unit}, own, None)
    starts: list[Tensor] = []
    near = box.origin.clone()
    near[0, 0, 0, 0] += 1

    def approached(codec: Any, box: Box, unit: Unit, outcome: Any, start: Tensor) -> Tensor:
        starts.append(start)
        return torch.cat([box.most, near, box.origin])

    monkeypatch.setattr(realise, "_approached", approached)
    found = attained(codec, box, outcomes, place, (entry.value,))
    assert found is not None
    assert torch.equal(found, near)
    assert len(starts) == 1
    for _ in range(2):
        assert attained(codec, box, outcomes, place, (entry.value + 1,)) is None
    _, *places = starts
    assert torch.equal(places[0], box.origin)
    assert len(torch.cat(places).unique(dim=0)) == 3
    assert all(torch.equal(one, again) for one, again in zip(places[:3], places[3:], strict=True))


def test_ways_of_rounding_are_the_same_in_every_search() -> None:
    layer = fdjpeg.FeatureDistillation("uniform(16)")
    x = image(layer, 3, (8, 8), True)
    box, codec = Box.of(x, 1.6 / 255, rounds=True, whole_bytes=False), codec_of(layer, x)
    entry = Entry(0, 0, 0, 1, 2, value=0, lowest=-9, highest=9, step=16)
    state = torch.get_rng_state()
    first, again = (_approached(codec, box, Unit(AnyBall(), [entry], None), (5,), box.origin) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)  # no draw of the caller is taken


def test_searches_do_not_depend_on_torchs_default_dtype() -> None:
    layer = fdjpeg.FeatureDistillation("uniform(16)")
    x = image(layer, 3, (8, 8), True)
    codec = codec_of(layer, x)
    box = Box.of(x, 1.0 / 255, rounds=True, whole_bytes=False)

    own = [int(k[0, 0, 0, 1, 2]) for k in codec.blocks(x)]
    entries = [Entry(c, 0, 0, 1, 2, value=k, lowest=k - 1, highest=k + 1, step=16) for c, k in enumerate(own)]

    def search() -> Any:
        unit = unit_of(ColourBall(box.least[0], box.most[0]), entries, 60)
        outcome = tuple(entry.highest for entry in entries)
        tried = _approached(codec, box, unit, outcome, box.at(_random(box, 0)))
        return unit.outcomes, tried, excluded(unit, outcome)

    wanted = search()
    torch.set_default_dtype(torch.float64)
    try:
        found = search()
    finally:
        torch.set_default_dtype(torch.float32)
    assert found[1].dtype == wanted[1].dtype
    assert torch.equal(found[1], wanted[1])
    assert (found[0], found[2]) == (wanted[0], wanted[2])


@pytest.mark.parametrize(("vertical", "horizontal"), [(0, 0), (3, 5), (7, 1)])
def test_half_spaces_of_real_numbers_are_along_scipys_basis(vertical: int, horizontal: int) -> None:
    """To the last bits of float64."""
    entry = replace(ENTRY, vertical=vertical, horizontal=horizontal)
    one = torch.zeros(8, 8, dtype=torch.float64)
    one[vertical, horizontal] = 1
    (space,) = ChannelBall(block(0), block(1)).half_spaces(entry, 1)
    assert (space.component, space.normal.dtype) == (0, torch.float64)
    basis = torch.from_numpy(idctn(one.numpy(), norm="ortho")).view(1, 64)
    assert torch.allclose(space.normal, basis, rtol=0, atol=1e-15)


def test_the_values_of_one_entry_that_exclude_anothers_own_leave_it_possible() -> None:
    """One sample must be below 0.1 for the own value of the second entry, and above 0.9 for another of the first."""

    class One(ChannelBall):
        def half_spaces(self, entry: Entry, value: int) -> list[HalfSpace]:
            if entry.horizontal == 0:
                return [HalfSpace(0, axis(0), 0.9)] if value == 1 else []
            return [HalfSpace(0, -axis(0), -0.1)] if value == 0 else []

    entries = [Entry(0, 0, 0, 0, place, value=0, lowest=0, highest=1, step=16) for place in range(2)]
    assert unit_of(One(block(0), block(1)), entries, 9).outcomes == [(0, 0), (0, 1), (1, 1)]
