"""The launches of each documented call of `fdjpeg.jpeg` keep to two limits: 12 forward, and 20 with backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from support import launches

import fdjpeg

_FORWARD, _WITH_BACKWARD = 12, 20


@pytest.mark.parametrize("given", launches.GIVEN)
@pytest.mark.parametrize("row", launches.gradients(), ids=lambda row: row[0])
def test_documented_calls_keep_to_the_limits(row: tuple[str, str, bool, tuple[Any, ...]], given: str) -> None:
    _, arithmetic, soft, which = row
    for gradient in which:
        for backend in launches.BACKENDS:
            forward, both = launches.Call(arithmetic, gradient, soft, given).counted(backend)
            assert forward <= _FORWARD, f"{gradient} on {backend}: {forward} launches forward"
            assert both <= _WITH_BACKWARD, f"{gradient} on {backend}: {both} launches with backward"


def test_the_table_on_the_page_is_what_is_counted() -> None:
    text = launches.PAGE.read_text(encoding="utf-8").split(launches.BEGIN)[1].split(launches.END)[0]
    assert text.strip() == launches.section().strip(), "run python tests/support/launches.py"


def test_other_settings_launch_no_more() -> None:
    """Bytes, other subsampling and nearest upsampling go through the same kernels."""
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = launches.Call("libjpeg", "straight-through", False, "number").counted("triton")[0]
    for settings in ({}, {"subsampling": "4:4:4", "upsampling": "nearest"}, {"subsampling": "4:1:1"}):
        assert launches.forward_launches(lambda settings=settings: fdjpeg.jpeg(image, 50, **settings)) == expected
