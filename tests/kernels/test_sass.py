"""The counter of a compiled kernel's instructions, on listings written by hand."""

from __future__ import annotations

import pytest
from support import sass

_LISTING = """
		Function : _Z6kernelv
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/               @P0 BRA 0x70 ;
        /*0020*/                   LDG.E.128 R4, [R2.64] ;
        /*0030*/                   LDS.64 R8, [R6] ;
        /*0040*/                   FADD R8, R8, R9 ;
        /*0050*/               @P1 BRA 0x30 ;
        /*0060*/                   EXIT ;
        /*0070*/                   LDG.E R4, [R2.64] ;
        /*0080*/                   EXIT ;
"""


def _instructions(listing: str) -> list[sass.Instruction]:
    (instructions,) = sass.functions(listing).values()
    return instructions


def test_the_path_of_wide_accesses_counts() -> None:
    """Not the shorter path, which takes narrow ones; a wide access is several turns."""
    assert sass.cost_of(_instructions(_LISTING)) == sass.Cost(instructions=7, turns=4 + 2)


def test_a_loop_counts_as_often_as_it_is_passed() -> None:
    assert sass.cost_of(_instructions(_LISTING), passes=3) == sass.Cost(instructions=7 + 2 * 3, turns=4 + 3 * 2)


def test_the_longest_innermost_loop_is_meant() -> None:
    """Neither the one around it nor a shorter one."""
    listing = """
		Function : _Z6kernelv
        /*0000*/                   LDS R0, [R1] ;
        /*0010*/                   FADD R0, R0, R0 ;
        /*0020*/                   FMUL R0, R0, R0 ;
        /*0030*/               @P0 BRA 0x10 ;
        /*0040*/               @P1 BRA 0x40 ;
        /*0050*/               @P2 BRA 0x0 ;
        /*0060*/                   EXIT ;
"""
    assert sass.cost_of(_instructions(listing), passes=2) == sass.Cost(instructions=7 + 3, turns=1)


def test_a_kernel_without_an_exit_is_told() -> None:
    with pytest.raises(ValueError, match="no path to an exit"):
        sass.cost_of(_instructions("\t\tFunction : _Z6kernelv\n        /*0000*/                   BRA 0x0 ;\n"))
