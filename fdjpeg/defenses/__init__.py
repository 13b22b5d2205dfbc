"""Published defences that put JPEG or an autoencoder before a classifier, or train the classifier otherwise.

Each is a `Defense`: ``wrap(classifier)`` is the defended classifier, ``forward(images)`` what reaches the classifier,
``prepare(images)`` what an attacker gets to see, and ``for_attack(gradient)`` the same defence for each of the
``gradients`` that an attacker should try. ``save(defense, path)`` and ``load(path)`` keep it in a safetensors file::

    defense = fdjpeg.defenses.load("runs/purifier")
    deployed = defense.wrap(classifier)  # images in [0, 1] to logits; verdicts come from it
    for gradient in defense.gradients:  # an adaptive attacker takes the worst
        x_adv = attack(defense.for_attack(gradient).wrap(classifier), defense.prepare(x), y)

`train` makes those that need data, as ``fdjpeg train`` does.
"""

from __future__ import annotations

from .base import Defense
from .checkpoint import save
from .defended import GRADIENTS, UNDEFENDED, Defended, jpeg_defense, layer_defense, of_module, parse_defense
from .defensive_distillation import DefensiveDistillation
from .feature_distillation import FeatureDistillation
from .jpeg import JPEG, RandomJPEG, StochasticJPEG
from .jpeg_ensemble import JPEGEnsemble
from .purifier import Purifier
from .recipes import train
from .registry import DEFENSES, load
from .s2snet import S2SNet

__all__ = [
    "DEFENSES",
    "GRADIENTS",
    "JPEG",
    "UNDEFENDED",
    "Defended",
    "Defense",
    "DefensiveDistillation",
    "FeatureDistillation",
    "JPEGEnsemble",
    "Purifier",
    "RandomJPEG",
    "S2SNet",
    "StochasticJPEG",
    "jpeg_defense",
    "layer_defense",
    "load",
    "of_module",
    "parse_defense",
    "save",
    "train",
]
