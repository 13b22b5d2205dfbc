"""The GPU's kernels on a CPU, thread by thread: see ``cuda_on_cpu/emulation.h``."""

from __future__ import annotations

import ctypes
import functools
import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fdjpeg._geometry import Geometry
from support.kept_builds import kept_build

ROOT = Path(__file__).resolve().parents[2]
_HERE = ROOT / "tests" / "kernels" / "cuda_on_cpu"
_CSRC = ROOT / "csrc"
#: The folders of csrc with the GPU's kernels; they need no torch.
_ROOMS = ("codec", "cuda")
_HEADERS = sorted(path for room in _ROOMS for path in (_CSRC / room).iterdir())
_FLAGS = ("-std=c++20", "-O1", "-fwrapv", "-ffp-contract=off", "-Wall")
TYPES = {torch.uint8: 0, torch.float16: 1, torch.bfloat16: 2, torch.float32: 3, torch.float64: 4}

#: Orders in which the threads between two barriers run.
ORDERS = ("ascending", "descending", "shuffled")


def compiler() -> str | None:
    """Returns a C++ compiler, or None."""
    return shutil.which("g++")


def _compile(*arguments: str | Path) -> None:
    command = [compiler() or "g++", *_FLAGS, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stderr}")


def restricted_copy(
    target: Path,
    types: Sequence[str],
    factors: Sequence[tuple[int, int]] | None = None,
    images_of_launch: int | None = None,
) -> None:
    """Copies the kernels' headers with fewer sample types and sampling factors, which compile much faster.

    Args:
        target: the new folder of the copy.
        types: the sample types that stay.
        factors: the sampling factors that stay; or all of them.
        images_of_launch: the most images of a launch, so that a few take several; or as many as a GPU takes.
    """
    for room in _ROOMS:
        shutil.copytree(_CSRC / room, target / room)
    geometry = target / "codec" / "geometry.h"
    text = geometry.read_text()
    for name in ("uint8", "float16", "bfloat16", "float32", "float64"):
        if name not in types:
            text = text.replace(f"return body.template operator()<SampleType::{name}>();", "return;")
    if factors is not None:
        pairs = ", ".join(f"{{{horizontal}, {vertical}}}" for horizontal, vertical in factors)
        text, replaced = re.subn(r"(kSamplings\[\] = )\{\{.*?\}\};", rf"\1{{{pairs}}};", text)
        assert replaced == 1, "geometry.h must list the sampling factors in kSamplings"
        text = text.replace("body.template operator()<1, 1, true>()", "static_cast<void>(0)")
    geometry.write_text(text)
    if images_of_launch is not None:
        dispatch = target / "cuda" / "dispatch.h"
        text, replaced = re.subn(r"(kMaxImages = )65535;", rf"\g<1>{images_of_launch};", dispatch.read_text())
        assert replaced == 1, "dispatch.h must have the images of a launch in kMaxImages"
        dispatch.write_text(text)


class Runner:
    """Compiles ``run_*.cpp`` against several versions of the kernels, the parts that never change only once.

    Args:
        folder: the place of the compiled programs.
        flags: of the compiler.
    """

    def __init__(self, folder: Path, *flags: str) -> None:
        self._folder, self._flags = folder, flags
        # A compiled header serves only files in the same folder.
        for source in (_HERE / "emulation.h", _HERE / "cases.h", *_HERE.glob("run_*.cpp")):
            shutil.copy(source, folder)
        _compile(*flags, "-x", "c++-header", folder / "emulation.h", "-o", folder / "emulation.h.gch")

    def build(self, target: Path, headers: Path, ops: str) -> None:
        """Builds a program for cases of "forward", "backward" or "real" ops, or of "blocks", with these kernels."""
        _compile(*self._flags, f"-I{headers}", self._folder / f"run_{ops}.cpp", "-o", target)


# ---------------------------------------------------------------------------------------------------------------------
# The ops by ctypes


@functools.cache
def _library(name: str) -> ctypes.CDLL:
    """Returns the library "forward", "backward", "real" or "blocks"."""
    source, target = _HERE / f"{name}.cpp", f"{name}.so"
    flags = ("-shared", "-fPIC", f"-I{_CSRC}")
    sources = [*_HEADERS, *sorted(_HERE.glob("*.h")), source]
    folder = kept_build(
        f"emulation-{name}", sources, (_FLAGS, flags), lambda folder: _compile(*flags, source, "-o", folder / target)
    )
    return ctypes.CDLL(str(folder / target))


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
    assert tables is None or tables.is_contiguous()
    return _address(tables), ctypes.c_int64(0 if tables is None or len(tables) == 1 else 192)


def _real_steps(tables: Tensor | None) -> tuple[ctypes.c_void_p, int, ctypes.c_int64]:
    address, stride = _steps(tables)
    return address, int(tables is not None and tables.dtype == torch.float64), stride


def _garbage(tensor: Tensor) -> Tensor:
    """Fills a tensor with numbers that no result has, so that unwritten ones show."""
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
    """Runs the op ``fdjpeg::round_trip``."""
    out = _garbage(torch.empty_like(image))
    tables = None if tables is None else tables.contiguous()  # as the op makes them
    planes = _new_planes(len(image), Geometry.of(*image.shape[2:], image.shape[1], horizontal, vertical))
    _library("forward").round_trip(
        _longs(image.shape),
        _options(horizontal, vertical, fancy, order),
        TYPES[image.dtype],
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
    """Runs the op ``fdjpeg::round_trip_by_block``."""
    out = _garbage(torch.empty_like(image))
    qualities = qualities.contiguous()  # kept until the kernels are done
    planes = _new_planes(len(image), Geometry.of(*image.shape[2:], image.shape[1], horizontal, vertical))
    _library("forward").round_trip_by_block(
        _longs(image.shape),
        _options(horizontal, vertical, fancy, order),
        TYPES[image.dtype],
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
    """Runs the op ``fdjpeg::round_trip_backward``."""
    grad_image = _garbage(torch.empty_like(image))
    grad_tables = _garbage(torch.empty((len(image), 3, 8, 8) if table_gradient else (0,)))
    tables = None if tables is None else tables.contiguous()
    _library("backward").round_trip_backward(
        _longs(image.shape),
        _options(horizontal, vertical, fancy, order),
        TYPES[image.dtype],
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
    """Runs the op ``fdjpeg::surrogate_backward``: slopes are the last argument."""
    return round_trip_backward(*arguments, order=order)


class _Rounding(ctypes.Structure):
    """The struct of real_jobs.h."""

    _fields_: ClassVar = [
        ("surrogate", ctypes.c_int),
        ("soft", ctypes.c_bool),
        ("terms", ctypes.c_int),
        ("alpha", ctypes.c_double),
        ("norm", ctypes.c_double),
        ("floor", ctypes.c_double),
    ]


_SURROGATES = ("straight-through", "zero", "cubic", "sine", "fourier", "tanh", "softmax")


def rounding_struct(surrogate: str, parameter: float, floor: float, soft: bool) -> _Rounding:
    terms = int(parameter) if surrogate == "fourier" else 0
    norm = 0.5 / math.tanh(parameter / 2) if surrogate == "tanh" else math.exp(-2 * parameter)
    return _Rounding(_SURROGATES.index(surrogate), soft, terms, parameter, norm, floor)


def real_round_trip(
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    *rounding: Any,
    order: str = "shuffled",
) -> tuple[Tensor, Tensor]:
    """Runs the op ``fdjpeg::real_round_trip``."""
    out = _garbage(torch.empty_like(image))
    mask = _garbage(torch.empty(image[:, 0].shape, dtype=torch.uint8))
    tables = None if tables is None else tables.contiguous()
    _library("real").real_round_trip(
        _longs(image.shape),
        _options(horizontal, vertical, fancy, order),
        TYPES[image.dtype],
        *_image(image),
        *_real_steps(tables),
        ctypes.c_double(quality),
        ctypes.byref(rounding_struct(*rounding)),
        *_image(out),
        _address(mask),
    )
    return out, mask


def real_round_trip_backward(
    grad: Tensor,
    mask: Tensor,
    image: Tensor,
    tables: Tensor | None,
    quality: float,
    horizontal: int,
    vertical: int,
    fancy: bool,
    *rounding_and_table_gradient: Any,
    order: str = "shuffled",
) -> tuple[Tensor, Tensor]:
    """Runs the op ``fdjpeg::real_round_trip_backward``."""
    *rounding, table_gradient = rounding_and_table_gradient
    grad_image = _garbage(torch.empty_like(image))
    real = torch.float64 if image.dtype == torch.float64 else torch.float32
    grad_tables = _garbage(torch.empty((len(image), 3, 8, 8) if table_gradient else (0,), dtype=real))
    tables = None if tables is None else tables.contiguous()
    _library("real").real_round_trip_backward(
        _longs(image.shape),
        _options(horizontal, vertical, fancy, order),
        TYPES[image.dtype],
        *_image(image),
        *_real_steps(tables),
        ctypes.c_double(quality),
        ctypes.byref(rounding_struct(*rounding)),
        *_image(grad),
        _address(mask),
        *_image(grad_image),
        _address(grad_tables if table_gradient else None),
    )
    return grad_image, grad_tables


def encode(
    image: Tensor, tables: Tensor | None, quality: float, horizontal: int, vertical: int, order: str = "shuffled"
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs the op ``fdjpeg::encode``."""
    geometry = Geometry.of(*image.shape[2:], image.shape[1], horizontal, vertical)
    tables = None if tables is None else tables.contiguous()
    y, cb, cr = (
        _garbage(torch.empty(len(image), plane.rows, plane.columns, 8, 8, dtype=torch.int16))
        for plane in (geometry.luma, geometry.chroma, geometry.chroma)
    )
    _library("forward").encode(
        _longs(image.shape),
        _options(horizontal, vertical, False, order),
        TYPES[image.dtype],
        *_image(image),
        *_steps(tables),
        ctypes.c_double(quality),
        *map(_address, (y, cb, cr)),
    )
    return y, cb, cr


def _aligned(tensor: Tensor) -> Tensor:
    """Returns a tensor as the op passes it to kernels that read words of 16 bytes: contiguous and aligned."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


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
    """Runs the op ``fdjpeg::decode``."""
    y, cb, cr, tables = (_aligned(tensor) for tensor in (y, cb, cr, tables))  # kept until the kernels are done
    channels = 1 if cb.size(1) == 0 else 3
    out = _garbage(torch.empty(len(y), channels, height, width, dtype=dtype))
    planes = _new_planes(len(y), Geometry.of(height, width, channels, horizontal, vertical))
    _library("forward").decode(
        _longs(out.shape),
        _options(horizontal, vertical, fancy, order),
        TYPES[dtype],
        *map(_address, (y, cb, cr)),
        *_steps(tables),
        _address(planes),
        *_image(out),
    )
    return out


def block_dct(samples: Tensor, order: str = "shuffled") -> Tensor:
    """Runs the op ``fdjpeg::block_dct``."""
    *outer, height, width = samples.shape
    return _block_transform(samples, (*outer, height // 8, width // 8, 8, 8), width // 8, False, order)


def block_idct(blocks: Tensor, order: str = "shuffled") -> Tensor:
    """Runs the op ``fdjpeg::block_idct``."""
    *outer, rows, columns, _, _ = blocks.shape
    return _block_transform(blocks, (*outer, 8 * rows, 8 * columns), columns, True, order)


def _block_transform(source: Tensor, shape: tuple[int, ...], columns: int, inverse: bool, order: str) -> Tensor:
    source = _aligned(source)
    target = _garbage(source.new_empty(shape))
    rows = ctypes.c_int64(source.numel() // (64 * columns))
    _library("blocks").block_transform(
        int(inverse),
        TYPES[source.dtype],
        _address(source),
        _address(target),
        rows,
        ctypes.c_int64(columns),
        ORDERS.index(order),
    )
    return target


def scratch_of(shape: Sequence[int], horizontal: int, vertical: int) -> int:
    """Returns the bytes that the gradient of the tables takes while it is computed."""
    function = _library("backward").scratch_of
    function.restype = ctypes.c_int64
    return int(function(_longs(shape), _options(horizontal, vertical, True, ORDERS[0])))


def real_scratch_of(shape: Sequence[int], horizontal: int, vertical: int, dtype: torch.dtype) -> tuple[int, int]:
    """Returns, in real numbers, the number of images whose planes are kept at once, and bytes as ``scratch_of``."""
    functions = (_library("real").images_at_once_of, _library("real").scratch_of)
    numbers = []
    for function in functions:
        function.restype = ctypes.c_int64
        options = _options(horizontal, vertical, True, ORDERS[0])
        numbers.append(int(function(_longs(shape), options, TYPES[dtype])))
    return numbers[0], numbers[1]


def fraction_of(byte: int) -> float:
    """Returns the float32 sample that the kernels make of a byte."""
    function = _library("forward").fraction_of
    function.restype = ctypes.c_float
    return float(function(byte))


def quotient_of(number: int, divisor: int) -> int:
    """Divides integers as the kernels do."""
    return int(_library("forward").quotient_of(number, divisor))
