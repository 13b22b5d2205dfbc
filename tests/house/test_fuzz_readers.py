"""Readers of strangers' files refuse what they cannot read, and nothing else happens: the short part of the fuzzing.

``tests/fuzz_readers.py`` is the long part.
"""

from __future__ import annotations

import pytest
from support import fuzz_readers

#: Packages that a reader needs.
_NEEDS = {"jpeg-coefficients": "jpeglib", "defense": "safetensors", "settings": "yaml"}


@pytest.fixture(params=fuzz_readers.READERS)
def reader(request: pytest.FixtureRequest) -> str:
    """The name of a reader."""
    pytest.importorskip(_NEEDS.get(request.param, "torch"))
    return str(request.param)


def test_the_corpus_is_read(reader: str) -> None:
    files = fuzz_readers.corpus(reader)
    assert files
    assert all(fuzz_readers.read(reader, data) for data in files)


def test_changed_files_are_read_or_refused(reader: str) -> None:
    files = fuzz_readers.corpus(reader)
    taken = [fuzz_readers.read(reader, data) for data in fuzz_readers.mutated(files, seed=1, count=150)]
    assert any(taken) or reader == "arrays"
    assert not all(taken) or reader == "ops"
