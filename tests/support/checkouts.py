"""Copies of the checkout, and Python in a process of its own, for tests of the build and of the library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with changed environment variables; an empty one is removed."""
    changed = {name: value for name, value in {**os.environ, **environment}.items() if value}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=changed, text=True, capture_output=True)


def copy_of_checkout(place: Path) -> Path:
    """Copies the files under version control."""
    ignored = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "*.so", "__pycache__", "venv", "fdjpeg-evaluation"
    )
    return Path(shutil.copytree(ROOT, place / "checkout", ignore=ignored))
