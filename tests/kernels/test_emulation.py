"""The GPU's kernels, run on a CPU, give the bits of the reference whatever the order of threads; broken ones do not.

That they give Pillow's bits is for ``test_conformance.py`` to show, where this emulation is one of the backends.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from support import cases, emulation, emulation_cases, planted_bugs
from support.planted_bugs import Mutant
from support.settings import FACTORS, TOLERANCE
from support.slow import slow_unless
from torch import Tensor

from fdjpeg import _slopes, reference, surrogates
from fdjpeg._geometry import Geometry

pytestmark = pytest.mark.skipif(emulation.compiler() is None, reason="there is no g++ to compile the emulation with")

SUBSAMPLINGS = pytest.mark.parametrize("subsampling", FACTORS)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _images(
    rng: np.random.Generator, dtype: torch.dtype, channels: int, height: int, width: int, number: int = 2
) -> Tensor:
    """Images of noise, some samples of floating ones NaN."""
    pixels = torch.from_numpy(rng.random((number, channels, height, width)))
    if dtype == torch.uint8:
        return (pixels * 255).round().to(dtype)
    pixels[torch.from_numpy(rng.random(pixels.shape) < 0.002)] = math.nan
    return pixels.to(dtype)


def _layouts(image: Tensor) -> list[Tensor]:
    """The same samples: dense, by pixels, with gaps, from an address that no wide access may use, each row once."""
    gaps = torch.zeros(*image.shape[:3], 2 * image.shape[3], dtype=image.dtype)
    shifted = torch.zeros(image.numel() + 1, dtype=image.dtype)
    gaps[..., ::2] = image
    shifted[1:] = image.flatten()
    return [
        image,
        image.to(memory_format=torch.channels_last),
        gaps[..., ::2],
        shifted[1:].view(image.shape),
        image[:, :, :1].expand_as(image),
    ]


#: The layout of cases whose images, and gradients and results, are cropped from wider ones.
CROPPED = -1


def _laid_out(image: Tensor, layout: int) -> Tensor:
    return emulation_cases.cropped(image) if layout == CROPPED else _layouts(image)[layout]


def _assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    scale = float(expected.double().abs().max()) if expected.numel() else 0.0
    difference = float((actual.double() - expected.double()).abs().max()) if expected.numel() else 0.0
    assert difference <= tolerance * scale, f"{difference} of {scale}"


def _channels_and_upsamplings(subsampling: str) -> list[tuple[int, bool]]:
    """The combinations that differ: greyscale for one subsampling, the triangle where there is one."""
    if subsampling == "4:4:4":
        return [(3, True), (1, True)]
    return [(3, True)] if subsampling == "4:1:1" else [(3, True), (3, False)]


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@SUBSAMPLINGS
def test_forward_in_each_order_and_layout(subsampling: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    factors = FACTORS[subsampling]
    orders = itertools.cycle(emulation.ORDERS)
    for (height, width), (channels, fancy) in itertools.product(
        [(43, 70), (16, 64)], _channels_and_upsamplings(subsampling)
    ):
        tables = torch.from_numpy(rng.uniform(0.2, 40, (2, 3, 8, 8))).float()
        for image in _layouts(_images(rng, dtype, channels, height, width)):
            expected = reference.round_trip(image, tables, 0.0, *factors, fancy)
            actual = emulation.round_trip(image, tables, 0.0, *factors, fancy, order=next(orders))
            assert torch.equal(actual[0], expected[0])
            assert actual[0].stride() == expected[0].stride()
            assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: str(dtype).removeprefix("torch."))
@SUBSAMPLINGS
def test_backward_in_each_order_and_layout(subsampling: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    factors = FACTORS[subsampling]
    orders = itertools.cycle(emulation.ORDERS)
    slopes = _slopes.slope_table(surrogates.resolve("sine"), torch.device("cpu"))
    for (height, width), (channels, fancy) in itertools.product(
        [(43, 70), (64, 66)], _channels_and_upsamplings(subsampling)
    ):
        tables = torch.from_numpy(rng.uniform(0.2, 40, (1, 3, 8, 8))).float()
        image = _images(rng, dtype, channels, height, width)
        _, planes = reference.round_trip(image, tables, 0.0, *factors, fancy)
        for grad in _layouts(torch.from_numpy(rng.standard_normal(image.shape)).to(dtype)):
            arguments = (grad, planes, image, tables, 0.0, *factors, fancy)
            expected = reference.round_trip_backward(*arguments, True)
            actual = emulation.round_trip_backward(*arguments, True, order=next(orders))
            _assert_close(actual[0], expected[0], TOLERANCE[dtype])
            _assert_close(actual[1], expected[1], 1e-4)
            without, none = emulation.round_trip_backward(*arguments, False, order=next(orders))
            _assert_close(without, expected[0], TOLERANCE[dtype])
            assert none.shape == (0,)
            # Through the transform gradients go in float32.
            expected = reference.surrogate_backward(*arguments, True, slopes)
            actual = emulation.surrogate_backward(*arguments, True, slopes, order=next(orders))
            _assert_close(actual[0], expected[0], max(TOLERANCE[dtype], 2e-5))
            _assert_close(actual[1], expected[1], 1e-4)
            assert actual[0].stride() == torch.empty_like(image).stride()


def test_gradient_of_tables_is_the_same_bits_in_each_order(rng: np.random.Generator) -> None:
    image = _images(rng, torch.float32, 3, 200, 333)
    _, planes = reference.round_trip(image, None, 40.0, 2, 2, True)
    grad = torch.from_numpy(rng.standard_normal(image.shape)).float()
    sums = [
        emulation.round_trip_backward(grad, planes, image, None, 40.0, 2, 2, True, True, order=order)[1]
        for order in emulation.ORDERS
    ]
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


@SUBSAMPLINGS
def test_coefficients_in_each_order(subsampling: str, rng: np.random.Generator) -> None:
    grey = (1,) if subsampling == "4:4:4" else ()
    for order, channels in itertools.product(emulation.ORDERS, (3, *grey)):
        image = _images(rng, torch.float32, channels, 45, 67)
        tables = torch.from_numpy(rng.uniform(0.2, 40, (2, 3, 8, 8))).float()
        expected = reference.encode(image, tables, 0.0, *FACTORS[subsampling])
        actual = emulation.encode(image, tables, 0.0, *FACTORS[subsampling], order=order)
        for one, other in zip(actual, expected, strict=True):
            assert torch.equal(one, other)
        options = (tables, 45, 67, *FACTORS[subsampling], True, torch.uint8)
        assert torch.equal(emulation.decode(*expected, *options, order=order), reference.decode(*expected, *options))


@SUBSAMPLINGS
def test_real_numbers_in_each_order(subsampling: str, rng: np.random.Generator) -> None:
    """The same bits; that they are the right ones is for ``test_real.py`` to show."""
    image = torch.from_numpy(rng.random((1, 3, 45, 67))).float()
    grad = torch.from_numpy(rng.standard_normal(image.shape)).float()
    setting = (None, 40.0, *FACTORS[subsampling], True, "sine", 0.0, 0.0, True)
    results = []
    for order in emulation.ORDERS:
        out, mask = emulation.real_round_trip(image, *setting, order=order)
        results.append((out, mask, *emulation.real_round_trip_backward(grad, mask, image, *setting, True, order=order)))
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_block_transforms_in_each_order(dtype: torch.dtype, rng: np.random.Generator) -> None:
    """The same bits in each order; near the CPU's kernels, which round as often, and the reference in float64."""
    unit = torch.finfo(dtype).eps
    for shape in [(24, 40), (2, 3, 16, 104), (0, 8, 8), (1, 8, 8), (5, 1, 64, 72)]:
        samples = torch.from_numpy(rng.standard_normal(shape)).to(dtype)
        blocks = torch.ops.fdjpeg.block_dct(samples)
        for name, source in (("block_dct", samples), ("block_idct", blocks)):
            emulated = getattr(emulation, name)
            first, *others = (emulated(source, order=order) for order in emulation.ORDERS)
            assert all(torch.equal(first, other) for other in others)
            assert first.dtype == dtype
            on_cpu = getattr(torch.ops.fdjpeg, name)(source)
            torch.testing.assert_close(first, on_cpu, rtol=unit, atol=4 * unit)
            exact = getattr(reference, name)(source.double())
            torch.testing.assert_close(first.double(), exact, rtol=unit, atol=8 * unit)


@SUBSAMPLINGS
def test_scratch_memory_is_small_compared_with_the_images(subsampling: str) -> None:
    """With the 8-bit planes at most half of float32 images; real planes take 25 MB or are those of one image."""
    factors = FACTORS[subsampling]
    for shape in [(1, 3, 8, 8), (70000, 3, 8, 8), (256, 3, 224, 224), (3, 3, 1000, 1500), (1, 3, 16384, 16384)]:
        samples = math.prod(shape)
        geometry = Geometry.of(*shape[2:], 3, *factors)
        planes = shape[0] * geometry.plane_bytes
        assert emulation.scratch_of(shape, *factors) + planes <= 0.5 * 4 * samples
        for dtype in (torch.float16, torch.float32, torch.float64):
            size = max(4, dtype.itemsize)
            at_once, scratch = emulation.real_scratch_of(shape, *factors, dtype)
            assert 1 <= at_once <= shape[0]
            assert at_once == 1 or at_once * geometry.flag_offset * size <= 25e6
            assert scratch <= 0.05 * samples * size


def test_fraction_is_a_correctly_rounded_division() -> None:
    for byte in range(256):
        assert emulation.fraction_of(byte) == float(np.float32(byte) / np.float32(255))
    assert emulation.fraction_of(-5) == 0.0
    assert emulation.fraction_of(500) == 1.0


def test_integer_division_is_exact(rng: np.random.Generator) -> None:
    largest = 2**31 - 1
    divisors = [*range(1, 20), *(int(2**power) for power in rng.uniform(4, 31, 200)), 2**30, largest]
    for divisor in divisors:
        multiples = [divisor * int(k) for k in rng.integers(0, largest // divisor + 1, 10)]
        for number in (0, 1, largest, *multiples, *(m - 1 for m in multiples), *(m + divisor - 1 for m in multiples)):
            if 0 <= number <= largest:
                assert emulation.quotient_of(number, divisor) == number // divisor


# ---------------------------------------------------------------------------------------------------------------------
# Sanitizers and planted bugs: a separate program reads cases from a file


#: Each of them, rounded and soft.
ROUNDINGS = (
    (("straight-through", 0.0, 0.0, False), ("cubic", 0.0, 0.1, False), ("sine", 0.0, 0.0, True)),
    (("zero", 0.0, 0.0, False), ("tanh", 5.0, 0.0, True), ("fourier", 4.0, 0.0, True)),
    (("softmax", 4.0, 0.05, True), ("cubic", 0.0, 0.0, True), ("sine", 0.0, 0.3, False)),
)


#: A launch has at most so many images where bugs are planted: the cases of three images then take a second one.
IMAGES_OF_LAUNCH = 2


def _cases(ops: str, subsamplings: dict[str, tuple[int, int]], dtypes: list[torch.dtype], channels: int) -> bytes:
    rng = np.random.default_rng(20)
    blob = b""
    if ops == "blocks":
        for size, dtype in itertools.product([(2, 1, 24, 40), (1, 1, 64, 72), (3, 1, 8, 8)], dtypes):
            blob += emulation_cases.block_cases(torch.from_numpy(rng.standard_normal(size)).to(dtype), reference)
        return blob
    if ops == "real":
        for factors, dtype in itertools.product(subsamplings.values(), dtypes):
            for size, roundings in zip(((98, 66, 0), (16, 96, 0), (67, 37, 1)), ROUNDINGS, strict=True):
                blob += _real_cases(rng, factors, dtype, channels, size, roundings)
            roundings = (ROUNDINGS[0][0], *ROUNDINGS[1][1:])
            blob += _real_cases(rng, factors, dtype, channels, (19, 37, CROPPED), roundings, images=3)
        return blob
    for factors, dtype in itertools.product(subsamplings.values(), dtypes):
        sizes = [(99, 66, 0, True, 2), (16, 96, 0, False, 2), (66, 37, 1, True, 2)]
        if ops == "backward":  # MCUs that end within their second half, and chroma within its block
            sizes += [(43, 45, 0, True, 2), (27, 40, 0, False, 2)]
        sizes += [(19, 37, CROPPED, True, 3)]
        for height, width, layout, by_tables, number in sizes:
            pixels = _images(rng, dtype, channels, height, width, number)
            if dtype.is_floating_point:  # the largest that is not noted as NaN is
                pixels[torch.from_numpy(rng.random(pixels.shape) < 0.01)] = 1
            image = _laid_out(pixels, layout)
            tables = torch.from_numpy(rng.uniform(0.2, 30, (number, 3, 8, 8))).float() if by_tables else None
            setting = (tables, 60.0, factors, height != 66, reference)
            if ops == "backward":
                grad = torch.from_numpy(rng.standard_normal(image.shape)).to(dtype)
                blob += emulation_cases.backward_cases(image, grad, *setting)
            else:
                blob += emulation_cases.forward_cases(image, *setting)
    return blob


def _real_cases(
    rng: np.random.Generator,
    factors: tuple[int, int],
    dtype: torch.dtype,
    channels: int,
    size: tuple[int, int, int],
    roundings: tuple[tuple[str, float, float, bool], ...],
    images: int = 2,
) -> bytes:
    """The cases of images of one size in real numbers; but for float64 the soft ones only."""
    height, width, layout = size
    pixels = torch.from_numpy(rng.uniform(-0.1, 1.1, (images, channels, height, width)))
    bytes_ = (255 * pixels).clamp(0, 255).round()
    image = _laid_out((bytes_ if dtype == torch.uint8 else pixels).to(dtype), layout)
    grad = torch.from_numpy(rng.standard_normal(image.shape)).to(dtype)
    tables = torch.from_numpy(rng.uniform(0.5, 30, (images, 3, 8, 8)))
    blob = b""
    for rounding, given in zip(roundings, (tables.float(), tables[-1:].clone(), None), strict=True):
        if dtype == torch.float64 or rounding[-1]:
            quality = 97.0 if height == 16 else 61.0  # of which most steps are below 1
            setting = (given, quality, factors, height != 67, rounding, reference)
            blob += emulation_cases.real_cases(image, grad, *setting)
    return blob


class Planted(NamedTuple):
    """What a file of bugs is found by: the ops and the dtypes that the kernels are compiled for."""

    ops: str
    dtypes: list[torch.dtype]


#: The dtypes that the kernels are compiled for under sanitizers, and the files of planted bugs.
SANITIZED = {
    "forward": [torch.uint8, torch.float32],
    "backward": [torch.float32],
    "real": [torch.float32, torch.float64],
    "blocks": [torch.float32, torch.float64],
}
PLANTED = {
    "forward": Planted("forward", [torch.float32]),
    "backward": Planted("backward", [torch.float32]),
    "real": Planted("real", [torch.float64]),
    "blocks": Planted("blocks", [torch.float32, torch.float64]),
    "forward_uint8": Planted("forward", [torch.uint8]),
    "forward_float16": Planted("forward", [torch.float16]),
    "forward_bfloat16": Planted("forward", [torch.bfloat16]),
    "forward_float64": Planted("forward", [torch.float64]),
    "backward_float16": Planted("backward", [torch.float16]),
    "backward_bfloat16": Planted("backward", [torch.bfloat16]),
    "backward_float64": Planted("backward", [torch.float64]),
    "real_uint8": Planted("real", [torch.uint8]),
    "real_float16": Planted("real", [torch.float16]),
}


@pytest.mark.parametrize("ops", slow_unless(lambda ops: ops == "blocks", SANITIZED))
def test_no_sanitizer_complains(ops: str, tmp_path: Path) -> None:
    """No access beyond an array, no undefined arithmetic, no misaligned word; arrays are just as large as needed."""
    dtypes = SANITIZED[ops]
    headers, program = tmp_path / "headers", tmp_path / "program"
    types = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    emulation.restricted_copy(headers, types, images_of_launch=IMAGES_OF_LAUNCH)
    flags = ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    try:
        emulation.Runner(tmp_path, *flags).build(program, headers, ops)
    except RuntimeError as error:
        if "asan" not in str(error):
            raise
        pytest.skip("g++ has no sanitizers here")
    for channels in (3, 1):
        file = tmp_path / "cases"
        file.write_bytes(_cases(ops, FACTORS, dtypes, channels))
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
        done = subprocess.run([program, file, "1"], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_rows_beyond_2_to_the_31_samples(tmp_path: Path) -> None:
    """By every op of the codec: as those of a small image, and without an overflow on the way to them."""
    headers, program = tmp_path / "headers", tmp_path / "program"
    emulation.restricted_copy(headers, ["float32"], [FACTORS["4:2:0"]])
    flags = ("-O1", "-fno-wrapv", "-fsanitize=signed-integer-overflow", "-fno-sanitize-recover=all")
    try:
        emulation.Runner(tmp_path, *flags).build(program, headers, "far")
    except RuntimeError as error:
        if "ubsan" not in str(error):
            raise
        pytest.skip("g++ has no sanitizers here")
    done = subprocess.run([program], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def _holding(headers: Path, mutant: Mutant, ops: str) -> list[Path]:
    """The file of each place where a mutant fits: in the kernels of `ops`, or else in what all kernels share."""
    of_real = [path for path in headers.glob("*/*") if path.name.startswith("real_")]
    others = [path for path in headers.glob("*/*") if path not in of_real]
    shared = [path for path in others if not path.name.startswith(("exact_", "block_"))]
    for sources in (of_real, shared) if ops == "real" else (others,):
        holding = [path for path in sources for _ in range(path.read_text().count(mutant.old))]
        if holding:
            return holding
    return []


def _planted(folder: Path, number: int, mutant: Mutant | None, run: _Run) -> tuple[str, int | None, str]:
    """Compiles a mutant (or none) and runs the cases of one subsampling; returns its name, exit status and output."""
    name = "none" if mutant is None else mutant.name
    headers = folder / f"headers-{number}"
    types = [str(dtype).removeprefix("torch.") for dtype in run.dtypes]
    emulation.restricted_copy(headers, types, [FACTORS[run.subsampling]], IMAGES_OF_LAUNCH)
    if mutant is not None:
        holding = _holding(headers, mutant, run.ops)
        if len(holding) != 1:
            return name, None, f"{mutant.old!r} is {len(holding)} times in the kernels, not once"
        holding[0].write_text(holding[0].read_text().replace(mutant.old, mutant.new))
    for header in headers.glob("*/*"):  # without inlining they compile twice as fast
        header.write_text(header.read_text().replace("__attribute__((always_inline))", ""))
    program = folder / f"program-{number}"
    try:
        run.runner.build(program, headers, run.ops)
    except RuntimeError as error:
        if mutant is not None and "static assertion failed" in str(error):
            return name, 1, "found by the compiler"
        raise
    try:
        done = subprocess.run([program, run.cases, "3"], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return name, 1, "ran for too long"
    program.unlink()
    return name, done.returncode, done.stdout + done.stderr


class _Run(NamedTuple):
    """The program and the cases that a mutant runs with."""

    runner: emulation.Runner
    ops: str
    dtypes: list[torch.dtype]
    subsampling: str
    cases: Path


@pytest.mark.parametrize("kind", slow_unless(lambda kind: kind in SANITIZED, PLANTED))
def test_some_planted_bugs_are_found(kind: str, tmp_path: Path) -> None:
    bugs = planted_bugs.found_by(kind)
    assert _unnoticed(kind, [bugs[0], bugs[-1]], tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLANTED)
def test_all_planted_bugs_are_found(kind: str, tmp_path: Path) -> None:
    assert _unnoticed(kind, planted_bugs.found_by(kind), tmp_path) == []


@pytest.mark.parametrize("kind", PLANTED)
def test_each_bug_fits_in_one_place(kind: str, tmp_path: Path) -> None:
    ops, dtypes = PLANTED[kind]
    types = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    emulation.restricted_copy(tmp_path / "headers", types, images_of_launch=IMAGES_OF_LAUNCH)
    for bug in planted_bugs.found_by(kind):
        assert len(_holding(tmp_path / "headers", bug, ops)) == 1, bug
        assert bug.old != bug.new


def _unnoticed(kind: str, mutants: Sequence[Mutant], tmp_path: Path) -> list[str]:
    """Returns the bugs that no case notices, of those which must each fit the kernels in one place."""
    ops, dtypes = PLANTED[kind]
    runner = emulation.Runner(tmp_path, "-O0", "-w")
    runs = {}
    for subsampling in sorted({mutant.subsampling for mutant in mutants}):
        file = tmp_path / subsampling
        file.write_bytes(_cases(ops, {subsampling: FACTORS[subsampling]}, dtypes, 3))
        runs[subsampling] = _Run(runner, ops, dtypes, subsampling, file)
    plan = [(None, run) for run in runs.values()] + [(mutant, runs[mutant.subsampling]) for mutant in mutants]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: _planted(tmp_path, job[0], *job[1]), enumerate(plan)))
    for name, status, said in results[: len(runs)]:
        assert (name, status) == ("none", 0), said
    unfit = [f"{name}: {said}" for name, status, said in results[len(runs) :] if status is None]
    assert not unfit, "\n".join(unfit)
    return [name for name, status, _ in results[len(runs) :] if status == 0]
