"""Experiments one by one: what a control keeps, what a cell and its key hold, and what is written of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from support.evaluation_cases import Stub, Tiny, textured
from support.report_cases import CELLS, cell, made
from torch import Tensor

from fdjpeg.attacks import PGD
from fdjpeg.defenses import parse_defense
from fdjpeg.evaluation import Cell, Plan, Report, World, page
from fdjpeg.evaluation.cells import CERTIFICATE, Picture, join, png, unpng
from fdjpeg.evaluation.certified import lacking
from fdjpeg.evaluation.checks import _named
from fdjpeg.evaluation.controls import gradient_cells, ones_cells, seed_fixed_cells
from fdjpeg.evaluation.judging import Crafted, Evaluation, Job
from fdjpeg.evaluation.results import Row
from fdjpeg.evaluation.store import Store
from fdjpeg.evaluation.text import Table
from fdjpeg.evaluation.threats import bare_cells, entered_cells, threat_jobs
from fdjpeg.sources import ImageSet, Network
from fdjpeg.sources.image_set import to_pillow

EPS = Fraction(8, 255)


def run_of(network: Network, images: ImageSet, *names: str, **settings: Any) -> Evaluation:
    """A run of one batch of three images."""
    plan = Plan(attacks=["pgd-1"], eps=["8/255"], batch_size=3, pictures=0, **settings)
    return Evaluation(network, images.select([0, 1, 2]), [parse_defense(name, ["cubic"]) for name in names], plan)


# --- controls ---------------------------------------------------------------------------------------------------------


def test_an_image_that_one_gradient_broke_is_wrong_with_the_seed_fixed(network: Network, photographs: ImageSet) -> None:
    run = run_of(network, photographs, "stochastic-jpeg:90+95", draws=2)
    batch, defense = run.batch(0), replace(run.defenses[1], gradients=("identity", "cubic"))
    tried: list[list[bool]] = []

    def craft(attack: Any, model: Any, judge: Any, batch: Any, x: Tensor, eps: Any, left: Tensor) -> Crafted:
        tried.append(left.tolist())
        x = x.clone()
        if len(tried) == 1:
            x[0] = float("nan")  # which is never right
        return Crafted(x, [], 0, 0, 0.0)

    run.craft = craft  # type: ignore[method-assign]
    (found,) = seed_fixed_cells(run, PGD(1), defense, EPS, batch)
    assert tried[0][0]
    assert tried[1] == [False, *tried[0][1:]]
    assert found.right == [float(left) for left in tried[1]]
    assert sum(found.right) > 0


def test_tables_of_ones_leave_right_what_no_attack_moved(network: Network, photographs: ImageSet) -> None:
    run = run_of(network, photographs)
    run.craft = lambda attack, model, judge, batch, x, *_: Crafted(x, [], 0, 0, 0.0)  # type: ignore[method-assign]
    (found,) = ones_cells(run, PGD(1), EPS, run.batch(0))
    assert found.right == [1, 1, 1]


def test_shares_of_zero_gradients_are_of_named_images(network: Network, photographs: ImageSet) -> None:
    run = run_of(network, photographs, "jpeg:75")
    (found,) = gradient_cells(run, run.batch(0))
    assert (found.defense, found.gradient, found.indices) == ("jpeg:75", "cubic", [0, 1, 2])
    assert len(found.zeros) == 3


def test_each_defence_that_lacks_something_is_named(network: Network, photographs: ImageSet) -> None:
    run = run_of(network, photographs, "random-jpeg:40-60", "jpeg:60", "stochastic-jpeg:20+60", draws=2)
    assert lacking(run) == dict.fromkeys(("random-jpeg:40-60", "stochastic-jpeg:20+60"), "be deterministic")


@pytest.mark.parametrize(
    ("right", "first_pass", "told"),
    [([0, 0, 0, 0], [], True), ([0, 0, 0, 0], ["jpeg:75"], False), ([0, 1, 0, 0], [], False)],
)
def test_why_nothing_is_certified_is_told_where_that_is_so(
    right: Sequence[float], first_pass: Sequence[str], told: bool
) -> None:
    proof = cell("jpeg:75", CERTIFICATE, [0, 0, 0, 1], attack=None, right=list(map(float, right)), status=["open"] * 4)
    report = made(replace(proof, changeable=[1, 2, 3, 4]), certify=True, first_pass=list(first_pass))
    assert any(note.startswith("Nothing can be certified") for note in report.notes) == told


def test_of_many_failures_four_are_named() -> None:
    assert _named("abcd", "none") == "a; b; c; d"
    assert _named("abcde", "none") == "a; b; c; d and 1 more"
    assert _named("", "none") == "none"


def test_checks_of_a_run_without_attacks_pass() -> None:
    report = made()
    clean = Report(report.settings, [found for found in CELLS if found.threat == "clean"], report.images)
    (inside,) = (check for check in clean.checks if check.name == "Adversarial images stay within their radius")
    assert (inside.passed, inside.figure) == (True, "at most 0.00000 of it")


# --- what a cell and its key hold -------------------------------------------------------------------------------------


def test_gray_box_cells_name_their_attack(network: Network, photographs: ImageSet) -> None:
    after = "feature-distillation:uniform(40),passes=2,entry=after"
    run = run_of(network, photographs, "jpeg:75", after)
    batch = run.batch(0)
    white, gray = bare_cells(run, PGD(1), EPS, batch)
    (behind,) = entered_cells(run, PGD(1), run.defenses[2], EPS, batch)
    assert white.key == ("none", "white-box", "PGD-1", None, None, "8/255")
    assert gray.key == ("jpeg:75", "gray-box", "PGD-1", None, None, "8/255")
    assert behind.key == (after, "gray-box", "PGD-1", None, None, "8/255")


def test_noise_is_of_the_seed_of_the_run(network: Network, photographs: ImageSet) -> None:
    (noise,) = (job for job in threat_jobs(run_of(network, photographs, seed=7)) if job.name.startswith("noise"))
    assert noise.settings["seed"] == 7


def test_a_cell_holds_the_cost_of_its_attack(network: Network, photographs: ImageSet) -> None:
    run = run_of(network, photographs)
    batch = run.batch(0)
    kept = run.cell(batch, run.defenses[0], "white-box", Crafted(batch.x, [3.0], 2, 5, 1.234), eps=EPS)
    assert (kept.loss, kept.attacked, kept.queries, kept.seconds) == ([3.0], 2, 5, 1.23)
    parts = [replace(kept, indices=[number], seconds=value) for number, value in enumerate((0.1, 0.2, 0.03))]
    assert join(parts)[0].seconds == 0.33
    assert Cell("none", "clean").seconds == 0
    begun = time.perf_counter()
    crafted = run.craft(Stub(), network.module, None, batch, batch.x, EPS, torch.tensor([True, True, False]))
    assert 0 <= crafted.seconds <= time.perf_counter() - begun


def test_pictures_of_every_batch_are_kept() -> None:
    parts = []
    for number in (1, 0):
        image = torch.full((3, 8, 8), number, dtype=torch.uint8)
        pictures = [Picture(number, image, image, image, image, 0)]
        parts.append(cell("none", "white-box", [0], pictures=pictures))
        parts[-1] = replace(parts[-1], indices=[number])
    (joined,) = join(parts)
    assert [picture.index for picture in joined.pictures] == joined.indices == [0, 1]


def test_pictures_are_as_small_as_png_can_make_them() -> None:
    image = textured(64)
    plain = BytesIO()
    to_pillow(image).save(plain, "PNG")
    assert torch.equal(unpng(png(image)), image)
    assert 3 * len(png(image)) / 4 < len(plain.getvalue())


def test_an_attack_is_judged_by_who_is_given(network: Network, photographs: ImageSet) -> None:
    class Judge(Tiny):
        met = 0

        def forward(self, images: Tensor) -> Tensor:
            self.met += len(images)
            return super().forward(images)

    run, judge = run_of(network, photographs), Judge().eval()
    batch = run.batch(0)
    for given in (None, judge):
        assert judge.met == 0
        run.craft(Stub(), network.module, given, batch, batch.x, EPS, torch.tensor([True, False, True]))
    assert judge.met >= 2


def test_a_last_part_that_is_smaller_leaves_the_size_of_parts(network: Network, photographs: ImageSet) -> None:
    run = run_of(network, photographs)
    run.at_once, limit = 4, 4

    def compute(part: Tensor) -> int:
        if len(part) > limit:
            raise torch.OutOfMemoryError("out of memory")
        return len(part)

    assert run.in_parts(6, compute) == [4, 2]
    assert run.at_once == 4
    limit = 2
    assert run.in_parts(6, compute) == [2, 2, 2]
    assert run.at_once == 2


def test_records_cannot_be_changed_and_plans_print_what_was_given() -> None:
    with pytest.raises(FrozenInstanceError):
        Job("a", {}, lambda batch: []).name = "b"  # type: ignore[misc]
    grey = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(FrozenInstanceError):
        Picture(0, grey, grey, grey, grey, 0).index = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        made().cells = []  # type: ignore[misc]
    whole = Row("none", "1/255", 3.0, None, {}, 3.0, 2.0)
    assert (whole.complete, whole.certified, whole.shown) == (True, None, "2")
    assert not any(name in repr(Plan()) for name in ("chosen", "radii", "others"))


def test_a_shard_is_any_of_its_number() -> None:
    assert [World().shard(f"{number}/3") for number in (1, 2, 3)] == [World(rank, 3) for rank in range(3)]
    assert World().shard("1/1") == World()
    for wrong in ("0/3", "4/3"):
        with pytest.raises(ValueError, match=rf"^shard must be i/n with 1 ≤ i ≤ n, such as 2/8, got '{wrong}'"):
            World().shard(wrong)


def test_a_folder_of_work_is_made_with_those_above_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "b", "one")
    store.save("key", [Cell("none", "clean")])
    assert Store(tmp_path / "a" / "b", "two").load("key") == [Cell("none", "clean")]
    assert store.file is not None
    store.file.unlink()
    store.file.mkdir()
    with pytest.raises(ValueError, match=rf"^out must be a folder that can be written, got '{tmp_path}/a/b'"):
        store.save("key", [])


# --- what is written --------------------------------------------------------------------------------------------------


def test_results_hold_no_pictures_and_experiments_of_checks() -> None:
    grey = torch.zeros(3, 8, 8, dtype=torch.uint8)
    shown = cell("jpeg:75", "adaptive", [0, 0, 0, 1], gradient="tanh", pictures=[Picture(0, grey, grey, grey, grey, 0)])
    ones = cell("tables of ones", "tables of ones", [0, 0, 1, 1])
    report = made(shown, ones)
    assert not any("pictures" in found for found in report.json()["cells"])
    *_, last = report.csv().splitlines()
    assert last.startswith("tables of ones,tables of ones,PGD-20,,,1/255,4,2,0.5000,")


def test_markdown_has_every_part_of_the_report() -> None:
    fgsm = [cell("jpeg:75", "adaptive", [0, 0, 1, 1], gradient=name, attack="FGSM") for name in ("identity", "cubic")]
    report = made(*fgsm, attacks={"PGD-20": {}, "FGSM": {}})
    assert len(report.findings) == 1
    lines = report.markdown().splitlines()
    for sentence in (*report.findings, *report.settings.origins):
        assert f"- {sentence}" in lines
    assert "| defence | ε | PGD-20 | FGSM |" in lines
    checks, origins = lines.index("## Checks"), lines.index("## Images and network")
    words = {True: "passed", False: "FAILED"}
    assert lines[checks + 2 : origins - 1] == [f"- {words[c.passed]}: {c.name} ({c.figure})" for c in report.checks]


def test_rows_of_one_defence_are_below_its_name() -> None:
    rows = [["a", "1/255", "3"], ["a", "2/255", "2"], ["b", "1/255", "1"], ["a", "4/255", "0"]]
    assert page._grouped(Table(["defence", "ε", "right"], rows), "Images right") == {
        "caption": "Images right",
        "header": ["ε", "right"],
        "groups": [
            {"name": "a", "rows": [["1/255", "3"], ["2/255", "2"]]},
            {"name": "b", "rows": [["1/255", "1"]]},
            {"name": "a", "rows": [["4/255", "0"]]},
        ],
    }


def test_losses_are_drawn_by_attack_at_the_largest_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each gradient with a curve of three points or more, each in a colour of its own."""

    def losing(attack: str, eps: str, gradient: str, *loss: float) -> Cell:
        fields = {"attack": attack, "gradient": gradient, "loss": [4 * value for value in loss], "attacked": 4}
        return cell("jpeg:75", "adaptive", [0, 0, 0, 0], eps, **fields)

    cells = [
        losing("PGD-20", "2/255", "identity", 1, 2, 3),
        losing("PGD-20", "2/255", "cubic", 1, 3, 5),
        losing("FGSM", "2/255", "cubic", 2, 3, 4),
        losing("FGSM", "2/255", "identity", 2, 3),
        losing("FGSM", "1/255", "cubic", 7, 8, 9),
    ]
    report = made(*cells, attacks={"PGD-20": {}, "FGSM": {}}, eps=["1/255", "2/255"])
    drawn: list[list[tuple[str, list[float]]]] = []
    monkeypatch.setattr(page.charts, "losses", lambda lines, *_: drawn.append([(n, c.curve) for n, c in lines]) or "")
    page._losses(report)
    assert drawn == [[("identity", [1, 2, 3]), ("cubic", [1, 3, 5])], [("cubic", [2, 3, 4])]]
    assert page._colours(report) == {"bare network": "ink", "identity": "gradient-1", "cubic": "gradient-2"}


def test_each_loss_has_a_line_of_its_own() -> None:
    charts = pytest.importorskip("fdjpeg.evaluation.charts")
    pytest.importorskip("matplotlib")
    colours = {"bare network": "ink", **{f"g{number}": f"gradient-{number}" for number in range(1, 4)}}
    lines = [(f"g{number}", Cell("jpeg:75", "adaptive", loss=[1.0, number], attacked=1)) for number in (1, 2, 3)]
    drawn = charts.losses(lines, colours, "loss").split("<path")
    styles = [next(path for path in drawn if f"stroke: var(--gradient-{number})" in path) for number in (1, 2, 3)]
    dashes = [path.partition("stroke-dasharray: ")[2].partition(";")[0] for path in styles]
    assert all(dashes)  # the whole line is the bare network's
    assert len(set(dashes)) == 3
