"""The launches of each documented call of `fdjpeg.jpeg`, forward and with backward, where a CPU stands for a GPU.

The launches are operators of torch that compute, and Triton's kernels, which are counted and not run. CUDA's kernels
are fewer in each op. Two limits hold for every call that an op serves: 12 launches forward, and 20 with backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch

pytest.importorskip("triton")

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.jit import JITFunction

import fdjpeg
from fdjpeg import functional
from fdjpeg._triton import ops as triton_ops
from fdjpeg.surrogates import Noise

_FORWARD, _WITH_BACKWARD = 12, 20

#: Operators that launch nothing: they give memory or another view of it.
_FREE = {"empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided", "_unsafe_view", "_reshape_alias"}


class _Launches(TorchDispatchMode):
    """Counts launches; fdjpeg's ops are Triton's, whose kernels do not run."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "fdjpeg":
            with self, mock.patch.object(JITFunction, "run", self._launched):
                return getattr(triton_ops, function.overloadpacket.__name__)(*args)
        free = function.is_view or function.overloadpacket.__name__ in _FREE
        self.count += not free
        return function(*args, **(kwargs or {}))

    def _launched(self, *arguments: Any, **options: Any) -> None:
        self.count += 1


class _Own:
    """A user's surrogate: its own launches, of which there are none here, are not ours."""

    def forward(self, c: Tensor) -> Tensor:
        return c

    def derivative(self, c: Tensor) -> Tensor:
        return c


_IMAGE = torch.rand(2, 3, 32, 32)
_QUALITY = torch.tensor([40.0, 60.0])
_MAP = torch.full((2, 4, 4), 50.0)
_TABLES = torch.full((8, 8), 9.0)


def _jpeg(of: str = "number", **settings: Any) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """Returns a call, and the tensors whose gradients it takes."""
    image = _IMAGE.clone().requires_grad_()
    if of == "number":
        return lambda: fdjpeg.jpeg(image, 50, **settings), [image]
    if of == "tables":
        steps = _TABLES.clone().requires_grad_()
        return lambda: fdjpeg.jpeg(image, tables=fdjpeg.QuantTables(steps, steps), **settings), [image, steps]
    quality = (_QUALITY if of.startswith("quality") else _MAP).clone()
    leaves = [image]
    if of.endswith("gradient"):
        leaves.append(quality.requires_grad_())
    return lambda: fdjpeg.jpeg(image, quality, **settings), leaves


def _calls() -> dict[str, tuple[str, dict[str, Any]]]:
    """Returns the documented calls that an op serves, by name."""
    real = {"arithmetic": "real"}
    settings: dict[str, dict[str, Any]] = {
        "straight-through": {},
        "identity": {"gradient": "identity"},
        "cubic": {"gradient": "cubic"},
        "zero": {"gradient": "zero"},
        "4:4:4, nearest": {"subsampling": "4:4:4", "upsampling": "nearest"},
        "real": real,
        "real, tanh": {**real, "gradient": "tanh"},
        "real, soft": {**real, "gradient": "softmax", "soft": True},
    }
    return {f"{name}, {of}": (of, one) for name, one in settings.items() for of in ("number", "tables")} | {
        "straight-through, map": ("map", {}),
        "identity, map": ("map", {"gradient": "identity"}),
    }


def _counted(of: str, settings: dict[str, Any]) -> tuple[int, int]:
    """Returns the launches of a call: forward, and with backward."""
    call, leaves = _jpeg(of, **settings)
    call()  # constants are made once
    with mock.patch.object(functional, "_warn_above_one"), _Launches() as launches:
        out = call()
        forward = launches.count
        torch.autograd.grad(out, leaves, torch.ones_like(_IMAGE))
        return forward, launches.count - 1  # less the ones


@pytest.mark.parametrize("name", _calls())
def test_calls_that_an_op_serves_keep_to_the_limits(name: str) -> None:
    forward, both = _counted(*_calls()[name])
    assert forward <= _FORWARD, f"{name}: {forward} launches forward"
    assert both <= _WITH_BACKWARD, f"{name}: {both} launches with backward"


#: Calls that the reference pieces serve, with the most launches that they take, forward and with backward: beyond the
#: limits, so that no change makes them more without notice.
_BEYOND: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "surrogate of one's own": ("number", {"gradient": _Own()}, 2018, 2135),
    "real, surrogate of one's own": ("number", {"gradient": _Own(), "arithmetic": "real"}, 195, 319),
    "real, noise": ("number", {"gradient": Noise(), "arithmetic": "real", "soft": True}, 188, 308),
    "real, map": ("map", {"arithmetic": "real"}, 241, 364),
    "map with its gradient": ("map with gradient", {}, 2064, 2214),
    "cubic, map": ("map", {"gradient": "cubic"}, 2074, 2191),
    "quality with its gradient": ("quality with gradient", {}, 42, 69),
}


@pytest.mark.parametrize("name", _BEYOND)
def test_other_calls_take_no_more_than_now(name: str) -> None:
    of, settings, forward, both = _BEYOND[name]
    counted = _counted(of, settings)
    assert counted[0] <= forward
    assert counted[1] <= both
