"""Builds the compiled library, fdjpeg/_C.abi3.so: C++ always, CUDA where it can be of use.

Environment:
    FDJPEG_CUDA           1 requires the CUDA kernels, 0 leaves them out; unset, they are built if nvcc is found and
                          torch is a build for CUDA or the machine has an NVIDIA GPU.
    FDJPEG_CUDA_ARCHS     GPU architectures to compile for, such as "8.0;9.0"; the last one is also kept as PTX, for
                          later GPUs. Unset, those of TORCH_CUDA_ARCH_LIST; else those of the machine's GPUs; else PTX
                          for 7.5 alone, which the driver compiles when it is first used.
    TORCH_CUDA_ARCH_LIST  as PyTorch's extensions take it, such as "8.0;9.0+PTX".
    MAX_JOBS              how many files are compiled at once; unset, as many as there are processors.
    CUDA_HOME             the folder of CUDA, if nvcc is not on the PATH.
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
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, SetupError
from setuptools.modified import newer_group

from build_backend import TORCH_REQUIREMENT, find_torch

ROOT = Path(__file__).resolve().parent
CPP_SOURCES = sorted(ROOT.glob("csrc/**/*.cpp"))
# Kernels before the ops that launch them: they take longest, so they are compiled first.
CUDA_SOURCES = sorted(ROOT.glob("csrc/**/*.cu"), key=lambda source: (not source.name.startswith("kernels_"), source))
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


def find_nvcc(torch: Path) -> tuple[str | None, str]:
    """Returns the nvcc to build the CUDA kernels with, or None; and in words why there is none.

    Args:
        torch: the folder of the torch to build for.
    """
    wanted = os.environ.get("FDJPEG_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SetupError(f"FDJPEG_CUDA must be 0, 1 or unset, got {wanted!r}.")
    if wanted == "0":
        return None, "FDJPEG_CUDA=0 is set"
    cuda_home = os.environ.get("CUDA_HOME")
    places = [f"{cuda_home}/bin/nvcc"] if cuda_home else ["nvcc", "/usr/local/cuda/bin/nvcc"]
    nvcc = next(filter(None, map(shutil.which, places)), None)
    if nvcc is None and wanted == "1":
        raise SetupError(
            f"FDJPEG_CUDA=1 requires the CUDA kernels, but no nvcc was found (looked for {' and '.join(places)}): "
            "install the CUDA toolkit or set CUDA_HOME; without FDJPEG_CUDA=1 fdjpeg installs without them."
        )
    if nvcc is None:
        return None, "no nvcc was found"
    if wanted == "" and not is_for_cuda(torch) and not gpus():
        return None, "torch is not a build for CUDA, and no NVIDIA GPU was found; FDJPEG_CUDA=1 builds them"
    return nvcc, ""


def is_for_cuda(torch: Path) -> bool:
    """Whether the torch in a folder is a build for CUDA."""
    text = (torch / "version.py").read_text(encoding="utf-8")
    return re.search(r"^cuda\b[^=]*= *'\d", text, re.MULTILINE) is not None


def gpus() -> list[str]:
    """Returns the architectures of the machine's NVIDIA GPUs, such as "9.0", each once, in order."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    query = [smi, "--query-gpu=compute_cap", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True)
    found = {line.strip() for line in answer.stdout.splitlines() if re.fullmatch(r"\d+\.\d", line.strip())}
    return sorted(found, key=float)


def gpu_flags() -> tuple[list[str], str]:
    """Returns nvcc's flags for the GPU architectures to compile for, and in words where these come from."""
    for variable in ("FDJPEG_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST"):
        words = os.environ.get(variable, "").replace(";", " ").replace(",", " ").split()
        for word in words:
            if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", word):
                raise SetupError(f'{variable} must hold architectures such as "8.0;9.0", got {word!r}.')
        if words and variable == "FDJPEG_CUDA_ARCHS":
            words[-1] = words[-1].removesuffix("+PTX") + "+PTX"
        if words:
            return flags_for(words), f"by {variable}"
    if found := gpus():
        return flags_for([*found[:-1], found[-1] + "+PTX"]), "for this machine's GPUs; FDJPEG_CUDA_ARCHS names others"
    flags = ["-gencode=arch=compute_75,code=compute_75"]
    return flags, "as PTX, since no GPU was found: the driver compiles it at first use; FDJPEG_CUDA_ARCHS names GPUs"


def flags_for(architectures: list[str]) -> list[str]:
    """Returns nvcc's flags for architectures such as "9.0", and "9.0+PTX" for its PTX too."""
    flags = []
    for architecture in architectures:
        number = architecture.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if architecture.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def jobs() -> int:
    """Returns how many files to compile at once."""
    wanted = os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0)))
    if not (wanted.isascii() and wanted.isdigit() and int(wanted) > 0):
        raise SetupError(f"MAX_JOBS must be a positive integer or unset, got {wanted!r}.")
    return int(wanted)


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
        cxx, (nvcc, why_none) = find_cxx(), find_nvcc(torch)
        sources = [*(CUDA_SOURCES if nvcc else []), *CPP_SOURCES]  # those that take longest first
        print(f"fdjpeg: building the C++ kernels with {shlex.join(cxx)}, against {torch}")
        architectures, origin = gpu_flags() if nvcc else ([], "")
        if nvcc:
            print(f"fdjpeg: building the CUDA kernels with {nvcc} {shlex.join(architectures)} ({origin})")
        else:
            print(f"fdjpeg: building no CUDA kernels ({why_none})")

        common = ["-std=c++20", "-O3", *DEFINITIONS, f"-I{ROOT / 'csrc'}", "-isystem", str(torch / "include")]
        cxx_flags = shlex.split(os.environ.get("CXXFLAGS", ""))
        compilers = {
            ".cpp": [*cxx, *common, *HOST_FLAGS, *cxx_flags],
            ".cu": [nvcc or "nvcc", *common, *architectures, *for_host(HOST_FLAGS)],
        }
        # A folder for each set of flags, so that an object of an earlier build is used again only if it is the same.
        places = {
            suffix: Path(self.build_temp).resolve() / hashlib.sha256(repr(compiler).encode()).hexdigest()[:12]
            for suffix, compiler in compilers.items()
        }
        objects = [places[source.suffix] / f"{source.name}.o" for source in sources]
        commands = {
            source.relative_to(ROOT): [*compilers[source.suffix], "-c", str(source), "-o", str(target)]
            for source, target in zip(sources, objects, strict=True)
            if self.force or newer_group([str(source), *ext.depends], str(target))
        }
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        compile_all(commands)

        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        link_flags = [*LINK_FLAGS, *cxx_flags, *shlex.split(os.environ.get("LDFLAGS", ""))]
        linker = [nvcc, *for_host(link_flags)] if nvcc and CUDA_SOURCES else [*cxx, *link_flags]
        run([*linker, "-shared", *map(str, objects), f"-L{torch / 'lib'}", "-ltorch", "-o", str(library)])


def compile_all(commands: dict[Path, list[str]]) -> None:
    """Runs the command of each source file, several at once, and prints the progress."""
    print(f"fdjpeg: compiling {len(commands)} files, {jobs()} at once (MAX_JOBS sets another number)", flush=True)
    start = time.monotonic()
    with ThreadPoolExecutor(jobs()) as pool:
        tasks = {pool.submit(run, command): source for source, command in commands.items()}
        try:
            for count, task in enumerate(as_completed(tasks), 1):
                total = time.monotonic() - start
                took = f"{task.result():.0f} s, {total:.0f} s since the start"
                print(f"fdjpeg: [{count}/{len(tasks)}] {tasks[task]}: {took}", flush=True)
        finally:
            pool.shutdown(cancel_futures=True)


def run(command: list[str]) -> float:
    """Prints and runs a command of the build; returns the seconds it took."""
    print(shlex.join(command), flush=True)
    start = time.monotonic()
    if subprocess.run(command).returncode != 0:
        hint = " FDJPEG_CUDA=0 installs fdjpeg without CUDA kernels." if "nvcc" in Path(command[0]).name else ""
        raise CompileError(f"{command[0]} failed; see its output above.{hint}")
    return time.monotonic() - start


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
