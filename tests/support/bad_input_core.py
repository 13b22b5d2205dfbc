"""The core's rows of bad input: for each public name every kind of bad argument."""

from __future__ import annotations

import io
import math
from typing import Any

import torch

import fdjpeg
from fdjpeg import Coefficients, QuantTables, surrogates
from support.bad_input import (
    BLOCKS,
    BYTES,
    IMAGE,
    TABLES,
    Row,
    of_floats,
    of_images,
    of_names,
    of_real_and_soft,
    of_strengths,
    rows,
)

BATCH = QuantTables.flat(torch.tensor([9, 10]))
MADE = fdjpeg.encode(IMAGE)
COMPUTED = torch.full((8, 8), 3.0, requires_grad=True) * 2

#: Public names that take nothing from the caller that could be wrong.
NOTHING_BAD = {
    "backends": "takes no argument",
    "surrogates": "is a module",
    "surrogates.StraightThrough": "has no parameter",
    "surrogates.Identity": "has no parameter",
    "surrogates.Zero": "has no parameter",
    "surrogates.Surrogate": "is a protocol",
    "surrogates.hard_rounding": "takes a surrogate that `resolve` has checked",
    "QuantTables.stacked": "takes no argument",
    "QuantTables.integer": "takes no argument",
    "QuantTables.to": "passes its arguments to torch.Tensor.to, which names them",
    "Coefficients.to": "passes its arguments to torch.Tensor.to, which names them",
    "JPEG.reset_parameters": "takes no argument",
    "LearnableJPEG.reset_parameters": "takes no argument",
    "LearnableJPEG.steps": "takes no argument",
    "LearnableJPEG.parameter_groups": "takes no argument",
}


ALL_NAMES = ("subsampling", "upsampling", "gradient", "arithmetic", "soft")


def _functions() -> list[Row]:
    jpeg = lambda **k: fdjpeg.jpeg(IMAGE, **k)  # noqa: E731
    encode = lambda **k: fdjpeg.encode(IMAGE, **k)  # noqa: E731
    rate = lambda **k: fdjpeg.rate(IMAGE, **k)  # noqa: E731
    nan = torch.full((1, 8, 8), math.nan)
    return [
        *of_images("jpeg", fdjpeg.jpeg),
        *of_strengths("jpeg", jpeg),
        *of_names("jpeg", jpeg, *ALL_NAMES),
        *of_real_and_soft("jpeg", jpeg),
        *rows(
            "jpeg",
            (
                lambda: fdjpeg.jpeg(BYTES, torch.tensor(50.0, requires_grad=True)),
                TypeError,
                "image must be floating where quality or tables require a gradient, got uint8",
            ),
            (
                lambda: fdjpeg.jpeg(IMAGE, torch.ones(2, 3, 3)),
                ValueError,
                "quality, a map, must have a value for each block, (2, 2, 3), got shape (2, 3, 3)",
            ),
        ),
        *of_images("encode", fdjpeg.encode),
        *of_strengths("encode", encode),
        *of_names("encode", encode, "subsampling"),
        *of_images("rate", fdjpeg.rate),
        *of_strengths("rate", rate),
        *of_names("rate", rate, "subsampling", "soft"),
        *of_images("check", fdjpeg.check),
        *of_strengths("check", lambda **k: fdjpeg.check(IMAGE, **k)),
        *rows(
            "check",
            (lambda: fdjpeg.check(nan), ValueError, "image must lie in [0, 1], got values from nan to nan"),
            (lambda: fdjpeg.check(255 * IMAGE), ValueError, "image must lie in [0, 1], got values from "),
            (
                lambda: fdjpeg.check(IMAGE, torch.tensor([50.0, math.nan])),
                ValueError,
                "quality must be in 1…100, got nan",
            ),
            (
                lambda: fdjpeg.check(IMAGE, tables=QuantTables.flat(300)),
                ValueError,
                "tables.y[0, 0] must be in 1…255, got 300",
            ),
        ),
        *rows(
            "decode",
            (lambda: fdjpeg.decode(IMAGE), TypeError, "coefficients must be fdjpeg.Coefficients, got Tensor"),
            (lambda: fdjpeg.decode(None), TypeError, "coefficients must be fdjpeg.Coefficients, got NoneType"),
            (lambda: fdjpeg.decode(MADE, torch.int32), TypeError, "dtype must be uint8, float16, bfloat16, float32 or"),
            (lambda: fdjpeg.decode(MADE, "uint8"), TypeError, "dtype must be uint8, float16, bfloat16, float32 or"),
        ),
        *of_names("decode", lambda **k: fdjpeg.decode(MADE, **k), "upsampling"),
        *rows(
            "bits",
            (lambda: fdjpeg.bits(MADE.y), TypeError, "coefficients must be fdjpeg.Coefficients, got Tensor"),
            (lambda: fdjpeg.bits([MADE]), TypeError, "coefficients must be fdjpeg.Coefficients, got list"),
        ),
    ]


def _stages() -> list[Row]:
    found = []
    for name in ("rgb_to_ycbcr", "ycbcr_to_rgb"):
        function = getattr(fdjpeg, name)
        found += of_floats(name, "image", function)
        found += rows(
            name, (lambda f=function: f(IMAGE[:, :1]), ValueError, "image must have shape (..., 3, H, W), got (2, 1, ")
        )
    found += of_floats("block_dct", "samples", fdjpeg.block_dct)
    found += of_floats("block_idct", "blocks", fdjpeg.block_idct)
    found += rows(
        "block_dct",
        (
            lambda: fdjpeg.block_dct(IMAGE[..., :9]),
            ValueError,
            "samples must have shape (..., H, W), H and W multiples of 8",
        ),
    )
    found += rows(
        "block_idct",
        (
            lambda: fdjpeg.block_idct(IMAGE),
            ValueError,
            "blocks must have shape (..., rows, columns, 8, 8), got (2, 3, 16",
        ),
    )
    steps = torch.ones(8, 8)
    for name, argument in (("quantize", "coefficients"), ("dequantize", "levels")):
        function = getattr(fdjpeg, name)
        found += of_floats(name, argument, lambda x, f=function: f(x, steps))
        found += rows(
            name,
            (lambda f=function: f(BLOCKS, 3), TypeError, "steps must be a torch.Tensor, got int"),
            (
                lambda f=function: f(BLOCKS, steps > 0),
                TypeError,
                "steps must have an integer or floating dtype, got to",
            ),
            (
                lambda f=function: f(BLOCKS, torch.ones(7)),
                ValueError,
                "steps must broadcast to the shape (2, 3, 8, 8) of",
            ),
            (lambda f=function: f(BLOCKS, torch.ones(9, 2, 3, 8, 8)), ValueError, "steps must broadcast to the shape"),
        )
    quantize = lambda **k: fdjpeg.quantize(BLOCKS, steps, **k)  # noqa: E731
    return found + of_names("quantize", quantize, "gradient", "soft")


def _layers() -> list[Row]:
    learnable = lambda **k: fdjpeg.LearnableJPEG(TABLES, **k)  # noqa: E731
    jpeg_names = ALL_NAMES[:3]
    found = [
        *of_strengths("JPEG", fdjpeg.JPEG, one_for_each=False),
        *of_names("JPEG", fdjpeg.JPEG, *ALL_NAMES),
        *of_real_and_soft("JPEG", fdjpeg.JPEG),
        *rows(
            "JPEG",
            (
                lambda: fdjpeg.JPEG(tables=QuantTables(COMPUTED, COMPUTED)),
                ValueError,
                "tables.y must be a leaf of the autograd graph, got a computed tensor",
            ),
            (
                lambda: fdjpeg.JPEG(torch.ones(3))(IMAGE),
                ValueError,
                "quality must be a number, a 0-dim tensor or one of",
            ),
        ),
        *of_names("LearnableJPEG", learnable, *ALL_NAMES),
        *of_real_and_soft("LearnableJPEG", learnable),
        *rows(
            "LearnableJPEG",
            (lambda: fdjpeg.LearnableJPEG(50), TypeError, "tables must be fdjpeg.QuantTables, got int"),
            (
                lambda: fdjpeg.LearnableJPEG(QuantTables.flat(300)),
                ValueError,
                "tables.y[0, 0] must be in 1…255, got 300",
            ),
            (lambda: learnable(share="luma"), ValueError, "share must be one of 'all', 'chroma', 'none', got 'luma'"),
            (lambda: learnable(share=None), ValueError, "share must be one of 'all', 'chroma', 'none', got None"),
            (
                lambda: fdjpeg.LearnableJPEG(QuantTables.flat(torch.ones(3)))(IMAGE),
                ValueError,
                "tables must be (8, 8) or",
            ),
        ),
        *of_names("StochasticJPEG", fdjpeg.StochasticJPEG, *jpeg_names),
        *of_names("RandomJPEG", fdjpeg.RandomJPEG, *jpeg_names),
        *of_names("FeatureDistillation", fdjpeg.FeatureDistillation, "gradient"),
    ]
    for wrong in ((), (0,), (50, 101), (50.0,), (True,), "50", 50, None, {50}, torch.tensor([50]), (math.nan,)):
        message = f"qualities must be one or more integers in 1…100, got {wrong!r}"
        found += rows("StochasticJPEG", (lambda q=wrong: fdjpeg.StochasticJPEG(q), ValueError, message))
    for wrong in ((0, 50), (60, 40), (50, 101), (30.0, 95.0), (1, 2, 3), 50, None, "ab", (True, True)):
        message = f"quality must be two integers, 1 ≤ least ≤ greatest ≤ 100, got {wrong!r}"
        found += rows("RandomJPEG", (lambda q=wrong: fdjpeg.RandomJPEG(q), ValueError, message))
    for wrong in (-0.1, 1.5, math.nan, "often", True, None):
        message = f"p must be a probability, 0…1, got {wrong!r}"
        found += rows("RandomJPEG", (lambda p=wrong: fdjpeg.RandomJPEG(p=p), ValueError, message))
    for wrong in (0, -1, 1.0, True, "1", None, math.nan):
        message = f"passes must be an integer of at least 1, got {wrong!r}"
        found += rows(
            "FeatureDistillation", (lambda n=wrong: fdjpeg.FeatureDistillation(passes=n), ValueError, message)
        )
    for wrong in ("flat", "", "uniform", "uniform(x)", "uniform(-1)", None, 3):
        message = f"preset must be 'paper', 'code' or 'uniform(step)' such as 'uniform(30)', got {wrong!r}"
        found += rows("FeatureDistillation", (lambda p=wrong: fdjpeg.FeatureDistillation(p), ValueError, message))
    for step in (0, 256):
        message = f"preset's step must be in 1…255, got 'uniform({step})'"
        found += rows(
            "FeatureDistillation", (lambda s=step: fdjpeg.FeatureDistillation(f"uniform({s})"), ValueError, message)
        )
    for name, layer in (("StochasticJPEG", fdjpeg.StochasticJPEG), ("RandomJPEG", fdjpeg.RandomJPEG)):
        message = "generator must be a torch.Generator or None, got 7"
        found += rows(name, (lambda kind=layer: kind(generator=7), TypeError, message))
    for made in (
        fdjpeg.JPEG(),
        learnable(),
        fdjpeg.StochasticJPEG(),
        fdjpeg.RandomJPEG(),
        fdjpeg.FeatureDistillation(),
    ):
        found += of_images(type(made).__name__, made)
    message = "image must be floating, got torch.uint8"
    return found + rows("FeatureDistillation", (lambda: fdjpeg.FeatureDistillation("code")(BYTES), TypeError, message))


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
            (lambda: QuantTables.load(3), TypeError, "file must be a path or an open file, got int"),
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
            (lambda: made(cr=None), ValueError, "cr must be a tensor as cb is, or both None for grey images; got None"),
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


def _surrogates() -> list[Row]:
    found = []
    wrong: tuple[tuple[Any, type[Exception]], ...] = (
        (-1.0, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        ("4", TypeError),
        (None, TypeError),
        (True, TypeError),
        (torch.tensor(4.0), TypeError),
    )
    for name in ("Cubic", "Sine", "Fourier", "Tanh", "Softmax"):
        kind = getattr(surrogates, name)
        for value, error in wrong:
            message = f"floor must be a finite number of at least 0, got {value!r}"
            found += rows(f"surrogates.{name}", (lambda k=kind, v=value: k(floor=v), error, message))
    for name in ("Tanh", "Softmax"):
        kind = getattr(surrogates, name)
        for value, error in (*wrong, (0, ValueError)):
            message = f"alpha must be a positive finite number, got {value!r}"
            found += rows(f"surrogates.{name}", (lambda k=kind, v=value: k(v), error, message))
    for value in (0, -3):
        message = f"terms must be at least 1, got {value}"
        found += rows("surrogates.Fourier", (lambda v=value: surrogates.Fourier(v), ValueError, message))
    for value in (2.0, "2", None, True, math.nan):
        message = f"terms must be an int, got {value!r}"
        found += rows("surrogates.Fourier", (lambda v=value: surrogates.Fourier(v), TypeError, message))
    for value in (7, "seed", torch.Generator):
        message = f"generator must be a torch.Generator or None, got {value!r}"
        found += rows("surrogates.Noise", (lambda v=value: surrogates.Noise(v), TypeError, message))
    return found + of_names("surrogates.resolve", lambda gradient: surrogates.resolve(gradient), "gradient")


ROWS = [*_functions(), *_stages(), *_layers(), *_tables(), *_coefficients(), *_surrogates()]
