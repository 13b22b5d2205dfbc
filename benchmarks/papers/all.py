"""Runs all of the papers' experiments, or resumes them: ``python benchmarks/papers/all.py WORK --data cifar10.npz``.

WORK keeps the trained networks and the attacked images; figures go to benchmarks/results/papers/. The settings are
those of docs/papers.md's "in full": on a machine with a GPU or more time, only the clock differs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from experiment import options

#: Each experiment's file, with its options beyond WORK.
COMMANDS = {
    "defensive_distillation": ["--seeds", "3", "--images", "100"],
    "purification": ["--seeds", "3"],
    "s2snet": ["--seeds", "3"],
    "nn_favoured_table": [],
    "feature_distillation": [],
}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--data", default="cifar10.npz", help="The file cifar10.npz.")
    given = parser.parse_args()
    folder = Path(__file__).parent
    for name, more in COMMANDS.items():
        command = [sys.executable, str(folder / f"{name}.py"), str(given.work), "--out", str(given.out), *more]
        command += ["--data", given.data] if name == "feature_distillation" else []
        command += ["--report"] if given.report else []
        print(" ".join(command[1:]), flush=True)
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
