"""The timings of the ops: those that the design has targets for come first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from gpu import measure, stand_in
from gpu.measure import Call, Row

#: Seconds for one item.
ITEM_LIMIT = 40.0
SUBSAMPLINGS = {"4:2:0": (2, 2), "4:4:4": (1, 1)}


def items() -> dict[str, Callable[[], Iterable[Row]]]:
    """Returns the work of each item, in order of worth."""

    def exact(dtype: str, subsampling: str) -> Callable[[], Iterable[Row]]:
        return functools.partial(_cuda, dtype, subsampling, measure.SHAPE, True)

    first = {f"{dtype} 4:2:0": exact(dtype, "4:2:0") for dtype in ("float32", "uint8", "float16")}
    others = {
        f"{dtype} {subsampling}": exact(dtype, subsampling)
        for subsampling in SUBSAMPLINGS
        for dtype in ("float32", "uint8", "float16", "bfloat16", "float64")
    }
    sides = {
        f"{side} × {side}": functools.partial(_cuda, "float32", "4:2:0", shape, False)
        for side, shape in zip(measure.SIDES, sweep_shapes(), strict=True)
    }
    return {
        "copy": copy,
        **first,
        "public function": public,
        "block transforms": block_transforms,
        "triton": triton,
        **sides,
        **{name: work for name, work in others.items() if name not in first},
    }


def copy() -> Iterable[Row]:
    """Measures a plain copy on the device: of the images, and of as much as gives the rate for all other rows."""
    import torch

    yield {"copy_rate": measure.copy_rate()}
    target = torch.empty(measure.SHAPE, device=stand_in.DEVICE)
    yield measure.of_floats("copy", target.copy_)


def _cuda(dtype: str, subsampling: str, shape: tuple[int, ...], full: bool) -> Iterable[Row]:
    import torch

    about = {"backend": "cuda", "shape": shape, "dtype": dtype, "subsampling": subsampling}
    yield from _exact(torch.ops.fdjpeg, shape, getattr(torch, dtype), SUBSAMPLINGS[subsampling], full, about)


def _exact(
    ops: Any,
    shape: tuple[int, ...],
    dtype: Any,
    factors: tuple[int, int],
    full: bool,
    about: dict[str, Any],
) -> Iterable[Row]:
    import torch

    images = measure.rotation(shape, dtype)
    moved = 2.0 * images[0].numel() * images[0].element_size()

    def forward(image: Any) -> Any:
        return ops.round_trip(image, None, 75.0, *factors, True)

    def both(tables: bool, image: Any) -> Any:
        out, planes = forward(image)
        return ops.round_trip_backward(out, planes, image, None, 75.0, *factors, True, tables)

    yield measure.row("forward", [functools.partial(forward, image) for image in images], moved, **about)
    if dtype == torch.uint8:
        return
    for tables in (False, True):
        name = "forward and backward" + (" with tables" if tables else "")
        calls: list[Call] = [functools.partial(both, tables, image) for image in images]
        yield measure.row(name, calls, (2.5 if tables else 2) * moved, **about)
    if full:
        yield from _with_coefficients(ops, images, factors, moved, about)


def _with_coefficients(
    ops: Any, images: list[Any], factors: tuple[int, int], moved: float, about: dict[str, Any]
) -> Iterable[Row]:
    """Measures a surrogate's gradients, and a quality for each block."""
    import torch

    from fdjpeg import _slopes, surrogates

    slopes = _slopes.slope_table(surrogates.resolve("sine"), images[0].device)
    shape = images[0].shape
    size = (shape[0], -(-shape[2] // 8), -(-shape[3] // 8))
    qualities = torch.randint(20, 95, size, dtype=torch.uint8, device=images[0].device)

    def both(image: Any) -> Any:
        out, planes = ops.round_trip(image, None, 75.0, *factors, True)
        return ops.surrogate_backward(out, planes, image, None, 75.0, *factors, True, True, slopes)

    def by_block(image: Any) -> Any:
        return ops.round_trip_by_block(image, qualities, *factors, True)

    calls: list[Call] = [functools.partial(both, image) for image in images]
    yield measure.row("forward and backward by a surrogate", calls, 2.5 * moved, **about)
    calls = [functools.partial(by_block, image) for image in images]
    yield measure.row("forward, a quality for each block", calls, moved, **about)


def block_transforms() -> Iterable[Row]:
    """Measures the DCT of blocks and its inverse alone."""
    import torch

    for dtype in (torch.float32, torch.float16):
        images = measure.rotation(measure.SHAPE, dtype)
        moved = 2.0 * images[0].numel() * images[0].element_size()
        about = {"backend": "cuda", "shape": measure.SHAPE, "dtype": str(dtype)[6:]}
        for op in (torch.ops.fdjpeg.block_dct, torch.ops.fdjpeg.block_idct):
            calls: list[Call] = [functools.partial(op, image) for image in images]
            yield measure.row(op.__name__, calls, moved, **about)
            images = [op(image) for image in images]


def public() -> Iterable[Row]:
    """Measures the public function, in both arithmetics, with autograd."""
    import torch

    import fdjpeg

    images = measure.rotation(measure.SHAPE, torch.float32)
    moved = 2.0 * images[0].numel() * 4
    for arithmetic in ("libjpeg", "real"):
        about = {"backend": "fdjpeg.jpeg", "arithmetic": arithmetic, "shape": measure.SHAPE, "dtype": "float32"}

        def forward(image: Any, arithmetic: str = arithmetic) -> Any:
            with torch.no_grad():
                return fdjpeg.jpeg(image, 75, arithmetic=arithmetic)

        def both(image: Any, arithmetic: str = arithmetic) -> Any:
            image = image.detach().requires_grad_()
            return torch.autograd.grad(fdjpeg.jpeg(image, 75, arithmetic=arithmetic).sum(), image)

        yield measure.row("forward", [functools.partial(forward, image) for image in images], moved, **about)
        yield measure.row(
            "forward and backward", [functools.partial(both, image) for image in images], 2 * moved, **about
        )


def triton() -> Iterable[Row]:
    """Measures the round trip by Triton."""
    import torch

    import fdjpeg

    if fdjpeg.backends()["triton"] != "available":
        raise RuntimeError(f"triton is {fdjpeg.backends()['triton']}")
    from fdjpeg._triton import ops as triton_kernels

    for subsampling, factors in SUBSAMPLINGS.items():
        about = {"backend": "triton", "shape": measure.SHAPE, "dtype": "float32", "subsampling": subsampling}
        yield from _exact(triton_kernels, measure.SHAPE, torch.float32, factors, False, about)


def sweep_shapes() -> list[tuple[int, int, int, int]]:
    """Returns the shapes of square images, from small to large."""
    pixels = measure.SHAPE[0] * measure.SHAPE[2] * measure.SHAPE[3]
    return [(max(1, pixels // side**2), 3, side, side) for side in measure.SIDES]
