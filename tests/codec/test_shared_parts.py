"""Parts that several rooms share: checks of numbers, GPUs' streams, thresholds of proofs, and the command."""

from __future__ import annotations

import ctypes
import io
import runpy
import sys
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, JpegImagePlugin
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fdjpeg import _checks, _cuda_library, _generators, _lattice, _library, _machine, _numbers, _slopes, surrogates
from fdjpeg._geometry import PILLOW_SUBSAMPLINGS, SAMPLING_FACTORS


def refused(check: Any, value: object, **options: Any) -> str:
    """Returns the message of a check about an argument that is called "it"; "" if the check accepts it."""
    try:
        check("it", value, **options)
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_whole_numbers_have_64_bits() -> None:
    for right in (2**63 - 1, 2**62, 0, -(2**63), np.int64(2**63 - 1)):
        assert refused(_checks.check_whole, right) == ""
    assert refused(_checks.check_whole, 2**63) == f"ValueError: it must be an integer of 64 bits, got {2**63}"
    assert refused(_checks.check_whole, 1, least=1) == ""
    assert refused(_checks.check_whole, 0, least=1) == "ValueError: it must be at least 1, got 0"
    assert refused(_checks.check_whole, True) == "TypeError: it must be an integer, got True"


def test_seeds_are_those_that_torch_takes() -> None:
    """64 bits, with or without a sign."""
    for right in (-(2**63), -(2**62), -1, 0, 2**63, 2**64 - 1):
        assert refused(_checks.check_seed, right) == ""
        torch.Generator().manual_seed(right)
    for wrong in (-(2**63) - 1, 2**64, 3**63):
        assert refused(_checks.check_seed, wrong) == f"ValueError: it must be in -2^63…2^64 - 1, got {wrong}"
        with pytest.raises((RuntimeError, ValueError), match="Overflow"):
            torch.Generator().manual_seed(wrong)
    assert refused(_checks.check_seed, 1.0) == "TypeError: it must be an integer, got 1.0"


@pytest.mark.parametrize(
    ("check", "wanted", "right", "wrong"),
    [
        (_checks.check_positive, "a number", [1, 0.5, np.float32(2)], [True, "1", None]),
        (_checks.check_text, "a text", ["", "a"], [None, 1, b"a"]),
        (_checks.check_tensor, "a torch.Tensor", [torch.ones(1)], [[1.0]]),
        (_checks.check_module, "a torch.nn.Module", [torch.nn.Identity()], [torch.relu]),
        (_checks.check_flag, "True or False", [True, False], [None, 1, "yes"]),
        (_checks.check_path, "a path", ["a", Path("a")], [None, 1, b"a"]),
        (_checks.check_list, "a list", [[1], (), {"a": 1}, {1}, range(2)], ["ab", b"ab", 1, None]),
        (_checks.check_callable, "a function or None", [None, len, torch.relu], [1, "len"]),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_an_argument_of_another_kind_is_refused(check: Any, wanted: str, right: list[Any], wrong: list[Any]) -> None:
    assert [refused(check, one) for one in right] == [""] * len(right)
    for one in wrong:
        got = type(one).__name__ if "torch" in wanted else repr(one)
        assert refused(check, one) == f"TypeError: it must be {wanted}, got {got}"


def test_numbers_above_zero_are_finite_and_flags_are_named() -> None:
    for wrong in (0, -1, float("inf"), float("nan")):
        assert refused(_checks.check_positive, wrong) == f"ValueError: it must be positive and finite, got {wrong}"
    assert refused(_checks.check_tensor, 1, shape="(N,)") == "TypeError: it must be a torch.Tensor (N,), got int"
    owner = SimpleNamespace(on=True, off=False, odd=1)
    _checks.check_flags(owner, "on", "off")
    with pytest.raises(TypeError, match=r"^odd must be True or False, got 1$"):
        _checks.check_flags(owner, "on", "odd")


def test_a_gradient_that_would_be_lost_is_refused() -> None:
    plain, wanted = torch.ones(1), torch.ones(1, requires_grad=True)
    _checks.check_no_gradient("it", plain, 3, None)
    with pytest.raises(ValueError, match=r"^it must need no gradient, which would be lost here, got a tensor that"):
        _checks.check_no_gradient("it", plain, wanted)


def test_a_generator_is_one_of_torchs() -> None:
    _generators.check_generator(None)
    _generators.check_generator(torch.Generator())
    with pytest.raises(TypeError, match=r"^generator must be a torch.Generator or None, got 3$"):
        _generators.check_generator(3)  # type: ignore[arg-type]


def test_values_are_not_read_while_anything_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default device is a mode too, and disturbs nobody."""

    class Function(TorchFunctionMode):
        pass

    class Dispatch(TorchDispatchMode):
        pass

    x, read = torch.ones(1), _numbers.values_can_be_read
    with torch.device("cpu"):
        assert read(x)
        assert read()
    for mode in (Function(), Dispatch()):
        with mode:
            assert not read(x)
    assert not read(x, torch.ones(1, device="meta"))
    assert not read(x, x.as_subclass(torch.nn.Buffer))
    for owner, name, value in ((torch.compiler, "is_compiling", True), (torch._C, "_get_tracing_state", object())):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda value=value: value)
            assert not read(x)
    assert read(x)


@pytest.mark.parametrize("name", SAMPLING_FACTORS)
def test_the_name_of_a_subsampling_tells_its_factors(name: str) -> None:
    """J:a:b, of four columns of luma in two rows: chroma has a samples in the first row, and b more in the second."""
    columns, first, second = map(int, name.split(":"))
    horizontal, vertical = SAMPLING_FACTORS[name]
    assert (first * horizontal, (1 + (second > 0)) * vertical) == (columns, 2)
    assert second in (0, first)


def test_whole_numbers_come_in_order() -> None:
    for given in ([3, 1], (3, 1), range(3, 0, -2), np.array([3, 1]), (one for one in (3, 1)), [np.uint8(3), 1]):
        found = _numbers.whole_numbers(given)
        assert found == (3, 1)
        assert [type(one) for one in found] == [int, int]
    for wrong in ("31", b"31", torch.tensor([3, 1]), {3, 1}, {3: 1}, 3, None, [3, 1.0], [3, True]):
        assert _numbers.whole_numbers(wrong) is None


def test_settings_hold_numbers_of_python() -> None:
    @dataclass(frozen=True)
    class Settings:
        steps: Any
        eps: Any
        share: Any
        name: str = "x"
        flag: bool = True
        later: Any = field(init=False)

    settings = Settings(np.int32(3), np.float32(0.5), Fraction(1, 3))
    _numbers.make_plain(settings)
    assert [(type(one), one) for one in (settings.steps, settings.eps)] == [(int, 3), (float, 0.5)]
    assert (settings.share, settings.name, settings.flag) == (Fraction(1, 3), "x", True)


def test_percentages_round_away_only_what_is_no_exception() -> None:
    assert [_numbers.percent(share, 2) for share in (0.005, 0.01, 0.99, 0.995)] == ["0.50", "1.00", "99.00", "99.50"]
    assert [_numbers.percent(share, 1) for share in (0.0004, 0.0006, 0.9994, 0.9996)] == ["0.1", "0.1", "99.9", "99.9"]


@pytest.mark.parametrize("name", PILLOW_SUBSAMPLINGS)
def test_pillow_writes_a_subsampling_by_its_number(name: str) -> None:
    """Read back from the file: the sampling factors of its first component against the second's."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", subsampling=PILLOW_SUBSAMPLINGS[name])
    (_, horizontal, vertical, _), chroma, _ = Image.open(file).layer
    assert (horizontal, vertical) == SAMPLING_FACTORS[name]
    assert chroma[1:3] == (1, 1)
    assert JpegImagePlugin.get_sampling(Image.open(file)) == PILLOW_SUBSAMPLINGS[name]


def test_a_library_is_loaded_by_torch_or_its_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, loaded = tmp_path / "library.so", []
    monkeypatch.setattr(_library, "BACKEND", None)
    assert str(_library._why_not_loaded(library)).startswith(f"{library} does not exist: fdjpeg was not built here")
    library.write_bytes(b"")
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    assert _library._why_not_loaded(library) is None
    assert loaded == [library]

    def fails(path: Path) -> None:
        raise OSError("could not load") from ValueError("no symbol")

    monkeypatch.setattr(torch.ops, "load_library", fails)
    assert _library._why_not_loaded(library) == f"{library} does not load with torch {torch.__version__}: no symbol"


def test_a_driver_that_is_too_old_is_told_with_the_one_that_is_needed(tmp_path: Path) -> None:
    (tmp_path / "library.so").write_bytes(b"..fdjpeg was built by CUDA 12080 for 8.0/9.0a\0")
    build = _cuda_library.build_of(tmp_path / "library.so")
    needed = "the kernels need a driver for CUDA 12.8 or newer"
    assert _cuda_library.why_not_served(build, None, set()) == f"no NVIDIA driver was found; {needed}"
    assert _cuda_library.why_not_served(build, (12, 7), set()) == f"the NVIDIA driver serves CUDA 12.7; {needed}"
    assert _cuda_library.why_not_served(build, (12, 8), {(8, 0), (8, 9), (9, 0)}) is None
    assert _cuda_library.why_not_served(build, (13, 0), {(7, 5), (8, 0), (10, 0)}) == (
        "the kernels were built for GPUs of compute capability 8.0, 9.0a, and there is one of 7.5, 10.0"
    )


def test_versions_of_cuda_are_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(pointer: Any) -> int:
        pointer._obj.value = 12080
        return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cuDriverGetVersion=version))
    assert str(_cuda_library.driver_version()) == "(12, 8)"


def test_no_gpu_is_asked_for_where_their_number_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    functions = {
        "nvmlInit_v2": lambda: 0,
        "nvmlDeviceGetCount_v2": lambda pointer: 1,  # an error, which writes no number
        "nvmlDeviceGetHandleByIndex_v2": lambda number, gpu: asked.append(number) or 0,
        "nvmlDeviceGetCudaComputeCapability": lambda gpu, major, minor: 0,
        "nvmlShutdown": lambda: 0,
    }
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(**functions))
    assert _cuda_library.capabilities() == set()
    assert asked == []


def test_git_is_asked_in_the_packages_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(command: list[str], **options: Any) -> Any:
        asked.append((command[:2], options["cwd"]))
        return SimpleNamespace(stdout=f"{_machine.PACKAGE.parent}\nabc1234\n")

    monkeypatch.setattr(_machine.subprocess, "run", run)
    assert _machine.commit() == "abc1234"
    assert asked == [(["git", "rev-parse"], Path(_machine.__file__).resolve().parent)]


def test_a_machine_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(_machine.subprocess, "run", run)
    assert _machine.commit() == "unknown"


@pytest.mark.parametrize(
    ("surrogate", "formula"),
    [
        (surrogates.Cubic(floor=0.25), ("cubic", 0, 0.25)),
        (surrogates.Sine(floor=0.25), ("sine", 0, 0.25)),
        (surrogates.Fourier(7, floor=0.25), ("fourier", 7, 0.25)),
        (surrogates.Tanh(2.5, floor=0.25), ("tanh", 2.5, 0.25)),
        (surrogates.Softmax(2.5, floor=0.25), ("softmax", 2.5, 0.25)),
    ],
)
def test_a_formula_makes_its_surrogate_again(
    surrogate: surrogates.Surrogate, formula: tuple[str, float, float]
) -> None:
    """The parameter is 0 where a surrogate has none."""
    found = _slopes.formula_of(surrogate)
    assert found == formula
    assert found is not None
    assert _slopes.surrogate_of(found) == surrogate


def test_slopes_are_tabulated_from_the_lower_tie_to_the_upper() -> None:
    own: Any = SimpleNamespace(periodic=True, derivative=lambda remainder: 2 + remainder)
    found = _slopes.slope_table(own, torch.device("cpu"))
    assert found is not None
    assert [float(found[place]) for place in (0, 4096, 8192)] == [1.5, 2.0, 2.5]


def test_slopes_are_interpolated_between_the_two_nearest_entries() -> None:
    """Of four entries over a step, at both ends, at each entry and in the middle of each part."""
    slopes = torch.tensor([0.0, 3.0, 12.0, 6.0])
    places = torch.arange(7, dtype=torch.float64) / 6 - 0.5
    found = _slopes.interpolate_slopes(slopes, places)
    assert found.tolist() == pytest.approx([0, 1.5, 3, 7.5, 12, 9, 6])


def test_gpus_keep_slopes_for_each_stream_but_not_in_a_captured_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu:
        """A tensor on a GPU, for a machine without one."""

        device = torch.device("cuda", 0)

    formula, captured = _slopes.formula_of(surrogates.Sine()), [False]
    monkeypatch.setattr(_slopes, "Tensor", OnGpu)
    monkeypatch.setattr(_slopes, "slope_table", lambda *given: ("computed", *given))
    monkeypatch.setattr(_slopes, "_kept_slope_table", lambda *given: ("kept", *given))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: captured[0])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    image: Any = OnGpu()
    kept = ("kept", formula, image.device, "stream of cuda:0")
    assert _slopes.slopes_for(image, surrogates.Sine()) == kept
    captured[0] = True
    assert _slopes.slopes_for(image, surrogates.Sine()) == ("computed", surrogates.Sine(), image.device)


def test_an_image_may_leave_its_ball_by_the_tolerance_and_two_roundings() -> None:
    """A millionth of the range, and for each of two images 2⁻²⁴ of 255; exact, and tried on both sides."""
    beyond = 255 * (Fraction(1, 10**6) + 2 * Fraction(1, 2**24))
    for levels in (1, 2, 8):
        edge = (levels - Fraction(1, 2) - beyond) / 255
        step = Fraction(1, 10**12)
        assert [_lattice.levels_of(float(edge + change)) for change in (-step, step)] == [levels - 1, levels]


def test_bounds_of_a_proof_are_in_double() -> None:
    assert (_lattice.reach_by_band(1).dtype, _lattice.offset_by_band().dtype) == (torch.float64, torch.float64)


def test_the_module_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    main = ModuleType("fdjpeg.cli.main")
    main.main = lambda: ran.append("main")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fdjpeg.cli", ModuleType("fdjpeg.cli"))
    monkeypatch.setitem(sys.modules, "fdjpeg.cli.main", main)
    runpy.run_module("fdjpeg", run_name="__main__")
    assert ran == ["main"]
