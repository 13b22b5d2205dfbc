"""Packages of the extras, imported only where they are used, so that the rest works without them."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

EXTRA = 'pip install "fdjpeg[eval]"'


class MissingPackage(ImportError):
    """A requested package is not installed; the message shows how to install it."""


def package_folder(module: str, how: str = EXTRA) -> Path:
    """Returns the folder of an installed top-level package, found without importing it.

    Args:
        module: the package as it is imported.
        how: the command that installs it.

    Raises:
        MissingPackage: if it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise MissingPackage(f"The package {module} is not installed; {how} installs the packages of the evaluation.")
    return Path(spec.origin).parent


def required(module: str, package: str, extra: str | None = None) -> Any:
    """Imports a module of a package that fdjpeg does not depend on, and returns it.

    Args:
        module: the module as it is imported.
        package: the package as pip installs it.
        extra: the extra of fdjpeg that installs the package; None for a package that users choose themselves.

    Raises:
        MissingPackage: if it is not installed, or cannot be imported with this torch.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # torchvision raises RuntimeError with a torch that it was not built for
        how = package if extra is None else f'"fdjpeg[{extra}]"'
        raise MissingPackage(
            f"The package {package} cannot be imported ({error}); pip install {how} installs it."
        ) from error
