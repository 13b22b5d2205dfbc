"""Quantized DCT coefficients as a JPEG file stores them (ITU-T T.81, A.3.4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from fdjpeg import _coefficient_files as _files
from fdjpeg._geometry import SAMPLING_FACTORS, Geometry, Plane
from fdjpeg._huffman import count_bits
from fdjpeg._numbers import is_whole
from fdjpeg.tables import QuantTables, check_count


@dataclass(frozen=True, eq=False, repr=False)
class Coefficients:
    """The quantized DCT coefficients of a batch of images, all of one size, with the tables that scale them back.

    Each component is int16 ``(N, rows, columns, 8, 8)``: block row, block column, vertical frequency, horizontal
    frequency. It has the blocks that hold samples of the component, without the dummy blocks with which a file fills
    its last MCUs (T.81, A.2.4). The unit of a coefficient is its quantization step.

    `Coefficients` are a pytree. Its leaves are the components and the tables.

    Args:
        y: the luma component.
        cb: the Cb component, None for grey images.
        cr: the Cr component, None for grey images.
        tables: one set of quantization tables for all images, or one for each.
        size: height and width of the images, in samples.
        subsampling: "4:4:4", "4:2:2", "4:2:0", "4:4:0" or "4:1:1"; without meaning for grey images.

    Raises:
        TypeError: a component is not an int16 tensor, or ``tables`` is not `QuantTables`.
        ValueError: only one of ``cb`` and ``cr`` is given; a shape does not follow from N, ``size`` and
            ``subsampling``; ``tables`` are for another number of images; or the tensors are on several devices.

    Source: ITU-T T.81, A.1.1, A.2 and A.3.4.

    Example::

        coefficients = fdjpeg.encode(torch.rand(2, 3, 32, 48), 75)
        coefficients.y.shape  # (2, 4, 6, 8, 8)
        coefficients.cb.shape  # (2, 2, 3, 8, 8), at 4:2:0
        image = fdjpeg.decode(coefficients)  # (2, 3, 32, 48)
    """

    y: Tensor
    cb: Tensor | None
    cr: Tensor | None
    tables: QuantTables
    size: tuple[int, int]
    subsampling: str

    def __post_init__(self) -> None:
        geometry = self.geometry
        if not all(isinstance(side, (int, torch.SymInt)) for side in self.size):  # but NumPy's
            object.__setattr__(self, "size", tuple(map(int, self.size)))
        if (self.cb is None) != (self.cr is None):
            given, missing = ("cr", "cb") if self.cb is None else ("cb", "cr")
            raise ValueError(f"{missing} must be a tensor as {given} is, or both None for grey images, got None")
        _check_component(self.y, "y", geometry.luma, self.y)
        if self.cb is not None and self.cr is not None:
            _check_component(self.cb, "cb", geometry.chroma, self.y)
            _check_component(self.cr, "cr", geometry.chroma, self.y)
        if not isinstance(self.tables, QuantTables):
            raise TypeError(f"tables must be fdjpeg.QuantTables, got {type(self.tables).__name__}")
        check_count(self.tables, self.y.size(0))
        if self.tables.device != self.y.device:
            raise ValueError(f"tables must be on {self.y.device} as y is, got {self.tables.device}")

    @property
    def geometry(self) -> Geometry:
        """The sizes of the components in samples, blocks and MCUs.

        Raises:
            ValueError: ``size`` or ``subsampling`` is not a valid one.
        """
        if not isinstance(self.subsampling, str) or self.subsampling not in SAMPLING_FACTORS:
            raise ValueError(f"subsampling must be one of {', '.join(SAMPLING_FACTORS)}, got {self.subsampling!r}")
        if (
            not isinstance(self.size, tuple)
            or len(self.size) != 2
            or not all(is_whole(side) and side >= 1 for side in self.size)
        ):
            raise ValueError(f"size must be a tuple (H, W) of integers of at least 1, got {self.size}")
        height, width = self.size
        return Geometry.of(height, width, 1 if self.cb is None else 3, *SAMPLING_FACTORS[self.subsampling])

    @property
    def components(self) -> list[Tensor]:
        """Y, Cb and Cr; only Y for grey images."""
        return [component for component in (self.y, self.cb, self.cr) if component is not None]

    @property
    def device(self) -> torch.device:
        """The device of the coefficients and the tables."""
        return self.y.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Coefficients:
        """Returns the coefficients and their tables on another device.

        Args:
            device: as for ``torch.Tensor.to``.
            non_blocking: as for ``torch.Tensor.to``.
        """
        moved = [leaf.to(device, non_blocking=non_blocking) for leaf in _flatten(self)[0]]
        return _unflatten(moved, (self.size, self.subsampling))

    def save(self, file: _files.Target | Sequence[_files.Target]) -> None:
        """Writes each image as a baseline JPEG file that holds exactly these coefficients and tables.

        Files have the standard Huffman tables, so that `fdjpeg.bits` gives the length of the entropy-coded data. They
        are written by the package jpeglib (``pip install "fdjpeg[files]"``).

        Args:
            file: a path or a binary file; or a list of them, one for each image of the batch.

        Raises:
            ImportError: jpeglib is not installed.
            ValueError: there is not one file for each image, or no baseline file can hold an image: a step is outside
                1…255, a coefficient has no code, or a side is longer than 65500.
            OSError: a file cannot be written.

        Example::

            fdjpeg.encode(torch.rand(3, 32, 48), 75).save("image.jpg")
        """
        files = _listed(file)
        if len(files) != len(self):
            got = f"a list of {len(files)}" if isinstance(file, (list, tuple)) else "one"
            raise ValueError(f"file must be a list of {len(self)} files, one for each image, got {got}")
        # Not every version of libjpeg checks this, and a wrong file would be written.
        if uncodable := (count_bits(self.components, self.geometry) < 0).nonzero().flatten().tolist():
            raise ValueError(
                "coefficients must have codes in the standard Huffman tables (AC within ±1023, each DC within ±2047 of "
                f"the one before it), got others in images {uncodable}"
            )
        for image, target in zip(self, files, strict=True):
            blocks = [component[0] for component in image.components]
            _files.write(_files.Contents(blocks, image.tables, self.size, self.subsampling), target)

    @classmethod
    def load(cls, file: _files.Source | Sequence[_files.Source]) -> Coefficients:
        """Reads the coefficients and tables of JPEG files, baseline or progressive, with or without restart markers.

        They are read by the package jpeglib (``pip install "fdjpeg[files]"``).

        Args:
            file: a path, a file's bytes, a binary file or an image as ``PIL.Image.open`` returned it; or a list of
                them, all of one size and subsampling.

        Returns:
            A batch with an image for each file, on the CPU. It has one set of tables if those of all files are equal,
            else one for each image.

        Raises:
            ImportError: jpeglib is not installed.
            TypeError: a file is of another type.
            ValueError: the list is empty; a file is not a grey or YCbCr JPEG file of 8-bit samples, is cut off, has
                sampling factors other than the five, or more than twice ``PIL.Image.MAX_IMAGE_PIXELS`` pixels; or files
                differ in size, in subsampling or in being grey.
            OSError: a file cannot be read.

        Example::

            coefficients = fdjpeg.Coefficients.load("image.jpg")
            image = fdjpeg.decode(coefficients)
        """
        files = _listed(file)
        if not files:
            raise ValueError("file must be a file or a list of at least one, got an empty list")
        contents = [_files.read(source) for source in files]
        first = contents[0]
        for number, other in enumerate(contents):
            if _kind(other) != _kind(first):
                raise ValueError(
                    f"file must be files alike in size and subsampling, got {_kind(first)} and {_kind(other)} "
                    f"(the first and number {number}, from 0)"
                )
        y, *chroma = (torch.stack(images) for images in zip(*(image.components for image in contents), strict=True))
        cb, cr = chroma or (None, None)
        tables = first.tables
        if any(image.tables != tables for image in contents):
            stacked = torch.cat([image.tables.stacked() for image in contents]).to(torch.int64)
            tables = QuantTables(*stacked.unbind(1))
        return cls(y, cb, cr, tables, first.size, first.subsampling)

    def __len__(self) -> int:
        """Returns the number of images."""
        return self.y.size(0)

    def __getitem__(self, index: int) -> Coefficients:
        """Returns the coefficients of one image, as a batch of one, with its tables ``(8, 8)``.

        Raises:
            TypeError: ``index`` is not an integer.
            IndexError: ``index`` is outside the batch.
        """
        if not hasattr(index, "__index__"):
            raise TypeError(f"index must be an integer, got {type(index).__name__}")
        image = range(len(self))[index]
        *components, tables = _flatten(self)[0]
        if tables.batch_size is not None:
            tables = tables[image if tables.batch_size == len(self) else 0]
        return _unflatten([*(x[image : image + 1] for x in components), tables], (self.size, self.subsampling))

    def __iter__(self) -> Iterator[Coefficients]:
        """Returns an iterator over the coefficients of each image."""
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        lines = []
        for name, x in (("y", self.y), ("cb", self.cb), ("cr", self.cr)):
            lines.append(f"{name}=None" if x is None else f"{name}=int16 {tuple(x.shape)}")
        lines += [f"size={self.size}", f"subsampling={self.subsampling!r}", f"tables={self.tables!r}"]
        text = ",\n".join(lines).replace("\n", "\n    ")
        return f"Coefficients(\n    {text},\n)"


def _listed(file: Any) -> list[Any]:
    """Returns one file, or a list or tuple of them, as a list."""
    return list(file) if isinstance(file, (list, tuple)) else [file]


def _kind(contents: _files.Contents) -> str:
    """Names the properties that the images of a batch share."""
    height, width = contents.size
    return f"{height} × {width} {contents.subsampling if len(contents.components) == 3 else 'grey'}"


def _check_component(component: object, name: str, plane: Plane, y: Tensor) -> None:
    """Raises unless ``component`` holds int16 blocks of ``plane``, for as many images as ``y`` and on its device."""
    if not isinstance(component, Tensor) or component.dtype != torch.int16:
        got = component.dtype if isinstance(component, Tensor) else type(component).__name__
        raise TypeError(f"{name} must be an int16 tensor, got {got}")
    blocks = (plane.rows, plane.columns, 8, 8)
    if component.shape[1:] != blocks or component.shape[0] != y.shape[0]:
        images = "N" if component is y else y.shape[0]
        wanted = ", ".join(map(str, (images, *blocks)))
        raise ValueError(
            f"{name} must have shape ({wanted}) at this size and subsampling, got {tuple(component.shape)}"
        )
    if component.device != y.device:
        raise ValueError(f"{name} must be on {y.device} as y is, got {component.device}")


# ------------------------------------------------------------------------------------------------------- pytree

_Context = tuple[tuple[int, int], str]


def _flatten(coefficients: Coefficients) -> tuple[list[Any], _Context]:
    # A None for the chroma of grey images would count as a leaf.
    named, context = _flatten_with_keys(coefficients)
    return [leaf for _, leaf in named], context


def _flatten_with_keys(coefficients: Coefficients) -> tuple[list[tuple[_pytree.KeyEntry, Any]], _Context]:
    names = ("y", "tables") if coefficients.cb is None else ("y", "cb", "cr", "tables")
    leaves: list[tuple[_pytree.KeyEntry, Any]] = [
        (_pytree.GetAttrKey(name), getattr(coefficients, name)) for name in names
    ]
    return leaves, (coefficients.size, coefficients.subsampling)


def _unflatten(leaves: Iterable[Any], context: _Context) -> Coefficients:
    # Without the constructor's checks: leaves may be wrapped tensors, shapes, None or any other content of a tree.
    y, *chroma, tables = leaves
    cb, cr = chroma or (None, None)
    size, subsampling = context
    made = object.__new__(Coefficients)
    fields = {"y": y, "cb": cb, "cr": cr, "tables": tables, "size": size, "subsampling": subsampling}
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _context_from_json(context: Any) -> _Context:
    (height, width), subsampling = context
    return (height, width), subsampling


_pytree.register_pytree_node(
    Coefficients,
    _flatten,
    _unflatten,
    serialized_type_name="fdjpeg.Coefficients",
    to_dumpable_context=lambda context: context,
    from_dumpable_context=_context_from_json,
    flatten_with_keys_fn=_flatten_with_keys,
)

# Coefficients hold nothing but tensors, numbers and names, so `torch.load` may make them from a file
# that is not trusted.
torch.serialization.add_safe_globals([Coefficients])
