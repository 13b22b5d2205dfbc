"""Parts of the evaluation by themselves: processes, devices, the command line of a run, and ART's place for layers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, fields
from datetime import timedelta
from fractions import Fraction
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from support.evaluation_cases import Stub, Tiny, small
from support.report_cases import SETTINGS, made
from torch import Tensor, nn

from fdjpeg._packages import MissingPackage
from fdjpeg.evaluation import Plan, World, adapters, memory, settings, world
from fdjpeg.evaluation.cells import Cell
from fdjpeg.evaluation.results import Row
from fdjpeg.evaluation.settings import RunOrigin
from fdjpeg.evaluation.text import printable
from fdjpeg.sources import ImageSet, Network

# --- processes and devices --------------------------------------------------------------------------------------------


class Gloo:
    """Takes the place of torch.distributed in the second of two processes; the first found "a" and "b"."""

    def __init__(self, available: bool = True) -> None:
        self.available, self.begun = available, list[tuple[tuple[Any, ...], dict[str, Any]]]()

    def is_available(self) -> bool:
        return self.available

    def is_initialized(self) -> bool:
        return bool(self.begun)

    def init_process_group(self, *arguments: Any, **named: Any) -> None:
        self.begun.append((arguments, named))

    def get_rank(self) -> int:
        return 1

    def get_world_size(self) -> int:
        return 2

    def all_gather_object(self, parts: list[list[str]], found: list[str]) -> None:
        parts[:] = [["a", "b"], found]


def test_a_process_of_torchrun_connects_once_and_is_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "dist", gloo := Gloo())
    for alone in ({}, {"WORLD_SIZE": "1"}):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        for name, value in alone.items():
            monkeypatch.setenv(name, value)
        assert World.here() == World(0, 1, together=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for _ in range(2):
        assert World.here() == World(1, 2, together=True)
        assert gloo.begun == [(("gloo",), {"timeout": timedelta(days=14)})]
    assert World.here().name == "2-of-2"
    monkeypatch.setattr(world, "dist", Gloo(available=False))
    assert World.here() == World(0, 1, together=False)


def test_processes_share_work_and_gather_what_they_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "dist", Gloo())
    assert World(1, 2, together=True).gather(["c"]) == ["a", "b", "c"]
    assert World(1, 2).gather(["c"]) == ["c"]  # a shard has no contact
    assert World(1, 3).mine("abcdefgh") == "beh"
    assert World(2, 4, together=True).shard("3/5") == World(10, 20, together=True)


def test_cuda_is_the_gpu_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(world.torch, "empty", lambda _, device: asked.append(device))
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert world.device_here("cuda") == torch.device("cuda", 3)
    assert world.device_here("cuda:1") == torch.device("cuda", 1)
    monkeypatch.delenv("LOCAL_RANK")
    assert world.device_here("cuda") == torch.device("cuda", 0)
    assert world.device_here("cpu") == torch.device("cpu")
    assert asked == [torch.device(name) for name in ("cuda:3", "cuda:1", "cuda:0", "cpu")]
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"^device must be one that torch has here, got 'nonsense': "):
        world.device_here("nonsense")


# --- memory -----------------------------------------------------------------------------------------------------------


def test_the_cache_of_a_gpu_is_emptied_before_a_smaller_batch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Any] = []

    def compute(part: Tensor) -> int:
        events.append(len(part))
        if len(part) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return len(part)

    monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(memory.torch.cuda, "empty_cache", lambda: events.append("emptied"))
    with caplog.at_level(logging.WARNING):
        assert [result for _, result in memory.in_batches(compute, torch.arange(7), 7)] == [3, 3, 1]
    assert events == [7, "emptied", 3, 3, 1]
    assert [record.getMessage() for record in caplog.records] == ["out of memory with 7 images at once, goes on with 3"]
    events.clear()
    assert [part.tolist() for part, _ in memory.in_batches(compute, torch.arange(2), 1)] == [[0], [1]]


# --- records ----------------------------------------------------------------------------------------------------------


def test_records_of_a_report_cannot_be_changed() -> None:
    report = made()
    records = [report.settings, report.settings.images, report.settings.model, report.settings.run, report.text]
    for record in [*records, *report.cells[:1], *report.rows[:1], *report.checks[:1], Plan(), World()]:
        first = fields(record)[0].name
        with pytest.raises(FrozenInstanceError):
            setattr(record, first, None)


def test_the_origin_of_a_run_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {"date": "2026-12-01 10:11 UTC", "processor": "a processor", "cores": 48, "commit": "abc1234"}
    monkeypatch.setattr(settings, "describe_machine", lambda: machine)
    monkeypatch.setattr(settings.torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "-m", "fdjpeg", "evaluate", "--model", "a b"])
    monkeypatch.setattr(sys, "argv", ["/somewhere/fdjpeg/__main__.py", "evaluate", "--model", "a b"])
    command = "python3 -m fdjpeg evaluate --model 'a b'"
    assert RunOrigin.here() == RunOrigin("2026-12-01", "a processor", 48, 7, "abc1234", command)


@pytest.mark.parametrize(
    ("started", "script", "shown"),
    [
        (["/bin/python", "/bin/fdjpeg", "evaluate", "-h"], "/bin/fdjpeg", "fdjpeg evaluate -h"),
        (["/bin/python", "run.py", "--fast"], "run.py", "python run.py --fast"),
        (["/bin/python", "-m", "fdjpeg", "evaluate"], "/lib/fdjpeg/__main__.py", "python -m fdjpeg evaluate"),
        (["/bin/python", "-c", "print()"], "-c", "python -c 'print()'"),
    ],
)
def test_a_command_is_shown_without_folders(
    started: Sequence[str], script: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", list(started))
    monkeypatch.setattr(sys, "argv", [script])
    assert settings._command() == shown


def test_settings_are_stored_under_their_keys() -> None:
    plain = SETTINGS.to_json()
    assert plain["images"]["on a JPEG lattice"] == {}
    assert plain["images"]["tried for a JPEG lattice"] == 4
    assert plain["model"] == {"name": "<net>", "source": "here", "terms": "none", "digest": ""}
    assert plain["defenses"] == {"jpeg:75": ["identity", "cubic"]}
    assert SETTINGS.origins == ["here. Terms: none", "here. Terms: none"]


def test_text_of_a_page_is_printable_or_a_line_break() -> None:
    assert printable("a\nb\tc\x1b \udcff ü") == "a\nb�c� \\udcff ü"


def test_networks_of_one_name_are_numbered() -> None:
    def named(name: str) -> Network:
        return Network(Tiny().eval(), name)

    plan = Plan(transfer=[named("net"), named("net"), named("other"), named("net")])
    assert [network.name for network in plan.others] == ["net", "net 2", "other", "net 3"]
    # A name that a number would repeat is passed over.
    plan = Plan(transfer=[named("net"), named("net 2"), named("net")])
    assert [network.name for network in plan.others] == ["net", "net 2", "net 3"]


def test_a_plan_has_these_numbers_unless_told_otherwise() -> None:
    plan = Plan()
    assert (plan.draws, plan.batch_size, plan.pictures, plan.seed) == (20, 5, 3, 0)
    assert (plan.checks, plan.certify, plan.ball) == (True, False, "linf")
    assert plan.radii == (Fraction(1, 255), Fraction(2, 255))


def test_the_origin_of_a_network_is_in_the_settings(photographs: ImageSet) -> None:
    network = Network(Tiny().eval(), "tiny", source="drawn at random", terms="none")
    model = small(network, photographs, attacks=[Stub()], checks=False).settings.model
    assert (model.name, model.source, model.terms) == ("tiny", "drawn at random", "none")
    assert model.digest == network.digest()
    with pytest.raises(TypeError, match=r"^plan must be a Plan or None, got 'quick'"):
        small(network, photographs, plan="quick")


def test_a_cell_of_no_attack_has_no_curve() -> None:
    assert Cell("none", "adaptive", loss=[6.0, 9.0], attacked=3).curve == [2.0, 3.0]
    assert Cell("none", "adaptive", loss=[6.0, 9.0]).curve == []
    assert "pictures" not in Cell("none", "clean").to_json(pictures=False)
    assert Cell("none", "clean").to_json()["pictures"] == []
    assert Row.__dataclass_params__.frozen  # type: ignore[attr-defined]


# --- ART --------------------------------------------------------------------------------------------------------------


class Preprocessor:
    """The part of ART's base class that is met here."""

    def __init__(self, device_type: str = "gpu", is_fitted: bool = False, **applied: bool) -> None:
        self.given = {"device_type": device_type, "is_fitted": is_fitted, **applied}


@pytest.mark.parametrize(
    ("named", "applied"),
    [
        ({}, {"apply_fit": False, "apply_predict": True}),
        ({"apply_fit": True, "apply_predict": False}, {"apply_fit": True, "apply_predict": False}),
    ],
)
def test_art_applies_a_layer_as_told_and_passes_classes_along(
    named: dict[str, bool], applied: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    art = ModuleType("art.defences.preprocessor.preprocessor")
    art.PreprocessorPyTorch = Preprocessor  # type: ignore[attr-defined]
    for name in ("art", "art.defences", "art.defences.preprocessor"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, art.__name__, art)
    for layer in (nn.Hardtanh(0, 0.5), nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)):
        made = adapters.art_preprocessor(layer.eval(), **named)
        assert made.given == {"device_type": "cpu", "is_fitted": True, **applied}
        x = torch.rand(2, 4)
        ours, classes = made.forward(x, "classes")
        assert torch.equal(ours, layer(x))
        assert classes == "classes"
    monkeypatch.setitem(sys.modules, art.__name__, None)
    with pytest.raises(MissingPackage, match="adversarial-robustness-toolbox"):
        adapters.art_preprocessor(nn.Hardtanh())
    monkeypatch.setitem(sys.modules, art.__name__, art)
    on_gpu = nn.Hardtanh()
    on_gpu.buffers = lambda: iter([SimpleNamespace(is_cuda=True)])  # type: ignore[assignment, method-assign]
    assert adapters.art_preprocessor(on_gpu).given["device_type"] == "gpu"
