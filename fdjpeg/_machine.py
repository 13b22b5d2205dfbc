"""The machine, versions and commit behind a figure, as reports and kept results record them."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

#: The folder of this package, in a checkout or where it is installed.
PACKAGE = Path(__file__).resolve().parent


def processor() -> str:
    """Returns the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor()


def commit() -> str:
    """Returns the short commit of the checkout that this package is in, or "unknown".

    An installed package may be inside another project's checkout; that project's commit is not returned.
    """
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--show-toplevel", "--short", "HEAD"], cwd=PACKAGE, capture_output=True, text=True
        ).stdout.splitlines()
    except OSError:
        return "unknown"
    return found[1] if len(found) > 1 and Path(found[0]) == PACKAGE.parent else "unknown"


def describe_machine() -> dict[str, Any]:
    """Returns processor, cores, load, versions, date and commit."""
    import numpy
    import PIL
    from PIL import features

    import fdjpeg

    loaded = hasattr(torch.ops.fdjpeg, "cpu_instruction_set")
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "pillow": f"{PIL.__version__} (libjpeg-turbo {features.version('libjpeg_turbo')})",
        "fdjpeg": fdjpeg.__version__,
        "commit": commit(),
        "instruction set": torch.ops.fdjpeg.cpu_instruction_set() if loaded else "none: plain torch",
    }
