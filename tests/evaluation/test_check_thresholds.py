"""Each sanity check at its threshold: one report that just passes it, and one that just fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.report_cases import SETTINGS

from fdjpeg.evaluation import Cell, Report
from fdjpeg.evaluation.checks import allowed
from fdjpeg.sources import ImageSet

#: Images of each report; two attacks may differ by three of them.
COUNT = 300
ALLOWED = 3


def cell(defense: str, threat: str, right: float, eps: str | None = "1/255", **fields: Any) -> Cell:
    """A cell of 300 images, of which the first ``right`` are right; a fraction is the share of one more."""
    shares = [float(min(max(right - place, 0), 1)) for place in range(COUNT)]
    chosen: dict[str, Any] = {"attack": None if threat == "clean" else "PGD-20", **fields}
    return Cell(defense, threat, eps=eps, indices=list(range(COUNT)), predicted=[0] * COUNT, right=shares, **chosen)


def report(*more: Cell, **settings: Any) -> Report:
    """100 of 300 images are right under every attack on both networks, and 200 without one."""
    defenses = {"jpeg:75": ["cubic"]}
    cells = [
        *(cell(name, "clean", 200, None, margin=[-1.0] * COUNT) for name in ("none", "jpeg:75")),
        *(cell(name, "noise", 150, attack="noise") for name in ("none", "jpeg:75")),
        cell("none", "white-box", 100),
        cell("jpeg:75", "gray-box", 150),
        cell("jpeg:75", "adaptive", 100, gradient="cubic"),
    ]
    images = ImageSet(torch.zeros(COUNT, 3, 1, 1), torch.zeros(COUNT).long(), tuple(map(str, range(COUNT))))
    return Report(replace(SETTINGS, defenses=defenses, **settings), [*cells, *more], images)


def curve(last: float) -> list[float]:
    """A loss that rises from −3 to 1 in twenty steps, and by ``last`` of that in the last tenth of them."""
    shares = [*(place / 18 * (1 - last) for place in range(19)), 1 - last / 2, 1.0]
    return [4 * share - 3 for share in shares]


def rising(share: float) -> Cell:
    return cell("jpeg:75", "adaptive", 200, gradient="tanh", attacked=1, loss=curve(share))


def larger(right: float) -> tuple[Cell, ...]:
    return (
        cell("jpeg:75", "adaptive", right, "2/255", gradient="cubic"),
        cell("none", "white-box", 100, "2/255"),
    )


TWO = {"eps": ["1/255", "2/255"]}
QUERIES = {"attacks": {"PGD-20": {}, "Square-5": {}}, "gradient_free": ["Square-5"]}


def queries(right: float) -> tuple[Cell, ...]:
    return tuple(cell(name, "black-box", right, attack="Square-5") for name in ("none", "jpeg:75"))


def lattice(found: dict[str, int]) -> dict[str, Any]:
    return {"images": replace(SETTINGS.images, on_lattice=found)}


#: For each check its name, then cells and settings that just pass, and those that just fail.
THRESHOLDS: dict[str, tuple[str, tuple[Cell, ...], tuple[Cell, ...], dict[str, Any]]] = {
    "pillow": (
        "Every judged image is Pillow's",
        (cell("jpeg:75", "gray-box", 150, differing=0),),
        (cell("jpeg:75", "gray-box", 150, differing=1),),
        {},
    ),
    "numbers": (
        "Every network and defence returns numbers",
        (cell("jpeg:75", "gray-box", 150, undefined=0),),
        (cell("jpeg:75", "gray-box", 150, undefined=1),),
        {},
    ),
    "inside": (
        "Adversarial images stay within",
        (cell("jpeg:75", "gray-box", 150, distance=[(1 + 0.9e-4) / 255]),),
        (cell("jpeg:75", "gray-box", 150, distance=[(1 + 1.1e-4) / 255]),),
        {},
    ),
    "larger radius": ("A larger radius never", larger(100), larger(101), TWO),
    "noise": (
        "Random noise does less harm",
        (cell("jpeg:75", "noise", 100, attack="noise"),),
        (cell("jpeg:75", "noise", 99, attack="noise"), cell("jpeg:75", "adaptive", 100, gradient="identity")),
        {},
    ),
    "gray-box": (
        "Knowing the layer",
        (cell("jpeg:75", "gray-box", 100),),
        (cell("jpeg:75", "gray-box", 99),),
        {},
    ),
    "transfer": (
        "Knowing the layer",
        (cell("jpeg:75", "transfer", 100, source="other"),),
        (cell("jpeg:75", "transfer", 99, source="other"),),
        {},
    ),
    "queries": ("Queries alone", queries(100), queries(99), QUERIES),
    "zero gradients": (
        "Gradients are not zero",
        (Cell("jpeg:75", "zero gradients", gradient="cubic", zeros=[0.25, 0.75]),),
        (Cell("jpeg:75", "zero gradients", gradient="cubic", zeros=[0.25, 0.7502]),),
        {},
    ),
    "large radius": (
        "A radius that allows any image",
        (cell("jpeg:75", "large radius", 0, None),),
        (cell("jpeg:75", "large radius", 0.05, None),),
        {},
    ),
    "one step": (
        "Many steps",
        (cell("jpeg:75", "one step", 100 - ALLOWED, gradient="cubic"),),
        (cell("jpeg:75", "one step", 99 - ALLOWED, gradient="cubic"),),
        {},
    ),
    "twice the steps": (
        "Twice the steps",
        (cell("jpeg:75", "twice the steps", 100 - ALLOWED),),
        (cell("jpeg:75", "twice the steps", 99.9 - ALLOWED),),
        {},
    ),
    "rising": ("The loss has stopped rising", (rising(0.0999),), (rising(0.1001),), {}),
    "plain rounding": (
        "Plain rounding",
        (cell("jpeg:75", "plain rounding", 100, gradient="zero"),),
        (cell("jpeg:75", "plain rounding", 99, gradient="zero"),),
        {},
    ),
    "seed fixed": (
        "A randomised defence with its seed fixed",
        (cell("jpeg:75", "seed fixed", 100 + ALLOWED),),
        (cell("jpeg:75", "seed fixed", 100.1 + ALLOWED),),
        {"randomised": ["jpeg:75"]},
    ),
    "tables of ones, above": (
        "A codec whose steps are all 1",
        (cell("tables of ones", "tables of ones", 100 + 2 * ALLOWED),),
        (cell("tables of ones", "tables of ones", 101 + 2 * ALLOWED),),
        {},
    ),
    "tables of ones, below": (
        "A codec whose steps are all 1",
        (cell("tables of ones", "tables of ones", 100 - 2 * ALLOWED),),
        (cell("tables of ones", "tables of ones", 99 - 2 * ALLOWED),),
        {},
    ),
    "certificates": (
        "No attack breaks a certified image",
        (cell("jpeg:75", "certificate", 100, attack=None, status=["constant"] * COUNT),),
        (cell("jpeg:75", "certificate", 101, attack=None, status=["constant"] * COUNT),),
        {"certify": True},
    ),
}


#: What each check reports of these cells, where it passes and where it fails.
FIGURES = {
    "pillow": ("0 samples differ in 1 cells of 300 images", "1 samples differ in 1 cells of 300 images"),
    "numbers": ("no NaN in 8 cells", "jpeg:75, gray-box at 1/255: 1 images"),
    "inside": ("at most 1.00009 of it", "at most 1.00011 of it"),
    "larger radius": ("worst case", "jpeg:75 100 at 1/255, 101 at 2/255"),
    "noise": ("every row", "jpeg:75 at 1/255: 99 after noise, 100 after attacks"),
    "gray-box": ("every row", "jpeg:75 at 1/255: 99 after gray-box, 100 after adaptive"),
    "transfer": ("every row", "jpeg:75 at 1/255: 99 after transfer, 100 after adaptive"),
    "queries": (
        "every row",
        "none at 1/255: 99 after queries, 100 with gradients; jpeg:75 at 1/255: 99 after queries, 100 with gradients",
    ),
    "zero gradients": ("at most 50.0 % of samples (jpeg:75 through cubic)", "jpeg:75 through cubic: 50 % exactly zero"),
    "large radius": ("0 of every defence", "jpeg:75 keeps 0.1"),
    "one step": ("1 attacks", "jpeg:75 through cubic at 1/255: 96 after one step, 100 after many"),
    "twice the steps": ("at most 3 of 300 images", "jpeg:75 at 1/255: 3.1 fewer"),
    "rising": ("at most 10.0 % of the gain", "PGD-20 on jpeg:75 through tanh at 1/255: 10 %"),
    "plain rounding": ("jpeg:75 at 1/255: 100 instead of 100", "jpeg:75 at 1/255: 99 instead of 100"),
    "seed fixed": ("jpeg:75 at 1/255: 103 with, 100 without", "jpeg:75 at 1/255: 103.1 with, 100 without"),
    "tables of ones, above": (
        "106 right at 1/255, 100 of the bare network",
        "107 right at 1/255, 100 of the bare network",
    ),
    "tables of ones, below": (
        "94 right at 1/255, 100 of the bare network",
        "93 right at 1/255, 100 of the bare network",
    ),
    "certificates": ("0 of 100 certificates, in 1 cells", "100 behind jpeg:75 at 1/255 by PGD-20 (adaptive)"),
}


@pytest.mark.parametrize("name", list(THRESHOLDS))
def test_a_check_fails_beyond_its_threshold_only(name: str) -> None:
    start, passing, failing, settings = THRESHOLDS[name]
    for cells, passed, figure in zip((passing, failing), (True, False), FIGURES[name], strict=True):
        (check,) = (check for check in report(*cells, **settings).checks if check.name.startswith(start))
        assert (check.passed, check.figure) == (passed, figure)


def test_a_decompressed_jpeg_fails_the_check_of_images() -> None:
    for found, passed in (({}, True), ({"a.png": 60}, False)):
        (check,) = (c for c in report(**lattice(found)).checks if c.name == "No image is a decompressed JPEG")
        assert check.passed is passed


def test_every_check_has_both_sides() -> None:
    """Each check that a report can have is among those above."""
    everything = [cells for _, passing, failing, _ in THRESHOLDS.values() for cells in (*passing, *failing)]
    names = {check.name for check in report(*everything, **TWO, **QUERIES).checks}
    starts = {start for start, *_ in THRESHOLDS.values()} | {"No image is a decompressed JPEG"}
    assert all(any(name.startswith(start) for start in starts) for name in names)
    assert len(names) == len(starts)


@pytest.mark.parametrize(("right", "masked"), [(0.05, False), (ALLOWED, False), (ALLOWED + 0.05, True)])
def test_a_large_radius_shows_masked_gradients_beyond_the_allowance(right: float, masked: bool) -> None:
    (check,) = (
        check for check in report(cell("jpeg:75", "large radius", right, None)).checks if "allows any" in check.name
    )
    assert not check.passed
    assert (check.masked == ("jpeg:75",)) is masked


def test_the_allowance_is_a_point_or_an_image() -> None:
    assert [allowed(count) for count in (1, 99, 100, 101, 300)] == [1, 1, 1, 1.01, 3]


@pytest.mark.parametrize("steps", [9, 10, 11])
def test_short_curves_are_not_judged(steps: int) -> None:
    """Ten steps have eleven points, of which the last tenth is one step."""
    rise = [*([0.0] * steps), 1.0]
    short = cell("jpeg:75", "adaptive", 200, gradient="tanh", attacked=1, loss=rise)
    found = [check for check in report(short).checks if check.name.startswith("The loss")]
    assert [check.passed for check in found] == ([] if steps < 10 else [False])


@pytest.mark.parametrize(("before", "passed"), [(9.0, True), (8.99, False)])
def test_a_tenth_of_the_gain_may_come_in_the_last_tenth_of_the_steps(before: float, passed: bool) -> None:
    losing = cell("jpeg:75", "adaptive", 200, gradient="tanh", attacked=1, loss=[0.0] * 10 + [before, 10.0])
    (found,) = (check for check in report(losing).checks if check.name.startswith("The loss"))
    figure = "at most 10.0 % of the gain" if passed else "PGD-20 on jpeg:75 through tanh at 1/255: 10 %"
    assert (found.passed, found.figure) == (passed, figure)


@pytest.mark.parametrize(("count", "few"), [(99, True), (100, False), (101, False)])
def test_fewer_than_a_hundred_images_are_called_few(count: int, few: bool) -> None:
    images = ImageSet(torch.zeros(count, 3, 1, 1), torch.zeros(count).long(), tuple(map(str, range(count))))
    assert ("They are few" in Report(SETTINGS, [], images).headline) == few


#: The checks of every report, and of `report` above.
OF_EVERY_REPORT = [
    "Every network and defence returns numbers: NaN counts as wrong",
    "No image is a decompressed JPEG",
    "Adversarial images stay within their radius",
    "A larger radius never helps the defender",
    "Random noise does less harm than the attacks",
    "Knowing the layer never hurts the attacker",
]


def test_checks_are_those_that_the_cells_allow() -> None:
    assert [check.name for check in report().checks] == OF_EVERY_REPORT
    assert all(check.passed for check in report().checks)
    proof = cell("jpeg:75", "certificate", 100, attack=None, status=["constant"] * COUNT)
    checks = report(proof, certify=True).checks
    assert [check.name for check in checks if check.stops] == ["No attack breaks a certified image"]


def named(found: Report, start: str) -> tuple[bool, str]:
    (check,) = (check for check in found.checks if check.name.startswith(start))
    return check.passed, check.figure


@pytest.mark.parametrize("unfinished", ["1/255", "2/255"])
def test_radii_are_compared_where_all_attacks_are_finished(unfinished: str) -> None:
    """More images are right at 2/255 than at 1/255, but an attack is missing at one of them."""
    (done,) = {"1/255", "2/255"} - {unfinished}
    second = {"attack": "FGSM"}
    fgsm = [cell("jpeg:75", "adaptive", 150, done, gradient="cubic", **second), cell("none", "white-box", 150, done)]
    settings = {**TWO, "attacks": {"PGD-20": {}, "FGSM": {}}}
    assert named(report(*larger(101), *fgsm, **settings), "A larger radius") == (True, "worst case")
    both = [cell("jpeg:75", "adaptive", 150, eps, gradient="cubic", **second) for eps in ("1/255", "2/255")]
    assert not named(report(*larger(101), *both, **settings), "A larger radius")[0]


def test_defences_are_not_compared_with_each_other() -> None:
    """A defence may be better at a small radius than another one at a large one."""
    worse = cell("none", "white-box", 50)
    assert named(report(worse), "A larger radius") == (True, "worst case")


def test_noise_is_compared_where_all_attacks_are_finished() -> None:
    noise = cell("jpeg:75", "noise", 50, attack="noise")
    assert not named(report(noise), "Random noise")[0]
    assert named(report(noise, attacks={"PGD-20": {}, "FGSM": {}}), "Random noise") == (True, "every row")


def test_noise_alone_is_not_compared() -> None:
    """Attacks on coefficients leave the bare network without an attack: noise may do more harm than nothing."""
    settings = {"attacks": {"Flip-2": {}}, "on_coefficients": ["Flip-2"], "exposed": ["jpeg:75"]}
    only = report(cell("jpeg:75", "adaptive", 100, attack="Flip-2", gradient="flip"), **settings)
    cells = [found for found in only.cells if found.attack != "PGD-20"]
    assert named(Report(only.settings, cells, only.images), "Random noise") == (True, "every row")


def test_the_gradient_with_most_zeros_is_named() -> None:
    shares = {"identity": 0.25, "cubic": 0.5, "sine": 0.125}
    cells = [Cell("jpeg:75", "zero gradients", gradient=name, zeros=[share]) for name, share in shares.items()]
    figure = "at most 50.0 % of samples (jpeg:75 through cubic)"
    assert named(report(*cells), "Gradients are not zero") == (True, figure)


@pytest.mark.parametrize(
    ("loss", "figure"),
    [
        ([1.0] * 20, None),  # does not rise
        ([3.0, 1.0, *[1.5] * 17, 2.0], None),  # ends below its start
        ([1.0, 3.0, *[1.5] * 17, 2.0], "50.0"),  # and above it, though below a step after it
        ([0.0] * 27 + [1.0, 1.0], "100.0"),  # of 29 points the last tenth is two steps
        ([0.0] * 26 + [1.0] * 3, "0.0"),
        ([0.0] * 19 + [1.0, 1.0], "100.0"),
        ([0.0] * 18 + [1.0] * 3, "0.0"),
    ],
)
def test_the_rise_is_that_of_the_last_tenth_of_the_steps(loss: list[float], figure: str | None) -> None:
    losing = cell("jpeg:75", "adaptive", 200, gradient="tanh", attacked=1, loss=loss)
    found = [check.figure for check in report(losing).checks if check.name.startswith("The loss")]
    of_it = f"PGD-20 on jpeg:75 through tanh at 1/255: {figure} %".replace(".0", "")
    assert found == ([] if figure is None else ["at most 0.0 % of the gain"] if figure == "0.0" else [of_it])


def test_tables_of_ones_are_compared_with_the_bare_network_at_their_radius() -> None:
    ones = cell("tables of ones", "tables of ones", 95, "2/255")
    cells = [cell("none", "white-box", 90, "2/255"), cell("jpeg:75", "adaptive", 80, "2/255", gradient="cubic"), ones]
    assert named(report(*cells, **TWO), "A codec") == (True, "95 right at 2/255, 90 of the bare network")
    # Without an attack on the bare network at that radius there is nothing to compare with.
    assert all(not check.name.startswith("A codec") for check in report(*cells[1:], **TWO).checks)


@pytest.mark.parametrize(("distance", "passed"), [(1.00009, True), (1 + 1e-4, False)])
def test_a_ten_thousandth_of_the_radius_is_not_rounding(distance: float, passed: bool) -> None:
    far = cell("jpeg:75", "gray-box", 150, "1", distance=[distance])
    assert named(report(far), "Adversarial images")[0] is passed


def test_three_decompressed_images_are_named() -> None:
    found = {f"{number}.png": 60 + number for number in range(5)}
    names = "; ".join(f"{number}.png of quality {60 + number}" for number in range(3))
    assert named(report(**lattice(found)), "No image is a decompressed") == (False, f"5 of the 4 images tried; {names}")
