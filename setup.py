"""Builds two compiled libraries: fdjpeg/_C.abi3.so of C++ always, and fdjpeg/_C_cuda.abi3.so where it can be of use.

fdjpeg/_cuda_library.py decides at run time whether the kernels of the second one can serve the machine's GPUs.

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
# The ops on a GPU are C++ alone. Kernels come before them: they take longest, so they are compiled first.
CUDA_SOURCES = [*sorted(ROOT.glob("csrc/**/*.cu")), *sorted(ROOT.glob("csrc/**/*_cuda.cpp"))]
CPP_SOURCES = sorted({*ROOT.glob("csrc/**/*.cpp")} - {*CUDA_SOURCES})
HEADERS = sorted([*ROOT.glob("csrc/**/*.h"), *ROOT.glob("csrc/**/*.cuh")])

LIBRARY, CUDA_LIBRARY = "fdjpeg._C", "fdjpeg._C_cuda"

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


def gpu_architectures() -> tuple[list[str], str]:
    """Returns the GPU architectures to compile for, such as "9.0", or "9.0+PTX", and in words where they come from.

    "PTX7.5" is PTX alone.
    """
    for variable in ("FDJPEG_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST"):
        words = os.environ.get(variable, "").replace(";", " ").replace(",", " ").split()
        for word in words:
            if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", word):
                raise SetupError(f'{variable} must hold architectures such as "8.0;9.0", got {word!r}.')
        if words and variable == "FDJPEG_CUDA_ARCHS":
            words[-1] = words[-1].removesuffix("+PTX") + "+PTX"
        if words:
            return words, f"by {variable}"
    if found := gpus():
        return [*found[:-1], found[-1] + "+PTX"], "for this machine's GPUs; FDJPEG_CUDA_ARCHS names others"
    why = "as PTX, since no GPU was found: the driver compiles it at first use; FDJPEG_CUDA_ARCHS names GPUs"
    return ["PTX7.5"], why


def flags_for(architectures: list[str]) -> list[str]:
    """Returns nvcc's flags for architectures such as "9.0", "9.0+PTX" for its PTX too, and "PTX9.0" for PTX alone."""
    flags = []
    for architecture in architectures:
        number = architecture.replace("+PTX", "").replace("PTX", "").replace(".", "")
        if not architecture.startswith("PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if "PTX" in architecture:
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


class BuildLibraries(build_ext):
    """Compiles csrc with a C++ compiler and nvcc, and links two libraries that are not Python modules.

    Python's own compiler settings are not used, because the libraries do not depend on Python. torch's CUDAExtension is
    not used either: it refuses a CPU build of torch, which is enough for the stable ABI.
    """

    def finalize_options(self) -> None:
        """Completes the options; an editable installation keeps its objects in the folder of other builds."""
        super().finalize_options()
        if self.editable_mode:
            usual = build(self.distribution)
            usual.ensure_finalized()
            self.build_temp = usual.build_temp

    def run(self) -> None:
        """Builds the libraries; without the one for GPUs, which is then removed, where it can be of no use."""
        torch = find_torch()
        if torch is None:
            raise SetupError(
                f"building fdjpeg needs the headers of {TORCH_REQUIREMENT}, and this Python has none: "
                "run `python -m pip install torch`."
            )
        nvcc, why_none = find_nvcc(torch)
        if nvcc is None:
            print(f"fdjpeg: building no CUDA kernels ({why_none})")
            self.extensions = [ext for ext in self.distribution.ext_modules if ext.name != CUDA_LIBRARY]
            for place in [Path(self.build_lib), *([ROOT] if self.inplace else [])]:
                place.joinpath(self.get_ext_filename(CUDA_LIBRARY)).unlink(missing_ok=True)
        self.compilers, self.linkers = self._commands(torch, find_cxx(), nvcc)
        super().run()

    def _commands(
        self, torch: Path, cxx: list[str], nvcc: str | None
    ) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Returns the commands that compile sources, by suffix, and that link libraries, by name."""
        print(f"fdjpeg: building the C++ kernels with {shlex.join(cxx)}, against {torch}")
        common = ["-std=c++20", "-O3", *DEFINITIONS, f"-I{ROOT / 'csrc'}", "-isystem", str(torch / "include")]
        cxx_flags = shlex.split(os.environ.get("CXXFLAGS", ""))
        link_flags = [*LINK_FLAGS, *cxx_flags, *shlex.split(os.environ.get("LDFLAGS", ""))]
        compilers = {".cpp": [*cxx, *common, *HOST_FLAGS, *cxx_flags]}
        linkers = {LIBRARY: [*cxx, *link_flags]}
        if nvcc:
            architectures, origin = gpu_architectures()
            flags = flags_for(architectures)
            print(f"fdjpeg: building the CUDA kernels with {nvcc} {shlex.join(flags)} ({origin})")
            built_for = f"-DFDJPEG_ARCHITECTURES={'/'.join(architectures)}"
            compilers[".cu"] = [nvcc, *common, *flags, built_for, *for_host(HOST_FLAGS)]
            linkers[CUDA_LIBRARY] = [nvcc, *for_host(link_flags)]
        tail = ["-shared", f"-L{torch / 'lib'}", "-ltorch"]
        return compilers, {name: [*linker, *tail] for name, linker in linkers.items()}

    def build_extensions(self) -> None:
        """Compiles the sources of all libraries, those that take longest first, and links each library."""
        # A folder for each set of flags, so that an object of an earlier build is used again only if it is the same.
        places = {
            suffix: Path(self.build_temp).resolve() / hashlib.sha256(repr(compiler).encode()).hexdigest()[:12]
            for suffix, compiler in self.compilers.items()
        }
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        commands: dict[Path, list[str]] = {}
        objects: dict[str, list[str]] = {ext.name: [] for ext in self.extensions}
        for ext in self.extensions:
            for source in map(Path, ext.sources):
                target = str(places[source.suffix] / f"{source.name}.o")
                objects[ext.name].append(target)
                if self.force or newer_group([str(ROOT / source), *ext.depends], target):
                    commands[source] = [*self.compilers[source.suffix], "-c", str(ROOT / source), "-o", target]
        compile_all(commands)
        for ext in self.extensions:
            library = Path(self.get_ext_fullpath(ext.name))
            library.parent.mkdir(parents=True, exist_ok=True)
            linker, *flags = self.linkers[ext.name]
            run([linker, *objects[ext.name], *flags, "-o", str(library)])


def compile_all(commands: dict[Path, list[str]]) -> None:
    """Runs the command of each source file, several at once, and prints the progress."""
    print(f"fdjpeg: compiling {len(commands)} files, {jobs()} at once (MAX_JOBS sets another number)", flush=True)
    start, processor = time.monotonic(), 0.0
    with ThreadPoolExecutor(jobs()) as pool:
        tasks = {pool.submit(run, command): source for source, command in commands.items()}
        try:
            for count, task in enumerate(as_completed(tasks), 1):
                took, total = task.result(), time.monotonic() - start
                processor += took
                print(
                    f"fdjpeg: [{count}/{len(tasks)}] {tasks[task]}: {took:.1f} s of a processor, "
                    f"{total:.0f} s since the start",
                    flush=True,
                )
        finally:
            pool.shutdown(cancel_futures=True)
    total = time.monotonic() - start
    print(f"fdjpeg: compiled in {total:.0f} s, with {processor:.0f} s of processors", flush=True)


def run(command: list[str]) -> float:
    """Prints and runs a command of the build; returns the seconds of processors that it took, its children's too."""
    print(shlex.join(command), flush=True)
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        hint = " FDJPEG_CUDA=0 installs fdjpeg without CUDA kernels." if "nvcc" in Path(command[0]).name else ""
        raise CompileError(f"{command[0]} failed; see its output above.{hint}")
    return usage.ru_utime + usage.ru_stime


def relative(paths: list[Path]) -> list[str]:
    """Returns paths relative to this file, as setuptools requires."""
    return [path.relative_to(ROOT).as_posix() for path in paths]


def extension(name: str, sources: list[Path]) -> Extension:
    """Describes a library for setuptools."""
    depends = relative([*HEADERS, ROOT / "setup.py"])
    return Extension(name, sources=relative(sources), depends=depends, py_limited_api=True, language="c++")


if __name__ == "__main__":
    setup(
        ext_modules=[extension(CUDA_LIBRARY, CUDA_SOURCES), extension(LIBRARY, CPP_SOURCES)],
        cmdclass={"build_ext": BuildLibraries},
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )
