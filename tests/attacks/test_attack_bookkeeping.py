"""How attacks use other packages and keep their books: with points made up by hand, in place of a search."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fdjpeg.attacks import (
    APGD,
    DDN,
    FAB,
    JSMA,
    NAMES,
    PGD,
    Boundary,
    CarliniWagnerL0,
    CarliniWagnerLinf,
    DeepFool,
    HopSkipJump,
    Square,
    Transfer,
    carlini_wagner,
    from_name,
)
from fdjpeg.attacks.base import Counted, _joined
from fdjpeg.attacks.pgd import _Climbers


class Bright(nn.Module):
    """So many classes: 1 from a mean above 1/2 on, else 0."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1).mean(dim=1) - 0.5
        return torch.stack([-score, score, *[score - 9] * (self.classes - 2)], dim=1)


def grey(*levels: float, size: tuple[int, int] = (2, 2)) -> Tensor:
    return torch.stack([torch.full((1, *size), level) for level in levels])


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_no_setting_of_any_attack_can_be_changed() -> None:
    for attack in (*map(from_name, NAMES), Transfer(PGD(2), Bright())):
        for setting in fields(attack):  # type: ignore[arg-type]
            with pytest.raises(FrozenInstanceError):
                setattr(attack, setting.name, None)


def test_seeds_are_0_unless_given() -> None:
    assert {from_name(name).seed for name in NAMES} == {0}


@pytest.mark.parametrize(
    "name",
    ["pgd-20", "bim-10", "flip-20", "apgd-ce-100", "apgd-dlr-100", "apgd-t-100x9", "fab-100x9", "square-5000",
     "deepfool-50", "cw-200x6", "ddn-100", "cw-l0-40x30", "cw-linf-40x30", "hopskipjump-10", "boundary-5000",
     "pgd-targeted-20x9", "flip-targeted-20x9"],
)  # fmt: skip
def test_a_name_without_a_budget_has_that_of_the_page(name: str) -> None:
    assert from_name(name.rpartition("-")[0]) == from_name(name)


def test_all_settings_of_an_attack_may_be_given() -> None:
    assert from_name("noise", seed=3, norm="l2").settings() == {"attack": "Noise", "seed": 3, "norm": "l2"}
    assert from_name("ddn", steps=2, seed=3, norm="l2") == DDN(2, 3)


# --- foolbox ----------------------------------------------------------------------------------------------------------


def test_budgets_reach_foolbox() -> None:
    attacks = pytest.importorskip("foolbox").attacks
    for norm, kind in (("linf", attacks.LinfDeepFoolAttack), ("l2", attacks.L2DeepFoolAttack)):
        theirs = DeepFool(steps=3, candidates=4, norm=norm).theirs()  # type: ignore[arg-type]
        assert (type(theirs), theirs.steps, theirs.candidates) == (kind, 3, 4)
    assert Boundary(steps=6).theirs().steps == 6
    assert HopSkipJump(steps=7).theirs().steps == 7


def test_distances_are_those_of_misclassified_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four images the first is wrong by itself; foolbox gets the others, and finds two of them."""
    pytest.importorskip("foolbox")
    given = []

    def theirs(model: Any, x: Tensor, y: Tensor, epsilons: None) -> tuple[Tensor, None, None]:
        given.append(len(x))
        return x + torch.tensor([0.5, 0.125, 0.25]).view(3, 1, 1, 1), None, None

    monkeypatch.setattr(DeepFool, "theirs", lambda _: theirs)
    x = grey(0.75, 0.25, 0.25, 0.375)
    found = DeepFool().run(Bright().eval(), x, zeros(4), 0.25)
    assert given == [3]
    assert found.distance is not None
    assert found.distance.tolist() == [0, 0.5, torch.inf, 0.25]
    # Beyond the radius they are projected: the second is not misclassified there.
    assert (found.x_adv - x)[:, 0, 0, 0].tolist() == [0, 0.25, 0.125, 0.25]
    assert (found.margin > 0).tolist() == [True, False, False, True]


def test_a_tie_is_given_to_foolbox_and_does_not_count_as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of one sample, of the processor."""
    foolbox = pytest.importorskip("foolbox")
    wrapped, given = foolbox.PyTorchModel, []

    def noted(model: Any, bounds: Any, device: Any) -> Any:
        given.append(device)
        return wrapped(model, bounds=bounds, device=device)

    def theirs(model: Any, x: Tensor, y: Tensor, epsilons: None) -> tuple[Tensor, None, None]:
        given.append(x.flatten().tolist())
        return torch.tensor([0.5, 0.625]).view(2, 1, 1, 1), None, None

    monkeypatch.setattr(foolbox, "PyTorchModel", noted)
    monkeypatch.setattr(DeepFool, "theirs", lambda _: theirs)
    found = DeepFool().run(Bright().eval(), grey(0.25, 0.5, size=(1, 1)), zeros(2), 1.0)
    assert given == [torch.device("cpu"), [0.25, 0.5]]
    assert found.distance is not None
    assert found.distance.tolist() == [torch.inf, 0.125]


@pytest.mark.parametrize(("words", "known"), [("init_attack failed for 1 of 1 inputs", True), ("no such class", False)])
def test_only_a_missing_start_of_foolboxs_is_a_failure_to_find(
    words: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("foolbox")

    def theirs(model: Any, x: Tensor, y: Tensor, epsilons: None) -> Any:
        raise ValueError(words)

    monkeypatch.setattr(DeepFool, "theirs", lambda _: theirs)
    x = grey(0.25)
    if not known:
        with pytest.raises(ValueError, match=f"^{words}$"):
            DeepFool().run(Bright().eval(), x, zeros(1), 1.0)
        return
    found = DeepFool().run(Bright().eval(), x, zeros(1), 1.0)
    assert torch.equal(found.x_adv, x)
    assert found.distance is not None
    assert found.distance.tolist() == [torch.inf]


# --- pyautoattack -----------------------------------------------------------------------------------------------------


def settings_of(theirs: Any, *left_out: str) -> dict[str, Any]:
    """What pyautoattack's attack was made of: its constructor's arguments, but for those that are the caller's own."""
    mine = {"predict", "seed", "logger", "device", "verbose", "n_restarts", *left_out}
    names = {"resc_schedule": "rescale_schedule"}
    made = {name: names.get(name, name) for kind in type(theirs).__mro__ for name in _arguments(kind)}
    return {name: getattr(theirs, own) for name, own in made.items() if name not in mine and hasattr(theirs, own)}


def _arguments(kind: type) -> list[str]:
    return [] if kind is object else list(inspect.signature(kind).parameters)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_parts_of_autoattack_have_its_settings_and_our_budget(norm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("pyautoattack")
    from pyautoattack import autopgd_base, fab_pt, square

    used: list[Any] = []
    results: dict[type, Callable[[Tensor], Any]] = {
        autopgd_base.APGDAttack: lambda x: (None, torch.ones(len(x)), None, x),
        fab_pt.FABAttack_PT: lambda x: x,
        square.SquareAttack: lambda x: (None, x),
    }
    for kind, result in results.items():

        def search(self: Any, x: Tensor, y: Tensor, result: Any = result, **rest: Any) -> Any:
            used.append(self)
            return result(x)

        monkeypatch.setattr(kind, "attack_single_run", search)
    x, model = grey(0.25, size=(10, 10)), Bright().eval()
    whole = package.AutoAttack(model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=0.125)
    parts = (
        (APGD(steps=7, draws=2, norm=norm), whole.apgd, {"n_iter": 7, "eot_iter": 2, "loss": "ce"}),
        (APGD("dlr", steps=7, norm=norm), whole.apgd, {"n_iter": 7, "eot_iter": 1, "loss": "dlr"}),
        (APGD("dlr-targeted", steps=7, norm=norm), whole.apgd_targeted, {"n_iter": 7, "eot_iter": 1}),
        (FAB(steps=7, norm=norm), whole.fab, {"n_iter": 7, "targeted": True}),
        (Square(queries=7, norm=norm), whole.square, {"n_queries": 7}),
    )
    for ours, theirs, budget in parts:
        used.clear()
        ours.run(model, x, zeros(1), 0.125)
        assert settings_of(used[0]) == settings_of(theirs) | budget
        assert used[0].eps == 0.125


@pytest.fixture
def fab(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """FAB's calls, as their target and their number of images; each moves images as far as `Moves.by` says."""
    fab_pt = pytest.importorskip("pyautoattack.fab_pt")
    calls: list[tuple[int, int]] = []

    def search(self: Any, x: Tensor, y: Tensor, is_targeted: bool) -> Tensor:
        calls.append((self.target_class, len(x)))
        return x + torch.tensor(Moves.by.pop(0)).view(-1, 1, 1, 1)

    monkeypatch.setattr(fab_pt.FABAttack_PT, "attack_single_run", search)
    return calls


class Moves:
    by: list[list[float]]


@pytest.mark.parametrize(("targets", "tried"), [(9, [2, 3, 4]), (2, [2, 3]), (1, [2])])
def test_fab_tries_the_likeliest_wrong_classes_or_all(targets: int, tried: list[int], fab: list[Any]) -> None:
    """Of four classes; pyautoattack counts from the true one, which is 1."""
    Moves.by = [[0.0]] * 3
    found = FAB(targets=targets).run(Bright().eval(), grey(0.25), zeros(1), 0.125)
    assert fab == [(target, 1) for target in tried]
    assert torch.equal(found.x_adv, grey(0.25))
    assert found.distance is not None
    assert found.distance.tolist() == [torch.inf]


def test_fab_keeps_the_nearest_and_leaves_an_image_alone_within_the_radius(fab: list[Any]) -> None:
    """Three images. One is found at the radius itself, one nearer and farther beyond it, one is wrong by itself."""
    Moves.by = [[0.25, 0.375], [0.3125], [0.4375]]
    x = grey(0.375, 0.25, 0.75)
    found = FAB().run(Bright().eval(), x, zeros(3), 0.25)
    assert fab == [(2, 2), (3, 1), (4, 1)]
    assert found.distance is not None
    assert found.distance.tolist() == [0.25, 0.3125, 0]
    assert torch.equal(found.x_adv, grey(0.625, 0.25, 0.75))


def test_square_in_l2_takes_rectangles_that_its_tiles_cover() -> None:
    pytest.importorskip("pyautoattack")
    model = Bright().eval()
    assert Square(2, norm="l2").run(model, grey(0.25, size=(10, 24)), zeros(1), 0.1).queries > 0
    with pytest.raises(ValueError, match=r"five tiles cover.* got 24 × 10"):
        Square(2, norm="l2").run(model, grey(0.25, size=(24, 10)), zeros(1), 0.1)


# --- JSMA -------------------------------------------------------------------------------------------------------------


class Weighted(nn.Module):
    """Two classes on four samples: the second's logit is their weighted sum."""

    def __init__(self, weights: list[float], first: float = 1.0) -> None:
        super().__init__()
        self.weights, self.first = torch.tensor(weights), first

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1) @ self.weights
        return torch.stack([self.first - score, score], dim=1)


def test_one_sample_may_be_enough() -> None:
    x = grey(0.0)
    found = JSMA(pairs=False, surface="logits").run(Weighted([0.1, 0.9, 0.1, 0.1]).eval(), x, zeros(1), 4)
    assert found.x_adv.flatten().tolist() == [0, 1, 0, 0]
    assert found.distance is not None
    assert found.distance.tolist() == [1]


@pytest.mark.parametrize("theta", [1.0, -1.0])
def test_samples_at_the_end_of_the_range_do_not_move(theta: float) -> None:
    """The sample of the largest weight is there already; a budget of one sample goes to the second largest."""
    start, sign = (0.0, 1.0) if theta > 0 else (1.0, -1.0)
    x = grey(start)
    x[0, 0, 0, 0] = 1 - start
    model = Weighted([9 * sign, 8 * sign, 1 * sign, 1 * sign], 25.0 if theta > 0 else -11.0)
    found = JSMA(theta, pairs=False, surface="logits").run(model.eval(), x, zeros(1), 1)
    assert (found.x_adv - x).flatten().tolist() == [0, theta, 0, 0]


def test_an_image_whose_logits_are_no_numbers_needs_no_change() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = images.flatten(1).sum(dim=1)
            return torch.stack([score * torch.nan, score], dim=1)

    found = JSMA(surface="logits", pairs=False).run(Broken().eval(), grey(0.25), zeros(1), 4)
    assert torch.equal(found.x_adv, grey(0.25))
    assert found.distance is not None
    assert found.distance.tolist() == [0]


# --- Carlini and Wagner -----------------------------------------------------------------------------------------------


def test_penalties_are_of_each_image() -> None:
    change = torch.tensor([[0.5, -0.25, 0.0, 0.125], [0.0, 0.25, 0.0, -0.5]]).view(2, 1, 2, 2)
    bound = torch.tensor([0.125, 1.0])
    assert CarliniWagnerL0().penalty(change, bound).tolist() == [0.25 + 0.0625 + 0.015625, 0.0625 + 0.25]
    # A bound is a quarter at most.
    assert CarliniWagnerLinf().penalty(change, bound).tolist() == [0.375 + 0.125, 0.25]


def test_changes_below_half_of_a_bytes_step_are_undone() -> None:
    x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    state = carlini_wagner._State.at(x)
    point = x + torch.tensor([0.3, 0.4 / 255, 0.6 / 255, -0.6 / 255], dtype=torch.float64).view_as(x)
    better = CarliniWagnerL0()._note(Bright().eval(), state, torch.tensor([0]), point, zeros(1))  # type: ignore[arg-type]
    assert better.tolist() == [True]
    assert state.distance.tolist() == [3]
    assert ((state.best - x).flatten() != 0).tolist() == [True, False, True, True]
    assert state.distance.dtype == x.dtype  # as images of float64 have it


def test_a_fifth_of_the_changed_samples_is_put_back_by_gradient_times_change() -> None:
    """Two of three images were won. A sample that did not change is put back as well, and none is ever free again."""
    x = torch.full((3, 1, 2, 3), 0.25)
    state = carlini_wagner._State.at(x)
    changes = [[0.1, 0.2, 0.3, -0.4, 0.5, 0.0], [0.0] * 6, [0.5, 0.4, 0.3, 0.2, 0.1, 0.6]]
    state.best = x + torch.tensor(changes).view_as(x)
    state.here = state.best.clone()
    state.free[2, 0, 1, 2] = False
    gradient = torch.tensor([[6.0, 1.0, 1.0, 0.1, 1.0, 9.0], [1.0] * 6]).view(2, 1, 2, 3)
    CarliniWagnerL0(share=0.2).harder(state, gradient, torch.tensor([True, False, True]))
    assert state.free.flatten(1).int().tolist() == [[1, 1, 1, 0, 1, 0], [1] * 6, [1, 1, 1, 1, 0, 0]]
    assert torch.equal(state.here != x, state.free & (state.best != x))


# --- Auto-PGD's schedule ----------------------------------------------------------------------------------------------


def scales(values: list[float], checkpoints: dict[int, int]) -> list[float]:
    """How much shorter steps are after each loss, of one image."""
    here = _Climbers.at(torch.zeros(1, 1, 1, 1), torch.tensor([0]))
    found = []
    for number, value in enumerate(values):
        here.remember(torch.tensor([value]), torch.ones(1, 1, 1, 1), checkpoints.get(number))
        found.append(float(here.scale))
    return found


def test_steps_are_halved_where_three_quarters_raise_the_loss_or_the_best_stays() -> None:
    # The first point raises nothing: of four steps three are gains, which is not more than three quarters.
    assert scales([0, 1, 2, 3, 2], {4: 4})[-1] == 0.5
    assert scales([0, 1, 2, 3, 4], {4: 4})[-1] == 1
    # After a checkpoint that kept the step: four of five steps are gains, but the best loss is as it was.
    assert scales([0, 1, 2, 3, 9, 0, 1, 2, 3, 4, 5], {4: 4, 10: 6})[-1] == 0.5
    assert scales([0, 1, 2, 3, 9, 0, 1, 2, 3, 4, 10], {4: 4, 10: 6})[-1] == 1
    # Where the checkpoint before has halved it, the best loss may stay.
    assert scales([0, 1, 2, 3, 2, 0, 1, 2, 2.1, 2.2, 2.3], {4: 4, 10: 6})[-1] == 0.5


def test_a_counted_model_is_in_the_mode_of_the_model() -> None:
    for model in (nn.Dropout().train(), nn.Dropout().eval()):
        assert Counted(model, torch.zeros(1, dtype=torch.int64)).training is model.training


def test_parts_of_a_batch_are_joined_along_their_images() -> None:
    joined = _joined([torch.ones(3, 2), None, torch.zeros(3, 1)])
    assert joined is not None
    assert joined.tolist() == [[1, 1, 0]] * 3
    assert _joined([None, None]) is None
