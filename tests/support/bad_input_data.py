"""The rows of bad input of `fdjpeg.learning` and `fdjpeg.augmentations`."""

from __future__ import annotations

import math

import torch
from torch import nn

import fdjpeg
from fdjpeg import QuantTables, augmentations, learning
from support.bad_input import Row, of_names, rows
from support.bad_input_kinds import (
    of_callable,
    of_list,
    of_module,
    of_path,
    of_positive,
    of_tensor,
    of_whole,
)

IMAGES = torch.full((2, 3, 32, 32), 0.5)
BYTES = (255 * IMAGES).byte()
BUDGET = torch.tensor([1000, 1000])
LABELS = torch.tensor([0, 1])
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)).eval()

#: Public names that take nothing from the caller that could be wrong.
NOTHING_BAD = {
    "learning.LOSSES": "is a table",
    "learning.Loss": "is a type",
    "learning.Measured": "is a result",
    "learning.Ratio": "is a result",
    "augmentations.Augmentation": "is abstract; its kinds have rows",
    "augmentations.Draws": "is a protocol",
    "augmentations.JPEGParameters": "is a result",
    "augmentations.DoubleJPEGParameters": "is a result",
    "augmentations.RecompressParameters": "is a result",
}


# ---------------------------------------------------------------------------------------------------------------------
# Learning


def _of_learn_tables() -> list[Row]:
    name = "learning.learn_tables"

    def learn(**changed: object) -> object:
        arguments = {"images": IMAGES, "budget": BUDGET, "iterations": 1, **changed}
        return learning.learn_tables(**arguments)  # type: ignore[arg-type]

    one = "must be a tensor of shape (2,), one for each image, got"
    return [
        *of_tensor(name, "images", learn),
        *of_tensor(name, "budget", learn),
        *of_whole(name, "iterations", learn, 1),
        *of_whole(name, "batch_size", learn, 1),
        *of_whole(name, "seed", learn),
        *of_positive(name, "learning_rate", learn),
        *of_callable(name, "progress", learn),
        *of_names(name, learn, "subsampling"),
        *rows(
            name,
            (lambda: learn(images=IMAGES[:0]), ValueError, "images must hold at least one image, got none"),
            (
                lambda: learn(images=IMAGES[0, 0]),
                ValueError,
                "images must have shape (..., 3, H, W) or (..., 1, H, W) wit",
            ),
            (
                lambda: learn(images=IMAGES.long()),
                TypeError,
                "images must be uint8, float16, bfloat16, float32 or float",
            ),
            (lambda: learn(budget=BUDGET[:1]), ValueError, f"budget {one} (1,)"),
            (lambda: learn(budget=-BUDGET), ValueError, "budget must be above 0 and finite, got -1000"),
            (lambda: learn(labels=[0, 1]), ValueError, f"labels {one} list"),
            (lambda: learn(labels=LABELS[:1]), ValueError, f"labels {one} (1,)"),
            (
                lambda: learn(loss="l1"),
                ValueError,
                "loss must be one of 'psnr', 'mse', 'ms-ssim', or a function, got 'l1'",
            ),
            (
                lambda: learn(loss=None),
                ValueError,
                "loss must be one of 'psnr', 'mse', 'ms-ssim', or a function, got No",
            ),
            (lambda: learn(start=50), TypeError, "start must be fdjpeg.QuantTables or None, got int"),
            (lambda: learn(share="both"), ValueError, "share must be one of 'all', 'chroma', 'none', got 'both'"),
        ),
    ]


def _of_measures() -> list[Row]:
    name = "learning.measure"

    def measure(**changed: object) -> object:
        return learning.measure(**{"images": BYTES, "tables": QuantTables.flat(9), **changed})  # type: ignore[arg-type]

    one = "labels must be a tensor of shape (2,), one for each image, got"
    found = [
        *of_tensor(name, "images", measure),
        *of_module(name, "model", measure, none=True),
        *rows(
            name,
            (
                lambda: measure(images=IMAGES),
                TypeError,
                "images must be uint8 (N, C, H, W), got torch.float32 of shape ",
            ),
            (
                lambda: measure(images=BYTES[0]),
                TypeError,
                "images must be uint8 (N, C, H, W), got torch.uint8 of shape ",
            ),
            (lambda: measure(tables=50), TypeError, "tables must be fdjpeg.QuantTables, got int"),
            (lambda: measure(subsampling="4:1:1"), ValueError, "subsampling must be one of 4:4:4, 4:2:2, 4:2:0, got "),
            (lambda: measure(subsampling=[2, 2]), ValueError, "subsampling must be one of 4:4:4, 4:2:2, 4:2:0, got "),
            (
                lambda: measure(model=NETWORK),
                TypeError,
                "labels must be a torch.Tensor where a model is given, got NoneTy",
            ),
            (lambda: measure(labels=[0, 1]), ValueError, f"{one} list"),
            (lambda: measure(labels=LABELS[:1]), ValueError, f"{one} (1,)"),
        ),
    ]
    for loss in ("psnr", "ms_ssim"):
        call = getattr(learning, loss)
        found += of_tensor(f"learning.{loss}", "decoded", lambda decoded, f=call: f(decoded, IMAGES))  # type: ignore[misc]
        found += of_tensor(f"learning.{loss}", "original", lambda original, f=call: f(IMAGES, original))  # type: ignore[misc]
        found += rows(
            f"learning.{loss}",
            (
                lambda f=call: f(IMAGES, IMAGES[:1]),
                ValueError,
                "decoded and original must have one shape, (N, C, H, W), ",
            ),
            (
                lambda f=call: f(IMAGES[0], IMAGES[0]),
                ValueError,
                "decoded and original must have one shape, (N, C, H, W)",
            ),
        )
    return found


def _of_ratios() -> list[Row]:
    name = "learning.bits_ratio"
    bits, kept = torch.tensor([1000.0, 1200.0]), torch.tensor([30.0, 31.0])
    right = {"bits": bits, "kept": kept, "curve_bits": bits.repeat(2, 1), "curve_kept": kept.repeat(2, 1)}

    def ratio(**changed: object) -> object:
        return learning.bits_ratio(**{**right, **changed})  # type: ignore[arg-type]

    return [
        *(row for argument in right for row in of_tensor(name, argument, ratio)),
        *of_tensor(name, "sources", ratio, none=True),
        *of_whole(name, "resamples", ratio, 1),
        *of_whole(name, "seed", ratio),
        *rows(
            name,
            (lambda: ratio(bits=bits[:0]), ValueError, "bits must be (N,) for one or more images, got shape (0,)"),
            (lambda: ratio(kept=kept[:1]), ValueError, "kept must be (2,) as bits are, got shape (1,)"),
            (lambda: ratio(curve_bits=bits), ValueError, "curve_bits must be (K, 2), got shape (2,)"),
            (lambda: ratio(curve_kept=kept), ValueError, "curve_kept must be (2, 2), got shape (2,)"),
            (
                lambda: ratio(sources=bits),
                ValueError,
                "sources must be int64 (2,) of at least 0, got torch.float32 (2,)",
            ),
            (
                lambda: ratio(sources=-LABELS),
                ValueError,
                "sources must be int64 (2,) of at least 0, got torch.int64 (2,)",
            ),
        ),
        *of_positive("learning.DeadZone", "width", learning.DeadZone),
        *of_module("learning.ClassifierLoss", "model", learning.ClassifierLoss),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Augmentations


def _of_augmentations() -> list[Row]:
    found = []
    kinds = {
        "RandomJPEG": augmentations.RandomJPEG,
        "DoubleJPEG": augmentations.DoubleJPEG,
        "Recompress": lambda **k: augmentations.Recompress(**{"scale": 0.5, **k}),  # type: ignore[arg-type]
    }
    for kind, make in kinds.items():
        name = f"augmentations.{kind}"
        between = "quality must be two integers, 1 ≤ least ≤ greatest ≤ 100, got "
        found += rows(
            name,
            *(
                (lambda v=v, make=make: make(quality=v), ValueError, between + repr(v))
                for v in (75, "75", (95, 30), (0, 30), (30, 101), (1.5, 30), (30,), None)
            ),
            *(
                (lambda v=v, make=make: make(p=v), ValueError, f"p must be a probability, 0…1, got {v!r}")
                for v in (-0.1, 1.1, math.nan, "1", None, True)
            ),
            (lambda make=make: make(generator=7), TypeError, "generator must be a torch.Generator or None, got 7"),
            (
                lambda make=make: make(qualities=[]),
                ValueError,
                "qualities must be one or more integers in 1…100, got []",
            ),
            (
                lambda make=make: make(qualities=[0]),
                ValueError,
                "qualities must be one or more integers in 1…100, got [0",
            ),
            (
                lambda make=make: make(weights=[1]),
                ValueError,
                "weights must come with qualities or tables, got [1] alone",
            ),
            (lambda make=make: make(tables=[50]), TypeError, "tables must be "),
            (lambda make=make: make(tables=[]), ValueError, "tables must be one or more sets, got none"),
            (
                lambda make=make: make(subsampling=[]),
                ValueError,
                "subsampling must be a name or one or more of them, got",
            ),
            (lambda make=make: make()("image"), TypeError, "image must be a torch.Tensor, got str"),
            (
                lambda make=make: make()(IMAGES[0, 0]),
                ValueError,
                "image must have shape (..., 3, H, W) or (..., 1, H, W)",
            ),
            (
                lambda make=make: make()(IMAGES, 5),
                TypeError,
                f"parameters must be {_DRAWS[kind]}, as draw returns them, g",
            ),
            (
                lambda make=make: make()(IMAGES, return_parameters=1),
                TypeError,
                "return_parameters must be True or False, got 1",
            ),
        )
        found += of_names(name, make, "upsampling", "gradient")
    weights = lambda w: augmentations.RandomJPEG(qualities=[5, 6], weights=w)  # noqa: E731
    finite = "weights must be finite, at least 0 and not all 0, got "
    return found + rows(
        "augmentations.RandomJPEG",
        (lambda: weights(3), TypeError, "weights must be a list of numbers, got 3"),
        (lambda: weights([1]), ValueError, "weights must be 2 numbers, one for each choice, got 1"),
        (lambda: weights([1, -1]), ValueError, f"{finite}[1, -1]"),
        (lambda: weights([0, 0]), ValueError, f"{finite}[0, 0]"),
        (lambda: weights([1, math.nan]), ValueError, f"{finite}[1, nan]"),
        (lambda: weights(["1", "2"]), ValueError, f"{finite}['1', '2']"),
    )


_DRAWS = {"RandomJPEG": "JPEGParameters", "DoubleJPEG": "DoubleJPEGParameters", "Recompress": "RecompressParameters"}


def _of_geometry() -> list[Row]:
    shift = 'shift must be "random", "aligned" or two integers in 0…7, got '
    scale = "scale must be a number above 0, or the least and the greatest, got "
    double, recompress = augmentations.DoubleJPEG, augmentations.Recompress
    return [
        *rows(
            "augmentations.DoubleJPEG",
            *(
                (lambda v=v: double(shift=v), ValueError, shift + repr(v))
                for v in ("none", 3, (8, 0), (0, -1), (1.5, 0))
            ),
            (lambda: double(second=[75]), TypeError, "second must be a mapping of arguments or None, got [75]"),
            (lambda: double(second={"p": 1}), ValueError, "second must hold arguments among "),
        ),
        *rows(
            "augmentations.Recompress",
            *(
                (lambda v=v: recompress(scale=v), ValueError, scale + repr(v))
                for v in (0, -1, math.nan, math.inf, "half", (2, 1), True)
            ),
            (recompress, ValueError, "scale or longer_side must be given, and only one, got None and None"),
            (
                lambda: recompress(scale=1, longer_side=5),
                ValueError,
                "scale or longer_side must be given, and only one, ",
            ),
            (lambda: recompress(longer_side=0), ValueError, "longer_side must be an integer of at least 1, got 0"),
            (lambda: recompress(longer_side=9.5), ValueError, "longer_side must be an integer of at least 1, got 9.5"),
            (lambda: recompress(scale=1, times=0), ValueError, "times must be an integer of at least 1, got 0"),
            (
                lambda: recompress(scale=1, filter="box"),
                ValueError,
                "filter must be one of 'bicubic', 'bilinear', got 'b",
            ),
            (
                lambda: recompress(scale=(0.5, 1)),
                ValueError,
                "restore must be True where a batch would hold several si",
            ),
            (lambda: recompress(scale=1, restore=1), TypeError, "restore must be True or False, got 1"),
        ),
    ]


def _of_table_counts() -> list[Row]:
    counts = lambda **k: augmentations.TableCounts(**{"tables": [QuantTables.flat(9)], "counts": [1], **k})  # noqa: E731
    name = "augmentations.TableCounts"
    return [
        *of_list(name, "tables", counts),
        *of_list(name, "counts", counts),
        *rows(
            name,
            (lambda: counts(tables=[50]), TypeError, "tables must be fdjpeg.QuantTables, got [50]"),
            (lambda: counts(counts=[]), ValueError, "counts must be one for each of one or more tables, got 0 and 1"),
            (lambda: counts(counts=[0]), ValueError, "counts must be integers of at least 1, got [0]"),
            (lambda: counts(counts=[1.5]), ValueError, "counts must be integers of at least 1, got [1.5]"),
            (
                lambda: augmentations.TableCounts.load("missing.json"),
                ValueError,
                "tables must name a file of fdjpeg tables harvest, got 'missing.json'",
            ),
            (
                lambda: augmentations.TableCounts.load(__file__),
                ValueError,
                "tables must name a file of fdjpeg tables harv",
            ),
        ),
        *of_path(name, "file", augmentations.TableCounts.load),
        *of_path(name, "file", counts().save),
    ]


ROWS: list[Row] = [
    *_of_learn_tables(),
    *_of_measures(),
    *_of_ratios(),
    *_of_augmentations(),
    *_of_geometry(),
    *_of_table_counts(),
]

#: Tensors that no row may change.
KEPT = [IMAGES, BYTES, BUDGET, LABELS, fdjpeg.QuantTables.flat(9).y]
