"""JPEG as one differentiable PyTorch op: libjpeg-turbo's bits forward, the gradient of your choice backward."""

from fdjpeg._library import backends

__version__ = "0.1.0"

__all__ = ["backends"]
