"""A small model, images and classes for the tests of attacks."""

from __future__ import annotations

import pytest
import torch
from support.classifiers import SEED, Tiny
from torch import Tensor, nn


@pytest.fixture
def model() -> nn.Module:
    return Tiny().eval()


@pytest.fixture
def x() -> Tensor:
    """Six smooth images of whole bytes."""
    coarse = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(SEED))
    images = nn.functional.interpolate(coarse, size=(24, 24), mode="bicubic").clamp(0, 1)
    return (images * 255).round() / 255


@pytest.fixture
def y(model: nn.Module, x: Tensor) -> Tensor:
    """The classes that the model sees: by definition it gets all images right."""
    with torch.no_grad():
        return model(x).argmax(dim=1)
