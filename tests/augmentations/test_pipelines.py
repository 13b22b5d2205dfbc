"""The augmentations at home in kornia and albumentations; those of torchvision are in a file of their own."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg.augmentations import DoubleJPEG, RandomJPEG, Recompress, TableCounts
from fdjpeg.augmentations.recompress import resize

KINDS = ("RandomJPEG", "DoubleJPEG", "Recompress")
MORE: dict[str, dict[str, Any]] = {
    "RandomJPEG": {"subsampling": ("4:2:0", "4:4:4")},
    "DoubleJPEG": {},
    "Recompress": {"scale": (0.5, 1.2)},
}


@pytest.fixture
def images() -> Tensor:
    return (torch.rand(5, 3, 19, 26, generator=torch.Generator().manual_seed(3)) * 255).round() / 255


def test_no_pipeline_is_imported_before_it_is_used() -> None:
    script = (
        "import sys, fdjpeg.augmentations; "
        "print(*[name for name in ('kornia', 'albumentations', 'torchvision', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---------------------------------------------------------------------------------------------------------------------
# kornia


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_kornia_is_the_augmentation_at_its_parameters(kind: str, images: Tensor) -> None:
    pytest.importorskip("kornia")
    from fdjpeg.augmentations import kornia as ours

    torch.manual_seed(1)
    layer = getattr(ours, kind)((10, 90), p=0.6, **MORE[kind])
    out = layer(images)
    chosen = layer._params["batch_prob"] > 0.5
    assert 0 < int(chosen.sum()) < 5
    assert torch.equal(out[~chosen], images[~chosen])
    assert bool((out != images).flatten(1).any(1)[chosen].all())
    again = getattr(ours, kind)((10, 90), p=0.6, **MORE[kind])
    assert torch.equal(again(images, params=layer._params), out)


@pytest.mark.parametrize("kind", KINDS)
def test_same_on_batch_and_keepdim_are_kornias(kind: str, images: Tensor) -> None:
    pytest.importorskip("kornia")
    from fdjpeg.augmentations import kornia as ours

    layer = getattr(ours, kind)((10, 90), same_on_batch=True, keepdim=True, **MORE[kind])
    same = layer(images[:1].expand(4, -1, -1, -1))
    assert torch.equal(same, same[:1].expand(4, -1, -1, -1))
    assert layer(images[0]).shape == images[0].shape
    assert getattr(ours, kind)((10, 90), **MORE[kind])(images[0]).shape == images[:1].shape


def test_a_container_of_kornia_leaves_masks_alone_and_passes_gradients(images: Tensor) -> None:
    kornia_augmentation = pytest.importorskip("kornia.augmentation")
    from fdjpeg.augmentations import kornia as ours

    container = kornia_augmentation.AugmentationSequential(ours.RandomJPEG((20, 20)), data_keys=["input", "mask"])
    x, mask = images.clone().requires_grad_(), (images[:, :1] > 0.5).float()
    out, kept = container(x, mask)
    assert torch.equal(out, fdjpeg.jpeg(images, 20))
    assert torch.equal(kept, mask)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    y = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(fdjpeg.jpeg(y, 20).square().sum(), y)
    assert torch.equal(gradient, expected)


# ---------------------------------------------------------------------------------------------------------------------
# albumentations


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_a_transform_of_albumentations_is_repeated_by_its_seed(kind: str, dtype: Any, images: Tensor) -> None:
    albumentations = pytest.importorskip("albumentations")
    from fdjpeg.augmentations import albumentations as ours

    image = images[0].movedim(0, -1).numpy()
    image = (image * 255).round().astype(np.uint8) if dtype is np.uint8 else image
    before = image.copy()

    def found(seed: int) -> list[Any]:
        compose = albumentations.Compose([getattr(ours, kind)((10, 90), p=0.6, **MORE[kind])], seed=seed)
        return [compose(image=image)["image"] for _ in range(12)]

    first, again, other = found(3), found(3), found(4)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))
    assert all((one.shape, one.dtype) == (image.shape, image.dtype) for one in first)
    assert 0 < sum(np.array_equal(one, image) for one in first) < 12
    assert np.array_equal(image, before)


def test_albumentations_gets_pillows_bits_in_rgb_and_grey(images: Tensor) -> None:
    albumentations = pytest.importorskip("albumentations")
    from fdjpeg.augmentations import albumentations as ours

    pixels = (images[0] * 255).round().byte()
    compose = albumentations.Compose([ours.RandomJPEG((35, 35), p=1)])
    for chosen in (pixels, pixels[:1]):
        out = compose(image=chosen.movedim(0, -1).contiguous().numpy())["image"]
        assert np.array_equal(out, fdjpeg.jpeg(chosen, 35).movedim(0, -1).numpy())
    flat = compose(image=pixels[0].numpy())["image"]
    assert np.array_equal(flat, fdjpeg.jpeg(pixels[:1], 35)[0].numpy())


def test_masks_and_boxes_of_albumentations_are_left_alone(images: Tensor) -> None:
    albumentations = pytest.importorskip("albumentations")
    from fdjpeg.augmentations import albumentations as ours

    image = (images[0] * 255).byte().movedim(0, -1).contiguous().numpy()
    mask = image[:, :, 0] > 100
    boxes = albumentations.BboxParams(format="pascal_voc", label_fields=["labels"])
    compose = albumentations.Compose([ours.Recompress((5, 5), scale=0.5, p=1)], bbox_params=boxes)
    out = compose(image=image, mask=mask.astype(np.uint8), bboxes=[[1, 2, 20, 15]], labels=[4])
    assert np.array_equal(out["mask"], mask)
    assert np.allclose(out["bboxes"], [[1, 2, 20, 15]])
    small = resize(torch.from_numpy(image).movedim(-1, 0)[None], (10, 13))
    expected = resize(fdjpeg.jpeg(small, 5), (19, 26))[0].movedim(0, -1)
    assert np.array_equal(out["image"], expected.numpy())


# ---------------------------------------------------------------------------------------------------------------------
# The draws that adapters and recipes bring


class Fixed:
    """Draws that are given."""

    def __init__(self, numbers: list[float]) -> None:
        self.numbers = torch.tensor(numbers, dtype=torch.float64)

    def integers(self, count: int) -> Tensor:
        return (self.numbers * count).long()

    def uniform(self) -> Tensor:
        return self.numbers.float()

    def on_host(self) -> Tensor:
        return self.numbers


def test_the_ends_of_every_range_are_drawn() -> None:
    ends = Fixed([0.0, 1 - 2**-24])
    assert RandomJPEG((7, 93)).draw_from(ends).quality.tolist() == [7, 93]
    weighted = RandomJPEG(tables=[QuantTables.flat(n) for n in (1, 2, 3)], weights=(1, 1, 0), p=0.5)
    drawn = weighted.draw_from(ends)
    assert drawn.table.tolist() == [0, 1]
    assert drawn.applied.tolist() == [True, False]
    assert DoubleJPEG().draw_from(ends).shift.tolist() == [[0, 0], [7, 7]]


@pytest.mark.parametrize("library", ["kornia", "albumentations"])
@pytest.mark.parametrize("name", ["RandomJPEG", "DoubleJPEG", "Recompress"])
def test_a_generator_that_would_not_be_drawn_from_is_refused(library: str, name: str) -> None:
    pytest.importorskip(library)
    adapters = importlib.import_module(f"fdjpeg.augmentations.{library}")
    with pytest.raises(TypeError, match=f"generator must be left out for {library}, whose draws come from"):
        getattr(adapters, name)((30, 90), generator=torch.Generator())


def test_counts_and_sides_of_numpy_are_taken(tmp_path: Path) -> None:
    counts = TableCounts([QuantTables.standard(50), QuantTables.standard(75)], list(np.array([3, 1])))
    counts.save(tmp_path / "counts.json")
    assert TableCounts.load(tmp_path / "counts.json").counts == [3, 1]
    side: Any = np.int64(8)
    assert Recompress((50, 50), longer_side=side)(torch.rand(1, 3, 16, 16)).shape == (1, 3, 8, 8)
