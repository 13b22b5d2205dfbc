"""Published defences that put JPEG or an autoencoder before a classifier, or train the classifier otherwise.

A `Defense` is a module that can be trained and saved; a `Defended` is what an evaluation takes. Both have the same
vocabulary: ``deployed(network)`` is the defended classifier, ``attacked(network, gradient)`` the same for one of the
``gradients`` that an attacker must try, and ``entered(images)`` the images that the attacker meets. ``save`` and
``load`` keep a `Defense` in a safetensors file::

    defense = fdjpeg.defenses.load("runs/purifier")
    deployed = defense.deployed(classifier)  # images in [0, 1] to logits; verdicts come from it
    for gradient in defense.gradients:  # an adaptive attacker takes the worst
        x_adv = attack(defense.attacked(classifier, gradient), defense.entered(x), y)

`parse_defense` and `of_module` make a `Defended` from a name or a module. `train` makes the defences that need data, as
``fdjpeg train`` does.
"""

from __future__ import annotations

from .base import Defense
from .checkpoint import save
from .defended import UNDEFENDED, Defended, SeedFixed, differentiable, layer_defense, of_module
from .defensive_distillation import DefensiveDistillation
from .feature_distillation import FeatureDistillation
from .fine_tuning import FineTuned
from .gradients import GRADIENTS, OPAQUE, ZERO
from .jpeg import JPEG, RandomJPEG, StochasticJPEG
from .jpeg_ensemble import JPEGEnsemble
from .names import feature_distillation_defense, jpeg_defense, parse_defense
from .purifier import Purifier
from .recipes import train
from .registry import DEFENSES, load
from .s2snet import S2SNet
from .squeezing import BitDepth, FeatureSqueezing, Median, TotalVariation

__all__ = [
    "DEFENSES",
    "GRADIENTS",
    "JPEG",
    "OPAQUE",
    "UNDEFENDED",
    "ZERO",
    "BitDepth",
    "Defended",
    "Defense",
    "DefensiveDistillation",
    "FeatureDistillation",
    "FeatureSqueezing",
    "FineTuned",
    "JPEGEnsemble",
    "Median",
    "Purifier",
    "RandomJPEG",
    "S2SNet",
    "SeedFixed",
    "StochasticJPEG",
    "TotalVariation",
    "differentiable",
    "feature_distillation_defense",
    "jpeg_defense",
    "layer_defense",
    "load",
    "of_module",
    "parse_defense",
    "save",
    "train",
]
