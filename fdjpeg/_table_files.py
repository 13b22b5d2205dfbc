"""The files that hold quantization tables: JPEG files, and the text format of ``cjpeg -qtables``."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, TypeAlias

from fdjpeg._table_checks import STEPS

if TYPE_CHECKING:
    import PIL.Image
    import PIL.JpegImagePlugin

    JpegFile: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes] | PIL.Image.Image


def open_jpeg(file: JpegFile) -> PIL.JpegImagePlugin.JpegImageFile:
    """Reads the header of a JPEG file by Pillow; raises a ``ValueError`` if it cannot."""
    from PIL import Image, JpegImagePlugin

    if isinstance(file, JpegImagePlugin.JpegImageFile):
        return file
    if isinstance(file, Image.Image):
        raise ValueError(
            f"file must be a JPEG file, or an image as PIL.Image.open returns it for one, "
            f"got an image of format {file.format}"
        )
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as stream:
            file = stream.read()
    if isinstance(file, (bytes, bytearray, memoryview)):
        file = io.BytesIO(file)
    if not hasattr(file, "read"):
        raise TypeError(f"file must be a path, bytes, a binary file or a PIL.Image.Image, got {type(file).__name__}")
    try:
        return JpegImagePlugin.JpegImageFile(file)
    except (SyntaxError, OSError) as error:
        raise ValueError(f"file must be a JPEG file of 8-bit samples, got one that Pillow refuses: {error}") from error


def holds_rgb(image: PIL.JpegImagePlugin.JpegImageFile) -> bool:
    """Whether three components are R, G, B, by the rules of libjpeg (``default_decompress_parms``)."""
    if "jfif" in image.info:
        return False
    if "adobe_transform" in image.info:
        return bool(image.info["adobe_transform"] == 0)
    return bytes(component[0] for component in image.layer) == b"RGB"


def table_numbers(image: PIL.JpegImagePlugin.JpegImageFile) -> list[int]:
    """Returns for each component, Y or Y, Cb and Cr, the number of its table in ``image.quantization``.

    Raises:
        ValueError: the components are not Y or Y, Cb and Cr, or one of them names a table that the file lacks.
    """
    if len(image.layer) not in (1, 3):
        raise ValueError(
            f"file must be a grey or YCbCr JPEG, got one of {len(image.layer)} components (mode {image.mode})"
        )
    if len(image.layer) == 3 and holds_rgb(image):
        raise ValueError("file must be a grey or YCbCr JPEG, got one whose components are R, G and B")
    names = [component[3] for component in image.layer]
    for component, number in enumerate(names):
        if number not in image.quantization:
            raise ValueError(
                f"file must define quantization table {number}, which component {component} names, "
                f"got only {sorted(image.quantization)}"
            )
    return names


def read_text(file: str | os.PathLike[str] | IO[str] | IO[bytes]) -> str:
    """Reads all of a text file; comments may hold any bytes."""
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as stream:
            content: str | bytes = stream.read()
    elif hasattr(file, "read"):
        content = file.read()
    else:
        raise TypeError(f"file must be a path or an open file, got {type(file).__name__}")
    return content if isinstance(content, str) else content.decode("latin-1")


def parse(text: str) -> list[list[int]]:
    """Reads one, two or three lists of 64 steps from the text format of ``cjpeg -qtables``.

    Raises:
        ValueError: a word is not an integer, or there are not 64, 128 or 192 of them.
    """
    words = [
        (word, line) for line, content in enumerate(text.splitlines(), 1) for word in content.split("#")[0].split()
    ]
    for word, line in words:
        if not (word.isascii() and word.isdigit()):
            raise ValueError(f"file must hold integers and # comments, got {word!r} in line {line}")
    steps = [int(word) for word, _ in words]
    if len(steps) not in (STEPS, 2 * STEPS, 3 * STEPS):
        raise ValueError(f"file must hold one, two or three tables of 64 integers, got {len(steps)} integers")
    return [steps[start : start + STEPS] for start in range(0, len(steps), STEPS)]


def to_text(tables: Sequence[Sequence[Sequence[int]]]) -> str:
    """Writes two or three 8×8 tables in the text format of ``cjpeg -qtables``."""
    titles = ("Y", "Cb and Cr") if len(tables) == 2 else ("Y", "Cb", "Cr")
    lines = ["# JPEG quantization tables, row-major, for cjpeg -qtables"]
    if len(tables) == 3:
        lines.append("# with -qslots 0,1,2")
    for title, table in zip(titles, tables, strict=True):
        lines += ["", f"# {title}"]
        lines += [" ".join(f"{step:3d}" for step in row) for row in table]
    return "\n".join(lines) + "\n"
