"""Bad input, a row each: the exact exception, and a message that names the argument and what came.

Every public name of the rooms in `ROOMS` has its rows in `ROWS`, by the name under which users know it; a method's name
is ``Class.method``. A name that can be given nothing bad is in `NOTHING_BAD`, with the reason. A further room is added
to `ROOMS`, and its rows, from a file of its own such as `support.bad_input_core`, to `ROWS`.
"""

from __future__ import annotations

import importlib
import inspect
import re

import pytest
import torch
from support import (
    bad_input_attacks,
    bad_input_compat,
    bad_input_core,
    bad_input_data,
    bad_input_defenses,
    bad_input_sources,
    bad_input_tables,
)
from support.bad_input import BLOCKS, BYTES, IMAGE, TABLES, Row
from torch import Tensor

import fdjpeg

#: Methods that torch or a base class calls, with arguments that were checked.
HOOKS = ("forward", "extra_repr", "draw_from", "augmented")

#: The rooms whose public names have rows: each name in a room's ``__all__``.
ROOMS = (
    "fdjpeg",
    "fdjpeg.surrogates",
    "fdjpeg.learning",
    "fdjpeg.augmentations",
    "fdjpeg.attacks",
    "fdjpeg.certificates",
    "fdjpeg.sources",
    "fdjpeg.defenses",
    "fdjpeg.evaluation",
    *bad_input_compat.MODULES,
)

TABLES_OF_ROOMS = (
    bad_input_core,
    bad_input_data,
    bad_input_sources,
    bad_input_attacks,
    bad_input_defenses,
    bad_input_compat,
)

ROWS = [row for table in TABLES_OF_ROOMS for row in table.ROWS]

NOTHING_BAD = {name: why for table in TABLES_OF_ROOMS for name, why in table.NOTHING_BAD.items()}


def _before(tensor: Tensor) -> tuple[Tensor, int]:
    return tensor.detach().clone(), tensor._version


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.name}: {row.message[:60]}" for row in ROWS])
def test_row(row: Row) -> None:
    with pytest.raises(Exception, match=re.escape(row.message)) as caught:
        row.call()
    assert type(caught.value) is row.error
    assert str(caught.value).startswith(row.message)


def test_bad_input_changes_nothing() -> None:
    kept = [IMAGE, BYTES, BLOCKS, bad_input_tables.MADE.y, TABLES.y, *bad_input_data.KEPT]
    before = [_before(tensor) for tensor in kept]
    for row in ROWS:
        with pytest.raises(row.error):
            row.call()
    for tensor, (values, version) in zip(kept, before, strict=True):
        assert tensor._version == version
        assert torch.equal(tensor, values)


# ---------------------------------------------------------------------------------------------------------------------
# Completeness


def public_names() -> set[str]:
    """Returns the names in the rooms' ``__all__``, and the public methods of their classes."""
    found = set()
    for room in ROOMS:
        module = importlib.import_module(room)
        prefix = "" if room == "fdjpeg" else room.removeprefix("fdjpeg.") + "."
        for name in module.__all__:
            found.add(prefix + name)
            thing = getattr(module, name, None)
            if inspect.isclass(thing) and prefix == "":
                found |= {f"{name}.{method}" for method in _methods(thing)}
    return found


def _methods(kind: type) -> set[str]:
    """Returns the public methods that a class itself defines; ``forward`` is the layer's own name."""
    return {
        name
        for name, member in vars(kind).items()
        if not name.startswith("_") and name not in HOOKS and not isinstance(member, (property, type))
        if callable(member) or isinstance(member, (classmethod, staticmethod))
    }


def test_every_public_name_has_its_rows() -> None:
    named = {row.name for row in ROWS}
    missing = public_names() - named - set(NOTHING_BAD)
    assert not missing, f"rows of bad input are missing for {sorted(missing)}"
    unknown = (named | set(NOTHING_BAD)) - public_names()
    assert not unknown, f"rows are there for names that are not: {sorted(unknown)}"
    assert not named & set(NOTHING_BAD)


def test_a_public_name_without_rows_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fdjpeg, "later", lambda image: image, raising=False)
    monkeypatch.setattr(fdjpeg, "__all__", [*fdjpeg.__all__, "later"])
    with pytest.raises(AssertionError, match=r"rows of bad input are missing for \['later'\]"):
        test_every_public_name_has_its_rows()
