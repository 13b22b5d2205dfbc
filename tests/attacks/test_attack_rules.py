"""The rules of docs/attacks.md, each asserted itself: starts, steps, ties, NaN, and what an attack leaves as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.classifiers import Linear, Tiny
from torch import Tensor, nn

from fdjpeg.attacks import PGD, Noise, correct, distances, dlr, draw, from_name, margin, noise, project
from fdjpeg.attacks.calls import Flat, has_derivative
from fdjpeg.attacks.losses import dlr_towards

EPS = 8 / 255


class Watched(nn.Module):
    """A model that keeps the images it sees."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        logits: Tensor = self.model(images)
        return logits


def starts(attack: PGD, model: nn.Module, x: Tensor, y: Tensor, indices: Tensor | None = None) -> list[Tensor]:
    """The first point of each restart, less the image."""
    watched = Watched(model)
    attack.run(watched, x, y, EPS, indices=indices)
    return [seen - x for seen in watched.seen[:: attack.steps + 1]]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_start_is_another_point(norm: Any, model: nn.Module, x: Tensor, y: Tensor) -> None:
    attack = PGD(1, restarts=3, norm=norm, until_fooled=False)
    found = starts(attack, model, x, y)
    assert len(found) == 3
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert bool((found[first] != found[second]).flatten(1).any(dim=1).all())
    same = torch.stack(starts(attack, model, x[:1].expand_as(x), y[:1].expand_as(y)))
    assert not torch.equal(same[0, 0], same[0, 1])  # the same image at two places of the set
    again = starts(attack, model, x[1:2], y[1:2], torch.tensor([1]))
    torch.testing.assert_close(again[0][0], found[0][1], rtol=0, atol=1e-7)
    other = starts(PGD(1, restarts=3, norm=norm, until_fooled=False, seed=1), model, x, y)
    assert not torch.equal(other[0], found[0])
    plain = starts(PGD(1, norm=norm, random_start=False, until_fooled=False), model, x, y)
    assert not bool(plain[0].any())


def test_starts_fill_the_ball(model: nn.Module) -> None:
    x, y = torch.full((4, 3, 32, 32), 0.5), torch.zeros(4, dtype=torch.int64)
    (inside,) = starts(PGD(1, until_fooled=False), model, x, y)
    assert float(inside.abs().max()) <= EPS + 1e-6
    assert float(inside.abs().mean()) == pytest.approx(EPS / 2, rel=0.05)  # uniform
    (surface,) = starts(PGD(1, norm="l2", until_fooled=False), model, x, y)
    assert surface.flatten(1).norm(dim=1).tolist() == pytest.approx([EPS] * 4, rel=1e-3)


def test_steps_fall_as_a_cosine_from_two_radii_to_a_tenth_of_that() -> None:
    attack = PGD(11)
    lengths = [attack.length(number) for number in range(11)]
    assert lengths[0] == 2
    assert lengths[-1] == pytest.approx(0.2)
    assert lengths[5] == pytest.approx(1.1)
    assert lengths[2] == pytest.approx(2 * (0.1 + 0.45 * (1 + math.cos(math.pi / 5))))
    assert {PGD(5, schedule="constant", step=0.5).length(number) for number in range(5)} == {0.5}
    assert from_name("fgsm").length(0) == 1.0  # type: ignore[attr-defined]
    assert from_name("bim-10").length(3) == 0.25  # type: ignore[attr-defined]


def test_a_quarter_of_the_last_move_goes_into_the_next(x: Tensor) -> None:
    """On a model that always climbs the same way, far from every border, moves are in closed form."""

    class Slope(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = images.sum(dim=(1, 2, 3)) / 1e4
            return torch.stack([torch.ones_like(score), score], dim=1)

    x, y = torch.full_like(x, 0.5), torch.zeros(len(x), dtype=torch.int64)
    watched = Watched(Slope())
    PGD(3, step=0.1, schedule="constant", random_start=False, until_fooled=False).run(watched, x, y, 0.4)
    points = [float(seen.flatten()[0]) for seen in watched.seen[:4]]
    step = 0.1 * 0.4
    second = 0.75 * step + 0.25 * step
    assert points == pytest.approx([0.5, 0.5 + step, 0.5 + step + second, 0.5 + step + 2 * second], abs=1e-6)


def test_attacks_leave_generators_and_gradients_as_they_were(model: nn.Module, x: Tensor, y: Tensor) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    for attack in (PGD(2), PGD(2, draws=2), Noise(norm="l2")):
        state = torch.random.get_rng_state()
        attack.run(model, x, y, EPS)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert all(bool((parameter.grad == 7).all()) for parameter in model.parameters())  # type: ignore[union-attr]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_generators_of_gpus_are_restored_if_used_and_left_alone_if_not(
    model: nn.Module, x: Tensor, y: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On images of the CPU, whose network may have parts on a GPU."""
    touched: list[Any] = []

    def used(value: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: value)
        touched.clear()

    monkeypatch.setattr(torch.cuda, "device_count", lambda: (touched.append("count"), 2)[1])
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda gpu: (touched.append(f"kept {gpu}"), gpu)[1])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, gpu: touched.append(f"restored {gpu}"))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: touched.append("seeded"))
    calls = (
        lambda: PGD(2).run(model, x, y, EPS),
        lambda: has_derivative(model, x[:1]),
    )
    for call in calls:
        used(False)
        call()
        assert touched == []
        used(True)
        call()
        assert touched[:3] == ["count", "kept 0", "kept 1"]
        assert touched[-2:] == ["restored 0", "restored 1"]
    used(True)
    PGD(2).run(model, x, y, EPS)
    assert touched[3] == "seeded"


# --- noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_noise_moves_every_sample_by_the_radius_up_or_down(dtype: torch.dtype) -> None:
    """Drawn numbers near 1/2, of which bfloat16 takes four in a thousand for 1/2 itself, decide as well."""
    x = torch.full((2, 3, 32, 32), 0.5, dtype=dtype)
    moved = Noise(seed=4).run(Linear(x.shape[1:]).to(dtype), x, torch.zeros(2).long(), 0.125).x_adv - x
    below = draw(x.shape[1:], torch.arange(2), 4, "noise") < 0.5
    assert torch.equal(moved, torch.where(below, -0.125, 0.125).to(dtype))


def test_exactly_half_of_the_drawn_numbers_lead_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are multiples of a number in [0, 1): here of a quarter."""
    monkeypatch.setattr(noise, "draw", lambda *_: torch.tensor([0.0, 0.25, 0.5, 0.75]).view(1, 1, 2, 2))
    x = torch.full((1, 1, 2, 2), 0.5)
    found = Noise().run(Linear(x.shape[1:]), x, torch.zeros(1).long(), 0.125).x_adv
    assert (found - x).flatten().tolist() == [-0.125, -0.125, 0.125, 0.125]


def test_noise_in_l2_is_normal_and_of_the_radius_in_each_image(model: nn.Module) -> None:
    x, y = torch.full((3, 3, 24, 24), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    indices = torch.tensor([5, 0, 2])
    moved = Noise(seed=4, norm="l2").run(model.double(), x, y, 0.5, indices=indices).x_adv - x
    assert moved.flatten(1).norm(dim=1).tolist() == pytest.approx([0.5] * 3)
    far = Noise(seed=4, norm="l2").run(model.double(), x, y, 2.0).x_adv - x  # a radius of more than 1
    assert far.flatten(1).norm(dim=1).tolist() == pytest.approx([2] * 3)
    drawn = draw(x.shape[1:], indices, 4, "noise", normal=True).double()
    cosine = nn.functional.cosine_similarity(moved.flatten(1), drawn.flatten(1))
    assert cosine.tolist() == pytest.approx([1] * 3)
    assert float((moved > 0).double().mean()) == pytest.approx(0.5, abs=0.05)
    # Drawn numbers may be short.
    lone = Noise(norm="l2").run(
        Linear(torch.Size([1, 1, 1])), torch.full((8, 1, 1, 1), 0.5), torch.zeros(8).long(), 0.25
    )
    assert set((lone.x_adv - 0.5).abs().flatten().tolist()) == {0.25}


# --- radii of single images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "radii"), [("linf", [0.1, 0.3]), ("l2", [0.5, 1.5]), ("l0", [3.0, 20.0])])
def test_a_projection_takes_a_radius_for_each_image(norm: Any, radii: list[float], x: Tensor) -> None:
    x, far = x[:2], 1 - x[:2]
    together = project(far, x, torch.tensor(radii).view(2, 1, 1, 1), norm)
    for place, radius in enumerate(radii):
        alone = project(far[place : place + 1], x[place : place + 1], radius, norm)
        torch.testing.assert_close(together[place : place + 1], alone)
        assert float(distances(alone, x[place : place + 1], norm)) == pytest.approx(radius)


# --- losses -----------------------------------------------------------------------------------------------------------


def test_right_is_the_largest_logit_among_numbers() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.nan, 0.0], [0.0, torch.nan], [torch.inf, 0.0], [1.0, 1.0]])
    assert correct(logits, torch.zeros(6, dtype=torch.int64)).tolist() == [True, False, False, False, True, True]


@pytest.mark.parametrize(("aim", "least"), [("away", 3), ("given", 4)])
def test_the_ratio_of_logits_needs_three_classes_or_four_towards_one(aim: Any, least: int, x: Tensor) -> None:
    attack = PGD(1, loss="dlr", aim=aim)
    y = torch.zeros(len(x), dtype=torch.int64)
    assert attack.run(Tiny(least).eval(), x, y, EPS).x_adv.shape == x.shape
    with pytest.raises(
        ValueError, match=rf"^model must have at least {least} classes for the loss dlr.* got {least - 1}"
    ):
        attack.run(Tiny(least - 1).eval(), x, y, EPS)


def test_the_ratio_towards_a_class_equals_its_formula() -> None:
    """Largest logit 5; the gap to the mean of the third and fourth is 5 − (2 + 1) / 2."""
    logits = torch.tensor([[3.0, 5.0, 2.0, 1.0, -7.0]] * 2)
    assert dlr_towards(logits, torch.tensor([0, 1])).tolist() == pytest.approx([-2 / 3.5, 2 / 3.5])
    assert dlr(logits, torch.tensor([0, 1])).tolist() == pytest.approx([2 / 3, -2 / 3])


def test_ratios_do_not_change_with_the_scale_of_logits() -> None:
    """In float64 also where the largest logits are a millionth of a millionth apart."""
    logits, y = torch.tensor([[3.0, 2.0, 1.5, 0.0]] * 2, dtype=torch.float64), torch.tensor([0, 1])
    for ratio in (dlr, dlr_towards):
        for scale in (0.75e-12, 1e9):
            torch.testing.assert_close(ratio(scale * logits, y), ratio(logits, y), rtol=1e-9, atol=0)


# --- ties, NaN, no derivative -----------------------------------------------------------------------------------------


class Constant(nn.Module):
    """A model of equal logits, with a gradient of zero."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)).repeat(1, 2) * 0 + self.value


NAMES = ("pgd-2", "apgd-ce-3", "apgd-dlr-3", "apgd-t-3", "fab-2x2", "square-6", "deepfool-2", "cw-2x2", "ddn-2")


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", [*NAMES, "boundary-2", "hopskipjump-1"])
@pytest.mark.parametrize("value", [1.0, 0.0, torch.nan, torch.inf], ids=["ties", "zeros", "NaN", "infinities"])
def test_logits_that_no_attack_expects_are_judged_all_the_same(name: str, norm: str, value: float) -> None:
    for package in ("foolbox", "pyautoattack"):
        pytest.importorskip(package)
    if norm == "linf" and name.split("-")[0] in ("cw", "ddn", "boundary"):
        pytest.skip("minimises the L2 norm only")
    x, y = torch.full((2, 3, 20, 20), 0.5), torch.tensor([0, 1])
    result = from_name(name, norm=norm).run(Constant(value).eval(), x, y, 0.1)
    assert bool(result.x_adv.isfinite().all())
    # A tie is not misclassified; what is not a number is.
    assert result.margin.tolist() == ([0.0] * 2 if value in (0.0, 1.0) else [torch.inf] * 2)


def test_square_goes_on_from_a_tie_in_l2(x: Tensor) -> None:
    """Ties on the image itself, and a class that any move of the right sign makes the largest."""
    pytest.importorskip("pyautoattack")

    class Tied(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = (images - 0.5).mean(dim=(1, 2, 3))
            return torch.stack([torch.zeros_like(score), score], dim=1)

    x, y = torch.full((2, 3, 20, 20), 0.5), torch.zeros(2, dtype=torch.int64)
    assert margin(Tied()(x), y).tolist() == [0, 0]
    result = from_name("square-100", norm="l2").run(Tied(), x, y, 1.0)
    assert bool((result.margin > 0).all())


class Detached(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return Tiny()(images.detach())


class ByNumpy(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(images.numpy().mean(axis=(2, 3)))


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images * 2


class WithoutFormula(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        doubled: Tensor = NoBackward.apply(images)
        return doubled.mean(dim=(2, 3))


@pytest.mark.parametrize("kind", [Detached, ByNumpy, WithoutFormula])
def test_a_model_without_a_derivative_has_a_gradient_of_zero(kind: type[nn.Module], x: Tensor, y: Tensor) -> None:
    model = kind()
    assert not has_derivative(model, x[:1])
    flat = Flat(model)
    points = x.clone().requires_grad_()
    out = flat(points)
    with torch.no_grad():
        assert torch.equal(out, model(x))
    out.sum().backward()
    assert points.grad is not None
    assert not bool(points.grad.any())
    assert PGD(2).run(flat, x, y.clamp(max=2), EPS).x_adv.shape == x.shape


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), RuntimeError("CUDA error: out of memory")])
def test_a_lack_of_memory_is_no_lack_of_a_derivative(error: Exception, x: Tensor, y: Tensor) -> None:
    class Large(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise error

    for call in (lambda: has_derivative(Large(), x), lambda: PGD(2).run(Large(), x, y, EPS)):
        with pytest.raises(type(error), match="memory") as caught:
            call()
        assert caught.value is error


def test_a_derivative_is_found_where_there_is_one(model: nn.Module, x: Tensor) -> None:
    state = torch.random.get_rng_state()
    assert has_derivative(model, x[:1])
    assert has_derivative(nn.Sequential(nn.Dropout(0.5).train(), model), x[:1])
    assert torch.equal(torch.random.get_rng_state(), state)
