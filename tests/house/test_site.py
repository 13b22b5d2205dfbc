"""The site of the documentation: every page is in it and in README, and its figures are those of the kept results."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_every_page_is_in_the_site_and_in_readme() -> None:
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), re.S)
    listed = {line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")}
    pages = {page.stem for page in DOCS.glob("*.md")} - {"index"}
    assert listed == pages | {"gallery/index", "api/index"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page for page in sorted(pages) if f"(docs/{page}.md)" not in readme] == []


def test_api_pages_hold_every_public_name() -> None:
    import fdjpeg

    core = (DOCS / "api" / "core.md").read_text(encoding="utf-8")
    named = set(re.findall(r"auto(?:function|class):: fdjpeg\.(\w+)", core))
    assert named == set(fdjpeg.__all__) - {"RandomJPEG", "surrogates"}  # these have pages of their own
    modules = {page.stem for page in (DOCS / "api").glob("*.md")} - {"core", "index"}
    tree = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    assert all(f"\n{module}\n" in tree for module in modules)


def test_figures_are_those_of_the_kept_results() -> None:
    pytest.importorskip("matplotlib")
    figures = runpy.run_path(str(ROOT / "benchmarks" / "figures.py"))
    results = json.loads(figures["RESULTS"].read_text(encoding="utf-8"))
    for name in ("speed", "fidelity"):
        drawn = [text.get_text() for axes in figures[name](results).axes for text in axes.texts]
        kept = (DOCS / f"{name}.svg").read_text(encoding="utf-8")
        assert drawn
        assert all(text.strip() in kept for text in drawn)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"commit {results['machine']['commit']}" in readme
    assert results["machine"]["date"].split(" ")[0] in readme


def test_the_gallery_has_a_title_for_every_page() -> None:
    pages = sorted((ROOT / "examples" / "gallery").glob("plot_*.py"))
    assert len(pages) == 7
    for page in pages:
        title, line = page.read_text(encoding="utf-8").removeprefix('"""').lstrip("\n").splitlines()[:2]
        assert set(line) == {"="}
        assert len(line) >= len(title.removeprefix('"""'))
