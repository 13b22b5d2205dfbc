"""A pytest plugin that runs ``test_gpu*.py`` with a CPU in place of the GPU: ``pytest -p support.gpu_on_cpu``.

Only a GPU can show what those tests promise. This shows beforehand that they run and agree with themselves.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fdjpeg
from support import gpu_cases

#: Parts of the names of tests that need a GPU, or take long on a CPU.
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

gpu_cases.DEVICE = "cpu"
fdjpeg.backends = lambda: {"cuda": "available", "triton": "missing: a CPU replaces the GPU"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Leaves out the tests that cannot run."""
    left_out = [item for item in items if any(part in item.name for part in _NOT_HERE)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
