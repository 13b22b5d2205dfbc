"""Functions outside of torch: their forms, their gradient, what they return, and how commands find them."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.evaluation_cases import small
from torch import Tensor

from fdjpeg import sources
from fdjpeg.defenses import parse_defense
from fdjpeg.evaluation import external
from fdjpeg.sources import External, ImageSet, Network
from fdjpeg.sources.image_set import pillow_codec, to_bytes, to_pillow, to_tensor


def by_pillow(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Image.open(stream)


def by_numpy(image: np.ndarray) -> np.ndarray:
    return image[:, ::-1] & 0xF0


def by_torch(image: Tensor) -> Tensor:
    return image.numpy() * 0.5  # type: ignore[no-any-return, operator]


def test_pillow_functions_get_the_bytes_of_an_image(photographs: ImageSet) -> None:
    expected = [pillow_codec(to_pillow(image), 40, "4:2:0")[0] for image in to_bytes(photographs.images)]
    found = external(by_pillow)(photographs.images)
    assert torch.equal(to_bytes(found), torch.stack([to_tensor(image) for image in expected]))
    grey = photographs.images[:, :1]
    assert external(by_pillow)(grey).shape == grey.shape


@pytest.mark.parametrize("batched", [False, True])
def test_arrays_have_their_channels_last(batched: bool, photographs: ImageSet) -> None:
    seen: list[np.ndarray] = []

    def function(array: np.ndarray) -> np.ndarray:
        seen.append(array.copy())
        array[:] = array[..., ::-1].copy()  # its own copy to change
        return array

    images = to_bytes(photographs.images)
    found = external(function, batched)(photographs.images)
    expected = images.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(seen[0], expected if batched else expected[0])
    assert seen[0].dtype == np.uint8
    assert torch.equal(to_bytes(found), images.flip(1))
    assert torch.equal(to_bytes(photographs.images), images)


def test_grey_arrays_have_two_dimensions(photographs: ImageSet) -> None:
    grey = photographs.images[:, :1]
    for batched in (False, True):
        found = external(lambda array: np.ascontiguousarray(array[..., ::-1]), batched, "array")(grey)
        assert torch.equal(to_bytes(found), to_bytes(grey.flip(3)))


def test_opencv_functions_are_arrays_functions(photographs: ImageSet) -> None:
    cv2 = pytest.importorskip("cv2")

    def blur(image: np.ndarray) -> np.ndarray:
        blurred: np.ndarray = cv2.GaussianBlur(image, (3, 3), 0)
        return blurred

    found = external(blur)(photographs.images)
    (first, *_) = to_bytes(photographs.images)
    expected = cv2.GaussianBlur(first.permute(1, 2, 0).numpy(), (3, 3), 0)
    assert np.array_equal(to_bytes(found)[0].permute(1, 2, 0).numpy(), expected)


def test_the_gradient_passes_unchanged(photographs: ImageSet) -> None:
    for function in (by_pillow, by_numpy, by_torch):
        x = photographs.images.clone().requires_grad_()
        weights = torch.rand_like(x)
        (external(function)(x) * weights).sum().backward()
        assert torch.equal(x.grad, weights)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtype_and_empty_batches_are_kept(dtype: torch.dtype, photographs: ImageSet) -> None:
    for function in (by_pillow, by_numpy, by_torch):
        out = external(function)(photographs.images.to(dtype))
        assert (out.dtype, out.shape) == (dtype, photographs.images.shape)
        assert external(function)(photographs.images[:0]).shape == (0, 3, 24, 24)


@pytest.mark.parametrize(
    ("function", "form"),
    [
        (by_pillow, "pillow"),
        (by_numpy, "array"),
        (by_torch, "tensor"),
        (lambda image: image, "tensor"),
        (abs, "tensor"),
    ],
)
def test_the_form_is_that_of_the_annotation(function: Callable[[Any], Any], form: str) -> None:
    assert external(function).takes == form
    assert external(function, takes="array").takes == "array"


@pytest.mark.parametrize(
    ("function", "takes", "message"),
    [
        (lambda image: image[:, :12], "tensor", r"return images of the shape \(3, 24, 24\) .* got \(3, 12, 24\)"),
        (lambda image: image.resize((12, 12)), "pillow", r"return images of the shape \(3, 24, 24\)"),
        (lambda image: image.astype(np.int32), "array", "return uint8, or floats in .*, got torch.int32"),
        (lambda image: image.astype(np.float32), "array", r"return floats in \[0, 1\], got values from"),
        (lambda image: image * torch.nan, "tensor", ""),
        (lambda image: None, "tensor", "return images like its input, or logits, got NoneType"),
        (lambda image: "png", "pillow", "return images like its input, or logits, got str"),
        (lambda image: np.array(["a"]), "array", "return numbers, got an array of <U1"),
        (lambda image: image.mean(axis=2), "array", "return "),
    ],
)
def test_other_outputs_are_named(
    function: Callable[[Any], Any], takes: Any, message: str, photographs: ImageSet
) -> None:
    module = external(function, takes=takes)
    if not message:
        assert bool(module(photographs.images).isnan().all())
        return
    with pytest.raises(ValueError, match=f"^function .*<lambda> must {message}"):
        module(photographs.images)


def test_functions_without_a_signature_take_tensors() -> None:
    """As those of torch that are written in C."""
    with pytest.raises(ValueError, match="no signature"):
        inspect.signature(torch.neg)
    assert external(torch.neg).takes == external(lambda images: images).takes == "tensor"


def test_mistakes_of_the_wrapper_are_named() -> None:
    with pytest.raises(TypeError, match="function must be callable, got int"):
        external(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes must be one of tensor, array, pillow, got 'numpy'"):
        external(by_numpy, takes="numpy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batched must be False for a function of Pillow images, got True"):
        external(by_pillow, batched=True)


CODE = """
import numpy as np, torch
from PIL import Image
from fdjpeg.evaluation import external
def coarse(image: np.ndarray) -> np.ndarray:
    return image & 0xE0
def later(image: "Image.Image") -> "Image.Image":
    return image.convert("L")
def bare(image):
    return image & 0xE0
def whole(network):
    return torch.nn.Sequential(torch.nn.Identity(), network)
def classes(image: torch.Tensor) -> list:
    return [float(image[0].mean()), float(image[1].mean()), 0.1, 0.2]
module = external(coarse)
number = 3
def fails():
    raise RuntimeError("no weights here")
"""


def test_commands_find_plain_functions(network: Network, photographs: ImageSet, tmp_path, monkeypatch) -> None:
    (tmp_path / "functions_of_mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    names = [f"functions_of_mine:{name}" for name in ("coarse", "later", "module")]
    report = small(network, photographs, defenses=names, checks=False)
    assert report.settings.defenses == {key: ["identity"] for key in names}
    assert report.settings.black_boxes == names
    assert parse_defense("functions_of_mine:whole", network=network.module).gradients == ("own", "identity")
    made = sources.load_network("functions_of_mine:classes")
    assert isinstance(made.module, External)
    assert made.module(photographs.images).shape == (6, 4)
    for name, message in (
        ("bare", "which raised TypeError: .*; a function of images must annotate its first parameter"),
        ("number", "which is int"),
        ("fails", "which raised RuntimeError: no weights here"),
    ):
        with pytest.raises(ValueError, match=f"^defense must make a torch.nn.Module, got .*{message}"):
            small(network, photographs, defenses=[f"functions_of_mine:{name}"])
        with pytest.raises(ValueError, match=r"^model must make a torch\.nn\.Module"):
            sources.load_network(f"functions_of_mine:{name}")
    (tmp_path / "broken_of_mine.py").write_text("def net(:\n")
    with pytest.raises(ValueError, match=r"^model must name something that can be imported, got .* SyntaxError"):
        sources.load_network("broken_of_mine:net")


def test_an_image_that_a_function_returns_is_read_by_the_rules_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 bits keep their high byte, and a file that ends early is refused, whatever Pillow is told."""
    levels = np.arange(256).reshape(16, 16)
    deep = external(lambda image: Image.fromarray((levels * 257).astype(np.uint16)), takes="pillow")
    assert torch.equal(deep(torch.rand(1, 1, 16, 16))[0, 0] * 255, torch.from_numpy(levels).float())

    def cut_off(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG")
        return Image.open(io.BytesIO(stream.getvalue()[:-100]))

    for switch in (False, True):
        monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", switch)
        with pytest.raises(
            ValueError, match=r"result of function .*cut_off must be an image that Pillow reads, got an image"
        ):
            external(cut_off, takes="pillow")(torch.rand(1, 3, 16, 16))
