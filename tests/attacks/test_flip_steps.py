"""Flip's steps and the choice of each unit: what is looked at, where climbs start, and who pays what."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.classifiers import SEED, Tiny
from torch import Tensor, nn

import fdjpeg
from fdjpeg.attacks import Exposed, Flip, choice, draw, flip
from fdjpeg.attacks.choice import NEGLIGIBLE, _priced, _quantized, best_of_each_unit
from fdjpeg.attacks.codec import codecs_of
from fdjpeg.attacks.reachable import Ball, Box

EPS = 2 / 255


def images(count: int = 2, size: tuple[int, int] = (16, 16)) -> Tensor:
    """Images of whole bytes."""
    return (255 * torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(SEED))).round() / 255


def classes(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


def exposed(layer: nn.Module | None = None) -> Exposed:
    return Exposed([layer or fdjpeg.JPEG(50)], [Tiny().eval()])


# --- steps ------------------------------------------------------------------------------------------------------------


class Looks:
    """What Flip looks at: the points, whether a gradient is wanted, and the purposes of draws."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.points: list[Tensor] = []
        self.gradients: list[bool] = []
        self.purposes: list[str] = []
        look, draws = flip._View.look, Flip._draws

        def noted(view: Any, points: Tensor, rows: Tensor, used: Any, differentiate: bool) -> Any:
            self.points.append(points.detach().clone())
            self.gradients.append(differentiate)
            return look(view, points, rows, used, differentiate)

        def drawn(attack: Flip, model: Exposed, x: Tensor, indices: Tensor, purpose: str) -> Any:
            self.purposes.append(purpose)
            return draws(attack, model, x, indices, purpose)

        monkeypatch.setattr(flip._View, "look", noted)
        monkeypatch.setattr(Flip, "_draws", drawn)


def test_a_start_takes_as_many_gradients_as_steps_and_the_first_is_the_image_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks, model, x = Looks(monkeypatch), exposed(), images()
    Flip(2, restarts=3, until_fooled=False).run(model, x, classes(model, x), EPS)
    assert looks.gradients == [True, True, False] * 3
    assert torch.equal(looks.points[0], x)
    starts = looks.points[3::3]
    for restart, start in enumerate(starts, 1):
        share = draw(x.shape[1:], torch.arange(2), 0, f"start {restart}")
        box = Box.of(x, EPS, rounds=True, whole_bytes=False)
        assert torch.equal(start, box.images(box.at(share)))
    assert looks.purposes == ["0 0", "1 0", "2 0"]  # nothing is random


def test_a_randomised_layer_draws_once_for_each_point(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, model, x = Looks(monkeypatch), exposed(fdjpeg.RandomJPEG((40, 60))), images()
    Flip(2, restarts=2, until_fooled=False).run(model, x, classes(Tiny().eval(), x), EPS)
    assert looks.purposes == ["0 0", "0 1", "0 2", "1 0", "1 1", "1 2"]


def test_no_start_follows_once_every_image_is_fooled(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, model, x = Looks(monkeypatch), exposed(), images()
    wrong = (classes(model, x) + 1) % 4
    result = Flip(3, restarts=4).run(model, x, wrong, EPS)
    assert [len(points) for points in looks.points] == [2]
    assert result.queries == 2
    assert bool((result.margin > 0).all())


def test_climbs_start_at_the_point_at_the_image_and_anywhere_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of the batch, so that few samples are at hand at once, have their own images' random points."""
    starts: list[list[Tensor]] = []

    def noted(box: Box, draws: Any, gradients: list[Tensor], here: Tensor, start: Tensor) -> Tensor:
        starts.append([box.origin, here.clone(), start])
        return here + 1

    monkeypatch.setattr(flip, "best_of_each_unit", noted)
    model, x = exposed(), images(3)
    x = x.clamp(20 / 255, 235 / 255)
    monkeypatch.setattr(flip, "AT_ONCE", {"cpu": 2 * x[0].numel()})
    indices = torch.tensor([4, 9, 2])
    Flip(7, seed=3, until_fooled=False).run(model, x, classes(model, x), 9 / 255, indices=indices)
    assert [len(start) for _, _, start in starts] == [2, 1] * 7
    for number in range(7):
        origin, here, start = (torch.cat(parts) for parts in zip(*starts[2 * number : 2 * number + 2], strict=True))
        assert torch.equal(here, origin + number)
        if number % 3 == 2:
            share = draw(x.shape[1:], indices, 3, f"anywhere 0 {number}")
            wanted = Box.of(x, 9 / 255, rounds=True, whole_bytes=False).at(share)
        else:
            wanted = here if number % 3 == 0 else origin
        assert torch.equal(start, wanted), number


@pytest.mark.parametrize(
    ("shape", "parts"), [((3, 1, 256, 512), [2, 1]), ((3, 1, 256, 513), [1, 1, 1]), ((2, 1, 1024, 512), [1, 1])]
)
def test_as_many_images_are_solved_at_once_as_have_a_quarter_of_a_million_samples(
    shape: tuple[int, ...], parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 2¹⁸ on a processor, or one larger image; 2²⁵ elsewhere."""
    seen: list[int] = []

    def noted(box: Box, draws: Any, gradients: list[Tensor], here: Tensor, start: Tensor) -> Tensor:
        seen.append(len(here))
        return here

    monkeypatch.setattr(flip, "best_of_each_unit", noted)
    monkeypatch.setattr(flip, "_normalised", lambda gradients, branches: gradients)
    x, rows = torch.full(shape, 0.5), torch.arange(shape[0])
    box = Box.of(x, EPS, rounds=True, whole_bytes=False)
    look: Any = SimpleNamespace(gradients=[x])
    for at_once, wanted in ((flip.AT_ONCE, parts), ({}, [len(x)])):
        seen.clear()
        monkeypatch.setattr(flip, "AT_ONCE", at_once)
        Flip()._move(flip._Climbers(rows, box, box.origin, []), [[]], look, rows, rows, 0, 0)
        assert seen == wanted
    assert flip.AT_ONCE_ELSEWHERE == 2**25


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.device("meta")])
def test_flip_and_pgd_that_go_on_do_not_depend_on_torchs_defaults(mode: Any) -> None:
    model, x = exposed(), images()
    y = classes(model, x)
    for attack in (Flip(1, until_fooled=False), fdjpeg.attacks.PGD(1, until_fooled=False)):
        wanted = attack(model, x, y, EPS)
        with mode():
            found = attack(model, x, y, EPS)
        assert torch.equal(found, wanted)


def test_names_show_starts_and_what_is_not_usual() -> None:
    attacks = (Flip(5), Flip(5, 2), Flip(5, loss="dlr"), Flip(5, aim="likeliest"), Flip(5, aim="given"))
    assert [attack.name for attack in attacks] == [
        "Flip-5", "Flip-5×2", "Flip-dlr-5", "Flip-targeted-5", "Flip-targeted-5",
    ]  # fmt: skip


# --- gradients --------------------------------------------------------------------------------------------------------


def codec(steps: float, by: float) -> Any:
    """A codec whose sensitivities are gradients times a number, in one stack of two components and one of one."""
    return SimpleNamespace(
        sensitivity=lambda gradient: [by * gradient[:, :2], by * gradient[:, 2:]],
        steps=lambda: [torch.full((1, 2, 1, 1), steps), torch.full((1, 1, 1, 1), steps)],
    )


def test_gradients_are_divided_by_the_mean_sensitivity_of_the_last_passes_in_steps() -> None:
    """Two branches: the first has three passes, of which two are equal; the second has one."""
    other, twice, single = codec(8.0, 1.0), codec(2.0, 3.0), codec(4.0, 1.0)
    gradients = [torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    found = flip._normalised(gradients, [[twice, other, twice], [single]])
    last, alone = gradients[1:]  # of passes one the last of two that are searched; of the other branch its own
    for image in range(2):
        mean = (2 * 3 * last[image].abs().sum() + 4 * alone[image].abs().sum()) / (2 * last[image].numel())
        for before, after in zip(gradients, found, strict=True):
            torch.testing.assert_close(after[image], before[image] / mean)
    # However small gradients are: here their sensitivities add up to 1.5e-30.
    tiny = torch.full((1, 3, 4, 4), 1.5e-30 / 48 / 4)
    (unit,) = flip._normalised([tiny], [[single]])
    torch.testing.assert_close(unit, torch.full_like(unit, 0.25))


def test_an_image_without_any_gradient_gets_random_ones() -> None:
    """The first has one in its second pass alone, the second none, the third one that is not a number but for one."""
    first, second = torch.zeros(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    second[0] = 1.0
    first[1], second[1] = torch.nan, torch.inf
    first[2] = torch.tensor([torch.nan, -torch.inf, 2.0, torch.inf]).view(1, 2, 2)
    indices = torch.tensor([5, 8, 1])
    found = flip._usable([first, second], indices, 7, "0 3")
    for place, gradient in enumerate(found):
        random = draw(torch.Size([1, 2, 2]), indices[1:2], 7, f"direction 0 3 {place}", normal=True)
        assert torch.equal(gradient[1:2], random)
    assert found[0][0].unique().tolist() == [0]
    assert found[1][0].unique().tolist() == [1]
    assert found[0][2].flatten().tolist() == [0, 0, 2, 0]
    assert found[1][2].unique().tolist() == [0]


def test_gradients_so_far_weigh_three_quarters() -> None:
    here = flip._Climbers(torch.arange(1), SimpleNamespace(), torch.zeros(1), [])  # type: ignore[arg-type]
    first, second = [torch.tensor([4.0]), torch.tensor([8.0])], [torch.tensor([12.0]), torch.tensor([0.0])]
    here.remember(first)
    assert here.gradients == first
    here.remember(second)
    assert [float(gradient) for gradient in here.gradients] == [6, 6]
    here.remember(first)
    assert [float(gradient) for gradient in here.gradients] == [5.5, 6.5]


def test_draws_are_averaged_image_by_image_and_their_gradients_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two draws of three images: losses, margins and gradients."""
    draws = [
        (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, -1.0, 0.5]), [torch.ones(3), torch.tensor([1.0, 2, 3])]),
        (torch.tensor([3.0, 0.0, 9.0]), torch.tensor([0.5, 2.0, 0.0]), [torch.ones(3) * 4, torch.ones(3)]),
    ]
    given = iter(draws)
    monkeypatch.setattr(flip._View, "_one_draw", lambda *_: next(given))
    view = flip._View(*[None] * 7)  # type: ignore[arg-type]
    look = view.look(torch.zeros(3), torch.arange(3), [[], []], differentiate=True)
    assert look.value.tolist() == [2, 1, 6]
    assert look.score.tolist() == [0.5, 0.5, 0.25]
    assert look.fooled.tolist() == [True, False, False]  # a tie is none
    assert [gradient.tolist() for gradient in look.gradients] == [[5, 5, 5], [2, 3, 4]]


# --- the choice of each unit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "moves"), [(1.5e-9, True), (0.75e-9, False), (0.0, False), (-1.0, False)])
def test_a_unit_moves_for_a_gain_of_more_than_a_billionth(
    gain: float, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_gain", lambda *_: torch.full((1, 1, 1, 1), gain))
    monkeypatch.setattr(choice.Problem, "candidates", lambda problem, start: iter([start + 1, start + 2]))
    x = images(1)
    box = Box.of(x, EPS, rounds=True, whole_bytes=False)
    codecs = codecs_of(fdjpeg.JPEG(50), x, torch.arange(1), 0, "test")
    found = best_of_each_unit(box, [[codecs]], [torch.ones_like(x)], box.origin, box.origin)
    assert torch.equal(found, box.origin + float(moves))  # of equals the first


class Stop(Exception):
    """Ends a choice once its problem is known."""


def test_each_branch_and_draw_has_its_own_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two draws of two branches, the first of two unlike passes: its gradients are the first two, for both draws."""
    problems: list[Any] = []

    def problem(box: Box, quantizers: list[Any], units: Any) -> Any:
        problems.append(quantizers)
        raise Stop

    monkeypatch.setattr(choice, "Problem", problem)
    x = images(1)

    def passes(*qualities: int) -> list[Any]:
        layer = nn.Sequential(*(fdjpeg.JPEG(quality, subsampling="4:4:4") for quality in qualities))
        return codecs_of(layer, x, torch.arange(1), 0, "test")

    draws = [[passes(30, 90), passes(50)], [passes(95, 20), passes(60)]]
    gradients = [torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    box = Box.of(x, EPS, rounds=True, whole_bytes=False)
    with pytest.raises(Stop):
        best_of_each_unit(box, draws, gradients, box.origin, box.origin)
    # Of two passes the coarser one keeps its slope.
    wanted = [(0, 0, 0), None, (0, 1, 2), None, (1, 0, 1), (1, 1, 2)]
    (found,) = problems
    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1), (1, 1, 0)]
    for quantizer, (draw_, branch, place), used in zip(found, places, wanted, strict=True):
        part = draws[draw_][branch][place]
        number = 2 if branch else place
        slope = part.sensitivity(gradients[number])
        for mine, theirs, step, own in zip(quantizer.slope, slope, quantizer.steps, part.steps(), strict=True):
            assert torch.equal(step, own)
            assert torch.equal(mine, theirs if used else torch.zeros_like(theirs))


def test_only_where_units_share_a_radius_may_they_also_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last option is the image itself: with it a unit leaves its part of the radius to others."""
    tried: list[Tensor] = []
    monkeypatch.setattr(choice, "_gain", lambda *arguments: (tried.append(arguments[-1]), torch.zeros(1, 1, 1, 1))[1])
    x = images(1)
    codecs = codecs_of(fdjpeg.JPEG(50), x, torch.arange(1), 0, "test")
    for kind, options in ((Box, 2), (Ball, 4)):
        tried.clear()
        box = kind.of(x, EPS, rounds=True, whole_bytes=False)
        here = box.origin + 1
        found = best_of_each_unit(box, [[codecs]], [torch.ones_like(x)], here, here)
        assert len(tried) == options
        assert torch.equal(tried[-1], box.origin) == (kind is Ball)
        # Nothing gains; at a price for the radius going back does.
        assert torch.equal(found, here if kind is Box else box.origin)


def test_coefficients_are_those_behind_all_passes_before_the_last() -> None:
    def add(by: float) -> Any:
        class Pass:
            def __call__(self, images: Tensor) -> Tensor:
                return images * 10 + by

            def coefficients(self, images: Tensor) -> list[Tensor]:
                return [images * 100 + by]

        return Pass()

    for count, wanted in ((1, 701), (2, 7102), (3, 71203)):
        (found,) = _quantized([add(by) for by in range(1, count + 1)], torch.tensor(7.0))
        assert float(found) == wanted


def prices(gains: list[list[float]], costs: list[list[float]], radius: float) -> list[int]:
    """The chosen options of units in a ball of a radius in levels; the first option gains and costs nothing."""
    none = torch.full((1, len(gains[0])), NEGLIGIBLE)
    every = torch.cat([none, torch.tensor(gains)]).view(-1, 1, 1, 1, len(gains[0]))
    taken = torch.cat([torch.zeros_like(none), torch.tensor(costs)]).view(-1, 1, 1, 1, len(gains[0]))
    units: Any = SimpleNamespace(of_samples=lambda cost: cost)
    grey = torch.full((1, 1, 8, 8), 128 / 255)
    ball = replace(Ball.of(grey, 1 / 255, rounds=True, whole_bytes=True), radius=radius)
    return _priced(every, list(taken), units, ball).flatten().tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("radius", [0.5, 16.0])
def test_a_gain_of_less_than_a_millionth_of_all_is_not_worth_its_share(radius: float) -> None:
    """The lowest price is a millionth of what all gain for the whole radius: also where all of it would fit."""
    square = radius**2
    costs = [[square / 16, square / 2]]
    assert prices([[1.0, 0.6e-6]], costs, radius) == [1, 1]
    assert prices([[1.0, 0.4e-6]], costs, radius) == [1, 0]


def test_the_dearer_option_needs_a_gain_of_its_own() -> None:
    assert prices([[2.0], [2.0]], [[3.0], [1.0]], 4.0) == [2]
    assert prices([[2.0], [2.5]], [[3.0], [9.0]], 4.0) == [2]


def test_what_is_exactly_the_radius_fits() -> None:
    assert prices([[2.0, 1.0]], [[12.0, 4.0]], 4.0) == [1, 1]
    assert prices([[2.0, 1.0]], [[12.0, 4.1]], 4.0) == [0, 1]  # the dearer one for its gain leaves


def test_images_of_a_batch_have_prices_of_their_own() -> None:
    """The first gains a hundred million times as much as the second, whose two units both fit."""
    gains = torch.tensor([[[0.0, 0.0], [1e8, 1e8]], [[0.0, 0.0], [1.0, 1.0]]]).transpose(0, 1).view(2, 2, 1, 1, 2)
    costs = torch.tensor([[0.0, 0.0], [8.0, 8.0]]).view(2, 1, 1, 1, 2).expand(2, 2, 1, 1, 2)
    units: Any = SimpleNamespace(of_samples=lambda cost: cost)
    ball = replace(Ball.of(torch.full((2, 1, 8, 8), 128 / 255), 1 / 255, rounds=True, whole_bytes=True), radius=4.5)
    assert _priced(gains, list(costs), units, ball).flatten(1).tolist() == [[1, 1], [1, 1]]
