"""The arguments that `jpeg`, its halves, `rate` and the layers share, and the checks of each."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fdjpeg import _onnx, ops, surrogates
from fdjpeg._geometry import SAMPLING_FACTORS, Geometry, Sampling
from fdjpeg._numbers import is_real, plain
from fdjpeg.surrogates import Surrogate
from fdjpeg.tables import QuantTables, check_count, check_real, check_soft

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
DEFAULT_QUALITY = 75

#: An excess over [0, 1] that rounds to no byte.
HALF_A_BYTE = 0.5 / 255

_UPSAMPLING = {"fancy": True, "nearest": False}
_ARITHMETICS = ("libjpeg", "real")


def exporting() -> bool:
    """Whether a graph is made for programs without Python, in which the ops that only Python defines are missing."""
    return _onnx.exporting() or torch.compiler.is_exporting()


# ---------------------------------------------------------------------------------------------------------------------
# Names


def sampling_of(subsampling: str, upsampling: str) -> Sampling:
    """Returns the sampling factors and the upsampling that two names stand for; raises on others."""
    if not isinstance(subsampling, str) or subsampling not in SAMPLING_FACTORS:
        raise ValueError(f"subsampling must be one of {', '.join(map(repr, SAMPLING_FACTORS))}, got {subsampling!r}")
    if not isinstance(upsampling, str) or upsampling not in _UPSAMPLING:
        raise ValueError(f"upsampling must be one of {', '.join(map(repr, _UPSAMPLING))}, got {upsampling!r}")
    return Sampling(*SAMPLING_FACTORS[subsampling], _UPSAMPLING[upsampling])


def resolve_gradient(gradient: str | Surrogate, arithmetic: str, soft: bool) -> Surrogate:
    """Returns the surrogate of ``gradient``; raises unless the arithmetic and ``soft`` allow it."""
    surrogate = surrogates.resolve(gradient)
    if not isinstance(arithmetic, str) or arithmetic not in _ARITHMETICS:
        raise ValueError(f"arithmetic must be one of {', '.join(map(repr, _ARITHMETICS))}, got {arithmetic!r}")
    check_soft(soft)
    if soft and arithmetic != "real":
        raise ValueError(f"soft=True needs arithmetic='real', got {arithmetic!r}")
    if soft and not getattr(surrogate, "smooth", False):
        raise ValueError(f"soft=True needs a gradient with a smooth forward, got {gradient!r}")
    if getattr(surrogate, "only_soft", False) and not soft:
        raise ValueError(
            f"gradient={gradient!r} needs arithmetic='real' and soft=True, got arithmetic={arithmetic!r}, soft={soft}"
        )
    return surrogate


# ---------------------------------------------------------------------------------------------------------------------
# Images


def check_dense(tensor: Tensor, name: str) -> None:
    """Raises unless the tensor is strided, and not a nested one."""
    if tensor.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got one of layout {tensor.layout}")


def flattened(image: Tensor, name: str = "image") -> Tensor:
    """Checks an image ``(..., C, H, W)``, the argument ``name``, and returns it as ``(N, C, H, W)``."""
    if not isinstance(image, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(image).__name__}")
    check_dense(image, name)
    if image.dtype not in DTYPES:
        raise TypeError(f"{name} must be uint8, float16, bfloat16, float32 or float64, got {image.dtype}")
    if image.ndim < 3 or image.size(-3) not in (1, 3) or image.size(-2) < 1 or image.size(-1) < 1:
        raise ValueError(
            f"{name} must have shape (..., 3, H, W) or (..., 1, H, W) with H, W of at least 1, got {tuple(image.shape)}"
        )
    if image.ndim == 4:
        return image
    return image.unsqueeze(0) if image.ndim == 3 else image.flatten(0, -4)


def as_empty_like(result: Tensor, image: Tensor) -> Tensor:
    """Gives a flattened result the shape of ``image``, and the strides of ``torch.empty_like(image)``."""
    if image.ndim == 4:
        return result
    result = result.reshape(image.shape)
    if result.stride() != torch.empty_like(image, device="meta").stride():
        result = torch.empty_like(image).copy_(result)
    return result


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Turns autocast off, which changes nothing here; some devices have none to turn off."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


# ---------------------------------------------------------------------------------------------------------------------
# Qualities and tables


def check_arguments(
    quality: float | Tensor,
    tables: QuantTables | None,
    subsampling: str,
    upsampling: str,
    gradient: str | Surrogate,
    arithmetic: str,
    soft: bool,
) -> None:
    """Checks the arguments of `jpeg` as far as it can without an image: for a layer's constructor."""
    sampling_of(subsampling, upsampling)
    resolve_gradient(gradient, arithmetic, soft)
    if tables is not None:
        check_one_of(quality, tables)
    elif isinstance(quality, Tensor):
        check_real(quality, "quality")
        if quality.ndim not in (0, 1, 3):
            raise ValueError(
                "quality must be a number, or a tensor of shape (), (N,) or (N, rows, columns), "
                f"got shape {tuple(quality.shape)}"
            )
    else:
        check_quality_number(quality)


def steps_of(
    batch: Tensor, quality: float | Tensor, tables: QuantTables | None, *, soft: bool = False
) -> tuple[Tensor | None, float]:
    """Returns the tables as the ops take them; or None, and the quality whose standard tables are meant."""
    if tables is not None:
        check_one_of(quality, tables)
        check_there(tables.y, "tables", batch)
    elif isinstance(quality, Tensor):
        check_quality_tensor(quality, batch)
        check_there(quality, "quality", batch)
        if not exporting():
            each = quality.reshape(-1, 1).expand(-1, 3)
            return ops.standard_steps(each, 1, False, soft).to(batch.device), 0.0
        tables = QuantTables.standard(quality, soft=soft)
    else:
        return None, check_quality_number(quality)
    check_count(tables, batch.size(0))
    return tables.stacked().to(batch.device), 0.0


def check_one_of(quality: object, tables: QuantTables) -> None:
    """Raises unless ``tables`` are tables, and ``quality`` was left at its default."""
    if not isinstance(tables, QuantTables):
        raise TypeError(f"tables must be fdjpeg.QuantTables, got {type(tables).__name__}")
    if not is_real(quality) or quality != DEFAULT_QUALITY:
        raise ValueError(f"tables take the place of quality: give one of them, got both (quality={quality!r})")


def check_quality_number(quality: Any) -> float:
    """Returns a quality that is not a tensor as a float; raises unless it is a number in 1…100."""
    if not is_real(quality):
        raise TypeError(f"quality must be a number or a tensor, got {quality!r} ({type(quality).__name__})")
    number = plain(quality)
    if not 1 <= number <= 100:  # also raises for NaN
        raise ValueError(f"quality must be in 1…100, got {quality!r}")
    return float(number)


def check_quality_tensor(quality: Tensor, batch: Tensor) -> None:
    """Raises unless a tensor of qualities is real, and holds one for all images or one for each."""
    check_real(quality, "quality")
    if quality.ndim > 1 or (quality.ndim == 1 and quality.size(0) not in (1, batch.size(0))):
        raise ValueError(
            f"quality must be a number, a 0-dim tensor or one of shape (1,) or ({batch.size(0)},), "
            f"got shape {tuple(quality.shape)}"
        )


def check_there(tensor: Tensor, name: str, image: Tensor) -> None:
    """Raises if a tensor is a meta tensor, which holds no values, and the image is not."""
    if tensor.is_meta and not image.is_meta:
        raise ValueError(f"{name} must hold values where the image does, got meta tensors")


def map_shape(image: Tensor) -> tuple[int, int, int]:
    """Returns the shape of a map of qualities for ``image``: one for each 8×8 block of luma of the flattened batch."""
    batch = flattened(image)
    luma = Geometry.of(batch.size(2), batch.size(3), 1, 1, 1).luma
    return batch.size(0), luma.rows, luma.columns


def expanded_map(quality: Tensor, batch: Tensor) -> Tensor:
    """Returns a map of qualities in the shape of `map_shape`; raises unless it is real, and for one image or each."""
    check_real(quality, "quality")
    check_there(quality, "quality", batch)
    shape = map_shape(batch)
    if quality.size(0) not in (1, shape[0]) or quality.shape[1:] != shape[1:]:
        raise ValueError(f"quality, a map, must have a value for each block, {shape}, got shape {tuple(quality.shape)}")
    return quality.expand(shape)
