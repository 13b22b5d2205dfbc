"""The Triton kernels, interpreted, give the bits of the reference; and they compile for the GPUs that they are for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

_HERE = Path(__file__).resolve().parent

# The interpreter must be chosen before the kernels are defined, and so in a process of its own.
_INTERPRETED = """
import itertools, json, math, sys
import torch
from fdjpeg import reference, triton_kernels

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(7)
horizontal, vertical = json.loads(sys.argv[1])
tolerances = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 2e-5, torch.float64: 1e-12}
dtypes = itertools.cycle([torch.float32, torch.uint8, torch.bfloat16, torch.float64, torch.float16])
checked = 0
for fancy, channels, (height, width) in itertools.product((True, False), (3, 1), ((21, 37), (1, 5), (16, 4))):
    for dtype in (torch.float32, next(dtypes)):
        image = torch.rand(2, channels, height, width, generator=generator)
        image = (image * 255).to(dtype) if dtype == torch.uint8 else image.to(dtype)
        if dtype != torch.uint8:
            image[0, 0, 0, width // 2] = math.nan
        if checked % 3 == 0:
            image = image.to(memory_format=torch.channels_last)
        tables = None if checked % 2 else torch.rand(2, 3, 8, 8, generator=generator) * 40
        options = (tables, 60.0, horizontal, vertical, fancy)
        out, planes = triton_kernels.round_trip(image, *options)
        expected, expected_planes = reference.round_trip(image, *options)
        assert torch.equal(out, expected) and out.stride() == expected.stride(), (fancy, image.shape, dtype)
        assert torch.equal(planes, expected_planes), (fancy, image.shape, dtype)
        checked += 1
        if dtype == torch.uint8:
            continue
        grad = torch.randn(image.shape, generator=generator).to(dtype)
        arguments = (grad, planes, image, *options, checked % 4 < 2)
        actual, of_tables = triton_kernels.round_trip_backward(*arguments)
        expected, expected_of_tables = reference.round_trip_backward(*arguments)
        difference = (actual.double() - expected.double()).abs().max() / expected.double().abs().max()
        assert difference <= tolerances[dtype], (fancy, image.shape, dtype, difference)
        assert of_tables.shape == expected_of_tables.shape
        if of_tables.numel():
            difference = (of_tables - expected_of_tables).abs().max() / expected_of_tables.abs().max()
            assert difference <= 1e-4, (fancy, image.shape, dtype, difference)
print(checked)
"""


@pytest.mark.parametrize("factors", [(1, 1), (2, 1), (2, 2), (1, 2), (4, 1)], ids=str)
def test_interpreted(factors: tuple[int, int]) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _INTERPRETED, json.dumps(factors)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 24


def test_refuses_more_pixels_than_a_program_counts() -> None:
    from fdjpeg import triton_kernels

    image = torch.zeros(1, 1, 1, 1).expand(1, 3, 2**16, 2**15)
    with pytest.raises(ValueError, match=r"image should have up to .* got 65536 × 32768"):
        triton_kernels.round_trip(image, None, 75.0, 2, 2, True)
    with pytest.raises(ValueError, match="image should have up to"):
        triton_kernels.round_trip_backward(image, image, image, None, 75.0, 2, 2, True, False)


_CONSTANTS: dict[str, list[dict[str, Any]]] = {
    "code_luma": [{"grey": False, "has_tables": True, "rows": 128}],
    "code_chroma": [{"horizontal": 2, "vertical": 2, "has_tables": False, "rows": 128}],
    "flag_mcus": [{"channels": 3, "tall": 16, "wide": 16}],
    "emit_image": [
        {"horizontal": 2, "vertical": 2, "across": True, "down": True, "grey": False, "pixels": 1024},
        # Triton makes constants of arguments that are 1.
        {"horizontal": 1, "vertical": 1, "across": False, "down": False, "grey": True, "pixels": 1024}
        | {"height": 1, "width": 1},
    ],
    "mask_pixels": [{"horizontal": 2, "vertical": 2, "across": True, "down": True, "pixels": 1024}],
    "gather_chroma": [{"horizontal": 2, "vertical": 1, "across": True, "down": False, "pixels": 1024}],
    "spread_gradient": [{"horizontal": 2, "vertical": 2, "grey": False, "pixels": 1024}],
    "share_of_luma": [{"grey": False, "has_tables": True, "rows": 128}],
    "share_of_chroma": [{"horizontal": 2, "vertical": 2, "has_tables": False, "rows": 128}],
}
_POINTERS = {"planes": "*u8", "masks": "*u8", "chroma": "*fp32", "shares": "*fp32", "tables": "*fp32", "base": "*i32"}
_IMAGES = {"image", "grad", "out"}


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("kernel", list(_CONSTANTS))
def test_compiles_ahead_of_time(kernel: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fdjpeg import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(triton_kernels, kernel)
    dtypes = {80: "*fp16", 90: "*fp32", 100: "*bf16"}
    for constants in _CONSTANTS[kernel]:
        signature = {
            name: "constexpr"
            if name in constants
            else dtypes[capability]
            if name in _IMAGES
            else _POINTERS.get(name, "i32")
            for name in function.arg_names
        }
        places = {(function.arg_names.index(name),): value for name, value in constants.items()}
        source = ASTSource(fn=function, signature=signature, constexprs=places)
        options = {"num_warps": 4, "enable_fp_fusion": False}
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert compiled.asm["cubin"]
        assert "fma.rn.f32" not in compiled.asm["ptx"], "a fused multiplication and addition rounds once, not twice"
