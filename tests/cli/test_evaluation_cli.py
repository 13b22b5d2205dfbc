"""The command ``fdjpeg evaluate``: options, presets and files, several processes, and messages about mistakes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.evaluation_cases import smooth, tiny
from typer.main import get_command

from fdjpeg import attacks, defenses, sources
from fdjpeg.cli import evaluate_settings
from fdjpeg.cli import main as cli
from fdjpeg.sources.image_set import to_bytes


def run(*arguments: object) -> int:
    """The command's exit status."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def small(monkeypatch) -> None:
    """A network and photographs that take no time, in place of the packaged ones."""
    monkeypatch.setattr("fdjpeg.sources.images.photographs", lambda size: smooth(4))
    monkeypatch.setitem(sources.PACKAGED, "efficientnet-lite0", tiny)


@pytest.mark.usefixtures("small")
def test_evaluate_prints_and_saves(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    arguments = [
        "--eps",
        "2/255",
        "3/255",
        "--attack",
        "pgd-2",
        "--images",
        3,
        "--defense",
        "jpeg:80",
        "--gradient",
        "cubic",
    ]
    assert run("evaluate", "--out", out, *arguments) == 0
    printed = capsys.readouterr().out
    for text in ("case", "jpeg:80", "passed", "Terms: not stated", "report.html"):
        assert text in printed
    assert {file.name for file in out.iterdir()} == {"work", "report.html", "report.md", "results.json", "results.csv"}
    found = json.loads((out / "results.json").read_text())
    assert found["settings"]["eps"] == ["2/255", "3/255"]
    assert found["settings"]["attacks"]["PGD-2"]["steps"] == 2
    assert found["settings"]["images"]["count"] == 3
    assert len(found["cells"][0]["right"]) == 3


@pytest.mark.usefixtures("small")
def test_a_file_gives_what_the_command_line_does(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("defense:\n  jpeg:80: [cubic]\neps: 3/255\nattack: [pgd-2, fgsm]\nbatch-size: 2\nchecks: false\n")
    assert run("evaluate", "--config", file, "--out", tmp_path / "a", "--images", 3) == 0
    settings = json.loads((tmp_path / "a" / "results.json").read_text())["settings"]
    assert settings["defenses"] == {"jpeg:80": ["cubic"]}
    assert (settings["batch_size"], settings["images"]["count"], settings["eps"]) == (2, 3, ["3/255"])
    assert "Each attack by itself" in capsys.readouterr().out


def test_what_is_given_wins_over_the_file_and_the_file_over_the_preset(tmp_path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("eps: [1/255]\nseed: 3\n")
    settings = evaluate_settings.resolve("standard", file, {"seed": 4})
    assert (settings.eps, settings.seed, settings.images) == (["1/255"], 4, 200)
    assert evaluate_settings.resolve("quick", None, {}) == evaluate_settings.Settings()


@pytest.mark.parametrize("preset", list(evaluate_settings.PRESETS))
def test_presets_name_what_there_is(preset: str) -> None:
    settings = evaluate_settings.resolve(preset, None, {})
    for name in settings.attack:
        if name.startswith(("apgd", "fab", "square")):
            pytest.importorskip("pyautoattack")
        attacks.from_name(name)
    for name in settings.defense:
        assert defenses.parse_defense(name, settings.gradient).gradients


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour: red", "each setting must be one of model, data,.* got colour"),
        ("images: many", "images must be a whole number, got 'many'"),
        ("checks: 1", "checks must be true or false, got 1"),
        ("eps: [[1]]", "eps must be a name, got .1."),
        ("defense: {'jpeg:75': [true]}", "defense.* must be a name, got True"),
        ("model: 3", "model must be a name, got 3"),
        ("- a list", "the file must hold keys and values"),
        ("a: [", "config must be YAML, got .*run.yaml"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        evaluate_settings.resolve("quick", tmp_path / "run.yaml", {})


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--eps", "two"), "eps must be a number such as 4/255"),
        (("--eps", "-1/255"), "eps must be in"),
        (("--defense", "png"), "defense must be"),
        (("--defense", "jpeg:50", "--gradient", "quadratic"), "quadratic"),
        (("--images", "0"), "--images"),
        (("--model", "vgg"), "model must be"),
        (("--data", "imagenet"), "data must be"),
        (("--attack", "pgd-0"), "steps must be at least 1"),
        (("--norm", "l1"), "norm must be"),
        (("--device", "abacus"), "device must be one that torch has here"),
        (("--out", "/dev/null/report"), "out must be a folder that can be written"),
        (("--preset", "slow"), "preset must be one of quick, standard, full"),
        (("--config", "nowhere.yaml"), "config must be a YAML file that can be read"),
        (("--shard", "3/2"), "shard must be i/n"),
        (("--merge", "nowhere"), "merge must name folders of finished work"),
        (("--only-finished",), "out must hold finished work"),
    ],
)
def test_mistakes_end_with_a_sentence(arguments, message, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_missing_packages_say_what_to_install(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run("evaluate") == 2
    assert 'pip install "fdjpeg[eval]"' in capsys.readouterr().err


# --- several processes ------------------------------------------------------------------------------------------------

TESTS = Path(__file__).parents[1]


@pytest.fixture
def options(tmp_path) -> list[str]:
    """The arguments of a small evaluation, whose images and network lie in a folder."""
    images = smooth(10)
    np.savez(tmp_path / "images.npz", images=to_bytes(images.images).numpy(), labels=images.labels.numpy())
    (tmp_path / "mine.py").write_text("from support.evaluation_cases import Tiny as network\n")
    options = "--model mine:network --data images.npz --defense jpeg:60 --defense stochastic-jpeg:20+80 --attack pgd-6"
    return f"evaluate {options} --eps 6/255 --gradient cubic --images 10 --batch-size 2 --draws 2 --no-checks".split()


def start(*arguments: str) -> subprocess.Popen[str]:
    """Python with these arguments, in the current folder."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def results(folder: str) -> dict:
    """A report without the seconds that it took, and without its date, machine and command line."""
    found = json.loads((Path(folder) / "results.json").read_text())
    for cell in found["cells"]:
        del cell["seconds"]
    del found["settings"]["run"]
    return found


def test_two_processes_and_a_killed_run_give_the_report_of_one(tmp_path, options, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*options, "--out", "one") == 0

    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fdjpeg")
    two = start(*torchrun, *options, "--out", "two")
    _, errors = two.communicate(timeout=300)
    assert two.returncode == 0, errors
    assert results("two") == results("one")
    assert sorted(file.name for file in Path("two", "work").iterdir()) == ["1-of-2.jsonl", "2-of-2.jsonl"]

    killed, work = start("-m", "fdjpeg", *options, "--out", "killed"), Path("killed", "work", "1-of-1.jsonl")
    while killed.poll() is None and not (work.exists() and work.read_bytes().count(b"\n") > 8):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not Path("killed", "report.html").exists()
    assert run(*options, "--out", "killed") == 0
    assert results("killed") == results("one")


# --- the documentation ----------------------------------------------------------------------------------------------

PAGE = (TESTS.parent / "docs" / "evaluation.md").read_text(encoding="utf-8")
CONFIGS = sorted((TESTS.parent / "benchmarks" / "evaluation").glob("*.yaml"))


def test_every_option_of_the_documentation_exists() -> None:
    there = {option for item in get_command(cli.app).commands["evaluate"].params for option in item.opts}  # type: ignore[attr-defined]
    there |= {option for item in get_command(cli.app).commands["evaluate"].params for option in item.secondary_opts}  # type: ignore[attr-defined]
    named = set(re.findall(r"--[a-z][a-z-]+", PAGE))
    assert len(named) > 12
    assert named - there <= {"--help", "--nproc-per-node"}  # Typer's and torchrun's own


def test_every_name_of_the_documentation_exists(tmp_path) -> None:
    defences = re.findall(r"`((?:jpeg|random-jpeg|stochastic-jpeg|feature-distillation):[^`…]+)`", PAGE)
    assert len(defences) > 5
    for name in defences:
        assert defenses.parse_defense(name).gradients
    for name in re.search(r"\*\*Attacks\*\*(.*?)\n\n", PAGE, re.DOTALL)[1].split("`")[3::2]:  # type: ignore[index]
        if not name.startswith("fdjpeg"):
            assert re.sub(r"-\d.*", "", name) in attacks.NAMES
    (tmp_path / "run.yaml").write_text(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
    assert evaluate_settings.resolve("quick", tmp_path / "run.yaml", {}).defense == {
        "jpeg:75": ["cubic"],
        "jpeg:50": ["identity", "cubic", "tanh"],
    }


@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: file.stem)
def test_settings_of_published_tables_can_be_read(config: Path) -> None:
    settings = evaluate_settings.resolve("quick", config, {})
    for name in settings.defense:
        assert defenses.parse_defense(name, settings.gradient).gradients
    assert config.name in PAGE
