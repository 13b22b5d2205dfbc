"""What all commands share: names as they are, lists, widths, JSON, progress, the log, exit statuses and completion."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_command

import fdjpeg
from fdjpeg import QuantTables, bench
from fdjpeg.bench.measure import BACKWARD, FORWARD, Measurement
from fdjpeg.cli import bench as cli_bench
from fdjpeg.cli import console as consoles
from fdjpeg.cli import evaluate as cli_evaluate
from fdjpeg.cli import main as cli
from fdjpeg.cli.lists import spread
from fdjpeg.evaluation.checks import Check


def run(*arguments: object) -> int:
    """The command's exit status."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(params=[60, 70, 80])
def width(request: pytest.FixtureRequest) -> Iterator[int]:
    """A terminal of that many columns."""
    consoles.console.width = consoles.complaints.width = request.param
    yield request.param
    consoles.console._width = consoles.complaints._width = None


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image file whose name means something to a library of terminals."""
    pixels = np.random.default_rng(3).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a:fire:[bold]b.png")
    return tmp_path / "a:fire:[bold]b.png"


# --- names, versions, completion --------------------------------------------------------------------------------------


def test_names_are_shown_as_they_are(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = photo.with_name("o:fire:[red].png")
    assert run("roundtrip", photo, target) == 0
    printed = capsys.readouterr().out
    assert f"Written: {target}" in printed.replace("\n", "")
    assert photo.name in printed
    photo.with_name("f.txt").write_text("a:x:b [bold]c\n")
    assert run("tables", "show", photo.with_name("f.txt")) == 2
    assert "a:x:b" in capsys.readouterr().err
    assert run("evaluate", "--defense", "jpeg:x:75[b]") == 2
    assert "jpeg:x:75[b]" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"fdjpeg {fdjpeg.__version__}\n"


def test_completion_offers_commands_and_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_FDJPEG_COMPLETE", "complete_bash")
    for words, position, offered in (("fdjpeg ta", 1, "tables"), ("fdjpeg tables show --js", 3, "--json")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(position))
        with pytest.raises(SystemExit):
            get_command(cli.app)([], prog_name="fdjpeg")
        assert offered in capsys.readouterr().out.split()


# --- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "given", "once"),
    [
        (
            "evaluate",
            "--eps 1/255 2/255 --images 3 --defense jpeg:75 png --eps=4/255 8/255 --no-checks",
            "--eps 1/255 --eps 2/255 --images 3 --defense jpeg:75 --defense png --eps=4/255 --eps 8/255 --no-checks",
        ),
        ("evaluate", "--images 3 4", "--images 3 4"),
        ("evaluate", "--eps -1/255", "--eps -1/255"),
        ("bench", "--threads 1 2 --peer fdjpeg kornia", "--threads 1 --threads 2 --peer fdjpeg --peer kornia"),
        ("bench", "--batch 8x224 1x1024", "--batch 8x224 --batch 1x1024"),
        ("train", "tuning --augmentation a,p=1 b -- c d", "tuning --augmentation a,p=1 --augmentation b -- c d"),
        ("roundtrip", "a b --quality 3", "a b --quality 3"),
        ("evaluate", "", ""),
    ],
)
def test_an_option_may_have_several_values(command: str, given: str, once: str) -> None:
    found = get_command(cli.app).commands[command]  # type: ignore[attr-defined]
    assert spread(found, given.split()) == once.split()
    assert spread(found, once.split()) == once.split()


def test_a_list_ends_where_a_value_is_of_another_type() -> None:
    learn = get_command(cli.app).commands["tables"].commands["learn"]  # type: ignore[attr-defined]
    assert spread(learn, ["--quality", "25", "50", "images", "out"]) == [
        *("--quality", "25", "--quality", "50"),
        *("images", "out"),
    ]


def test_every_list_says_that_it_takes_more_than_one() -> None:
    commands = {**get_command(cli.app).commands, **get_command(cli.app).commands["tables"].commands}  # type: ignore[attr-defined]
    lists = [(name, item) for name, one in commands.items() for item in one.params if getattr(item, "multiple", False)]
    assert len(lists) > 9
    for name, item in lists:
        assert "one or more" in (item.help or ""), (name, item.opts)


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_json_of_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdjpeg.cli.doctor._self_check", lambda: (12, 0))
    assert run("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"] == torch.__version__
    assert found["backends"]["reference"] == "available"
    assert found["self_check"] == {"samples": 12, "differing": 0}
    monkeypatch.setattr("fdjpeg.cli.doctor._self_check", lambda: (12, 5))
    assert run("doctor", "--json") == 1
    assert json.loads(capsys.readouterr().out)["self_check"]["differing"] == 5


def test_json_of_roundtrip(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("roundtrip", photo, photo.with_name("out.png"), "--quality", 60, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    original, decoded = (np.asarray(Image.open(file), float) for file in (photo, photo.with_name("out.png")))
    assert found["psnr"] == pytest.approx(10 * np.log10(255**2 / ((original - decoded) ** 2).mean()))
    assert (found["width"], found["height"], found["channels"], found["differing_samples"]) == (31, 24, 3, 0)
    assert 0 < found["ssim"] < 1


def test_json_of_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tables", "show", 40, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    expected = QuantTables.standard(40)
    assert found == {"Y": expected.y.tolist(), "Cb": expected.cb.tolist(), "Cr": expected.cr.tolist()}


# --- widths -----------------------------------------------------------------------------------------------------------

NAMES = ("jpeg:75", "stochastic-jpeg:20+40+60+80", "feature-distillation:paper,passes=2")
COLUMNS = ("white-box", "gray-box", "transfer", "identity", "straight-through", "cubic", "tanh", "flip", "black-box")


def a_report(*, passed: bool = True) -> Any:
    """What the command shows of a report, with long names and many columns."""
    header = ["defence", "ε", "clean", "noise", *COLUMNS, "worst case", "95 % interval"]
    figures = ["1000", "987", *(str(700 + number) for number in range(len(COLUMNS))), "612", "58–64 %"]
    return SimpleNamespace(
        summary=list,
        finding="One sentence about :x: [b].",
        headline="A network on 1000 images.",
        header=header,
        table=[[name, eps, *figures] for name in NAMES for eps in ("0.5/255", "1/255", "2/255")],
        attacks_header=["defence", "ε", "PGD-20"],
        attacks_table=[],
        findings=[],
        notes=[],
        checks=[Check("Gradients are not masked", passed, "[0] of 3:x:")],
        settings=SimpleNamespace(attacks=["PGD-20"], origins=[], device="cpu"),
        count=1000,
        save=lambda out: [Path(out) / "report.html"],
    )


def test_a_report_is_whole_at_each_width(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    cli_evaluate.show(a_report())
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed
    for text in (*NAMES, *COLUMNS, "0.5/255", "1000", "708", "58–64 %", "[0] of 3:x:"):
        assert text in printed


def test_a_wide_terminal_has_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    consoles.console.width = 200
    try:
        cli_evaluate.show(a_report())
    finally:
        consoles.console._width = None
    assert sum("58–64 %" in line for line in capsys.readouterr().out.splitlines()) == 9


def test_tables_and_benchmarks_are_whole_at_each_width(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tables", "show", 1) == 0
    results = bench.Results({}, 75, "4:2:0")
    for peer in bench.PEERS:
        for batch in ("512x32", "8x224", "1x1024", "1x4096"):
            for direction in (FORWARD, BACKWARD):
                results.measurements.append(
                    Measurement(peer, batch, direction, 1, 5, 1.23456, 1.0, 2.0, memory=987_654_321)
                )
        for quality in (10, 50, 75, 95):
            results.fidelity.append({"peer": peer, "quality": quality, "equal": 0.98765, "psnr": 40.0, "largest": 3})
    for table in cli_bench._tables(results):
        consoles.console.print(table)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed
    assert printed.count("1234.56") == 2 * 4 * len(bench.PEERS)
    assert printed.count("941.9") == 2 * 4 * len(bench.PEERS)
    assert printed.count("98.7") == 4 * len(bench.PEERS)


# --- progress, statuses, the log --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "--eps", "two"),
        ("evaluate", "--model", "vgg"),
        ("bench", "--peer", "libjpeg"),
        ("bench", "--batch", "8"),
        ("bench", "--device", "abacus"),
    ],
)
def test_no_bar_is_above_a_mistake(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert capsys.readouterr().err.lstrip().startswith("Error:")


def test_a_bar_begins_with_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    with consoles.progress_bars("images") as bars:
        show = bars("first")
        assert capsys.readouterr().err == ""
        show(1, 4, "a:fire:[b]")
    assert "a:fire:[b]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("passed", "options", "status"), [(True, ["--strict"], 0), (False, ["--strict"], 1), (False, [], 0)]
)
def test_strict_tells_of_a_failed_check(
    passed: bool, options: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_evaluate, "run", lambda *_: a_report(passed=passed))
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", *options])
    assert (ended.value.code or 0) == status


def test_the_log_is_shown_from_its_level_on(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        for level, shown in (("info", True), ("warning", False)):
            assert run("--log", level, "tables", "show", 50) == 0
            logging.getLogger("fdjpeg.somewhere").info("a:fire:[b] message")
            assert ("a:fire:[b] message" in capsys.readouterr().err) == shown
        assert run("--log", "loud", "tables", "show", 50) == 2
        assert "log must be one of debug, info, warning, error, got 'loud'" in capsys.readouterr().err
    finally:
        logging.getLogger("fdjpeg").handlers.clear()
        logging.getLogger("fdjpeg").setLevel(logging.NOTSET)


# --- benchmarks -------------------------------------------------------------------------------------------------------


def test_peers_that_pip_cannot_find_say_where_they_are() -> None:
    for name in ("diff_jpeg", "DiffJPEG"):
        why = bench.PEERS[name].missing() or ""
        assert "pip install" not in why
        assert "/" in why.split("repository ")[1]
    assert "pip install" in (bench.Peer("x", torch.uint8, *[None] * 3, False, "no_such_module").missing() or "")  # type: ignore[arg-type]


def test_on_a_gpu_peers_of_the_cpu_are_left_out() -> None:
    there = {name for name, peer in bench.PEERS.items() if peer.missing("cuda") != "runs on a CPU only"}
    assert {"fdjpeg uint8", "fdjpeg float32", "kornia"} <= there
    assert not {"Pillow codec", "Pillow tensors", "OpenCV", "simplejpeg"} & there


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_bench_on_a_gpu() -> None:
    results = bench.run(["fdjpeg float32"], ["2x32"], device="cuda", threads=[1], rounds=3)
    assert {m.direction for m in results.measurements if m.rounds == 3} == {FORWARD, BACKWARD}
    assert all(row["equal"] == 1 for row in results.fidelity)
