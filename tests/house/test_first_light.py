"""``benchmarks/gpu.py`` in a rehearsal: a CPU in place of the GPU, stub items, and faults."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import fdjpeg

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def command() -> Iterator[ModuleType]:
    """``benchmarks/gpu.py`` as a module; its parts are attributes, as it imports them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        specification = importlib.util.spec_from_file_location("gpu_command", ROOT / "benchmarks" / "gpu.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        yield module


@pytest.fixture
def results(command: ModuleType, tmp_path: Path) -> Any:
    """The kept results of a run."""
    about = dict.fromkeys(("driver", "torch", "commit", "kernels"), "?")
    return command.kept.Kept(tmp_path, {**about, "date": "today", "gpu": "none", "capability": [9, 0]})


@pytest.fixture
def pretended(command: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that puts a CPU in place of the GPU until the test's end, with faults."""

    def pretend(*faults: str) -> None:
        monkeypatch.setenv(command.stand_in.VARIABLE, ",".join(faults) or "none")
        command.stand_in.install_if_asked()

    from gpu import measure

    # What `install_if_asked` changes is put back.
    for place, names in (
        (torch.cuda, [name for name in dir(torch.cuda) if not name.startswith("__")]),
        (torch, ["compile"]),
        (fdjpeg, ["backends"]),
        (measure, ["SHAPE", "SIDES", "ROTATION_BYTES", "SECONDS", "COPIED"]),
        (command.stand_in, ["DEVICE", "PATIENCE"]),
        (command.stand_in.socket.socket, ["connect"]),
    ):
        for name in names:
            monkeypatch.setattr(place, name, getattr(place, name))
    measure.copy_rate.cache_clear()
    return pretend


def test_limits_of_the_parts_add_up(command: ModuleType) -> None:
    for call, parts in command.CALLS.items():
        assert command.START + sum(part.limit for part in parts.values()) <= command.CALL_LIMIT == 300, call
    both = command.parts_of(None, None)
    assert list(both) == ["build", "smoke", "timings", "uses", "tests", "peers", "sanitizer", "bandwidth"]
    assert both["build"].limit == command.CALLS[1]["build"].limit
    assert list(command.parts_of(2, ["tests", "build"])) == ["build", "tests"]


def test_time_that_a_part_leaves_goes_to_the_next(command: ModuleType, results: Any) -> None:
    seen: list[float] = []
    part = command.Part(10, lambda results, until: seen.append(until))
    command.run_parts(results, {"one": part, "two": part}, 100.0)
    assert seen == [110.0, 120.0]
    assert set(json.loads(results.path.read_text())["seconds"]) == {"one", "two"}


# ---------------------------------------------------------------------------------------------------------------------
# Items in child processes

_STUB = """
import os, signal, sys, time
sys.path.insert(0, {benchmarks!r})
from gpu import child

def right():
    yield {{"value": 1}}

def wrong():
    yield {{"value": 2}}
    raise ValueError("one bit differs")

def crash():
    yield {{"value": 3}}
    os.kill(os.getpid(), signal.SIGSEGV)

def hang():
    yield {{"value": 4}}
    time.sleep(600)

def absent():
    yield {{"skipped": "no kernel"}}

items = dict(right=right, wrong=wrong, crash=crash, hang=hang, absent=absent)
child.run({{name: items[name.split()[0]] for name in child.wanted()}})
"""


def _run(command: ModuleType, results: Any, script: str, names: list[str] | None, seconds: float, limit: float) -> Any:
    seen: list[int] = []
    stub = [sys.executable, "-S", "-c", script.format(benchmarks=str(ROOT / "benchmarks"))]
    run = command.items.Run(
        results, stub, names, time.monotonic() + seconds, limit, lambda done: seen.append(len(done))
    )
    return run, run.run(), seen


def test_items_survive_crashes_hangs_and_wrong_bits(command: ModuleType, results: Any) -> None:
    """Each has its own outcome, with the rows that it had before, and the next ones are tried."""
    names = ["right", "crash", "right again", "wrong", "hang", "absent", "right at last"]
    run, unreached, seen = _run(command, results, _STUB, names, 60, 1.5)
    assert unreached == []
    assert [item["name"] for item in run.done] == names
    assert [item["passed"] for item in run.done] == [True, False, True, False, False, None, True]
    outcome = {item["name"]: item for item in run.done}
    assert outcome["crash"]["said"].startswith("killed by SIGSEGV")
    assert outcome["hang"]["said"].startswith("hangs: more than 1.5 s")
    assert "one bit differs" in outcome["wrong"]["said"]
    assert outcome["absent"]["said"] == "no kernel"
    assert [item["rows"][0].get("value") for item in run.done] == [1, 3, 1, 2, 4, None, 1]
    assert len(seen) >= len(names)
    assert "one bit differs" in results.log.read_text()


def test_items_end_with_the_parts_time(command: ModuleType, results: Any) -> None:
    run, unreached, _ = _run(command, results, _STUB, ["right", "hang", "right again"], 2, 600)
    assert unreached == ["right again"]
    assert [item["passed"] for item in run.done] == [True, None]
    assert run.done[1]["said"].startswith("out of the part's time")
    command.items.report(results, "smoke", unreached)
    assert json.loads(results.path.read_text())["unreached"] == {"smoke": ["right again"]}


def test_children_that_never_begin_are_given_up(command: ModuleType, results: Any) -> None:
    run, unreached, _ = _run(command, results, "raise SystemExit(3)", ["one", "two"], 30, 10)
    assert (run.done, unreached) == ([], ["one", "two"])


_TESTS = """
import os, pytest

def test_other(): pass
def test_larger_images(): assert False, "bits differ"
def test_small_images_give_the_bits(): pass
def test_crash_small(): os._exit(7)
def test_skipped_stream(): pytest.skip("not here")
"""


def test_gpu_tests_run_in_order_of_worth(command: ModuleType, results: Any, tmp_path: Path) -> None:
    """As items: a test that ends the process does not end the others."""
    file = tmp_path / "test_stub.py"
    file.write_text(_TESTS)
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "gpu.pytest_items"]
    arguments = [*pytest_command, "-c", os.devnull, "--rootdir", str(tmp_path), str(file)]
    run = command.items.Run(results, arguments, None, time.monotonic() + 60, 30.0, lambda done: None)
    assert run.run() == []
    names = [item["name"].split("::")[1].removeprefix("test_") for item in run.done]
    assert names == ["small_images_give_the_bits", "crash_small", "larger_images", "skipped_stream", "other"]
    assert [item["passed"] for item in run.done] == [True, False, False, True, True]
    assert run.done[1]["said"].startswith("ended with code 7")
    assert "bits differ" in run.done[2]["said"]
    summary = command.checks._summary("stub", run.done)
    assert (summary["passed"], summary["said"]) == (False, "2 passed, 2 failed, 1 skipped")
    assert len(summary["failed"]) == 2


def test_every_gpu_test_has_a_rank(command: ModuleType) -> None:
    """No part of a name is there for nothing."""
    from gpu import pytest_items

    text = "\n".join((ROOT / name).read_text() for name in command.checks.gpu_tests())
    assert all(part in text for part in pytest_items.WORTH)
    assert pytest_items.worth("test_more_images_than_int") > pytest_items.worth("test_anything")


# ---------------------------------------------------------------------------------------------------------------------
# The parts


def test_library_built_beforehand_is_used(
    command: ModuleType, results: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only one of these sources, of this GPU, and that loads."""
    build, ran = command.build, []
    answers = {"library": True, "library, built beforehand": True}
    monkeypatch.setattr(build, "LIBRARIES", (tmp_path / "cpu", tmp_path / "cuda"))
    monkeypatch.setattr(build, "STAMP", tmp_path / "stamp")

    def run(name: str, arguments: list[str], limit: float, **environment: str) -> dict[str, Any]:
        ran.append(name)
        if name == "library":
            for library in build.LIBRARIES:
                library.write_text(environment["FDJPEG_CUDA_ARCHS"])
        return {"name": name, "passed": answers[name], "seconds": 1.0, "said": ""}

    monkeypatch.setattr(results, "run", run)
    far = time.monotonic() + 100
    build.run(results, far, "9.0")
    build.run(results, far, "9.0")
    assert ran == ["library", "library, built beforehand"]
    build.run(results, far, "8.0")  # another GPU
    monkeypatch.setattr(build, "_sources", lambda: ["setup.py"])  # other sources
    build.run(results, far, "8.0")
    assert ran[2:] == ["library", "library"]
    answers["library, built beforehand"] = False  # of another system
    build.run(results, far, "8.0")
    assert ran[4:] == ["library, built beforehand", "library"]
    answers["library"] = False
    with pytest.raises(SystemExit, match="the library could not be built"):
        build.run(results, far, "8.0")
    assert results.results["build"][-1]["passed"] is False


@pytest.mark.parametrize("fault", ["none", "bits"])
def test_smoke_test_finds_one_wrong_bit(command: ModuleType, pretended: Callable[..., None], fault: str) -> None:
    pretended(fault)
    smoke = command.smoke
    assert smoke.names()[0] == "round_trip"
    assert set(command.stand_in.FAULTY.values()) <= set(smoke.names())
    op = command.stand_in.FAULTY["bits"]
    if fault == "none":
        assert all(row["same"] for row in smoke.items()[op]())
    else:
        with pytest.raises(ValueError, match="float32 4:2:0 differs by"):
            list(smoke.items()[op]())
    assert [list(row) for row in smoke.items()["triton round_trip"]()] == [["skipped"]]


def test_smoke_test_covers_every_op(command: ModuleType) -> None:
    from fdjpeg.ops import SCHEMAS

    assert {name.split(" ")[0] for name in command.smoke.names()} == {*SCHEMAS, "triton"}
    assert command.smoke._error(torch.tensor([float("nan")]), torch.zeros(1)) == float("inf")
    assert command.smoke._error(torch.zeros(2), torch.zeros(1)) == float("inf")
    assert command.smoke._error(torch.tensor([1.5, 2]), torch.tensor([1.0, 2])) == 0.25


def test_timings_and_peers(command: ModuleType, pretended: Callable[..., None], results: Any) -> None:
    """Each row with a CPU in place of the GPU, in the order of the targets, and in the file's tables."""
    pretended("no-network", "no-profiler")
    timings, peers = command.timings.items(), command.peers.items()
    assert list(timings)[:4] == ["copy", "float32 4:2:0", "uint8 4:2:0", "float16 4:2:0"]
    rows = [row for name in (*list(timings)[:6], "16 × 16") for row in timings[name]()]
    assert not [row for row in rows if "failed" in row], rows
    with pytest.raises(RuntimeError, match="triton is missing"):
        list(timings["triton"]())
    rows += peers["torch.compile of the reference"]()
    assert {row["name"] for row in rows if "name" in row} >= {
        *("forward", "forward and backward", "forward and backward with tables", "forward and backward by a surrogate"),
        *("forward, a quality for each block", "block_dct", "block_idct", "copy", "torch.compile of the reference"),
    }
    assert all(row["us"] > 0 and row["of_copy"] > 0 and row["launches"] is None for row in rows if "name" in row)


def test_rows_of_failed_items_are_kept(command: ModuleType, results: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Run:
        def __init__(self, results: Any, child: Any, names: Any, until: float, limit: float, changed: Any) -> None:
            item = {"passed": False, "seconds": 1.0, "rows": []}
            changed([{**item, "name": "copy", "passed": True, "rows": [{"copy_rate": 4e12}]}])
            changed([{**item, "name": "kornia", "said": "Traceback\nImportError: no kornia"}])

        def run(self) -> list[str]:
            return ["nvJPEG"]

    monkeypatch.setattr(command.items, "Run", Run)
    command.parts_of(None, None)["peers"].run(results, 0.0)
    kept = json.loads(results.path.read_text())
    assert kept["copy_rate"] == 4e12
    assert kept["peers"] == [{"name": "kornia", "failed": "ImportError: no kornia"}]
    assert kept["unreached"] == {"peers": ["nvJPEG"]}


def test_sanitizer_reports_why_it_is_left_out(
    command: ModuleType, results: Any, pretended: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"memcheck": "7 passed\nERROR SUMMARY: 0 errors", "racecheck": "Device not supported"}

    def run(name: str, arguments: list[str], limit: float, **environment: str) -> dict[str, Any]:
        return {"name": name, "passed": True, "seconds": 1.0, "said": said[name]}

    monkeypatch.setattr(results, "run", run)
    pretended()
    command.checks.sanitize(results, time.monotonic() + 100)
    assert [tool["passed"] for tool in results.results["sanitizer"]] == [True, None, None]
    assert results.results["sanitizer"][2]["said"] == "compute-sanitizer does not run here"
    command.checks.sanitize(results, time.monotonic())
    assert {tool["said"] for tool in results.results["sanitizer"]} == {"out of the part's time"}
    pretended("no-sanitizer")
    command.checks.sanitize(results, time.monotonic() + 100)
    assert {tool["said"] for tool in results.results["sanitizer"]} == {"compute-sanitizer is not installed"}


def test_missing_packages_leave_tests_out(command: ModuleType, results: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.kept, "missing", lambda packages: f"not installed: {packages[0]}")
    command.checks.run_tests(results, time.monotonic() + 100)
    assert [(one["passed"], one["said"]) for one in results.results["tests"]] == [
        (None, "not installed: pytest"),
        (None, "not installed: pytest"),
    ]


def test_evaluation_is_compared_with_the_cpus_table(command: ModuleType) -> None:
    """A verdict near a boundary may differ, several may not."""
    uses = command.uses
    kept = json.loads(uses.newest_table().read_text())
    (same,) = uses.compared(kept, kept)
    assert same["cells"] > 20
    assert same["differing"] == []
    other = json.loads(json.dumps(kept))
    other["table"][0]["clean"] -= uses.MOST_DIFFERENT
    (near,) = uses.compared(other, kept)
    assert len(near["differing"]) == 1
    other["table"][0]["clean"] -= 1
    with pytest.raises(ValueError, match="none at 1/255, clean: 14, CPU 17"):
        list(uses.compared(other, kept))


def test_training_takes_ten_steps(command: ModuleType) -> None:
    from fdjpeg.defenses.recipes import RECIPES
    from fdjpeg.defenses.training.config import Schedule, read

    for kind, recipe in RECIPES.items():
        settings, batch = command.uses._ten_steps(read(recipe.config, "small", kind))
        assert batch >= 32, kind
        schedules = [one for one in vars(settings).values() if isinstance(one, Schedule)]
        assert all(one.epochs == 1 for one in schedules), kind


def test_share_of_the_layer(command: ModuleType, pretended: Callable[..., None]) -> None:
    pretended()
    image = torch.rand(1, 3, 64, 64)
    network = nn.Conv2d(3, 8, 3)
    share = command.uses.layers_share(lambda: network(fdjpeg.jpeg(image)))
    assert 0 < share < 1
    assert command.uses.layers_share(lambda: network(image)) == 0
    pretended("no-profiler")
    assert command.uses.layers_share(lambda: network(image)) is None


# ---------------------------------------------------------------------------------------------------------------------
# What limits a kernel


@pytest.mark.parametrize(
    ("shares", "name"),
    [
        ((0.85, 0.9, 0.2, 0.0), "issue"),
        ((0.85, 0.6, 0.2, 0.3), "bytes"),
        ((0.5, 0.6, 0.75, 0.3), "shared memory"),
        ((0.6, 0.6, 0.2, 0.3), "tail"),
        ((0.6, 0.6, 0.2, 0.05), "latency"),
    ],
)
def test_a_miss_names_its_cause(command: ModuleType, shares: tuple[float, ...], name: str) -> None:
    assert command.bandwidth.cause(command.bandwidth.Shares(*shares)) == name


def test_kernels_of_a_profile(command: ModuleType) -> None:
    """Their names are those of the model, which gives bytes, instructions and turns."""
    bandwidth = command.bandwidth
    name = (
        "void fdjpeg::code_blocks<fdjpeg::Layout<2, 2, false>, (fdjpeg::SampleType)3, (fdjpeg::Make)0>"
        "(fdjpeg::CodeBlocks)"
    )
    about = {"grid": [13, 256, 1], "block": [256, 1, 1], "registers per thread": 62}
    events = [{"cat": "kernel", "name": name, "dur": dur, "args": about} for dur in (50.0, 40.0, 90.0)]
    kernels = bandwidth.kernels_of({"traceEvents": [{"cat": "cpu_op", "name": "x"}, *events]})
    launch = bandwidth.tasks()["float32 forward"].launches[0]
    kernel = kernels[launch.kernel]
    assert kernel == bandwidth.Kernel(50.0, 13 * 256, 4, 62)
    # 12.8 million pixels in 50 µs on 132 processors at 1.98 GHz; 3328 blocks in 6.3 rounds of 528.
    shares = bandwidth.shares_of(kernel, launch, 256 * 224 * 224, 4.3e12, 132, 1.98e9)
    assert shares.bytes == pytest.approx(launch.bytes * 256 * 224 * 224 / 50e-6 / 4.3e12)
    assert shares.issue == pytest.approx(launch.instructions * 256 * 224 * 224 / 32 / (4 * 132 * 1.98e9 * 50e-6))
    assert shares.shared == pytest.approx(launch.turns() * 256 * 224 * 224 / 32 / (132 * 1.98e9 * 50e-6))
    assert shares.tail == pytest.approx(1 - 3328 / 528 / 7)


def test_every_task_of_the_model_is_called(command: ModuleType, pretended: Callable[..., None]) -> None:
    pretended()
    calls = command.bandwidth._calls()
    assert {name.split(" ", 1)[1] for name in command.bandwidth.tasks()} == set(calls)
    for call in calls.values():
        call(torch.rand(1, 3, 224, 224))


def test_clocks_are_read_from_the_drivers_tool(
    command: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '1755, 3201, 0x0000000000000004, 512.30, 54'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    clocks = command.bandwidth.clock()
    assert clocks["clocks.sm"] == 1755
    assert clocks["clocks_event_reasons.active"] == "0x0000000000000004"
    tool.write_text("#!/bin/sh\necho 'No devices were found'\n")
    assert command.bandwidth.clock() is None
    assert command.bandwidth._number(None) == 1980


# ---------------------------------------------------------------------------------------------------------------------
# The command


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_command_says_that_it_needs_a_gpu(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "gpu.py"
    done = subprocess.run([sys.executable, script, tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "torch sees no GPU" in done.stderr


def test_read_only_checkout_is_copied(command: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The copy runs the same command and knows the commit."""
    tree = tmp_path / "tree"
    (tree / "benchmarks").mkdir(parents=True)
    (tree / "benchmarks" / "gpu.py").write_text(
        "import os, sys\nprint(sys.argv[1:], os.environ['FDJPEG_GPU_COMMIT'])\n"
    )
    monkeypatch.setattr(command, "ROOT", tree)
    assert command.in_a_writable_tree(["out"]) is None

    def refused(**options: Any) -> None:
        raise OSError("Read-only file system")

    monkeypatch.setattr(command.tempfile, "TemporaryFile", refused)
    monkeypatch.setattr(command.kept, "commit", lambda: "abc")
    ran: list[Any] = []

    def call(arguments: list[str], env: dict[str, str]) -> int:
        done = subprocess.run(arguments, env=env, capture_output=True, text=True)
        ran.append((Path(arguments[1]).is_relative_to(tree), done.stdout))
        return done.returncode

    monkeypatch.setattr(command, "subprocess", SimpleNamespace(call=call))
    assert command.in_a_writable_tree(["out", "--call", "1"]) == 0
    assert ran == [(False, "['out', '--call', '1'] abc\n")]


def test_parts_add_to_one_file(command: ModuleType, results: Any) -> None:
    results["rows"] = [1]
    again = command.kept.Kept(results.path.parent, {**results.results, "driver": "new"})
    again["peers"] = [{"name": "kornia", "failed": "as pretended"}]
    kept = json.loads(results.path.read_text())
    assert (kept["rows"], kept["driver"], len(kept["peers"])) == ([1], "new", 1)
    other = command.kept.Kept(results.path.parent, {**results.results, "kernels": "others", "rows": []})
    assert other.results["rows"] == []


def test_a_repository_without_commits_has_none(command: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """There git prints "HEAD", and fails."""
    kept = command.kept
    monkeypatch.delenv(kept.COMMIT, raising=False)
    monkeypatch.setattr(kept.shutil, "which", lambda name: name)
    for status, expected in ((128, None), (0, "HEAD")):
        ended = SimpleNamespace(stdout="HEAD\n", returncode=status)
        monkeypatch.setattr(kept.subprocess, "run", lambda *_, ended=ended, **__: ended)
        assert kept.commit() == expected
