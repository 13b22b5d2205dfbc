"""A plugin of pytest that runs ``test_gpu.py`` where a CPU stands for the GPU: ``pytest -p gpu_on_cpu``.

What those tests promise only a GPU can show; but that they run, and agree with themselves, can be seen before.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fdjpeg

#: What a CPU cannot stand in for, or takes long for: parts of the tests' names.
_NOT_HERE = ("graph", "each_stream", "memory", "larger", "more_images")


def _stream() -> SimpleNamespace:
    return SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)


for name, stand_in in {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "get_device_properties": lambda device: SimpleNamespace(total_memory=0),
    "set_sync_debug_mode": lambda mode: None,
    "Stream": _stream,
    "current_stream": _stream,
    "stream": lambda stream: contextlib.nullcontext(),
    "_sleep": lambda cycles: None,
    **dict.fromkeys(("synchronize", "reset_peak_memory_stats"), lambda: None),
    **dict.fromkeys(("memory_allocated", "max_memory_allocated"), lambda: 0),
}.items():
    setattr(torch.cuda, name, stand_in)

fdjpeg.backends = lambda: {"cuda": "available", "triton": "missing: a CPU stands for the GPU"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Leaves out what cannot run, and tells the others where the GPU is."""
    left_out = [item for item in items if any(part in item.name for part in _NOT_HERE)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    for item in items:
        item.module.DEVICE = "cpu"
