"""What a layer before a classifier is worth: attacks, threat models, exact judging and a report.

``evaluate`` is the whole of it; its parts are here for those who want to combine them otherwise.
"""

from .attacks import LOSSES, PGD, Attack, Noise, format_eps, parse_eps
from .data import ImageSet, MissingPackage, photographs
from .data import load as load_images
from .models import Network, Normalized, efficientnet_lite0
from .models import load as load_network
from .protocol import GRADIENTS, Defense, Progress, evaluate, jpeg_defense, parse_defense
from .report import Cell, Check, Report, Row, wilson

__all__ = [
    "GRADIENTS",
    "LOSSES",
    "PGD",
    "Attack",
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
    "efficientnet_lite0",
    "evaluate",
    "format_eps",
    "jpeg_defense",
    "load_images",
    "load_network",
    "parse_defense",
    "parse_eps",
    "photographs",
    "wilson",
]
