"""The exact kernels as PTX: compiled by nvcc, and launched on a ``ptx_machine`` as the ops launch them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from ctypes import Structure, c_bool, c_int, c_int64, c_uint, c_void_p
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fdjpeg._geometry import Geometry
from support import ptx_program
from support.kept_builds import kept_build
from support.ptx_machine import Machine
from support.ptx_memory import Global

ROOT = Path(__file__).resolve().parents[2]
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
TYPES = {torch.uint8: 0, torch.float16: 1, torch.bfloat16: 2, torch.float32: 3, torch.float64: 4}
_NAMES = ("uint8", "float16", "bfloat16", "float32", "float64")
_FLAGS = ("-std=c++20", "-O3", "-arch=sm_90", "-ptx")


class Sampling(NamedTuple):
    """Sampling factors of luma, and whether the images are grey."""

    horizontal: int
    vertical: int
    grey: bool = False

    @property
    def layout(self) -> str:
        """The kernels' layout of a warp."""
        return f"Layout<{self.horizontal}, {self.vertical}, {_word(self.grey)}>"

    def upsampling(self, triangle: bool) -> str:
        """The kernels' upsampling."""
        return f"Upsampling<{self.horizontal}, {self.vertical}, {_word(triangle)}, {_word(self.grey)}>"


def _word(flag: bool) -> str:
    return "true" if flag else "false"


class Names(NamedTuple):
    """The kernels of one sampling, upsampling and type."""

    code: str
    emit: str
    differentiate: str | None  # of bytes there is none


def names_of(sampling: Sampling, triangle: bool, dtype: torch.dtype) -> Names:
    """Returns the kernels' names as C++ spells them."""
    kind = f"SampleType::{_NAMES[TYPES[dtype]]}"
    gradient = f"differentiate<{sampling.upsampling(triangle)}, {kind}>"
    return Names(
        f"code_blocks<{sampling.layout}, {kind}, Make::planes>",
        f"emit_image<{sampling.upsampling(triangle)}, {kind}>",
        None if dtype == torch.uint8 else gradient,
    )


_JOBS = {"code_blocks": "CodeBlocks", "emit_image": "EmitImage", "differentiate": "Differentiate"}


def source_of(names: Sequence[Names]) -> str:
    """Returns the source of these kernels alone."""
    lines = ['#include "cuda/exact_launch.h"', "using namespace fdjpeg;"]
    for name in filter(None, (one for group in names for one in group)):
        job = _JOBS[name.split("<")[0]]
        lines.append(f"template __global__ void fdjpeg::{name}(const __grid_constant__ {job});")
    return "\n".join([*dict.fromkeys(lines), ""])


def compile_ptx(names: Sequence[Names], headers: Path, target: Path, flags: Sequence[str] = ()) -> Path:
    """Compiles kernels of the headers in a folder; returns the file of their PTX."""
    source = target.with_suffix(".cu")
    source.write_text(source_of(names))
    command = [str(NVCC), *_FLAGS, *flags, f"-I{headers}", "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return target


def kept_module(names: Sequence[Names], name: str) -> ptx_program.Module:
    """Returns the module of kernels of this checkout, compiled once."""
    headers = sorted(path for room in ("codec", "cuda") for path in (ROOT / "csrc" / room).iterdir())

    def build(folder: Path) -> None:
        compile_ptx(names, ROOT / "csrc", folder / "kernels.ptx")

    folder = kept_build(f"ptx-{name}", headers, (_FLAGS, source_of(names)), build)
    return ptx_program.parse((folder / "kernels.ptx").read_text())


def kernel_named(module: ptx_program.Module, name: str) -> ptx_program.Kernel:
    """Returns the kernel that C++ spells so."""
    function, arguments = name.removesuffix(">").split("<", 1)
    pattern = re.compile(rf"_ZN6fdjpeg\d+{function}I{_mangled(arguments)}E")
    (found,) = [one for one in module.kernels.values() if pattern.match(one.name)]
    return found


def _mangled(arguments: str) -> str:
    flags = {"true": "Lb1E", "false": "Lb0E"}
    enumerations = {"SampleType": _NAMES, "Make": ("planes", "planes_by_block", "coefficients")}
    mangled = ""
    for template, values, enumeration, value in re.findall(r"(\w+)<([^<>]*)>|(\w+)::(\w+)", arguments):
        if template:
            inner = "".join(flags.get(one, f"Li{one}E") for one in values.split(", "))
            mangled += rf"NS_\d+{template}I{inner}EE"
        else:
            mangled += rf"LNS_\d+{enumeration}E{enumerations[enumeration].index(value)}E"
    return mangled


# ---------------------------------------------------------------------------------------------------------------------
# The jobs, as the headers declare them


class Sizes(Structure):
    _fields_: ClassVar = [
        *((name, c_int) for name in ("height", "width", "chroma_height", "chroma_width", "luma_rows", "luma_columns")),
        *((name, c_int) for name in ("chroma_rows", "chroma_columns", "mcu_rows", "mcu_columns")),
        *((name, c_uint) for name in ("cb_offset", "cr_offset", "flag_offset")),
        ("plane_bytes", c_int64),
    ]


class Steps(Structure):
    _fields_: ClassVar = [("tables", c_void_p), ("image_stride", c_int64), ("scale", c_int), ("qualities", c_void_p)]


class Image(Structure):
    _fields_: ClassVar = [("data", c_void_p), ("type", c_int), ("stride", c_int64 * 4)]


class Divider(Structure):
    _fields_: ClassVar = [("divisor", c_uint), ("multiplier", c_uint), ("shift", c_int)]

    @classmethod
    def by(cls, divisor: int) -> Divider:
        """Returns the multiplier ⌈2^(31 + s) / divisor⌉, s the bits of divisor - 1."""
        shift = 31 + (divisor - 1).bit_length()
        return cls(divisor, -(-(2**shift) // divisor), shift)


class CodeBlocks(Structure):
    _fields_: ClassVar = [
        *(("sizes", Sizes), ("steps", Steps), ("input", Image), ("vectors", c_bool), ("planes", c_void_p)),
        *(("coefficients", c_void_p * 3), ("first_image", c_int), ("warps", c_int), ("warps_across", Divider)),
    ]


class EmitImage(Structure):
    _fields_: ClassVar = [
        *(("sizes", Sizes), ("planes", c_void_p), ("output", Image), ("vectors", c_bool), ("first_image", c_int)),
        *(("patches", c_int), ("patches_across", Divider)),
    ]


class Differentiate(Structure):
    _fields_: ClassVar = [
        *(("sizes", Sizes), ("grad_output", Image), ("read_vectors", c_bool), ("planes", c_void_p), ("input", Image)),
        *(("grad_input", Image), ("write_vectors", c_bool), ("first_image", c_int), ("tiles_across", Divider)),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Launches


class Launches:
    """The two kernels of a round trip and that of its gradient, on images of one shape.

    Args:
        module: the compiled kernels.
        sampling: as the kernels were compiled for.
        triangle: whether upsampling is by libjpeg's triangle.
        image: ``(N, C, H, W)``.
        shift: samples by which each image buffer is moved from an aligned address.
    """

    def __init__(
        self, module: ptx_program.Module, sampling: Sampling, triangle: bool, image: Tensor, shift: int = 0
    ) -> None:
        _, channels, height, width = image.shape
        self._module, self._image = module, image
        self._names = names_of(sampling, triangle, image.dtype)
        self._sampling, self._shift = sampling, shift * image.element_size()
        g = Geometry.of(height, width, channels, sampling.horizontal, sampling.vertical)
        chroma = (g.chroma.height, g.chroma.width, g.luma.rows, g.luma.columns, g.chroma.rows, g.chroma.columns)
        self._mcu_rows = -(-height // (8 * sampling.vertical))
        self._mcu_columns = -(-width // (8 * sampling.horizontal))
        offsets = (64 * g.luma.rows * g.luma.columns, 64 * g.chroma.rows * g.chroma.columns)
        self.flag_offset = offsets[0] + 2 * offsets[1]
        self._sizes = Sizes(
            height, width, *chroma, self._mcu_rows, self._mcu_columns, offsets[0], sum(offsets), self.flag_offset,
            g.plane_bytes,
        )  # fmt: skip
        self._plane_bytes = g.plane_bytes

    def _put(self, memory: Global, name: str, tensor: Tensor, defined: bool = True) -> Image:
        content = tensor.contiguous().view(torch.uint8).numpy().ravel()
        address = memory.add(name, content, defined, self._shift)
        return Image(address, TYPES[tensor.dtype], (c_int64 * 4)(*tensor.contiguous().stride()))

    def _vectors(self, image: Image, count: int) -> bool:
        """Whether so many neighbours of a row may be read at once: the rule of ``dispatch.h``."""
        size = self._image.element_size()
        word = min(16, count * size)
        return image.data % word == 0 and all(image.stride[i] * size % word == 0 for i in range(3))

    def _run(self, name: str, work: int, of_block: int | None, job: Structure, memory: Global) -> None:
        kernel = kernel_named(self._module, name)
        blocks = -(-work // (of_block or kernel.threads))
        Machine(self._module, kernel, (blocks, len(self._image)), bytes(job), memory).run()

    def _like(self, memory: Global, name: str) -> Tensor:
        content = torch.from_numpy(memory.read(name))
        return content.view(self._image.dtype).view(self._image.shape)

    def round_trip(self, quality_scale: int) -> tuple[Tensor, Tensor]:
        """Returns the image and the planes, as the op does."""
        memory = Global()
        image = self._put(memory, "input", self._image)
        output = self._put(memory, "output", torch.empty_like(self._image), defined=False)
        planes = memory.add("planes", np.zeros(len(self._image) * self._plane_bytes, np.uint8), defined=False)
        threads_of_mcu = 8 * self._sampling.horizontal * self._sampling.vertical // self._luma_rows()
        across = -(-self._mcu_columns // (32 // threads_of_mcu))
        warps = self._mcu_rows * across
        code = CodeBlocks(
            self._sizes, Steps(None, 0, quality_scale, None), image, self._vectors(image, 8), planes,
            (c_void_p * 3)(), 0, warps, Divider.by(across),
        )  # fmt: skip
        of_block = kernel_named(self._module, self._names.code).threads // 32
        self._run(self._names.code, warps, of_block, code, memory)
        wide = 4 if self._image.element_size() >= 4 else 8
        across = -(-self._image.shape[3] // wide)
        patches = across * -(-self._image.shape[2] // (16 // wide))
        emit = EmitImage(
            self._sizes, planes, output, self._vectors(output, wide), 0, patches, Divider.by(across)
        )  # fmt: skip
        self._run(self._names.emit, patches, None, emit, memory)
        found = torch.from_numpy(memory.read("planes")).view(len(self._image), self._plane_bytes)
        return self._like(memory, "output"), found

    def _luma_rows(self) -> int:
        return 2 if self._sampling.vertical == 2 or self._sampling.horizontal == 4 else 1

    def gradient(self, grad: Tensor, planes: Tensor) -> Tensor:
        """Returns the straight-through gradient of the image."""
        assert self._names.differentiate is not None
        memory = Global()
        image, incoming = self._put(memory, "input", self._image), self._put(memory, "grad", grad)
        result = self._put(memory, "result", torch.empty_like(self._image), defined=False)
        at = memory.add("planes", planes.numpy().ravel())
        across = -(-self._image.shape[3] // 64)
        job = Differentiate(
            self._sizes, incoming, self._vectors(incoming, 4), at, image, result, self._vectors(result, 4), 0,
            Divider.by(across),
        )  # fmt: skip
        tiles = across * -(-self._image.shape[2] // 32)
        self._run(self._names.differentiate, tiles, 1, job, memory)
        return self._like(memory, "result")


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bits."""
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
