"""Compares fdjpeg's bits with those of many JPEG libraries: which of them encode and decode alike.

    python tests/libraries.py OUT.json

Pillow's wheels from 10.0 on run in environments of their own, which are made for it; OpenCV, simplejpeg and the
libraries inside jpeglib (libjpeg 6b … 9f, libjpeg-turbo, mozjpeg) run in this one. Each library writes every case, and
its coefficients are compared with those of `fdjpeg.encode`; each reads the file that this Pillow wrote, and its samples
are compared with those of `fdjpeg.jpeg`. Prints a table in Markdown; OUT.json keeps it with date, machine and commit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import jpeglib
import numpy as np
import simplejpeg
import torch
from support import cases, oracles
from support.oracles import Bytes, Coefficients
from support.settings import PILLOW

import fdjpeg
from fdjpeg._markdown import markdown_table
from fdjpeg.bench.measure import describe_machine

PILLOWS = (
    *("10.0.0", "10.0.1", "10.1.0", "10.2.0", "10.3.0", "10.4.0", "11.0.0", "11.1.0", "11.2.1", "11.3.0"),
    *("12.0.0", "12.1.1", "12.2.0", "12.3.0", "13.0.0"),
)
SIZES = ((48, 64), (37, 53), (9, 17))
QUALITIES = (5, 30, 50, 75, 90, 95, 100)


class Case(NamedTuple):
    """An image and its settings, with what fdjpeg makes of it and the file that this process's Pillow writes."""

    name: str
    image: Bytes
    quality: int
    subsampling: str
    coefficients: list[np.ndarray]
    samples: Bytes
    file: bytes


@dataclass
class Row:
    """What a library did with all cases: files with other coefficients, and files read as other samples."""

    library: str
    inside: str
    cases: int = 0
    encoded_otherwise: int | None = None
    decoded_otherwise: int | None = None
    differing_percent: float | None = None
    largest: int | None = None
    of_subsampled: int | None = None  # of the files read as other samples, those with subsampled chroma


def make_cases() -> list[Case]:
    """Returns photographs and noise of several sizes, grey and RGB, at each quality and each of Pillow's layouts."""
    made = []
    for (height, width), channels, kind in itertools.product(SIZES, (1, 3), ("photograph", "noise")):
        seed = zlib.crc32(f"{height} {width} {channels} {kind}".encode())
        draw = getattr(cases, f"_{kind}")
        image: Bytes = draw(np.random.default_rng(seed), channels, height, width)
        for quality, subsampling in itertools.product(QUALITIES, PILLOW if channels == 3 else ("4:4:4",)):
            batch = torch.from_numpy(image.copy())[None]
            encoded = fdjpeg.encode(batch, quality, subsampling=subsampling)
            planes = [plane[0].numpy() for plane in (encoded.y, encoded.cb, encoded.cr) if plane is not None]
            name = f"{kind}-{height}x{width}-{'rgb' if channels == 3 else 'grey'}-{quality}-{subsampling}"
            decoded = fdjpeg.jpeg(batch, quality, subsampling=subsampling)[0].numpy()
            file = oracles.encode(image, quality, subsampling)
            made.append(Case(name.replace(":", ""), image, quality, subsampling, planes, decoded, file))
    return made


def compare(
    row: Row, chosen: list[Case], write: Callable[[Case], bytes] | None, read: Callable[[Case], Bytes] | None
) -> Row:
    """Fills a row: ``write`` returns a library's file of a case, ``read`` its samples of the case's file."""
    row.cases = len(chosen)
    if write is not None:
        row.encoded_otherwise = sum(not _same(oracles.coefficients(write(case)), case) for case in chosen)
    if read is not None:
        found = [(case, np.abs(read(case).astype(int) - case.samples)) for case in chosen]
        other = [case for case, difference in found if difference.any()]
        row.decoded_otherwise = len(other)
        row.of_subsampled = sum(case.subsampling != "4:4:4" for case in other)
        samples = sum(difference.size for _, difference in found)
        row.differing_percent = round(100 * sum(int((d > 0).sum()) for _, d in found) / samples, 3)
        row.largest = max(int(difference.max()) for _, difference in found)
    return row


def _same(found: Coefficients, case: Case) -> bool:
    pairs = zip(found.components, case.coefficients, strict=True)
    return all(np.array_equal(one.reshape(other.shape), other) for one, other in pairs)


def of_pillows(chosen: list[Case], folder: Path) -> Iterator[Row]:
    """Yields a row for each Pillow wheel, in an environment that is made for it; one that has no wheel is skipped."""
    source = folder / "cases"
    source.mkdir()
    described = {}
    for case in chosen:
        grey = case.image.shape[0] == 1
        (source / f"{case.name}.raw").write_bytes(np.ascontiguousarray(case.image.transpose(1, 2, 0)).tobytes())
        (source / f"{case.name}.jpg").write_bytes(case.file)
        described[case.name] = {
            "mode": "L" if grey else "RGB",
            "size": [case.image.shape[2], case.image.shape[1]],
            "quality": case.quality,
            "subsampling": PILLOW[case.subsampling],
        }
    (source / "cases.json").write_text(json.dumps(described))
    script = Path(__file__).parent / "support" / "pillow_alone.py"
    for version in PILLOWS:
        out = folder / version
        python = folder / f"venv-{version}" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", f"pillow=={version}"]
        if subprocess.run(install, check=False).returncode:
            yield Row(f"Pillow {version}", "no wheel for this Python")
            continue
        inside = subprocess.run([python, script, source, out], check=True, capture_output=True, text=True).stdout

        def read(case: Case, out: Path = out) -> Bytes:
            raw = np.frombuffer((out / f"{case.name}.raw").read_bytes(), np.uint8)
            return raw.reshape(*case.image.shape[1:], -1).transpose(2, 0, 1)

        def write(case: Case, out: Path = out) -> bytes:
            return (out / f"{case.name}.jpg").read_bytes()

        yield compare(Row(f"Pillow {version}", inside.strip()), chosen, write, read)


def of_opencv(chosen: list[Case]) -> Row:
    """Returns OpenCV's row; a factor of 4:4:4 is its only for grey images."""
    factors = {
        "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
        "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    }

    def write(case: Case) -> bytes:
        pixels = np.ascontiguousarray(case.image.transpose(1, 2, 0)[..., ::-1])
        settings = [cv2.IMWRITE_JPEG_QUALITY, case.quality]
        settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factors[case.subsampling]] if pixels.shape[2] == 3 else []
        return bytes(cv2.imencode(".jpg", pixels, settings)[1])

    def read(case: Case) -> Bytes:
        pixels = cv2.imdecode(np.frombuffer(case.file, np.uint8), cv2.IMREAD_UNCHANGED)
        return pixels[None] if pixels.ndim == 2 else pixels[..., ::-1].transpose(2, 0, 1)

    lines = [line for line in cv2.getBuildInformation().splitlines() if "JPEG:" in line]
    return compare(Row(f"OpenCV {cv2.__version__}", lines[0].split(":", 1)[1].strip()), chosen, write, read)


def of_simplejpeg(chosen: list[Case], fast: bool) -> Row:
    """Returns simplejpeg's row, with its accurate or its default, fast transforms."""

    def write(case: Case) -> bytes:
        pixels = np.ascontiguousarray(case.image.transpose(1, 2, 0))
        colour, to = ("GRAY", "444") if pixels.shape[2] == 1 else ("RGB", case.subsampling.replace(":", ""))
        return bytes(simplejpeg.encode_jpeg(pixels, case.quality, colour, to, fastdct=fast))

    def read(case: Case) -> Bytes:
        colour = "GRAY" if case.image.shape[0] == 1 else "RGB"
        pixels = simplejpeg.decode_jpeg(case.file, colorspace=colour, fastdct=fast, fastupsample=fast)
        return pixels.transpose(2, 0, 1)

    name = f"simplejpeg, {'fast' if fast else 'accurate'}"
    return compare(Row(name, "libjpeg-turbo"), chosen, write, read)


def of_jpeglibs(chosen: list[Case]) -> Iterator[Row]:
    """Yields a row for each library inside jpeglib; they get Pillow's tables, since some have others of their own."""
    before = jpeglib.version.get()
    for version in sorted(jpeglib.version.versions()):

        def write(case: Case, version: str = version) -> bytes:
            with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
                with jpeglib.version(version):
                    _spatial(case).write_spatial(
                        file.name,
                        qt=oracles.standard_tables(case.quality)[:2].astype(np.uint16),
                        dct_method=jpeglib.JDCT_ISLOW,
                    )
                return Path(file.name).read_bytes()

        def read(case: Case, version: str = version) -> Bytes:
            with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
                Path(file.name).write_bytes(case.file)
                with jpeglib.version(version):
                    pixels = jpeglib.read_spatial(file.name, dct_method=jpeglib.JDCT_ISLOW).spatial
            return pixels.reshape(*case.image.shape[1:], -1).transpose(2, 0, 1)

        yield compare(Row(f"jpeglib {version}", _full_name(version)), chosen, write, read)
    jpeglib.version.set(before)


def _spatial(case: Case) -> jpeglib.SpatialJPEG:
    image = jpeglib.from_spatial(np.ascontiguousarray(case.image.transpose(1, 2, 0)))
    if case.image.shape[0] == 3:
        horizontal, vertical = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2)}[case.subsampling]
        image.samp_factor = ((vertical, horizontal), (1, 1), (1, 1))
    return image


def _full_name(version: str) -> str:
    for prefix, name in (("turbo", "libjpeg-turbo"), ("mozjpeg", "mozjpeg")):
        if version.startswith(prefix):
            return f"{name} {'.'.join(version.removeprefix(prefix))}"
    return f"libjpeg {version}"


def table(rows: list[Row]) -> list[str]:
    """Returns the rows in Markdown."""
    shown = [
        [row.library, row.inside, *(_shown(value) for value in (
            row.encoded_otherwise, row.decoded_otherwise, row.of_subsampled, row.differing_percent, row.largest))]
        for row in rows
    ]  # fmt: skip
    head = ["library", "inside", "encoded otherwise", "decoded otherwise", "of it subsampled", "samples, %", "levels"]
    return list(markdown_table(head, shown))


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    chosen = make_cases()
    rows = [of_opencv(chosen), of_simplejpeg(chosen, False), of_simplejpeg(chosen, True), *of_jpeglibs(chosen)]
    with tempfile.TemporaryDirectory() as folder:
        rows += of_pillows(chosen, Path(folder))
    lines = table(rows)
    print(f"{len(chosen)} cases", *lines, sep="\n")
    kept = {"machine": describe_machine(), "cases": len(chosen), "rows": [asdict(row) for row in rows]}
    out.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
