"""Arguments that `jpeg`, its halves and `rate` share: what they may be, and what they say when they are not."""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fdjpeg import surrogates
from fdjpeg._geometry import SAMPLING_FACTORS
from fdjpeg.surrogates import Surrogate
from fdjpeg.tables import QuantTables, check_real, check_soft

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
DEFAULT_QUALITY = 75

_UPSAMPLING = {"fancy": True, "nearest": False}
_ARITHMETICS = ("libjpeg", "real")


class Setting(NamedTuple):
    """What an op's last arguments say: sampling factors, and whether chroma is upsampled by a triangle."""

    horizontal: int
    vertical: int
    fancy: bool


def setting_of(subsampling: str, upsampling: str) -> Setting:
    if not isinstance(subsampling, str) or subsampling not in SAMPLING_FACTORS:
        raise ValueError(f"subsampling must be one of {', '.join(map(repr, SAMPLING_FACTORS))}, got {subsampling!r}")
    if not isinstance(upsampling, str) or upsampling not in _UPSAMPLING:
        raise ValueError(f"upsampling must be one of {', '.join(map(repr, _UPSAMPLING))}, got {upsampling!r}")
    return Setting(*SAMPLING_FACTORS[subsampling], _UPSAMPLING[upsampling])


def surrogate_of(gradient: str | Surrogate, arithmetic: str, soft: bool) -> Surrogate:
    surrogate = surrogates.resolve(gradient)
    if arithmetic not in _ARITHMETICS:
        raise ValueError(f"arithmetic must be one of {', '.join(map(repr, _ARITHMETICS))}, got {arithmetic!r}")
    check_soft(soft)
    if soft and arithmetic != "real":
        raise ValueError(f"soft=True needs arithmetic='real', got {arithmetic!r}")
    if soft and not getattr(surrogate, "smooth", False):
        raise ValueError(f"soft=True needs a gradient with a smooth forward, got {gradient!r}")
    if getattr(surrogate, "only_soft", False) and not soft:
        raise ValueError(f"gradient {gradient!r} needs arithmetic='real' and soft=True")
    return surrogate


def check_dense(tensor: Tensor, name: str) -> None:
    if tensor.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got one of layout {tensor.layout}")


def flattened(image: Tensor) -> Tensor:
    """``(..., C, H, W)`` as ``(N, C, H, W)``."""
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a torch.Tensor, got {type(image).__name__}")
    check_dense(image, "image")
    if image.dtype not in DTYPES:
        raise TypeError(f"image must be uint8, float16, bfloat16, float32 or float64, got {image.dtype}")
    if image.ndim < 3 or image.size(-3) not in (1, 3) or image.size(-2) < 1 or image.size(-1) < 1:
        raise ValueError(
            f"image must have shape (..., 3, H, W) or (..., 1, H, W) with H, W of at least 1, got {tuple(image.shape)}"
        )
    if image.ndim == 4:
        return image
    return image.unsqueeze(0) if image.ndim == 3 else image.flatten(0, -4)


def steps_of(
    batch: Tensor, quality: float | Tensor, tables: QuantTables | None, *, soft: bool = False
) -> tuple[Tensor | None, float]:
    """Tables as the ops take them, or None and the number that stands for the standard ones."""
    if tables is not None:
        check_one_of(quality, tables)
    elif isinstance(quality, Tensor):
        check_quality_tensor(quality, batch)
        tables = QuantTables.standard(quality, soft=soft)
    else:
        return None, check_quality_number(quality)
    steps = tables.stacked()
    check_count(steps, batch)
    return steps.to(batch.device), 0.0


def check_count(steps: Tensor, batch: Tensor) -> None:
    if steps.size(0) not in (1, batch.size(0)):
        raise ValueError(f"tables must be (8, 8) or one for each of the {batch.size(0)} images, got {steps.size(0)}")


def check_one_of(quality: object, tables: QuantTables) -> None:
    if not isinstance(tables, QuantTables):
        raise TypeError(f"tables must be fdjpeg.QuantTables, got {type(tables).__name__}")
    if not isinstance(quality, numbers.Real) or quality != DEFAULT_QUALITY:
        raise ValueError(f"tables take the place of quality: give one of them, got both (quality={quality!r})")


def check_quality_number(quality: Any) -> float:
    if isinstance(quality, bool) or not isinstance(quality, numbers.Real):
        raise TypeError(f"quality must be a number or a tensor, got {quality!r} ({type(quality).__name__})")
    number = float(quality)
    if not 1 <= number <= 100:  # NaN is neither
        raise ValueError(f"quality must be in 1…100, got {quality!r}")
    return number


def check_quality_tensor(quality: Tensor, batch: Tensor) -> None:
    check_real(quality, "quality")
    if quality.ndim > 1 or (quality.ndim == 1 and quality.size(0) != batch.size(0)):
        raise ValueError(
            f"quality must be a number, a 0-dim tensor or one of shape ({batch.size(0)},), "
            f"got shape {tuple(quality.shape)}"
        )
