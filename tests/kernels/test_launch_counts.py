"""The launches of each documented call of `fdjpeg.jpeg`, forward and with backward, where a CPU stands for a GPU.

The launches are operators of torch that compute, and Triton's kernels, which are counted and not run. CUDA's kernels
are fewer in each op. Two limits hold: 12 launches forward, and 20 with backward. A few calls are beyond them.
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
    """Returns the documented calls, by name."""
    real = {"arithmetic": "real"}
    own = {"gradient": _Own()}
    soft_noise = {**real, "gradient": Noise(), "soft": True}
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
        "surrogate of one's own": ("number", own),
        "surrogate of one's own, map": ("map", own),
        "real, surrogate of one's own": ("number", {**own, **real}),
        "real, surrogate of one's own, map": ("map", {**own, **real}),
        "real, noise": ("number", soft_noise),
        "real, noise, map": ("map", soft_noise),
        "straight-through, map": ("map", {}),
        "identity, map": ("map", {"gradient": "identity"}),
        "cubic, map": ("map", {"gradient": "cubic"}),
        "real, map": ("map", real),
        "real, map with its gradient": ("map with gradient", real),
        "map with its gradient": ("map with gradient", {}),
        "cubic, map with its gradient": ("map with gradient", {"gradient": "cubic"}),
        "quality": ("quality", {}),
        "quality with its gradient": ("quality with gradient", {}),
        "real, quality with its gradient": ("quality with gradient", real),
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
def test_documented_calls_keep_to_the_limits(name: str) -> None:
    forward, both = _counted(*_calls()[name])
    assert forward <= _FORWARD, f"{name}: {forward} launches forward"
    assert both <= _WITH_BACKWARD, f"{name}: {both} launches with backward"


#: Calls beyond the limits, with the most launches that they take, forward and with backward, so that no change makes
#: them more without notice. Of tables and maps torch sums the gradients of blocks, and evaluates built-in surrogates.
_BEYOND: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "surrogate of one's own, tables": ("tables", {"gradient": _Own()}, 9, 26),
    "real, surrogate of one's own, tables": ("tables", {"gradient": _Own(), "arithmetic": "real"}, 10, 29),
    "real, noise, tables": ("tables", {"gradient": Noise(), "arithmetic": "real", "soft": True}, 11, 34),
    "real, tanh, map": ("map", {"arithmetic": "real", "gradient": "tanh"}, 20, 26),
}


@pytest.mark.parametrize("name", _BEYOND)
def test_other_calls_take_no_more_than_now(name: str) -> None:
    of, settings, forward, both = _BEYOND[name]
    counted = _counted(of, settings)
    assert counted[0] <= forward
    assert counted[1] <= both
