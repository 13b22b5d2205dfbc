"""Augmentations of one size are exported; those whose draws decide sizes are refused by name."""

from __future__ import annotations

import pytest
import torch

from fdjpeg.augmentations import DoubleJPEG, Recompress


@pytest.mark.parametrize(
    "layer",
    [DoubleJPEG(shift="aligned"), DoubleJPEG(shift=(3, 2)), Recompress(scale=0.5)],
    ids=["aligned", "3, 2", "0.5"],
)
def test_layers_of_one_size_are_exported(layer: torch.nn.Module) -> None:
    x = torch.rand(2, 3, 32, 24)
    exported = torch.export.export(layer, (x,)).module()
    torch.manual_seed(0)
    expected = layer(x)
    torch.manual_seed(0)
    assert torch.equal(exported(x), expected)


@pytest.mark.parametrize("layer", [DoubleJPEG(), Recompress(scale=(0.5, 1), restore=True)], ids=["shift", "scale"])
def test_export_is_refused_where_draws_decide_sizes(layer: torch.nn.Module) -> None:
    with pytest.raises(NotImplementedError, match=r"give DoubleJPEG a fixed shift, or Recompress one scale"):
        torch.export.export(layer, (torch.rand(2, 3, 32, 24),))
