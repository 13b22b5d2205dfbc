"""The codec's steps in real numbers, one by one: colour, the blocks' DCT, quantization.

For images of whole blocks, their composition is `fdjpeg.jpeg` with ``arithmetic="real"`` at 4:4:4::

    ycbcr = 255 * rgb_to_ycbcr(image) - 128
    levels = quantize(block_dct(ycbcr), tables.stacked()[..., None, None, :, :])
    ycbcr = block_idct(dequantize(levels, tables.stacked()[..., None, None, :, :]))
    image = ycbcr_to_rgb((ycbcr + 128) / 255).clamp(0, 1)

All are twice differentiable. Half types are computed in float32. The transforms have kernels on the CPU and for CUDA;
the rest is plain torch, and reads no tensor back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fdjpeg import ops, reference, surrogates
from fdjpeg._arguments import as_empty_like, check_dense, flattened, resolve_gradient, without_autocast
from fdjpeg._geometry import BLOCK
from fdjpeg._tracers import traced_function
from fdjpeg.surrogates import Identity, StraightThrough, Surrogate
from fdjpeg.tables import check_real

#: The zero of Cb and Cr: 128 of 255 (JFIF).
_CENTRE = 128 / 255


@traced_function
def rgb_to_ycbcr(image: Tensor) -> Tensor:
    """Converts RGB to Y, Cb and Cr: ITU-R BT.601 with the full range, as in JFIF (ITU-T T.871, 7).

    Args:
        image: ``(..., 3, H, W)``, floating, in [0, 1].

    Returns:
        Y, Cb and Cr of the same shape and dtype: Y in [0, 1], Cb and Cr in [1/510, 1 + 1/510]. Cb and Cr of grey are
        128/255.

    Raises:
        TypeError: ``image`` is not a floating, dense tensor.
        ValueError: it has another shape.

    Example::

        ycbcr = fdjpeg.rgb_to_ycbcr(torch.rand(2, 3, 32, 48))  # (2, 3, 32, 48)
    """
    _check_floating(image, "image")
    _check_channels(image, "image")
    centre = _centre(image)
    return (reference.real_rgb_to_ycbcr(image.to(centre.dtype)) + centre).to(image.dtype)


@traced_function
def ycbcr_to_rgb(image: Tensor) -> Tensor:
    """Inverts `rgb_to_ycbcr`; values that no RGB image has give numbers beyond [0, 1].

    Args:
        image: ``(..., 3, H, W)``, floating: Y, Cb and Cr as `rgb_to_ycbcr` returns them.

    Returns:
        RGB of the same shape and dtype.

    Raises:
        TypeError: ``image`` is not a floating, dense tensor.
        ValueError: it has another shape.

    Source: ITU-T T.871, 7.

    Example::

        ycbcr = fdjpeg.rgb_to_ycbcr(torch.rand(2, 3, 32, 48))
        rgb = fdjpeg.ycbcr_to_rgb(ycbcr)  # (2, 3, 32, 48)
    """
    _check_floating(image, "image")
    _check_channels(image, "image")
    centre = _centre(image)
    return reference.real_ycbcr_to_rgb(image.to(centre.dtype) - centre).to(image.dtype)


@traced_function
def block_dct(samples: Tensor) -> Tensor:
    """Applies the orthonormal two-dimensional DCT-II to each 8×8 block (ITU-T T.81, A.3.3).

    Args:
        samples: ``(..., H, W)``, floating, H and W multiples of 8.

    Returns:
        Coefficients ``(..., H / 8, W / 8, 8, 8)`` of the same dtype and unit, by [vertical frequency, horizontal
        frequency]; the first of a block is 8 times its mean.

    Raises:
        TypeError: ``samples`` is not a floating, dense tensor.
        ValueError: its last two sizes are not multiples of 8.

    Example::

        blocks = fdjpeg.block_dct(torch.rand(2, 3, 32, 48))  # (2, 3, 4, 6, 8, 8)
    """
    _check_floating(samples, "samples")
    if samples.ndim < 2 or samples.size(-2) % BLOCK or samples.size(-1) % BLOCK:
        raise ValueError(
            f"samples must have shape (..., H, W), H and W multiples of 8, got {tuple(samples.shape)}: pad them first"
        )
    return ops.block_dct(samples)


@traced_function
def block_idct(blocks: Tensor) -> Tensor:
    """Inverts `block_dct`; this is also its transposed map.

    Args:
        blocks: ``(..., rows, columns, 8, 8)``, floating.

    Returns:
        Samples ``(..., 8 rows, 8 columns)`` of the same dtype and unit.

    Raises:
        TypeError: ``blocks`` is not a floating, dense tensor.
        ValueError: it has another shape.

    Source: ITU-T T.81, A.3.3.

    Example::

        samples = fdjpeg.block_idct(torch.rand(2, 3, 4, 6, 8, 8))  # (2, 3, 32, 48)
    """
    _check_floating(blocks, "blocks")
    if blocks.ndim < 4 or blocks.shape[-2:] != (BLOCK, BLOCK):
        raise ValueError(f"blocks must have shape (..., rows, columns, 8, 8), got {tuple(blocks.shape)}")
    return ops.block_idct(blocks)


@traced_function
def quantize(
    coefficients: Tensor, steps: Tensor, gradient: str | Surrogate = "straight-through", *, soft: bool = False
) -> Tensor:
    """Quantizes coefficients to whole steps: r(coefficients / steps), where r rounds half to even.

    Args:
        coefficients: ``(..., 8, 8)``, floating, in the steps' unit. For JPEG's tables that is samples of 0…255.
        steps: positive, of a shape that broadcasts to the coefficients': ``(8, 8)``, or a table for each block.
        gradient: as for `fdjpeg.jpeg`: the replacement of rounding's derivative, for the coefficients and for the
            steps. ("identity" is "straight-through" here.)
        soft: let the surrogate replace rounding in forward too (for smooth surrogates).

    Returns:
        Numbers of steps, of ``coefficients``' shape and dtype. They are twice differentiable if straight through or
        soft; else a second derivative raises.

    Raises:
        TypeError: a tensor is not floating (``steps`` may hold integers) or not dense.
        ValueError: the shapes do not match, or ``gradient`` or ``soft`` is not as stated.

    Source: ITU-T T.81, A.3.4, but rounding half to even.

    Example::

        steps = fdjpeg.QuantTables.standard(75).y  # (8, 8)
        levels = fdjpeg.quantize(255 * torch.randn(2, 4, 6, 8, 8), steps)  # (2, 4, 6, 8, 8)
    """
    _check_floating(coefficients, "coefficients")
    _check_steps(steps, coefficients)
    surrogate = resolve_gradient(gradient, "real", soft)
    dtype = reference.real_dtype(coefficients)
    c = coefficients.to(dtype) / steps.to(dtype)
    if soft:
        return surrogate.forward(c).to(coefficients.dtype)
    levels = surrogates.hard_rounding(surrogate)(c).to(coefficients.dtype)
    once = not isinstance(surrogate, StraightThrough) and ops.wants_autograd(levels)
    return ops.once_differentiable(levels, coefficients, steps) if once else levels


@traced_function
def dequantize(levels: Tensor, steps: Tensor) -> Tensor:
    """Scales numbers of steps back to coefficients: levels · steps.

    Args:
        levels: ``(..., 8, 8)``, floating, as `quantize` returns them.
        steps: as for `quantize`.

    Returns:
        Coefficients of ``levels``' shape and dtype, in the steps' unit.

    Raises:
        TypeError, ValueError: as for `quantize`.

    Source: ITU-T T.81, A.3.4.

    Example::

        steps = fdjpeg.QuantTables.standard(75).y  # (8, 8)
        coefficients = fdjpeg.dequantize(torch.ones(2, 4, 6, 8, 8), steps)  # (2, 4, 6, 8, 8)
    """
    _check_floating(levels, "levels")
    _check_steps(steps, levels)
    dtype = reference.real_dtype(levels)
    return (levels.to(dtype) * steps.to(dtype)).to(levels.dtype)


@traced_function
def quantize_channels(image: Tensor, steps: Tensor, gradient: str | Surrogate = "straight-through") -> Tensor:
    """Quantizes the DCT of each channel separately, in real numbers: a codec without colour, level shift or bytes.

    Args:
        image: ``(..., 3, H, W)`` or ``(..., 1, H, W)``, floating in [0, 1].
        steps: ``(8, 8)``, positive, in units of 0…255.
        gradient: as for `jpeg`; "identity" passes the image's gradient unchanged.

    Returns:
        The image clipped to [0, 1], of the same shape and dtype; half types are computed in float32.

    Raises:
        TypeError: ``image`` is not a floating tensor, or ``gradient`` is neither a name nor a surrogate.
        ValueError: ``image`` has another shape, or ``gradient`` is an unknown name.

    Source: the codec in the released code of "Feature Distillation" (Liu et al., CVPR 2019); see
    `fdjpeg.FeatureDistillation`.

    Example::

        image = fdjpeg.stages.quantize_channels(torch.rand(2, 3, 32, 48), torch.full((8, 8), 20.0))  # (2, 3, 32, 48)
    """
    batch = flattened(image)
    if not batch.is_floating_point():
        raise TypeError(f"image must be floating, got {batch.dtype}")
    surrogate = surrogates.resolve(gradient)
    real = batch.to(torch.float64 if batch.dtype == torch.float64 else torch.float32)
    with without_autocast(batch.device):
        if isinstance(surrogate, Identity):
            value = reference.quantize_channels(real.detach(), steps, torch.round)
            result = value + (real - real.detach())
        else:
            result = reference.quantize_channels(real, steps, surrogates.hard_rounding(surrogate))
    return as_empty_like(result.to(batch.dtype), image)


def _centre(image: Tensor) -> Tensor:
    """Returns the offsets of Y, Cb and Cr, in the dtype of the computation; made on the device, not copied there."""
    component = torch.arange(3, dtype=reference.real_dtype(image), device=image.device)[:, None, None]
    return _CENTRE * component.clamp(max=1)


def _check_floating(tensor: Tensor, name: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    check_dense(tensor, name)
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}")


def _check_channels(image: Tensor, name: str) -> None:
    if image.ndim < 3 or image.size(-3) != 3:
        raise ValueError(f"{name} must have shape (..., 3, H, W), got {tuple(image.shape)}")


def _check_steps(steps: Tensor, coefficients: Tensor) -> None:
    if not isinstance(steps, Tensor):
        raise TypeError(f"steps must be a torch.Tensor, got {type(steps).__name__}")
    check_dense(steps, "steps")
    check_real(steps, "steps")
    shape = tuple(coefficients.shape)
    try:
        fits = torch.broadcast_shapes(steps.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"steps must broadcast to the shape {shape} of the coefficients, got {tuple(steps.shape)}")
