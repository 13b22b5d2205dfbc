"""Radii at their edges, projections into balls, and what `Attack.run` hands to a search and to a model."""

from __future__ import annotations

import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fdjpeg.attacks import Attack, Counted, Found, draw, format_eps, parse_eps, project
from fdjpeg.attacks.base import image_seed, seed_generators


class Halves(nn.Module):
    """Two classes: 1 from a mean above 1/2 on, else 0."""

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1).mean(dim=1) - 0.5
        return torch.stack([-score, score], dim=1)


class Seen(Attack):
    """Keeps what its search gets, and returns the images."""

    norm = "linf"
    seed = 0
    name = "seen"

    def __init__(self) -> None:
        self.got: list[tuple[Any, ...]] = []

    def search(self, model: Any, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: Any) -> Found:
        self.got.append((model, x, y, eps, indices, judge))
        return Found(x)


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def listed(images: Tensor) -> list[float]:
    return images.flatten().tolist()


# --- radii ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.int8])
def test_a_radius_of_numpys_is_a_fraction_of_pythons_numbers(kind: Any) -> None:
    eps = parse_eps(kind(1))
    assert eps == 1
    assert type(eps.numerator) is type(eps.denominator) is int
    exact = Fraction(10**30 + 1, 10**30)  # no floating number
    assert parse_eps(exact, "l2") == exact


def test_a_radius_is_a_floating_number_in_bytes_and_in_units_of_the_range() -> None:
    """Where it is not, because 255 times it exceeds them or because nothing above 0 is left, it is refused."""
    largest = Fraction(sys.float_info.max) / 255
    assert parse_eps(largest, "l2") == largest
    least = Fraction(5e-324) / 255  # a 255th of the least number; 128 of these are rounded up to it
    assert parse_eps(128 * least, "l2") == 128 * least
    for wrong in (largest * 1001 / 1000, 127 * least):
        with pytest.raises(ValueError, match=r"^eps must be "):
            parse_eps(wrong, "l2")


@pytest.mark.parametrize(
    ("eps", "written"),
    [
        (Fraction(0.1), "0.1"),  # a float before
        (Fraction(1 / 3), "0.333333"),
        (Fraction(1, 7), "1/7"),
        (Fraction(1, 3), "85/255"),
        (Fraction(51, 255), "0.2"),
        (Fraction(7, 2550), "0.7/255"),
        (Fraction(17, 255), "17/255"),
        (1, "1"),
    ],
)
def test_radii_that_were_floats_are_rounded_and_ratios_are_kept(eps: Any, written: str) -> None:
    assert format_eps(eps) == written


@pytest.mark.parametrize("wrong", ["2/255", 0.5])
def test_only_a_fraction_is_written_as_a_radius(wrong: Any) -> None:
    with pytest.raises(TypeError, match=rf"^eps must be a fractions.Fraction, as parse_eps makes it, got {wrong!r}$"):
        format_eps(wrong)


# --- projections ------------------------------------------------------------------------------------------------------


def test_what_is_in_the_ball_of_l2_stays_and_the_rest_is_scaled_to_its_surface() -> None:
    x = row(0.5, 0.25)
    assert listed(project(x + row(0.03, -0.04), x, 0.1, "l2")) == pytest.approx([0.53, 0.21], abs=1e-15)
    assert listed(project(x + row(0.3, -0.4), x, 0.1, "l2")) == pytest.approx([0.56, 0.17], abs=1e-15)
    # Whatever the size of the ball: this move is half as long again as the radius.
    tiny = project(row(1.5e-12, 0), row(0, 0), 1e-12, "l2")
    assert listed(tiny) == pytest.approx([1e-12, 0], rel=1e-9, abs=0)


def test_in_l0_the_samples_that_changed_most_keep_their_change_up_to_the_range() -> None:
    """Not those of the largest values; a sample that leaves the range counts by its whole change."""
    x = row(0.9, 0.1, 0.5, 0.8)
    assert listed(project(x + row(-0.05, 0.2, -0.1, 0), x, 1, "l0")) == pytest.approx([0.9, 0.3, 0.5, 0.8])
    assert listed(project(x + row(0.6, 0, -0.8, 0.3), x, 2, "l0")) == pytest.approx([1, 0.1, 0, 0.8])


def test_of_equal_changes_in_l0_the_first_are_kept_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some devices' sorting puts ties in any order unless it is asked not to: here the last comes first."""
    true = Tensor.argsort

    def argsort(self: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
        if stable:
            return true(self, dim=dim, descending=descending, stable=True)
        found = true(self.flip(dim), dim=dim, descending=descending, stable=True)
        return self.shape[dim] - 1 - found

    monkeypatch.setattr(Tensor, "argsort", argsort)
    x = row(0.25, 0.25, 0.25, 0.25)
    assert listed(project(x + 0.5, x, 2, "l0")) == [0.75, 0.75, 0.25, 0.25]


# --- what a search gets -----------------------------------------------------------------------------------------------


def test_a_search_gets_images_in_the_range() -> None:
    """An excess of less than half a byte is cut off before it, on either side."""
    for excess, end in ((1 + 0.4 / 255, 1.0), (-0.4 / 255, 0.0)):
        seen = Seen()
        seen.run(Halves(), row(0.5, excess), torch.tensor([0]), 0.25)
        ((_, x, *_),) = seen.got
        assert listed(x) == [0.5, end]


def test_a_search_gets_tensors_that_autograd_can_keep_of_those_made_in_inference_mode() -> None:
    with torch.inference_mode():
        x, y = torch.full((1, 1, 2, 2), 0.25), torch.tensor([0])
    seen = Seen()
    found = seen.run(Halves(), x, y, 0.25)
    ((_, given, classes, *_),) = seen.got
    assert not given.is_inference()
    assert not classes.is_inference()
    assert torch.equal(found.x_adv, x)
    assert not found.x_adv.is_inference()


def test_a_search_gets_indices_the_radius_of_the_whole_range_and_a_judge_of_its_own() -> None:
    model, judge = Halves(), Halves()
    x, y = torch.full((3, 1, 2, 2), 0.25), torch.zeros(3, dtype=torch.int64)
    seen = Seen()
    found = seen.run(model, x, y, 7.0)
    found_by_judge = seen.run(model, x, y, 0.25, indices=torch.tensor([5, 3, 9]), judge=judge)
    (counted, _, _, eps, indices, none), (_, _, _, half, given, deciding) = seen.got
    assert (eps, half) == (1, 0.25)
    assert (indices.tolist(), given.tolist()) == ([0, 1, 2], [5, 3, 9])
    assert none is None
    assert (counted.model, deciding.model) == (model, judge)
    assert (found.queries, found_by_judge.queries) == (3, 3)  # the verdicts


def test_a_model_gets_a_copy_until_it_has_shown_that_it_leaves_its_input_alone() -> None:
    given: list[int] = []

    class Watched(Halves):
        def forward(self, images: Tensor) -> Tensor:
            given.append(images.data_ptr())
            return super().forward(images)

    counted, x = Counted(Watched(), torch.tensor([0])), torch.full((1, 1, 2, 2), 0.25)
    for _ in range(3):
        counted(x)
    assert [place == x.data_ptr() for place in given] == [False, True, True]
    assert counted.queries == 3


# --- random numbers ---------------------------------------------------------------------------------------------------


def test_seeds_have_63_bits() -> None:
    seeds = [image_seed(0, "start", index) for index in range(200)]
    assert len(set(seeds)) == 200
    assert 2**62 < max(seeds) < 2**63
    assert min(seeds) >= 0


def test_no_images_take_no_numbers_of_float32() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        for normal in (False, True):
            none = draw(torch.Size([3, 2]), torch.arange(0), 0, "start", normal=normal)
            assert (none.shape, none.dtype) == ((0, 3, 2), torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_generator_of_the_processor_is_seeded_where_no_gpu_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(11)
        wanted = torch.rand(4)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
        monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU was seeded"))
        seed_generators(11)
        assert torch.equal(torch.rand(4), wanted)
