"""The files that hold quantization tables: JPEG files, and the text format of ``cjpeg -qtables``."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, TypeAlias

from fdjpeg._table_checks import STEPS
from fdjpeg._whole_files import whole_file

if TYPE_CHECKING:
    import PIL.Image
    import PIL.JpegImagePlugin

    JpegFile: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | PIL.Image.Image


#: A text file by its path, its bytes, or open.
TextFile: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[str] | IO[bytes]"


def open_jpeg(file: JpegFile) -> PIL.JpegImagePlugin.JpegImageFile:
    """Reads the header of a JPEG file by Pillow; raises a ``ValueError`` if it cannot."""
    from PIL import Image, JpegImagePlugin

    if isinstance(file, Image.Image):
        return _opened_jpeg(file)
    content = content_of(file)
    try:
        return JpegImagePlugin.JpegImageFile(io.BytesIO(content))
    except (SyntaxError, OSError) as error:
        raise ValueError(f"file must be a JPEG file of 8-bit samples, got one that Pillow refuses: {error}") from error


def content_of(file: JpegFile) -> bytes:
    """Returns the bytes of a JPEG file; raises unless ``file`` is a path, bytes, a binary file or an opened image."""
    from PIL import Image

    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as stream:
            return stream.read()
    if isinstance(file, (bytes, bytearray, memoryview)):
        return bytes(file)
    if isinstance(file, Image.Image):
        return _content_of_opened(_opened_jpeg(file))
    if not hasattr(file, "read"):
        raise TypeError(f"file must be a path, bytes, a binary file or a PIL.Image.Image, got {type(file).__name__}")
    content = file.read()
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise TypeError(f"file must be open in binary mode, got one whose read() returns {type(content).__name__}")
    return bytes(content)


def _opened_jpeg(image: PIL.Image.Image) -> PIL.JpegImagePlugin.JpegImageFile:
    """Returns an image that ``PIL.Image.open`` made from a JPEG file; raises on another."""
    from PIL import JpegImagePlugin

    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        raise ValueError(
            f"file must be a JPEG file, or an image as PIL.Image.open returns it for one, "
            f"got an image of format {image.format}"
        )
    return image


def _content_of_opened(image: PIL.JpegImagePlugin.JpegImageFile) -> bytes:
    """Returns the bytes from which ``PIL.Image.open`` made an image."""
    if image.fp is not None and not image.fp.closed:
        before = image.fp.tell()
        image.fp.seek(0)
        content = image.fp.read()
        image.fp.seek(before)
        return content
    if image.filename:
        with open(image.filename, "rb") as stream:
            return stream.read()
    raise ValueError("file must be an image whose file is still open, got one whose pixels were loaded from memory")


def holds_rgb(image: PIL.JpegImagePlugin.JpegImageFile) -> bool:
    """Returns whether three components are R, G, B, by the rules of libjpeg (``default_decompress_parms``)."""
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


def read_text(file: TextFile) -> str:
    """Reads all of a text file; comments may hold any bytes."""
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as stream:
            content: str | bytes = stream.read()
    elif isinstance(file, (bytes, bytearray, memoryview)):
        content = bytes(file)
    elif hasattr(file, "read"):
        content = file.read()
    else:
        raise TypeError(f"file must be a path, bytes or an open file, got {type(file).__name__}")
    return content if isinstance(content, str) else content.decode("latin-1")


def write_text(text: str, file: str | os.PathLike[str] | IO[str] | IO[bytes]) -> None:
    """Writes all of a text file of ASCII characters, open as text or in binary mode."""
    if isinstance(file, (str, os.PathLike)):
        with whole_file(file) as draft:
            draft.write_text(text, encoding="ascii")
    elif isinstance(file, (io.RawIOBase, io.BufferedIOBase)):
        file.write(text.encode("ascii"))
    elif hasattr(file, "write"):
        file.write(text)  # type: ignore[call-overload]
    else:
        raise TypeError(f"file must be a path or an open file, got {type(file).__name__}")


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
