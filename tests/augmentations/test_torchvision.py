"""The augmentations at home in torchvision v2.

torchvision needs the torch that it was built for, so that it is not installed with the others:
``tests/augmentations/torchvision_environment.sh`` makes an environment of its own and runs this file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import fdjpeg

try:
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    from fdjpeg.augmentations import torchvision as ours
except Exception as error:  # torchvision raises RuntimeError with a torch that it was not built for
    pytest.skip(f"torchvision does not import here: {error}", allow_module_level=True)

KINDS = ("RandomJPEG", "DoubleJPEG", "Recompress")
MORE: dict[str, dict[str, Any]] = {
    "RandomJPEG": {"subsampling": ("4:2:0", "4:4:4")},
    "DoubleJPEG": {},
    "Recompress": {"scale": (0.5, 1.2), "restore": True},
}


def made(kind: str, p: float = 1.0, **more: Any) -> Any:
    return getattr(ours, kind)((10, 90), p=p, **MORE[kind], **more)


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(0, 256, (3, 19, 26), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
def test_any_structure_is_taken_and_all_but_images_are_left_alone(kind: str, pixels: Tensor) -> None:
    boxes = tv_tensors.BoundingBoxes([[1, 2, 9, 9]], format="XYXY", canvas_size=(19, 26))
    mask, label = tv_tensors.Mask(pixels[:1]), torch.tensor(4)
    sample = {"image": tv_tensors.Image(pixels), "target": [boxes, mask, label, "name", None]}
    out = made(kind)(sample)
    assert type(out["image"]) is tv_tensors.Image
    assert out["image"].shape == pixels.shape
    assert not torch.equal(out["image"], pixels)
    assert out["target"][0] is boxes
    assert out["target"][1] is mask
    assert out["target"][2:] == [label, "name", None]


def test_tensors_and_pillow_images_get_pillows_bits(pixels: Tensor) -> None:
    transform = ours.RandomJPEG((35, 35))
    expected = fdjpeg.jpeg(pixels, 35)
    picture = Image.fromarray(pixels.movedim(0, -1).numpy())
    assert torch.equal(transform(pixels), expected)
    assert np.array_equal(np.asarray(transform(picture)), expected.movedim(0, -1).numpy())
    assert np.array_equal(np.asarray(transform(picture.convert("L"))), np.asarray(_grey(picture)))
    image, label = v2.Compose([v2.ToImage(), transform])(picture, 7)
    assert torch.equal(image, expected)
    assert label == 7
    with pytest.raises(ValueError, match="image must be of mode RGB or L, got RGBA"):
        transform(picture.convert("RGBA"))


def _grey(picture: Image.Image) -> Image.Image:
    pixels = torch.from_numpy(np.asarray(picture.convert("L")).copy())[None]
    return Image.fromarray(fdjpeg.jpeg(pixels, 35)[0].numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_one_sample_share_their_draws_and_those_of_a_batch_do_not(kind: str, pixels: Tensor) -> None:
    left, right = made(kind, 0.5)(tv_tensors.Image(pixels), tv_tensors.Image(pixels))
    assert torch.equal(left, right)
    batch = made(kind)(tv_tensors.Image(pixels.expand(6, -1, -1, -1)))
    assert len({tuple(one.flatten().tolist()) for one in batch}) > 1
    video = made(kind)(tv_tensors.Video(pixels.expand(6, -1, -1, -1)))
    assert type(video) is tv_tensors.Video
    assert torch.equal(video, video[:1].expand(6, -1, -1, -1))
    with pytest.raises(ValueError, match=r"images of one call must be equally many in each input, got \[1, 6\]"):
        made(kind)(tv_tensors.Image(pixels), tv_tensors.Image(pixels.expand(6, -1, -1, -1)))


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_generators_repeat_the_draws(kind: str, pixels: Tensor) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(made(kind, 0.5)(pixels))
        found.append(made(kind, 0.5, generator=torch.Generator().manual_seed(2))(pixels))
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


class Pictures(Dataset[Tensor]):
    """Eight equal images, transformed by workers."""

    def __init__(self, pixels: Tensor, transform: Any) -> None:
        self.pixels, self.transform = pixels, transform

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        out: Tensor = self.transform(tv_tensors.Image(self.pixels))
        return out


@pytest.mark.parametrize("kind", KINDS)
def test_workers_draw_differently(kind: str, pixels: Tensor) -> None:
    loader = DataLoader(Pictures(pixels, made(kind)), batch_size=4, num_workers=2)
    images = torch.cat(list(loader))
    assert images.shape == (8, *pixels.shape)
    assert len({tuple(one.flatten().tolist()) for one in images}) > 4


def test_gradients_pass_through_a_composition(pixels: Tensor) -> None:
    x = (pixels.float() / 255).requires_grad_()
    out = v2.Compose([ours.RandomJPEG((20, 20)), v2.Normalize([0.5] * 3, [0.5] * 3)])(x)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert bool(gradient.any())


@pytest.mark.parametrize("kind", KINDS)
def test_samples_without_images_pass(kind: str) -> None:
    assert made(kind)({"label": 3, "name": "x"}) == {"label": 3, "name": "x"}
