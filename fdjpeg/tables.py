"""Quantization tables: the steps by which JPEG divides the DCT coefficients of each component (ITU-T T.81, A.3.4)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree

from fdjpeg import _table_files
from fdjpeg._lattice import certifying_steps
from fdjpeg._table_checks import (
    STEPS,
    as_table,
    check_alike,
    check_real,
    check_soft,
    check_steps_of,
    fine_and_coarse,
    flat_table,
    home,
    integer_steps,
    squares_of,
    standard_steps,
)

if TYPE_CHECKING:
    from fdjpeg._table_checks import Table
    from fdjpeg._table_files import JpegFile

__all__ = ["STEPS", "QuantTables", "check_count", "check_real", "check_soft", "check_tables"]


class QuantTables:
    """The quantization tables of Y, Cb and Cr: one set for all images of a batch, or one for each image.

    ``QuantTables(luma, chroma)`` uses one table for both chroma components, ``QuantTables(y, cb, cr)`` one for each.
    A grey image uses the first only.

    Each table is a tensor of steps, ``(8, 8)`` or ``(N, 8, 8)``, row-major ``[vertical frequency, horizontal
    frequency]``, of any real dtype. A tensor is kept as it is, with its device and its gradient; nested lists of
    numbers and NumPy arrays are copied into tensors. Values are not looked at here, which would synchronise with the
    device: see `check_tables`. Tables of numbers are on torch's default device, or on the CPU where that is "meta".

    Under ``arithmetic="libjpeg"`` a step q acts as clamp(round(q), 1, 255), half to even, NaN as 1, and its gradient
    passes straight through both; larger or fractional steps act as such only under ``arithmetic="real"``.

    The tables cannot be changed once made. They are a pytree whose leaves are the two or three tensors, so they pass
    through ``torch.func``, ``torch.compile`` and ``torch.export``.

    Args:
        y: the luma table.
        cb: the table of Cb, and of Cr too if ``cr`` is None.
        cr: the table of Cr.

    Raises:
        TypeError: a table is boolean, complex or not numeric.
        ValueError: a table is not ``(8, 8)`` or ``(N, 8, 8)``, or the tables differ in N (other than 1) or in device.

    Example::

        tables = fdjpeg.QuantTables(torch.full((8, 8), 9.0, requires_grad=True), torch.full((8, 8), 12.0))
        fdjpeg.jpeg(image, tables=tables).mean().backward()
    """

    _tables: tuple[Tensor, ...]

    def __init__(self, y: Table, cb: Table, cr: Table | None = None) -> None:
        named = {"y": y, "cb": cb} if cr is None else {"y": y, "cb": cb, "cr": cr}
        tables = {name: as_table(table, name) for name, table in named.items()}
        check_alike(tables)
        object.__setattr__(self, "_tables", tuple(tables.values()))

    # ---------------------------------------------------------------------------------------------- the tables

    @property
    def y(self) -> Tensor:
        """The table of Y, ``(8, 8)`` or ``(N, 8, 8)``."""
        return self._tables[0]

    @property
    def cb(self) -> Tensor:
        """The table of Cb, ``(8, 8)`` or ``(N, 8, 8)``."""
        return self._tables[1]

    @property
    def cr(self) -> Tensor:
        """The table of Cr, ``(8, 8)`` or ``(N, 8, 8)``."""
        return self._tables[-1]

    @property
    def luma(self) -> Tensor:
        """The table of Y."""
        return self.y

    @property
    def chroma(self) -> Tensor:
        """The table that Cb and Cr share (if they have one each, the table of Cb)."""
        return self.cb

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return self.y.device

    @property
    def batch_size(self) -> int | None:
        """The number of images for which there are tables; None if one set serves all images."""
        sizes = [table.shape[0] for table in self._tables if table.dim() == 3]
        return next((size for size in sizes if size != 1), 1) if sizes else None

    def __fx_create_arg__(self, tracer: Any) -> Any:
        """The node that makes these tables in a graph of `torch.fx`."""
        return tracer.create_node("call_function", QuantTables, tuple(map(tracer.create_arg, self._tables)), {})

    def stacked(self) -> Tensor:
        """Returns all tables in one tensor, as the ops take them; differentiable.

        Returns:
            ``(N, 3, 8, 8)``, or ``(1, 3, 8, 8)`` where one set serves all images, in the order Y, Cb, Cr; float64 if
            one of the tables is, else float32.
        """
        dtype = torch.float64 if any(table.dtype == torch.float64 for table in self._tables) else torch.float32
        batch_size = self.batch_size
        shape = (1 if batch_size is None else batch_size, 8, 8)
        sets = [table if table.ndim == 3 else table.unsqueeze(0) for table in (self.y, self.cb, self.cr)]
        return torch.stack([table.to(dtype).expand(shape) for table in sets], dim=1)

    def integer(self) -> QuantTables:
        """Returns the int64 steps as which these act under "libjpeg": clamp(round(q), 1, 255), NaN as 1."""
        return self._mapped(integer_steps)

    def to(self, *args: Any, **kwargs: Any) -> QuantTables:
        """Returns the tables at another device or dtype; arguments as for `torch.Tensor.to`."""
        return self._mapped(lambda table: table.to(*args, **kwargs))

    # ----------------------------------------------------------------------------------------- ways to make them

    @classmethod
    def standard(cls, quality: float | Tensor, *, soft: bool = False) -> QuantTables:
        """The tables of ITU-T T.81, Annex K, scaled by libjpeg's quality (``jpeg_quality_scaling``).

        With s = ⌊5000 / quality⌋ below 50 and s = ⌊200 − 2 · quality⌋ from 50 on, a step is
        clamp(⌊(base · s + 50) / 100⌋, 1, 255): for whole qualities the tables that libjpeg writes.

        A floating ``quality`` that requires grad gets a gradient straight through both floors and all clamps:
        ∂step/∂quality = base · s′ / 100 with s′ = −5000 / quality² below 50 and −2 from 50 on.

        Args:
            quality: a number in 1…100; or a tensor, 0-dim or ``(N,)`` for one quality for each image, of any real
                dtype, on any device. A tensor is neither modified nor read back: its values are clamped to 1…100, NaN
                as 1. (A NaN or infinite quality gets gradient 0.)
            soft: leave out both floors and the bound 255: step = max(base · s / 100, 1) with s = 5000 / quality or
                200 − 2 · quality, differentiable in the ordinary sense, for the soft real arithmetic.

        Returns:
            Tables ``(8, 8)`` or ``(N, 8, 8)``: int64 if ``quality`` is a number or an integer tensor, float64 if it is
            float64, else float32. If ``soft``, floating always.

        Raises:
            TypeError: ``quality`` is neither a number nor a tensor of a real dtype, or ``soft`` is not a bool.
            ValueError: a number outside 1…100, or a tensor of other shapes.

        Example::

            fdjpeg.QuantTables.standard(torch.tensor([30, 90]))  # a batch of two
        """
        return cls(*standard_steps(quality, soft).unbind(-3))

    @classmethod
    def flat(cls, step: float | Tensor) -> QuantTables:
        """Makes tables with the same step at every frequency of every component.

        Args:
            step: a number in 10⁻³⁰…10³⁰; or a tensor, 0-dim or ``(N,)`` for one step for each image, whose values are
                not read.

        Raises:
            TypeError: ``step`` is neither a number nor a tensor of a real dtype.
            ValueError: a number outside of that, or a tensor of other shapes.

        Example::

            fdjpeg.jpeg(image, tables=fdjpeg.QuantTables.flat(16))
        """
        table = flat_table(step)
        return cls(table, table)

    @classmethod
    def certifying(cls, eps: float) -> QuantTables:
        """The least whole steps behind which no perturbation of a radius changes a coefficient, for 4:4:4.

        Where the first of two passes limits no sample to 0…255, an attacker who enters after it, with float images
        within ``eps`` in the norm "linf", changes nothing that the second returns. (`fdjpeg.certificates` proves other
        images one by one.) Ours; the argument is in ``fdjpeg/_lattice.py``.

        Args:
            eps: radius, a number in (0, 1], in units of the images' range [0, 1].

        Returns:
            int64 tables ``(8, 8)``, the same for all components.

        Raises:
            TypeError: ``eps`` is not a number.
            ValueError: ``eps`` is outside (0, 1], or so large that a step would exceed 255.

        Example::

            layer = fdjpeg.JPEG(tables=fdjpeg.QuantTables.certifying(2 / 255), subsampling="4:4:4")
            out = layer(layer(image))  # the attacker enters between the passes
        """
        return cls(*[certifying_steps(eps).to(home())] * 2)

    @classmethod
    def feature_distillation(cls, statistics: Table, n: int = 15, fine: float = 1, coarse: float = 40) -> QuantTables:
        """The table of feature distillation: fine steps where images carry most, coarse steps elsewhere.

        The ``n`` bands of the largest standard deviation are the accuracy-sensitive band and get the step ``fine``; the
        others, the malicious-defence band, get ``coarse``. One table serves all components.
        Source: Liu et al., "Feature Distillation: DNN-Oriented JPEG Compression Against Adversarial Examples", 2018
        (arXiv 1803.05787v1), eq. 11.

        Args:
            statistics: ``(8, 8)``, the standard deviation of each DCT band over the images, all channels pooled. Of
                equal ones the first in row-major order counts as the largest.
            n: how many bands get the fine step, 0…64.
            fine: their step.
            coarse: the step of the others.

        Raises:
            TypeError: ``statistics`` is not real, or ``n`` is not an integer, or a step is not a number.
            ValueError: ``statistics`` is not ``(8, 8)``, or ``n`` outside 0…64, or a step not positive and finite.

        Example::

            deviations = fdjpeg.block_dct(255 * images).std(dim=(0, 1, 2, 3))
            fdjpeg.QuantTables.feature_distillation(deviations, n=15)
        """
        table = fine_and_coarse(statistics, n, fine, coarse)
        return cls(table, table)

    # -------------------------------------------------------------------------------------- files, and Pillow

    @classmethod
    def from_image(cls, file: JpegFile) -> QuantTables:
        """The tables of a JPEG file, component by component; those of a grey file serve all components.

        Args:
            file: a path, the file's bytes, a binary file object (read from its position), or an image as
                ``PIL.Image.open`` returned it.

        Returns:
            int64 tables ``(8, 8)``: two if Cb and Cr name the same table, else three.

        Raises:
            TypeError: ``file`` is none of these.
            ValueError: not a JPEG file of 8-bit samples; or CMYK, YCCK or RGB components; or no table for a component;
                or a step above 255 (a table of 16-bit precision).
            OSError: ``file`` cannot be read.

        Example::

            fdjpeg.jpeg(image, tables=fdjpeg.QuantTables.from_image("photograph.jpg"))
        """
        image = _table_files.open_jpeg(file)
        names = _table_files.table_numbers(image)
        used = list(dict.fromkeys(names))
        squares = squares_of({number: image.quantization[number] for number in used}, "quantization table {} of file")
        by_number = dict(zip(used, squares, strict=True))
        y, *chroma = (by_number[number] for number in names)
        cb, cr = chroma or (y, y)
        return cls(y, cb) if cb is cr else cls(y, cb, cr)

    @classmethod
    def from_pillow(cls, qtables: Sequence[Sequence[int]] | Mapping[int, Sequence[int]]) -> QuantTables:
        """The tables that ``PIL.Image.Image.save(..., qtables=qtables)`` writes: the inverse of `to_pillow`.

        Args:
            qtables: one table for all components, or two (Y; Cb and Cr), or three (Y, Cb, Cr), each of 64 integers in
                row-major order; a mapping counts by its keys 0, 1, 2.

        Returns:
            int64 tables ``(8, 8)``.

        Raises:
            TypeError: ``qtables`` is neither a sequence nor a mapping.
            ValueError: another number of tables, a table without 64 entries, or a step that is not an integer in 1…255.
        """
        if isinstance(qtables, Mapping):
            if sorted(qtables) != list(range(len(qtables))):
                raise ValueError(f"qtables must have the keys 0, 1, 2 in order, got {sorted(qtables)}")
            qtables = [qtables[number] for number in range(len(qtables))]
        if not isinstance(qtables, Sequence):
            raise TypeError(f"qtables must be a list or a mapping of tables, got {type(qtables).__name__}")
        return cls._of_lists(qtables, "qtables")

    def to_pillow(self) -> list[list[int]]:
        """Returns the tables for ``PIL.Image.Image.save(..., format="JPEG", qtables=...)``.

        Leave Pillow's ``quality`` out of that call: it would scale the tables.

        Returns:
            Two tables (Y; Cb and Cr), or three where Cb and Cr have one each, of 64 integers in row-major order: the
            steps that the tables act as under ``arithmetic="libjpeg"``.

        Raises:
            ValueError: the tables are a batch (index it), or a step rounds to none in 1…255.

        Example::

            picture.save("picture.jpg", qtables=layer.tables.to_pillow())
        """
        return [table.flatten().tolist() for table in self._deployed()]

    @classmethod
    def load(cls, file: _table_files.TextFile) -> QuantTables:
        """Reads the text format of ``cjpeg -qtables``.

        Integers in row-major order, 64 for each table, separated by white space; ``#`` begins a comment that ends with
        the line. One table serves all components (as ``cjpeg -qslots 0`` does), two are Y's and that of Cb and Cr (the
        default of ``cjpeg``), three those of Y, Cb and Cr (``-qslots 0,1,2``).

        Args:
            file: a path, the file's bytes, or an open text or binary file.

        Returns:
            int64 tables ``(8, 8)``.

        Raises:
            TypeError: ``file`` is none of these.
            ValueError: something that is not an integer, not 64, 128 or 192 integers, or a step outside 1…255.
            OSError: ``file`` cannot be read.

        Example::

            tables = fdjpeg.QuantTables.load("learned.txt")
        """
        return cls._of_lists(_table_files.parse(_table_files.read_text(file)), "file")

    def save(self, file: str | os.PathLike[str] | IO[str]) -> None:
        """Writes the text format of ``cjpeg -qtables``, with the steps of `to_pillow`.

        ``cjpeg`` uses them unchanged if it gets no ``-quality``. It takes a third table, that of a Cr whose table is
        not Cb's, only with ``-qslots 0,1,2``, as a comment in the file states.

        Args:
            file: a path, the file's bytes, or an open text or binary file.

        Raises:
            TypeError: ``file`` is none of these.
            ValueError: the tables are a batch (index it), or a step rounds to none in 1…255.
            OSError: ``file`` cannot be written.

        Example::

            layer.tables.save("learned.txt")  # then: cjpeg -qtables learned.txt picture.ppm
        """
        text = _table_files.to_text([table.tolist() for table in self._deployed()])
        _table_files.write_text(text, file)

    # ------------------------------------------------------------------------------------------------ protocols

    def __len__(self) -> int:
        """The number of images for which there are tables.

        Raises:
            TypeError: one set serves all images, so there is nothing to count.
        """
        if self.batch_size is None:
            raise TypeError("tables must be a batch to be counted or indexed, got one set that serves all images")
        return self.batch_size

    def __bool__(self) -> bool:
        """True: an empty batch of tables is still tables."""
        return True

    def __getitem__(self, index: int | slice) -> QuantTables:
        """The tables of one image, or of a slice of the batch.

        Raises:
            TypeError: one set serves all images.
            IndexError: there is no such image.
        """
        batch_size = len(self)
        return self._mapped(lambda table: table.expand(batch_size, 8, 8)[index])

    def __iter__(self) -> Iterator[QuantTables]:
        """The tables of each image in turn."""
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same steps for the same batch, whatever the dtype; reads the values."""
        if not isinstance(other, QuantTables):
            return NotImplemented
        if self.batch_size != other.batch_size:
            return False
        return torch.equal(self.stacked().double(), other.stacked().double().to(self.device))

    __hash__ = None  # type: ignore[assignment]  # equality looks at values, which live on a device

    def allclose(self, other: QuantTables, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
        """Returns whether both hold nearly the same steps (`torch.allclose`) for the same batch; reads the values."""
        if not isinstance(other, QuantTables):
            raise TypeError(f"other must be fdjpeg.QuantTables, got {type(other).__name__}")
        if self.batch_size != other.batch_size:
            return False
        mine, others = self.stacked().double(), other.stacked().double().to(self.device)
        return torch.allclose(mine, others, rtol=rtol, atol=atol)

    def __repr__(self) -> str:
        names = ("luma", "chroma") if len(self._tables) == 2 else ("y", "cb", "cr")
        lines = []
        for name, table in zip(names, self._tables, strict=True):
            label = f"    {name}="
            lines.append(label + repr(table).replace("\n", "\n" + " " * len(label)) + ",\n")
        return "QuantTables(\n" + "".join(lines) + ")"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"QuantTables cannot be changed: make new ones instead of setting {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"QuantTables cannot be changed: make new ones instead of deleting {name!r}")

    # ------------------------------------------------------------------------------------------------ internals

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> QuantTables:
        """``function`` of each table, without the constructor's checks."""
        return _unflatten(map(function, self._tables), None)

    @classmethod
    def _of_lists(cls, tables: Sequence[Sequence[int]], name: str) -> QuantTables:
        """Tables of one, two or three lists of 64 whole steps; ``name`` is the argument they came from."""
        if not 1 <= len(tables) <= 3:
            raise ValueError(f"{name} must hold one, two or three tables, got {len(tables)}")
        squares = squares_of(dict(enumerate(tables)), f"table {{}} of {name}")
        return cls(*(squares if len(squares) > 1 else squares * 2))

    def _deployed(self) -> list[Tensor]:
        """The tables as a file holds them: int64 ``(8, 8)`` of Y and Cb, and of Cr if that is not Cb's."""
        if self.batch_size not in (None, 1):
            raise ValueError(f"tables must be one set of tables, got a batch of {self.batch_size}: index it, tables[i]")
        check_tables(self)
        y, cb, cr = (table.cpu() for table in self.integer().stacked()[0].to(torch.int64))
        return [y, cb] if torch.equal(cb, cr) else [y, cb, cr]


def check_count(tables: QuantTables, images: int) -> None:
    """Raises unless the tables are one set for all images, or one for each of ``images``."""
    if tables.batch_size not in (None, 1, images):
        raise ValueError(f"tables must be (8, 8) or one for each of the {images} images, got {tables.batch_size}")


def check_tables(tables: QuantTables, arithmetic: str = "libjpeg") -> None:
    """Reads the steps and raises where one would be limited; synchronises with the tables' device.

    Steps that cannot be read (see `fdjpeg.check`) are not checked.

    Args:
        tables: the tables.
        arithmetic: "libjpeg" wants steps that round to 1…255, "real" positive finite ones.

    Raises:
        TypeError: ``tables`` are not `QuantTables`.
        ValueError: a step is out of range, or ``arithmetic`` is neither.
    """
    if not isinstance(tables, QuantTables):
        raise TypeError(f"tables must be fdjpeg.QuantTables, got {type(tables).__name__}")
    check_steps_of({"y": tables.y, "cb": tables.cb, "cr": tables.cr}, arithmetic)


# ------------------------------------------------------------------------------------------------------- pytree


def _flatten(tables: QuantTables) -> tuple[list[Tensor], None]:
    return list(tables._tables), None


def _flatten_with_keys(tables: QuantTables) -> tuple[list[tuple[_pytree.KeyEntry, Tensor]], None]:
    names = ("y", "cb", "cr")
    return [(_pytree.GetAttrKey(name), table) for name, table in zip(names, tables._tables, strict=False)], None


def _unflatten(tables: Iterable[Any], context: None) -> QuantTables:
    # Without the constructor's checks: leaves may be wrapped tensors, shapes, None or whatever else a tree holds.
    made = object.__new__(QuantTables)
    object.__setattr__(made, "_tables", tuple(tables))
    return made


_pytree.register_pytree_node(
    QuantTables,
    _flatten,
    _unflatten,
    serialized_type_name="fdjpeg.QuantTables",
    flatten_with_keys_fn=_flatten_with_keys,
)

# Tables hold nothing but tensors, so `torch.load` may make them without being told to trust the file.
torch.serialization.add_safe_globals([QuantTables])
