"""The ops of the codec's parts, between which stand a user's own surrogate, noise, and steps for each block.

Coefficients are packed: ``(N, blocks, 8, 8)``, the blocks of Y, then of Cb, then of Cr, each row by row. So are steps;
one set ``(1, blocks, 8, 8)`` serves all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor

from fdjpeg._constants import constant
from fdjpeg._geometry import BLOCK, Geometry, geometry_of
from fdjpeg._slopes import Formula, interpolate_slopes, surrogate_of
from fdjpeg._standard_tables import (
    SMALLEST_STEP,
    STANDARD_CHROMA,
    STANDARD_LUMA,
    clamped_quality,
    libjpeg_steps,
    soft_steps,
)
from fdjpeg.reference.conversions import from_bytes, real_dtype
from fdjpeg.reference.exact import (
    decode_components,
    pack_planes,
    quantize,
    raised_flags,
    transform_components,
    unlimited_rgb,
    unpack_planes,
)
from fdjpeg.reference.geometry import component_planes, from_blocks, to_blocks
from fdjpeg.reference.real import (
    PLAIN,
    Transforms,
    components_of,
    components_of_adjoint,
    real_dct,
    real_idct,
    real_samples,
    real_transformed,
    samples_of,
    samples_of_adjoint,
)
from fdjpeg.reference.tables import integer_tables


def pack(blocks: Sequence[Tensor]) -> Tensor:
    """Packs the blocks of each component, ``(N, rows, columns, …)``."""
    # Not flattened: the batched tensors of torch.autograd.functional cannot be.
    return torch.cat([one.reshape(one.size(0), one.size(1) * one.size(2), BLOCK, BLOCK) for one in blocks], 1)


def unpack(blocks: Tensor, geometry: Geometry) -> list[Tensor]:
    """Inverts `pack`."""
    planes = [plane for plane, _, _ in component_planes(geometry)]
    parts = blocks.split([plane.rows * plane.columns for plane in planes], 1)
    return [
        part.reshape(part.size(0), plane.rows, plane.columns, BLOCK, BLOCK)
        for part, plane in zip(parts, planes, strict=True)
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Steps
# ---------------------------------------------------------------------------------------------------------------------


def _effective(qualities: Tensor, whole: bool) -> Tensor:
    """Returns the qualities as which those given act, float64."""
    clamped = clamped_quality(qualities)
    return clamped.round() if whole else clamped


def _of_kind(of_both: Tensor, luma: int) -> Tensor:
    """Chooses along the last but two dimensions: luma's of ``(..., B, 2, 8, 8)`` for the first ``luma`` of B."""
    is_luma = torch.arange(of_both.size(-4), device=of_both.device) < luma
    return torch.where(is_luma[:, None, None], of_both[..., 0, :, :], of_both[..., 1, :, :])


def standard_steps(qualities: Tensor, luma: int, whole: bool, soft: bool) -> Tensor:
    """Implements ``fdjpeg::standard_steps``: the standard tables at qualities.

    Args:
        qualities: ``(N, B)`` of any real dtype; others act as the nearest in 1…100, NaN as 1.
        luma: the first of the B for which the luma table is meant; the chroma table is for the rest.
        whole: whether they act rounded to whole qualities.
        soft: whether the steps are real numbers of at least 1, as `fdjpeg.QuantTables.standard` says.

    Returns:
        ``(N, B, 8, 8)``, float64 if ``qualities`` are, else float32.
    """
    quality = _effective(qualities, whole)
    dtype = torch.float64 if qualities.dtype == torch.float64 else torch.float32
    return _of_kind((soft_steps if soft else libjpeg_steps)(quality), luma).to(dtype)


def standard_slopes(qualities: Tensor, luma: int, whole: bool, soft: bool) -> Tensor:
    """Returns the derivative of `standard_steps` by the qualities: ``(N, B, 8, 8)``.

    It is straight through roundings and bounds unless ``soft``; infinite and NaN qualities get 0.
    """
    quality = _effective(qualities, whole)
    return _steps_by_percentage(qualities, luma, soft, torch.where(quality < 50, -5000 / quality**2, -2.0))


def standard_curvatures(qualities: Tensor, luma: int, whole: bool, soft: bool) -> Tensor:
    """Returns the second derivative, as `standard_slopes` the first."""
    quality = _effective(qualities, whole)
    return _steps_by_percentage(qualities, luma, soft, torch.where(quality < 50, 10000 / quality**3, 0.0))


def _steps_by_percentage(qualities: Tensor, luma: int, soft: bool, of_percentage: Tensor) -> Tensor:
    """Returns a derivative of the steps from that of libjpeg's percentage ``(N, B)``."""
    passed = qualities.isfinite()
    if soft:
        passed = passed & (qualities >= 1) & (qualities <= 100)
    base = constant((STANDARD_LUMA, STANDARD_CHROMA), torch.float64, qualities)
    slopes = _of_kind(base * torch.where(passed, of_percentage / 100, 0)[..., None, None, None], luma)
    if soft:
        slopes = torch.where(standard_steps(qualities.double(), luma, False, soft) > SMALLEST_STEP, slopes, 0)
    return slopes.to(torch.float64 if qualities.dtype == torch.float64 else torch.float32)


def standard_steps_backward(grad: Tensor, qualities: Tensor, luma: int, whole: bool, soft: bool) -> Tensor:
    """Implements ``fdjpeg::standard_steps_backward``: the gradient of the qualities ``(N, B)``, in their dtype.

    Args:
        grad: of the steps, ``(N, B, 8, 8)``.
        qualities: floating, as for `standard_steps`, and so the others.
        luma: as there.
        whole: as there.
        soft: as there.
    """
    slopes = standard_slopes(qualities, luma, whole, soft)
    return (grad.to(slopes.dtype) * slopes).sum((-1, -2)).to(qualities.dtype)


def sum_blocks(grad: Tensor, luma: int) -> Tensor:
    """Implements ``fdjpeg::sum_blocks``: the gradients of tables from those of the packed steps that they became.

    Args:
        grad: of the steps, ``(N, B, 8, 8)``.
        luma: the first of the B that are of luma; half of the others are of Cb.

    Returns:
        ``(N, 3, 8, 8)``.
    """
    chroma = (grad.size(1) - luma) // 2
    return torch.stack([part.sum(1) for part in grad.split([luma, chroma, chroma], 1)], 1)


# ---------------------------------------------------------------------------------------------------------------------
# The exact codec
# ---------------------------------------------------------------------------------------------------------------------


def round_trip_by_steps(
    image: Tensor, steps: Tensor, slopes: Tensor | None, horizontal: int, vertical: int, fancy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Implements ``fdjpeg::round_trip_by_steps``: `round_trip` with steps for each block, and what gradients need.

    Args:
        image: as for `round_trip`.
        steps: packed, floating; they act as `integer_tables`.
        slopes: a surrogate's derivative, as `fdjpeg._slopes.slope_table` gives it, or None.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.

    Returns:
        The image and the planes of `round_trip`, and two packed tensors: the coefficients c in steps and their
        roundings k; with ``slopes`` the derivative r′(c) and ``k - c r′(c)``, a coefficient's derivative by its step.
    """
    geometry = geometry_of(image, horizontal, vertical)
    dtype = real_dtype(image)
    steps_of = [integer_tables(one) for one in unpack(steps, geometry)]
    quantized, first, second = [], [], []
    for blocks, step in zip(transform_components(image, geometry), steps_of, strict=True):
        k = quantize(blocks, step)
        quantized.append(k)
        if slopes is None:
            first.append(blocks.to(dtype) / (8 * step))
            second.append(k.to(dtype))
        else:
            remainder = (blocks - 8 * step * k).to(dtype) / (8 * step)  # subtracted as integers
            slope = interpolate_slopes(slopes, remainder)
            first.append(slope)
            second.append(k * (1 - slope) - remainder * slope)
    decoded = decode_components(quantized, steps_of)
    samples = unlimited_rgb(decoded, geometry, fancy).clamp(0, 255)
    out = torch.empty_like(image).copy_(from_bytes(samples, image.dtype))
    planes = pack_planes(decoded, raised_flags(image, geometry), geometry)
    return out, planes, pack(first), pack(second)


# ---------------------------------------------------------------------------------------------------------------------
# Rounding
# ---------------------------------------------------------------------------------------------------------------------


def surrogate(c: Tensor, surrogate: str, parameter: float, floor: float, soft: bool) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::surrogate``: a built-in surrogate of rounding.

    Args:
        c: coefficients in steps, of any shape, floating.
        surrogate: its name; the next two are the rest of its `fdjpeg._slopes.Formula`.
        parameter: of the surrogate.
        floor: the floor of its derivative.
        soft: whether the surrogate takes rounding's place.

    Returns:
        The number that takes the place of c, and the derivative there.
    """
    stands_in = surrogate_of(Formula(surrogate, parameter, floor))
    return stands_in.forward(c) if soft else c.round(), stands_in.derivative(c)


def rounded_backward(grad: Tensor, used: Tensor, c: Tensor | None, slope: Tensor | None) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::rounded_backward``: the gradients of coefficients and of their steps.

    Args:
        grad: of the multiples ``used · steps``, ``(N, B, 8, 8)``.
        used: the number that took the place of c; without c, a coefficient's derivative by its step.
        c: the coefficients in steps, or None.
        slope: the derivative of ``used`` by c; None is 1.

    Returns:
        The gradient of the coefficients, ``(0,)`` without a slope, where it is ``grad``; and that of the steps of each.
    """
    by_step = used if c is None else used - c if slope is None else torch.addcmul(used, c, slope, value=-1)
    return grad.new_empty(0) if slope is None else grad * slope, grad * by_step


def scaled_backward(grad: Tensor, blocks: Tensor, steps: Tensor, divided: bool) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::scaled_backward``: the gradients of blocks and of their steps, differentiable by all.

    Args:
        grad: of ``blocks / steps`` if ``divided``, else of ``blocks · steps``; ``(N, B, 8, 8)``.
        blocks: packed.
        steps: packed, a set for each image.
        divided: as above.

    Returns:
        The gradient of the blocks, and that of the steps.
    """
    if not divided:
        return grad * steps, grad * blocks
    of_blocks = grad / steps
    return of_blocks, -of_blocks * (blocks / steps)


# ---------------------------------------------------------------------------------------------------------------------
# Real numbers
# ---------------------------------------------------------------------------------------------------------------------


def image_blocks(image: Tensor, horizontal: int, vertical: int, transforms: Transforms = PLAIN) -> Tensor:
    """Implements ``fdjpeg::image_blocks``: the coefficients of an image in real numbers, in units of 0…255.

    Args:
        image: as for `real_pipeline`.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        transforms: the DCT of blocks.

    Returns:
        Packed; Y's are those of its samples less 128.
    """
    return pack(real_transformed(image, geometry_of(image, horizontal, vertical), transforms))


def image_blocks_backward(
    grad: Tensor, image: Tensor, planes: Tensor | None, horizontal: int, vertical: int, transforms: Transforms = PLAIN
) -> Tensor:
    """Implements ``fdjpeg::image_blocks_backward``: the gradient of the image.

    Args:
        grad: of the coefficients, packed.
        image: as for `image_blocks`, and so the others.
        planes: of the exact codec, whose NaN samples get gradient 0; or None.
        horizontal: as there.
        vertical: as there.
        transforms: as there.

    Returns:
        The gradient, laid out like ``image``.
    """
    geometry = geometry_of(image, horizontal, vertical)
    components = [transforms.idct(one) for one in unpack(grad.to(real_dtype(image)), geometry)]
    of_image = 255 * components_of_adjoint(components, geometry)
    if planes is not None:
        of_image = torch.where(image.isnan(), 0, of_image)
    return torch.empty_like(image).copy_(of_image)


def image_blocks_tangent(v: Tensor, image: Tensor, exact: bool, horizontal: int, vertical: int) -> Tensor:
    """Applies the transposed map of `image_blocks_backward` to a change ``v`` of the image: that of the coefficients.

    ``exact`` says whether that had planes. Linear in ``v``, and differentiable by it.
    """
    geometry = geometry_of(image, horizontal, vertical)
    change = 255 * v.to(real_dtype(image))
    if exact:
        change = torch.where(image.isnan(), 0, change)
    return pack([real_dct(to_blocks(component)) for component in components_of(change, geometry)])


def blocks_image(
    blocks: Tensor, image: Tensor, horizontal: int, vertical: int, fancy: bool, transforms: Transforms = PLAIN
) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::blocks_image``: the image that coefficients decode to, in real numbers.

    Args:
        blocks: packed, as `image_blocks` returns them.
        image: one of the size, dtype and layout of the result; its values are not read.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        transforms: the DCT of blocks.

    Returns:
        The image, and the mask as `real_round_trip` returns it.
    """
    geometry = geometry_of(image, horizontal, vertical)
    decoded = [transforms.idct(one) for one in unpack(blocks.to(real_dtype(image)), geometry)]
    samples = real_samples(decoded, geometry, fancy)
    inside = (samples >= 0) & (samples <= 255)
    mask = reduce(add, [passed.to(torch.uint8) << c for c, passed in enumerate(inside.unbind(1))])
    samples.clamp_(0, 255)  # in place: memory for another image costs more than the numbers
    samples = samples.round_() if image.dtype == torch.uint8 else samples.div_(255)
    return torch.empty_like(image).copy_(samples), mask


def _passed(kept: Tensor, geometry: Geometry, fancy: bool) -> Tensor:
    """Returns what the last limiting passed: by the mask of real numbers, or by the planes of the exact codec."""
    if kept.ndim == 3:
        return torch.stack([(kept >> c) & 1 for c in range(geometry.channels)], 1) > 0
    samples = unlimited_rgb(unpack_planes(kept, geometry), geometry, fancy)
    return (samples >= 0) & (samples <= 255)


def blocks_image_backward(
    grad: Tensor,
    kept: Tensor,
    image: Tensor,
    horizontal: int,
    vertical: int,
    fancy: bool,
    transforms: Transforms = PLAIN,
) -> Tensor:
    """Implements ``fdjpeg::blocks_image_backward``: the gradient of the coefficients.

    Args:
        grad: of the resulting image, ``(N, C, H, W)``, floating, any strides.
        kept: the mask of `blocks_image`, or the planes of the exact codec.
        image: as for `blocks_image`, and so the others.
        horizontal: as there.
        vertical: as there.
        fancy: as there.
        transforms: as there.

    Returns:
        Packed.
    """
    geometry = geometry_of(image, horizontal, vertical)
    gradient = torch.where(_passed(kept, geometry, fancy), grad.to(real_dtype(image)), 0)
    components = samples_of_adjoint(gradient, geometry, fancy)
    return pack([transforms.dct(component) for component in components]) / 255


def blocks_image_tangent(v: Tensor, kept: Tensor, image: Tensor, horizontal: int, vertical: int, fancy: bool) -> Tensor:
    """Applies the transposed map of `blocks_image_backward` to a change ``v`` of the coefficients: the image's.

    Linear in ``v``, and differentiable by it.
    """
    geometry = geometry_of(image, horizontal, vertical)
    components = [from_blocks(real_idct(one)) for one in unpack(v.to(real_dtype(image)), geometry)]
    samples = samples_of(components, geometry, fancy) / 255
    return torch.where(_passed(kept, geometry, fancy), samples, 0).to(image.dtype)
