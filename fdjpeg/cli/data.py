"""The command ``fdjpeg data``: published sets as one file of arrays that all commands and examples take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from fdjpeg._whole_files import whole_file, writing
from fdjpeg.sources import ImageSet, binary_sets
from fdjpeg.sources.image_set import to_bytes

from .console import say_written

#: Readers of published sets by name.
SETS: dict[str, Callable[[Path, str], ImageSet]] = {
    "cifar10": binary_sets.cifar10,
    "mnist": binary_sets.mnist,
    "fashion-mnist": binary_sets.fashion_mnist,
}


def data(
    name: Annotated[str, typer.Argument(help=f"Data set: {', '.join(SETS)}.")],
    place: Annotated[
        Path,
        typer.Argument(help="Archive or folder of CIFAR-10's binary version, or folder of IDX files."),
    ],
    target: Annotated[Path, typer.Argument(help="File for the arrays, such as cifar10.npz.")],
) -> None:
    """Writes the images, labels and class names of a published set into an .npz file.

    The arrays are train_images, train_labels, test_images, test_labels and class_names. Images are uint8
    (N, C, H, W), in the order of the set. Every command and example takes the file:
    `cifar10.npz:train` names the training images, `cifar10.npz:test` those to test on.
    """
    if name not in SETS:
        raise ValueError(f"name must be one of {', '.join(SETS)}, got {name!r}")
    if target.suffix != ".npz":
        raise ValueError(f"target must end in .npz, got {str(target)!r}")
    arrays = {}
    for split in binary_sets.SPLITS:
        images = SETS[name](place, split)
        # In parts: as floats a training set needs four times its memory already.
        arrays[f"{split}_images"] = torch.cat([to_bytes(part) for part in images.images.split(1000)]).numpy()
        arrays[f"{split}_labels"] = images.labels.numpy()
        arrays["class_names"] = np.array(images.classes)
    with writing("target", target), whole_file(target) as draft, draft.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    say_written(target)
