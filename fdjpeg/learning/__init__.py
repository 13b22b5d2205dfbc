"""Quantization tables learned from images, and the rate and distortion by which they are judged."""

from .metrics import ms_ssim, psnr
from .rate_distortion import Measured, Ratio, bits_ratio, measure
from .tables import LOSSES, ClassifierLoss, DeadZone, Loss, learn_tables

__all__ = [
    "LOSSES",
    "ClassifierLoss",
    "DeadZone",
    "Loss",
    "Measured",
    "Ratio",
    "bits_ratio",
    "learn_tables",
    "measure",
    "ms_ssim",
    "psnr",
]
