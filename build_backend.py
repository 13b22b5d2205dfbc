"""The PEP 517 backend: setuptools, with torch as a build requirement only if the machine has none.

The build needs the headers of torch. Any torch from `TORCH_MINIMUM` on will do, because the library uses LibTorch's
stable ABI. An isolated build environment hides the installed torch, and a static requirement would download another,
gigabytes of it. So the backend looks for torch on disk, in this interpreter's package folders, and does not import it.
"""

from __future__ import annotations

import re
import site
import sys
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (the hooks that stay as they are)

TORCH_MINIMUM = (2, 10)
TORCH_REQUIREMENT = "torch>=" + ".".join(map(str, TORCH_MINIMUM))


def find_torch() -> Path | None:
    """Returns the directory of the first torch package that is new enough to build with, or None."""
    for directory in (*sys.path, *site.getsitepackages(), site.getusersitepackages()):
        package = Path(directory, "torch")
        version_file = package / "version.py"
        if not version_file.is_file() or not (package / "include/torch/csrc/stable/library.h").is_file():
            continue
        version = re.search(r"__version__ = '(\d+)\.(\d+)", version_file.read_text(encoding="utf-8"))
        if version and (int(version[1]), int(version[2])) >= TORCH_MINIMUM:
            return package.resolve()
    return None


def _torch_requirement() -> list[str]:
    return [] if find_torch() else [TORCH_REQUIREMENT]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Returns the requirements of a wheel beyond `build-system.requires` (PEP 517)."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_torch_requirement()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """Returns the requirements of an editable installation beyond `build-system.requires` (PEP 660)."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_torch_requirement()]
