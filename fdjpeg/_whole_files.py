"""Files that appear whole or not at all, whatever ends the process or fills the disk while they are written."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Errors of the machine, whatever file it was at.
_SYSTEM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ENOSPC)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives the block a temporary path, which becomes ``path`` if the block ends well and is removed if it does not.

    The temporary path has the same suffix. A file that is replaced passes on its mode, and a symbolic link stays one.
    What is no regular file, such as a pipe, is given to the block itself.

    Raises:
        OSError: the folder or the file cannot be written.

    Example::

        with whole_file("tables.txt") as draft:
            draft.write_text("16 11 10")
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        yield target
        return
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    draft = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        draft.touch()
        mode = (target if target.exists() else draft).stat().st_mode
        yield draft
        draft.chmod(mode)  # safetensors replaces it by a file for its owner only
        os.replace(draft, target)
    except OSError as error:
        if str(error.filename) == str(draft):
            error.filename = os.fspath(path)  # the caller knows no draft
        raise
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def writing(argument: str, path: str | os.PathLike[str], kind: str = "file") -> Iterator[None]:
    """Names the argument at fault where the block, which only writes, cannot: a full disk, a folder of others.

    Args:
        argument: its name.
        path: its value.
        kind: "file" or "folder".

    Raises:
        ValueError: the block ended in an `OSError`.

    Example::

        with writing("out", "tables", "folder"):
            Path("tables").mkdir()
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"{argument} must be a {kind} that can be written, got {os.fspath(path)!r}: {why}") from error


def of_the_system(error: BaseException) -> bool:
    """Returns whether an error says that the machine has no memory, file handles or disk left, not that a file is bad.

    Such an error passes through where a file would be named as unreadable.
    """
    return isinstance(error, MemoryError) or getattr(error, "errno", None) in _SYSTEM


def is_draft(name: str) -> bool:
    """Returns whether a file's name is one that `whole_file` gives to a draft."""
    return re.fullmatch(r"\.\d+\..+", name) is not None
