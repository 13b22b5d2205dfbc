"""The blocks of code in README, docs and docstrings: Python runs, and shell is what the command line takes."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import io
import pkgutil
import re
import shlex
import tarfile
import textwrap
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import pytest
import torch
import typer
from PIL import Image
from support.classifiers import Tiny
from torch import Tensor, nn

import fdjpeg
from fdjpeg import attacks, compat, defenses
from fdjpeg.cli import main as cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: Pages whose blocks need no other name: they run as they are pasted. In QUESTIONS each block is on its own.
PASTED = ("quickstart.md", "watermark.md", "double-compression.md", "export.md", "pipelines.md", "index.md")
QUESTIONS = "questions.md"


class Block(NamedTuple):
    """A block of code of a page."""

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path, language: str) -> Iterator[Block]:
    """Yields the blocks of a page in a language."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w+)\n(.*?)^```", text, re.M | re.S):
        if found[1] == language:
            yield Block(page.name, text[: found.start()].count("\n") + 1, language, found[2])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the files that pages name."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {"class_names": np.array(list("abcd"))}
    for split, count in (("train", 8), ("test", 4)):
        arrays[f"{split}_images"] = generator.integers(0, 256, (count, 3, 32, 32), np.uint8)
        arrays[f"{split}_labels"] = generator.integers(0, 4, count)
    np.savez(tmp_path / "cifar10.npz", **arrays)
    (tmp_path / "my_photographs").mkdir()
    for number in range(2):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        coarse.resize((96, 72), Image.Resampling.BICUBIC).save(tmp_path / "my_photographs" / f"{number}.png")
    coarse.save(tmp_path / "photo.jpg")
    defenses.save(defenses.JPEG(75), tmp_path / "runs" / "purifier")
    records = generator.integers(0, 256, (2, 3073), np.uint8)
    records[:, 0] %= 10
    for name in ("test_batch.bin", *(f"data_batch_{number}.bin" for number in range(1, 6))):
        (tmp_path / name).write_bytes(records.tobytes())
        with tarfile.open(tmp_path / "cifar-10-binary.tar", "a") as archive:
            archive.add(tmp_path / name, name)
    (tmp_path / "cifar-10-binary.tar").rename(tmp_path / "cifar-10-binary.tar.gz")
    return tmp_path


def prepared() -> dict[str, Any]:
    """Returns the names that pages may use without defining them."""
    coarse = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    images = nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1)
    network = Tiny().eval()
    labels = network(images).argmax(dim=1)

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return attacks.PGD(steps=1)(model, x, y, 1 / 255)

    return {
        "fdjpeg": fdjpeg,
        "attack": attack,
        "attacks": attacks,
        "torch": torch,
        "classifier": network,
        "model": network,
        "network": network,
        "my_layer": fdjpeg.JPEG(50),
        "images": images,
        "x": images,
        "labels": labels,
        "y": labels,
        "loader": (images, labels),
        "clean_images": images,
        "criterion": nn.CrossEntropyLoss(),
        "image": images,
        "label": labels,
        "module": network,
        "normalise": nn.Identity(),
        "wanted_classes": (labels + 1) % 4,
        "x_adv": images,
        "photograph": Image.new("RGB", (32, 24), "orange"),
    }


#: Arguments in the place of those that take long, by their text in a page.
SHORTER = {
    '"pgd-20x5"': '"pgd-1"',
    '"pgd-50"': '"pgd-1"',
    "steps=20": "steps=1",
    '"psnr")': '"psnr", iterations=1)',
    "start=tables)": "start=tables, iterations=1)",
    "iterations=20": "iterations=1",
    "iterations=10": "iterations=1",
    "(8, 3, 224, 224": "(2, 3, 24, 24",
    "min_run_time=0.2": "min_run_time=0.01",
}


#: Packages of blocks that are passed over where they are not installed.
FOREIGN = r"albumentations|efficientnet|foolbox|kornia|lightning|onnx|pyautoattack|scikit-image|torchvision"

#: Blocks that need a compiler and a minute; codec/test_every_way.py runs the same calls.
COMPILED = "aoti_compile_and_package"


def run(block: Block, names: dict[str, Any]) -> bool:
    """Runs a block with these names, as far as the packages that it needs are installed; True at its end."""
    code = block.code
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    compiled = compile(code, str(block), "exec")
    # A class that a block defines looks its module up, for its annotations.
    names.setdefault("__name__", __name__)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exec(compiled, names)
        except (ImportError, RuntimeError) as error:
            if not re.search(FOREIGN, str(error)):
                raise
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_of_a_page_run(page: Path, folder: Path) -> None:
    shared = {} if page.name in PASTED else prepared()
    expected = [block for block in blocks(page, "python") if COMPILED not in block.code]
    ran = [run(block, {} if page.name == QUESTIONS else shared) for block in expected]
    assert ran == [True] * len(expected)


def test_every_question_has_an_answer_that_runs_alone() -> None:
    page = (ROOT / "docs" / QUESTIONS).read_text(encoding="utf-8")
    answers = page.split("\n## ")[1:]
    assert len(answers) == 11
    assert all(answer.count("```python") == 1 for answer in answers)


# ---------------------------------------------------------------------------------------------------------------------
# Docstrings


def public_names() -> Iterator[tuple[str, str]]:
    """Yields the classes and functions that users import, each with the module that lists it."""
    rooms = [page.stem for page in (ROOT / "docs" / "api").glob("*.md") if page.stem not in ("core", "index", "compat")]
    peers = [module.name for module in pkgutil.iter_modules(compat.__path__, "fdjpeg.compat.")]
    modules = ["fdjpeg", *(f"fdjpeg.{room}" for room in [*rooms, "bench"]), *peers]
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ImportError:  # compat.torchvision, without torchvision
            continue
        for public in getattr(module, "__all__", ()):
            if inspect.isclass(getattr(module, public)) or inspect.isfunction(getattr(module, public)):
                yield name, public


PUBLIC = sorted(public_names())


def example_of(docstring: str) -> str:
    """Returns the code of a docstring's example, or nothing."""
    found = re.search(r"^Example::?\n+((?: {4}.*\n?|\n)+)", docstring, re.M)
    code = textwrap.dedent(found[1]) if found else ""
    prompts = re.findall(r"^(?:>>>|\.\.\.) ?(.*)$", code, re.M)
    return "\n".join(prompts) if prompts else code


#: Examples that need a training; defenses/test_defenses_recipes.py makes the same calls.
TRAINED = ("defenses.train(", '"runs/fine-tuned"')

#: Arguments in the place of those that take long in docstrings.
BRIEF = {
    "steps=40, rounds=30": "steps=1, rounds=1",
    "steps=100": "steps=1",
    "queries=1000": "queries=5",
    "steps=1000": "steps=5",
    "HopSkipJump(steps=10)": "HopSkipJump(steps=1)",
    '"pgd-20"': '"pgd-1"',
    "threads=[1])": "threads=[1], memory=False)",
    "eps=112": "eps=2",
}


@pytest.mark.parametrize("public", PUBLIC, ids=".".join)
def test_every_public_name_has_an_example_that_runs(public: tuple[str, str], folder: Path) -> None:
    module, name = public
    code = example_of(inspect.getdoc(getattr(importlib.import_module(module), name)) or "")
    assert code, "the docstring has no example"
    if any(part in code for part in TRAINED):
        return
    code = "\n".join(line for line in code.splitlines() if "Error: " not in line)  # what a call raises is shown so
    for long, short in BRIEF.items():
        code = code.replace(long, short)
    names: dict[str, Any] = {
        "Fraction": Fraction,
        "dataclasses": dataclasses,
        "np": np,
        "numpy": np,
        "nn": nn,
        "io": io,
        "PIL": PIL,
        **prepared(),
    }
    for room in ("attacks", "defenses", "sources", "evaluation", "augmentations", module.partition("fdjpeg.")[2]):
        exports = importlib.import_module(f"fdjpeg.{room}" if room else "fdjpeg")
        names |= {one: getattr(exports, one) for one in getattr(exports, "__all__", ())}
    run(Block(f"{module}.{name}", 0, "python", code), names)


# ---------------------------------------------------------------------------------------------------------------------
# Shell

SHELL = [block for page in PAGES for block in blocks(page, "sh")]

#: Programs whose arguments are not checked here.
OTHERS = ("apt-get", "cd", "export", "git", "pre-commit", "sudo", "twine")


def commands(code: str) -> Iterator[list[str]]:
    """Yields the commands of a block, word by word, without comments."""
    for line in code.replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            words = [word for word in shlex.split(part, comments=True) if word != "..."]
            if words:
                yield words


def parsed(arguments: list[str]) -> None:
    """Lets the command line parse arguments, without running anything; raises as it does."""
    command = typer.main.get_command(cli.app)
    words, name = list(arguments), "fdjpeg"
    while hasattr(command, "commands"):
        if words[:1] == ["--help"] or words[:1] == ["--version"]:
            return
        name, *words = words
        command = command.commands[name]
    if "--help" not in words:
        command.make_context(name, words)


def check_command(words: list[str]) -> None:
    """Fails where a command cannot be meant as it is written."""
    while re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    program, *arguments = words
    if program == "torchrun":
        arguments = arguments[arguments.index("-m") + 1 :]
        program = arguments.pop(0)
    if program in ("python", "python3") and arguments[0] == "-m":
        program, *arguments = arguments[1:]
    if program == "fdjpeg":
        parsed(arguments)
    elif program == "pip":
        extras = {extra for word in arguments for part in re.findall(r"\[(.*)\]", word) for extra in part.split(",")}
        metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert all(re.search(rf"^{extra} = \[", metadata, re.M) for extra in extras), words
    elif program in ("python", "python3"):
        assert (ROOT / arguments[0]).is_file(), words
    else:
        assert program in ("pytest", "sphinx", "venv", *OTHERS), words


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_blocks_are_what_the_command_line_takes(block: Block, folder: Path) -> None:
    for words in commands(block.code):
        check_command(words)


#: Commands that take seconds.
QUICK = [["fdjpeg", "data"], ["fdjpeg", "doctor"], ["fdjpeg", "roundtrip"], ["fdjpeg", "tables", "show"]]


def test_quick_commands_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = [words for block in SHELL for words in commands(block.code) if any(words[: len(q)] == q for q in QUICK)]
    assert quick
    for words in quick:
        with pytest.raises(SystemExit) as ended:
            cli.main(words[1:])
        assert not ended.value.code, words
        assert capsys.readouterr().out
