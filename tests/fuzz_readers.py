"""The long fuzzing of all readers of strangers' files, and of the ops' C++ entry, by atheris (libFuzzer).

    pip install atheris
    python tests/fuzz_readers.py tables -atheris_runs=1000000          # one reader of `support.fuzz_readers.READERS`
    python tests/fuzz_readers.py jpeg-coefficients -max_total_time=600

    python tests/fuzz_readers.py tables -atheris_runs=1000000        # one of `support.fuzz_readers.READERS`
read and not changed. The process ends at the first fault, with the input that caused it.
"""

from __future__ import annotations

import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["fdjpeg"]):
    from support import fuzz_readers


def main() -> None:
    """Fuzzes the reader that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] not in fuzz_readers.READERS:
        raise SystemExit(f"reader must be one of {', '.join(fuzz_readers.READERS)}, got {' '.join(sys.argv[1:2])!r}")
    reader = sys.argv[1]
    with tempfile.TemporaryDirectory() as found:
        folders = [found, str(fuzz_readers.CORPUS / reader)]
        atheris.Setup([sys.argv[0], *sys.argv[2:], *folders], lambda data: fuzz_readers.read(reader, data) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
