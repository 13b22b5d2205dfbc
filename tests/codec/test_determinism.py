"""The same bits from the public functions and layers, whoever computes them: docs/trust.md, "Determinism".

Threads, layouts and splits of the ops have their tests in `test_invariances.py`, backends in `test_conformance.py`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fdjpeg
from fdjpeg import QuantTables

SURROGATES = ("straight-through", "identity", "cubic", "sine", "fourier", "tanh", "softmax", "zero")

#: The settings that are tried: every kind of gradient under the exact forward, and the real arithmetic.
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"gradient": name} for name in SURROGATES},
    "4:1:1, nearest": {"subsampling": "4:1:1", "upsampling": "nearest", "gradient": "tanh"},
    "real": {"arithmetic": "real"},
    "soft": {"arithmetic": "real", "gradient": "sine", "soft": True},
}
EVERY_SETTING = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())

IMAGES = torch.rand(6, 3, 37, 53, generator=torch.Generator().manual_seed(2))
INCOMING = torch.randn(6, 3, 37, 53, generator=torch.Generator().manual_seed(3))


def forward_and_gradients(images: Tensor, incoming: Tensor, setting: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the image, its gradient, and that of tables that all images share."""
    image = images.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    table = torch.linspace(2, 40, 64).reshape(8, 8).requires_grad_()
    out = fdjpeg.jpeg(image, tables=QuantTables(table, table), **setting)
    of_image, of_table = torch.autograd.grad(out, (image, table), incoming)
    return out.detach(), of_image, of_table


def digests(setting: dict[str, Any]) -> list[str]:
    """Returns a digest of each of `forward_and_gradients`."""
    results = forward_and_gradients(IMAGES, INCOMING, setting)
    return [hashlib.sha256(result.contiguous().numpy().tobytes()).hexdigest() for result in results]


@EVERY_SETTING
def test_runs_and_threads(setting: dict[str, Any]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = digests(setting)
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            assert digests(setting) == expected
    finally:
        torch.set_num_threads(before)


@EVERY_SETTING
def test_layouts_of_the_image_and_of_the_incoming_gradient(setting: dict[str, Any]) -> None:
    out, of_image, _ = forward_and_gradients(IMAGES, INCOMING, setting)
    last = torch.channels_last
    padded = torch.zeros(6, 3, 41, 60)
    padded[..., 2:39, 5:58] = IMAGES
    for images, incoming in (
        (IMAGES.contiguous(memory_format=last), INCOMING),
        (IMAGES, INCOMING.contiguous(memory_format=last)),
        (padded[..., 2:39, 5:58], INCOMING.transpose(2, 3).contiguous().transpose(2, 3)),
    ):
        out_again, of_image_again, _ = forward_and_gradients(images, incoming, setting)
        assert torch.equal(out_again, out)
        assert torch.equal(of_image_again, of_image)


@EVERY_SETTING
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (4, 2), (1, 5)], ids=str)
def test_splits_of_the_batch(setting: dict[str, Any], sizes: tuple[int, ...]) -> None:
    out, of_image, _ = forward_and_gradients(IMAGES, INCOMING, setting)
    parts = [
        forward_and_gradients(images, incoming, setting)
        for images, incoming in zip(IMAGES.split(sizes), INCOMING.split(sizes), strict=True)
    ]
    assert torch.equal(torch.cat([part[0] for part in parts]), out)
    assert torch.equal(torch.cat([part[1] for part in parts]), of_image)


LAYERS: dict[str, Callable[[], torch.nn.Module]] = {
    "JPEG": lambda: fdjpeg.JPEG(40),
    "StochasticJPEG": lambda: fdjpeg.StochasticJPEG(generator=torch.Generator().manual_seed(1)),
    "LearnableJPEG": lambda: fdjpeg.LearnableJPEG(QuantTables.standard(40)),
    "FeatureDistillation": lambda: fdjpeg.FeatureDistillation("code", passes=2, gradient="cubic"),
}


def layer_digest(name: str) -> str:
    """Returns a digest of a layer's result and gradient."""
    image = IMAGES.clone().requires_grad_()
    out = LAYERS[name]()(image)
    (gradient,) = torch.autograd.grad(out, image, INCOMING)
    return hashlib.sha256(out.detach().numpy().tobytes() + gradient.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("name", LAYERS)
def test_layers_repeat_themselves_for_any_number_of_threads(name: str) -> None:
    before = torch.get_num_threads()
    try:
        found = set()
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            found.add(layer_digest(name))
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


def test_processes_with_different_numbers_of_threads() -> None:
    """New processes, with other numbers of threads and other hash seeds, return the bits of this one."""
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from codec import test_determinism as t\n"
        "print([t.digests(setting) for setting in t.SETTINGS.values()], [t.layer_digest(name) for name in t.LAYERS])"
    )
    here = [digests(setting) for setting in SETTINGS.values()]
    expected = f"{here} {[layer_digest(name) for name in LAYERS]}"
    tests = os.path.dirname(os.path.dirname(__file__))
    root = os.path.dirname(os.path.dirname(fdjpeg.__file__))
    for threads in ("1", "3"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        process = subprocess.run(
            [sys.executable, "-c", script, root, tests], env=environment, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stderr
        assert process.stdout.strip() == expected
