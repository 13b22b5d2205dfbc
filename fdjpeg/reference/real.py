"""The same steps in real numbers, `real_pipeline` with gradients by autograd, and the ops in real numbers.

The working scale is 0…255, level-shifted: Y less 128, Cb and Cr about 0. All steps are therefore linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

from fdjpeg._geometry import BLOCK, Geometry, Plane, geometry_of
from fdjpeg._slopes import Formula, surrogate_of
from fdjpeg.reference.conversions import laid_out_like, real_dtype
from fdjpeg.reference.geometry import (
    component_planes,
    far_samples,
    from_blocks,
    near_samples,
    subsampled_columns,
    subsampled_rows,
    to_blocks,
    uses_triangle,
)
from fdjpeg.reference.linear import linear_map, transposed
from fdjpeg.reference.tables import real_tables, table_of
from fdjpeg.surrogates import hard_rounding

#: ITU-R BT.601's weights of red and blue in luma; the other constants of colour follow from them.
_K_R, _K_B = 0.299, 0.114

_K_G = 1 - _K_R - _K_B

_RGB_TO_YCBCR = [
    [_K_R, _K_G, _K_B],
    [-_K_R / (2 - 2 * _K_B), -_K_G / (2 - 2 * _K_B), 0.5],
    [0.5, -_K_G / (2 - 2 * _K_R), -_K_B / (2 - 2 * _K_R)],
]

_YCBCR_TO_RGB = [
    [1.0, 0.0, 2 - 2 * _K_R],
    [1.0, -(2 - 2 * _K_B) * _K_B / _K_G, -(2 - 2 * _K_R) * _K_R / _K_G],
    [1.0, 2 - 2 * _K_B, 0.0],
]


def _cosine(x: float) -> float:
    """Returns cos(πx), by an angle of at most π: larger ones lose digits."""
    return math.cos(math.pi * math.remainder(x, 2))


#: The orthonormal DCT-II of 8 samples: rows by frequency (ITU-T T.81, A.3.3, which writes it out in two dimensions).
_DCT = [
    [math.sqrt((1 if k == 0 else 2) / BLOCK) * _cosine((2 * n + 1) * k / (2 * BLOCK)) for n in range(BLOCK)]
    for k in range(BLOCK)
]


# ---------------------------------------------------------------------------------------------------------------------
# Resampling and colour, and their transposed maps
# ---------------------------------------------------------------------------------------------------------------------

#: A linear map along one axis: ``out[i]`` is the sum of ``weight * in[index[i]]`` over its taps ``(index, weight)``.
_Taps = list[tuple[Tensor, float]]


def _resample(x: Tensor, taps: _Taps, dim: int) -> Tensor:
    return reduce(add, [_scaled(x.index_select(dim, index), weight) for index, weight in taps])


def _scaled(x: Tensor, weight: float) -> Tensor:
    return x if weight == 1 else weight * x


def _resample_adjoint(gradient: Tensor, taps: _Taps, dim: int, size: int) -> Tensor:
    """Applies the transposed map of `_resample`, onto ``size`` samples: adds each number to its source."""
    shape = list(gradient.shape)
    shape[dim] = size
    total = gradient.new_zeros(shape)
    for index, weight in taps:
        total = total.index_add(dim, index, _scaled(gradient, weight))
    return total


def _subsampling_taps(
    geometry: Geometry, plane: Plane, horizontal: int, vertical: int, device: torch.device
) -> tuple[_Taps, _Taps]:
    """Returns taps along rows and along columns: plain averages, without the integers' biases."""
    rows = subsampled_rows(geometry, plane, vertical, device)
    columns = subsampled_columns(geometry, plane, horizontal, device)
    return [(index, 1 / vertical) for index in rows], [(index, 1 / horizontal) for index in columns]


def _upsampling_taps(
    geometry: Geometry, plane: Plane, horizontal: int, vertical: int, fancy: bool, device: torch.device
) -> tuple[_Taps, _Taps]:
    """Returns taps along rows and along columns: 3/4 and 1/4 where libjpeg's triangle applies, else repetition."""

    def taps(size: int, true_size: int, factor: int) -> _Taps:
        near = near_samples(size, factor, device)
        if factor == 1 or not uses_triangle(geometry, fancy):
            return [(near, 1.0)]
        return [(near, 0.75), (far_samples(size, true_size, device), 0.25)]

    return taps(geometry.height, plane.height, vertical), taps(geometry.width, plane.width, horizontal)


def real_rgb_to_ycbcr(samples: Tensor) -> Tensor:
    """Converts ``(..., 3, H, W)`` linearly, with Cb and Cr about 0."""
    return linear_map(_RGB_TO_YCBCR, samples, -3)


def real_ycbcr_to_rgb(samples: Tensor) -> Tensor:
    """Inverts `real_rgb_to_ycbcr`."""
    return linear_map(_YCBCR_TO_RGB, samples, -3)


def components_of(samples: Tensor, geometry: Geometry) -> list[Tensor]:
    """Applies the linear steps before the DCT: ``(N, C, H, W)`` to components of coded size, without level shift."""
    if geometry.channels == 3:
        samples = real_rgb_to_ycbcr(samples)
    components = []
    for component, (plane, horizontal, vertical) in zip(samples.unbind(1), component_planes(geometry), strict=True):
        rows, columns = _subsampling_taps(geometry, plane, horizontal, vertical, samples.device)
        components.append(_resample(_resample(component, rows, 1), columns, 2))
    return components


def components_of_adjoint(gradients: Sequence[Tensor], geometry: Geometry) -> Tensor:
    """Applies the transposed map of `components_of`."""
    components = []
    for gradient, (plane, horizontal, vertical) in zip(gradients, component_planes(geometry), strict=True):
        rows, columns = _subsampling_taps(geometry, plane, horizontal, vertical, gradient.device)
        gradient = _resample_adjoint(gradient, columns, 2, geometry.width)
        components.append(_resample_adjoint(gradient, rows, 1, geometry.height))
    samples = torch.stack(components, 1)
    return linear_map(transposed(_RGB_TO_YCBCR), samples, 1) if geometry.channels == 3 else samples


def samples_of(components: Sequence[Tensor], geometry: Geometry, fancy: bool) -> Tensor:
    """Applies the linear steps after the inverse DCT: components of coded size to ``(N, C, H, W)``."""
    upsampled = []
    for component, (plane, horizontal, vertical) in zip(components, component_planes(geometry), strict=True):
        rows, columns = _upsampling_taps(geometry, plane, horizontal, vertical, fancy, component.device)
        # `narrow`: indexing by whole slices is an alias, which the vectorized jacobian of forward mode cannot batch.
        component = component.narrow(1, 0, plane.height).narrow(2, 0, plane.width)
        upsampled.append(
            _resample(_resample(component, columns, 2), rows, 1)
        )  # rows are fewer before they are repeated
    samples = torch.stack(upsampled, 1)
    return real_ycbcr_to_rgb(samples) if geometry.channels == 3 else samples


def samples_of_adjoint(gradient: Tensor, geometry: Geometry, fancy: bool) -> list[Tensor]:
    """Applies the transposed map of `samples_of`; samples beyond a component's true size get 0."""
    if geometry.channels == 3:
        gradient = linear_map(transposed(_YCBCR_TO_RGB), gradient, 1)
    components = []
    for component, (plane, horizontal, vertical) in zip(gradient.unbind(1), component_planes(geometry), strict=True):
        rows, columns = _upsampling_taps(geometry, plane, horizontal, vertical, fancy, gradient.device)
        component = _resample_adjoint(component, rows, 1, plane.rows * BLOCK)
        components.append(_resample_adjoint(component, columns, 2, plane.columns * BLOCK))
    return components


# ---------------------------------------------------------------------------------------------------------------------
# Transform
# ---------------------------------------------------------------------------------------------------------------------


def real_dct(blocks: Tensor) -> Tensor:
    """Applies the orthonormal 8×8 DCT-II to the last two dimensions."""
    return linear_map(_DCT, linear_map(_DCT, blocks, -1), -2)


def real_idct(blocks: Tensor) -> Tensor:
    """Applies the inverse of `real_dct`, which is also its transposed map."""
    inverse = transposed(_DCT)
    return linear_map(inverse, linear_map(inverse, blocks, -2), -1)


class Transforms(NamedTuple):
    """The DCT of a component's blocks, as the pipelines take it, so that kernels can serve them.

    Attributes:
        dct: from ``(N, 8 rows, 8 columns)`` to ``(N, rows, columns, 8, 8)``.
        idct: its inverse, and its transposed map.
    """

    dct: Callable[[Tensor], Tensor] = lambda samples: real_dct(to_blocks(samples))
    idct: Callable[[Tensor], Tensor] = lambda blocks: from_blocks(real_idct(blocks))


#: In plain torch.
PLAIN = Transforms()


def block_dct(samples: Tensor) -> Tensor:
    """Implements ``fdjpeg::block_dct``: `real_dct` of the blocks of ``(..., H, W)``: ``(..., H / 8, W / 8, 8, 8)``."""
    *outer, height, width = samples.shape
    planes = samples.to(real_dtype(samples)).reshape(-1, height, width)
    blocks = real_dct(to_blocks(planes)).to(samples.dtype)
    return blocks.reshape(*outer, *blocks.shape[1:]).contiguous()


def block_idct(blocks: Tensor) -> Tensor:
    """Implements ``fdjpeg::block_idct``, the inverse of `block_dct`."""
    *outer, rows, columns, _, _ = blocks.shape
    planes = from_blocks(real_idct(blocks.to(real_dtype(blocks)).reshape(-1, rows, columns, BLOCK, BLOCK)))
    return planes.to(blocks.dtype).reshape(*outer, rows * BLOCK, columns * BLOCK).contiguous()


def quantize_channels(image: Tensor, steps: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """Quantizes each channel's DCT separately, in real numbers; edges replicated to whole blocks, clipped to [0, 1].

    Args:
        image: ``(N, C, H, W)``, float32 or float64 in [0, 1].
        steps: ``(8, 8)``, in units of 0…255.
        rounding: of a coefficient in steps.
    """
    height, width = image.shape[-2:]
    rows = torch.arange(Plane(height, width).rows * BLOCK, device=image.device)
    columns = torch.arange(Plane(height, width).columns * BLOCK, device=image.device)
    padded = image.index_select(2, rows.clamp(max=height - 1)).index_select(3, columns.clamp(max=width - 1))
    blocks = to_blocks(255 * padded.flatten(0, 1))
    step = steps.to(blocks)
    quantized = from_blocks(real_idct(rounding(real_dct(blocks) / step) * step)).unflatten(0, image.shape[:2])
    # Not by slices: torch.export specializes those either to sizes of whole blocks or to all others.
    cropped = quantized.index_select(2, rows[:height]).index_select(3, columns[:width])
    return laid_out_like(image, (cropped / 255).clamp(0, 1))


# ---------------------------------------------------------------------------------------------------------------------
# The pipeline, and the ops
# ---------------------------------------------------------------------------------------------------------------------


def real_pipeline(
    image: Tensor,
    tables: Tensor | Sequence[Tensor],
    horizontal: int,
    vertical: int,
    fancy: bool,
    rounding: Callable[[Tensor], Tensor] = torch.round,
    transforms: Transforms = PLAIN,
) -> Tensor:
    """Applies JPEG in real numbers, where only coefficients are rounded, by ``rounding``. Differentiable by autograd.

    Args:
        image: ``(N, C, H, W)``, C 1 or 3, uint8 or floating in [0, 1], any strides; computed in float32, or in float64
            if it is float64. NaN spreads over its blocks, as in any arithmetic of real numbers.
        tables: ``(1 or N, 3, 8, 8)`` steps for Y, Cb, Cr, or those of each block as `tables_by_block` returns them;
            neither rounded nor limited.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        rounding: the elementwise rounding of coefficients in steps. ``torch.round`` rounds half to even.
        transforms: the DCT of blocks.

    Returns:
        The image, of ``image``'s dtype; floating in [0, 1], uint8 rounded half to even.
    """
    geometry = geometry_of(image, horizontal, vertical)
    decoded = []
    for i, coefficients in enumerate(real_transformed(image, geometry, transforms)):
        step = table_of(tables, i).to(coefficients.dtype)
        decoded.append(transforms.idct(rounding(coefficients / step) * step))
    return limited(image, real_samples(decoded, geometry, fancy))


def real_transformed(image: Tensor, geometry: Geometry, transforms: Transforms = PLAIN) -> list[Tensor]:
    """Returns each component's coefficients, in units of samples of 0…255; Y less its level shift."""
    real = image.to(real_dtype(image))
    samples = real if image.dtype == torch.uint8 else 255 * real
    level = [128, 0, 0]
    return [transforms.dct(component - level[i]) for i, component in enumerate(components_of(samples, geometry))]


def real_samples(decoded: Sequence[Tensor], geometry: Geometry, fancy: bool) -> Tensor:
    """Converts decoded components, Y less its level shift, to samples of 0…255 before the last limiting."""
    return samples_of([decoded[0] + 128, *decoded[1:]], geometry, fancy)


def limited(image: Tensor, samples: Tensor) -> Tensor:
    """Limits samples of 0…255 to an image of ``image``'s dtype and layout; bytes are rounded half to even."""
    samples = laid_out_like(image, samples.clamp(0, 255))
    return samples.round().to(torch.uint8) if image.dtype == torch.uint8 else (samples / 255).to(image.dtype)


def real_round_trip(
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    surrogate: str,
    parameter: float,
    floor: float,
    soft: bool,
) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::real_round_trip``: `real_pipeline` with a built-in surrogate.

    Args:
        image: as for `real_pipeline`.
        tables: as for `real_pipeline`; or None for the standard ones.
        quality: 1…100, read only where ``tables`` is None.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        surrogate: its name; the next two are the rest of its `fdjpeg._slopes.Formula`.
        parameter: of the surrogate.
        floor: the floor of its derivative; unused here.
        soft: whether the surrogate replaces rounding.

    Returns:
        The image, laid out like ``torch.empty_like(image)``, and the mask of samples that the last limiting passed:
        uint8 ``(N, H, W)``, bit c for channel c.
    """
    geometry = geometry_of(image, horizontal, vertical)
    rounding = surrogate_of(Formula(surrogate, parameter, floor)).forward if soft else torch.round
    steps = real_tables(tables, quality, soft, image)
    decoded = [
        from_blocks(real_idct(rounding(coefficients / table_of(steps, i)) * table_of(steps, i)))
        for i, coefficients in enumerate(real_transformed(image, geometry))
    ]
    samples = real_samples(decoded, geometry, fancy)
    inside = (samples >= 0) & (samples <= 255)
    mask = reduce(add, [passed.to(torch.uint8) << c for c, passed in enumerate(inside.unbind(1))])
    return torch.empty_like(image).copy_(limited(image, samples)), mask


def real_round_trip_backward(
    grad: Tensor,
    mask: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    surrogate: str,
    parameter: float,
    floor: float,
    soft: bool,
    table_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Implements ``fdjpeg::real_round_trip_backward``: the vector-Jacobian product of `real_round_trip`.

    Args:
        grad: the gradient of the resulting image, ``(N, C, H, W)``, floating, any strides.
        mask: the second result of `real_round_trip`.
        image: as for `real_round_trip`, and so the others.
        tables: as for `real_round_trip`.
        quality: as for `real_round_trip`.
        horizontal: as for `round_trip`.
        vertical: as for `round_trip`.
        fancy: as for `round_trip`.
        surrogate: as for `real_round_trip`, and so the next two.
        parameter: of the surrogate.
        floor: the floor of its derivative.
        soft: as for `real_round_trip`.
        table_gradient: whether the tables' gradient is wanted.

    Returns:
        The gradient of ``image``, laid out like it; and that of the tables, for each image: ``(N, 3, 8, 8)`` in the
        dtype of the computation, or ``(0,)`` where it is not wanted.
    """
    geometry = geometry_of(image, horizontal, vertical)
    dtype = real_dtype(image)
    stands_in = surrogate_of(Formula(surrogate, parameter, floor))
    steps = real_tables(tables, quality, soft, image)
    inside = torch.stack([(mask >> c) & 1 for c in range(geometry.channels)], 1) > 0
    gradients = samples_of_adjoint(torch.where(inside, grad.to(dtype), 0), geometry, fancy)
    of_tables = torch.zeros(image.size(0), 3, BLOCK, BLOCK, device=image.device, dtype=dtype)
    components = []
    for i, (coefficients, gradient) in enumerate(zip(real_transformed(image, geometry), gradients, strict=True)):
        step = table_of(steps, i)
        c = coefficients / step
        slope = stands_in.derivative(c)
        of_coefficients = real_dct(to_blocks(gradient))
        # A coefficient acts on the samples of 0…255, which leave as samples of 0…1.
        used = stands_in.forward(c) if soft else c.round()
        of_tables[:, i] = (of_coefficients * (used - c * slope)).sum((1, 2)) / 255
        components.append(from_blocks(real_idct(of_coefficients * slope)))
    of_image = torch.empty_like(image).copy_(components_of_adjoint(components, geometry))
    return of_image, of_tables if table_gradient else torch.empty(0, device=image.device, dtype=dtype)


def real_tangent(
    v: Tensor,
    of_tables: Tensor | None,
    mask: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    surrogate: str,
    parameter: float,
    floor: float,
    soft: bool,
) -> Tensor:
    """Applies the transposed map of `real_round_trip_backward`: a change of the image and one of the tables.

    Args:
        v: the image's, ``(N, C, H, W)``, floating.
        of_tables: the tables', ``(1 or N, 3, 8, 8)``; None is 0.
        mask: the second result of `real_round_trip`.
        image: as for `real_round_trip`, and so the others.
        tables: as there.
        quality: as there.
        horizontal: as there.
        vertical: as there.
        fancy: as there.
        surrogate: as there.
        parameter: as there.
        floor: as for `real_round_trip_backward`.
        soft: as there.

    Returns:
        The change of the output, ``(N, C, H, W)`` of ``v``'s dtype. If ``soft``, autograd differentiates it again.
    """
    geometry = geometry_of(image, horizontal, vertical)
    stands_in = surrogate_of(Formula(surrogate, parameter, floor))
    steps = real_tables(tables, quality, soft, image)
    inside = torch.stack([(mask >> c) & 1 for c in range(geometry.channels)], 1) > 0
    components = []
    changes = components_of(v.to(real_dtype(image)), geometry)
    for i, (coefficients, change) in enumerate(zip(real_transformed(image, geometry), changes, strict=True)):
        c = coefficients / table_of(steps, i)
        slope = stands_in.derivative(c)
        changed = slope * real_dct(to_blocks(change))
        if of_tables is not None:
            used = stands_in.forward(c) if soft else c.round()
            changed = changed + (used - c * slope) * table_of(of_tables, i).to(c.dtype) / 255
        components.append(from_blocks(real_idct(changed)))
    return torch.where(inside, samples_of(components, geometry, fancy), 0).to(v.dtype)


def real_second_gradient(
    tangents: tuple[Tensor, Tensor | None],
    grad: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    surrogate: str,
    parameter: float,
    floor: float,
    soft: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the vector-Jacobian product of `real_round_trip_backward`, by differentiating `real_pipeline` twice.

    Args:
        tangents: gradients of that op's two results; None for tables whose gradient was not wanted.
        grad: as for `real_round_trip_backward`, and so the others; ``surrogate`` is soft or straight-through.
        image: as there.
        tables: as there.
        quality: as there.
        horizontal: as there.
        vertical: as there.
        fancy: as there.
        surrogate: as there.
        parameter: as there.
        floor: as there.
        soft: as there.

    Returns:
        Gradients of ``grad``, ``image`` and the tables.
    """
    stands_in = surrogate_of(Formula(surrogate, parameter, floor))
    rounding = stands_in.forward if soft else hard_rounding(stands_in)
    steps = real_tables(tables, quality, soft, image)

    def gradients(grad: Tensor, image: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
        def round_trip(image: Tensor, steps: Tensor) -> Tensor:
            return real_pipeline(image, steps, horizontal, vertical, fancy, rounding)

        pullback: Callable[[Tensor], tuple[Tensor, ...]] = torch.func.vjp(
            round_trip, image, steps.expand(image.size(0), -1, -1, -1)
        )[1]
        return pullback(grad)

    of_image, of_tables = tangents
    if of_tables is None:
        of_tables = steps.new_zeros(image.size(0), 3, BLOCK, BLOCK)
    pullback: Callable[..., tuple[Tensor, ...]] = torch.func.vjp(gradients, grad, image, steps)[1]
    of_grad, of_image, of_steps = pullback((of_image, of_tables))
    return of_grad, of_image, of_steps
