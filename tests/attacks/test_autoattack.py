"""The parts of AutoAttack around pyautoattack's searches: starts, restarts, images left alone, and its pitfalls."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fdjpeg._packages import MissingPackage
from fdjpeg.attacks import APGD, FAB, Square, autoattack, draw, from_name
from fdjpeg.attacks.autoattack import _check_tiles, _Single, _Untied

pytest.importorskip("pyautoattack")


class Bright(nn.Module):
    """Five classes: 1 from a mean above 1/2 on, else 0; then 3, 2 and 4 in this order, but 4 first on bright images."""

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1).mean(dim=1) - 0.5
        fourth = torch.where(score > -0.125, score - 2, score - 9)
        return torch.stack([-score, score, score - 5, score - 3, fourth], dim=1)


def grey(*levels: float, size: tuple[int, int] = (2, 2)) -> Tensor:
    return torch.stack([torch.full((1, *size), level) for level in levels])


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


# --- Auto-PGD ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def single_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[float], Any]]:
    """Auto-PGD's calls: the images and target classes. An image of 1/4 is found at once, others never."""
    base = pytest.importorskip("pyautoattack.autopgd_base")
    calls: list[tuple[list[float], Any]] = []

    def search(self: Any, x: Tensor, y: Tensor, x_init: Tensor) -> tuple[None, Tensor, None, Tensor]:
        calls.append((x[:, 0, 0, 0].tolist(), self.y_target if self.y_target is None else self.y_target.tolist()))
        found = x[:, 0, 0, 0] == 0.25
        return None, (~found).float(), None, torch.where(found.view(-1, 1, 1, 1), x + 0.375, x + 0.125)

    for kind in (base.APGDAttack, base.APGDAttack_targeted):
        monkeypatch.setattr(kind, "attack_single_run", search)
    return calls


def test_auto_pgd_restarts_from_the_images_that_are_still_right(single_runs: list[Any]) -> None:
    """Of four images two are wrong by themselves, however narrowly; one is found at the first start."""
    x = grey(0.75, 0.125, 0.25, 0.5625)
    found = APGD(restarts=3).run(Bright().eval(), x, zeros(4), 0.5)
    assert [images for images, _ in single_runs] == [[0.125, 0.25], [0.125], [0.125]]
    assert found.x_adv[:, 0, 0, 0].tolist() == [0.75, 0.25, 0.625, 0.5625]
    single_runs.clear()
    APGD(restarts=3).run(Bright().eval(), x[2:], zeros(2), 0.5)
    assert [images for images, _ in single_runs] == [[0.25]]  # then none is left


def test_each_target_class_is_tried_from_one_start_the_likeliest_first(single_runs: list[Any]) -> None:
    """Of five classes four are wrong, fewer than nine; the second image has another order of them."""
    APGD("dlr-targeted", restarts=9).run(Bright().eval(), grey(0.125, 0.4375), zeros(2), 0.5)
    assert [targets for _, targets in single_runs] == [[1, 1], [3, 4], [2, 3], [4, 2]]
    single_runs.clear()
    APGD("dlr-targeted", restarts=2).run(Bright().eval(), grey(0.125), zeros(1), 0.5)
    assert [targets for _, targets in single_runs] == [[1], [3]]
    single_runs.clear()
    APGD("dlr", restarts=6).run(Bright().eval(), grey(0.125), zeros(1), 0.5)
    assert [targets for _, targets in single_runs] == [None] * 6


def test_auto_pgds_starts_are_uniform_in_linf_and_normal_in_l2() -> None:
    """Each is on the surface: its image's draw of that restart, uniform in [−1, 1) or normal, brought to the radius."""
    x, indices = torch.full((2, 3, 8, 8), 0.5, dtype=torch.float64), torch.tensor([7, 3])
    uniform = 2 * draw(x.shape[1:], indices, 5, "start 4").double() - 1
    moved = (APGD(seed=5)._start(x, 0.25, indices, 4) - x).flatten(1)
    wanted = uniform.flatten(1) / uniform.flatten(1).abs().amax(dim=1, keepdim=True)
    torch.testing.assert_close(moved / 0.25, wanted)
    normal = draw(x.shape[1:], indices, 5, "start 4", normal=True).double().flatten(1)
    moved = (APGD(seed=5, norm="l2")._start(x, 0.25, indices, 4) - x).flatten(1)
    torch.testing.assert_close(moved / 0.25, normal / normal.norm(dim=1, keepdim=True))


def test_a_gradient_of_zero_is_no_warning_of_auto_pgds() -> None:
    """It is measured by the checks of an evaluation."""

    class Flat(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :3] * 0 + torch.tensor([3.0, 2.0, 1.0])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = APGD("dlr", steps=2).run(Flat().eval(), grey(0.5), zeros(1), 0.25)
    assert found.margin.tolist() == [-1]


@pytest.mark.parametrize(
    ("name", "needed"), [("apgd-ce", 2), ("apgd-dlr", 3), ("apgd-t", 4)], ids=lambda value: str(value)
)
def test_auto_pgd_needs_as_many_classes_as_its_loss_has_logits(name: str, needed: int, single_runs: list[Any]) -> None:
    class Few(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.classes = classes

        def forward(self, images: Tensor) -> Tensor:
            return Bright()(images)[:, : self.classes]

    attack = from_name(name)
    attack.run(Few(needed).eval(), grey(0.25), zeros(1), 0.5)
    assert len(single_runs) == 1
    if needed > 2:  # of a lone class no model is taken
        with pytest.raises(
            ValueError, match=rf"^model must have at least {needed} classes for APGD-.*, got {needed - 1}$"
        ):
            attack.run(Few(needed - 1).eval(), grey(0.25), zeros(1), 0.5)


@pytest.mark.parametrize("kind", [APGD, FAB, Square])
def test_each_part_of_autoattack_needs_its_package(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(MissingPackage, match=rf"^The attack {kind.__name__}.* needs the package pyautoattack, "):
        kind()


# --- FAB --------------------------------------------------------------------------------------------------------------


def test_fab_does_not_search_where_every_image_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(self: Any, x: Tensor, y: Tensor, is_targeted: bool) -> Tensor:
        raise AssertionError(f"asked for {len(x)} images")

    monkeypatch.setattr("pyautoattack.fab_pt.FABAttack_PT.attack_single_run", search)
    found = FAB().run(Bright().eval(), grey(0.75, 0.51), zeros(2), 0.25)
    assert found.distance is not None
    assert found.distance.tolist() == [0, 0]
    assert torch.equal(found.x_adv, grey(0.75, 0.51))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.float32])
def test_fab_gets_logits_of_float32(dtype: torch.dtype) -> None:
    assert _Single(nn.Flatten())(torch.zeros(2, 1, 1, 3, dtype=dtype)).dtype == torch.float32


# --- Square -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_asks_no_more_about_an_image_that_is_wrong(norm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three images one is wrong by itself, and one is a tie. In L2 images are attacked one by one."""
    given: list[tuple[list[float], bool]] = []

    def search(self: Any, x: Tensor, y: Tensor) -> tuple[None, Tensor]:
        given.append((x[:, 0, 0, 0].tolist(), isinstance(self.predict, _Untied)))
        return None, x + 0.0625

    monkeypatch.setattr("pyautoattack.square.SquareAttack.attack_single_run", search)
    x = grey(0.75, 0.25, 0.5, size=(5, 5))
    found = Square(norm=norm).run(Bright().eval(), x, zeros(3), 0.5)
    assert given == ([([0.25, 0.5], False)] if norm == "linf" else [([0.25], False), ([0.5], True)])
    assert found.x_adv[:, 0, 0, 0].tolist() == [0.75, 0.3125, 0.5625]


def test_square_takes_rectangles_in_linf() -> None:
    """Its first stripes are columns."""
    for size in ((4, 7), (7, 4)):
        x = grey(0.25, 0.375, size=size)
        assert float((Square(2)(Bright().eval(), x, zeros(2), 0.25) - x).abs().max()) > 0.2


def test_exactly_half_of_the_drawn_numbers_are_stripes_of_one_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are multiples of a number in [0, 1): here of a quarter."""
    quarters = torch.tensor([0.0, 0.25, 0.5, 0.75]).view(1, 1, 1, 4)
    given: list[Tensor] = []
    make = autoattack._first_then
    monkeypatch.setattr(autoattack, "draw", lambda *_: quarters)
    monkeypatch.setattr(autoattack, "_first_then", lambda first, other: given.append(first) or make(first, other))
    Square(1)(Bright().eval(), grey(0.25, size=(4, 4)), zeros(1), 0.125)
    assert given[0].flatten().tolist() == [-1, -1, 1, 1]


def test_squares_are_drawn_from_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same for all images, whichever are in the batch."""
    purposes: list[tuple[Any, ...]] = []
    true = autoattack.image_seed
    monkeypatch.setattr(autoattack, "image_seed", lambda *label: (purposes.append(label), true(*label))[1])
    x = grey(0.25, 0.375, size=(4, 4))
    for rows in (torch.tensor([0, 1]), torch.tensor([1])):
        Square(1, seed=5)(Bright().eval(), x[rows], zeros(len(rows)), 0.125, indices=rows)
    assert purposes == [(5, "squares", 0)] * 2


def test_a_tie_is_broken_by_the_least_possible_amount() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [-2.0, 3.0, 3.0]])
    untied = _Untied(nn.Flatten(), torch.tensor([0, 2]))(logits.view(2, 1, 1, 3))
    least = torch.finfo(torch.float32).eps
    assert (untied - logits).tolist() == [[least, 0, 0], [0, 0, 2 * least]]  # 3 has twice the spacing of 1


def test_tiles_of_a_fifth_of_the_height_cover_these_sizes() -> None:
    """Tiles begin after half of the rows that five leave over, and as many follow as the size holds."""
    for height, width in ((5, 5), (6, 6), (6, 9), (10, 24), (11, 11), (32, 32), (224, 224)):
        _check_tiles(height, width)
    for height, width in ((4, 4), (7, 7), (8, 8), (24, 10), (24, 24), (9, 9)):
        with pytest.raises(ValueError, match=rf"^x must be images that five tiles cover.*, got {height} × {width}$"):
            _check_tiles(height, width)


def test_names_show_budgets() -> None:
    attacks = (APGD("dlr", 7), APGD(steps=7, restarts=2), APGD("dlr-targeted", 7), FAB(7, 3), Square(7))
    assert [attack.name for attack in attacks] == [
        "APGD-DLR-7", "APGD-CE-7×2", "APGD-T-7", "FAB-T-7×3", "Square-7",
    ]  # fmt: skip
    assert [Square(norm=norm).one_at_a_time for norm in ("linf", "l2")] == [False, True]  # type: ignore[arg-type]
