"""The GPU's kernels on a CPU, thread by thread: see ``cuda_on_cpu/emulation.h``."""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fdjpeg._geometry import Geometry

ROOT = Path(__file__).resolve().parent.parent
_HERE = ROOT / "tests" / "cuda_on_cpu"
_HEADERS = sorted(
    path.name for pattern in ("codec.h", "codec_launch.h", "jpeg_math.h", "*.cuh") for path in ROOT.glob(f"csrc/{pattern}")
)
_FLAGS = ("-std=c++20", "-O1", "-fwrapv", "-ffp-contract=off", "-Wall")
_TYPES = {torch.uint8: 0, torch.float16: 1, torch.bfloat16: 2, torch.float32: 3, torch.float64: 4}

#: Orders in which the threads between two barriers run.
ORDERS = ("ascending", "descending", "shuffled")


def compiler() -> str | None:
    """A C++ compiler, or None."""
    return shutil.which("g++")


def _compile(source: str, target: Path, headers: Path, *flags: str) -> None:
    command = [compiler() or "g++", *_FLAGS, *flags, f"-I{headers}", str(_HERE / source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")


def restricted_copy(target: Path, types: Sequence[str], factors: Sequence[tuple[int, int]] | None = None) -> None:
    """Copies the kernels' headers with fewer sample types and sampling factors, which compile much faster."""
    target.mkdir()
    for name in _HEADERS:
        shutil.copy(ROOT / "csrc" / name, target)
    launch = target / "codec_launch.h"
    text = launch.read_text()
    for name in ("uint8", "float16", "bfloat16", "float32", "float64"):
        if name not in types:
            text = text.replace(f"return body.template operator()<SampleType::{name}>();", "return;")
    if factors is not None:
        for horizontal, vertical, grey in re.findall(r"body\.template operator\(\)<(\d), (\d), (\w+)>\(\)", text):
            if grey == "true" or (int(horizontal), int(vertical)) not in factors:
                call = f"body.template operator()<{horizontal}, {vertical}, {grey}>()"
                text = text.replace(call, "static_cast<void>(0)")
    launch.write_text(text)


def build_runner(target: Path, headers: Path, *flags: str) -> None:
    """Compiles ``run_cases.cpp``."""
    _compile("run_cases.cpp", target, headers, *flags)


# ---------------------------------------------------------------------------------------------------------------------
# The ops by ctypes


@functools.cache
def _libraries() -> dict[str, ctypes.CDLL]:
    """Each of the two libraries by name, compiled at first use."""
    folder = Path(tempfile.mkdtemp(prefix="fdjpeg-emulation-"))

    def build(name: str) -> ctypes.CDLL:
        target = folder / f"{name}.so"
        _compile(f"{name}.cpp", target, ROOT / "csrc", "-shared", "-fPIC")
        return ctypes.CDLL(str(target))

    names = ("forward", "backward")
    try:
        with ThreadPoolExecutor() as pool:
            return dict(zip(names, pool.map(build, names), strict=True))
    finally:
        shutil.rmtree(folder)


def _longs(values: Iterable[int]) -> ctypes.Array[ctypes.c_int64]:
    numbers = list(values)
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _options(horizontal: int, vertical: int, fancy: bool, order: str) -> ctypes.Array[ctypes.c_int]:
    return (ctypes.c_int * 4)(horizontal, vertical, fancy, ORDERS.index(order))


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _image(tensor: Tensor) -> tuple[ctypes.c_void_p, ctypes.Array[ctypes.c_int64]]:
    return _address(tensor), _longs(tensor.stride())


def _steps(tables: Tensor | None) -> tuple[ctypes.c_void_p, ctypes.c_int64]:
    assert tables is None or (tables.is_contiguous() and tables.dtype == torch.float32)
    return _address(tables), ctypes.c_int64(0 if tables is None or len(tables) == 1 else 192)


def _garbage(tensor: Tensor) -> Tensor:
    """Fills a tensor with what no result is, so that what was not written shows."""
    return tensor.fill_(float("nan") if tensor.is_floating_point() else 0x55)


def _new_planes(images: int, geometry: Geometry) -> Tensor:
    return _garbage(torch.empty(images, geometry.plane_bytes, dtype=torch.uint8))


def round_trip(
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    order: str = "shuffled",
) -> tuple[Tensor, Tensor]:
    """The op ``fdjpeg::round_trip``."""
    out = _garbage(torch.empty_like(image))
    tables = None if tables is None else tables.contiguous()  # as the op makes them
    planes = _new_planes(len(image), Geometry.of(*image.shape[2:], image.shape[1], horizontal, vertical))
    _libraries()["forward"].round_trip(
        _longs(image.shape),
        _options(horizontal, vertical, fancy, order),
        _TYPES[image.dtype],
        *_image(image),
        *_steps(tables),
        ctypes.c_double(quality),
        *_image(out),
        _address(planes),
    )
    return out, planes


def round_trip_by_block(
    image: Tensor, qualities: Tensor, horizontal: int, vertical: int, fancy: bool, order: str = "shuffled"
) -> tuple[Tensor, Tensor]:
    """The op ``fdjpeg::round_trip_by_block``."""
    out = _garbage(torch.empty_like(image))
    qualities = qualities.contiguous()  # kept until the kernels are done
    planes = _new_planes(len(image), Geometry.of(*image.shape[2:], image.shape[1], horizontal, vertical))
    _libraries()["forward"].round_trip_by_block(
        _longs(image.shape),
        _options(horizontal, vertical, fancy, order),
        _TYPES[image.dtype],
        *_image(image),
        _address(qualities),
        *_image(out),
        _address(planes),
    )
    return out, planes


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
    slopes: Tensor | None = None,
    order: str = "shuffled",
) -> tuple[Tensor, Tensor]:
    """The op ``fdjpeg::round_trip_backward``."""
    grad_image = _garbage(torch.empty_like(image))
    grad_tables = _garbage(torch.empty((len(image), 3, 8, 8) if table_gradient else (0,)))
    tables = None if tables is None else tables.contiguous()
    _libraries()["backward"].round_trip_backward(
        _longs(image.shape),
        _options(horizontal, vertical, fancy, order),
        _TYPES[image.dtype],
        *_image(grad),
        _address(planes),
        *_image(image),
        *_steps(tables),
        ctypes.c_double(quality),
        *_image(grad_image),
        _address(grad_tables if table_gradient else None),
        _address(slopes),
        0 if slopes is None else slopes.numel() - 1,
    )
    return grad_image, grad_tables


def surrogate_backward(*arguments: Any, order: str = "shuffled") -> tuple[Tensor, Tensor]:
    """The op ``fdjpeg::surrogate_backward``: slopes are the last argument."""
    return round_trip_backward(*arguments, order=order)


def encode(
    image: Tensor, tables: Tensor | None, quality: float, horizontal: int, vertical: int, order: str = "shuffled"
) -> tuple[Tensor, Tensor, Tensor]:
    """The op ``fdjpeg::encode``."""
    geometry = Geometry.of(*image.shape[2:], image.shape[1], horizontal, vertical)
    tables = None if tables is None else tables.contiguous()
    y, cb, cr = (
        _garbage(torch.empty(len(image), plane.rows, plane.columns, 8, 8, dtype=torch.int16))
        for plane in (geometry.luma, geometry.chroma, geometry.chroma)
    )
    _libraries()["forward"].encode(
        _longs(image.shape),
        _options(horizontal, vertical, False, order),
        _TYPES[image.dtype],
        *_image(image),
        *_steps(tables),
        ctypes.c_double(quality),
        *map(_address, (y, cb, cr)),
    )
    return y, cb, cr


def decode(
    y: Tensor,
    cb: Tensor,
    cr: Tensor,
    tables: Tensor,
    height: int,
    width: int,
    horizontal: int,
    vertical: int,
    fancy: bool,
    dtype: torch.dtype,
    order: str = "shuffled",
) -> Tensor:
    """The op ``fdjpeg::decode``."""
    y, cb, cr, tables = (tensor.contiguous() for tensor in (y, cb, cr, tables))  # kept until the kernels are done
    channels = 1 if cb.size(1) == 0 else 3
    out = _garbage(torch.empty(len(y), channels, height, width, dtype=dtype))
    planes = _new_planes(len(y), Geometry.of(height, width, channels, horizontal, vertical))
    _libraries()["forward"].decode(
        _longs(out.shape),
        _options(horizontal, vertical, fancy, order),
        _TYPES[dtype],
        *map(_address, (y, cb, cr)),
        *_steps(tables),
        _address(planes),
        *_image(out),
    )
    return out


def fraction_of(byte: int) -> float:
    """What the kernels make of a byte for a float32 image."""
    function = _libraries()["forward"].fraction_of
    function.restype = ctypes.c_float
    return float(function(byte))


def quotient_of(number: int, divisor: int) -> int:
    """The kernels' integer division."""
    return int(_libraries()["forward"].quotient_of(number, divisor))


# ---------------------------------------------------------------------------------------------------------------------
# Cases in a file, for run_cases.cpp


def _array(tensor: Tensor | None) -> bytes:
    if tensor is None:
        return struct.pack("<q", 0)
    # The memory that the tensor's strides reach, as it lies there.
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
    arrays: Sequence[Tensor | None],
) -> bytes:
    stride = 0 if tables is None or len(tables) == 1 else 192
    header = struct.pack(
        "<18q2d",
        kind,
        *shape,
        *map(int, options),
        _TYPES[dtype],
        *strides[0],
        *strides[1],
        stride,
        quality,
        tolerance,
    )
    return header + _array(tables) + b"".join(map(_array, arrays))


#: A surrogate's, for the cases: few and steep, so that each of them counts.
_SLOPES = torch.tensor([1.7, 0.2, 0.9, -0.4, 1.1, 0.6])


def cases_of(
    image: Tensor,
    grad: Tensor,
    tables: Tensor | None,
    quality: float,
    factors: tuple[int, int],
    fancy: bool,
    ops: object,
) -> bytes:
    """Every op on an image, with what `ops` (such as ``fdjpeg.reference``) makes of it."""
    options = (*factors, fancy)
    dense = image.contiguous()
    strides = (image.stride(), dense.stride())
    out, planes = ops.round_trip(image, tables, quality, *options)  # type: ignore[attr-defined]
    encoded = ops.encode(image, tables, quality, *factors)  # type: ignore[attr-defined]
    shape = image.shape
    cases = [
        _case(0, shape, options, image.dtype, strides, tables, quality, 0, [image, out.contiguous(), planes]),
        _case(2, shape, options, image.dtype, strides, tables, quality, 0, [image, *encoded]),
    ]
    if tables is not None:
        decoded = ops.decode(*encoded, tables, *shape[2:], *options, image.dtype)  # type: ignore[attr-defined]
        cases.append(_case(3, shape, options, image.dtype, strides, tables, quality, 0, [*encoded, decoded]))
    if image.is_floating_point():
        for slopes in (None, _SLOPES):
            backward = ops.round_trip_backward if slopes is None else ops.surrogate_backward  # type: ignore[attr-defined]
            surrogate = () if slopes is None else (slopes,)
            expected = backward(grad, planes, image, tables, quality, *options, True, *surrogate)
            arrays = [slopes, grad, planes, image, expected[0].contiguous(), expected[1]]
            cases.append(_case(1, shape, options, image.dtype, strides, tables, quality, 2e-5, arrays))
    return b"".join(cases)
