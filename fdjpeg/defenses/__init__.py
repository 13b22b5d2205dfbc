"""Published defences that put JPEG or an autoencoder before a classifier, or train the classifier otherwise.

Each is a `Defense`: ``wrap(classifier)`` is the defended classifier, ``forward(images)`` what reaches the classifier,
``prepare(images)`` what an attacker gets to see, and ``for_attack(gradient)`` the same defence for each of the
``gradients`` that an attacker should try. ``save(defense, path)`` and ``load(path)`` keep it in a safetensors file::

    defense = fdjpeg.defenses.load("runs/purifier")
    deployed = defense.wrap(classifier)  # images in [0, 1] to logits; verdicts come from it
    for gradient in defense.gradients:  # an adaptive attacker takes the worst
        x_adv = attack(defense.for_attack(gradient).wrap(classifier), defense.prepare(x), y)

The command line trains them: ``fdjpeg train``.
"""

from __future__ import annotations

import os

from . import checkpoint
from .base import Defense
from .checkpoint import save
from .defensive_distillation import DefensiveDistillation
from .feature_distillation import FeatureDistillation
from .jpeg import JPEG, RandomJPEG
from .jpeg_ensemble import JPEGEnsemble
from .purifier import Purifier
from .s2snet import S2SNet

#: Every defence by its name in checkpoints.
DEFENSES: dict[str, type[Defense]] = {
    defense.kind: defense
    for defense in (JPEG, RandomJPEG, FeatureDistillation, JPEGEnsemble, Purifier, S2SNet, DefensiveDistillation)
}


def load(path: str | os.PathLike[str]) -> Defense:
    """The defence that `save` or ``fdjpeg train`` wrote: a file, or the folder that holds it.

    Returns:
        The defence in evaluation mode, on the CPU.

    Raises:
        ValueError: no such file, or no saved defence, or one that this version does not know, or damaged.
        MissingPackage: safetensors is not installed.
    """
    return checkpoint.read(path, DEFENSES)


__all__ = [
    "DEFENSES",
    "JPEG",
    "Defense",
    "DefensiveDistillation",
    "FeatureDistillation",
    "JPEGEnsemble",
    "Purifier",
    "RandomJPEG",
    "S2SNet",
    "load",
    "save",
]
