"""The command ``fdjpeg tables``: quantization tables to look at, to convert, to derive and to learn from images."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import track
from torch import Tensor

from fdjpeg import reference
from fdjpeg._geometry import BLOCK
from fdjpeg._whole_files import whole_file, writing
from fdjpeg.sources.files import image_files
from fdjpeg.tables import QuantTables

from .console import complaints, console, print_json, say_written
from .image_files import read_image
from .lists import Command
from .table_picture import by_component, draw
from .tables_harvest import harvest
from .tables_learn import learn

app = typer.Typer(
    help="Quantization tables: show them, convert them, derive, learn or harvest them.",
    no_args_is_help=True,
)
app.command(cls=Command)(learn)
app.command(cls=Command)(harvest)

_SOURCE = "Quality 1…100, JPEG file, text file as `cjpeg -qtables` reads it, or .json file of Pillow's qtables."
_TARGET = "Text file as `cjpeg -qtables` reads it; if its name ends in .json, Pillow's qtables."

Source = Annotated[str, typer.Argument(help=_SOURCE)]
Target = Annotated[Path, typer.Argument(help=_TARGET)]
Picture = Annotated[Path | None, typer.Option(help="PNG file for a picture of the tables.")]


@app.command(cls=Command)
def show(
    source: Source,
    picture: Picture = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON of each component's table, rows of steps.")] = False,
) -> None:
    """Prints tables."""
    tables = read_tables(source)
    if as_json:
        components = tables.integer().stacked()[0].long().tolist()
        print_json(dict(zip(("Y", "Cb", "Cr"), components, strict=True)))
    else:
        for name, table in by_component(tables).items():
            print_table(f"{name}, mean step {table.double().mean():.1f}", table)
    if picture is not None:
        _save_picture(tables, picture, quiet=as_json)


@app.command(cls=Command)
def convert(source: Source, target: Target) -> None:
    """Writes tables in another format."""
    write_tables(read_tables(source), target)


@app.command(cls=Command)
def derive(
    folder: Annotated[Path, typer.Argument(help="Folder of images, searched with all its subfolders.")],
    target: Target,
    n: Annotated[int, typer.Option(min=0, max=64, help="Number of bands with the fine step.")] = 15,
    fine: Annotated[int, typer.Option(min=1, max=255, help="Step of those bands.")] = 1,
    coarse: Annotated[int, typer.Option(min=1, max=255, help="Step of the other bands.")] = 40,
    picture: Picture = None,
) -> None:
    """Derives the table of feature distillation: fine steps in the bands where these images vary most.

    Source: Liu et al., "Feature Distillation: DNN-Oriented JPEG Compression Against Adversarial Examples", arXiv
    1803.05787v1, eq. 11: the standard deviation of each band of the 8×8 DCT over all images, their channels pooled.
    Images are read one at a time, at their own size. Incomplete blocks are left out, which is our choice.
    """
    files = image_files(folder, "folder")
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
    """Reads the tables of a quality or a file.

    Raises:
        ValueError: if it is neither, or the file holds no tables.
    """
    try:
        quality = float(source)
    except ValueError:
        pass
    else:
        return QuantTables.standard(int(quality) if quality.is_integer() else quality)
    try:
        content = Path(source).read_bytes()
    except OSError as error:
        raise ValueError(f"source must be a quality or a file that can be read, got {source!r}: {error}") from error
    if content.startswith(b"\xff\xd8"):
        return QuantTables.from_image(content)
    if Path(source).suffix.lower() == ".json":
        try:
            return QuantTables.from_pillow(json.loads(content))
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            raise ValueError(f"source must hold a list of tables, got {source!r}: {error}") from error
    return QuantTables.load(source)


def write_tables(tables: QuantTables, target: Path) -> None:
    """Writes a text file for ``cjpeg -qtables``, or a ``.json`` file of Pillow's ``qtables``, and prints its name.

    Raises:
        ValueError: if it cannot be written, or a step is outside 1…255.
    """
    with writing("target", target):
        if target.suffix.lower() == ".json":
            with whole_file(target) as draft:
                draft.write_text(json.dumps(tables.to_pillow()) + "\n", encoding="ascii")
        else:
            tables.save(target)
    say_written(target)


# ---------------------------------------------------------------------------------------------------------------------
# Printing and drawing


def print_table(title: str, table: Tensor) -> None:
    """Prints ``(8, 8)`` numbers, whole or to one decimal place; rows are vertical frequencies."""
    console.print(title, style="bold", soft_wrap=True)
    width, decimals = (7, 1) if table.is_floating_point() else (6, 0)  # eight columns within 60 characters
    for row in table.tolist():
        console.print("".join(f"{number:{width}.{decimals}f}" for number in row))


def _save_picture(tables: QuantTables, target: Path, quiet: bool = False) -> None:
    if target.suffix.lower() != ".png":
        raise ValueError(f"picture must be a .png file, got {str(target)!r}")
    with writing("picture", target):
        draw(tables, target)
    if not quiet:
        say_written(target)


# ---------------------------------------------------------------------------------------------------------------------
# Statistics of images


#: Rows of an image that are transformed at once, so that large images need little memory.
_STRIP = 32 * BLOCK


def band_deviation(images: Iterable[Tensor]) -> Tensor:
    """Returns the standard deviation of each band of the 8×8 DCT over images, all channels pooled.

    Args:
        images: uint8 ``(C, H, W)`` each; read one at a time. Rows and columns beyond whole blocks are left out.

    Returns:
        float64 ``(8, 8)``, in units of 0…255: the coefficients are those of the orthonormal DCT.

    Raises:
        ValueError: if there is not a single whole block.
    """
    count = 0
    total, squares = torch.zeros(2, BLOCK, BLOCK, dtype=torch.float64, device="cpu")
    for image in images:
        _, height, width = image.shape
        whole = image[:, : height - height % BLOCK, : width - width % BLOCK]
        for strip in whole.split(_STRIP, dim=1):
            # Less 128, so that squares stay small compared with their variance.
            coefficients = reference.real_dct(reference.to_blocks(strip.double() - 128)).flatten(0, 2)
            count += len(coefficients)
            total += coefficients.sum(0)
            squares += coefficients.square().sum(0)
    if count == 0:
        raise ValueError(f"images must hold at least one block of {BLOCK} × {BLOCK} samples, got none")
    return (squares / count - (total / count).square()).clamp(min=0).sqrt()
