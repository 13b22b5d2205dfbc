"""The exact kernels' PTX against the CPU's op: all that a case checks, for tests and for ``tests/ptx.py``."""

from __future__ import annotations

import torch
from torch import Tensor

from support import ptx_program, settings
from support.ptx_kernels import Launches, Sampling, same_bits

QUALITY, SCALE = 75.0, 50  # and libjpeg's percentage for it


def image_of(dtype: torch.dtype, height: int, width: int, sampling: Sampling, seed: int = 0) -> Tensor:
    """Returns two smooth images with noise, a sample that is NaN and others outside [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    channels = 1 if sampling.grey else 3
    small = torch.rand(2, channels, height // 8 + 2, width // 8 + 2, generator=generator)
    image = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    image += 0.1 * torch.randn(image.shape, generator=generator)
    if dtype == torch.uint8:
        return (image.clamp(0, 1) * 255).to(dtype)
    image[0, 0, 0, width // 2] = float("nan")
    return image.to(dtype)


def check(module: ptx_program.Module, sampling: Sampling, triangle: bool, image: Tensor, shift: int = 0) -> list[str]:
    """Runs the kernels on an image. Returns the ways in which they differ from the CPU's op.

    Raises:
        BrokenRule: an access out of range or not aligned, a race, a read of what nothing wrote, a barrier that not all
            threads reach.
    """
    factors = (sampling.horizontal, sampling.vertical)
    setting = (None, QUALITY, *factors, triangle)
    expected, expected_planes = torch.ops.fdjpeg.round_trip(image, *setting)
    launches = Launches(module, sampling, triangle, image, shift)
    out, planes = launches.round_trip(SCALE)
    different = [] if same_bits(out, expected) else ["image"]
    samples = launches.flag_offset
    different += [] if torch.equal(planes[:, :samples], expected_planes[:, :samples]) else ["planes"]
    if image.dtype == torch.uint8:
        return different
    grad = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).to(image.dtype)
    # By the planes of the kernels, so that their flags of NaN are witnessed too.
    actual = launches.gradient(grad, planes if not different else expected_planes).double()
    gradient = torch.ops.fdjpeg.round_trip_backward(grad, expected_planes, image, *setting, False)[0].double()
    error = (actual - gradient).abs().max()
    close = error <= settings.TOLERANCE[image.dtype] * gradient.abs().max()  # false for NaN
    return different if close else [*different, f"gradient by {error:.3g}"]
