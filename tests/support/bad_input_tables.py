"""The rows of bad input of `QuantTables` and `Coefficients`."""

from __future__ import annotations

import io
import math
from typing import Any

import torch

import fdjpeg
from fdjpeg import Coefficients, QuantTables
from support.bad_input import IMAGE, TABLES, Row, rows

BATCH = QuantTables.flat(torch.tensor([9, 10]))
MADE = fdjpeg.encode(IMAGE)


def _tables() -> list[Row]:
    square = torch.ones(8, 8)
    to_image = "file must be a path, bytes, a binary file or a PIL.Image.Image, got int"
    return [
        *rows(
            "QuantTables",
            (
                lambda: QuantTables(None, square),
                TypeError,
                "y must be a tensor, an array or nested lists of numbers, got ",
            ),
            (
                lambda: QuantTables(square, "16"),
                TypeError,
                "cb must be a tensor, an array or nested lists of numbers, got",
            ),
            (
                lambda: QuantTables(square, square, square > 0),
                TypeError,
                "cr must have an integer or floating dtype, got",
            ),
            (
                lambda: QuantTables(torch.ones(64), square),
                ValueError,
                "y must have shape (8, 8) or (N, 8, 8), got (64,)",
            ),
            (
                lambda: QuantTables(square, [[1] * 8] * 7),
                ValueError,
                "cb must have shape (8, 8) or (N, 8, 8), got (7, 8)",
            ),
            (
                lambda: QuantTables(square.expand(2, 8, 8), square.expand(3, 8, 8)),
                ValueError,
                "tables must be for the same number of images, got y: 2, cb: 3",
            ),
            (
                lambda: QuantTables(square, square.to("meta")),
                ValueError,
                "tables must be on one device, got y: cpu, cb: m",
            ),
            (lambda: len(TABLES), TypeError, "tables must be a batch to be counted or indexed, got one set"),
            (lambda: TABLES[0], TypeError, "tables must be a batch to be counted or indexed, got one set"),
            (
                lambda: setattr(TABLES, "y", square),
                AttributeError,
                "QuantTables cannot be changed: make new ones instead",
            ),
        ),
        *rows(
            "QuantTables.standard",
            (lambda: QuantTables.standard(0), ValueError, "quality must be in 1…100, got 0"),
            (lambda: QuantTables.standard(math.nan), ValueError, "quality must be in 1…100, got nan"),
            (lambda: QuantTables.standard("50"), TypeError, "quality must be a number or a tensor, got str"),
            (lambda: QuantTables.standard(True), TypeError, "quality must be a number or a tensor, got bool"),
            (
                lambda: QuantTables.standard(square > 0),
                TypeError,
                "quality must have an integer or floating dtype, got to",
            ),
            (
                lambda: QuantTables.standard(square),
                ValueError,
                "quality must be a number or a tensor of shape () or (N,)",
            ),
            (lambda: QuantTables.standard(50, soft=1), TypeError, "soft must be True or False, got 1"),
        ),
        *rows(
            "QuantTables.flat",
            (lambda: QuantTables.flat(0), ValueError, "step must be above 0 and finite, got 0"),
            (lambda: QuantTables.flat(-3.5), ValueError, "step must be above 0 and finite, got -3.5"),
            (lambda: QuantTables.flat(math.nan), ValueError, "step must be above 0 and finite, got nan"),
            (lambda: QuantTables.flat(math.inf), ValueError, "step must be above 0 and finite, got inf"),
            (lambda: QuantTables.flat(1e-31), ValueError, "step must be in 1e-30…1e+30, got 1e-31"),
            (lambda: QuantTables.flat(1e300), ValueError, "step must be in 1e-30…1e+30, got 1e+300"),
            (lambda: QuantTables.flat("3"), TypeError, "step must be a number or a tensor, got str"),
            (lambda: QuantTables.flat(None), TypeError, "step must be a number or a tensor, got NoneType"),
            (
                lambda: QuantTables.flat(square),
                ValueError,
                "step must be a number or a tensor of shape () or (N,), got sh",
            ),
        ),
        *rows(
            "QuantTables.feature_distillation",
            (
                lambda: QuantTables.feature_distillation(None),
                TypeError,
                "statistics must be a tensor, an array or nested",
            ),
            (
                lambda: QuantTables.feature_distillation(square.expand(2, 8, 8)),
                ValueError,
                "statistics must have shape (8, 8), got (2, 8, 8)",
            ),
            (lambda: QuantTables.feature_distillation(square, 65), ValueError, "n must be in 0…64, got 65"),
            (lambda: QuantTables.feature_distillation(square, -1), ValueError, "n must be in 0…64, got -1"),
            (lambda: QuantTables.feature_distillation(square, 1.0), TypeError, "n must be an integer, got float"),
            (lambda: QuantTables.feature_distillation(square, True), TypeError, "n must be an integer, got bool"),
            (
                lambda: QuantTables.feature_distillation(square, fine=0),
                ValueError,
                "fine must be above 0 and finite, got 0",
            ),
            (
                lambda: QuantTables.feature_distillation(square, coarse=math.nan),
                ValueError,
                "coarse must be above 0 and finite, got nan",
            ),
            (
                lambda: QuantTables.feature_distillation(square, coarse="9"),
                TypeError,
                "coarse must be a number, got str",
            ),
        ),
        *rows(
            "QuantTables.certifying",
            (lambda: QuantTables.certifying(0), ValueError, "eps must be positive and finite, got 0"),
            (lambda: QuantTables.certifying(math.nan), ValueError, "eps must be positive and finite, got nan"),
            (
                lambda: QuantTables.certifying(0.07),
                ValueError,
                "eps must be small enough for steps up to 255, got 0.07",
            ),
            (lambda: QuantTables.certifying(1.5), ValueError, "eps must be in (0, 1], got 1.5"),
            (lambda: QuantTables.certifying("1/255"), TypeError, "eps must be a number, got '1/255'"),
        ),
        *rows(
            "QuantTables.from_image",
            (lambda: QuantTables.from_image(3), TypeError, to_image),
            (
                lambda: QuantTables.from_image(b"text"),
                ValueError,
                "file must be a JPEG file of 8-bit samples, got one that",
            ),
            (
                lambda: QuantTables.from_image(io.StringIO()),
                TypeError,
                "file must be open in binary mode, got one whose re",
            ),
            (
                lambda: QuantTables.from_image("no/such.jpg"),
                FileNotFoundError,
                "[Errno 2] No such file or directory: 'no/",
            ),
        ),
        *rows(
            "QuantTables.from_pillow",
            (lambda: QuantTables.from_pillow(3), TypeError, "qtables must be a list or a mapping of tables, got int"),
            (lambda: QuantTables.from_pillow([]), ValueError, "qtables must hold one, two or three tables, got 0"),
            (lambda: QuantTables.from_pillow([[1] * 63]), ValueError, "table 0 of qtables must have 64 steps, got 63"),
            (lambda: QuantTables.from_pillow([7]), ValueError, "table 0 of qtables must have 64 steps, got int"),
            (
                lambda: QuantTables.from_pillow([[0] * 64]),
                ValueError,
                "table 0 of qtables must hold integers in 1…255, got",
            ),
            (
                lambda: QuantTables.from_pillow([[1.5] * 64]),
                ValueError,
                "table 0 of qtables must hold integers in 1…255, go",
            ),
            (
                lambda: QuantTables.from_pillow([[True] * 64]),
                ValueError,
                "table 0 of qtables must hold integers in 1…255,",
            ),
            (
                lambda: QuantTables.from_pillow({1: [1] * 64}),
                ValueError,
                "qtables must have the keys 0, 1, 2 in order, got",
            ),
        ),
        *rows(
            "QuantTables.to_pillow",
            (BATCH.to_pillow, ValueError, "tables must be one set of tables, got a batch of 2: index it, tables[i]"),
            (QuantTables.flat(256).to_pillow, ValueError, "tables.y[0, 0] must be in 1…255, got 256"),
        ),
        *rows(
            "QuantTables.load",
            (lambda: QuantTables.load(3), TypeError, "file must be a path, bytes or an open file, got int"),
            (
                lambda: QuantTables.load(io.StringIO("1 2 x")),
                ValueError,
                "file must hold integers and # comments, got 'x' in",
            ),
            (
                lambda: QuantTables.load(io.StringIO("1 2 3")),
                ValueError,
                "file must hold one, two or three tables of 64 in",
            ),
            (
                lambda: QuantTables.load(io.StringIO("0 " * 64)),
                ValueError,
                "table 0 of file must hold integers in 1…255, got",
            ),
            (
                lambda: QuantTables.load("no/such.txt"),
                FileNotFoundError,
                "[Errno 2] No such file or directory: 'no/such.txt'",
            ),
        ),
        *rows(
            "QuantTables.save",
            (lambda: TABLES.save(3), TypeError, "file must be a path or an open file, got int"),
            (
                lambda: BATCH.save(io.StringIO()),
                ValueError,
                "tables must be one set of tables, got a batch of 2: index it",
            ),
            (
                lambda: TABLES.save("no/such/file"),
                FileNotFoundError,
                "[Errno 2] No such file or directory: 'no/such/file'",
            ),
        ),
        *rows(
            "QuantTables.allclose",
            (lambda: TABLES.allclose(9), TypeError, "other must be fdjpeg.QuantTables, got int"),
            (lambda: TABLES.allclose(square), TypeError, "other must be fdjpeg.QuantTables, got Tensor"),
        ),
    ]


def _coefficients() -> list[Row]:
    def made(**changes: Any) -> Coefficients:
        fields = {name: getattr(MADE, name) for name in ("y", "cb", "cr", "tables", "size", "subsampling")}
        return Coefficients(**{**fields, **changes})

    return [
        *rows(
            "Coefficients",
            (lambda: made(y=MADE.y.int()), TypeError, "y must be an int16 tensor, got torch.int32"),
            (lambda: made(cb=[1]), TypeError, "cb must be an int16 tensor, got list"),
            (lambda: made(cr=None), ValueError, "cr must be a tensor as cb is, or both None for grey images, got None"),
            (
                lambda: made(y=MADE.y[:, :1]),
                ValueError,
                "y must have shape (N, 2, 3, 8, 8) at this size and subsampling, ",
            ),
            (lambda: made(tables=50), TypeError, "tables must be fdjpeg.QuantTables, got int"),
            (
                lambda: made(tables=QuantTables.flat(torch.ones(3))),
                ValueError,
                "tables must be (8, 8) or one for each of the 2 images, got 3",
            ),
            (lambda: made(tables=TABLES.to("meta")), ValueError, "tables must be on cpu as y is, got meta"),
            (
                lambda: made(size=(16, 0)),
                ValueError,
                "size must be a tuple (H, W) of integers of at least 1, got (16, 0)",
            ),
            (
                lambda: made(size=[16, 24]),
                ValueError,
                "size must be a tuple (H, W) of integers of at least 1, got [16, 24]",
            ),
            (
                lambda: made(size=(16.0, 24)),
                ValueError,
                "size must be a tuple (H, W) of integers of at least 1, got (16.0,",
            ),
            (
                lambda: made(size=(True, 24)),
                ValueError,
                "size must be a tuple (H, W) of integers of at least 1, got (True,",
            ),
            (lambda: made(subsampling="420"), ValueError, "subsampling must be one of "),
            (lambda: made(subsampling=None), ValueError, "subsampling must be one of "),
            (lambda: MADE["y"], TypeError, "index must be an integer, got str"),
            (lambda: MADE[2], IndexError, "range object index out of range"),
        ),
        *rows(
            "Coefficients.save",
            (lambda: MADE.save("one.jpg"), ValueError, "file must be a list of 2 files, one for each image, got one"),
            (lambda: MADE.save([]), ValueError, "file must be a list of 2 files, one for each image, got a list of 0"),
            (lambda: MADE[0].save(3), TypeError, "file must be a path or a binary file, got int"),
            (
                lambda: MADE[0].save("no/such/file"),
                FileNotFoundError,
                "[Errno 2] No such file or directory: 'no/such/file",
            ),
        ),
        *rows(
            "Coefficients.load",
            (
                lambda: Coefficients.load([]),
                ValueError,
                "file must be a file or a list of at least one, got an empty list",
            ),
            (
                lambda: Coefficients.load(3),
                TypeError,
                "file must be a path, bytes, a binary file or a PIL.Image.Image, got i",
            ),
            (
                lambda: Coefficients.load(b"text"),
                ValueError,
                "file must be a JPEG file of 8-bit samples, got one that Pillo",
            ),
            (
                lambda: Coefficients.load(io.StringIO()),
                TypeError,
                "file must be open in binary mode, got one whose read() ",
            ),
            (
                lambda: Coefficients.load("no/such.jpg"),
                FileNotFoundError,
                "[Errno 2] No such file or directory: 'no/such",
            ),
        ),
    ]


ROWS = [*_tables(), *_coefficients()]
