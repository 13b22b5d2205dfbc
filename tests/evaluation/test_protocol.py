"""How the jobs of a run become a report: stored work, progress, places of images, and the settings of the run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.evaluation_cases import Stub, Tiny, small, textured, tiny
from torch import Tensor

import fdjpeg
from fdjpeg.attacks import PGD
from fdjpeg.defenses import Defended, of_module, parse_defense
from fdjpeg.evaluation import Cell, Plan, external, protocol
from fdjpeg.evaluation.cells import Picture
from fdjpeg.evaluation.judging import Batch, Crafted, Evaluation, Job
from fdjpeg.evaluation.store import Store
from fdjpeg.evaluation.threats import _onwards, threat_jobs
from fdjpeg.sources import ImageSet, Network


def run_of(network: Network, images: ImageSet, *defenses: Defended, **settings: Any) -> Evaluation:
    """A run of batches of four and two images."""
    plan = Plan(**{"attacks": ["pgd-1"], "eps": ["8/255"], "batch_size": 4, "checks": False, **settings})
    return Evaluation(network, images, defenses, plan)


# --- stored work ------------------------------------------------------------------------------------------------------


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Batch], list[Cell]]]:
    """The jobs of a run by their names; each job's settings are its name."""
    found: dict[str, Callable[[Batch], list[Cell]]] = {}
    monkeypatch.setattr(protocol, "threat_jobs", lambda run: [Job(name, {"is": name}, found[name]) for name in found])
    return found


def computing(name: str, met: list[tuple[str, int]]) -> Callable[[Batch], list[Cell]]:
    def compute(batch: Batch) -> list[Cell]:
        met.append((name, batch.number))
        return [Cell(name, "clean", indices=batch.indices.tolist())]

    return compute


def test_work_is_done_job_by_job_once_and_told(
    jobs: dict[str, Callable[[Batch], list[Cell]]],
    network: Network,
    photographs: ImageSet,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    met: list[tuple[str, int]] = []
    told: list[tuple[int, int, str]] = []
    jobs.update({name: computing(name, met) for name in ("a", "b")})
    run = run_of(network, photographs)
    with caplog.at_level(logging.INFO, protocol.__name__):
        cells, left = protocol._run(run, Store(tmp_path, "one"), [0, 1], False, lambda *at: told.append(at))
    assert met == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert told == [(0, 12, "a"), (4, 12, "a"), (6, 12, "b"), (10, 12, "b"), (12, 12, "done")]
    assert [(cell.defense, cell.indices) for cell in cells] == [
        ("a", [0, 1, 2, 3]),
        ("a", [4, 5]),
        ("b", [0, 1, 2, 3]),
        ("b", [4, 5]),
    ]
    assert run.found == {0: [cells[0], cells[2]], 1: [cells[1], cells[3]]}
    assert left == []
    assert [record.getMessage() for record in caplog.records] == [
        f"{name}, batch {number}: computed" for name in "ab" for number in (1, 2)
    ]
    # Again, with a third job, of which a report on what is finished knows the name only.
    jobs["c"] = computing("c", met)
    caplog.clear()
    again = run_of(network, photographs)
    with caplog.at_level(logging.INFO, protocol.__name__):
        assert protocol._run(again, Store(tmp_path, "two"), [0, 1], True, None) == (cells, ["c"])
    assert len(met) == 4
    assert {record.getMessage().partition(": ")[2] for record in caplog.records} == {"finished before"}
    # A job of which one batch is missing is not finished.
    partly = run_of(network, photographs)
    protocol._run(partly, Store(tmp_path, "three"), [0], False, None)
    assert met[4:] == [("c", 0)]
    assert protocol._run(run_of(network, photographs), Store(tmp_path, "four"), [0, 1], True, None)[1] == ["c"]


def test_a_report_on_finished_work_needs_some(
    jobs: dict[str, Callable[[Batch], list[Cell]]], network: Network, photographs: ImageSet, tmp_path: Path
) -> None:
    jobs["a"] = computing("a", [])
    with pytest.raises(ValueError, match=r"^out must hold finished work where only that is reported, got none of the"):
        protocol._run(run_of(network, photographs), Store(tmp_path, "one"), [0], True, None)


def test_keys_of_work_do_not_depend_on_the_order_of_settings(
    monkeypatch: pytest.MonkeyPatch, network: Network, photographs: ImageSet, tmp_path: Path
) -> None:
    """They are 32 digits long; work of other settings, images, seeds or draws has another one."""

    def key(settings: dict[str, Any], number: int = 0, images: ImageSet = photographs, **plan: Any) -> str:
        job = Job("job", settings, lambda batch: [Cell("a", "clean")])
        monkeypatch.setattr(protocol, "threat_jobs", lambda run: [job])
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        store = Store(folder, "one")
        protocol._run(run_of(network, images, **plan), store, [number], False, None)
        assert store.file is not None
        return store.file.read_text().partition("\t")[0]

    first = key({"a": 1, "b": 2})
    assert key({"b": 2, "a": 1}) == first
    assert set(first) <= set("0123456789abcdef")
    assert len(first) == 32
    moved = ImageSet(photographs.images.flip(3), photographs.labels, photographs.names)
    others = [key({"a": 1, "b": 3}), key({"a": 1, "b": 2}, 1), key({"a": 1, "b": 2}, images=moved)]
    others += [key({"a": 1, "b": 2}, **{name: 9}) for name in ("seed", "pictures", "draws")]
    assert len({first, *others}) == 7
    # Of the versions only torch's and fdjpeg's decide.
    here = protocol.versions()
    for name, decides in (("torch", True), ("fdjpeg", True), ("python", False), ("pillow", False)):
        monkeypatch.setattr(protocol, "versions", lambda name=name: {**here, name: "0.0"})
        assert (key({"a": 1, "b": 2}) != first) is decides


# --- the report -------------------------------------------------------------------------------------------------------


def test_images_have_places_of_their_report() -> None:
    """Those of a shard are some of the run's."""
    grey = torch.zeros(3, 8, 8, dtype=torch.uint8)
    pictures = [Picture(index, grey, grey, grey, grey, index) for index in (5, 9)]
    cell = Cell("a", "clean", indices=[5, 8, 9], right=[1, 0, 1], pictures=pictures)
    (placed,) = protocol._placed([cell], [5, 8, 9])
    assert placed.indices == [0, 1, 2]
    assert [(picture.index, picture.bare) for picture in placed.pictures] == [(0, 5), (2, 9)]
    assert placed.right == cell.right


def test_settings_of_a_run_say_everything_that_a_reader_needs(photographs: ImageSet) -> None:
    network = Network(Tiny().eval(), "tiny", source="drawn at random", terms="none")
    compressed = torch.stack([textured(24).float() / 255] * 6)
    compressed[1] = fdjpeg.jpeg(textured(24), 60).float() / 255
    images = ImageSet(compressed, photographs.labels, photographs.names, source="here", terms="free")
    defenses = [
        parse_defense("jpeg:75", ["cubic", "sine"]),
        parse_defense("stochastic-jpeg:20+60", ["cubic"]),
        parse_defense("feature-distillation:uniform(40),passes=2,entry=after", ["cubic"]),
        of_module(external(lambda image: image), "box", ["identity"], photographs.images[:1]),
    ]
    attacks = ["pgd-1", "square-5", "flip-2", "pgd-2"]
    plan = {"attacks": attacks, "transfer": [Network(Tiny().eval(), "other", source="there")], "draws": 4}
    run = run_of(network, images, *defenses, **plan, certify=True, pictures=2, seed=3, eps=["2/255", "8/255"])
    run.at_once = 1
    found = protocol._settings(run, ["a job"])
    names = [defense.name for defense in defenses]
    assert (found.images.count, found.images.source, found.images.terms) == (6, "here", "free")
    assert (found.images.digest, found.images.lattice_tried) == (images.digest(), 6)
    assert found.images.on_lattice == {"1.png": 60}
    assert (found.model.name, found.model.source, found.model.terms) == ("tiny", "drawn at random", "none")
    assert found.model.digest == network.digest()
    assert list(found.attacks) == ["PGD-1", "Square-5", "Flip-2", "PGD-2"]
    assert found.attacks["PGD-2"]["steps"] == 2
    assert (found.gradient_free, found.on_coefficients) == (["Square-5"], ["Flip-2"])
    assert found.exposed == names[:3]
    assert found.defenses == dict(zip(names, [["cubic", "sine"], ["cubic"], ["cubic"], ["identity"]], strict=True))
    assert found.randomised == names[1:2]
    assert found.transfer == {"other": "there"}
    assert found.black_boxes == ["box"]
    assert (found.draws, found.norm, found.eps) == (4, "linf", ["2/255", "8/255"])
    assert (found.batch_size, found.at_once, found.pictures, found.seed) == (4, 1, 2, 3)
    assert (found.checks, found.certify, found.open, found.device) == (False, True, ["a job"], "cpu")
    assert found.uncertified == {names[1]: "be deterministic", "box": "show JPEG layers of fdjpeg"}
    assert found.first_pass == names[2:3]
    assert found.versions["torch"] == protocol.versions()["torch"]


def test_a_network_of_a_function_is_a_black_box() -> None:
    def classify(image: Tensor) -> Tensor:
        return image.mean(dim=(1, 2))

    assert protocol._is_black_box(Evaluation(tiny(), _one(), [], Plan()).defenses[0], external(classify))
    assert not protocol._is_black_box(Evaluation(tiny(), _one(), [], Plan()).defenses[0], Tiny())


def _one() -> ImageSet:
    return ImageSet(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64), ("a",))


def test_images_of_inference_mode_are_copied() -> None:
    usual = _one()
    with torch.inference_mode():
        images, labels = torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64)
    assert protocol._outside(usual) is usual
    for one in (ImageSet(images, usual.labels, ("a",)), ImageSet(usual.images, labels, ("a",))):
        copy = protocol._outside(one)
        assert not copy.images.is_inference()
        assert not copy.labels.is_inference()
        assert torch.equal(copy.images, usual.images)


def test_a_network_of_inference_mode_is_named(photographs: ImageSet) -> None:
    with torch.inference_mode():
        module = Tiny().eval()
    with pytest.raises(ValueError, match=r"^transfer network net must be made outside of torch.inference_mode, got "):
        protocol._check_network(Network(module, "net"), photographs, 2, "transfer network net")


def test_defences_are_made_with_one_image(
    network: Network, photographs: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Made(Exception):
        pass

    def made(plan: Plan, module: Any, image: Tensor) -> list[Defended]:
        raise Made(*image.shape)

    monkeypatch.setattr(protocol, "_defenses", made)
    with pytest.raises(Made) as error:
        small(network, photographs)
    assert error.value.args == (1, 3, 24, 24)


# --- threats ----------------------------------------------------------------------------------------------------------


def test_costs_of_an_attack_are_of_one_cell(network: Network, photographs: ImageSet) -> None:
    """Those who judge the same images again, and who judge without an attack, have none."""
    after = "feature-distillation:uniform(40),passes=2,entry=after"
    layers = [parse_defense(name, ["cubic"]) for name in ("jpeg:75", after)]
    other = Network(Tiny().eval(), "other")
    run = run_of(network, photographs, *layers, attacks=[Stub(norm="l2")], transfer=[other], eps=["1"])
    batch = run.batch(1)
    norms: list[str] = []

    def craft(attack: Any, model: Any, judge: Any, batch: Any, x: Tensor, *_: Any) -> Any:
        norms.append(attack.norm)
        return Crafted(x, [1.0], 2, 3, 0.5)

    run.craft = craft  # type: ignore[method-assign]
    found = []
    for job in threat_jobs(run):
        cells = job.compute(batch)
        run.found.setdefault(1, []).extend(cells)
        found += [
            (*cell.key, (cell.loss, cell.attacked, cell.queries, cell.seconds) == ([1.0], 2, 3, 0.5)) for cell in cells
        ]
        assert all(cell.queries in (0, 3) for cell in cells)
    free = [(cell.loss, cell.attacked, cell.queries, cell.seconds) for cell in run.found[1] if cell.queries == 0]
    assert free == [([], 0, 0, 0)] * len(free)
    assert set(norms) == {"l2"}
    assert found == [
        ("none", "clean", None, None, None, None, False),
        ("jpeg:75", "clean", None, None, None, None, False),
        (after, "clean", None, None, None, None, False),
        ("none", "noise", "noise", None, None, "1", False),
        ("jpeg:75", "noise", "noise", None, None, "1", False),
        (after, "noise", "noise", None, None, "1", False),
        ("none", "white-box", "stub", None, None, "1", True),
        ("jpeg:75", "gray-box", "stub", None, None, "1", False),
        ("jpeg:75", "adaptive", "stub", "cubic", None, "1", True),
        (after, "adaptive", "stub", "cubic", None, "1", True),
        (after, "gray-box", "stub", None, None, "1", True),
        ("none", "transfer", "stub", None, "other", "1", True),
        ("jpeg:75", "transfer", "stub", None, "other", "1", False),
    ]


def test_attacks_go_on_beyond_the_first_success_where_images_carry_over() -> None:
    onwards = _onwards(PGD(3, until_fooled=True))
    assert onwards == PGD(3, until_fooled=False)
    stub = Stub()
    assert _onwards(stub) is stub
