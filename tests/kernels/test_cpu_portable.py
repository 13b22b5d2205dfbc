"""The CPU kernels without torch: built with clang, emulated for aarch64, and in threads under ThreadSanitizer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cases import draw

SOURCE = Path(__file__).resolve().parent / "cpu" / "round_trip.cpp"
FLAGS = ["-std=c++20", "-O1", "-fwrapv", "-ffp-contract=off", "-w", f"-I{SOURCE.parents[3] / 'csrc'}"]

#: The compiler, and what runs its programs.
MACHINES = {
    "clang": (["clang++"], []),
    "aarch64": (["aarch64-linux-gnu-g++", "-static"], ["qemu-aarch64"]),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_round_trip_elsewhere_is_that_of_this_machine(machine: str, tmp_path: Path, rng: np.random.Generator) -> None:
    compiler, runner = MACHINES[machine]
    for tool in (compiler[0], *runner):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}")
    program = tmp_path / "round_trip"
    subprocess.run([*compiler, *FLAGS, str(SOURCE), "-o", str(program)], check=True)
    height, width = 37, 71
    pixels = draw(rng, 3, height, width, images=1).pixels
    command = [*runner, str(program), str(height), str(width), "60"]
    written = subprocess.run(command, input=pixels.tobytes(), capture_output=True, check=True).stdout
    image = torch.from_numpy(pixels)
    expected = b""
    for factors in ((1, 1), (2, 1), (2, 2), (1, 2), (4, 1)):
        for fancy in (True, False):
            for samples in (image, image.float() / 255):
                out, _ = torch.ops.fdjpeg.round_trip(samples, None, 60.0, *factors, fancy)
                expected += out.numpy().tobytes()
    assert written == expected


def test_threads_do_not_race(tmp_path: Path) -> None:
    """ThreadSanitizer sees no race between rows of MCUs, and the rows' results do not depend on the threads."""
    program = tmp_path / "threads"
    source = SOURCE.with_name("threads.cpp")
    built = subprocess.run(
        ["g++", *FLAGS, "-O0", "-g1", "-fsanitize=thread", str(source), "-o", str(program)],
        capture_output=True,
        text=True,
    )
    if "cannot find" in built.stderr and "tsan" in built.stderr:
        pytest.skip("g++ has no ThreadSanitizer here")
    assert built.returncode == 0, built.stderr
    # Without a fixed layout of addresses, some kernels place memory where ThreadSanitizer does not expect it.
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []
    done = subprocess.run([*fixed, str(program), "45", "70", "4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
