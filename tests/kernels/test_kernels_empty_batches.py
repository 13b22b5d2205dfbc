"""Batches without images go through every op of the library, on the CPU and by the emulated kernels of a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import emulation, every_op
from support.settings import FACTORS

from fdjpeg.ops import SCHEMAS


@pytest.fixture(params=["cpu", "emulated"])
def ops(request: pytest.FixtureRequest) -> Any:
    """The compiled ops of the CPU, and the GPU's kernels run by a CPU."""
    if request.param == "cpu":
        return torch.ops.fdjpeg
    if emulation.compiler() is None:
        pytest.skip("there is no g++ to compile the emulation with")
    return emulation


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize("subsampling", FACTORS)
def test_empty_batches_give_empty_results(ops: Any, subsampling: str, channels: int) -> None:
    every_op.assert_empty_batches_give_empty_results(ops, channels, FACTORS[subsampling])


def test_no_op_is_left_out() -> None:
    called = every_op.results_of(torch.ops.fdjpeg, 1, 3, (2, 2))
    assert set(SCHEMAS) <= set(called)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_coefficients_of_an_empty_batch_must_fit_the_size(channels: int) -> None:
    """An empty batch is checked like any other."""
    image = torch.rand(0, channels, 21, 37)
    coefficients = torch.ops.fdjpeg.encode(image, None, 75.0, 2, 2)
    tables = torch.ones(1, 3, 8, 8)
    with pytest.raises(RuntimeError, match=r"y must be int16 of shape \(0, 4, 5, 8, 8\), got .*\(0, 3, 5, 8, 8\)"):
        torch.ops.fdjpeg.decode(*coefficients, tables, 25, 37, 2, 2, True, torch.uint8)
    with pytest.raises(RuntimeError, match=r"cr must be int16 of shape .* got .*\(1, 1, 1, 8, 8\)"):
        torch.ops.fdjpeg.decode(
            *coefficients[:2], torch.zeros(1, 1, 1, 8, 8).short(), tables, 21, 37, 2, 2, True, torch.uint8
        )
