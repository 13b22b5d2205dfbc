"""The share of `fdjpeg.RandomJPEG` in a training step: both are timed in turns, on a CPU or a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fdjpeg

#: Qualities that are drawn, uniformly.
RANGE = (5, 95)

#: The least time that the augmentation is measured in each turn, in seconds.
_LEAST = 0.05


class Bottleneck(nn.Module):
    """A residual block of 1 × 1, 3 × 3 and 1 × 1 convolutions, the last four times as wide.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385, figure 5.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_convolution(channels, width, 1),
            nn.ReLU(),
            *_convolution(width, width, 3, stride),
            nn.ReLU(),
            *_convolution(width, 4 * width, 1),
        )
        same = channels == 4 * width and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*_convolution(channels, 4 * width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``(N, 4 * width, H / stride, W / stride)``."""
        return F.relu(self.branch(x) + self.shortcut(x))


def _convolution(channels: int, width: int, size: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, width, size, stride, padding=size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(width)]


def network(depths: tuple[int, ...] = (3, 4, 6, 3), classes: int = 1000) -> nn.Module:
    """Returns a network with random weights; by default with the layers of ResNet-50 (ibid., table 1)."""
    layers: list[nn.Module] = [*_convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for block in range(depth):
            layers.append(Bottleneck(channels, width, 2 if block == 0 and stage > 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def share_of_a_step(module: nn.Module, images: Tensor, classes: int, rounds: int) -> dict[str, Any]:
    """Measures the augmentation, forward and backward, and the whole step with it, in turns.

    Args:
        module: the network, on the images' device.
        images: ``(N, C, H, W)``, floats in [0, 1].
        classes: of the network.
        rounds: number of turns.

    Returns:
        "augmentation" and "step", the seconds of each turn; and "share", the median of their ratios.
    """
    optimizer = torch.optim.SGD(module.train().parameters(), 1e-4, momentum=0.9)
    labels = torch.arange(len(images), device=images.device) % classes
    layer = fdjpeg.RandomJPEG(RANGE)
    leaf = images.detach().clone().requires_grad_()
    ones = torch.ones_like(images)

    def augmentation() -> None:
        torch.autograd.grad(layer(leaf), leaf, ones)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            loss = F.cross_entropy(module(layer(images)), labels)
        loss.backward()
        optimizer.step()

    found: dict[str, list[float]] = {"augmentation": [], "step": []}
    for _ in range(2):
        augmentation(), step()  # compiles, allocates and warms up
    for _ in range(rounds):
        found["augmentation"].append(_seconds(augmentation, images.device, _LEAST))
        found["step"].append(_seconds(step, images.device, 0.0))
    pairs = zip(found["augmentation"], found["step"], strict=True)
    return {**found, "share": statistics.median(part / whole for part, whole in pairs)}


def _seconds(call: Callable[[], None], device: torch.device, least: float) -> float:
    """Returns the seconds of one call, of as many as fill ``least`` seconds."""
    _wait(device)
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < least:
        call()
        calls += 1
    _wait(device)
    return (time.perf_counter() - start) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def on_a_gpu(shape: tuple[int, ...], device: str, rounds: int = 15) -> dict[str, Any]:
    """Measures the share in a step of a network of ResNet-50's size, in bfloat16 with channels last.

    Args:
        shape: of the images, ``(N, 3, H, W)``.
        device: by torch's name.
        rounds: number of turns.
    """
    small = torch.rand(shape[0], shape[1], max(2, shape[2] // 8), max(2, shape[3] // 8), device=device)
    images = F.interpolate(small, shape[2:], mode="bilinear")
    module = network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return {"name": "RandomJPEG in a step", "shape": shape, **share_of_a_step(module, images, 1000, rounds)}
