"""The library of CUDA kernels: whether they can serve this machine's GPUs, found out before it is loaded.

Loading it registers its kernels for all GPUs. Where a launch would fail, it must therefore not be loaded. Neither CUDA
nor torch's part of it is initialised here: a process that has imported fdjpeg may still fork.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path
from typing import NamedTuple

import torch

PATH = Path(__file__).with_name("_C_cuda.abi3.so")

#: csrc/ops/built_for.cu writes it.
_BUILT_FOR = re.compile(rb"fdjpeg was built by CUDA (\d+) for ([\w./+]+)")


class Build(NamedTuple):
    """By what the library was built, and for what.

    Attributes:
        cuda: version of the CUDA toolkit: major, minor.
        architectures: GPUs such as "9.0", "9.0+PTX" where later ones are served too, or "PTX7.5" for PTX alone.
    """

    cuda: tuple[int, int]
    architectures: tuple[str, ...]

    def serves(self, capability: tuple[int, int]) -> bool:
        """Returns whether the kernels run on a GPU of a compute capability."""
        return any(_serves(architecture, capability) for architecture in self.architectures)


def _serves(architecture: str, capability: tuple[int, int]) -> bool:
    """Machine code serves GPUs of the same major version from its minor one on, PTX all later GPUs."""
    number = re.search(r"(\d+)\.(\d+)([af]?)", architecture)
    assert number is not None, architecture
    built = int(number[1]), int(number[2])
    if number[3] == "a":  # for one architecture alone, as machine code and as PTX
        return capability == built
    as_code = not architecture.startswith("PTX") and capability[0] == built[0] and capability >= built
    return as_code or ("PTX" in architecture and number[3] == "" and capability >= built)


def build_of(library: Path) -> Build:
    """Reads in a library's file by what it was built."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = _BUILT_FOR.search(content)
        assert found is not None, library
        version = int(found[1])
        return Build((version // 1000, version % 1000 // 10), tuple(found[2].decode().split("/")))


def driver_version() -> tuple[int, int] | None:
    """Returns the newest CUDA that the NVIDIA driver serves, or None if there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:  # allowed before cuInit
        return None
    return version.value // 1000, version.value % 1000 // 10


def capabilities() -> set[tuple[int, int]]:
    """Returns the compute capabilities of the machine's GPUs, by the management library; empty if there is none."""
    try:
        management = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return set()
    if management.nvmlInit_v2() != 0:
        return set()
    found = set()
    count = ctypes.c_uint(0)
    management.nvmlDeviceGetCount_v2(ctypes.byref(count))
    for number in range(count.value):
        gpu, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
        failed = management.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(gpu))
        if not failed and not management.nvmlDeviceGetCudaComputeCapability(
            gpu, ctypes.byref(major), ctypes.byref(minor)
        ):
            found.add((major.value, minor.value))
    management.nvmlShutdown()
    return found


def why_not_here() -> str | None:
    """Returns the reason why the kernels cannot serve GPUs here, or None if they can."""
    if not PATH.is_file():
        return "fdjpeg was built without CUDA kernels (FDJPEG_CUDA=1 at the installation insists on them)"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a build for CUDA"
    return why_not_served(build_of(PATH), driver_version(), capabilities())


def why_not_served(build: Build, driver: tuple[int, int] | None, gpus: set[tuple[int, int]]) -> str | None:
    """Returns the reason why a driver or a GPU does not run the kernels of a build, or None if all do."""
    wanted = f"the kernels need a driver for CUDA {build.cuda[0]}.{build.cuda[1]} or newer"
    if driver is None:
        return f"no NVIDIA driver was found; {wanted}"
    if driver < build.cuda:
        return f"the NVIDIA driver serves CUDA {driver[0]}.{driver[1]}; {wanted}"
    left_out = sorted(gpu for gpu in gpus if not build.serves(gpu))
    if left_out:
        names = ", ".join(f"{major}.{minor}" for major, minor in left_out)
        return (
            f"the kernels were built for GPUs of compute capability {', '.join(build.architectures)}, and there is one "
            f"of {names}"
        )
    return None
