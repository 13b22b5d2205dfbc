"""The GPU's kernels, run on a CPU, give the bits of the reference whatever the order of threads; broken ones do not.

That they give Pillow's bits is for ``test_conformance.py`` to show, where this emulation is one of the backends.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cases
import emulation
import numpy as np
import pytest
import torch
from oracles import FACTORS
from torch import Tensor

from fdjpeg import reference

pytestmark = pytest.mark.skipif(emulation.compiler() is None, reason="there is no g++ to compile the emulation with")

SUBSAMPLINGS = pytest.mark.parametrize("subsampling", FACTORS)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: Of the largest gradient: what summing in another order costs, and rounding to the dtype.
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 2e-5, torch.float64: 1e-12}


def _images(rng: np.random.Generator, dtype: torch.dtype, channels: int, height: int, width: int) -> Tensor:
    """Two images of noise, some samples of a floating one NaN."""
    pixels = torch.from_numpy(rng.random((2, channels, height, width)))
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


def _assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    scale = float(expected.double().abs().max()) if expected.numel() else 0.0
    difference = float((actual.double() - expected.double()).abs().max()) if expected.numel() else 0.0
    assert difference <= tolerance * scale, f"{difference} of {scale}"


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@SUBSAMPLINGS
def test_forward_in_each_order_and_layout(subsampling: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    factors = FACTORS[subsampling]
    for (height, width), channels, fancy in itertools.product([(43, 70), (16, 64)], (3, 1), (True, False)):
        tables = torch.from_numpy(rng.uniform(0.2, 40, (2, 3, 8, 8))).float()
        orders = itertools.cycle(emulation.ORDERS)
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
    for (height, width), channels, fancy in itertools.product([(43, 70), (64, 66)], (3, 1), (True, False)):
        tables = torch.from_numpy(rng.uniform(0.2, 40, (1, 3, 8, 8))).float()
        image = _images(rng, dtype, channels, height, width)
        _, planes = reference.round_trip(image, tables, 0.0, *factors, fancy)
        orders = itertools.cycle(emulation.ORDERS)
        for grad in _layouts(torch.from_numpy(rng.standard_normal(image.shape)).to(dtype)):
            arguments = (grad, planes, image, tables, 0.0, *factors, fancy, True)
            expected = reference.round_trip_backward(*arguments)
            actual = emulation.round_trip_backward(*arguments, order=next(orders))
            _assert_close(actual[0], expected[0], TOLERANCE[dtype])
            _assert_close(actual[1], expected[1], 1e-4)
            without, none = emulation.round_trip_backward(*arguments[:-1], False)
            assert torch.equal(without, actual[0])
            assert none.shape == (0,)


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
    for order, channels in itertools.product(emulation.ORDERS, (3, 1)):
        image = _images(rng, torch.float32, channels, 45, 67)
        tables = torch.from_numpy(rng.uniform(0.2, 40, (2, 3, 8, 8))).float()
        expected = reference.encode(image, tables, 0.0, *FACTORS[subsampling])
        actual = emulation.encode(image, tables, 0.0, *FACTORS[subsampling], order=order)
        for one, other in zip(actual, expected, strict=True):
            assert torch.equal(one, other)
        options = (tables, 45, 67, *FACTORS[subsampling], True, torch.uint8)
        assert torch.equal(emulation.decode(*expected, *options, order=order), reference.decode(*expected, *options))


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
# Sanitizers and planted bugs: a program of its own reads cases from a file


def _file_of_cases(
    path: Path, subsamplings: dict[str, tuple[int, int]], dtypes: list[torch.dtype], channels: int
) -> Path:
    rng = np.random.default_rng(20)
    blob = b""
    for factors, dtype in itertools.product(subsamplings.values(), dtypes):
        for height, width, layout, by_tables in ((37, 70, 0, True), (16, 96, 0, False), (66, 37, 1, True)):
            image = _layouts(_images(rng, dtype, channels, height, width))[layout]
            grad = torch.from_numpy(rng.standard_normal(image.shape)).to(dtype)
            tables = torch.from_numpy(rng.uniform(0.2, 30, (2, 3, 8, 8))).float() if by_tables else None
            blob += emulation.cases_of(image, grad, tables, 60.0, factors, height != 66, reference)
    path.write_bytes(blob)
    return path


def test_no_sanitizer_complains(tmp_path: Path) -> None:
    """No access beyond an array, no undefined arithmetic, no misaligned word; arrays are just as large as needed."""
    headers = tmp_path / "headers"
    emulation.restricted_copy(headers, ("uint8", "float32"))
    runner = tmp_path / "runner"
    flags = ("-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    try:
        emulation.build_runner(runner, headers, *flags)
    except RuntimeError as error:
        if "asan" not in str(error):
            raise
        pytest.skip("g++ has no sanitizers here")
    for channels in (3, 1):
        file = _file_of_cases(tmp_path / "cases", FACTORS, [torch.uint8, torch.float32], channels)
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
        done = subprocess.run([runner, file], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr


class Mutant(NamedTuple):
    """A bug: `old`, which stands once in the kernels, becomes `new`."""

    name: str
    old: str
    new: str
    subsampling: str = "4:2:0"
    file: str = "codec_kernels.cuh"


MUTANTS = (
    Mutant("no barrier before the columns", "  __syncthreads();\n  if (!busy) return;", "  if (!busy) return;"),
    Mutant("no barrier before the rows back", "  __syncwarp();\n\n  uint8_t* planes", "  uint8_t* planes"),
    Mutant("decode: no barrier before the columns", "  __syncwarp();\n  if (busy) {", "  if (busy) {"),
    Mutant("decode: no barrier before the rows", "  __syncwarp();\n  if (!busy) return;", "  if (!busy) return;"),
    Mutant("backward: no barrier", "    __syncthreads();\n    if (!inside) return;", "    if (!inside) return;"),
    Mutant("tables: no barrier after the steps", "  __syncthreads();\n  float sum[", "  float sum["),
    Mutant("tables: no barrier before the columns", "    __syncwarp();\n    FDJPEG_UNROLL\n", "    FDJPEG_UNROLL\n"),
    Mutant("tables: no barrier after the columns", "    __syncwarp();\n  }\n", "  }\n"),
    Mutant("tables: no barrier before the sums", "  __syncthreads();\n  for (int i", "  for (int i"),
    Mutant("a tile's row of eight words", "kTileRow = 9", "kTileRow = 7"),
    Mutant("blocks of the tile overlap", "kTileBlock = kBlock * kTileRow", "kTileBlock = kBlock * kTileRow - 8"),
    Mutant(
        "another thread's row",
        "return L::kVertical == 2 ? 2 * row + v : row;",
        "return L::kVertical == 2 ? row + 8 * v : row;",
    ),
    Mutant("no level shift forward", "x[0] -= kBlock * kLevelShift << kPass1Bits;", ""),
    Mutant(
        "level shift off by one bit",
        "if (!may_wrap) x[0] += kBlock * kLevelShift << kPass1Bits;",
        "if (!may_wrap) x[0] += kBlock * kLevelShift << 1;",
    ),
    Mutant("scaled by too little", "processor::saturate(x), 255.0f)", "processor::saturate(x), 254.9f)"),
    Mutant(
        "no limit to [0, 1]", "processor::multiply(processor::saturate(x), 255.0f)", "processor::multiply(x, 255.0f)"
    ),
    Mutant("columns at the right edge", "row[smaller(i, last) * stride]", "row[smaller(i, last - 1) * stride]"),
    Mutant("rows at the bottom edge", "place.luma_row(v), sizes.height - 1)", "place.luma_row(v), sizes.height - 2)"),
    Mutant("chroma rows beyond the last", "(mcu_row + 1) * kBlock > sizes.chroma_height", "false"),
    Mutant("the bias of averages", "sums[k] + average_bias(L::kHorizontal, L::kVertical, k)", "sums[k] + 1"),
    Mutant("the shift of averages", "kSamples == 4 ? 2 :", "kSamples == 4 ? 1 :"),
    Mutant(
        "the partner's half of chroma", "const bool right = place.group != 0;", "const bool right = place.group == 0;"
    ),
    Mutant(
        "Cr by the table of luma",
        "return 1 + (L::kHorizontal == 1 ? pass - L::kLumaRows : lane / kBlock % 2);",
        "return lane / kBlock % 2;",
    ),
    Mutant(
        "a table transposed",
        "step[component][index % kBlock][index / kBlock] =",
        "step[component][index / kBlock][index % kBlock] =",
    ),
    Mutant("the first image's tables", "steps.tables[image * steps.image_stride +", "steps.tables["),
    Mutant(
        "Cr where Cb belongs",
        "component == 1 ? sizes.cb_offset : sizes.cr_offset;\n      const",
        "component == 2 ? sizes.cb_offset : sizes.cr_offset;\n      const",
    ),
    Mutant(
        "a stride in blocks",
        "((block_row * kBlock + y) * columns + block_column) * kBlock;\n      *",
        "((block_row * kBlock + y) * rows + block_column) * kBlock;\n      *",
    ),
    Mutant("flags of the wrong threads", "all >> lane & (", "all >> (lane ^ 16) & ("),
    Mutant("the padding is not written", "flags[used + lane] = 0;", "{}"),
    Mutant("left edge of chroma", "column == 0 ? sample[i][1] :", "column == 2 ? sample[i][1] :"),
    Mutant("right edge of chroma", "if (column + k > last_column)", "if (column + k > last_column + 1)"),
    Mutant("rows of chroma", "clamp(row + i - kHaloDown, 0, last_row)", "clamp(row + i, 0, last_row)"),
    Mutant(
        "the far row of chroma",
        "U::kDown ? kRow + (kLower ? 1 : -1) : kRow",
        "U::kDown ? kRow + (kLower ? -1 : 1) : kRow",
    ),
    Mutant("the triangle's side", "triangle_of_blend<late>", "triangle_of_blend<!late>"),
    Mutant(
        "the triangle across alone",
        "return triangle<late>(near, beside);",
        "return triangle<!late>(near, beside);",
        "4:2:2",
    ),
    Mutant(
        "the triangle down alone",
        "return triangle<lower>(near, vertical);",
        "return triangle<!lower>(near, vertical);",
        "4:4:0",
    ),
    Mutant("columns of 4:1:1", "return L::kHorizontal == 4 ? 2 * group + v : group;", "return group;", "4:1:1"),
    Mutant("columns beyond the image", "if (i <= last) row[i * stride]", "if (i < last) row[i * stride]"),
    Mutant("encode: a block's rows", "(block * kBlockSize + y * kBlock)", "(block * kBlockSize + y)"),
    Mutant(
        "decode: no saturation",
        "dequantize_saturating(x[i], step_of(job.steps, n, job.component, i * kBlock + column))",
        "x[i] * step_of(job.steps, n, 0, i * kBlock + column)",
    ),
    Mutant("backward: no mask", "static_cast<unsigned>(pixel.g) <= kMaxSample", "true"),
    Mutant("backward: the ring's left", "tile_x + ring_x - 1,", "tile_x + ring_x,"),
    Mutant(
        "backward: the bottom edge",
        "sizes.chroma_height * U::kVertical - tile_y, kTileTall + 1",
        "sizes.height - tile_y, kTileTall + 1",
    ),
    Mutant("backward: weights", "a == 0 || a == 3 ? Real(.25) : Real(.75)", "a == 0 || a == 3 ? Real(.75) : Real(.25)"),
    Mutant("backward: replicas", "? 1 + sizes.chroma_width * U::kHorizontal - sizes.width : 1", "? 1 : 1"),
    Mutant("backward: NaN passes", "samples[c][x] = T{};", "{}"),
    Mutant("tables: the steps' errors", "* step[i].step - c[i];", "* step[i].step + c[i];"),
    Mutant("tables: beyond the edge", "y < height && x + i < width ? row[i] : 0.0f", "row[i]"),
    Mutant("tables: a part is lost", "p < job.parts", "p < job.parts - 1"),
    Mutant("tables: Cb's sum is Cr's", "both ? 1 + lane / kBlock % 2 : slot", "both ? 2 - lane / kBlock % 2 : slot"),
)


def _planted(folder: Path, number: int, mutant: Mutant | None, subsampling: str) -> tuple[str, int | None, str]:
    """Compiles and runs a mutant (or none) for one subsampling: its name, the exit status, what it said."""
    name = "none" if mutant is None else mutant.name
    headers = folder / f"headers-{number}"
    emulation.restricted_copy(headers, ("float32",), [FACTORS[subsampling]])
    if mutant is not None:
        path = headers / mutant.file
        text = path.read_text()
        if text.count(mutant.old) != 1:
            return name, None, f"{mutant.old!r} stands {text.count(mutant.old)} times in {mutant.file}, not once"
        path.write_text(text.replace(mutant.old, mutant.new))
    runner = folder / f"runner-{number}"
    emulation.build_runner(runner, headers, "-O0", "-w")
    try:
        done = subprocess.run([runner, folder / subsampling], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return name, 1, "ran for too long"
    return name, done.returncode, done.stdout + done.stderr


def test_planted_bugs_are_found(tmp_path: Path) -> None:
    used = {mutant.subsampling for mutant in MUTANTS}
    for subsampling in used:
        _file_of_cases(tmp_path / subsampling, {subsampling: FACTORS[subsampling]}, [torch.float32], 3)
    plan = [(None, subsampling) for subsampling in sorted(used)] + [(mutant, mutant.subsampling) for mutant in MUTANTS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda job: _planted(tmp_path, job[0], *job[1]), enumerate(plan)))
    for name, status, said in results[: len(used)]:
        assert (name, status) == ("none", 0), said
    unfit = [f"{name}: {said}" for name, status, said in results[len(used) :] if status is None]
    assert not unfit, "\n".join(unfit)
    survivors = [name for name, status, _ in results[len(used) :] if status == 0]
    assert not survivors, f"bugs that no case noticed: {survivors}"
