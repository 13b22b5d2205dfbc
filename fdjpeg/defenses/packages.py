"""Packages of the ``train`` extra, imported where they are needed, so that the rest works without them."""

from __future__ import annotations

import importlib
from typing import Any

from fdjpeg.evaluation.packages import MissingPackage


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
