"""Sentences of the attacks' docstrings that results alone do not show: budgets, starts, settings and who is blamed."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from fractions import Fraction
from typing import Any

import pytest
import torch
from support.classifiers import Tiny
from torch import Tensor, nn

import fdjpeg
from fdjpeg._calls import checked_logits, logits_of
from fdjpeg.attacks import (
    APGD,
    DDN,
    FAB,
    PGD,
    CarliniWagner,
    CarliniWagnerL0,
    CarliniWagnerLinf,
    Exposed,
    Flip,
    HopSkipJump,
    Noise,
    Square,
    Transfer,
    autoattack,
    carlini_wagner,
    draw,
    first_pass,
    format_eps,
    from_name,
)
from fdjpeg.attacks.byte_grid import to_byte_grid
from fdjpeg.attacks.calls import Flat
from fdjpeg.attacks.codec import DrawsByImage

# ---------------------------------------------------------------------------------------------------------------------
# Settings


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (APGD, "APGD-CE-100"),
        (CarliniWagner, "CW-200×6"),
        (CarliniWagnerL0, "CW-L0-40×30"),
        (CarliniWagnerLinf, "CW-Linf-40×30"),
        (DDN, "DDN-100"),
        (Flip, "Flip-20"),
    ],
)
def test_names_without_settings_show_the_default_budget(kind: Any, name: str) -> None:
    assert kind().name == name


@pytest.mark.parametrize("attack", [PGD(2), APGD(), CarliniWagner(), CarliniWagnerLinf(), DDN(), Flip(), Square()])
def test_settings_cannot_be_changed(attack: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        attack.seed = 3


def test_settings_reach_foolbox() -> None:
    pytest.importorskip("foolbox")
    theirs = CarliniWagner(steps=3, searches=2, step=0.5).theirs()
    assert (theirs.steps, theirs.binary_search_steps, theirs.stepsize, theirs.abort_early) == (3, 2, 0.5, False)
    assert DDN(steps=7).theirs().steps == 7


def test_the_steps_of_older_attacks_add_up() -> None:
    """BIM's to 2.5 radii, FGSM's to one."""
    assert [from_name(f"bim-{steps}").step for steps in (5, 10)] == [0.5, 0.25]  # type: ignore[attr-defined]
    assert from_name("fgsm").step == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("eps", "written"),
    [(Fraction(2, 255), "2/255"), (Fraction(1, 510), "0.5/255"), (Fraction(1, 5), "0.2"), (Fraction(3), "3")],
)
def test_radii_are_written_in_255ths_or_as_decimals(eps: Fraction, written: str) -> None:
    assert format_eps(eps) == written


@pytest.mark.parametrize("kind", [APGD, FAB, Square])
def test_a_seed_is_a_whole_number(kind: Any) -> None:
    pytest.importorskip("pyautoattack")
    with pytest.raises((TypeError, ValueError), match="seed"):
        kind(seed=0.5)


def test_noise_and_transfer_are_as_their_pages_say() -> None:
    with pytest.raises(ValueError, match="norm must be"):
        Noise(norm="l3")  # type: ignore[arg-type]
    assert "Tiny" not in repr(Transfer(PGD(2), Tiny()))  # a network's own text is long
    bright = first_pass(nn.Upsample(scale_factor=1), torch.full((1, 1, 2, 2), 0.5))
    assert bright.unique().tolist() == [0.5]

    class Bright(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 3 * images - 0.5

    assert first_pass(Bright(), torch.tensor([0.0, 0.3, 0.9]).view(1, 1, 1, 3)).flatten().tolist() == pytest.approx(
        [0, 0.4, 1]
    )


# ---------------------------------------------------------------------------------------------------------------------
# Auto-PGD


class Brightness(nn.Module):
    """Two classes, tied at a mean of 1/2; the second is the larger above it."""

    def forward(self, images: Tensor) -> Tensor:
        score = (images - 0.5).mean(dim=(1, 2, 3))
        return torch.stack([-score, score], dim=1)


def test_auto_pgd_needs_two_classes_for_the_entropy_and_goes_on_from_a_tie() -> None:
    pytest.importorskip("pyautoattack")
    x, y = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    assert bool((APGD(steps=3).run(Brightness().eval(), x, y, 0.1).margin > 0).all())
    with pytest.raises(ValueError, match="at least 3 classes"):
        APGD("dlr", steps=3).run(Brightness().eval(), x, y, 0.1)


def test_auto_pgd_starts_at_both_ends_of_the_ball() -> None:
    pytest.importorskip("pyautoattack")
    x = torch.full((3, 1, 24, 24), 0.5)
    moved = APGD()._start(x, 0.1, torch.arange(3), 0) - x
    assert float(moved.max()) == pytest.approx(0.1, rel=0.01)
    assert float(moved.min()) == pytest.approx(-0.1, rel=0.02)
    assert float(moved.mean().abs()) < 0.01
    length = (APGD(norm="l2")._start(x, 0.1, torch.arange(3), 0) - x).flatten(1).norm(dim=1)
    assert length.tolist() == pytest.approx([0.1] * 3, rel=1e-3)


# ---------------------------------------------------------------------------------------------------------------------
# The caller's network


class Failing(nn.Module):
    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError(self.words)


@pytest.mark.parametrize(("words", "reason"), [("first\nsecond", "first"), ("  \n", "no message")])
def test_a_networks_own_error_is_shown_by_its_first_line(words: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^model must take .* got RuntimeError from it: {reason}$"):
        logits_of(Failing(words), torch.zeros(1, 3, 8, 8))


def test_half_logits_become_float32_and_others_stay() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        assert checked_logits(torch.zeros(2, 3, dtype=dtype), 2).dtype == torch.float32
    for dtype in (torch.float32, torch.float64):
        assert checked_logits(torch.zeros(2, 3, dtype=dtype), 2).dtype == dtype


def test_a_lone_class_can_never_be_wrong() -> None:
    assert checked_logits(torch.zeros(2, 2), 2).shape == (2, 2)
    with pytest.raises(ValueError, match="at least two classes, got 1"):
        checked_logits(torch.zeros(2, 1), 2)


def test_a_gradient_of_zero_is_on_the_images_device() -> None:
    images = torch.zeros(1, 1, 2, 2, device="meta", requires_grad=True)
    (gradient,) = torch.autograd.grad(Flat(nn.Flatten())(images).sum(), images)
    assert gradient.is_meta


@pytest.mark.parametrize("mode", [True, False])
def test_a_module_without_derivative_keeps_its_mode(mode: bool) -> None:
    module = nn.Sequential(nn.Dropout(), nn.Flatten()).train(mode)
    assert Flat(module).training == mode
    assert module.training == mode


# ---------------------------------------------------------------------------------------------------------------------
# Points


def test_whole_bytes_in_l2_are_the_nearest_ones_in_the_ball() -> None:
    """At the radius itself they are in the ball; beyond it samples are rounded towards the image."""
    x, x_adv = torch.full((1, 1, 1, 2), 10 / 255, dtype=torch.float64), torch.tensor([[[[10.6, 10.0]]]]) / 255
    for eps, level in ((1.0, 11), (1.2, 11), (0.9, 10)):
        moved = to_byte_grid(x_adv.double(), x, eps / 255, "l2")
        assert (moved * 255).round().tolist() == [[[[level, 10]]]]


def test_draws_of_one_step_differ() -> None:
    draws = DrawsByImage(torch.arange(4), seed=0, purpose="quality")
    first, second = draws.uniform(), draws.uniform()
    assert not bool((first == second).any())
    assert not torch.equal(draws.on_host(), draws.on_host())
    assert torch.equal(DrawsByImage(torch.arange(4), seed=0, purpose="quality").uniform(), first)


def test_draws_for_all_images_are_those_of_the_first() -> None:
    found = DrawsByImage(torch.tensor([3, 8]), seed=5, purpose="quality").on_host()
    assert found.tolist() == draw(torch.Size(), torch.tensor([0]), 5, "quality 1").tolist() * 2


def test_square_starts_from_stripes_of_both_signs(monkeypatch: pytest.MonkeyPatch, x: Tensor, y: Tensor) -> None:
    pytest.importorskip("pyautoattack")
    given: list[Tensor] = []
    make = autoattack._first_then
    monkeypatch.setattr(autoattack, "_first_then", lambda first, other: given.append(first) or make(first, other))
    Square(queries=2)(Tiny().eval(), x, y, 8 / 255)
    (stripes,) = given
    assert set(stripes.unique().tolist()) == {-1.0, 1.0}
    assert 0.3 < float((stripes > 0).float().mean()) < 0.7
    assert len({tuple(one.flatten().tolist()) for one in stripes}) == len(stripes)


def test_the_first_choice_is_given_and_the_others_are_made() -> None:
    choice = autoattack._first_then(torch.ones(2, 3), lambda shape: torch.zeros(shape))
    assert torch.equal(choice([2, 3]), torch.ones(2, 3))
    assert torch.equal(choice([4]), torch.zeros(4))
    with pytest.raises(RuntimeError, match=r"asked for \(3,\) first, not \(2, 3\)"):
        autoattack._first_then(torch.ones(2, 3), torch.zeros)([3])


# ---------------------------------------------------------------------------------------------------------------------
# foolbox


def test_foolbox_gets_the_range_of_images_and_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    foolbox = pytest.importorskip("foolbox")
    true, given = foolbox.PyTorchModel, []

    def noted(*arguments: Any, **options: Any) -> Any:
        given.append(options["bounds"])
        return true(*arguments, **options)

    monkeypatch.setattr(foolbox, "PyTorchModel", noted)
    DDN(steps=2).run(Brightness().eval(), torch.full((1, 1, 4, 4), 0.4), torch.zeros(1).long(), 1.0)
    assert given == [(0, 1)]
    # What comes back outside of the range is cut to it before its distance is taken.
    monkeypatch.setattr(DDN, "theirs", lambda _: lambda model, x, y, epsilons: (x + 3, None, None))
    far = DDN(steps=2).run(Brightness().eval(), torch.full((1, 1, 4, 4), 0.4), torch.zeros(1).long(), 9.0)
    assert float(far.distance) == pytest.approx(4 * 0.6)
    assert [HopSkipJump(norm=norm).theirs().constraint for norm in ("linf", "l2")] == ["linf", "l2"]


# ---------------------------------------------------------------------------------------------------------------------
# Rounds of Carlini and Wagner's attacks


class Calls(nn.Module):
    """Counts its calls; its class is always 1, or never where ``robust``."""

    def __init__(self, robust: bool) -> None:
        super().__init__()
        self.robust, self.calls = robust, 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        score = images.flatten(1).mean(dim=1) * 0.1 + (-5 if self.robust else 5)
        return torch.stack([-score, score], dim=1)


@pytest.mark.parametrize("attack", [CarliniWagnerLinf, CarliniWagnerL0])
def test_a_wrong_image_takes_no_steps(attack: Any) -> None:
    calls = []
    for steps in (3, 9):
        model = Calls(robust=False).eval()
        found = attack(steps=steps, rounds=2).run(model, torch.full((2, 3, 4, 4), 0.5), torch.zeros(2).long(), 0.1)
        assert torch.equal(found.x_adv, torch.full((2, 3, 4, 4), 0.5))
        calls.append(model.calls)
    assert calls[0] == calls[1]


def test_later_rounds_look_for_nearer_images_than_the_first_found() -> None:
    """It is found at less than 1 from the image, and the second round takes as many steps again."""
    x, y = torch.full((1, 1, 4, 4), 0.45), torch.zeros(1, dtype=torch.int64)
    queries = []
    for rounds in (1, 2):
        result = CarliniWagnerLinf(steps=20, rounds=rounds).run(Brightness().eval(), x, y, 0.5)
        assert float(result.distance) < 0.5
        queries.append(result.queries)
    assert queries[1] >= queries[0] + 20


@pytest.mark.parametrize("level", [0.51, 0.6])
def test_flip_leaves_a_wrong_image_alone(level: float) -> None:
    """However narrowly it is wrong: the margin is 0.02 or 0.2 here."""
    x, y = torch.full((1, 1, 8, 8), level), torch.zeros(1, dtype=torch.int64)
    exposed = Exposed([fdjpeg.JPEG(90)], [Brightness()]).eval()
    assert len({Flip(steps).run(exposed, x, y, 1 / 255).queries for steps in (1, 4)}) == 1


def test_a_failed_round_weighs_four_times_and_the_next_starts_where_it_ended() -> None:
    x = torch.full((2, 3, 4, 4), 0.5)
    attack, state = CarliniWagnerLinf(steps=3, rounds=1), carlini_wagner._State.at(x)
    assert state.weight.tolist() == [1, 1]
    assert bool(state.distance.isinf().all())
    attack._round(Calls(robust=True), state, torch.tensor([0]), torch.zeros(2).long())  # type: ignore[arg-type]
    assert state.weight.tolist() == [4, 1]
    assert not torch.equal(state.here[0], x[0])
    assert torch.equal(state.here[1], x[1])
    assert torch.equal(state.best, x)
