"""What the ops do to a process: run as a program of its own, since memory is counted for a whole process.

python -m support.resources flat CALLS       # memory of its own after CALLS calls of each op
python -m support.resources failed           # an allocation fails; the ops still work afterwards
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

import fdjpeg
from support import every_op

#: Growth that counts as none, in bytes: the allocator keeps some pages, but none for each call.
SLACK = 4 * 2**20


def owned() -> int:
    """Returns the process's resident memory in bytes, without pages of files.

    The system drops pages of libraries, and reads them again where they are touched: they come and go by megabytes
    whatever the process does. What a process allocates and does not free is in no file.
    """
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(lines[kind].split()[0]) for kind in ("RssAnon", "RssShmem")) * 1024


def flat(calls: int) -> None:
    """Calls every compiled op again and again, for RGB and grey, and raises if its memory grew."""
    for channels in (3, 1):
        for _ in range(calls // 10):
            every_op.results_of(torch.ops.fdjpeg, 2, channels, (2, 2), parts=False)
        before = owned()
        for _ in range(calls):
            every_op.results_of(torch.ops.fdjpeg, 2, channels, (2, 2), parts=False)
        grown = owned() - before
        print(f"{calls} calls of each op, {channels} channels: {grown / 2**20:.2f} MiB more")
        if grown > SLACK:
            raise SystemExit(1)


def failed() -> None:
    """Asks each function for more memory than there may be; a small image afterwards gives the bits of before."""
    small = torch.rand(1, 3, 40, 40)
    expected = fdjpeg.jpeg(small, 75)
    coefficients = fdjpeg.encode(small, 75)
    # An image without memory of its own: one sample, seen 3 · 20000² times.
    huge = torch.full((1, 1, 1, 1), 0.5).expand(1, 3, 20000, 20000)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2**29
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    calls = {
        "jpeg": lambda: fdjpeg.jpeg(huge, 75),
        "real": lambda: fdjpeg.jpeg(huge, 75, arithmetic="real"),
        "encode": lambda: fdjpeg.encode(huge, 75),
        "rate": lambda: fdjpeg.rate(huge, 75),
        "a map": lambda: fdjpeg.jpeg(huge, torch.full((1, 1, 1), 50.0).expand(1, 2500, 2500)),
    }
    for name, call in calls.items():
        try:
            call()
        except (RuntimeError, MemoryError) as error:
            print(f"{name}: {str(error).splitlines()[0]}")
        else:
            raise SystemExit(f"{name} must have run out of memory")
        assert torch.equal(fdjpeg.jpeg(small, 75), expected)
        assert torch.equal(fdjpeg.decode(coefficients, torch.float32), expected)


if __name__ == "__main__":
    flat(int(sys.argv[2])) if sys.argv[1] == "flat" else failed()
