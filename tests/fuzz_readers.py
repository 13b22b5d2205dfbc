"""The long fuzzing of all readers of strangers' files, and of the ops' C++ entry, by atheris (libFuzzer).

    pip install atheris
    python tests/fuzz_readers.py tables      # one of `support.fuzz_readers.READERS`, a million executions
    python tests/fuzz_readers.py ops --executions 50000 --folder fuzz-readers
    python tests/fuzz_readers.py --report    # executions and faults of each reader

A stopped run resumes: the folder keeps the inputs that reached something new, and the number of executions. An error
that is no refusal is kept with its input and its traceback, each place once, and the run continues. A crash of the
process ends the run; its input is in the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

#: Executions between two records of a run.
PIECE = 10_000


class Run:
    """One reader's executions, recorded in a file as they are done."""

    def __init__(self, reader: str, executions: int, folder: Path, read: Any) -> None:
        self.reader, self.executions, self.read = reader, executions, read
        self.file = folder / f"{reader}.jsonl"
        records = records_of(self.file)
        self.done = sum(record["executions"] for record in records)
        self.places = {fault["place"] for record in records for fault in record["faults"]}
        self.faults: list[dict[str, str]] = []
        self.taken = self.since = 0
        self.begun = time.process_time()

    def execute(self, data: bytes) -> None:
        """Reads one input. Ends the process after the last."""
        try:
            self.taken += self.read(self.reader, data)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
            if place not in self.places:
                self.places.add(place)
                self.faults.append({"place": place, "input": data.hex(), "traceback": traceback.format_exc()})
        self.since += 1
        if self.since == PIECE or self.done + self.since >= self.executions:
            self._record()
        if self.done >= self.executions:
            os._exit(0)

    def _record(self) -> None:
        seconds = round(time.process_time() - self.begun, 1)
        record = {"executions": self.since, "taken": self.taken, "seconds": seconds, "faults": self.faults}
        with self.file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.done += self.since
        self.taken = self.since = 0
        self.faults, self.begun = [], time.process_time()


def records_of(file: Path) -> list[dict[str, Any]]:
    """Returns the records of a file; a torn last line is left out."""
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def fuzz(reader: str, executions: int, folder: Path) -> None:
    """Fuzzes a reader until so many executions were done, those of earlier runs included."""
    import atheris

    with atheris.instrument_imports(include=["fdjpeg"]):
        from support import fuzz_readers
    if reader not in fuzz_readers.READERS:
        raise SystemExit(f"reader must be one of {', '.join(fuzz_readers.READERS)}, got {reader!r}")
    found = folder / reader
    found.mkdir(parents=True, exist_ok=True)
    run = Run(reader, executions, folder, fuzz_readers.read)
    if run.done >= executions:
        return
    # libjpeg warns of each damaged file at descriptor 2, thousands of times a second.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    options = [f"-artifact_prefix={found}-", f"-seed={1 + run.done}", "-max_len=1100", "-timeout=60", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(found), str(fuzz_readers.CORPUS / reader)], run.execute)
    atheris.Fuzz()


def report(folder: Path) -> int:
    """Prints executions and faults of each reader. Returns 1 if there are faults."""
    faults = 0
    for file in sorted(folder.glob("*.jsonl")):
        records = records_of(file)
        executions, taken, seconds = (sum(one[name] for one in records) for name in ("executions", "taken", "seconds"))
        found = [fault for record in records for fault in record["faults"]]
        crashes = sorted(folder.glob(f"{file.stem}-*-*"))
        faults += len(found) + len(crashes)
        print(f"{file.stem:<20} {executions:>9,} executions, {taken:>9,} taken, {seconds:>6,.0f} s of CPU")
        for fault in found:
            print(f"    {fault['place']}: {fault['input'][:120]}")
        for crash in crashes:
            print(f"    {crash}")
    return 1 if faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", nargs="?", help="name of a reader")
    parser.add_argument("--executions", type=int, default=1_000_000, help="in all, with those of earlier runs")
    parser.add_argument("--folder", type=Path, default=Path("fuzz-readers"), help="of inputs and records")
    parser.add_argument("--report", action="store_true", help="only report what is in the folder")
    arguments = parser.parse_args()
    if arguments.reader is not None and not arguments.report:
        fuzz(arguments.reader, arguments.executions, arguments.folder)
    return report(arguments.folder)


if __name__ == "__main__":
    sys.exit(main())
