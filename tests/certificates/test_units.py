"""Units by themselves: what a ball's samples can reach, against every sample of it, and how many pairs are tested."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.classifiers import SEED
from torch import Tensor

from fdjpeg.certificates.realise import excluded
from fdjpeg.certificates.units import AnyBall, Ball, ChannelBall, ColourBall, Entry, HalfSpace, Unit, unit_of
from fdjpeg.reference.exact import rgb_to_ycbcr

ENTRY = Entry(0, 0, 0, 0, 0, value=0, lowest=-1, highest=1, step=16)


def colour_ball(width: int) -> ColourBall:
    """Of samples from 100 to ``width`` levels above."""
    least = torch.full((3, 8, 8), 100, dtype=torch.int64)
    return ColourBall(least, least + width)


def every_colour(width: int) -> Tensor:
    """The components (3, colours) of each colour of such a ball, level-shifted."""
    levels = torch.arange(100, 101 + width, dtype=torch.int32)
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, -1, 1)
    return torch.stack(rgb_to_ycbcr(colours))[:, 0, :, 0].to(torch.int64) - 128


@pytest.mark.parametrize("used", [(0,), (2,), (0, 1), (1, 2), (0, 1, 2), ()])
def test_no_colour_is_beyond_the_support_and_one_reaches_it(used: tuple[int, ...]) -> None:
    """In whole numbers of 60 bits, which have no rounding."""
    ball, colours = colour_ball(3), every_colour(3)
    normals = torch.zeros(2, 3, 64, dtype=torch.int64)
    generator = torch.Generator().manual_seed(SEED)
    for component in used:
        normals[:, component] = torch.randint(-(2**45), 2**45, (2, 64), generator=generator)
    wanted = [sum(int(v) for v in (normal.T @ colours).amax(dim=1)) for normal in normals]
    found = ball.support(normals)
    assert found.dtype == torch.int64
    assert found.tolist() == wanted
    best = ball.best(normals[:1])
    assert int((normals[0] * best).sum()) == wanted[0]
    possible = {tuple(colour) for colour in colours.T.tolist()}
    assert {tuple(colour) for colour in best.T.tolist()} <= possible


@pytest.mark.parametrize(("channels", "width", "tested"), [(3, 6, True), (3, 7, False), (1, 255, True)])
def test_pairs_are_tested_where_a_pixel_has_few_colours(channels: int, width: int, tested: bool) -> None:
    """At most 343 of them: those within three levels of a colour."""
    ball = ColourBall(*(torch.full((channels, 8, 8), end) for end in (0, width)))
    assert ball.pairs is tested
    assert ball.components.shape[2] == ((width + 1) ** channels if tested else 1)


def test_half_spaces_of_bytes_are_whole_numbers() -> None:
    (space,) = colour_ball(1).half_spaces(ENTRY, 1)
    assert space.normal.dtype == torch.int64
    assert space.normal.shape == (3, 64)
    assert isinstance(space.tie, int)
    assert not bool(space.normal[1:].any())


def test_nothing_is_excluded_of_which_nothing_is_known() -> None:
    """Subsampled chroma, too many colours, values at the ends of their intervals."""
    assert not AnyBall().pairs
    assert AnyBall().support(torch.zeros(1, 1, 64)).dtype == torch.float64
    # The samples' luma is near -28, so their DC near -224, which is -1 steps of 255.
    wide = Entry(0, 0, 0, 0, 0, value=-1, lowest=-3, highest=3, step=255)
    assert not excluded(Unit(AnyBall(), [wide], None), (2,))
    assert not excluded(Unit(colour_ball(7), [wide], None), (2,))
    assert excluded(Unit(colour_ball(6), [wide], None), (2,))
    assert not excluded(Unit(colour_ball(6), [replace(wide, lowest=-1, highest=-1)], None), (-1,))
    # Where pairs are not tested, every value is listed, the image's own first.
    assert unit_of(colour_ball(7), [wide], 9).outcomes == [(-1,), (-3,), (-2,), (0,), (1,), (2,), (3,)]
    assert unit_of(colour_ball(6), [wide], 9).outcomes == [(-1,)]


class Opposed(Ball):
    """Values of two components exclude each other; the first value has many half-spaces.

    Args:
        count: of half-spaces.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def support(self, normals: Tensor) -> Tensor:
        both = normals.flatten(2).any(dim=2).all(dim=1)
        return torch.where(both, -1.0, 1.0)

    def best(self, normal: Tensor) -> Tensor:
        raise NotImplementedError

    def half_spaces(self, entry: Entry, value: int) -> list[HalfSpace]:
        normal = torch.zeros(2, 64)
        normal[entry.component] = 1
        number = (self.count - 1 if entry.component == 0 else 1) if value == 1 else 0
        return [HalfSpace(entry.component, normal, 0.0)] * number


@pytest.mark.parametrize(("count", "tested"), [(150, True), (151, False)])
def test_components_are_tested_together_up_to_150_half_spaces(count: int, tested: bool) -> None:
    entries = [Entry(component, 0, 0, 0, 0, value=0, lowest=0, highest=1, step=16) for component in range(2)]
    outcomes = unit_of(Opposed(count), entries, 9).outcomes
    assert outcomes == [(0, 0), (0, 1), (1, 0), *([] if tested else [(1, 1)])]


@pytest.mark.parametrize(("most", "entries", "listed"), [(1, 38, True), (1, 39, False), (2, 58, True), (2, 59, False)])
def test_a_search_takes_twenty_nodes_for_each_outcome_asked_for(most: int, entries: int, listed: bool) -> None:
    """One more than asked for is looked for; the first node has no entry, and after the last one the search ends."""
    chain = [Entry(0, 0, 0, 0, 0, value=3, lowest=3, highest=3, step=16)] * entries
    assert unit_of(AnyBall(), chain, most).outcomes == ([(3,) * entries] if listed else None)


def test_a_value_that_cannot_occur_is_in_no_outcome() -> None:
    """Samples of 0 … 1 have a DC of 8 at most, which is half a step of 16."""
    ball = ChannelBall(torch.zeros(8, 8, dtype=torch.float64), torch.ones(8, 8, dtype=torch.float64))
    entry = Entry(0, 0, 0, 0, 0, value=0, lowest=0, highest=3, step=16)
    assert unit_of(ball, [entry], 9).outcomes == [(0,), (1,)]
    assert entry.values == [0, 1, 2, 3]
    # Whichever value is the image's own.
    wide = Entry(0, 0, 0, 0, 0, value=2, lowest=-3, highest=3, step=255)
    assert unit_of(colour_ball(6), [wide], 9).outcomes == [(-1,)]


@pytest.mark.parametrize(("tie", "possible"), [(1000 - 1e-9, True), (1000.0, True), (1000 + 1e-9, False)])
def test_what_is_just_reached_is_possible(tie: float, possible: bool) -> None:
    """In float64: samples of 1000 reach a tie of 1000."""

    class Point(ChannelBall):
        def half_spaces(self, entry: Entry, value: int) -> list[HalfSpace]:
            normal = torch.zeros(1, 64, dtype=torch.float64)
            normal[0, 0] = 1
            return [HalfSpace(0, normal, tie)] if value == 1 else []

    ball = Point(*(torch.full((8, 8), 1000.0, dtype=torch.float64),) * 2)
    assert unit_of(ball, [replace(ENTRY, lowest=0)], 9).outcomes == ([(0,), (1,)] if possible else [(0,)])
