"""Every replacement that docs/migrating.md promises runs, and gives an image."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import fdjpeg

PAGE = Path(__file__).parent.parent / "docs" / "migrating.md"
REPLACEMENTS = [
    row.split("|")[2] for row in PAGE.read_text(encoding="utf-8").splitlines() if row.startswith("| ") and "`" in row
]


@pytest.mark.parametrize("cell", REPLACEMENTS)
def test_replacement_runs(cell: str) -> None:
    (code, *_) = re.findall(r"`([^`]+)`", cell)
    x = torch.rand(2, 3, 19, 30, generator=torch.Generator().manual_seed(0))
    names = {
        "fdjpeg": fdjpeg,
        "x": x,
        "x255": 255 * x,
        "q": 60,
        "quality": torch.tensor([40, 60]),
        "table_y": torch.full((8, 8), 9.0),
        "table_c": torch.full((8, 8), 20.0),
        "byte_image": (255 * x).to(torch.uint8),
        "hwc_bytes": (255 * x).to(torch.uint8).movedim(-3, -1),
    }
    result = eval(code, names)
    if isinstance(result, torch.nn.Module):
        result = result(x)
    assert result.shape in (x.shape, names["hwc_bytes"].shape)  # type: ignore[attr-defined]


def test_the_page_has_a_replacement_for_each_peer() -> None:
    assert len(REPLACEMENTS) == 10
