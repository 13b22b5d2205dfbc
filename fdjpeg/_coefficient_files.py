"""JPEG files from coefficients, and coefficients from JPEG files, bit for bit."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import Tensor

from fdjpeg._geometry import SAMPLING_FACTORS
from fdjpeg._table_files import content_of, open_jpeg
from fdjpeg._whole_files import of_the_system, whole_file
from fdjpeg.tables import QuantTables

if TYPE_CHECKING:
    import PIL.JpegImagePlugin

    from fdjpeg._table_files import JpegFile

#: The source and the target of one image's file.
Source: TypeAlias = "JpegFile"
Target: TypeAlias = str | os.PathLike[str] | IO[bytes]

#: libjpeg's largest height and width (JPEG_MAX_DIMENSION).
LARGEST_SIDE = 65500

#: A marker: fill bytes and a code that is neither a stuffed zero nor a restart (T.81, B.1.1.2).
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
#: The codes of markers without a segment (SOI and TEM), of the file's end, and of comments and application data.
_ALONE = (0xD8, 0x01)
_END = 0xD9
_APPLICATIONS = (*range(0xE0, 0xF0), 0xFE)
#: How application data about colour begins.
_COLORS = (b"JFIF", b"Adobe")


class Contents(NamedTuple):
    """The content of a JPEG file.

    Attributes:
        components: Y, or Y, Cb and Cr: int16 ``(rows, columns, 8, 8)``, without dummy blocks.
        tables: the quantization tables.
        size: height and width of the image.
        subsampling: the name of the sampling factors.
    """

    components: list[Tensor]
    tables: QuantTables
    size: tuple[int, int]
    subsampling: str


def write(contents: Contents, target: Target) -> None:
    """Writes a baseline file with the standard Huffman tables, which must have a code for every coefficient.

    Raises:
        ImportError: jpeglib is not installed.
        ValueError: a step is outside 1…255, or a side is longer than `LARGEST_SIDE`.
        OSError: ``target`` cannot be written.
    """
    content = _encoded(contents)
    if isinstance(target, (str, os.PathLike)):
        with whole_file(target) as draft:
            draft.write_bytes(content)
    elif hasattr(target, "write"):
        target.write(content)
    else:
        raise TypeError(f"file must be a path or a binary file, got {type(target).__name__}")


def _encoded(contents: Contents) -> bytes:
    jpeglib = _library()
    components, tables, (height, width), subsampling = contents
    if max(height, width) > LARGEST_SIDE:
        raise ValueError(f"coefficients must have at most {LARGEST_SIDE} rows and columns, got {height} × {width}")
    steps = torch.tensor(tables.to_pillow()[: len(components)], dtype=torch.uint16, device="cpu").unflatten(1, (8, 8))
    jpeg = jpeglib.from_dct(*(component.cpu().numpy() for component in components), qt=steps.numpy())
    jpeg.height, jpeg.width = height, width
    if len(components) == 3:
        horizontal, vertical = SAMPLING_FACTORS[subsampling]
        jpeg.samp_factor = [[vertical, horizontal], [1, 1], [1, 1]]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "image.jpg")
        jpeg.write_dct(str(file))
        return file.read_bytes()


def read(source: Source) -> Contents:
    """Reads a baseline or progressive file, with or without restart markers.

    Raises:
        ImportError: jpeglib is not installed.
        TypeError: ``source`` is not a path, bytes, a binary file or an opened image.
        ValueError: as `QuantTables.from_image`; the file is cut off or damaged; its sampling factors are not in
            `SAMPLING_FACTORS`; or it has more than twice ``PIL.Image.MAX_IMAGE_PIXELS`` pixels.
        OSError: ``source`` cannot be read.
    """
    jpeglib = _library()
    content = content_of(source)
    image = open_jpeg(content)
    tables = QuantTables.from_image(image)
    subsampling = _subsampling([(horizontal, vertical) for _, horizontal, vertical, _ in image.layer])
    width, height = image.size
    _check_size(width, height)
    _check_whole(image)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "image.jpg")
        file.write_bytes(_without_applications(content))
        try:
            jpeg = jpeglib.read_dct(str(file))
        except OSError as error:
            if of_the_system(error):
                raise
            raise _damaged(error) from error
        arrays = [jpeg.Y, jpeg.Cb, jpeg.Cr][: len(image.layer)]
    # A copy, because jpeglib owns the memory of its arrays.
    return Contents([torch.tensor(array, device="cpu") for array in arrays], tables, (height, width), subsampling)


def _check_size(width: int, height: int) -> None:
    """Raises where ``PIL.Image.open`` would: a header of few bytes may claim an image that fills the memory."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"file must have at most {2 * Image.MAX_IMAGE_PIXELS} pixels (twice PIL.Image.MAX_IMAGE_PIXELS), "
            f"got one of {height} × {width}"
        )


def _without_applications(content: bytes) -> bytes:
    """Returns a JPEG file without comments and application data (T.81, B.2.4.5 and B.2.4.6).

    No coefficient depends on them, but jpeglib takes at most 50 of them, and believes a length below 2. JFIF's and
    Adobe's stay, because they tell what the components are.
    """
    kept, at = [content[:2]], 2
    while found := _MARKER.search(content, at):
        kept.append(content[at : found.start()])
        code, start, end = found[1][0], found.start(), found.end()
        if code == _END:
            break
        if code not in _ALONE:
            end += max(2, int.from_bytes(content[end : end + 2], "big"))
        segment = content[start:end]
        dropped = code in _APPLICATIONS and not content.startswith(_COLORS, found.end() + 2)
        kept.append(b"" if dropped else segment)
        at = end
    return b"".join([*kept, content[found.start() if found else at :]])


def _check_whole(image: PIL.JpegImagePlugin.JpegImageFile) -> None:
    """Raises if the file is cut off or damaged, whatever ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` is.

    libjpeg would take what is missing for zeros, and only warn.
    """

    def load_read(read_bytes: int) -> bytes:
        piece: bytes = image.fp.read(read_bytes)  # type: ignore[union-attr]
        if not piece:  # Pillow's own method pretends that the file ends here if that switch is on
            raise OSError("image file is truncated")
        return piece

    image.load_read = load_read  # type: ignore[method-assign]
    try:
        image.load()
    except OSError as error:
        if of_the_system(error):
            raise
        raise _damaged(error) from error


def _damaged(error: OSError) -> ValueError:
    return ValueError(f"file must be a whole JPEG file, got one that cannot be decoded: {error}")


def _subsampling(factors: list[tuple[int, int]]) -> str:
    """Returns the name of the components' sampling factors (horizontal, vertical)."""
    (luma_x, luma_y), *chroma = factors
    if not chroma:
        return "4:4:4"
    for name, (horizontal, vertical) in SAMPLING_FACTORS.items():
        if all((horizontal * x, vertical * y) == (luma_x, luma_y) for x, y in chroma):
            return name
    listed = ", ".join(f"{horizontal}×{vertical}" for horizontal, vertical in factors)
    raise ValueError(f"file must be subsampled as one of {', '.join(SAMPLING_FACTORS)}, got sampling factors {listed}")


def _library() -> ModuleType:
    try:
        import jpeglib
    except ImportError as error:
        raise ImportError(
            'Coefficients.save and Coefficients.load need the package jpeglib: pip install "fdjpeg[files]"'
        ) from error
    return jpeglib
