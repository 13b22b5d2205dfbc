"""The core's rows of bad input: for each public name every kind of bad argument."""

from __future__ import annotations

import math
from typing import Any

import torch

import fdjpeg
from fdjpeg import QuantTables, surrogates
from support import bad_input_tables
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
        for value in (1e-4, 1e4, 10**300):  # of which float32 would make NaN, in the end
            message = f"alpha must be in 0.001…1000, got {value!r}"
            found += rows(f"surrogates.{name}", (lambda k=kind, v=value: k(v), ValueError, message))
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


ROWS = [*_functions(), *_stages(), *_layers(), *bad_input_tables.ROWS, *_surrogates()]
