"""The command ``fdjpeg tables``: quantization tables to look at, to convert and to derive from images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image, ImageDraw, UnidentifiedImageError
from rich.console import Console
from rich.progress import track
from torch import Tensor

from fdjpeg import reference
from fdjpeg._geometry import BLOCK
from fdjpeg.tables import QuantTables

app = typer.Typer(help="Quantization tables: show them, convert them, derive them from images.", no_args_is_help=True)
console = Console()
complaints = Console(stderr=True)

_SOURCE = "A quality 1…100, a JPEG file, a text file as `cjpeg -qtables` reads it, or a .json file of Pillow's qtables."
_TARGET = "A text file as `cjpeg -qtables` reads it; or, if its name ends in .json, Pillow's qtables."

Source = Annotated[str, typer.Argument(help=_SOURCE)]
Target = Annotated[Path, typer.Argument(help=_TARGET)]
Picture = Annotated[Path | None, typer.Option(help="Draws the tables into this PNG file.")]


@app.command()
def show(source: Source, picture: Picture = None) -> None:
    """Prints tables."""
    tables = read_tables(source)
    for name, table in _named(tables).items():
        print_table(f"{name}, mean step {table.double().mean():.1f}", table)
    if picture is not None:
        _save_picture(tables, picture)


@app.command()
def convert(source: Source, target: Target) -> None:
    """Writes tables in another format."""
    write_tables(read_tables(source), target)


@app.command()
def derive(
    folder: Annotated[Path, typer.Argument(help="A folder of images, searched with all its folders.")],
    target: Target,
    n: Annotated[int, typer.Option(min=0, max=64, help="How many bands get the fine step.")] = 15,
    fine: Annotated[int, typer.Option(min=1, max=255, help="Their step.")] = 1,
    coarse: Annotated[int, typer.Option(min=1, max=255, help="The step of the others.")] = 40,
    picture: Picture = None,
) -> None:
    """Derives the table of feature distillation: fine steps in the bands where these images vary most.

    Source: Liu et al., "Feature Distillation: DNN-Oriented JPEG Compression Against Adversarial Examples", arXiv
    1803.05787v1, eq. 11: the standard deviation of each band of the 8×8 DCT over all images, their channels pooled.
    Images are read one at a time, at their own size; blocks that are not whole are left out, which is our choice.
    """
    files = image_files(folder)
    images = (read_image(file) for file in track(files, "reading", console=complaints, transient=True))
    deviation = band_deviation(image for image in images if image is not None)
    tables = QuantTables.feature_distillation(deviation, n, fine, coarse)
    print_table("standard deviation of each band, in units of 0…255", deviation)
    print_table(f"table of all components: {fine} in the {n} bands where it is largest, {coarse} elsewhere", tables.y)
    write_tables(tables, target)
    if picture is not None:
        _save_picture(tables, picture)


# ---------------------------------------------------------------------------------------------------------------------
# Files of tables


def read_tables(source: str) -> QuantTables:
    """The tables of a quality or a file.

    Raises:
        ValueError: it is neither, or the file holds no tables.
    """
    try:
        quality = float(source)
    except ValueError:
        pass
    else:
        return QuantTables.standard(quality)
    try:
        content = Path(source).read_bytes()
    except OSError as error:
        raise ValueError(f"source should be a quality or a file that can be read, got {source!r}: {error}") from error
    if content.startswith(b"\xff\xd8"):
        return QuantTables.from_image(content)
    if Path(source).suffix.lower() == ".json":
        try:
            return QuantTables.from_pillow(json.loads(content))
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            raise ValueError(f"source should hold a list of tables, got {source!r}: {error}") from error
    return QuantTables.load(source)


def write_tables(tables: QuantTables, target: Path) -> None:
    """Writes a text file for ``cjpeg -qtables``, or a ``.json`` file of Pillow's ``qtables``, and says so.

    Raises:
        ValueError: it cannot be written, or a step is outside 1…255.
    """
    try:
        if target.suffix.lower() == ".json":
            target.write_text(json.dumps(tables.to_pillow()) + "\n", encoding="ascii")
        else:
            tables.save(target)
    except OSError as error:
        raise ValueError(f"target should be a file that can be written, got {str(target)!r}: {error}") from error
    _say_written(target)


def _say_written(file: Path) -> None:
    console.print(f"Written: {file}", soft_wrap=True, markup=False, highlight=False)


# ---------------------------------------------------------------------------------------------------------------------
# Tables to look at


def _named(tables: QuantTables) -> dict[str, Tensor]:
    """Each different table, int64 ``(8, 8)``, by the components that use it."""
    y, cb, cr = tables.integer().stacked()[0].long()
    if not torch.equal(cb, cr):
        return {"Y": y, "Cb": cb, "Cr": cr}
    return {"Y, Cb and Cr": y} if torch.equal(y, cb) else {"Y": y, "Cb and Cr": cb}


def print_table(title: str, table: Tensor) -> None:
    """Prints ``(8, 8)`` numbers, whole or to one decimal place; rows are vertical frequencies."""
    console.print(title, style="bold", soft_wrap=True, markup=False, highlight=False)
    decimals = 1 if table.is_floating_point() else 0
    for row in table.tolist():
        console.print("".join(f"{number:8.{decimals}f}" for number in row), highlight=False)


def draw(tables: QuantTables) -> Image.Image:
    """The tables side by side, a cell for each step: the number, on a shade that goes with its logarithm."""
    cell, margin = 28, 20
    named = _named(tables)
    side = BLOCK * cell
    picture = Image.new("RGB", (len(named) * (side + margin) + margin, side + 2 * margin), "white")
    pen = ImageDraw.Draw(picture)
    for number, (name, table) in enumerate(named.items()):
        left, top = margin + number * (side + margin), margin
        _write(pen, left + side / 2, margin / 2, name, "black")
        for row, steps in enumerate(table.tolist()):
            for column, step in enumerate(steps):
                shade = round(255 * (1 - math.log(step) / math.log(255)))
                x, y = left + column * cell, top + row * cell
                pen.rectangle((x, y, x + cell - 2, y + cell - 2), (shade, shade, 255))
                _write(pen, x + cell / 2 - 1, y + cell / 2 - 1, str(step), "black" if shade > 130 else "white")
    return picture


def _write(pen: ImageDraw.ImageDraw, x: float, y: float, text: str, colour: str) -> None:
    """Writes text centred at (x, y)."""
    left, top, right, bottom = pen.textbbox((0, 0), text)
    pen.text((x - (left + right) / 2, y - (top + bottom) / 2), text, colour)


def _save_picture(tables: QuantTables, target: Path) -> None:
    if target.suffix.lower() != ".png":
        raise ValueError(f"picture should be a .png file, got {str(target)!r}")
    try:
        draw(tables).save(target)
    except OSError as error:
        raise ValueError(f"picture should be a file that can be written, got {str(target)!r}: {error}") from error
    _say_written(target)


# ---------------------------------------------------------------------------------------------------------------------
# Statistics of images


def image_files(folder: Path) -> list[Path]:
    """All files of the folder and its folders that look like images by their names, sorted.

    Raises:
        ValueError: there are none.
    """
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in known and file.is_file())
    if not files:
        raise ValueError(f"folder should hold images that Pillow reads, got {str(folder)!r} with none")
    return files


def read_image(file: Path) -> Tensor | None:
    """An image as uint8 ``(3, H, W)``, or ``(1, H, W)`` if grey; None, and a complaint, if it cannot be read."""
    try:
        with Image.open(file) as image:
            converted = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        complaints.print(f"Left out: {file}: {error}", soft_wrap=True, markup=False, highlight=False)
        return None
    samples = torch.frombuffer(bytearray(converted.tobytes()), dtype=torch.uint8)
    return samples.view(converted.height, converted.width, -1).permute(2, 0, 1)


#: Rows of an image that are transformed at once, so that large images need little memory.
_STRIP = 32 * BLOCK


def band_deviation(images: Iterable[Tensor]) -> Tensor:
    """The standard deviation of each band of the 8×8 DCT over images, all channels pooled.

    Args:
        images: uint8 ``(C, H, W)`` each; taken one at a time. Rows and columns beyond whole blocks are left out.

    Returns:
        float64 ``(8, 8)``, in units of 0…255: the coefficients are those of the orthonormal DCT.

    Raises:
        ValueError: there is no whole block.
    """
    count = 0
    total, squares = torch.zeros(2, BLOCK, BLOCK, dtype=torch.float64)
    for image in images:
        _, height, width = image.shape
        whole = image[:, : height - height % BLOCK, : width - width % BLOCK]
        for strip in whole.split(_STRIP, dim=1):
            # Less 128, so that squares stay small beside their variance.
            coefficients = reference.real_dct(reference.to_blocks(strip.double() - 128)).flatten(0, 2)
            count += len(coefficients)
            total += coefficients.sum(0)
            squares += coefficients.square().sum(0)
    if count == 0:
        raise ValueError(f"images should hold at least one block of {BLOCK} × {BLOCK} samples, got none")
    return (squares / count - (total / count).square()).clamp(min=0).sqrt()
