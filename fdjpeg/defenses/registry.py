"""All defences by name, and loading one that was saved."""

from __future__ import annotations

import os

from . import checkpoint
from .base import Defense
from .defensive_distillation import DefensiveDistillation
from .feature_distillation import FeatureDistillation
from .jpeg import JPEG, RandomJPEG, StochasticJPEG
from .jpeg_ensemble import JPEGEnsemble
from .purifier import Purifier
from .s2snet import S2SNet

#: Every defence by its name in checkpoints.
DEFENSES: dict[str, type[Defense]] = {
    defense.kind: defense
    for defense in (
        JPEG,
        RandomJPEG,
        StochasticJPEG,
        FeatureDistillation,
        JPEGEnsemble,
        Purifier,
        S2SNet,
        DefensiveDistillation,
    )
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
