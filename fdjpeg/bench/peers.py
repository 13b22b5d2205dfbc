"""The peers that are compared, each as its own users write it.

A peer compresses and decompresses a batch of images at one quality. All get the same pixels, each in its own form, so
that no peer pays for a conversion that its users would not write.
"""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import fdjpeg
from fdjpeg._geometry import PILLOW_SUBSAMPLINGS

Codec = Callable[[Any], Any]


@dataclass(frozen=True)
class Peer:
    """One way to put images through JPEG.

    Attributes:
        name: its name in tables.
        dtype: of its batch, ``(N, 3, H, W)``: uint8 in 0…255 or a float type in [0, 1].
        prepare: converts a uint8 batch to its input, outside the timing.
        codec: makes the timed function for a quality and a subsampling; raises ValueError if it does not support them.
        tensor: converts the result of that function to a uint8 batch, for fidelity.
        differentiable: whether autograd differentiates it.
        module: the package that it needs, or None.
        install: the package's name for pip, if it differs; or in words where it is from, if pip does not find it.
        on_gpu: whether it compresses tensors on a GPU.

    Example::

        {name: peer.missing() for name, peer in PEERS.items()}
    """

    name: str
    dtype: torch.dtype
    prepare: Callable[[Tensor], Any]
    codec: Callable[[int, str], Codec]
    tensor: Callable[[Any], Tensor]
    differentiable: bool
    module: str | None = None
    install: str = ""
    on_gpu: bool = False

    def missing(self, device: str = "cpu") -> str | None:
        """Returns the reason why it cannot run here on a device, or None."""
        if device != "cpu" and not self.on_gpu:
            return "runs on a CPU only"
        if self.module is None or importlib.util.find_spec(self.module) is not None:
            return None
        how = self.install or self.module
        return f"{self.module} is not installed ({how if ' ' in how else f'pip install {how}'})"


# ---------------------------------------------------------------------------------------------------------------------
# Forms of a batch


def _same(batch: Tensor) -> Tensor:
    return batch


def _unit(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda batch: (batch.float() / 255).to(dtype)


def _bytes(batch: Tensor) -> Tensor:
    return batch if batch.dtype == torch.uint8 else (batch.detach().float() * 255).round().clamp(0, 255).to(torch.uint8)


def _arrays(batch: Tensor) -> list[Any]:
    """Returns the form of Pillow, OpenCV and simplejpeg: an ``(H, W, 3)`` uint8 array for each image."""
    return [image.permute(1, 2, 0).contiguous().numpy() for image in batch]


def _stack(arrays: list[Any]) -> Tensor:
    return torch.stack([torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays])


# ---------------------------------------------------------------------------------------------------------------------
# Codecs


def _fdjpeg(quality: int, subsampling: str) -> Codec:
    return lambda batch: fdjpeg.jpeg(batch, quality, subsampling=subsampling)


def _through_pillow(array: Any, quality: int, subsampling: int) -> Any:
    import numpy as np

    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", quality=quality, subsampling=subsampling)
    file.seek(0)
    return np.asarray(Image.open(file))


def _pillow(quality: int, subsampling: str) -> Codec:
    at = PILLOW_SUBSAMPLINGS[subsampling]
    return lambda arrays: [_through_pillow(array, quality, at) for array in arrays]


class _PillowIdentity(torch.autograd.Function):
    """Pillow between float tensors, with the usual gradient (BPDA's identity)."""

    @staticmethod
    def forward(ctx: Any, batch: Tensor, quality: int, subsampling: int) -> Tensor:
        arrays = (batch.detach() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        decoded = [torch.from_numpy(_through_pillow(array, quality, subsampling).copy()) for array in arrays]
        return torch.stack(decoded).permute(0, 3, 1, 2).contiguous().to(batch.dtype) / 255

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0], None, None


def _pillow_tensors(quality: int, subsampling: str) -> Codec:
    return lambda batch: _PillowIdentity.apply(batch, quality, PILLOW_SUBSAMPLINGS[subsampling])


def _opencv(quality: int, subsampling: str) -> Codec:
    import cv2

    factors = {
        "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
        "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    }
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factors[subsampling]]

    def through(array: Any) -> Any:
        _, file = cv2.imencode(".jpg", cv2.cvtColor(array, cv2.COLOR_RGB2BGR), flags)
        decoded: Any = cv2.imdecode(file, cv2.IMREAD_COLOR)
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)

    return lambda arrays: [through(array) for array in arrays]


def _simplejpeg(quality: int, subsampling: str) -> Codec:
    from simplejpeg import decode_jpeg, encode_jpeg

    encode = functools.partial(
        encode_jpeg, quality=quality, colorsubsampling=subsampling.replace(":", ""), fastdct=False
    )
    decode = functools.partial(decode_jpeg, fastdct=False, fastupsample=False)
    return lambda arrays: [decode(encode(array)) for array in arrays]


def _only_420(name: str, subsampling: str) -> None:
    if subsampling != "4:2:0":
        raise ValueError(f"subsampling must be 4:2:0 for {name}, got {subsampling}")


def _torchvision(quality: int, subsampling: str) -> Codec:
    from torchvision.io import decode_jpeg, encode_jpeg

    _only_420("torchvision", subsampling)
    return lambda batch: torch.stack([decode_jpeg(encode_jpeg(image, quality)) for image in batch])


def _kornia(quality: int, subsampling: str) -> Codec:
    from kornia.enhance import jpeg_codec_differentiable

    _only_420("kornia", subsampling)
    return lambda batch: jpeg_codec_differentiable(batch, batch.new_full((len(batch),), float(quality)))


def _diff_jpeg(quality: int, subsampling: str) -> Codec:
    from diff_jpeg import diff_jpeg_coding

    _only_420("diff_jpeg", subsampling)

    def through(batch: Tensor) -> Tensor:
        qualities = batch.new_full((len(batch),), float(quality))
        result: Tensor = diff_jpeg_coding(image_rgb=batch * 255, jpeg_quality=qualities, ste=True) / 255
        return result

    return through


def _mlomnitz(quality: int, subsampling: str) -> Codec:
    from DiffJPEG import DiffJPEG

    _only_420("DiffJPEG", subsampling)

    def through(batch: Tensor) -> Tensor:
        height, width = batch.shape[-2:]
        layer = DiffJPEG(height=height, width=width, differentiable=True, quality=quality).to(batch.device)
        result: Tensor = layer(batch)
        return result

    return through


#: fdjpeg in each form, then its peers; ratios are against the two that use Pillow.
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("fdjpeg uint8", torch.uint8, _same, _fdjpeg, _bytes, False, on_gpu=True),
        Peer("fdjpeg float32", torch.float32, _unit(torch.float32), _fdjpeg, _bytes, True, on_gpu=True),
        Peer("fdjpeg bfloat16", torch.bfloat16, _unit(torch.bfloat16), _fdjpeg, _bytes, True, on_gpu=True),
        Peer("Pillow codec", torch.uint8, _arrays, _pillow, _stack, False),
        Peer("Pillow tensors", torch.float32, _unit(torch.float32), _pillow_tensors, _bytes, True),
        Peer("OpenCV", torch.uint8, _arrays, _opencv, _stack, False, "cv2", "opencv-python-headless"),
        Peer("simplejpeg", torch.uint8, _arrays, _simplejpeg, _stack, False, "simplejpeg"),
        Peer("torchvision.io", torch.uint8, _same, _torchvision, _bytes, False, "torchvision"),
        Peer("kornia", torch.float32, _unit(torch.float32), _kornia, _bytes, True, "kornia", on_gpu=True),
        Peer(
            "diff_jpeg",
            torch.float32,
            _unit(torch.float32),
            _diff_jpeg,
            _bytes,
            True,
            "diff_jpeg",
            "pip has no package of it: install it from the repository necla-ml/Diff-JPEG",
            True,
        ),
        Peer(
            "DiffJPEG",
            torch.float32,
            _unit(torch.float32),
            _mlomnitz,
            _bytes,
            True,
            "DiffJPEG",
            "pip has no package of it: put the repository mlomnitz/DiffJPEG on the path",
            True,
        ),
    )
}
