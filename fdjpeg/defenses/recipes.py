"""The defences that can be trained, and the function that trains one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fdjpeg
from fdjpeg._checks import check_path
from fdjpeg.sources import Network

from . import checkpoint, defensive_distillation, feature_distillation, fine_tuning, jpeg_ensemble, purifier, s2snet
from .base import Defense, copied
from .registry import load
from .training import config
from .training.classifier import check_classifier
from .training.images import Images
from .training.run import Run


@dataclass(frozen=True)
class Recipe:
    """The training of a defence.

    Attributes:
        config: the dataclass of its settings, with a ``seed`` and a share ``validation`` of the images.
        train: ``(run, images, classifier or None, config) -> Defense``.
        classifier: whether it needs one ("yes", "no") or may take one ("may").
    """

    config: type[Any]
    train: Callable[..., Defense]
    classifier: str


#: The training of each defence that needs data, by its name.
RECIPES: dict[str, Recipe] = {
    "feature-distillation": Recipe(feature_distillation.Config, feature_distillation.train, "no"),
    "jpeg-ensemble": Recipe(jpeg_ensemble.Config, jpeg_ensemble.train, "yes"),
    "purifier": Recipe(purifier.Config, purifier.train, "yes"),
    "s2snet": Recipe(s2snet.Config, s2snet.train, "yes"),
    "defensive-distillation": Recipe(defensive_distillation.Config, defensive_distillation.train, "may"),
    "fine-tuning": Recipe(fine_tuning.Config, fine_tuning.train, "yes"),
}


def recipe(kind: str) -> Recipe:
    """Returns the recipe of a defence by its name.

    Raises:
        ValueError: there is none of this name.
    """
    if not isinstance(kind, str) or kind not in RECIPES:
        raise ValueError(f"defense must be one of {', '.join(RECIPES)}, got {kind!r}")
    return RECIPES[kind]


def train(
    kind: str,
    images: Images,
    out: str | Path,
    *,
    settings: str | Any = "small",
    network: Network | None = None,
    device: str = "auto",
    precision: str = "32-true",
    workers: int = 0,
    quiet: bool = False,
) -> Defense:
    """Trains a defence and saves it in a folder. A run that was stopped resumes where it was.

    Under ``torchrun`` each process calls this with the same arguments, and all return the same defence.

    Args:
        kind: a key of ``RECIPES``.
        images: to train on, see `fdjpeg.defenses.training.images.load_training_images`.
        out: the folder of defense.safetensors and training.json, and of run.json with all that the result depends on.
        settings: an object of the recipe's ``config``, a YAML file, or a packaged one by its name, see `config.read`.
        network: the classifier of images in [0, 1] that is to be defended; it is not changed.
        device, precision, workers, quiet: as for `fdjpeg.defenses.training.run.Run`.

    Returns:
        The defence, in evaluation mode, on the CPU, as `fdjpeg.defenses.load` would.

    Raises:
        ValueError: for any setting, image, network or folder that cannot be used; the message names it.
        MissingPackage: a package of the ``train`` extra is not installed.

    Example::

        images = load_training_images("cifar10.npz:train")
        network = fdjpeg.sources.load_network("resnet18-cifar10")
        defense = fdjpeg.defenses.train("purifier", images, "runs/purifier", settings="cifar10", network=network)
    """
    check_path("out", out)
    if not isinstance(images, Images):
        raise TypeError(f"images must be those of load_training_images, got {type(images).__name__}")
    if not (network is None or isinstance(network, Network)):
        raise TypeError(f"network must be a Network or None, got {type(network).__name__}")
    chosen, out = recipe(kind), Path(out)
    if isinstance(settings, str):
        settings = config.read(chosen.config, settings, kind)
    if chosen.classifier == "yes" and network is None:
        raise ValueError(f"model must be given for {kind}, which is trained with its classifier, got none")
    if chosen.classifier == "no":
        network = None
    if int(images.labels.min()) < 0:
        raise ValueError(f"labels must be at least 0, got {int(images.labels.min())}")
    if network is not None:
        check_classifier(network, images, differentiable=chosen.classifier == "yes")
    depends_on = {
        "defense": kind,
        "config": asdict(settings),
        "images": {"source": images.source, "digest": images.digest},
        "network": None if network is None else {"name": network.name, "digest": network.digest()},
        "precision": precision,
        "fdjpeg": fdjpeg.__version__,
    }
    file = out / checkpoint.FILE
    if file.exists() and not (out / "run.json").exists():
        raise ValueError(f"out must be a folder without another defence, got {str(out)!r}, which holds a saved one")
    run = Run(
        out,
        depends_on,
        seed=getattr(settings, "seed", 0),
        validation=getattr(settings, "validation", 0.0),
        device=device,
        precision=precision,
        workers=workers,
        quiet=quiet,
    )
    if not run.fabric.broadcast((out / "training.json").exists()):
        classifier = None
        if network is not None:
            classifier = copied(network.module).to(run.device).eval().requires_grad_(False)
        defense = chosen.train(run, images, classifier, settings)
        if run.fabric.global_rank == 0:
            checkpoint.save(defense, file)
        run.complete(depends_on)
    return load(file)
