"""What a layer before a classifier is worth: attacks, threat models, exact judging, sanity checks and a report.

``evaluate`` is the whole of it; its parts are here for those who want to combine them otherwise.
"""

from .attacks import LOSSES, NAMES, PGD, Attack, AttackResult, Noise, format_eps, from_name, parse_eps
from .cells import Cell, wilson
from .checks import Check
from .data import ImageSet
from .layers import GRADIENTS, Defense, jpeg_defense, layer_defense, of_module, parse_defense
from .models import PACKAGED, Network, Normalized, efficientnet_lite, resnet18_cifar10
from .models import load as load_network
from .packages import MissingPackage
from .protocol import Progress, evaluate
from .report import Report, Row
from .sources import load as load_images
from .sources import photographs
from .world import World

__all__ = [
    "GRADIENTS",
    "LOSSES",
    "NAMES",
    "PACKAGED",
    "PGD",
    "Attack",
    "AttackResult",
    "Cell",
    "Check",
    "Defense",
    "ImageSet",
    "MissingPackage",
    "Network",
    "Noise",
    "Normalized",
    "Progress",
    "Report",
    "Row",
    "World",
    "efficientnet_lite",
    "evaluate",
    "format_eps",
    "from_name",
    "jpeg_defense",
    "layer_defense",
    "load_images",
    "load_network",
    "of_module",
    "parse_defense",
    "parse_eps",
    "photographs",
    "resnet18_cifar10",
    "wilson",
]
