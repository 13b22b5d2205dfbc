"""Packages of the extras, imported where they are used, so that the rest works without them."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

EXTRA = 'pip install "fdjpeg[eval]"'


class MissingPackage(ImportError):
    """A package that was asked for is not installed; the message says how to install it."""


def package_folder(module: str, how: str = EXTRA) -> Path:
    """The folder of an installed top-level package, found without importing it.

    Args:
        module: the package as it is imported.
        how: the command that installs it.

    Raises:
        MissingPackage: if it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise MissingPackage(f"The package {module} is not installed; {how} installs what the evaluation needs.")
    return Path(spec.origin).parent


def optional(module: str, package: str) -> ModuleType:
    """A module of a package that users bring, imported.

    Raises:
        MissingPackage: if it is not installed, or does not import beside this torch.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # torchvision raises RuntimeError beside a torch that it was not built for
        raise MissingPackage(f"{module} cannot be imported ({error}); pip install {package} brings it.") from error


def required(module: str, package: str) -> Any:
    """A module of the ``train`` extra.

    Raises:
        MissingPackage: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackage(
            f'The package {package} is not installed; pip install "fdjpeg[train]" installs what training needs.'
        ) from error
