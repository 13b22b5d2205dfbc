"""Draws of augmentations: the same under torch's defaults, with NumPy's numbers, and refused where vmap splits them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fdjpeg.augmentations import Augmentation, DoubleJPEG, RandomJPEG, Recompress


@pytest.mark.parametrize("layer", [DoubleJPEG(), Recompress(scale=(0.5, 1.0), restore=True)])
def test_sizes_that_each_call_of_vmap_draws_are_refused(layer: Augmentation[Any]) -> None:
    images = torch.rand(2, 1, 3, 8, 8)
    with pytest.raises(NotImplementedError, match=r"^torch.func.vmap cannot give each call draws that decide"):
        torch.func.vmap(layer, randomness="different")(images)
    assert torch.func.vmap(layer, randomness="same")(images).shape == images.shape


@pytest.mark.parametrize(
    "layer",
    [RandomJPEG(), DoubleJPEG(), Recompress(scale=(0.5, 1.0), restore=True)],
    ids=lambda layer: layer._get_name(),
)
def test_draws_do_not_depend_on_torchs_defaults(layer: Augmentation[Any]) -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def changed() -> Tensor:
        torch.manual_seed(0)
        return layer(images)

    wanted = changed()
    with torch.device("meta"):
        assert torch.equal(changed(), wanted)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(changed(), wanted)
    finally:
        torch.set_default_dtype(torch.float32)


def test_numpys_integers_are_sides_and_times() -> None:
    layer = Recompress(longer_side=np.int64(8), times=np.int32(2))  # type: ignore[arg-type]
    assert (type(layer.longer_side), type(layer.times)) == (int, int)
    assert layer(torch.rand(1, 3, 16, 12)).shape == (1, 3, 8, 6)
