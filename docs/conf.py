"""Settings of the documentation's site: ``python -m sphinx -b html docs site``.

The first build runs the gallery, later ones only the examples that changed. ``FDJPEG_GALLERY=0`` runs none of it.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import fdjpeg

ROOT = Path(__file__).resolve().parents[1]
# The examples of the gallery share a module.
sys.path.insert(0, str(ROOT / "examples" / "gallery"))

project = "fdjpeg"
author = "The fdjpeg authors"
copyright = "2026, The fdjpeg authors"
release = version = fdjpeg.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["gallery/**/*.ipynb", "gallery/**/*.py", "gallery/**/*.json", "gallery/**/*.zip"]

html_theme = "furo"
html_title = f"fdjpeg {release}"
html_static_path: list[str] = []

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

sphinx_gallery_conf = {
    "examples_dirs": [str(ROOT / "examples" / "gallery")],
    "gallery_dirs": ["gallery"],
    "filename_pattern": "/plot_",
    "ignore_pattern": r"shown\.py|__init__\.py",
    "download_all_examples": True,
    "remove_config_comments": True,
    "show_memory": False,
    "write_computation_times": False,
    "plot_gallery": os.environ.get("FDJPEG_GALLERY", "1") != "0",
    "within_subsection_order": "FileNameSortKey",
}


def name_files_outside(app: Any, page: str, source: list[str]) -> None:
    """Puts the names of the repository's files in the place of links that lead out of the docs."""
    if "/" not in page:
        source[0] = re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2` in the repository)", source[0])


def setup(app: Any) -> None:
    """Connects the hook."""
    app.connect("source-read", name_files_outside)
