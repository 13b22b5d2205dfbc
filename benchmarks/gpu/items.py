"""Runs the items of a part in child processes, so that neither a crash nor a hang ends the part.

One child takes item after item and writes a line of JSON at each step. After a crash, or an item's time limit, a new
child resumes with the next item. Items that the part's time did not reach are listed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpu import kept, stand_in

Done = dict[str, Any]

#: Seconds until a child begins its first item: torch is imported and the GPU gets ready.
START_LIMIT = 60.0
#: Children that end before they begin an item, one after the other, until the part is given up.
FALSE_STARTS = 2
_PAUSE = 0.02
_OUT_OF_TIME = "out of the part's time"


class _Child:
    """A child process, and the lines that it has written."""

    def __init__(self, results: kept.Kept, command: list[str], items: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._lines = Path(self._folder.name, "lines")
        self._lines.touch()
        wanted = Path(self._folder.name, "items")
        wanted.write_text(json.dumps(list(items)))
        self._log = results.log.open("a+", errors="replace")
        self._log_begin = self._log.seek(0, os.SEEK_END)
        environment = {"FDJPEG_GPU_ITEMS": str(wanted), "FDJPEG_GPU_LINES": str(self._lines)}
        self._process = kept.start(command, self._log, **environment)
        self._read = 0

    def lines(self) -> list[Any]:
        """Returns the lines that were completed since the last call."""
        text = self._lines.read_text()
        complete = text.rfind("\n") + 1
        new, self._read = text[self._read : complete], complete
        return [json.loads(line) for line in new.splitlines()]

    def ended(self) -> str | None:
        """Returns how the child ended, or None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def forget_output(self) -> None:
        """Leaves out what was written so far, which is of other items."""
        self._log_begin = self._log.seek(0, os.SEEK_END)

    def close(self) -> str:
        """Ends the child if it runs. Returns the end of its output."""
        if self._process.poll() is None:
            kept.end(self._process)
        else:
            with contextlib.suppress(ProcessLookupError):  # its own child processes, if it left some
                os.killpg(self._process.pid, signal.SIGKILL)
        self._log.seek(self._log_begin)
        said = self._log.read()[-2000:]
        self._log.close()
        self._folder.cleanup()
        return said


def command_of(part: str) -> list[str]:
    """Returns the command of a child that runs items of a part by `gpu.child`."""
    return [sys.executable, str(kept.ROOT / "benchmarks" / "gpu" / "child.py"), part]


class Run:
    """Items that run one after the other, those done and those left.

    Args:
        results: where the log is.
        command: of a child process, which writes lines by `gpu.child.Lines`.
        left: the items' names; None if the first child lists them.
        until: the time by `time.monotonic` at which to stop.
        item_limit: seconds for one item.
        changed: is called with all results so far after each change.
    """

    def __init__(
        self,
        results: kept.Kept,
        command: list[str],
        left: Sequence[str] | None,
        until: float,
        item_limit: float,
        changed: Callable[[list[Done]], None],
    ) -> None:
        self._results, self._command, self._until = results, command, until
        self._item_limit = item_limit * stand_in.PATIENCE
        self._changed = changed
        self.left = None if left is None else list(left)
        self.done: list[Done] = []
        self._current: Done | None = None
        self._began = self._deadline = 0.0

    def run(self) -> list[str]:
        """Runs the items; returns the names of those that were not reached."""
        false_starts = 0
        while (self.left is None or self.left) and false_starts < FALSE_STARTS and time.monotonic() < self._until - 1:
            begun = len(self.done)
            self._one_child()
            false_starts = 0 if len(self.done) > begun else false_starts + 1
        return self.left or []

    def _one_child(self) -> None:
        """Follows one child to its end."""
        child = _Child(self._results, self._command, self.left or [])
        why = "interrupted"
        try:
            why = self._follow(child)
        finally:
            said = child.close()
            if self._current is not None:
                self._current["said"] = f"{why}\n{said}"[-2000:]
                self._finish(passed=None if why == _OUT_OF_TIME else False)
                print(f"{self.done[-1]['name']}: {why}", flush=True)
        if len(self.done) == 0 and self.left:
            print(f"a child {why} before it began: {said[-500:]}", flush=True)

    def _follow(self, child: _Child) -> str:
        """Takes a child's lines as they come. Returns why the child is over."""
        self._set_deadline(START_LIMIT * stand_in.PATIENCE)
        while True:
            ended = child.ended()  # first, so that no line that it wrote before its end is missed
            for line in child.lines():
                if "begin" in line:
                    child.forget_output()
                self._take(line)
            if ended is not None:
                return ended
            if time.monotonic() > self._deadline:
                return _OUT_OF_TIME if self._deadline == self._until else f"hangs: more than {self._item_limit:.3g} s"
            time.sleep(_PAUSE)

    def _take(self, line: dict[str, Any]) -> None:
        if "items" in line:
            self.left = list(line["items"])
        elif "begin" in line:
            self._current = {"name": line["begin"], "passed": None, "seconds": 0.0, "said": "", "rows": []}
            self.done.append(self._current)
            self.left = [item for item in self.left or [] if item != line["begin"]]
            self._began = time.monotonic()
            self._set_deadline(self._item_limit)
        elif self._current is not None and "row" in line:
            self._current["rows"].append(line["row"])
            self._changed(self.done)
        elif self._current is not None and "end" in line:
            self._current["said"] = line["said"]
            self._finish(passed=line["passed"])
            self._set_deadline(START_LIMIT * stand_in.PATIENCE)

    def _finish(self, passed: bool | None) -> None:
        assert self._current is not None
        self._current.update(passed=passed, seconds=round(time.monotonic() - self._began, 2))
        self._current = None
        self._changed(self.done)

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = min(self._until, time.monotonic() + seconds)


def report(results: kept.Kept, part: str, unreached: Sequence[str]) -> None:
    """Keeps and prints the items that a part did not reach."""
    if unreached:
        print(f"{part}: not reached: {', '.join(unreached)}", flush=True)
    results["unreached"] = {**results.results.get("unreached", {}), part: list(unreached)}
