"""All defences by name, and the loader of saved ones.

`names` parses the names that an evaluation takes; `recipes` lists the defences that ``fdjpeg train`` makes.
"""

from __future__ import annotations

import os

from . import checkpoint
from .base import Defense
from .defensive_distillation import DefensiveDistillation
from .feature_distillation import FeatureDistillation
from .fine_tuning import FineTuned
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
        FineTuned,
    )
}


def load(path: str | os.PathLike[str]) -> Defense:
    """Loads a defence that `save` or ``fdjpeg train`` wrote.

    Args:
        path: a file, or the folder that holds it.

    Returns:
        The defence in evaluation mode, on the CPU.

    Raises:
        ValueError: there is no such file, or it is not a saved defence, is damaged, or is of a kind that this version
            does not know.
        MissingPackage: safetensors is not installed.

    Example::

        defense = fdjpeg.defenses.load("runs/purifier")
    """
    return checkpoint.read(path, DEFENSES)
