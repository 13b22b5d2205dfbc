"""Every implementation of the ops, behind one interface, so that one suite tests them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import fdjpeg
from fdjpeg import reference
from support import emulation, interpreted


class Backend(NamedTuple):
    """The ops (see `fdjpeg.ops.SCHEMAS`), and the device whose tensors they take."""

    name: str
    device: str
    round_trip: Callable[..., Any]
    round_trip_backward: Callable[..., Any]
    encode: Callable[..., Any]
    decode: Callable[..., Any]
    # None if the backend has no kernel for it, and the reference serves it.
    round_trip_by_block: Callable[..., Any] | None
    surrogate_backward: Callable[..., Any] | None
    real_round_trip: Callable[..., Any] | None
    real_round_trip_backward: Callable[..., Any] | None
    block_dct: Callable[..., Any] | None
    block_idct: Callable[..., Any] | None

    @property
    def missing(self) -> str | None:
        """Returns the reason why this backend is missing, or None if it is available."""
        if self.name == "interpreted":
            return interpreted.missing()
        if self.name == "emulated":
            return None if emulation.compiler() else "there is no g++ to compile the emulation with"
        state = fdjpeg.backends()[self.name]
        return None if state == "available" else state

    @property
    def slow(self) -> bool:
        """Returns whether a call takes a second, so that only some of many cases are tried."""
        return self.name == "interpreted"


def _of(name: str, device: str, functions: Any) -> Backend:
    return Backend(name, device, *(getattr(functions, function, None) for function in Backend._fields[2:]))


class _Triton:
    """The functions of `fdjpeg._triton.ops`, which imports Triton."""

    def __getattr__(self, function: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            from fdjpeg._triton import ops as triton_ops

            return getattr(triton_ops, function)(*arguments)

        return call


BACKENDS = {
    backend.name: backend
    for backend in (
        _of("reference", "cpu", reference),
        _of("cpu", "cpu", torch.ops.fdjpeg),
        # The CUDA kernels, run by a CPU.
        _of("emulated", "cpu", emulation),
        _of("cuda", "cuda", torch.ops.fdjpeg),
        _of("triton", "cuda", _Triton()),
        # The same kernels, by a CPU.
        _of("interpreted", "cpu", interpreted),
    )
}
