"""Small parts of the core, by hand-made numbers: finite numbers, the record of a machine, packages, GPUs."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree

import fdjpeg
from fdjpeg import (
    _constants,
    _cuda_library,
    _lattice,
    _machine,
    _numbers,
    _packages,
    _slopes,
    _standard_tables,
    stages,
    surrogates,
)
from fdjpeg._geometry import Geometry, Plane
from fdjpeg._packages import MissingPackage
from fdjpeg.ops.registration import merge_tables


def test_the_largest_floating_numbers_are_finite() -> None:
    most = sys.float_info.max
    assert [_numbers.is_finite(value) for value in (most, -most, 2**1023)] == [True] * 3
    assert not any(map(_numbers.is_finite, (float("inf"), -float("inf"), float("nan"), 10**309, -(10**309))))


def test_values_that_a_transform_holds_are_not_read() -> None:
    read = []
    torch.func.vmap(lambda x: (read.append(_numbers.values_can_be_read(x)), x)[1])(torch.ones(2))
    assert read == [False]
    assert not _numbers.values_can_be_read(torch.ones(1, device="meta"))
    assert _numbers.values_can_be_read(torch.ones(1), nn.Parameter(torch.ones(1)))


def test_constants_have_the_dtype_that_is_asked_for_and_are_kept() -> None:
    like = torch.zeros(1)
    for dtype in (torch.int32, torch.float64):
        found = _constants.constant((1, 2, 3), dtype, like)
        assert (found.dtype, found.tolist()) == (dtype, [1, 2, 3])
        assert _constants.constant((1, 2, 3), dtype, like) is found


@pytest.mark.parametrize(
    ("architecture", "served"),
    [
        ("8.0", [(8, 0), (8, 6)]),  # machine code: the same major version, from its minor one on
        ("8.6", [(8, 6)]),
        ("PTX 8.6", [(8, 6), (9, 0), (10, 0)]),  # all later ones
        ("PTX 9.0a", [(9, 0)]),
        ("9.0a", [(9, 0)]),
    ],
)
def test_gpus_are_served_by_code_of_their_architecture_and_by_older_ptx(
    architecture: str, served: list[tuple[int, int]]
) -> None:
    every = [(7, 5), (8, 0), (8, 6), (9, 0), (10, 0)]
    assert [capability for capability in every if _cuda_library._serves(architecture, capability)] == served


def library_with(**functions: Any) -> Any:
    """A shared library in Python, whose functions get what is behind a pointer."""
    return lambda name: SimpleNamespace(**functions)


def test_the_driver_tells_which_cuda_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [12080, 13000, 12990, 12080]

    def version(pointer: Any) -> int:
        pointer._obj.value = numbers.pop(0)
        return 0

    monkeypatch.setattr(ctypes, "CDLL", library_with(cuDriverGetVersion=version))
    assert [_cuda_library.driver_version() for _ in range(3)] == [(12, 8), (13, 0), (12, 99)]
    monkeypatch.setattr(ctypes, "CDLL", library_with(cuDriverGetVersion=lambda pointer: version(pointer) + 3))
    assert _cuda_library.driver_version() is None  # an error
    monkeypatch.setattr(ctypes, "CDLL", lambda name: ctypes.cdll.LoadLibrary("no_such_library.so"))
    assert _cuda_library.driver_version() is None
    assert _cuda_library.capabilities() == set()


def test_kernels_for_cuda_are_asked_for_only_where_torch_is_built_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "library.so").write_bytes(b"..fdjpeg was built by CUDA 13010 for 9.0..")
    monkeypatch.setattr(_cuda_library, "PATH", tmp_path / "library.so")
    monkeypatch.setattr(_cuda_library, "driver_version", lambda: (13, 1))
    monkeypatch.setattr(_cuda_library, "capabilities", lambda: {(9, 0)})
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is not a build for CUDA" in str(_cuda_library.why_not_here())
    monkeypatch.setattr(torch.version, "cuda", "13.1")
    assert _cuda_library.why_not_here() is None
    monkeypatch.setattr(_cuda_library, "PATH", tmp_path / "none.so")
    assert str(_cuda_library.why_not_here()).startswith("fdjpeg was built without CUDA kernels")


def test_a_library_tells_by_which_cuda_it_was_built(tmp_path: Path) -> None:
    for number, version in ((12080, (12, 8)), (13000, (13, 0)), (12990, (12, 99))):
        (tmp_path / "library.so").write_bytes(b"..fdjpeg was built by CUDA %d for 8.0/9.0a\0" % number)
        found = _cuda_library.build_of(tmp_path / "library.so")
        assert found == _cuda_library.Build(version, ("8.0", "9.0a"))


def test_gpus_that_answer_are_listed_by_their_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three, the second gives no handle and the third no capability."""
    calls, at = [], [0]

    def count(pointer: Any) -> None:
        pointer._obj.value = 3

    def handle(number: int, gpu: Any) -> int:
        at[0] = number
        return int(number == 1)

    def capability(gpu: Any, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = 9, at[0]
        return int(at[0] == 2)

    library = {
        "nvmlInit_v2": lambda: 0,
        "nvmlDeviceGetCount_v2": count,
        "nvmlDeviceGetHandleByIndex_v2": handle,
        "nvmlDeviceGetCudaComputeCapability": capability,
        "nvmlShutdown": lambda: calls.append("shutdown"),
    }
    monkeypatch.setattr(ctypes, "CDLL", library_with(**library))
    assert _cuda_library.capabilities() == {(9, 0)}
    assert calls == ["shutdown"]
    monkeypatch.setattr(ctypes, "CDLL", library_with(**{**library, "nvmlInit_v2": lambda: 1}))
    assert _cuda_library.capabilities() == set()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (f"{_machine.PACKAGE.parent}\nabc1234\n", "abc1234"),
        ("/another/project\nabc1234\n", "unknown"),
        (f"{_machine.PACKAGE.parent}\n", "unknown"),  # a repository without commits
        ("", "unknown"),
    ],
    ids=["own", "another's", "without commits", "without git"],
)
def test_the_commit_is_that_of_the_packages_own_checkout(
    said: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, text: bool = False, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(stdout=said if text else said.encode())

    monkeypatch.setattr(subprocess, "run", run)
    assert _machine.commit() == expected


def test_the_record_of_a_machine_has_its_processor_and_the_load_of_the_last_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.234, 5.0, 6.0))
    found = _machine.describe_machine()
    assert found["load"] == 1.23
    assert found["cores"] == os.cpu_count()
    loaded = fdjpeg.backends()["cpu"] == "available"
    assert found["instruction set"] == (torch.ops.fdjpeg.cpu_instruction_set() if loaded else "none: plain torch")
    cpuinfo = "processor\t: 0\nmodel name\t: Some CPU: 2 GHz\nflags\t: a\n"
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.setattr(Path, "read_text", lambda _: cpuinfo)
    assert _machine.processor() == "Some CPU: 2 GHz"


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    with pytest.raises(MissingPackage, match=r"package nothing cannot be imported .*; pip install nothing installs"):
        _packages.required("no_such_module", "nothing")
    with pytest.raises(MissingPackage, match=r'pip install "fdjpeg\[eval\]" installs'):
        _packages.required("no_such_module", "nothing", "eval")
    with pytest.raises(MissingPackage, match="no_such_module is not installed; do this installs"):
        _packages.package_folder("no_such_module", "do this")
    assert _packages.package_folder("torch") == Path(torch.__file__).parent


def test_a_radius_of_the_whole_range_is_one_but_has_no_steps() -> None:
    with pytest.raises(ValueError, match="small enough for steps up to 255, got 1,"):
        _lattice.certifying_steps(1)
    with pytest.raises(ValueError, match=r"eps must be in \(0, 1\], got 1.5"):
        _lattice.certifying_steps(1.5)


def test_a_float_may_leave_its_ball_by_a_millionth() -> None:
    assert [_lattice.levels_of((0.5 - less) / 255) for less in (250e-6, 400e-6)] == [1, 0]
    assert [_lattice.levels_of(levels / 255) for levels in (1, 8, 127)] == [1, 8, 127]


def test_certifying_steps_are_those_of_kept_certificates() -> None:
    found = {levels: int(_lattice.certifying_steps(levels / 255).sum()) for levels in (1, 2, 8)}
    assert found == {1: 1580, 2: 2473, 8: 7826}


def test_the_reach_of_a_level_is_that_of_the_transform_and_its_rounding() -> None:
    """A level in each sample, of the sign that a band's cosines have, changes its coefficient the most."""
    cosines = (
        stages.block_idct(torch.eye(64, dtype=torch.float64).view(64, 1, 1, 8, 8)).abs().flatten(1).sum(1).view(8, 8)
    )
    beyond = _lattice.reach_by_band(3) - 3 * cosines
    assert 0.34 < float(beyond.min()) < float(beyond.max()) < 0.38


def test_qualities_out_of_range_act_as_the_nearer_end() -> None:
    assert [_standard_tables.percentage(quality) for quality in (-1, 1, 25, 50, 100, 150)] == [
        5000,
        5000,
        200,
        100,
        0,
        0,
    ]
    qualities = torch.tensor([float("nan"), -1, 30, 100.5, float("inf")])
    assert _standard_tables.clamped_quality(qualities).tolist() == [1, 1, 30, 100, 100]


def test_formulas_without_a_parameter_have_zeros() -> None:
    assert _slopes.formula_of(surrogates.Zero()) == ("zero", 0, 0)
    assert _slopes.formula_of(surrogates.Identity()) == ("straight-through", 0, 0)
    assert _slopes.formula_of(surrogates.Tanh(4, floor=0.5)) == ("tanh", 4, 0.5)


@pytest.mark.parametrize("kind", [*surrogates.NAMES, surrogates.Noise], ids=lambda kind: kind.__name__)
def test_surrogates_do_not_change(kind: type[surrogates.Surrogate]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().name = "other"


def test_slopes_are_computed_in_float64() -> None:
    found = _slopes.slope_table(surrogates.Sine(), torch.device("cpu"))
    places = torch.linspace(-0.5, 0.5, 8193, dtype=torch.float64)
    assert found is not None
    assert torch.equal(found, surrogates.Sine().derivative(places).float())


def test_slopes_are_tabulated_where_they_are_wanted() -> None:
    """From one tie of a step over its middle to the next: 1 − cos 2πc is 2, 0 and 2 there."""
    found = _slopes.slope_table(surrogates.Sine(), torch.device("cpu"))
    assert found is not None
    assert found.shape == (8193,)
    assert [float(found[place]) for place in (0, 2048, 4096, 8192)] == pytest.approx([2, 1, 0, 2], abs=1e-6)
    on_meta = _slopes.slope_table(surrogates.Sine(), torch.device("meta"))
    assert on_meta is not None
    assert on_meta.is_meta


def test_a_floor_may_be_less_than_one_and_a_series_needs_a_term() -> None:
    assert surrogates.Sine(floor=0.5).derivative(torch.zeros(1)).tolist() == [0.5]
    with pytest.raises(ValueError, match="terms must be at least 1, got 0"):
        surrogates.Fourier(0)


def test_samples_of_one_dimension_are_no_blocks() -> None:
    with pytest.raises(ValueError, match=r"samples must have shape \(..., H, W\).*, got \(8,\)"):
        stages.block_dct(torch.zeros(8))


def test_the_papers_table_keeps_a_triangle_of_fifteen_bands() -> None:
    steps = fdjpeg.FeatureDistillation("paper").steps
    assert int((steps == 1).sum()) == 15
    assert (int(steps[0, 4]), int(steps[2, 2]), int(steps[0, 5]), int(steps[7, 7])) == (1, 1, 40, 40)


def test_the_structure_of_coefficients_is_written_and_read() -> None:
    coefficients = fdjpeg.encode(torch.zeros(1, 3, 16, 16), 50)
    structure = _pytree.tree_flatten(coefficients)[1]
    assert _pytree.treespec_loads(_pytree.treespec_dumps(structure)) == structure


def test_planes_of_an_image_end_with_a_flag_for_each_mcu_at_a_multiple_of_sixteen() -> None:
    """Of 40 × 40 at 4:2:0: 25 blocks of luma, twice 9 of chroma, and 9 flags; of grey: 25 blocks and 25 flags."""
    geometry = Geometry.of(40, 40, 3, 2, 2)
    assert (geometry.mcu_rows, geometry.mcu_columns, geometry.plane_bytes) == (3, 3, 43 * 64 + 16)
    assert Geometry.of(40, 40, 1, 1, 1).plane_bytes == 25 * 64 + 32
    assert Geometry.of(40, 40, 1, 1, 1).chroma == Plane(0, 0)
    assert fdjpeg.encode(torch.zeros(3, 8, 8), 50).geometry.channels == 3


def test_tables_of_mapped_batches_are_repeated_for_each_image_unless_there_is_one_set() -> None:
    one = torch.ones(1, 3, 8, 8)
    assert merge_tables(one, None, 4, 2) is one
    each = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    found = merge_tables(each, None, 3, 2)
    assert found is not None
    assert found[:, 0, 0, 0].tolist() == [0, 1] * 3
    mapped = merge_tables(each[:, None], 0, 2, 3)
    assert mapped is not None
    assert mapped[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]


def test_only_a_whole_is_written_as_one_hundred_percent() -> None:
    assert [_numbers.percent(share) for share in (0, 0.001, 0.5, 0.999, 1)] == ["0", "1", "50", "99", "100"]
    assert [_numbers.percent(share, 2) for share in (1e-9, 0.999999, 1.0)] == ["0.01", "99.99", "100.00"]
