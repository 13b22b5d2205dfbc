"""A second witness: the exact kernels' PTX, as nvcc makes it, in an interpreter written from NVIDIA's manual.

Here float32 at 4:2:0 and 4:4:4 and the other types at 4:2:0, on a few odd-sized images; ``python tests/ptx.py`` runs
every layout and type.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from support import ptx_cases, ptx_kernels, ptx_program
from support.ptx_arithmetic import computed
from support.ptx_kernels import Sampling
from support.ptx_machine import Machine
from support.ptx_memory import BrokenRule, Global

SAMPLINGS = {"4:2:0": Sampling(2, 2), "4:4:4": Sampling(1, 1)}


def _triangle(sampling: Sampling) -> bool:
    return sampling.horizontal == 2


@pytest.fixture(scope="module")
def module() -> ptx_program.Module:
    if ptx_kernels.NVCC is None:
        pytest.skip("there is no nvcc")
    names = [ptx_kernels.names_of(one, _triangle(one), torch.float32) for one in SAMPLINGS.values()]
    return ptx_kernels.kept_module(names, "float32")


@pytest.mark.parametrize(("height", "width", "shift"), [(17, 35, 0), (18, 38, 0), (24, 40, 1)])
@pytest.mark.parametrize("subsampling", SAMPLINGS)
def test_ptx_gives_the_bits_of_the_cpu(
    module: ptx_program.Module, subsampling: str, height: int, width: int, shift: int
) -> None:
    """Without a race, an access out of range, or one that is not aligned: also where images are at an odd address."""
    sampling = SAMPLINGS[subsampling]
    image = ptx_cases.image_of(torch.float32, height, width, sampling)
    assert ptx_cases.check(module, sampling, _triangle(sampling), image, shift) == []


@pytest.mark.parametrize(
    "dtype",
    [
        torch.uint8,
        *(pytest.param(one, marks=pytest.mark.slow) for one in (torch.float16, torch.bfloat16, torch.float64)),
    ],
    ids=str,
)
def test_ptx_of_other_types_gives_the_bits_of_the_cpu(dtype: torch.dtype) -> None:
    """Forward, and but for bytes the straight-through gradient."""
    if ptx_kernels.NVCC is None:
        pytest.skip("there is no nvcc")
    sampling = SAMPLINGS["4:2:0"]
    names = [ptx_kernels.names_of(sampling, True, dtype)]
    module = ptx_kernels.kept_module(names, str(dtype).removeprefix("torch."))
    for height, width, shift in ((17, 35, 0), (24, 40, 1)):
        image = ptx_cases.image_of(dtype, height, width, sampling)
        assert ptx_cases.check(module, sampling, True, image, shift) == [], (height, width, shift)


#: Bugs in the PTX of 4:2:0: a part of a kernel's name, a pattern, what takes its place, and which match is changed.
_BUGS = {
    "no barrier of the block": ("code_blocks", r"bar\.sync\s+0;", ";", 0),
    "no barrier of the warp": ("code_blocks", r"bar\.warp\.sync\s+-1;", ";", 0),
    "no barrier of the tile": ("differentiate", r"bar\.sync\s+0;", ";", 0),
    "a column too far": ("code_blocks", r"(ld\.shared\.u32 .*\+)36\]", r"\g<1>72]", 0),
    "a store that is not aligned": ("emit_image", r"(st\.global\.cs\.v4\.u32) \[(%rd\d+)\]", r"\1 [\2+4]", 0),
    "a byte beyond the planes": ("emit_image", r"(ld\.global\.u8\s.*%rd\d+)\]", r"\1+1048576]", 0),
    "a rounding the other way": ("code_blocks", r"cvt\.rzi\.s32\.f32", "cvt.rpi.s32.f32", 3),
    "a wrong lane": ("code_blocks", r"shfl\.sync\.bfly", "shfl.sync.idx", 0),
    "another clamp": ("differentiate", r"setp\.lt\.u32(\s+%p\d+, %r\d+, )256", r"setp.lt.u32\g<1>200", 0),
}


@pytest.mark.parametrize("bug", _BUGS)
def test_planted_bugs_are_found(module: ptx_program.Module, bug: str) -> None:
    """In the text of the PTX, so that nothing is compiled."""
    kernel, pattern, replacement, which = _BUGS[bug]
    folder = ptx_kernels.ROOT / "build" / "tests" / "ptx-float32"
    parts = re.split(r"(?=^\.(?:visible )?\.?entry)", (folder / "kernels.ptx").read_text(), flags=re.MULTILINE)
    changed = []
    for part in parts:
        if kernel in part[:200] and "ILi2ELi2E" in part[:200]:
            found = list(re.finditer(pattern, part))[which]
            part = part[: found.start()] + found.expand(replacement) + part[found.end() :]
            changed.append(kernel)
        changed.append(part)
    text = "".join(part for part in changed if part != kernel)
    assert len(changed) == len(parts) + 1
    sampling = SAMPLINGS["4:2:0"]
    image = ptx_cases.image_of(torch.float32, 24, 40, sampling)
    try:
        found = ptx_cases.check(ptx_program.parse(text), sampling, True, image)
    except BrokenRule as rule:
        found = [str(rule)]
    assert found


# ---------------------------------------------------------------------------------------------------------------------
# The interpreter, on programs written by hand

_HEAD = """
.visible .entry k(
	.param .align 8 .b8 k_param_0[8]
)
.maxntid 64, 1, 1
{
	.reg .pred 	%p<4>;
	.reg .b32 	%r<16>;
	.reg .b64 	%rd<8>;
	.shared .align 4 .b8 tile[256];
	ld.param.u64 	%rd1, [k_param_0];
	mov.u32 	%r1, %tid.x;
	mul.wide.u32 	%rd2, %r1, 4;
	add.s64 	%rd3, %rd1, %rd2;
	shl.b32 	%r2, %r1, 2;
	mov.u32 	%r3, tile;
	add.s32 	%r4, %r3, %r2;
	xor.b32 	%r5, %r4, 4;
	xor.b32 	%r6, %r4, 128;
"""


def _run(body: str, size: int = 256) -> list[int]:
    """Runs a kernel of 64 threads; %rd3 is each one's word of the result, %r4 of shared memory."""
    module = ptx_program.parse(_HEAD + body + "\n\tret;\n}\n")
    memory = Global()
    address = memory.add("out", np.zeros(size, np.uint8))
    Machine(module, module.kernels["k"], (1, 1), address.to_bytes(8, "little"), memory).run()
    return memory.read("out").view("u4").tolist()


def test_branches_part_and_join() -> None:
    out = _run("""
	setp.lt.u32 	%p1, %r1, 10;
	@%p1 bra 	$less;
	mov.u32 	%r7, 0;
$loop:
	add.s32 	%r7, %r7, 2;
	setp.lt.u32 	%p2, %r7, %r1;
	@%p2 bra 	$loop;
	bra.uni 	$join;
$less:
	mov.u32 	%r7, 1;
$join:
	mov.u32 	%r8, -1;
	vote.sync.ballot.b32 	%r9, %p1, -1;
	add.s32 	%r7, %r7, %r9;
	st.global.u32 	[%rd3], %r7;""")
    least = [1 if i < 10 else max(2, i + i % 2) for i in range(64)]
    assert out == [value + (0x3FF if i < 32 else 0) for i, value in enumerate(least)]


def test_shuffles_follow_the_manual() -> None:
    """Segments of eight, and a lane beyond one, which gives the thread's own number and false."""
    out = _run("""
	shfl.sync.idx.b32 	%r7|%p1, %r1, 3, 0x181f, -1;
	shfl.sync.bfly.b32 	%r8|%p2, %r1, 16, 7, -1;
	selp.u32 	%r9, 1000, 0, %p2;
	add.s32 	%r8, %r8, %r9;
	mad.lo.s32 	%r7, %r8, 10000, %r7;
	st.global.u32 	[%rd3], %r7;""")
    # 0x181f: clamp 31, segments of 8. Clamp 7: lanes above 7 are out of range.
    for thread, value in enumerate(out):
        lane, first = thread % 32, thread - thread % 32
        source = lane ^ 16
        expected = first + source + 1000 if source <= 7 else thread
        assert value == (expected * 10000 + first + lane // 8 * 8 + 3) % 2**32


@pytest.mark.parametrize(
    ("barrier", "neighbour", "race"),
    [
        ("", "%r5", True),
        ("bar.warp.sync -1;", "%r5", False),
        ("bar.warp.sync -1;", "%r6", True),  # of the other warp
        ("bar.sync 0;", "%r6", False),
    ],
)
def test_races_are_found_unless_barriers_order_them(barrier: str, neighbour: str, race: bool) -> None:
    body = f"""
	st.shared.u32 	[%r4], %r1;
	{barrier}
	ld.shared.u32 	%r7, [{neighbour}];
	st.global.u32 	[%rd3], %r7;"""
    if race:
        with pytest.raises(BrokenRule, match="a race in shared memory: a read of what another thread writes"):
            _run(body)
    else:
        assert _run(body) == [i ^ (1 if neighbour == "%r5" else 32) for i in range(64)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ld.shared.u32 %r7, [%r5]; st.shared.u32 [%r4], %r1;", "nothing wrote"),
        ("st.shared.u32 [%r3], %r1;", "two threads write a word at once"),
        (
            "st.shared.u32 [%r4], %r1; bar.sync 0; ld.shared.u32 %r7, [%r5]; st.shared.u32 [%r4], %r7;",
            "a write of what another thread reads",
        ),
        ("st.shared.u32 [%r4+4], %r1;", "outside of shared memory"),
        ("st.global.u32 [%rd3+4], %r1;", "outside of its buffer"),
        ("st.global.u32 [%rd3+1], %r1;", "is not aligned"),
        ("st.global.u32 [%rd1], %r1;", "two threads write the same bytes"),
        ("st.global.u32 [%rd3], %r1; ld.global.u32 %r7, [%rd1];", "what another one of the same kernel wrote"),
        (
            "setp.lt.u32 %p1, %r1, 40; @%p1 bra $a; bra $b;\n$a:\nvote.sync.ballot.b32 %r7, %p1, -1;\n$b:\n",
            "a thread that ended is named",
        ),
    ],
)
def test_broken_rules_are_named(body: str, message: str) -> None:
    with pytest.raises(BrokenRule, match=message):
        _run(body)


def _f32(*values: float) -> np.ndarray:
    return np.array(values, "f4")


def _b32(*values: int) -> np.ndarray:
    return np.array(values, "u4")


def test_arithmetic_of_the_manual() -> None:
    # 1 + 2^-12 squared, less 1 + 2^-11: exactly 2^-24, which two roundings lose.
    a = _f32(1 + 2**-12)
    assert computed("fma", ("rn", "f32"), [a, a, _f32(-1 - 2**-11)]) == _f32(2**-24)
    # The product rounds to odd in float64 before float32: without, a tie would go the wrong way.
    one, tiny = _f32(1 + 2**-23), _f32(2**-24)
    assert computed("fma", ("rn", "f32"), [_f32(1), one, tiny])[0] == np.float32(1 + 2**-22)
    x = computed("fma", ("rn", "f32"), [_f32(1), _f32(2**-24 + 2**-47), _f32(1)])
    assert x[0] == np.float32(1 + 2**-23)
    assert computed("cvt", ("sat", "f32", "f32"), [_f32(np.nan, -1, 0.5, 2)]).tolist() == [0, 0, 0.5, 1]
    assert computed("cvt", ("rzi", "s32", "f32"), [_f32(-1.9, 1e20, np.nan)]).tolist() == [-1, 2**31 - 1, 0]
    assert computed("copysign", ("f32",), [_f32(-0.0), _f32(2)]).tolist() == [-2]
    pack = computed("cvt", ("pack", "sat", "u8", "s32", "b32"), [_b32(300), _b32(2**32 - 5), _b32(0x1234)])
    assert pack.tolist() == [0x1234FF00]
    bytes_and_sign = computed("prmt", ("b32",), [_b32(0x44332211), _b32(0x887766F5), _b32(0xC701)])
    assert bytes_and_sign.tolist() == [0xFF881122]
    assert computed("bfi", ("b32",), [_b32(0xF), _b32(0), _b32(4), _b32(2)]).tolist() == [0x30]
    assert computed("shr", ("s32",), [_b32(0x80000000), _b32(99)]).tolist() == [-1]
    assert computed("shl", ("b32",), [_b32(1), _b32(32)]).tolist() == [0]
    assert computed("mul", ("hi", "s32"), [_b32(2**32 - 1), _b32(5)]).tolist() == [-1]
    assert computed("mul", ("wide", "u32"), [_b32(2**32 - 1), _b32(2)]).tolist() == [2**33 - 2]
    assert computed("setp", ("gtu", "f32"), [_f32(np.nan), _f32(1)]).tolist() == [True]
    assert computed("max", ("f32",), [_f32(np.nan), _f32(1)]).tolist() == [1]
    # Halves 1 and -2 of a; bytes 3, -4, 5 and -6 of b, from the lowest.
    a, b, c = _b32(0xFFFE0001), _b32(0xFA05FC03), _b32(100)
    assert computed("dp2a", ("lo", "s32", "s32"), [a, b, c]).tolist() == [100 + 3 + 8]
    assert computed("dp2a", ("hi", "s32", "s32"), [a, b, c]).tolist() == [100 + 5 + 12]
    assert computed("dp2a", ("lo", "u32", "u32"), [a, b, c]).tolist() == [100 + 3 + 0xFFFE * 0xFC]
    assert computed("dp4a", ("u32", "u32"), [_b32(0x04030201), b, c]).tolist() == [100 + 3 + 2 * 0xFC + 15 + 4 * 0xFA]
    with pytest.raises(NotImplementedError, match=r"sin\.approx\.f32"):
        computed("sin", ("approx", "f32"), [_f32(1)])
