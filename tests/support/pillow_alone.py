"""Writes and reads JPEG files by whatever Pillow this process has; `tests/libraries.py` starts it in environments.

    python pillow_alone.py FOLDER OUT

FOLDER holds cases.json and, for each case, the raw bytes of its image and a file to read. OUT gets what this Pillow
makes of them. Only Pillow and the standard library are needed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image, features


def main() -> None:
    folder, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True)
    for name, case in json.loads((folder / "cases.json").read_text()).items():
        image = Image.frombytes(case["mode"], tuple(case["size"]), (folder / f"{name}.raw").read_bytes())
        more = {} if case["mode"] == "L" else {"subsampling": case["subsampling"]}
        image.save(out / f"{name}.jpg", quality=case["quality"], **more)
        with Image.open(folder / f"{name}.jpg") as read:
            (out / f"{name}.raw").write_bytes(read.tobytes())
    print(f"libjpeg-turbo {features.version('libjpeg_turbo')}")


if __name__ == "__main__":
    main()
