"""What tests of the build and of the library share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.checkouts import copy_of_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files under version control."""
    return copy_of_checkout(tmp_path)
