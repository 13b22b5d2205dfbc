"""The gradients of the exact forward pass.

The straight-through gradient is the derivative of the real steps at the integers' values, each rounding the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fdjpeg._geometry import BLOCK, Geometry, geometry_of
from fdjpeg._slopes import interpolate_slopes
from fdjpeg._tangents import TwoWayFunction, apply_function
from fdjpeg.reference.conversions import from_bytes, laid_out_like, real_dtype
from fdjpeg.reference.exact import decode_components, quantize, transform_components, unlimited_rgb, unpack_planes
from fdjpeg.reference.geometry import from_blocks, to_blocks
from fdjpeg.reference.real import (
    PLAIN,
    Transforms,
    components_of,
    components_of_adjoint,
    real_dct,
    real_idct,
    samples_of,
    samples_of_adjoint,
)
from fdjpeg.reference.tables import integer_tables, steps_of, table_of
from fdjpeg.surrogates import Surrogate


def _within_range(decoded: Sequence[Tensor], geometry: Geometry, fancy: bool) -> Tensor:
    """Returns the derivative of the last limiting: whether R, G and B are in 0…255 before it; grey always is."""
    samples = unlimited_rgb(decoded, geometry, fancy)
    return (samples >= 0) & (samples <= 255)


def _table_errors(image: Tensor, tables: Tensor | None, quality: float, geometry: Geometry) -> list[Tensor]:
    """Returns ``k - c`` for each component, a coefficient's derivative by its step: c before rounding, k after."""
    steps = steps_of(tables, quality, image)
    errors = []
    for i, blocks in enumerate(transform_components(image, geometry)):
        step = 8 * table_of(steps, i)
        exact = step * quantize(blocks, table_of(steps, i)) - blocks  # subtracted as integers, so nothing cancels
        errors.append(exact.to(real_dtype(image)) / step)
    return errors


def round_trip_backward(
    grad: Tensor,
    planes: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    table_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::round_trip_backward``: the straight-through gradient of `round_trip`.

    With fixed tables and each rounding the identity, the inverse DCT undoes the DCT. The image's gradient is therefore
    the last limiting's mask, then the transposed upsampling, colour conversions and subsampling, without a transform.

    Args:
        grad: the gradient of the resulting image, ``(N, C, H, W)``, floating, any strides.
        planes: the second result of `round_trip`.
        image: as for `round_trip`, and so the others.
        tables: as for `round_trip`.
        quality: as for `round_trip`.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        table_gradient: whether the tables' gradient is wanted.

    Returns:
        The gradient of ``image``, laid out like it, 0 for its NaN samples; and that of the tables, for each image:
        float32 ``(N, 3, 8, 8)``, or ``(0,)`` where it is not wanted.
    """
    geometry = geometry_of(image, horizontal, vertical)
    inside = _within_range(unpack_planes(planes, geometry), geometry, fancy)
    gradient = grad.to(real_dtype(image))
    components = samples_of_adjoint(torch.where(inside, gradient, 0), geometry, fancy)
    samples = torch.where(image.isnan(), 0, components_of_adjoint(components, geometry))
    of_image = torch.empty_like(image).copy_(samples)
    if not table_gradient:
        return of_image, _no_table_gradient(image)

    of_tables = torch.zeros(image.size(0), 3, BLOCK, BLOCK, device=image.device, dtype=samples.dtype)
    for i, errors in enumerate(_table_errors(image, tables, quality, geometry)):
        # A coefficient acts on the samples of 0…255, which leave as samples of 0…1.
        coefficients = real_dct(to_blocks(components[i])) / 255
        of_tables[:, i] = (coefficients * errors).sum((1, 2))
    return of_image, of_tables.to(torch.float32)


def surrogate_backward(
    grad: Tensor,
    planes: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    table_gradient: bool,
    slopes: Tensor,
) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::surrogate_backward``: `round_trip_backward` with a surrogate for coefficients' rounding.

    Args:
        grad: as for `round_trip_backward`, and so the others up to ``table_gradient``.
        planes: as for `round_trip_backward`.
        image: as for `round_trip`.
        tables: as for `round_trip`.
        quality: as for `round_trip`.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        table_gradient: whether the tables' gradient is wanted.
        slopes: the surrogate's derivative, as `fdjpeg._slopes.slope_table` gives it.

    Returns:
        As `round_trip_backward`.
    """
    geometry = geometry_of(image, horizontal, vertical)
    steps = steps_of(tables, quality, image)
    inside = _within_range(unpack_planes(planes, geometry), geometry, fancy)
    gradient = torch.where(inside, grad.to(real_dtype(image)), 0)
    of_tables = torch.zeros(image.size(0), 3, BLOCK, BLOCK, device=image.device, dtype=gradient.dtype)
    components = []
    adjoint = samples_of_adjoint(gradient, geometry, fancy)
    for i, (blocks, component) in enumerate(zip(transform_components(image, geometry), adjoint, strict=True)):
        step = table_of(steps, i)
        k = quantize(blocks, step)
        remainder = (blocks - 8 * step * k).to(gradient.dtype) / (8 * step)  # subtracted as integers
        slope = interpolate_slopes(slopes, remainder)
        of_coefficients = real_dct(to_blocks(component))
        # A coefficient acts on the samples of 0…255, which leave as samples of 0…1.
        of_tables[:, i] = (of_coefficients * (k * (1 - slope) - remainder * slope)).sum((1, 2)) / 255
        components.append(from_blocks(real_idct(of_coefficients * slope)))
    samples = torch.where(image.isnan(), 0, components_of_adjoint(components, geometry))
    of_image = torch.empty_like(image).copy_(samples)
    return of_image, of_tables.to(torch.float32) if table_gradient else _no_table_gradient(image)


def _no_table_gradient(image: Tensor) -> Tensor:
    """Returns what an op gives in place of a gradient of tables that is not wanted."""
    return torch.empty(0, device=image.device, dtype=torch.float32)


def straight_through_tangent(
    v: Tensor, planes: Tensor, image: Tensor, horizontal: int, vertical: int, fancy: bool
) -> Tensor:
    """Applies the transposed map of `round_trip_backward`'s first result: ``v`` is a change of the image.

    The result is the change of the output. It is linear in ``v`` and differentiable by it, so that the gradient of a
    straight-through gradient can be taken.

    Args:
        v: ``(N, C, H, W)``, floating.
        planes: the second result of `round_trip`.
        image: the image given to it.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.

    Returns:
        ``(N, C, H, W)`` of ``v``'s dtype.
    """
    geometry = geometry_of(image, horizontal, vertical)
    inside = _within_range(unpack_planes(planes, geometry), geometry, fancy)
    change = torch.where(image.isnan(), 0, v.to(real_dtype(image)))
    samples = samples_of(components_of(change, geometry), geometry, fancy)
    return torch.where(inside, samples, 0).to(v.dtype)


def table_tangent(
    v: Tensor,
    planes: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
) -> Tensor:
    """Applies the transposed map of `round_trip_backward`'s second result: ``v`` is a change of the tables.

    Args:
        v: ``(1 or N, 3, 8, 8)``, floating.
        planes: the second result of `round_trip`.
        image: as for `round_trip`, and so the others.
        tables: as for `round_trip`.
        quality: as for `round_trip`.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.

    Returns:
        ``(N, C, H, W)``, float64 where the image is float64, else float32.
    """
    geometry = geometry_of(image, horizontal, vertical)
    inside = _within_range(unpack_planes(planes, geometry), geometry, fancy)
    change = v.to(real_dtype(image))
    components = [
        from_blocks(real_idct(table_of(change, i) * errors))
        for i, errors in enumerate(_table_errors(image, tables, quality, geometry))
    ]
    return torch.where(inside, samples_of(components, geometry, fancy) / 255, 0)


def surrogate_tangent(
    v: Tensor,
    of_tables: Tensor | None,
    planes: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    slopes: Tensor,
) -> Tensor:
    """Applies the transposed map of `surrogate_backward`: a change of the image and one of the tables.

    Args:
        v: the image's, ``(N, C, H, W)``, floating.
        of_tables: the tables', ``(1 or N, 3, 8, 8)``; None is 0.
        planes: the second result of `round_trip`.
        image: as for `round_trip`, and so the others up to ``fancy``.
        tables: as for `round_trip`.
        quality: as for `round_trip`.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        slopes: as for `surrogate_backward`.

    Returns:
        The change of the output, ``(N, C, H, W)`` of ``v``'s dtype.
    """
    geometry = geometry_of(image, horizontal, vertical)
    steps = steps_of(tables, quality, image)
    inside = _within_range(unpack_planes(planes, geometry), geometry, fancy)
    change = torch.where(image.isnan(), 0, v.to(real_dtype(image)))
    components = []
    for i, (blocks, component) in enumerate(
        zip(transform_components(image, geometry), components_of(change, geometry), strict=True)
    ):
        step = table_of(steps, i)
        k = quantize(blocks, step)
        remainder = (blocks - 8 * step * k).to(change.dtype) / (8 * step)  # subtracted as integers
        slope = interpolate_slopes(slopes, remainder)
        coefficients = slope * real_dct(to_blocks(component))
        if of_tables is not None:
            of_step = table_of(of_tables, i).to(change.dtype) / 255
            coefficients = coefficients + (k * (1 - slope) - remainder * slope) * of_step
        components.append(from_blocks(real_idct(coefficients)))
    return torch.where(inside, samples_of(components, geometry, fancy), 0).to(v.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# The integers' values with the real numbers' derivatives
# ---------------------------------------------------------------------------------------------------------------------


class _Differential(TwoWayFunction):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _DifferentialInBothModes(_Differential):
    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return tangents[0]


_Differential.in_both_modes = _DifferentialInBothModes


def differential(x: Tensor) -> Tensor:
    """Returns a variable's differential: its value is 0, whatever the variable's is, its derivative the identity."""
    dx: Tensor = apply_function(_Differential, x)
    return dx


def exact_with_surrogate(
    image: Tensor,
    tables: Tensor | Sequence[Tensor],
    horizontal: int,
    vertical: int,
    fancy: bool,
    surrogate: Surrogate,
    transforms: Transforms = PLAIN,
) -> Tensor:
    """Computes `round_trip`, bit for bit, as an autograd graph with derivatives of the real steps and ``surrogate``.

    The graph is ``y + J dx + K dq``: y from the integers, dx and dq the `differential` of image and tables. Let c be
    the integer DCT's output in steps, k its rounding, and r′ the surrogate's derivative. J changes a coefficient by
    r′(c) times the change of the image's own. K changes it by ``k - c r′(c)`` times the change of its step. The last
    limiting passes the samples that it leaves alone in integers. Any other rounding and limiting is the identity. A NaN
    sample gets gradient 0. The graph is linear in dx and dq, so its second derivatives by image and tables are 0. That
    is true for straight-through, but not for a surrogate whose r′ varies.

    Args:
        image: ``(N, C, H, W)``, C 1 or 3, floating, any strides.
        tables: ``(1 or N, 3, 8, 8)``, or those of each block as `tables_by_block` gives them; floating, acting as
            `integer_tables`, straight through.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        surrogate: any object with a method ``derivative(c)``, elementwise and finite.
        transforms: the real DCT of blocks.

    Returns:
        The image, of ``image``'s dtype.
    """
    geometry = geometry_of(image, horizontal, vertical)
    dtype = real_dtype(image)
    dx = torch.where(image.isnan(), 0, differential(image.to(dtype)))

    steps, coefficients, changes = [], [], []
    transformed = transform_components(image.detach(), geometry)
    for i, (blocks, change) in enumerate(zip(transformed, components_of(255 * dx, geometry), strict=True)):
        table = table_of(tables, i)
        step = integer_tables(table.detach())
        dq = differential(table.to(dtype))
        k = quantize(blocks, step)
        c = blocks.to(dtype) / (8 * step)
        slope = surrogate.derivative(c)
        steps.append(step)
        coefficients.append(k)
        changes.append(slope * transforms.dct(change) + (k - c * slope) * dq)

    decoded = decode_components(coefficients, steps)
    exact = from_bytes(unlimited_rgb(decoded, geometry, fancy).clamp(0, 255), dtype)
    change = samples_of([transforms.idct(change) for change in changes], geometry, fancy)
    inside = _within_range(decoded, geometry, fancy)
    return (laid_out_like(image, exact) + torch.where(inside, change / 255, 0)).to(image.dtype)
