"""Nothing that comes from outside is executed: no pickles, safe YAML, links and names that mean harm."""

from __future__ import annotations

import ast
import html.parser
import os
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.report_cases import made

from fdjpeg import defenses, sources
from fdjpeg.cli import evaluate_settings
from fdjpeg.evaluation import Report
from fdjpeg.evaluation.store import Store
from fdjpeg.sources import ImageSet

ROOT = Path(__file__).parents[2]

#: Modules whose loaders execute what a file says.
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the package, the examples and the benchmarks, with its place."""
    for folder in ("fdjpeg", "examples", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", node


def test_no_loader_of_pickles_is_called() -> None:
    for place, call in calls():
        name = ast.unparse(call.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name.endswith("torch.load"):
            assert given.get("weights_only") == "True", place
        assert not (name.endswith(("np.load", "numpy.load")) and given.get("allow_pickle", "False") != "False"), place
        assert given.get("allow_pickle", "False") == "False", place
        assert not name.startswith(("yaml.load", "yaml.unsafe", "yaml.full")), place
        assert name not in ("eval", "exec", "os.system"), place
        assert given.get("shell", "False") == "False", place


def test_no_module_that_unpickles_is_imported() -> None:
    for file in sorted((ROOT / "fdjpeg").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & UNSAFE_MODULES, file


class Harm:
    """A pickle that makes a file where it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.file),)


def test_a_pickle_in_an_npz_is_not_loaded(tmp_path: Path) -> None:
    array = np.empty(2, object)
    array[:] = [Harm(tmp_path / "harm"), 0]
    np.savez(tmp_path / "bad.npz", images=array, labels=np.array([0, 1]))
    with pytest.raises(ValueError, match=r"data must be an .npz file that can be read, got .*bad.npz"):
        sources.load_images(str(tmp_path / "bad.npz"))
    with zipfile.ZipFile(tmp_path / "raw.npz", "w") as archive:
        for name in ("images.npy", "labels.npy"):
            archive.writestr(name, pickle.dumps(Harm(tmp_path / "harm")))
    with pytest.raises(ValueError, match=r"data must be an .npz file that can be read, got .*raw.npz"):
        sources.load_images(str(tmp_path / "raw.npz"))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["defense.safetensors", "defense.pt", "state.pt"])
def test_a_pickle_in_place_of_a_defence_is_not_loaded(name: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    (tmp_path / "saved").mkdir()
    torch.save(Harm(tmp_path / "harm"), tmp_path / "saved" / name)
    for place in (tmp_path / "saved", tmp_path / "saved" / name):
        with pytest.raises(ValueError, match=r"\S"):
            defenses.load(place)
    assert not (tmp_path / "harm").exists()


def test_yaml_makes_plain_values_only(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    file = tmp_path / "run.yaml"
    file.write_text(f"model: !!python/object/apply:os.mkdir ['{tmp_path / 'harm'}']\n")
    with pytest.raises(ValueError, match="config must be YAML, got"):
        evaluate_settings.resolve("quick", file, {})
    assert not (tmp_path / "harm").exists()


def test_finished_work_is_text(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "1.jsonl").write_bytes(b"key\t" + pickle.dumps([Harm(tmp_path / "harm")]) + b"]\n")
    assert Store(tmp_path, "new").load("key") is None
    assert not (tmp_path / "harm").exists()


# --- links and pipes in folders ---------------------------------------------------------------------------------------


def test_links_in_a_folder_neither_loop_nor_hang(tmp_path: Path) -> None:
    (tmp_path / "ape").mkdir()
    (tmp_path / "zebra").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "ape" / "a.png")
    os.symlink(tmp_path / "ape" / "a.png", tmp_path / "zebra" / "linked.png")
    os.symlink(tmp_path, tmp_path / "ape" / "above")  # would list all again, for ever
    os.symlink("/dev/zero", tmp_path / "zebra" / "endless.png")
    os.mkfifo(tmp_path / "zebra" / "pipe.png")
    found = sources.load_images(str(tmp_path))
    assert found.names == ("ape/a.png", "zebra/linked.png")
    os.symlink(tmp_path / "missing.png", tmp_path / "zebra" / "dangling.png")
    with pytest.raises(ValueError, match=r"data must be an image that Pillow reads, got .*dangling.png"):
        sources.load_images(str(tmp_path))


# --- names ------------------------------------------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script>.png",
    '"><img src=x onerror=alert(1)>.png',
    "'onmouseover='alert(1).png",
    "&lt;b&gt; ]]> --> \x07 \udcff.png",
)


class Reader(html.parser.HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def tags(page: str) -> tuple[set[str], set[str]]:
    reader = Reader()
    reader.feed(page)
    return reader.tags, reader.attributes


def report_of(name: str) -> Report:
    """A report in which images, defences, attacks, gradients, networks and sources have one name."""

    def named(text: str) -> str:
        return name if text in ("jpeg:75", "cubic", "PGD-20") else text

    report = made()
    cells = [
        replace(
            cell,
            defense=named(cell.defense),
            gradient=None if cell.gradient is None else named(cell.gradient),
            attack=None if cell.attack is None else named(cell.attack),
            attacked=1,
            loss=[0.0, 0.5, 1.0],
        )
        for cell in report.cells
    ]
    settings = replace(
        report.settings,
        defenses={name: ["identity", name]},
        attacks={name: {"label": name}},
        model=replace(report.settings.model, name=name, source=name, terms=name),
        images=replace(report.settings.images, source=name, on_lattice={name: 50}),
        transfer={name: name},
        randomised=[name],
        black_boxes=[name],
        open=[name],
    )
    images = ImageSet(report.images.images, report.images.labels, (name, "b", "c", "d"))
    return Report(settings, cells, images)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text_in_the_page(name: str, tmp_path: Path) -> None:
    """The page has the tags and attributes that it has for plain names, as files and users' code may bring them."""
    mean = report_of(name)
    assert tags(mean.html()) == tags(report_of("a plain name").html())
    assert name not in mean.html() or "<" not in name
    assert len(mean.save(tmp_path)) == 4
    assert (tmp_path / "report.html").read_text(encoding="utf-8")


def test_running_code_by_name_is_documented() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert "`module:callable` runs code" in page
