"""Image files: the one reader of every command, and the one listing of a folder's images.

Rules of the reader, the same for `fdjpeg evaluate`, `train`, `tables` and `roundtrip`:

- **Orientation.** The EXIF orientation is applied: images arrive upright.
- **Channels.** Grey modes become "L", all others "RGB". Palettes, CMYK, YCbCr, HSV and CIE L*a*b* are converted.
- **Alpha.** Transparency is left out, because JPEG has none.
- **More than 8 bits.** Samples of 16 bits keep their high byte, grey as well as RGB (Pillow does the same for RGB).
  Images of 32-bit integers or of floats have no agreed range and are refused.
- **Frames.** The first frame of an animation or of several pages is read.
- **Broken files.** A file that ends early is refused, whatever ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` says.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image, ImageCms, ImageFile, ImageOps

from fdjpeg._whole_files import of_the_system

#: Errors of Pillow for files that it cannot read: next to its own a SyntaxError for some PNGs, a ValueError for
#: text where a number belongs, errors of unpacking for torn headers, and a DecompressionBombError for absurd sizes.
READ_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_GREY_MODES = ("1", "L", "LA", "La")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


class Picture(NamedTuple):
    """An image of a file.

    Attributes:
        image: of mode "L" or "RGB", 8 bits a sample, upright.
        transparent: whether the file holds transparency, which was left out.
    """

    image: Image.Image
    transparent: bool


def read_picture(file: str | Path | IO[bytes], argument: str = "data") -> Picture:
    """Reads an image file by the rules of this module.

    Args:
        file: a path or an open binary file.
        argument: the argument that errors name.

    Raises:
        ValueError: Pillow does not read the file, or its samples have no agreed range; the message names the file.
    """
    try:
        with _whole_files(), Image.open(file) as opened:
            return _picture(opened)
    except READ_ERRORS as error:
        if of_the_system(error):
            raise
        raise ValueError(f"{argument} must be an image that Pillow reads, got {_name(file)}: {error}") from error


def picture_of(image: Image.Image, name: str, argument: str = "data") -> Picture:
    """Returns an image that another package has opened, by the rules of this module.

    Args:
        image: of any mode.
        name: describes it in errors.
        argument: the argument that errors name.

    Raises:
        ValueError: as `read_picture` does.
    """
    try:
        with _whole_files():
            return _picture(image)
    except READ_ERRORS as error:
        if of_the_system(error):
            raise
        raise ValueError(f"{argument} must be an image that Pillow reads, got {name}: {error}") from error


def _picture(image: Image.Image) -> Picture:
    image.load()
    _check_samples(image)
    transparent = image.mode in _ALPHA_MODES or "transparency" in image.info
    return Picture(_eight_bits(ImageOps.exif_transpose(image)), transparent)


def image_files(folder: Path, argument: str = "data") -> list[Path]:
    """Lists all files below a folder that look like images by their names, sorted.

    Left out are files and folders whose names begin with a dot, which other programs put there, and suffixes of formats
    that Pillow only writes, such as ``.pdf``.

    Raises:
        ValueError: there are none.
    """
    files = list(listed(folder))
    if not files:
        raise ValueError(f"{argument} must hold images that Pillow reads, got {str(folder)!r} with none")
    return files


def listed(folder: Path) -> Iterator[Path]:
    """Yields the files of `image_files`, of which there may be none.

    Links to files are followed, links to folders below ``folder`` are not. A link without a target is listed, so that
    its reader reports it. Pipes and devices are left out: reading one might never end.
    """
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    for file in sorted(folder.rglob("*")):
        if is_hidden(file.relative_to(folder)) or file.suffix.lower() not in known:
            continue
        if file.is_file() or not file.exists():
            yield file


def is_hidden(place: Path) -> bool:
    """Returns whether the name of a file or of one of its folders begins with a dot: other programs put it there."""
    return any(part.startswith(".") for part in place.parts)


def _check_samples(image: Image.Image) -> None:
    """Refuses samples without an agreed range."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode.startswith(("I", "F")) and not sixteen:
        raise ValueError(f"samples of mode {image.mode} have no agreed range; convert them to 8 or 16 bits")


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image of mode "L" or "RGB"."""
    if image.mode.startswith("I"):
        # Through 32 bits: Pillow clips 16-bit samples where it converts them to 8.
        return image.convert("I").point(lambda sample: sample / 256).convert("L")
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert converted is not None  # as nothing is done in place
        return converted
    return image.convert("L" if image.mode in _GREY_MODES else "RGB")


@contextmanager
def _whole_files() -> Iterator[None]:
    """Pillow refuses files that end early, although a program has told it to fill them up."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _name(file: str | Path | IO[bytes]) -> str:
    return repr(str(file)) if isinstance(file, (str, Path)) else repr(getattr(file, "name", "an open file"))
