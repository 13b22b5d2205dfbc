"""Builds the compiled library, fdjpeg/_C.abi3.so: C++ always, CUDA if nvcc is found.

Environment:
    FDJPEG_CUDA        1 requires the CUDA kernels, 0 leaves them out; unset, they are built if nvcc is found.
    FDJPEG_CUDA_ARCHS  GPU architectures to compile for, such as "8.0;9.0"; unset, every major one that nvcc knows.
                       The last one is also kept as PTX, for later GPUs.
    CUDA_HOME          the folder of CUDA, if nvcc is not on the PATH.
    CXX, CXXFLAGS, LDFLAGS, NVCC_PREPEND_FLAGS, NVCC_CCBIN as usual.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, SetupError
from setuptools.modified import newer_group

from build_backend import TORCH_REQUIREMENT, find_torch

ROOT = Path(__file__).resolve().parent
CPP_SOURCES = sorted(ROOT.glob("csrc/**/*.cpp"))
CUDA_SOURCES = sorted(ROOT.glob("csrc/**/*.cu"))
HEADERS = sorted([*ROOT.glob("csrc/**/*.h"), *ROOT.glob("csrc/**/*.cuh")])

# The oldest torch whose stable ABI the library uses: 2.10, as in TORCH_REQUIREMENT.
DEFINITIONS = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DNDEBUG"]
# -fwrapv: hostile coefficients wrap around in a defined way. -ffp-contract=off: the same bits whether or not the
# processor has a fused multiply-add. No -march: each source file names the instructions it may use.
HOST_FLAGS = ["-fPIC", "-fvisibility=hidden", "-fwrapv", "-ffp-contract=off", "-Wall", "-Wno-psabi"]
# libtorch must stay a dependency although no symbol of the link line needs it. Through it the dynamic linker finds
# libtorch_cpu and, in a CUDA build of torch, libtorch_cuda. No rpath is needed, because torch is imported first.
LINK_FLAGS = ["-Wl,--no-as-needed", "-Wl,--exclude-libs,ALL"]


def find_cxx() -> list[str]:
    """Returns the command of a C++20 compiler: CXX, Python's own, or one on the PATH."""
    wanted = os.environ.get("CXX")
    candidates = [wanted] if wanted else [sysconfig.get_config_var("CXX") or "c++", "c++", "g++", "clang++"]
    found = [command for command in map(shlex.split, candidates) if shutil.which(command[0])]
    if not found:
        raise CompileError(
            f"fdjpeg needs a C++20 compiler and found none (looked for {', '.join(dict.fromkeys(candidates))}): "
            "install one, for instance with `apt-get install g++` or `dnf install gcc-c++`, or name it in CXX."
        )
    probe = subprocess.run(
        [*found[0], "-std=c++20", "-fsyntax-only", "-x", "c++", "-"],
        input="#include <bit>\n#if !__has_builtin(__builtin_shufflevector)  // GCC 12\n#error\n#endif\nint main() {}\n",
        text=True,
        capture_output=True,
    )
    if probe.returncode != 0:
        raise CompileError(
            f"fdjpeg needs a C++20 compiler, and {shlex.join(found[0])} is not one: install a newer one "
            f"(GCC from 12 on), for instance with `apt-get install g++`, or name another in CXX. "
            f"Its output: {probe.stderr.strip()}"
        )
    return found[0]


def find_nvcc() -> str | None:
    """Returns the nvcc to build the CUDA kernels with, or None if none is found or FDJPEG_CUDA=0 is set."""
    wanted = os.environ.get("FDJPEG_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SetupError(f"FDJPEG_CUDA must be 0, 1 or unset, got {wanted!r}.")
    if wanted == "0":
        return None
    cuda_home = os.environ.get("CUDA_HOME")
    places = [f"{cuda_home}/bin/nvcc"] if cuda_home else ["nvcc", "/usr/local/cuda/bin/nvcc"]
    nvcc = next(filter(None, map(shutil.which, places)), None)
    if nvcc is None and wanted == "1":
        raise SetupError(
            f"FDJPEG_CUDA=1 requires the CUDA kernels, but no nvcc was found (looked for {' and '.join(places)}): "
            "install the CUDA toolkit or set CUDA_HOME; without FDJPEG_CUDA=1 fdjpeg installs without them."
        )
    return nvcc


def gpu_flags() -> list[str]:
    """Returns nvcc's flags for the GPU architectures to compile for."""
    wanted = os.environ.get("FDJPEG_CUDA_ARCHS", "").replace(";", " ").replace(",", " ").split()
    if not wanted:
        return ["-arch=all-major"]
    for arch in wanted:
        if not re.fullmatch(r"\d+\.\d[af]?", arch):
            raise SetupError(f'FDJPEG_CUDA_ARCHS must hold architectures such as "8.0;9.0", got {arch!r}.')
    numbers = [arch.replace(".", "") for arch in wanted]
    flags = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    return [*flags, f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}"]


def for_host(flags: list[str]) -> list[str]:
    """Returns flags for the host's compiler and linker in the form that nvcc passes on."""
    return ["-Xcompiler=" + flag.replace(",", r"\,") for flag in flags]


class BuildLibrary(build_ext):
    """Compiles csrc with a C++ compiler and nvcc, and links one library that is not a Python module.

    Python's own compiler settings are not used, because the library does not depend on Python. torch's CUDAExtension is
    not used either: it refuses a CPU build of torch, which is enough for the stable ABI.
    """

    def finalize_options(self) -> None:
        """Completes the options; an editable installation keeps its objects in the folder of other builds."""
        super().finalize_options()
        if self.editable_mode:
            usual = build(self.distribution)
            usual.ensure_finalized()
            self.build_temp = usual.build_temp

    def build_extension(self, ext: Extension) -> None:
        """Builds `ext`, the library."""
        torch = find_torch()
        if torch is None:
            raise SetupError(
                f"building fdjpeg needs the headers of {TORCH_REQUIREMENT}, and this Python has none: "
                "run `python -m pip install torch`."
            )
        cxx, nvcc = find_cxx(), find_nvcc()
        sources = [*CPP_SOURCES, *(CUDA_SOURCES if nvcc else [])]
        print(f"fdjpeg: building the C++ kernels with {shlex.join(cxx)}, against {torch}")
        if nvcc:
            print(f"fdjpeg: building the CUDA kernels with {nvcc} {shlex.join(gpu_flags())}")
        else:
            print("fdjpeg: building no CUDA kernels (no nvcc was found, or FDJPEG_CUDA=0 was set)")

        common = ["-std=c++20", "-O3", *DEFINITIONS, f"-I{ROOT / 'csrc'}", "-isystem", str(torch / "include")]
        cxx_flags = shlex.split(os.environ.get("CXXFLAGS", ""))
        compilers = {
            ".cpp": [*cxx, *common, *HOST_FLAGS, *cxx_flags],
            ".cu": [nvcc or "nvcc", *common, *gpu_flags(), "--threads=0", *for_host(HOST_FLAGS)],
        }
        # A folder for each set of flags, so that an object of an earlier build is used again only if it is the same.
        places = {
            suffix: Path(self.build_temp).resolve() / hashlib.sha256(repr(compiler).encode()).hexdigest()[:12]
            for suffix, compiler in compilers.items()
        }
        objects = [places[source.suffix] / f"{source.name}.o" for source in sources]
        commands = [
            [*compilers[source.suffix], "-c", str(source), "-o", str(target)]
            for source, target in zip(sources, objects, strict=True)
            if self.force or newer_group([str(source), *ext.depends], str(target))
        ]
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(run, commands))

        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        link_flags = [*LINK_FLAGS, *cxx_flags, *shlex.split(os.environ.get("LDFLAGS", ""))]
        linker = [nvcc, *for_host(link_flags)] if nvcc and CUDA_SOURCES else [*cxx, *link_flags]
        run([*linker, "-shared", *map(str, objects), f"-L{torch / 'lib'}", "-ltorch", "-o", str(library)])


def run(command: list[str]) -> None:
    """Prints and runs a command of the build."""
    print(shlex.join(command), flush=True)
    if subprocess.run(command).returncode != 0:
        hint = " FDJPEG_CUDA=0 installs fdjpeg without CUDA kernels." if "nvcc" in Path(command[0]).name else ""
        raise CompileError(f"{command[0]} failed; see its output above.{hint}")


def relative(paths: list[Path]) -> list[str]:
    """Returns paths relative to this file, as setuptools requires."""
    return [path.relative_to(ROOT).as_posix() for path in paths]


if __name__ == "__main__":
    setup(
        ext_modules=[
            Extension(
                "fdjpeg._C",
                sources=relative([*CPP_SOURCES, *CUDA_SOURCES]),
                depends=relative([*HEADERS, ROOT / "setup.py"]),
                py_limited_api=True,
                language="c++",
            )
        ],
        cmdclass={"build_ext": BuildLibrary},
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )
