"""Saved defences: safetensors files with metadata that describe them. A file appears whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

import fdjpeg
from fdjpeg import _whole_files
from fdjpeg._checks import check_path
from fdjpeg._numbers import plain
from fdjpeg._packages import required

from .base import Defense

#: The format in a file's metadata; the number changes when older readers would misread the file.
FORMAT = "fdjpeg-defense/1"

#: The file's name in the folder that training writes.
FILE = "defense.safetensors"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the block a temporary path, which becomes ``path`` if the block ends well and is removed if it does not.

    Raises:
        ValueError: the folder cannot be written, or not the whole file, such as on a full disk.
    """
    with _whole_files.writing("out", path.parent, "folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _whole_files.whole_file(path) as draft:
            yield draft


def remove_drafts(*folders: Path) -> None:
    """Removes the temporary files that `whole_file` left in folders when its process was killed."""
    for folder in folders:
        for file in folder.glob(".*"):
            if _whole_files.is_draft(file.name) and file.suffix in (".json", ".safetensors"):
                file.unlink()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes a safetensors file; each value of ``metadata`` is kept as JSON.

    Raises:
        ValueError: as `whole_file`.
    """
    library = required("safetensors", "safetensors", "train")
    save_file = required("safetensors.torch", "safetensors", "train").save_file
    # Copies, because safetensors refuses tensors that share memory.
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with whole_file(path) as draft:
        try:
            save_file(stored, str(draft), {name: json.dumps(value, default=plain) for name, value in metadata.items()})
        except library.SafetensorError as error:  # of any write that fails
            raise OSError(str(error)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors (on the CPU) and the metadata of a file of ``write_tensors``.

    Raises:
        ValueError: there is no such file, or it is not one of these.
    """
    library = required("safetensors", "safetensors", "train")
    if not path.is_file():
        raise ValueError(f"path must be a safetensors file, got {str(path)!r}, which does not exist")
    try:
        with library.safe_open(str(path), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
    except (library.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"path must be a safetensors file of fdjpeg, got {str(path)!r}: {error}") from error
    return tensors, metadata


def save(defense: Defense, path: str | os.PathLike[str]) -> Path:
    """Saves a defence: ``FILE`` in ``path``, or ``path`` itself if it ends in .safetensors.

    The metadata are the format, the defence's name, its settings and the version of fdjpeg.

    Returns:
        The file.

    Raises:
        ValueError: the folder cannot be written.
        MissingPackage: safetensors is not installed.

    Example::

        fdjpeg.defenses.save(fdjpeg.defenses.JPEG(75), "runs/jpeg-75")
    """
    if not isinstance(defense, Defense):
        raise TypeError(f"defense must be one of fdjpeg.defenses, got {type(defense).__name__}")
    file = _file(path)
    metadata = {
        "format": FORMAT,
        "defense": defense.kind,
        "config": defense.config(),
        "fdjpeg": fdjpeg.__version__,
    }
    write_tensors(file, defense.tensors(), metadata)
    return file


def read(path: str | os.PathLike[str], kinds: Mapping[str, type[Defense]]) -> Defense:
    """Returns a defence that `save` wrote, of one of the given kinds; in evaluation mode, on the CPU.

    Raises:
        ValueError: there is no such file, or it is not a saved defence, is damaged, is of another kind, or holds
            weights that are not finite.
    """
    file = _file(path)
    tensors, metadata = read_tensors(file)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"path must be a defence that fdjpeg saved ({FORMAT}), got {str(file)!r}, which is not one")
    kind = str(metadata.get("defense"))
    if kind not in kinds:
        raise ValueError(f"path must hold one of {', '.join(kinds)}, got {str(file)!r} with {kind!r}")
    try:
        defense = kinds[kind](**metadata["config"])
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"path must hold the settings of {kind}, got {str(file)!r}: {error}") from error
    try:
        defense.load_tensors(tensors)
    except (AttributeError, KeyError, ValueError) as error:  # torch refuses some names by the first two
        raise ValueError(f"path must hold the tensors of its settings, got {str(file)!r}: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"path must hold finite weights, got {str(file)!r}, where {name!r} is not")
    return defense.eval()


def _file(path: str | os.PathLike[str]) -> Path:
    check_path("path", path)
    return Path(path) if Path(path).suffix == ".safetensors" else Path(path) / FILE
