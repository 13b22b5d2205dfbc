"""The rules of PGD's steps, starts, draws and books, on numbers made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fdjpeg.attacks import PGD, draw, from_name
from fdjpeg.attacks.losses import AWAY, margin
from fdjpeg.attacks.pgd import _Best, _checkpoints, _Climbers, _Look, _unit, _View


class Slope(nn.Module):
    """Two classes, tied at a mean of 1/2; logits differ by the mean. Keeps the images it sees."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        turned: Tensor = Turned.apply(images, self.sign)
        score = turned.flatten(1).mean(dim=1) - 0.5
        return torch.stack([-score, score], dim=1)


class Turned(torch.autograd.Function):
    """The identity, with its gradient times a number."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, by: float) -> Tensor:
        ctx.by = by
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.by * gradient, None


def zeros(count: int = 1) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


def column(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def path(attack: PGD, sign: float = 1.0, *, eps: float = 0.25) -> list[float]:
    """The points that an attack visits from 1/4, less that, in radii."""
    model = Slope(sign).eval()
    attack.run(model, torch.full((1, 1, 2, 2), 0.25), zeros(), eps)
    return [float(seen[0, 0, 0, 0] - 0.25) / eps for seen in model.seen]


# --- starts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.25, 2.0])
def test_starts_are_uniform_in_linf_and_on_the_surface_in_l2(eps: float) -> None:
    """By the draws of the restart; a radius may exceed 1 in L2."""
    x, indices = torch.full((2, 3, 24, 24), 0.5, dtype=torch.float64), torch.tensor([7, 3])
    normal = draw(x.shape[1:], indices, 5, "start 4", normal=True).double()
    wanted = eps * normal / normal.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(PGD(seed=5, norm="l2")._start(x, eps, indices, 4) - x, wanted)
    if eps < 0.5:
        uniform = 2 * draw(x.shape[1:], indices, 5, "start 4").double() - 1
        torch.testing.assert_close(PGD(seed=5)._start(x, eps, indices, 4) - x, eps * uniform)
    assert torch.equal(PGD(random_start=False)._start(x, eps, indices, 4), x)


@pytest.mark.parametrize("name", ["fgsm", "bim-4"])
def test_older_attacks_begin_at_the_image_and_take_equal_steps(name: str) -> None:
    attack: Any = from_name(name, until_fooled=False)
    length = attack.step
    points = path(attack)
    wanted = [min(number * length, 1) for number in range(attack.steps + 1)]
    assert points == pytest.approx(wanted)


# --- steps ------------------------------------------------------------------------------------------------------------


def test_equal_steps_go_on_where_the_loss_falls_and_halving_goes_back_to_the_best_point() -> None:
    """The gradient points downhill. Of five steps the checkpoints are at the second and from there on at each."""
    plain: dict[str, Any] = {"momentum": 0, "random_start": False, "step": 0.125}
    assert path(PGD(5, schedule="constant", **plain), -1) == pytest.approx([-0.125 * n for n in range(6)])
    # Back at the image the loss is higher than at the second point: the third step is a gain, so only the fourth is
    # followed by a return.
    halved = path(PGD(5, schedule="halving", **plain), -1)
    assert halved == pytest.approx([0, -0.125, -0.25, -0.0625, -0.125, -0.03125])
    # Uphill all steps are gains.
    assert path(PGD(5, schedule="halving", **plain)) == pytest.approx([0.125 * n for n in range(6)])


def test_checkpoints_of_a_thousand_steps_are_the_papers() -> None:
    assert _checkpoints(1000) == {
        220: 220, 410: 190, 570: 160, 700: 130, 800: 100, 870: 70, 930: 60, 990: 60, 1050: 60,
    }  # fmt: skip
    assert _checkpoints(5) == {2: 2, 3: 1, 4: 1, 5: 1, 6: 1}


@pytest.mark.parametrize(("number", "share"), [(0, 0.0), (1, 0.25), (2, 0.25)])
def test_the_last_move_counts_from_the_second_step_on(number: int, share: float) -> None:
    """It was up by 0.1; the step is down by 0.2, at half of its length."""
    here = _Climbers.at(column(0.5), torch.tensor([0]))
    here.previous, here.scale = column(0.4), torch.tensor([0.5])
    attack = PGD(4, schedule="constant", step=0.8)
    attack._move(here, column(-3.0), number, column(0.5), 0.5)
    assert float(here.point) == pytest.approx(0.5 + (1 - share) * -0.2 + share * 0.1)
    assert float(here.previous) == 0.5


def test_where_the_best_loss_is_reached_again_the_first_such_point_stays() -> None:
    here = _Climbers.at(column(0.25), torch.tensor([0]))
    for level, gradient, value in ((0.25, 1.0, 3.0), (0.5, 2.0, 3.0), (0.75, 3.0, 2.0)):
        here.point = column(level)
        found = here.remember(torch.tensor([value]), column(gradient), None if level < 0.75 else 4)
    assert here.best_value.tolist() == [3]
    assert float(here.point) == float(here.best_point) == 0.25
    assert float(found) == 1
    assert here.scale.tolist() == [0.5]


def test_the_point_to_go_back_to_is_the_one_of_the_largest_loss() -> None:
    here = _Climbers.at(column(0.25), torch.tensor([0]))
    for level, gradient, value in ((0.25, 1.0, 1.0), (0.5, 2.0, 3.0), (0.75, 3.0, 2.0)):
        here.point = column(level)
        found = here.remember(torch.tensor([value]), column(gradient), None if level < 0.75 else 4)
    assert float(here.point) == float(here.best_point) == 0.5
    assert float(found) == 2


def test_several_draws_come_image_by_image() -> None:
    assert [PGD(steps=1, draws=draws).one_at_a_time for draws in (1, 2, 3)] == [False, True, True]


def test_samples_without_a_finite_gradient_do_not_move_and_images_without_any_move_at_random() -> None:
    gradient = torch.tensor([[torch.nan, torch.inf, -torch.inf, 2.0], [0.0, torch.nan, torch.inf, 0.0]])
    found = PGD(seed=3)._usable(gradient.view(2, 1, 1, 4), torch.tensor([4, 8]), "direction 0 1")
    assert found[0].flatten().tolist() == [0, 0, 0, 2]
    assert torch.equal(found[1:], draw(torch.Size([1, 1, 4]), torch.tensor([8]), 3, "direction 0 1", normal=True))


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_a_direction_has_a_length_of_one_however_small_the_gradient_is(size: float) -> None:
    unit = _unit(size * torch.tensor([3.0, -4.0]).view(1, 1, 1, 2))
    assert unit.flatten().tolist() == pytest.approx([0.6, -0.8])
    assert not bool(_unit(torch.zeros(1, 1, 1, 2)).any())


def test_a_direction_has_a_length_of_one_also_where_numbers_are_nearly_none() -> None:
    """A millionth of a millionth of the least number of float64 that has all its digits."""
    least = 1.5e-12 * torch.finfo(torch.float64).smallest_normal
    unit = _unit(torch.tensor([0.0, -least], dtype=torch.float64).view(1, 1, 1, 2))
    assert unit.flatten().tolist() == pytest.approx([0, -1])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "halving"])
def test_images_of_float64_take_the_same_steps_whatever_torchs_default_is(schedule: Any) -> None:
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    attack = PGD(7, schedule=schedule, step=0.07, random_start=False, until_fooled=False)
    wanted = attack(Slope().eval(), x, zeros(2), 0.3)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(attack(Slope().eval(), x, zeros(2), 0.3), wanted)
    finally:
        torch.set_default_dtype(torch.float32)


# --- books ------------------------------------------------------------------------------------------------------------


def look(values: list[float], scores: list[float], fooled: list[bool]) -> _Look:
    numbers = (torch.tensor(each, dtype=torch.float32) for each in (values, scores))
    return _Look(*numbers, torch.tensor(fooled), torch.zeros(len(values)))


def test_a_point_is_kept_if_it_is_better_than_before() -> None:
    """Of three images the first and the last are noted; the third note is of a second start."""
    best = _Best(column(0.0, 0.0, 0.0), 3)
    rows = torch.tensor([0, 2])
    best.note(rows, 0, column(0.1, 0.2), look([1, 2], [-1, 0.5], [False, True]))
    best.note(rows, 1, column(0.3, 0.4), look([3, 4], [-1, 0.75], [False, True]))
    best.end_restart()
    assert best.x_adv.flatten().tolist() == pytest.approx([0.1, 0, 0.4])  # as good is not better
    assert best.score.tolist() == [-1, -torch.inf, 0.75]
    assert best.fooled.tolist() == [False, False, True]
    curve = [[1, 0, 2], [3, 0, 4], [3, 0, 4]]  # an image that is left alone keeps its last value
    assert best.curve.tolist() == curve
    best.note(torch.tensor([0, 1]), 0, column(0.5, 0.6), look([7, 8], [-2, -3], [False, False]))
    best.end_restart()
    assert best.curve.tolist() == [[now[0], 8, now[2]] for now in curve]
    assert best.fooled.tolist() == [False, False, True]


def test_names_show_starts_losses_and_aims() -> None:
    attacks = (PGD(5), PGD(5, 2), PGD(5, loss="dlr"), PGD(5, aim="likeliest"), PGD(5, aim="given"), PGD(5, label="P"))
    assert [attack.name for attack in attacks] == [
        "PGD-5", "PGD-5×2", "PGD-dlr-5", "PGD-targeted-5", "PGD-targeted-5", "P",
    ]  # fmt: skip


# --- models -----------------------------------------------------------------------------------------------------------


class Draws(nn.Module):
    """Logits of 1000 with noise of a size, to each image its own or the same to all of a call."""

    def __init__(self, size: float, each: bool) -> None:
        super().__init__()
        self.size, self.each = size, each
        self.calls: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(len(images))
        noise = torch.linspace(0, 1, len(images)) if self.each else torch.full((len(images),), float(len(self.calls)))
        score = images.flatten(1).sum(dim=1) * 0 + self.size * noise
        return torch.stack([1000 - score, score], dim=1)


def view(model: nn.Module, count: int) -> _View:
    return _View(model, None, AWAY["margin"], margin, zeros(2), zeros(2), count)


@pytest.mark.parametrize(
    ("size", "each", "calls"),
    [(1.0, True, [6]), (0.4, True, [6]), (0.2, True, [6, 2, 2, 2]), (1.0, False, [6, 2, 2, 2])],
)
def test_draws_of_a_call_that_differ_by_more_than_a_ten_thousandth_are_taken_together(
    size: float, each: bool, calls: list[int]
) -> None:
    """Draws of an image differ by 0.4 of the noise's size, and logits are 1000. Else each draw gets a call."""
    model = Draws(size, each)
    views, points = view(model, 3), torch.zeros(2, 1, 1, 1)
    logits = views._logits(model, points)
    assert logits.shape == (2, 3, 2)
    assert model.calls == calls
    seen = logits[:, :, 1] / size
    wanted = torch.linspace(0, 1, 6).view(2, 3) if len(calls) == 1 else None
    if wanted is not None:
        torch.testing.assert_close(seen, wanted)
    elif not each:
        assert seen.round().tolist() == [[2, 3, 4]] * 2
    model.calls.clear()
    views._logits(model, points)
    assert model.calls == (calls if len(calls) == 1 else calls[1:])


def test_a_look_without_a_gradient_can_be_narrowed_as_any_other() -> None:
    for differentiate in (True, False):
        found = view(Slope(), 1).look(torch.full((2, 1, 2, 2), 0.75), torch.arange(2), differentiate)
        one = found.only(torch.tensor([False, True]))
        assert [len(part) for part in (one.value, one.score, one.fooled, one.gradient)] == [1] * 4
        assert one.gradient.numel() == (4 if differentiate else 0)


def test_a_model_whose_logits_depend_on_something_else_is_searched_at_random() -> None:
    """Its logits have a derivative, but none by the images."""

    class Elsewhere(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = [torch.tensor([1.0, 0.0], requires_grad=True)]
            self.seen: list[Tensor] = []

        def forward(self, images: Tensor) -> Tensor:
            self.seen.append(images.detach().clone())
            return self.bias[0].expand(len(images), 2)

    model, x = Elsewhere(), torch.full((1, 1, 2, 2), 0.5)
    result = PGD(3, random_start=False).run(model, x, zeros(), 0.25)
    assert result.margin.tolist() == [-1]
    assert len(model.seen) == 4
    assert not torch.equal(model.seen[1], x)
