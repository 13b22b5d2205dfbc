"""The CPU kernels on every instruction set of the machine, forced in turn by ``FDJPEG_ISA``.

The choice is made once in a process, so each instruction set that this process has not chosen has its own, which
runs the conformance suite and the tests of this file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cases import draw, samples
from support.emulation import compiler
from support.instruction_sets import VECTOR_BYTES, available, in_use

from fdjpeg import reference
from fdjpeg._geometry import SAMPLING_FACTORS, Geometry

ROOT = Path(__file__).resolve().parents[2]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture(params=list(VECTOR_BYTES))
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction set that this machine has."""
    if request.param not in available():
        pytest.skip(f"this processor has no {request.param}")
    return str(request.param)


def test_forced_unknown_instruction_set_is_an_error_that_names_the_known() -> None:
    done = in_use("bogus")
    assert done.returncode != 0
    assert "FDJPEG_ISA must name an instruction set of this processor" in done.stderr
    assert "got bogus" in done.stderr
    assert "scalar" in available()


def test_forced_instruction_set_gives_the_bits_of_round_trips(isa: str) -> None:
    assert _failures_on(isa, "cpu and test_round_trip") == ""


@pytest.mark.slow
def test_forced_instruction_set_passes_every_test(isa: str) -> None:
    assert _failures_on(isa, "cpu and not forced") == ""


def _failures_on(isa: str, chosen: str) -> str:
    """Runs the chosen tests on an instruction set, and returns what pytest prints if one fails."""
    assert in_use(isa).stdout.strip() == isa
    if isa == torch.ops.fdjpeg.cpu_instruction_set():
        return ""  # The tests of this process run on it.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen, *_SUITE],
        cwd=ROOT,
        env={**os.environ, "FDJPEG_ISA": isa},
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr if done.returncode else ""


_SUITE = ("tests/codec/test_conformance.py", "tests/codec/test_by_block.py", "tests/kernels/test_cpu_isa.py")


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_forced_quantizer_is_exact_for_every_coefficient_and_step(isa: str, tmp_path: Path) -> None:
    program = tmp_path / "quantize_all"
    flags = ["-std=c++20", "-O1", "-fwrapv", "-w", f"-DFDJPEG_VECTOR_BYTES={VECTOR_BYTES[isa]}"]
    source = ROOT / "tests" / "kernels" / "cpu" / "quantize_all.cpp"
    subprocess.run([compiler() or "", *flags, f"-I{ROOT}/csrc", str(source), "-o", str(program)], check=True)
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "0\n"


# ---------------------------------------------------------------------------------------------------------------------
# Cases that the conformance suite leaves out; these run in every process that is forced


@pytest.mark.parametrize("upsampling", ["fancy", "nearest"])
@pytest.mark.parametrize("channels", [3, 1], ids=["rgb", "grey"])
@pytest.mark.parametrize("subsampling", SAMPLING_FACTORS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_backward_is_the_references(
    dtype: torch.dtype, subsampling: str, channels: int, upsampling: str, rng: np.random.Generator
) -> None:
    factors, fancy = SAMPLING_FACTORS[subsampling], upsampling == "fancy"
    for height, width in ((1, 1), (9, 3), (17, 37), (33, 70), (40, 131)):
        batch = draw(rng, channels, height, width, images=2)
        image = samples(rng, batch.pixels, dtype)
        tables, quality = batch.arguments()
        _, planes = torch.ops.fdjpeg.round_trip(image, tables, quality, *factors, fancy)
        # A gradient whose channels take turns, as of an image in channels-last memory.
        gradient = torch.randn(2, height, width, channels).to(dtype).permute(0, 3, 1, 2)
        arguments = (gradient, planes, image, tables, quality, *factors, fancy, True)
        of_image, of_tables = torch.ops.fdjpeg.round_trip_backward(*arguments)
        expected_image, expected_tables = reference.round_trip_backward(*arguments)
        tolerance = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 1e-5, torch.float64: 1e-10}[dtype]
        torch.testing.assert_close(of_image, expected_image, rtol=tolerance, atol=tolerance)
        scale = 1 + expected_tables.abs().max().item()
        torch.testing.assert_close(of_tables, expected_tables, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf"), 1.0001], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_flags_tell_of_every_odd_sample(dtype: torch.dtype, value: float) -> None:
    geometry = Geometry.of(19, 75, 3, 2, 2)
    for place in ((0, 0, 0), (1, 18, 74), (2, 7, 40), (0, 16, 63), (2, 3, 64)):
        image = torch.full((1, 3, 19, 75), -0.25, dtype=dtype)
        channel, row, column = place
        image[0, channel, row, column] = torch.tensor(value * (1.01 if value == 1.0001 else 1)).to(dtype)
        _, planes = torch.ops.fdjpeg.round_trip(image, None, 75.0, 2, 2, True)
        flags = planes[0, geometry.flag_offset :][: geometry.mcu_rows * geometry.mcu_columns]
        assert flags.view(geometry.mcu_rows, geometry.mcu_columns)[row // 16, column // 16] != 0
        _, planes = torch.ops.fdjpeg.round_trip(image.nan_to_num(0).clamp(max=1), None, 75.0, 2, 2, True)
        assert not planes[0, geometry.flag_offset :].any()


@pytest.mark.parametrize("width", [256, 250])
@pytest.mark.parametrize("dtype", [torch.uint8, *FLOATS], ids=str)
def test_a_large_batch_gives_what_its_images_give_alone(dtype: torch.dtype, width: int) -> None:
    """Results of more than 8 MiB are written around the caches, where their rows are aligned."""
    count = 48 // dtype.itemsize
    bytes_of_one = torch.randint(0, 256, (3, 256, width), dtype=torch.uint8)
    image = bytes_of_one if dtype == torch.uint8 else (bytes_of_one / 255).to(dtype)
    batch = torch.stack([image.roll(i, -1) for i in range(count)])
    assert batch.numel() * batch.element_size() > 8 << 20
    out, planes = torch.ops.fdjpeg.round_trip(batch, None, 60.0, 2, 2, True)
    for i in range(count):
        alone, _ = torch.ops.fdjpeg.round_trip(batch[i : i + 1], None, 60.0, 2, 2, True)
        assert torch.equal(out[i : i + 1], alone)
    if dtype == torch.uint8:
        return
    grad = torch.stack([(image - 0.5).roll(i, -2) for i in range(count)])
    of_batch, _ = torch.ops.fdjpeg.round_trip_backward(grad, planes, batch, None, 60.0, 2, 2, True, False)
    for i in range(count):
        one = slice(i, i + 1)
        arguments = (grad[one], planes[one], batch[one], None, 60.0, 2, 2, True, False)
        assert torch.equal(of_batch[one], torch.ops.fdjpeg.round_trip_backward(*arguments)[0])


@pytest.mark.parametrize("upsampling", ["fancy", "nearest"])
@pytest.mark.parametrize("subsampling", SAMPLING_FACTORS)
def test_rows_shared_out_among_threads_give_the_same_samples(subsampling: str, upsampling: str) -> None:
    """Shares end within images, where the triangle blends rows of two threads; a share is of 2^15 samples at least."""
    sampling = (*SAMPLING_FACTORS[subsampling], upsampling == "fancy")
    before = torch.get_num_threads()
    try:
        for shape in ((1, 3, 401, 500), (3, 3, 215, 300), (1, 1, 410, 401)):
            image = torch.randint(0, 256, shape, dtype=torch.uint8)
            found = []
            for threads in (1, 2, 3, 5):
                torch.set_num_threads(threads)
                found.append(torch.ops.fdjpeg.round_trip(image, None, 60.0, *sampling)[0])
            assert all(torch.equal(out, found[0]) for out in found[1:])
    finally:
        torch.set_num_threads(before)


def test_strided_images_give_the_same_samples(rng: np.random.Generator) -> None:
    for dtype in (torch.uint8, *FLOATS):
        image = samples(rng, draw(rng, 3, 37, 71).pixels, dtype)
        expected, _ = torch.ops.fdjpeg.round_trip(image, None, 60.0, 2, 2, True)
        flipped = image.transpose(2, 3).contiguous().transpose(2, 3)
        for same in (image.contiguous(memory_format=torch.channels_last), flipped):
            actual, _ = torch.ops.fdjpeg.round_trip(same, None, 60.0, 2, 2, True)
            assert torch.equal(actual, expected)
