"""JPEG as one differentiable PyTorch op: libjpeg-turbo's bits forward, the gradient of your choice backward."""

from fdjpeg import surrogates
from fdjpeg._library import backends
from fdjpeg.augmentations import RandomJPEG
from fdjpeg.coefficients import Coefficients
from fdjpeg.functional import check, decode, encode, jpeg
from fdjpeg.modules import JPEG, FeatureDistillation, LearnableJPEG, StochasticJPEG
from fdjpeg.rate import bits, rate
from fdjpeg.stages import block_dct, block_idct, dequantize, quantize, rgb_to_ycbcr, ycbcr_to_rgb
from fdjpeg.tables import QuantTables

__version__ = "0.1.0"

__all__ = [
    "JPEG",
    "Coefficients",
    "FeatureDistillation",
    "LearnableJPEG",
    "QuantTables",
    "RandomJPEG",
    "StochasticJPEG",
    "backends",
    "bits",
    "block_dct",
    "block_idct",
    "check",
    "decode",
    "dequantize",
    "encode",
    "jpeg",
    "quantize",
    "rate",
    "rgb_to_ycbcr",
    "surrogates",
    "ycbcr_to_rgb",
]
