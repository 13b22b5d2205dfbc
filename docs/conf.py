"""Settings of the documentation's site: ``python -m sphinx -b html docs site``; CI adds ``-W -D plot_gallery=0``."""

from __future__ import annotations

import sys
from pathlib import Path

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
suppress_warnings = ["config.cache"]

html_theme = "furo"
html_title = f"fdjpeg {release}"
html_static_path: list[str] = []

myst_enable_extensions = ["colon_fence", "dollarmath"]
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
    "plot_gallery": True,
    "within_subsection_order": "FileNameSortKey",
}
