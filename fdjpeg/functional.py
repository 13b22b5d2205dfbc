"""JPEG as a function of tensors: `jpeg`, its two halves `encode` and `decode`, and `check`."""

from __future__ import annotations

import inspect
import os
import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fdjpeg import ops, reference, surrogates
from fdjpeg._arguments import (
    DEFAULT_QUALITY,
    DTYPES,
    Setting,
    check_count,
    check_one_of,
    check_quality_number,
    check_quality_tensor,
    flattened,
    setting_of,
    steps_of,
    surrogate_of,
)
from fdjpeg._geometry import Geometry
from fdjpeg.coefficients import Coefficients
from fdjpeg.surrogates import Identity, StraightThrough, Surrogate
from fdjpeg.tables import QuantTables, check_real, check_tables


def jpeg(
    image: Tensor,
    quality: float | Tensor = DEFAULT_QUALITY,
    *,
    tables: QuantTables | None = None,
    subsampling: str = "4:2:0",
    upsampling: str = "fancy",
    gradient: str | Surrogate = "straight-through",
    arithmetic: str = "libjpeg",
    soft: bool = False,
) -> Tensor:
    """Compresses images by JPEG and decompresses them, differentiably.

    With the default arithmetic the result equals Pillow's decode(encode(image)) in every sample.

    Args:
        image: ``(..., 3, H, W)`` RGB or ``(..., 1, H, W)`` grey, H and W ≥ 1; uint8 in 0…255, or float16, bfloat16,
            float32 or float64 in [0, 1]; any strides, any number of images. A floating sample x acts as the byte
            rint(255 x), saturating, NaN as 0. Under "libjpeg" a floating image above 1 draws a
            `UserWarning` from an eager call on a CPU, unless the reference pieces serve the call.
        quality: libjpeg's quality, 1…100: a number, or a tensor, 0-dim or ``(N,)``, one for each image of the flattened
            batch. A tensor is never read back: its values act clamped to 1…100. A floating one that requires grad
            gets a gradient, straight through libjpeg's floor and clamp. A map ``(N, ⌈H/8⌉, ⌈W/8⌉)`` holds a quality for
            each 8×8 block of luma; a block of chroma takes that of the top-left block of luma that it covers. Its
            values act rounded to whole qualities (unless ``soft``), straight through. (No file holds such an image.)
        tables: quantization tables instead of a quality; batched ones give each image its own. Under "libjpeg" a
            step acts as clamp(round(q), 1, 255).
        subsampling: "4:4:4", "4:2:2", "4:2:0", "4:4:0" or "4:1:1" (T.81 A.1.1); a grey image has none.
        upsampling: how chroma is brought back to full size: "fancy" (libjpeg's triangle, Pillow) or "nearest".
        gradient: how the rounding of coefficients is differentiated: a name of `fdjpeg.surrogates`
            ("straight-through", "identity", "cubic", "sine", "fourier", "tanh", "softmax", "zero") or an object with
            ``forward(c)`` and ``derivative(c)``, c the coefficient in steps.
        arithmetic: "libjpeg", the 8-bit integers of libjpeg-turbo; or "real", the same geometry in real numbers, where
            only coefficients are rounded.
        soft: put the surrogate in place of that rounding in forward too ("real" only, for smooth surrogates).

    Returns:
        The image after compression, of ``image``'s shape, dtype, device and (where it has no gaps) strides. A uint8
        image carries no gradient.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape or name, or a number is out of range.
    """
    setting = setting_of(subsampling, upsampling)
    surrogate = surrogate_of(gradient, arithmetic, soft)
    batch = flattened(image)
    if isinstance(quality, Tensor) and quality.ndim == 3 and tables is None:
        return _as_empty_like(_by_block(batch, quality, setting, surrogate, arithmetic, soft), image)
    steps, number = steps_of(batch, quality, tables, soft=soft)
    exact_steps = None if steps is None else steps.to(torch.float32)
    if batch.dtype == torch.uint8 and steps is not None and steps.requires_grad and torch.is_grad_enabled():
        raise TypeError(
            "image must be floating where quality or tables require a gradient, got uint8, which carries none"
        )
    if arithmetic == "real":
        result = _real(batch, steps, number, setting, surrogate, soft)
    elif isinstance(surrogate, StraightThrough):
        result, planes = ops.round_trip(batch, exact_steps, number, *setting, identity=isinstance(surrogate, Identity))
        _warn_above_one(batch, planes, setting)
    elif (slopes := surrogates.slopes_for(batch, surrogate)) is not None:
        result, planes = ops.round_trip(batch, exact_steps, number, *setting, slopes)
        _warn_above_one(batch, planes, setting)
    else:
        result = _exact_with_own_surrogate(batch, exact_steps, number, setting, surrogate)
    return _as_empty_like(result, image)


def encode(
    image: Tensor,
    quality: float | Tensor = DEFAULT_QUALITY,
    *,
    tables: QuantTables | None = None,
    subsampling: str = "4:2:0",
) -> Coefficients:
    """The quantized coefficients that a JPEG file of each image holds; not differentiable.

    Args:
        image, quality, tables, subsampling: as for `jpeg`.

    Returns:
        `Coefficients` of the flattened batch, with the integer tables that made them.
    """
    setting = setting_of(subsampling, "fancy")
    batch = flattened(image).detach()
    steps, number = steps_of(batch, quality, tables)
    y, cb, cr = torch.ops.fdjpeg.encode(batch, None if steps is None else steps.detach().float(), number, *setting[:2])
    used = QuantTables.standard(number) if tables is None and steps is None else tables
    if used is None:
        used = QuantTables.standard(quality)
    grey = batch.size(1) == 1
    size = (batch.size(2), batch.size(3))
    return Coefficients(
        y, None if grey else cb, None if grey else cr, used.integer().to(batch.device), size, subsampling
    )


def decode(coefficients: Coefficients, dtype: torch.dtype = torch.uint8, *, upsampling: str = "fancy") -> Tensor:
    """The images that coefficients stand for; not differentiable.

    Args:
        coefficients: as `encode` returns them, or from a file. Products with their steps are saturated to ±32767.
        dtype: of the images: uint8 in 0…255, or a floating type in [0, 1].
        upsampling: as for `jpeg`.

    Returns:
        ``(N, 3 or 1, H, W)``.
    """
    if not isinstance(coefficients, Coefficients):
        raise TypeError(f"coefficients must be fdjpeg.Coefficients, got {type(coefficients).__name__}")
    if dtype not in DTYPES:
        raise TypeError(f"dtype must be uint8, float16, bfloat16, float32 or float64, got {dtype}")
    horizontal, vertical, fancy = setting_of(coefficients.subsampling, upsampling)
    y, cb, cr = coefficients.y, coefficients.cb, coefficients.cr
    if cb is None or cr is None:
        cb = cr = y.new_empty((y.size(0), 0, 0, 8, 8))
    tables = coefficients.tables.stacked().to(y.device, torch.float32)
    height, width = coefficients.size
    result: Tensor = torch.ops.fdjpeg.decode(y, cb, cr, tables, height, width, horizontal, vertical, fancy, dtype)
    return result


def quantize_channels(image: Tensor, steps: Tensor, gradient: str | Surrogate = "straight-through") -> Tensor:
    """Quantizes the DCT of each channel for itself, in real numbers: a codec without colour, level shift or bytes.

    Args:
        image: ``(..., 3, H, W)`` or ``(..., 1, H, W)``, floating in [0, 1].
        steps: ``(8, 8)``, in units of 0…255.
        gradient: as for `jpeg`; "identity" passes the image's gradient unchanged.

    Returns:
        The image clipped to [0, 1], of the same dtype; half types are computed in float32.

    Raises:
        TypeError: the image is not floating.
    """
    batch = flattened(image)
    if not batch.is_floating_point():
        raise TypeError(f"image must be floating, got {batch.dtype}")
    surrogate = surrogates.resolve(gradient)
    real = batch.to(torch.float64 if batch.dtype == torch.float64 else torch.float32)
    with _without_autocast(batch.device):
        if isinstance(surrogate, Identity):
            value = reference.quantize_channels(real.detach(), steps, torch.round)
            result = value + (real - real.detach())
        else:
            result = reference.quantize_channels(real, steps, surrogates.hard_rounding(surrogate))
    return _as_empty_like(result.to(batch.dtype), image)


def check(image: Tensor, quality: float | Tensor = DEFAULT_QUALITY, tables: QuantTables | None = None) -> None:
    """Reads the values that `jpeg` only clamps, and raises where one is out of range. Synchronises with a GPU.

    Args:
        image, quality, tables: as for `jpeg`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a floating image holds NaN or lies outside [0, 1], a quality lies outside 1…100, or a step outside
            1…255; or both a quality and tables are given.
    """
    batch = flattened(image)
    if batch.is_floating_point() and batch.numel() > 0:
        low, high = (value.item() for value in batch.detach().aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"image must lie in [0, 1], got values from {low:g} to {high:g}")
    if tables is not None:
        check_one_of(quality, tables)
        check_tables(tables)
        check_count(tables.stacked(), batch)
    elif isinstance(quality, Tensor):
        if quality.ndim == 3:
            _check_map(quality, batch)
        else:
            check_quality_tensor(quality, batch)
        wrong = quality.detach()[~((quality >= 1) & (quality <= 100))].flatten()
        if wrong.numel() > 0:
            raise ValueError(f"quality must be in 1…100, got {wrong[0].item():g}")
    else:
        check_quality_number(quality)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def check_arguments(
    quality: float | Tensor,
    tables: QuantTables | None,
    subsampling: str,
    upsampling: str,
    gradient: str | Surrogate,
    arithmetic: str,
    soft: bool,
) -> None:
    """What can be checked of the arguments of `jpeg` before there is an image: for a layer's constructor."""
    setting_of(subsampling, upsampling)
    surrogate_of(gradient, arithmetic, soft)
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


def map_shape(image: Tensor) -> tuple[int, int, int]:
    """The shape of a map of qualities for ``image``: one for each 8×8 block of luma of the flattened batch."""
    batch = flattened(image)
    luma = Geometry.of(batch.size(2), batch.size(3), 1, 1, 1).luma
    return batch.size(0), luma.rows, luma.columns


def _check_map(quality: Tensor, batch: Tensor) -> None:
    check_real(quality, "quality")
    shape = map_shape(batch)
    if quality.shape != shape:
        raise ValueError(f"quality, a map, must have a value for each block, {shape}, got shape {tuple(quality.shape)}")


# ---------------------------------------------------------------------------------------------------------------------
# Results

#: Where code stands that calls `jpeg` for somebody: this package, and torch, whose modules call their ``forward``.
_INSIDE = tuple(os.path.join(os.path.dirname(file), "") for file in (__file__, torch.__file__))


def _as_empty_like(result: Tensor, image: Tensor) -> Tensor:
    """The flattened result with the shape of ``image``, and the strides of ``torch.empty_like(image)``."""
    if image.ndim == 4:
        return result
    result = result.reshape(image.shape)
    if result.stride() != torch.empty_like(image, device="meta").stride():
        result = torch.empty_like(image).copy_(result)
    return result


def _warn_above_one(batch: Tensor, planes: Tensor, setting: Setting) -> None:
    """Says that 0…255 was perhaps fed where [0, 1] was meant; only where asking costs no synchronisation."""
    if (
        torch.compiler.is_compiling()
        or type(planes) is not Tensor
        or not planes.is_cpu
        or not batch.is_floating_point()
    ):
        return
    if torch._C._functorch.is_functorch_wrapped_tensor(planes):
        return
    geometry = Geometry.of(batch.size(2), batch.size(3), batch.size(1), setting.horizontal, setting.vertical)
    if planes[:, geometry.flag_offset :].any() and (highest := batch.detach().nan_to_num(nan=0.0).amax().item()) > 1:
        warnings.warn(
            f"image must lie in [0, 1], got values up to {highest:g}: they act as 1 (divide by 255, or pass uint8?)",
            UserWarning,
            stacklevel=_levels_to_caller(),
        )


def _levels_to_caller() -> int:
    """The ``stacklevel`` by which a warning of this module's functions points at the line outside, through layers."""
    levels, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_INSIDE):
        levels, frame = levels + 1, frame.f_back
    return levels


def _without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Autocast changes nothing here; some devices have none to turn off."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _real(
    batch: Tensor, steps: Tensor | None, number: float, setting: Setting, surrogate: Surrogate, soft: bool
) -> Tensor:
    """The round trip in real numbers: a user's own surrogate, and noise, by the reference pieces."""
    formula = surrogates.formula_of(surrogate)
    if formula is not None:
        tables = None if steps is None else steps.to(reference.real_dtype(batch))
        identity = isinstance(surrogate, Identity)
        return ops.real_round_trip(batch, tables, number, *setting, formula, soft, identity)
    rounding = surrogate.forward if soft else surrogates.hard_rounding(surrogate)
    with _without_autocast(batch.device):
        tables = reference.real_tables(steps, number, soft, batch)
        result = reference.real_pipeline(batch, tables, *setting, rounding)
        return result if soft or not _may_want_gradient(batch) else ops.once_differentiable(result)


def _by_block(
    batch: Tensor, quality: Tensor, setting: Setting, surrogate: Surrogate, arithmetic: str, soft: bool
) -> Tensor:
    """The round trip at a quality for each block."""
    _check_map(quality, batch)
    learned = _may_want_gradient(quality)
    if batch.dtype == torch.uint8 and learned:
        raise TypeError("image must be floating where quality requires a gradient, got uint8, which carries none")
    straight = isinstance(surrogate, StraightThrough) or not _may_want_gradient(batch)
    if arithmetic == "real" or learned or not straight:
        return _by_block_in_pieces(batch, quality, setting, surrogate, arithmetic, soft)
    qualities = _whole(quality).to(batch.device, torch.uint8)
    result, planes = ops.round_trip_by_block(batch, qualities, *setting, identity=isinstance(surrogate, Identity))
    _warn_above_one(batch, planes, setting)
    return result


def _by_block_in_pieces(
    batch: Tensor, quality: Tensor, setting: Setting, surrogate: Surrogate, arithmetic: str, soft: bool
) -> Tensor:
    """The same by the reference pieces, with every gradient that there is."""
    if not soft and quality.is_floating_point():
        finite = torch.where(quality.isfinite(), quality, 0)
        quality = _whole(quality).detach() + (finite - finite.detach())
    steps = QuantTables.standard(quality.flatten(), soft=soft).stacked().unflatten(0, quality.shape)
    geometry = Geometry.of(batch.size(2), batch.size(3), batch.size(1), setting.horizontal, setting.vertical)
    tables = reference.tables_by_block(steps.to(batch.device), geometry)
    identity = isinstance(surrogate, Identity) and batch.is_floating_point()
    image = batch.detach() if identity else batch
    with _without_autocast(batch.device):
        if arithmetic == "real":
            rounding = surrogate.forward if soft else surrogates.hard_rounding(surrogate)
            result = reference.real_pipeline(image, tables, *setting, rounding)
        else:
            result = reference.exact_with_surrogate(image, tables, *setting, surrogate)
            if not isinstance(surrogate, StraightThrough):
                result = ops.once_differentiable(result)
        return result + reference.differential(batch) if identity else result


def _whole(quality: Tensor) -> Tensor:
    """The whole qualities, 1…100, as which those of a map act."""
    if quality.is_floating_point():
        quality = quality.nan_to_num(nan=1.0).round()
    return quality.clamp(1, 100)


def _may_want_gradient(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return False
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor) or (tensor.requires_grad and torch.is_grad_enabled())


def _exact_with_own_surrogate(
    batch: Tensor, steps: Tensor | None, number: float, setting: Setting, surrogate: Surrogate
) -> Tensor:
    """The exact round trip whose gradient is that of a user's own surrogate, by the reference pieces."""
    differentiable = torch.is_grad_enabled() and (batch.requires_grad or (steps is not None and steps.requires_grad))
    if batch.dtype == torch.uint8 or not differentiable:
        result, planes = torch.ops.fdjpeg.round_trip(batch, steps, number, *setting)
        _warn_above_one(batch, planes, setting)
        return result
    tables = reference.real_tables(steps, number, False, batch)
    with _without_autocast(batch.device):
        return ops.once_differentiable(reference.exact_with_surrogate(batch, tables, *setting, surrogate))
