"""Guards against waiting for a GPU: reading a tensor's value, and copying a tensor to the GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoReading(TorchDispatchMode):
    """Fails where the value of a tensor, or a shape that depends on it, is read; counts the operators that it saw."""

    READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default)

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in self.READS, f"{func} reads a tensor"
        self.seen += 1
        return func(*args, **(kwargs or {}))


class NoCopying(NoReading):
    """Fails also where a tensor of the host is copied to another device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        source = {torch.ops.aten._to_copy.default: 0, torch.ops.aten.copy_.default: 1}.get(func)
        if source is not None and args[source].device.type == "cpu":
            assert result.device.type == "cpu", f"{func} copies a tensor of the host"
        return result
