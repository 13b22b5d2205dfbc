"""JPEG as a function of tensors: `jpeg`, its two halves `encode` and `decode`, and `check`."""

from __future__ import annotations

import inspect
import math
import os
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from fdjpeg import _onnx, ops, reference, surrogates
from fdjpeg._arguments import (
    DEFAULT_QUALITY,
    DTYPES,
    as_empty_like,
    check_one_of,
    check_quality_number,
    check_quality_tensor,
    check_there,
    expanded_map,
    exporting,
    flattened,
    resolve_gradient,
    sampling_of,
    steps_of,
    without_autocast,
)
from fdjpeg._geometry import Sampling, geometry_of
from fdjpeg._numbers import shown, values_can_be_read
from fdjpeg._slopes import formula_of, slopes_for
from fdjpeg._tangents import carries_tangent
from fdjpeg._tracers import traced_function
from fdjpeg.coefficients import Coefficients
from fdjpeg.surrogates import Identity, StraightThrough, Surrogate
from fdjpeg.tables import QuantTables, check_count, check_tables


@traced_function
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
            rint(255 x), saturating, NaN as 0. Under "libjpeg" a floating image above 1 draws a `UserWarning` from an
            eager call on a CPU, unless no single op serves the call, its bytes need no limiting, or a tracer
            or a mode is active.
        quality: libjpeg's quality, 1…100: a number, or a tensor, 0-dim or ``(N,)``, one for each image of the flattened
            batch; one of shape ``(1,)`` serves all. A tensor is never read back: its values act clamped to 1…100. A
            floating one that requires grad gets a gradient, straight through libjpeg's floor and clamp. A map
            ``(N, ⌈H/8⌉, ⌈W/8⌉)`` holds a quality for each 8×8 block of luma, and ``(1, ⌈H/8⌉, ⌈W/8⌉)`` serves all
            images. A block of chroma takes the quality of the top-left block of luma that it covers. A map's values
            act rounded to whole qualities (unless ``soft``), straight through. (No file holds such an image.)
        tables: quantization tables instead of a quality; batched ones give each image its own. Under "libjpeg" a
            step acts as clamp(round(q), 1, 255).
        subsampling: "4:4:4", "4:2:2", "4:2:0", "4:4:0" or "4:1:1" (T.81 A.1.1); a grey image has none.
        upsampling: how chroma is brought back to full size: "fancy" (libjpeg's triangle, Pillow) or "nearest".
        gradient: how the rounding of coefficients is differentiated: a name of `fdjpeg.surrogates`
            ("straight-through", "identity", "cubic", "sine", "fourier", "tanh", "softmax", "zero") or an object with
            ``forward(c)`` and ``derivative(c)``, c the coefficient in steps.
        arithmetic: "libjpeg", the 8-bit integers of libjpeg-turbo; or "real", the same geometry in real numbers, where
            only coefficients are rounded.
        soft: whether the surrogate replaces that rounding in forward too ("real" only, for smooth surrogates).

    Returns:
        The image after compression, of ``image``'s shape, dtype, device and (where it has no gaps) strides. A uint8
        image carries no gradient.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape or name, or a number is out of range.

    Source: ITU-T T.81, and T.871 for the colours; the integers are those of libjpeg-turbo.

    Example::

        image = torch.rand(8, 3, 224, 224, requires_grad=True)
        fdjpeg.jpeg(image, 75, gradient="cubic").mean().backward()
    """
    sampling = sampling_of(subsampling, upsampling)
    surrogate = resolve_gradient(gradient, arithmetic, soft)
    batch = flattened(image)
    qualities, steps, number = None, None, 0.0
    if isinstance(quality, Tensor) and quality.ndim == 3 and tables is None:
        qualities = expanded_map(quality, batch)
    else:
        steps, number = steps_of(batch, quality, tables, soft=soft)
    if steps is not None:
        steps = steps.to(reference.real_dtype(batch) if arithmetic == "real" else torch.float32)
    call = _Call(batch, qualities, steps, number, sampling, surrogate, arithmetic == "real", soft)
    _check_carries_gradients(call)
    served = _by_an_op(call)
    result, planes = (_by_pieces(call), None) if served is None else served
    _warn_above_one(batch, planes, sampling)
    return as_empty_like(result, image)


@traced_function
def encode(
    image: Tensor,
    quality: float | Tensor = DEFAULT_QUALITY,
    *,
    tables: QuantTables | None = None,
    subsampling: str = "4:2:0",
) -> Coefficients:
    """Returns the quantized coefficients that a JPEG file of each image holds; not differentiable.

    Args:
        image, quality, tables, subsampling: as for `jpeg`, without maps.

    Returns:
        `Coefficients` of the flattened batch, with the integer tables that made them.

    Raises:
        TypeError, ValueError: as for `jpeg`.

    Source: ITU-T T.81, A.3.

    Example::

        made = fdjpeg.encode(torch.rand(2, 3, 64, 64), quality=50)
        made.y.shape  # (2, 8, 8, 8, 8)
    """
    sampling = sampling_of(subsampling, "fancy")
    batch = flattened(image).detach()
    steps, number = steps_of(batch, quality, tables)
    exact_steps = None if steps is None else steps.detach().float()
    y, cb, cr = torch.ops.fdjpeg.encode(batch, exact_steps, number, sampling.horizontal, sampling.vertical)
    used = QuantTables.standard(number) if tables is None and steps is None else tables
    if used is None:
        used = QuantTables.standard(quality)
    grey = batch.size(1) == 1
    size = (batch.size(2), batch.size(3))
    return Coefficients(
        y, None if grey else cb, None if grey else cr, used.integer().to(batch.device), size, subsampling
    )


@traced_function
def decode(coefficients: Coefficients, dtype: torch.dtype = torch.uint8, *, upsampling: str = "fancy") -> Tensor:
    """Returns the images that coefficients decode to; not differentiable.

    Args:
        coefficients: as `encode` returns them, or from a file. Products with their steps are saturated to ±32767.
        dtype: of the images: uint8 in 0…255, or a floating type in [0, 1].
        upsampling: as for `jpeg`.

    Returns:
        ``(N, 3 or 1, H, W)``.

    Raises:
        TypeError: ``coefficients`` are not `Coefficients`, or ``dtype`` is not one of the five.
        ValueError: ``upsampling`` is not a name.

    Source: ITU-T T.81, A.3.

    Example::

        pixels = fdjpeg.decode(fdjpeg.encode(image, 50))  # equals fdjpeg.jpeg(image, 50), as bytes
    """
    if not isinstance(coefficients, Coefficients):
        raise TypeError(f"coefficients must be fdjpeg.Coefficients, got {type(coefficients).__name__}")
    if dtype not in DTYPES:
        raise TypeError(f"dtype must be uint8, float16, bfloat16, float32 or float64, got {dtype}")
    sampling = sampling_of(coefficients.subsampling, upsampling)
    y, cb, cr = coefficients.y, coefficients.cb, coefficients.cr
    if cb is None or cr is None:
        cb = cr = y.new_empty((y.size(0), 0, 0, 8, 8))
    tables = coefficients.tables.stacked().to(y.device, torch.float32)
    height, width = coefficients.size
    result: Tensor = torch.ops.fdjpeg.decode(y, cb, cr, tables, height, width, *sampling, dtype)
    return result


@traced_function
def check(image: Tensor, quality: float | Tensor = DEFAULT_QUALITY, tables: QuantTables | None = None) -> None:
    """Reads the values that `jpeg` only clamps, and raises where one is out of range. Synchronises with a GPU.

    Values that cannot be read are not checked: those of meta tensors and subclasses, and all while a tracer or a mode
    is active (`torch.compile`, ``make_fx``, `torch.func`, ``FakeTensorMode``).

    Args:
        image, quality, tables: as for `jpeg`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a floating sample is NaN or rounds to no byte, a quality is outside 1…100 or NaN, or a step rounds
            to none in 1…255; or both a quality and tables are given.

    Example::

        fdjpeg.check(image, quality=50)
        fdjpeg.check(255 * image)  # ValueError: image must lie in [0, 1], got values from 0 to 255
    """
    batch = flattened(image)
    _check_samples(batch)
    if tables is not None:
        check_one_of(quality, tables)
        check_there(tables.y, "tables", batch)
        check_tables(tables)
        check_count(tables, batch.size(0))
    elif isinstance(quality, Tensor):
        if quality.ndim == 3:
            expanded_map(quality, batch)
        else:
            check_quality_tensor(quality, batch)
            check_there(quality, "quality", batch)
        _check_quality_values(quality)
    else:
        check_quality_number(quality)


def _check_samples(batch: Tensor) -> None:
    """Raises if a floating sample is NaN, or so far outside [0, 1] that its byte saturates."""
    if not batch.is_floating_point() or batch.numel() == 0 or not values_can_be_read(batch):
        return
    low, high = (float(value) for value in batch.detach().aminmax())
    if not (_has_a_byte(low) and _has_a_byte(high)):
        texts = (shown(low, _is_sample), shown(high, _is_sample))
        raise ValueError(f"image must lie in [0, 1], got values from {texts[0]} to {texts[1]}")


def _has_a_byte(sample: float) -> bool:
    """Whether a sample rounds to a byte without being limited, as one does that exceeds 1 by a rounding error."""
    return 0 <= round(255 * sample) <= 255 if math.isfinite(sample) else False


def _is_sample(value: float) -> bool:
    return 0 <= value <= 1


def _is_quality(value: float) -> bool:
    return 1 <= value <= 100


def _check_quality_values(quality: Tensor) -> None:
    """Raises if a value of a tensor of qualities is outside 1…100 or NaN."""
    if not values_can_be_read(quality):
        return
    wrong = quality.detach()[~((quality >= 1) & (quality <= 100))].flatten()
    if wrong.numel() > 0:
        raise ValueError(f"quality must be in 1…100, got {shown(wrong[0].item(), _is_quality)}")


# ---------------------------------------------------------------------------------------------------------------------
# The routes of `jpeg`


class _Call(NamedTuple):
    """A call of `jpeg`, its arguments checked."""

    image: Tensor  #: flattened, ``(N, C, H, W)``
    qualities: Tensor | None  #: a map
    steps: Tensor | None  #: without a map: the tables as the ops take them; None: the standard ones at ``number``
    number: float
    sampling: Sampling
    surrogate: Surrogate
    real: bool
    soft: bool


def _check_carries_gradients(call: _Call) -> None:
    """Raises if a gradient is wanted that would have to pass through bytes."""
    if call.image.dtype != torch.uint8:
        return
    if call.qualities is not None and _may_want_gradient(call.qualities):
        raise TypeError("image must be floating where quality requires a gradient, got uint8, which carries none")
    if call.steps is not None and _requires_gradient(call.steps, None):
        raise TypeError(
            "image must be floating where quality or tables require a gradient, got uint8, which carries none"
        )


def _by_an_op(call: _Call) -> tuple[Tensor, Tensor | None] | None:
    """Lets an op serve the call, if there is one: returns its result and, of the exact codec, the planes."""
    if call.qualities is not None:
        return _by_block(call, call.qualities)
    setting = ops.Setting(call.number, *call.sampling)
    identity = isinstance(call.surrogate, Identity)
    if call.real:
        formula = formula_of(call.surrogate)
        if formula is None:
            return None
        return ops.real_round_trip(call.image, call.steps, setting, formula, call.soft, identity), None
    if isinstance(call.surrogate, StraightThrough):
        return ops.round_trip(call.image, call.steps, setting, identity=identity)
    slopes = slopes_for(call.image, call.surrogate)
    if slopes is not None:
        return ops.round_trip(call.image, call.steps, setting, slopes)
    if call.image.dtype == torch.uint8 or not _requires_gradient(call.image, call.steps):
        result, planes = torch.ops.fdjpeg.round_trip(call.image, call.steps, *setting)
        return result, planes
    return None


def _by_block(call: _Call, qualities: Tensor) -> tuple[Tensor, Tensor] | None:
    """Lets the op of a map of qualities serve the call; None where another gradient than straight-through is wanted."""
    straight = isinstance(call.surrogate, StraightThrough) or not _may_want_gradient(call.image)
    if call.real or not straight or _may_want_gradient(qualities):
        return None
    whole = _whole(qualities).to(call.image.device, torch.uint8)
    return ops.round_trip_by_block(call.image, whole, call.sampling, isinstance(call.surrogate, Identity))


def _by_pieces(call: _Call) -> Tensor:
    """Serves the call by the codec's parts, with every gradient that there is."""
    identity = isinstance(call.surrogate, Identity) and call.image.is_floating_point()
    image = call.image.detach() if identity else call.image
    with without_autocast(image.device):
        if exporting():
            result = _by_the_reference(call, image)
        elif call.real:
            result = _real_by_pieces(call, image)
        else:
            result = _exact_by_pieces(call, image)
        return result + reference.differential(call.image) if identity else result


def _exact_by_pieces(call: _Call, image: Tensor) -> Tensor:
    """Serves a call of the exact codec."""
    slopes = derivative = None
    if not isinstance(call.surrogate, StraightThrough):
        slopes = slopes_for(image, call.surrogate)
        derivative = call.surrogate.derivative
    return ops.exact_by_steps(image, _packed_steps(call), call.sampling, slopes, derivative)[0]


def _real_by_pieces(call: _Call, image: Tensor) -> Tensor:
    """Serves a call in real numbers."""
    blocks = ops.image_blocks(image, call.sampling)
    steps = _packed_steps(call).to(blocks.dtype)
    return ops.blocks_image(ops.rounded(blocks, steps, call.surrogate, call.soft), image, call.sampling)


def _packed_steps(call: _Call) -> Tensor:
    """Returns the steps of each block."""
    if call.qualities is not None:
        qualities = call.qualities.to(call.image.device)
        return ops.steps_of_map(qualities, call.image, call.sampling, call.soft)
    tables = call.steps
    if tables is None:
        return ops.steps_of_number(call.number, call.image, call.sampling, call.soft)
    return ops.steps_of_tables(tables, call.image, call.sampling)


def _by_the_reference(call: _Call, image: Tensor) -> Tensor:
    """Serves the call by plain torch, and the blocks' DCT by its ops, except in ONNX, which has no name for them."""
    tables = _reference_tables(call)
    transforms = reference.PLAIN if _onnx.exporting() else reference.Transforms(ops.block_dct, ops.block_idct)
    if not call.real:
        return reference.exact_with_surrogate(image, tables, *call.sampling, call.surrogate, transforms)
    rounding = call.surrogate.forward if call.soft else surrogates.hard_rounding(call.surrogate)
    return reference.real_pipeline(image, tables, *call.sampling, rounding, transforms)


def _reference_tables(call: _Call) -> Tensor | list[Tensor]:
    """Returns the tables as the reference pieces take them."""
    if call.qualities is not None:
        return _tables_by_block(call, call.qualities)
    return reference.real_tables(call.steps, call.number, call.soft, call.image)


def _tables_by_block(call: _Call, qualities: Tensor) -> list[Tensor]:
    """Returns the tables of each component's blocks, differentiable in a map of qualities."""
    if not call.soft and qualities.is_floating_point():
        finite = torch.where(qualities.isfinite(), qualities, 0)
        qualities = _whole(qualities).detach() + (finite - finite.detach())
    tables = QuantTables.standard(qualities.flatten(), soft=call.soft).stacked().unflatten(0, qualities.shape)
    geometry = geometry_of(call.image, call.sampling.horizontal, call.sampling.vertical)
    return reference.tables_by_block(tables.to(call.image.device), geometry)


def _whole(quality: Tensor) -> Tensor:
    """Returns the whole qualities, 1…100, as which those of a map act."""
    if quality.is_floating_point():
        quality = quality.nan_to_num(nan=1.0).round()
    return quality.clamp(1, 100)


def _may_want_gradient(tensor: Tensor) -> bool:
    """Whether a tensor is differentiated, or may be by a transformation of ``torch.func``."""
    if not tensor.is_floating_point():
        return False
    if _requires_gradient(tensor, None):
        return True
    # torch.compile cannot trace this question, and answers the one before inside of transformations too.
    return not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _requires_gradient(tensor: Tensor, other: Tensor | None) -> bool:
    """Whether one of two tensors is differentiated: autograd is on and records it, or forward mode is."""
    given = [one for one in (tensor, other) if one is not None]
    recorded = torch.is_grad_enabled() and any(one.requires_grad for one in given)
    return recorded or any(carries_tangent(one) for one in given)


# ---------------------------------------------------------------------------------------------------------------------
# The warning

#: The folders of code that calls `jpeg` for somebody: this package, and torch, whose modules call their ``forward``.
_INSIDE = tuple(os.path.join(os.path.dirname(file), "") for file in (__file__, torch.__file__))


def _warn_above_one(batch: Tensor, planes: Tensor | None, sampling: Sampling) -> None:
    """Warns that 0…255 was perhaps fed where [0, 1] was meant; only where asking costs no synchronisation."""
    if not batch.is_floating_point() or planes is None or not values_can_be_read(planes) or not planes.is_cpu:
        return
    geometry = geometry_of(batch, sampling.horizontal, sampling.vertical)
    if not planes[:, geometry.flag_offset :].any():
        return
    highest = batch.detach().nan_to_num(nan=0.0).amax().item()
    if highest > 1 and not _has_a_byte(highest):
        warnings.warn(
            f"image must lie in [0, 1], got values up to {shown(highest, _is_sample)}: they act as 1 "
            "(divide by 255, or pass uint8?)",
            UserWarning,
            stacklevel=_levels_to_caller(),
        )


def _levels_to_caller() -> int:
    """Counts the ``stacklevel`` by which a warning from here points at the line outside, through layers."""
    levels, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_INSIDE):
        levels, frame = levels + 1, frame.f_back
    return levels
