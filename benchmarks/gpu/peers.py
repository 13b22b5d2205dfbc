"""The peers on the same GPU: kornia, the GPU's own codec, and what ``torch.compile`` makes of the reference."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

from gpu import measure, stand_in
from gpu.measure import Call, Row

#: Seconds for one item. A compilation takes most of it.
ITEM_LIMIT = 60.0


def items() -> dict[str, Callable[[], Iterable[Row]]]:
    """Returns the work of each peer, the slowest last."""
    return {"nvJPEG encode and decode": nvjpeg, "kornia": kornia, "torch.compile of the reference": compiled_reference}


def _needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"{package} is not installed")


def kornia() -> Iterable[Row]:
    """Measures kornia, the most widely used layer in plain torch."""
    import torch

    _needs("kornia")
    from kornia.enhance import jpeg_codec_differentiable

    quality = torch.full((measure.SHAPE[0],), 75.0, device=stand_in.DEVICE)
    yield measure.of_floats("kornia", lambda image: jpeg_codec_differentiable(image, quality))


def nvjpeg() -> Iterable[Row]:
    """Measures the GPU's own codec through torchvision, with its files."""
    import torch

    _needs("torchvision")
    from torchvision.io import decode_jpeg, encode_jpeg

    batches = [list(batch) for batch in measure.rotation(measure.SHAPE, torch.uint8)[:2]]

    def encode_and_decode(batch: Any) -> Any:
        return decode_jpeg([file.cpu() for file in encode_jpeg(batch, quality=75)], device=stand_in.DEVICE)

    calls: list[Call] = [lambda batch=batch: encode_and_decode(batch) for batch in batches]
    moved = 2.0 * torch.Size(measure.SHAPE).numel()
    yield measure.row("nvJPEG encode and decode", calls, moved, shape=measure.SHAPE, dtype="uint8")


def compiled_reference() -> Iterable[Row]:
    """Measures the reference under ``torch.compile``."""
    import torch

    from fdjpeg import reference

    compiled = torch.compile(lambda image: reference.round_trip(image, None, 75.0, 2, 2, True)[0])
    yield measure.of_floats("torch.compile of the reference", compiled)
