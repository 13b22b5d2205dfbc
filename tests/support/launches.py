"""The launches of each documented call of `fdjpeg.jpeg`, counted where a CPU stands for a GPU.

    python tests/support/launches.py    # writes the tables of benchmarks/results/README.md

A launch is an operator of torch that computes, or a kernel of ours. Triton's kernels are counted and not run. Those of
CUDA's library are counted as its launch templates say; Triton's serve the ops that it lacks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.jit import JITFunction

_ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(_ROOT))

import fdjpeg  # noqa: E402
from fdjpeg import functional  # noqa: E402
from fdjpeg._triton import ops as triton_ops  # noqa: E402
from fdjpeg.surrogates import BY_NAME, Noise  # noqa: E402

PAGE = _ROOT / "benchmarks" / "results" / "README.md"
BEGIN = "<!-- Launches: made by `python tests/support/launches.py`. -->\n"
END = "<!-- End of the launches. -->\n"

BACKENDS = ("triton", "cuda")

#: Operators that launch nothing: they give memory or another view of it.
_FREE = {"empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided", "_unsafe_view", "_reshape_alias"}


def _of_gradient(table_gradient: int) -> Callable[..., int]:
    """Counts a gradient's launches: one, and one that adds the tables' sums if the argument at this place is true."""
    return lambda *arguments: 1 + bool(arguments[table_gradient])


#: The launches of the ops of CUDA's library on a batch as small as the one here (``csrc/cuda/*_launch.h``).
_CUDA: dict[str, Callable[..., int]] = {
    "round_trip": lambda *arguments: 2,
    "round_trip_by_block": lambda *arguments: 2,
    "round_trip_backward": _of_gradient(8),
    "surrogate_backward": _of_gradient(8),
    "real_round_trip": lambda *arguments: 2,
    "real_round_trip_backward": _of_gradient(12),
}


class _Launches(TorchDispatchMode):
    """Counts the launches on a backend."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if function.namespace == "fdjpeg":
            before = self.count
            with self, mock.patch.object(JITFunction, "run", self._launched):
                results = getattr(triton_ops, name)(*args)
            if self.backend == "cuda" and name in _CUDA:
                self.count = before + _CUDA[name](*args)
            return results
        free = function.is_view or name in _FREE
        self.count += not free
        return function(*args, **(kwargs or {}))

    def _launched(self, *arguments: Any, **options: Any) -> None:
        self.count += 1


class Own:
    """A user's surrogate: its own launches, of which there are none here, are not ours."""

    smooth = True

    def forward(self, c: Tensor) -> Tensor:
        """Returns c."""
        return c

    def derivative(self, c: Tensor) -> Tensor:
        """Returns c too: the values do not matter."""
        return c


def forward_launches(call: Callable[[], Tensor], backend: str = "triton") -> int:
    """Counts the launches of a call."""
    call()  # constants are made once
    with mock.patch.object(functional, "_warn_above_one"), _Launches(backend) as launches:
        call()
    return launches.count


#: By what steps are given, and whether their gradient is wanted.
GIVEN = ("number", "quality", "map", "tables with gradient", "quality with gradient", "map with gradient")

_BUILT_IN = tuple(name for name in BY_NAME if name not in ("straight-through", "identity", "zero"))


class Call(NamedTuple):
    """A call of `fdjpeg.jpeg` on two float32 images."""

    arithmetic: str
    gradient: Any
    soft: bool
    given: str

    def counted(self, backend: str) -> tuple[int, int]:
        """Returns its launches: forward, and with backward."""
        call, leaves = self._prepared()
        call()  # constants are made once
        with mock.patch.object(functional, "_warn_above_one"), _Launches(backend) as launches:
            out = call()
            forward = launches.count
            torch.autograd.grad(out, leaves, torch.ones_like(out))
            return forward, launches.count - 1  # less the ones

    def _prepared(self) -> tuple[Callable[[], Tensor], list[Tensor]]:
        """Returns the call, and the tensors whose gradients are taken."""
        image = torch.rand(2, 3, 32, 32, requires_grad=True)
        settings: dict[str, Any] = {"arithmetic": self.arithmetic, "gradient": self.gradient, "soft": self.soft}
        if self.given == "number":
            return lambda: fdjpeg.jpeg(image, 50, **settings), [image]
        if self.given.startswith("tables"):
            luma, chroma = (torch.full((8, 8), step).requires_grad_() for step in (9.0, 14.0))
            tables = fdjpeg.QuantTables(luma, chroma)
            return lambda: fdjpeg.jpeg(image, tables=tables, **settings), [image, luma, chroma]
        quality = torch.tensor([40.0, 60.0]) if self.given.startswith("quality") else torch.full((2, 4, 4), 50.0)
        leaves = [image]
        if self.given.endswith("gradient"):
            leaves.append(quality.requires_grad_())
        return lambda: fdjpeg.jpeg(image, quality, **settings), leaves


def gradients() -> list[tuple[str, str, bool, tuple[Any, ...]]]:
    """Returns the rows of the table: a name, arithmetic and softness, and the gradients that launch as many."""
    hard: list[tuple[str, tuple[Any, ...]]] = [
        ("straight-through", ("straight-through",)),
        ("identity", ("identity",)),
        ("a built-in surrogate", (*_BUILT_IN, "zero")),
        ("a surrogate of one's own", (Own(),)),
    ]
    return [
        *((name, "libjpeg", False, which) for name, which in hard),
        *((f"{name}, real", "real", False, which) for name, which in hard),
        ("a built-in surrogate, soft", "real", True, _BUILT_IN),
        ("noise, soft", "real", True, (Noise(),)),
        ("a surrogate of one's own, soft", "real", True, (Own(),)),
    ]


def table(backend: str) -> str:
    """Returns the table of a backend in Markdown."""
    lines = [f"| gradient | {' | '.join(GIVEN)} |", "|---" * (1 + len(GIVEN)) + "|"]
    for name, arithmetic, soft, which in gradients():
        cells = []
        for given in GIVEN:
            counts = {Call(arithmetic, gradient, soft, given).counted(backend) for gradient in which}
            cells.append(" or ".join(f"{forward} / {both}" for forward, both in sorted(counts)))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def section() -> str:
    """Returns the tables of all backends, as they stand on the page."""
    named = {"triton": "Triton alone", "cuda": "CUDA's library, and Triton for the ops that it lacks"}
    return "\n".join(f"{named[backend]}:\n\n{table(backend)}" for backend in BACKENDS)


def main() -> None:
    """Writes the section into the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{section()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
