"""Mutation testing: plants small faults in the Python code, one at a time, and counts those that the tests find.

    nice -n 19 python tests/mutation.py evaluation --mutants 8
    python tests/mutation.py --report

Outcomes are kept in `benchmarks/results/mutation/AREA.jsonl`, a line for each mutant, and a run that was stopped
resumes: a mutant whose outcome is there is not tried again, unless its module has changed since. `--retry` tries all
those again that survived, after tests were added. `--page` writes the tables to the folder's README and docs/trust.md.

Each module gives a sample of its mutants, drawn from `--seed` (see `support/mutants.py` for the kinds); a larger sample
has the mutants of a smaller one. First the test files of the area run once without a change, and it is noted which
functions each test calls. A mutant in a function is then tried by the tests that call it, the shortest first, until one
fails, or until `--budget` seconds of tests have passed. A mutant at the top of a module is tried by the tests that call
anything in it. Tests that fail or take longer than `--longest` seconds without a change are left out, and so are calls
in other processes. A test that finds a mutant must pass alone without it. All times are those of a processor without a
change. Everything happens in a copy of the tree.

A mutant that no test can find because it behaves alike is listed in `equivalent_mutants.jsonl`, with the reason, and is
not tried.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from hashlib import sha256
from importlib import import_module
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from support.mutants import Mutant, mutants, sample
from support.mutation_runs import Baseline, Trials, collected, forked, tried_by_import

ROOT = Path(__file__).parents[1]

#: The outcomes, a file for each area.
KEPT = ROOT / "benchmarks" / "results" / "mutation"

#: The page of the documentation that has the table of areas.
TRUST = ROOT / "docs" / "trust.md"

#: The test files of each area, which is a room of the package or its core.
TESTS = {
    "core": (
        "tests/codec",
        "tests/learning",
        "tests/house/test_bad_input_table.py",
        "tests/house/test_library.py",
        "tests/certificates/test_design.py",
        "tests/evaluation/test_boundary.py",
        "tests/evaluation/test_evaluation_fingerprint.py",
        "tests/evaluation/test_parties.py",
        "tests/defenses/test_defenses_mistakes.py",
        "tests/defenses/test_fine_tuning.py",
    ),
    "attacks": (
        "tests/attacks",
        "tests/evaluation/test_boundary.py",
        "tests/evaluation/test_evaluation_flip.py",
        "tests/evaluation/test_parties.py",
        "tests/evaluation/test_surroundings.py",
        "tests/house/test_bad_input_table.py",
    ),
    "certificates": (
        "tests/certificates",
        "tests/evaluation/test_surroundings.py",
        "tests/house/test_bad_input_table.py",
    ),
    "defenses": ("tests/defenses", "tests/evaluation/test_parties.py", "tests/house/test_bad_input_table.py"),
    "evaluation": ("tests/evaluation", "tests/house/test_bad_input_table.py"),
    "learning": ("tests/learning", "tests/evaluation/test_surroundings.py", "tests/house/test_bad_input_table.py"),
}

#: The folders of the core below the package; its own modules belong to it too.
CORE = ("ops", "reference")

#: Imported before the processes are forked, because they take longer than most tests.
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

#: What identifies a mutant.
KEY = ("module", "line", "kind", "before", "after", "source")


def copy_tree(root: Path) -> None:
    """Copies the repository, without kept results, to a folder in which mutants are planted."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    libraries = [str(file.relative_to(ROOT)) for file in (ROOT / "fdjpeg").glob("*.so")]
    for name in filter(None, (*names, *libraries)):
        if (ROOT / name).is_file() and not name.startswith("benchmarks/results"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)


class Measured:
    """The baselines of earlier runs, in the folder of builds; valid while package, helpers and test file are the same.

    Args:
        area: its name.
        longest: seconds of the longest test.
        root: the copy of the tree that is measured; the tree itself may change meanwhile.
    """

    def __init__(self, area: str, longest: float, root: Path) -> None:
        self.root = root
        self.file = ROOT / "build" / "mutation" / f"{area}.json"
        support = [file for file in (root / "tests" / "support").glob("*.py") if not file.name.startswith("muta")]
        shared = [*(root / "fdjpeg").rglob("*.py"), *support]
        self.shared = _hash([*shared, *(root / "tests").rglob("conftest.py"), *(root / "fdjpeg").glob("*.so")])
        self.shared += f" {longest:g}"
        self.baseline, self.files = Baseline(), {}
        if self.file.exists() and (kept := json.loads(self.file.read_text()))["shared"] == self.shared:
            same = {name for name, found in kept["files"].items() if self.of(name) == found}
            self.baseline = Baseline(**kept["baseline"])
            for values in (self.baseline.seconds, self.baseline.calls, self.baseline.uses):
                for test in [test for test in values if test.partition("::")[0] not in same]:
                    del values[test]
            self.files = {name: self.of(name) for name in same}

    def of(self, name: str) -> str:
        return _hash([self.root / name]) if (self.root / name).exists() else ""

    def keep(self, baseline: Baseline) -> None:
        files = {test.partition("::")[0] for test in baseline.seconds}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        found = {"shared": self.shared, "files": {name: self.of(name) for name in files}, "baseline": asdict(baseline)}
        self.file.write_text(json.dumps(found))


def _hash(files: Sequence[Path]) -> str:
    total = sha256()
    for file in sorted(files):
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def area_of(module: str) -> str:
    """Returns the area of a module, "" for one of no area."""
    _, *folders, _ = module.split("/")
    room = folders[0] if folders else "core"
    return "core" if room in CORE else room if room in TESTS else ""


def modules(names: Sequence[str]) -> list[str]:
    """Returns the modules of areas, or the files given."""
    every = [str(file.relative_to(ROOT)) for file in sorted((ROOT / "fdjpeg").rglob("*.py"))]
    return [module for module in every if area_of(module) and (module in names or area_of(module) in names)]


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


def add(file: Path, record: dict[str, Any]) -> None:
    """Adds a record to a file."""
    with file.open("a") as lines:
        lines.write(json.dumps(record, ensure_ascii=False) + "\n")


def key(record: dict[str, Any]) -> str:
    return json.dumps({name: record[name] for name in KEY})


def outcomes(area: str, folder: Path = KEPT) -> dict[str, dict[str, Any]]:
    """Returns the last outcome of each mutant of an area, of the newest source that was tried of each module."""
    records = list(read(folder / f"{area}.jsonl"))
    newest = {record["module"]: record["source"] for record in records}
    return {key(record): record for record in records if record["source"] == newest[record["module"]]}


def survivors(module: str, source: bytes, drawn: Sequence[Mutant], folder: Path) -> list[Mutant]:
    """Returns the mutants of a module that no test has found, but for those drawn already."""
    left = {name for name, record in outcomes(area_of(module), folder).items() if record["outcome"] not in FOUND}
    return [one for one in mutants(source) if one not in drawn and key(described(module, one, source)) in left]


def alike() -> set[tuple[str, str, str]]:
    """Returns module, former and new lines of the mutants that are listed as equivalent."""
    return {(entry["module"], entry["before"], entry["after"]) for entry in read(EQUIVALENT)}


def counted(records: Sequence[dict[str, Any]]) -> dict[str, Counter[str]]:
    """Returns for each module how many mutants were "found", "alike" and "left"."""
    equivalent = alike()
    counts: dict[str, Counter[str]] = {}
    for record in sorted(records, key=lambda record: record["module"]):
        same = (record["module"], record["before"], record["after"]) in equivalent
        which = "found" if record["outcome"] in FOUND else "alike" if same else "left"
        counts.setdefault(record["module"], Counter())[which] += 1
        record["which"] = which
    return counts


def row(name: str, count: Counter[str]) -> tuple[str, int, int, str, int]:
    """Returns a line of the table: the name, mutants found, tried, the share, and those that behave alike."""
    tried = count["found"] + count["left"]
    return name, count["found"], tried, f"{100 * count['found'] / tried:.1f} %" if tried else "–", count["alike"]


def report(records: Sequence[dict[str, Any]]) -> None:
    """Prints the mutants that survived, and the score of each module."""
    counts = counted(records)
    for record in records:
        if record["which"] == "left":
            print(f"{record['module']}:{record['line']}: {record['outcome']}, {record['kind']}")
            print(f"    {record['before']}\n    {record['after']}")
    for module, count in {**counts, "all": sum(counts.values(), Counter())}.items():
        name, found, tried, share, same = row(module, count)
        print(f"{name:<50} {found:>4} of {tried:>4} {share:>6}, {same} equivalent")


def tables() -> tuple[str, str]:
    """Returns the kept outcomes as two tables in Markdown: by area, and by module."""
    head = "| {} | found | of | share | equivalent |\n|---|---|---|---|---|\n"
    areas, lines, total = [], [], Counter()
    for area in TESTS:
        counts = counted(list(outcomes(area).values()))
        if counts:
            areas.append(row(area, sum(counts.values(), Counter())))
            lines += [row(f"`{module}`", count) for module, count in counts.items()]
            total += sum(counts.values(), Counter())
    areas.append(row("all", total))
    by_area, by_module = ("".join(f"| {' | '.join(map(str, cells))} |\n" for cells in rows) for rows in (areas, lines))
    return head.format("area") + by_area, head.format("module") + by_module


def page() -> str:
    """Returns the README of the folder of outcomes."""
    by_area, by_module = tables()
    return f"""# Outcomes of mutation testing

`tests/mutation.py` plants one small fault at a time in the Python code and runs the tests that call it. Each file has
one line for each mutant: the change, a hash of the module, the outcome, the test that found it, and how many tests ran.
Outcomes are of the module's source whose hash they have, which may be older than the present one. Equivalent mutants
([tests/equivalent_mutants.jsonl](../../../tests/equivalent_mutants.jsonl)) are counted apart and are not in "of". This
page is made by `python tests/mutation.py --page`; [docs/trust.md](../../../docs/trust.md) explains the survivors.

{by_area}
{by_module}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(TESTS), help=f"areas ({', '.join(TESTS)}) or modules")
    parser.add_argument("--mutants", type=int, default=8, help="greatest number of mutants of a module")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--budget", type=float, default=15.0, help="seconds of tests for each mutant")
    parser.add_argument("--longest", type=float, default=5.0, help="seconds of the longest test that is run")
    parser.add_argument("--out", type=Path, default=KEPT, help="folder of the outcomes, instead of the kept ones")
    parser.add_argument("--tests", nargs="+", help="test files or folders, instead of those of each area")
    parser.add_argument("--retry", action="store_true", help="try those again that survived")
    parser.add_argument("--report", action="store_true", help="only report what is kept")
    parser.add_argument("--page", action="store_true", help="only write the page of what is kept")
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()  # the tests run in another folder
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.page:
        (KEPT / "README.md").write_text(page())
        text = TRUST.read_text()
        TRUST.write_text(re.sub(r"\| area \| found \|.*\n(\|.*\n)+", lambda _: tables()[0], text))
        return
    planned: dict[str, list[tuple[str, Mutant, bytes]]] = {}
    for module in modules(arguments.names):
        source = (ROOT / module).read_bytes()
        drawn = sample(module, source, arguments.mutants, arguments.seed)
        if arguments.retry:
            drawn += survivors(module, source, drawn, arguments.out)
        planned.setdefault(area_of(module), []).extend((module, mutant, source) for mutant in drawn)
    for area, entries in planned.items():
        if not arguments.report:
            try_all(area, entries, arguments)
        wanted = {key(described(*entry)) for entry in entries}
        kept = outcomes(area, arguments.out)
        report(list(kept.values()) if arguments.report else [kept[name] for name in kept if name in wanted])


def try_all(area: str, entries: Sequence[tuple[str, Mutant, bytes]], arguments: argparse.Namespace) -> None:
    """Tries the mutants of an area without an outcome, and adds each outcome to its file."""
    out = arguments.out / f"{area}.jsonl"
    known = {key(record): record["outcome"] for record in read(out)}
    done = {name for name, outcome in known.items() if outcome in FOUND or not arguments.retry}
    equivalent, todo = alike(), []
    for entry in entries:
        record = described(*entry)
        if (record["module"], record["before"], record["after"]) not in equivalent:
            todo += [entry] if key(record) not in done else []
        elif key(record) not in known:
            add(out, {**record, "outcome": "equivalent", "test": "", "tests": 0})
    if not todo:
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError:
            continue
    assert not any(name.partition(".")[0] == "fdjpeg" for name in sys.modules)
    begun, shown = time.monotonic(), os.fdopen(os.dup(1), "w")  # the forks' own output goes to a log

    def write(number: int, outcome: str, test: str, tests: int) -> None:
        if outcome != "import":
            record = {**described(*todo[number]), "outcome": outcome, "test": test, "tests": tests}
            add(out, record)
            minutes = (time.monotonic() - begun) / 60
            print(f"{minutes:.1f} min, {record['module']}:{record['line']} {outcome}", file=shown, flush=True)
            tried.write_text(tried.read_text() + f"{number}\n")

    with tempfile.TemporaryDirectory() as folder:
        root, tried = Path(folder).resolve() / "tree", Path(folder) / "tried"
        tried.write_text("")
        copy_tree(root)
        measured = Measured(area, arguments.longest, root)
        files = arguments.tests or TESTS[area]

        result = Path(folder) / "baseline.json"

        def keep(found: Baseline) -> None:
            measured.keep(found)
            result.write_text(json.dumps(asdict(found)))

        def serve() -> int:
            baseline, known = measured.baseline, set(measured.files)
            trials = Trials(root, baseline, known, todo, keep, write, arguments.budget, arguments.longest)
            return collected(root, files, [trials])

        if forked(serve, 1e6) != "passed":
            raise SystemExit(f"the tests do not run: {(root / 'pytest.log').read_text()[-3000:]}")
        baseline = Baseline(**json.loads(result.read_text()))
        sound: dict[str, bool] = {}
        for number in sorted(set(range(len(todo))) - set(map(int, tried.read_text().split()))):
            write(number, *imported(root, todo[number], baseline, arguments.budget, sound))


def imported(
    root: Path, entry: tuple[str, Mutant, bytes], baseline: Baseline, budget: float, sound: dict[str, bool]
) -> tuple[str, str, int]:
    """Tries a mutant that only a new import shows. Returns its outcome, the test and the number of tests.

    A second of tests finds most mutants. The files of all tests take longer to collect than those tests to run.
    """
    tried = "not called", "", 0
    for seconds in (min(1.0, budget), budget):
        tried = _imported(root, entry, baseline, seconds, sound)
        if tried[0] in FOUND:
            break
    return tried


def _imported(
    root: Path, entry: tuple[str, Mutant, bytes], baseline: Baseline, budget: float, sound: dict[str, bool]
) -> tuple[str, str, int]:
    """Tries a mutant as `imported` does, once, by tests of at most ``budget`` seconds."""
    module, mutant, source = entry
    while tests := baseline.chosen(baseline.able(module, mutant), budget):
        (root / module).write_bytes(mutant.apply(source))
        # Its bytecode would seem valid by time where a mutant comes within the same second; these runs write none.
        Path(cache_from_source(str(root / module))).unlink(missing_ok=True)
        try:
            outcome, test = tried_by_import(root, tests, baseline)
        finally:
            (root / module).write_bytes(source)
        if test not in sound and test in baseline.seconds:
            sound[test] = tried_by_import(root, [test], baseline)[0] == "survived"
        if sound.get(test, True):
            return outcome, test, len(tests)
        del baseline.seconds[test]
    return "not called", "", 0


if __name__ == "__main__":
    main()
