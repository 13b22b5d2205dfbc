"""Packaging: the build and its messages, the contents of packages, README's commands."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import site
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.checkouts import ROOT, python

import fdjpeg


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def readme_command(ending: str) -> str:
    """Returns the one command in README's shell blocks with this ending."""
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", text_of("README.md"), re.S) for line in block.splitlines()
    ]
    (command,) = [line for line in lines if line.endswith(ending)]
    return command


@pytest.fixture
def build_backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("build_backend")


@pytest.fixture
def setup_script(build_backend: ModuleType) -> ModuleType:
    """setup.py as a module, without running its `setup`."""
    spec = importlib.util.spec_from_file_location("fdjpeg_setup", ROOT / "setup.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------------------------------------------------------------
# Metadata and README


def test_version_is_the_same_everywhere() -> None:
    assert 'version = { attr = "fdjpeg.__version__" }' in text_of("pyproject.toml")  # its one place
    assert f"\nversion: {fdjpeg.__version__}\n" in text_of("CITATION.cff")
    assert f"\n## {fdjpeg.__version__} " in text_of("CHANGELOG.md")
    assert importlib.metadata.version("fdjpeg") == fdjpeg.__version__


def test_ci_runs_the_readme_test_command() -> None:
    assert readme_command("pytest -n 2") in text_of(".ci/run").splitlines()


@pytest.mark.parametrize("ending", ["pytest -n 2", "fdjpeg evaluate"])
def test_readme_commands_ask_for_extras_that_exist(ending: str) -> None:
    (extras,) = re.findall(r'"\.\[([a-z,]+)\]"', readme_command(ending))
    assert set(extras.split(",")) <= set(importlib.metadata.metadata("fdjpeg").get_all("Provides-Extra") or [])


def test_readme_command_is_installed() -> None:
    (script,) = [s for s in importlib.metadata.entry_points(group="console_scripts") if s.value.startswith("fdjpeg.")]
    assert script.name == readme_command("fdjpeg evaluate").split()[-2]
    assert callable(script.load())


def test_readme_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", text_of("README.md"), re.S)
    names = {"classifier": torch.nn.Identity(), "photograph": Image.new("RGB", (16, 16))}
    exec(example, names)
    assert names["tables"].luma.grad.abs().sum() > 0
    saved = fdjpeg.QuantTables.from_image(tmp_path / "out.jpg")
    assert torch.equal(saved.luma, names["tables"].luma.detach().to(saved.luma))


#: The pages whose links are checked.
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "tests/README.md",
    "benchmarks/results/README.md",
    *sorted(f"docs/{page.name}" for page in ROOT.glob("docs/*.md")),
]


def links_of(name: str) -> list[str]:
    """Returns the relative links of a page, as paths from the root."""
    links = re.findall(r"\]\(([^)#:]+)\)", text_of(name))
    return [os.path.relpath((ROOT / name).parent / link, ROOT) for link in links]


@pytest.mark.parametrize("name", PAGES)
def test_links_exist(name: str) -> None:
    for link in links_of(name):
        assert (ROOT / link).exists(), f"{name} links to {link}"


# ---------------------------------------------------------------------------------------------------------------------
# The build's requirements


def fake_torch(place: Path, version: str, *, headers: bool = True) -> Path:
    package = place / "torch"
    (package / "include/torch/csrc/stable").mkdir(parents=True)
    (package / "version.py").write_text(f"from typing import Optional\n__version__ = '{version}'\n")
    if headers:
        (package / "include/torch/csrc/stable/library.h").touch()
    return package


@pytest.fixture
def no_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter without packages, like a build environment; returns the site-packages that it hides."""
    hidden = tmp_path / "site-packages"
    hidden.mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(hidden)])
    monkeypatch.setattr(site, "getusersitepackages", lambda: str(tmp_path / "nothing"))
    return hidden


@pytest.mark.parametrize("version", ["2.10.0", "2.10.0a0+git1234567", "2.13.0+cpu", "3.0.1"])
def test_build_uses_the_torch_that_is_there(build_backend: ModuleType, no_packages: Path, version: str) -> None:
    assert build_backend.find_torch() is None
    package = fake_torch(no_packages, version)
    assert build_backend.find_torch() == package.resolve()


@pytest.mark.parametrize(("version", "headers"), [("2.9.1", True), ("1.13.1+cu117", True), ("2.13.0", False)])
def test_build_passes_over_a_torch_that_will_not_do(
    build_backend: ModuleType, no_packages: Path, version: str, headers: bool
) -> None:
    fake_torch(no_packages, version, headers=headers)
    assert build_backend.find_torch() is None


@pytest.mark.parametrize("hook", ["get_requires_for_build_wheel", "get_requires_for_build_editable"])
def test_build_requires_torch_only_where_there_is_none(
    build_backend: ModuleType, no_packages: Path, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    monkeypatch.setattr(build_backend.build_meta, hook, lambda _: ["something"])
    assert getattr(build_backend, hook)() == ["something", "torch>=2.10"]
    fake_torch(no_packages, "2.13.0")
    assert getattr(build_backend, hook)() == ["something"]


# ---------------------------------------------------------------------------------------------------------------------
# The build's messages


def failing_build(checkout: Path, **environment: str) -> str:
    """Runs setup.py, which must fail; returns the last line of its errors."""
    result = python("setup.py", "build_ext", cwd=checkout, **{"CXX": "", "FDJPEG_CUDA": "", **environment})
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


def test_no_compiler_says_what_to_install(checkout: Path, tmp_path: Path) -> None:
    for environment in ({"CXX": "nonexistent-c++"}, {"PATH": str(tmp_path)}):
        message = failing_build(checkout, **environment)
        assert "fdjpeg needs a C++20 compiler and found none" in message
        assert "apt-get install g++" in message
    assert "looked for nonexistent-c++" in failing_build(checkout, CXX="nonexistent-c++")


def test_compiler_of_another_age_says_what_to_install(checkout: Path, tmp_path: Path) -> None:
    old = tmp_path / "old-c++"
    old.write_text("#!/bin/sh\necho 'unrecognized option -std=c++20' >&2\nexit 1\n")
    old.chmod(0o755)
    message = failing_build(checkout, CXX=str(old))
    assert "install a newer one" in message
    assert "unrecognized option -std=c++20" in message


def test_cuda_without_nvcc_says_so(checkout: Path, tmp_path: Path) -> None:
    message = failing_build(checkout, FDJPEG_CUDA="1", CUDA_HOME=str(tmp_path))
    assert f"no nvcc was found (looked for {tmp_path}/bin/nvcc)" in message
    assert "install the CUDA toolkit" in message


def test_wrong_settings_are_named(checkout: Path, setup_script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "FDJPEG_CUDA must be 0, 1 or unset, got 'yes'" in failing_build(checkout, FDJPEG_CUDA="yes")
    monkeypatch.setenv("FDJPEG_CUDA_ARCHS", "8.0;sm_90")
    with pytest.raises(setup_script.SetupError, match=r'must hold architectures such as "8\.0;9\.0", got \'sm_90\''):
        setup_script.gpu_architectures()
    monkeypatch.setenv("MAX_JOBS", "none")
    with pytest.raises(setup_script.SetupError, match="MAX_JOBS must be a positive integer or unset, got 'none'"):
        setup_script.jobs()


def test_no_torch_says_so(setup_script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from setuptools import Distribution

    monkeypatch.setattr(setup_script, "find_torch", lambda: None)
    with pytest.raises(setup_script.SetupError, match="python -m pip install torch"):
        setup_script.BuildLibraries(Distribution()).run()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in which programs can be put that stand in for nvcc (in ``bin``) and nvidia-smi; no setting is made."""
    for variable in ("FDJPEG_CUDA", "FDJPEG_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST", "MAX_JOBS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()
    return tmp_path


def put_program(place: Path, *lines: str) -> str:
    place.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    place.chmod(0o755)
    return str(place)


def torch_of(folder: Path, cuda: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "version.py").write_text(f"__version__ = '2.13.0'\ncuda: Optional[str] = {cuda}\nhip: None = None\n")
    return folder


def test_cuda_is_built_where_it_can_be_of_use(
    setup_script: ModuleType, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_cpu, for_cuda = torch_of(machine / "cpu", "None"), torch_of(machine / "cuda", "'13.0'")
    assert setup_script.find_nvcc(for_cuda) == (None, "no nvcc was found")
    nvcc = put_program(machine / "bin/nvcc")
    assert setup_script.find_nvcc(for_cuda)[0] == nvcc
    assert setup_script.find_nvcc(for_cpu)[0] is None
    assert "FDJPEG_CUDA=1 builds them" in setup_script.find_nvcc(for_cpu)[1]
    monkeypatch.setenv("FDJPEG_CUDA", "1")
    assert setup_script.find_nvcc(for_cpu)[0] == nvcc
    monkeypatch.delenv("FDJPEG_CUDA")
    put_program(machine / "nvidia-smi", "9.0")
    assert setup_script.find_nvcc(for_cpu)[0] == nvcc
    monkeypatch.setenv("FDJPEG_CUDA", "0")
    assert setup_script.find_nvcc(for_cuda) == (None, "FDJPEG_CUDA=0 is set")


def test_architectures_are_those_asked_for_else_those_there_else_ptx(
    setup_script: ModuleType, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flags() -> list[str]:
        architectures, _ = setup_script.gpu_architectures()
        return [flag.removeprefix("-gencode=arch=") for flag in setup_script.flags_for(architectures)]

    assert flags() == ["compute_75,code=compute_75"]
    assert "the driver compiles it at first use" in setup_script.gpu_architectures()[1]
    put_program(machine / "nvidia-smi", "10.0", "9.0", "9.0", "No devices were found")
    assert flags() == ["compute_90,code=sm_90", "compute_100,code=sm_100", "compute_100,code=compute_100"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 9.0+PTX;10.0")
    assert flags() == [
        "compute_80,code=sm_80",
        "compute_90,code=sm_90",
        "compute_90,code=compute_90",
        "compute_100,code=sm_100",
    ]
    monkeypatch.setenv("FDJPEG_CUDA_ARCHS", "8.0;9.0a")
    assert flags() == ["compute_80,code=sm_80", "compute_90a,code=sm_90a", "compute_90a,code=compute_90a"]


def test_max_jobs(setup_script: ModuleType, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert setup_script.jobs() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("MAX_JOBS", "3")
    assert setup_script.jobs() == 3


def test_the_build_shows_its_progress(
    setup_script: ModuleType, machine: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sources = [Path("csrc/one.cpp"), Path("csrc/two.cpp")]
    setup_script.compile_all({source: [put_program(machine / "compiler")] for source in sources})
    shown = capfd.readouterr().out
    assert "compiling 2 files" in shown
    for count in (1, 2):
        line = rf"\[{count}/2\] csrc/(one|two)\.cpp: \d+\.\d s of a processor, \d+ s since the start"
        assert re.search(line, shown)
    assert re.search(r"compiled in \d+ s, with \d+ s of processors", shown)
    with pytest.raises(setup_script.CompileError, match="see its output above"):
        setup_script.compile_all({sources[0]: ["false"]})


# ---------------------------------------------------------------------------------------------------------------------
# The contents of packages


@pytest.fixture
def recording_compiler(tmp_path: Path) -> Path:
    """Stands in for a compiler: records its arguments, and writes an empty file as its output."""
    script = tmp_path / "recording-c++"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        'while [ $# -gt 1 ]; do if [ "$1" = -o ]; then : > "$2"; fi; shift; done\n'
    )
    script.chmod(0o755)
    return script


def test_wheel_holds_one_library_for_every_python(checkout: Path, tmp_path: Path, recording_compiler: Path) -> None:
    command = "import build_backend; build_backend.build_wheel('dist')"
    result = python(
        "-c",
        command,
        cwd=checkout,
        CXX=str(recording_compiler),
        FDJPEG_CUDA="0",
        CXXFLAGS="-DONE",
        LDFLAGS="-Wl,-z,two",
    )
    assert result.returncode == 0, result.stderr
    (wheel,) = (checkout / "dist").iterdir()
    assert wheel.name.startswith(f"fdjpeg-{fdjpeg.__version__}-cp310-abi3-")

    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    assert {"fdjpeg/_C.abi3.so", "fdjpeg/py.typed", "fdjpeg/__init__.py"} <= set(names)
    kinds = ("*.py", "*.txt", "*.yaml", "*.css", "*.jinja")
    files = [path for kind in kinds for path in ROOT.glob(f"fdjpeg/**/{kind}")]
    assert {path.relative_to(ROOT).as_posix() for path in files} <= set(names)
    assert [name for name in names if name.endswith(".so")] == ["fdjpeg/_C.abi3.so"]
    assert {Path(name).name for name in names if "licenses" in name} == {"LICENSE", "NOTICE"}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fdjpeg"}

    calls = (tmp_path / "calls").read_text().splitlines()
    compiled, (linked,) = [call for call in calls if " -c " in call], [call for call in calls if " -shared " in call]
    assert len(compiled) == len([path for path in ROOT.glob("csrc/**/*.cpp") if not path.name.endswith("_cuda.cpp")])
    for call in compiled:
        for flag in (
            "-DTORCH_TARGET_VERSION=0x020a000000000000",
            "-fwrapv",
            "-ffp-contract=off",
            "-std=c++20",
            "-DONE",
        ):
            assert flag in call.split()
        assert "-march" not in call
    assert "-ltorch" in linked
    assert "-Wl,-z,two" in linked
    assert "rpath" not in linked


def test_cuda_kernels_are_a_library_of_their_own_and_leave_with_it(
    checkout: Path, tmp_path: Path, recording_compiler: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvcc").symlink_to(recording_compiler)
    settings = {"CXX": str(recording_compiler), "CUDA_HOME": str(tmp_path), "FDJPEG_CUDA_ARCHS": "8.0;9.0"}
    libraries = {}
    for cuda in ("1", "0"):
        result = python("setup.py", "build_ext", "--inplace", cwd=checkout, FDJPEG_CUDA=cuda, **settings)
        assert result.returncode == 0, result.stderr
        libraries[cuda] = {path.name for path in checkout.glob("fdjpeg/*.so")}
    assert libraries == {"1": {"_C.abi3.so", "_C_cuda.abi3.so"}, "0": {"_C.abi3.so"}}

    calls = (tmp_path / "calls").read_text().splitlines()
    compiled = [call for call in calls if " -c " in call and call.split(" -c ")[1].split()[0].endswith(".cu")]
    assert len(compiled) == len(list(ROOT.glob("csrc/**/*.cu")))
    for call in compiled:
        assert "-DFDJPEG_ARCHITECTURES=8.0/9.0+PTX" in call.split()
        assert "-gencode=arch=compute_80,code=sm_80" in call.split()
    (linked,) = [call for call in calls if " -shared " in call and "_C_cuda.abi3.so" in call]
    objects = {Path(word).name for word in linked.split() if word.endswith(".o")}
    sources = {path.name for pattern in ("*.cu", "*_cuda.cpp") for path in ROOT.glob(f"csrc/**/{pattern}")}
    assert objects == {f"{source}.o" for source in sources}


def test_source_distribution_holds_what_building_needs(checkout: Path) -> None:
    result = python("-c", "import build_backend; build_backend.build_sdist('dist')", cwd=checkout)
    assert result.returncode == 0, result.stderr
    (archive,) = (checkout / "dist").iterdir()
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    sources = [path for folder in ("csrc", "fdjpeg", "tests") for path in ROOT.glob(f"{folder}/**/*.[chp]*")]
    # Tests read the documents. The gallery is built.
    sources += [path for path in ROOT.glob("docs/*") if path.name != "gallery" and not path.name.startswith(".")]
    wanted = {path.relative_to(ROOT).as_posix() for path in sources if path.suffix not in (".pyc", ".so")}
    assert wanted | {"setup.py", "build_backend.py", "LICENSE", "NOTICE", "CITATION.cff"} <= names
    linked = {link for page in PAGES for link in links_of(page)}
    assert {link for link in linked if (ROOT / link).is_file()} <= names
