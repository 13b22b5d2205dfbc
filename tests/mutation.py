"""Mutation testing: plants small faults in the Python code, one at a time, and counts those that the tests find.

    nice -n 19 python tests/mutation.py fdjpeg/defenses --mutants 150 --out mutation.jsonl
    python tests/mutation.py fdjpeg/defenses --mutants 150 --out mutation.jsonl --report

It takes hours, and a run that was stopped resumes: a mutant whose outcome is in the file is not tried again, unless its
module has changed since. `--retry` tries those again that survived, after tests were added.

Each module gives a sample of its mutants, drawn from `--seed` (see `support/mutants.py` for the kinds). First the test
files of the module's folder run once without a change, and it is noted which functions each test calls. A mutant in a
function is then tried by the tests that call it, the shortest first, until one fails; a mutant at the top of a module
by all tests of the folder. Tests that fail or take longer than `--longest` seconds without a change are left out, and
so are calls in other processes. Everything happens in a copy of the tree; no file of the tree itself changes.

A mutant that no test can find because it behaves alike is listed in `equivalent_mutants.jsonl`, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from py_compile import PycInvalidationMode, compile
from typing import Any

import pytest
from support.mutants import Mutant, sample

ROOT = Path(__file__).parents[1]

#: The test files of each part of the package; the longest name that a module begins with counts.
TESTS = {
    "fdjpeg/": ("tests/codec", "tests/learning"),
    "fdjpeg/attacks/": ("tests/attacks", "tests/evaluation"),
    "fdjpeg/bench/": ("tests/cli",),
    "fdjpeg/certificates/": ("tests/certificates",),
    "fdjpeg/cli/": ("tests/cli",),
    "fdjpeg/defenses/": ("tests/defenses",),
    "fdjpeg/evaluation/": ("tests/evaluation",),
    "fdjpeg/learning/": ("tests/learning",),
    "fdjpeg/sources/": ("tests/evaluation", "tests/attacks"),
}

#: Imported before each mutant's process is forked, because they take longer than most tests.
PACKAGES = (
    "hypothesis",
    "lightning_fabric.strategies",
    "numpy",
    "PIL.Image",
    "rich.progress",
    "safetensors.torch",
    "scipy.fft",
    "torch.distributed",
    "torch.utils.data",
    "typer",
    "yaml",
)

#: Outcomes of mutants that the tests find.
FOUND = ("caught", "timeout")

EQUIVALENT = Path(__file__).with_name("equivalent_mutants.jsonl")


@dataclass
class Baseline:
    """The tests of a folder without a change.

    Attributes:
        seconds: of each test that passed.
        calls: the functions of the package that each test calls, or its fixtures, as "file:first line".
    """

    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, list[str]] = field(default_factory=dict)

    def tests(self, module: str, mutant: Mutant, longest: float) -> list[str]:
        """Returns the tests that can find a mutant, the shortest first."""
        within = [test for test, seconds in self.seconds.items() if seconds <= longest]
        if mutant.function:
            within = [test for test in within if f"{module}:{mutant.function}" in self.calls[test]]
        return sorted(within, key=lambda test: self.seconds[test])


class Watch:
    """A plugin of pytest that notes how long each test takes and which functions of the package it calls."""

    def __init__(self, root: Path) -> None:
        self.root = str(root / "fdjpeg") + os.sep
        self.cut = len(str(root)) + 1
        self.called: set[str] = set()
        self.of_fixtures: dict[str, set[str]] = {}
        self.found = Baseline()

    def _profile(self, frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(self.root):
            self.called.add(f"{frame.f_code.co_filename[self.cut :]}:{frame.f_code.co_firstlineno}")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        before, self.called = self.called, set()
        result = yield
        self.of_fixtures.setdefault(fixturedef.argname, set()).update(self.called)
        self.called |= before
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self.called, begun = set(), time.monotonic()
        sys.setprofile(self._profile)
        try:
            result = yield
        finally:
            sys.setprofile(None)
        if item.nodeid in self.found.seconds:
            of_fixtures = [self.of_fixtures.get(name, set()) for name in getattr(item, "fixturenames", ())]
            self.found.calls[item.nodeid] = sorted(self.called.union(*of_fixtures))
            self.found.seconds[item.nodeid] = time.monotonic() - begun
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.found.seconds[report.nodeid] = report.duration
        if report.failed:
            self.found.seconds.pop(report.nodeid, None)


class Only:
    """A plugin of pytest that runs the given tests, in their order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.place = {test: place for place, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self.place), key=lambda item: self.place[item.nodeid]
        )


class Tree:
    """A copy of the repository in which mutants are planted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
        libraries = [str(file.relative_to(ROOT)) for file in (ROOT / "fdjpeg").glob("*.so")]
        for name in filter(None, (*names, *libraries)):
            if (ROOT / name).is_file() and not name.startswith("benchmarks/results"):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, root / name)
        for file in (root / "fdjpeg").rglob("*.py"):
            # Valid by content, not by time, because a mutant may come within the same second.
            compile(str(file), invalidation_mode=PycInvalidationMode.CHECKED_HASH)

    def pytest(self, folders: Sequence[str], plugin: object, seconds: float, result: Path | None = None) -> str:
        """Runs tests in a process of their own. Returns "passed", "failed" or "timeout"."""
        child = os.fork()
        if child == 0:
            self._run(folders, plugin, result)
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return "passed" if status == 0 else "failed"
            time.sleep(0.05)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "timeout"

    def _run(self, folders: Sequence[str], plugin: object, result: Path | None) -> None:
        """Runs pytest in the forked process, which ends here."""
        status = 1
        try:
            os.setsid()
            os.chdir(self.root)
            sys.path[:0] = [str(self.root), str(self.root / "tests")]
            for name in [name for name in sys.modules if name.partition(".")[0] == "support"]:
                del sys.modules[name]  # the copy's is to be imported
            output = os.open(self.root / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.dont_write_bytecode = result is None
            temporary = tempfile.mkdtemp(dir=self.root)
            options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:benchmark", "--basetemp", temporary]
            if result is not None:
                options.remove("-x")
            status = int(pytest.main([*options, *folders], plugins=[plugin]))
            shutil.rmtree(temporary, ignore_errors=True)
            if result is not None:
                result.write_text(json.dumps(asdict(plugin.found)))  # type: ignore[attr-defined]
                status = 0
        finally:
            os._exit(status)

    def baseline(self, folders: Sequence[str]) -> Baseline:
        """Runs tests without a change."""
        result = self.root / "baseline.json"
        ended = self.pytest(folders, Watch(self.root), 7200, result)
        found = Baseline(**json.loads(result.read_text())) if ended == "passed" else Baseline()
        if not found.seconds:
            raise SystemExit(f"no test passes: {(self.root / 'pytest.log').read_text()[-2000:]}")
        return found

    def outcome(self, module: str, mutant: Mutant, folders: Sequence[str], baseline: Baseline, longest: float) -> str:
        """Plants a mutant and runs its tests. Returns "caught", "timeout", "survived" or "not called"."""
        tests = baseline.tests(module, mutant, longest)
        if not tests:
            return "not called"
        file = self.root / module
        source = file.read_bytes()
        file.write_bytes(mutant.apply(source))
        try:
            limit = 60 + 5 * sum(baseline.seconds[test] for test in tests)
            ended = self.pytest(sorted({test.split("::")[0] for test in tests}), Only(tests), limit)
        finally:
            file.write_bytes(source)
        return {"passed": "survived", "failed": "caught"}.get(ended, ended)


def modules(paths: Sequence[str]) -> list[str]:
    """Returns the modules in folders, or the files given."""
    found = [file for path in paths for file in (sorted(Path(path).rglob("*.py")) if Path(path).is_dir() else [path])]
    return [str(Path(file).resolve().relative_to(ROOT)) for file in found]


def tests_of(module: str) -> tuple[str, ...]:
    """Returns the folders of a module's tests."""
    return TESTS[max((part for part in TESTS if module.startswith(part)), key=len)]


def described(module: str, mutant: Mutant, source: bytes) -> dict[str, Any]:
    """Returns the record of a mutant, without its outcome; it is the mutant's key."""
    return {
        "module": module,
        "line": mutant.line,
        "kind": mutant.kind,
        "before": mutant.before(source),
        "after": mutant.after(source),
        "source": sha256(source).hexdigest()[:12],
    }


def read(file: Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a file; a torn last line is left out."""
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def key(record: dict[str, Any]) -> str:
    return json.dumps({name: record[name] for name in ("module", "line", "kind", "before", "after", "source")})


def report(records: Sequence[dict[str, Any]]) -> None:
    """Prints the score of each module, and the mutants that survived."""
    equivalent = {(entry["module"], entry["before"], entry["after"]) for entry in read(EQUIVALENT)}
    counts: dict[str, Counter[str]] = {}
    left = []
    for record in records:
        alike = (record["module"], record["before"], record["after"]) in equivalent
        found = record["outcome"] in FOUND
        counts.setdefault(record["module"], Counter())["found" if found else "alike" if alike else "left"] += 1
        if not found and not alike:
            left.append(record)
    for record in left:
        print(f"{record['module']}:{record['line']}: {record['outcome']}, {record['kind']}")
        print(f"    {record['before']}\n    {record['after']}")
    for module, count in {**counts, "all": sum(counts.values(), Counter())}.items():
        tried = count["found"] + count["left"]
        share = f"{100 * count['found'] / tried:.0f} %" if tried else "–"
        print(f"{module:<50} {count['found']:>4} of {tried:>4} {share:>6}, {count['alike']} equivalent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", help="modules, or folders of them")
    parser.add_argument("--mutants", type=int, default=150, help="greatest number of mutants of a module")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--out", type=Path, default=Path("mutation.jsonl"), help="file of the outcomes")
    parser.add_argument("--longest", type=float, default=10.0, help="seconds of the longest test that is run")
    parser.add_argument("--tests", nargs="+", help="test files or folders, instead of the folders of each module")
    parser.add_argument("--retry", action="store_true", help="try those again that survived")
    parser.add_argument("--report", action="store_true", help="only report what is in the file")
    arguments = parser.parse_args()
    known = {key(record): record for record in read(arguments.out)}
    planned = []
    for module in modules(arguments.paths):
        source = (ROOT / module).read_bytes()
        for mutant in sample(module, source, arguments.mutants, arguments.seed):
            planned.append((module, mutant, described(module, mutant, source)))
    if not arguments.report:
        try_all(planned, known, arguments)
    report([known[key(record)] for _, _, record in planned if key(record) in known])


def try_all(
    planned: Sequence[tuple[str, Mutant, dict[str, Any]]],
    known: dict[str, dict[str, Any]],
    arguments: argparse.Namespace,
) -> None:
    """Tries the mutants without an outcome, and adds each outcome to the file."""
    done = {name for name, record in known.items() if record["outcome"] in FOUND or not arguments.retry}
    todo = [entry for entry in planned if key(entry[2]) not in done]
    if not todo:
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError:
            continue
    assert not any(name.partition(".")[0] == "fdjpeg" for name in sys.modules)
    with tempfile.TemporaryDirectory() as folder:
        tree, baselines = Tree(Path(folder).resolve()), {}
        for number, (module, mutant, record) in enumerate(todo, 1):
            folders = tuple(arguments.tests or tests_of(module))
            if folders not in baselines:
                baselines[folders] = tree.baseline(folders)
            begun = time.monotonic()
            record["outcome"] = tree.outcome(module, mutant, folders, baselines[folders], arguments.longest)
            record["seconds"] = round(time.monotonic() - begun, 1)
            known[key(record)] = record
            with arguments.out.open("a") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            print(f"{number}/{len(todo)} {module}:{mutant.line} {record['outcome']}", flush=True)


if __name__ == "__main__":
    main()
