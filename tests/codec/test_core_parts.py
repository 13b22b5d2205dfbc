"""Small parts of the core, by hand-made numbers: finite numbers, the record of a machine, packages, GPUs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils import _pytree

import fdjpeg
from fdjpeg import _constants, _cuda_library, _lattice, _machine, _numbers, _packages, _slopes, stages, surrogates
from fdjpeg._geometry import Geometry
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


def test_the_record_of_a_machine_has_its_processor_and_the_load_of_the_last_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.234, 5.0, 6.0))
    found = _machine.describe_machine()
    assert found["load"] == 1.23
    assert found["cores"] == os.cpu_count()
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
