"""The sizes, layouts and places of threads in the text of ``csrc/``, and what proofs about its indices share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import z3

from support import settings
from support.index_text import GEOMETRY, THROUGH, WARP, Text, Whole, evaluated, group, known, run


class Factors(NamedTuple):
    """Sampling factors of luma, and whether the images are grey."""

    horizontal: int
    vertical: int
    grey: bool = False


FACTORS = [*(Factors(*one) for one in settings.FACTORS.values()), Factors(1, 1, True)]
TRIANGLES = [one for one in FACTORS if 2 in one[:2]]  # chroma comes back by a triangle, if it is wide enough
COLOUR = [one for one in FACTORS if not one.grey]
F444, F422, F420, F440, F411 = FACTORS[:5]

# Steps of z3, so that the result does not depend on the machine: the longest proof takes a tenth of them.
_CONSISTENT, _PROOF = 200_000, 10_000_000

Proof = Callable[[Text, Factors], bool]


class Wrong(NamedTuple):
    """A wrong index, which a proof must refuse for a layout."""

    proof: str
    factors: Factors
    file: str
    old: str
    new: str


def by_name(*proofs: Proof) -> dict[str, Proof]:
    """Returns proofs by the names of their functions."""
    return {one.__name__: one for one in proofs}


def cases(proofs: dict[str, Proof], layouts: dict[str, list[Factors]]) -> list[tuple[str, Factors]]:
    """Returns each proof with the layouts that are given for it, or with all."""
    return [(name, factors) for name in proofs for factors in layouts.get(name, FACTORS)]


def proved(claim: Any, *hypotheses: Any) -> bool:
    """Whether a claim follows; a proof that is not found with so many steps counts as none.

    Raises:
        AssertionError: the hypotheses contradict each other, so that anything follows.
    """
    assert _check(_CONSISTENT, *hypotheses) != z3.unsat, "the hypotheses contradict each other"
    return bool(_check(_PROOF, *hypotheses, z3.Not(claim)) == z3.unsat)


def _check(limit: int, *facts: Any) -> z3.CheckSatResult:
    # In a context of its own: how long z3 searches depends on the expressions that it has met before.
    context = z3.Context()
    solver = z3.Solver(ctx=context)
    solver.set("rlimit", limit)
    solver.add(*(fact.translate(context) if isinstance(fact, z3.ExprRef) else fact for fact in facts))
    return solver.check()


def product(one: Any, other: Any) -> Any:
    """The product of two numbers of at least 0 is at least 0: true of any, and a hint that z3 needs."""
    return z3.Implies(z3.And(one >= 0, other >= 0), one * other >= 0)


def constants(text: Text, factors: Factors) -> dict[str, Any]:
    """Returns what the kernels' templates have as constants: of a layout L and an upsampling U."""
    names: dict[str, Any] = {"kBlock": Whole(8), "kBlockSize": Whole(64), "kWarp": Whole(32)}
    names["kTileRow"] = Whole(text.value(WARP, r"constexpr int kTileRow = (.*?);", names))
    names["kTileBlock"] = text.value(WARP, r"constexpr int kTileBlock = (.*?);", names)
    inside: dict[str, Any] = {
        **names, "horizontal": Whole(factors.horizontal), "vertical": Whole(factors.vertical), "grey": factors.grey,
    }  # fmt: skip
    for name in (
        *("LumaRows", "Threads", "Mcus", "ChromaRows", "LumaBlocks", "Blocks", "PatchWide", "Cells", "Passes"),
        *("Skew", "Tile"),
    ):
        inside[f"k{name}"] = Whole(text.value(WARP, rf"static constexpr int k{name} = (.*?);", inside))
    layout = group(**{key: value for key, value in inside.items() if key.startswith("k")})
    layout.kHorizontal, layout.kVertical, layout.kGrey = inside["horizontal"], inside["vertical"], factors.grey
    for name in ("block_start", "mcu_of", "row_in_mcu", "column_in_mcu"):
        body = text.found(WARP, rf"int {name}\(int block\) \{{ (.*?) \}}")
        setattr(layout, name, lambda block, body=body: run(body, inside | {"block": block}))
    return names | {"L": layout, "U": layout}


def through_tile(text: Text, names: dict[str, Any], warps: int) -> Any:
    """Returns the constants of ``ThroughTile<L, warps>``."""
    inside = names | {"warps": Whole(warps)}
    made = known(text.found(THROUGH, r"struct ThroughTile \{ (.*?) static_assert"), inside)
    made = known(text.found(THROUGH, r"(static constexpr int kAcross = .*?) \};"), made)
    return group(**{key: value for key, value in made.items() if key.startswith("k")})


def through_place(text: Text, names: dict[str, Any], tile: Any, row: Any, column: Any, warp: Any) -> dict[str, Any]:
    """Returns where a thread, whose `place` is among the names, is at work in a tile: ``ThroughPlace<L, warps>``."""
    body = text.found(THROUGH, r"using Tile = ThroughTile<L, warps>; const int tile_row [^;]*; (tile_y .*?) \}")
    across = group(remainder=lambda work, tile_row: column)
    made = names | {"Tile": tile, "tile_row": row, "tiles_across": across, "work": 0, "warp": warp}
    for statement in filter(None, (one.strip() for one in body.split(";"))):
        name, _, expression = statement.partition(" = ")
        made[name] = evaluated(expression, made)
    return {name: made[name] for name in ("tile_y", "tile_x", "mcu_row", "mcu_column", "y0", "x0")}


class Place:
    """A thread's place in its warp, as the text computes it."""

    def __init__(self, text: Text, names: dict[str, Any], lane: Any) -> None:
        self._names = dict(names)
        for name in ("mcu", "group", "row"):
            value = text.value(
                WARP, rf"[ ,]{name}\(static_cast<int>\((lane [^;{{]*?)\)\)[,{{ ]", names | {"lane": lane}
            )
            setattr(self, name, value)
            self._names[name] = value
        for name in ("luma_row", "luma_column", "luma_tile", "chroma_component", "chroma_tile"):
            body = text.found(WARP, rf"FDJPEG_INLINE int {name}\(int v\) const \{{ (.*?) \}}")
            function = self._function(body)
            setattr(self, name, function)
            self._names[name] = function
        whole = text.found(WARP, r"if constexpr \(L::kHorizontal == 1\) \{ (return chroma_tile.*?) \}")
        half = text.found(WARP, r"else \{ (const int half = .*?) \}")
        self._cells = whole if names["L"].kHorizontal == 1 else half

    def _function(self, body: str) -> Callable[[int], Any]:
        return lambda v: run(body, self._names | {"v": v})

    def chroma_cells(self, component: int) -> Any:
        """The samples of chroma under the thread's pixels."""
        return run(self._cells, self._names | {"component": Whole(component)})


class Sizes:
    """The sizes of any image, as unknowns, and what ties them together: `facts`, of which `sides` are about rows and
    columns alone.
    """

    def __init__(self, text: Text, factors: Factors) -> None:
        self.height, self.width = z3.Ints("height width")
        names = {"height": self.height, "width": self.width, "images": 1}
        names["blocks"] = lambda samples: text.value(
            GEOMETRY, r"blocks\(int64_t samples\) \{ return (.*?);", {"samples": samples}
        )
        names["g"] = group(
            vertical=Whole(factors.vertical),
            horizontal=Whole(factors.horizontal),
            chroma_height=Whole(0),
            chroma_width=Whole(0),
        )
        self.facts: list[Any] = [self.height >= 1, self.width >= 1]
        grey = ("chroma_height", "chroma_width")
        blocks = ("luma_rows", "luma_columns", "chroma_rows", "chroma_columns", "mcu_rows", "mcu_columns")
        for name in (*grey, *blocks, "cb_offset", "cr_offset", "flag_offset", "plane_bytes"):
            expression = "0" if factors.grey and name in grey else text.found(GEOMETRY, rf" g\.{name} = (.*?);")
            unknown = z3.Int(name)
            self.facts.append(unknown == evaluated(expression, names))
            setattr(names["g"], name, unknown)
            setattr(self, name, unknown)
        self.sides = self.facts[: 2 + len(grey) + len(blocks)]
