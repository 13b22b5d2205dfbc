"""A child process of ``gpu.items``: runs the items of one part, and writes a line at each step."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

#: What an item does: it yields rows of results, and raises if it fails.
Work = Callable[[], Iterable[dict[str, Any]]]


class Lines:
    """The lines that a child writes for its parent."""

    def __init__(self) -> None:
        self._file = open(os.environ["FDJPEG_GPU_LINES"], "a")  # noqa: SIM115  (open to the end)

    def write(self, **line: Any) -> None:
        """Writes one line at once."""
        print(json.dumps(line), file=self._file, flush=True)


def wanted() -> list[str]:
    """Returns the names of the items to run, in order; none if the child is to list them."""
    return list(json.loads(Path(os.environ["FDJPEG_GPU_ITEMS"]).read_text()))


def run(items: dict[str, Work]) -> None:
    """Runs the wanted items. An error ends an item and not the process."""
    lines = Lines()
    for name in wanted():
        lines.write(begin=name)
        passed: bool | None = True
        said = ""
        try:
            for row in items[name]():
                lines.write(row=row)
                if "skipped" in row:
                    passed, said = None, row["skipped"]
                elif "failed" in row:
                    passed, said = False, row["failed"]
        except ModuleNotFoundError as error:
            passed, said = None, str(error)
        except Exception:  # whatever a kernel, a package or a network may raise
            passed, said = False, traceback.format_exc()
            print(said, flush=True)
        lines.write(end=name, passed=passed, said=said[-2000:])
        if passed is False and _is_broken():
            raise SystemExit("the GPU no longer responds to this process")


def _is_broken() -> bool:
    """Whether every later call would fail too: after some errors of a kernel a process has lost its GPU."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def main() -> None:
    """Runs items of the part that the command line names."""
    root = Path(__file__).resolve().parents[2]
    sys.path[:1] = [str(root), str(root / "benchmarks")]  # in place of this folder, whose names are others' too
    from gpu import stand_in

    stand_in.install_if_asked()
    run(importlib.import_module(f"gpu.{sys.argv[1]}").items())


if __name__ == "__main__":
    main()
