"""The compiled libraries: their symbols, where they are loaded, and what is said where they are not."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.checkouts import ROOT, python

import fdjpeg
from fdjpeg import _cuda_library, _library
from fdjpeg._cuda_library import Build


@pytest.mark.parametrize("library", [_library._PATH, _cuda_library.PATH], ids=["cpu", "cuda"])
def test_libraries_keep_to_the_stable_abi(library: Path) -> None:
    if not library.is_file():
        pytest.skip(f"{library.name} was not built")
    if not shutil.which("readelf") or not shutil.which("nm"):
        pytest.skip("needs readelf and nm of binutils")
    dynamic = subprocess.run(["readelf", "-d", library], check=True, text=True, capture_output=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(.+)\]", dynamic))
    assert "libtorch.so" in needed
    assert not {name for name in needed if re.match(r"libpython|libtorch_|libc10|libcud", name)}
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic
    nm = ["nm", "--dynamic", "--undefined-only", "--demangle", library]
    undefined = subprocess.run(nm, check=True, text=True, capture_output=True).stdout
    assert "aoti_torch_library_init_" in undefined
    assert not re.search(r"\b(c10|at|torch)::|\bPy[A-Z_]", undefined)


def report_of_import(cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    script = (
        "import fdjpeg, json, torch; from fdjpeg import _library;"
        "print(_library.LOADED, _library.BACKEND); print(json.dumps(fdjpeg.backends()));"
        "print(fdjpeg.jpeg(torch.full((3, 9, 9), 77, dtype=torch.uint8)).sum().item())"
    )
    return python("-c", script, cwd=cwd, **{"FDJPEG_BACKEND": "", **environment})


def test_reference_backend_leaves_the_library_alone() -> None:
    result = report_of_import(ROOT, FDJPEG_BACKEND="reference")
    assert result.returncode == 0, result.stderr
    state, kernels, total = result.stdout.splitlines()
    assert state == "False reference"
    assert '"cpu": "missing: FDJPEG_BACKEND=reference was set"' in kernels
    assert int(total) == 77 * 3 * 81


def test_without_a_library_the_reference_serves(checkout: Path) -> None:
    for broken in (False, True):
        if broken:
            (checkout / "fdjpeg/_C.abi3.so").write_bytes(b"no library")
        result = report_of_import(checkout)
        assert result.returncode == 0, result.stderr
        state, kernels, total = result.stdout.splitlines()
        assert state == "False None"
        assert ("does not load with torch" if broken else "does not exist") in kernels
        assert '"reference": "available"' in kernels
        assert int(total) == 77 * 3 * 81


def test_backends_that_cannot_serve_are_refused(checkout: Path) -> None:
    result = report_of_import(checkout, FDJPEG_BACKEND="cuda")
    assert result.stderr.splitlines()[-1].startswith("ImportError: FDJPEG_BACKEND=cuda, but this backend is missing: ")
    result = report_of_import(checkout, FDJPEG_BACKEND="gpu")
    assert result.stderr.splitlines()[-1] == (
        "ValueError: FDJPEG_BACKEND must be cuda, triton, reference or unset, got 'gpu'"
    )


def test_backends_tells_of_each_kernel() -> None:
    states = fdjpeg.backends()
    assert set(states) == {"cpu", "cuda", "triton", "reference"}
    assert all(state == "available" or state.startswith("missing: ") for state in states.values())
    assert states["reference"] == "available"
    assert (states["cpu"] == "available") == _library.LOADED


# ---------------------------------------------------------------------------------------------------------------------
# CUDA


@pytest.mark.parametrize(
    ("architectures", "served", "refused"),
    [
        (("8.0", "9.0+PTX"), [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)], [(7, 5)]),
        (("8.6",), [(8, 6), (8, 9)], [(8, 0), (9, 0)]),
        (("PTX7.5",), [(7, 5), (8, 0), (12, 0)], [(7, 0)]),
        (("9.0a+PTX",), [(9, 0)], [(8, 0), (10, 0)]),
        (("10.0f",), [(10, 0), (10, 3)], [(12, 0)]),
    ],
)
def test_gpus_that_a_build_serves(
    architectures: tuple[str, ...], served: list[tuple[int, int]], refused: list[tuple[int, int]]
) -> None:
    build = Build((13, 0), architectures)
    assert [gpu for gpu in served + refused if build.serves(gpu)] == served


BUILD = Build((13, 0), ("8.0", "9.0+PTX"))


@pytest.mark.parametrize(
    ("driver", "gpus", "reason"),
    [
        ((13, 0), {(9, 0)}, None),
        ((13, 2), {(8, 6), (12, 0)}, None),
        ((13, 0), set(), None),  # no management library: the driver decides
        (None, set(), "no NVIDIA driver was found; the kernels need a driver for CUDA 13.0 or newer"),
        ((12, 8), {(9, 0)}, "the NVIDIA driver serves CUDA 12.8; the kernels need a driver for CUDA 13.0 or newer"),
        ((13, 0), {(7, 5), (9, 0)}, "built for GPUs of compute capability 8.0, 9.0+PTX, and there is one of 7.5"),
    ],
)
def test_why_cuda_kernels_cannot_serve(
    driver: tuple[int, int] | None, gpus: set[tuple[int, int]], reason: str | None
) -> None:
    found = _cuda_library.why_not_served(BUILD, driver, gpus)
    assert found == reason if reason is None else reason in str(found)


def test_a_build_is_read_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "library.so").write_bytes(b"\x7fELF\0fdjpeg was built by CUDA 13010 for 7.5/9.0a/12.0+PTX\0more")
    assert _cuda_library.build_of(tmp_path / "library.so") == Build((13, 1), ("7.5", "9.0a", "12.0+PTX"))


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for NVIDIA's driver, of the version in the environment variable DRIVER."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "driver.c").write_text(
        '#include <stdlib.h>\nint cuDriverGetVersion(int *v) { *v = atoi(getenv("DRIVER")); return 0; }\n'
    )
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    return library


@pytest.mark.parametrize(
    ("version", "cuda", "state"),
    [
        ("13000", "'13.0'", "the kernels are loaded, but torch sees no CUDA device"),
        ("12080", "'13.0'", "the NVIDIA driver serves CUDA 12.8"),
        ("", "'13.0'", "no NVIDIA driver was found"),
        ("13000", "None", "is not a build for CUDA"),
    ],
)
def test_cuda_kernels_are_loaded_where_the_driver_serves_them(
    driver: Path, version: str, cuda: str, state: str
) -> None:
    if not _cuda_library.PATH.is_file() or _cuda_library.build_of(_cuda_library.PATH).cuda > (13, 0):
        pytest.skip("there is no library of CUDA kernels, or one of another CUDA than 13.0")
    script = (
        f"import torch; torch.version.cuda = {cuda}; import fdjpeg\n"
        "print(fdjpeg.backends()['cuda']); from fdjpeg.ops import SCHEMAS\n"
        # Triton registers its kernels for the same key, so ask the process which libraries it holds.
        f"print({_cuda_library.PATH.name!r} in open('/proc/self/maps').read())\n"
        "has = torch._C._dispatch_has_kernel_for_dispatch_key\n"
        "print(all(has(f'fdjpeg::{op}', 'CUDA') for op in SCHEMAS))"
    )
    path = str(driver.parent) if version else ""
    result = python("-c", script, cwd=ROOT, LD_LIBRARY_PATH=path, DRIVER=version)
    assert result.returncode == 0, result.stderr
    said, loaded, registered = result.stdout.splitlines()
    assert state in said
    assert (loaded == "True") == state.startswith("the kernels are loaded")
    assert registered == "True" or loaded == "False"
