"""Labelled images and networks by name: those in installed packages, and those that users bring."""

from .external import External, external
from .image_set import ImageSet
from .images import load_images, photographs
from .networks import PACKAGED, Network, Normalized, efficientnet_lite, load_network, resnet18_cifar10

__all__ = [
    "PACKAGED",
    "External",
    "ImageSet",
    "Network",
    "Normalized",
    "efficientnet_lite",
    "external",
    "load_images",
    "load_network",
    "photographs",
    "resnet18_cifar10",
]
