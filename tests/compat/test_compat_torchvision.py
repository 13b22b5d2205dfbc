"""`fdjpeg.compat.torchvision`: the original's samples, draws and mistakes.

torchvision needs the torch that it was built for: ``tests/augmentations/torchvision_environment.sh`` runs this file.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from support.oracles import round_trip
from torch import Tensor

try:
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    from fdjpeg.compat import torchvision
except Exception as error:  # torchvision raises RuntimeError with a torch that it was not built for
    pytest.skip(f"torchvision does not import here: {error}", allow_module_level=True)


@pytest.fixture
def pixels() -> Tensor:
    """Bytes ``(2, 3, 30, 41)``: neither size is a multiple of 16."""
    return torch.randint(0, 256, (2, 3, 30, 41), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def _through_pillow(pixels: Tensor, *qualities: int) -> Tensor:
    arrays = [round_trip(image, quality, "4:2:0") for image, quality in zip(pixels.numpy(), qualities, strict=True)]
    return torch.from_numpy(np.stack(arrays))


def test_torchvision_takes_any_sample(pixels: Tensor) -> None:
    transform = torchvision.JPEG(quality=70)
    tensor, compressed = pixels[0], _through_pillow(pixels, 70, 70)
    assert torch.equal(transform(pixels), compressed)
    boxes = torch.tensor([[1, 2, 3, 4]])
    image, label = transform(tensor, 7)
    assert torch.equal(image, compressed[0])
    assert label == 7
    sample = transform({"image": tensor, "boxes": boxes, "name": "a"})
    assert torch.equal(sample["image"], compressed[0])
    assert torch.equal(sample["boxes"], boxes), "only the first plain tensor is the image"
    assert sample["name"] == "a"
    picture = PIL.Image.fromarray(tensor.permute(1, 2, 0).numpy())
    image, mask = transform(picture, tensor)
    assert np.array_equal(np.asarray(image), compressed[0].permute(1, 2, 0).numpy())
    assert torch.equal(mask, tensor), "plain tensors beside a PIL image are not images"


def test_torchvision_draws_one_quality_for_each_sample(pixels: Tensor) -> None:
    transform = torchvision.JPEG((10, 12))
    torch.manual_seed(3)
    drawn = [int(torch.randint(10, 13, ())) for _ in range(8)]
    assert set(drawn) == {10, 11, 12}
    torch.manual_seed(3)
    for quality in drawn:
        assert torch.equal(transform(pixels), _through_pillow(pixels, quality, quality))


@pytest.mark.parametrize("quality", [0, 101, (0, 50), (60, 50), (1, 2, 3), (1.0, 2.0)], ids=str)
def test_torchvision_refuses_a_wrong_quality(quality: Any) -> None:
    with pytest.raises(ValueError, match="quality must hold integers"):
        torchvision.JPEG(quality)


@pytest.mark.parametrize("quality", [True, 50.0, None], ids=str)
def test_torchvision_refuses_a_wrong_type(quality: Any) -> None:
    with pytest.raises(TypeError, match="quality must be an integer or two"):
        torchvision.JPEG(quality)


def test_torchvision_gives_the_original_s_samples(pixels: Tensor) -> None:
    assert isinstance(torchvision.JPEG(50), v2.Transform)
    for sample in (pixels, {"image": tv_tensors.Image(pixels), "other": pixels}, (tv_tensors.Video(pixels), 3)):
        torch.manual_seed(9)
        theirs = v2.JPEG((20, 80))(sample)
        torch.manual_seed(9)
        ours = torchvision.JPEG((20, 80))(sample)
        for a, b in zip(torch.utils._pytree.tree_leaves(ours), torch.utils._pytree.tree_leaves(theirs), strict=True):
            assert type(a) is type(b)
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def test_torchvision_signature() -> None:
    assert list(inspect.signature(torchvision.JPEG).parameters) == list(inspect.signature(v2.JPEG).parameters)


def test_torchvision_takes_the_integers_of_numpy() -> None:
    assert torchvision.JPEG(np.int64(70)).quality == (70, 70)
    assert torchvision.JPEG((np.int64(10), np.uint8(12))).quality == (10, 12)
