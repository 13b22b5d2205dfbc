"""The rules of docs/evaluation.md, each asserted itself: who is attacked, and how work is judged, counted, resumed."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.evaluation_cases import Stub, Tiny, check, outcomes, small
from torch import Tensor, nn

import fdjpeg
from fdjpeg import evaluation
from fdjpeg.attacks import PGD, Attack
from fdjpeg.attacks.base import Found
from fdjpeg.defenses import SeedFixed, of_module, parse_defense
from fdjpeg.evaluation import Cell, Plan
from fdjpeg.evaluation.cells import wilson
from fdjpeg.evaluation.controls import best_first, control_jobs, large_cells, twice_cells
from fdjpeg.evaluation.judging import Crafted, Evaluation
from fdjpeg.evaluation.results import _PACKAGES, versions
from fdjpeg.evaluation.store import Store
from fdjpeg.evaluation.threats import clean_cells, threat_jobs, transfer_cells
from fdjpeg.sources import ImageSet, Network


class Coins(nn.Module):
    """A network that sees class 0 or 1 of each image by a coin of each call."""

    def forward(self, images: Tensor) -> Tensor:
        score = torch.rand(len(images)) - 0.5 + images.mean(dim=(1, 2, 3)) * 0
        return torch.stack([torch.zeros_like(score), score], dim=1)


@pytest.fixture
def run(network: Network, photographs: ImageSet) -> Evaluation:
    """A run of two batches with JPEG and a randomised layer."""
    plan = Plan(attacks=["pgd-3", "fgsm"], eps=["2/255", "8/255"], batch_size=3, draws=5, gradients=["cubic"])
    layers = [parse_defense(name, ["cubic"]) for name in ("jpeg:75", "stochastic-jpeg:5+95")]
    return Evaluation(network, photographs, layers, plan)


# --- counts and their intervals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "count"), [(0, 0), (6, 5), (-1, 5), (float("nan"), 5), ("1", 5), (1, None)])
def test_an_interval_is_of_a_share_of_some_images(right: Any, count: Any) -> None:
    with pytest.raises(ValueError, match=r"^right must be a number of the count, 0 ≤ right ≤ count and count > 0"):
        wilson(right, count)


def test_versions_are_those_that_are_installed() -> None:
    found = versions()
    assert found["torch"] == importlib.metadata.version("torch")
    assert found["pillow"] == importlib.metadata.version("pillow")
    assert set(found) <= {"python", "fdjpeg", *_PACKAGES}


def test_the_gradient_that_left_the_fewest_images_right_comes_first(run: Evaluation) -> None:
    batch, (_, defense, _) = run.batch(0), run.defenses
    cells = [
        Cell(defense.name, "adaptive", gradient="sine", right=[1, 0, 1]),
        Cell(defense.name, "adaptive", gradient="cubic", right=[1, 1, 1]),
        Cell(defense.name, "adaptive", gradient="cubic", right=[0, 1, 0]),  # another attack through the same gradient
        Cell(defense.name, "adaptive", gradient=None, right=[0, 0, 0]),  # on coefficients
    ]
    watched = SimpleNamespace(select=lambda *_, **__: cells)
    three = replace(defense, gradients=("identity", "sine", "cubic"))
    assert best_first(watched, batch, three, "8/255") == ["cubic", "sine", "identity"]  # type: ignore[arg-type]


def test_the_cost_of_a_transferred_attack_is_counted_once(run: Evaluation) -> None:
    other = Network(Tiny().eval(), "another")
    cells = transfer_cells(run, PGD(3), other, Fraction(8, 255), run.batch(0))
    for cell, defense in zip(cells, run.defenses, strict=True):
        assert cell.key == (defense.name, "transfer", "PGD-3", None, "another", "8/255")
    assert cells[0].queries > 0
    assert cells[0].loss != []
    for cell in cells[1:]:
        assert (cell.queries, cell.loss, cell.seconds, cell.attacked) == (0, [], 0, 0)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_a_verdict_is_a_mean_of_different_draws(run: Evaluation) -> None:
    batch = run.batch(0)
    x, y = batch.x.repeat(20, 1, 1, 1), torch.zeros(60, dtype=torch.int64)
    verdict = run.judge(Coins(), x, y, batch, 16)
    assert verdict.right.unique().numel() > 3
    assert bool(((verdict.right > 0) & (verdict.right < 1)).float().mean() > 0.9)
    assert bool(((verdict.right * 16) % 1 == 0).all())
    assert abs(float(verdict.right.mean()) - 0.5) < 0.1  # 960 coins: five standard deviations are 0.08
    assert set(verdict.predicted.tolist()) == {0, 1}
    # The first draw is the class that is shown, and does not depend on how many follow, or on earlier draws.
    torch.rand(7)
    again = run.judge(Coins(), x, y, batch, 1)
    assert torch.equal(again.predicted, verdict.predicted)
    assert set(again.right.tolist()) == {0, 1}
    # Another batch, and another seed of the run, draw other numbers.
    assert not torch.equal(run.judge(Coins(), x, y, run.batch(1), 1).predicted, again.predicted)
    other = Evaluation(run.network, run.images, [], replace(run.plan, seed=1))
    assert not torch.equal(other.judge(Coins(), x, y, batch, 1).predicted, again.predicted)


def test_a_verdict_on_nan_is_no_class_and_never_right(run: Evaluation) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0]])
            logits[1, 0] = float("nan")
            return logits

    verdict = run.judge(Broken(), run.batch(0).x, torch.tensor([0, 1, 1]), run.batch(0), 2)
    assert verdict.predicted.tolist() == [0, -1, 0]
    assert verdict.right.tolist() == [1, 0, 0]
    assert verdict.margin.tolist() == [-1, float("inf"), 2]
    assert verdict.undefined.tolist() == [False, True, False]


def test_only_randomised_defences_are_judged_by_draws(run: Evaluation) -> None:
    assert run.random == {"none": False, "jpeg:75": False, "stochastic-jpeg:5+95": True}
    calls: list[int] = []
    judge = run.judge
    run.judge = lambda *given, **named: (calls.append(given[4]), judge(*given, **named))[1]  # type: ignore[method-assign]
    clean_cells(run, run.batch(0))
    assert calls == [1, 1, 5]


def test_only_images_right_without_an_attack_are_attacked_and_count(network: Network, photographs: ImageSet) -> None:
    wrong = [1, 4]
    labels = photographs.labels.clone()
    labels[wrong] = (labels[wrong] + 1) % 4
    data = replace(photographs, labels=labels)
    attack = PGD(3)
    report = small(network, data, attacks=[attack], eps=["1/255"], checks=False)
    for name in ("none", "jpeg:75"):
        clean = report.clean(name)
        rights = [index for index, share in enumerate(clean.right) if share]
        for cell in report.select(name, threat="adaptive"):
            assert cell.attacked == len(rights)
            assert [index for index in range(6) if cell.distance[index] > 0] == rights
        row = next(row for row in report.rows if row.defense == name)
        assert row.worst <= row.clean == len(rights)
    stub = Stub(0.0, name="stub")
    small(network, data, attacks=[stub], checks=False, defenses=[])
    assert sorted(stub.met) == list(range(6))  # type: ignore[attr-defined]
    # For images that carry over to the defences the bare network is attacked on all images, beyond the first success.
    (white,) = report.select("none", threat="white-box")
    assert white.attacked == 6


def test_survivors_are_what_every_attack_on_the_network_itself_left(run: Evaluation) -> None:
    batch, bare = run.batch(0), run.defenses[0]

    def cell(threat: str, right: list[float], eps: str | None = "2/255") -> Cell:
        return Cell("none", threat, eps=eps, indices=[0, 1, 2], right=right)

    run.found[0] = [
        cell("clean", [1, 1, 0.2], None),
        cell("white-box", [0, 1, 1]),
        cell("adaptive", [1, 0.5, 1]),
        cell("white-box", [0, 0, 0], "8/255"),
        cell("black-box", [0, 0, 0]),
    ]
    assert run.clean(batch, bare).tolist() == [True, True, True]
    assert run.survivors(batch, bare, "2/255").tolist() == [False, True, True]
    assert run.survivors(batch, bare, "8/255").tolist() == [False, False, False]


def test_radii_are_ascending_and_each_once(network: Network, photographs: ImageSet) -> None:
    plan = Plan(eps=["2/255", "1/255", "1/255", 2 / 255])
    assert plan.radii[:2] == (Fraction(1, 255), Fraction(2 / 255)) or plan.radii[:2] == (
        Fraction(1, 255),
        Fraction(2, 255),
    )
    report = small(network, photographs, eps=["2/255", "1/255", "1/255"], checks=False)
    assert [row.eps for row in report.rows] == ["1/255", "2/255"] * 2
    assert report.settings.eps == ["1/255", "2/255"]


# --- who is attacked, and how -----------------------------------------------------------------------------------------


class Spied(Evaluation):
    """An evaluation that records how it attacks, and attacks nothing."""

    def __init__(self, run: Evaluation) -> None:
        super().__init__(run.network, run.images, run.defenses[1:], run.plan)
        self.calls: list[tuple[Attack, nn.Module, Fraction, list[bool]]] = []

    def craft(self, attack, model, judge, batch, x, eps, chosen) -> Any:  # type: ignore[no-untyped-def]
        self.calls.append((attack, model, eps, chosen.tolist()))
        return super().craft(
            replace(attack, steps=1) if isinstance(attack, PGD) else attack, *(model, judge, batch, x, eps, chosen)
        )


def spied(run: Evaluation, wanted: str) -> dict[str, list[tuple[Attack, nn.Module, Fraction, list[bool]]]]:
    """The attacks of each job whose name holds a text, after the jobs before it."""
    spy, found = Spied(run), {}
    for job in (*threat_jobs(spy), *control_jobs(spy)):
        spy.calls.clear()
        spy.found.setdefault(0, []).extend(job.compute(spy.batch(0)))
        if wanted in job.name:
            found[job.name] = list(spy.calls)
    assert found
    return found


def test_controls_attack_as_they_say(run: Evaluation) -> None:
    """Every control by its settings: the first PGD of the run, one step, twice the steps, half of all there is."""
    jobs = spied(run, "")
    size = run.images.images[0].numel()
    for name, calls in jobs.items():
        attacks = [attack for attack, *_ in calls]
        radii = {eps for _, _, eps, _ in calls}
        if "one step" in name:
            assert [(a.steps, a.step, a.random_start) for a in attacks] == [(1, 1.0, False)]  # type: ignore[attr-defined]
        elif "twice" in name:
            assert [a.steps for a in attacks] == [6]  # type: ignore[attr-defined]
        elif "check: a large radius" in name:
            assert radii == {Fraction(1, 2)}
            assert {a.steps for a in attacks} == {3}  # type: ignore[attr-defined]
        elif "plain rounding" in name or "the seed fixed" in name:
            assert radii == {Fraction(8, 255)}
            assert {a.steps for a in attacks} == {3}  # type: ignore[attr-defined]
        elif "tables of ones" in name:
            assert radii == {Fraction(2, 255)}
            (layer,) = (part for part in calls[0][1].modules() if isinstance(part, fdjpeg.JPEG))
            assert torch.equal(layer.tables.y, torch.ones(8, 8, dtype=layer.tables.y.dtype))
            assert layer.subsampling == "4:4:4"
        if "the seed fixed" in name:
            assert all(isinstance(model, SeedFixed) for _, model, _, _ in calls)
    l2 = Evaluation(run.network, run.images, [], Plan(attacks=["pgd-3"], norm="l2", eps=["1"], batch_size=3))
    (large,) = spied(l2, "a large radius").values()
    assert float(large[0][2]) == pytest.approx(size**0.5 / 2)


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.5), ("l2", (3 * 24 * 24) ** 0.5 / 2)])
def test_every_image_is_within_the_large_radius_of_grey(norm: str, radius: float, run: Evaluation) -> None:
    plan = Plan(attacks=["pgd-1"], norm=norm, eps=["1/255"], batch_size=3)
    bare = Evaluation(run.network, run.images, [], plan)
    bare.found[0] = [Cell("none", "clean", indices=[0, 1, 2], right=[1, 1, 1])]
    radii: list[Fraction] = []

    def through(attack: Attack, defense: Any, gradient: Any, batch: Any, eps: Fraction, left: Tensor) -> Crafted:
        radii.append(eps)
        return Crafted(batch.x, [], 0, 0, 0.0)

    bare.through = through  # type: ignore[method-assign]
    large_cells(bare, PGD(1), bare.defenses[0], bare.batch(0))
    assert [float(eps) for eps in radii] == pytest.approx([radius])


def test_the_large_radius_tries_each_gradient_on_the_images_that_are_left(run: Evaluation) -> None:
    """An image counts as right after all of them left it right."""
    batch, defense = run.batch(0), replace(run.defenses[1], gradients=("identity", "sine", "cubic"))
    run.found[0] = [Cell(defense.name, "clean", indices=[0, 1, 2], right=[1, 1, 0])]
    tried: list[tuple[str, list[bool]]] = []

    def through(attack: Attack, defense: Any, gradient: str, batch: Any, eps: Fraction, left: Tensor) -> Crafted:
        tried.append((gradient, left.tolist()))
        x = batch.x.clone()
        if gradient == "sine":
            x[0] = float("nan")  # which is never right
        return Crafted(x, [], 0, 0, 0.0)

    run.through = through  # type: ignore[method-assign]
    (cell,) = large_cells(run, PGD(1), defense, batch)
    assert tried == [("identity", [True, True, False]), ("sine", [True, True, False]), ("cubic", [False, True, False])]
    assert cell.right == [0, 1, 0]


def test_the_control_of_plain_rounding_takes_a_few_steps(run: Evaluation) -> None:
    plan = Plan(attacks=["pgd-5"], eps=["8/255"], batch_size=3)
    found = spied(Evaluation(run.network, run.images, run.defenses[1:2], plan), "plain rounding")
    assert {attack.steps for calls in found.values() for attack, *_ in calls} == {3}  # type: ignore[attr-defined]


def test_images_that_must_carry_over_are_attacked_beyond_the_first_success(run: Evaluation) -> None:
    for name, calls in spied(run, "PGD-3 on").items():
        (attack, _, _, chosen) = calls[0]
        assert isinstance(attack, PGD)
        assert attack.until_fooled is not ("the bare network" in name)
        # A randomised defence is attacked by the mean of its draws, and no other is.
        assert attack.draws == (5 if "stochastic" in name else 1)
        assert "the bare network" not in name or all(chosen)


def test_losses_add_up_where_all_parts_took_as_many_steps(run: Evaluation) -> None:
    class Uneven(Stub):
        """Has a loss of 1 at each step, and one step for each image but for ``same`` steps if given."""

        same = 0

        def search(self, model: Any, x: Tensor, *arguments: Any) -> Found:
            found = super().search(model, x, *arguments)
            return replace(found, loss_curve=torch.ones(self.same or len(x), len(x)))

    batch, everything = run.batch(0), torch.tensor([True, True, True])
    run.at_once = 2  # of three images
    attack = Uneven(0.0)
    made = run.craft(attack, run.network.module, None, batch, batch.x, Fraction(1, 255), everything)
    assert (made.loss, made.attacked) == ([], 0)
    Uneven.same = 4
    made = run.craft(attack, run.network.module, None, batch, batch.x, Fraction(1, 255), everything)
    assert (made.loss, made.attacked) == ([3.0, 3.0, 3.0, 3.0], 3)
    chosen = torch.tensor([True, False, True])
    made = run.craft(attack, run.network.module, None, batch, batch.x, Fraction(1, 255), chosen)
    assert (made.loss, made.attacked) == ([2.0, 2.0, 2.0, 2.0], 2)


def test_twice_the_steps_keeps_what_was_broken_before(run: Evaluation) -> None:
    batch, bare = run.batch(0), run.defenses[0]
    run.found[0] = [
        Cell("none", "clean", indices=[0, 1, 2], right=[1, 1, 1]),
        Cell("none", "white-box", eps="2/255", indices=[0, 1, 2], right=[0, 1, 0]),
    ]
    (cell,) = twice_cells(run, PGD(1, step=1e-6), bare, Fraction(2, 255), batch)
    assert (cell.right[0], cell.right[2]) == (0, 0)


# --- fingerprints of work ---------------------------------------------------------------------------------------------


def keys(run: Evaluation, word: str) -> list[dict[str, Any]]:
    return [job.settings for job in control_jobs(run) if word in job.name and "stochastic" in job.name]


def test_work_of_a_threat_has_it_in_its_key(run: Evaluation) -> None:
    plan = Plan(attacks=["pgd-1", "square-1"], eps=["2/255"], batch_size=1)
    fast = Evaluation(run.network, run.images, run.defenses[1:2], plan)
    found = {}
    for job in threat_jobs(fast):
        cells = job.compute(fast.batch(0))
        fast.found.setdefault(0, []).extend(cells)
        found.setdefault(job.settings.get("threat"), set()).update(cell.threat for cell in cells)
    assert found == {
        "clean": {"clean"},
        None: {"noise"},
        "gray-box": {"white-box", "gray-box"},
        "adaptive": {"adaptive"},
        "black-box": {"black-box"},
    }


@pytest.mark.parametrize("word", ["large radius", "seed fixed", "twice the steps"])
def test_work_that_depends_on_other_attacks_holds_them_in_its_key(word: str, run: Evaluation) -> None:
    """The gradient that did best, and the images left, are those of all attacks at that radius."""

    def changed(**settings: Any) -> Evaluation:
        return Evaluation(run.network, run.images, run.defenses[1:], replace(run.plan, **settings))

    assert keys(changed(), word) == keys(run, word) != []
    assert keys(changed(attacks=["pgd-3"]), word) != keys(run, word)
    assert keys(changed(attacks=["pgd-3", "bim-4"]), word) != keys(run, word)
    assert keys(changed(eps=["2/255", "9/255"]), word) != keys(run, word)


def test_a_resumed_run_with_other_settings_is_the_fresh_one(network: Network, photographs: ImageSet, tmp_path) -> None:
    first = {"attacks": ["pgd-1"], "eps": ["2/255"], "gradients": ["identity", "cubic"]}
    second = {**first, "attacks": ["pgd-1", "pgd-margin-8"], "eps": ["2/255", "16/255"]}
    small(network, photographs, out=tmp_path, **first)
    resumed = small(network, photographs, out=tmp_path, **second)
    assert outcomes(resumed) == outcomes(small(network, photographs, **second))


CELLS = [Cell("none", "clean", indices=[0, 1], predicted=[0, 1], right=[1.0, 0.0])]


def test_a_torn_line_is_not_finished_work(tmp_path) -> None:
    """Torn at every place, also behind an inner list; the whole line of the same key counts, before it or after."""
    Store(tmp_path, "whole").save("key", CELLS)
    file = tmp_path / "work" / "whole.jsonl"
    line = file.read_text()
    ends = {*range(1, len(line) - 1, 9), *(place + 1 for place, sign in enumerate(line[:-2]) if sign in "]}")}
    for end in sorted(ends):
        for text in (line[:end], line[:end] + "\n", line + line[:end], line + line[:end] + "\n" + "other\t[]\n"):
            file.write_text(text)
            store = Store(tmp_path, "new")
            assert ("key" in store) is (len(text) > len(line))
            assert store.load("key") == (CELLS if len(text) > len(line) else None)
    file.write_text(line[: line.index("]") + 1] + "\n" + line)
    assert Store(tmp_path, "new").load("key") == CELLS


@pytest.mark.parametrize(
    "content", [b"key\t[1]\n", b"key\t{}]\n", b'key\t[{"a": 1}]\n', b"\xff\xfe\n\0\0\n", b"key\t\n"]
)
def test_damaged_lines_are_not_finished_work(content: bytes, tmp_path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "old.jsonl").write_bytes(content)
    store = Store(tmp_path, "new")
    assert "key" not in store
    store.save("key", CELLS)
    assert Store(tmp_path, "again").load("key") == CELLS


@pytest.mark.parametrize("torn", ['key\t[{"defense": "no', "k"])
def test_the_rest_of_a_killed_line_does_not_spoil_the_next(torn: str, tmp_path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "same.jsonl").write_text(torn)
    Store(tmp_path, "same").save("key", CELLS)
    assert Store(tmp_path, "same").load("key") == CELLS
    # Shards in other folders are read, and nothing is written without a folder of one's own.
    merged = Store(None, "same", [tmp_path])
    merged.save("other", CELLS)
    assert merged.load("key") == CELLS
    assert "other" not in merged
    with pytest.raises(ValueError, match=f"^merge must name folders of finished work, got '{tmp_path}/work'"):
        Store(None, "same", [tmp_path, tmp_path / "work"])


def test_jobs_are_named_by_who_is_attacked(run: Evaluation) -> None:
    plan = Plan(attacks=["pgd-3", "square-5", "flip-2"], eps=["2/255"], batch_size=3)
    jobs = [job.name for job in threat_jobs(Evaluation(run.network, run.images, run.defenses[1:2], plan))]
    assert jobs == [
        "clean accuracy",
        "noise at 2/255",
        "PGD-3 on the bare network at 2/255",
        "PGD-3 on jpeg:75 through cubic at 2/255",
        "Square-5 on none at 2/255",
        "Square-5 on jpeg:75 at 2/255",
        "Flip-2 on jpeg:75 through flip at 2/255",
    ]


def test_settings_that_are_not_plain_values_have_a_key(network: Network, photographs: ImageSet, tmp_path) -> None:
    class Odd(Stub):
        def settings(self) -> dict[str, Any]:
            return {"attack": "odd", "how": object, "by": {1, 2}, "radius": Fraction(1, 3)}

    settings = {"attacks": [Odd()], "out": tmp_path, "checks": False}
    first = small(network, photographs, **settings)
    assert outcomes(small(network, photographs, only_finished=True, **settings)) == outcomes(first)


# --- the report -------------------------------------------------------------------------------------------------------


def test_a_black_box_is_named_in_the_report(network: Network, photographs: ImageSet) -> None:
    layer = evaluation.external(lambda image: (image * 8).round() / 8)
    report = small(network, photographs, defenses=[layer, "jpeg:75"])
    (name,) = report.settings.black_boxes
    assert report.settings.defenses[name] == ["identity"]
    assert f"Black box: {name}." in report.markdown()
    assert json.loads(json.dumps(report.json()))["settings"]["black boxes"] == [name]
    assert check(report, "Gradients are not zero").passed
    assert "Black box" not in small(network, photographs).markdown()
    classifier = of_module(Tiny(2).eval(), "whole", image=photographs.images[:1])
    assert classifier.gradients == ("own",)
