"""The network and the images of most tests of the evaluation."""

from __future__ import annotations

import pytest
from support.evaluation_cases import smooth, tiny

from fdjpeg.sources import ImageSet, Network


@pytest.fixture
def network() -> Network:
    return tiny()


@pytest.fixture
def photographs() -> ImageSet:
    return smooth()
