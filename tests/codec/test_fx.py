"""torch.fx traces every function and layer of images as one node, and the traced model computes the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fdjpeg
from fdjpeg import augmentations, defenses, learning
from fdjpeg.compat import diff_jpeg, kornia
from fdjpeg.evaluation import external

IMAGES = torch.rand(2, 3, 16, 16)
STEPS = torch.full((8, 8), 3.0)
QUALITY = torch.tensor([50.0])

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "jpeg": lambda x: fdjpeg.jpeg(x, 50),
    "jpeg of a traced quality": lambda x: fdjpeg.jpeg(x, 20 + 50 * x.mean()),
    "rate": lambda x: fdjpeg.rate(x, 50),
    "bits": lambda x: fdjpeg.bits(fdjpeg.encode(x, 50)),
    "decode": lambda x: fdjpeg.decode(fdjpeg.encode(x, 50)),
    "check": lambda x: (fdjpeg.check(x), x + 1)[1],
    "colours": lambda x: fdjpeg.ycbcr_to_rgb(fdjpeg.rgb_to_ycbcr(x)),
    "blocks": lambda x: fdjpeg.block_idct(fdjpeg.dequantize(fdjpeg.quantize(fdjpeg.block_dct(x), STEPS), STEPS)),
    "channels": lambda x: fdjpeg.stages.quantize_channels(x, STEPS),
    "kornia": lambda x: kornia.jpeg_codec_differentiable(x, QUALITY),
    "diff_jpeg": lambda x: diff_jpeg.diff_jpeg_coding(255 * x, QUALITY),
    "psnr": lambda x: learning.psnr(x, 0.9 * x),
    "ms_ssim": lambda x: learning.ms_ssim(x, 0.9 * x),
}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "JPEG": lambda: fdjpeg.JPEG(50),
    "LearnableJPEG": lambda: fdjpeg.LearnableJPEG(fdjpeg.QuantTables.standard(50)),
    "StochasticJPEG": fdjpeg.StochasticJPEG,
    "FeatureDistillation": lambda: fdjpeg.FeatureDistillation("code"),
    "RandomJPEG": fdjpeg.RandomJPEG,
    "DoubleJPEG": augmentations.DoubleJPEG,
    "Recompress": lambda: augmentations.Recompress(scale=0.5),
    "Median": lambda: defenses.Median(2),
    "JPEG as a defence": lambda: defenses.JPEG(50),
    "squeezing": lambda: defenses.FeatureSqueezing(
        nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), [defenses.Median(2)]
    ),
    "external": lambda: external(lambda image: image.flip(-1)),
}


class Model(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def _same(model: nn.Module) -> bool:
    traced = torch.fx.symbolic_trace(model)
    torch.manual_seed(0)
    found = traced(IMAGES)
    torch.manual_seed(0)
    return torch.equal(found, model(IMAGES))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_a_node(name: str) -> None:
    assert _same(Model(FUNCTIONS[name]))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_a_node_alone_and_in_a_model(name: str) -> None:
    layer = LAYERS[name]()
    assert _same(layer)
    assert _same(nn.Sequential(nn.ReLU(), layer))
