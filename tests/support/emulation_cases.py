"""Cases of the emulated kernels in a file, for the programs ``cuda_on_cpu/run_*.cpp``."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from support.emulation import TYPES, rounding_struct

#: Rows of cropped samples start at a multiple of so many bytes, and what lies between them has this value.
_ROW, _BETWEEN = 64, 0xA5


def cropped(samples: Tensor) -> Tensor:
    """The same samples as rows of a wider image, each of which starts where words of 16 bytes may be accessed."""
    *outer, width = samples.shape
    row = -(-width * samples.element_size() // _ROW) * _ROW
    wider = torch.full((*outer, row), _BETWEEN, dtype=torch.uint8).view(samples.dtype)[..., :width]
    return wider.copy_(samples)


def _like_rows_of(image: Tensor, samples: Tensor) -> Tensor:
    """Samples that an op is to write: dense, or cropped where the image is."""
    is_cropped = image.stride(3) == 1 and image.stride(2) > image.shape[3]
    return cropped(samples) if is_cropped else samples.contiguous()


def _last_bit(dtype: torch.dtype) -> float:
    """By how much a result may differ of which a last step's rounding error turns the last bit; a part of 1."""
    return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def _array(tensor: Tensor | None) -> bytes:
    if tensor is None:
        return struct.pack("<q", 0)
    # The memory that the tensor's strides reach, in its order.
    dense = torch.as_strided(tensor, (tensor.untyped_storage().size() // tensor.element_size(),), (1,), 0)
    data = bytes(dense.view(torch.uint8).numpy().tobytes())
    return struct.pack("<q", len(data)) + data


def _case(
    kind: int,
    shape: Sequence[int],
    options: tuple[int, int, bool],
    dtype: torch.dtype,
    strides: tuple[Sequence[int], Sequence[int]],
    tables: Tensor | None,
    quality: float,
    tolerance: float,
    inputs: Sequence[Tensor | None],
    outputs: Sequence[Tensor],
) -> bytes:
    stride = 0 if tables is None or len(tables) == 1 else 192
    header = struct.pack(
        "<20q2d",
        kind,
        1 + len(inputs),
        len(outputs),
        *shape,
        *map(int, options),
        TYPES[dtype],
        *strides[0],
        *strides[1],
        stride,
        quality,
        tolerance,
    )
    return header + b"".join(map(_array, (tables, *inputs, *outputs)))


#: Surrogates', for the cases: few and steep, so that each of them counts; many more than a kernel keeps, of a curve.
_SLOPES = (
    torch.tensor([1.7, 0.2, 0.9, -0.4, 1.1, 0.6]),
    1 + torch.sin(90 * torch.linspace(-0.5, 0.5, 32769)),
)


def forward_cases(
    image: Tensor, tables: Tensor | None, quality: float, factors: tuple[int, int], fancy: bool, ops: Any
) -> bytes:
    """Returns cases of the forward ops on an image, with the results of `ops` (such as ``fdjpeg.reference``)."""
    options, shape = (*factors, fancy), image.shape
    strides = (image.stride(), _like_rows_of(image, image).stride())
    setting = (shape, options, image.dtype, strides, tables, quality, 0.0)
    out, planes = ops.round_trip(image, tables, quality, *options)
    encoded = ops.encode(image, tables, quality, *factors)
    qualities = torch.arange(len(image) * -(-shape[2] // 8) * -(-shape[3] // 8), dtype=torch.uint8) % 103
    qualities = qualities.view(len(image), -(-shape[2] // 8), -(-shape[3] // 8))
    by_block, planes_by_block = ops.round_trip_by_block(image, qualities, *options)
    cases = [
        _case(0, *setting, [image], [_like_rows_of(image, out), planes]),
        _case(1, *setting, [image], encoded),
        _case(3, *setting, [image, qualities], [_like_rows_of(image, by_block), planes_by_block]),
    ]
    if tables is not None:
        decoded = ops.decode(*encoded, tables, *shape[2:], *options, image.dtype)
        cases.append(_case(2, *setting, encoded, [_like_rows_of(image, decoded)]))
    return b"".join(cases)


def backward_cases(
    image: Tensor, grad: Tensor, tables: Tensor | None, quality: float, factors: tuple[int, int], fancy: bool, ops: Any
) -> bytes:
    """Returns cases of the backward ops: straight through without and with the tables' gradient, and by a surrogate."""
    options, shape = (*factors, fancy), image.shape
    grad = _like_rows_of(image, grad)
    setting = (shape, options, image.dtype, (image.stride(), grad.stride()), tables, quality)
    _, planes = ops.round_trip(image, tables, quality, *options)
    cases = []
    for slopes, of_tables in ((None, False), (None, True), *((one, True) for one in _SLOPES)):
        arguments = (grad, planes, image, tables, quality, *options, of_tables)
        surrogate = () if slopes is None else (slopes,)
        expected = (ops.surrogate_backward if surrogate else ops.round_trip_backward)(*arguments, *surrogate)
        # Through the transform gradients go in float32.
        near = 1e-12 if image.dtype == torch.float64 and slopes is None else max(2e-5, _last_bit(image.dtype))
        cases.append(
            _case(0, *setting, near, [slopes, grad, planes, image], [_like_rows_of(image, expected[0]), expected[1]])
        )
    return b"".join(cases)


def real_cases(
    image: Tensor,
    grad: Tensor,
    tables: Tensor | None,
    quality: float,
    factors: tuple[int, int],
    fancy: bool,
    rounding: tuple[str, float, float, bool],
    ops: Any,
) -> bytes:
    """Returns cases of the ops in real numbers, with a surrogate: name, parameter, floor and whether it is soft."""
    options, shape, grad = (*factors, fancy), image.shape, _like_rows_of(image, grad)
    strides = (image.stride(), grad.stride())
    # Of a coefficient of a thousand steps the last bit in float32 turns a surrogate's derivative noticeably.
    near, gradient_near = (1e-9, 1e-9) if image.dtype == torch.float64 else (1e-5, 1e-3)
    near, gradient_near = (max(bound, _last_bit(image.dtype)) for bound in (near, gradient_near))
    setting = (shape, options, image.dtype, strides, tables, quality)
    arguments = (tables, quality, *options, *rounding)
    out, mask = ops.real_round_trip(image, *arguments)
    drawn = torch.frombuffer(bytearray(rounding_struct(*rounding)), dtype=torch.uint8)
    cases = [_case(0, *setting, near, [drawn, image], [_like_rows_of(image, out), mask])]
    for wants_tables in (True, False) if image.dtype.is_floating_point else ():
        of_image, of_tables = ops.real_round_trip_backward(grad, mask, image, *arguments, wants_tables)
        gradients = [_like_rows_of(image, of_image), of_tables]
        cases.append(_case(1, *setting, gradient_near, [drawn, image, grad, mask], gradients))
    return b"".join(cases)


def block_cases(samples: Tensor, ops: Any) -> bytes:
    """Returns cases of the block transforms of planes ``(N, 1, H, W)``, forth and back."""
    blocks = ops.block_dct(samples)
    shape = (*samples.shape[:2], *blocks.shape[2:4])
    strides = (samples.stride(), samples.stride())
    setting = (shape, (1, 1, False), samples.dtype, strides, None, 0.0, 1e-6)
    return _case(0, *setting, [samples], [blocks]) + _case(1, *setting, [blocks], [ops.block_idct(blocks)])
