"""Attacks: each maps images to adversarial images in a ball around them, ``attack(model, x, y, eps) -> x_adv``.

``from_name("pgd-20x5")`` makes one by name; ``NAMES`` lists them. ``attack.run`` also reports how images were found.
"""

from .autoattack import APGD, FAB, Square
from .base import (
    NORMS,
    Attack,
    AttackResult,
    Counted,
    Found,
    Norm,
    distances,
    draw,
    format_eps,
    parse_eps,
    project,
)
from .byte_grid import on_byte_grid, to_byte_grid
from .carlini_wagner import CarliniWagnerL0, CarliniWagnerLinf
from .exposed import Exposed
from .flip import Flip
from .foolbox import DDN, Boundary, CarliniWagner, DeepFool, HopSkipJump, MinimumNorm
from .jsma import JSMA
from .losses import LOSSES, correct, cross_entropy, dlr, margin
from .noise import Noise
from .pgd import PGD
from .registry import NAMES, from_name
from .transfer import Transfer, first_pass, zero_gradients

__all__ = [
    "APGD",
    "DDN",
    "FAB",
    "JSMA",
    "LOSSES",
    "NAMES",
    "NORMS",
    "PGD",
    "Attack",
    "AttackResult",
    "Boundary",
    "CarliniWagner",
    "CarliniWagnerL0",
    "CarliniWagnerLinf",
    "Counted",
    "DeepFool",
    "Exposed",
    "Flip",
    "Found",
    "HopSkipJump",
    "MinimumNorm",
    "Noise",
    "Norm",
    "Square",
    "Transfer",
    "correct",
    "cross_entropy",
    "distances",
    "dlr",
    "draw",
    "first_pass",
    "format_eps",
    "from_name",
    "margin",
    "on_byte_grid",
    "parse_eps",
    "project",
    "to_byte_grid",
    "zero_gradients",
]
