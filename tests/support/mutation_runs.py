"""Runs tests with and without a mutant for `tests/mutation.py`, in processes that are forked after the collection.

One process imports the package and collects an area's tests once. Each mutant is then tried in a fork of it: the code
of the mutated function is exchanged in place, and the tests that call it run until one fails. So no import and no
collection is repeated. A mutant that import or collection runs (constants, defaults, decorators) and that is not found
so is written to the file instead, and a process without the package imports all of it.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from support.mutants import Mutant

#: The exit status of a process in which a test failed.
FAILED = 1


@dataclass
class Baseline:
    """Tests without a change; times are seconds of a processor.

    Attributes:
        seconds: of each test that passed, without the fixtures that it shares with others.
        calls: the functions of the package that each test calls, or its fixtures, as "file:first line"; and
            what it names, see `named`.
        uses: the shared fixtures of each test.
        fixtures: the seconds of each shared fixture.
        at_import: the functions that import and collection call.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, list[str]] = field(default_factory=dict)
    uses: dict[str, list[str]] = field(default_factory=dict)
    fixtures: dict[str, float] = field(default_factory=dict)
    at_import: list[str] = field(default_factory=list)

    def cost(self, test: str) -> float:
        """Returns the seconds of a test that runs alone."""
        return self.seconds[test] + sum(self.fixtures.get(name, 0) for name in self.uses[test])

    def able(self, module: str, mutant: Mutant) -> list[str]:
        """Returns the tests that call the mutated function; at the top of a module, those that call any of it."""
        called = f"{module}:{mutant.function}" if mutant.function else ""
        found = [test for test in self.seconds if called in self.calls[test]]
        if not found and (not called or called in self.at_import):
            found = [test for test in self.seconds if any(name.startswith(f"{module}:") for name in self.calls[test])]
        return found

    def chosen(self, tests: Sequence[str], budget: float) -> list[str]:
        """Returns the tests that run within a budget of seconds, in their order; at least one.

        The shortest come first. A case of a test waits as long as the shorter cases of it take together, so that many
        cases do not keep back other tests.
        """
        together: Counter[str] = Counter()
        order = []
        for test in sorted(tests, key=lambda test: (self.cost(test), test)):
            name = test.partition("[")[0]
            together[name] += self.cost(test)  # type: ignore[assignment]
            order.append((together[name], test))
        paid: set[str] = set()
        found, spent = [], 0.0
        for _, test in sorted(order):
            new = set(self.uses[test]) - paid
            spent += self.seconds[test] + sum(self.fixtures.get(name, 0) for name in new)
            if found and spent > budget:
                break
            paid |= new
            found.append(test)
        return found


def processor_seconds() -> float:
    """Returns the time that this process and its ended children have used."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class _TooLong(BaseException):
    """A test that takes longer than it may without a change."""


class Watch:
    """A plugin of pytest that notes what each test takes and which functions of the package it calls."""

    def __init__(self, root: Path, longest: float) -> None:
        self.root, self.longest = str(root / "fdjpeg") + os.sep, longest
        self.cut = len(str(root)) + 1
        self.called: set[str] = set()
        self.of_fixtures: dict[str, set[str]] = {}
        self.in_fixtures = 0.0
        self.found = Baseline()

    def trace(self, frame: Any, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if file.startswith(self.root):
            self.called.add(f"{file[self.cut :]}:{frame.f_code.co_firstlineno}")
        elif file == "<string>":  # a method that a dataclass was given, at the top of its module
            self.called.add(f"{frame.f_globals.get('__name__', '').replace('.', '/')}.py:0")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        if fixturedef.scope == "function":
            return (yield)
        (before, self.called), begun = (self.called, set()), processor_seconds()
        try:
            return (yield)
        finally:
            name, spent = _name(fixturedef), processor_seconds() - begun
            self.of_fixtures.setdefault(name, set()).update(self.called)
            self.found.fixtures[name] = max(spent, self.found.fixtures.get(name, 0))
            self.in_fixtures += spent
            self.called |= before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        def end(*_: Any) -> None:
            raise _TooLong

        signal.signal(signal.SIGPROF, end)
        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_PROF, self.longest)
        signal.setitimer(signal.ITIMER_REAL, 10 * self.longest)  # for one that waits
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self.called, self.in_fixtures, begun = set(), 0.0, processor_seconds()
        sys.settrace(self.trace)
        threading.settrace(self.trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            if item.nodeid in self.found.seconds:
                shared = [name for name in shared_fixtures(item) if name in self.of_fixtures]
                calls = self.called.union(*(self.of_fixtures[name] for name in shared))
                self.found.calls[item.nodeid] = sorted(calls | named(item))
                self.found.uses[item.nodeid] = shared
                self.found.seconds[item.nodeid] = round(processor_seconds() - begun - self.in_fixtures, 3)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.found.seconds[report.nodeid] = report.duration
        if report.failed:
            self.found.seconds.pop(report.nodeid, None)


def named(item: pytest.Item) -> set[str]:
    """Returns what a test names without calling it, as "file:name", which counts as a call of the file.

    These are constants of the package in its code, and functions and classes among its parameters.
    """
    code = getattr(getattr(item, "function", None), "__code__", None)
    names = {name for name in (code.co_names if code else ()) if name.isupper()}
    found = {
        (module, name)
        for module, loaded in list(sys.modules.items())
        for name in (names & set(vars(loaded)) if module.partition(".")[0] == "fdjpeg" else ())
    }
    given = getattr(getattr(item, "callspec", None), "params", {}).values()
    found |= {(value.__module__, value.__qualname__) for value in given if isinstance(value, (type, FunctionType))}
    return {f"{module.replace('.', '/')}.py:{name}" for module, name in found if module.partition(".")[0] == "fdjpeg"}


def _name(fixturedef: Any) -> str:
    return f"{fixturedef.baseid}::{fixturedef.argname}"


def shared_fixtures(item: pytest.Item) -> list[str]:
    """Returns the names of the fixtures that a test shares with others."""
    found = getattr(item, "_fixtureinfo", None)
    every = [fixtures[-1] for fixtures in found.name2fixturedefs.values() if fixtures] if found else []
    return [_name(fixture) for fixture in every if fixture.scope != "function"]


class FirstFailure:
    """A plugin of pytest that notes the first test that fails."""

    def __init__(self) -> None:
        self.test = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.test = self.test or report.nodeid


def run(items: Sequence[pytest.Item], baseline: Baseline, failed: Path) -> int:
    """Runs tests until one fails, whose name goes to a file. A test that does not end kills the process."""
    first = FirstFailure()
    if items:
        items[0].config.pluginmanager.register(first)
    for item, following in zip(items, [*items[1:], None], strict=True):
        failed.write_text(item.nodeid)
        signal.setitimer(signal.ITIMER_PROF, 5 + 5 * baseline.cost(item.nodeid))
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if first.test:
            return FAILED
    return 0


def forked(work: Callable[[], int], seconds: float) -> str:
    """Runs a function in a fork, which exits with its result. Returns "passed", "failed" or "timeout"."""
    child = os.fork()
    if child == 0:
        status = FAILED
        try:
            os.setsid()
            status = work()
        finally:
            os._exit(status)
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
                return "timeout"
            return "passed" if status == 0 else "failed"
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def collected(root: Path, tests: Sequence[str], plugins: Sequence[object]) -> int:
    """Collects tests in the copy of the tree, and leaves the rest to the plugins. For a process of its own."""
    os.chdir(root)
    sys.path[:0] = [str(root), str(root / "tests")]
    for name in [name for name in sys.modules if name.partition(".")[0] == "support"]:
        del sys.modules[name]  # the copy's is to be imported
    output = os.open(root / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    temporary = tempfile.mkdtemp(dir=root.parent)  # outside of the tree, which some tests copy
    options = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:benchmark", "--basetemp", temporary]
    status = int(pytest.main([*options, *tests], plugins=list(plugins)))
    shutil.rmtree(temporary, ignore_errors=True)
    return status


class Planter:
    """Exchanges the code of functions in place, in a process that has imported the package."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.functions: dict[tuple[str, str, int], list[FunctionType]] = {}
        for thing in gc.get_objects():
            # By `type`, because `isinstance` asks some objects for their class, and they warn.
            if type(thing) is FunctionType and thing.__code__.co_filename.startswith(str(root / "fdjpeg") + os.sep):
                self.functions.setdefault(_key(thing.__code__), []).append(thing)

    def plant(self, module: str, mutant: Mutant, source: bytes) -> bool:
        """Returns whether every function with the mutant's line now has its code.

        A function that another one made already, as a decorator does, is exchanged too.
        """
        file = str(self.root / module)
        holders = [code for code in outermost(compile(source, file, "exec")) if mutant.function in first_lines(code)]
        after = {_key(code): code for code in nested(*outermost(compile(mutant.apply(source), file, "exec")))}
        for holder in nested(*holders):
            code = after.get(_key(holder))
            functions = self.functions.get(_key(holder), [])
            if mutant.function not in first_lines(holder):
                continue
            if code is None or (holder in holders and not functions):
                return False
            for function in functions:
                if len(code.co_freevars) != len(function.__code__.co_freevars):
                    return False
                function.__code__ = code
        return bool(holders)


def _key(code: CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_name, code.co_firstlineno


def outermost(code: CodeType) -> Iterator[CodeType]:
    """Yields the functions of a module and of its classes, without those inside of them."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_flags & 1:  # CO_OPTIMIZED: a function, not the body of a class
                yield inner
            else:
                yield from outermost(inner)


def nested(*codes: CodeType) -> Iterator[CodeType]:
    """Yields functions and those inside of them."""
    for code in codes:
        yield code
        yield from nested(*(inner for inner in code.co_consts if isinstance(inner, CodeType)))


def first_lines(code: CodeType) -> set[int]:
    """Returns the first lines of a function and of those inside of it."""
    inner = (first_lines(found) for found in code.co_consts if isinstance(found, CodeType))
    return {code.co_firstlineno}.union(*inner)


class Trials:
    """A plugin of pytest that runs in place of the tests: the baseline, then every mutant in a fork.

    Args:
        root: the copy of the tree.
        baseline: from an earlier run; the tests of its files are not measured again.
        measured: the files of these tests.
        entries: the mutants, as (module, mutant, source).
        keep: called with the baseline.
        done: called with the entry's number, its outcome, the test that found it, and the number of tests.
        budget, longest: seconds of a processor, for each mutant and for each test.
    """

    def __init__(
        self,
        root: Path,
        baseline: Baseline,
        measured: set[str],
        entries: Sequence[tuple[str, Mutant, bytes]],
        keep: Callable[[Baseline], None],
        done: Callable[[int, str, str, int], None],
        budget: float,
        longest: float,
    ) -> None:
        self.root, self.baseline, self.measured, self.entries = root, baseline, measured, entries
        self.keep, self.done, self.budget = keep, done, budget
        self.watch = Watch(root, longest)
        self.failed = root / "failed"
        self.sound: dict[str, bool] = {}
        sys.settrace(self.watch.trace)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        sys.settrace(None)
        if session.testsfailed:
            raise session.Failed("a test file cannot be collected")
        self.items = {item.nodeid: item for item in session.items}
        self.session = session
        self.baseline.at_import = sorted(self.watch.called)
        self._measure()
        self.keep(self.baseline)
        planter = Planter(self.root)
        for number, entry in enumerate(self.entries):
            self.done(number, *self._tried(planter, *entry))
        return True

    def _measure(self) -> None:
        """Runs the tests of new files without a change, each file in a fork of its own."""
        files: dict[str, list[pytest.Item]] = {}
        for name, item in self.items.items():
            files.setdefault(name.partition("::")[0], []).append(item)
        for file, items in files.items():
            if file not in self.measured:
                # A second time, because signals that end long tests may come at a bad moment.
                if not (self._measured(items) or self._measured(items)):
                    raise self.session.Failed(f"the tests of {file} do not run to their end")
                self.keep(self.baseline)

    def _measured(self, items: Sequence[pytest.Item]) -> bool:
        """Adds the tests of a file to the baseline; False if their process ended before."""
        result = self.root / "baseline.json"

        def work() -> int:
            self.session.config.pluginmanager.register(self.watch)
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            result.write_text(json.dumps(asdict(self.watch.found)))
            return 0

        if forked(work, 7200) != "passed":
            return False
        new = Baseline(**json.loads(result.read_text()))
        for mine, theirs in (
            (self.baseline.seconds, new.seconds),
            (self.baseline.calls, new.calls),
            (self.baseline.uses, new.uses),
            (self.baseline.fixtures, new.fixtures),
        ):
            mine.update(theirs)  # type: ignore[arg-type]
        return True

    def _tried(self, planter: Planter, module: str, mutant: Mutant, source: bytes) -> tuple[str, str, int]:
        if not mutant.function:
            return "import", "", 0
        # Import or collection called it too, before it was planted, so that surviving here says little.
        early = f"{module}:{mutant.function}" in self.baseline.at_import
        able = [test for test in self.baseline.able(module, mutant) if test in self.items]
        if not able:
            return "not called", "", 0
        tests = self.baseline.chosen(able, min(1.0, self.budget) if early else self.budget)

        def work() -> int:
            if not planter.plant(module, mutant, source):
                return 2
            return run([self.items[test] for test in tests], self.baseline, self.failed)

        while tests:
            self.failed.write_text("")
            limit = 120 + 50 * sum(self.baseline.cost(test) for test in tests)
            ended = forked(work, limit)
            test = self.failed.read_text()
            if ended == "passed":
                return "import" if early else "survived", "", len(tests)
            if not test:
                return "import", "", 0
            if self._is_sound(test):
                return ("caught" if ended == "failed" else ended), test, len(tests)
            tests.remove(test)
        return "not called", "", 0

    def _is_sound(self, test: str) -> bool:
        """Returns whether a test passes alone without a change, so that its failure was the mutant's."""
        if test not in self.sound:
            kept = self.failed.read_text()
            item, cost = self.items[test], self.baseline.cost(test)
            self.sound[test] = forked(lambda: run([item], self.baseline, self.failed), 120 + 50 * cost) == "passed"
            self.failed.write_text(kept)
            if not self.sound[test]:
                self.baseline.seconds.pop(test, None)
        return self.sound[test]


class Ordered:
    """A plugin of pytest that runs the given tests, in their order, until one fails."""

    def __init__(self, tests: Sequence[str], baseline: Baseline, failed: Path) -> None:
        self.tests, self.baseline, self.failed = tests, baseline, failed
        self.status = FAILED

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if not session.testsfailed:  # all could be collected
            items = {item.nodeid: item for item in session.items}
            found = [items[test] for test in self.tests if test in items]
            self.status = run(found, self.baseline, self.failed)
        return True


def tried_by_import(root: Path, tests: Sequence[str], baseline: Baseline) -> tuple[str, str]:
    """Imports the package with a mutant in its file, and runs tests. Returns the outcome and the test that failed."""
    failed = root / "failed"
    failed.write_text("")

    def work() -> int:
        sys.dont_write_bytecode = True
        ordered = Ordered(tests, baseline, failed)
        signal.setitimer(signal.ITIMER_PROF, 60)
        status = collected(root, sorted({test.split("::")[0] for test in tests}), [ordered])
        return status or ordered.status

    ended = forked(work, 240 + 50 * sum(baseline.cost(test) for test in tests))
    outcome = {"passed": "survived", "failed": "caught"}.get(ended, ended)
    return outcome, "" if outcome == "survived" else failed.read_text() or "import"
